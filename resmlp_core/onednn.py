"""Training on a CPU by oneDNN's matrix product, which on some processors is twice as fast as PyTorch's own."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

Forward = TypeVar("Forward", bound=Callable[..., Any])


def can_multiply(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can take x Wᵀ over from ``nn.Linear``: float32 on a CPU, and nothing that traces or transforms."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return bool(
        all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (x, weight))
        and x.layout == torch.strided
        and x.numel() > 0
        and x.shape[-1:] == weight.shape[1:]
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and forward_ad.unpack_dual(x).tangent is None
    )


def by_onednn(forward: Forward) -> Forward:
    """Let oneDNN compute the linear layers of a module's ``forward``, and their gradients, in training on a CPU.

    The modules in it stay what they are. Elsewhere, and where no gradients are asked for, ``forward`` is as it was.
    """

    @wraps(forward)
    def wrapped(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled() and x.device.type == "cpu") or torch.compiler.is_compiling():
            return forward(self, x, *args, **kwargs)
        with _ByOneDNN():
            return forward(self, x, *args, **kwargs)

    return cast(Forward, wrapped)


class _ByOneDNN(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.linear and not kwargs and can_multiply(*args[:2]):
            x, weight, *bias = args
            return _Linear.apply(x.reshape(-1, x.size(-1)), weight, *bias).view(*x.shape[:-1], -1)
        return function(*args, **(kwargs or {}))


class _Linear(torch.autograd.Function):
    """x Wᵀ + b of two matrices; its gradients are such products too, so that they can be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = (*ctx.needs_input_grad, False)[:3]
        to_x = _Linear.apply(gradient, weight.t()) if of_x else None
        to_weight = None
        if of_weight:  # oneDNN lays out the second factor anew for its use, which the larger one is worth
            narrow = gradient.size(1) <= x.size(1)
            to_weight = _Linear.apply(gradient.t(), x.t()) if narrow else _Linear.apply(x.t(), gradient.t()).t()
        gradients = to_x, to_weight, gradient.sum(0) if of_bias else None
        return gradients[: len(ctx.needs_input_grad)]
