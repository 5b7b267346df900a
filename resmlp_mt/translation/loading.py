"""Finding and reading a trained model: a recipe's folder, a checkpoint with what belongs to it, an exported folder."""

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from resmlp_core.common.checkpoint import find_checkpoint, read_checkpoint
from resmlp_core.common.errors import UserError
from resmlp_mt.text import vocabulary_digest
from resmlp_mt.translation.vocabulary import Vocabulary, read_symbols

SETTINGS, WEIGHTS = "settings.json", "model.safetensors"  # an exported folder's, beside the vocabulary's files
NEAR = 3  # folders above a checkpoint in which its vocabulary is looked for


@dataclass(frozen=True)
class Trained:
    """A trained model as it was found.

    Attributes:
        weights: the parameters, under the names that fairseq's checkpoints have.
        settings: those of ``Network``, and ``source_lang`` and ``target_lang``.
        vocabulary: what turns text into tokens and back.
    """

    weights: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    vocabulary: Vocabulary


def read_trained(
    model: str | Path, sentencepiece: str | Path | None = None, dictionaries: str | Path | None = None
) -> Trained:
    """Read a model.

    Args:
        model: a recipe's folder, such as ``build/demo/run/resmlp_tiny``, an exported folder, or a checkpoint of
            fairseq's.
        sentencepiece: the file of its sentencepiece model; looked for near the checkpoint when None.
        dictionaries: the folder of its ``dict.LANGUAGE.txt``; looked for likewise.

    Raises:
        UserError: something is missing, is not what it should be, or does not belong together.
    """
    checkpoint = Path(find_checkpoint(model))
    state = _read_weights(checkpoint)
    if checkpoint.name == WEIGHTS:
        settings, weights = _read_settings(checkpoint.with_name(SETTINGS)), state
    else:
        settings, weights = _settings_of(state, checkpoint), state["model"]
    # a link's own folder comes first: in the hub's cache all files are links, and what they lead to has other names
    near = [checkpoint.parent, *checkpoint.resolve().parents[: NEAR + 1]]
    model_file = Path(sentencepiece) if sentencepiece else _find("sentencepiece.model", near, "sentencepiece")
    folders = [Path(dictionaries)] if dictionaries else [at for folder in near for at in (folder, folder / "data-bin")]
    languages = settings.get("source_lang"), settings.get("target_lang")
    if None in languages:
        languages = _languages(folders)
    symbols = [read_symbols(_find(f"dict.{language}.txt", folders, "dictionaries")) for language in languages]
    settings |= {"source_lang": languages[0], "target_lang": languages[1]}
    for side, entries in zip(("encoder", "decoder"), symbols, strict=True):
        embedding, kept = weights.get(f"{side}.embed_tokens.weight"), weights.get(f"{side}.vocabulary.version")
        if (embedding is not None and len(embedding) != len(entries)) or (
            kept is not None and kept.tolist() != vocabulary_digest(entries)
        ):
            raise UserError(f"the dictionaries are not those that {checkpoint} was trained with")
    try:
        return Trained(weights, settings, Vocabulary(model_file.read_bytes(), *symbols))
    except UserError as error:
        raise UserError(f"{model_file}: {error}") from None


def _languages(folders: list[Path]) -> tuple[str, str]:
    """Tell the pair by the names of binary data, as fairseq does where no one told it."""
    for folder in folders:
        for path in sorted(folder.glob("*.*-*.*.idx")):
            source, _, target = path.name.split(".")[1].partition("-")
            return source, target
    raise UserError(
        f"no dict.LANGUAGE.txt in {folders[0]} or near it: name them by --dictionaries, in Python by dictionaries="
    )


def _find(name: str, folders: list[Path], option: str) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"no {name} in {folders[0]} or near it: name it by --{option}, in Python by {option}=")


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        return read_checkpoint(path)
    except ValueError as error:
        raise UserError(str(error)) from None


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("heads", "activation", "scale_embedding", "source_lang", "target_lang"):
            settings[key]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not what resmlp-export writes") from None
    return settings


def _settings_of(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Take from a checkpoint's options what its weights do not tell."""
    configuration = state.get("cfg") or {"model": state.get("args"), "task": state.get("args")}
    parts = configuration.get("model"), configuration.get("task")
    options, task = (vars(part) if isinstance(part, Namespace) else part for part in parts)
    if not options or not task or "model" not in state:
        raise UserError(f"{path} is not a checkpoint of fairseq's")
    name = options.get("_name") or options.get("arch") or "of another kind"
    if not str(name).startswith("resmlp") or "encoder.layers.0.cross_position.post.alpha" not in state["model"]:
        raise UserError(f"{path} is a model {name}, not a ResMLP for translation")
    if task.get("lang_pairs") or task.get("langs"):
        raise UserError(f"{path} is of a task that marks languages by tokens: translate with fairseq-generate")
    return {
        "heads": options["decoder_attention_heads"],
        "activation": str(options.get("activation_fn", "gelu")),
        "scale_embedding": not options.get("no_scale_embedding", False),
        "source_lang": task["source_lang"],
        "target_lang": task["target_lang"],
    }
