"""Write scikit-learn's digits, 1,797 grey images of 8 x 8 pixels, as a folder of images: train/3/0042.png."""

import argparse
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

from resmlp_core.common.files import replacing


def write_digits(folder: Path) -> None:
    """Write four fifths of each digit's images under ``train`` and one fifth under ``test``."""
    digits = load_digits()
    numbers = train_test_split(range(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
    with replacing(folder) as partial:
        for split, chosen in zip(("train", "test"), numbers, strict=True):
            for i in chosen:
                path = partial / split / str(digits.target[i]) / f"{i:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((digits.images[i] * 255 / 16).round().astype("uint8")).save(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if not folder.exists():
        write_digits(folder)
    print(f"the digits are in {folder}")
