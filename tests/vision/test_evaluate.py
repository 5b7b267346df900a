"""Measuring a classifier on folders, parquet files and streams, on ImageNet's labels and on ReaL's."""

import json
import shutil
import subprocess
import sys
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from timm.data import RealLabelsImagenet, create_transform

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_core.common.errors import UserError
from resmlp_vision import classify, create_model, evaluate, train
from resmlp_vision.config import Config
from resmlp_vision.data.datasets import StreamedImages
from resmlp_vision.data.image_io import open_rgb
from resmlp_vision.data.opening import count_classes, open_dataset
from resmlp_vision.data.unreadable import UNREADABLE, Unreadable
from resmlp_vision.distributed import join_processes
from resmlp_vision.evaluation import accuracy
from resmlp_vision.models.loading import load_trained

from .runs import TINY, fail, read_log, run, start, write_images, write_tables

VIT = "{embed_dim: 16, depth: 1, num_heads: 2, patch_size: 4}"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), classes=3, images=7)


@pytest.fixture(scope="module")
def checkpoint(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    run(train.main, *TINY, f"data={images}", f"out={out}", "crop_pct=0.8", "epochs=6")
    return out / "last.pth.tar"


def arguments(checkpoint, *more):
    return ("--checkpoint", checkpoint, "--workers", 1, "--device", "cpu", *more)


def test_a_runs_folder_stands_for_its_last_checkpoint(checkpoint, images, tmp_path):
    for name, given in (("file", checkpoint), ("folder", checkpoint.parent)):
        run(evaluate.main, *arguments(given, "--data", images, "--split", "val", "--out", tmp_path / name))
    assert json.loads((tmp_path / "folder").read_text()) == json.loads((tmp_path / "file").read_text())


def write_parquet(folder, images, names=("class0", "class1", "class2"), splits=("validation",)):
    """The validation images as the hub has data sets."""
    numbers = {name: number for number, name in enumerate(names)}
    rows = [
        (
            {"bytes": path.read_bytes(), "path": path.name},
            numbers.get(path.parent.name, int(path.parent.name[-1])),
        )
        for path in sorted((images / "val").rglob("*.png"))
    ]
    return write_tables(folder, dict.fromkeys(splits, rows), names, ("picture", "kind"))


def test_accuracy_is_that_of_one_image_at_a_time_whatever_holds_the_images(checkpoint, images, tmp_path):
    model = load_trained(checkpoint)
    transform = create_transform((3, 8, 8), crop_pct=0.8, interpolation="bicubic")
    paths = sorted((images / "val").rglob("*.png"))
    with torch.inference_mode():
        right = [
            model(transform(open_rgb(path)).unsqueeze(0)).argmax().item() == int(path.parent.name[-1]) for path in paths
        ]
    expected = 100 * sum(right) / len(right)
    assert expected > 60
    parquet = write_parquet(tmp_path / "parquet", images)
    keys = ("--image-key", "picture", "--label-key", "kind")
    for data in (
        (images,),
        (images / "val", "--split", ""),
        (parquet, *keys),
        (f"hfds/{parquet}", *keys),
        (f"hfids/{parquet}", *keys),
    ):
        line = arguments(checkpoint, "--data", *data, "--batch-size", 4, "--out", tmp_path / "figures.json")
        printed = run(evaluate.main, *line)
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures["top1"] == pytest.approx(expected) and figures["images"] == 21
        assert f"top-1 {expected:.2f}%" in printed


def test_a_model_that_timm_squashes_images_for_is_measured_as_its_run_validated(tmp_path):
    """A run validates on the middle of an image, whatever the model's own weights were made for."""
    folder = write_images(tmp_path / "images", images=8)
    for path in folder.rglob("*.png"):
        Image.effect_noise((24, 12), 90).convert("RGB").save(path)
    small = "model_args={embed_dim: 16, depth: 1, num_heads: 2, patch_size: 4}"
    settings = (*TINY, f"data={folder}", f"out={tmp_path / 'run'}", "model=eva_large_patch14_336", small, "epochs=1")
    run(train.main, *settings)
    line = arguments(tmp_path / "run" / "last.pth.tar", "--data", folder, "--out", tmp_path / "figures.json")
    run(evaluate.main, *line)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["loss"] == pytest.approx(read_log(tmp_path / "run")[0]["val_loss"], rel=1e-4)


def test_classes_are_matched_by_name_and_by_order_only_where_all_have_other_names(checkpoint, images, tmp_path, caplog):
    keys = ("--image-key", "picture", "--label-key", "kind")

    def measure(*data):
        run(evaluate.main, *arguments(checkpoint, "--out", tmp_path / "found.json", "--data", *data))
        found = json.loads((tmp_path / "found.json").read_text())
        return found["images"], found["top1"], found["loss"]

    expected = measure(images)
    for names in (("class0", "class1", "class2"), ("class2", "class1", "class0"), ("a", "b", "c")):
        assert measure(write_parquet(tmp_path / names[0], images, names), *keys) == pytest.approx(expected)
        assert ("in their order" in caplog.text) == (names[0] == "a")
    few = shutil.copytree(images, tmp_path / "few")
    shutil.rmtree(few / "val" / "class1")
    parquet = write_parquet(tmp_path / "parquet", few, ("class2", "class0"))
    assert measure(parquet, *keys) == pytest.approx(measure(few)) and measure(few)[0] == 14
    for names, told in {
        ("class0", "class1", "d"): "has the class 'd', which is none of the 3 known ones",
        ("a", "b", "c", "e"): "has 4 classes but the model has 3; they cannot be matched",
    }.items():
        parquet = write_parquet(tmp_path / names[-1], images, names)
        assert told in fail(evaluate.main, *arguments(checkpoint, "--data", parquet, *keys))
    folder = shutil.copytree(images / "val", tmp_path / "folder" / "val")
    for name in ("class0", "class1"):
        (folder / name).rename(folder / f"other{name}")
    shutil.rmtree(folder / "class2")
    line = arguments(checkpoint, "--data", folder.parent)
    assert "has 2 classes, none of which is one of the 3 trained" in fail(evaluate.main, *line)


@pytest.mark.parametrize(("labels", "named"), [([0, 1, -1], "the label -1"), ([0, 1, 3], "the label 3")])
def test_a_streams_label_that_is_no_class_is_told(checkpoint, images, tmp_path, labels, named):
    parquet = write_parquet(tmp_path / "parquet", images)
    table = pq.read_table(parquet / "validation.parquet").slice(0, 3)
    table = table.set_column(1, "kind", pa.array(labels))
    pq.write_table(table, parquet / "validation.parquet")
    card = (parquet / "README.md").read_text()
    (parquet / "README.md").write_text(card[: card.index("  features")] + card[card.index("  splits") :])
    keys = ("--image-key", "picture", "--label-key", "kind")
    line = arguments(checkpoint, "--data", f"hfids/{parquet}", *keys)
    assert f"{named} is not a class number below num_classes" in fail(evaluate.main, *line)


def test_the_folder_itself_may_vote(checkpoint, images, tmp_path):
    folder = ("--data", images / "val", "--split", "", "--train-split", "")
    run(evaluate.main, *arguments(checkpoint, *folder, "--probe", "knn", "--k", 1, "--out", tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text())["training_images"] == 21


@pytest.mark.parametrize("model", [(), ("model=vit_tiny_patch16_224", f"model_args={VIT}")], ids=["ours", "timm's"])
def test_a_run_that_has_lost_its_classifier_is_measured_by_its_features_only(images, tmp_path, model):
    """Its classes would be guessed by chance."""
    run(train.main, *TINY, *model, f"data={images}", f"out={tmp_path / 'run'}", "epochs=1")
    state = read_checkpoint(tmp_path / "run" / "last.pth.tar")
    lost = tmp_path / "lost.pth"
    torch.save(state | {"state_dict": {k: v for k, v in state["state_dict"].items() if "head" not in k}}, lost)
    told = f"{lost} has lost its classifier, head; evaluate --probe measures its features"
    assert fail(evaluate.main, *arguments(lost, "--data", images, "--split", "val")) == f"evaluate: {told}"
    assert fail(classify.main, images, "--checkpoint", lost) == f"classify: {told}"
    assert told in fail(train.main, *TINY, f"data={images}", f"out={tmp_path / 'taught'}", f"teacher={lost}")
    line = ("--data", images, "--split", "val", "--probe", "knn", "--k", 1, "--out")
    for name, checkpoint in (("whole", tmp_path / "run"), ("lost", lost)):
        run(evaluate.main, *arguments(checkpoint, *line, tmp_path / name))
    found = [json.loads((tmp_path / name).read_text())["knn1_top1"] for name in ("whole", "lost")]
    assert found[0] == found[1]


def test_images_that_cannot_be_read_are_named_and_left_out(checkpoint, images, tmp_path):
    broken = write_images(tmp_path / "images", classes=3, images=7)
    paths = sorted((broken / "val").rglob("*.png"))
    for i in (0, 1):
        Image.effect_noise((64, 64), 50).save(paths[i].with_suffix(".jpg"))
        paths[i].unlink()
        paths[i] = paths[i].with_suffix(".jpg")
        paths[i].write_bytes(paths[i].read_bytes()[:-500])
    line = arguments(checkpoint, "--data", broken, "--out", tmp_path / "figures.json")
    process = subprocess.run(
        [sys.executable, "-m", "resmlp_vision.evaluate", *map(str, line)], capture_output=True, text=True
    )
    assert process.returncode == 0 and "without 2 images that cannot be read" in process.stdout
    assert all(path.name in process.stderr for path in paths[:2])
    assert json.loads((tmp_path / "figures.json").read_text())["unreadable"] == 2
    assert f"({len(paths) - 2} images of" in run(evaluate.main, *line, "--probe", "knn", "--k", 3)
    assert "check the disk" in fail(evaluate.main, *line, "--max-unreadable", 1)
    for path in paths:
        path.write_bytes(b"no image")
    for probe in ((), ("--probe", "knn", "--k", 3)):
        assert "none of the images can be read" in fail(evaluate.main, *line, *probe)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--out", "run"), "--out run is to be a file"),
        (("--out", "nowhere/figures.json"), "--out nowhere/figures.json is to be a file"),
        (("--k", "5"), "--k is only for --probe knn"),
        (("--train-split", "train"), "--train-split is only for --probe"),
        (("--crop-pct", "90"), "--crop-pct 90.0 must be from 0.1 to 1"),
    ],
)
def test_what_would_be_lost_or_ignored_is_refused(checkpoint, images, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pth.tar").touch()
    with pytest.raises(SystemExit):
        run(evaluate.main, *arguments(checkpoint, "--data", images, *more))
    assert message in capsys.readouterr().err
    assert (tmp_path / "run" / "last.pth.tar").exists()


def test_classes_keep_their_numbers_where_some_have_no_images(checkpoint, images, tmp_path):
    for name in ("class1", "class2"):
        shutil.copytree(images / "val" / name, tmp_path / "val" / name)
    run(evaluate.main, *arguments(checkpoint, "--data", images, "--out", tmp_path / "all.json"))
    run(evaluate.main, *arguments(checkpoint, "--data", tmp_path, "--out", tmp_path / "two.json"))
    shutil.rmtree(tmp_path / "val")
    shutil.copytree(images / "val" / "class0", tmp_path / "val" / "class0")
    run(evaluate.main, *arguments(checkpoint, "--data", tmp_path, "--out", tmp_path / "one.json"))
    every, two, one = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("all", "two", "one"))
    assert every["top1"] == pytest.approx((2 * two["top1"] + one["top1"]) / 3)
    nameless = tmp_path / "weights.pth"
    torch.save(create_model("resmlp_s12", num_classes=3).state_dict(), nameless)
    line = arguments(nameless, "--model", "resmlp_s12", "--data", tmp_path)
    assert "has 1 classes but the model has 3; they cannot be matched" in fail(evaluate.main, *line)


def test_real_labels_follow_the_names_of_the_images():
    join_processes("cpu")

    class Files:
        def filenames(self, basename):
            return [f"ILSVRC2012_val_{i:08d}_n01440764.JPEG" for i in range(50_000, 0, -1)]

    found, own = (
        accuracy.real_labels(Files()),
        RealLabelsImagenet([f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 50_001)]),
    )
    right = [own.real_labels[f"ILSVRC2012_val_{i:08d}.JPEG"] for i in range(50_000, 0, -1)]
    logits = torch.zeros(50_000, 1000)
    for row, labels in enumerate(right):
        if labels and row % 2:
            logits[row, labels[-1]] = 1
        else:
            logits[row, (labels[0] + 1) % 1000 if labels else 0] = 1
            logits[row, labels] = -1
    found.add_result(logits)
    rated = [row % 2 for row, labels in enumerate(right) if labels]
    assert found.get_accuracy(1) == pytest.approx(100 * sum(rated) / len(rated))


def test_real_labels_need_imagenets_own_names(images):
    join_processes("cpu")
    with pytest.raises(UserError, match="under their own names"):
        accuracy.real_labels(open_dataset(Config(data=str(images)), "val", training=False))


def test_each_image_counts_once_whatever_the_batch(images):
    """The evaluator's figures against a slow count, with a batch that does not divide the images."""

    class Loader(list):
        sampler = None
        dataset = mock.Mock(unreadable=Unreadable(limit=1))

        def __iter__(self):
            self.dataset.unreadable.count.value = 1  # a loader counts as it reads
            return super().__iter__()

    join_processes("cpu")
    torch.manual_seed(0)
    logits, labels = torch.randn(11, 6), torch.randint(6, (11,))
    labels[3] = UNREADABLE
    batches = Loader((logits[i : i + 4], labels[i : i + 4]) for i in range(0, 11, 4))
    found = accuracy.evaluate(torch.nn.Identity(), batches, torch.device("cpu"))
    ranks = [(logits[i] > logits[i, labels[i]]).sum().item() for i in range(11) if i != 3]
    assert found["top1"] == pytest.approx(100 * sum(rank < 1 for rank in ranks) / 10)
    assert found["top5"] == pytest.approx(100 * sum(rank < 5 for rank in ranks) / 10)
    assert found["images"] == 10
    batches.sampler = mock.Mock(num_valid_samples=9)  # as where two fill the last batch
    assert accuracy.evaluate(torch.nn.Identity(), batches, torch.device("cpu"))["images"] == 8


def test_a_stream_may_name_its_files_instead_of_holding_them(images):
    paths = sorted((images / "val").rglob("*.png"))
    reader = [({"bytes": None, "path": str(path)}, 1) for path in [*paths, images / "gone.png"]]
    stream = StreamedImages(reader, training=False, limit=1, files=1)
    stream.transform, stream.num_classes = lambda image: image, 3
    *found, (_, label) = stream
    assert all(image.tobytes() == Image.open(p).tobytes() for (image, _), p in zip(found, paths, strict=True))
    assert label == UNREADABLE and stream.unreadable.count.value == 1


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
def test_a_cell_without_an_image_is_passed_over(images, tmp_path, kind):
    join_processes("cpu")
    parquet = write_parquet(tmp_path / "parquet", images)
    table = pq.read_table(parquet / "validation.parquet")
    cells = table.column("picture").to_pylist()
    cells[0] = None
    pictures = pa.array(cells, table.schema.field("picture").type)
    pq.write_table(table.set_column(0, table.schema.field("picture"), pictures), parquet / "validation.parquet")
    config = Config(data=f"{kind}/{parquet}", image_key="picture", label_key="kind")
    dataset = open_dataset(config, "validation", training=False)
    dataset.transform = lambda image: image
    count_classes(dataset, None)
    labels = [label for _, label in (dataset if kind == "hfids" else map(dataset.__getitem__, range(len(dataset))))]
    assert labels == [UNREADABLE, *table.column("kind").to_pylist()[1:]] and dataset.unreadable.count.value == 1


def test_a_stream_trains(images, tmp_path):
    parquet = write_parquet(tmp_path / "parquet", images, splits=("train", "validation"))
    keys = ("image_key=picture", "label_key=kind", "workers=1")
    printed = run(train.main, *TINY, f"data=hfids/{parquet}", f"out={tmp_path / 'out'}", *keys, "batch_size=7")
    assert "3 classes; 3 updates an epoch" in printed
    repeated = (*TINY, f"data=hfids/{parquet}", f"out={tmp_path / 'x'}", *keys, "batch_size=7", "repeated_aug=3")
    assert "cannot repeat its images; give repeated_aug=0" in fail(train.main, *repeated)


def test_training_replaces_and_counts_what_cannot_be_read(tmp_path):
    folder = write_images(tmp_path / "images")
    broken, other, *_ = sorted((folder / "train").rglob("*.png"))
    broken.write_bytes(b"no image")
    other.unlink()
    Image.new("CMYK", (1, 1)).save(other.with_name("one.jpg"))
    _, errors = (
        process := start(*TINY, f"data={folder}", f"out={tmp_path / 'out'}", "epochs=2", "max_unreadable=1")
    ).communicate()
    assert process.returncode == 0, errors  # the limit is one a pass
    records = read_log(tmp_path / "out")
    assert broken.name in errors and [record["unreadable"] for record in records] == [1, 1]
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    again = (*TINY, f"data={folder}", f"out={tmp_path / 'again'}", "max_unreadable=3")
    assert "more than max_unreadable=3 images cannot be read" in fail(train.main, *again)
