"""The layer against the paper's equations, written out with loops in float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resmlp_core import Affine, ChannelMLP, ConvolvedMixer, CrossPositionLinear, PositionCache, ResMLPLayer


def affine_by_loops(x, alpha, beta):
    return [[[alpha[c] * v + beta[c] for c, v in enumerate(channels)] for channels in batch] for batch in x]


def cross_position_by_loops(x, weight, bias, causal, pad):
    """y[t][b][c] = Σ_s A[t][s] x[s][b][c] + bias[t] over s that are not padding and, if causal, not after t."""
    positions, batch, channels = len(x), len(x[0]), len(x[0][0])
    y = [[[bias[t]] * channels for _ in range(batch)] for t in range(positions)]
    for t in range(positions):
        for b in range(batch):
            for c in range(channels):
                for s in range(positions):
                    if not pad[b][s] and not (causal and s > t):
                        y[t][b][c] += weight[t][s] * x[s][b][c]
    return y


def channel_mlp_by_loops(x, b_weight, b_bias, c_weight, c_bias):
    def gelu(v):
        return 0.5 * v * (1 + math.erf(v / math.sqrt(2)))

    def linear(v, weight, bias):
        return [sum(w * e for w, e in zip(row, v, strict=True)) + o for row, o in zip(weight, bias, strict=True)]

    return [[linear([gelu(h) for h in linear(v, b_weight, b_bias)], c_weight, c_bias) for v in row] for row in x]


def add(x, y):
    return (torch.as_tensor(x, dtype=torch.float64) + torch.as_tensor(y, dtype=torch.float64)).tolist()


def randomise(module: nn.Module, seed: int) -> None:
    """Draw every parameter afresh, so that no scale of 1 or shift of 0 hides an omission."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 6),
    batch=st.integers(1, 3),
    causal=st.booleans(),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_layer_equals_the_papers_equations(length, batch, causal, seed, data):
    dim, hidden, positions = 3, 5, 6
    layer = ResMLPLayer(dim, CrossPositionLinear(positions, causal), ChannelMLP(dim, hidden), layer_scale=0.2).double()
    randomise(layer, seed)
    x = torch.randn(length, batch, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    lengths = data.draw(st.lists(st.integers(1, length), min_size=batch, max_size=batch))
    pad = torch.arange(length) >= torch.tensor(lengths).unsqueeze(1)

    a, c = layer.cross_position, layer.cross_channel
    lists = {name: p.tolist() for name, p in layer.named_parameters()}
    z = affine_by_loops(x.tolist(), lists["cross_position.pre.alpha"], lists["cross_position.pre.beta"])
    z = cross_position_by_loops(z, a.mixer.weight.tolist(), a.mixer.bias.tolist(), causal, pad.tolist())
    z = add(x, affine_by_loops(z, a.post.alpha.tolist(), a.post.beta.tolist()))
    y = affine_by_loops(z, c.pre.alpha.tolist(), c.pre.beta.tolist())
    y = channel_mlp_by_loops(y, *(p.tolist() for p in c.mixer.parameters()))
    expected = add(z, affine_by_loops(y, c.post.alpha.tolist(), c.post.beta.tolist()))

    torch.testing.assert_close(
        layer(x, padding_mask=pad), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(("causal", "before"), [(False, 2), (True, 4)])
def test_a_convolution_reads_near_positions_of_its_own_channel(causal, before):
    """To y[t][b][c] it adds Σ_j w[j][c] x[t - before + j][b][c] over positions that are not padding."""
    mixer = ConvolvedMixer(CrossPositionLinear(7, causal), 3, 5, causal).double()
    randomise(mixer, seed=0)
    x, pad = torch.randn(7, 2, 3, dtype=torch.float64), torch.arange(7) >= torch.tensor([[7], [4]])
    with torch.no_grad():
        expected = mixer.mixer(x, pad)
        for t, b, c, j in itertools.product(range(7), range(2), range(3), range(5)):
            s = t - before + j
            if 0 <= s < 7 and not pad[b, s]:
                expected[t, b, c] += mixer.weight[j, c] * x[s, b, c]
        torch.testing.assert_close(mixer(x, pad), expected)


def test_affine_starts_as_the_paper_says():
    x = torch.randn(4, 2, 3)
    assert torch.equal(Affine(3)(x), x)
    torch.testing.assert_close(Affine(3, scale=0.2)(x), 0.2 * x)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_contributes_exactly_zero_whatever_it_holds(causal):
    mixer = CrossPositionLinear(8, causal)
    x = torch.randn(5, 2, 3)
    pad = torch.tensor([[False] * 5, [False, False, True, True, True]])
    garbage = x.clone()
    garbage[2:, 1] = float("nan")
    assert torch.equal(mixer(x, pad)[:, 0], mixer(garbage, pad)[:, 0])
    assert torch.equal(mixer(x, pad)[:2, 1], mixer(garbage, pad)[:2, 1])
    torch.testing.assert_close(mixer(x, pad)[:2, 1], mixer(x[:2])[:, 1])


def test_a_shorter_sequence_uses_the_sub_matrix():
    large, small = CrossPositionLinear(10), CrossPositionLinear(4)
    with torch.no_grad():
        small.weight.copy_(large.weight[:4, :4])
        small.bias.copy_(large.bias[:4])
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(large(x), small(x))


def test_a_may_start_as_zero():
    assert CrossPositionLinear(5, causal=True, init_std=0.0).weight.count_nonzero() == 0


def test_too_many_positions_are_refused_with_both_numbers_and_the_option():
    with pytest.raises(ValueError, match=r"5 positions .* of 4; .*--max-source-positions"):
        CrossPositionLinear(4)(torch.zeros(5, 1, 2))
    cache, mixer = PositionCache(), CrossPositionLinear(2, causal=True)
    for _ in range(2):
        mixer(torch.zeros(1, 1, 2), cache=cache)
    with pytest.raises(ValueError, match=r"3 positions .* of 2"):
        mixer(torch.zeros(1, 1, 2), cache=cache)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(2, 12), seed=st.integers(0, 1000), data=st.data())
def test_no_output_before_a_change_moves(length, seed, data):
    t = data.draw(st.integers(1, length - 1))
    layer = ResMLPLayer(3, CrossPositionLinear(12, causal=True), ChannelMLP(3, 5), layer_scale=1.0)
    randomise(layer, seed)
    x = torch.randn(length, 2, 3, requires_grad=True)
    changed = x.detach().clone()
    changed[t:] = torch.randn(length - t, 2, 3)
    torch.testing.assert_close(layer(x)[:t], layer(changed)[:t], rtol=1e-6, atol=1e-6)
    layer(x)[:t].sum().backward()
    assert torch.count_nonzero(x.grad[t:]) == 0  # bitwise: not one bit of a later input reaches an earlier output


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    ],
    ids=["adam", "adamw", "adagrad", "sgd"],
)
def test_the_upper_triangle_gets_no_gradient_and_stays_zero(optimizer, tmp_path):
    mixer = CrossPositionLinear(6, causal=True)
    steps = optimizer(mixer.parameters())
    before = mixer.weight.detach().clone()
    for _ in range(5):
        steps.zero_grad()
        mixer(torch.randn(6, 2, 3)).square().sum().backward()
        assert torch.count_nonzero(mixer.weight.grad.triu(1)) == 0
        assert torch.count_nonzero(mixer.weight.grad.tril()) == 21
        steps.step()
    torch.save(mixer.state_dict(), tmp_path / "mixer.pt")
    saved = torch.load(tmp_path / "mixer.pt", weights_only=True)["weight"]
    assert torch.count_nonzero(saved.triu(1)) == 0
    assert not torch.equal(saved, before)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 40), batch=st.integers(1, 4), seed=st.integers(0, 1000), data=st.data())
def test_one_position_at_a_time_equals_the_whole_under_reordering(length, batch, seed, data):
    mixer = CrossPositionLinear(40, causal=True)
    randomise(mixer, seed)
    sequences, cache = torch.zeros(0, batch, 3), PositionCache()
    for t in range(length):
        x = torch.randn(1, batch, 3)
        sequences = torch.cat([sequences, x])
        step = mixer(x, cache=cache)
        torch.testing.assert_close(step, mixer(sequences)[t:], rtol=1e-5, atol=1e-5)
        if data.draw(st.booleans()):
            order = torch.tensor(data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=5)))
            sequences, batch = sequences.index_select(1, order), len(order)
            cache.reorder(order)


def test_the_one_step_form_is_refused_where_it_means_nothing():
    with pytest.raises(ValueError, match="causal"):
        CrossPositionLinear(4)(torch.zeros(1, 1, 2), cache=PositionCache())


def test_the_cache_copies_each_position_a_bounded_number_of_times():
    cache = PositionCache()
    copies, storage = 0, None
    for t in range(256):
        now = cache.append(torch.zeros(1, 1, 1)).data_ptr()
        copies += t if storage not in (None, now) else 0
        storage = now
    assert copies <= 2 * 256


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_half_precision_stays_near_float32(dtype, causal):
    """Forward and backward are finite, and within 4 units of the type's precision of the largest float32 value."""
    torch.manual_seed(0)
    layer = ResMLPLayer(64, CrossPositionLinear(32, causal), ChannelMLP(64, 256), layer_scale=0.2)
    x = torch.randn(32, 4, 64)
    expected = layer(x)
    expected.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()
    layer.to(dtype)
    y = layer(x.to(dtype))
    y.square().sum().backward()
    for got, wanted in [(y, expected)] + [(p.grad, gradients[n]) for n, p in layer.named_parameters()]:
        assert torch.isfinite(got).all()
        tolerance = 4 * torch.finfo(dtype).eps * wanted.abs().max().item()
        torch.testing.assert_close(got.float(), wanted, rtol=0, atol=tolerance)
