"""Image files of any kind as RGB."""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps


def turn_upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say; where these are damaged it stays as it is."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged data raise errors of any kind; those of a broken image come again when it is read
        return image


def open_rgb(file: str | Path | BinaryIO) -> Image.Image:
    """Read an image file as 8-bit RGB: grey, CMYK, with a palette, an alpha channel or 16 bits a channel.

    It is turned upright, as the camera was held (EXIF), which timm leaves out.

    Raises:
        ValueError: it is no image, or is cut short; the message names it.
    """
    try:
        with Image.open(file) as stored:
            image = turn_upright(stored)
            if image.mode == "F":
                raise ValueError("its pixels are floating-point numbers, of no known range")
            if image.mode.startswith("I"):  # more than 8 bits, which Pillow's conversion would clip to the lowest 8
                grey = np.asarray(image)
                grey = grey // 257 if image.mode != "I" or grey.max() > 255 else grey
                return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"no image {file}") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        name = file if isinstance(file, str | Path) else getattr(file, "name", "the image")
        raise ValueError(f"{name} cannot be read as an image: {error}") from None
