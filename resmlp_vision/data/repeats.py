"""Repeated augmentation by images: a process gets all copies of an image together, and reads it once for them."""

from collections.abc import Iterator
from copy import copy

from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import Sampler


class CopiesTogether(Sampler[int]):
    """The order of timm's ``RepeatAugSampler``, shared out among the processes in runs in place of by turns.

    Every batch over all processes has the same images as with timm's, which gives an image's copies to different ones.
    Mixup draws a coefficient for a process's batch: here the copies of an image share it. It pairs the first image with
    the last, so a pair in the middle may be two copies of one, as with timm's in a single process.

    Args:
        sampler: timm's, of this process.
        batch_size: of a process.
    """

    def __init__(self, sampler: RepeatAugSampler, batch_size: int) -> None:
        self.sampler = sampler
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of this process's whole batches."""
        processes = self.sampler.num_replicas
        of_all = copy(self.sampler)
        of_all.rank, of_all.num_replicas = 0, 1
        of_all.num_selected_samples = len(self.sampler) * processes
        indices = list(of_all)
        for batch in range(len(self.sampler) // self.batch_size):
            start = (batch * processes + self.sampler.rank) * self.batch_size
            yield from indices[start : start + self.batch_size]

    def __len__(self) -> int:
        return len(self.sampler)
