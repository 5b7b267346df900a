"""What can stand in the place of A on a patch grid: the paper's ablations, and a convolution beside A."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from resmlp_core import CrossPositionLinear, PositionCache, PositionMixer

Grid = tuple[int, int]


class CrossPositionMLP(PositionMixer):
    """A₂ · GELU(A₁ · x): two linear layers over positions, with four hidden units a position between."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(positions, 4 * positions)
        self.fc2 = nn.Linear(4 * positions, positions)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Map ``(N, B, C)`` to ``(N, B, C)``; a grid of patches is never padded or cached."""
        columns = x.flatten(1)  # as one matrix product over positions, which come first
        hidden = F.gelu(self.fc1.weight @ columns + self.fc1.bias.unsqueeze(1))
        return (self.fc2.weight @ hidden + self.fc2.bias.unsqueeze(1)).view_as(x)


class PatchConvolution(PositionMixer):
    """3×3 convolutions over the patch grid, zero-padded to keep its size.

    Args:
        grid: height and width of the patch grid; N = height · width.
        convolution: maps images ``(B, C, height, width)`` to images of the same shape.
    """

    def __init__(self, grid: Grid, convolution: nn.Module) -> None:
        super().__init__()
        self.grid = grid
        self.convolution = convolution

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Map ``(N, B, C)`` to ``(N, B, C)``; a grid of patches is never padded or cached."""
        images = x.permute(1, 2, 0).unflatten(2, self.grid)
        return self.convolution(images).flatten(2).permute(2, 0, 1)


def convolution(dim: int, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    """Make a 3×3 convolution that keeps the size of the grid; depth-wise with ``groups=dim``."""
    return nn.Conv2d(dim, dim, 3, padding=1, groups=groups, bias=bias)


class ConvolvedLinear(CrossPositionLinear):
    """A · x + depth-wise 3×3 convolution of x: a filter of its own for every channel, over near patches.

    Beyond the paper, as ``resmlp_core.ConvolvedMixer`` is for text.
    """

    def __init__(self, dim: int, grid: Grid) -> None:
        super().__init__(grid[0] * grid[1])
        self.near = PatchConvolution(grid, convolution(dim, groups=dim, bias=False))  # A has the bias

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Map ``(N, B, C)`` to ``(N, B, C)``; a grid of patches is never padded or cached."""
        return self.mix(x, padding_mask, cache) + self.near(x)


# By the name that ``create_model(..., position_mixer=NAME)`` takes: (dim, grid) -> module, or None.
POSITION_MIXERS: dict[str, Callable[[int, Grid], PositionMixer | None]] = {
    "linear": lambda dim, grid: CrossPositionLinear(grid[0] * grid[1]),
    "none": lambda dim, grid: None,
    "mlp": lambda dim, grid: CrossPositionMLP(grid[0] * grid[1]),
    "conv3x3": lambda dim, grid: PatchConvolution(grid, convolution(dim)),
    "depthwise_conv3x3": lambda dim, grid: PatchConvolution(grid, convolution(dim, groups=dim)),
    "separable_conv3x3": lambda dim, grid: PatchConvolution(
        grid, nn.Sequential(convolution(dim, groups=dim), nn.Conv2d(dim, dim, 1))
    ),
    "convolved_linear": ConvolvedLinear,
}
