"""The processes that train or evaluate together."""

import os
import sys
from typing import Any

import torch
import torch.distributed as dist

from resmlp_core.files import UserError


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
    """Leave the group that ``join_processes`` joined, if it did; PyTorch warns of one that is left to the exit.

    After an error that is left to the exit where there are others: NCCL would wait for them here, and they for this
    process in their next all-reduce, while torchrun stops them once this one is gone.
    """
    if dist.is_initialized() and (sys.exception() is None or dist.get_world_size() == 1):
        dist.destroy_process_group()
