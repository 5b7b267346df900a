"""A training that begins with what another has learnt: fine-tuning, and distillation from a teacher."""

import json
import shutil

import pytest
import timm
import torch
import torch.nn.functional as F

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_vision import create_model
from resmlp_vision.config import Config, read_config
from resmlp_vision.distributed import join_processes
from resmlp_vision.models.loading import build
from resmlp_vision.train import main
from resmlp_vision.training.supervised import SupervisedTrainer
from resmlp_vision.training.tasks import HardDistillationTask

from .runs import TINY, fail, run, same, weights, write_images

ANY_MODEL = [setting for setting in TINY if not setting.startswith("model_args")]


def test_a_model_of_timms_goes_on_from_a_checkpoints_url_with_other_classes(images, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where what is downloaded lies
    line = (*ANY_MODEL, "model=resnet10t", "drop_path=0", "epochs=1")
    run(main, *line, f"data={images}", f"out={tmp_path / 'two'}")
    three = write_images(tmp_path / "three", classes=3)
    checkpoint = tmp_path / "two" / "last.pth.tar"
    run(main, *line, f"data={three}", f"out={tmp_path / 'three'}", f"checkpoint={checkpoint.as_uri()}", "lr=0",
        "min_lr=0", "warmup_lr=0", "weight_decay=0")  # fmt: skip
    before, after = (read_checkpoint(path)["state_dict"] for path in (checkpoint, tmp_path / "three" / "last.pth.tar"))
    assert "the classifier is re-initialised" in caplog.text and after["fc.weight"].shape == (3, 512)
    assert torch.equal(before["conv1.0.weight"], after["conv1.0.weight"])


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        (("model=resmlp_s12.fb_in1k", "pretrained=true"), "checkpoint=FILE takes weights that are here"),
        (("model=resnet10t", "pretrained=true"), "checkpoint=FILE takes weights that are here"),
        (("teacher=regnety_160.deit_in1k",), "teacher=FILE takes the checkpoint of a training run"),
    ],
)
def test_weights_out_of_reach_are_told_with_what_takes_their_place(images, tmp_path, monkeypatch, asked, remedy):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = fail(main, *ANY_MODEL, *asked, "img_size=16", f"data={images}", f"out={tmp_path / 'out'}")
    assert said.startswith(f"train: {asked[0]}: its weights cannot be downloaded (") and f"; {remedy}" in said


@pytest.mark.parametrize("wrapped", [False, True])
def test_plain_weights_of_any_model_of_timms_serve_another_number_of_classes(tmp_path, caplog, wrapped):
    """DeiT's distilled model has two classifiers."""
    sizes = {"embed_dim": 8, "depth": 1, "num_heads": 2}
    name, path = "deit_tiny_distilled_patch16_224", tmp_path / "weights.pth"
    source = timm.create_model(name, num_classes=7, img_size=32, **sizes)
    torch.save({"state_dict": torch.nn.DataParallel(source).state_dict()} if wrapped else source.state_dict(), path)
    config = Config(model=name, model_args=sizes, img_size=32, drop_path=0, checkpoint=str(path))
    for classes in (7, 3):
        caplog.clear()
        model = build(config, classes)
        assert torch.equal(model.blocks[0].mlp.fc1.weight, source.blocks[0].mlp.fc1.weight)
        assert torch.equal(model.head.weight, source.head.weight) == (classes == 7)
        assert model.head.weight.shape == model.head_dist.weight.shape == (classes, 8)
        assert ("has 7 classes, the model 3: the classifier is re-initialised" in caplog.text) == (classes == 3)


def test_a_model_of_timms_with_a_checkpoint_downloads_nothing(images, tmp_path, monkeypatch):
    line = (*ANY_MODEL, "model=resnet10t", "drop_path=0", "epochs=1", f"data={images}")
    run(main, *line, f"out={tmp_path / 'first'}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    checkpoint = tmp_path / "first" / "last.pth.tar"
    run(main, *line, f"out={tmp_path / 'second'}", f"checkpoint={checkpoint}", "pretrained=true", "lr=0",
        "min_lr=0", "warmup_lr=0", "weight_decay=0")  # fmt: skip
    before, after = (weights(tmp_path / name)["conv1.0.weight"] for name in ("first", "second"))
    assert torch.equal(before, after)


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
    run(main, *TINY, f"data={images}", f"out={tmp_path / 'by-folder'}", f"teacher={tmp_path / 'teacher'}", "epochs=1")
    three = write_images(tmp_path / "three", classes=3)
    settings = (*TINY, f"out={tmp_path / 'x'}", teacher)
    assert "has 2 classes but the model has 3" in fail(main, *settings, f"data={three}")
    assert "cannot take images of img_size=16" in fail(main, *settings, f"data={images}", "img_size=16")
    for split in ("train", "val"):
        (three / split / "class2").rename(three / split / "a")
        shutil.rmtree(three / split / "class0")
    assert "classes of other names" in fail(main, *settings, f"data={three}")


def test_a_runs_folder_stands_for_its_last_checkpoint(images, tmp_path):
    line = (*TINY, f"data={images}", "epochs=1")
    run(main, *line, f"out={tmp_path / 'first'}")
    for name, start in (("file", tmp_path / "first" / "last.pth.tar"), ("folder", tmp_path / "first")):
        run(main, *line, f"out={tmp_path / name}", f"checkpoint={start}")
    assert same(weights(tmp_path / "file"), weights(tmp_path / "folder"))
    (tmp_path / "first" / "last.pth.tar").write_bytes(b"another")
    again = fail(main, *line, f"out={tmp_path / 'folder'}", f"checkpoint={tmp_path / 'first'}")
    assert "the file of checkpoint=... has changed" in again


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


def test_both_classifiers_of_a_model_learn_on_a_frozen_backbone(images, tmp_path):
    sizes = [setting for setting in TINY if not setting.startswith("model_args")]
    few = ("model=deit_tiny_distilled_patch16_224", "model_args={embed_dim: 8, depth: 1, num_heads: 2}", "img_size=32")
    settings = [*sizes, *few, "freeze_backbone=true", f"data={images}", f"out={tmp_path}"]
    trainer = SupervisedTrainer(read_config(None, settings, Config), join_processes("cpu"))
    model = trainer.task.trainable_module
    learns = {name.partition(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert learns == {"head", "head_dist"}


def test_a_folder_without_a_checkpoint_is_no_teacher(images, tmp_path):
    (tmp_path / "empty").mkdir()
    message = fail(main, *TINY, f"data={images}", f"out={tmp_path / 'out'}", f"teacher={tmp_path / 'empty'}")
    assert f"no model.safetensors, model.pt or last.pth.tar in {tmp_path / 'empty'}: " in message
