"""Look inside a checkpoint: ``resmlp-inspect MODEL -o DIR`` draws A and measures every layer."""

import argparse
from pathlib import Path

from resmlp_core.common.errors import UserError, reporting


@reporting("resmlp-inspect")
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="resmlp-inspect", description="Draw what a model has learned in A, B, C and α: PNGs, JSON and one page."
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="the folder of a recipe's model or of a training run, such as build/cifar10, or a checkpoint, or a file "
        "of released weights; or a URL",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="where the files go")
    parser.add_argument(
        "--positions",
        type=int,
        metavar="N",
        help="of a text model: show the first N positions, as rows beyond the training sentences stay as they started "
        "(default: 40)",
    )
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="of an image model: an image to show under the patches"
    )
    args = parser.parse_args()
    try:
        from resmlp_core.inspect.report import inspect
    except ModuleNotFoundError as error:  # `pip install .` brings only PyTorch
        raise UserError(f"{error.name} is not installed; it comes with the extras, [mt] and [vision]") from None
    inspect(args.model, args.output, args.positions, args.image)
    print(f"Open {args.output / 'index.html'}")


if __name__ == "__main__":
    main()
