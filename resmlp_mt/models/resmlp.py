"""The model ``resmlp`` and its architectures, registered with fairseq."""

import argparse
from typing import Any

from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerConfig, TransformerModel, base_architecture
from torch import nn

from resmlp_core import absorb_before
from resmlp_mt.models.decoder import ResMLPDecoder
from resmlp_mt.models.encoder import ResMLPEncoder
from resmlp_mt.models.folding import FoldedForInference
from resmlp_mt.models.growing import GrowingPositions
from resmlp_mt.models.hub_interface import HubInterface
from resmlp_mt.models.options import DEFAULTS, ResMLPOptions, settle_options


@register_model("resmlp")
class ResMLPModel(FoldedForInference, GrowingPositions, TransformerModel):
    """The paper's encoder-decoder for machine translation: fairseq's Transformer, its self-attention replaced by A."""

    @classmethod
    def hub_models(cls) -> dict[str, Any]:
        """Name no released models: there are none yet, and fairseq's Transformers do not fit."""
        return {}

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> HubInterface:
        """Load a checkpoint as fairseq does; the interface differs in how it translates what has no text."""
        hub = super().from_pretrained(*args, **kwargs)
        return HubInterface(hub.cfg, hub.task, hub.models)

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add the Transformer's options and ResMLP's own."""
        super().add_args(parser)
        gen_parser_from_dataclass(parser, ResMLPOptions(), delete_default=True)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "ResMLPModel":
        """Build a model for the options of a training run or a checkpoint.

        Raises:
            ValueError: an option asks for a part of the Transformer that ResMLP does not have.
        """
        return super().build_model(settle_options(args), task)

    def forward(self, *args: Any, return_all_hiddens: bool = False, **kwargs: Any) -> Any:
        """Run fairseq's forward; the encoder's inner states, which no loss reads, come only when asked for."""
        return super().forward(*args, return_all_hiddens=return_all_hiddens, **kwargs)

    def fold_(self) -> None:
        """Absorb the encoder's final Aff into the cross-attention that reads it; called by ``resmlp_core.fold``."""
        attentions = [layer.encoder_attn for layer in self.decoder.layers if layer.encoder_attn is not None]
        if attentions:
            readers = [linear for attention in attentions for linear in (attention.k_proj, attention.v_proj)]
            self.encoder.layer_norm = absorb_before(self.encoder.layer_norm, *readers)

    @classmethod
    def build_encoder(cls, cfg: Any, src_dict: Any, embed_tokens: nn.Embedding) -> ResMLPEncoder:
        """Build the encoder; called by fairseq."""
        return ResMLPEncoder(TransformerConfig.from_namespace(cfg), src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, cfg: Any, tgt_dict: Any, embed_tokens: nn.Embedding) -> ResMLPDecoder:
        """Build the decoder; called by fairseq."""
        return ResMLPDecoder(
            TransformerConfig.from_namespace(cfg), tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention
        )


# what this is worth: docs/notebook/2026-11.md
PLUS = {"layer_scale": 1.0, "pre_norm": "layer_norm", "position_convolution": 5}
TINY = {  # the decoder's dimensions follow the encoder's
    "layer_scale": 1.0,
    "encoder_embed_dim": 128,
    "encoder_ffn_embed_dim": 256,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "decoder_attention_heads": 4,
}


def set_defaults(args: Any, **defaults: Any) -> None:
    """Set the options that the user has not."""
    for name, value in defaults.items():
        setattr(args, name, getattr(args, name, value))


@register_model_architecture("resmlp", "resmlp")
def resmlp(args: Any) -> None:
    """ResMLP-6 of the paper: 6 + 6 layers, dimension 512, hidden 2048, 8 heads in cross-attention."""
    set_defaults(
        args,
        **DEFAULTS,
        activation_fn="gelu",
        # A has max_positions² weights a layer, so the limit is no longer than sentences are
        max_source_positions=256,
        max_target_positions=256,
    )
    base_architecture(args)


@register_model_architecture("resmlp", "resmlp_12")
def resmlp_12(args: Any) -> None:
    """ResMLP-12 of the paper: 12 + 12 layers."""
    set_defaults(args, encoder_layers=12, decoder_layers=12)
    resmlp(args)


@register_model_architecture("resmlp", "resmlp_tiny")
def resmlp_tiny(args: Any) -> None:
    """For Multi30k and the demo: 4 + 4 layers, dimension 128, hidden 256, 4 heads; LayerScale from 1."""
    set_defaults(args, **TINY)
    resmlp(args)


@register_model_architecture("resmlp", "resmlp_plus")
def resmlp_plus(args: Any) -> None:
    """ResMLP-6 with what goes beyond the paper and pays: LayerNorm, and a convolution beside A."""
    set_defaults(args, **PLUS)
    resmlp(args)


@register_model_architecture("resmlp", "resmlp_plus_tiny")
def resmlp_plus_tiny(args: Any) -> None:
    """The same in the dimensions of ``resmlp_tiny``."""
    set_defaults(args, **TINY)
    resmlp_plus(args)


@register_model_architecture("resmlp", "resmlp_gated")
def resmlp_gated(args: Any) -> None:
    """``resmlp_plus`` with gates before and after A."""
    set_defaults(args, position_gates=True)
    resmlp_plus(args)


@register_model_architecture("resmlp", "resmlp_gated_tiny")
def resmlp_gated_tiny(args: Any) -> None:
    """The same in the dimensions of ``resmlp_tiny``."""
    set_defaults(args, **TINY)
    resmlp_gated(args)


@register_model_architecture("resmlp", "resmlp_iwslt_de_en")
def resmlp_iwslt_de_en(args: Any) -> None:
    """The dimensions of fairseq's transformer_iwslt_de_en: 6 + 6 layers, 512, hidden 1024, 4 heads."""
    set_defaults(args, encoder_ffn_embed_dim=1024, decoder_attention_heads=4)
    resmlp(args)


@register_model_architecture("resmlp", "resmlp_wmt_en_de")
def resmlp_wmt_en_de(args: Any) -> None:
    """ResMLP-6 with the paper's dropout for WMT14 English-German."""
    set_defaults(args, dropout=0.15)
    resmlp(args)


@register_model_architecture("resmlp", "resmlp_wmt_en_fr")
def resmlp_wmt_en_fr(args: Any) -> None:
    """ResMLP-6 with the paper's dropout for WMT14 English-French."""
    set_defaults(args, dropout=0.1)
    resmlp(args)
