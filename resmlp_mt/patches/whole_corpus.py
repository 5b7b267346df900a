"""Keep every sentence of a corpus: fairseq's main branch leaves some out.

Its ``batch_by_size`` drops the last batch when its size is not a multiple of ``--required-batch-size-multiple``,
8 by default: up to seven sentences, the longest ones, are then neither trained on nor validated nor translated, and
nothing says so. A batch smaller than that multiple is allowed, so the sentences are put back as one.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import numpy as np
from fairseq.data import data_utils


def keep_every_sentence(batch_by_size: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Wrap fairseq's ``batch_by_size`` so that its batches hold every index that it was given."""

    @wraps(batch_by_size)
    def whole(indices: Iterable[int], *args: Any, **kwargs: Any) -> list[Any]:
        indices = indices if isinstance(indices, np.ndarray) else np.fromiter(indices, dtype=np.int64)
        if not len(indices):  # fairseq's would look for the longest
            return []
        batches = list(batch_by_size(indices, *args, **kwargs))
        kept = sum(len(batch) for batch in batches)
        return batches if kept == len(indices) else [*batches, indices[kept:]]

    return whole


def install() -> None:
    """Make every data set of fairseq's batch all its sentences."""
    data_utils.batch_by_size = keep_every_sentence(data_utils.batch_by_size)
