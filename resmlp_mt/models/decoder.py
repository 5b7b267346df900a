"""The decoder: fairseq's Transformer decoder with a triangular A in place of its self-attention."""

import uuid
from typing import Any

from fairseq.models.transformer import TransformerConfig, TransformerDecoderBase
from fairseq.modules import FairseqDropout, MultiheadAttention
from torch import Tensor, nn

from resmlp_core import NORMS, Affine, PackedLinear, PositionCache, ResMLPLayer, absorb_after, absorb_before, by_onednn
from resmlp_mt.models.encoder import build_channel_mlp, build_cross_position, wrap_layer
from resmlp_mt.models.left_padding import left_padding, rotate
from resmlp_mt.models.vocabulary_digest import Vocabulary


class CrossAttention(MultiheadAttention):
    """fairseq's attention, whose projections oneDNN computes in training on a CPU."""

    forward = by_onednn(MultiheadAttention.forward)


class ResMLPDecoderLayer(ResMLPLayer):
    """The paper's layer with a lower-triangular A and, between its two sublayers, cross-attention to the source.

    The paper does not say how cross-attention is normalised and scaled; it gets a pre- and a post-Aff here, like the
    two other sublayers: Z' = Z + Aff(Attention(Aff(Z), encoder output)).
    """

    def __init__(self, cfg: TransformerConfig, no_encoder_attn: bool = False) -> None:
        dim = cfg.decoder.embed_dim
        name = type(self).__name__
        super().__init__(
            dim,
            build_cross_position(dim, cfg.max_target_positions, cfg, causal=True),
            build_channel_mlp(dim, cfg.decoder.ffn_embed_dim, cfg, name),
            cfg.layer_scale,
            FairseqDropout(cfg.dropout, module_name=name),
            NORMS[cfg.pre_norm],
        )
        self.need_attn = True
        self._cache_key = f"{uuid.uuid4()}.cross_position"  # fairseq keeps all layers' states in one dictionary
        self.encoder_attn: nn.Module | None = None
        if not no_encoder_attn:
            self.encoder_attn_pre: Any = NORMS[cfg.pre_norm](dim)
            self.encoder_attn = CrossAttention(
                dim,
                cfg.decoder.attention_heads,
                kdim=cfg.encoder.embed_dim,
                vdim=cfg.encoder.embed_dim,
                dropout=cfg.attention_dropout,
                encoder_decoder_attention=True,
                q_noise=cfg.quant_noise.pq,
                qn_block_size=cfg.quant_noise.pq_block_size,
            )
            self.encoder_attn_post: Any = Affine(dim, scale=cfg.layer_scale)
            self.encoder_attn_dropout = FairseqDropout(cfg.dropout, module_name=name)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        encoder_out: Tensor | None = None,
        encoder_padding_mask: Tensor | None = None,
        incremental_state: dict[str, Any] | None = None,
        self_attn_mask: Tensor | None = None,
        self_attn_padding_mask: Tensor | None = None,
        need_attn: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Decode ``(T, B, C)``, or with an incremental state the next position, ``(1, B, C)``.

        The two self-attention masks are fairseq's and go unused: A is triangular, and padding, which stands after
        the sentence, cannot reach it.

        Returns:
            The layer's output, the cross-attention weights when asked for, ``(heads, B, T, S)``, and None.
        """
        x = self.cross_position(x.contiguous(), cache=self._cache(incremental_state))
        attn = None
        if self.encoder_attn is not None and encoder_out is not None:
            y, attn = self.encoder_attn(
                query=self.encoder_attn_pre(x),
                key=encoder_out,
                value=encoder_out,
                key_padding_mask=encoder_padding_mask,
                incremental_state=incremental_state,
                static_kv=True,
                need_weights=need_attn or (not self.training and self.need_attn),
                need_head_weights=need_head_weights,
            )
            x = x + self.encoder_attn_dropout(self.encoder_attn_post(y))
        return self.cross_channel(x), attn, None

    def fold_(self) -> None:
        """Absorb the Affs, those of cross-attention included; called by ``resmlp_core.fold``."""
        super().fold_()
        attention: Any = self.encoder_attn
        if attention is not None:
            self.encoder_attn_pre = absorb_before(self.encoder_attn_pre, attention.q_proj)
            absorb_after(attention.out_proj, self.encoder_attn_post)
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                setattr(attention, name, PackedLinear(getattr(attention, name)))
            self.encoder_attn_post = nn.Identity()

    def _cache(self, incremental_state: dict[str, Any] | None) -> PositionCache | None:
        if incremental_state is None:
            return None
        return incremental_state.setdefault(self._cache_key, {"cache": PositionCache()})["cache"]

    def reorder_incremental_state(self, incremental_state: dict[str, Any], new_order: Tensor) -> None:
        """Follow beam search, which selects and reorders the hypotheses of a batch."""
        cache = self._cache(incremental_state)
        if cache is not None:
            cache.reorder(new_order)

    def make_generation_fast_(self, need_attn: bool = False, **kwargs: Any) -> None:
        """Skip the attention weights that no one asked for; called by fairseq before generation."""
        self.need_attn = need_attn


class ResMLPDecoder(TransformerDecoderBase):
    """fairseq's Transformer decoder with ResMLP layers, and Aff or LayerNorm after the last.

    Its output does not depend on the side of the padding.
    """

    def __init__(
        self,
        cfg: TransformerConfig,
        dictionary: Any,
        embed_tokens: nn.Embedding,
        no_encoder_attn: bool = False,
        output_projection: nn.Module | None = None,
    ):
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn, output_projection)
        # fairseq applies this after its last layer. The residual stream still carries the input embedding there, of
        # variance 1 a channel: where the output is tied to it, the first logit of the token just read is α d^1/2. From
        # d^-1/4 the first loss is ln V, as from d^-1/2, and falls faster (docs/notebook/2026-11.md).
        self.layer_norm: Any = (
            Affine(cfg.decoder.embed_dim, scale=cfg.decoder.embed_dim**-0.25)
            if cfg.pre_norm == "affine"
            else nn.LayerNorm(cfg.decoder.embed_dim)
        )
        self.vocabulary = Vocabulary(dictionary)
        self.cross_self_attention = True  # fairseq then makes the mask, which no one reads, without asking the device

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> dict[str, Any]:
        """Leave weights as they are: fairseq takes a moving average for a version that had no final norm."""
        return state_dict

    def build_decoder_layer(self, cfg: TransformerConfig, no_encoder_attn: bool = False) -> nn.Module:
        """Build one layer; called by fairseq for each."""
        return wrap_layer(ResMLPDecoderLayer(cfg, no_encoder_attn), cfg)

    def fold_(self) -> None:
        """Absorb the final Aff into what reads it; called by ``resmlp_core.fold``."""
        if self.adaptive_softmax is None:
            reader: Any = self.project_out_dim or self.output_projection
            self.layer_norm = absorb_before(self.layer_norm, reader)
            self.output_projection: Any = PackedLinear(self.output_projection)

    @by_onednn
    def output_layer(self, features: Tensor) -> Tensor:
        """Map features ``(B, T, C)`` to logits ``(B, T, vocabulary)``; called by fairseq."""
        return super().output_layer(features)

    def buffered_future_mask(self, tensor: Tensor) -> None:
        """Return no mask: A is triangular itself."""

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: dict[str, list[Tensor]] | None,
        incremental_state: dict[str, Any] | None = None,
        full_context_alignment: bool = False,
        alignment_layer: int | None = None,
        alignment_heads: int | None = None,
    ) -> tuple[Tensor, dict[str, list[Tensor | None]]]:
        """Decode ``prev_output_tokens``, ``(B, T)``, padded on either side, up to the features before the logits.

        Returns:
            The features, ``(B, T, C)``, and fairseq's dictionary of attention weights and inner states.

        Raises:
            ValueError: ``full_context_alignment`` is asked for; a triangular A has no full context.
        """
        if full_context_alignment:
            raise ValueError("--full-context-alignment is not possible: the decoder's A is triangular")
        shift = None if incremental_state is not None else left_padding(prev_output_tokens, self.padding_idx)
        tokens = prev_output_tokens if shift is None else rotate(prev_output_tokens, shift, 1)
        x, extra = super().extract_features(
            tokens,
            encoder_out,
            incremental_state,
            alignment_layer=alignment_layer,
            alignment_heads=alignment_heads,
        )
        if shift is not None:
            x = rotate(x, -shift, 1)
            extra["attn"] = [None if attn is None else rotate(attn, -shift, 1) for attn in extra["attn"]]
            extra["inner_states"] = [rotate(state, -shift, 0) for state in extra["inner_states"]]
        return x, extra
