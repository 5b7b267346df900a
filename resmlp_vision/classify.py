"""Name what is on images: ``python -m resmlp_vision.classify IMAGE...`` prints the most likely labels."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config

from resmlp_core import fold
from resmlp_core.files import UserError, reporting
from resmlp_vision.classifiers import add_model_arguments, load
from resmlp_vision.images import open_rgb


def classify(model: Any, paths: Sequence[Path], count: int = 5) -> Iterator[tuple[Path, list[tuple[int, float]]]]:
    """Yield for each image file the ``count`` most likely classes with their probabilities, best first.

    Raises:
        ValueError: a file is no image.
    """
    transform = create_transform(**resolve_model_data_config(model))
    for path in paths:
        with torch.inference_mode():
            probabilities = model(transform(open_rgb(path)).unsqueeze(0)).softmax(dim=-1)[0]
        best = probabilities.topk(min(count, len(probabilities)))
        yield path, list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


@reporting("classify")
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m resmlp_vision.classify", description="Print the five most likely labels of each image."
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    add_model_arguments(parser)
    args = parser.parse_args()
    model = fold(load(args.model, args.checkpoint))
    names = ImageNetInfo()
    try:
        for path, best in classify(model, args.images):
            print(path)
            for index, probability in best:
                if index < len(getattr(model, "classes", [])):
                    label = model.classes[index]
                else:
                    label = names.index_to_description(index) if model.num_classes == 1000 else f"class {index}"
                print(f"  {probability:7.2%}  {label}", flush=True)
    except ValueError as error:
        raise UserError(str(error)) from None


if __name__ == "__main__":
    main()
