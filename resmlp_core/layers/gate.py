"""Gates before and after a position mixer: by content, channel by channel (beyond the paper)."""

import torch
from torch import Tensor, nn

from resmlp_core.layers.affine import Affine, Norm
from resmlp_core.layers.convolution import ConvolvedMixer
from resmlp_core.layers.fold import eps_of, rows_from, scale_and_shift, scale_and_shift_by
from resmlp_core.layers.onednn import by_onednn
from resmlp_core.layers.packed_linear import PackedLinear
from resmlp_core.layers.position_cache import PositionCache
from resmlp_core.layers.position_mixer import PositionMixer


class GatedMixer(PositionMixer):
    """take(x) ⊙ mixer(send(x) ⊙ x), where both gates are 2σ(W x + b).

    A is the same for all sentences. The gates let the words decide what a position sends and what it takes. They start
    at 1, where the mixer is alone. gMLP (Liu et al., 2021) multiplies what it has mixed in a like way.

    Args:
        mixer: A, or A with a convolution beside it.
        dim: number of channels.
    """

    matrix = f"mixer.{ConvolvedMixer.matrix}"

    def __init__(self, mixer: PositionMixer, dim: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.send, self.take = nn.Linear(dim, dim), nn.Linear(dim, dim)
        for gate in (self.send, self.take):
            nn.init.zeros_(gate.weight)
            nn.init.zeros_(gate.bias)

    @by_onednn
    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Mix the positions of ``x``, ``(T, B, dim)``; mask and cache are those of ``mixer``."""
        return opening(self.take, x) * self.mixer(opening(self.send, x) * x, padding_mask, cache)

    def fold_between(self, pre: Norm, post: Affine) -> nn.Module:
        """Return the sublayer for inference."""
        return FoldedGates(pre, self, post)


def opening(gate: nn.Linear, x: Tensor) -> Tensor:
    """Return by how much a gate lets each channel through, from 0 to 2."""
    return 2 * gate(x).sigmoid()


class FoldedGates(nn.Module):
    """X + α' ⊙ take(n) ⊙ (mixer(send(n) ⊙ n) + b) + β' for n = pre(X), where the primes are the post-Aff's.

    Args:
        pre: Aff or LayerNorm.
        gated: its mixer's bias b is taken.
        post: the second Aff.
    """

    @torch.no_grad()
    def __init__(self, pre: Norm, gated: GatedMixer, post: Affine) -> None:
        super().__init__()
        self.scale, self.shift = scale_and_shift(pre)
        self.eps = eps_of(pre)
        self.send, self.take = PackedLinear(gated.send), PackedLinear(gated.take)
        self.mixer = gated.mixer
        bias = gated.mixer.take_bias()
        self.offset = nn.Parameter(post.beta.new_zeros(1, 1, 1) if bias is None else bias[:, None, None])
        self.post_scale, self.post_shift = nn.Parameter(2 * post.alpha), post.beta

    def entering(self, x: Tensor) -> Tensor:
        """Return what enters the mixer of ``x``, ``(..., dim)``."""
        inputs = scale_and_shift_by(x, self.scale, self.shift, self.eps)
        return opening(self.send, inputs) * inputs

    def leaving(self, x: Tensor, mixed: Tensor, offset: Tensor) -> Tensor:
        """Return the sublayer's output for ``x``, what the mixer made of it, and b at these positions."""
        inputs = scale_and_shift_by(x, self.scale, self.shift, self.eps)
        scale = self.post_scale * self.take(inputs).sigmoid()
        return torch.addcmul(x + self.post_shift, scale, mixed + offset)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Map ``(T, B, dim)`` to ``(T, B, dim)``; mask and cache are those of the mixer."""
        offset = rows_from(self.offset, cache, len(x))
        return self.leaving(x, self.mixer(self.entering(x), padding_mask, cache), offset)
