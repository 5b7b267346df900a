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


def slowly(matrix):
    """Orthogonalise one matrix as the equation is written."""
    x = matrix if len(matrix) <= matrix.size(1) else matrix.T
    x = x / max(x.norm().item(), 1e-12)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if len(matrix) <= matrix.size(1) else x.T


def test_matrices_in_one_stack_move_as_each_by_itself():
    """Wide and tall ones, several of a shape, a causal A, one that is never reached and one of zero gradient."""
    torch.manual_seed(0)
    shapes = [(8, 16), (16, 8), (8, 16), (8, 8), (8, 8), (8, 16), (16, 8)]
    weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    expected = [weight.detach().clone() for weight in weights]
    momenta = [torch.zeros(shape) for shape in shapes]
    muon = Muon(weights, lr=0.01, momentum=0.9, rms=0.3, weight_decay=0.5)
    for _ in range(3):
        for i, weight in enumerate(weights):
            weight.grad = torch.randn_like(weight)
            if i == 3:
                weight.grad.tril_()
            if i == 5:
                weight.grad.zero_()
            if i == 6:
                weight.grad = None
                continue
            momenta[i] = 0.9 * momenta[i] + 0.1 * weight.grad
            step = slowly(0.1 * weight.grad + 0.9 * momenta[i]) * (momenta[i] != 0)
            longer = max((momenta[i] != 0).any(1).sum(), (momenta[i] != 0).any(0).sum())
            expected[i] = (1 - 0.01 * 0.5) * expected[i] - 0.01 * 0.3 * longer**0.5 * step
        muon.step()
    torch.testing.assert_close([weight.detach() for weight in weights], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_gradients_of_any_size_give_the_step_of_their_direction(dtype):
    """A norm above 65,504, the largest float16; one so small that its square is none; and none at all."""
    torch.manual_seed(0)
    direction = torch.randn(64, 128).to(dtype)
    for scale in (4096.0, 1.0, 2.0**-12):
        got = orthogonalise(direction * scale).float()
        torch.testing.assert_close(got, orthogonalise(direction.float()), rtol=0, atol=0.02)
    assert not orthogonalise(torch.zeros(4, 8, dtype=dtype)).any()


def test_an_update_takes_few_operations_however_many_matrices_there_are(operations):
    """Of one shape; a GPU waits for each operation."""

    def counted(matrices):
        weights = [nn.Parameter(torch.randn(8, 16)) for _ in range(matrices)]
        for weight in weights:
            weight.grad = torch.randn(8, 16)
        muon = Muon(weights, lr=0.01)
        muon.step()
        with operations() as counter:
            muon.step()
        return counter.kernels.total()

    assert counted(12) == counted(2) <= 40


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
