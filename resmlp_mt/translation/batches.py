"""Sentences of like length in batches, and their translations in order again."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from resmlp_mt.translation.vocabulary import PAD

T = TypeVar("T")


def batches(lengths: dict[int, int], max_tokens: int, batch_size: int) -> Iterator[list[int]]:
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


def in_order(numbered: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Yield things by their numbers, from 0, each as soon as those before it are there."""
    waiting: dict[int, T] = {}
    following = 0
    for number, thing in numbered:
        waiting[number] = thing
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def pad(sentences: Sequence[Sequence[int]]) -> Tensor:
    """Make a batch of ids, ``(B, S)``, padded on the right."""
    width = max(map(len, sentences))
    return torch.tensor([[*sentence, *[PAD] * (width - len(sentence))] for sentence in sentences])
