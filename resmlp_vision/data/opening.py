"""Opening a data set by its name: of the hub, of parquet files or of a folder of images; and counting its classes."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from timm.data.readers import create_reader, get_img_extensions
from timm.utils.misc import natural_key

from resmlp_core.common.errors import DISK_FULL, UserError
from resmlp_vision.config import RunConfig
from resmlp_vision.data.datasets import EncodedImages, EncodedStream, Images, StreamedImages
from resmlp_vision.data.image_io import is_clutter
from resmlp_vision.distributed import world_size

log = logging.getLogger(__name__)

VALIDATION = ("validation", "valid", "val")  # names that an image folder's validation split goes by
# What datasets and timm raise where there is no such data set or split, or it cannot be downloaded or prepared.
OPENING_ERRORS = (ValueError, OSError, KeyError, RuntimeError, datasets.exceptions.DatasetsError)


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
    kind, name = kind_of(config.data)
    keys = {"input_key": config.image_key, "target_key": config.label_key}
    with telling_why(config.data, split):
        if kind == "folder":
            return Images(read_folder(Path(name), split, classes), training, config.max_unreadable)
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


@contextmanager
def telling_why(data: str, split: str) -> Iterator[None]:
    """Say in one line why a split cannot be opened.

    Raises:
        UserError: there is no such data set or split, or the hub cannot be reached.
        OSError: the disk is full.
    """
    try:
        yield
    except OPENING_ERRORS as error:
        if "num_samples" in str(error):
            raise UserError(f"data={data}: it does not say how many images {split!r} has; use hfds/") from None
        cause = error.__cause__ or error  # datasets' own error says only that another was raised
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            raise cause from None
        on_hub = kind_of(data)[0] != "folder" and isinstance(cause, OSError)
        remedy = "; data=FOLDER takes images that are here" if on_hub else ""
        raise UserError(f"data={data}, split {split!r}: {' '.join(str(cause).split())}{remedy}") from None


def kind_of(data: str) -> tuple[str, str]:
    """Tell what the setting ``data`` names.

    Returns:
        ``hfds`` for tables, ``hfids`` for a stream or ``folder`` for images, and the name on the hub or the disk.

    Raises:
        UserError: it is a URL, or no folder.
    """
    kind, _, name = data.partition("/")
    if kind in ("hfds", "hfids"):
        return kind, name
    if "://" in data:
        raise UserError(f"data={data} is a URL; a data set of the hub is data=hfds/NAME, others are folders")
    folder = Path(data)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; a data set of the hub is data=hfds/NAME")
    tables = (path.relative_to(folder) for depth in ("", "*/") for path in folder.glob(f"{depth}*.parquet"))
    has_tables = any(not any(map(is_clutter, path.parts)) for path in tables)
    return ("hfds" if has_tables else "folder"), data


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
    if classes and not found_classes:
        raise UserError(f"{root} has no folders of images, one for each class")
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
    if not all(type(label) is int and label >= 0 for label in labels):
        raise UserError("the labels are not class numbers from 0 up; give another label_key or split")
    if num_classes and max(labels) >= num_classes:
        raise UserError(f"num_classes={num_classes}, but the data have the label {max(labels)}")
    return num_classes or max(names, max(labels) + 1)
