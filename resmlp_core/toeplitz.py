"""A with one weight a distance, so that it serves sequences of any length (beyond the paper)."""

import torch.nn.functional as F
from torch import Tensor, nn

from resmlp_core.cross_position import CrossPositionLinear


class ToeplitzLinear(CrossPositionLinear):
    """y_t = Σ_s a_{s-t} x_s: A is constant along its diagonals, and zero where they are farther than it reaches.

    Args:
        max_positions: N, the reach: a position reads those fewer than N before it, or behind it if not ``causal``.
        causal: read no later position.
        init_std: standard deviation of the weights at the start.
        heads: number of equal groups of channels, each with weights of its own.
    """

    def __init__(self, max_positions: int, causal: bool = False, init_std: float = 0.02, heads: int = 1) -> None:
        super().__init__(1, causal, bias=False, heads=heads)  # a bias would be one number a position
        self.max_positions = max_positions
        self.ahead = 0 if causal else max_positions - 1
        self.weight = nn.Parameter(self.weight.new_empty(*self.weight.shape[:-2], max_positions + self.ahead))
        nn.init.trunc_normal_(self.weight, std=init_std)

    def matrix(self, first: int, total: int) -> Tensor:
        """Rows ``first`` to ``total`` of A for ``total`` positions, ``(total - first, total)``, heads before them."""
        # by s - t from 1 - total to total - 1; a negative width of padding crops
        by_distance = F.pad(self.weight, (total - self.max_positions, total - 1 - self.ahead))
        return by_distance.unfold(-1, total, 1).flip(-2)[..., first:, :]
