"""ResMLP's own options, the same for translation and language modelling, and those of fairseq's that do not apply."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import OmegaConf

from resmlp_core import NORMS

# Options of fairseq's that ask for what ResMLP does not have, with the reason that its refusal gives.
NOT_IN_RESMLP = {
    "encoder_normalize_before": "Aff, or LayerNorm by --pre-norm, stands before every sublayer, and Aff after it",
    "decoder_normalize_before": "Aff, or LayerNorm by --pre-norm, stands before every sublayer, and Aff after it",
    "layernorm_embedding": "embeddings are not normalised",
    "encoder_learned_pos": "A is positional itself",
    "decoder_learned_pos": "A is positional itself",
    "cross_self_attention": "there is no self-attention to join with cross-attention",
    "no_decoder_final_norm": "what stands after the last layer scales the logits",
    "encoder_xformers_att_config": "there is no self-attention",
    "decoder_xformers_att_config": "there is no self-attention",
    "base_layers": "BASE layers replace Transformer layers, and there are none",
}


@dataclass
class ResMLPOptions(FairseqDataclass):
    """What the options of every ``resmlp`` and ``resmlp_lm`` architecture have beside the Transformer's."""

    layer_scale: float = field(
        default=0.2,
        metadata={
            "help": "start of LayerScale, the scale of every sublayer's output (default: 0.2, the paper's; "
            "1 for the tiny models, resmlp_plus and resmlp_gated)"
        },
    )
    position_init_std: float = field(
        default=0.02, metadata={"help": "standard deviation of A's entries at the start (default: 0.02)"}
    )
    position_convolution: int = field(
        default=0,
        metadata={
            "help": "add a depth-wise convolution over so many positions to A (default: 0, none; "
            "5 for resmlp_plus and resmlp_gated)"
        },
    )
    position_gates: bool = field(
        default=False,
        metadata={
            "help": "let gates decide by content what enters A and what leaves it (default: in resmlp_gated only)"
        },
    )
    pre_norm: ChoiceEnum(list(NORMS)) = field(  # type: ignore[valid-type]
        default="affine",
        metadata={
            "help": "before every mixer, and after the last layer (default: affine, the paper's; "
            "layer_norm for resmlp_plus and resmlp_gated)"
        },
    )


DEFAULTS = {option.name: option.default for option in fields(ResMLPOptions) if not option.name.startswith("_")}


def settle_options(args: Any, absent: Mapping[str, str] = NOT_IN_RESMLP) -> argparse.Namespace:
    """Settle the options of a training run or a checkpoint by which fairseq's classes build the model.

    Args:
        args: a namespace, which is changed, or the part of a configuration that is about the model.
        absent: options to refuse, each with the reason.

    Returns:
        A namespace.

    Raises:
        ValueError: an option asks for a part of the Transformer that ResMLP does not have.
    """
    if OmegaConf.is_config(args):  # fairseq drops from it the options that it does not know
        options: Any = OmegaConf.to_container(args, resolve=True, enum_to_str=True)
        args = argparse.Namespace(**options)
    for option, reason in absent.items():
        if getattr(args, option, None):
            raise ValueError(f"--{option.replace('_', '-')} does not apply to ResMLP: {reason}")
    for option, default in DEFAULTS.items():  # a checkpoint may be older than an option
        setattr(args, option, getattr(args, option, default))
    args.no_token_positional_embeddings = True  # A is positional itself
    return args
