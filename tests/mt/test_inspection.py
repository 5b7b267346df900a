"""Looking inside the checkpoints that fairseq writes."""

import argparse
import json

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils

from resmlp_core import CrossPositionLinear
from resmlp_core.common.errors import UserError
from resmlp_core.inspect.matrices import read_model
from resmlp_core.inspect.report import inspect

from .conftest import SMALL, every_variant, make_model, small_model, variant


def write(model, path, arch="resmlp"):
    """Write a checkpoint by fairseq's writer, with options and, as --eval-bleu leaves them, counts."""
    extra_state = {"counts": np.arange(4)}
    state = {"args": None, "cfg": {"model": argparse.Namespace(arch=arch)}, "model": model.state_dict()}
    checkpoint_utils.torch_persistent_save(state | {"extra_state": extra_state}, str(path))
    return path


@every_variant
def test_every_variant_of_the_model_is_read(tmp_path, name):
    model = variant(name)
    found = read_model(write(model, tmp_path / "model.pt"))
    for part, layers in found.parts.items():
        for ours, layer in zip(getattr(model, part).layers, layers, strict=True):
            (a,) = (m.weight for m in ours.cross_position.modules() if isinstance(m, CrossPositionLinear))
            assert torch.equal(layer.matrices["A"], a)
            assert torch.equal(layer.matrices["C"], ours.cross_channel.mixer.fc2.weight)
            assert torch.equal(layer.scales["post"]["cross-position"], ours.cross_position.post.alpha)
            assert layer.causal == (part == "decoder") == ("cross-attention" in layer.scales["pre"])
    assert found.pre_norm == ("LayerNorm" if name in ("layer_norm", "all") else "Aff")


def test_its_pictures_and_figures(tmp_path):
    model = small_model(share_decoder_input_output_embed=True)
    inspect(write(model, tmp_path / "model.pt"), tmp_path / "inside", positions=8)
    inside = json.loads((tmp_path / "inside" / "inside.json").read_text())
    assert (inside["kind"], inside["architecture"], inside["positions_shown"]) == ("text", "resmlp", 8)
    assert inside["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    lower = [abs(w) for t, row in enumerate(model.decoder.layers[1].cross_position.mixer.weight.tolist())
             for w in row[: t + 1]]  # fmt: skip
    assert len(lower) == 78
    small = sum(w < 0.05 * max(lower) for w in lower) / len(lower)
    assert inside["layers"]["decoder"][1]["sparsity"]["A"] == pytest.approx(small)
    assert list(inside["layers"]["decoder"][0]["band"]) == [str(k) for k in range(-7, 1)]
    assert {path.name for path in (tmp_path / "inside").glob("*.png")} == {
        f"{name}.png" for name in ("matrices", "band", "scales", "sparsity")
    }


def test_fairseqs_transformer_is_refused(tmp_path):
    options = {key: value for key, value in SMALL.items() if "positions" not in key}
    model = make_model("transformer", random=False, encoder_attention_heads=2, **options)
    with pytest.raises(UserError, match=r"model\.pt is not a checkpoint of a ResMLP: it has no matrix A"):
        read_model(write(model, tmp_path / "model.pt", "transformer"))
