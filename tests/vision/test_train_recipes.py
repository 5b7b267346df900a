"""The recipes of images: ImageNet's is the paper's, and each takes its first steps."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from resmlp_vision.config import Config, read_config
from resmlp_vision.train import main

from .runs import TINY, run, write_images, write_tables

RECIPES = Path(__file__).parents[2] / "recipes"


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
    splits: dict[str, list[tuple[dict[str, Any], int]]] = {"train": [], "validation": []}
    for split, count in (("train", 16), ("validation", 4)):
        for i in range(count):
            file = io.BytesIO()
            Image.effect_noise((90 + i, 120), 60 + i).convert("RGB").save(file, "JPEG")
            splits[split].append(({"bytes": file.getvalue(), "path": f"{i}.JPEG"}, 37 * i % 1000))
    return write_tables(folder, splits, [f"n{j}" for j in range(1000)])


@pytest.mark.parametrize("kind", ["parquet", pytest.param("folder", marks=pytest.mark.long)])
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
