"""What a user can get wrong in training ends in one line that says what to mend, and no traceback."""

import dataclasses
import inspect
import io
import math
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from resmlp_core.common.errors import UserError
from resmlp_core.common.recipes import find_recipe
from resmlp_vision import dino, train
from resmlp_vision.config import DINO_LIMITS, LIMITS, Config, DINOConfig, read_config
from resmlp_vision.data.datasets import Images
from resmlp_vision.data.opening import read_folder
from resmlp_vision.models.resmlp import ResMLP
from resmlp_vision.train import main

from .runs import TINY, fail, lengthen, read_log, run, write_images, write_tables


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data=/nowhere/images", "no folder /nowhere/images; a data set of the hub is data=hfds/NAME"),
        ("train_split=trian", "trian; "),
        ("img_size=10", "img_size=10x10 is no multiple of patch_size=4"),
        ("num_classes=1", "num_classes=1, but the data have"),
        ("model=resmlp_s1", "did you mean 'resmlp_s12'?"),
        ("model_args.dept=3", "did you mean 'depth'?"),
        ("opt=adamww", "adamww"),
        ("batch_size=7 mixup=1", "batch_size=7"),
        ("batch_size=400", "24 training images are fewer than batch_size=400"),
        ("checkpoint=/nowhere.pth", "/nowhere.pth"),
        ("teacher=resnet5", "resnet5"),
        ("learning_rate=3", "unknown key 'learning_rate'"),
        ("warmup_epoch=3", "unknown key 'warmup_epoch'; did you mean 'warmup_epochs'?"),
        ("epochs=many", "epochs: "),
        ("dtype=int8", "dtype=int8 is none of"),
        ("model=vit_tiny_patch16_224 checkpoint=/nowhere.pth", "/nowhere.pth"),
        ("model=vit_tiny_patch16_224", "model=vit_tiny_patch16_224: dim should be divisible by num_heads"),
        ("auto_augment=rnd-m9", "auto_augment=rnd-m9 is not a policy of timm's"),
        ("interpolation=random", "interpolation=random is none of"),
        ("lr=-1", "lr=-1.0 must be from 0 to 1000"),
        ("model_args.in_chans=1", "images are RGB"),
        ("model_args.global_pool=''", "what enters a classifier is pooled"),
        ("warmup_epochs=4", "warmup_epochs=4.0 must not be more than epochs=3"),
        ("teacher=runs/convnet/last.pth.tar", "teacher=runs/convnet/last.pth.tar: there is no such file"),
        ("scale=[1]", "scale=[1.0] must be two shares of the area, the smaller first"),
        ("scale=[1,0.5]", "scale=[1.0, 0.5] must be two shares of the area"),
        ("opt=fusedlamb", "opt=fusedlamb: "),
        ("opt=adahessian", "opt=adahessian needs second derivatives"),
    ],
)
def test_a_mistake_is_told_in_one_line(images, tmp_path, override, message):
    assert message in fail(main, *TINY, f"data={images}", f"out={tmp_path}", *override.split())
    assert not (tmp_path / "last.pth.tar").exists()


NUMBERS = [  # of both kinds of training, and of a model
    *(
        (kind, field.name, None)
        for kind in (Config, DINOConfig)
        for field in dataclasses.fields(kind)
        if type(field.default) in (int, float) or field.name in ("clip_grad", "ema_decay", "num_classes", "workers")
    ),
    *(
        (Config, name, "model_args")
        for name, parameter in inspect.signature(ResMLP).parameters.items()
        if type(parameter.default) in (int, float) and name not in ("img_size", "num_classes")
    ),
]


@pytest.mark.parametrize(("kind", "key", "within"), NUMBERS)
def test_a_number_is_taken_up_to_its_limits_and_none_beyond(kind, key, within):
    def read(value):
        given = {within: {key: value}} if within else {key: value}
        read_config({"data": "x", "out": "x", "epochs": 1_000_000, "warmup_epochs": 0} | given, [], kind)

    least, most = (DINO_LIMITS if kind is DINOConfig else LIMITS)[key]
    for value in (least, most):
        read(value)
    for value in (least - 1, most + 1):
        with pytest.raises(UserError, match=rf"^{key}=\S+ must be from {re.escape(f'{least} to {most}')}$"):
            read(value)
    for value in (10**400, -(10**400), math.nan, math.inf, -math.inf):
        with pytest.raises(UserError, match=rf"^({key}(=.* must be from |: )|a setting is no number)"):
            read(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model_args.depth=1000000", "depth=1000000 must be from 1 to 1000"),
        ("opt_args.eps=.nan", "eps=nan must be finite"),
    ],
)
def test_an_absurd_number_is_told_at_once(tmp_path, override, message):
    assert message in fail(main, "data=/nowhere", f"out={tmp_path / 'out'}", override)
    assert not (tmp_path / "out").exists()


def test_what_is_hidden_and_what_systems_leave_behind_is_no_class_and_no_image(tmp_path):
    folder = write_images(tmp_path / ".cache" / "images")  # a hidden folder above does not count
    picture = next((folder / "train" / "class1").iterdir())
    clutter = (".ipynb_checkpoints", "__MACOSX", "@eaDir", "#snapshot", "Network Trash Folder", ".empty")
    for split in ("train", "val"):
        for where in (folder / split, folder / split / "class0"):
            for name in clutter:
                (where / name).mkdir()
            for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._a.png", "~$a.png"):
                (where / name).write_text("no image")
            for name in clutter[:-1]:
                shutil.copy(picture, where / name / "copy.png")
        (folder / split / "__MACOSX" / "class1").mkdir()
        shutil.copy(picture, folder / split / "__MACOSX" / "class1" / "copy.png")
    for name in ("._x.parquet", ".cache/x.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no table")
    for split, classes in (("train", None), ("val", {"class0": 0, "class1": 1})):
        reader = read_folder(folder, split, classes)
        assert len(reader) == 24 and reader.class_to_idx == {"class0": 0, "class1": 1}
    run(main, *TINY, f"data={folder}", f"out={tmp_path / 'out'}", "epochs=1")
    assert read_log(tmp_path / "out")[0]["unreadable"] == 0
    message = fail(main, *TINY, f"data={folder}", f"out={tmp_path / 'other'}", "train_split=trian")
    assert message.endswith(f"{folder} has train, val")


def test_classes_come_in_their_natural_order(tmp_path):
    for name in ("class10", "class9", "Class1"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / name / "a.png")
    assert list(read_folder(tmp_path, "train", None).class_to_idx) == ["Class1", "class9", "class10"]


class TestUnreadable:
    """What a decoder or a transform raises: a damaged AVIF RuntimeError, a long picture would fill the memory."""

    def spoil(self, picture):
        buffer = io.BytesIO()
        Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, "avif")
        avif = bytearray(buffer.getvalue())
        avif[270:286] = bytes(16)  # of the picture's own data
        (picture / "damaged.avif").write_bytes(avif)
        Image.new("RGB", (1, 20000)).save(picture / "spacer.png")
        Image.new("1", (20000, 10000)).save(picture / "bomb.png")
        return "damaged.avif", "spacer.png", "bomb.png"

    def test_each_is_named_once_and_the_others_are_trained_on(self, tmp_path, caplog):
        folder = write_images(tmp_path / "images")
        names = [name for split in ("train", "val") for name in self.spoil(folder / split / "class0")]
        run(main, *TINY, f"data={folder}", f"out={tmp_path / 'out'}", "epochs=3", "seed=1")
        told = [message for message in caplog.messages if message.startswith("skipping ")]
        assert sorted(message.split("/")[-1].split(":")[0] for message in told) == sorted(names)
        assert all("\n" not in message for message in told)
        assert "pixels are no picture to resize" in " ".join(told)

    @pytest.mark.parametrize("streamed", [False, True])
    def test_in_tables_too(self, tmp_path, caplog, streamed):
        folder = write_images(tmp_path / "images")
        self.spoil(folder / "train" / "class0")
        files = sorted((folder / "train").rglob("*.*"))
        rows = [({"bytes": p.read_bytes(), "path": p.name}, int(p.parent.name == "class1")) for p in files]
        tables = write_tables(tmp_path / "tables", {"train": rows}, "ab")
        data = f"hfids/{tables}" if streamed else str(tables)
        run(main, *TINY, f"data={data}", f"out={tmp_path / 'out'}", "val_split=null", "batch_size=9")
        told = {message.split()[1].strip(":") for message in caplog.messages if message.startswith("skipping ")}
        assert told == {"damaged.avif", "spacer.png", "bomb.png"}
        # of a table's images the next one takes the place, and they lie side by side
        assert read_log(tmp_path / "out")[0]["unreadable"] == (3 if streamed else 3 + 2 + 1)

    @pytest.mark.parametrize("training", [False, True])
    def test_what_a_transform_raises(self, tmp_path, training, caplog):
        images = Images(read_folder(write_images(tmp_path / "images"), "train", None), training, 5)
        calls = []

        def transform(image):
            calls.append(image)
            if len(calls) == 1:
                raise MemoryError
            return image

        images.transform = transform
        image, label = images[3]
        assert image.size == ((12, 12) if training else (64, 64)) and label == (0 if training else -100)
        assert caplog.messages == ["skipping class0/train03.png: MemoryError"]


def test_parquet_without_the_split_or_the_column(tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"picture": [b""], "label": [0]}), tmp_path / "data" / "train.parquet")
    settings = (*TINY, f"data={tmp_path / 'data'}", f"out={tmp_path / 'out'}")
    assert "no column 'image'; the image_key is one of ['picture', 'label']" in fail(main, *settings)
    message = fail(main, *settings, "image_key=picture", "label_key=labels")
    assert "no column 'labels'; the label_key is one of" in message
    assert "testing" in fail(main, *settings, "train_split=testing")
    assert "not class numbers" in fail(main, *settings, "image_key=picture", "label_key=picture")


def test_labels_that_are_booleans_are_told(tmp_path):
    pq.write_table(pa.table({"image": [b"x"] * 2, "label": [False, True]}), tmp_path / "train.parquet")
    message = fail(main, *TINY, f"data={tmp_path}", f"out={tmp_path / 'out'}")
    assert "the labels are not class numbers from 0 up" in message


def test_repeated_augmentation_leaves_out_images_and_says_so(tmp_path):
    folder = write_images(tmp_path / "images", images=150)
    settings = (*TINY, f"data={folder}", f"out={tmp_path / 'out'}", "repeated_aug=3", "batch_size=280")
    message = fail(main, *settings)
    assert "300 training images, of which repeated_aug=3 takes 256 an epoch, are fewer than batch_size=280" in message


def test_a_damaged_shard_of_parquet_is_told_in_one_line(tmp_path):
    for shard in range(2):
        path = tmp_path / f"train-0000{shard}-of-00002.parquet"
        pq.write_table(pa.table({"image": [b"x" * 2000], "label": [0]}), path)
    path.write_bytes(path.read_bytes()[:-200])
    message = fail(main, *TINY, f"data={tmp_path}", f"out={tmp_path / 'out'}")
    assert f"data={tmp_path}, split 'train': " in message and "arquet" in message


def test_images_outside_their_classes_folders_are_told(tmp_path):
    folder = write_images(tmp_path / "images")
    settings = (*TINY, f"data={folder}", f"out={tmp_path / 'out'}")
    for split in ("train", "val"):
        loose = shutil.copy(next((folder / split / "class0").iterdir()), folder / split / "loose.png")
        assert f"{split} has images outside its 2 classes' folders" in fail(main, *settings)
        Path(loose).unlink()
        nested = folder / split / "class1" / "nested"
        nested.mkdir()
        assert f"{nested} is a folder in a class's folder" in fail(main, *settings)
        nested.rmdir()


def test_images_of_all_formats_are_read(tmp_path):
    folder = write_images(tmp_path / "images")
    for number, kind in enumerate(("webp", "bmp", "tif")):
        Image.new("RGB", (12, 12)).save(folder / "val" / "class0" / f"{number}.{kind}")
    assert len(read_folder(folder, "val", None)) == 2 * 12 + 3


def test_an_empty_class_and_classes_that_differ(tmp_path):
    folder = write_images(tmp_path / "images")
    settings = (*TINY, f"data={folder}", f"out={tmp_path / 'out'}")
    (folder / "val" / "class9").mkdir()
    assert "class9 is none of those trained" in fail(main, *settings)
    (folder / "val" / "class9").rmdir()
    (folder / "train" / "class2").mkdir()
    assert "class2 has no images" in fail(main, *settings)


def test_images_of_one_class_are_nothing_to_learn_from(tmp_path):
    """Images without folders for their classes would be one class, of which every guess is right."""
    folder = write_images(tmp_path / "images", classes=1)
    settings = (*TINY, f"data={folder}", f"out={tmp_path / 'out'}", "val_split=null")
    assert "are of one class, and a classifier needs two" in fail(main, *settings)
    for split in ("train", "val"):
        for image in (folder / split / "class0").iterdir():
            image.rename(folder / split / image.name)
        (folder / split / "class0").rmdir()
    assert "a folder of images has a folder in it for each class" in fail(main, *settings)
    shutil.rmtree(folder / "train")
    write_images(folder, splits=("train",))
    assert fail(main, *settings, "val_split=val").endswith("val has no folders of images, one for each class")


def test_classes_that_are_taken_in_their_order_are_told(tmp_path, caplog):
    folder = write_images(tmp_path / "images")
    for name in ("class0", "class1"):
        (folder / "val" / name).rename(folder / "val" / f"other-{name}")
    run(main, *TINY, f"data={folder}", f"out={tmp_path / 'out'}", "epochs=1")
    assert "have other names than those trained: they are taken in their order" in caplog.text


def test_what_a_recipe_sets_can_be_taken_back(tmp_path):
    (tmp_path / "recipe.yaml").write_text("opt: muon\nopt_args: {ns_steps: 3}\nmodel_args: {depth: 2}\n")
    given = ["data=x", "out=x", "opt=adamw", "opt_args={}", "model_args.embed_dim=8"]
    config = read_config(tmp_path / "recipe.yaml", given, Config)
    assert config.opt_args == {} and config.model_args == {"depth": 2, "embed_dim": 8}


def test_a_log_that_has_lost_epochs_is_not_taken_for_the_whole(images, tmp_path):
    settings = (*TINY, f"data={images}", f"out={tmp_path}")
    run(main, *settings)
    (tmp_path / "log.jsonl").unlink()
    assert "log.jsonl has 0 of the 3 epochs that were trained" in fail(main, *settings)


def test_a_damaged_last_checkpoint_is_named(images, tmp_path):
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "epochs=1")
    run(main, *settings)
    last = tmp_path / "last.pth.tar"
    last.write_bytes(last.read_bytes()[:2000])
    assert "last.pth.tar is not a file of weights" in fail(main, *settings)


def test_a_checkpoint_of_another_model_is_named_with_the_first_mismatch(images, tmp_path):
    settings = (*TINY, f"data={images}", "epochs=1")
    run(main, *settings, f"out={tmp_path / 'one'}")
    other = (f"out={tmp_path / 'two'}", f"checkpoint={tmp_path / 'one' / 'last.pth.tar'}", "model_args.depth=1")
    message = fail(main, *settings, *other)
    assert "last.pth.tar does not fit the model: layers.1" in message


def test_a_full_disk_leaves_the_checkpoint_before(images, tmp_path):
    """The limit on a file's size stands for the disk's end."""
    settings = (*TINY, f"data={images}", f"out={tmp_path}")
    run(main, *settings, "epochs=3", "sched=cosine")
    before = (tmp_path / "last.pth.tar").read_bytes()
    lengthen(tmp_path)
    line = [sys.executable, "-m", "resmlp_vision.train", *settings, "epochs=4"]
    limit = len(before) // 2
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env=os.environ,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "is the disk full?" in done.stderr and "the previous checkpoint is intact" in done.stderr.lower()
    assert (tmp_path / "last.pth.tar").read_bytes() == before
    assert not (tmp_path / "tmp.pth.tar").exists()


def test_a_disk_that_is_full_at_the_first_checkpoint_leaves_none_and_says_so(images, tmp_path):
    line = [sys.executable, "-m", "resmlp_vision.train", *TINY, f"data={images}", f"out={tmp_path}"]
    limit = resource.RLIMIT_FSIZE, (30_000, 30_000)
    done = subprocess.run(line, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(*limit))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "is the disk full? There is no last.pth.tar yet" in done.stderr and "intact" not in done.stderr
    assert not list(tmp_path.glob("*.pth.tar"))


def test_settings_are_read_from_a_file_and_the_command_line_wins(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: here\nlr: 0.1\nmodel_args: {depth: 3}\n")
    config = read_config(recipe, ["lr=0.2", "out=there", "model_args.embed_dim=8"], Config)
    assert (config.data, config.lr, config.model_args) == ("here", 0.2, {"depth": 3, "embed_dim": 8})
    with pytest.raises(UserError, match=r"data: give data=\.\.\."):
        read_config(None, ["out=there"], Config)
    with pytest.raises(UserError, match=r"finetune.yaml needs checkpoint=\.\.\."):
        read_config(Path(__file__).parents[2] / "recipes/imagenet/finetune.yaml", ["out=there"], Config)
    with pytest.raises(UserError, match="no recipe"):
        read_config(tmp_path / "none.yaml", [], Config)
    recipe.write_bytes("data: Fotos, große\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"recipe.yaml is not YAML"):
        read_config(recipe, [], Config)
    with pytest.raises(UserError, match="is not key=value"):
        read_config(None, ["lr"], Config)


@pytest.mark.parametrize(("command", "kind"), [(train, Config), (dino, DINOConfig)])
def test_the_help_names_a_recipe_that_there_is_and_defaults_as_they_are_written(command, kind, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    monkeypatch.setenv("COLUMNS", "10000")  # no setting is broken over two lines
    with pytest.raises(SystemExit):
        command.main()
    text = capsys.readouterr().out
    assert find_recipe(re.search(r"by name: (\S+)", text)[1], kind).exists()
    shown = re.split(r", (?=\w+=)", text.partition("settings and their defaults: ")[2].strip())
    assert {"data=...", "val_split=validation", "checkpoint=null"} < set(shown)
    given = ["data=x", "out=x"]
    defaults = [setting for setting in shown if not setting.endswith("=...")]
    assert read_config(None, [*defaults, *given], kind) == read_config(None, given, kind)
