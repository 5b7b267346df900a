"""Measures of a run as it goes: how long its phases take, how large its values get, how large a batch fits."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from resmlp_core.common.devices import wait_for_device


class Stopwatch:
    """Seconds by phase, with the device waited for at each end.

    Attributes:
        on: whether it measures; the waiting costs a GPU some of its speed.
        seconds: by phase, in all.
    """

    def __init__(self) -> None:
        self.on = True
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add what the block takes to a phase."""
        if not self.on:
            yield
            return
        wait_for_device()
        started = time.perf_counter()
        try:
            yield
        finally:
            wait_for_device()
            self.seconds[name] += time.perf_counter() - started

    def timing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its calls added to a phase."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return timed


@contextmanager
def watching_activations(model: nn.Module) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the largest magnitude in any output of a layer since its last call; 0 for none."""
    largest: list[Tensor] = []

    def watch(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            top = output.detach().abs().max().float()
            largest[:] = [torch.maximum(largest[0], top) if largest else top]  # which keeps a NaN

    def since() -> float:
        found = float(largest[0]) if largest else 0.0
        largest.clear()
        return found

    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(watch) for module in leaves]
    try:
        yield since
    finally:
        for handle in handles:
            handle.remove()


def search_largest(
    fits: Callable[[int], bool], start: int, time_left: Callable[[], float], known: int = 0
) -> tuple[int, bool]:
    """Search for the largest batch that fits, to within an eighth: by doubling, then by halving what is between.

    Args:
        fits: tries a batch of so many units.
        start: what is tried first. Where it does not fit, half of it is tried, and so on.
        time_left: tells the seconds that are left. A size is tried only where they are twice what it should take, by
            the time that the largest so far took.
        known: what is known to fit.

    Returns:
        The largest that fits, 0 if none does, and whether a larger one was tried and does not.
    """
    largest, smallest_failed, size, seconds = known, 0, start, 0.0
    while size and 8 * (size - largest) >= largest:
        before = time_left()
        if before < 2 * seconds * size / max(largest, 1) or before <= 0:
            break
        if fits(size):
            largest, seconds = size, before - time_left()
        else:
            smallest_failed = size
        size = (largest + smallest_failed) // 2 if smallest_failed else 2 * size
    return largest, bool(smallest_failed)
