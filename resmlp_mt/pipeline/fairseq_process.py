"""Run fairseq's programs as child processes that end when their parent does."""

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from resmlp_core.common.errors import DISK_FULL, UserError

SHOWN = 20  # of a program's last lines
TRACEBACKS = 200  # lines in which to look for a full disk: errors of PyTorch's, with their tracebacks, stand behind it

FOLLOWER = """
import runpy, sys
from resmlp_core.common.environment import keep_memory
from resmlp_core.common.processes import end_with_parent
end_with_parent()
if sys.argv.pop(1) == "keep":
    keep_memory()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def run_fairseq(
    program: str,
    arguments: Sequence[str],
    on_line: Callable[[str], None],
    keep_memory: bool = False,
    module: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run one of fairseq's programs to its end.

    Args:
        program: ``train``, ``generate``, ``preprocess`` and so on.
        arguments: its command line.
        on_line: called with every line that it prints, on standard output or error, as it comes.
        keep_memory: whether it keeps the memory that it frees, as ``resmlp_core.common.environment.keep_memory`` does.
        module: what is run as the program; ``fairseq_cli.PROGRAM`` by default.
        environment: variables to set for it.

    Raises:
        UserError: it ended with another status than 0; the message ends with its last lines.
        OSError: it ended because the disk is full.
    """
    memory = "keep" if keep_memory else "free"
    child = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, memory, module or f"fairseq_cli.{program}", *arguments],
        env={**os.environ, **(environment or {}), "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    assert child.stdout is not None
    last_lines = deque[str](maxlen=TRACEBACKS)
    try:
        for line in child.stdout:
            last_lines.append(line.rstrip())
            on_line(line)
        status = child.wait()
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    if status:
        numbers = [int(number) for line in last_lines for number in re.findall(r"\[Errno (\d+)\]", line)]
        if numbers and numbers[-1] in DISK_FULL:
            raise OSError(numbers[-1], os.strerror(numbers[-1]))
        raise UserError(f"fairseq-{program} ended with status {status}:\n" + "\n".join([*last_lines][-SHOWN:]))
