"""Aff, the scale and shift that stands where a Transformer has LayerNorm (paper, section 2)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


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
        """Scale and shift the channels of ``x``, shape ``(..., dim)``; the shape stays."""
        return torch.addcmul(self.beta, self.alpha, x)

    def extra_repr(self) -> str:
        return f"{self.alpha.numel()}"


Norm = Affine | nn.LayerNorm
# What may stand before a mixer, by the name that options give it: the paper's Aff, or its ablation.
NORMS: dict[str, Callable[[int], Norm]] = {"affine": Affine, "layer_norm": nn.LayerNorm}
