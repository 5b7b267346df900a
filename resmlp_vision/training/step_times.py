"""What takes the time of a training: the phases of an update, the start of an epoch, the loader by itself."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

from resmlp_core.common.devices import wait_for_device
from resmlp_core.common.measuring import Stopwatch
from resmlp_vision.distributed import world_size
from resmlp_vision.training.loader_watch import LoaderWatch, workers_of
from resmlp_vision.training.trainer import Trainer


def time_updates(trainer: Trainer[Any], updates: int) -> tuple[float, float]:
    """Make the first updates of an epoch as in training.

    Returns:
        Seconds that an epoch takes beside its updates, as the loader starts; seconds of an update.
    """
    trainer.train_mode()
    skipped = warming_up(trainer, updates)
    marks = [time.perf_counter()]
    for number, _ in enumerate(islice(trainer.updates(0), updates)):
        if number in (0, skipped):
            wait_for_device()
            marks.append(time.perf_counter())
    wait_for_device()
    measured = updates - 1 - skipped
    update = (time.perf_counter() - marks[-1]) / measured if measured else marks[1] - marks[0]
    return max(0.0, marks[1] - marks[0] - update), update


def warming_up(trainer: Trainer[Any], updates: int) -> int:
    """Return how many of an epoch's first updates do not count: the loader's workers make batches ahead meanwhile."""
    return min(1 + 2 * workers_of(trainer.loader), (updates - 1) // 2)


def time_phases(trainer: Trainer[Any], updates: int) -> dict[str, float]:
    """Make the first updates of an epoch with the device waited for between their phases.

    Returns:
        Seconds of an update by phase, once the epoch is under way: ``data``, ``forward``, ``teacher``, ``backward``,
        ``communication``, ``optimiser`` and ``average``; of those that there are.
    """
    phases = watch_phases(trainer, updates, synchronised=True)
    if world_size() > 1:
        alone = watch_phases(trainer, updates, synchronised=False)
        phases["communication"] = max(0.0, phases["backward"] - alone["backward"])
        phases["backward"] -= phases["communication"]
    return phases


def watch_phases(trainer: Trainer[Any], updates: int, synchronised: bool) -> dict[str, float]:
    """Time the phases of updates whose gradients the processes exchange, or do not."""
    stopwatch, task = Stopwatch(), trainer.task
    teacher = getattr(task, "teacher", None) or getattr(task, "trainable_module_ema", None)
    watched: list[tuple[Any, str, str]] = [
        (trainer, "backward", "backward"),
        (trainer.optimizer, "step", "optimiser"),
        (task, "forward", "forward"),
    ]
    if teacher is not None:
        watched.append((teacher, "forward", "teacher"))
    if task.has_ema():
        watched.append((task, "update_ema", "average"))
    watch, trainer.watch = trainer.watch, TimedWatch(stopwatch)
    try:
        for owner, method, phase in watched:
            setattr(owner, method, stopwatch.timing(phase, getattr(owner, method)))
        trainer.train_mode()
        skipped = warming_up(trainer, updates)
        with nullcontext() if synchronised else task.no_sync():
            for number, _ in enumerate(islice(trainer.updates(0), updates)):
                if number < skipped:
                    stopwatch.seconds.clear()
    finally:
        trainer.watch = watch
        for owner, method, _ in watched:
            vars(owner).pop(method, None)
    seconds = {phase: total / (updates - skipped) for phase, total in stopwatch.seconds.items()}
    seconds["backward"] -= seconds.get("optimiser", 0.0)  # which is called within
    seconds["forward"] -= seconds.get("teacher", 0.0)
    return seconds


class TimedWatch(LoaderWatch):
    """Takes the place of a ``LoaderWatch``: times the batches that are waited for, but for the first."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def batches(self, loader: Any) -> Iterator[Any]:
        """Yield the batches of the loader."""
        batches = iter(loader)
        yield next(batches)
        while True:
            with self.stopwatch.phase("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


class FirstBatches:
    """The first batches of a loader, for so many seconds, and what all of them would take.

    Args:
        loader: of whole images, whose other attributes this has too.
        seconds: to go on for; two batches come whatever they take.
        batches: of the whole split, where the loader has a sample of it.

    Attributes:
        whole: seconds that all batches would have taken, over all passes.
        taken: seconds that the passes took.
    """

    FEWEST = 64  # images

    def __init__(self, loader: Any, seconds: float, batches: float) -> None:
        self.loader = loader
        self.batches = batches
        self.seconds = seconds
        self.whole = self.taken = 0.0

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        marks, images = [time.perf_counter()], 0
        for batch in self.loader:
            yield batch
            marks.append(time.perf_counter())
            images += len(batch[1])
            if len(marks) > 2 and images >= self.FEWEST and marks[-1] - marks[0] > self.seconds:
                break
        start, first, *rest = marks
        each = (rest[-1] - first) / len(rest) if rest else 0.0
        self.taken += marks[-1] - start
        self.whole += first - start + each * (self.batches - 1)


def loader_speed(trainer: Trainer[Any], seconds: float) -> float:
    """Return how many images a second all processes' loaders give while nothing is trained."""
    ahead = 1 + workers_of(trainer.loader)
    start = began = time.perf_counter()
    batches = 0
    for number, _ in enumerate(trainer.loader, 1):
        if number <= ahead:
            start, batches = time.perf_counter(), 0
        else:
            batches += 1
        if time.perf_counter() - began > seconds and batches >= 2:
            break
    if not batches:  # the whole epoch has so few
        start, batches = began, len(trainer.loader)
    share = trainer.config.batch_size / trainer.config.accumulate
    return batches * share / (time.perf_counter() - start)
