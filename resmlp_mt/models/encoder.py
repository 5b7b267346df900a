"""The encoder: fairseq's Transformer encoder with ResMLP layers in place of its own."""

from typing import Any

import torch
from fairseq import utils
from fairseq.distributed import fsdp_wrap
from fairseq.models.transformer import TransformerConfig, TransformerEncoderBase
from fairseq.modules import FairseqDropout
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.quant_noise import quant_noise
from torch import Tensor, nn

from resmlp_core import NORMS, ChannelMLP, ConvolvedMixer, CrossPositionLinear, GatedMixer, PositionMixer, ResMLPLayer
from resmlp_mt.models.left_padding import left_padding, possible, rotate
from resmlp_mt.models.vocabulary_digest import Vocabulary


def build_channel_mlp(dim: int, hidden_dim: int, cfg: TransformerConfig, module_name: str) -> ChannelMLP:
    """Build C · GELU(B · x) with fairseq's activation, activation dropout and quantisation noise."""
    mlp = ChannelMLP(
        dim,
        hidden_dim,
        activation=utils.get_activation_fn(cfg.activation_fn),
        # relu_dropout is fairseq's older name for it, and counts where the newer one is not set
        dropout=FairseqDropout(float(cfg.activation_dropout or cfg.relu_dropout), module_name=module_name),
    )
    quant_noise(mlp.fc1, cfg.quant_noise.pq, cfg.quant_noise.pq_block_size)
    quant_noise(mlp.fc2, cfg.quant_noise.pq, cfg.quant_noise.pq_block_size)
    return mlp


def build_cross_position(dim: int, max_positions: int, cfg: TransformerConfig, causal: bool = False) -> PositionMixer:
    """Build what mixes positions: A, with a convolution beside it and gates around it if the options ask for them."""
    linear = CrossPositionLinear(max_positions, causal, init_std=cfg.position_init_std)
    kernel_size = cfg.position_convolution
    mixer = ConvolvedMixer(linear, dim, kernel_size, causal) if kernel_size else linear
    return GatedMixer(mixer, dim) if cfg.position_gates else mixer


def wrap_layer(layer: nn.Module, cfg: TransformerConfig) -> nn.Module:
    """Give a layer what fairseq gives its own: activation checkpointing and FSDP, as the options ask."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    # FSDP must wrap a checkpointed layer whatever its size
    return fsdp_wrap(layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap)


class ResMLPEncoderLayer(ResMLPLayer):
    """The paper's layer with a full A, behind the signature that fairseq's encoder calls."""

    def __init__(self, cfg: TransformerConfig) -> None:
        dim = cfg.encoder.embed_dim
        name = type(self).__name__
        super().__init__(
            dim,
            build_cross_position(dim, cfg.max_source_positions, cfg),
            build_channel_mlp(dim, cfg.encoder.ffn_embed_dim, cfg, name),
            cfg.layer_scale,
            FairseqDropout(cfg.dropout, module_name=name),
            NORMS[cfg.pre_norm],
        )

    def forward(  # type: ignore[override]
        self, x: Tensor, encoder_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Map ``(T, B, C)`` to ``(T, B, C)``; the mask is ``(B, T)``, True at padding."""
        # fairseq hands over a transposed view; one copy here spares one in every matrix product
        return super().forward(x.contiguous(), padding_mask=encoder_padding_mask)


class ResMLPEncoder(TransformerEncoderBase):
    """fairseq's Transformer encoder with ResMLP layers, and Aff or LayerNorm after the last.

    Its output does not depend on the side of the padding.
    """

    def __init__(self, cfg: TransformerConfig, dictionary: Any, embed_tokens: nn.Embedding, return_fc: bool = False):
        super().__init__(cfg, dictionary, embed_tokens, return_fc=return_fc)
        self.layer_norm = NORMS[cfg.pre_norm](cfg.encoder.embed_dim)  # fairseq applies this after its last layer
        self.vocabulary = Vocabulary(dictionary)

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> dict[str, Any]:
        """Leave weights as they are: fairseq takes a moving average for a version that had no final norm."""
        return state_dict

    def build_encoder_layer(self, cfg: TransformerConfig) -> nn.Module:
        """Build one layer; called by fairseq for each."""
        return wrap_layer(ResMLPEncoderLayer(cfg), cfg)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
    ) -> dict[str, list[Tensor]]:
        """Encode ``src_tokens``, ``(B, T)``, padded on either side.

        Returns:
            fairseq's dictionary, in the order of the tokens given: ``encoder_out`` holds ``(T, B, C)``,
            ``encoder_padding_mask`` and ``encoder_embedding`` hold ``(B, T)`` and ``(B, T, C)``.
        """
        shift = left_padding(src_tokens, self.padding_idx)
        if shift is None:
            return self.encode(src_tokens, return_all_hiddens, token_embeddings)
        if token_embeddings is not None:
            token_embeddings = rotate(token_embeddings, shift, 1)
        out = self.encode(rotate(src_tokens, shift, 1), return_all_hiddens, token_embeddings)
        for key, positions_dim in (
            ("encoder_out", 0),
            ("encoder_padding_mask", 1),
            ("encoder_embedding", 1),
            ("encoder_states", 0),
        ):
            out[key] = [rotate(x, -shift, positions_dim) for x in out[key]]
        return out

    def encode(
        self, src_tokens: Tensor, return_all_hiddens: bool, token_embeddings: Tensor | None
    ) -> dict[str, list[Tensor]]:
        """Encode what is padded on the right; fairseq's own asks the device before each layer whether there is any."""
        padding = src_tokens.eq(self.padding_idx)
        mask = padding if possible(padding) else None
        x, embedding = self.forward_embedding(src_tokens, token_embeddings)
        x = (x if mask is None else x.masked_fill(mask.unsqueeze(-1), 0.0)).transpose(0, 1)
        states = [x] if return_all_hiddens else []
        for layer in self.layers:
            x = layer(x, encoder_padding_mask=mask)
            states += [x] if return_all_hiddens else []
        return {
            "encoder_out": [self.layer_norm(x)],
            "encoder_padding_mask": [padding],
            "encoder_embedding": [embedding],
            "encoder_states": states,
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [padding.logical_not().sum(dim=1, keepdim=True, dtype=torch.int32)],
        }
