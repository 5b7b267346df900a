"""Text to token ids and back: sentencepiece's pieces, numbered by fairseq's dictionaries."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from resmlp_core.common.errors import UserError
from resmlp_mt.text import has_text, one_line

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # fairseq's first four entries, which no dictionary's file has
BOS, PAD, EOS, UNK = range(len(SPECIAL))
SPACE = "▁"  # sentencepiece's mark of a space


def read_symbols(path: Path) -> list[str]:
    """Read a dictionary of fairseq's: its symbols by their ids.

    Raises:
        UserError: a line is not a symbol with its count.
    """
    symbols = list(SPECIAL)
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        symbol, _, count = line.rstrip().removesuffix(" #fairseq:overwrite").rpartition(" ")
        if count.isdecimal() and symbol:
            symbols.append(symbol)
        elif line.strip():
            raise UserError(f"{path}, line {number}: not a symbol and its count, as fairseq's dictionaries have them")
    return symbols


class Vocabulary:
    """A sentencepiece model and the numbers that its pieces have in the source's and the target's dictionary.

    Args:
        model: the sentencepiece model's file, as bytes.
        source: the source dictionary's symbols by their ids, fairseq's four special ones first.
        target: those of the target.

    Raises:
        UserError: it is no sentencepiece model, or one of another vocabulary than the source's dictionary.
    """

    def __init__(self, model: bytes, source: Sequence[str], target: Sequence[str]) -> None:
        self.model = model
        self.source, self.target = list(source), list(target)
        self._ids = {symbol: i for i, symbol in enumerate(self.source)}
        self._target_ids = {symbol: i for i, symbol in enumerate(self.target)}
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise UserError("the sentencepiece model is not one that sentencepiece reads") from None
        pieces = [self._processor.id_to_piece(i) for i in range(len(self._processor))]
        if 2 * sum(piece in self._ids for piece in pieces) < len(self._ids):
            raise UserError("the sentencepiece model is of another vocabulary than the dictionaries")

    @property
    def digest(self) -> str:
        """What tells this vocabulary from any other."""
        return hashlib.sha256(self.model + repr((self.source, self.target)).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the source's ids of a text, its end last; of one without visible text the end only."""
        return [*self._number(text, self._ids), EOS]

    def encode_prefix(self, text: str) -> list[int]:
        """Return the target's ids of a text, without an end."""
        return self._number(text, self._target_ids)

    def _number(self, text: str, ids: dict[str, int]) -> list[int]:
        return [ids.get(piece, UNK) for piece in self.pieces(text)]

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a text; half a surrogate pair, which sentencepiece does not take, is a question mark."""
        if not has_text(text):
            return []
        line = one_line(text).encode("utf-8", "replace").decode()
        found: list[str] = self._processor.encode(line, out_type=str)
        return found

    def target_ids(self, pieces: Iterable[str]) -> list[int]:
        """Return the target's ids of a translation's pieces, its end last."""
        return [*(self._target_ids.get(piece, UNK) for piece in pieces), EOS]

    def target_pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the pieces of the target's ids, without begin and end."""
        return [self.target[i] for i in ids if i not in (BOS, EOS)]


def text_of(pieces: Iterable[str]) -> str:
    """Join pieces to a text, as fairseq does with ``--remove-bpe sentencepiece``."""
    return "".join(pieces).replace(" ", "").replace(SPACE, " ").strip()


def words_of(pieces: Iterable[str]) -> list[int]:
    """Number the words that pieces belong to, for each piece the word in which it ends."""
    words, word, within = [], -1, False
    for piece in pieces:
        for character in piece:
            begins = character != SPACE and not within
            within = character != SPACE
            word += begins
        words.append(max(word, 0))
    return words
