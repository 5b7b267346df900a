"""What frozen features are worth to a linear classifier, which is trained on them as DINO does."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_vision.config import Config, read_config
from resmlp_vision.data.loaders import settings_for
from resmlp_vision.distributed import leave_processes
from resmlp_vision.models.loading import load, options_in
from resmlp_vision.training.run import train
from resmlp_vision.training.supervised import SupervisedTrainer

# DINO's linear classification: SGD without decay on random crops and flips.
LINEAR: dict[str, Any] = {
    "freeze_backbone": True,
    "epochs": 100,
    "batch_size": 1024,
    "opt": "momentum",
    "lr": 0.004,  # 0.001 for each 256 images
    "weight_decay": 0.0,
    "warmup_epochs": 0,
    "min_lr": 0.0,
    "drop_path": 0.0,
    "smoothing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "repeated_aug": 0,
    "auto_augment": None,
    "color_jitter": 0.0,
    "reprob": 0.0,
}


def linear_probe(
    name: str, checkpoint: str | Path | None, data: str, out: str | Path, overrides: Sequence[str] = (), **settings: Any
) -> dict[str, Any]:
    """Train a linear classifier on a model's frozen features, in the processes that torchrun started or in this one.

    A process group is joined where there is none, and left in the end.

    Args:
        name: the model, as ``load`` takes it.
        checkpoint: its weights, as ``load`` takes them.
        data: the images, as ``RunConfig`` has them.
        out: the folder of the training, which goes on from what is in it.
        overrides: settings of the training, such as ``lr=0.1``.
        settings: of the data, as ``RunConfig`` has them, such as ``val_split="val"``.

    Returns:
        The content of results.json, such as ``top1`` in percent; in other processes than the first nothing.

    Raises:
        UserError: the checkpoint, the data or a setting does not fit.
    """
    model = load(name, checkpoint, classifier=False)
    config, _ = settings_for(model, data=data, out=str(out), **settings)
    probe = {**dataclasses.asdict(config), **LINEAR}
    if checkpoint is None:
        probe |= {"model": name, "pretrained": True}
    else:
        trained = options_in(read_checkpoint(checkpoint)) or {"model": name.split(".")[0]}
        probe |= {key: trained[key] for key in ("model", "model_args") if key in trained}
        probe["checkpoint"] = str(checkpoint)
    had_group = dist.is_initialized()
    try:
        return train(read_config(probe, overrides, Config), SupervisedTrainer)
    finally:
        if not had_group:
            leave_processes()
