"""Files that are either complete or absent."""

import os
from pathlib import Path

import pytest

from resmlp_core.common.files import write_json


@pytest.mark.parametrize("name", ["null", "pipe"])
def test_a_device_or_a_pipe_is_written_to_and_stays_what_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_json(path, {"a": 1})
    written = os.read(reader, 100)
    os.close(reader)
    assert written == (b'{\n  "a": 1\n}\n' if name == "pipe" else b"")
    assert not path.is_file() and [entry.name for entry in tmp_path.iterdir()] == [name]
