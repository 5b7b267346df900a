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
        pairs: how many pairs the training set has, about.
        read: how many of them were read.
        taken: how many were taken.
        seconds: how long reading them took.
        bytes: of text in the pairs that were read.
        held_out: all pairs of valid and of test, by split; some of them were taken.
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
        pairs: how many to take of the training set: half of them are its first, the other half is drawn from the rest.
            Of a data set on the hub no more pairs than these are read, the second half from another of its files.
        held_out: how many to take of valid and of test each, spread over them; all are read.
        seconds: after which no more is read than the first half.
        mend_encoding: as for ``read_pairs``.

    Raises:
        UserError: the corpus cannot be read, or has no pair to train on.
    """
    folder.mkdir(parents=True)
    sample = Sample()
    for split in SPLITS[:2]:
        sample.held_out[split] = found = list(read_pairs(*corpus, split))
        _write(folder, split, corpus[1:], found[:: max(1, len(found) // held_out)][:held_out])
    stream, total = _stream(corpus, pairs, mend_encoding)
    started = time.perf_counter()
    chosen, ended = _draw(stream, pairs, started + seconds, sample)
    if not sample.read:
        raise UserError(f"--data {corpus[0]}: train has no pair")
    sample.seconds = time.perf_counter() - started
    sample.pairs = total or (sample.read if ended else count_pairs(*corpus, "train") or _guess(corpus, sample))
    sample.taken = len(chosen)
    _write(folder, "train", corpus[1:], chosen)
    return sample


def _draw(stream: Iterator[Pair], pairs: int, until: float, sample: Sample) -> tuple[list[Pair], bool]:
    """Take the first half of so many pairs and draw the other half from those that follow, until it is too late.

    Returns:
        The pairs, in order, and whether the stream has ended.
    """
    draw, first, drawn = random.Random(1), list[Pair](), dict[int, tuple[int, Pair]]()
    ended = True
    for i, pair in enumerate(stream):
        sample.read = i + 1
        sample.bytes += len(pair[0].encode()) + len(pair[1].encode()) + 2
        if i < pairs // 2:
            first.append(pair)
            continue
        # each of those read so far is as likely to be among the drawn
        place = i - len(first) if i < pairs else draw.randrange(i - len(first) + 1)
        if place < pairs - len(first):
            drawn[place] = i, pair
        if not i % 1000 and time.perf_counter() > until:
            ended = False
            break
    return [*first, *(pair for _, pair in sorted(drawn.values()))], ended


def _stream(corpus: tuple[str, str, str], pairs: int, mend_encoding: bool) -> tuple[Iterator[Pair], int | None]:
    """Stream the training set; where it is on the hub and has more pairs, half from its beginning, half from elsewhere.

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
