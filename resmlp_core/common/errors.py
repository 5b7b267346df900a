"""Errors of the user's, reported in one line, and output that cannot end a run."""

import errno
import io
import logging
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TextIO

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UserError(Exception):
    """A mistake of the user's: its message is one line that names the option or the file to fix."""


def check_known(name: str, known: Collection[str], kind: str, error: type[Exception] = ValueError) -> None:
    """Raise an error for a name that is not known, and tell one that is near it."""
    if name not in known:
        nearest = get_close_matches(name, known, n=1)
        raise error(f"unknown {kind} {name!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else ""))


class Screen:
    """Standard output or error as commands print to it. Printing never ends a run.

    What the encoding lacks is written as a question mark. Where no one reads any more, as after ``| head``, or the disk
    is full, nothing is raised: ``lost`` then tells why, and what follows is dropped.

    Args:
        stream: where it goes.
    """

    def __init__(self, stream: TextIO) -> None:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
            if stream.write_through:  # by python -u, as torchrun starts processes: their lines would run into one
                stream.reconfigure(line_buffering=True, write_through=False)
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write the text, as far as that is possible."""
        if not self.lost:
            try:
                self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Let the text be seen."""
        if not self.lost:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # for what is still buffered, which Python would try to write at exit
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def output_is_lost() -> bool:
    """Whether what is printed goes nowhere any more; a command that only prints may then stop."""
    return bool(getattr(sys.stdout, "lost", None))


def open_standard_streams() -> None:
    """Open as empty what the caller has closed (``<&-``, ``>&-``), so that no other file takes its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  it stays open
            try:
                os.fstat(number)  # another file may have taken the number by now
            except OSError:
                os.dup2(nowhere.fileno(), number)
            setattr(sys, name, nowhere)


def log_no_retries() -> None:
    """Let huggingface_hub log errors and no retries; a user's own HF_HUB_VERBOSITY wins."""
    if "HF_HUB_VERBOSITY" not in os.environ:
        os.environ["HF_HUB_VERBOSITY"] = "error"  # read as the package is loaded, in a child too
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # where it is loaded already


@contextmanager
def reporting(command: str) -> Iterator[None]:
    """Turn the errors that a user can fix into ``command: message`` on standard error and exit status 1.

    Serves as a decorator of a command's main function too. Ctrl-C exits with status 130. Printing raises nothing, as
    ``Screen`` says. Output that no one reads any more is no error. Output that could not be written is reported when
    all else is done.

    Args:
        command: the name that the message starts with.
    """
    open_standard_streams()
    log_no_retries()
    output = Screen(sys.stdout)
    with redirect_stdout(output), redirect_stderr(Screen(sys.stderr)):
        try:
            with reporting_errors(command):
                yield
        finally:
            output.flush()
    if output.lost and not isinstance(output.lost, BrokenPipeError):
        raise SystemExit(f"{command}: standard output: {output.lost.strerror}")


@contextmanager
def reporting_errors(command: str) -> Iterator[None]:
    """Exit with a line for each error that a user can fix."""
    try:
        yield
    except UserError as error:
        raise SystemExit(f"{command}: {error}") from None
    except OSError as error:
        raise SystemExit(f"{command}: {in_one_line(error)}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def in_one_line(error: OSError) -> str:
    """Say what is wrong with which file; of a full disk also how much is free there by now."""
    where = f"{error.filename}: " if error.filename else ""
    why = error.strerror or str(error)
    if error.errno not in DISK_FULL:
        return f"{where}{why}"
    if where and error.errno == errno.ENOSPC:
        path = Path(error.filename).absolute()
        folder = next(one for one in (path, *path.parents) if one.exists())
        why += f"; {shutil.disk_usage(folder).free / 1e6:,.1f} MB are free"
    return f"{where}the disk is full: {why}"
