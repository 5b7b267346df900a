"""PackedLinear gives what nn.Linear gives, whatever is done to it."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resmlp_core import PackedLinear


def make_pair(inputs=5, outputs=7, bias=True):
    linear = nn.Linear(inputs, outputs, bias)
    return linear, PackedLinear(linear)


def assert_equal(packed, linear, x):
    torch.testing.assert_close(packed(x), linear(x), rtol=1e-5, atol=1e-5)


@settings(max_examples=50)
@given(
    shape=st.lists(st.integers(0, 9), max_size=3),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    bias=st.booleans(),
    transposed=st.booleans(),
)
def test_it_gives_what_a_linear_layer_gives(shape, inputs, outputs, bias, transposed):
    linear, packed = make_pair(inputs, outputs, bias)
    x = torch.randn(inputs, *shape).movedim(0, -1) if transposed else torch.randn(*shape, inputs)
    with torch.no_grad():
        assert_equal(packed, linear, x)
    with torch.inference_mode():
        assert_equal(packed, linear, x)
    assert_equal(packed, linear, x)


@torch.no_grad()
def test_new_weights_are_used_at_once():
    _, packed = make_pair()
    other, x = nn.Linear(5, 7), torch.randn(3, 5)
    packed(x)
    packed.load_state_dict(other.state_dict())
    assert_equal(packed, other, x)
    assert_equal(packed.double(), other.double(), x.double())
    assert_equal(packed.float(), other.float(), x)


@torch.no_grad()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: saved_and_loaded(module)])
def test_a_copy_has_the_weights_alone(copied):
    linear, packed = make_pair(300, 300)
    x = torch.randn(3, 300)
    fresh = len(saved(packed))
    packed(x)
    assert len(saved(packed)) == fresh
    assert_equal(copied(packed), linear, x)


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
