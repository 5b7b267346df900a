"""Image files of any kind as upright 8-bit RGB."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT

LONGEST = 100  # times the short side: resized to 256 pixels, what is longer would fill the memory
DEPTHS = (8, 10, 12, 14, 16)  # bits of a grey pixel that cameras and scanners have
BLACK = 15  # of 255: what 12 bits make when they are taken for 16
UNSIGNED, WHITE_IS_ZERO = 1, 0  # of TIFF's SampleFormat and PhotometricInterpretation


def turn_upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say; where these are damaged it stays as it is."""
    try:
        upright = image.getexif().get(Base.Orientation, 1) == 1
        return image if upright else ImageOps.exif_transpose(image)  # which copies an image that is upright, too
    except Exception:  # damaged data raise errors of any kind; those of a broken image come again when it is read
        return image


def open_rgb(file: str | Path | BinaryIO) -> Image.Image:
    """Read an image file as 8-bit RGB: grey, CMYK, with a palette, an alpha channel or more than 8 bits a channel.

    It is turned upright, as the camera was held (EXIF), which timm leaves out.

    Raises:
        ValueError: it is no image, is damaged, or is too large or too long to read; the message names it.
    """
    return read_image(file, lambda image: image)


def read_image(file: str | Path | BinaryIO, transform: Callable[[Image.Image], Any]) -> Any:
    """Read an image file as ``open_rgb`` does, and transform it.

    Decoders and transforms raise errors of any kind at what is damaged, or too large for the memory.

    Raises:
        ValueError: it cannot be read or transformed; the message names it, in one line.
    """
    try:
        with Image.open(file) as stored:
            if not min(stored.size) or max(stored.size) > LONGEST * min(stored.size):
                raise ValueError(f"its {stored.width} x {stored.height} pixels are no picture to resize")
            return transform(convert(stored))
    except FileNotFoundError:
        raise ValueError(f"no image {file}") from None
    except Exception as error:
        name = file if isinstance(file, str | Path) else getattr(file, "name", "the image")
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} cannot be read as an image: {why}") from None


def convert(stored: Image.Image) -> Image.Image:
    """Convert an opened image to upright 8-bit RGB.

    Raises:
        ValueError: its pixels have no known range.
    """
    deep = any(";16" in str(tile.args) for tile in getattr(stored, "tile", ()))  # asked now, as reading forgets it
    image = turn_upright(stored)
    image.load()  # while its file is open
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of no known range")
    if image.mode.startswith("I"):  # more than 8 bits, which Pillow's conversion would clip to the lowest 8
        return Image.fromarray(to_8_bits(np.asarray(image), getattr(stored, "tag_v2", {}))).convert("RGB")
    if image.mode == "La":  # with premultiplied alpha, which Pillow converts only to its like
        image = image.convert("LA")
    image = image if image.mode == "RGB" else image.convert("RGB")
    if deep and 0 < np.asarray(image).max() <= BLACK:  # Pillow keeps the highest 8 bits of colours
        raise ValueError("its 16-bit colours use 12 bits or fewer, and would be black; scale them to 16")
    return image


def to_8_bits(grey: np.ndarray, tags: Any) -> np.ndarray:
    """Scale grey pixels of more than 8 bits by the range that they hold: the depth that the brightest one needs.

    A file does not tell its depth: a camera's 12 bits come in 16, and counts in 32.

    Args:
        grey: integers ``(height, width)``.
        tags: of a TIFF by their numbers; of any other file none.

    Returns:
        Bytes ``(height, width)``.

    Raises:
        ValueError: some are negative.
    """
    if grey.dtype == np.int32 and UNSIGNED in tags.get(SAMPLEFORMAT, (UNSIGNED,)):
        grey = grey.view(np.uint32)  # Pillow reads them as if they were signed
    if grey.min() < 0:
        raise ValueError("some of its pixels are negative, of no known range")
    bits = int(grey.max()).bit_length()
    top = 2 ** next((depth for depth in DEPTHS if bits <= depth), bits) - 1
    scaled = (grey // (top // 255)).astype(np.uint8)
    return 255 - scaled if tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO else scaled
