"""timm's RandAugment beside the newest Pillow.

Its ``rand-m9-mstd0.5-inc1``, the paper's, posterises one image in a thousand to 0 bits a channel. Pillow made a black
image of that once, and refuses it now; it is black here with any Pillow.
"""

from typing import Any

from PIL import Image
from timm.data import auto_augment


def install() -> None:
    """Mend posterising wherever timm's augmentation policies name it; a second call changes nothing."""
    for name in auto_augment.NAME_TO_OP:
        if name.startswith("Posterize"):
            auto_augment.NAME_TO_OP[name] = posterize


def posterize(image: Image.Image, bits_to_keep: int, **more: Any) -> Image.Image:
    """Keep the highest ``bits_to_keep`` bits of each channel, 0 to 8."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **more)
