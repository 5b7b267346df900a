"""The command that runs a recipe, in a process of its own and in this one."""

import io
import os
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from resmlp_mt.recipe import main

ROOT = Path(__file__).parents[2]


def command(*arguments):
    return [sys.executable, "-m", "resmlp_mt.recipe", *map(str, arguments)]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run(*arguments, status=0):
    """Run the command in this process, without the seconds that a new one takes to import it."""
    printed, told = io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", ["recipe", *map(str, arguments)])
        patch.setenv("PYTHONPATH", str(ROOT))
        try:
            main()
        except SystemExit as stopped:
            told = stopped.code
    assert (told is not None) == bool(status), f"{printed.getvalue()}{told}"
    return Namespace(stdout=printed.getvalue(), stderr=told)
