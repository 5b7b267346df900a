"""What a text is to a model: one line, which may have nothing in it that can be seen, in a vocabulary's symbols."""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence

# Scripts without spaces between words or sentences, as Unicode names their characters and punctuation.
UNSPACED = ("CJK", "IDEOGRAPHIC", "FULLWIDTH", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # Unicode's controls, marks of format such as U+200B, and white space


def one_line(text: str) -> str:
    """The text without white space around it and with a space for each line break within it, of any kind.

    A byte order mark, which files that were joined have within them too, is white space.
    """
    return " ".join(text.replace("\ufeff", " ").splitlines()).strip()


def has_text(text: str) -> bool:
    """Whether a text has anything that can be seen, and so translated."""
    return any(unicodedata.category(character) not in INVISIBLE for character in text)


def space_between(texts: Iterable[str]) -> str:
    """What stands between texts that follow each other: a space, or nothing where their script writes none.

    Nothing stands between texts that have more characters of such scripts than spaces, so that a foreign name or a
    quotation in them does not decide.
    """
    text = "".join(texts)
    return "" if sum(unicodedata.name(one, "").startswith(UNSPACED) for one in text) > text.count(" ") else " "


def vocabulary_digest(symbols: Sequence[str]) -> list[float]:
    """The SHA-256 of a dictionary's symbols, in order, as numbers that half precision holds, as weights."""
    return [float(byte) for byte in hashlib.sha256("\n".join(symbols).encode()).digest()]
