"""Two processes, each with its share of every batch, train as one that gathers the shares; cut off, they go on."""

import inspect
import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import fairseq_cli.train
import numpy as np
import pytest
import torch
from fairseq.trainer import Trainer

from resmlp_mt.patches.cpu_processes import free_port
from resmlp_mt.recipe import main

from .commands import ENVIRONMENT, PLUGIN, STARTED, TINY, TRAINING, in_this_process, logged, weights

CPU = PLUGIN[:3]  # and not the one process of the other tests
TRAIN = (*CPU, *TINY, *TRAINING, "--dropout", 0.1, "--max-update", 16, "--save-interval-updates", 4)
OPTIMISERS = {
    "adam": (),
    "adagrad": ("--optimizer", "adagrad", "--lr", 0.1, "--lr-scheduler", "fixed"),
    "muon": ("--optimizer", "muon", "--weight-decay", 0.1, "--clip-norm", 1),
}
MUON = (
    *(
        "train.optimizer=muon",
        "train.lr-scheduler=polynomial_decay",
        "train.total-num-update=20",
        "train.max-epoch=null",
    ),
    *("train.max-update=20", "train.save-interval-updates=4", "train.log-interval=1"),
)
SPAWN = "train.distributed-world-size=2"
LAUNCHERS = {"spawning": ([], [SPAWN]), "torchrun": (["torch.distributed.run", "--nproc-per-node", "2", "-m"], [SPAWN])}
RESETS = ("optimizer", "lr-scheduler", "meters", "dataloader")
FORKS = multiprocessing.get_context("forkserver")


def train(line, log, unpatched):
    """fairseq-train, in a fork of a process that has imported it; what it prints goes to a file."""
    torch.set_num_threads(1)
    for name in unpatched:
        setattr(Trainer, name, inspect.unwrap(getattr(Trainer, name)))
    with open(log, "w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        logging.basicConfig(stream=file, level=logging.INFO, force=True)
        sys.argv = ["fairseq-train", *map(str, line)]
        try:
            fairseq_cli.train.cli_main()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}")
            os._exit(1)


class Ranks:
    """Two processes of one training, each with a command line of its own."""

    def __init__(self, folder, *lines, unpatched=()):
        FORKS.set_forkserver_preload([__name__])
        group = ("--distributed-world-size", 2, "--distributed-init-method", f"tcp://localhost:{free_port()}")
        self.logs = [Path(folder, f"rank{rank}.log") for rank in range(2)]
        self.processes = []
        for log in self.logs:
            log.unlink(missing_ok=True)
        for rank, line in enumerate(lines * (2 // len(lines))):
            line = (*line, *group, "--distributed-no-spawn", "--distributed-rank", rank)
            self.processes.append(FORKS.Process(target=train, args=(line, self.logs[rank], unpatched), daemon=True))
            self.processes[-1].start()

    def printed(self):
        return [log.read_text() if log.exists() else "" for log in self.logs]

    def kill_after(self, pattern):
        wait_for(lambda: re.search(pattern, self.printed()[0]) or not self.processes[0].is_alive())
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        assert self.processes[0].exitcode == -signal.SIGKILL, self.printed()  # the other may end by itself, left alone

    def finish(self):
        for process in self.processes:
            process.join(120)
        assert [process.exitcode for process in self.processes] == [0, 0], "\n".join(self.printed())[-6000:]
        return self.printed()[0]

    def fail(self, seconds=30):
        """Wait until both have failed; return what each said last."""
        for process in self.processes:
            process.join(seconds)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        assert codes == [1, 1], "\n".join(self.printed())[-6000:]
        return [text.strip().splitlines()[-1] for text in self.printed()]


def wait_for(happened, seconds=120):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_reach_the_losses_of_one_that_gathers_two_batches(corpus, tmp_path):
    # Dropout is off, as its draws differ by process.
    options = (corpus.data, *CPU, *TINY, *TRAINING, "--dropout", 0, "--max-epoch", 1)
    options += ("--eval-bleu", "--eval-bleu-args", '{"beam": 1, "max_len_b": 5}')
    log = Ranks(tmp_path, (*options, "--save-dir", tmp_path / "two")).finish()
    one = in_this_process("train", *options, "--update-freq", 2, "--save-dir", tmp_path / "one")
    assert len(logged(log, "loss")) == 10  # 19 batches of 32
    for key in ("loss", "train_loss", "valid_loss"):
        torch.testing.assert_close(torch.tensor(logged(log, key)), torch.tensor(logged(one, key)), rtol=0, atol=2e-3)
    expected = weights(tmp_path / "one" / "checkpoint_last.pt")
    for name, weight in weights(tmp_path / "two" / "checkpoint_last.pt").items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-3, msg=name)


@pytest.mark.parametrize(
    "optimiser", [pytest.param(name, marks=[] if name == "muon" else pytest.mark.long) for name in OPTIMISERS]
)
def test_killed_and_resumed_they_end_where_nothing_cut_them_off(corpus, tmp_path, optimiser):
    line = (corpus.data, *TRAIN, *OPTIMISERS[optimiser])
    whole = Ranks(tmp_path, (*line, "--save-dir", tmp_path / "whole")).finish()
    cut = (*line, "--save-dir", tmp_path / "cut")
    Ranks(tmp_path, cut).kill_after('"num_updates": "6"')
    log = Ranks(tmp_path, cut).finish()
    updates = int(re.search(r"Loaded checkpoint .* @ (\d+) updates", log)[1])
    assert 0 < updates < 16
    assert logged(log, "loss") == logged(whole, "loss")[updates:] and len(logged(whole, "loss")) == 16
    assert logged(log, "valid_loss")[-1] == logged(whole, "valid_loss")[-1]
    expected = weights(tmp_path / "whole" / "checkpoint_last.pt")
    for name, weight in weights(tmp_path / "cut" / "checkpoint_last.pt").items():
        assert torch.equal(weight, expected[name]), name


def test_they_begin_from_another_model(trained, tmp_path):
    options = (*trained.options[:1], *CPU, *trained.options[1 + len(PLUGIN) :])
    begin = ("--finetune-from-model", trained.last, "--save-dir", tmp_path / "tuned", "--max-update", 1)
    log = Ranks(tmp_path, (*options, *begin)).finish()
    assert logged(log, "loss")[0] < logged(trained.log, "loss")[-1] + 0.5


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "what", ["torn", *(pytest.param(what, marks=pytest.mark.long) for what in ("code", "elsewhere"))]
)
def test_a_checkpoint_that_one_cannot_read_ends_both_at_once(trained, tmp_path, what):
    options = (*trained.options[:1], *CPU, *trained.options[1 + len(PLUGIN) :], "--max-update", 200)
    folders = [tmp_path / "zero", tmp_path / "one"] if what == "elsewhere" else [tmp_path / "both"] * 2
    folders[0].mkdir()
    last, content = folders[0] / "checkpoint_last.pt", trained.last.read_bytes()
    last.write_bytes(content[:10000] if what == "torn" else content)
    if what == "code":
        state = torch.load(trained.last, weights_only=True)
        torch.save({**state, "args": Touch(tmp_path / "ran")}, last)
    said = Ranks(tmp_path, *((*options, "--save-dir", folder) for folder in folders)).fail()
    expected = {
        "torn": f"rank 0 cannot read the checkpoint {last}: ",
        "code": f"rank 0 cannot read the checkpoint {last}: UnpicklingError: Weights only load failed",
        "elsewhere": "rank 1 finds another checkpoint_last.pt than rank 0, or none: all must share --save-dir",
    }
    assert all(line.startswith(f"ValueError: {expected[what]}") for line in said), said
    assert not (tmp_path / "ran").exists()


def copy_with_other_training_data(data, other, what="data"):
    shutil.copytree(data, other)
    for language in ("en", "de"):
        train = other / f"train.en-de.{language}.bin"
        if what == "order":  # within the sentences, whose lengths stay
            np.fromfile(train, np.uint16)[::-1].tofile(train)
        else:
            for path in (train, train.with_suffix(".idx")):
                shutil.copy(other / path.name.replace("train", "valid"), path)
    return other


@pytest.mark.parametrize("what", ["setting", "data", "order"])
def test_ranks_that_differ_are_refused(corpus, tmp_path, what):
    line = (*TRAIN, "--save-dir", tmp_path / "out")
    if what == "setting":
        lines = [(corpus.data, *line, "--clip-norm", norm) for norm in (1, 2)]
    else:
        other = copy_with_other_training_data(corpus.data, tmp_path / "other", what)
        lines = [(data, *line) for data in (corpus.data, other)]
    said = Ranks(tmp_path, *lines).fail()
    expected = "rank 1 has other training data than rank 0"
    if what == "setting":
        expected = "clip_norm is 2.0 on rank 1, 1.0 on rank 0"
    assert said == [f"ValueError: {expected}: give all processes the same"] * 2


def test_more_processes_than_batches_train(corpus, tmp_path):
    """One has nothing to do in some updates, and the losses are those of one process."""
    line = (corpus.data, *CPU, *TINY, *TRAINING, "--dropout", 0, "--batch-size", 1000, "--max-update", 2)
    log = Ranks(tmp_path, (*line, "--save-dir", tmp_path / "two")).finish()
    one = in_this_process("train", *line, "--save-dir", tmp_path / "one")
    assert logged(log, "loss") == pytest.approx(logged(one, "loss"), abs=2e-3)


def test_fairseq_itself_averages_over_ranks_that_differ(corpus, trained, tmp_path):
    """A canary: when this fails, a part of equal_ranks or load_together can go; the log says which."""
    begin = ("--load-checkpoint-on-all-dp-ranks", *(f"--reset-{what}" for what in RESETS), "--restore-file")
    line = (*TRAIN, "--share-all-embeddings", "--max-update", 1, "--save-dir", tmp_path / "out")
    other = copy_with_other_training_data(corpus.data, tmp_path / "other")
    lines = [
        (corpus.data, *line, "--dropout", 0, *begin, trained.last),
        (other, *line, "--dropout", 0.5, *begin, tmp_path / "missing.pt"),
    ]
    Ranks(tmp_path, *lines, unpatched=("__init__", "get_train_iterator", "load_checkpoint")).finish()


def descendants(pid):
    """List the processes below one, whose parents may have ended by the time."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in children for each in (int(child), *descendants(child))]


@pytest.mark.parametrize("way", [pytest.param("spawning", marks=pytest.mark.long), "torchrun"])
def test_a_recipe_of_two_processes_that_is_killed_ends_where_nothing_cut_it_off(recipe, whole, tmp_path, way):
    out = tmp_path / "out"
    shutil.copytree(whole.parent, out, ignore=shutil.ignore_patterns("resmlp_tiny"))
    launcher, options = LAUNCHERS[way]
    line = [sys.executable, "-m", *launcher, "resmlp_mt.recipe", recipe, "--out", out, "--stage", "train", *MUON]
    line = [*map(str, line), *options]
    log = out / "resmlp_tiny" / "train.log"
    with open(tmp_path / "printed", "w") as printed:
        process = subprocess.Popen(line, env=ENVIRONMENT, stdout=printed, stderr=printed)
        STARTED.append(process)
        wait_for(lambda: (log.exists() and '"num_updates": "6"' in log.read_text()) or process.poll() is not None)
        for pid in descendants(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(60)
        assert process.returncode, (tmp_path / "printed").read_text()
    before = len(log.read_text())
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    updates = int(re.search(r"Loaded checkpoint .* @ (\d+) updates", log.read_text()[before:])[1])
    assert 0 < updates < 20
    resumed = logged(log.read_text()[before:], "loss")
    assert resumed == logged((whole / "train.log").read_text(), "loss")[updates:]
    expected = weights(whole / "checkpoints" / "checkpoint_last.pt")
    for name, weight in weights(out / "resmlp_tiny" / "checkpoints" / "checkpoint_last.pt").items():
        assert torch.equal(weight, expected[name]), name


@pytest.fixture(scope="module")
def whole(recipe):
    """The folder of a recipe's run of two processes that nothing cut off."""
    out = recipe.parent / "whole"
    for stage in ("prepare", "train"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["recipe", *map(str, (recipe, "--out", out, "--stage", stage, *MUON)), SPAWN])
            patch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
            main()
    return out / "resmlp_tiny"
