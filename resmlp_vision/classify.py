"""Name what is on images: ``python -m resmlp_vision.classify IMAGE...`` prints the most likely labels."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config

from resmlp_core import fold
from resmlp_core.common.errors import reporting
from resmlp_vision.data.image_io import find_images, read_image
from resmlp_vision.models.loading import add_model_arguments, load


def classify(model: Any, path: Path, count: int = 5) -> list[tuple[int, float]]:
    """Return the ``count`` most likely classes of an image file with their probabilities, best first.

    Raises:
        ValueError: the file is no image, or one that cannot be read.
    """
    image = read_image(path, create_transform(**resolve_model_data_config(model)))
    with torch.inference_mode():
        probabilities = model(image.unsqueeze(0)).softmax(dim=-1)[0]
    best = probabilities.topk(min(count, len(probabilities)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def expand(given: str) -> list[Path]:
    """Return the image files that an argument of the command line stands for: itself, or those in a folder.

    Raises:
        ValueError: it is a URL, or a folder without images.
    """
    if "://" in given:
        raise ValueError(f"{given} is a URL, which only --checkpoint takes; images are files or folders")
    path = Path(given)
    if not path.is_dir():
        return [path]
    if not (found := find_images(path)):
        raise ValueError(f"no images in {given}")
    return found


def labels_of(model: Any) -> list[str]:
    """Return what the classes of a model are called, by their numbers.

    A training run's model has the names of its data, of which ImageNet's folders, such as n01440764, are put in words.
    A model of a thousand classes without names is taken for ImageNet's.
    """
    words = ImageNetInfo().label_descriptions(as_dict=True)
    names = [words.get(name, name) for name in getattr(model, "classes", [])]
    unnamed = list(words.values()) if model.num_classes == 1000 else [f"class {i}" for i in range(model.num_classes)]
    return names + unnamed[len(names) :]


@reporting("classify")
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m resmlp_vision.classify", description="Print the five most likely labels of each image."
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, or a folder for all images in it")
    add_model_arguments(parser)
    args = parser.parse_args()
    model = fold(load(args.model, args.checkpoint))
    labels = labels_of(model)
    status = 0
    paths: list[Path] = []
    for given in args.images:
        try:
            paths += expand(given)
        except ValueError as error:
            print(f"classify: {error}", file=sys.stderr, flush=True)
            status = 1
    for path in paths:
        try:
            best = classify(model, path)
        except ValueError as error:  # the next image may be whole
            print(f"classify: {error}", file=sys.stderr, flush=True)
            status = 1
            continue
        print(path)
        for index, probability in best:
            print(f"  {probability:7.2%}  {labels[index]}", flush=True)
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
