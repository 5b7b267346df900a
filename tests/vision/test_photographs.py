"""A folder of pictures as people have them: what each becomes (docs/images.md), and the whole path on photographs."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image, ImageCms

from resmlp_core.inspect.report import inspect
from resmlp_vision.data.image_io import open_rgb
from resmlp_vision.evaluate import main as evaluate
from resmlp_vision.train import main

from .runs import TINY, read_log, run, start

RED, BLUE = (200, 40, 30), (30, 60, 200)
PHOTOGRAPHS = Path(sklearn.datasets.__file__).parent / "images"  # of a tower and of a flower, 640 x 427 pixels


def write_kinds(folder, picture):
    """Write a picture as each kind that is read, in many sizes."""
    folder.mkdir(parents=True)
    picture.save(folder / "photo.jpg", quality=95)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    picture.save(folder / "profile.jpg", quality=95, icc_profile=profile)
    picture.resize((500, 375)).convert("L").save(folder / "grey.jpg", quality=95)
    picture.resize((33, 70)).convert("1").save(folder / "bits.png")
    picture.resize((375, 500)).convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", quality=95, exif=exif)
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    picture.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    picture.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", picture.size)])
    transparent = picture.convert("RGBA")
    transparent.putalpha(0)
    transparent.save(folder / "alpha.png")
    picture.resize((3000, 2000)).save(folder / "large.jpg")
    picture.resize((1, 1)).save(folder / "one.png")


@pytest.mark.parametrize(
    ("name", "corners"),
    [
        ("photo.jpg", (RED, BLUE)),
        ("profile.jpg", (RED, BLUE)),
        ("grey.jpg", ((87,) * 3, (67,) * 3)),
        ("cmyk.jpg", (RED, BLUE)),
        ("turned.jpg", (RED, BLUE)),
        ("deep.png", ((87,) * 3, (67,) * 3)),
        ("palette.png", (RED, BLUE)),
        ("moving.gif", (RED, BLUE)),
        ("alpha.png", (RED, BLUE)),
    ],
)
def test_what_each_becomes(tmp_path, name, corners):
    picture = Image.new("RGB", (64, 40), RED)
    picture.paste(BLUE, (32, 0, 64, 40))
    write_kinds(tmp_path / "kinds", picture)
    pixels = np.asarray(open_rgb(tmp_path / "kinds" / name)).astype(int)
    assert np.abs(np.stack([pixels[0, 0], pixels[-1, -1]]) - corners).max() <= 4
    if name == "turned.jpg":
        assert pixels.shape == (40, 64, 3)


def test_a_model_trains_on_photographs_is_measured_used_and_looked_into(tmp_path, caplog):
    """Those that cannot be read are named."""
    for split in ("train", "val"):
        for label in ("china", "flower"):
            write_kinds(tmp_path / "photos" / split / label, Image.open(PHOTOGRAPHS / f"{label}.jpg"))
        whole = (tmp_path / "photos" / split / "china" / "photo.jpg").read_bytes()
        (tmp_path / "photos" / split / "china" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "photos" / split / "flower" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    recipe = [setting for setting in TINY if not setting.startswith(("repeated_aug", "mixup", "cutmix", "reprob"))]
    run(main, *recipe, f"data={tmp_path / 'photos'}", f"out={tmp_path / 'out'}", "epochs=1", "repeated_aug=2")
    told = {line.split(":")[0].split("/")[-1] for line in caplog.messages if line.startswith("skipping ")}
    assert told == {"truncated.jpg", "phone.HEIC"}
    (record,) = read_log(tmp_path / "out")
    assert record["unreadable"] <= 4 and np.isfinite(record["train_loss"])
    model = ("--checkpoint", tmp_path / "out" / "last.pth.tar")
    printed = run(evaluate, *model, "--data", tmp_path / "photos", "--split", "val", "--device", "cpu", "--workers", 0)
    assert "without 2 images that cannot be read" in printed and "(24 images" in printed
    classifying = start(tmp_path / "photos" / "val", *model, module="resmlp_vision.classify")
    labels, refused = classifying.communicate()
    assert classifying.returncode == 1 and labels.count("%  flower") == 24
    assert [line.split(" cannot")[0].split("/")[-1] for line in refused.splitlines()] == ["truncated.jpg", "phone.HEIC"]
    inspect(tmp_path / "out", tmp_path / "inside", image=tmp_path / "photos" / "val" / "china" / "turned.jpg")
    assert '"image": "data:image/jpeg' in (tmp_path / "inside" / "index.html").read_text()
