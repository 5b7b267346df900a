"""The settings that a run keeps in its folder: which may change before it goes on, and what is then done again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resmlp_core.common.errors import UserError
from resmlp_core.common.files import remove, write_json
from resmlp_core.common.settings import changed
from resmlp_mt.pipeline.checkpoints import whole_checkpoints

# Options of fairseq-train that may change between the parts of a run that was cut off: no part of what is learnt.
FREE = {
    *("num-workers", "nprocs-per-node", "log-interval", "save-interval", "save-interval-updates"),
    *("keep-last-epochs", "keep-interval-updates", "keep-best-checkpoints"),
}


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings of a run in its folder; with others than before, redo what follows training.

    Before the first checkpoint all may change: an option that fairseq refused is to be corrected.

    Raises:
        UserError: what the model is trained on, or how, has changed; nothing is mixed. Or there are no checkpoints to
            average anew.
    """
    path = folder / "settings.json"
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        different = sorted(changed(trained_with(earlier), trained_with(settings)))
        if different and ((folder / "trained").exists() or whole_checkpoints(folder / "checkpoints")):
            key, was, value = different[0]
            raise UserError(
                f"{folder} was started with {key}={was}, not {value}; give another --out, or delete that folder"
            )
        if different:
            remove(folder / "tensorboard")  # curves of what ended before its first checkpoint
        if (earlier["average"], earlier["generate"]) != (settings["average"], settings["generate"]):
            if (folder / "model.pt").exists() and not whole_checkpoints(folder / "checkpoints"):
                raise UserError(
                    f"{folder / 'checkpoints'} is empty, so that average=... and generate... cannot change any more"
                )
            for name in ("average.json", "valid-*.txt", "generate.txt", "results.json"):
                for outdated in folder.glob(name):
                    remove(outdated)
    write_json(path, settings)


def trained_with(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that make a trained model what it is, by the names that a user gives them."""
    train = {f"train.{key}": value for key, value in settings["train"].items() if key not in FREE}
    own = ("pair", "vocab_size", "clean", "effective_tokens", "taught_by", "matmul_precision")
    return train | {key: settings.get(key) for key in own}
