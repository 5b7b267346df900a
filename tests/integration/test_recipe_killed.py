"""A recipe that is killed in any stage ends where an unbroken run does."""

import json
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from resmlp_core.common.files import remove

from .recipe_runs import command, environment, run

STOPPED_AS_WMT14 = (
    *("train.max-epoch=0", "train.max-update=100", "train.save-interval-updates=7", "train.keep-interval-updates=1"),
    *("train.keep-last-epochs=3", "train.log-interval=1", "average=[1,2]"),
)
KILLS = (  # after preparation: in the stage that makes this, once the run has printed this, and up to so long after
    *[("resmlp_tiny/trained", rf"(^epoch .*\n){{{lines}}}", 0.1) for lines in (10, 15)],
    ("resmlp_tiny/trained", r"update +100 .*\n.* validation loss", 0.1),
    ("resmlp_tiny/average.json", r"fairseq-generate .* valid ", 4),
    ("resmlp_tiny/average.json", r"^averaged ", 4),
    ("resmlp_tiny/generate.txt", r"fairseq-generate .* test ", 4),
    ("resmlp_tiny/results.json", r"^scoring ", 0),
)


def start(recipe, out):
    """Start the command; what it prints goes to a file beside ``out``."""
    with out.with_suffix(".txt").open("w") as printed:
        line = command(recipe, "--out", out, *STOPPED_AS_WMT14)
        return subprocess.Popen(line, env=environment() | {"PYTHONUNBUFFERED": "1"}, stdout=printed)


def kill(recipe, out, stage_makes, moment, delay):
    """Run the command and kill it; tell whether it was alive until then and in that stage."""
    printed = out.with_suffix(".txt")
    process = start(recipe, out)
    deadline = time.monotonic() + 120
    while process.poll() is None:
        assert time.monotonic() < deadline
        if re.search(moment, printed.read_text(), flags=re.M):
            break
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    return process.wait() == -signal.SIGKILL and not (out / stage_makes).exists()


def test_killed_in_every_stage_it_ends_where_the_unbroken_run_does(recipe):
    whole, out, draw = recipe.with_name("whole"), recipe.with_name("killed"), random.Random(1)
    unbroken = start(recipe, whole)
    for number, (stage_makes, moment, delay) in enumerate(KILLS):
        for share in (draw.random(), 0.3, 0.1, 0):  # a kill that came too late is tried again, earlier
            if kill(recipe, out, stage_makes, moment, delay * share):
                break
            remove(out / stage_makes)
        else:
            pytest.fail(f"no kill came before {stage_makes} was made")
        if number in (0, 2):  # as at the worst moment: when fairseq copies the last checkpoint
            last = out / "resmlp_tiny" / "checkpoints" / "checkpoint_last.pt"
            last.write_bytes(last.read_bytes()[:1000])

    run(recipe, "--out", out, *STOPPED_AS_WMT14)
    assert unbroken.wait(300) == 0
    for path in sorted((whole / "data-bin").iterdir()):
        assert (out / "data-bin" / path.name).read_bytes() == path.read_bytes()
    name = Path("resmlp_tiny", "checkpoints", "checkpoint_last.pt")
    resumed, smooth = (torch.load(folder / name, weights_only=True)["model"] for folder in (out, whole))
    torch.testing.assert_close(resumed, smooth, rtol=0, atol=0)
    killed, smooth = (json.loads((folder / "resmlp_tiny" / "results.json").read_text()) for folder in (out, whole))
    assert smooth["updates"] == 100
    for key in ("updates", "valid_loss", "best_valid_loss", "averaged", "valid_bleu", "bleu", "chrf"):
        assert killed[key] == smooth[key], key
