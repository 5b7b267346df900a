"""Data sets of images, from the hub, from parquet files or from folders."""

import io
import logging
import zlib
from collections.abc import Iterator, Mapping
from itertools import groupby
from multiprocessing import Array, Value
from pathlib import Path
from typing import Any

import datasets
from datasets.utils.file_utils import xopen
from PIL import Image
from timm.data import ImageDataset, IterableImageDataset
from timm.data.readers import create_reader, get_img_extensions
from timm.data.readers.reader_hfds import ReaderHfds
from timm.data.readers.reader_hfids import ReaderHfids
from timm.utils.misc import natural_key
from torch import Tensor

from resmlp_core.common.errors import DISK_FULL, UserError
from resmlp_vision.config import RunConfig
from resmlp_vision.data.image_io import is_clutter, read_image
from resmlp_vision.distributed import gather, world_size

log = logging.getLogger(__name__)

VALIDATION = ("validation", "valid", "val")  # names that an image folder's validation split goes by
UNREADABLE = -100  # the label of a validation image that cannot be read; data sets use -1 for no label
BLANK = Image.new("RGB", (64, 64))
REMEMBERED = 1000  # images whose skipping has been told


class Unreadable:
    """Counts the images of a pass over the data that cannot be read, over the loader's processes.

    It also keeps a label that is no class number, which a stream shows only as it is read.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = Value("q", 0)
        self.no_class = Value("q", 0)
        self.told = Array("q", REMEMBERED)  # checksums of names, over all passes; 0 is a free place

    def add(self, name: str, error: Exception) -> None:
        """Count an image; name it in a warning the first time."""
        with self.count.get_lock():
            self.count.value += 1
            checksum, told = zlib.crc32(name.encode("utf-8", "surrogateescape")) + 1, self.told[:]
            if checksum in told:
                return
            self.told[told.index(0) if 0 in told else 0] = checksum
        log.warning("skipping %s: %s", name, str(error).partition("cannot be read as an image: ")[2] or error)

    def beyond(self) -> bool:
        """Return whether there were more than the limit."""
        return bool(self.count.value > self.limit)

    def refuse_more(self) -> None:
        """Raise a UserError if there were more than the limit, or a label is no class number."""
        if self.no_class.value:
            raise UserError(
                f"the label {self.no_class.value} is not a class number below num_classes; "
                "give another label_key or split"
            )
        if self.beyond():
            raise UserError(f"more than max_unreadable={self.limit} images cannot be read; check the disk")

    def finish(self) -> int:
        """End a pass: give the count over all processes that train together, and begin anew."""
        counts = gather(self.count.value)
        self.count.value = 0
        return sum(counts)


class Images(ImageDataset):
    """timm's data set over images of any kind, which survives those that cannot be read.

    In training the next image takes the place of one that cannot be read; in validation a blank one does, with the
    label ``UNREADABLE``. Beyond the limit all are blank, so that a broken disk does not keep a loader for ever.

    Args:
        reader: timm's reader of files and labels.
        training: whether the next image is to take an unreadable one's place.
        limit: how many may be unreadable.
    """

    def __init__(self, reader: Any, training: bool, limit: int) -> None:
        super().__init__(root=None, reader=reader)
        self.training = training
        self.unreadable = Unreadable(limit)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return the transformed image and its label."""
        return self.copies(index, 1)[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Any, int]]:
        """Return the images and labels of a batch; one that is asked for several times in a row is read once."""
        return [item for index, same in groupby(indices) for item in self.copies(index, len(list(same)))]

    def copies(self, index: int, count: int) -> list[tuple[Any, int]]:
        """Return an image, transformed ``count`` times, with its label."""

        def transformed(image: Image.Image) -> list[Any]:
            return [self.transform(image) for _ in range(count)]

        while True:
            try:
                file, label = self.reader[index]
                with file:
                    return [(image, label) for image in read_image(file, transformed)]
            except Exception as error:  # whatever a reader of files or tables raises too
                self.unreadable.add(self.name(index), error)
            blanks = transformed(BLANK)  # raises what it raises at any image: then the settings are at fault
            if not self.training or self.unreadable.beyond():
                return [(blank, 0 if self.training else UNREADABLE) for blank in blanks]
            index = (index + 1) % len(self.reader)

    def name(self, index: int) -> str:
        """Return the name of an image that may be anything but whole."""
        try:
            return self.reader.filename(index) or f"image {index}"
        except Exception:
            return f"image {index}"


class EncodedImages(ReaderHfds):
    """timm's reader of data sets, to which a cell without an image is one that cannot be read."""

    def __getitem__(self, index: int) -> Any:
        """Return the file and the label of an image."""
        try:
            return super().__getitem__(index)
        except (TypeError, AssertionError):
            raise ValueError("it is empty") from None

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str | None:
        cell = self.dataset[index][self.image_key]
        return cell["path"] if cell else None


class EncodedStream(ReaderHfids):
    """timm's reader of streamed data sets, which leaves it to the data set to decode the images."""

    ds: Any

    def _lazy_init(self) -> None:
        super()._lazy_init()
        self.ds = self.ds.cast_column(self.input_key, datasets.Image(decode=False))


class StreamedImages(IterableImageDataset):
    """``Images`` for a stream; in training the image before takes the place of one that cannot be read.

    Args:
        reader: timm's reader.
        training: whether the image before is to take an unreadable one's place.
        limit: how many may be unreadable.
        files: those of this process; no more loader processes can share them.
    """

    num_classes = 0  # set by count_classes

    def __init__(self, reader: EncodedStream, training: bool, limit: int, files: int) -> None:
        super().__init__(root=None, reader=reader)
        self.training = training
        self.files = files
        self.unreadable = Unreadable(limit)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Yield transformed images and their labels."""
        before = BLANK, 0
        for number, (file, label) in enumerate(self.reader):
            file = file or {"bytes": b"", "path": None}  # an empty cell
            if not (isinstance(label, int) and 0 <= label < self.num_classes):
                self.unreadable.no_class.value = label if isinstance(label, int) and label else -1
                label = 0 if self.training else UNREADABLE
            try:
                with io.BytesIO(file["bytes"]) if file["bytes"] is not None else xopen(file["path"], "rb") as encoded:
                    image, transformed = read_image(encoded, lambda image: (image, self.transform(image)))
            except Exception as error:  # whatever a reader of files far away raises too
                self.unreadable.add(file["path"] or f"image {number} of the stream", error)
                image, label = before if self.training else (BLANK, UNREADABLE)
                transformed = self.transform(image)
            before = image, label
            yield transformed, label


def open_dataset(
    config: RunConfig, split: str, training: bool, classes: Mapping[str, int] | None = None
) -> Images | StreamedImages:
    """Open one split of a data set.

    Args:
        config: ``data``, ``image_key``, ``label_key``, ``max_unreadable`` and, to stream, ``batch_size`` and ``seed``.
        split: its name; for a folder of images the name of a folder in it, or an empty string for the folder itself.
        training: whether to shuffle what is streamed, and to replace what cannot be read.
        classes: the numbers of the classes by name, for an image folder; sorted by name by default.

    Raises:
        UserError: there is no such data set, split or column, or a class has no images.
    """
    folder = Path(config.data)
    kind, _, name = config.data.partition("/")
    if kind not in ("hfds", "hfids"):
        if "://" in config.data:
            raise UserError(f"data={config.data} is a URL; a data set of the hub is data=hfds/NAME, others are folders")
        if not folder.is_dir():
            raise UserError(f"no folder {folder}; a data set of the hub is data=hfds/NAME")
        tables = (path.relative_to(folder) for depth in ("", "*/") for path in folder.glob(f"{depth}*.parquet"))
        parquet = any(not any(map(is_clutter, path.parts)) for path in tables)
        kind, name = ("hfds" if parquet else "folder"), config.data
    keys = {"input_key": config.image_key, "target_key": config.label_key}
    try:
        if kind == "folder":
            return Images(read_folder(folder, split, classes), training, config.max_unreadable)
        source = datasets.load_dataset(name, split=split, streaming=kind == "hfids")
        for key, column in (("image_key", config.image_key), ("label_key", config.label_key)):
            if source.column_names and column not in source.column_names:
                raise UserError(
                    f"data={config.data} has no column {column!r}; the {key} is one of {source.column_names}"
                )
        if kind == "hfds":
            return Images(EncodedImages(name, split=split, **keys), training, config.max_unreadable)
        reader = EncodedStream(
            name,
            split=split,
            is_training=training,
            batch_size=config.batch_size // world_size(),
            seed=config.seed,
            input_img_mode="",
            **keys,
        )
        files = max(1, source.num_shards // world_size())
        return StreamedImages(reader, training, config.max_unreadable, files)
    except (ValueError, OSError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if "num_samples" in str(error):
            raise UserError(f"data={config.data}: it does not say how many images {split!r} has; use hfds/") from None
        cause = error.__cause__ or error  # datasets' own error says only that another was raised
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            raise cause from None
        raise UserError(f"data={config.data}, split {split!r}: {' '.join(str(cause).split())}") from None


def read_folder(folder: Path, split: str, classes: Mapping[str, int] | None) -> Any:
    """Open a folder of images, with one folder a class.

    Raises:
        UserError: there is no folder of that split; a class has no images, has folders or is none of ``classes``; or
            an image is outside the classes' folders.
    """
    names = (split, *VALIDATION) if split in VALIDATION else (split,)
    root = next((folder / name for name in names if (folder / name).is_dir()), None)
    if root is None:
        found = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_clutter(path.name)))
        raise UserError(f"no folder {folder / split}; {folder} has {found or 'no folders'}")
    held = [path for path in root.iterdir() if not is_clutter(path.name)]
    found_classes = {path.name for path in held if path.is_dir()}
    if found_classes and any(path.suffix.lower() in get_img_extensions() for path in held):
        raise UserError(f"{root} has images outside its {len(found_classes)} classes' folders; move them")
    for name in sorted(found_classes):  # timm takes an image's innermost folder for its class
        if inner := next(
            (path for path in (root / name).iterdir() if path.is_dir() and not is_clutter(path.name)), None
        ):
            raise UserError(f"{inner} is a folder in a class's folder, which must have images alone; move it")
    if classes and not found_classes & classes.keys():
        if len(found_classes) != len(classes):
            raise UserError(
                f"{root} has {len(found_classes)} classes, none of which is one of the {len(classes)} trained"
            )
        log.warning("the classes in %s have other names than those trained: they are taken in their order", root)
        classes = None  # such as ImageNet-V2's 0 to 999
    numbers = classes or {name: i for i, name in enumerate(sorted(found_classes or {""}, key=natural_key))}
    reader = create_reader("", root=str(root), class_map=dict(numbers))
    reader.samples = [
        (path, label) for path, label in reader.samples if not any(map(is_clutter, Path(path).relative_to(root).parts))
    ]
    read = {Path(path).parent.name for path, _ in reader.samples}
    for name in sorted(found_classes - (classes or dict.fromkeys(read)).keys()):
        raise UserError(f"the class {root / name} {'is none of those trained' if classes else 'has no images'}")
    if not reader.samples:
        raise UserError(f"{root} has no images")
    return reader


def count_classes(dataset: Images | StreamedImages, num_classes: int | None) -> int:
    """Return the number of classes of a data set, or check that its labels fit into ``num_classes``.

    Raises:
        UserError: a label is beyond ``num_classes``, or the data set has none, or does not say how many.
    """
    reader = dataset.reader
    names = len(reader.class_to_idx)
    if isinstance(dataset, StreamedImages):
        if not (num_classes or names):
            raise UserError(
                "a streamed data set does not say how many classes it has; give num_classes=... or use hfds/"
            )
        if num_classes and names > num_classes:
            raise UserError(f"num_classes={num_classes}, but the data have {names} classes")
        dataset.num_classes = num_classes or names
        return dataset.num_classes
    try:
        labels = reader.dataset.unique(reader.label_key) if hasattr(reader, "dataset") else range(names)
    except NotImplementedError:  # images, for one
        labels = [None]
    if not all(isinstance(label, int) for label in labels) or min(labels) < 0:
        raise UserError("the labels are not class numbers from 0 up; give another label_key or split")
    if num_classes and max(labels) >= num_classes:
        raise UserError(f"num_classes={num_classes}, but the data have the label {max(labels)}")
    return num_classes or max(names, max(labels) + 1)


def unreadable_in(loader: Any) -> Unreadable:
    """Return what counts the unreadable images of a loader; a loader that does not count them has none."""
    return getattr(getattr(loader, "dataset", None), "unreadable", None) or Unreadable(limit=0)


def readable(labels: Tensor) -> Tensor:
    """Return which validation images could be read, as booleans ``(B,)``."""
    return labels != UNREADABLE
