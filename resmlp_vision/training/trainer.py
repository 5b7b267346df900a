"""One training run: what is built from the settings, and the loop over an epoch's batches."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Generic

import numpy as np
import torch
import torch.distributed as dist
from timm.data import Mixup, resolve_model_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import TrainingTask
from timm.utils import NativeScaler, dispatch_clip_grad, random_seed
from tqdm import tqdm  # type: ignore[import-untyped]

from resmlp_core.common.errors import UserError
from resmlp_vision.config import RunConfig, Settings
from resmlp_vision.data.datasets import Images, StreamedImages
from resmlp_vision.data.loaders import validation_loader
from resmlp_vision.data.opening import count_classes, open_dataset
from resmlp_vision.distributed import agree_on_data
from resmlp_vision.training.loader_watch import LoaderWatch
from resmlp_vision.training.muon import patch_muon

CHECK_EVERY = 20  # updates between looks at the loss, each of which waits for the GPU


class Trainer(ABC, Generic[Settings]):
    """One training run: what ``train`` builds from the settings, and the loop over an epoch's batches.

    Subclasses say what is trained on which views of the images, and how it is validated.

    Args:
        config: the settings.
        device: where it is trained.
        opening: opens a split, as ``open_dataset`` does.
    """

    task: TrainingTask
    mixup: Mixup | None = None

    def __init__(
        self, config: Settings, device: torch.device, opening: Callable[..., Images | StreamedImages] = open_dataset
    ) -> None:
        self.config = config
        self.device = device
        self.opening = opening
        training = opening(config, config.train_split, training=True)
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
        patch_muon()
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
        images = self.opening(self.config, split, training=False, classes=names)
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
        """Train for one epoch, whose random choices follow only from the run's seed and the epoch.

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
                    last = self.check_losses(losses, rates, i - i % CHECK_EVERY, epoch)
                    bar.set_postfix(loss=f"{last:.3f}", lr=f"{rates[-1]:.2g}")
                    self.loader.dataset.unreadable.refuse_more()
        weights = self.task.get_trainable_module().parameters()
        if not torch.stack([weight.isfinite().all() for weight in weights]).all():
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

    def check_losses(self, losses: list[torch.Tensor], rates: list[float], first: int, epoch: int) -> float:
        """Wait for the losses of an epoch's updates from ``first`` on; return the last.

        Raises:
            UserError: one is not finite.
        """
        values: list[float] = torch.stack(losses[first:]).tolist()
        for update, value in enumerate(values, first):
            if not np.isfinite(value):
                raise UserError(
                    f"the loss is {value} at update {update + 1} of epoch {epoch + 1}, at learning rate "
                    f"{rates[update]:.3g}; {remedy(epoch, self.config)}"
                )
        return values[-1]

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
            if update + 1 == first + self.updates_per_epoch and hasattr(self.optimizer, "sync_lookahead"):
                self.optimizer.sync_lookahead()  # now, as it passes by parameters without a gradient
            self.optimizer.zero_grad()
            self.task.update_ema()
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
    """Say what may help a training that diverged. A folder that has a checkpoint by then takes no other settings."""
    clipped = "lamb" in config.opt or config.clip_grad is not None
    advice = f"a lower lr{'' if clipped else ' or clip_grad=1'} may help"
    return f"the previous epoch's checkpoint is intact; {advice}, in another out" if epoch else advice
