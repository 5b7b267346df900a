"""Looking inside a classifier's checkpoint: of a training run, and of weights under others' names."""

import base64
import json
import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from resmlp_core.inspect.matrices import read_model
from resmlp_core.inspect.report import inspect
from resmlp_vision import create_model
from resmlp_vision.train import main

from .runs import PLAIN, TINY, run, write_images
from .small_models import randomise, to_release


def same_layers(model, checkpoint):
    layers = read_model(checkpoint).parts["trunk"]
    assert len(layers) == len(model.layers)
    for ours, found in zip(model.layers, layers, strict=True):
        assert torch.equal(found.matrices["A"], ours.cross_position.mixer.weight)
        assert torch.equal(found.matrices["B"], ours.cross_channel.mixer.fc1.weight)
        assert torch.equal(found.matrices["C"], ours.cross_channel.mixer.fc2.weight)
        for name, sublayer in {"cross-position": ours.cross_position, "cross-channel": ours.cross_channel}.items():
            assert torch.equal(found.scales["pre"][name], sublayer.pre.alpha)
            assert torch.equal(found.scales["post"][name], sublayer.post.alpha)


def test_a_training_runs_checkpoint(tmp_path):
    images = write_images(tmp_path / "images", images=8)
    run(main, *TINY, *PLAIN, f"data={images}", f"out={tmp_path / 'run'}", "epochs=1")
    inspect(tmp_path / "run" / "last.pth.tar", tmp_path / "inside")
    inside = json.loads((tmp_path / "inside" / "inside.json").read_text())
    assert (inside["kind"], inside["architecture"], inside["patch_grid"]) == ("images", "resmlp_s12", [2, 2])
    model = create_model("resmlp_s12", num_classes=2, img_size=8, depth=2, embed_dim=16, patch_size=4)
    assert inside["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    model.load_state_dict(torch.load(tmp_path / "run" / "last.pth.tar", weights_only=False)["state_dict"])
    same_layers(model, tmp_path / "run" / "last.pth.tar")
    assert (tmp_path / "inside" / "filters.png").exists()


@pytest.mark.parametrize("names", ["the release's", "timm's"])
def test_released_weights(tmp_path, names):
    peer = randomise(timm.create_model("resmlp_12_224"))
    weights = to_release(peer.state_dict()) if names == "the release's" else peer.state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    same_layers(create_model("resmlp_s12", tmp_path / "weights.pth"), tmp_path / "weights.pth")


def test_the_page_of_s12_holds_a_in_16_bits_and_stays_under_three_megabytes(tmp_path):
    """Noise is the worst that its pictures, and an image beside them, have to compress."""
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    model = randomise(create_model("resmlp_s12"))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    inspect(tmp_path / "weights.pth", tmp_path / "inside", image=tmp_path / "noise.png")
    page = (tmp_path / "inside" / "index.html").read_bytes()
    assert len(page) < 3_000_000
    content = json.loads(re.search(rb'<script type="application/json"[^>]*>(.*?)</script>', page)[1])
    assert content["grid"] == [14, 14] and len(content["layers"]) == 12
    for layer, packed in zip(model.layers, content["layers"], strict=True):
        a = layer.cross_position.mixer.weight.detach().double().numpy()
        stored = np.frombuffer(base64.b64decode(packed["weights"]), "<i2").reshape(196, 196) * packed["step"]
        assert packed["step"] == abs(a).max() / 32767
        assert abs(stored - a).max() <= packed["step"] / 2 * 1.0001


def test_the_image_beside_a_is_cut_as_the_runs_evaluation_cuts_it(tmp_path):
    images = write_images(tmp_path / "images", images=8)
    run(main, *TINY, *PLAIN, f"data={images}", f"out={tmp_path / 'run'}", "epochs=1", "crop_pct=0.5")
    assert read_model(tmp_path / "run" / "last.pth.tar").crop == 0.5
