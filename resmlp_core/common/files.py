"""Files and folders that are either complete or absent, and their digests."""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resmlp_core.common.errors import DISK_FULL, UserError

PATIENCE = 6.0  # seconds; a data loader's processes notice within five that the one they load for was killed


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write what shall become ``path``: a sibling that takes its name once it is whole.

    The sibling, ``path`` with ``.partial`` appended, is removed on any error; one that a kill left is removed first.

    Args:
        path: the file or folder to make or to replace. A device or a pipe, such as /dev/null, is written to itself.

    Raises:
        OSError: when the disk is full; its filename is ``path`` where the system named none.
        IsADirectoryError: ``path`` is a folder and what was written a file.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    partial = Path(os.path.abspath(path) + ".partial")  # whole, as the name of "." is empty
    remove(partial)
    try:
        with naming_if_full(path):
            yield partial
            if path.is_dir():
                if not partial.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
                remove(path)  # only an empty folder can be renamed over
            partial.replace(path)
    except BaseException:
        remove(partial)
        raise


@contextmanager
def naming_if_full(path: Path) -> Iterator[None]:
    """Let the error of a full disk name ``path`` where the system named no file."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON to ``path``, completely or not at all; a name that is no UTF-8 comes back the same."""
    with replacing(path) as partial:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # such as \\udce9, as JSON writes it


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against another process that would write there too; a killed holder lets go of it.

    Raises:
        UserError: when another process holds it, and does so for longer than a killed one's children live.
    """
    import fcntl  # not on Windows, where models can be used all the same

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        patience = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > patience:
                    raise UserError(f"{folder}: another process is at work in this folder") from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def digest(paths: Iterable[Path]) -> str:
    """The SHA-256 of files one after another, as ``cat FILES | sha256sum`` gives it."""
    sha256 = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: sha256)
    return sha256.hexdigest()
