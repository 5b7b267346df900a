"""Which training pairs to leave out of a parallel corpus: each rule is a switch, and each keeps a count.

A rule looks at a text as the model will see it, normalised by sentencepiece; that on encodings, as it was read.
"""

import hashlib
import math
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resmlp_core.common.errors import UserError
from resmlp_mt.text import has_text

PARTS = 16  # duplicates are looked for in a sixteenth of the pairs at a time, so that memory stays small
SEEN = np.dtype([("digest", np.uint64), ("pair", np.uint64)])
# Replacement characters, controls other than the tab, and code points that Unicode keeps for no one.
UNREADABLE = re.compile("[\ufffd\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# What letters look like whose UTF-8 was read as Windows-1252. But a word in capitals may end in one of these before a
# quotation mark or a dash. Ã is not among them, though Portuguese words end in it: most mangled letters begin with it.
CLOSED_CAPITAL = "(?<![a-z\xdf-\xff])[ÄÅÆÇÈ][«»‘’“”–—](?![A-Za-z\xc0-\xff])"
FOLLOWING = "[\x80-\xbf\u0152-\u2122]"
MANGLED = re.compile(f"(?!{CLOSED_CAPITAL})(?:[\xc2-\xdf]{FOLLOWING}|[\xe0-\xef]{FOLLOWING}{{2}})")
EUROPEAN = re.compile("[\xa0-\u024f\u2010-\u2044\u20ac\u2122]")  # what comes out where they indeed are


@dataclass
class Rules:
    """What a training pair must satisfy. A pair with an empty side is always left out.

    Args:
        max_words: the most words, between white space, of either side.
        max_chars: the most characters of either side: a text without white space is a single word.
        max_ratio: the most words of the longer side for each word of the shorter side.
        drop_identical: leave out a pair whose sides are equal, capitals aside: a line copied, not translated.
        drop_bad_encoding: leave out what has been decoded wrongly: U+FFFD, control characters, UTF-8 read as
            Windows-1252.
        drop_duplicates: leave out a pair that an earlier one equals.

    Raises:
        UserError: for a limit that is no number, or that no pair could satisfy.
    """

    max_words: int | None = None
    max_chars: int | None = None
    max_ratio: float | None = None
    drop_identical: bool = False
    drop_bad_encoding: bool = False
    drop_duplicates: bool = False

    def __post_init__(self) -> None:
        for key, limit in (("max_words", self.max_words), ("max_chars", self.max_chars)):
            if limit is not None and not (type(limit) is int and limit >= 1):
                raise UserError(f"{key}={limit} must be a positive integer")
        ratio = self.max_ratio
        if ratio is not None and not (type(ratio) in (int, float) and 1 <= ratio < math.inf):
            raise UserError(f"max_ratio={ratio} must be a number of at least 1")

    def broken_by(self, pair: tuple[str, str], seen: tuple[str, str]) -> str | None:
        """Name the first rule that a pair breaks, duplicates aside; None if it breaks none.

        Args:
            pair: source and target as they were read, which tell how they were encoded.
            seen: the same as the model will see them, for all other rules.
        """
        source, target = seen
        if not (has_text(source) and has_text(target)):
            return "empty"
        if self.drop_bad_encoding and any(map(badly_encoded, pair)):
            return "bad_encoding"
        if self.drop_identical and source.casefold() == target.casefold():
            return "identical"
        if self.max_chars and max(len(source), len(target)) > self.max_chars:
            return "max_chars"
        if self.max_words or self.max_ratio:
            shorter, longer = sorted((len(source.split()), len(target.split())))
            if self.max_words and longer > self.max_words:
                return "max_words"
            if self.max_ratio and longer > self.max_ratio * shorter:
                return "max_ratio"
        return None


def badly_encoded(text: str) -> bool:
    """Whether a text has been decoded wrongly somewhere on its way."""
    if text.isascii():
        return bool(UNREADABLE.search(text))
    if UNREADABLE.search(text):
        return True
    return any(is_mangled(found[0]) for found in MANGLED.finditer(text))


def is_mangled(text: str) -> bool:
    """Whether a text is a letter or sign of European languages in UTF-8 that was read as Windows-1252, as "Ã¤" is."""
    try:
        return EUROPEAN.fullmatch(text.encode("cp1252").decode("utf-8")) is not None
    except UnicodeError:
        return False


class Duplicates:
    """Finds the pairs that equal an earlier one, by digests of 64 bits kept on disk.

    Args:
        folder: where to keep the digests, 16 bytes a pair.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / f"digests-{part}" for part in range(PARTS)]
        self._stack = ExitStack()
        self._files = [self._stack.enter_context(path.open("wb")) for path in self.paths]
        self._pairs = 0

    def add(self, source: str, target: str) -> None:
        """Take note of the next pair."""
        digest = hashlib.blake2b(f"{source}\n{target}".encode(), digest_size=8).digest()
        self._files[digest[0] % PARTS].write(digest + self._pairs.to_bytes(8, "little"))
        self._pairs += 1

    def find(self) -> NDArray[np.bool_]:
        """Return for each pair, in the order they were added, whether it equals an earlier one."""
        self._stack.close()
        again = np.zeros(self._pairs, dtype=bool)
        for path in self.paths:
            seen = np.fromfile(path, SEEN)
            order = np.argsort(seen["digest"], kind="stable")
            digests = seen["digest"][order]
            again[seen["pair"][order][1:][digests[1:] == digests[:-1]]] = True
        return again
