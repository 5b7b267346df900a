"""The folder that ``resmlp_mt.prepare`` makes: the settings that decide its content, its report, and its text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from resmlp_mt.data.cleaning import Rules
from resmlp_mt.data.normalization import NORMALIZATIONS

SPLITS = ("valid", "test", "train")  # the small ones first, so that what is wrong with the data shows at once
SPECIAL = 4  # entries of fairseq's own
BAR: dict[str, Any] = {"unit": " pairs", "unit_scale": True, "disable": None, "leave": False}


@dataclass(kw_only=True)
class Settings(Rules):
    """What decides the content of a prepared folder, the rules for its training pairs included."""

    data: str
    source_lang: str
    target_lang: str
    vocab_size: int
    seed: int = 1
    normalization: str = NORMALIZATIONS[0]


def read_report(prepared: Path) -> dict[str, Any]:
    """Read what ``resmlp_mt.prepare.prepare`` reported of a folder that it has made."""
    report: dict[str, Any] = json.loads((prepared / "prepare.json").read_text(encoding="utf-8"))
    return report


def open_text(path: Path) -> TextIO:
    """Open text to read it, with its line breaks as they are."""
    return path.open(encoding="utf-8", newline="\n")


def create_text(path: Path) -> TextIO:
    """Open a file to write text to, with a newline at a line's end on any system."""
    return path.open("w", encoding="utf-8", newline="\n")
