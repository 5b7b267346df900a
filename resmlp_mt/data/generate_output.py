"""The hypotheses in what fairseq-generate printed."""

import re
from pathlib import Path

from resmlp_core.common.errors import UserError
from resmlp_mt.data.text_lines import lines_of


def best_hypotheses(path: Path) -> dict[int, str]:
    """Read the best detokenised hypothesis of each sentence from fairseq-generate's output, by number in the corpus.

    Raises:
        UserError: the hypotheses are in pieces, or a sentence is there again after others.
    """
    best: dict[int, str] = {}
    newest = None
    for line in lines_of(path):
        if match := re.match(r"D-(\d+)\t[^\t]*\t(.*)", line):
            if int(match[1]) in best and newest != match[1]:
                raise UserError(
                    f"{path} has sentence {match[1]} twice: it is of several outputs, of the same sentences"
                )
            best.setdefault(int(match[1]), match[2])  # with --nbest the first is the best
            newest = match[1]
    if any("▁" in text for text in best.values()):
        raise UserError(f"{path} holds pieces, not words: give fairseq-generate --remove-bpe sentencepiece")
    return best


def read_hypotheses(path: Path) -> list[str]:
    """Read the best detokenised hypotheses from fairseq-generate's output, in the corpus's order.

    Raises:
        UserError: the file holds no hypotheses, or some sentence has none, or they are in pieces.
    """
    best = best_hypotheses(path)
    if not best:
        plain = f"sacrebleu REFERENCES -i {path} scores plain text"
        raise UserError(f"{path} has none of fairseq-generate's D- lines: {plain}")
    if missing := set(range(max(best))) - best.keys():
        why = "fairseq-generate has not ended, or left out what is longer than the model"
        raise UserError(f"{path} lacks sentence {min(missing)}: {why}")
    return [best[i] for i in range(len(best))]
