"""Weights from elsewhere: timm's and the release's, for other sizes, wrapped by other programs, from a URL."""

import hashlib
import shutil

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.models import adapt_input_conv
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_vision import create_model, fold
from resmlp_vision.models.resmlp import ResMLP
from resmlp_vision.models.weights import fit_weights, load_checkpoint, load_weights, resizing, to_timm

from .small_models import TINY, randomise, to_release


@pytest.mark.parametrize(
    ("ours", "theirs", "release", "size"),
    [
        ("resmlp_s12", "resmlp_12_224", True, 224),
        ("resmlp_s12", "resmlp_12_224", False, 64),
        ("resmlp_s24", "resmlp_24_224", True, 64),
        ("resmlp_s36", "resmlp_36_224", False, 64),
        ("resmlp_b24_p8", "resmlp_big_24_224", True, 64),
    ],
)
def test_logits_are_timms_with_the_same_weights(tmp_path, ours, theirs, release, size):
    peer = randomise(timm.create_model(theirs, num_classes=11, img_size=size))
    weights = to_release(peer.state_dict()) if release else peer.state_dict()
    torch.save({"model": weights}, tmp_path / "weights.pth")
    model = create_model(ours, tmp_path / "weights.pth", num_classes=11, img_size=size).eval()
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
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
    with pytest.raises(ValueError, match="timm's resmlp models have only Aff"):
        to_timm(ResMLP(**TINY, **override))


def test_a_folded_model_is_refused_by_name():
    """A backbone too, where nothing is absorbed into a classifier."""
    for classes in (5, 0):
        with pytest.raises(ValueError, match="give the model that was folded"):
            to_timm(fold(ResMLP(**TINY | {"num_classes": classes})))


def test_another_number_of_classes_makes_the_classifier_anew_and_says_so(caplog):
    source, model = randomise(ResMLP(**TINY)), ResMLP(**TINY | {"num_classes": 3})
    before = model.head.weight.clone()
    model.load_state_dict(fit_weights(source.state_dict(), model))
    assert "has 5 classes, the model 3: the classifier is re-initialised" in caplog.text
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.stem.proj.weight, source.stem.proj.weight)


def test_the_same_grid_needs_no_resampling():
    torch.testing.assert_close(resizing((3, 5), (3, 5)), torch.eye(15))


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


@pytest.mark.parametrize(
    "saved",
    [lambda model: {"state_dict": torch.nn.DataParallel(model).state_dict()}, lambda model: model.state_dict()],
    ids=["wrapped", "bare"],
)
def test_as_many_patches_in_another_shape_are_resampled_where_the_weights_tell_their_grid(tmp_path, caplog, saved):
    square, wide = ResMLP(**TINY), randomise(ResMLP(**TINY | {"img_size": (16, 64)}))
    torch.save(saved(wide), tmp_path / "wide.pth")
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


def test_weights_that_do_not_tell_their_grid_and_are_for_no_square_one_are_refused_on_another():
    wide = ResMLP(**TINY | {"img_size": (16, 48)})
    with pytest.raises(ValueError, match="it is for 12 patches, which are no square grid to resample A from"):
        fit_weights(dict(wide.state_dict()), ResMLP(**TINY))


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
    sizes = {"img_size": 32, "num_classes": 5, "embed_dim": 32}
    theirs = {"patch_size": 16, "num_blocks": 2, "mlp_ratio": 4, "block_layer": ResBlock, "norm_layer": Affine}
    peer = randomise(MlpMixer(**theirs, **sizes))
    sizes["depth"] = 2
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


def test_a_checkpoint_of_another_model_is_refused_by_its_first_mismatch(tmp_path):
    torch.save(ResMLP(**TINY | {"embed_dim": 24}).state_dict(), tmp_path / "other.pth")
    sizes = {key: value for key, value in TINY.items() if key not in ("num_classes", "img_size")}
    with pytest.raises(ValueError, match=r"other.pth does not fit the model: head.weight has shape \(5, 24\)"):
        create_model("resmlp_s12", tmp_path / "other.pth", num_classes=5, img_size=32, **sizes)


def test_weights_come_from_a_url_whose_hash_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.manual_seed(0)
    model = create_model("resmlp_s12", depth=1)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    right, wrong = (tmp_path / f"weights-{name[:8]}.pth" for name in (digest, "a" * 8))
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
        path = tmp_path / str(value) / "checkpoint-20260131.pth.tar"  # the date is no hash
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
