"""Data sets of images that survive those that cannot be read: of files, of tables and of streams."""

import io
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import datasets
from datasets.utils.file_utils import xopen
from PIL import Image
from timm.data import ImageDataset, IterableImageDataset
from timm.data.readers.reader_hfds import ReaderHfds
from timm.data.readers.reader_hfids import ReaderHfids

from resmlp_vision.data.image_io import read_image
from resmlp_vision.data.unreadable import UNREADABLE, Unreadable

BLANK = Image.new("RGB", (64, 64))


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
            if not (type(label) is int and 0 <= label < self.num_classes):
                self.unreadable.no_class.value = label if type(label) is int and label else -1
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
