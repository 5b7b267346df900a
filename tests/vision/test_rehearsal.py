"""A rehearsal of a training of images: all parts of a tiny one, and each reason for which one cannot start."""

import io
import json
import math
import shutil
import signal
import time
from collections import namedtuple
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import datasets
import pytest
import torch
import warm_python
from PIL import Image

from resmlp_core.common.rehearsal import Rehearsal
from resmlp_vision import dino, train
from resmlp_vision.config import Config
from resmlp_vision.data import sample
from resmlp_vision.data.datasets import Images
from resmlp_vision.training import batch_trial, rehearsal, rehearsed_run
from resmlp_vision.training.step_times import FirstBatches, time_phases
from resmlp_vision.training.supervised import SupervisedTrainer

from .runs import DINO, TINY, finish, run, start, torchrun, wait, write_images, write_tables

RICH = ("opt=lamb", "accumulate=2", "dtype=bfloat16", "ema_decay=0.9", "mixup=0.8", "workers=1", "repeated_aug=3")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), images=32)


def rehearse(main, out, *settings):
    """Rehearse here; return the exit status, what was printed and what rehearsal.json says."""
    status, printed = 0, ""
    try:
        printed = run(main, "--rehearse", "--rehearse-minutes", "0.04", *settings, f"out={out}")
    except SystemExit as stopped:
        status = stopped.code
    return SimpleNamespace(
        status=status, printed=printed, **json.loads((out.parent / f"{out.name}.rehearsal/rehearsal.json").read_text())
    )


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A rehearsal of everything there is, with a teacher."""
    folder = tmp_path_factory.mktemp("whole")
    run(train.main, *TINY, f"data={images}", f"out={folder / 'teacher'}", "epochs=1")
    settings = (f"data={images}", f"teacher={folder / 'teacher' / 'last.pth.tar'}", "epochs=12", "val_every=5")
    return rehearse(train.main, folder / "run", *TINY, *RICH, *settings, "--price", "3")


def test_a_run_that_can_start_is_told_how(whole):
    assert whole.status == 0 and whole.can_start and not whole.reasons
    assert whole.printed.endswith(f"\n{whole.command}\n")
    assert whole.command.startswith("python -m resmlp_vision.train 'model_args=") and "rehearse" not in whole.command


def test_everything_is_measured(whole):
    assert whole.parameters > 1000 and whole.batch == 4 and whole.fits and whole.peak_memory > 10**7
    assert whole.largest_batch >= 16 and not whole.larger_fails
    assert whole.speed > 0 and whole.loader_speed > 0
    phases = {"data", "forward", "teacher", "backward", "optimiser", "average", "other"}
    assert whole.milliseconds.keys() == phases
    assert all(whole.milliseconds[phase] > 0 for phase in phases - {"data", "other"})


def test_the_ramp_ends_at_the_highest_rate_and_is_finite(whole):
    assert whole.rate == pytest.approx(0.01) and whole.verdict == "finite"
    assert len(whole.losses) == len(whole.gradient_norms) == len(whole.activations) == whole.ramp >= 8
    assert min(whole.gradient_norms) > 0 and min(whole.activations) > 0


def test_killed_it_resumes_to_the_same_losses(whole):
    assert whole.resumes and whole.resumed == whole.losses[whole.ramp // 2 :]


def test_the_whole_run_is_projected(whole):
    assert whole.steps == 12 * (64 // 8)
    assert whole.hours.keys() == {"starting", "training", "validation", "saving"}
    assert whole.disk["checkpoints"] > 3 * 4 * whole.parameters and whole.disk_free > whole.disk["checkpoints"]
    assert f"{3 * sum(whole.hours.values()):,.2f} at 3 an hour" in whole.printed


def test_only_its_own_folder_is_written_and_replaced(whole, images, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(rehearsal.Parts, "time", lambda parts: 1 / 0)  # ends it soon
    for _ in range(2):
        assert rehearse(train.main, out, *TINY, f"data={images}").status == 1
        assert [path.name for path in tmp_path.iterdir()] == ["run.rehearsal"]
        assert not (tmp_path / "run.rehearsal" / "of-the-first").exists()
        (tmp_path / "run.rehearsal" / "of-the-first").touch()


def test_dino_is_rehearsed(images, tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal.Parts, "kill_and_resume", lambda parts: None)
    found = rehearse(dino.main, tmp_path / "run", *DINO, f"data={images}")
    assert found.status == 0 and "teacher" in found.milliseconds and found.hours["validation"] > 0


@pytest.mark.parametrize("main", [train.main, dino.main])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--price", "2"], "--rehearse-minutes and --price are for --rehearse"),
        (["--rehearse-minutes", "5"], "--rehearse-minutes and --price are for --rehearse"),
        (["--rehearse", "--price", "nan"], "--price: nan is not a finite number above 0"),
        (["--rehearse", "--rehearse-minutes", "0"], "--rehearse-minutes: 0 is not a finite number above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(main, options, said, capsys):
    with pytest.raises(SystemExit):
        run(main, *options)
    assert said in capsys.readouterr().err


def test_an_epoch_of_one_update_is_rehearsed(images, tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal.Parts, "shorten", lambda parts: parts.config)
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={images}", "batch_size=64")
    assert found.status == 0 and found.steps == 3 and found.resumes and "data" not in found.milliseconds


def test_too_large_a_batch_is_an_answer_and_the_rest_is_rehearsed(images, tmp_path, monkeypatch):
    """The memory is pretended to hold 10 images."""
    update = batch_trial.BatchTrial.update

    def short_of_memory(trial, size):
        return (None, 0.0) if size > 10 else update(trial, size)

    monkeypatch.setattr(batch_trial.BatchTrial, "update", short_of_memory)
    monkeypatch.setattr(rehearsal.Parts, "kill_and_resume", lambda parts: None)
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={images}", "batch_size=32")
    assert found.status == 1 and found.reasons[0].startswith("out of memory: a batch of 32 images does not fit")
    assert found.advice[0].startswith("accumulate=4 ") and found.larger_fails and found.largest_batch == 8
    assert found.speed > 0 and found.losses


def test_what_there_was_no_time_to_try_is_not_said_to_fail(images, tmp_path, monkeypatch):
    """A batch of 8 images fits, and the memory of 32 is foretold."""
    monkeypatch.setattr(batch_trial.BatchTrial, "search", lambda trial, batch, seconds: not trial.fits(8))
    monkeypatch.setattr(batch_trial.BatchTrial, "holds", lambda trial, batch: batch <= 8)
    monkeypatch.setattr(rehearsal.Parts, "time", lambda parts: 1 / 0)  # ends it soon
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={images}", "batch_size=32")
    assert found.fits is False and found.largest_batch == 8 and not found.larger_fails


def test_a_batch_that_cannot_fit_is_not_tried_on_a_cpu(images, tmp_path, monkeypatch):
    tried = []
    trial = batch_trial.BatchTrial(SimpleNamespace(device=torch.device("cpu"), mixup=None), None, memory=1000)
    monkeypatch.setattr(trial, "update", lambda size: tried.append(size) or (100 + 10 * size, 0.001))
    assert trial.search(512, 60)
    assert 70 <= trial.largest <= 90 and max(tried) <= 90


def test_a_disk_that_will_be_full_is_an_answer(images, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(-(10**9)))
    monkeypatch.setattr(rehearsal.Parts, "kill_and_resume", lambda parts: None)
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={images}")
    assert found.status == 1 and found.reasons[0].startswith("too little disk: the run needs ")
    assert "out=FOLDER on a larger disk" in found.advice


def test_no_space_for_the_rehearsal_itself_is_told(images, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={images}")
    assert found.status == 1 and "No space left on device" in found.reasons[0]


def test_a_rate_that_diverges_is_told_with_a_lower_one(images, tmp_path):
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={images}", "opt=sgd", "lr=1000", "warmup_epochs=0")
    assert found.status == 1 and found.verdict == "diverged" and "learning rate" in found.reasons[0]
    assert any(line.startswith("lr=500 ") for line in found.advice)


def test_a_loader_that_raises_is_told(images, tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("this image is broken")

    monkeypatch.setattr(Images, "copies", broken)
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={images}", "workers=1")
    assert found.status == 1 and "this image is broken" in found.reasons[0]


def test_a_checkpoint_that_cannot_be_resumed_is_told(images, tmp_path, monkeypatch):
    """The optimiser's state is lost, in what the killed run leaves."""

    def lose(short, out):
        rehearsed_run.train(short.settings(out), lambda *args: short.build(lambda trainer: None, *args))
        state = torch.load(out / "last.pth.tar", weights_only=False)
        state["optimizer"]["state"], state["epoch"] = {}, 0
        torch.save(state, out / "last.pth.tar")

    monkeypatch.setattr(rehearsed_run.ShortRun, "run_and_kill", lose)
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={images}")
    assert found.status == 1 and found.reasons[0].startswith("not resumable: after a kill the losses were ")


def test_data_out_of_reach_and_too_few_images_are_told(images, tmp_path):
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={tmp_path / 'none'}")
    assert found.status == 1 and "no folder" in found.reasons[0]
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={images}", "batch_size=512")
    assert found.status == 1 and "64 training images are fewer than batch_size=512" in found.reasons[0]


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
def test_a_data_set_of_the_hub_that_cannot_be_reached_is_told_in_a_line(tmp_path, monkeypatch, capfd, kind):
    for module in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    asking = mock.Mock(wraps=datasets.load.dataset_module_factory)
    monkeypatch.setattr(datasets.load, "dataset_module_factory", asking)
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={kind}/owner/name")
    asking.assert_called_once()  # where the network is slow or gone the hub is waited for with each call
    assert found.status == 1
    (reason,) = found.reasons
    assert reason.startswith(f"opening the data, building the model: data={kind}/owner/name, split 'train': ")
    assert "\n" not in reason and reason.endswith("; data=FOLDER takes images that are here")
    assert not capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run.rehearsal"]
    assert [path.name for path in (tmp_path / "run.rehearsal").iterdir()] == ["rehearsal.json"]


def test_of_large_tables_a_sample_is_read_and_the_whole_projected(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "LARGE", 0)
    monkeypatch.setattr(sample, "LEAST", 20)
    monkeypatch.setattr(rehearsal.Parts, "kill_and_resume", lambda parts: None)
    encoded = io.BytesIO()
    Image.new("RGB", (12, 12)).save(encoded, "PNG")
    cell = {"bytes": encoded.getvalue(), "path": None}
    splits = {split: [(cell, 0), (cell, 1)] * pairs for split, pairs in (("train", 200), ("validation", 150))}
    write_tables(tmp_path / "data", splits, ("cat", "dog"))
    found = rehearse(train.main, tmp_path / "run", *TINY, f"data={tmp_path / 'data'}", "batch_size=16")
    assert found.status == 0 and found.steps == 3 * 400 // 16 and found.disk["data"] > 0
    kept = [*(tmp_path / "run.rehearsal" / "tables" / "data").iterdir()]
    assert [datasets.Dataset.from_parquet(str(path)).num_rows for path in sorted(kept)] == [32, 32]


def test_a_slow_model_is_validated_on_few_images(tmp_path):
    """At the defaults' 256 images a batch, B24/8 at 224 pixels would take many minutes of a CPU."""
    settings, cpu = Config(out=str(tmp_path), batch_size=64), torch.device("cpu")
    parts = rehearsal.Parts(settings, SupervisedTrainer, cpu, tmp_path, Rehearsal("s12", "train", "images"), 60)
    for seconds, images in ((3.0, 32), (0.001, 256)):
        parts.image = seconds
        assert parts.shorten().val_batch_size == images


def test_what_validation_takes_is_told_from_its_first_batches(monkeypatch):
    """A loader of 10 batches of 40 images, where the first takes a second more than the others."""
    clock = iter([0.0, 3.0, 5.0, 7.0, 9.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    loader = FirstBatches([(None, [0] * 40)] * 10, seconds=6, batches=10)
    assert len(list(loader)) == 3
    assert loader.taken == 7 and loader.whole == 3 + 9 * 2
    assert math.isclose(loader.whole - loader.taken, 14)


def test_the_first_updates_do_not_count_as_typical(monkeypatch):
    """A loader of one process makes three batches ahead: forward takes 50 s then, and 2 s from the fourth on."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    seconds = iter([50.0, 50.0, 50.0, 2.0, 2.0, 2.0, 2.0])
    task = SimpleNamespace(
        forward=lambda: clock.__setitem__(0, clock[0] + next(seconds)), has_ema=lambda: False, no_sync=nullcontext
    )
    trainer = SimpleNamespace(
        task=task,
        watch=None,
        loader=SimpleNamespace(num_workers=1),
        optimizer=SimpleNamespace(step=lambda: None),
        backward=lambda: None,
        train_mode=lambda: None,
        updates=lambda epoch: ((task.forward(), trainer.backward()) for _ in range(9)),
    )
    assert time_phases(trainer, 7)["forward"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("by", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_nothing_goes_on_in_the_folder_of_a_rehearsal_that_was_killed(images, tmp_path, monkeypatch, by, status):
    """It is killed, or stopped by Ctrl-C, when the process that trains to be killed is still loading PyTorch."""
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a suite in the background would not hear it
    monkeypatch.setattr("subprocess.Popen", partial(warm_python.COLD, preexec_fn=listen))
    asked = (f"data={images}", f"out={tmp_path / 'run'}", "--rehearse", "--rehearse-minutes", "0.04")
    folder, process = tmp_path / "run.rehearsal", start(*TINY, *asked)
    wait(process, lambda: command_lines_with("train_until_killed", str(folder)))
    process.send_signal(by)
    _, errors = process.communicate()
    assert process.returncode == status and "Traceback" not in errors
    while command_lines_with(str(folder)):
        time.sleep(0.1)
    assert not (folder / "killed").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run.rehearsal"]


def command_lines_with(*words):
    """The command lines of processes that have all these words."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            lines.append(file.read_text(errors="replace"))
    return [line for line in lines if all(word in line for word in words)]


@pytest.mark.long
@pytest.mark.parametrize(("module", "settings"), [("train", (*TINY, "opt=lamb", "ema_decay=0.9")), ("dino", DINO)])
def test_two_processes_rehearse_together(images, tmp_path, module, settings):
    asked = (f"data={images}", f"out={tmp_path / 'run'}", "--rehearse", "--rehearse-minutes", "0.2")
    printed = finish(torchrun(f"resmlp_vision.{module}", *settings, *asked))
    found = json.loads((tmp_path / "run.rehearsal" / "rehearsal.json").read_text())
    assert found["can_start"] and found["resumes"] and found["milliseconds"]["communication"] >= 0
    assert len(found["devices"]) == 2 and found["batch"] == 4
    assert f"\ntorchrun --nproc-per-node 2 -m resmlp_vision.{module} " in printed
