"""What a user can get wrong in training ends in one line that says what to mend, and no traceback."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from resmlp_core.files import UserError
from resmlp_vision.config import Config, read_config
from resmlp_vision.data import read_folder
from resmlp_vision.train import main

from .runs import TINY, fail, run, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


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
        ("epochs=many", "epochs: "),
        ("dtype=int8", "dtype=int8 is none of"),
        ("model=vit_tiny_patch16_224 checkpoint=/nowhere.pth", "/nowhere.pth"),
        ("auto_augment=rnd-m9", "auto_augment=rnd-m9 is not a policy of timm's"),
        ("color_jitter=-1 auto_augment=null", "color_jitter=-1.0 must be 0 or more"),
        ("interpolation=random", "interpolation=random is none of"),
        ("sched=step decay_epochs=0", "decay_epochs=0.0 must be above 0"),
        ("smoothing=2", "smoothing=2.0 must be from 0 to 1"),
        ("drop_path=2", "drop_path=2.0 must be from 0 to 1"),
        ("crop_pct=9", "crop_pct=9.0 must be from 0 to 1"),
        ("ema_decay=99", "ema_decay=99.0 must be from 0 to 1"),
        ("clip_grad=0", "clip_grad=0.0 must be above 0"),
        ("lr=-1", "lr=-1.0 must be 0 or more"),
        ("model_args.in_chans=1", "images are RGB"),
        ("model_args.global_pool=''", "what enters a classifier is pooled"),
        ("warmup_epochs=4", "warmup_epochs=4.0 must not be more than epochs=3"),
        ("teacher=runs/convnet/last.pth.tar", "teacher=runs/convnet/last.pth.tar: there is no such file"),
        ("seed=-1", "seed=-1 must be 0 or more"),
        ("repeated_aug=-2", "repeated_aug=-2 must be 0 or more"),
        ("scale=[1]", "scale=[1.0] must be two shares of the area, the smaller first"),
        ("sched=step decay_rate=-1", "decay_rate=-1.0 must be 0 or more"),
        ("scale=[1,0.5]", "scale=[1.0, 0.5] must be two shares of the area"),
        ("opt=fusedlamb", "opt=fusedlamb: "),
        ("opt=adahessian", "opt=adahessian needs second derivatives"),
        ("model_args.depth=0", "depth=0 and embed_dim=16 must be above 0"),
        ("model_args.patch_size=0", "img_size=8x8 is no multiple of patch_size=0"),
    ],
)
def test_a_mistake_is_told_in_one_line(images, tmp_path, override, message):
    assert message in fail(main, *TINY, f"data={images}", f"out={tmp_path}", *override.split())
    assert not (tmp_path / "last.pth.tar").exists()


def test_parquet_without_the_split_or_the_column(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"picture": [b""], "label": [0]}), tmp_path / "data" / "train.parquet")
    settings = (*TINY, f"data={tmp_path / 'data'}", f"out={tmp_path / 'out'}")
    assert "no column 'image'; the image_key is one of ['picture', 'label']" in fail(main, *settings)
    message = fail(main, *settings, "image_key=picture", "label_key=labels")
    assert "no column 'labels'; the label_key is one of" in message
    assert "testing" in fail(main, *settings, "train_split=testing")
    assert "not class numbers" in fail(main, *settings, "image_key=picture", "label_key=picture")


def test_repeated_augmentation_leaves_out_images_and_says_so(tmp_path):
    folder = write_images(tmp_path / "images", images=150)
    settings = (*TINY, f"data={folder}", f"out={tmp_path / 'out'}", "repeated_aug=3", "batch_size=280")
    message = fail(main, *settings)
    assert "300 training images, of which repeated_aug=3 takes 256 an epoch, are fewer than batch_size=280" in message


def test_a_damaged_shard_of_parquet_is_told_in_one_line(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    settings_file = tmp_path / "config.yaml"  # lets the run go on for an epoch more
    settings_file.write_text(settings_file.read_text().replace("\nepochs: 3", "\nepochs: 4"))
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
