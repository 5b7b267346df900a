"""Data sets of the Hugging Face hub, streamed: ``owner/name`` or ``owner/name:config``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from resmlp_core.common.errors import UserError
from resmlp_mt.data.arrow_columns import pairs_of

SHUFFLED = 10_000  # pairs that are held to draw from


def read_split(
    data: str, source: str, target: str, names: Sequence[str], errors: str, shuffled: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a split, which has the first of these names that the data set knows.

    Args:
        data: the data set.
        source: the first language.
        target: the second.
        names: of the split.
        errors: what is done with what is not UTF-8.
        shuffled: take the data set's files in another order, and the pairs of each too.

    Raises:
        UserError: the hub cannot be reached, or there is no such data set, pair or split.
    """
    stream = _open_split(data, source, target, names)
    if shuffled:
        stream = stream.shuffle(seed=1, buffer_size=SHUFFLED)
    yield from pairs_of(_batches(stream, data, source, target), source, target, data, errors)


def count_split(data: str, source: str, target: str, names: Sequence[str]) -> int | None:
    """Return how many pairs a split has; None where the data set does not say."""
    stream = _open_split(data, source, target, names)
    known = (stream.info.splits or {}).get(str(stream.split))
    return known.num_examples if known else None


def size_of(data: str, source: str, target: str, names: Sequence[str]) -> int | None:
    """Return how many bytes all splits hold, of which one has one of these names; None where the data do not say."""
    return _open_split(data, source, target, names).info.dataset_size


def _batches(stream: Any, data: str, source: str, target: str) -> Iterator[Any]:
    with _reaching_hub(data, source, target):
        yield from stream.with_format("arrow").iter(batch_size=1000)


def _open_split(data: str, source: str, target: str, names: Sequence[str]) -> Any:
    streams = _open(data, source, target)
    part = next((name for name in names if name in streams), None)
    if part is None:
        raise UserError(f"--data {data}: the split {names[0]!r} is missing; the data set has {', '.join(streams)}")
    return streams[part]


@cache  # to open it takes several requests
def _open(data: str, source: str, target: str) -> Any:
    """Open a data set of the hub: a stream for each of its splits."""
    import datasets  # takes a second to import, and most corpora are files

    name, _, config = data.partition(":")
    with _reaching_hub(data, source, target):
        configs = datasets.get_dataset_config_names(name)
        wanted = [config] if config else [f"{source}-{target}", f"{target}-{source}"]
        config = next((one for one in wanted if one in configs), "" if config or len(configs) > 1 else configs[0])
        if not config:
            raise UserError(f"--data {data}: there is no {' or '.join(wanted)}; the data set has {', '.join(configs)}")
        return datasets.load_dataset(name, config, streaming=True)


@contextmanager
def _reaching_hub(data: str, source: str, target: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the hub's libraries raise many kinds; the answer to each is the same
        raise UserError(
            f"--data {data}: no such folder here, and the hub's data set of that name cannot be read "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); without a network, bring "
            f"train.parquet, validation.parquet and test.parquet, or train, valid and test .{source} and .{target}, "
            "into a folder and give that to --data"
        ) from error
