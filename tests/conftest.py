"""For all tests: the same draws in every run, on one thread of a CPU, as the models are tiny, and a terminal."""

import os
import pty
import select
import subprocess
import termios
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before PyTorch looks for a GPU: tests compare bits
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests start: other threads add up in another order


@pytest.fixture
def on_a_terminal() -> Callable[..., str]:
    """Runs a command whose errors and progress go to a terminal of 120 columns; returns what that shows."""

    def run(line: list[str], **options: Any) -> str:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 120))
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=theirs, **options) as process:
            os.close(theirs)
            shown = b""
            while select.select([ours], [], [], 60)[0]:
                try:
                    shown += os.read(ours, 4096)
                except OSError:  # the other side has closed
                    break
        assert process.returncode == 0
        return shown.decode()

    return run
