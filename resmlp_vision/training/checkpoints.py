"""timm's checkpoints, made safe against a kill at any moment and a full disk."""

import os
from pathlib import Path
from typing import Any

from timm.task import load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver

from resmlp_core.common.errors import UserError
from resmlp_vision.distributed import gather, rank

LAST, BEST = "last.pth.tar", "model_best.pth.tar"


class Saver(CheckpointSaver):
    """timm's saver. A checkpoint is complete before it gets its name, and replaces the earlier one at once."""

    def _save(self, save_path: str, epoch: int, metric: float | None = None) -> None:
        try:
            super()._save(save_path, epoch, metric)
        except (OSError, RuntimeError) as error:
            Path(save_path).unlink(missing_ok=True)
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise  # not of PyTorch's writer, which tells of a full disk by a RuntimeError
            last = Path(self.checkpoint_dir, LAST)
            left = "The previous checkpoint is intact" if last.exists() else f"There is no {LAST} yet to go on from"
            raise UserError(
                f"{save_path} cannot be written ({str(error).splitlines()[0]}); is the disk full? {left}"
            ) from None

    def _replace(self, src: str, dst: str) -> None:
        os.replace(src, dst)

    def _duplicate(self, src: str, dst: str) -> None:
        Path(dst + ".new").unlink(missing_ok=True)
        if not (os.path.exists(dst) and os.path.samefile(src, dst)):  # else the new name would stay
            super()._duplicate(src, dst + ".new")
            os.replace(dst + ".new", dst)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore timm's history, and give the last checkpoint the names that a kill kept it from getting."""
        super().load_state_dict(state_dict)
        epoch, metric = state_dict["pending"]
        names = []
        if metric is not None and (self.best_metric is None or self.cmp(metric, self.best_metric)):
            names.append(self._checkpoint_path(epoch))
            self._track_checkpoint(names[0], epoch, metric, update_best_file=False)
        if self.best_epoch == epoch:
            names.append(os.path.join(self.checkpoint_dir, BEST))
        if rank() == 0:
            for name in names:
                self._duplicate(os.path.join(self.checkpoint_dir, LAST), name)
            self._cleanup_checkpoints()


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
    if len(set(gather(epoch))) > 1:
        raise UserError(f"out={saver.checkpoint_dir} must be a folder that all machines share")
    return epoch
