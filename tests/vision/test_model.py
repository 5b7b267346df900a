"""The classifier: the paper's tables of sizes, folding, its parts, and what is refused."""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import resmlp_core
from resmlp_vision import create_model
from resmlp_vision.models.position_mixers import POSITION_MIXERS
from resmlp_vision.models.registry import RELEASED
from resmlp_vision.models.resmlp import ResMLP, StochasticDepth

from .small_models import TINY, randomise

# millions of parameters and 10⁹ multiply-adds, as printed by the paper
PUBLISHED = [
    ("resmlp_s12", {}, "15.4", "3.0"),
    ("resmlp_s24", {}, "30.0", "6.0"),
    ("resmlp_s36", {}, "44.7", "8.9"),
    ("resmlp_b24", {}, "115.7", "23.0"),
    ("resmlp_s12_p14", {}, "15.6", "4.0"),
    ("resmlp_s12_p8", {}, "22.1", "14.0"),
    ("resmlp_b24_p8", {}, "129.1", "100.2"),
    ("resmlp_s12", {"norm": "layer_norm"}, "15.4", "3.0"),
    ("resmlp_s12", {"global_pool": "class_mlp"}, "17.7", "3.0"),
    ("resmlp_s12", {"position_mixer": "none"}, "14.9", "2.8"),
    # printed as 4.3 in the paper; the matrix products, which is what is counted here, are 4.249
    ("resmlp_s12", {"position_mixer": "mlp"}, "18.6", "4.2"),
    ("resmlp_s12", {"position_mixer": "conv3x3"}, "30.8", "6.0"),
    ("resmlp_s12", {"position_mixer": "depthwise_conv3x3"}, "14.9", "2.8"),
    ("resmlp_s12", {"position_mixer": "separable_conv3x3"}, "16.7", "3.2"),
]
# The paper counts the released models, which have no β in the post position; with it, these two print one tenth more.
WITHOUT_POST_BETA = {"resmlp_b24", "resmlp_b24_p8"}


@pytest.mark.parametrize(
    ("name", "start"), [("resmlp_s12", 0.1), ("resmlp_s24", 1e-5), ("resmlp_s36", 1e-6), ("resmlp_b24", 1e-6)]
)
def test_the_deeper_the_model_the_smaller_layer_scale_starts(name, start):
    layer = create_model(name, depth=1, embed_dim=8).layers[0]
    for sublayer in (layer.cross_position, layer.cross_channel):
        torch.testing.assert_close(sublayer.post.alpha.unique(), torch.tensor([start]))


@pytest.mark.parametrize(("name", "hub"), RELEASED.items())
def test_released_weights_are_timms_of_the_same_size_and_tag(name, hub):
    peer = timm.get_pretrained_cfg(hub.removeprefix("timm/"))
    assert timm.get_pretrained_cfg_value(name, "hf_hub_id") == peer.hf_hub_id == hub
    assert name.partition(".")[2] == peer.tag
    with torch.device("meta"):
        ours, theirs = create_model(name.partition(".")[0]), timm.create_model(peer.architecture)
    counted = sum(p.numel() for key, p in ours.named_parameters() if not key.endswith("post.beta"))
    assert counted == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(("name", "override", "parameters", "multiply_adds"), PUBLISHED)
def test_the_papers_tables_of_sizes(name, override, parameters, multiply_adds):
    with torch.device("meta"):
        model = create_model(name, **override)
        images = torch.empty(1, 3, 224, 224)
    counted = sum(
        p.numel()
        for key, p in model.named_parameters()
        if not (name in WITHOUT_POST_BETA and key.endswith("post.beta"))
    )
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert f"{counted / 1e6:.1f}" == parameters
    assert f"{counter.get_total_flops() / 2e9:.1f}" == multiply_adds


@pytest.mark.parametrize(
    "override",
    [{}, {"norm": "layer_norm"}, {"global_pool": "class_mlp"}, {"num_classes": 0}]
    + [{"position_mixer": name} for name in POSITION_MIXERS],
    ids=str,
)
def test_a_folded_model_gives_the_same(override):
    model = create_model("resmlp_s12", **TINY | override)
    randomise(model)
    model.eval()
    images = torch.randn(3, 3, 32, 32)
    folded = resmlp_core.fold(model)
    torch.testing.assert_close(folded(images), model(images), rtol=1e-5, atol=1e-5)
    assert torch.equal(resmlp_core.fold(folded)(images), folded(images))
    absorbed = override.get("position_mixer", "linear") in ("linear", "convolved_linear", "none")
    if absorbed and override.keys() <= {"norm", "position_mixer"}:
        assert not any(isinstance(module, resmlp_core.Affine) for module in folded.modules())


def test_a_hook_on_a_layer_sees_positions_first_and_gradients_make_a_map():
    """The line of docs/python.md for Grad-CAM."""
    model, seen = randomise(ResMLP(**TINY)), []
    model.layers[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(torch.randn(3, 3, 32, 32))[:, 1].sum().backward(inputs=seen)
    assert seen[0].shape == (16, 3, 16)  # (positions, batch, channels)

    def reshape_transform(x):
        return x.permute(1, 2, 0).unflatten(2, model.stem.grid_size)

    activations, gradients = reshape_transform(seen[0]), reshape_transform(seen[0].grad)
    assert activations.shape == gradients.shape == (3, 16, 4, 4)
    assert torch.equal(activations[1, :, 2, 3], seen[0][2 * 4 + 3, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resmlp_s13",), "unknown model 'resmlp_s13'; did you mean 'resmlp_s"),
        (("resmlp_s12", {"drop_path": 0.1}), "unknown override 'drop_path'; did you mean 'drop_path_rate'"),
        (("resmlp_s12.fb_in1k",), r"loaded by timm.create_model\('resmlp_s12.fb_in1k', pretrained=True\)"),
        (("resmlp_s12", {"pretrained": True}), r"loaded by timm.create_model\('resmlp_s12', pretrained=True\)"),
        (("resmlp_s12", {"position_mixer": "conv"}), "position_mixer='conv' is none of 'linear', 'none', 'mlp'"),
        (("resmlp_s12", {"img_size": 225}), "img_size=225x225 is no multiple of patch_size=16"),
    ],
)
def test_a_mistake_is_named(arguments, message):
    name, overrides = (*arguments, {})[:2]
    with pytest.raises(ValueError, match=message):
        create_model(name, **overrides)


@pytest.mark.parametrize(
    "override",
    [
        {},
        {"norm": "layer_norm"},
        {"position_mixer": "none"},
        {"position_mixer": "convolved_linear"},
        {"global_pool": "class_mlp"},
    ],
)
def test_every_parameter_is_used(override):
    model = randomise(ResMLP(**TINY, **override)).train()
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_class_embedding_is_normalised_after_the_patches_have_filled_it():
    """As in CaiT, which Class-MLP follows."""
    model = randomise(ResMLP(**TINY, norm="layer_norm", global_pool="class_mlp")).eval()
    torch.nn.init.ones_(model.norm.weight)
    torch.nn.init.zeros_(model.norm.bias)
    embedding = model.forward_head(model.forward_features(torch.randn(3, 3, 32, 32)), pre_logits=True)
    torch.testing.assert_close(embedding.mean(1), torch.zeros(3))
    torch.testing.assert_close(embedding.var(1, correction=0), torch.ones(3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["depthwise_conv3x3", "convolved_linear"])
def test_a_convolution_reads_the_neighbours_on_the_grid_and_its_own_channel(name):
    mixer = POSITION_MIXERS[name](2, (3, 4))
    if name == "convolved_linear":
        torch.nn.init.zeros_(mixer.weight)  # A; what stays is beside it
    lit = torch.zeros(12, 1, 2)
    lit[7, 0, 1] = 1  # the last of the second row, in the second channel
    moved = (mixer(lit) - mixer(torch.zeros_like(lit)))[:, 0]
    assert not moved[:, 0].any()
    assert moved[:, 1].nonzero().flatten().tolist() == [2, 3, 6, 7, 10, 11]  # not 8, which begins the third


def test_stochastic_depth_drops_an_images_sublayer_whole_and_keeps_the_mean():
    dropped = StochasticDepth(0.25).train()(torch.ones(3, 4000, 5))
    images = dropped[0, :, 0]
    assert torch.equal(dropped, images.view(1, -1, 1).expand_as(dropped))
    assert images.unique().tolist() == pytest.approx([0, 4 / 3])
    assert images.mean().item() == pytest.approx(1, abs=0.05)
