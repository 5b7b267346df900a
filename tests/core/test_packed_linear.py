"""PackedLinear gives what nn.Linear gives, also once its weights have changed."""

import copy
import io
import warnings

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from resmlp_core import PackedLinear

from .linears import linears


def make_pair(inputs=5, outputs=7):
    linear = nn.Linear(inputs, outputs)
    return linear, PackedLinear(linear)


class Packings(TorchDispatchMode):
    """Counts how often W is laid out anew."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.mkldnn._reorder_linear_weight.default
        return function(*args, **(kwargs or {}))


needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch is built without oneDNN")


def assert_equal(packed, linear, x):
    torch.testing.assert_close(packed(x), linear(x), rtol=1e-5, atol=1e-5)


@settings(max_examples=50)
@given(linears())
def test_it_gives_what_a_linear_layer_gives(linear_and_input):
    linear, x = linear_and_input
    packed = PackedLinear(linear)
    with torch.no_grad():
        assert_equal(packed, linear, x)
    with torch.inference_mode():
        assert_equal(packed, linear, x)
    assert_equal(packed, linear, x)


@needs_onednn
@torch.no_grad()
def test_what_is_multiplied_without_gradients_is_packed_once():
    _, packed = make_pair()
    counts = []
    with Packings() as packings:
        for rows in (0, 1, 3, 4):
            packed(torch.randn(rows, 5))
            counts.append(packings.count)
    assert counts == [0, 1, 1, 1]


CHANGES = {
    "loaded": lambda module, new: module.load_state_dict(new),
    "assigned": lambda module, new: module.load_state_dict(new, assign=True),
    "in place": lambda module, new: [parameter.copy_(new[name]) for name, parameter in module.named_parameters()],
    "another": lambda module, new: [setattr(module, name, nn.Parameter(value)) for name, value in new.items()],
    "vector": lambda module, new: nn.utils.vector_to_parameters(
        nn.utils.parameters_to_vector(new[name] for name, _ in module.named_parameters()), module.parameters()
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_new_weights_are_used_at_once(change):
    _, packed = make_pair()
    x = torch.randn(3, 5)
    for _ in range(3):
        other = nn.Linear(5, 7)
        packed(x)  # which packs the weights that are there
        change(packed, copy.deepcopy(other.state_dict()))
        assert_equal(packed, other, x)


@torch.no_grad()
def test_a_bias_with_strides_counts_as_it_is():
    linear, packed = make_pair()
    packed.bias = linear.bias = nn.Parameter(torch.randn(14)[::2])
    assert_equal(packed, linear, torch.randn(3, 5))


@torch.no_grad()
def test_weights_of_another_call_are_used():
    linear, packed = make_pair()
    other, x = nn.Linear(5, 7), torch.randn(3, 5)
    packed(x)
    torch.testing.assert_close(torch.func.functional_call(packed, dict(other.named_parameters()), x), other(x))
    assert_equal(packed, linear, x)


@torch.no_grad()
def test_another_precision_rounds_the_weights():
    linear, packed = make_pair()
    x = torch.randn(3, 5)
    packed(x)
    assert_equal(packed.double(), copy.deepcopy(linear).double(), x.double())
    packed.float()(x)
    assert_equal(packed.half().float(), linear.half().float(), x)


@needs_onednn
@torch.no_grad()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: saved_and_loaded(module)])
def test_a_copy_has_the_weights_once_and_packs_its_own(copied):
    linear, packed = make_pair(300, 300)
    x = torch.randn(3, 300)
    fresh = len(saved(packed))
    packed(x)
    assert len(saved(packed)) == fresh
    with Packings() as packings:
        assert_equal(copied(packed), linear, x)
    assert packings.count == 1


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    return file.getvalue()


def saved_and_loaded(module):
    return torch.load(io.BytesIO(saved(module)), weights_only=False)


def test_gradients_pass_through_it():
    linear, packed = make_pair()
    x = torch.randn(3, 5, requires_grad=True)
    with torch.no_grad():
        packed(x)
    (gradient,) = torch.autograd.grad(packed(x).sum(), x)
    torch.testing.assert_close(gradient, linear.weight.sum(0).expand(3, 5))


@torch.no_grad()
def test_autocast_computes_in_its_own_type():
    _, packed = make_pair()
    packed(torch.randn(3, 5))
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(torch.randn(3, 5)).dtype == torch.bfloat16


@torch.no_grad()
def test_it_compiles():
    linear, packed = make_pair()
    x = torch.randn(3, 5)
    packed(x)
    assert_equal(torch.compile(packed, backend="eager", fullgraph=True), linear, x)


@torch.no_grad()
def test_it_can_be_traced():
    linear, packed = make_pair()
    x = torch.randn(3, 5)
    packed(x)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        assert_equal(torch.jit.trace(packed, x), linear, x)


@torch.no_grad()
def test_forward_mode_gradients_pass_through_it():
    linear, packed = make_pair()
    x, direction = torch.randn(2, 3, 5)
    packed(x)
    _, tangent = torch.func.jvp(packed, (x,), (direction,))
    torch.testing.assert_close(tangent, direction @ linear.weight.t())


@torch.no_grad()
def test_a_wrong_width_is_told_by_its_shapes():
    _, packed = make_pair()
    with pytest.raises(RuntimeError, match="shapes"):
        packed(torch.randn(3, 6))
