"""What the whole of a recipe takes: how often it validates and saves, what it keeps, how many hours, how much disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from resmlp_mt.data.vocabulary_stage import VOCABULARY_SENTENCES


@dataclass
class Length:
    """How long a training is, and what it does and keeps on its way.

    Args:
        updates: of the whole training.
        validations: of these.
        saves: how often it saves.
        kept: the checkpoints that are there at its end, or while the last is written.
    """

    updates: int
    validations: int
    saves: int
    kept: int


def length_of(train: Mapping[str, Any], updates_per_epoch: float) -> Length:
    """Count what fairseq-train will do with these options.

    Args:
        train: options of fairseq-train.
        updates_per_epoch: batches of the whole training set for each batch of an update.
    """
    per_epoch = ceil(updates_per_epoch)  # the last of an epoch may be smaller
    by_epochs = (train.get("max-epoch") or 0) * per_epoch
    limits = [limit for limit in (train.get("max-update") or 0, by_epochs) if limit]
    updates = min(limits) if limits else per_epoch
    epochs = updates // per_epoch
    by_updates = _every(updates, train.get("save-interval-updates"))
    epochs_saved = epochs // (train.get("save-interval") or 1)
    validations = epochs // (train.get("validate-interval") or 1) + by_updates + 1
    validations += _every(updates, train.get("validate-interval-updates"))
    kept = 0 if train.get("no-epoch-checkpoints") else _kept(epochs_saved, train.get("keep-last-epochs"))
    kept += _kept(by_updates, train.get("keep-interval-updates"))
    kept += 3 + max(0, train.get("keep-best-checkpoints") or 0)  # the last, the best, and one that is being written
    return Length(updates, validations, epochs_saved + by_updates + 1, kept)


def _every(updates: int, interval: int | None) -> int:
    return updates // interval if interval and interval > 0 else 0


def _kept(written: int, most: int | None) -> int:
    return min(written, most) if most and most > 0 else written


def hours_of(
    seconds: Mapping[str, float], growth: Mapping[str, float], length: Length, update: float
) -> dict[str, float]:
    """Project the hours of a whole run.

    Args:
        seconds: what was measured. Of preparing the sample: ``read``, ``text``, ``vocabulary`` and ``data-bin``. Of
            training: ``startup``, one ``validation`` and one ``save``. After it: ``average`` of one candidate and
            ``generate``, both less their translating, ``translate valid``, ``translate test`` and ``score``.
        growth: how many times as many pairs the whole has: ``read`` as were read, ``train``, ``valid`` and ``test`` as
            are in the sample. ``pairs`` is the number of training pairs in the sample, ``candidates`` that of the
            averages that will be tried.
        length: of the training.
        update: seconds of one.
    """
    sampled = min(growth["train"], max(1.0, VOCABULARY_SENTENCES / (2 * growth["pairs"])))
    reading = max(seconds["read"] * growth["read"], seconds["text"] * growth["train"])
    found = {
        "preparing": reading + seconds["vocabulary"] * sampled + seconds["data-bin"] * growth["train"],
        "training": seconds["startup"] + length.updates * update,
        "validating": length.validations * seconds["validation"] * growth["valid"],
        "saving": length.saves * seconds["save"],
        "averaging": growth["candidates"] * (seconds["average"] + seconds["translate valid"] * growth["valid"]),
        "translating": seconds["generate"] + seconds["translate test"] * growth["test"] + seconds["score"],
    }
    return {name: value / 3600 for name, value in found.items()}
