"""Measuring models from Python: with data sets and loaders, and without a process group."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets import ImageFolder

import resmlp_vision
from resmlp_core.common.errors import UserError
from resmlp_vision.config import RunConfig
from resmlp_vision.data.opening import open_dataset
from resmlp_vision.distributed import join_processes, leave_processes
from resmlp_vision.evaluation import evaluate, knn
from resmlp_vision.models.loading import load_trained
from resmlp_vision.train import main
from resmlp_vision.training.linear_probe import linear_probe

from .runs import TINY, run, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), classes=3)


@pytest.fixture
def model():
    """A classifier that is not trained, of images of 8x8 pixels."""
    torch.manual_seed(0)
    sizes = {"depth": 2, "embed_dim": 16, "patch_size": 4, "img_size": 8, "num_classes": 3}
    return resmlp_vision.create_model("resmlp_s12", **sizes).eval()


@pytest.fixture
def alone():
    """No process group, however this process's other tests left it."""
    leave_processes()
    yield
    assert not dist.is_initialized()


def tensors(folder):
    """The images of a folder as the model takes them, and their labels."""
    folder = ImageFolder(folder, create_transform((3, 8, 8), interpolation="bicubic", crop_pct=0.9))
    pixels, labels = zip(*folder, strict=True)
    return TensorDataset(torch.stack(pixels), torch.tensor(labels))


def test_accuracy_is_that_of_a_loop_whatever_holds_the_images(alone, model, images):
    pixels, labels = tensors(images / "val").tensors
    with torch.inference_mode():
        logits = model(pixels)
    folder = ImageFolder(images / "val")
    for held in (
        *(folder, folder),  # the first time leaves it as it was
        open_dataset(RunConfig(data=str(images)), "val", training=False),
        TensorDataset(pixels, labels),
        DataLoader(TensorDataset(pixels, labels), batch_size=5),
        [(pixels[:7], labels[:7]), (pixels[7:], labels[7:])],
    ):
        found = evaluate(model, held)
        assert found["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
        assert found["top1"] == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item())
        assert found["images"] == 36 and found["unreadable"] == 0


@pytest.mark.parametrize(("size", "crop_mode"), [((8, 16), "center"), ((8, 8), "squash")])
def test_images_are_cut_as_the_model_wants_them(alone, tmp_path, size, crop_mode):
    """Not all are square, nor all cut out of the middle."""
    for number, label in enumerate("ab"):
        (tmp_path / label).mkdir()
        Image.effect_noise((40, 20), 90 + number).convert("RGB").save(tmp_path / label / "a.png")
    sizes = {"depth": 1, "embed_dim": 16, "patch_size": 4, "num_classes": 2}
    torch.manual_seed(0)
    model = resmlp_vision.create_model("resmlp_s12", img_size=size, **sizes).eval()
    model.pretrained_cfg |= {"crop_mode": crop_mode}
    torch.nn.init.normal_(model.head.weight)
    cut = create_transform((3, *size), interpolation="bicubic", crop_pct=0.9, crop_mode=crop_mode)
    expected = evaluate(model, DataLoader(ImageFolder(tmp_path, cut), batch_size=2))
    assert evaluate(model, ImageFolder(tmp_path)) == pytest.approx(expected, rel=1e-4)
    assert knn(model, ImageFolder(tmp_path), ImageFolder(tmp_path), k=1)["knn1_top1"] == 100


@pytest.mark.parametrize(
    "wrap", [partial(torch.compile, backend="eager"), torch.nn.DataParallel, ModelEmaV3], ids=["compile", "DP", "EMA"]
)
def test_a_wrapped_model_gets_its_own_images_and_classes(alone, model, images, wrap):
    torch.nn.init.normal_(model.head.weight)
    model.classes = ["class2", "class0", "class1"]
    assert evaluate(wrap(model), ImageFolder(images / "val")) == pytest.approx(
        evaluate(model, ImageFolder(images / "val"))
    )
    splits = [ImageFolder(images / split) for split in ("train", "val")]
    assert knn(wrap(model), *splits, k=3) == knn(model, *splits, k=3)


def test_neighbours_are_those_of_a_loop(alone, model, images):
    bank, queries = (tensors(images / split) for split in ("train", "val"))
    with torch.inference_mode():
        features = [
            model.forward_head(model.forward_features(part.tensors[0]), pre_logits=True) for part in (bank, queries)
        ]
    cosines = F.normalize(features[1]) @ F.normalize(features[0]).t()
    nearest = bank.tensors[1][cosines.argmax(1)]
    expected = 100 * (nearest == queries.tensors[1]).float().mean().item()
    found = knn(model, ImageFolder(images / "train"), DataLoader(queries, batch_size=5), k=(1, 5))
    assert found["knn1_top1"] == pytest.approx(expected)
    assert found.keys() == {"images", "training_images", "knn1_top1", "knn5_top1"}
    assert knn(model, bank, queries, 5)["knn5_top1"] == found["knn5_top1"]


def test_classes_are_matched_by_name_where_torchvision_orders_them_otherwise(alone, tmp_path):
    folder = write_images(tmp_path / "images", classes=11)  # "class10" follows "class9" here, and "class1" there
    run(main, *TINY, f"data={folder}", f"out={tmp_path / 'run'}")
    model = load_trained(tmp_path / "run" / "last.pth.tar")
    splits = [open_dataset(RunConfig(data=str(folder)), split, training=False) for split in ("train", "val")]
    expected = evaluate(model, splits[1])
    theirs = ImageFolder(folder / "val")
    assert list(theirs.class_to_idx) != model.classes
    ready = ImageFolder(folder / "val", create_transform((3, 8, 8), interpolation="bicubic", crop_pct=0.9))
    for held in (theirs, Subset(ready, range(len(ready))), DataLoader(ready, batch_size=50)):
        assert evaluate(model, held) == pytest.approx(expected, rel=1e-4)
    assert knn(model, splits[0], theirs, 5) == knn(model, *splits, 5)
    by_number = [model.classes.index(name) for name in theirs.classes]
    mapped = ImageFolder(folder / "val", target_transform=by_number.__getitem__)
    assert evaluate(model, mapped) == pytest.approx(expected, rel=1e-4)
    (folder / "val" / "class3").rename(folder / "val" / "others")
    with pytest.raises(UserError, match="has the class 'others', which is none of the 11 known ones"):
        evaluate(model, ImageFolder(folder / "val"))


def test_a_part_of_a_folder_needs_no_transform_either(alone, model, images):
    splits = [ImageFolder(images / split) for split in ("train", "val")]
    halves = [Subset(Subset(split, range(1, 36)), range(0, 35, 2)) for split in splits]
    ready = Subset(tensors(images / "val"), range(1, 36, 2))
    assert evaluate(model, halves[1]) == pytest.approx(evaluate(model, ready), rel=1e-4)
    assert knn(model, *halves, 3)["images"] == 18
    assert all(split.transform is None for split in splits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_type_gets_images_of_it(alone, model, images, dtype):
    torch.nn.init.normal_(model.head.weight)
    splits = [ImageFolder(images / split) for split in ("train", "val")]
    expected = evaluate(model, splits[1])["loss"]
    assert evaluate(model.to(dtype), splits[1])["loss"] == pytest.approx(expected, rel=0.05)
    assert knn(model, *splits, 3)["images"] == 36


def test_a_number_of_numpys_may_vote(alone, model, images):
    splits = [tensors(images / split) for split in ("train", "val")]
    assert knn(model, *splits, np.int64(5)) == knn(model, *splits, 5)


def test_features_that_are_not_pooled_and_images_of_other_channels_are_told(alone, images):
    folder = ImageFolder(images / "val")
    sizes = {"img_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "class_token": False}
    unpooled = timm.create_model(
        "vit_tiny_patch16_224", global_pool="", pretrained_cfg_overlay={"input_size": (3, 8, 8)}, **sizes
    )
    with pytest.raises(UserError, match=r"are not pooled: \(4, 16\); give it another global_pool"):
        knn(unpooled, folder, folder, 1)
    grey = resmlp_vision.create_model("resmlp_s12", img_size=8, patch_size=4, depth=1, embed_dim=16, in_chans=1)
    with pytest.raises(UserError, match="images are RGB and the model's have 1 channels; give a data set of tensors"):
        evaluate(grey, folder)
    pixels, labels = tensors(images / "val").tensors
    assert evaluate(grey, TensorDataset(pixels[:, :1], labels))["images"] == 36


def test_images_that_cannot_be_read_are_left_out(alone, model, tmp_path):
    folder = write_images(tmp_path)
    for split in ("train", "val"):
        next((folder / split).rglob("*.png")).write_bytes(b"no image")
    config = RunConfig(data=str(folder))
    training, validation = (open_dataset(config, split, training=False) for split in ("train", "val"))
    assert {"images": 23, "unreadable": 1}.items() <= evaluate(model, validation).items()
    assert {"images": 23, "training_images": 23}.items() <= knn(model, training, validation).items()
    validation.transform = create_transform((3, 8, 8), interpolation="bicubic", crop_pct=0.9)
    assert {"images": 23, "unreadable": 1}.items() <= evaluate(model, Subset(validation, range(24))).items()


def test_a_data_set_counts_once_in_a_process_group_too(model, images):
    held = tensors(images / "val")
    join_processes("cpu")
    joined = evaluate(model, held), evaluate(model, ImageFolder(images / "val"))
    leave_processes()
    assert joined[0] == evaluate(model, held) and joined[0]["images"] == joined[1]["images"] == 36


def test_a_linear_probe_needs_only_a_checkpoint_and_data(images, tmp_path):
    run(main, *TINY, f"data={images}", f"out={tmp_path / 'run'}", "epochs=1")
    assert not dist.is_initialized()
    settings = {"val_split": "val", "device": "cpu", "workers": 0}
    overrides = ("lr=1", "epochs=2", "batch_size=12")
    checkpoint = tmp_path / "run" / "last.pth.tar"
    found = linear_probe("resmlp_s12", checkpoint, str(images), tmp_path / "probe", overrides, **settings)
    assert not dist.is_initialized()
    probed = load_trained(tmp_path / "probe" / "last.pth.tar")
    assert evaluate(probed, open_dataset(RunConfig(data=str(images)), "val", False))["top1"] == pytest.approx(
        found["top1"]
    )


def test_importing_the_package_makes_the_models_known_and_loads_nothing_slow():
    hidden = "sys.modules.update(dict.fromkeys(('lightly', 'datasets', 'matplotlib')))"
    line = f"import sys; {hidden}; import resmlp_vision as r; print(r.ResMLP, r.create_model, r.fold, r.to_timm)"
    subprocess.run([sys.executable, "-c", line], check=True, stdout=subprocess.DEVNULL)
