"""How long the updates of one of fairseq's trainers take, in all and by phase."""

import time
from typing import Any

import torch

from resmlp_core.common.measuring import Stopwatch
from resmlp_core.common.rehearsal import PHASES


class UpdateTimes:
    """Times of a trainer's updates.

    Args:
        trainer: of fairseq's; what an update calls of it is timed from now on.
    """

    def __init__(self, trainer: Any) -> None:
        self.watch = Stopwatch()
        self.whole: list[tuple[float, float, float]] = []  # seconds in all, seconds for data, target tokens
        self.parts: list[dict[str, float]] = []  # seconds by phase
        self.wait()
        for owner, name, phase in (
            (trainer.criterion, "forward", "forward"),
            (trainer.optimizer, "backward", "backward"),
            (trainer.optimizer, "all_reduce_grads", "communication"),
            (trainer, "_aggregate_logging_outputs", "communication"),
            (trainer, "_check_grad_norms", "communication"),
            (trainer.optimizer, "multiply_grads", "optimiser"),
            (trainer, "clip_grad_norm", "optimiser"),
            (trainer.task, "optimizer_step", "optimiser"),
        ):
            setattr(owner, name, self.watch.timing(phase, getattr(owner, name)))

    def wait(self) -> None:
        """Begin to wait for the next update's data."""
        self.left = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Leave out what something else took while the next update was waited for."""
        self.left += seconds

    def enter(self) -> None:
        """An update begins."""
        self.entered = time.perf_counter()
        self.watch.seconds.clear()

    def leave(self, tokens: float) -> None:
        """An update of so many target tokens has ended, and counts."""
        waited = self.entered - self.left
        self.whole.append((time.perf_counter() - self.left, waited, tokens))
        if self.watch.on:
            self.parts.append(dict(self.watch.seconds))

    @property
    def count(self) -> int:
        """How many updates are counted."""
        return len(self.whole)

    def at_full_speed(self) -> bool:
        """Whether the device is not waited for at the end of a phase; a CPU never is."""
        return not (self.watch.on and torch.cuda.is_available())

    def let_go(self) -> None:
        """From now on do not wait for the device, and count anew."""
        self.watch.on, self.whole = False, []

    def quarters(self) -> list[float]:
        """Return the target tokens a second in each quarter of the updates, in order; in all where they are few."""
        size = max(1, self.count // 4) if self.count >= 8 else self.count
        parts = [self.whole[i : i + size] for i in range(0, self.count - size + 1, size)]
        return [sum(tokens for *_, tokens in part) / sum(seconds for seconds, *_ in part) for part in parts]

    def means(self) -> tuple[dict[str, float], float]:
        """Return what a mean update took: milliseconds by phase, and target tokens."""
        seconds, data, tokens = (sum(values) / self.count for values in zip(*self.whole, strict=True))
        spent = {"data": data}
        for name in PHASES[1:]:
            spent[name] = sum(parts.get(name, 0.0) for parts in self.parts) / len(self.parts)
        spent["other"] = max(0.0, seconds - sum(spent.values()))
        return {name: 1000 * value for name, value in spent.items()}, tokens
