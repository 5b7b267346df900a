"""Undo the scale of ``--amp`` once: fairseq's ``AMPOptimizer`` does it twice.

It lets PyTorch's ``GradScaler`` unscale the gradients of PyTorch's optimiser, to clip them, and then step fairseq's
object around it. To the scaler that is another optimiser, whose gradients it unscales, and these are the same ones:
with a scale of 128 the optimiser meets 1/128 of each gradient.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from fairseq.optim import AMPOptimizer


def step_what_was_unscaled(step: Callable[..., None]) -> Callable[..., None]:
    """Replace ``AMPOptimizer.step``; the arguments are those of fairseq's other optimisers, and are not used."""

    @wraps(step)
    def stepped(self: AMPOptimizer, *_: Any, **__: Any) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    return stepped


def install() -> None:
    """Let ``--amp`` step the optimiser whose gradients it has unscaled."""
    AMPOptimizer.step = step_what_was_unscaled(AMPOptimizer.step)
