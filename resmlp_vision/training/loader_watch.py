"""Whether a training waits for its data loader."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

LOOK_FOR = 20.0  # seconds of an epoch before anything is said
MUCH = 0.2  # of the time


class LoaderWatch:
    """Measures how long a training waits for images, and says once if that is much of its time.

    Args:
        device: of the training. Time in which a GPU is still busy does not count as waiting.
        silent: measure only, where another process says it.
    """

    def __init__(self, device: torch.device, silent: bool) -> None:
        self.device = device
        self.silent = silent

    def batches(self, loader: Any) -> Iterator[Any]:
        """Yield the batches of a loader, whose processes start with the first, which is not measured."""
        batches = iter(loader)
        yield next(batches)
        start, waited = time.perf_counter(), 0.0
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            now = time.perf_counter()
            if self.device.type != "cuda" or torch.cuda.current_stream(self.device).query():  # the GPU is idle
                waited += now - asked
            seconds = now - start
            if not self.silent and seconds >= LOOK_FOR and waited >= MUCH * seconds:
                self.silent = True
                tqdm.write(
                    f"waiting for images takes {waited / seconds:.0%} of the time: the data loader with "
                    f"workers={workers_of(loader)} limits the training. More workers help where cores are idle, and "
                    "smaller files anywhere"
                )
            yield batch


def workers_of(loader: Any) -> int:
    """Return how many processes load for this one."""
    return int(getattr(loader, "loader", loader).num_workers)  # timm's prefetcher holds PyTorch's loader
