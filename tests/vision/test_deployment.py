"""The classifier elsewhere: torch.fx, TorchScript, torch.export, torch.compile, and autocast beside timm's model."""

from functools import partial

import pytest
import timm
import torch
from timm.models import FeatureGraphNet
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock
from torchvision.models.feature_extraction import create_feature_extractor

import resmlp_core
import resmlp_vision  # noqa: F401  registers the models
from resmlp_vision.models.position_mixers import POSITION_MIXERS

from .small_models import TINY

FORMS = [
    {},
    {"norm": "layer_norm"},
    {"global_pool": "class_mlp"},
    {"global_pool": ""},
    {"num_classes": 0},
    {"drop_path_rate": 0.1},
    *({"position_mixer": name} for name in POSITION_MIXERS if name != "linear"),
]
# the paper's model, and its variants, which take minutes together
every_form = pytest.mark.parametrize(
    "form", [FORMS[0], FORMS[1], *(pytest.param(form, marks=pytest.mark.long) for form in FORMS[2:])], ids=str
)
either = pytest.mark.parametrize("folded", [False, True], ids=["as it is", "folded"])


def make(form, folded=False, **options):
    torch.manual_seed(0)
    model = timm.create_model("resmlp_s12", **TINY | form, **options).eval()
    return resmlp_core.fold(model) if folded else model


@every_form
def test_torch_fx_traces_it(form):
    model, images = make(form, folded=True), torch.randn(2, 3, 32, 32)
    out = create_feature_extractor(model, {"layers.1": "layer", "head": "logits"})(images)
    torch.testing.assert_close(out["logits"], model(images))
    assert out["layer"].shape == (16, 2, 16)


@every_form
def test_torch_fx_traces_its_training(form):
    """What timm's own tests (fxforward, fxbackward) do."""
    model, images = make(form).train(), torch.randn(2, 3, 32, 32)
    create_feature_extractor(model, {"head": "logits"})(images)["logits"].square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_timms_features_by_torch_fx_are_those_of_its_hooks():
    images = torch.randn(2, 3, 32, 32)
    features = FeatureGraphNet(make({}), (0, 1))(images)
    assert [x.shape for x in features] == [(16, 2, 16)] * 2


@either
@every_form
def test_torchscript_takes_it_and_its_files_are_read_again(form, folded, tmp_path):
    model, images = make(form, folded, scriptable=True), torch.randn(2, 3, 32, 32)
    torch.jit.script(model).save(tmp_path / "model.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.pt")(images), model(images))


@either
@every_form
def test_it_exports_with_a_batch_of_any_size(form, folded):
    model, images = make(form, folded), torch.randn(2, 3, 32, 32)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    more = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(exported(more), model(more))


@pytest.mark.parametrize("name", ["resmlp_s12", "resmlp_s24_p14", "resmlp_b24_p8"])  # a size of patches each
def test_every_registered_model_is_traced_and_scripted(name):
    model, images = timm.create_model(name, scriptable=True, embed_dim=8, depth=2).eval(), torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(create_feature_extractor(model, {"head": "x"})(images)["x"], model(images))
    torch.testing.assert_close(torch.jit.script(model)(images), model(images))


@every_form
def test_it_compiles_without_a_graph_break_to_the_same_gradients(form):
    torch._dynamo.reset()
    model, images = make(form).train(), torch.randn(2, 3, 32, 32)
    explained = torch._dynamo.explain(model)(images)
    assert explained.graph_break_count == 0, explained.break_reasons
    if "drop_path_rate" in form:
        return  # it draws
    gradients = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        run(images).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_channels_last_images_that_are_not_square_give_the_same_logits():
    model, images = make({"img_size": (32, 48)}), torch.randn(2, 3, 32, 48)
    last = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, make({"img_size": (32, 48)})(images))


@either
def test_timms_own_export_to_onnx_gives_the_same_logits(tmp_path, folded):
    """What its onnx_export.py calls, which compares them to three decimals; random weights have logits of that size."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from timm.utils.onnx import onnx_export, onnx_forward

    model, images = make({}, folded, exportable=True), torch.randn(2, 3, 32, 32)
    onnx_export(model, str(tmp_path / "model.onnx"), example_input=images)
    found = torch.from_numpy(onnx_forward(str(tmp_path / "model.onnx"), images))
    torch.testing.assert_close(found, model(images))


def step(operations, model, size):
    """Count a training step under autocast; return the mode."""
    images = torch.randn(4, 3, size, size)
    with operations() as counted:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(images).float().square().mean()
        loss.backward()
    return counted


@pytest.mark.parametrize(
    ("depth", "width", "size", "patch"), [(2, 64, 32, 8), pytest.param(12, 384, 224, 16, marks=pytest.mark.long)]
)
def test_a_step_in_bfloat16_takes_fewer_kernels_and_bytes_than_timms(operations, depth, width, size, patch):
    sizes = {"embed_dim": width, "img_size": size, "patch_size": patch}
    ours = timm.create_model("resmlp_s12", depth=depth, **sizes).train()
    parts = {"block_layer": partial(ResBlock, init_values=0.1), "norm_layer": Affine}  # as in resmlp_12_224
    theirs = MlpMixer(mlp_ratio=4, num_blocks=depth, **sizes, **parts).train()
    ours, theirs = (step(operations, model, size) for model in (ours, theirs))
    assert ours.kernels.total() < theirs.kernels.total(), (ours.kernels, theirs.kernels)
    assert ours.bytes < theirs.bytes


def test_under_autocast_the_residual_stream_stays_float32_and_the_logits_near():
    torch.manual_seed(0)
    model = timm.create_model("resmlp_s12", **TINY | {"depth": 12, "embed_dim": 64}).eval()
    images, streams = torch.randn(8, 3, 32, 32), []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, inputs, output: streams.append(output.dtype))
    expected = model(images)
    streams.clear()
    with torch.autocast("cpu", torch.bfloat16):
        got = model(images)
    assert set(streams) == {torch.float32}
    assert (got.float() - expected).norm() < 2**-6 * expected.norm()
