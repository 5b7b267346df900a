"""What is minimised: timm's tasks, against only the labels or against a teacher's decisions too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.task import ClassificationTask, LogitDistillationTask, TrainingTask
from torch import Tensor

from resmlp_core.common.errors import UserError
from resmlp_vision.config import Config
from resmlp_vision.models.loading import download, load_trained


class HardDistillationTask(LogitDistillationTask):
    """Hard-label distillation (paper, section 3.2): the teacher's most likely class is a second label.

    timm's distillation with the teacher's decision in place of its probabilities, through one classifier.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # whether both normalise alike is found out once: timm does at every batch, and each time waits for the GPU
        scale = self.student_std / self.teacher.std_kd
        shift = (self.student_mean - self.teacher.mean_kd) / self.teacher.std_kd
        self.same_input = bool(((scale == 1) & (shift == 0)).all())
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the loss of images ``(B, 3, height, width)`` with labels ``(B,)`` or ``(B, classes)``."""
        logits = self.trainable_module(input)
        with torch.no_grad():
            decision = self.teacher(input if self.same_input else input * self.scale + self.shift).argmax(1)
        task_loss = self.criterion(logits, target)
        teacher_loss = F.cross_entropy(logits, decision)
        loss = self.task_loss_weight * task_loss + self.distill_loss_weight * teacher_loss
        return {"loss": loss, "output": logits}


def create_task(model: Any, config: Config, device: torch.device, classes: Sequence[str]) -> TrainingTask:
    """Make timm's task: the model and its loss.

    Args:
        model: what is trained.
        config: the loss, and the teacher.
        device: of the loss.
        classes: the names of the data's classes, where they are known.

    Raises:
        UserError: the teacher is unknown, or does not fit.
    """
    # mixup gives soft targets, which it has smoothed itself
    loss = {"smoothing": config.smoothing, "soft_targets": config.mixup > 0 or config.cutmix > 0}
    if config.teacher is None:
        return ClassificationTask(model, criterion_kwargs=loss, device=device, verbose=False)
    teacher = load_teacher(config.teacher)
    check_teacher(teacher, config, model.num_classes, classes)
    return HardDistillationTask(
        model, teacher.to(device), criterion_kwargs=loss, task_loss_weight=0.5, device=device, verbose=False
    )


def check_teacher(teacher: Any, config: Config, num_classes: int, classes: Sequence[str]) -> None:
    """Raise a UserError if a teacher knows other classes than the model, or takes images of another size."""
    if teacher.num_classes != num_classes:
        raise UserError(f"teacher={config.teacher} has {teacher.num_classes} classes but the model has {num_classes}")
    if classes and list(getattr(teacher, "classes", None) or classes) != list(classes):
        raise UserError(f"teacher={config.teacher} was trained on classes of other names, or in another order")
    try:
        with torch.inference_mode():
            teacher(torch.zeros(1, 3, config.img_size, config.img_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"teacher={config.teacher} cannot take images of img_size={config.img_size}: {why}") from None


def load_teacher(name: str) -> Any:
    """Load a teacher, which does not learn: a training run's file, folder or URL, or else a model of timm's.

    Raises:
        UserError: there is no such file or model, or it cannot be read or downloaded.
    """
    try:
        if "://" in name or Path(name).exists():
            teacher = load_trained(name)
        elif Path(name).suffix in (".tar", ".pth", ".pt"):
            raise UserError(f"teacher={name}: there is no such file")
        else:
            teacher = download(name, f"teacher={name}", "teacher=FILE takes the checkpoint of a training run")
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise UserError(f"teacher={name}: {' '.join(str(error).split())}") from None
    return teacher.eval().requires_grad_(False)
