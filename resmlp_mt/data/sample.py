"""A little of a corpus, as a folder of text: its first pairs and some of the rest, to rehearse with."""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from math import inf
from pathlib import Path

from resmlp_core.common.errors import UserError
from resmlp_mt.data.corpus import count_bytes, count_pairs, is_on_hub, read_pairs
from resmlp_mt.data.prepared import SPLITS, create_text

Pair = tuple[str, str]


@dataclass
class Sample:
    """What was read of a corpus and what was taken.

    Args:
        pairs: of the training set: about as many as there are.
        read: how many of them were read.
        taken: how many were taken.
        seconds: that reading them took.
        bytes: of text in those that were read.
        held_out: all pairs of valid and of test, of which some were taken, by split.
    """

    pairs: int = 0
    read: int = 0
    taken: int = 0
    seconds: float = 0.0
    bytes: int = 0
    held_out: dict[str, list[Pair]] = field(default_factory=dict)


def write_sample(
    corpus: tuple[str, str, str], folder: Path, pairs: int, held_out: int, seconds: float, mend_encoding: bool = False
) -> Sample:
    """Write a sample of a corpus as text, ``{split}.{language}``, which ``prepare`` reads like any other.

    Args:
        corpus: the data, as ``resmlp_mt.data.corpus.read_pairs`` takes them, and the two languages.
        folder: the folder to make.
        pairs: of the training set: the first half of them is its beginning, the other is drawn from what follows. Of
            a data set on the hub no more is read than these, the second half from another of its files.
        held_out: pairs of valid and of test, spread over them; all are read.
        seconds: after which no more is read.
        mend_encoding: as for ``read_pairs``.

    Raises:
        UserError: the corpus cannot be read, or has no pair to train on.
    """
    folder.mkdir(parents=True)
    sample = Sample()
    for split in SPLITS[:2]:
        sample.held_out[split] = found = list(read_pairs(*corpus, split))
        _write(folder, split, corpus[1:], found[:: max(1, len(found) // held_out)][:held_out])
    draw, first, drawn = random.Random(1), list[Pair](), dict[int, tuple[int, Pair]]()
    (stream, total), started = _stream(corpus, pairs, mend_encoding), time.perf_counter()
    for i, pair in enumerate(stream):
        sample.read = i + 1
        sample.bytes += len(pair[0].encode()) + len(pair[1].encode()) + 2
        if i < pairs // 2:
            first.append(pair)
        else:  # each of those read so far is as likely to be among the drawn
            place = i - len(first) if i < pairs else draw.randrange(i - len(first) + 1)
            if place < pairs - len(first):
                drawn[place] = i, pair
            if not i % 1000 and time.perf_counter() - started > seconds:
                break
    else:
        total = total or sample.read
    if not sample.read:
        raise UserError(f"--data {corpus[0]}: train has no pair")
    sample.seconds = time.perf_counter() - started
    sample.pairs = total or count_pairs(*corpus, "train") or _guess(corpus, sample)
    chosen = [*first, *(pair for _, pair in sorted(drawn.values()))]
    sample.taken = len(chosen)
    _write(folder, "train", corpus[1:], chosen)
    return sample


def _stream(corpus: tuple[str, str, str], pairs: int, mend_encoding: bool) -> tuple[Iterator[Pair], int | None]:
    """Stream the training set; of one on the hub that has more pairs, only these: the beginning, and what is elsewhere.

    Returns:
        The stream and, where it is not of the whole, how many pairs the whole has.
    """
    whole = read_pairs(*corpus, "train", mend_encoding)
    total = count_pairs(*corpus, "train") if is_on_hub(*corpus) else None
    if not total or total <= pairs:
        return whole, None
    elsewhere = read_pairs(*corpus, "train", mend_encoding, shuffled=True)
    return chain(islice(whole, pairs // 2), islice(elsewhere, pairs - pairs // 2)), total


def _guess(corpus: tuple[str, str, str], sample: Sample) -> int:
    """Guess from the size of the corpus how many pairs it has."""
    return int(sample.read * max(1.0, (count_bytes(*corpus) or -inf) / sample.bytes))


def _write(folder: Path, split: str, languages: Sequence[str], pairs: list[Pair]) -> None:
    for side, language in enumerate(languages):
        with create_text(folder / f"{split}.{language}") as file:
            file.writelines(pair[side] + "\n" for pair in pairs)
