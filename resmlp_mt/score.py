"""BLEU of fairseq-generate's output: ``python -m resmlp_mt.score GENERATED --references FILE``."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from sacrebleu.metrics.bleu import BLEU

from resmlp_core.files import UserError, reporting


def read_hypotheses(path: Path) -> list[str]:
    """Read the best detokenised hypothesis of each sentence from fairseq-generate's output, in the corpus's order.

    Raises:
        UserError: the file holds no hypotheses, or some sentence has none, or they are in pieces.
    """
    best: dict[int, str] = {}
    for line in read_lines(path):
        if match := re.match(r"D-(\d+)\t[^\t]*\t(.*)", line):
            best.setdefault(int(match[1]), match[2])  # with --nbest the first is the best
    if not best or set(best) != set(range(len(best))):
        raise UserError(f"{path} is not a whole output of fairseq-generate: {len(best)} sentences have a D- line")
    if any("▁" in text for text in best.values()):
        raise UserError(f"{path} holds pieces, not words: give fairseq-generate --remove-bpe sentencepiece")
    return [best[i] for i in range(len(best))]


def score(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float | str]:
    """Score detokenised hypotheses against raw references, one for each.

    Returns:
        ``bleu``, sacreBLEU's with its ``signature``, and ``bleu_lowercase``, the same on lower-cased text, which is
        near the "tokenised, lower-cased BLEU" that papers report on Multi30k, with its own signature.

    Raises:
        UserError: the numbers of hypotheses and references differ.
    """
    if len(hypotheses) != len(references):
        raise UserError(f"{len(hypotheses)} hypotheses but {len(references)} references")
    cased, lowercase = BLEU(), BLEU(lowercase=True)
    result: dict[str, float | str] = {
        "bleu": cased.corpus_score(hypotheses, [references]).score,
        "bleu_lowercase": lowercase.corpus_score(hypotheses, [references]).score,
    }
    result["signature"] = str(cased.get_signature())
    result["signature_lowercase"] = str(lowercase.get_signature())
    return result


def read_lines(path: Path) -> list[str]:
    """Read a text file, one sentence a line.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8") from None


@reporting("score")
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m resmlp_mt.score", description="BLEU of fairseq-generate's output.")
    parser.add_argument("generated", type=Path, help="what fairseq-generate printed")
    parser.add_argument("--references", required=True, type=Path, metavar="FILE", help="raw text, a sentence a line")
    args = parser.parse_args()
    print(json.dumps(score(read_hypotheses(args.generated), read_lines(args.references)), indent=2))


if __name__ == "__main__":
    main()
