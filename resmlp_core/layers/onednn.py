"""Training on a CPU by oneDNN's matrix product, which on AMD's processors with AVX-512 is faster than PyTorch's."""

from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

Forward = TypeVar("Forward", bound=Callable[..., Any])


@cache
def onednn_is_faster() -> bool:
    """Whether this processor is AMD's and has AVX-512.

    PyTorch's own product is MKL's, which is the faster on Intel's processors and on those without AVX-512.
    """
    model = Path("/proc/cpuinfo")
    maker = model.read_text(encoding="utf-8") if model.exists() else ""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in maker


def can_multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN can take x Wᵀ + b over: plain float32 on a CPU, and nothing that traces or transforms."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    return bool(
        all(
            type(t) in (Tensor, nn.Parameter)
            and t.device.type == "cpu"
            and t.dtype == torch.float32
            and t.layout == torch.strided
            and forward_ad.unpack_dual(t).tangent is None
            for t in (x, weight, bias)
            if t is not None
        )
        and x.numel() > 0
        and x.shape[-1:] == weight.shape[1:]
        and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))  # it takes no strides of b
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
    )


def by_onednn(forward: Forward) -> Forward:
    """Let oneDNN compute the linear layers of a module's ``forward``, and their gradients, in training on a CPU.

    The processor decides (``onednn_is_faster``), not a measurement, so that a resumed run computes as before. Where it
    does not gain, or no gradients are asked for, ``forward`` is as it was. The modules in it stay what they are. What
    ``torch.utils.checkpoint`` computes anew within it must be decorated itself.
    """

    @wraps(forward)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (
            not (self.training and torch.is_grad_enabled())
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or not onednn_is_faster()
            or getattr(next(self.parameters(), None), "device", None) != torch.device("cpu")
        ):
            return forward(self, *args, **kwargs)
        with _ByOneDNN():
            return forward(self, *args, **kwargs)

    return cast(Forward, wrapped)


class _ByOneDNN(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.linear and not kwargs and can_multiply(*args):
            x, *parameters = args
            rows = x.reshape(-1, x.size(-1)).contiguous()
            return _Linear.apply(rows, *parameters).view(*x.shape[:-1], -1)
        return function(*args, **(kwargs or {}))


class _Linear(torch.autograd.Function):
    """x Wᵀ + b of two matrices; its gradients are such products too, so that they can be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, weight = inputs[:2]
        for_x, for_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if for_weight else None, weight if for_x else None)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = (*ctx.needs_input_grad, False)[:3]
        to_x = _Linear.apply(gradient, weight.t()) if for_x else None
        to_weight = None
        if for_weight and gradient.size(1) <= x.size(1):
            to_weight = _Linear.apply(gradient.t(), x.t())
        elif for_weight:  # oneDNN lays out its second factor anew: that should be the larger
            to_weight = _Linear.apply(x.t(), gradient.t()).t().contiguous()
        gradients = to_x, to_weight, gradient.sum(0) if for_bias else None
        return gradients[: len(ctx.needs_input_grad)]
