"""The ResMLP layer of Touvron et al. (arXiv 2105.03404), in PyTorch alone.

Every tensor is position-major, ``(T, B, C)``: positions, batch, channels. One layer serves the translation
encoder, the translation decoder and the image trunk.
"""

from resmlp_core import environment  # noqa: F401  first: before PyTorch is loaded
from resmlp_core.affine import NORMS, Affine
from resmlp_core.channel_mlp import ChannelMLP
from resmlp_core.convolution import ConvolvedMixer
from resmlp_core.cross_position import CrossPositionLinear, PositionCache
from resmlp_core.fold import absorb_after, absorb_before, fold, fold_
from resmlp_core.layer import ResidualSublayer, ResMLPLayer
from resmlp_core.onednn import by_onednn
from resmlp_core.packed_linear import PackedLinear

__all__ = [
    "NORMS",
    "Affine",
    "ChannelMLP",
    "ConvolvedMixer",
    "CrossPositionLinear",
    "PackedLinear",
    "PositionCache",
    "ResMLPLayer",
    "ResidualSublayer",
    "absorb_after",
    "absorb_before",
    "by_onednn",
    "fold",
    "fold_",
]
