"""A file that is written record by record, which the next run goes on with where this one was cut off."""

import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from resmlp_core.common.errors import DISK_FULL, UserError
from resmlp_core.common.files import remove, write_json
from resmlp_mt.translation.formats import Record

OFTEN = 1.0  # seconds between two notes of how far it is


def refuse_output(option: str, output: Path | None, inputs: Iterable[str], force: bool) -> None:
    """Refuse an output that is there already, before hours of work.

    Args:
        option: that named it.
        output: the file to write, if any.
        inputs: names of what is to be read, of which some may be no files.
        force: whether it may be replaced.

    Raises:
        UserError: it is there, or is what is to be read, or its name promises gzip.
    """
    if output and output.suffix == ".gz":
        raise UserError(f"{option} {output}: what is written is not compressed; name it without .gz")
    if output is None or not output.exists():
        return
    if any(Path(name).exists() and output.samefile(name) for name in inputs):
        raise UserError(f"{option} {output} is the input: give another file")
    if not output.is_file():
        raise UserError(f"{option} {output} is not a file")
    if not force:
        raise UserError(f"{option} {output} exists: give --force to replace it, or another file")


class OutputFile:
    """What becomes ``path`` when it is whole: until then ``path.partial``, with how far it is in ``path.partial.json``.

    Args:
        path: the file to write.
        made_with: what its content depends on, by the names of the options; the same again goes on with it.

    Raises:
        UserError: another run is at it, or it was begun with something else.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any]) -> None:
        self.path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._note = path.with_name(f"{path.name}.partial.json")
        self._made_with = dict(made_with)
        self._sources = hashlib.sha256()
        self._file = open(self._partial, "ab")  # noqa: SIM115  closed by __exit__
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (self._partial.exists() and os.path.samestat(os.fstat(self._file.fileno()), self._partial.stat())):
                raise BlockingIOError  # another process has just finished it
            self._done = self._read_note()  # records, their bytes and the digest of their sources, always of one moment
            self._file.truncate(self._done["bytes"])
        except BaseException as error:
            self._file.close()
            if isinstance(error, BlockingIOError):
                raise UserError(f"{path}: another process is writing it") from None
            raise
        self.lines = 0  # that were read of what is written
        self._noted = time.monotonic()
        self._goes_on = False  # whether this run has written anything

    def _read_note(self) -> dict[str, Any]:
        """Return how far an earlier run was; that it was nowhere, if what is there is no such run's."""
        nowhere = {"records": 0, "bytes": 0, "sources": self._sources.hexdigest()}
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            before, done = note.pop("made_with"), {key: note[key] for key in nowhere}
            if done["bytes"] > self._partial.stat().st_size:
                return nowhere
        except (OSError, ValueError, KeyError, TypeError):
            return nowhere
        for option, value in self._made_with.items():
            if before.get(option) != value:
                named = option.startswith("-")
                how = f"{option} {before.get(option)}, not {value}" if named else f"another {option.lower()}"
                raise UserError(f"{self._partial} was begun with {how}: give the same again to go on, or delete it")
        return done

    def remaining(self, records: Iterable[Record]) -> Iterator[Record]:
        """Leave out what is written already.

        Raises:
            UserError: the input began otherwise when that was written.
        """
        records = iter(records)
        for record in islice(records, self._done["records"]):
            self._read(record)
        if self._sources.hexdigest() != self._done["sources"]:
            raise UserError(f"{self._partial} was begun with another input: delete it to start over")
        return records

    def _read(self, record: Record) -> None:
        self._sources.update(f"{record.source}\n".encode("utf-8", "surrogatepass"))
        self.lines += record.lines

    def write(self, record: Record, text: str) -> None:
        """Write what a record has become.

        Raises:
            OSError: the disk is full, among others; how far it is stays noted.
        """
        self._goes_on = True
        content = text.encode()
        try:
            self._file.write(content)
            self._read(record)
            self._done = {
                "records": self._done["records"] + 1,
                "bytes": self._done["bytes"] + len(content),
                "sources": self._sources.hexdigest(),
            }
            if time.monotonic() > self._noted + OFTEN:
                self._take_note()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _take_note(self) -> None:
        self._file.flush()
        write_json(self._note, {**self._done, "made_with": self._made_with})
        self._noted = time.monotonic()

    def __enter__(self) -> "OutputFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            self._keep(error)
            return
        try:
            self._finish()
        except OSError as failed:
            self._keep(failed)
            raise OSError(failed.errno, failed.strerror, str(self.path)) from failed

    def _keep(self, error: BaseException) -> None:
        """Leave what the next run can go on with, if there is any, and nothing else."""
        if self._goes_on and not (isinstance(error, OSError) and error.errno in DISK_FULL):
            with suppress(OSError):
                self._take_note()
        with suppress(OSError):
            self._file.close()
        if not self._note.exists():
            remove(self._partial)
        elif self._goes_on:
            print(f"{self._partial} is kept: the same command goes on with it", file=sys.stderr)

    def _finish(self) -> None:
        self._file.flush()
        self._partial.replace(self.path)
        remove(self._note)
        self._file.close()  # and with it the lock
