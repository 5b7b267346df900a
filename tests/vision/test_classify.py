"""Classifying image files by the command line, and what it says of files that are none."""

import dataclasses
import os
import shutil
import struct
import subprocess
import sys
import zlib
from argparse import Namespace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo

from resmlp_core.common.images import convert, open_rgb
from resmlp_vision import create_model
from resmlp_vision.classify import classify as label
from resmlp_vision.classify import main
from resmlp_vision.config import Config
from resmlp_vision.models.loading import build


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model that is sure of class 1, a goldfish, whatever it sees."""
    model = create_model("resmlp_s12")
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias[1] = 10.0
    path = tmp_path_factory.mktemp("checkpoint") / "weights.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.fixture
def classify(capsys):
    """The command, in this process: its status, and what it prints."""

    def run(checkpoint, *images):
        line = ["classify", *map(str, images), "--checkpoint", str(checkpoint), "--model", "resmlp_s12"]
        with mock.patch("sys.argv", line):
            try:
                status = main()
            except SystemExit as stopped:
                status = stopped.code
        printed = capsys.readouterr()
        told = f"{status}\n" if isinstance(status, str) else ""  # which Python prints as it exits with 1
        return Namespace(returncode=1 if told else status or 0, stdout=printed.out, stderr=printed.err + told)

    return run


def noise(mode):
    shape = (40, 60) if mode == "L" else (40, 60, {"RGB": 3, "CMYK": 4, "RGBA": 4}[mode])
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), mode)


def test_images_of_every_kind_get_five_labels_with_probabilities(classify, checkpoint, tmp_path):
    images = {
        "rgb.png": noise("RGB"),
        "grey.jpg": noise("L"),
        "cmyk.jpg": noise("CMYK"),
        "alpha.png": noise("RGBA"),
        "16-bit.png": Image.fromarray(np.full((30, 30), 40000, dtype=np.uint16)),
        "one-pixel.png": Image.new("RGB", (1, 1)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    done = classify(checkpoint, *(tmp_path / name for name in images))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.rsplit("/")[-1] for line in lines[::6]] == list(images)
    e = np.exp(10)
    assert lines[1] == f"  {e / (e + 999):7.2%}  goldfish, Carassius auratus"
    assert len(lines) == 6 * len(images)


def test_weights_as_timm_ships_them_and_folder_names_of_imagenet(classify, checkpoint, tmp_path):
    weights = torch.load(checkpoint, weights_only=True)["model"]
    save_file(weights, tmp_path / "weights.safetensors")
    noise("RGB").save(tmp_path / "image.png")
    args = dataclasses.asdict(Config(data="x", out="x", model_args={"depth": 12})) | {"num_classes": 1000}
    synsets = ImageNetInfo().label_names()
    state = {"arch": "resmlp_s12", "state_dict": weights, "args": Namespace(**args, classes=synsets)}
    torch.save(state, tmp_path / "run.pth")
    for name in ("weights.safetensors", "run.pth"):
        done = classify(tmp_path / name, tmp_path / "image.png")
        assert "goldfish, Carassius auratus" in done.stdout.splitlines()[1], done.stderr
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes()[:1000])
    done = classify(tmp_path / "torn.safetensors", tmp_path / "image.png")
    assert done.returncode == 1 and "is not a file of weights" in done.stderr and "Traceback" not in done.stderr


def test_the_folder_of_a_training_run_stands_for_its_last_checkpoint(classify, checkpoint, tmp_path):
    noise("RGB").save(tmp_path / "image.png")
    told = classify(tmp_path, tmp_path / "image.png").stderr
    assert told.startswith(f"classify: no model.safetensors, model.pt or last.pth.tar in {tmp_path}: ")
    shutil.copy(checkpoint, tmp_path / "last.pth.tar")
    expected = classify(checkpoint, tmp_path / "image.png").stdout
    assert "goldfish" in expected and classify(tmp_path, tmp_path / "image.png").stdout == expected


def test_a_photograph_that_was_taken_upright_is_seen_upright(checkpoint, tmp_path):
    """Cameras write what the sensor saw, and how it was held beside it."""
    upright = noise("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    torch.manual_seed(0)
    model = create_model("resmlp_s12", depth=1, embed_dim=8).eval()
    torch.nn.init.normal_(model.head.weight)
    expected, found = (label(model, tmp_path / f"{name}.png") for name in ("upright", "turned"))
    assert found == expected


def test_a_photograph_whose_exif_data_are_damaged_stays_as_it_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif[0x011A] = 72.0
    number = exif.tobytes().replace(b"\x01\x0f\x00\x02", b"\x01\x20\x00\x02")  # a tag of numbers, not the maker's
    text = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x0e\x00\x05")  # a tag of text, not the resolution's
    assert exif.tobytes() not in (number, text)
    data_of = {"turned": exif.tobytes(), "number": number, "text": text}
    for (name, data), size in zip(data_of.items(), [(40, 60), (60, 40), (60, 40)], strict=True):
        noise("RGB").save(tmp_path / f"{name}.jpg", exif=data)
        assert open_rgb(tmp_path / f"{name}.jpg").size == size


def test_weights_given_for_a_tagged_model_are_fitted_like_any(checkpoint):
    config = Config(data="x", out="x", model="resmlp_s12.fb_in1k", pretrained=True, checkpoint=str(checkpoint))
    model = build(dataclasses.replace(config, img_size=288), 10)
    assert model.num_classes == 10 and model.layers[0].cross_position.mixer.weight.shape == (324, 324)


def test_sixteen_bits_keep_their_brightness(tmp_path):
    Image.fromarray(np.full((2, 2), 40000, dtype=np.uint16)).save(tmp_path / "grey.png")
    assert open_rgb(tmp_path / "grey.png").getpixel((0, 0)) == (155, 155, 155)


def test_integers_within_eight_bits_keep_their_brightness_and_floats_are_refused(tmp_path):
    Image.fromarray(np.full((2, 2), 155, dtype=np.int32)).save(tmp_path / "grey.tif")
    assert open_rgb(tmp_path / "grey.tif").getpixel((0, 0)) == (155, 155, 155)
    Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif cannot be read as an image: its pixels are floating-point"):
        open_rgb(tmp_path / "float.tif")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16, 17, 31, 32])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_greys_of_any_depth_are_scaled_by_it(tmp_path, bits, kind):
    ramp = np.linspace(0, 2**bits - 1, 64 * 64).astype(np.int64).reshape(64, 64)
    path = tmp_path / f"ramp.{kind}"
    if bits <= 16:
        Image.fromarray(ramp.astype(np.uint16)).save(path)
    elif kind == "tif":
        Image.fromarray(ramp.astype(np.uint32).view(np.int32)).save(path)
        if bits == 32:  # Pillow writes that they are signed
            content, sample_format = path.read_bytes(), b"\x53\x01\x03\x00\x01\x00\x00\x00"
            assert content.count(sample_format + b"\x02") == 1
            path.write_bytes(content.replace(sample_format + b"\x02", sample_format + b"\x01"))
    else:
        pytest.skip("no PNG has more than 16 bits")
    grey = np.asarray(open_rgb(path))[..., 0]
    assert grey.min() == 0 and grey.max() == 255
    assert np.abs(grey.astype(float) - np.linspace(0, 255, 64 * 64).reshape(64, 64)).max() <= 1


@pytest.mark.parametrize("mode", ["I;16B", "I;16"])
def test_greys_of_either_byte_order_are_the_same(tmp_path, mode):
    ramp = np.arange(4096, dtype=">u2" if mode == "I;16B" else "<u2").reshape(64, 64)
    Image.frombytes(mode, (64, 64), ramp.tobytes()).save(tmp_path / "ramp.tif")
    assert len(np.unique(np.asarray(open_rgb(tmp_path / "ramp.tif")))) == 256


def test_where_zero_is_white_it_is_so_in_16_bits_too(tmp_path):
    tag = b"\x06\x01\x03\x00\x01\x00\x00\x00"  # PhotometricInterpretation, one short
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tmp_path / "black.tif")
    content = (tmp_path / "black.tif").read_bytes()
    assert content.count(tag + b"\x01") == 1
    (tmp_path / "white.tif").write_bytes(content.replace(tag + b"\x01", tag + b"\x00"))
    pixels = [np.asarray(open_rgb(tmp_path / f"{name}.tif"))[0, :, 0].tolist() for name in ("black", "white")]
    assert pixels == [[0, 255], [255, 0]]


def test_negative_greys_are_refused_by_name(tmp_path):
    Image.fromarray(np.array([[-5, 5]], dtype=np.int32)).save(tmp_path / "signed.tif")
    with pytest.raises(ValueError, match=r"signed\.tif cannot be read as an image: some of its pixels are negative"):
        open_rgb(tmp_path / "signed.tif")


def png_of_16_bits(colours: np.ndarray) -> bytes:
    """A PNG of ``(height, width, channels)``, which Pillow reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = colours.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_12_bits_in_16_are_refused_by_name_and_not_black(tmp_path, channels):
    path = tmp_path / "camera.png"
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64, 1).repeat(channels, axis=2)
    path.write_bytes(png_of_16_bits(ramp))
    if channels == 3:
        assert len(np.unique(np.asarray(open_rgb(path)))) == 256
    path.write_bytes(png_of_16_bits(ramp // 16))
    with pytest.raises(ValueError, match=r"camera\.png cannot be read as an image: its 16-bit colours use 12 bits"):
        open_rgb(path)
    path.write_bytes(png_of_16_bits(ramp * 0))
    assert not np.asarray(open_rgb(path)).any()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa"])
def test_every_mode_of_pillows_keeps_its_brightness(mode):
    image = Image.new("L", (4, 4), 255)
    for step in {"La": ("LA", "La"), "PA": ("P", "PA"), "RGBa": ("RGBA", "RGBa")}.get(mode, (mode,)):
        image = image.convert(step)
    assert convert(image).getpixel((0, 0)) == (255, 255, 255)


def test_what_is_no_image_is_named_in_one_line_and_the_images_beside_it_are_classified(classify, checkpoint, tmp_path):
    noise("RGB").save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:500])
    (tmp_path / "text.png").write_text("not an image")
    Image.new("RGB", (1, 20000)).save(tmp_path / "spacer.png")
    Image.new("1", (20000, 10000)).save(tmp_path / "bomb.png")
    noise("RGB").save(tmp_path / "whole.avif")
    avif = (tmp_path / "whole.avif").read_bytes()
    (tmp_path / "damaged.avif").write_bytes(avif[:270] + bytes(16) + avif[286:])  # within the picture's own data
    broken = ("cut.jpg", "text.png", "missing.png", "spacer.png", "bomb.png", "damaged.avif")
    done = classify(checkpoint, *(tmp_path / name for name in (*broken, "whole.jpg")))
    assert done.returncode == 1
    for line, name in zip(done.stderr.splitlines(), broken, strict=True):
        assert line.startswith("classify: ") and name in line
    assert done.stdout.startswith(f"{tmp_path}/whole.jpg\n")


def test_a_folder_stands_for_the_images_in_it_and_a_url_for_none(classify, checkpoint, tmp_path):
    for name in ("10.png", "9.png", "inner/a.png", ".hidden/b.png", "._9.png", "__MACOSX/9.png", "@eaDir/9.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        noise("RGB").save(tmp_path / "images" / name)
    (tmp_path / "images" / "Thumbs.db").write_text("no image")
    (tmp_path / "empty").mkdir()
    done = classify(checkpoint, "https://example.org/cat.png", tmp_path / "images", tmp_path / "empty")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "classify: https://example.org/cat.png is a URL, which only --checkpoint takes; images are files or folders",
        f"classify: no images in {tmp_path / 'empty'}",
    ]
    named = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert named == [f"{tmp_path}/images/{name}" for name in ("9.png", "10.png", "inner/a.png")]


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict", "latin-1:strict"])
def test_names_that_the_output_cannot_show_are_shown_with_question_marks(tmp_path, encoding):
    """A name in Latin-1, as old archives have them, and a class in Greek."""
    model = create_model("resmlp_s12", num_classes=1, img_size=32, depth=1, embed_dim=8)
    args = dataclasses.asdict(Config(data="x", out="x", img_size=32, model_args={"depth": 1, "embed_dim": 8})) | {
        "num_classes": 1,
        "classes": ["γάτα\udce9"],
    }
    torch.save({"state_dict": model.state_dict(), "args": Namespace(**args)}, tmp_path / "run.pth")
    name = os.fsdecode(b"caf\xe9.png")
    noise("RGB").save(tmp_path / name)
    line = [sys.executable, "-m", "resmlp_vision.classify", tmp_path / "missing\udce9.png", tmp_path / name]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [*line, "--checkpoint", tmp_path / "run.pth"],
        capture_output=True,
        text=True,
        env=environment,
        encoding="latin-1",
    )
    assert done.stderr.startswith("classify: no image ") and done.stderr.count("\n") == 1
    path, label = done.stdout.splitlines()
    assert path.endswith("/caf?.png") and label.endswith("?")


def test_a_checkpoint_of_other_classes_gives_their_numbers(classify, tmp_path):
    torch.save(create_model("resmlp_s12", num_classes=3).state_dict(), tmp_path / "three.pth")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    done = classify(tmp_path / "three.pth", tmp_path / "a.png")
    assert sorted(line.split()[-1] for line in done.stdout.splitlines()[1:]) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: timm.create_model("resmlp_24_224").state_dict(), ", as --model resmlp_s12, does not fit the model: "),
        (
            lambda: {"net.bias": torch.zeros(3), "net.b": {"c": torch.zeros(3)}},
            " has no classifier of a ResMLP: neither head.weight nor stem.proj.weight or patch_embed.proj.weight, "
            "behind any prefix, but 'net.bias', 'net.b.c'",
        ),
        (lambda: {"stem.proj.weight": torch.zeros(3)}, " has no classifier; evaluate --probe measures its features"),
        (lambda: {"head.weight": Path("x")}, " is not a file of weights"),
    ],
)
def test_a_file_that_does_not_fit_is_named_in_one_line(classify, tmp_path, content, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    torch.save(content(), tmp_path / "other.pth")
    done = classify(tmp_path / "other.pth", tmp_path / "a.png")
    assert done.returncode == 1
    assert done.stderr.startswith(f"classify: {tmp_path}/other.pth{message}") and done.stderr.count("\n") == 1


def test_a_model_without_released_weights_is_named(tmp_path):
    line = [sys.executable, "-m", "resmlp_vision.classify", "a.png", "--model", "resmlp_b24"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("classify: no weights of 'resmlp_b24' were released; give --checkpoint, or one of")
