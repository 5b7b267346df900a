"""The Python examples of the documents run as they stand, and print what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def blocks(page):
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "docs/python.md"])
def test_examples_print_what_they_say(page, tmp_path):
    examples = [block for block in blocks(page) if "build/demo" not in block]  # all that need no demo's model
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", "\n".join(examples), re.M)
    assert promised
    each_by_itself = "\n".join(f"exec({example!r}, {{'__name__': '__main__'}})" for example in examples)
    line = [sys.executable, "-c", each_by_itself]
    done = subprocess.run(
        line, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed = iter(done.stdout.splitlines())
    assert all(line in printed for line in promised), done.stdout  # in this order; a training prints more
