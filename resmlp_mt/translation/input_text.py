"""The lines to translate: of files, which are looked through first, or of standard input, as they come."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import UnsupportedOperation
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import BinaryIO, TypeVar

from resmlp_core.common.errors import UserError
from resmlp_mt.data.text_lines import lines_in, lines_of

T = TypeVar("T")
STANDARD_INPUT = "-"
READ_AHEAD = 1024  # lines of standard input


def refuse_unreadable(inputs: Sequence[str]) -> int | None:
    """Read the files through, so that none turns out to be no text after hours.

    Args:
        inputs: names of files; one is ``-`` for standard input. That, and pipes, can be read only once, and are not.

    Returns:
        Their lines; None where they cannot be counted.

    Raises:
        UserError: a file is binary, in UTF-16, or not UTF-8.
    """
    if inputs.count(STANDARD_INPUT) > 1:
        raise UserError("standard input, -, can be read only once")
    passing = [name for name in inputs if name == STANDARD_INPUT or Path(name).is_fifo()]
    lines = sum(1 for name in inputs if name not in passing for _ in lines_of(Path(name)))
    return None if passing else lines


def lines_from(name: str) -> Iterator[str]:
    """Yield the lines of a file, or of standard input, where bytes that are not UTF-8 are replaced by U+FFFD."""
    standard = name == STANDARD_INPUT
    lines = lines_in(standard_input(), "standard input", "replace") if standard else lines_of(Path(name))
    return (line.removesuffix("\r") for line in lines)


def standard_input() -> BinaryIO:
    """Open standard input anew: Python cannot end in order while a thread that it does not wait for reads its own."""
    try:
        return open(os.dup(sys.stdin.fileno()), "rb")
    except UnsupportedOperation:  # it is no file
        return sys.stdin.buffer


def as_they_come(items: Iterable[T], most: int = READ_AHEAD, patience: float = 0.0) -> Iterator[list[T]]:
    """Yield what has arrived since the last time, as another thread reads.

    So a program that waits for each translation before it writes the next line is answered, and a file is translated
    in large batches.

    Args:
        items: they are read ahead.
        most: items yielded together; at least one is waited for.
        patience: seconds to wait for another one.
    """
    arrived: Queue[tuple[T] | BaseException | None] = Queue(most)

    def read() -> None:
        try:
            for item in items:
                arrived.put((item,))
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    Thread(target=read, daemon=True).start()
    while True:
        chunk: list[T] = []
        came = arrived.get()
        with suppress(Empty):
            while isinstance(came, tuple):
                chunk += came
                if len(chunk) == most:
                    break
                came = arrived.get(timeout=patience)
        if chunk:
            yield chunk
        if came is None:
            return
        if isinstance(came, BaseException):
            raise came
