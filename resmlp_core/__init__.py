"""The ResMLP layer of Touvron et al. (arXiv 2105.03404), which needs only PyTorch.

Every tensor is position-major, ``(T, B, C)``: positions, batch, channels. One layer serves the translation
encoder, the translation decoder and the image trunk.
"""

from resmlp_core.common import environment  # noqa: F401  first: before PyTorch is loaded
from resmlp_core.layers.affine import NORMS, Affine
from resmlp_core.layers.channel_mlp import ChannelMLP
from resmlp_core.layers.convolution import ConvolvedMixer
from resmlp_core.layers.cross_position import CrossPositionLinear
from resmlp_core.layers.fold import absorb_after, absorb_before, fold, fold_
from resmlp_core.layers.gate import GatedMixer
from resmlp_core.layers.layer import ResidualSublayer, ResMLPLayer
from resmlp_core.layers.onednn import by_onednn
from resmlp_core.layers.packed_linear import PackedLinear
from resmlp_core.layers.position_cache import PositionCache
from resmlp_core.layers.position_mixer import PositionMixer

__version__ = "0.1.0"
__all__ = [
    "NORMS",
    "Affine",
    "ChannelMLP",
    "ConvolvedMixer",
    "CrossPositionLinear",
    "GatedMixer",
    "PackedLinear",
    "PositionCache",
    "PositionMixer",
    "ResMLPLayer",
    "ResidualSublayer",
    "absorb_after",
    "absorb_before",
    "by_onednn",
    "fold",
    "fold_",
]
