"""A sentence longer than A, in pieces that fit: split at punctuation marks, else between words, else within one."""

import re
from collections.abc import Callable

# After a mark that ends a clause: with a space behind it where the script writes spaces.
CLAUSE = re.compile(r"[.!?,;:…–—)\]»”\"](?=\s)|[。！？，、；：」』）]")
WORD = re.compile(r"\s")


def split_long(text: str, length: Callable[[str], int], limit: int) -> list[str]:
    """Split a text into pieces of at most ``limit`` tokens, none of which is lost.

    It is halved, and each half again while it is too long: at the mark of a clause that is nearest to the middle, if
    one lies in the middle half of it, else at such a space, else in the middle.

    Args:
        text: one line.
        length: counts the tokens of a text, its end included.
        limit: rows of A; at least two, a token and the end.

    Returns:
        The pieces, which in order are the text but for white space between them; the text itself if it fits.
    """
    if length(text) <= limit or len(text) < 2:
        return [text]
    middle = len(text) // 2
    near = range(len(text) // 4, len(text) - len(text) // 4)
    for mark in (CLAUSE, WORD):
        places = [found.end() for found in mark.finditer(text) if found.end() in near]
        if places:
            middle = min(places, key=lambda place: abs(place - len(text) // 2))
            break
    halves = text[:middle].strip(), text[middle:].strip()
    return [piece for half in halves if half for piece in split_long(half, length, limit)]
