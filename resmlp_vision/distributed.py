"""The processes that train or evaluate together."""

import hashlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from resmlp_core.common.errors import UserError

SAMPLE = 16  # images by which two copies of a data set are compared


def join_processes(device: str | None = None) -> torch.device:
    """Join the processes that torchrun started, or be the only one of its group.

    Args:
        device: ``cuda``, a GPU for each process, or ``cpu``; by default the CPU where there is no GPU.

    Returns:
        This process's device.

    Raises:
        UserError: another device, or ``cuda`` where there is none, or too few.
    """
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"device={device} is neither cpu nor cuda; CUDA_VISIBLE_DEVICES chooses among GPUs")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but PyTorch finds no GPU")
    chosen = torch.device("cpu")
    if device != "cpu" and torch.cuda.is_available():
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if chosen.index >= torch.cuda.device_count():
            raise UserError(
                f"torchrun --nproc-per-node asks for more than this machine's {torch.cuda.device_count()} GPUs"
            )
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        alone: dict[str, Any] = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, **({} if "RANK" in os.environ else alone))
    return chosen


def leave_processes() -> None:
    """Leave the group that ``join_processes`` joined, if it did: PyTorch warns where a program ends within a group.

    After an error one process of several stays in the group until it ends, and torchrun then stops the others. NCCL
    would wait for them here, while they wait for this process in their next all-reduce.
    """
    if dist.is_initialized() and (sys.exception() is None or dist.get_world_size() == 1):
        dist.destroy_process_group()


def rank() -> int:
    """Return this process's number among those that work together; 0 where it has joined none."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes work together; 1 where this one has joined none."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(value: Any) -> list[Any]:
    """Return the value that each process has, in their order."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def total(share: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes."""
    summed = share.clone()
    if dist.is_initialized():
        dist.all_reduce(summed)
    return summed


def join_rows(share: Tensor) -> Tensor:
    """Join the rows that the processes have, ``(N of this process, ...)``, to ``(N of all, ...)``."""
    if not dist.is_initialized():
        return share
    counts = gather(len(share))
    filled = torch.cat([share, share.new_zeros(max(counts) - len(share), *share.shape[1:])])
    shares = [torch.empty_like(filled) for _ in counts]
    dist.all_gather(shares, filled)
    return torch.cat([part[:count] for part, count in zip(shares, counts, strict=True)])


def agree(values: Mapping[str, Any]) -> None:
    """Refuse processes that would not do the same work.

    Args:
        values: what all must have alike, by the name that an error gives it.

    Raises:
        UserError: they differ; in all processes, so that none waits for another.
    """
    found = gather(values)
    for number, others in enumerate(found):
        for name, value in found[0].items():
            if (other := others.get(name)) != value:
                raise UserError(f"{name} is {value} in process 0 and {other} in process {number}; give all the same")


def agree_on_data(name: str, dataset: Any) -> None:
    """Refuse processes that would read other images: another number, other classes, or other files among a few.

    Args:
        name: of the data, such as ``training``.
        dataset: timm's, over a reader; of a stream, which tells nothing ahead, only the classes are compared.

    Raises:
        UserError: they differ; in all processes.
    """
    reader = dataset.reader
    digests = {"classes": hashlib.sha256(repr(sorted(reader.class_to_idx.items())).encode())}
    if hasattr(reader, "__getitem__"):
        digests["images"] = hashlib.sha256(str(len(reader)).encode())
        for i in range(0, len(reader), max(1, len(reader) // SAMPLE)):
            try:
                file, label = reader[i]
                with file:
                    digests["images"].update(file.read())
            except (ValueError, OSError) as error:  # one that cannot be read is the loader's to count
                label = type(error)
            digests["images"].update(repr(label).encode())
    agree({f"the digest of the {name} {part}": digest.hexdigest()[:8] for part, digest in digests.items()})


def use_precision(matmul_precision: str) -> None:
    """Let a GPU compute float32 products as ``torch.set_float32_matmul_precision`` says, and convolutions likewise."""
    torch.set_float32_matmul_precision(matmul_precision)
    torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"  # PyTorch rounds them unless it is told not to


def processes_here() -> int:
    """Return how many processes torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))
