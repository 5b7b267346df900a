"""A folded layer gives what the layer gives, and has no Aff left."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resmlp_core import (
    Affine,
    ChannelMLP,
    ConvolvedMixer,
    CrossPositionLinear,
    GatedMixer,
    PositionCache,
    PositionMixer,
    ResMLPLayer,
    fold,
)

from .test_layer import randomise

DIM, POSITIONS = 4, 6
FORMS = {
    "paper": lambda causal: CrossPositionLinear(POSITIONS, causal),
    "without bias": lambda causal: CrossPositionLinear(POSITIONS, causal, bias=False),
    "convolution": lambda causal: ConvolvedMixer(CrossPositionLinear(POSITIONS, causal), DIM, 3, causal),
    "gates": lambda causal: GatedMixer(CrossPositionLinear(POSITIONS, causal, bias=False), DIM),
    "both": lambda causal: GatedMixer(ConvolvedMixer(CrossPositionLinear(POSITIONS, causal), DIM, 3, causal), DIM),
}


def make_layer(form, causal, norm, seed):
    layer = ResMLPLayer(DIM, FORMS[form](causal), ChannelMLP(DIM, 8), layer_scale=0.2, norm=norm).double()
    randomise(layer, seed)
    return layer


@pytest.mark.parametrize("norm", [Affine, nn.LayerNorm])
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20)
@given(length=st.integers(1, POSITIONS), batch=st.integers(1, 3), causal=st.booleans(), seed=st.integers(0, 999))
def test_a_folded_layer_equals_the_layer(form, norm, length, batch, causal, seed):
    layer = make_layer(form, causal, norm, seed)
    before = copy.deepcopy(layer.state_dict())
    folded = fold(layer)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(length, batch, DIM, dtype=torch.float64, generator=generator)
    pad = torch.arange(length) >= torch.randint(1, length + 1, (batch, 1), generator=generator)
    for mask in (None, pad):
        torch.testing.assert_close(folded(x, padding_mask=mask), layer(x, padding_mask=mask))
    assert not any(isinstance(module, Affine) or module.training for module in folded.modules())
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("form", FORMS)
def test_the_residual_stream_keeps_its_type_under_autocast(form):
    layer = make_layer(form, False, Affine, 1).float()
    x = torch.randn(POSITIONS, 2, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        assert fold(layer)(x).dtype == layer(x).dtype == torch.float32


class Mean(PositionMixer):
    """Each position reads all of them alike; the result lies in memory once."""

    channelwise = True

    def forward(self, x, padding_mask=None, cache=None):
        return x.mean(0, keepdim=True).expand_as(x)


def test_a_mixer_whose_result_is_the_same_for_all_positions_is_folded():
    layer = ResMLPLayer(DIM, Mean(), ChannelMLP(DIM, 8), layer_scale=0.2)
    randomise(layer, 0)
    x = torch.randn(POSITIONS, 2, DIM)
    torch.testing.assert_close(fold(layer)(x), layer(x))


@pytest.mark.parametrize("form", FORMS)
def test_a_folded_layer_decodes_step_by_step(form):
    folded = fold(make_layer(form, True, Affine, 1))
    x = torch.randn(POSITIONS, 2, DIM, dtype=torch.float64)
    cache = PositionCache()
    with torch.no_grad():
        steps = torch.cat([folded(x[t : t + 1], cache=cache) for t in range(POSITIONS)])
        torch.testing.assert_close(steps, folded(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the number of positions, which does not change
@pytest.mark.parametrize(("traced", "run"), [(1, 300), (300, 1)])
def test_a_trace_of_a_folded_layer_takes_batches_of_other_sizes(traced, run):
    layer = ResMLPLayer(DIM, CrossPositionLinear(POSITIONS), ChannelMLP(DIM, 8), layer_scale=0.2)
    randomise(layer, 0)
    x = torch.randn(POSITIONS, run, DIM)
    trace = torch.jit.trace(fold(layer), torch.randn(POSITIONS, traced, DIM))
    torch.testing.assert_close(trace(x), layer(x))


@pytest.mark.parametrize(("size", "causal"), [(-1, True), (0, True), (-3, False), (4, False)])
def test_a_convolution_without_a_centre_is_refused(size, causal):
    with pytest.raises(ValueError, match="--position-convolution"):
        ConvolvedMixer(CrossPositionLinear(POSITIONS, causal), DIM, size, causal)


@pytest.mark.parametrize("norm", [Affine, nn.LayerNorm])
def test_a_layer_folded_twice_is_folded_once(norm):
    folded = fold(make_layer("paper", False, norm, 1))
    x = torch.randn(POSITIONS, 2, DIM, dtype=torch.float64)
    assert torch.equal(fold(folded)(x), folded(x))


def test_a_batch_of_many_blocks_equals_its_parts():
    layer = ResMLPLayer(DIM, CrossPositionLinear(POSITIONS), ChannelMLP(DIM, 8), layer_scale=0.2)
    randomise(layer, 0)
    folded = fold(layer)
    x = torch.randn(POSITIONS, 300, DIM)
    torch.testing.assert_close(folded(x), layer(x))
    with torch.no_grad():
        torch.testing.assert_close(folded(x), layer(x))
        torch.testing.assert_close(folded.cross_channel(x[0, 0]), layer.cross_channel(x[0, 0]))
    torch.testing.assert_close(folded(x)[:, 123], folded(x[:, 123:124])[:, 0])
