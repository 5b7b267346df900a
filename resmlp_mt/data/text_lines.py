"""The lines of a text file, as they are counted: one ends at a newline and nowhere else."""

import gzip
import zlib
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from resmlp_core.common.errors import UserError
from resmlp_mt.text import one_line

LOOK = 1 << 16  # bytes of a file by which to tell how its lines end
BINARY = 10  # UTF-8 in which more than one byte of so many is zero is no text
NOISE = 500  # nor are other bytes with more than one zero of so many: at random one of 256 is zero


def lines_of(path: Path, errors: str = "strict") -> Iterator[str]:
    """Yield the lines of a text file, which may be in gzip, without their ends and byte order marks.

    A line ends at LF only: ``str.splitlines`` would end one at a lone CR or U+2028 too, and so shift the pairs.

    Args:
        path: the file.
        errors: what to do with bytes that are not UTF-8, as for ``bytes.decode``.

    Raises:
        UserError: it is not UTF-8, no whole gzip file, or its lines end in CR, as on an old Macintosh.
    """
    open_binary: Callable[[Path], Any] = gzip.open if path.suffix == ".gz" else partial(open, mode="rb", buffering=LOOK)
    try:
        with open_binary(path) as file:
            yield from lines_in(file, str(path), errors)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path}: not a complete gzip file") from None


def read_lines(path: Path) -> list[str]:
    """Read raw text as ``prepare`` does, a sentence a line, also in gzip; what it wrote itself stays as it is.

    Raises:
        UserError: it is not UTF-8, or its lines end otherwise than in LF.
    """
    return [one_line(line) for line in lines_of(path)]


def lines_in(file: Any, name: str, errors: str = "strict") -> Iterator[str]:
    """Yield the lines of what is open as ``lines_of`` does.

    Args:
        file: gives bytes, of which the first can be looked at.
        name: of it, for messages.
        errors: as for ``lines_of``.

    Raises:
        UserError: as by ``lines_of``.
    """
    beginning = file.peek(LOOK)
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{name} is UTF-16, not UTF-8: iconv -f utf-16 -t utf-8 makes that of it")
    if _is_binary(beginning):
        raise UserError(f"{name} is binary, or UTF-16 without a byte order mark, where text in UTF-8 is read")
    if beginning.removesuffix(b"\r").count(b"\r") - beginning.count(b"\r\n") > beginning.count(b"\n"):
        raise UserError(f"{name}: its lines end in CR, not in LF: tr '\\r' '\\n' makes that of it")
    number = 0
    try:
        for number, line in enumerate(file, start=1):  # noqa: B007  the error tells it
            yield line.decode("utf-8", errors).removeprefix("\ufeff").removesuffix("\n")
    except UnicodeDecodeError:
        raise UserError(f"{name}, line {number}: not UTF-8") from None


def _is_binary(beginning: bytes) -> bool:
    """Whether this is no text; that may have a NUL in it, and a few bytes that are not UTF-8."""
    zeros = beginning.count(0)
    try:
        getincrementaldecoder("utf-8")().decode(beginning)  # what is cut off at the end is no error
    except UnicodeDecodeError:
        return zeros > max(1, len(beginning) // NOISE)
    return zeros > len(beginning) // BINARY
