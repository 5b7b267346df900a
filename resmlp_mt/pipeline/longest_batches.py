"""The longest batches of a training: what one takes, and the largest that a device has memory for."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from resmlp_core.common.devices import is_out_of_memory, limit_memory, wait_for_device
from resmlp_core.common.measuring import search_largest
from resmlp_mt.patches.shared_checkpoint import tell_the_others

LOADER_SECONDS = 1.0
LOADER_BATCHES = 50


class LongestBatches:
    """Updates of one of fairseq's trainers with the longest sentences of its training set.

    Args:
        trainer: of fairseq's.
        epoch_itr: its iterator over the training set.
    """

    def __init__(self, trainer: Any, epoch_itr: Any) -> None:
        self.trainer, self.dataset, self.batches = trainer, epoch_itr.dataset, epoch_itr.frozen_batches
        self.train_step = trainer.train_step
        sentences = np.concatenate(self.batches)
        lengths = np.array([self.dataset.num_tokens(i) for i in sentences])
        self.longest, self.most = sentences[np.argsort(-lengths, kind="stable")], int(lengths.max())

    def make(self, max_tokens: int) -> dict[str, Any]:
        """Make a batch of so many tokens, of the longest sentences; some more than once if there are too few."""
        count = max(1, max_tokens // self.most)
        count = min(count, self.trainer.cfg.dataset.batch_size or count)
        batch: dict[str, Any] = self.dataset.collater([self.dataset[i] for i in np.resize(self.longest, count)])
        return batch

    def take(self, max_tokens: int) -> float:
        """Do an update with such a batch.

        Returns:
            The seconds that it took.

        Raises:
            RuntimeError: there was no memory, as ``is_out_of_memory`` tells.
        """
        batch = self.make(max_tokens)
        wait_for_device()
        started = time.perf_counter()
        self.train_step([batch], raise_oom=True)
        wait_for_device()
        return time.perf_counter() - started

    def search(self, start: int, known: int, seconds: float, tell: Callable[[int, bool], None]) -> None:
        """Look for the largest batch that leaves a tenth of the memory.

        Args:
            start: tokens of the first that is tried.
            known: tokens of one that is known to.
            seconds: that it may take.
            tell: called with the tokens of each and False before it is tried, and with True where it fits.
        """
        until = time.perf_counter() + seconds
        limit_memory(self.trainer.cuda)

        def fits(max_tokens: int) -> bool:
            tell(max_tokens, False)
            try:
                self.take(max_tokens)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.trainer.zero_grad()
                torch.cuda.empty_cache()
                return False
            tell(max_tokens, True)
            return True

        search_largest(fits, start, lambda: float(agree(self.trainer, until - time.perf_counter())), known)

    def count(self) -> dict[str, int]:
        """Count the batches of an epoch over all devices, their pairs, and their target tokens."""
        lengths = getattr(self.dataset, "tgt_sizes", None)
        lengths = self.dataset.sizes if lengths is None else lengths
        tokens = sum(int(np.sum(lengths[batch])) for batch in self.batches)
        return {"batches": len(self.batches), "tokens": tokens, "pairs": sum(map(len, self.batches))}

    def loader_speed(self) -> float:
        """Return how many target tokens a second a process makes batches of."""
        started, made, seconds = time.perf_counter(), 0, 0.0
        for batch in self.batches[:: max(1, len(self.batches) // LOADER_BATCHES)]:
            made += self.dataset.collater([self.dataset[i] for i in batch])["ntokens"]
            seconds = time.perf_counter() - started
            if seconds > LOADER_SECONDS:
                break
        return made / seconds


def agree(trainer: Any, mine: Any) -> Any:
    """Return what the first process says, so that all do the same."""
    return tell_the_others(trainer, mine)[0]
