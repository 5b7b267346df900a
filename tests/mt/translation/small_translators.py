"""A translator of a few thousand random weights in a recipe's folder: what it says is nonsense, and always the same."""

import argparse
import io
from pathlib import Path

import sentencepiece
import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

import resmlp_mt.plugin  # noqa: F401  registers the model

from ..conftest import SMALL, randomise

NOUNS = ["teacher", "book", "taxi", "river", "house", "uncle", "potato", "queen", "garden", "letter"]
VERBS = ["buys", "steals", "reads", "paints", "wants", "sees", "finds", "loses", "opens", "hides"]
SENTENCES = [f"The {a} {verb} the {b}." for a in NOUNS for verb in VERBS for b in NOUNS if a != b]
POSITIONS = 16


def write_translator(folder: Path, seed: int = 0, sentences: list[str] = SENTENCES) -> Path:
    """Write a model as a recipe leaves it; return its folder."""
    learned = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=learned,
        model_type="bpe",
        vocab_size=120,
        character_coverage=1.0,
        **{"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "minloglevel": 2},
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=learned.getvalue())
    dictionary = Dictionary()
    for i in range(4, len(processor)):
        dictionary.add_symbol(processor.id_to_piece(i))
    options = SMALL | {"max_source_positions": POSITIONS, "max_target_positions": POSITIONS}
    args = argparse.Namespace(arch="resmlp", source_lang="en", target_lang="de", **options)
    ARCH_CONFIG_REGISTRY["resmlp"](args)
    torch.manual_seed(seed)
    task = argparse.Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    model = ARCH_MODEL_REGISTRY["resmlp"].build_model(args, task)
    randomise(model)
    for name, weight in model.named_parameters():
        if "encoder_attn." in name:
            weight.data *= 4  # so that translations differ
    (folder / "data-bin").mkdir(parents=True)
    for language in ("en", "de"):
        dictionary.save(str(folder / "data-bin" / f"dict.{language}.txt"))
    (folder / "sentencepiece.model").write_bytes(learned.getvalue())
    (folder / "resmlp").mkdir()
    (folder / "resmlp" / "settings.json").write_text("{}")  # the recipe's
    torch.save({"args": args, "model": model.state_dict()}, folder / "resmlp" / "model.pt")
    return folder / "resmlp"
