"""The training command: what it leaves, that it resumes exactly, its distillation, its parts over processes."""

import dataclasses
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.data.auto_augment import AugmentOp, RandAugment

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_core.inspect.report import inspect
from resmlp_vision import create_model, evaluate
from resmlp_vision.config import Config, read_config
from resmlp_vision.data.datasets import Images
from resmlp_vision.data.opening import open_dataset
from resmlp_vision.distributed import join_processes
from resmlp_vision.models.loading import load_trained
from resmlp_vision.train import main
from resmlp_vision.training.supervised import SupervisedTrainer
from resmlp_vision.training.tasks import HardDistillationTask

from .runs import PLAIN, TINY, fail, finish, read_log, run, start, write_images

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def config(*overrides):
    return read_config(None, [*TINY, *map(str, overrides)], Config)


def weights(out):
    return read_checkpoint(out / "last.pth.tar")["state_dict"]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


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


def test_killed_in_an_epoch_it_ends_with_the_weights_of_an_unbroken_run(images, tmp_path):
    settings = (
        f"data={images}",
        "epochs=6",
        "auto_augment=rand-m9-mstd0.5-inc1",
        "mixup=0.8",
        "cutmix=1",
        "reprob=0.5",
    )
    settings = (*TINY, *settings, "repeated_aug=3", "ema_decay=0.9", "workers=1", "drop_path=0.2")
    settings = (*settings, "opt=lamb", "accumulate=2", "dtype=float16")
    run(main, *settings, f"out={tmp_path / 'whole'}")
    out = tmp_path / "killed"
    process = start(*settings, f"out={out}")
    while not (out / "log.jsonl").exists() or len((out / "log.jsonl").read_text().splitlines()) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "going on after epoch" in run(main, *settings, f"out={out}")
    assert same(weights(out), weights(tmp_path / "whole"))
    last, whole = (read_checkpoint(folder / "last.pth.tar") for folder in (out, tmp_path / "whole"))
    assert same(last["state_dict_ema"], whole["state_dict_ema"])
    best = [read_checkpoint(path / "model_best.pth.tar")["state_dict_ema"] for path in (out, tmp_path / "whole")]
    assert same(*best)
    logs = [
        [{**record, "seconds": 0, "images_per_second": 0} for record in read_log(path)]
        for path in (out, tmp_path / "whole")
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("kill", [0, 1])
def test_stopped_before_the_best_checkpoint_had_its_names_it_gets_them(images, tmp_path, monkeypatch, kill):
    settings = (*TINY, f"data={images}", "epochs=1")
    run(main, *settings, f"out={tmp_path / 'whole'}")
    replace, named = os.replace, []

    def stop(source, name):
        if Path(name).name in ("model_best.pth.tar", "checkpoint-0.pth.tar"):
            named.append(name)
            if len(named) > kill:
                raise KeyboardInterrupt
        replace(source, name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(SystemExit):
            run(main, *settings, f"out={tmp_path / 'stopped'}")
    run(main, *settings, f"out={tmp_path / 'stopped'}")
    for name in ("model_best.pth.tar", "checkpoint-0.pth.tar"):
        states = [read_checkpoint(tmp_path / folder / name)["state_dict"] for folder in ("stopped", "whole")]
        assert same(*states)
    results = [json.loads((tmp_path / folder / "results.json").read_text()) for folder in ("stopped", "whole")]
    assert results[0]["best_epoch"] == results[1]["best_epoch"]


def test_stopped_while_a_better_checkpoint_is_named_only_the_best_stays(images, tmp_path, monkeypatch):
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "epochs=3")
    monkeypatch.setattr("resmlp_vision.training.run.score", lambda record: {1: 50.0, 2: 60.0, 3: 55.0}[record["epoch"]])
    replace = os.replace

    def stop(source, name):
        if Path(name).name == "checkpoint-1.pth.tar":
            raise KeyboardInterrupt
        replace(source, name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(SystemExit):
            run(main, *settings)
    run(main, *settings)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1.pth.tar"]


def test_run_again_it_trains_nothing_and_other_settings_are_refused(images, tmp_path):
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "epochs=1")  # the last epoch is the best
    run(main, *settings)
    names = {path.name for path in tmp_path.iterdir()}
    before = (tmp_path / "last.pth.tar").stat().st_mtime_ns
    run(main, *settings, "workers=1")
    assert (tmp_path / "last.pth.tar").stat().st_mtime_ns == before
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "lr=0.01, not 0.02" in fail(main, *settings, "lr=0.02")


def test_other_data_in_the_same_folder_are_refused(images, tmp_path):
    settings = (*TINY, f"out={tmp_path / 'out'}")
    run(main, *settings, f"data={images}")
    shutil.copytree(images, tmp_path / "data")
    image = next((tmp_path / "data" / "train").rglob("*.png"))
    kept = image.read_bytes()
    image.unlink()
    before = (tmp_path / "out" / "results.json").read_bytes()
    assert "started on data with 24 images, not 23" in fail(main, *settings, f"data={tmp_path / 'data'}")
    image.write_bytes(kept)
    for split in ("train", "val"):
        (tmp_path / "data" / split / "class0").rename(tmp_path / "data" / split / "other")
    assert "with classes of other names" in fail(main, *settings, f"data={tmp_path / 'data'}")
    shutil.rmtree(tmp_path / "data" / "train" / "other")
    shutil.rmtree(tmp_path / "data" / "val" / "other")
    assert "with 2 classes, not 1" in fail(main, *settings, f"data={tmp_path / 'data'}")
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_it_goes_on_where_the_data_have_moved_and_its_first_weights_are_gone(images, tmp_path):
    run(main, *TINY, f"data={images}", f"out={tmp_path / 'before'}", "epochs=1")
    first = tmp_path / "before" / "last.pth.tar"
    settings = (*TINY, f"out={tmp_path / 'after'}", f"checkpoint={first}")
    run(main, *settings, f"data={images}")
    first.unlink()
    shutil.copytree(images, tmp_path / "moved")
    kept = tmp_path / "after" / "config.yaml"  # lets the run go on for an epoch more
    kept.write_text(kept.read_text().replace("\nepochs: 3", "\nepochs: 4"))
    settings = (*settings, f"data={tmp_path / 'moved'}", "image_key=img", "epochs=4")
    assert "going on after epoch 3" in run(main, *settings)
    shutil.copy(tmp_path / "after" / "last.pth.tar", first)
    assert "the file of checkpoint=... has changed since" in fail(main, *settings)


def test_a_batch_in_parts_and_on_two_processes_trains_like_a_batch_in_one(images, tmp_path):
    settings = (*TINY, *PLAIN, f"data={images}", "batch_size=8", "opt=sgd", "lr=0.05", "smoothing=0")
    run(main, *settings, f"out={tmp_path / 'one'}")
    run(main, *settings, f"out={tmp_path / 'parts'}", "accumulate=2")
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    two = [*line, "-m", "resmlp_vision.train", *settings, f"out={tmp_path / 'two'}"]
    subprocess.run(two, check=True, capture_output=True, timeout=300)
    one = read_log(tmp_path / "one")
    for name in ("parts", "two"):
        other = read_log(tmp_path / name)
        for key in ("train_loss", "val_loss", "top1"):
            assert [record[key] for record in other] == pytest.approx([record[key] for record in one], rel=1e-4)
        for key, value in weights(tmp_path / "one").items():
            torch.testing.assert_close(weights(tmp_path / name)[key], value, rtol=1e-3, atol=1e-5)


def test_two_processes_measure_the_average_that_they_save(images, tmp_path):
    """Each sees other images, and so has other statistics in the model's batch normalisation."""
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    model = ("model=resnet10t", "img_size=32", "ema_decay=0.9")
    two = [*line, "-m", "resmlp_vision.train", *TINY[1:], f"data={images}", f"out={tmp_path}", *model, "epochs=1"]
    subprocess.run(two, check=True, capture_output=True, timeout=300)
    logged = json.loads((tmp_path / "log.jsonl").read_text())
    checkpoint = ("--checkpoint", tmp_path / "last.pth.tar", "--data", images, "--split", "val")
    run(evaluate.main, *checkpoint, "--device", "cpu", "--out", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert logged["ema_val_loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_the_papers_augmentation_takes_every_strength_that_it_draws():
    """Pillow refuses to posterise to 0 bits, which rand-m9-mstd0.5-inc1 draws for one image in a thousand."""
    operation = AugmentOp("PosterizeIncreasing", prob=1, magnitude=10)
    image = Image.effect_noise((8, 8), 50).convert("RGB")
    assert operation(image).getextrema() == ((0, 0),) * 3
    kept = AugmentOp("PosterizeIncreasing", prob=1, magnitude=5)(image)  # 4 - 2 bits
    assert {value % 64 for value in kept.tobytes()} == {0} and kept != image


def test_images_are_augmented_as_the_settings_say(images, tmp_path):
    asked = ("auto_augment=rand-m7-n3", "reprob=0.3", "mixup=0.7", "cutmix=0.4", "smoothing=0.2", "repeated_aug=2")
    trainer = SupervisedTrainer(config(f"data={images}", f"out={tmp_path}", *asked), join_processes("cpu"))
    (policy,) = (step for step in trainer.loader.dataset.transform.transforms if isinstance(step, RandAugment))
    assert policy.num_layers == 3 and {operation.magnitude for operation in policy.ops} == {7}
    assert trainer.loader.random_erasing.probability == 0.3
    mixup = trainer.mixup
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.label_smoothing) == (0.7, 0.4, 0.2)
    assert trainer.loader.sampler.num_repeats == 2


def test_a_terminal_shows_images_a_second_loss_rate_and_time_left(images, tmp_path, on_a_terminal):
    line = [sys.executable, "-m", "resmlp_vision.train", *TINY, f"data={images}", f"out={tmp_path}"]
    assert re.search(r"epoch 1/3: .*/24.0 .*<.*images/s, loss=\d.*, lr=\d", on_a_terminal(line))


def test_an_augmentation_that_fails_is_not_taken_for_a_broken_image(images, tmp_path):
    dataset = open_dataset(config(f"data={images}", f"out={tmp_path}"), "train", training=True)

    def fail(image):
        raise ValueError("bits must be in the range 1 to 8")

    dataset.transform = fail
    with pytest.raises(ValueError, match="bits must be"):
        dataset[0]


def test_nothing_but_matrices_decays(images, tmp_path):
    model_args = "model_args={depth: 2, embed_dim: 16, patch_size: 4, global_pool: class_mlp, norm: layer_norm}"
    join_processes("cpu")
    settings = config(model_args, f"data={images}", f"out={tmp_path}", "weight_decay=0.2", "opt=lamb")
    trainer = SupervisedTrainer(settings, torch.device("cpu"))
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.task.get_trainable_module().named_parameters():
        matrix = name.endswith("weight") and parameter.dim() > 1
        assert decay[id(parameter)] == (0.2 if matrix else 0), name


def test_the_recipe_of_imagenet_is_the_papers():
    recipe = read_config(RECIPES / "imagenet" / "resmlp_s12.yaml", ["out=x"], Config)
    assert dataclasses.asdict(recipe).items() >= {
        **{"epochs": 400, "batch_size": 2048, "opt": "lamb", "lr": 5e-3, "weight_decay": 0.2, "sched": "cosine"},
        **{"warmup_epochs": 5, "smoothing": 0.1, "repeated_aug": 3, "auto_augment": "rand-m9-mstd0.5-inc1"},
        **{"reprob": 0.25, "mixup": 0.8, "cutmix": 1.0, "drop_path": 0.05, "dtype": "float32", "crop_pct": 0.9},
    }.items()  # fmt: skip
    assert recipe == read_config(None, ["data=hfds/ILSVRC/imagenet-1k", "out=x"], Config), "the defaults are the recipe"


def write_imagenet(folder: Path) -> Path:
    """Write 16 + 4 images in the schema of the hub's imagenet-1k."""
    folder.mkdir()
    for split, count in (("train", 16), ("validation", 4)):
        rows = []
        for i in range(count):
            file = io.BytesIO()
            Image.effect_noise((90 + i, 120), 60 + i).convert("RGB").save(file, "JPEG")
            rows.append({"image": {"bytes": file.getvalue(), "path": f"{i}.JPEG"}, "label": 37 * i % 1000})
        features = {
            "image": {"_type": "Image"},
            "label": {"names": [f"n{j}" for j in range(1000)], "_type": "ClassLabel"},
        }
        table = pa.Table.from_pylist(rows)
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_the_recipe_of_imagenet_takes_its_first_steps_as_written(tmp_path, kind):
    if kind == "parquet":
        data = write_imagenet(tmp_path / "imagenet")
    else:
        data = write_images(tmp_path / "imagenet", classes=4, images=4)
    short = ("batch_size=8", "epochs=1", "warmup_epochs=0", "workers=1", "device=cpu")
    short = (f"data={data}", f"out={tmp_path / 'out'}", *short)
    printed = run(main, "--config", RECIPES / "imagenet" / "resmlp_s12.yaml", *short)
    classes = 1000 if kind == "parquet" else 4
    assert f"{classes} classes; 2 updates an epoch" in printed
    record = json.loads((tmp_path / "out" / "log.jsonl").read_text())
    assert abs(record["val_loss"] - torch.log(torch.tensor(classes))) < 1


@pytest.mark.parametrize(
    "path",
    [path for folder in ("imagenet", "cifar10", "digits") for path in sorted((RECIPES / folder).glob("*.yaml"))],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_every_recipe_takes_a_step(tmp_path, path):
    """ImageNet's on a model of two layers; so those that need a download, which cannot be had here."""
    images = write_images(tmp_path / "images", splits=("train", "val", "test"))
    config = read_config(path, ["data=x", "out=x", "checkpoint=null"], Config)
    assert config.teacher is None or config.teacher.endswith(".pth.tar") or config.teacher in timm.list_pretrained()
    assert (config.teacher is not None) == (path.stem == "distillation")
    small: tuple[str, ...] = ("checkpoint=null",)
    if path.parent.name == "imagenet" or config.pretrained:
        small += ("model=resmlp_s12", "pretrained=false", "model_args={depth: 2, embed_dim: 16}")
    if path.stem == "distillation":
        sizes = ("img_size=224", "model_args={depth: 1, embed_dim: 8, patch_size: 16}", "epochs=1")
        run(main, *TINY, *sizes, f"data={images}", f"out={tmp_path / 'teacher'}")
    if config.teacher:
        small += (f"teacher={tmp_path / 'teacher' / 'last.pth.tar' if path.stem == 'distillation' else 'null'}",)
    short = ("batch_size=24", "epochs=1", "warmup_epochs=0", "workers=0", "device=cpu")
    run(main, "--config", path, f"data={images}", f"out={tmp_path / 'out'}", *small, *short)
    assert json.loads((tmp_path / "out" / "log.jsonl").read_text())["train_loss"] > 0


def test_a_model_of_timms_goes_on_from_a_checkpoints_url_with_other_classes(images, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where what is downloaded lies
    sizes = [setting for setting in TINY if not setting.startswith("model_args")]
    line = (*sizes, "model=resnet10t", "drop_path=0", "epochs=1")
    run(main, *line, f"data={images}", f"out={tmp_path / 'two'}")
    three = write_images(tmp_path / "three", classes=3)
    checkpoint = tmp_path / "two" / "last.pth.tar"
    run(main, *line, f"data={three}", f"out={tmp_path / 'three'}", f"checkpoint={checkpoint.as_uri()}", "lr=0",
        "min_lr=0", "warmup_lr=0", "weight_decay=0")  # fmt: skip
    before, after = (read_checkpoint(path)["state_dict"] for path in (checkpoint, tmp_path / "three" / "last.pth.tar"))
    assert "the classifier is re-initialised" in caplog.text and after["fc.weight"].shape == (3, 512)
    assert torch.equal(before["conv1.0.weight"], after["conv1.0.weight"])


def test_distillation_halves_the_loss_between_the_label_and_the_teachers_decision():
    torch.manual_seed(0)
    sizes = {"depth": 1, "embed_dim": 8, "patch_size": 4, "img_size": 8, "num_classes": 3}
    student, teacher = (create_model("resmlp_s12", **sizes).eval() for _ in range(2))
    for model in (student, teacher):
        torch.nn.init.normal_(model.head.weight)
    images, labels = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    task = HardDistillationTask(student, teacher, torch.nn.CrossEntropyLoss(), task_loss_weight=0.5, verbose=False)
    logits = student(images).log_softmax(-1)
    expected = sum(-(logits[i, labels[i]] + logits[i, teacher(images)[i].argmax()]) / 2 for i in range(5)) / 5
    torch.testing.assert_close(task(images, labels)["loss"], expected)
    assert not F.cross_entropy(student(images), labels).isclose(expected)


@pytest.mark.parametrize("std", [(0.229, 0.224, 0.225), (0.5, 0.5, 0.5)])
def test_a_teacher_sees_images_by_its_own_mean_and_deviation(std, monkeypatch):
    sizes = {"depth": 1, "embed_dim": 8, "patch_size": 4, "img_size": 8, "num_classes": 3}
    student, teacher = (create_model("resmlp_s12", **sizes) for _ in range(2))
    teacher.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": std}
    task = HardDistillationTask(student, teacher, torch.nn.CrossEntropyLoss(), task_loss_weight=0.5, verbose=False)
    images, labels, seen = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1]), []
    teacher.register_forward_pre_hook(lambda model, inputs: seen.append(inputs[0]))
    expected = task.teacher.normalize_input(images, task.student_mean, task.student_std)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "equal", None)  # for what it tells, a GPU would be waited for
        task(images, labels)
    torch.testing.assert_close(seen[0], expected)
    assert (seen[0] is images) == (std[0] == 0.229)


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


def test_the_loader_has_as_many_processes_as_the_cores_that_the_training_can_have(images, tmp_path, monkeypatch):
    monkeypatch.setattr("resmlp_vision.data.loaders.available_cores", lambda: 3)
    for workers, processes in (("null", 3), (1, 1), (0, 0)):
        settings = config(f"data={images}", f"out={tmp_path}", f"workers={workers}")
        trainer = SupervisedTrainer(settings, join_processes("cpu"))
        assert trainer.loader.loader.num_workers == trainer.val_loader.loader.num_workers == processes


def test_a_student_follows_a_checkpoint_that_is_wrong(images, tmp_path):
    """The teacher learned the classes the other way round, and the labels are smoothed away."""
    swapped = tmp_path / "swapped"
    for split in ("train", "val"):
        for label in (0, 1):
            shutil.copytree(images / split / f"class{label}", swapped / split / f"class{1 - label}")
    longer = (*TINY, "epochs=10", "smoothing=0.5")
    run(main, *longer, f"data={swapped}", f"out={tmp_path / 'teacher'}")
    teacher = f"teacher={tmp_path / 'teacher' / 'last.pth.tar'}"
    run(main, *longer, f"data={images}", f"out={tmp_path / 'student'}", teacher, "smoothing=0.9")
    assert json.loads((tmp_path / "student" / "results.json").read_text())["top1"] <= 10
    three = write_images(tmp_path / "three", classes=3)
    settings = (*TINY, f"out={tmp_path / 'x'}", teacher)
    assert "has 2 classes but the model has 3" in fail(main, *settings, f"data={three}")
    assert "cannot take images of img_size=16" in fail(main, *settings, f"data={images}", "img_size=16")
    for split in ("train", "val"):
        (three / split / "class2").rename(three / split / "a")
        shutil.rmtree(three / split / "class0")
    assert "classes of other names" in fail(main, *settings, f"data={three}")


@pytest.mark.parametrize("pool", ["avg", "class_mlp"])
def test_fine_tuning_at_another_size_with_other_classes(images, tmp_path, caplog, pool):
    settings = (*TINY, f"model_args={{depth: 2, embed_dim: 16, patch_size: 4, global_pool: {pool}}}")
    run(main, *settings, f"data={images}", f"out={tmp_path / 'before'}")
    more = write_images(tmp_path / "three", classes=3)
    start_from = f"checkpoint={tmp_path / 'before' / 'last.pth.tar'}"
    frozen = ("img_size=16", "lr=0", "min_lr=0", "warmup_lr=0", "weight_decay=0")
    run(main, *settings, f"data={more}", f"out={tmp_path / 'after'}", start_from, *frozen)
    assert "the checkpoint has 2 classes, the model 3" in caplog.text
    before, after = (weights(tmp_path / name) for name in ("before", "after"))
    assert torch.equal(before["stem.proj.weight"], after["stem.proj.weight"])
    assert after["layers.0.cross_position.mixer.weight"].shape == (16, 16)
    assert after["head.weight"].shape == (3, 16)


def test_a_rate_that_is_too_high_is_told(images, tmp_path):
    """The highest that may be asked for ends the first epoch."""
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "opt=momentum", "lr=1000")
    message = fail(main, *settings, "epochs=2", "warmup_epochs=0", "batch_size=6")
    assert "of epoch 1" in message and "a lower lr or clip_grad=1 may help, in another out" in message
    assert "checkpoint" not in message and not list(tmp_path.glob("*.tar"))


def test_a_gpu_that_is_full_is_told(images, tmp_path):
    with mock.patch.object(SupervisedTrainer, "updates", side_effect=torch.OutOfMemoryError):
        message = fail(main, *TINY, f"data={images}", f"out={tmp_path}")
    assert "accumulate=N" in message
    with mock.patch.object(SupervisedTrainer, "validate", side_effect=torch.OutOfMemoryError):
        assert "val_batch_size" in fail(main, *TINY, f"data={images}", f"out={tmp_path}")


def test_weights_that_are_not_finite_are_not_saved(images, tmp_path):
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "epochs=2", "batch_size=24")  # one update an epoch
    run(main, *settings)
    before = (tmp_path / "last.pth.tar").read_bytes()
    settings_file = tmp_path / "config.yaml"  # lets the run go on for an epoch more
    settings_file.write_text(settings_file.read_text().replace("\nepochs: 2", "\nepochs: 3"))
    with mock.patch.object(torch.optim.AdamW, "step", break_weights):
        message = fail(main, *settings, "epochs=3")
    assert "the weights are not finite after epoch 3; the previous epoch's checkpoint is intact" in message
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


def test_other_models_of_timm_train_by_the_same_command(images, tmp_path):
    small = "model_args={embed_dim: 16, depth: 1, num_heads: 2, patch_size: 4}"
    run(main, *TINY, f"data={images}", f"out={tmp_path}", "model=vit_tiny_patch16_224", small)
    assert load_trained(tmp_path / "last.pth.tar").num_classes == 2


def test_both_classifiers_of_a_model_learn_on_a_frozen_backbone(images, tmp_path):
    sizes = [setting for setting in TINY if not setting.startswith("model_args")]
    few = ("model=deit_tiny_distilled_patch16_224", "model_args={embed_dim: 8, depth: 1, num_heads: 2}", "img_size=32")
    settings = [*sizes, *few, "freeze_backbone=true", f"data={images}", f"out={tmp_path}"]
    trainer = SupervisedTrainer(read_config(None, settings, Config), join_processes("cpu"))
    model = trainer.task.trainable_module
    learns = {name.partition(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert learns == {"head", "head_dist"}


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
