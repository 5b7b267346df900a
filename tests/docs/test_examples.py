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


@pytest.mark.parametrize(
    ("page", "first", "last"),
    [("docs/architecture.md", 0, 1), ("docs/architecture.md", 1, 2), ("README.md", 1, 2), ("docs/python.md", 1, None)],
)
def test_an_example_prints_what_it_says(page, first, last, tmp_path):
    example = "\n".join(blocks(page)[first:last])  # all that need no model of a demo
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", example, re.M)
    assert promised
    line = [sys.executable, "-c", example]
    done = subprocess.run(
        line, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == promised
