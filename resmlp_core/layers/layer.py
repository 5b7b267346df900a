"""The residual layer: a cross-position sublayer, then a cross-channel one (paper, equations 2 and 3)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from resmlp_core.layers.affine import Affine, Norm
from resmlp_core.layers.channel_mlp import ChannelMLP
from resmlp_core.layers.fold import FoldedCrossChannel, FoldedCrossPosition
from resmlp_core.layers.position_cache import PositionCache
from resmlp_core.layers.position_mixer import PositionMixer


class ResidualSublayer(nn.Module):
    """X + Aff_post(mixer(Aff_pre(X))).

    Args:
        dim: number of channels.
        mixer: ``ChannelMLP``; in the subclass what mixes positions. It keeps the shape ``(T, B, dim)``.
        layer_scale: start of the post-Aff's α (LayerScale).
        dropout: module applied to the sublayer's output before it is added, for example ``nn.Dropout``.
        norm: makes what stands before the mixer; ``nn.LayerNorm`` is the paper's ablation.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        layer_scale: float,
        dropout: nn.Module | None = None,
        norm: Callable[[int], Norm] = Affine,
    ) -> None:
        super().__init__()
        self.pre = norm(dim)
        self.mixer: Any = mixer
        self.post = Affine(dim, scale=layer_scale)
        self.dropout = dropout or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(T, B, dim)`` to ``(T, B, dim)``."""
        return x + self.dropout(self.post(self.mixer(self.pre(x))))

    def make_folded(self) -> nn.Module:
        """Return the same without Affs, for inference."""
        return FoldedCrossChannel(self.pre, self.mixer, self.post)


class CrossPositionSublayer(ResidualSublayer):
    """The same where the mixer is one of positions, which padding and the cache of decoding concern."""

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Map ``(T, B, dim)`` to ``(T, B, dim)``; mask and cache are those of ``PositionMixer``."""
        return x + self.dropout(self.post(self.mixer(self.pre(x), padding_mask, cache)))

    def make_folded(self) -> nn.Module:
        """Return the same for inference, without Affs where the mixer has a place for them."""
        if self.mixer.channelwise:
            return FoldedCrossPosition(self.pre, self.mixer, self.post)
        return self.mixer.fold_between(self.pre, self.post) or self


class NoSublayer(nn.Module):
    """The residual stream as it is."""

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Return ``x``."""
        return x


class ResMLPLayer(nn.Module):
    """Z = X + Aff(A Aff(X)), then Y = Z + Aff(C GELU(B Aff(Z))).

    Args:
        dim: number of channels.
        cross_position: what mixes positions: ``CrossPositionLinear`` in the paper's model; None leaves that sublayer
            out, as one of the paper's ablations does.
        cross_channel: what mixes channels, ``ChannelMLP``.
        layer_scale: start of both post-Affs' α.
        dropout: module applied to each sublayer's output before it is added.
        norm: makes what stands before each of the two; ``nn.LayerNorm`` is the paper's ablation.
    """

    def __init__(
        self,
        dim: int,
        cross_position: PositionMixer | None,
        cross_channel: ChannelMLP,
        layer_scale: float,
        dropout: nn.Module | None = None,
        norm: Callable[[int], Norm] = Affine,
    ) -> None:
        super().__init__()
        self.cross_position: nn.Module = NoSublayer()
        if cross_position is not None:
            self.cross_position = CrossPositionSublayer(dim, cross_position, layer_scale, dropout, norm)
        self.cross_channel: nn.Module = ResidualSublayer(dim, cross_channel, layer_scale, dropout, norm)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Map ``(T, B, dim)`` to ``(T, B, dim)``; mask and cache go to what mixes positions."""
        return self.cross_channel(self.cross_position(x, padding_mask, cache))

    def fold_(self) -> None:
        """Absorb the Affs; called by ``resmlp_core.fold``."""
        for name in ("cross_position", "cross_channel"):
            sublayer = getattr(self, name)
            if isinstance(sublayer, ResidualSublayer):
                setattr(self, name, sublayer.make_folded())
