"""Say why a checkpoint does not fit in the message that ends training: fairseq's asks to ensure that "architectures
match", and leaves the reason to a traceback above it.

The same place knows whether training is to begin from the weights only, where A may grow.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from fairseq.trainer import Trainer

LINES = 4  # of a reason: PyTorch lists every tensor


def tell_the_reason(load: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the trainer's method so that its last line has the reason."""

    @wraps(load)
    def told(self: Trainer, filename: str, reset_optimizer: bool = False, *args: Any, **kwargs: Any) -> Any:
        model = self.get_model()
        model.positions_may_grow = reset_optimizer
        try:
            return load(self, filename, reset_optimizer, *args, **kwargs)
        except Exception as error:
            reason = error.__context__
            if reason is None or "please ensure that the architectures match" not in str(error):
                raise
            lines = str(reason).splitlines()
            more = [f"and {len(lines) - LINES} more"] if len(lines) > LINES else []
            raise type(error)(f"{error} {' '.join(map(str.strip, lines[:LINES] + more))}") from reason
        finally:
            model.positions_may_grow = False

    return told


def install() -> None:
    """Make fairseq's trainer tell it."""
    Trainer.load_checkpoint = tell_the_reason(Trainer.load_checkpoint)
