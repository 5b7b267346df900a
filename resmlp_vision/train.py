"""Train a classifier: ``python -m resmlp_vision.train --config recipes/imagenet/resmlp_s12.yaml data=... out=...``.

The same command under torchrun uses several GPUs or machines; after an interruption, it resumes from the last epoch.
"""

import argparse
import dataclasses
import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from timm.data import Mixup, resolve_model_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import TrainingTask
from timm.utils import (
    NativeScaler,
    dispatch_clip_grad,
    distribute_bn,
    random_seed,
    unwrap_model,
)
from tqdm import tqdm  # type: ignore[import-untyped]

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_core.common.errors import UserError, reporting
from resmlp_core.common.files import alone_in, replacing
from resmlp_core.common.settings import changed
from resmlp_vision.config import FREE, FREE_WITH_LABELS, OF_A_MACHINE, Config, RunConfig, Settings, read_config
from resmlp_vision.data.datasets import (
    Images,
    StreamedImages,
    count_classes,
    open_dataset,
    training_loader,
    validation_loader,
)
from resmlp_vision.distributed import agree, agree_on_data, join_processes, leave_processes, use_precision
from resmlp_vision.evaluate import evaluate
from resmlp_vision.models.loading import build, options_in
from resmlp_vision.training.checkpoints import LAST, Saver, resume
from resmlp_vision.training.epoch_log import Record, Records, score
from resmlp_vision.training.loader_watch import LoaderWatch
from resmlp_vision.training.tasks import create_task

METRICS = {"loss": "val_loss", "top1": "top1", "top5": "top5"}  # names in a validation, and in a record
CHECK_EVERY = 20  # updates between looks at the loss, each of which waits for the GPU


class Trainer(ABC, Generic[Settings]):
    """One training run: what ``train`` builds from the settings, and the loop over an epoch's batches.

    Subclasses say what is trained on which views of the images, and how it is validated.
    """

    task: TrainingTask
    mixup: Mixup | None = None

    def __init__(self, config: Settings, device: torch.device) -> None:
        self.config = config
        self.device = device
        training = open_dataset(config, config.train_split, training=True)
        agree_on_data("training", training)
        self.data_classes = count_classes(training, config.num_classes)
        self.classes = list(training.reader.class_to_idx)
        self.images = len(training) if isinstance(training, Images) else None  # a stream's length is a guess
        model = self.build_model()
        self.num_classes: int = model.num_classes
        self.norm = {key: resolve_model_data_config(model)[key] for key in ("mean", "std")}
        self.loader = self.training_loader(training)
        self.watch = LoaderWatch(device, silent=dist.get_rank() > 0)
        self.val_loader = None
        if config.val_split is not None:
            self.val_loader = self.evaluation_loader(config.val_split)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.create_task(model.to(device))
        try:
            self.optimizer = create_optimizer_v2(
                self.task.get_trainable_module(),
                config.opt,
                lr=config.lr,
                weight_decay=config.weight_decay,
                **config.opt_args,
            )
        except (ValueError, TypeError, AssertionError) as error:  # of one that needs what is not installed
            raise UserError(f"opt={config.opt}: {error}") from None
        if getattr(self.optimizer, "is_second_order", False):
            raise UserError(f"opt={config.opt} needs second derivatives, which are not computed; choose another")
        self.scaler = NativeScaler(device.type) if config.dtype == "float16" else None
        self.updates_per_epoch = len(self.loader) // config.accumulate
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            config.sched,
            num_epochs=config.epochs,
            warmup_epochs=config.warmup_epochs,
            warmup_lr=config.warmup_lr,
            min_lr=config.min_lr,
            decay_rate=config.decay_rate,
            decay_epochs=config.decay_epochs,
            step_on_epochs=False,
            updates_per_epoch=self.updates_per_epoch,
        )
        if dist.get_world_size() > 1:
            self.task.prepare_distributed(device_ids=[device] if device.type == "cuda" else None)

    @abstractmethod
    def build_model(self) -> Any:
        """Build the model, with the weights that it starts from."""

    @abstractmethod
    def training_loader(self, training: Images | StreamedImages) -> Any:
        """Make the loader of training batches."""

    @abstractmethod
    def create_task(self, model: Any) -> None:
        """Set ``task``, the model and its loss, with the average of its weights where one is kept."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Measure the model on the validation split."""

    def evaluation_loader(self, split: str) -> Any:
        """Make the loader of the whole images of a split."""
        names = {name: i for i, name in enumerate(self.classes)}
        images = open_dataset(self.config, split, training=False, classes=names)
        agree_on_data(split, images)
        count_classes(images, self.data_classes)
        return validation_loader(images, self.config, self.device, **self.norm)

    def train_mode(self) -> None:
        """Let the model train."""
        self.task.train()

    def schedule(self, update: int) -> None:
        """Set what changes from update to update, before the one with this number, from 0."""
        self.scheduler.step_update(update)

    def autocast(self) -> Any:
        """Return the context of automatic mixed precision, which does nothing for float32."""
        if self.config.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.config.dtype))

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch, whose random choices follow from the run's seed and the epoch alone.

        Returns:
            ``train_loss``, the mean over all images; ``lr`` of the last update; ``images_per_second``, over all
            processes; ``unreadable``, images that were replaced.

        Raises:
            UserError: the loss or a weight is not finite, or too many images cannot be read.
        """
        seed = int(np.random.SeedSequence((self.config.seed, epoch)).generate_state(1)[0]) >> 1
        random_seed(seed, dist.get_rank())
        for part in (self.loader.sampler, self.loader.dataset):
            if hasattr(part, "set_epoch"):
                part.set_epoch(seed)
        self.train_mode()
        losses: list[torch.Tensor] = []
        rates: list[float] = []
        start = time.perf_counter()
        with self.progress(epoch) as bar:
            for i, loss in enumerate(self.updates(epoch * self.updates_per_epoch)):
                losses.append(loss)
                rates.append(max(group["lr"] for group in self.optimizer.param_groups))
                bar.update(self.config.batch_size)
                if (i + 1) % CHECK_EVERY == 0 or i + 1 == self.updates_per_epoch:
                    first = i - i % CHECK_EVERY
                    unchecked = torch.stack(losses[first:]).tolist()
                    for step, value in enumerate(unchecked, first):
                        if not np.isfinite(value):
                            raise UserError(
                                f"the loss is {value} at update {step + 1} of epoch {epoch + 1}, at learning rate "
                                f"{rates[step]:.3g}; {remedy(epoch, self.config)}"
                            )
                    bar.set_postfix(loss=f"{unchecked[-1]:.3f}", lr=f"{rates[-1]:.2g}")
                    self.loader.dataset.unreadable.refuse_more()
        if not all(p.isfinite().all() for p in self.task.get_trainable_module().parameters()):
            raise UserError(f"the weights are not finite after epoch {epoch + 1}; {remedy(epoch, self.config)}")
        mean = torch.stack(losses).mean()
        dist.all_reduce(mean)
        seconds = time.perf_counter() - start
        return {
            "train_loss": mean.item() / dist.get_world_size(),
            "lr": rates[-1],
            "images_per_second": self.updates_per_epoch * self.config.batch_size / seconds,
            "unreadable": self.loader.dataset.unreadable.finish(),
        }

    def updates(self, first: int) -> Iterator[torch.Tensor]:
        """Make the updates of an epoch, the first of which has the number ``first``; yield the loss of each."""
        batches = self.watch.batches(self.loader)
        for update in range(first, first + self.updates_per_epoch):
            self.schedule(update)
            total = torch.zeros((), device=self.device)
            for part in range(self.config.accumulate):
                images, labels = next(batches)
                if self.mixup is not None:
                    images, labels = self.mixup(images, labels)
                last = part + 1 == self.config.accumulate
                with nullcontext() if last else self.task.no_sync():
                    with self.autocast():
                        loss = self.task(images, labels)["loss"] / self.config.accumulate
                    self.backward(loss, last)
                total += loss.detach()
            self.optimizer.zero_grad()
            self.task.update_ema(update + 1)
            yield total

    def backward(self, loss: torch.Tensor, update: bool) -> None:
        """Add a loss's gradient, and let the optimiser take a step if asked."""
        parameters = self.task.get_clip_parameters()
        if self.scaler is not None:
            self.scaler(loss, self.optimizer, self.config.clip_grad, parameters=parameters, need_update=update)
            return
        loss.backward()
        if update:
            if self.config.clip_grad is not None:
                dispatch_clip_grad(parameters, self.config.clip_grad)
            self.optimizer.step()

    def progress(self, epoch: int) -> tqdm:
        """Make the progress bar of an epoch: images, images a second, time left; none where there is no terminal."""
        return tqdm(
            desc=f"epoch {epoch + 1}/{self.config.epochs}",
            total=self.updates_per_epoch * self.config.batch_size,
            unit=" images",
            unit_scale=True,
            disable=None if dist.get_rank() == 0 else True,
            leave=False,
        )


def remedy(epoch: int, config: RunConfig) -> str:
    """Say what may help a training that diverged, and what is left of it."""
    intact = "the previous epoch's checkpoint is intact; " if epoch else ""
    clipped = "lamb" in config.opt or config.clip_grad is not None
    return f"{intact}a lower lr{'' if clipped else ' or clip_grad=1'} may help, in another out"


class SupervisedTrainer(Trainer[Config]):
    """Training of a classifier, from labels."""

    def build_model(self) -> Any:
        """Build the classifier, only whose last layer learns where the backbone is frozen."""
        model = build(self.config, self.data_classes)
        if self.config.freeze_backbone:
            model.reset_classifier(self.data_classes)
            model.requires_grad_(False)
            heads = model.get_classifier()  # two where a model was distilled through a token of its own
            for head in heads if isinstance(heads, tuple) else (heads,):
                head.requires_grad_(True)
        return model

    def training_loader(self, training: Images | StreamedImages) -> Any:
        """Make the loader of augmented images."""
        return training_loader(training, self.config, self.device, **self.norm)

    def create_task(self, model: Any) -> None:
        """Make the classifier's task, against the labels or a teacher's decisions too."""
        config = self.config
        self.task = create_task(model, config, self.device, self.classes)
        if config.mixup > 0 or config.cutmix > 0:
            self.mixup = Mixup(
                config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=self.num_classes
            )
        if config.ema_decay is not None:
            self.task.setup_ema(config.ema_decay)

    def train_mode(self) -> None:
        """Let the model train; a frozen backbone computes as in use."""
        self.task.train(not self.config.freeze_backbone)

    def validate(self) -> dict[str, float]:
        """Return ``val_loss``, ``top1`` and ``top5`` in percent, and those of the weights' average."""
        outcome: dict[str, float] = {}
        for ema, prefix in ((False, ""), (True, "ema_")):
            if not ema or self.task.has_ema():
                model = unwrap_model(self.task.get_eval_model(ema=ema))  # in validation there is nothing to exchange
                distribute_bn(model, dist.get_world_size(), reduce=True)  # what is measured is what is saved
                with self.autocast():
                    found = evaluate(model, self.val_loader, self.device)
                outcome |= {f"{prefix}{name}": found[key] for key, name in METRICS.items()}
        return outcome


def train(config: Settings, trainer_type: type[Trainer[Settings]]) -> dict[str, Any]:
    """Train as the settings say, from the last whole epoch if there is one.

    ``out`` gets the settings (config.yaml), the checkpoints (last.pth.tar, model_best.pth.tar), one line of JSON an
    epoch (log.jsonl), curves (tensorboard/, learning-curve.png) and results.json.

    Returns:
        The content of results.json.

    Raises:
        UserError: something in the settings or the data is to be mended; or ``out`` holds a run with other settings.
    """
    device = join_processes(config.device)
    agree({key: value for key, value in dataclasses.asdict(config).items() if key not in OF_A_MACHINE})
    use_precision(config.matmul_precision)
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
        saver = Saver(
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
            where = f"{dist.get_world_size()} processes" if dist.get_world_size() > 1 else str(device)
            print(
                f"{config.model}: {trainer.parameters:,} parameters, {trainer.data_classes} classes; "
                f"{trainer.updates_per_epoch:,} updates an epoch on {where}"
            )
            if config.sched == "cosine" and 0 < config.lr < config.min_lr:
                print(f"the learning rate will rise, from lr={config.lr} to min_lr={config.min_lr}")
            if begin:
                print(f"going on after epoch {begin}")
        records = Records(out, begin, config.epochs) if first else None
        for epoch in range(begin, config.epochs):
            start = time.perf_counter()
            try:
                record: Record = {"epoch": epoch + 1, **trainer.train_epoch(epoch)}
            except torch.OutOfMemoryError:
                raise UserError("the GPU's memory is full; accumulate=N computes each batch in N parts") from None
            if trainer.val_loader is not None and ((epoch + 1) % config.val_every == 0 or epoch + 1 == config.epochs):
                try:
                    record |= trainer.validate()
                except torch.OutOfMemoryError:
                    raise UserError("the GPU's memory is full in validation; give a smaller val_batch_size") from None
            record["seconds"] = time.perf_counter() - start
            if records is not None:
                records.add(record)
                saver.save_checkpoint(epoch, score(record))
        return records.summarise(config.model, trainer.parameters) if records is not None else {}


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
        path = getattr(config, key, None)
        if path and Path(path).is_file():  # not a URL, nor the name of a model
            with open(path, "rb") as file:
                found[key] = hashlib.file_digest(file, "sha256").hexdigest()
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


def run_command(name: str, description: str, kind: type[Settings], trainer_type: type[Trainer[Settings]]) -> None:
    """Read the settings from the command line, and train.

    Args:
        name: the module that is run.
        description: what its help says.
        kind: its settings.
        trainer_type: how it trains.
    """
    parser = argparse.ArgumentParser(prog=f"python -m resmlp_vision.{name}", description=description)
    parser.add_argument("--config", type=Path, metavar="RECIPE.YAML", help="settings (default: those of config.py)")
    keys = "any setting of resmlp_vision/config.py, such as data=hfds/NAME out=FOLDER lr=0.001"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=keys)
    args = parser.parse_intermixed_args()
    config = read_config(args.config, args.overrides, kind)
    logging.getLogger("timm").setLevel(logging.WARNING)
    try:
        train(config, trainer_type)
    finally:
        leave_processes()


@reporting("train")
def main() -> None:
    """Run the command line."""
    run_command("train", "Train an image classifier.", Config, SupervisedTrainer)


if __name__ == "__main__":
    main()
