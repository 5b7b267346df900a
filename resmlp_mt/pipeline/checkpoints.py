"""The checkpoints that fairseq-train leaves in a folder: which are whole, how far they are, which to average."""

import filecmp
import re
import shutil
import zipfile
from pathlib import Path

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_core.common.files import replacing

LAST = "checkpoint_last.pt"  # fairseq writes it after the others


def whole_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints that no kill cut short, the newest last."""
    # fairseq copies checkpoint_last.pt in place; a zip's directory comes last
    return sorted(filter(zipfile.is_zipfile, folder.glob("*.pt")), key=lambda path: path.stat().st_mtime)


def newest_whole(folder: Path) -> Path | None:
    """Return the whole checkpoint of the most updates: the last, or the newest where a kill has kept it from that."""
    whole = whole_checkpoints(folder)
    # a copy of the folder may have lost the times of its files
    ends = dict.fromkeys([*(path for path in whole if path.name == LAST), *whole[-1:]])
    return max(ends, key=updates_of) if len(ends) > 1 else next(iter(ends), None)


def remove_torn(folder: Path) -> None:
    """Remove checkpoints that a kill or a full disk cut short."""
    for path in {*folder.glob("*.pt"), *folder.glob("*.pt.tmp")} - {*whole_checkpoints(folder)}:
        path.unlink()


def mend_checkpoints(folder: Path) -> None:
    """Remove checkpoints that were cut short, and let the newest whole one be the last."""
    remove_torn(folder)
    newest = newest_whole(folder)
    if newest and newest.name != LAST:
        with replacing(folder / LAST) as partial:
            shutil.copy(newest, partial)


def is_trained(folder: Path, max_update: int | None) -> bool:
    """Whether the training of a folder has ended; fairseq itself, asked again at its last update, would do one more."""
    if (folder / "trained").exists():
        return True
    newest = newest_whole(folder / "checkpoints")
    return max_update is not None and newest is not None and 0 < max_update <= updates_of(newest)


def updates_of(checkpoint: Path) -> int:
    """Return the number of updates after which fairseq wrote a checkpoint."""
    return int(read_checkpoint(checkpoint)["optimizer_history"][-1]["num_updates"])


def newest_checkpoints(folder: Path, count: int) -> list[Path]:
    """List the last ``count`` checkpoints, oldest first, up to where training stopped.

    They are those of whole epochs; where a recipe keeps none, those of every so many updates.
    """
    kept = list(folder.glob("checkpoint[0-9]*.pt")) or list(folder.glob("checkpoint_[0-9]*_[0-9]*.pt"))
    kept.sort(key=lambda path: int(re.findall(r"\d+", path.stem)[-1]))
    last = folder / LAST
    stopped_within = not kept or not filecmp.cmp(last, kept[-1], shallow=False)  # else it is a copy
    return [*kept, *([last] if stopped_within else [])][-count:]
