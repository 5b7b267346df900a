"""The shell commands of the documents run as they stand, from a fresh checkout, but for sizes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from vision.runs import write_images

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
# What a command is given to end in seconds.
SMALL = {
    "resmlp_mt.recipe": (
        "vocab_size=300 average=1 train.max-update=2 train.total-num-update=2 train.warmup-updates=1 train.max-epoch=1"
        " train.encoder-layers=1 train.decoder-layers=1"
    ),
    "resmlp_vision.train": "epochs=1 warmup_epochs=0 model_args.depth=1 workers=0 device=cpu",
    "fairseq-train": "--cpu --distributed-world-size 1 --max-update 2 --total-num-update 2 --warmup-updates 1",
    "fairseq-generate": "--cpu --beam 1",
    "fairseq-interactive": "--cpu",
    "resmlp_mt.prepare": "--vocab-size 300",
}


def block(page: str, start: str) -> str:
    """Find the block of a page that has a command, and make its work small."""
    found = [text for text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")) if start in text]
    assert len(found) == 1
    lines = found[0].replace("\\\n", " ").splitlines()
    return "\n".join(shrink(line) for line in lines)


def shrink(line: str) -> str:
    """Add to a command what makes its work small; options given twice count by their last."""
    command, *redirection = re.split(r"(?= > )", line)
    for program, options in SMALL.items():
        if program in command:
            command += f" {options}"
    return "".join([command, *redirection])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with a reader's own text and photographs in it."""
    grammar = ROOT / "recipes" / "demo" / "grammar.py"
    sizes = ["--train", "600", "--valid", "20", "--test", "20"]
    subprocess.run([sys.executable, grammar, tmp_path / "my", *sizes], check=True, capture_output=True)
    write_images(tmp_path / "photos", images=16)  # 32 in two classes, as few as the pages say
    for name in ("recipes", "resmlp_core", "resmlp_mt", "resmlp_vision"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(script: str, folder: Path) -> str:
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": programs}
    line = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_the_readme_trains_on_a_readers_text(folder: Path) -> None:
    assert "BLEU" in run(block("README.md", "--data my"), folder)
    assert (folder / "build" / "my" / "resmlp_plus_tiny" / "results.json").exists()


def test_the_readme_trains_on_a_readers_images(folder: Path) -> None:
    run(block("README.md", "data=photos"), folder)
    assert (folder / "build" / "photos" / "results.json").exists()


def test_a_model_is_tuned_on_a_readers_images(folder: Path) -> None:
    tuned = block("docs/images.md", "finetune.yaml data=photos")
    run(f"{tuned} pretrained=false", folder)  # the released weights are not here
    assert (folder / "build" / "photos-tuned" / "results.json").exists()


@pytest.mark.long
def test_each_step_of_a_translation_runs_as_a_command_of_fairseqs(folder: Path) -> None:
    printed = run(block("docs/translation.md", "fairseq-interactive"), folder)
    assert "nrefs:1|case:mixed" in printed and "H-0" in printed


@pytest.mark.long
def test_a_language_model_is_trained_by_fairseqs_commands(folder: Path) -> None:
    run(
        block("docs/fairseq.md", "fairseq-eval-lm").replace("--context-window 128", "--context-window 128 --cpu"),
        folder,
    )
