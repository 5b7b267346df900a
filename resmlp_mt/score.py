"""Scores of fairseq-generate's output: ``python -m resmlp_mt.score GENERATED --references FILE``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from resmlp_core.common.errors import UserError, reporting
from resmlp_mt.data.generate_output import read_hypotheses
from resmlp_mt.data.text_lines import read_lines
from resmlp_mt.metrics import COMET, compare, other_form, score, score_comet, score_tokenized


@reporting("score")
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m resmlp_mt.score", description="Score fairseq-generate's output.")
    parser.add_argument("generated", type=Path, help="what fairseq-generate printed")
    parser.add_argument("--references", required=True, type=Path, metavar="FILE", help="raw text, a sentence a line")
    parser.add_argument(
        "--target-lang", default="", choices=("zh", "ja", "ko"), help="BLEU on sacreBLEU's tokens for this language"
    )
    parser.add_argument(
        "--tokenized", metavar="LANG", help="add BLEU on Moses's tokens of this language, as older papers report it"
    )
    parser.add_argument(
        "--split-compounds", action="store_true", help="with --tokenized: add the same with compounds put apart"
    )
    parser.add_argument(
        "--against", type=Path, metavar="GENERATED", help="test whether another output differs by more than chance"
    )
    parser.add_argument(
        "--comet", nargs="?", const=COMET, metavar="MODEL", help=f"add unbabel-comet's score by this model ({COMET})"
    )
    parser.add_argument("--sources", type=Path, metavar="FILE", help="with --comet: raw text, a sentence a line")
    args = parser.parse_args()
    if args.split_compounds and not args.tokenized:
        raise UserError("--split-compounds needs --tokenized LANG")
    if (args.comet is None) != (args.sources is None):
        raise UserError("--comet and --sources need each other")

    hypotheses, references = read_hypotheses(args.generated), read_lines(args.references)
    result: dict[str, Any] = {**score(hypotheses, references, args.target_lang)}
    if args.tokenized:
        result |= score_tokenized(hypotheses, references, args.tokenized, args.split_compounds)
    if args.comet:
        result |= score_comet(hypotheses, references, read_lines(args.sources), args.comet)
    if args.against:
        against = compare(hypotheses, read_hypotheses(args.against), references, args.target_lang)
        result["against"] = {"file": str(args.against), **against}
    print(json.dumps(result, indent=2), flush=True)
    if warning := other_form(hypotheses, references, args.target_lang):
        print(f"score: {warning}", file=sys.stderr)


if __name__ == "__main__":
    main()
