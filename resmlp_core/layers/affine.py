"""Aff, the scale and shift that stands where a Transformer has LayerNorm (paper, section 2)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


class Affine(nn.Module):
    """Aff_{α,β}(x) = Diag(α) x + β, with α, β ∈ R^dim learned; no statistic of the batch or the channels.

    Args:
        dim: number of channels.
        scale: start of α. 1 before a sublayer; a small value after it, where Aff acts as LayerScale. β starts at 0.
    """

    def __init__(self, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((dim,), float(scale)))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift the channels of ``x``, shape ``(..., dim)``; the shape stays.

        Under autocast the result has its type, as that of a linear layer has, and no float32 copy goes through memory.
        """
        if torch.jit.is_scripting() or not isinstance(x, Tensor):  # torch.fx hands in what is no tensor
            return torch.addcmul(self.beta, self.alpha, x)
        dtype = autocast_dtype(x)
        if x.dim() < 2 or is_transformed():
            y = torch.addcmul(self.beta, self.alpha, x)
            return y if dtype is None else y.to(dtype)
        return _Affine.apply(x, self.alpha, self.beta, dtype)

    def extra_repr(self) -> str:
        return f"{self.alpha.numel()}"


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the type that autocast computes in on the device of ``x``; None where it leaves ``x`` as it is."""
    device = x.device.type
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled and x.dtype != torch.float64 else None


def is_transformed() -> bool:
    """Whether PyTorch compiles, traces, or transforms by ``torch.func``, and so derives the gradients itself."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


class _Affine(torch.autograd.Function):
    """α ⊙ x + β, computed in the widest type and written in the one asked for; four kernels backward, not six."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, beta: Tensor, dtype: torch.dtype | None) -> Tensor:
        ctx.dtypes = x.dtype, alpha.dtype
        for_x, for_alpha = ctx.needs_input_grad[:2]
        ctx.save_for_backward(alpha if for_x else None, x if for_alpha else None)
        return torch.addcmul(beta, alpha, x, out=None if dtype is None else torch.empty_like(x, dtype=dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        for_x, for_alpha, for_beta = ctx.needs_input_grad[:3]
        alpha, x = ctx.saved_tensors
        narrow, wide = ctx.dtypes
        rest = tuple(range(gradient.dim() - 1))  # all dimensions but that of the channels
        return (
            gradient * alpha.to(narrow) if for_x else None,
            (gradient * x).sum(rest, dtype=wide) if for_alpha else None,
            gradient.sum(rest, dtype=wide) if for_beta else None,
            None,
        )


Norm = Affine | nn.LayerNorm
# What may stand before a mixer, by the name that options give it: the paper's Aff, or its ablation.
NORMS: dict[str, Callable[[int], Norm]] = {"affine": Affine, "layer_norm": nn.LayerNorm}
