"""A recipe is rehearsed: all of its stages on a little of its data; what it cannot do is told, and fails."""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import fairseq_cli.train
import pytest
import torch
import warm_python
from fairseq.trainer import Trainer

from resmlp_core.common.errors import UserError
from resmlp_core.common.rehearsal import Rehearsal
from resmlp_mt.pipeline import longest_batches, rehearsed_run, rehearsed_training
from resmlp_mt.pipeline.fairseq_process import run_fairseq
from resmlp_mt.pipeline.rehearsal import RecipeRehearsal, start_command
from resmlp_mt.recipe import main, read_recipe

from .commands import in_this_process, start
from .recipe_runs import environment

ROOT = Path(__file__).parents[2]


@dataclass
class Rehearsed:
    """What a rehearsal left and said."""

    status: int
    printed: str
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "rehearsal.json").read_text(encoding="utf-8"))

    @property
    def reason(self) -> str:
        """The first of the reasons, which the table begins with."""
        return self.printed[self.printed.index("cannot start: ") :].splitlines()[0].removeprefix("cannot start: ")


def rehearse(recipe: Path, out: Path, *overrides: str) -> Rehearsed:
    """Rehearse in this process, for about six seconds beside what starting fairseq takes."""
    printed, status = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setenv("PYTHONPATH", str(ROOT))
        line = ["recipe", recipe, "--out", out, "--rehearse", "--rehearse-minutes", 0.1, "--price", 2, *overrides]
        patch.setattr(sys, "argv", [*map(str, line)])
        patch.setattr(sys, "orig_argv", ["python", *map(str, line)])
        try:
            main()
        except SystemExit as stopped:
            status = stopped.code
    return Rehearsed(status, printed.getvalue(), out.with_name(f"{out.name}.rehearsal"))


@pytest.fixture(scope="module")
def rehearsed(recipe: Path) -> Rehearsed:
    return rehearse(recipe, recipe.parent / "out")


@pytest.mark.slow
def test_every_stage_is_rehearsed_beside_the_runs_folder(rehearsed):
    assert rehearsed.status == 0, rehearsed.printed
    assert "training: done before" not in rehearsed.printed
    assert not rehearsed.folder.with_name("out").exists()
    made = rehearsed.folder / "run" / "resmlp_tiny"
    assert {"model.pt", "generate.txt", "results.json"} <= {path.name for path in made.iterdir()}
    last = rehearsed.printed.strip().splitlines()
    assert last[-1].split() == [
        "python",
        "recipe",
        str(made.parents[2] / "recipe.yaml"),
        "--out",
        str(made.parents[2] / "out"),
    ]


@pytest.mark.slow
def test_a_process_of_its_own_knows_the_plugin(monkeypatch):
    """Python is new here: the other tests' processes are forks of one that has loaded fairseq already."""
    monkeypatch.setattr("subprocess.Popen", warm_python.COLD)
    printed = []
    line = ("corpus", "--user-dir", ROOT / "resmlp_mt", "--arch", "resmlp_tiny", "--optimizer", "muon", "--help")
    run_fairseq("train", [*map(str, line)], printed.append, module=rehearsed_run.OBSERVED)
    assert any("--optimizer" in said and "muon" in said for said in printed)


@pytest.mark.slow
def test_the_process_was_killed_and_its_updates_came_again(rehearsed):
    report = rehearsed.report
    assert report["lost"] and report["lost"] == report["resumed"]
    assert report["resumes"] is True
    first = json.loads((rehearsed.folder / "run" / "first-seen.json").read_text())
    assert first["killed"] and first["saves"]


@pytest.mark.slow
def test_what_a_run_takes_is_measured_and_projected(rehearsed):
    report = rehearsed.report
    assert report["steps"] == 66  # three epochs of 22 batches
    assert report["parameters"] == 27560
    assert 0 < report["peak_memory"] < report["devices"][0]["memory"]
    assert report["largest_batch"] >= report["batch"] == 1000
    assert {"data", "forward", "backward", "communication", "optimiser"} <= report["milliseconds"].keys()
    assert report["speed"] > 0 and report["loader_speed"] > report["speed"]
    assert all(hours > 0 for hours in report["hours"].values())
    assert report["disk"].keys() == {"text", "data-bin", "checkpoints"}
    assert report["disk_free"] > sum(report["disk"].values())


@pytest.mark.slow
def test_the_ramp_reaches_the_highest_rate_and_watches_the_activations(rehearsed):
    report = rehearsed.report
    assert report["rate"] == 0.01
    assert len(report["activations"]) == report["ramp"] >= 4
    assert len(report["gradient_norms"]) == len(report["losses"]) > report["ramp"]
    assert report["verdict"] == "finite"


def train_here(data_bin, folder, options, precision, module, environment):
    """Do a part of the training without the seconds that a process takes to start; its end is an error as there."""
    line = [data_bin, "--user-dir", ROOT / "resmlp_mt", "--cpu", "--save-dir", folder / "checkpoints"]
    for name, value in options.items():
        line += [] if value is None else [f"--{name}"] if value is True else [f"--{name}", value]
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    with mock.patch.dict("os.environ", environment), mock.patch("fairseq_cli.train.main", rehearsed_training.main):
        try:
            in_this_process("train", *line)
        except (Exception, SystemExit) as error:
            raise UserError(f"fairseq-train ended with status 1:\n{type(error).__name__}: {error}") from None


@pytest.fixture
def here(monkeypatch):
    """Train in this process, whose memory no limit is set to."""
    monkeypatch.setattr(rehearsed_run, "run_fairseq_train", train_here)
    for module in (longest_batches, rehearsed_training):
        monkeypatch.setattr(module, "limit_memory", lambda cuda, spare=0: None)
    for name in ("train", "validate"):
        monkeypatch.setattr(fairseq_cli.train, name, getattr(fairseq_cli.train, name))
    monkeypatch.setattr("fairseq.checkpoint_utils.save_checkpoint", fairseq_cli.train.checkpoint_utils.save_checkpoint)


def test_too_little_memory_fails_and_what_fits_is_told(recipe, tmp_path, monkeypatch, here):
    train_step = Trainer.train_step

    def short_of_memory(self, samples, raise_oom=False):
        if samples[0]["target"].numel() > 600:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train_step(self, samples, raise_oom)

    monkeypatch.setattr(Trainer, "train_step", short_of_memory)
    failed = rehearse(recipe, tmp_path / "out", "train.num-workers=null")
    assert failed.status == 1
    assert failed.reason.startswith("out of memory: a batch of 1,000 tokens does not fit into ")
    fits = failed.report["largest_batch"]
    assert 500 <= fits < 750
    assert failed.report["workers"] == 1  # fairseq's own
    assert failed.report["advice"][0].startswith("train.max-tokens=500 train.update-freq=2  ")


def test_a_run_that_diverges_fails_and_a_lower_rate_is_told(recipe, tmp_path, here):
    failed = rehearse(recipe, tmp_path / "out", "train.lr=1e30")
    assert failed.status == 1
    assert failed.reason == "diverged: at a learning rate of 1e+30 the loss was nan"
    assert failed.report["advice"] == ["train.lr=5e+29  half the learning rate: it is diverged at 1e+30"]


def test_a_loader_that_raises_fails_with_what_it_said(recipe, tmp_path, monkeypatch, here):
    def broken(self, samples, pad_to_length=None):
        raise ValueError("pair 17 cannot be read")

    monkeypatch.setattr("fairseq.data.LanguagePairDataset.collater", broken)
    failed = rehearse(recipe, tmp_path / "out")
    assert failed.status == 1
    assert failed.reason == "train: fairseq-train ended with status 1: ValueError: pair 17 cannot be read"


def test_a_checkpoint_that_cannot_be_resumed_fails(recipe, tmp_path, monkeypatch):
    def killed_then_torn(data_bin, folder, options, precision, module, environment):
        plan = json.loads(Path(environment["RESMLP_MT_REHEARSAL"]).read_text())
        if plan["part"] == "first":
            seen = {"killed": True, "fits": True, "losses": [9.0, 8.0], "updates": [3, 4], "gradient_norms": [1.0, 1.0]}
            seen |= {"saved_at": 3, "last": 4, "batch": 1000, "peak_memory": 1, "update_freq": 1}
            Path(plan["record"]).write_text(json.dumps(seen))
            raise UserError("fairseq-train ended with status -9:\n")
        raise UserError("fairseq-train ended with status 1:\nOSError: Model file checkpoint_last.pt cannot be read")

    monkeypatch.setattr(rehearsed_run, "run_fairseq_train", killed_then_torn)
    failed = rehearse(recipe, tmp_path / "out")
    assert failed.status == 1
    assert failed.reason.endswith("OSError: Model file checkpoint_last.pt cannot be read")


def test_a_corpus_that_breaks_off_or_is_missing_fails_before_training(recipe, tmp_path):
    corpus = shutil.copytree(recipe.parent / "corpus", tmp_path / "corpus")
    with (corpus / "train.de").open("ab") as text:
        text.write(b"gr\xfc\xdfe\n")
    with (corpus / "train.en").open("ab") as text:
        text.write(b"greetings\n")
    failed = rehearse(recipe, tmp_path / "out", f"data={corpus}")
    assert failed.status == 1
    assert failed.reason.startswith("prepare: ") and "train.de" in failed.reason
    missing = rehearse(recipe, tmp_path / "out", "data=./nowhere")
    assert missing.status == 1
    assert missing.reason == "prepare: --data ./nowhere: there is no such folder"


def test_a_data_set_of_the_hub_that_cannot_be_reached_fails_in_a_line(recipe, tmp_path, monkeypatch, capfd):
    for module in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    failed = rehearse(recipe, tmp_path / "out", "data=owner/name")
    assert failed.status == 1
    table = failed.printed.partition("\n\n")[2].splitlines()  # after what it announces
    assert table[0].startswith("cannot start: prepare: --data owner/name: no such folder here, and the hub's data set ")
    assert table[1].split()[:2] == ["the", "rehearsal"]
    assert not capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.rehearsal"]


def test_a_corpus_of_a_few_pairs_is_rehearsed_whole(recipe, tmp_path):
    """An epoch is one update, and the validation loss rises after some: the recipe's patience does not end it."""
    (tmp_path / "corpus").mkdir()
    for text in (recipe.parent / "corpus").iterdir():
        lines = text.read_text(encoding="utf-8").splitlines(keepends=True)[: 8 if text.stem == "train" else 1]
        (tmp_path / "corpus" / text.name).write_text("".join(lines), encoding="utf-8")
    small = [f"data={tmp_path / 'corpus'}", "vocab_size=100"]
    found = rehearse(recipe, tmp_path / "out", *small, "train.patience=1")
    assert found.status == 0, found.printed
    assert found.report["steps"] == 3 and found.report["resumes"]


def test_under_torchrun_each_stages_command_is_told(monkeypatch):
    line = ["python", "-u", "-m", "resmlp_mt.recipe", "multi30k", "--rehearse", "--rehearse-minutes", "3", "--out", "o"]
    monkeypatch.setattr(sys, "orig_argv", line)
    group = {"RANK": "0", "LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "16", "MASTER_ADDR": "first"}
    with mock.patch.dict("os.environ", group):
        prepare, train, rest = start_command().splitlines()
    machines = "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint first --nproc-per-node 8"
    assert train == f"torchrun {machines} -m resmlp_mt.recipe multi30k --out o --stage train"
    assert rest == start_command() == "python -m resmlp_mt.recipe multi30k --out o"
    assert prepare == f"{rest} --stage prepare"


@pytest.mark.long
def test_two_processes_of_torchrun_rehearse_together(recipe, tmp_path):
    line = ["torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "resmlp_mt.recipe", recipe]
    asked = ["--out", tmp_path / "out", "--rehearse", "--rehearse-minutes", 0.1]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, [*line, *asked])], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out.rehearsal" / "rehearsal.json").read_text())
    assert found["can_start"] and found["resumed"] == pytest.approx(found["lost"]) and found["lost"]
    assert found["milliseconds"]["communication"] > 0
    assert "--nproc-per-node 2 -m resmlp_mt.recipe" in done.stdout.splitlines()[-2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rehearse", "--rehearse-m", "5"], "unrecognized arguments: --rehearse-m"),
        (["--price", "2"], "--rehearse-minutes and --price are for --rehearse"),
        (["--rehearse-minutes", "5"], "--rehearse-minutes and --price are for --rehearse"),
        (["--rehearse", "--price", "-1"], "--price: -1 is not a finite number above 0"),
        (["--rehearse", "--price", "inf"], "--price: inf is not a finite number above 0"),
        (["--rehearse", "--rehearse-minutes", "0"], "--rehearse-minutes: 0 is not a finite number above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recipe", "multi30k", *options])
    with pytest.raises(SystemExit):
        main()
    assert said in capsys.readouterr().err


def test_a_teacher_that_is_not_trained_fails(recipe, tmp_path):
    failed = rehearse(recipe, tmp_path / "out", "--teacher", "resmlp_tiny")
    assert failed.status == 1
    assert failed.reason.startswith("prepare: --teacher resmlp_tiny: there is no finished ")


def test_ctrl_c_leaves_only_its_folder_which_the_next_rehearsal_replaces(recipe, tmp_path):
    """It is pressed while fairseq trains, in a process of its own."""
    (tmp_path / "out").mkdir()
    folder = tmp_path / "out.rehearsal"
    process = start("resmlp_mt.recipe", recipe, "--out", tmp_path / "out", "--rehearse", "--rehearse-minutes", 0.1)
    while not (folder / "run" / "first-seen.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (training,) = [child for child in children if os.getsid(int(child)) == int(child)]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and "Traceback" not in errors
    assert not Path(f"/proc/{training}").exists()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out", folder] and not any((tmp_path / "out").iterdir())
    following = rehearse(recipe, tmp_path / "out", "--teacher", "resmlp_tiny")  # ends soon
    assert following.reason.startswith("prepare: --teacher") and following.report["can_start"] is False
    assert [path.name for path in folder.iterdir()] == ["rehearsal.json"]


def test_no_space_for_the_rehearsal_fails(recipe, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    failed = rehearse(recipe, tmp_path / "out")
    assert failed.status == 1
    assert "needs about" in failed.reason and "0.0 MB are free" in failed.reason


def test_a_disk_that_fills_in_training_fails(recipe, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rehearsed_run, "run_fairseq_train", full)
    failed = rehearse(recipe, tmp_path / "out")
    assert failed.status == 1
    assert failed.reason == "train: the disk is full: No space left on device"


def test_a_sample_that_yields_a_smaller_vocabulary_is_rehearsed_with_that(recipe, tmp_path):
    settings = read_recipe(recipe, ["vocab_size=30000"], None)
    found = Rehearsal("out", "", "tokens")
    rehearsal = RecipeRehearsal(found, settings, tmp_path, seconds=1.5)
    sample, rehearsed = rehearsal._sample()
    assert sample.taken < sample.pairs
    rehearsal._prepare(rehearsed, sample)
    assert (rehearsed.data_bin / "dict.en.txt").exists()
    told = re.fullmatch(r"so few pairs yield a vocabulary of (\d+), not of 30000", found.notes[-1])
    assert told and rehearsed.settings["vocab_size"] == int(told[1])


@pytest.mark.parametrize("option", ["finetune-from-model", "continue-once"])
@pytest.mark.parametrize(("seconds", "begins"), [(1.5, False), (60, True)])
def test_a_sample_begins_from_another_model_where_it_yields_the_same_vocabulary(
    recipe, tmp_path, seconds, begins, option
):
    """The model's is that of all pairs; with another one it is refused."""
    settings = read_recipe(recipe, [f"train.{option}=model.pt"], None)
    found = Rehearsal("out", "", "tokens")
    _, rehearsed = RecipeRehearsal(found, settings, tmp_path, seconds)._sample()
    assert (rehearsed.train_options()[option] == "model.pt") == begins
    assert any("from random weights" in note for note in found.notes) != begins


def test_a_corpus_smaller_than_the_vocabulary_needs_fails_and_says_how_many(recipe, tmp_path):
    failed = rehearse(recipe, tmp_path / "out", "vocab_size=30000")
    assert failed.status == 1
    assert "choose at most" in failed.reason
