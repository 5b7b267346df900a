"""Aff's own backward pass: the same gradients as PyTorch derives, wherever they are asked for, by fewer kernels."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from resmlp_core import Affine


def make(dim=5, dtype=torch.float64):
    torch.manual_seed(0)
    affine = Affine(dim).to(dtype)
    nn.init.normal_(affine.alpha)
    nn.init.normal_(affine.beta)
    return affine, torch.randn(3, 4, dim, dtype=dtype, requires_grad=True)


def call(x, alpha, beta):
    return torch.func.functional_call(Affine(5), {"alpha": alpha, "beta": beta}, x)


def reference(x, alpha, beta):
    return alpha * x + beta


def inputs():
    affine, x = make()
    return x, affine.alpha.detach().clone().requires_grad_(), affine.beta.detach().clone().requires_grad_()


@pytest.mark.parametrize("shape", [(5,), (3, 5), (3, 4, 5), (2, 3, 4, 5), (0, 2, 5)])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1, 2)])
def test_gradients_are_those_of_the_equation(shape, wanted):
    _, alpha, beta = inputs()
    tensors = (torch.randn(shape, dtype=torch.float64), alpha.detach(), beta.detach())
    for index in wanted:
        tensors[index].requires_grad_()
    chosen = [tensors[index] for index in wanted]
    got, expected = (torch.autograd.grad(f(*tensors).square().sum(), chosen) for f in (call, reference))
    torch.testing.assert_close(got, expected)


def test_gradients_can_be_differentiated_again():
    assert torch.autograd.gradcheck(call, inputs(), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, inputs())


def test_it_takes_the_transformations_of_torch_func():
    x, alpha, beta = inputs()

    def loss(f):
        return lambda *tensors: f(*tensors).square().sum()

    for transform in (
        lambda f: torch.func.vmap(f, (0, None, None)),
        lambda f: torch.func.vmap(torch.func.grad(loss(f), (0, 1, 2)), (0, None, None)),
        lambda f: lambda *tensors: torch.func.jvp(f, tensors, tensors),
        lambda f: torch.func.jacrev(f, (0, 1, 2)),
    ):
        torch.testing.assert_close(transform(call)(x, alpha, beta), transform(reference)(x, alpha, beta))
    many = torch.eye(60, dtype=torch.float64).view(60, 3, 4, 5)
    got, expected = (torch.autograd.grad(f(x, alpha, beta), x, many, is_grads_batched=True) for f in (call, reference))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(reentrant):
    affine, x = make()
    affine(x).square().sum().backward()
    expected = [p.grad.clone() for p in (x, *affine.parameters())]
    x.grad = None
    affine.zero_grad()
    checkpoint(affine, x, use_reentrant=reentrant).square().sum().backward()
    torch.testing.assert_close([p.grad for p in (x, *affine.parameters())], expected)


@pytest.mark.parametrize("autocast", [False, True])
def test_it_compiles_without_a_graph_break_to_the_same(autocast):
    affine, x = make(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch._dynamo.explain(affine)(x).graph_break_count == 0
        compiled = torch.compile(affine, backend="aot_eager", fullgraph=True)(x)
        eager = affine(x)
    assert compiled.dtype == eager.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert torch.equal(compiled, eager)
    got, expected = (
        torch.autograd.grad(y.float().square().sum(), (x, *affine.parameters())) for y in (compiled, eager)
    )
    torch.testing.assert_close(got, expected, rtol=2e-2 if autocast else 1e-6, atol=2e-2 if autocast else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_result_is_rounded_once_and_sums_are_float32(dtype):
    affine, x = make(64, torch.float32)
    x = torch.randn(2000, 64).to(dtype).requires_grad_()
    expected = reference(x.float(), affine.alpha, affine.beta)
    gradient = torch.randn(2000, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = affine(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=2**-8, atol=2**-20)  # half a step of bfloat16
    for_x, for_alpha, for_beta = torch.autograd.grad(y, (x, affine.alpha, affine.beta), gradient)
    assert (for_x.dtype, for_alpha.dtype, for_beta.dtype) == (dtype, torch.float32, torch.float32)
    torch.testing.assert_close(for_x.float(), gradient * affine.alpha, rtol=2**-7, atol=0)
    torch.testing.assert_close(for_alpha, (gradient.float() * x.float()).sum(0), rtol=1e-3, atol=0.2)
    torch.testing.assert_close(for_beta, gradient.float().sum(0), rtol=1e-5, atol=1e-4)


def test_the_backward_pass_has_four_kernels(operations):
    affine, x = make(dtype=torch.float32)
    with operations() as forward:
        y = affine(x)
    gradient = torch.ones(3, 4, 5)
    with operations() as backward:
        torch.autograd.grad(y, (x, *affine.parameters()), gradient)
    assert dict(forward.kernels) == {"addcmul": 1}
    assert dict(backward.kernels) == {"mul": 2, "sum": 2}
