"""The checkpoints that fairseq-train leaves in a folder: which are whole, how far they are, which to average."""

import filecmp
import re
import shutil
import zipfile
from pathlib import Path

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_core.common.files import replacing


def whole_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints that no kill cut short, the newest last."""
    # fairseq copies checkpoint_last.pt in place; a zip's directory comes last
    return sorted(filter(zipfile.is_zipfile, folder.glob("*.pt")), key=lambda path: path.stat().st_mtime)


def remove_torn(folder: Path) -> None:
    """Remove checkpoints that a kill or a full disk cut short."""
    for path in {*folder.glob("*.pt"), *folder.glob("*.pt.tmp")} - {*whole_checkpoints(folder)}:
        path.unlink()


def mend_checkpoints(folder: Path) -> None:
    """Remove checkpoints that were cut short, and let the newest whole one be the last."""
    remove_torn(folder)
    whole = whole_checkpoints(folder)
    last = folder / "checkpoint_last.pt"  # fairseq writes it after the others, so a kill may leave an earlier one
    if whole and whole[-1] != last and (not last.exists() or updates_of(last) < updates_of(whole[-1])):
        with replacing(last) as partial:
            shutil.copy(whole[-1], partial)


def is_trained(folder: Path, max_update: int | None) -> bool:
    """Whether the training of a folder has ended; fairseq itself, asked again at its last update, would do one more."""
    if (folder / "trained").exists():
        return True
    whole = whole_checkpoints(folder / "checkpoints")
    return max_update is not None and bool(whole) and 0 < max_update <= updates_of(whole[-1])


def updates_of(checkpoint: Path) -> int:
    """Return the number of updates after which fairseq wrote a checkpoint."""
    return int(read_checkpoint(checkpoint)["optimizer_history"][-1]["num_updates"])


def newest_checkpoints(folder: Path, count: int) -> list[Path]:
    """List the last ``count`` checkpoints, oldest first, up to where training stopped.

    They are those of whole epochs; where a recipe keeps none, those of every so many updates.
    """
    kept = list(folder.glob("checkpoint[0-9]*.pt")) or list(folder.glob("checkpoint_[0-9]*_[0-9]*.pt"))
    kept.sort(key=lambda path: int(re.findall(r"\d+", path.stem)[-1]))
    last = folder / "checkpoint_last.pt"
    stopped_within = not kept or not filecmp.cmp(last, kept[-1], shallow=False)  # else it is a copy
    return [*kept, *([last] if stopped_within else [])][-count:]
