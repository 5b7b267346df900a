"""Name what is on images: ``python -m resmlp_vision.classify IMAGE...`` prints the most likely labels."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import timm
import torch
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config
from torch import nn

from resmlp_vision.images import open_rgb
from resmlp_vision.variants import RELEASED, VARIANTS, create_model
from resmlp_vision.weights import read_weights


def load(name: str, checkpoint: Path | None) -> nn.Module:
    """Load a model for classification: from a file, or with the release's weights, which timm downloads once.

    Args:
        name: a model, or with the tag of released weights behind, such as ``resmlp_s12.fb_distilled_in1k``.
        checkpoint: a file of weights under the release's, timm's or our own names, with their classifier.

    Raises:
        ValueError: there is no such model or no such weights, or the file does not fit.
    """
    if checkpoint is not None:
        if "head.weight" not in (weights := read_weights(checkpoint)):
            raise ValueError(f"{checkpoint} has no classifier")
        return create_model(name.split(".")[0], checkpoint, num_classes=len(weights["head.weight"])).eval()
    if name not in RELEASED and f"{name}.fb_in1k" not in RELEASED:
        raise ValueError(f"no weights of {name!r} were released; give --checkpoint, or one of {', '.join(RELEASED)}")
    return timm.create_model(name, pretrained=True).eval()


def classify(model: nn.Module, paths: Sequence[Path], count: int = 5) -> Iterator[tuple[Path, list[tuple[int, float]]]]:
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


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m resmlp_vision.classify", description="Print the five most likely labels of each image."
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--model",
        default="resmlp_s12.fb_distilled_in1k",
        help=f"one of {', '.join(VARIANTS)}, for released weights with their tag (default: %(default)s)",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights to use in place of the released ones")
    args = parser.parse_args()
    try:
        model = load(args.model, args.checkpoint)
        names = ImageNetInfo()
        for path, best in classify(model, args.images):
            print(path)
            for index, probability in best:
                label = names.index_to_description(index) if model.num_classes == 1000 else f"class {index}"
                print(f"  {probability:7.2%}  {label}", flush=True)
    except (ValueError, OSError) as error:
        raise SystemExit(f"classify: {error}") from None


if __name__ == "__main__":
    main()
