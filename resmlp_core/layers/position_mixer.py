"""What a position mixer is: A, or what may stand in its place."""

from typing import ClassVar

from torch import Tensor, nn

from resmlp_core.layers.affine import Affine, Norm
from resmlp_core.layers.position_cache import PositionCache


class PositionMixer(nn.Module):
    """The interface of what mixes positions: A, or whatever stands in its place.

    Attributes:
        channelwise: it is linear, and no channel reads another, apart from a bias that ``take_bias`` gives up. It makes
            no difference then whether a scale of the channels stands before it or after it, which folding relies on.
        matrix: the name of A among its parameters, for ``resmlp-inspect``; None if there is none.
    """

    channelwise: ClassVar[bool] = False
    matrix: ClassVar[str | None] = None

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Mix the positions of ``x``.

        Args:
            x: ``(T, B, C)``; with a cache only the next position, ``(1, B, C)``.
            padding_mask: ``(B, T)``, True at padding, which then contributes exactly zero.
            cache: the earlier positions of a causal mixer; ``x`` is appended to it.

        Returns:
            A tensor of the shape of ``x``.
        """
        raise NotImplementedError

    def fold_between(self, pre: Norm, post: Affine) -> nn.Module | None:
        """Return the sublayer for inference, with what stands before and after; None to leave it as it is."""
        return None

    def take_bias(self) -> Tensor | None:
        """Give up the bias, ``(positions,)``, which folding adds elsewhere; None if there is none."""
        return None
