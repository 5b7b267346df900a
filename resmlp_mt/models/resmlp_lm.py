"""The model ``resmlp_lm``: the decoder without cross-attention, for fairseq's task language_modeling."""

import argparse
from dataclasses import dataclass, field
from typing import Any

from fairseq import utils
from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from fairseq.models.transformer import TransformerConfig
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig
from omegaconf import II

from resmlp_mt.models.decoder import ResMLPDecoder
from resmlp_mt.models.folding import FoldedForInference
from resmlp_mt.models.growing import GrowingPositions
from resmlp_mt.models.options import NOT_IN_RESMLP, ResMLPOptions, settle_options

NORMFORMER = "NormFormer scales attention and LayerNorm; every sublayer has LayerScale here"
NOT_IN_LANGUAGE_MODEL = NOT_IN_RESMLP | {
    "attention_dropout": "there is no attention",
    "decoder_xformers_att_config": "there is no attention",
    "scale_fc": NORMFORMER,
    "scale_attn": NORMFORMER,
    "scale_heads": NORMFORMER,
    "scale_resids": NORMFORMER,
}


def help_of(options: Any, option: str) -> dict[str, Any]:
    """Return what a dataclass's help says of an option, which another default would lose."""
    return dict(options.__dataclass_fields__[option].metadata)


@dataclass
class ResMLPLanguageModelConfig(ResMLPOptions, TransformerLanguageModelConfig):
    """The dimensions of ResMLP-6, which are those of fairseq's ``transformer_lm``: 6 layers, 512, hidden 2048.

    A dataclass, as fairseq has for its own, so that fairseq-hydra-train knows an architecture's defaults.
    """

    activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = field(  # type: ignore[valid-type]
        default="gelu", metadata=help_of(TransformerLanguageModelConfig, "activation_fn")
    )
    decoder_input_dim: int = field(
        default=II("model.decoder_embed_dim"), metadata={"help": "dimension of the embeddings (default: the decoder's)"}
    )
    decoder_output_dim: int = field(
        default=II("model.decoder_embed_dim"), metadata={"help": "dimension before logits (default: the decoder's)"}
    )


@dataclass
class ResMLPTinyLanguageModelConfig(ResMLPLanguageModelConfig):
    """For the demo: the decoder of ``resmlp_tiny``, 4 layers, dimension 128, hidden 256, and its LayerScale."""

    decoder_embed_dim: int = field(default=128, metadata=help_of(ResMLPLanguageModelConfig, "decoder_embed_dim"))
    decoder_ffn_embed_dim: int = field(
        default=256, metadata=help_of(ResMLPLanguageModelConfig, "decoder_ffn_embed_dim")
    )
    decoder_layers: int = field(default=4, metadata=help_of(ResMLPLanguageModelConfig, "decoder_layers"))
    layer_scale: float = field(default=1.0, metadata=help_of(ResMLPLanguageModelConfig, "layer_scale"))


@register_model("resmlp_lm", dataclass=ResMLPLanguageModelConfig)
class ResMLPLanguageModel(FoldedForInference, GrowingPositions, TransformerLanguageModel):
    """fairseq's Transformer language model with a triangular A in place of its self-attention."""

    @classmethod
    def hub_models(cls) -> dict[str, Any]:
        """Name no released models: there are none, and fairseq's Transformers do not fit."""
        return {}

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "ResMLPLanguageModel":
        """Build a model for the options of a training run or a checkpoint.

        A has ``--max-target-positions`` rows, by default one for each of ``--tokens-per-sample`` tokens, and one for
        <s> with ``--add-bos-token``.

        Raises:
            ValueError: an option asks for a part of the Transformer that ResMLP does not have, or the task's samples
                are longer than A.
        """
        args = settle_options(args, NOT_IN_LANGUAGE_MODEL)
        args.max_target_positions = args.max_target_positions or args.tokens_per_sample + args.add_bos_token
        refuse_long_samples(task.args, args.max_target_positions)
        if args.decoder_layers_to_keep:
            args.decoder_layers = len(args.decoder_layers_to_keep.split(","))
        # fairseq makes embeddings of several kinds, and a decoder of its own around them; without layers it costs
        # nothing to be replaced.
        without_layers = argparse.Namespace(**vars(args) | {"decoder_layers": 0, "decoder_layers_to_keep": None})
        model = super().build_model(without_layers, task)
        model.decoder = ResMLPDecoder(
            TransformerConfig.from_namespace(args),
            task.target_dictionary,
            model.decoder.embed_tokens,
            no_encoder_attn=True,
        )
        return model


@register_model("resmlp_lm_tiny", dataclass=ResMLPTinyLanguageModelConfig)
class ResMLPTinyLanguageModel(ResMLPLanguageModel):
    """The same with other defaults; as a model of its own, since fairseq-hydra-train takes them from a dataclass."""


def refuse_long_samples(task_options: Any, positions: int) -> None:
    """Refuse samples that do not fit A: fairseq would leave them all out without an error.

    Args:
        task_options: of fairseq's language_modeling; without a break at every sentence its samples are as long as
            ``--tokens-per-sample`` says, which fairseq-eval-lm does not read from the checkpoint.
        positions: the side of A.

    Raises:
        ValueError: the samples are longer.
    """
    length = task_options.tokens_per_sample + task_options.add_bos_token
    if task_options.sample_break_mode != "eos" and length > positions:
        raise ValueError(
            f"--tokens-per-sample {task_options.tokens_per_sample} makes samples of {length} tokens, which do not fit "
            f"the {positions} positions of A (--max-target-positions in training); give a smaller one, or "
            "--sample-break-mode eos"
        )
