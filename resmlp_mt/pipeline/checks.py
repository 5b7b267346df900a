"""What is refused before a run trains, and not hours later: other data or devices than before, and long sentences."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.models.transformer import DEFAULT_MAX_SOURCE_POSITIONS, DEFAULT_MAX_TARGET_POSITIONS
from numpy.typing import NDArray

import resmlp_mt.plugin
from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_core.common.errors import UserError
from resmlp_core.common.settings import changed
from resmlp_mt.data.cleaning import Rules
from resmlp_mt.data.prepared import read_report
from resmlp_mt.pipeline.checkpoints import newest_whole
from resmlp_mt.pipeline.fairseq_commands import count_devices
from resmlp_mt.prepare import holds_corpus_of, prepared_otherwise

STARTS = ("finetune-from-model", "continue-once")  # options of fairseq-train that name a model to begin from


def refuse_other_data(settings: Mapping[str, Any], out: Path) -> None:
    """Refuse other settings than the data were prepared with, as the stage prepare does, where that is not run.

    Raises:
        UserError: a setting of a recipe is not the one that its folder ``out`` was prepared with.
    """
    report = read_report(out)
    prepared = report["settings"]
    source, _, target = settings["pair"].partition("-")
    now = {key: settings[key] for key in ("vocab_size", "normalization")}
    now |= {"source_lang": source, "target_lang": target}
    now |= asdict(Rules(**settings["clean"]))
    data = settings["data"]  # prepare keeps whole paths
    same = prepared["data"] in (data, str(Path(data).resolve())) or holds_corpus_of(report, data, source, target)
    now["data"] = prepared["data"] if same else data
    for key, was, value in changed({key: prepared[key] for key in now}, now):
        raise prepared_otherwise(out, key, was, value)


def refuse_missing_start(train: Mapping[str, Any], folder: Path) -> None:
    """Refuse a model to begin from that is not there, before the data are prepared; a run that has begun needs none.

    Without that of continue-once fairseq would begin from random weights.

    Args:
        train: options of fairseq-train.
        folder: of the run.

    Raises:
        UserError: there is no such file.
    """
    if (folder / "trained").exists() or newest_whole(folder / "checkpoints"):
        return
    for option in STARTS:
        model = str(train.get(option) or "")
        if model and "://" not in model and not Path(model).is_file():
            raise UserError(f"train.{option}={model}: there is no such file")


def refuse_other_devices(settings: Mapping[str, Any], checkpoints: Path) -> None:
    """Refuse to go on within an epoch on another number of devices, which would share the epoch otherwise.

    Raises:
        UserError: the newest checkpoint of the folder was written so.
    """
    newest = newest_whole(checkpoints)
    if not newest:
        return
    state = read_checkpoint(newest)
    before, now = state["cfg"]["distributed_training"]["distributed_world_size"], count_devices(settings["train"])
    if before != now and state["extra_state"]["train_iterator"]["iterations_in_epoch"]:
        raise UserError(
            f"{newest} was written within an epoch, on {before} devices, not {now}: go on with as many, or from "
            "the last whole epoch, by removing what is newer than its checkpoint"
        )


def refuse_long_sentences(settings: Mapping[str, Any], lengths: Callable[[str, str], NDArray[np.int32]]) -> None:
    """Refuse sentences to translate that do not fit into A: before training, and not after.

    Args:
        settings: of the run.
        lengths: gives the tokens of each sentence of a split, in a language.

    Raises:
        UserError: a sentence is too long, or the limit is no number.
    """
    for lang, (option, limit) in length_limits(settings).items():
        for split in ("valid", "test"):
            longest = int(np.max(lengths(split, lang)))
            if longest > limit:
                raise UserError(
                    f"a {split} sentence has {longest} tokens in {lang}, more than train.{option}={limit}; "
                    f"give train.{option}={longest}"
                )


def length_limits(settings: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Return, by language, the option that limits its sentences, and the most tokens of one.

    Raises:
        UserError: the limit is no number.
    """
    train, defaults = settings["train"], argparse.Namespace()
    resmlp_mt.plugin.ARCH_CONFIG_REGISTRY[train["arch"]](defaults)
    source, _, target = settings["pair"].partition("-")
    limits = {}
    for lang, side, usual in (
        (source, "source", DEFAULT_MAX_SOURCE_POSITIONS),
        (target, "target", DEFAULT_MAX_TARGET_POSITIONS),
    ):
        option = f"max-{side}-positions"
        limit = train.get(option)
        if limit is None:
            limit = getattr(defaults, option.replace("-", "_"), usual)
        if not (str(limit).isdecimal() and int(limit)):
            raise UserError(f"train.{option}={limit} must be a positive integer")
        limits[lang] = option, int(limit)
    return limits
