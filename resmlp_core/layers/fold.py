"""Absorbing what stands before and after the linear layers into them, for inference (paper, section 2)."""

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resmlp_core.layers.affine import Affine, Norm
from resmlp_core.layers.channel_mlp import ChannelMLP
from resmlp_core.layers.packed_linear import PackedLinear
from resmlp_core.layers.position_cache import PositionCache
from resmlp_core.layers.position_mixer import PositionMixer

Model = TypeVar("Model", bound=nn.Module)
ROWS = 512  # hidden units of so many positions stay in a processor's cache


def fold(model: Model) -> Model:
    """Copy a model for inference, with every Aff absorbed that stands beside a linear layer.

    A mixes positions, and so cannot absorb scales of the channels: the two Affs around it become one before it. Modules
    with a method ``fold_`` absorb their own: the layers, the classifier, the translation model. Mixers other than A
    keep their Affs.

    Args:
        model: any that has ``ResMLPLayer`` in it. It stays as it is.

    Returns:
        A model of equal logits, in evaluation mode, whose parameters ask for no gradients. Their names and values are
        others than the original's. What comes before the logits differs too: the encoder's output, for one, lacks the
        final Aff, which what reads it has absorbed.
    """
    folded = copy.deepcopy(model)
    folded.eval()  # in training LayerDrop would hide layers from fold_
    fold_(folded)
    folded.eval()  # the modules that fold_ has put in
    return folded


def fold_(model: nn.Module) -> None:
    """Fold the model itself, as ``fold`` does a copy; parts that are folded already stay as they are."""
    for module in list(model.modules()):
        absorb = getattr(module, "fold_", None)
        if absorb is not None and not getattr(module, "folded", False):
            absorb()
            module.folded = True  # type: ignore[assignment]
    model.requires_grad_(False)


@torch.no_grad()
def absorb_before(norm: Norm, *linears: nn.Linear) -> nn.Module:
    """Absorb the α and β that stand before linear layers: W (α ⊙ x + β) + b = (W Diag(α)) x + (W β + b).

    Args:
        norm: Aff, or LayerNorm, whose α and β come after its normalisation.
        linears: all that read its output; they are changed.

    Returns:
        What stays of ``norm``: nothing of Aff, of LayerNorm its normalisation.
    """
    alpha, beta = scale_and_shift(norm)
    for linear in linears:
        bias = linear.weight @ beta
        linear.bias = nn.Parameter(bias if linear.bias is None else bias + linear.bias)
        linear.weight = nn.Parameter(linear.weight * alpha)  # a new one: other layers may share the old
    if isinstance(norm, nn.LayerNorm):
        return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)
    return nn.Identity()


@torch.no_grad()
def absorb_after(linear: nn.Linear, post: Affine) -> None:
    """Absorb the Aff that stands after a linear layer: α ⊙ (W x + b) + β = (Diag(α) W) x + (α ⊙ b + β)."""
    linear.bias = nn.Parameter(post.beta.clone() if linear.bias is None else post(linear.bias))
    linear.weight = nn.Parameter(post.alpha.unsqueeze(1) * linear.weight)


def scale_and_shift(norm: Norm) -> tuple[Tensor, Tensor]:
    """Return α and β of Aff or LayerNorm, each ``(dim,)``."""
    return (norm.alpha, norm.beta) if isinstance(norm, Affine) else (norm.weight, norm.bias)


def eps_of(norm: Norm) -> float | None:
    """Return the ε of LayerNorm, None for Aff."""
    return norm.eps if isinstance(norm, nn.LayerNorm) else None


def scale_and_shift_by(x: Tensor, scale: Tensor, shift: Tensor, eps: float | None) -> Tensor:
    """Scale and shift the channels of ``x``, after LayerNorm's normalisation if there is its ε."""
    if eps is None:
        return torch.addcmul(shift, scale, x)
    return F.layer_norm(x, scale.shape, scale, shift, eps)


class FoldedCrossPosition(nn.Module):
    """X + A (γ ⊙ X + δ) + P, with the Affs on both sides of A as one before it.

    Aff'(A Aff(X) + b) = A (α'α ⊙ X + α'β) + (b α'ᵀ + β'), where the primes are the post-Aff's.

    Args:
        pre: Aff; or LayerNorm, where γ and δ come after its normalisation.
        mixer: A, or another that is ``channelwise``; its bias is taken.
        post: the second Aff.
    """

    @torch.no_grad()
    def __init__(self, pre: Norm, mixer: PositionMixer, post: Affine) -> None:
        super().__init__()
        alpha, beta = scale_and_shift(pre)
        self.scale = nn.Parameter(post.alpha * alpha)
        self.shift = nn.Parameter(post.alpha * beta)
        self.eps = eps_of(pre)
        offset = post.beta.unsqueeze(0)
        bias = mixer.take_bias()
        if bias is not None:
            offset = torch.addcmul(offset, post.alpha, bias.unsqueeze(1))  # (positions, channels)
        self.offset = nn.Parameter(offset.unsqueeze(1))
        self.mixer = mixer

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: PositionCache | None = None) -> Tensor:
        """Map ``(T, B, dim)`` to ``(T, B, dim)``; mask and cache are those of ``CrossPositionLinear``."""
        offset = rows_from(self.offset, cache, x.size(0))
        return self.leaving(x, self.mixer(self.entering(x), padding_mask=padding_mask, cache=cache), offset)

    def entering(self, x: Tensor) -> Tensor:
        """Return what enters the mixer of ``x``, ``(..., dim)``."""
        return scale_and_shift_by(x, self.scale, self.shift, self.eps)

    def leaving(self, x: Tensor, mixed: Tensor, offset: Tensor) -> Tensor:
        """Return the sublayer's output for ``x``, what the mixer made of it, and P at these positions."""
        mixed = mixed.to(x.dtype).contiguous()  # a mixer may return one position expanded to all
        return mixed.add_(x).add_(offset)


def rows_from(offset: Tensor, cache: PositionCache | None, count: int) -> Tensor:
    """Return the rows of ``offset`` for the ``count`` positions that follow those in a cache; its one row for all."""
    first = 0 if cache is None or len(offset) == 1 else cache.length
    return offset[first : first + count]


class FoldedCrossChannel(nn.Module):
    """Z + C GELU(B n(Z)), with both Affs in B and C; n is LayerNorm's normalisation, or nothing.

    On a CPU, block by block of positions: the hidden units, four times the channels, then never leave the cache.
    """

    def __init__(self, pre: Norm, mixer: ChannelMLP, post: Affine) -> None:
        super().__init__()
        self.pre = absorb_before(pre, mixer.fc1)
        absorb_after(mixer.fc2, post)
        mixer.fc1, mixer.fc2 = PackedLinear(mixer.fc1), PackedLinear(mixer.fc2)
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., dim)`` to ``(..., dim)``."""
        if torch.jit.is_scripting() or not isinstance(x, Tensor):  # torch.fx hands in what is no tensor
            return x + self.mixer(self.pre(x))
        if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return x + self.mixer(self.pre(x))
        blocks = x.reshape(-1, x.size(-1)).split(ROWS)
        return torch.cat([block + self.mixer(self.pre(block)) for block in blocks]).view_as(x)
