"""docs/settings.md says what the dataclasses say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*options: object) -> subprocess.CompletedProcess[str]:
    """Run docs/settings.py."""
    command = [sys.executable, "docs/settings.py", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_page_is_what_its_command_writes_and_another_is_told(tmp_path: Path) -> None:
    written = tmp_path / "settings.md"
    assert run(written).returncode == 0
    text = written.read_text(encoding="utf-8")
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == text, "run python docs/settings.py"
    assert run("--check").returncode == 0
    # inherited and own fields, comments behind and above, and docstrings
    for key in ("weight_decay", "ema_decay", "local_views", "vocab_size", "max_ratio"):
        rows = [line for line in text.splitlines() if line.startswith(f"| `{key}` |")]
        assert rows and all(len(row.split(" | ")) == 4 for row in rows), key

    written.write_text(text.replace("`0.2`", "`0.3`"), encoding="utf-8")
    outdated = run("--check", written)
    assert outdated.returncode == 1
    assert "is out of date: run python docs/settings.py" in outdated.stderr
