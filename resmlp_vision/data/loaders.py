"""timm's loaders over data sets of images: of training, of views, of validation; and the share of each process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from timm.data import create_loader, create_transform, resolve_model_data_config
from timm.data.distributed_sampler import OrderedDistributedSampler
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from resmlp_core.common.devices import available_cores
from resmlp_core.common.environment import keep_memory
from resmlp_core.common.errors import UserError
from resmlp_vision.config import Config, RunConfig
from resmlp_vision.data import posterize
from resmlp_vision.data.crops import RandomCrop
from resmlp_vision.data.datasets import Images, StreamedImages
from resmlp_vision.data.repeats import CopiesTogether
from resmlp_vision.distributed import processes_here, world_size

WORKERS_MEMORY = 2**26  # bytes; pixels of a photograph of 16 megapixels are given back, those of most images are kept

posterize.install()


def training_loader(dataset: Images | StreamedImages, config: Config, device: torch.device, **norm: Any) -> Any:
    """Make timm's loader of augmented training batches, ``config.batch_size`` images over all processes and parts.

    Args:
        dataset: the training split.
        config: sizes and augmentation.
        device: where the images go.
        norm: mean and standard deviation of the model's input.

    Raises:
        UserError: the batch cannot be divided or is larger than the data set, or timm knows no such augmentation.
    """
    batch_size = share_batch(config)
    if (config.mixup > 0 or config.cutmix > 0) and batch_size % 2:
        raise UserError(f"batch_size={config.batch_size} leaves a process {batch_size} images; mixup needs pairs")
    if isinstance(dataset, StreamedImages) and config.repeated_aug:
        raise UserError("a streamed data set cannot repeat its images; give repeated_aug=0")
    try:
        create_transform(config.img_size, is_training=True, auto_augment=config.auto_augment)
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(f"auto_augment={config.auto_augment} is not a policy of timm's: {error}") from None
    loader = create_loader(
        dataset,
        batch_size=batch_size,
        is_training=True,
        re_prob=config.reprob,
        re_mode="pixel",
        scale=config.scale,
        hflip=config.hflip,
        color_jitter=config.color_jitter,
        auto_augment=config.auto_augment,
        num_aug_repeats=config.repeated_aug,
        **loading(dataset, config, device),
        collate_fn=default_collate,  # timm's copies once more
        **norm,
    )
    dataset.transform.transforms[0] = RandomCrop(dataset.transform.transforms[0])
    if config.repeated_aug:
        loader.batch_sampler.sampler = CopiesTogether(loader.sampler, batch_size)
    return check_enough(loader, config)


def views_loader(
    dataset: Images | StreamedImages, config: RunConfig, device: torch.device, views: Callable[[Image.Image], Any]
) -> Any:
    """Make timm's loader of training batches of several views an image, each of the type that ``views`` returns.

    Args:
        dataset: the training split.
        config: sizes.
        device: where the images are to go; they come on the CPU.
        views: makes the views of an image.

    Raises:
        UserError: the batch cannot be divided or is larger than the data set.
    """
    loader = create_loader(
        dataset,
        batch_size=share_batch(config),
        is_training=True,
        use_prefetcher=False,  # it would stack the views, whose sizes differ
        **loading(dataset, config, device),
    )
    dataset.transform = views
    return check_enough(loader, config)


def share_batch(config: RunConfig) -> int:
    """Return the images of a batch that one process computes at once.

    Raises:
        UserError: the batch cannot be divided.
    """
    parts = world_size() * config.accumulate
    batch_size, rest = divmod(config.batch_size, parts)
    if rest or not batch_size:
        raise UserError(f"batch_size={config.batch_size} cannot be divided by {parts} (processes x accumulate)")
    return batch_size


def check_enough(loader: Any, config: RunConfig) -> Any:
    """Give the loader back; raise a UserError if an epoch has no whole batch."""
    if len(loader) < config.accumulate:
        images = f"{len(loader.dataset)} training images"
        if repeats := getattr(config, "repeated_aug", 0):
            images += f", of which repeated_aug={repeats} takes {len(loader.sampler) * world_size()} an epoch,"
        raise UserError(f"{images} are fewer than batch_size={config.batch_size}")
    return loader


def validation_loader(dataset: Dataset, config: RunConfig, device: torch.device, **wanted: Any) -> Any:
    """Make timm's loader of whole validation images: resized to ``img_size / crop_pct``, the centre cut out.

    Args:
        dataset: the validation split.
        config: sizes.
        device: where the images go.
        wanted: what else timm's loader takes, such as the mean and standard deviation of the model's input; it wins.
    """
    return create_loader(
        dataset,
        batch_size=config.val_batch_size,
        crop_pct=config.crop_pct,
        **loading(dataset, config, device) | wanted,
    )


def settings_for(model: Any, **settings: Any) -> tuple[RunConfig, dict[str, Any]]:
    """Return settings of the data as a model wants its images, and what else ``validation_loader`` takes for it.

    Args:
        model: one of timm's, or trained here.
        settings: any other of ``RunConfig``, or those that win over the model's.
    """
    found = resolve_model_data_config(model)
    own = {"img_size": found["input_size"][-1]} | {key: found[key] for key in ("crop_pct", "interpolation")}
    return RunConfig(**own | settings), {key: found[key] for key in ("input_size", "mean", "std", "crop_mode")}


def loader_for(model: Any, images: Any, device: torch.device) -> Any:
    """Make a loader of a data set's images as a model wants them, for validation; give back what is a loader already.

    Args:
        model: one of timm's, or trained here.
        images: a loader of batches ``(B, 3, height, width)`` with labels ``(B,)``; or a data set. One that has a
            ``transform`` which is not set, such as ``open_dataset`` gives or torchvision's, gets the model's, and so
            does one that PyTorch's ``Subset`` is of; any other is one of tensors as the model takes them.
        device: where the images go.

    Raises:
        UserError: the model takes images of other channels than a transform's three.
    """
    if not isinstance(images, Dataset):
        return images
    config, wanted = settings_for(model)
    if getattr(without_subsets(images), "transform", images) is None:
        channels = wanted["input_size"][0]
        if channels != 3:
            raise UserError(f"images are RGB and the model's have {channels} channels; give a data set of tensors")
        images = copy_subsets(images)
        loader = validation_loader(images, config, device, **wanted)
        without_subsets(images).transform = images.transform  # which timm sets of what it is given
        return loader
    sampler = OrderedDistributedSampler(images) if dist.is_initialized() else None
    return DataLoader(images, config.val_batch_size, sampler=sampler)


def without_subsets(images: Any) -> Any:
    """Return the data set that subsets are of."""
    while isinstance(images, Subset):
        images = images.dataset
    return images


def copy_subsets(images: Any) -> Any:
    """Copy a data set, and of a subset what it is of, but for the images, so that another transform can be set."""
    copied = copy(images)
    if isinstance(images, Subset):
        copied.dataset = copy_subsets(images.dataset)
    return copied


@contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Raise a UserError where a process of a loader was killed, as a system does whose memory is full."""
    try:
        yield
    except RuntimeError as error:  # PyTorch's, which says by its text alone what it is
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(f"{' '.join(str(error).split())}: if the memory is full, give fewer workers") from None


def start_worker(worker: Any) -> int:
    """Let a process of a loader keep the memory of an image for the next; return its seed, which timm sets."""
    keep_memory(WORKERS_MEMORY)
    return int(worker.seed)


def loading(dataset: Dataset, config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Return the options that timm's loaders for training and validation have in common."""
    workers = available_cores(processes_here()) if config.workers is None else config.workers
    return {
        "input_size": (3, config.img_size, config.img_size),
        "interpolation": config.interpolation,
        "num_workers": min(workers, getattr(dataset, "files", workers)),
        "distributed": dist.is_initialized(),
        "pin_memory": device.type == "cuda",
        "device": device,
        "worker_seeding": start_worker,
        "persistent_workers": False,  # each epoch's augmentation follows only from its seed
    }
