"""Classifiers go to the hub by timm's own functions and come back; the network itself is pretended."""

import shutil
from types import SimpleNamespace

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from timm.models import _hub, push_to_hf_hub, save_for_hf

import resmlp_vision
from resmlp_vision.models.loading import load_trained
from resmlp_vision.train import main

from .runs import TINY, run, write_images

SIZES = {"num_classes": 3, "depth": 2, "embed_dim": 16, "img_size": 32, "patch_size": 8, "norm": "layer_norm"}


@pytest.mark.parametrize("create", [timm.create_model, resmlp_vision.create_model])
def test_a_pushed_model_has_a_card_and_safetensors_and_is_read_again(create, tmp_path, monkeypatch):
    class Api:
        """What timm asks of the hub."""

        def __init__(self, **kwargs):
            pass

        def create_repo(self, repo_id, **kwargs):
            return SimpleNamespace(repo_id=repo_id)

        def file_exists(self, **kwargs):
            return False

        def upload_folder(self, folder_path, **kwargs):
            shutil.copytree(folder_path, tmp_path / "hub")

    monkeypatch.setattr(_hub, "HfApi", Api)
    model = create("resmlp_s12", **SIZES).eval()
    card = {"description": "Three flowers.", "details": {"Dataset": "flowers"}}
    push_to_hf_hub(model, "me/flowers", model_card=card, safe_serialization=True)
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    read = ModelCard.load(tmp_path / "hub" / "README.md")
    assert read.data.library_name == "timm" and read.data.pipeline_tag == "image-classification"
    assert "Three flowers." in read.text
    again = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    assert again(images).equal(model(images))


def test_a_trained_model_takes_its_classes_and_its_image_size_along(tmp_path):
    run(main, *TINY, f"data={write_images(tmp_path / 'images')}", f"out={tmp_path / 'run'}", "epochs=1")
    model = load_trained(tmp_path / "run" / "last.pth.tar").eval()
    save_for_hf(model, tmp_path / "hub", model_config={"label_names": model.classes}, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    images = torch.randn(2, 3, 8, 8)
    assert again(images).equal(model(images))
    assert again.pretrained_cfg["label_names"] == ["class0", "class1"]
    assert again.pretrained_cfg["input_size"] == (3, 8, 8)
