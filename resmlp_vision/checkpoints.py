"""timm's checkpoints, made safe against a kill at any moment and a full disk."""

import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
from timm.task import load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver

from resmlp_core.files import UserError

LAST, BEST = "last.pth.tar", "model_best.pth.tar"


class Saver(CheckpointSaver):
    """timm's saver; a file takes its name only once it is whole, and never leaves it in between."""

    def _save(self, save_path: str, epoch: int, metric: float | None = None) -> None:
        try:
            super()._save(save_path, epoch, metric)
        except (OSError, RuntimeError) as error:
            Path(save_path).unlink(missing_ok=True)
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise  # not of PyTorch's writer, which tells of a full disk by a RuntimeError
            raise UserError(
                f"{save_path} cannot be written ({str(error).splitlines()[0]}); is the disk full? "
                "The checkpoint before it is whole"
            ) from None

    def _replace(self, src: str, dst: str) -> None:
        os.replace(src, dst)

    def _duplicate(self, src: str, dst: str) -> None:
        Path(dst + ".new").unlink(missing_ok=True)
        super()._duplicate(src, dst + ".new")
        os.replace(dst + ".new", dst)


def resume(saver: Saver, task: Any, optimizer: Any, scaler: Any) -> int:
    """Go on from the last checkpoint, if there is one: weights, their average, optimiser, scaler and history.

    Returns:
        The epoch to train next, from 0; the same in all processes.

    Raises:
        UserError: the processes do not see the same checkpoint.
    """
    last = Path(saver.checkpoint_dir, LAST)
    epoch = 0
    if last.exists():
        epoch = resume_task_checkpoint(task, str(last), optimizer, scaler, log_info=False)
        if task.has_ema():
            load_task_ema_checkpoint(task, str(last))
        saver.load_state_dict_from_checkpoint(str(last))
        if saver.best_epoch == epoch - 1 and dist.get_rank() == 0:  # a kill may have come before it got its name
            saver._duplicate(str(last), str(last.with_name(BEST)))
    epochs = [0] * dist.get_world_size()
    dist.all_gather_object(epochs, epoch)
    if len(set(epochs)) > 1:
        raise UserError(f"out={saver.checkpoint_dir} must be a folder that all machines share")
    return epoch
