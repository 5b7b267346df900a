"""A model trains by oneDNN's product on a CPU, and gets the outputs and gradients that PyTorch's own gives."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from resmlp_core import ChannelMLP, CrossPositionLinear, ResMLPLayer, by_onednn
from resmlp_core.layers import onednn

from .linears import linears

PRODUCT = torch.ops.mkldnn._linear_pointwise.default
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch is built without oneDNN")


@pytest.fixture(autouse=True)
def any_processor(monkeypatch):
    """Compute by oneDNN on processors that would not gain by it, too."""
    monkeypatch.setattr(onednn, "onednn_is_faster", lambda: True)


class Decorated(nn.Module):
    """A linear layer that oneDNN may compute."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    @by_onednn
    def forward(self, x):
        return self.linear(x)


class Products(TorchDispatchMode):
    """Counts oneDNN's products."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is PRODUCT
        return function(*args, **(kwargs or {}))


def count(call):
    with Products() as products:
        call()
    return products.count


def gradients(model, x):
    """Return the output, and the gradients of a loss that weighs each of its numbers otherwise."""
    x = x.detach().requires_grad_()
    y = model(x)
    weights = torch.arange(y.numel()).view_as(y).cos()
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *model.parameters()])]


def make_layer():
    return ResMLPLayer(8, CrossPositionLinear(5), ChannelMLP(8, 32), layer_scale=1.0)


@settings(max_examples=100)
@given(linears())
def test_outputs_and_gradients_are_those_of_a_linear_layer(linear_and_input):
    linear, x = linear_and_input
    for ours, plain in zip(gradients(Decorated(linear), x), gradients(linear, x), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
        assert ours.is_contiguous() or not plain.is_contiguous()


def test_a_bias_with_strides_counts_as_it_is():
    linear, x = nn.Linear(5, 7), torch.randn(3, 5)
    linear.bias = nn.Parameter(torch.randn(14)[::2])
    torch.testing.assert_close(Decorated(linear)(x), linear(x))


@pytest.mark.parametrize(
    ("capability", "maker", "products"),
    [
        ("AVX2", "AuthenticAMD", 0),
        ("AVX512", "GenuineIntel", 0),
        pytest.param("AVX512", "AuthenticAMD", 2, marks=needs_onednn),
    ],
)
def test_only_amds_processors_with_avx512_train_by_it(capability, maker, products, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"vendor_id : {maker}")
    onednn.onednn_is_faster.cache_clear()
    try:
        assert count(lambda: make_layer()(torch.randn(5, 3, 8))) == products
    finally:
        onednn.onednn_is_faster.cache_clear()


@needs_onednn
def test_training_computes_forward_and_backward_by_it():
    layer, x = make_layer(), torch.randn(5, 3, 8, requires_grad=True)
    assert count(lambda: layer(x)) == 2  # B and C
    assert count(lambda: layer(x).sum().backward()) == 6


def test_evaluation_does_not():
    layer, x = make_layer(), torch.randn(5, 3, 8)
    assert count(lambda: layer.eval()(x)) == 0
    with torch.no_grad():
        assert count(lambda: layer.train()(x)) == 0


@needs_onednn
def test_what_needs_no_gradient_gets_none():
    layer, x = make_layer(), torch.randn(5, 3, 8)
    layer.cross_channel.requires_grad_(False)
    assert count(lambda: layer(x).sum().backward()) == 4  # two of them hand the gradient on to A
    assert layer.cross_channel.mixer.fc1.weight.grad is None
    assert layer.cross_position.mixer.weight.grad is not None


def test_second_derivatives_are_those_of_a_linear_layer():
    linear, x = nn.Linear(5, 7), torch.randn(3, 5)

    def penalty(model):
        inputs = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(inputs).pow(3).sum(), inputs, create_graph=True)
        return torch.autograd.grad(gradient.pow(2).sum(), model.parameters())

    for ours, plain in zip(penalty(Decorated(linear)), penalty(linear), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_gradients_of_each_sample_are_those_of_a_linear_layer():
    linear, x = nn.Linear(5, 7), torch.randn(3, 5)

    def of_each(model):
        def loss(parameters, sample):
            return torch.func.functional_call(model, parameters, sample).square().sum()

        return torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(model.named_parameters()), x)

    plain = of_each(linear)
    for name, ours in of_each(Decorated(linear)).items():
        torch.testing.assert_close(ours, plain[name.removeprefix("linear.")])


def test_forward_derivatives_are_those_of_a_linear_layer():
    linear, x, tangent = nn.Linear(5, 7), torch.randn(3, 5), torch.randn(3, 5)
    for model in (linear, Decorated(linear)):
        _, of_output = torch.func.jvp(model, (x,), (tangent,))
        torch.testing.assert_close(of_output, tangent @ linear.weight.T)
        hessian = torch.func.hessian(lambda x, model=model: model(x).pow(3).sum())(x[0])
        expected = linear.weight.T @ (6 * linear(x[0]).unsqueeze(1) * linear.weight)
        torch.testing.assert_close(hessian, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", ["", "cross_channel", "cross_channel.mixer"])
def test_activation_checkpointing_computes_the_same(part):
    layer, x = make_layer(), torch.randn(5, 3, 8)
    plain = gradients(layer, x)
    checkpointed = copy.deepcopy(layer)
    module = checkpointed.get_submodule(part)
    forward = module.forward
    module.forward = lambda x: checkpoint(forward, x, use_reentrant=False)
    for ours, expected in zip(gradients(checkpointed, x), plain, strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_pruned_layer_stays_pruned():
    layer = make_layer()
    prune.l1_unstructured(layer.cross_channel.mixer.fc1, "weight", 0.5)
    layer(torch.randn(5, 3, 8)).sum().backward()
    gradient = layer.cross_channel.mixer.fc1.weight_orig.grad
    assert (gradient == 0).sum() >= gradient.numel() // 2


def test_autocast_and_other_types_compute_as_before():
    model, x = Decorated(nn.Linear(5, 7)), torch.randn(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        assert count(lambda: model(x)) == 0
    assert model.double()(x.double()).dtype == torch.float64


def test_a_layer_in_training_compiles():
    layer, x = make_layer(), torch.randn(5, 3, 8)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for ours, plain in zip(gradients(compiled, x), gradients(layer, x), strict=True):
        torch.testing.assert_close(ours, plain)


def test_a_layer_in_training_is_traced():
    layer, x = make_layer(), torch.randn(5, 3, 8)
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), layer(x))


def test_a_frozen_layer_does_not_keep_its_input():
    frozen, x = Decorated(nn.Linear(5, 7).requires_grad_(False)), torch.randn(3, 5, requires_grad=True)
    hidden = x * 2
    y = frozen(hidden)
    with torch.no_grad():
        hidden.zero_()
    y.sum().backward()
    torch.testing.assert_close(x.grad, 2 * frozen.linear.weight.sum(0).expand(3, 5))
