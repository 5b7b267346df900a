"""A folder of pictures as people have them: what each becomes (docs/images.md), and training on them."""

import numpy as np
import pytest
from PIL import Image

from resmlp_vision.data.image_io import open_rgb
from resmlp_vision.evaluate import main as evaluate
from resmlp_vision.train import main

from .runs import TINY, read_log, run

RED = (200, 40, 30)


def write_kinds(folder):
    """Write a picture of each kind that is read, half red and half of another colour, in many sizes."""
    folder.mkdir(parents=True)
    picture = Image.new("RGB", (64, 40), RED)
    picture.paste((30, 60, 200), (32, 0, 64, 40))
    picture.save(folder / "photo.jpg", quality=95)
    picture.resize((500, 375)).convert("L").save(folder / "grey.jpg", quality=95)
    picture.resize((33, 70)).convert("1").save(folder / "bits.png")
    picture.resize((375, 500)).convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", quality=95, exif=exif)
    Image.fromarray(np.linspace(0, 65535, 64 * 40).reshape(40, 64).astype(np.uint16)).save(folder / "deep.png")
    picture.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    picture.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (64, 40))])
    transparent = picture.convert("RGBA")
    transparent.putalpha(0)
    transparent.save(folder / "alpha.png")
    picture.resize((3000, 2000)).save(folder / "large.jpg")
    picture.resize((1, 1)).save(folder / "one.png")


@pytest.mark.parametrize(
    ("name", "corners"),
    [
        ("photo.jpg", (RED, (30, 60, 200))),
        ("grey.jpg", ((87,) * 3, (67,) * 3)),
        ("cmyk.jpg", (RED, (30, 60, 200))),
        ("turned.jpg", (RED, (30, 60, 200))),
        ("deep.png", ((0,) * 3, (255,) * 3)),
        ("palette.png", (RED, (30, 60, 200))),
        ("moving.gif", (RED, (30, 60, 200))),
        ("alpha.png", (RED, (30, 60, 200))),
    ],
)
def test_what_each_becomes(tmp_path, name, corners):
    write_kinds(tmp_path / "kinds")
    pixels = np.asarray(open_rgb(tmp_path / "kinds" / name)).astype(int)
    assert np.abs(np.stack([pixels[0, 0], pixels[-1, -1]]) - corners).max() <= 4
    if name == "turned.jpg":
        assert pixels.shape == (40, 64, 3)


def test_a_model_trains_on_them_and_is_measured_and_those_that_cannot_be_read_are_named(tmp_path, caplog):
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            write_kinds(tmp_path / "photos" / split / label)
        whole = (tmp_path / "photos" / split / "cat" / "photo.jpg").read_bytes()
        (tmp_path / "photos" / split / "cat" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "photos" / split / "dog" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    recipe = [setting for setting in TINY if not setting.startswith(("repeated_aug", "mixup", "cutmix", "reprob"))]
    run(main, *recipe, f"data={tmp_path / 'photos'}", f"out={tmp_path / 'out'}", "epochs=1", "repeated_aug=2")
    told = {line.split(":")[0].split("/")[-1] for line in caplog.messages if line.startswith("skipping ")}
    assert told == {"truncated.jpg", "phone.HEIC"}
    (record,) = read_log(tmp_path / "out")
    assert record["unreadable"] <= 4 and np.isfinite(record["train_loss"])
    line = ("--checkpoint", tmp_path / "out" / "last.pth.tar", "--data", tmp_path / "photos", "--split", "val")
    printed = run(evaluate, *line, "--device", "cpu", "--workers", 0)
    assert "without 2 images that cannot be read" in printed and "(22 images" in printed
