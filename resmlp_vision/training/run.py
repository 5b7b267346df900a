"""A training run from its settings to its results: the folder it keeps, and how it goes on."""

import argparse
import dataclasses
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from timm.utils import random_seed

from resmlp_core.common.checkpoint import find_checkpoint, read_checkpoint
from resmlp_core.common.devices import emulates
from resmlp_core.common.errors import UserError
from resmlp_core.common.files import alone_in, digest, replacing
from resmlp_core.common.settings import changed
from resmlp_vision.config import FREE, FREE_WITH_LABELS, OF_A_MACHINE, Config, RunConfig, Settings, read_config
from resmlp_vision.distributed import agree, join_processes, use_precision
from resmlp_vision.models.loading import options_in
from resmlp_vision.training.checkpoints import LAST, Saver, resume
from resmlp_vision.training.epoch_log import Record, Records, score
from resmlp_vision.training.trainer import Trainer


def train(
    config: Settings,
    trainer_type: Callable[[Settings, torch.device], Trainer[Settings]],
    saver_type: type[Saver] = Saver,
) -> dict[str, Any]:
    """Train as the settings say, from the last whole epoch if there is one.

    ``out`` gets the settings (config.yaml), the checkpoints (last.pth.tar, model_best.pth.tar), one line of JSON an
    epoch (log.jsonl), curves (tensorboard/, learning-curve.png) and results.json.

    Args:
        config: the settings.
        trainer_type: makes the trainer: ``SupervisedTrainer`` or ``DINOTrainer``.
        saver_type: makes what writes the checkpoints.

    Returns:
        The content of results.json.

    Raises:
        UserError: a setting or the data cannot be used, or ``out`` holds a run with other settings.
    """
    device = join(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    first = dist.get_rank() == 0
    random_seed(config.seed)  # the start of the weights is the same in all processes
    with ExitStack() as stack:
        if first:
            stack.enter_context(alone_in(out))
            keep_settings(config, out)
        going_on = (out / LAST).exists()  # then the weights that it started from may be gone
        trainer = trainer_type(
            dataclasses.replace(config, checkpoint=None, pretrained=False) if going_on else config, device
        )
        inputs: dict[str, Any] = {"num_classes": trainer.num_classes, "classes": trainer.classes}
        inputs |= {"images": trainer.images, "weights_sha256": digest_weights(config)}
        agree({"the digest of the first weights": inputs["weights_sha256"]})
        if going_on:
            inputs["weights_sha256"] |= refuse_other_inputs(out, inputs)
        args = argparse.Namespace(**dataclasses.asdict(config) | inputs)
        saver = saver_type(
            trainer.task.get_trainable_module(),
            trainer.optimizer,
            args,
            amp_scaler=trainer.scaler,
            checkpoint_dir=str(out),
            max_history=1,
            task=trainer.task,
        )
        begin = resume(saver, trainer.task, trainer.optimizer, trainer.scaler)
        if first:
            announce(trainer, begin)
        records = Records(out, begin, config.epochs) if first else None
        for epoch in range(begin, config.epochs):
            record = run_epoch(trainer, epoch)
            if records is not None:
                records.add(record)
                saver.save_checkpoint(epoch, score(record))
        return records.summarise(config.model, trainer.parameters) if records is not None else {}


def join(config: RunConfig) -> torch.device:
    """Join the processes that train together, and set how precisely they multiply; return this one's device.

    Raises:
        UserError: there is no such device, or the processes have unequal settings.
    """
    device = join_processes(config.device)
    agree({key: value for key, value in dataclasses.asdict(config).items() if key not in OF_A_MACHINE})
    use_precision(config.matmul_precision)
    if device.type == "cpu" and emulates(config.dtype) and dist.get_rank() == 0:
        print(f"dtype={config.dtype} is emulated by this processor: dtype=float32 is several times faster", flush=True)
    return device


def announce(trainer: Trainer[Any], begin: int) -> None:
    """Print what is trained, on what, and from which epoch on."""
    config, processes = trainer.config, dist.get_world_size()
    where = f"{processes} processes" if processes > 1 else trainer.device
    print(
        f"{config.model}: {trainer.parameters:,} parameters, {trainer.data_classes} classes; "
        f"{trainer.updates_per_epoch:,} updates an epoch on {where}"
    )
    if config.sched == "cosine" and 0 < config.lr < config.min_lr:
        print(f"the learning rate will rise, from lr={config.lr} to min_lr={config.min_lr}")
    if begin:
        print(f"going on after epoch {begin}")


def run_epoch(trainer: Trainer[Any], epoch: int) -> Record:
    """Train for one epoch, and validate where that is due; return what is logged of it.

    Raises:
        UserError: a GPU's memory is full, or training or validation cannot go on.
    """
    config, start = trainer.config, time.perf_counter()
    try:
        record: Record = {"epoch": epoch + 1, **trainer.train_epoch(epoch)}
    except torch.OutOfMemoryError:
        raise UserError("the GPU's memory is full; accumulate=N computes each batch in N parts") from None
    if trainer.val_loader is not None and ((epoch + 1) % config.val_every == 0 or epoch + 1 == config.epochs):
        try:
            record |= trainer.validate()
        except torch.OutOfMemoryError:
            raise UserError("the GPU's memory is full in validation; give a smaller val_batch_size") from None
    return record | {"seconds": time.perf_counter() - start}


def keep_settings(config: RunConfig, out: Path) -> None:
    """Write the settings to ``out``.

    Raises:
        UserError: it holds a checkpoint of a run with other settings.
    """
    path = out / "config.yaml"
    if not (out / LAST).exists():
        with replacing(path) as partial:
            OmegaConf.save(OmegaConf.create(dataclasses.asdict(config)), partial)
        return
    try:
        before = dataclasses.asdict(read_config(path, [], type(config)))
    except UserError:
        raise UserError(f"{out} holds a training run of another kind; give another out") from None
    free = FREE | FREE_WITH_LABELS if isinstance(config, Config) else FREE
    for key, was, now in changed(before, dataclasses.asdict(config)):
        if key not in free:
            raise UserError(f"{out} was started with {key}={was}, not {now}; give another out")


def digest_weights(config: RunConfig) -> dict[str, str]:
    """Digest the files of weights that a run starts from, or is taught by, by their keys (SHA-256)."""
    found: dict[str, str] = {}
    for key in ("checkpoint", "teacher"):
        if path := getattr(config, key, None):
            with suppress(UserError):  # of a folder whose checkpoint is gone
                file = Path(find_checkpoint(path))
                if file.is_file():  # not a URL, nor the name of a model
                    found[key] = digest([file])
    return found


def refuse_other_inputs(out: Path, inputs: dict[str, Any]) -> dict[str, str]:
    """Refuse other images or weights than the run in ``out`` had: they may have moved, or the weights be gone.

    Returns:
        The digests of the weights that it had.

    Raises:
        UserError: they have changed, or the last checkpoint is damaged.
    """
    try:
        before = options_in(read_checkpoint(out / LAST))
    except ValueError as error:
        raise UserError(str(error)) from None
    for key, name in (("num_classes", "classes"), ("images", "images")):
        if before.get(key) != inputs[key]:
            raise UserError(
                f"{out} was started on data with {before.get(key)} {name}, not {inputs[key]}; give another out"
            )
    if before["classes"] != inputs["classes"]:
        raise UserError(f"{out} was started on data with classes of other names; give another out")
    digests: dict[str, str] = before["weights_sha256"]
    for key, now in inputs["weights_sha256"].items():
        if digests.get(key, now) != now:
            raise UserError(f"the file of {key}=... has changed since {out} was started; give another out")
    return digests
