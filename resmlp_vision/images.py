"""Image files of any kind as RGB."""

from pathlib import Path

import numpy as np
from PIL import Image


def open_rgb(path: str | Path) -> Image.Image:
    """Read an image file as 8-bit RGB: grey, CMYK, with a palette, an alpha channel or 16 bits a channel.

    Raises:
        ValueError: it is no image, or is cut short; the message names it.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits, which Pillow's conversion would clip to the lowest 8
                return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"no image {path}") from None
    except (OSError, SyntaxError) as error:  # Pillow's, for what it cannot read
        raise ValueError(f"{path} cannot be read as an image: {error}") from None
