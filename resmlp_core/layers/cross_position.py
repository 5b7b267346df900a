"""A · x, the linear layer over positions that stands where a Transformer has self-attention (paper, equation 2)."""

import torch
import torch.fx
from torch import Tensor, nn

from resmlp_core.layers.position_cache import PositionCache
from resmlp_core.layers.position_mixer import PositionMixer


@torch.fx.wrap  # one node of a graph: what depends on sizes is decided when it runs
def rows(matrix: Tensor, bias: Tensor | None, first: int, total: int) -> tuple[Tensor, Tensor | None]:
    """Return the rows of A and of its bias from ``first`` on for a sequence of ``total`` positions."""
    size = matrix.size(0)
    if total > size:
        raise ValueError(
            f"a sequence of {total} positions does not fit a matrix A of {size}; give shorter ones, "
            "or train with more max_positions (--max-source-positions, --max-target-positions in fairseq)"
        )
    exporting = not torch.jit.is_scripting() and torch.compiler.is_compiling()  # it would take `==` for a promise
    if not exporting and first == 0 and total == size:
        return matrix, bias  # the backward pass of a slice, even of one of it all, is a copy
    return matrix[first:total, :total], None if bias is None else bias[first:total]


class CrossPositionLinear(PositionMixer):
    """y_t = Σ_s A[t, s] x_s + b_t, the same for every channel, as one matrix product.

    A sequence of T positions uses the sub-matrix ``A[:T, :T]`` (paper, machine translation). With ``causal`` it is the
    lower triangle of it, so that no position sees a later one; the upper triangle is masked in every forward pass and
    gets no gradient.

    Args:
        max_positions: N, the side of A and the longest sequence.
        causal: use only the lower triangle.
        bias: learn b ∈ R^N, one number a position.
        init_std: standard deviation of A's entries at the start (the released image models use 0.02).
    """

    channelwise = True
    matrix = "weight"

    def __init__(self, max_positions: int, causal: bool = False, bias: bool = True, init_std: float = 0.02) -> None:
        super().__init__()
        self.max_positions = max_positions
        self.causal = causal
        weight = torch.zeros(max_positions, max_positions)
        if init_std:
            nn.init.trunc_normal_(weight, std=init_std)
        self.weight = nn.Parameter(weight.tril() if causal else weight)
        self.bias = nn.Parameter(torch.zeros(max_positions)) if bias else None

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Mix the positions of ``x``, with mask and cache as ``PositionMixer`` says.

        Raises:
            ValueError: there are more positions than ``max_positions``, or a cache meets a layer that is not causal
                or more than one position.
        """
        return self.mix(x, padding_mask, cache)

    def mix(self, x: Tensor, padding_mask: Tensor | None, cache: PositionCache | None) -> Tensor:
        """Do what ``forward`` does; for subclasses, as TorchScript knows no ``super()``."""
        if cache is not None and not (self.causal and x.size(0) == 1):
            raise ValueError("a cache serves a causal CrossPositionLinear, one position at a time")
        first = 0 if cache is None else cache.length
        total = first + x.size(0)
        matrix, bias = rows(self.weight, self.bias, first, total)
        if self.causal and cache is None:
            matrix = matrix.tril()
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.t().unsqueeze(-1), 0.0)
        inputs = x if cache is None else cache.append(x)
        columns = inputs.reshape(total, -1)
        if self.bias is None:
            return (matrix @ columns).view_as(x)
        assert bias is not None
        return torch.addmm(bias.unsqueeze(-1), matrix, columns).view_as(x)

    def take_bias(self) -> Tensor | None:
        """Give up b."""
        bias, self.bias = self.bias, None
        return bias

    def extra_repr(self) -> str:
        return f"{self.max_positions}, causal={self.causal}, bias={self.bias is not None}"
