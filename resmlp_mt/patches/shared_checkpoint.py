"""Let a training of several processes go on from a checkpoint: fairseq's other ranks cannot read what rank 0 sends.

fairseq reads a checkpoint on rank 0 and broadcasts it, pickled. The other ranks unpickle it by ``torch.load``, which
since PyTorch 2.6 refuses the ``DictConfig`` that fairseq has made of the options, and fairseq's own marks of where the
tensors go. Here the options travel as the plain containers that they are in the file, and the marks are declared safe.

Where rank 0 cannot read the checkpoint fairseq's other ranks wait for it, and a rank that does not see the file trains
from random weights. Here all ranks end, with the reason.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed
from fairseq.trainer import Trainer
from omegaconf import OmegaConf
from torch import Tensor

Split = Callable[[Any, list[Tensor]], Any]


def send_plain_options(split: Split) -> Split:
    """Wrap fairseq's ``_split_tensors_from_obj``, through which goes, part by part, all that it broadcasts."""

    @wraps(split)
    def plain(obj: Any, tensors: list[Tensor]) -> Any:
        return split(OmegaConf.to_container(obj, enum_to_str=True) if OmegaConf.is_config(obj) else obj, tensors)

    return plain


def tell_the_others(trainer: Trainer, mine: Any) -> list[Any]:
    """Return what each process of a training has to say, in the order of their ranks."""
    if trainer.data_parallel_world_size == 1:
        return [mine]
    everyone: list[Any] = [None] * trainer.data_parallel_world_size
    torch.distributed.all_gather_object(everyone, mine, group=trainer.data_parallel_process_group)
    return everyone


@contextmanager
def already_read(state: dict[str, Any] | None) -> Iterator[None]:
    """Let fairseq take this for the checkpoint, in place of reading the file."""
    read = checkpoint_utils.load_checkpoint_to_cpu
    checkpoint_utils.load_checkpoint_to_cpu = lambda *_, **__: state
    try:
        yield
    finally:
        checkpoint_utils.load_checkpoint_to_cpu = read


def load_together(load_checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the trainer's ``load_checkpoint`` so that the processes of a training load one, or none, or end."""

    @wraps(load_checkpoint)
    def together(self: Trainer, filename: str, *args: Any, **kwargs: Any) -> Any:
        if self.data_parallel_world_size == 1:
            return load_checkpoint(self, filename, *args, **kwargs)
        exists, problem, state = Path(filename).is_file(), None, None
        reads = self.should_save_checkpoint_on_current_rank  # rank 0 the whole, or each rank its part
        if exists and (reads or self.cfg.checkpoint.load_checkpoint_on_all_dp_ranks):
            try:
                state = checkpoint_utils.load_checkpoint_to_cpu(filename)
            except Exception as error:
                problem = error
        first_line = str(problem).partition("\n")[0].partition(". ")[0]  # PyTorch then says how to load it all the same
        reason = problem and f"{type(problem).__name__}: {first_line}"
        name = Path(filename).name.replace(self.checkpoint_suffix, "")
        size = exists and (None if self.checkpoint_suffix else Path(filename).stat().st_size)
        told = tell_the_others(self, (reason, (name, size, args, kwargs)))
        for rank, (its_reason, found) in enumerate(told):
            if its_reason:
                raise ValueError(f"rank {rank} cannot read the checkpoint {filename}: {its_reason}") from problem
            if found != told[0][1]:
                raise ValueError(f"rank {rank} finds another {name} than rank 0, or none: all must share --save-dir")
        with already_read(state):
            return load_checkpoint(self, filename, *args, **kwargs)

    return together


def install() -> None:
    """Let the ranks read what rank 0 sends, and know where one of them reads nothing."""
    torch.serialization.add_safe_globals([distributed._TensorPlaceholder])  # a dataclass of one number
    distributed._split_tensors_from_obj = send_plain_options(distributed._split_tensors_from_obj)
    Trainer.load_checkpoint = load_together(Trainer.load_checkpoint)
