"""Translate from the terminal with a recipe's model: ``python -m resmlp_mt.translate build/demo/run/resmlp_tiny``."""

import argparse
import sys
import warnings
from pathlib import Path

import torch

import resmlp_mt.plugin  # noqa: F401  fairseq as the plugin mends it
from resmlp_core.common.errors import UserError, output_is_lost, reporting
from resmlp_mt.models.resmlp import ResMLPModel
from resmlp_mt.models.translator import Translator
from resmlp_mt.prepare import refuse_unusable_name


def load(folder: Path) -> Translator:
    """Load the model that a recipe left in ``folder``, ready for ``.translate("a sentence")``.

    It is on the GPU where there is one.

    Raises:
        UserError: the recipe has not come that far, or the folder has a name that fairseq does not take.
    """
    folder = folder.resolve()
    refuse_unusable_name(folder, "folder")
    model, sentencepiece = folder / "model.pt", folder.parent / "sentencepiece.model"
    for path in (model, sentencepiece):
        if not path.is_file():
            raise UserError(f"no {path}: run the recipe first (make demo)")
    hub = ResMLPModel.from_pretrained(
        str(folder),
        checkpoint_file=model.name,
        data_name_or_path=str(folder.parent / "data-bin"),
        bpe="sentencepiece",
        sentencepiece_model=str(sentencepiece),
    )
    return hub.cuda() if torch.cuda.is_available() else hub


def translate(hub: Translator, sentence: str, beam: int = 4) -> str:
    """Translate one sentence of raw text; one without text gives an empty one.

    Raises:
        UserError: it has more tokens than the model has positions.
    """
    tokens, limit = hub.encode(sentence), hub.max_positions[0]
    if len(tokens) > limit:
        raise UserError(f"{len(tokens)} tokens are more than the model's {limit} positions; split the sentence")
    return hub.decode(hub.generate(tokens, beam=beam)[0]["tokens"])


@reporting("translate")
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m resmlp_mt.translate", description="Translate what is typed.")
    parser.add_argument("folder", type=Path, help="where a recipe left its model, such as build/demo/run/resmlp_tiny")
    parser.add_argument("--beam", type=int, default=4, metavar="N", help="hypotheses kept (default: 4)")
    args = parser.parse_args()
    if args.beam < 1:
        parser.error(f"--beam {args.beam} must be 1 or more")
    warnings.filterwarnings("ignore", "'pin_memory' argument")  # of fairseq's loader, where there is no GPU
    hub = load(args.folder)
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    if sys.stdin.isatty():
        print("Type a sentence and press Enter; Ctrl-D ends.")
    for line in sys.stdin:
        try:
            print(translate(hub, line, args.beam), flush=True)
        except UserError as error:  # the next sentence may be shorter
            print(f"translate: {error}", file=sys.stderr, flush=True)
        if output_is_lost():
            break


if __name__ == "__main__":
    main()
