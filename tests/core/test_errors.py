"""What commands print: no encoding, closed stream or reader that has left ends them, and what is lost is told."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from resmlp_core.common.errors import reporting
from resmlp_core.common.files import naming_if_full

ROOT = Path(__file__).parents[2]
COMMAND = """
import sys
from resmlp_core.common.errors import UserError, output_is_lost, reporting

@reporting("command")
def main():
    for number in range(20000):
        print("Mann € кот", number)
    sys.stdout.flush()
    print("an error €", file=sys.stderr)
    with open("done", "w", encoding="utf-8") as file:
        file.write(f"{len(sys.stdin.read())} {output_is_lost()}")
    if sys.argv[1:]:
        raise UserError(sys.argv[1])

main()
"""
RETRYING = """
import logging
from resmlp_core.common.errors import reporting

with reporting("command"):
    import huggingface_hub.utils
    logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s")
"""


def run(folder: Path, redirection: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the command by a shell, so that its streams can be closed."""
    (folder / "command.py").write_text(COMMAND, encoding="utf-8")
    line = f"'{sys.executable}' command.py {redirection}"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], cwd=folder, env=variables, capture_output=True)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_what_an_encoding_lacks_is_replaced(tmp_path: Path, encoding: str) -> None:
    done = run(tmp_path, "</dev/null", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    shown = "Mann € кот 19999".encode(encoding, "replace")
    assert done.stdout.splitlines()[-1] == shown and b"?" in shown
    assert done.stderr == "an error €\n".encode(encoding, "replace")
    assert (tmp_path / "done").read_text() == "0 False"


@pytest.mark.parametrize(
    ("redirection", "lost"),
    [("<&-", False), (">&-", False), ("2>&-", False), ("<&- >&- 2>&-", False), ("| head -1", True)],
)
def test_closed_streams_and_readers_that_leave_end_nothing(tmp_path: Path, redirection: str, lost: bool) -> None:
    done = run(tmp_path, redirection if "<" in redirection else f"</dev/null {redirection}")
    assert done.returncode == 0
    assert done.stderr in (b"", "an error €\n".encode())
    assert (tmp_path / "done").read_text() == f"0 {lost}"  # and nothing that was printed


def test_output_that_could_not_be_written_is_told_when_all_else_is_done(tmp_path: Path) -> None:
    done = run(tmp_path, "</dev/null >/dev/full")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["an error €", "command: standard output: No space left on device"]
    assert (tmp_path / "done").read_text() == "0 True"


def test_an_error_is_told_though_no_one_reads_the_output(tmp_path: Path) -> None:
    done = run(tmp_path, "'no such file' </dev/null | head -1")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["an error €", "command: no such file"]


@pytest.mark.parametrize(("own", "told"), [({}, b""), ({"HF_HUB_VERBOSITY": "warning"}, b"Retrying in 1s\n")])
@pytest.mark.parametrize("first", ["", "import huggingface_hub.utils"])
def test_retries_of_the_hub_are_told_only_to_who_asks(first: str, own: dict, told: bytes) -> None:
    variables = {key: value for key, value in os.environ.items() if key != "HF_HUB_VERBOSITY"}
    variables |= {"PYTHONPATH": str(ROOT), **own}
    line = [sys.executable, "-c", first + RETRYING]
    assert subprocess.run(line, env=variables, capture_output=True, check=True).stderr == told


def test_a_full_disk_is_told_with_what_is_free_where_it_was_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "not made yet" / "file"
    with (
        pytest.raises(SystemExit) as stopped,
        reporting("command"),
        naming_if_full(path),
        open("/dev/full", "w") as file,
    ):
        file.write("more")
        file.flush()
    told = rf"command: {path}: the disk is full: No space left on device; [\d,]+\.\d MB are free"
    assert re.fullmatch(told, str(stopped.value))


def test_a_line_is_written_at_once_where_nothing_is_buffered() -> None:
    """Torchrun starts processes by python -u, and the lines of two that print at once would run into one another."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # tells one write from the next
    reader.settimeout(60)
    code = (
        "from resmlp_core.common.errors import UserError, reporting\n"
        "with reporting('train'):\n    print('a line')\n    raise UserError('no')"
    )
    streams = {"stdout": writer, "stderr": writer}
    with reader, writer:
        subprocess.run([sys.executable, "-u", "-c", code], **streams, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert [reader.recv(100), reader.recv(100)] == [b"a line\n", b"train: no\n"]
