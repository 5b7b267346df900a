"""A depth-wise convolution beside A: a filter of its own for every channel, over near positions (beyond the paper)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resmlp_core.layers.cross_position import CrossPositionLinear
from resmlp_core.layers.position_cache import PositionCache
from resmlp_core.layers.position_mixer import PositionMixer


class ConvolvedMixer(PositionMixer):
    """mixer(x) + depth-wise convolution of x over positions.

    Args:
        mixer: A.
        dim: number of channels.
        kernel_size: positions that a filter covers: its own and those before it if ``causal``, else centred, and odd.
        causal: read no later position.

    Raises:
        ValueError: ``kernel_size`` is below 1, or even and not ``causal``.
    """

    channelwise = True
    matrix = "mixer.weight"

    def __init__(self, mixer: CrossPositionLinear, dim: int, kernel_size: int, causal: bool = False) -> None:
        super().__init__()
        if kernel_size < 1 or not (causal or kernel_size % 2):
            raise ValueError(
                f"kernel_size={kernel_size} (--position-convolution in fairseq) must be above 0, and odd if not causal"
            )
        self.mixer = mixer
        self.kernel_size = kernel_size
        self.before = kernel_size - 1 if causal else kernel_size // 2
        self.weight = nn.Parameter(torch.empty(kernel_size, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Mix the positions of ``x``, ``(T, B, dim)``; mask and cache are those of ``CrossPositionLinear``."""
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.t().unsqueeze(-1), 0.0)
        mixed = self.mixer(x, cache=cache)
        if cache is not None:
            near = cache.last(self.kernel_size)
            return mixed + (near * self.weight[-len(near) :].unsqueeze(1)).sum(0, keepdim=True)
        padded = F.pad(x, (0, 0, 0, 0, self.before, self.kernel_size - 1 - self.before))
        for offset, weight in enumerate(self.weight):
            mixed = torch.addcmul(mixed, padded[offset : offset + len(x)], weight)
        return mixed

    def take_bias(self) -> Tensor | None:
        """Give up that of A."""
        return self.mixer.take_bias()
