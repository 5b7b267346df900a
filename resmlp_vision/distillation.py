"""Hard-label distillation (paper, section 3.2): the teacher's most likely class is a second label."""

import torch
import torch.nn.functional as F
from timm.task import LogitDistillationTask
from torch import Tensor


class HardDistillationTask(LogitDistillationTask):
    """timm's distillation with the teacher's decision in place of its probabilities, through one classifier."""

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the loss of images ``(B, 3, height, width)`` with labels ``(B,)`` or ``(B, classes)``."""
        logits = self.trainable_module(input)
        with torch.no_grad():
            decision = self.teacher(self.teacher.normalize_input(input, self.student_mean, self.student_std)).argmax(1)
        task_loss = self.criterion(logits, target)
        teacher_loss = F.cross_entropy(logits, decision)
        loss = self.task_loss_weight * task_loss + self.distill_loss_weight * teacher_loss
        return {"loss": loss, "output": logits}
