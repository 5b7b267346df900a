"""How sentencepiece normalises characters before it parts a text into pieces."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from typing import Any

import sentencepiece

# sentencepiece's NFKC, its default, or none. Both make a space of any white space: fairseq separates pieces by white
# space, and would split a piece that had some.
NORMALIZATIONS = ("nmt_nfkc", "identity")


def normalizer(normalization: str) -> Callable[[str], str]:
    """Return a function that normalises a text as the model's sentencepiece will, by one of ``NORMALIZATIONS``."""
    normalize = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc", escape_whitespaces=False).normalize

    def seen(text: str) -> str:
        if normalization == "identity" or (text.isascii() and text.isprintable()):  # sentencepiece is slower by far
            return " ".join(text.replace("▁", " ").split())  # its own sign for white space
        return normalize(text).strip()

    return seen


@contextmanager
def normalization_option(name: str) -> Iterator[dict[str, Any]]:
    """Yield the option of sentencepiece's trainer for one of ``NORMALIZATIONS``."""
    if name != "identity":
        yield {"normalization_rule_name": name}
        return
    with NamedTemporaryFile("w", suffix=".tsv") as rules:  # code points: those replaced, and by which
        rules.writelines(f"{i:X}\t20\n" for i in range(sys.maxunicode + 1) if chr(i).isspace() and chr(i) != " ")
        rules.flush()
        yield {"normalization_rule_tsv": rules.name}
