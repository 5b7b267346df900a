"""The lines of a text file, as they are counted: one ends at a newline and nowhere else."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from resmlp_core.common.errors import UserError

LOOK = 1 << 16  # bytes of a file by which to tell how its lines end


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
    number = 0
    try:
        with open_binary(path) as file:
            beginning = file.peek(LOOK)
            if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UserError(f"{path} is UTF-16, not UTF-8: iconv -f utf-16 -t utf-8 makes that of it")
            if beginning.removesuffix(b"\r").count(b"\r") - beginning.count(b"\r\n") > beginning.count(b"\n"):
                raise UserError(f"{path}: its lines end in CR, not in LF: tr '\\r' '\\n' makes that of it")
            for number, line in enumerate(file, start=1):  # noqa: B007  the error tells it
                yield line.decode("utf-8", errors).removeprefix("\ufeff").removesuffix("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}, line {number}: not UTF-8") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path}: not a complete gzip file") from None
