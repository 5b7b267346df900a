"""The training command: what it learns, leaves and shows, its rates and its precision, and what ends it."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_core.inspect.report import inspect
from resmlp_vision.config import Config, read_config
from resmlp_vision.data.datasets import Images
from resmlp_vision.distributed import join_processes
from resmlp_vision.models.loading import load_trained
from resmlp_vision.train import main
from resmlp_vision.training.supervised import SupervisedTrainer

from .runs import TINY, fail, finish, lengthen, read_log, run, same, start, weights, write_images


def config(*overrides):
    return read_config(None, [*TINY, *map(str, overrides)], Config)


def test_it_learns_and_leaves_checkpoints_figures_and_pictures(images, tmp_path):
    printed = finish(start(*TINY, f"data={images}", f"out={tmp_path}", "epochs=8", "ema_decay=0.5"))
    assert {"last.pth.tar", "model_best.pth.tar", "config.yaml", "log.jsonl", "results.json", "tensorboard"} < {
        path.name for path in tmp_path.iterdir()
    }
    records = read_log(tmp_path)
    assert [record["epoch"] for record in records] == list(range(1, 9))
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert all(0 <= record["ema_top1"] <= 100 and record["images_per_second"] > 0 for record in records)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["top1"] == records[-1]["top1"] >= 90
    assert results["parameters"] == sum(w.numel() for w in weights(tmp_path).values())
    assert "epoch   8/8" in printed and "images/s" in printed
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("top1")] == pytest.approx([record["top1"] for record in records])
    with Image.open(tmp_path / "learning-curve.png") as picture:
        assert picture.width > 500
    # the checkpoint says itself what model it is, what its classes are called, and has the average
    model = load_trained(tmp_path / "last.pth.tar")
    assert model.classes == ["class0", "class1"]
    average = read_checkpoint(tmp_path / "last.pth.tar")["state_dict_ema"]
    assert same(dict(model.state_dict()), average) and not same(average, weights(tmp_path))


def test_a_terminal_shows_images_a_second_loss_rate_and_time_left(images, tmp_path, on_a_terminal):
    line = [sys.executable, "-m", "resmlp_vision.train", *TINY, f"data={images}", f"out={tmp_path}"]
    assert re.search(r"epoch 1/3: .*/24.0 .*<.*images/s, loss=\d.*, lr=\d", on_a_terminal(line))


def test_nothing_but_matrices_decays(images, tmp_path):
    model_args = "model_args={depth: 2, embed_dim: 16, patch_size: 4, global_pool: class_mlp, norm: layer_norm}"
    join_processes("cpu")
    settings = config(model_args, f"data={images}", f"out={tmp_path}", "weight_decay=0.2", "opt=lamb")
    trainer = SupervisedTrainer(settings, torch.device("cpu"))
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.task.get_trainable_module().named_parameters():
        matrix = name.endswith("weight") and parameter.dim() > 1
        assert decay[id(parameter)] == (0.2 if matrix else 0), name


def test_a_loader_that_keeps_the_training_waiting_is_told_once(images, tmp_path, monkeypatch):
    settings = (*TINY, f"data={images}", "workers=1", "batch_size=2")
    monkeypatch.setattr("resmlp_vision.training.loader_watch.LOOK_FOR", 0.2)
    with monkeypatch.context() as patch:
        slow = Images.copies
        patch.setattr(Images, "copies", lambda self, index, count: time.sleep(0.05) or slow(self, index, count))
        printed = run(main, *settings, f"out={tmp_path / 'slow'}")
    assert printed.count("of the time: the data loader with workers=1 limits the training") == 1
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args: time.sleep(0.1) or step(*args))
    assert "waiting for images" not in run(main, *settings, f"out={tmp_path / 'quick'}", "epochs=1")


def test_a_rate_that_is_too_high_is_told(images, tmp_path):
    """The highest that may be asked for ends the first epoch."""
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "opt=momentum", "lr=1000")
    message = fail(main, *settings, "epochs=2", "warmup_epochs=0", "batch_size=6")
    assert "of epoch 1" in message and message.endswith("; a lower lr or clip_grad=1 may help")
    assert "checkpoint" not in message and not list(tmp_path.glob("*.tar"))
    run(main, *settings, "lr=0.01", "epochs=1")


def test_a_gpu_that_is_full_is_told(images, tmp_path):
    with mock.patch.object(SupervisedTrainer, "updates", side_effect=torch.OutOfMemoryError):
        message = fail(main, *TINY, f"data={images}", f"out={tmp_path}")
    assert "accumulate=N" in message
    with mock.patch.object(SupervisedTrainer, "validate", side_effect=torch.OutOfMemoryError):
        assert "val_batch_size" in fail(main, *TINY, f"data={images}", f"out={tmp_path}")


def test_a_process_of_the_loader_that_is_killed_is_told(images, tmp_path, monkeypatch):
    """As a system kills it whose memory is full."""
    monkeypatch.setattr(Images, "copies", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    message = fail(main, *TINY, f"data={images}", f"out={tmp_path}", "workers=1")
    assert message.startswith("train: DataLoader worker (pid") and message.endswith("give fewer workers")


def test_weights_that_are_not_finite_are_not_saved(images, tmp_path):
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "epochs=2", "batch_size=24")  # one update an epoch
    run(main, *settings)
    before = (tmp_path / "last.pth.tar").read_bytes()
    lengthen(tmp_path)
    with mock.patch.object(torch.optim.AdamW, "step", break_weights):
        message = fail(main, *settings, "epochs=3")
    assert "the weights are not finite after epoch 3; the previous epoch's checkpoint is intact" in message
    assert message.endswith(", in another out")
    assert (tmp_path / "last.pth.tar").read_bytes() == before


def break_weights(optimizer, closure=None):
    with torch.no_grad():
        optimizer.param_groups[0]["params"][0].fill_(float("nan"))


def test_a_clipped_gradient_moves_the_weights_by_its_norm(images, tmp_path):
    plain = ("opt=momentum", "lr=1", "warmup_epochs=0", "weight_decay=0", "clip_grad=0.01")
    trainer = SupervisedTrainer(config(f"data={images}", f"out={tmp_path}", *plain), join_processes("cpu"))
    parameters = list(trainer.task.trainable_module.parameters())
    before = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
    next(trainer.updates(0))
    moved = torch.nn.utils.parameters_to_vector(parameters).detach() - before
    assert moved.norm().item() == pytest.approx(0.01, rel=0.01)


def test_earlier_layers_can_have_lower_rates(images, tmp_path):
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "sched=constant", "warmup_epochs=0", "epochs=1")
    run(main, *settings, "opt_args={layer_decay: 0.5}")
    assert read_log(tmp_path)[0]["lr"] == 0.01
    trained = read_checkpoint(tmp_path / "last.pth.tar")["optimizer"]
    assert sorted({group["lr"] for group in trained["param_groups"]}) == pytest.approx([0.00125, 0.0025, 0.005, 0.01])


def test_lookaheads_slow_weights_are_what_an_epoch_ends_with(images, tmp_path):
    """It takes them over every sixth update, and an epoch has three."""
    run(main, *TINY, f"data={images}", f"out={tmp_path}", "opt=lookahead_adamw")
    state = read_checkpoint(tmp_path / "last.pth.tar")
    slow = [kept["lookahead_slow_buff"] for _, kept in sorted(state["optimizer"]["state"].items())]
    saved = state["state_dict"].values()
    assert len(slow) == len(saved) and all(any(torch.equal(one, weight) for weight in saved) for one in slow)


def test_a_rate_that_will_rise_is_told(images, tmp_path):
    """The least rate of the defaults is above that of much fine-tuning."""
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "lr=5e-6", "warmup_lr=1e-6")
    assert "the learning rate will rise, from lr=5e-06 to min_lr=1e-05" in run(main, *settings)
    rates = [line["lr"] for line in read_log(tmp_path)]
    assert rates == sorted(rates) and rates[0] < 5e-6 < rates[-1] <= 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_trains(images, tmp_path, dtype):
    run(main, *TINY, f"data={images}", f"out={tmp_path}", f"dtype={dtype}", "epochs=6")
    assert weights(tmp_path)["head.weight"].dtype == torch.float32
    assert json.loads((tmp_path / "results.json").read_text())["top1"] >= 80


def test_a_format_that_the_processor_emulates_is_told_before_it_trains(images, tmp_path, monkeypatch):
    monkeypatch.setattr("resmlp_vision.training.run.emulates", lambda dtype: dtype == "bfloat16")
    for dtype, told in (("bfloat16", True), ("float32", False)):
        printed = run(main, *TINY, f"data={images}", f"out={tmp_path / dtype}", f"dtype={dtype}", "epochs=1")
        assert ("dtype=float32 is several times faster" in printed.splitlines()[0]) == told


def test_other_models_of_timm_train_by_the_same_command(images, tmp_path):
    small = "model_args={embed_dim: 16, depth: 1, num_heads: 2, patch_size: 4}"
    run(main, *TINY, f"data={images}", f"out={tmp_path}", "model=vit_tiny_patch16_224", small)
    assert load_trained(tmp_path / "last.pth.tar").num_classes == 2


def test_an_epoch_follows_from_its_number_and_the_weights(images, tmp_path):
    """Whatever was drawn before it, which is what a resumed run does not know."""
    frozen = ("lr=0", "warmup_lr=0", "min_lr=0", "weight_decay=0", "mixup=1", "reprob=0.5")
    losses = []
    for drawn in (0, 2):
        torch.manual_seed(0)
        trainer = SupervisedTrainer(config(f"data={images}", f"out={tmp_path}", *frozen), join_processes("cpu"))
        torch.nn.init.normal_(trainer.task.trainable_module.head.weight)
        for epoch in range(drawn):
            trainer.train_epoch(epoch)
        losses.append([trainer.train_epoch(epoch)["train_loss"] for epoch in (5, 6)])
    assert losses[0] == losses[1] and losses[0][0] != losses[0][1]


def test_folders_and_classes_whose_names_are_no_utf8_go_through_a_run_and_all_that_is_made_of_it(tmp_path):
    """As an old archive unpacks them; the terminal's encoding lacks them too."""
    cafe = os.fsdecode(b"caf\xe9")
    folder = write_images(tmp_path / f"{cafe}-images")
    for split in ("train", "val"):
        (folder / split / "class1").rename(folder / split / cafe)
        (folder / split / cafe / f"{cafe}.png").write_text("no image")
    out = tmp_path / "out"
    settings = (*TINY, f"data={folder}", "epochs=1")
    assert "which TensorBoard cannot write to" in fail(main, *settings, f"out={tmp_path / cafe}")
    logging.disable()  # pytest-xdist cannot send such names, which pytest would capture
    for _ in range(2):  # anew, and to the same end again
        run(main, *settings, f"out={out}")
    logging.disable(logging.NOTSET)
    assert read_log(out)[0]["unreadable"] == 1 and any((out / "tensorboard").iterdir())
    line = [sys.executable, "-m", "resmlp_vision.evaluate", "--device", "cpu", "--workers", "0", "--data", folder]
    checkpoint = shutil.copy(out / "last.pth.tar", tmp_path / f"{cafe}.pth.tar")
    line += ["--checkpoint", checkpoint, "--out", tmp_path / "figures.json"]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 0 and "caf?-images" in done.stdout, done.stderr
    assert "skipping caf?/caf?.png: " in done.stderr
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["data"] == str(folder)
    inspect(checkpoint, tmp_path / "inside")
    assert "caf\\udce9.pth.tar" in (tmp_path / "inside" / "inside.json").read_text(encoding="utf-8")
