"""Small models with random parameters, batches for them, and a disk that is soon full."""

import argparse
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import collate_tokens
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, BaseFairseqModel, FairseqEncoderDecoderModel
from warm_python import started_warm

import resmlp_mt.plugin  # noqa: F401  registers the model

WORDS = 40
SMALL = {
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "max_source_positions": 12,
    "max_target_positions": 12,
}

# Options by the name of the variant: what goes beyond the paper, each alone and then together.
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "layer_norm": {"pre_norm": "layer_norm"},
    "convolution": {"position_convolution": 3},
    "gates": {"position_gates": True},
    "all": {"pre_norm": "layer_norm", "position_convolution": 3, "position_gates": True},
}


@pytest.fixture(scope="module")
def warm() -> Iterator[None]:
    """Start programs whose libraries are imported already."""
    with started_warm("torch", "sentencepiece", "pyarrow.parquet", "pyarrow.compute"):
        yield


def make_dictionary(words: int = WORDS) -> Dictionary:
    dictionary = Dictionary()
    for i in range(words):
        dictionary.add_symbol(f"w{i}")
    return dictionary


def make_model(arch: str = "resmlp", random: bool = True, words: int = WORDS, **options) -> FairseqEncoderDecoderModel:
    """Build a model in evaluation mode; ``random`` draws α, β and biases, which start at constants that hide slips."""
    torch.manual_seed(0)
    args = argparse.Namespace(arch=arch, **options)
    ARCH_CONFIG_REGISTRY[arch](args)
    dictionary = make_dictionary(words)
    task = argparse.Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    model = ARCH_MODEL_REGISTRY[arch].build_model(args, task).eval()
    if random:
        randomise(model)
    return model


def randomise(model: BaseFairseqModel) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 or name.endswith(("send.weight", "take.weight")):
            parameter.data += 0.3 * torch.randn_like(parameter)
        elif "mixer.weight" in name:
            drawn = 0.3 * torch.randn_like(parameter)
            parameter.data += drawn.tril() if name.startswith("decoder") else drawn


def small_model(**options) -> FairseqEncoderDecoderModel:
    return make_model(**{**SMALL, **options})


@cache
def variant(name: str) -> FairseqEncoderDecoderModel:
    """A small model of ``VARIANTS``."""
    return small_model(**VARIANTS[name])


every_variant = pytest.mark.parametrize("name", VARIANTS)


def collate(sentences: list[list[int]], left_pad: bool, pad_to: int | None = None) -> torch.Tensor:
    """Batch sentences as fairseq does, ``(B, T)``."""
    dictionary = make_dictionary()
    tensors = [torch.tensor(s) for s in sentences]
    return collate_tokens(tensors, dictionary.pad(), dictionary.eos(), left_pad, pad_to_length=pad_to)


@pytest.fixture(scope="session")
def build() -> Callable[..., FairseqEncoderDecoderModel]:
    return small_model


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process or its children grow beyond ``size`` bytes: the write fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
