"""Sentences of like length in batches."""

from collections.abc import Iterator

import torch
from torch import Tensor

from resmlp_mt.translation.vocabulary import PAD


def batches(lengths: dict[int, int], max_tokens: int, batch_size: int | None) -> Iterator[list[int]]:
    """Group sentences of like length, the longest first.

    Args:
        lengths: tokens by sentence.
        max_tokens: of a batch, padding included; a longer sentence is alone.
        batch_size: sentences of a batch at most.
    """
    batch: list[int] = []
    longest = 0
    for i in sorted(lengths, key=lambda i: (-lengths[i], i)):
        if batch and ((len(batch) + 1) * longest > max_tokens or len(batch) == batch_size):
            yield batch
            batch = []
        longest = longest if batch else lengths[i]
        batch.append(i)
    if batch:
        yield batch


def pad(sentences: list[list[int]]) -> Tensor:
    """Make a batch of ids, ``(B, S)``, padded on the right."""
    width = max(map(len, sentences))
    return torch.tensor([[*sentence, *[PAD] * (width - len(sentence))] for sentence in sentences])
