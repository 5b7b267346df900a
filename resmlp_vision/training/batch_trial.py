"""How large a batch fits: updates on batches of other sizes than the recipe's, until memory is short."""

import dataclasses
import gc
import time
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import torch
from torch.utils._pytree import tree_map

from resmlp_core.common.devices import is_out_of_memory, limited_memory, peak_memory, reset_peak_memory
from resmlp_core.common.measuring import search_largest
from resmlp_vision.distributed import gather, processes_here
from resmlp_vision.training.loader_watch import LoaderWatch
from resmlp_vision.training.trainer import Trainer

FEW = 8  # images: from what these and twice as many need, a CPU's need for more is predicted, before it is tried
MOST = 4  # times the recipe's batch: no more are tried


class BatchTrial:
    """Updates of batches of several sizes, each with the memory and the time that it took.

    Args:
        trainer: makes the updates; its weights are of no use afterwards.
        images: a batch of the loader's, from which larger ones are repeated.
        memory: bytes that a process may use, with its tenth to spare.

    Attributes:
        peaks: most bytes in use, by the images that a process computes at once; None where they do not fit.
        seconds: that they took.
    """

    def __init__(self, trainer: Trainer[Any], images: Any, memory: int) -> None:
        self.trainer = trainer
        self.images = images
        self.memory = memory
        self.peaks: dict[int, int | None] = {}
        self.seconds: dict[int, float] = {}

    def search(self, batch: int, seconds: float) -> bool:
        """Search for the largest batch that fits, which is ``largest`` afterwards.

        Args:
            batch: images that a process of the recipe computes at once.
            seconds: to spend; two small batches are tried whatever they take.

        Returns:
            Whether a larger one is known not to fit; otherwise none was tried.
        """
        end = time.monotonic() + seconds

        def time_left() -> float:
            return min(gather(end - time.monotonic())) if self.largest < MOST * batch else 0.0

        with limited_memory(self.trainer.device.type == "cuda", processes_here()):
            few = sorted({min(batch, 2 * FEW), FEW, 2 * FEW})
            if not all(map(self.fits, few)):
                return True
            start = batch if batch > few[-1] else 2 * few[-1]
            while start > few[-1] and self.predict(self.seconds, start) > time_left() / 2:
                start //= 2
            return search_largest(self.fits, start, time_left, known=few[-1])[1]

    @property
    def largest(self) -> int:
        """The largest batch that was tried and fits; 0 if none does."""
        return max((size for size, peak in self.peaks.items() if peak is not None), default=0)

    def holds(self, batch: int) -> bool | None:
        """Tell whether a batch fits; None where that is not known."""
        if self.largest >= batch:
            return True
        failed = [size for size, peak in self.peaks.items() if peak is None and size <= batch]
        on_cpu = self.trainer.device.type == "cpu"
        return False if failed or (on_cpu and self.predict(self.peaks, batch) > self.memory) else None

    def predict(self, measured: dict[int, Any], size: int) -> float:
        """Predict what a batch takes from what the two largest that fit took."""
        known = sorted(size for size, peak in self.peaks.items() if peak is not None)[-2:]
        if len(known) < 2:
            return 0.0
        (less, more), (low, high) = known, [measured[size] for size in known]
        return high + (size - more) * max(high - low, 0) / (more - less)

    def fits(self, size: int) -> bool:
        """Try a batch, of one image more where mixup needs pairs."""
        size += size % 2 if self.trainer.mixup is not None else 0
        if size not in self.peaks:
            peak, seconds = None, 0.0
            if self.trainer.device.type == "cuda" or self.predict(self.peaks, size) <= self.memory:
                peak, seconds = self.update(size)
            peaks = gather(peak)
            self.peaks[size] = None if None in peaks else max(peaks)
            self.seconds[size] = max(gather(seconds))
        return self.peaks[size] is not None

    def update(self, size: int) -> tuple[int | None, float]:
        """Make an update of at most two batches; return the most bytes in use, None if too few, and a batch's time."""
        trainer, config, watch = self.trainer, self.trainer.config, self.trainer.watch
        cuda = trainer.device.type == "cuda"
        parts = min(2, config.accumulate)  # with the second, gradients are kept beside what it needs
        reset_peak_memory(cuda)
        try:
            trainer.config = dataclasses.replace(config, accumulate=parts)
            trainer.watch = Repeated(tree_map(lambda part: part[torch.arange(size) % len(part)], self.images))
            trainer.train_mode()
            start = time.perf_counter()
            with trainer.task.no_sync():  # one process whose memory is full must not let the others wait
                next(trainer.updates(0))
            return peak_memory(cuda), (time.perf_counter() - start) / parts
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        finally:
            trainer.config, trainer.watch = config, watch
            trainer.optimizer.zero_grad()
            gc.collect()
            if cuda:
                torch.cuda.empty_cache()
        return None, 0.0


class Repeated(LoaderWatch):
    """Takes the place of a ``LoaderWatch``: yields one batch again and again, without its loader."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def batches(self, loader: Any) -> Iterator[Any]:
        """Yield the batch."""
        return repeat(self.images)
