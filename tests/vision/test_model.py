"""The classifier: the paper's tables of sizes, timm's logits, timm's tools, and what is refused."""

import hashlib
import shutil

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.models import adapt_input_conv
from torch.utils.flop_counter import FlopCounterMode

import resmlp_core
from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_vision import create_model
from resmlp_vision.models.position_mixers import POSITION_MIXERS
from resmlp_vision.models.registry import RELEASED
from resmlp_vision.models.resmlp import ResMLP, StochasticDepth
from resmlp_vision.models.weights import fit_weights, load_checkpoint, load_weights, resizing, to_timm

TINY = {"depth": 2, "embed_dim": 16, "img_size": 32, "patch_size": 8, "num_classes": 5}
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


def randomise(model):
    """Move every parameter from its start, which hides slips."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.02 if p.dim() > 1 else 0.2)
    return model.eval()


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


def to_release(weights):
    """Write timm's names as the release has them."""
    names = {"stem.": "patch_embed.", "linear_tokens": "attn", "mlp_channels": "mlp", ".ls": ".gamma_"}
    renamed = {}
    for name, value in weights.items():
        for theirs, release in names.items():
            name = name.replace(theirs, release)
        renamed[name] = value.flatten() if name.endswith(("alpha", "beta")) else value
    return renamed


@pytest.mark.parametrize(
    ("ours", "theirs", "release"),
    [
        ("resmlp_s12", "resmlp_12_224", True),
        ("resmlp_s12", "resmlp_12_224", False),
        ("resmlp_s24", "resmlp_24_224", True),
        ("resmlp_s36", "resmlp_36_224", False),
        ("resmlp_b24_p8", "resmlp_big_24_224", True),
    ],
)
def test_logits_are_timms_with_the_same_weights(tmp_path, ours, theirs, release):
    peer = randomise(timm.create_model(theirs, num_classes=11))
    weights = to_release(peer.state_dict()) if release else peer.state_dict()
    torch.save({"model": weights}, tmp_path / "weights.pth")
    model = create_model(ours, tmp_path / "weights.pth", num_classes=11).eval()
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = peer(images)
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_weights_go_back_to_timm_with_every_post_beta_absorbed():
    model = randomise(create_model("resmlp_s12", num_classes=7))
    peer = timm.create_model("resmlp_12_224", num_classes=7).eval()
    peer.load_state_dict(to_timm(model))
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(peer(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "override",
    [
        {"norm": "layer_norm"},
        {"position_mixer": "mlp"},
        {"position_mixer": "convolved_linear"},
        {"global_pool": "class_mlp"},
    ],
)
def test_an_ablation_does_not_pass_for_timms_model(override):
    with pytest.raises(ValueError, match="timm's resmlp models have Aff"):
        to_timm(ResMLP(**TINY, **override))


def test_another_number_of_classes_makes_the_classifier_anew_and_says_so(caplog):
    source, model = randomise(ResMLP(**TINY)), ResMLP(**TINY | {"num_classes": 3})
    before = model.head.weight.clone()
    model.load_state_dict(fit_weights(source.state_dict(), model))
    assert "has 5 classes, the model 3: the classifier is re-initialised" in caplog.text
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.stem.proj.weight, source.stem.proj.weight)


@settings(max_examples=20)
@given(st.integers(2, 8), st.integers(2, 8))
def test_what_is_constant_stays_constant_on_any_grid(old, new):
    out, back = resizing((old, old), (new, new)), resizing((new, new), (old, old))
    average = torch.full((old**2, old**2), 1 / old**2)
    image = torch.full((new**2, 1), 3.0)
    torch.testing.assert_close(out @ average @ back @ image, image)


def test_a_shift_stays_a_shift_on_a_finer_grid():
    """A that moves an image by one patch of 8 × 8 moves it by two of 16 × 16."""
    small, large = ResMLP(**TINY | {"img_size": 64}), ResMLP(**TINY | {"img_size": 128})
    shift = torch.roll(torch.eye(64).view(8, 8, 64), 1, dims=1)  # each patch reads its left neighbour
    with torch.no_grad():
        small.layers[0].cross_position.mixer.weight.copy_(shift.view(64, 64))
        small.layers[0].cross_position.mixer.bias.fill_(0.5)
    weights = fit_weights(small.state_dict(), large)
    resampled = weights["layers.0.cross_position.mixer.weight"]
    torch.testing.assert_close(weights["layers.0.cross_position.mixer.bias"], torch.full((256,), 0.5))
    ramp = torch.arange(16.0).expand(16, 16)  # grows from left to right
    moved = (resampled @ ramp.reshape(-1)).view(16, 16)
    torch.testing.assert_close(moved[:, 5:15], ramp[:, 5:15] - 2)  # at the edges resizing itself bends a ramp


def test_as_many_patches_in_another_shape_are_resampled_where_the_weights_tell_their_grid(tmp_path, caplog):
    square, wide = ResMLP(**TINY), randomise(ResMLP(**TINY | {"img_size": (16, 64)}))
    torch.save({"state_dict": torch.nn.DataParallel(wide).state_dict()}, tmp_path / "wide.pth")
    load_checkpoint(square, tmp_path / "wide.pth")
    assert caplog.messages == ["the checkpoint is for 2x8 patches, the model for 4x4: A is resampled"]
    out, back = resizing((2, 8), (4, 4)), resizing((4, 4), (2, 8))
    mixer, expected = square.layers[1].cross_position.mixer, wide.layers[1].cross_position.mixer
    torch.testing.assert_close(mixer.weight, out @ expected.weight @ back)
    torch.testing.assert_close(mixer.bias, out @ expected.bias)
    again = ResMLP(**TINY | {"img_size": (16, 64)})
    load_checkpoint(again, tmp_path / "wide.pth")
    assert torch.equal(again.layers[0].cross_position.mixer.weight, wide.layers[0].cross_position.mixer.weight)
    back_from_timm = ResMLP(**TINY | {"img_size": (64, 16)})
    fit_weights(to_timm(wide), back_from_timm)
    assert caplog.messages[1:] == ["the checkpoint is for 2x8 patches, the model for 8x2: A is resampled"]


def test_as_many_patches_in_another_shape_are_told_of_where_the_weights_do_not_tell_their_grid(caplog):
    square, wide = ResMLP(**TINY), ResMLP(**TINY | {"img_size": (16, 64)})
    fitted = fit_weights(dict(square.state_dict()), wide)
    assert caplog.messages == ["the checkpoint's 16 patches are taken for a grid of 2x8, as the model's are"]
    assert torch.equal(
        fitted["layers.0.cross_position.mixer.weight"], square.state_dict()["layers.0.cross_position.mixer.weight"]
    )


def test_an_mlp_over_positions_is_refused_on_another_grid_and_convolutions_serve_any():
    for mixer in ("mlp", "conv3x3"):
        source, model = (ResMLP(**TINY | {"img_size": size}, position_mixer=mixer) for size in (32, (16, 64)))
        if mixer == "conv3x3":
            model.load_state_dict(fit_weights(source.state_dict(), model))
        else:
            with pytest.raises(ValueError, match=r"fc1\.weight is for 4x4 patches and cannot be resampled to 2x8"):
                fit_weights(source.state_dict(), model)


def test_class_mlp_is_resampled_beside_convolutions_too():
    options = {"position_mixer": "conv3x3", "global_pool": "class_mlp"}
    source, model = randomise(ResMLP(**TINY, **options)), ResMLP(**TINY | {"img_size": (32, 64)}, **options)
    model.load_state_dict(fit_weights(source.state_dict(), model))
    row = source.pool.layers[0].cross_position.weight
    assert torch.equal(model.pool.layers[0].cross_position.weight[:, :1], row[:, :1])
    torch.testing.assert_close(model.pool.layers[0].cross_position.weight.sum(), row.sum())


@pytest.mark.parametrize("channels", [(3, 1), (3, 6), (1, 3)])
def test_another_number_of_channels_gets_timms_stem(tmp_path, caplog, channels):
    there, here = channels
    source, model = ResMLP(**TINY, in_chans=there), ResMLP(**TINY, in_chans=here)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    load_checkpoint(model, tmp_path / "weights.pth")
    assert f"for images of {there} channels, the model of {here}" in caplog.text
    expected = adapt_input_conv(here, source.stem.proj.weight, base_chans=there)
    torch.testing.assert_close(model.stem.proj.weight, expected)
    grey = torch.randn(2, 1, 32, 32)  # the same in every channel, it looks to the model as it did
    features = [model.forward_features(grey.expand(-1, model.in_chans, -1, -1)) for model in (source, model)]
    torch.testing.assert_close(*features, rtol=1e-4, atol=1e-4)


def test_a_hook_on_a_layer_sees_positions_first_and_gradients_make_a_map():
    """The line of docs/images.md for Grad-CAM."""
    model, seen = randomise(ResMLP(**TINY)), []
    model.layers[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(torch.randn(3, 3, 32, 32))[:, 1].sum().backward(inputs=seen)
    assert seen[0].shape == (16, 3, 16)  # (positions, batch, channels)

    def reshape_transform(x):
        return x.permute(1, 2, 0).unflatten(2, model.stem.grid_size)

    activations, gradients = reshape_transform(seen[0]), reshape_transform(seen[0].grad)
    assert activations.shape == gradients.shape == (3, 16, 4, 4)
    assert torch.equal(activations[1, :, 2, 3], seen[0][2 * 4 + 3, 1])


WRAPPED = {
    "DistributedDataParallel": lambda weights: {f"module.{name}": w for name, w in weights.items()},
    "torch.compile": lambda weights: {f"_orig_mod.{name}": w for name, w in weights.items()},
    "both": lambda weights: {f"_orig_mod.module.{name}": w for name, w in weights.items()},
    "a compiled part": lambda weights: {name.replace("0.", "0._orig_mod.", 1): w for name, w in weights.items()},
    "Lightning": lambda weights: {
        "epoch": 3,
        "state_dict": {f"model._orig_mod.{n}": w for n, w in weights.items()} | {"criterion.weight": torch.ones(5)},
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
    },
    "deit's average": lambda weights: {"model": {n: w + 1 for n, w in weights.items()}, "model_ema": weights},
    "timm's average": lambda weights: {"state_dict": {n: w + 1 for n, w in weights.items()}, "state_dict_ema": weights},
    "an average in a list of names": lambda weights: (
        {f"ema_model.module.{n}": w for n, w in weights.items()} | {f"model.{n}": w + 1 for n, w in weights.items()}
    ),
    "DeepSpeed": lambda weights: {"module": weights, "global_steps": 3},
    "transformers": lambda weights: {f"timm_model.{name}": w for name, w in weights.items()},
    "DINO": lambda weights: {
        "student": {f"module.backbone.{n}": w + 1 for n, w in weights.items()},
        "teacher": {f"backbone.{n}": w for n, w in weights.items()} | {"head.mlp.0.weight": torch.ones(2, 2)},
        "dino_loss": {"center": torch.zeros(1, 8)},
    },
    "distilled": lambda weights: (
        {f"student.{n}": w for n, w in weights.items()} | {"teacher.conv1.weight": torch.ones(2)}
    ),
}


@pytest.mark.parametrize("names", ["ours", "timm's", "the release's"])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_what_wraps_a_model_is_taken_off_its_weights_names(tmp_path, wrapper, names):
    peer = randomise(timm.create_model("resmlp_12_224", num_classes=5, img_size=32))
    sizes = {"img_size": 32, "num_classes": 5}
    if names == "ours":
        weights = dict(fit_weights(peer.state_dict(), create_model("resmlp_s12", **sizes)))
    else:
        weights = peer.state_dict() if names == "timm's" else to_release(peer.state_dict())
    torch.save(WRAPPED[wrapper](weights), tmp_path / "wrapped.pth")
    model, expected = (create_model("resmlp_s12", **sizes) for _ in range(2))
    expected.load_state_dict(fit_weights(weights, expected))
    load_checkpoint(model, tmp_path / "wrapped.pth")
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_wrapped_weights_of_any_of_timms_models(tmp_path):
    torch.manual_seed(0)
    source, model = (timm.create_model("resnet10t", num_classes=5) for _ in range(2))
    torch.save({"state_dict": {f"net.module.{n}": w for n, w in source.state_dict().items()}}, tmp_path / "net.pth")
    load_checkpoint(model, tmp_path / "net.pth")
    assert torch.equal(model.conv1[0].weight, source.conv1[0].weight)
    with pytest.raises(ValueError, match=r"has none of its names, but 'a\.b', 'c'$"):
        load_weights(model, {"a.b": torch.ones(1), "c": torch.ones(1), "epoch": 1}, "x.pth")
    with pytest.raises(ValueError, match=r"no stem.proj.weight or patch_embed.proj.weight, but '.*' and 59 more$"):
        load_weights(ResMLP(**TINY), {f"unknown.{i}": torch.ones(1) for i in range(62)}, "x.pth")


def test_the_same_grid_needs_no_resampling():
    torch.testing.assert_close(resizing((3, 5), (3, 5)), torch.eye(15))


def test_a_checkpoint_of_another_model_is_refused_by_its_first_mismatch(tmp_path):
    torch.save(ResMLP(**TINY | {"embed_dim": 24}).state_dict(), tmp_path / "other.pth")
    sizes = {key: value for key, value in TINY.items() if key not in ("num_classes", "img_size")}
    with pytest.raises(ValueError, match=r"other.pth does not fit the model: head.weight has shape \(5, 24\)"):
        create_model("resmlp_s12", tmp_path / "other.pth", num_classes=5, img_size=32, **sizes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resmlp_s13",), "unknown model 'resmlp_s13'; did you mean 'resmlp_s"),
        (("resmlp_s12", {"drop_path": 0.1}), "unknown override 'drop_path'; did you mean 'drop_path_rate'"),
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


class TestTimm:
    """What timm's tools ask of a model."""

    def model(self, **more):
        torch.manual_seed(0)
        return randomise(timm.create_model("resmlp_s12", **TINY | more))

    def test_features_and_head_make_the_logits(self):
        model, images = self.model(), torch.randn(2, 3, 32, 32)
        features = model.forward_features(images)
        assert features.shape == (2, 16, 16)
        torch.testing.assert_close(model.forward_head(features), model(images))
        assert model.forward_head(features, pre_logits=True).shape == (2, 16)

    @pytest.mark.parametrize("output_fmt", ["NCHW", "NLC"])
    def test_intermediates_end_in_the_features(self, output_fmt):
        model, images = self.model(), torch.randn(2, 3, 32, 32)
        final, outputs = model.forward_intermediates(images, norm=True, output_fmt=output_fmt)
        last = outputs[-1].flatten(2).transpose(1, 2) if output_fmt == "NCHW" else outputs[-1]
        torch.testing.assert_close(last, final)
        torch.testing.assert_close(final, model.forward_features(images))
        (only,) = model.forward_intermediates(images, 1, norm=True, stop_early=True, intermediates_only=True)
        assert only.shape == (2, 16, 4, 4)

    def test_pruned_it_still_gives_the_features_of_the_layers_that_are_left(self):
        model, images = self.model(depth=3), torch.randn(2, 3, 32, 32)
        expected = model.forward_intermediates(images, [1], intermediates_only=True)
        model.prune_intermediate_layers([1])
        assert len(model.layers) == 2
        torch.testing.assert_close(model.forward_intermediates(images, [1], intermediates_only=True), expected)

    def test_feature_extraction_by_timms_wrapper(self):
        model = timm.create_model("resmlp_s12", features_only=True, out_indices=(0, 1), **TINY)
        assert model.feature_info.channels() == [16, 16]
        assert [tuple(x.shape) for x in model(torch.randn(2, 3, 32, 32))] == [(2, 16, 4, 4)] * 2

    @pytest.mark.parametrize("classes", [0, 9])
    def test_released_weights_serve_any_number_of_classes_and_channels(self, tmp_path, classes):
        source, small = self.model(), {**TINY, "num_classes": classes}
        torch.save(source.state_dict(), tmp_path / "weights.pth")
        released = {"file": str(tmp_path / "weights.pth"), "num_classes": 5}
        model = timm.create_model("resmlp_s12", pretrained=True, pretrained_cfg_overlay=released, **small).eval()
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(model.forward_features(images), source.forward_features(images))
        assert model(images).shape == (2, classes or 16)
        grey = timm.create_model("resmlp_s12", pretrained=True, pretrained_cfg_overlay=released, in_chans=1, **small)
        assert grey.eval()(torch.randn(2, 1, 32, 32)).shape == (2, classes or 16)

    @pytest.mark.parametrize("classes", [0, 9])
    def test_the_classifier_is_made_anew(self, classes):
        model = self.model()
        model.reset_classifier(classes)
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, classes or 16)

    def test_without_pooling_every_position_is_classified(self):
        model = self.model(global_pool="")
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 16, 5)

    def test_gradient_checkpointing_gives_the_same_gradients(self):
        images, gradients = torch.randn(2, 3, 32, 32), []
        for enable in (False, True):
            model = self.model().train()
            model.set_grad_checkpointing(enable)
            model(images).square().sum().backward()
            gradients.append([p.grad for p in model.parameters()])
        torch.testing.assert_close(*gradients)

    def test_it_exports(self):
        model, images = self.model(), torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), model(images))


def test_weights_come_from_a_url_whose_hash_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.manual_seed(0)
    model = create_model("resmlp_s12", depth=1)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    right, wrong = (tmp_path / f"weights-{name[:8]}.pth" for name in (digest, "0" * 8))
    for path in (right, wrong):
        shutil.copy(tmp_path / "weights.pth", path)
    loaded = create_model("resmlp_s12", right.as_uri(), depth=1)
    assert torch.equal(loaded.stem.proj.weight, model.stem.proj.weight)
    with pytest.raises(ValueError, match="hash"):
        create_model("resmlp_s12", wrong.as_uri(), depth=1)
    assert not list((tmp_path / "hub").rglob(f"*{wrong.name}"))


def test_checkpoints_of_one_name_at_two_urls_are_two(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    for value in (0.0, 1.0):
        path = tmp_path / str(value) / "checkpoint-12.pth.tar"  # the number is no hash
        path.parent.mkdir()
        torch.save({"head.bias": torch.full((3,), value)}, path)
        assert torch.equal(read_checkpoint(path.as_uri())["head.bias"], torch.full((3,), value))


def test_safetensors_come_from_a_url(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    save_file({"head.bias": torch.ones(3)}, tmp_path / "model.safetensors")
    assert torch.equal(read_checkpoint((tmp_path / "model.safetensors").as_uri())["head.bias"], torch.ones(3))


def test_a_url_cannot_bring_code(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.save({"model": print}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="not a file of weights"):
        create_model("resmlp_s12", (tmp_path / "evil.pth").as_uri())
