"""Write docs/settings.md from the dataclasses that hold the settings: ``python docs/settings.py [--check] [PAGE]``.

``--check`` writes nothing, and says in its exit status whether the page is out of date.
"""

import argparse
import inspect
import json
import re
import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import omegaconf

from resmlp_mt.data.cleaning import Rules
from resmlp_mt.pipeline.settings import Recipe
from resmlp_vision.config import Config, DINOConfig, RunConfig

PAGE = Path(__file__).with_suffix(".md")
INTRODUCTION = """\
<!-- Written by `python docs/settings.py`, which reads the dataclasses. Edit those. -->

# Settings

For a reader who writes a recipe, or changes one on the command line. A recipe is a YAML file of these keys. Every
command that reads one also takes `key=value`, which wins over the file: `lr=0.001`, `model_args.depth=4`,
`train.max-update=3000`. Write a list as `'scale=[0.5,1.0]'`, and `null` for no value.
"""
PARTS: tuple[tuple[str, str, type], ...] = (
    (
        "Images: every training run",
        "For `python -m resmlp_vision.train` and `python -m resmlp_vision.dino`.\n"
        "The defaults are those of `train`: the paper's recipe for ImageNet.",
        RunConfig,
    ),
    ("Images: training with labels", "For `python -m resmlp_vision.train`, beside the settings above.", Config),
    (
        "Images: training without labels",
        "For `python -m resmlp_vision.dino`. The first rows are settings above that have another default here.",
        DINOConfig,
    ),
    (
        "Translation: a recipe",
        "For `python -m resmlp_mt.recipe`. The keys under `train` are options of `fairseq-train`, and those under\n"
        "`generate` are options of `fairseq-generate`, without the two dashes.",
        Recipe,
    ),
    (
        "Translation: which training pairs to leave out",
        "Give them under `clean` of a recipe, or as `clean.max_words=200`; `python -m resmlp_mt.prepare` has them as\n"
        "options. A pair with an empty side is always left out.",
        Rules,
    ),
)
FIELD = re.compile(r"    (?P<name>\w+): [^#]*(?:  # (?P<comment>.*))?")
SECTION = re.compile(r"    # (?P<comment>.*)")
ARGUMENT = re.compile(r"        (?P<name>\w+): (?P<text>.*(?:\n {12}.*)*)")


def meanings(kind: type) -> dict[str, tuple[str, str]]:
    """Return by field, in the order of the source, the heading it stands under, and what it means.

    A field's meaning is the comment behind it or the lines of comments right above it, or its entry in the docstring.
    A line of comment after an empty line is the heading of the fields that follow.
    """
    found: dict[str, tuple[str, str]] = {}
    heading = above = ""
    previous = ""
    for line in inspect.getsource(kind).splitlines():
        if match := SECTION.fullmatch(line):
            if previous:
                above = f"{above} {match['comment']}".strip()
            else:
                heading, above = match["comment"], ""
        elif match := FIELD.fullmatch(line):
            found[match["name"]] = heading, match["comment"] or above
            above = ""
        previous = line.strip()
    documented = {name: " ".join(text.split()).removesuffix(".") for name, text in ARGUMENT.findall(kind.__doc__ or "")}
    return {name: (heading, text or documented.get(name, "")) for name, (heading, text) in found.items()}


def show_type(field: Field[Any]) -> str:
    """Name a field's type as Python does."""
    return field.type.__name__ if type(field.type) is type else str(field.type).replace("typing.", "")


def show_default(field: Field[Any]) -> str:
    """Write a field's default as in YAML."""
    if field.default is not MISSING:
        return "required" if field.default == omegaconf.MISSING else f"`{json.dumps(field.default)}`"
    return "`{}`"


def tabulate(kind: type) -> list[str]:
    """Make the tables of a dataclass's own fields, one under each heading."""
    known = {field.name: field for field in fields(kind)}
    inherited = {name: text for base in kind.__mro__[1:-1] for name, (_, text) in meanings(base).items()}
    lines: list[str] = []
    last = None
    for name, (heading, text) in meanings(kind).items():
        if heading != last or not lines:
            title, _, more = heading.partition(": ")
            lines += ["", f"### {title}"] if title else []
            lines += ["", f"{more}." if "/" in more.split()[0] else f"{more[0].upper()}{more[1:]}."] if more else []
            lines += ["", "| key | kind | default | |", "| --- | --- | --- | --- |"]
            last = heading
        shown = (name, show_type(known[name]), show_default(known[name]), text or inherited.get(name, ""))
        key, type_name, default, meaning = (cell.replace("|", "\\|").replace("``", "`") for cell in shown)
        lines.append(f"| `{key}` | {type_name} | {default} | {meaning} |")
    return lines


def render() -> str:
    """Write the whole page."""
    lines = [INTRODUCTION.rstrip()]
    for title, text, kind in PARTS:
        lines += ["", f"## {title}", "", text, *tabulate(kind)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python docs/settings.py", description="Write the page of the settings.")
    parser.add_argument("page", nargs="?", type=Path, default=PAGE, metavar="PAGE", help=f"(default: {PAGE.name})")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    args = parser.parse_args()
    if not args.check:
        args.page.write_text(render(), encoding="utf-8")
    elif not args.page.exists() or args.page.read_text(encoding="utf-8") != render():
        sys.exit(f"{args.page} is out of date: run python docs/settings.py")


if __name__ == "__main__":
    main()
