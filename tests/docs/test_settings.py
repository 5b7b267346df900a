"""docs/settings.md says what the dataclasses say."""

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / "docs" / "settings.py"


def rows_of(key: str, text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| `{key}` |")]


def test_the_page_is_what_its_command_writes_and_one_that_differs_is_told(
    run_script: Callable[..., str], tmp_path: Path
) -> None:
    written = tmp_path / "settings.md"
    run_script(COMMAND, written)
    text = written.read_text(encoding="utf-8")
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == text, "run python docs/settings.py"
    run_script(COMMAND, "--check")
    # inherited and own fields, comments behind and above, and docstrings
    for key in ("weight_decay", "ema_decay", "local_views", "vocab_size", "max_ratio"):
        assert rows_of(key, text) and all(len(row.split(" | ")) == 4 for row in rows_of(key, text)), key
    (precision, _), (teacher,) = rows_of("matmul_precision", text), rows_of("teacher", text)
    assert "| of float32 products on a GPU, as torch.set" in precision and "10 bits and adds" in precision
    assert "| a model of timm's, with weights" in teacher

    written.write_text(text.replace("`0.2`", "`0.3`"), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"is out of date: run python docs/settings\.py"):
        run_script(COMMAND, "--check", written)
