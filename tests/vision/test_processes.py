"""Processes that train as one does: killed, they resume; unlike, they are refused."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_core.common.errors import UserError
from resmlp_vision import evaluate
from resmlp_vision.distributed import join_processes, leave_processes, use_precision
from resmlp_vision.train import main

from .runs import DINO, PLAIN, TINY, finish, read_figures, read_log, run, start_two, torchrun, wait, weights

RECIPES = Path(__file__).parents[2] / "recipes"
OPTIMISERS = sorted(  # of the recipes
    {name for path in RECIPES.rglob("*.yaml") for name in re.findall(r"(?m)^opt: (\w+)", path.read_text())}
)
TRAININGS = {
    **{opt: ("train", *TINY, "epochs=8", "drop_path=0.2", "ema_decay=0.9", f"opt={opt}") for opt in OPTIMISERS},
    "dino": ("dino", *DINO),
}


def equal(first, second):
    """Whether two states are the same to the bit, whatever they hold."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("lamb", "dino") else pytest.mark.long) for name in TRAININGS]
)
def test_two_processes_that_are_killed_resume_to_what_an_unbroken_run_ends_with(images, tmp_path, name):
    module, *settings = TRAININGS[name]
    command = (f"resmlp_vision.{module}", *settings, f"data={images}")
    finish(torchrun(*command, f"out={tmp_path / 'whole'}"))
    out = tmp_path / "killed"
    killed = torchrun(*command, f"out={out}")
    wait(killed, (out / "last.pth.tar").exists)
    for pid in Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    killed.communicate(timeout=300)
    assert killed.returncode != 0 and len(read_log(out)) < len(read_log(tmp_path / "whole"))
    assert "going on after epoch" in finish(torchrun(*command, f"out={out}"))
    last, whole = (read_checkpoint(folder / "last.pth.tar") for folder in (out, tmp_path / "whole"))
    for key in ("state_dict", "state_dict_ema", "optimizer", "task_state", "task_state_ema"):
        assert equal(last.get(key), whole.get(key)), key
    assert read_figures(out) == read_figures(tmp_path / "whole")


def test_a_batch_in_parts_and_on_two_processes_trains_like_a_batch_in_one(images, tmp_path):
    settings = (*TINY, *PLAIN, f"data={images}", "batch_size=8", "opt=sgd", "lr=0.05", "smoothing=0")
    run(main, *settings, f"out={tmp_path / 'one'}")
    run(main, *settings, f"out={tmp_path / 'parts'}", "accumulate=2")
    finish(torchrun("resmlp_vision.train", *settings, f"out={tmp_path / 'two'}"))
    one = read_log(tmp_path / "one")
    for name in ("parts", "two"):
        other = read_log(tmp_path / name)
        for key in ("train_loss", "val_loss", "top1"):
            assert [record[key] for record in other] == pytest.approx([record[key] for record in one], rel=1e-4)
        for key, value in weights(tmp_path / "one").items():
            torch.testing.assert_close(weights(tmp_path / name)[key], value, rtol=1e-3, atol=1e-5)


def test_two_processes_measure_the_average_that_they_save(images, tmp_path):
    """Each sees other images, and so has other statistics in the model's batch normalisation."""
    model = ("model=resnet10t", "img_size=32", "ema_decay=0.9")
    finish(torchrun("resmlp_vision.train", *TINY[1:], f"data={images}", f"out={tmp_path}", *model, "epochs=1"))
    logged = json.loads((tmp_path / "log.jsonl").read_text())
    checkpoint = ("--checkpoint", tmp_path / "last.pth.tar", "--data", images, "--split", "val")
    run(evaluate.main, *checkpoint, "--device", "cpu", "--out", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert logged["ema_val_loss"] == pytest.approx(found["loss"], rel=1e-5)


def ended(group):
    """Wait for a group to fail, within seconds of one another; return the last line of each."""
    errors = [process.communicate(timeout=120)[1] for process in group]
    assert all(process.returncode for process in group)
    return [error.strip().splitlines()[-1] for error in errors]


def test_processes_with_unequal_settings_are_refused(images, tmp_path):
    line = (*TINY, f"data={images}", f"out={tmp_path}")
    for message in ended(start_two("resmlp_vision.train", line, (*line, "lr=0.02"))):
        assert message == "train: lr is 0.01 in process 0 and 0.02 in process 1; give all the same"
    assert not list(tmp_path.iterdir())


def test_processes_that_measure_otherwise_are_refused_by_the_options_name(images, tmp_path):
    line = ("--checkpoint", tmp_path / "weights.pth", "--data", images, "--device", "cpu")
    for message in ended(start_two("resmlp_vision.evaluate", line, (*line, "--batch-size", 5))):
        assert message == "evaluate: --batch-size is 256 in process 0 and 5 in process 1; give all the same"


def test_processes_with_unequal_data_are_refused(images, tmp_path):
    """As many images of as many classes, but one of them is another."""
    other = shutil.copytree(images, tmp_path / "other")
    first, second = sorted((other / "train").rglob("*.png"))[:2]
    shutil.copy(first, second)
    lines = [(*TINY, f"data={data}", f"out={tmp_path / 'out'}") for data in (images, other)]
    for message in ended(start_two("resmlp_vision.train", *lines)):
        assert message.startswith("train: the digest of the training images is ") and "in process 1" in message
    assert not (tmp_path / "out" / "last.pth.tar").exists()


def test_a_checkpoint_that_one_process_cannot_read_ends_both(images, tmp_path):
    """Each in a folder of its own, as on machines whose disks differ."""
    folders = [tmp_path / name for name in ("first", "second")]
    line = (*TINY, "epochs=1", f"data={images}", "out=out")
    for folder in folders:
        folder.mkdir()
    run(main, *line[:-1], f"out={folders[0] / 'out'}")
    shutil.copytree(folders[0] / "out", folders[1] / "out")
    last = folders[1] / "out" / "last.pth.tar"
    last.write_bytes(last.read_bytes()[:1000])
    group = start_two("resmlp_vision.train", line, line, cwd=folders)
    start = time.monotonic()
    messages = ended(group)
    assert "last.pth.tar" in messages[1] and messages[1].startswith("train: ")
    assert time.monotonic() - start < 60


def test_more_processes_than_images_of_a_batch_are_told_in_one_line(images, tmp_path):
    line = (*TINY, f"data={images}", f"out={tmp_path}", "batch_size=1")
    for message in ended(start_two("resmlp_vision.train", line, line)):
        assert message == "train: batch_size=1 cannot be divided by 2 (processes x accumulate)"


def test_two_processes_validate_on_one_image(images, tmp_path):
    data = shutil.copytree(images, tmp_path / "data")
    for image in sorted((data / "val").rglob("*.png"))[1:]:
        image.unlink()
    shutil.rmtree(data / "val" / "class1")
    line = (*TINY, "epochs=1", f"data={data}", f"out={tmp_path / 'out'}")
    for process in start_two("resmlp_vision.train", line, line):
        finish(process)
    assert read_log(tmp_path / "out")[0]["top1"] in (0, 100)


def test_the_precision_of_products_is_that_of_convolutions():
    before = torch.get_float32_matmul_precision()
    try:
        for precision, rounded in (("high", True), ("highest", False)):
            use_precision(precision)
            assert torch.get_float32_matmul_precision() == precision
            assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == rounded
    finally:
        use_precision(before)


def test_after_an_error_a_process_does_not_wait_for_the_others():
    """Under NCCL leaving waits for them, who wait for this one; torchrun stops them once it has ended."""
    join_processes("cpu")
    with mock.patch("torch.distributed.get_world_size", return_value=2), pytest.raises(UserError):
        try:
            raise UserError("is the disk full?")
        finally:
            leave_processes()
    assert dist.is_initialized()
    leave_processes()
    assert not dist.is_initialized()
