"""BLEU by the length of the source, of runs that a recipe has left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SENTENCES = ["a b c d e", "f g h i j k", "a b c d e f g h i j k l", "m n o p q r s t u v w x y"]


def by_length(out, *arguments):
    """Run the command."""
    line = [sys.executable, ROOT / "recipes" / "software" / "by_length.py", out, *arguments]
    return subprocess.run(line, capture_output=True, text=True)


@pytest.fixture
def out(tmp_path):
    """The folder of a recipe with two runs: the first is right in short sentences, the second in all."""
    (tmp_path / "text").mkdir()
    for name, lines in {
        "test.en": SENTENCES,
        "test.de": SENTENCES,
        "train.en": [*SENTENCES, "a", "b", "c", "d"],
    }.items():
        (tmp_path / "text" / name).write_text("\n".join(lines) + "\n")
    for run, hypotheses in {"short": [*SENTENCES[:2], "z", "z"], "all": SENTENCES}.items():
        (tmp_path / run).mkdir()
        lines = (f"D-{i}\t-0.1\t{hypotheses[i]}\n" for i in (3, 1, 0, 2))  # fairseq's order is that of its batches
        (tmp_path / run / "generate.txt").write_text("".join(lines))
        (tmp_path / run / "results.json").write_text(json.dumps({"settings": {"pair": "en-de"}}))
    return tmp_path


def test_each_length_is_scored_by_itself(out):
    done = by_length(out, "short", "all", "--edges", "7,12,20")
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "by-length.json").read_text())
    assert [(row["from"], row["below"], row["sentences"]) for row in rows] == [(0, 7, 2), (12, 20, 2)]
    assert [row["as_long"] for row in rows] == [1, 2 / 8]
    assert [row["bleu"]["all"] for row in rows] == pytest.approx([100, 100])
    assert rows[0]["bleu"]["short"] == pytest.approx(100)
    assert rows[1]["bleu"]["short"] == 0
    assert "12 to 19" in done.stdout
    assert (out / "by-length.png").stat().st_size > 10_000


def test_what_is_not_scored_yet_and_lengths_that_do_not_ascend_are_refused(out):
    assert "run all stages of third first" in by_length(out, "third").stderr
    assert "--edges 9,5 must ascend" in by_length(out, "all", "--edges", "9,5").stderr
    assert "--edges 9,x: not numbers" in by_length(out, "all", "--edges", "9,x").stderr
