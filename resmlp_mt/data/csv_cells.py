"""The cells of a line of CSV or TSV, quoted or not."""

import csv
from collections.abc import Iterable, Iterator
from itertools import chain, islice


class Numbered(Iterator[tuple[int, str]]):
    """Lines with their numbers from 1 on, of which the next can be looked at."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = enumerate(lines, start=1)
        self._looked_at: list[tuple[int, str]] = []

    def __next__(self) -> tuple[int, str]:
        """Return the next line and go on."""
        return self._looked_at.pop() if self._looked_at else next(self._lines)

    def peek(self) -> str:
        """Return the next line; an empty one at the end."""
        self._looked_at = self._looked_at or list(islice(self._lines, 1))
        return self._looked_at[0][1] if self._looked_at else ""


def cells_of(line: str, following: Numbered, delimiter: str, unless: int | None) -> list[str]:
    """Split a line into cells. Where a quoted cell has line breaks it takes the following lines too.

    Args:
        line: the first line of the row.
        following: the lines after it, with their numbers.
        delimiter: what stands between cells.
        unless: the number of cells in a file that need not be quoted, as TSV need not: a line that has as many when it
            is split at every delimiter is taken as it is. Even then a cell is unquoted that only a writer of CSV makes:
            one with doubled quotation marks within a pair of them, or a last one that opens a pair, where the next line
            has another number of cells. None where every line is CSV.

    Raises:
        csv.Error: the line is not CSV, and must be.
    """
    plain = line.removesuffix("\r").split(delimiter)
    following_line = following.peek().removesuffix("\r")
    opens = plain[-1].startswith('"') and plain[-1].count('"') % 2
    goes_on = opens and following_line and following_line.count(delimiter) + 1 != unless
    if len(plain) == unless and not goes_on:
        return [unquoted(cell) for cell in plain]
    if unless and '"' not in line:
        return plain
    lines = chain([line], (text for _, text in following))
    try:
        cells = next(csv.reader((f"{text}\n" for text in lines), delimiter=delimiter, strict=True))
    except csv.Error:
        if unless is None or goes_on:
            raise
        return plain
    return cells if unless in (None, len(cells)) or goes_on else plain


def unquoted(cell: str) -> str:
    """The text of a cell that only a writer of CSV makes, with doubled quotation marks within a pair; else the cell."""
    within = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '""' in within and '"' not in within.replace('""', ""):
        return within.replace('""', '"')
    return cell
