"""The image classifier (paper, section 2): patches, a trunk of ResMLP layers, their average, a linear classifier."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, PatchEmbed
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint, checkpoint_seq
from torch import Tensor, nn

from resmlp_core import NORMS, ChannelMLP, ResMLPLayer, absorb_before
from resmlp_vision.models.pooling import AveragePooling, ClassMLPPooling
from resmlp_vision.models.position_mixers import POSITION_MIXERS

POOLINGS = ("avg", "class_mlp")


class StochasticDepth(DropPath):
    """timm's stochastic depth for position-major tensors: it drops a sublayer's output, image by image."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, B, C)`` to ``(N, B, C)``."""
        return x * F.dropout(x.new_ones(1, x.size(1), 1), self.drop_prob, self.training)


class ResMLP(nn.Module):
    """ResMLP for images, with the methods that timm's tools ask of a model.

    Args:
        depth: layers of the trunk.
        embed_dim: channels, d.
        layer_scale: start of the post-Affs' α; the deeper the network, the smaller (paper's table of models).
        patch_size: side of a patch in pixels.
        img_size: side of an image in pixels, or its height and width. A has one row a patch of it.
        in_chans: channels of an image.
        num_classes: outputs of the classifier; 0 leaves it out.
        norm: what stands before a mixer, ``affine`` or ``layer_norm``.
        position_mixer: a name in ``POSITION_MIXERS``; ``linear`` is A.
        global_pool: ``avg``, ``class_mlp``, or an empty string, which keeps all positions.
        mlp_ratio: hidden channels per channel.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, the same at every layer.

    Raises:
        ValueError: there is no layer or no channel, ``img_size`` is not a multiple of ``patch_size``, or a name is
            unknown.
    """

    def __init__(
        self,
        depth: int = 12,
        embed_dim: int = 384,
        layer_scale: float = 0.1,
        patch_size: int = 16,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        norm: str = "affine",
        position_mixer: str = "linear",
        global_pool: str = "avg",
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("norm", norm, tuple(NORMS)),
            ("position_mixer", position_mixer, tuple(POSITION_MIXERS)),
            ("global_pool", global_pool, (*POOLINGS, "")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is none of {', '.join(map(repr, known))}")
        if depth < 1 or embed_dim < 1:
            raise ValueError(f"depth={depth} and embed_dim={embed_dim} must be above 0")
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if patch_size < 1 or height % patch_size or width % patch_size:
            raise ValueError(f"img_size={height}x{width} is no multiple of patch_size={patch_size}")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.grad_checkpointing = False
        self.stem = PatchEmbed(img_size, patch_size, in_chans, embed_dim, output_fmt="NCHW")
        grid = self.stem.grid_size
        hidden_dim = int(embed_dim * mlp_ratio)
        self.layers = nn.Sequential(
            *(
                ResMLPLayer(
                    embed_dim,
                    POSITION_MIXERS[position_mixer](embed_dim, grid),
                    ChannelMLP(embed_dim, hidden_dim),
                    layer_scale,
                    dropout=StochasticDepth(drop_path_rate) if drop_path_rate else None,
                    norm=NORMS[norm],
                )
                for _ in range(depth)
            )
        )
        self.feature_info = [
            {"module": f"layers.{i}", "num_chs": embed_dim, "reduction": patch_size} for i in range(depth)
        ]
        self.norm: Any = NORMS[norm](embed_dim)
        self.global_pool = global_pool
        self.pool: nn.Module = nn.Identity()
        if global_pool == "avg":
            self.pool = AveragePooling()
        elif global_pool == "class_mlp":
            self.pool = ClassMLPPooling(grid[0] * grid[1], embed_dim, hidden_dim, layer_scale, NORMS[norm])
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.apply(init_weights)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Keep the patch grid beside the parameters: A's size tells the number of patches, not the rows."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]]["grid"] = self.stem.grid_size

    def embed_patches(self, images: Tensor) -> Tensor:
        """Map images ``(B, channels, height, width)`` to embeddings of their patches, ``(N, B, C)``.

        They begin the residual stream, which keeps the weights' type where autocast computes in another.
        """
        patches = self.stem(images).flatten(2).permute(2, 0, 1).contiguous()
        return patches.to(self.stem.proj.weight.dtype)

    def forward_features(self, images: Tensor) -> Tensor:
        """Map images ``(B, channels, height, width)`` to features, in timm's layout ``(B, N, C)``."""
        x = self.embed_patches(images)
        if self.grad_checkpointing and self.training and not torch.jit.is_scripting():
            x = checkpoint_seq(self.layers, x)
        else:
            x = self.layers(x)
        return self.final_norm(x).transpose(0, 1)

    def final_norm(self, x: Tensor) -> Tensor:
        """Apply the final Aff to the patches ``(N, B, C)``; with Class-MLP, which reads them raw, it comes after."""
        return x if self.global_pool == "class_mlp" else self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map features ``(B, N, C)`` to logits ``(B, num_classes)``, or to what enters the classifier."""
        if self.global_pool != "":
            x = self.pool(x.transpose(0, 1))
        if self.global_pool == "class_mlp":
            x = self.norm(x)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, channels, height, width)`` to logits ``(B, num_classes)``."""
        return self.forward_head(self.forward_features(images))

    def fold_(self) -> None:
        """Absorb the final Aff into the classifier; called by ``resmlp_core.fold``. Features then come without it."""
        if isinstance(self.head, nn.Linear) and self.global_pool:
            self.norm = absorb_before(self.norm, self.head)

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the outputs of some layers.

        Args:
            images: ``(B, channels, height, width)``.
            indices: the last n layers, these layers, or all.
            norm: apply the final Aff to each.
            stop_early: leave out the layers after the last one asked for.
            output_fmt: ``NCHW`` or ``NLC``.
            intermediates_only: leave out the final features.

        Returns:
            A list of outputs, or the final features ``(B, N, C)`` and that list.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt={output_fmt!r} is neither NCHW nor NLC")
        wanted, last = feature_take_indices(len(self.layers), indices)
        x = self.embed_patches(images)
        intermediates = []
        for i, layer in enumerate(self.layers[: last + 1] if stop_early else self.layers):
            x = checkpoint(layer, x) if self.grad_checkpointing and self.training else layer(x)
            if i in wanted:
                output = self.norm(x) if norm else x
                grid = self.stem.grid_size
                intermediates.append(
                    output.transpose(0, 1) if output_fmt == "NLC" else output.permute(1, 2, 0).unflatten(2, grid)
                )
        return intermediates if intermediates_only else (self.final_norm(x).transpose(0, 1), intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the outputs of these layers do not need; return their numbers."""
        wanted, last = feature_take_indices(len(self.layers), indices)
        self.layers = self.layers[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make the classifier anew, for another number of classes; 0 leaves it out."""
        if global_pool not in (None, "avg", "", self.global_pool):
            raise ValueError(f"global_pool={global_pool!r} cannot be added to a model")
        if global_pool is not None and global_pool != self.global_pool:
            self.global_pool = global_pool
            self.pool = AveragePooling() if global_pool else nn.Identity()
        self.num_classes = num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        self.head.apply(init_weights).to(self.stem.proj.weight)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the trunk anew in the backward pass, to spare memory."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Name the groups of parameters for layer-wise learning rates."""
        return {"stem": r"^stem", "blocks": [(r"^layers\.(\d+)", None), (r"^(?:norm|pool)", (99999,))]}


def init_weights(module: nn.Module) -> None:
    """Start linear layers as the released models do: a truncated normal of deviation 0.02, biases at 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
