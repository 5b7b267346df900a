"""The formats of parallel text: each a class that finds the files of a split, reads, counts and measures them.

Another format is another class, and its place in ``FORMATS``.
"""

import csv
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from resmlp_core.common.errors import UserError
from resmlp_mt.data.arrow_columns import pairs_of
from resmlp_mt.data.csv_cells import Numbered, cells_of
from resmlp_mt.data.text_lines import lines_of
from resmlp_mt.text import one_line

GZIP_RATIO = 4  # text is seldom compressed further
TEXT_ENDS = ("", ".txt", ".gz", ".txt.gz")


class Format(ABC):
    """One kind of files. By default it is one file a split, with a pair a line, which may be in gzip.

    A subclass names the ends of its files and reads them; where its files are others, it finds and measures them too.
    """

    ENDS: ClassVar[tuple[str, ...]] = ()  # of its files' names, without the point and ``.gz``; the first found is read

    def find(self, folder: Path, name: str, source: str, target: str) -> list[Path]:
        """List the files of a split.

        Args:
            folder: where to look.
            name: of the split, with which the files' names begin.
            source: the language of the first of each pair.
            target: the language of the second.

        Returns:
            Them in order; none where the split is not in this format.
        """
        paths = (folder / f"{name}.{end}{gz}" for gz in ("", ".gz") for end in self.ENDS)
        return [path for path in paths if path.exists()][:1]

    @abstractmethod
    def read(self, files: Sequence[Path], source: str, target: str, errors: str) -> Iterator[tuple[str, str]]:
        """Yield the pairs of these files, each sentence in one line, which may be empty.

        Args:
            files: as ``find`` lists them.
            source: the language of the first of each pair.
            target: the language of the second.
            errors: what to do with bytes that are not UTF-8, as for ``bytes.decode``.

        Raises:
            UserError: what is missing, empty, of unequal length or not UTF-8, with the file and, if possible, the line.
        """

    def count(self, files: Sequence[Path]) -> int | None:
        """Return about how many pairs these files hold; None where only reading would tell."""
        if files[0].suffix == ".gz":
            return None
        with files[0].open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))

    def size(self, files: Sequence[Path]) -> int:
        """Return about how many bytes of text these files hold."""
        return sum(path.stat().st_size * (GZIP_RATIO if path.suffix == ".gz" else 1) for path in files)


class Text(Format):
    """Two files a split, one for each language, with a sentence a line."""

    def find(self, folder: Path, name: str, source: str, target: str) -> list[Path]:
        """List the file of each language."""
        sides = [text_file(folder, name, language) for language in (source, target)]
        found = [path for path in sides if path]
        return found if len(found) == 2 else []

    def read(self, files: Sequence[Path], source: str, target: str, errors: str) -> Iterator[tuple[str, str]]:
        """Yield the pairs; both files must have as many lines."""
        for path in files:
            if path.stat().st_size == 0:
                raise UserError(f"{path} is empty")
        for one, other in zip_longest(*(lines_of(path, errors) for path in files)):
            if one is None or other is None:
                counts = (f"{path} has {sum(1 for _ in lines_of(path, 'replace'))} lines" for path in files)
                raise UserError(f"{' and '.join(counts)}: they must be the same sentences in the same order")
            yield one_line(one), one_line(other)


def text_file(folder: Path, name: str, language: str) -> Path | None:
    """Find a split's text in one language."""
    paths = (folder / f"{name}.{language}{end}" for end in TEXT_ENDS)
    return next((path for path in paths if path.exists()), None)


def _no_blank_ones(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines; blank ones may stand at the end only."""
    blank = 0
    for number, line in lines:
        if not line.strip("\r"):
            blank = blank or number
        elif blank:
            raise UserError(f"{path}, line {blank} is blank")
        else:
            yield number, line


class Table(Format):
    """TSV or CSV, whose first line names the columns."""

    DELIMITERS: ClassVar[dict[str, str]] = {"tsv": "\t", "csv": ",;\t"}  # what may part the columns
    ENDS = tuple(DELIMITERS)

    def read(self, files: Sequence[Path], source: str, target: str, errors: str) -> Iterator[tuple[str, str]]:
        """Yield the pairs, from the columns of these names."""
        path = files[0]
        kind = path.name.removesuffix(".gz").rpartition(".")[2]
        lines = Numbered(lines_of(path, errors))
        _, first = next(lines, (1, ""))
        delimiters, headers = self.DELIMITERS[kind], []
        for delimiter in delimiters:
            headers.append(next(csv.reader([first], delimiter=delimiter), []))
            if source in headers[-1] and target in headers[-1]:
                break
        else:
            found = max(headers, key=len)
            raise UserError(
                f"{path}: the first line must name the columns, {source} and {target} among them, "
                f"not {', '.join(found)}"
            )
        for language in (source, target):
            if headers[-1].count(language) > 1:
                raise UserError(f"{path}: the first line names {language} more than once")
        columns = [headers[-1].index(language) for language in (source, target)]
        quoted = kind == "csv" or first.startswith('"')
        for number, line in _no_blank_ones(lines, path):
            try:
                cells = cells_of(line, lines, delimiter, None if quoted else len(headers[-1]))
            except csv.Error as error:
                raise UserError(f"{path}, line {number}: not CSV ({error})") from None
            if len(cells) != len(headers[-1]):
                raise UserError(
                    f"{path}, line {number}: {len(cells)} columns where the first line has {len(headers[-1])}"
                )
            yield one_line(cells[columns[0]]), one_line(cells[columns[1]])

    def count(self, files: Sequence[Path]) -> int | None:
        """Count the lines after the first."""
        lines = super().count(files)
        return None if lines is None else lines - 1


class JSONLines(Format):
    """An object a line, with a text for each language, or with those in ``translation``."""

    ENDS = ("jsonl", "json")

    def read(self, files: Sequence[Path], source: str, target: str, errors: str) -> Iterator[tuple[str, str]]:
        """Yield the pairs; null is an empty sentence."""
        path = files[0]
        for number, line in _no_blank_ones(enumerate(lines_of(path, errors), start=1), path):
            if number == 1 and line.lstrip().startswith("["):
                raise UserError(f"{path} is a JSON array, where an object a line is read: jq -c '.[]' makes that of it")
            try:
                row = json.loads(line)
                row = row.get("translation", row)
                texts = [one_line("" if row[language] is None else row[language]) for language in (source, target)]
                # JSON can spell half a surrogate pair, which is no text
                one, other = (text.encode("utf-16", "surrogatepass").decode("utf-16", errors) for text in texts)
            except (ValueError, AttributeError, KeyError, TypeError):
                raise UserError(
                    f"{path}, line {number}: no JSON object with a text for {source} and for {target}"
                ) from None
            yield one, other


class Parquet(Format):
    """Parquet, or its shards as on the hub; a text column for each language, or ``translation``, a struct of those."""

    ENDS = ("parquet",)

    def find(self, folder: Path, name: str, source: str, target: str) -> list[Path]:
        """List the whole, or all shards in order."""
        if (whole := folder / f"{name}.parquet").exists():
            return [whole]
        shards = sorted(folder.glob(f"{name}-[0-9]*-of-[0-9]*.parquet"))
        if shards and len(shards) != int(re.findall(r"-of-(\d+)", shards[0].name)[-1]):
            raise UserError(
                f"{folder}: {len(shards)} of the {name} shards are there, not all, as {shards[0].name} shows"
            )
        return shards

    def read(self, files: Sequence[Path], source: str, target: str, errors: str) -> Iterator[tuple[str, str]]:
        """Yield the pairs, a batch in memory at a time."""
        yield from pairs_of(_batches(files), source, target, str(files[0]), errors)

    def count(self, files: Sequence[Path]) -> int:
        """Return how many rows the files say they have."""
        return sum(_metadata(path).num_rows for path in files)

    def size(self, files: Sequence[Path]) -> int:
        """Return the bytes that the files say they have, uncompressed."""
        known = [_metadata(path) for path in files]
        return sum(one.row_group(i).total_byte_size for one in known for i in range(one.num_row_groups))


def _batches(paths: Sequence[Path]) -> Iterator[Any]:
    for path in paths:
        with _whole(path):
            yield from pq.ParquetFile(path).iter_batches(batch_size=1000)


def _metadata(path: Path) -> Any:
    with _whole(path):
        return pq.read_metadata(path)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say in one line that a parquet file is torn or damaged."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):  # the system's word, not pyarrow's
            raise
        raise UserError(f"{path}: not a complete parquet file ({str(error).splitlines()[0]})") from None


FORMATS: list[Format] = [Text(), Table(), JSONLines(), Parquet()]  # the first that has a split is read
