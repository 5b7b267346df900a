"""Data sets of images, from the hub, from parquet files or from folders, and timm's loaders over them."""

import logging
from collections.abc import Mapping
from multiprocessing import Value
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import load_dataset
from PIL import Image
from timm.data import ImageDataset, IterableImageDataset, create_dataset, create_loader
from timm.data.readers import create_reader
from torch import Tensor

from resmlp_core.files import UserError
from resmlp_vision import posterize
from resmlp_vision.config import Config
from resmlp_vision.images import open_rgb

log = logging.getLogger(__name__)

posterize.install()

VALIDATION = ("validation", "valid", "val", "test")  # the names that an image folder's second split goes by
UNREADABLE = -1  # the label of a validation image that cannot be read


class Images(ImageDataset):
    """timm's data set over images of any kind, which survives those that cannot be read.

    In training the next image takes the place of one that cannot be read; in validation a blank one does, with the
    label ``UNREADABLE``. Each is named in a warning and counted.

    Args:
        reader: timm's reader of files and labels.
        training: whether the next image is to take an unreadable one's place.
        limit: count from which on all images are blank, so that a broken disk does not keep a loader for ever.
    """

    def __init__(self, reader: Any, training: bool, limit: int) -> None:
        super().__init__(root=None, reader=reader)
        self.training = training
        self.limit = limit
        self.unreadable = Value("q", 0)  # shared with the loader's processes

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Give the transformed image and its label."""
        while True:
            file, label = self.reader[index]
            try:
                with file:
                    image = open_rgb(file)
                break
            except ValueError as error:
                name = self.reader.filename(index) or f"image {index}"
                log.warning("skipping %s: %s", name, str(error).rsplit(": ", 1)[-1])
                with self.unreadable.get_lock():
                    self.unreadable.value += 1
                if not self.training or self.unreadable.value > self.limit:
                    image, label = Image.new("RGB", (64, 64)), 0 if self.training else UNREADABLE
                    break
                index = (index + 1) % len(self.reader)
        return self.transform(image), label


def open_dataset(
    config: Config, split: str, training: bool, classes: Mapping[str, int] | None = None
) -> Images | IterableImageDataset:
    """Open one split of a data set.

    Args:
        config: ``data``, ``image_key``, ``label_key`` and ``max_unreadable`` are read.
        split: its name; for a folder of images the name of a folder in it, or an empty string for the folder itself.
        training: whether to shuffle what is streamed, and to replace what cannot be read.
        classes: the numbers of the classes by name, for an image folder; sorted by name by default.

    Raises:
        UserError: there is no such data set or split, or a class has no images.
    """
    try:
        if config.data.startswith("hfids/"):
            return create_dataset(
                config.data,
                split=split,
                is_training=training,
                batch_size=config.batch_size // dist.get_world_size(),
                seed=config.seed,
                input_key=config.image_key,
                target_key=config.label_key,
            )
        folder = Path(config.data)
        name = config.data.removeprefix("hfds/")
        if name == config.data and not folder.is_dir():
            raise UserError(f"no folder {folder}; a data set of the hub is data=hfds/NAME")
        if name != config.data or any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet")):
            columns = load_dataset(name, split=split).column_names
            for key in ("image_key", "label_key"):
                if getattr(config, key) not in columns:
                    raise UserError(
                        f"data={config.data} has no column {getattr(config, key)!r}; give {key}=... of {columns}"
                    )
            reader = create_reader(f"hfds/{name}", split=split, input_key=config.image_key, target_key=config.label_key)
        else:
            reader = read_folder(folder, split, classes)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise UserError(f"data={config.data}, split {split!r}: {' '.join(str(error).split())}") from None
    return Images(reader, training, config.max_unreadable)


def read_folder(folder: Path, split: str, classes: Mapping[str, int] | None) -> Any:
    """Open a folder of images, with one folder a class.

    Raises:
        UserError: there is no folder of that split, or a class has no images.
    """
    names = (split, *VALIDATION) if split in VALIDATION else (split,)
    root = next((folder / name for name in names if (folder / name).is_dir()), None)
    if root is None:
        found = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        raise UserError(f"no folder {folder / split}; {folder} has {found or 'no folders'}")
    reader = create_reader("", root=str(root), class_map=dict(classes) if classes else None)
    for path in sorted(root.iterdir()):
        if path.is_dir() and path.name not in reader.class_to_idx:
            unknown = classes is not None and path.name not in classes
            raise UserError(f"the class {path} {'is none of those trained' if unknown else 'has no images'}")
    return reader


def count_classes(dataset: Images | IterableImageDataset, num_classes: int | None) -> int:
    """Give the number of classes of a data set, or check that its labels fit into ``num_classes``.

    Raises:
        UserError: a label is beyond ``num_classes``, or the data set has none, or does not say how many.
    """
    reader = dataset.reader
    names = len(reader.class_to_idx)
    if isinstance(dataset, IterableImageDataset):
        if not (num_classes or names):
            raise UserError("a streamed data set does not say how many classes it has; give num_classes=...")
        return num_classes or names
    labels = reader.dataset.unique(reader.label_key) if hasattr(reader, "dataset") else range(names)
    if not all(isinstance(label, int) for label in labels) or min(labels) < 0:
        raise UserError("the labels are no class numbers from 0 on; give another label_key or split")
    if num_classes and max(labels) >= num_classes:
        raise UserError(f"num_classes={num_classes}, but the data have the label {max(labels)}")
    return num_classes or max(names, max(labels) + 1)


def training_loader(dataset: Images | IterableImageDataset, config: Config, device: torch.device, **norm: Any) -> Any:
    """Make timm's loader of augmented training batches, ``config.batch_size`` images over all processes and parts.

    Args:
        dataset: the training split.
        config: sizes and augmentation.
        device: where the images go.
        norm: mean and standard deviation of the model's input.

    Raises:
        UserError: the batch cannot be divided, or is larger than the data set.
    """
    parts = dist.get_world_size() * config.accumulate
    batch_size, rest = divmod(config.batch_size, parts)
    mixes = config.mixup > 0 or config.cutmix > 0
    if rest or not batch_size or (mixes and batch_size % 2):
        even = " into even parts, as mixup pairs images" if mixes else ""
        raise UserError(f"batch_size={config.batch_size} cannot be divided by {parts} (processes x accumulate){even}")
    if isinstance(dataset, IterableImageDataset) and config.repeated_aug:
        raise UserError("a streamed data set cannot repeat its images; give repeated_aug=0")
    loader = create_loader(
        dataset,
        input_size=(3, config.img_size, config.img_size),
        batch_size=batch_size,
        is_training=True,
        re_prob=config.reprob,
        re_mode="pixel",
        scale=config.scale,
        hflip=config.hflip,
        color_jitter=config.color_jitter,
        auto_augment=config.auto_augment,
        num_aug_repeats=config.repeated_aug,
        interpolation=config.interpolation,
        num_workers=config.workers,
        distributed=True,
        pin_memory=device.type == "cuda",
        device=device,
        persistent_workers=False,  # each epoch's augmentation follows from its seed alone
        **norm,
    )
    if len(loader) < config.accumulate:
        raise UserError(f"{len(dataset)} training images are fewer than batch_size={config.batch_size}")
    return loader


def validation_loader(dataset: Images | IterableImageDataset, config: Config, device: torch.device, **norm: Any) -> Any:
    """Make timm's loader of whole validation images: resized to ``img_size / crop_pct``, the centre cut out."""
    return create_loader(
        dataset,
        input_size=(3, config.img_size, config.img_size),
        batch_size=config.val_batch_size,
        interpolation=config.interpolation,
        crop_pct=config.crop_pct,
        num_workers=config.workers,
        distributed=True,
        pin_memory=device.type == "cuda",
        device=device,
        persistent_workers=False,
        **norm,
    )


def refuse_unreadable(dataset: Any, limit: int) -> None:
    """Raise a UserError when more images than ``limit`` could not be read."""
    if isinstance(dataset, Images) and dataset.unreadable.value > limit:
        raise UserError(f"more than max_unreadable={limit} images cannot be read; is the disk whole?")


def readable(labels: Tensor) -> Tensor:
    """Tell which validation images could be read, as booleans ``(B,)``."""
    return labels != UNREADABLE
