"""The data of a rehearsal: opened once and, of tables that would be downloaded or prepared for long, a sample."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as parquet  # type: ignore[import-untyped]

from resmlp_vision.config import RunConfig
from resmlp_vision.data.datasets import EncodedImages, Images, StreamedImages
from resmlp_vision.data.opening import OPENING_ERRORS, kind_of, open_dataset, telling_why
from resmlp_vision.distributed import gather, rank

LARGE = 2e9  # bytes of tables; fewer are prepared as the training itself does
LEAST = 2048  # images of a sample; a training set's has two batches at least


class Data:
    """Opens each split once, as ``open_dataset`` does, for all trainers of a process.

    Args:
        folder: where samples are kept.

    Attributes:
        whole: how many images a split has, by the name of those of which a sample was opened.
        needed: bytes that the training will download and prepare.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: dict[tuple[str, bool], Images | StreamedImages] = {}
        self.whole: dict[str, int] = {}
        self.needed = 0

    def __call__(
        self, config: RunConfig, split: str, training: bool, classes: Mapping[str, int] | None = None
    ) -> Images | StreamedImages:
        """Return a data set of its own, as a loader sets its transform."""
        key = split, training
        if key not in self.opened:
            self.opened[key] = self.sample(config, split, training) or open_dataset(config, split, training, classes)
        return copy.copy(self.opened[key])

    def sample(self, config: RunConfig, split: str, training: bool) -> Images | None:
        """Open the first images of a split of large tables that are not prepared yet; None of any other data."""
        kind, name = kind_of(config.data)
        if kind != "hfds":
            return None
        path = self.folder / "tables" / "data" / f"{split}-00000-of-00001.parquet"  # as the hub names a split's tables
        with telling_why(config.data, split):  # a hub that is out of reach is waited for once
            builder = datasets.load_dataset_builder(name)
        try:
            size, images = measure(builder, split)
            if size < LARGE or Path(builder.cache_dir).exists() or not images:
                return None
            if rank() == 0 and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                stream = builder.as_streaming_dataset(split).select_columns([config.image_key, config.label_key])
                stream = stream.cast_column(config.image_key, datasets.Image(decode=False))
                rows = list(stream.take(max(LEAST, 2 * config.batch_size)))
                datasets.Dataset.from_list(rows, features=stream.features).to_parquet(path)
        except OPENING_ERRORS:  # open_dataset says why
            return None
        finally:
            gather(None)  # the sample is there
        keys = {"input_key": config.image_key, "target_key": config.label_key}
        reader = EncodedImages(str(self.folder / "tables"), root=str(self.folder / "cache"), split=split, **keys)
        self.whole[split], self.needed = images, size + (builder.info.dataset_size or size)
        return Images(reader, training, config.max_unreadable)


def measure(builder: Any, split: str) -> tuple[int, int]:
    """Return the bytes of the tables of a data set, and the images of a split; 0 where it does not say."""
    files = [Path(file) for files in (builder.config.data_files or {}).values() for file in files]
    if files and all(file.is_file() for file in files):
        images = sum(parquet.read_metadata(file).num_rows for file in builder.config.data_files.get(split, ()))
        return sum(file.stat().st_size for file in files), images
    info = builder.info
    known = (info.splits or {}).get(split)
    return info.download_size or 0, known.num_examples if known else 0
