"""The optimiser Muon: what it does to matrices, what it leaves to AdamW, and fairseq's own handling of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resmlp_core import CrossPositionLinear
from resmlp_mt.muon import FairseqMuon, Muon, MuonConfig, orthogonalise


@settings(max_examples=40)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), stack=st.integers(0, 2), seed=st.integers(0, 999))
def test_the_step_is_near_to_the_orthogonal_factor(rows, columns, stack, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (stack, rows, columns) if stack else (rows, columns)
    matrix = torch.randn(shape, generator=generator)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.mT @ orthogonalise(matrix) @ vh.mT  # the same in the basis in which the exact one is the identity
    off_diagonal = inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() < 1e-3
    strong = s > 0.02 * s.norm(dim=-1, keepdim=True)
    values = inner.diagonal(dim1=-2, dim2=-1)[strong]
    assert values.min() > 0.6 and values.max() < 1.3


def test_a_matrix_moves_by_its_learning_rate_alone():
    for scale in (1e-4, 1e4):
        weight = nn.Parameter(torch.zeros(64, 128))
        weight.grad = scale * torch.randn(64, 128)
        Muon([weight], lr=0.01, rms=0.4).step()
        assert weight.square().mean().sqrt().item() == pytest.approx(0.004, rel=0.2)


def test_the_steps_of_a_matrix_are_those_of_its_description():
    """Nesterov's momentum, made orthogonal and scaled, beside a weight decay of its own."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 16))
    expected, momentum = weight.detach().clone(), torch.zeros(8, 16)
    muon = FairseqMuon(MuonConfig(muon_momentum=0.9, muon_rms=0.3, weight_decay=0.5, lr=[0.01]), [weight]).optimizer
    for _ in range(3):
        weight.grad = torch.randn(8, 16)
        momentum = 0.9 * momentum + 0.1 * weight.grad
        step = 0.3 * 16**0.5 * orthogonalise(0.1 * weight.grad + 0.9 * momentum)
        expected = (1 - 0.01 * 0.5) * expected - 0.01 * step
        muon.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-4, atol=1e-5)


def test_all_but_the_matrices_move_as_under_adamw():
    def parameters():
        torch.manual_seed(0)
        return [nn.Parameter(torch.randn(shape)) for shape in ((200, 8), (8,))]  # an embedding and a scale

    ours, theirs = parameters(), parameters()
    muon = Muon(ours, lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    adamw = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        muon.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_upper_triangle_of_a_and_rows_without_a_gradient_stay():
    torch.manual_seed(0)
    mixer = CrossPositionLinear(8, causal=True)
    before = mixer.weight.detach().clone()
    muon = Muon(mixer.parameters(), lr=0.1)
    for _ in range(3):
        muon.zero_grad()
        mixer(torch.randn(5, 2, 3)).square().sum().backward()
        muon.step()
    assert torch.count_nonzero(mixer.weight.triu(1)) == 0
    assert torch.equal(mixer.weight[5:], before[5:])
    assert torch.count_nonzero(mixer.weight[:5] - before[:5]) == 15
    assert all(p.grad is not None for p in mixer.parameters())  # the gradients are there for who logs them


def test_room_for_longer_sentences_does_not_change_what_a_learns():
    torch.manual_seed(0)
    short, long = CrossPositionLinear(6, init_std=0.1), CrossPositionLinear(24, init_std=0.1)
    with torch.no_grad():
        long.weight[:6, :6] = short.weight
    optimisers = [Muon(mixer.parameters(), lr=0.1) for mixer in (short, long)]
    for _ in range(3):
        x = torch.randn(6, 2, 3)
        for mixer, muon in zip((short, long), optimisers, strict=True):
            muon.zero_grad()
            mixer(x).square().sum().backward()
            muon.step()
    torch.testing.assert_close(long.weight[:6, :6], short.weight)


def test_a_resumed_optimiser_ends_where_an_unbroken_one_ends():
    def parameters():
        torch.manual_seed(0)
        return [nn.Parameter(torch.randn(shape)) for shape in ((8, 16), (200, 8), (8,))]

    def train(muon, weights, steps):
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            muon.step()

    unbroken, resumed = parameters(), parameters()
    train(Muon(unbroken, lr=0.01), unbroken, range(6))
    first = Muon(resumed, lr=0.01)
    train(first, resumed, range(3))
    second = Muon(resumed, lr=0.01)
    second.load_state_dict(first.state_dict())
    train(second, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(unbroken, resumed, strict=True))
