"""What timm's tools ask of a model."""

import pytest
import timm
import torch
from timm.models._features import FeatureGetterNet
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock

import resmlp_vision  # noqa: F401  makes its models known to timm
from resmlp_vision.models.weights import load_weights

from .small_models import TINY, randomise


def make(**more):
    torch.manual_seed(0)
    return randomise(timm.create_model("resmlp_s12", **TINY | more))


def test_features_and_head_make_the_logits():
    model, images = make(), torch.randn(2, 3, 32, 32)
    features = model.forward_features(images)
    assert features.shape == (2, 16, 16)
    torch.testing.assert_close(model.forward_head(features), model(images))
    assert model.forward_head(features, pre_logits=True).shape == (2, 16)


def test_features_are_those_of_timms_own_model_of_the_same_weights():
    sizes = {"embed_dim": 16, "img_size": 32, "patch_size": 8, "num_classes": 5}
    parts = {"block_layer": ResBlock, "norm_layer": Affine}  # as in resmlp_12_224
    theirs, ours = randomise(MlpMixer(num_blocks=2, mlp_ratio=4, **sizes, **parts)), make()
    load_weights(ours, theirs.state_dict(), "timm's")
    images = torch.randn(2, 3, 32, 32)
    for features in (
        lambda model: model.forward_features(images),
        lambda model: model.forward_head(model.forward_features(images), pre_logits=True),
        *(
            lambda model, fmt=fmt, norm=norm: model.forward_intermediates(images, norm=norm, output_fmt=fmt)
            for fmt in ("NCHW", "NLC")
            for norm in (False, True)
        ),
        lambda model: FeatureGetterNet(model, out_indices=(0, 1), norm=False)(images),
    ):
        torch.testing.assert_close(features(ours), features(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output_fmt", ["NCHW", "NLC"])
def test_intermediates_end_in_the_features(output_fmt):
    model, images = make(), torch.randn(2, 3, 32, 32)
    final, outputs = model.forward_intermediates(images, norm=True, output_fmt=output_fmt)
    last = outputs[-1].flatten(2).transpose(1, 2) if output_fmt == "NCHW" else outputs[-1]
    torch.testing.assert_close(last, final)
    torch.testing.assert_close(final, model.forward_features(images))
    (only,) = model.forward_intermediates(images, 1, norm=True, stop_early=True, intermediates_only=True)
    assert only.shape == (2, 16, 4, 4)


def test_pruned_it_still_gives_the_features_of_the_layers_that_are_left():
    model, images = make(depth=3), torch.randn(2, 3, 32, 32)
    expected = model.forward_intermediates(images, [1], intermediates_only=True)
    model.prune_intermediate_layers([1])
    assert len(model.layers) == 2
    torch.testing.assert_close(model.forward_intermediates(images, [1], intermediates_only=True), expected)


def test_feature_extraction_by_timms_wrapper():
    model = timm.create_model("resmlp_s12", features_only=True, out_indices=(0, 1), **TINY)
    assert model.feature_info.channels() == [16, 16]
    assert [tuple(x.shape) for x in model(torch.randn(2, 3, 32, 32))] == [(2, 16, 4, 4)] * 2


@pytest.mark.parametrize("classes", [0, 9])
def test_released_weights_serve_any_number_of_classes_and_channels(tmp_path, classes):
    source, small = make(), {**TINY, "num_classes": classes}
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    released = {"file": str(tmp_path / "weights.pth"), "num_classes": 5}
    model = timm.create_model("resmlp_s12", pretrained=True, pretrained_cfg_overlay=released, **small).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.forward_features(images), source.forward_features(images))
    assert model(images).shape == (2, classes or 16)
    grey = timm.create_model("resmlp_s12", pretrained=True, pretrained_cfg_overlay=released, in_chans=1, **small)
    assert grey.eval()(torch.randn(2, 1, 32, 32)).shape == (2, classes or 16)


@pytest.mark.parametrize("classes", [0, 9])
def test_the_classifier_is_made_anew(classes):
    model = make()
    model.reset_classifier(classes)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, classes or 16)


def test_without_pooling_every_position_is_classified():
    model = make(global_pool="")
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 16, 5)


@pytest.mark.parametrize("output", ["logits", "intermediates"])
def test_gradient_checkpointing_computes_layers_twice_and_gives_the_same_gradients(output):
    images, gradients = torch.randn(2, 3, 32, 32), []
    for enable in (False, True):
        model, computed = make().train(), []
        model.set_grad_checkpointing(enable)
        model.layers[0].register_forward_pre_hook(lambda *_, computed=computed: computed.append(1))
        features, _ = model.forward_intermediates(images) if output == "intermediates" else (model(images), None)
        features.square().sum().backward()
        assert len(computed) == 1 + enable
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*gradients)
