"""Documents: paragraphs that are translated sentence by sentence, and joined as they stood."""

import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice, pairwise

from resmlp_core.common.errors import UserError
from resmlp_mt.text import space_between
from resmlp_mt.translation.formats import Record, copied, plain
from resmlp_mt.translation.input_text import as_they_come

WIDTHS = range(40, 121)  # characters of lines that were wrapped: shorter ones are a list, longer ones paragraphs
LOOK = 1000  # lines by which to tell whether a file's lines are wrapped
PATIENCE = 1.0  # seconds to wait for each of them


def sentences_of(text: str, language: str) -> list[str]:
    """Split a text into sentences, which joined are the text; white space stands after a sentence.

    Args:
        text: a line.
        language: its ISO code, or such as ``pt_BR``; an unknown language gets the rules of English.

    Raises:
        UserError: the package that splits is not installed.
    """
    try:
        import sentencex
    except ImportError:
        raise UserError("--document needs the package sentencex: pip install 'resmlp[mt]', or sentencex") from None
    # sentencex fails at some kinds of white space, such as a no-break space after a capital
    ends = [0]
    for sentence in sentencex.segment(language.lower().partition("_")[0], re.sub(r"\s", " ", text)):
        ends.append(ends[-1] + len(sentence))
    return [text[start:end] for start, end in pairwise(ends)]


def by_sentence(record: Record, language: str) -> Record:
    """The record with its texts in sentences, whose translations are joined again.

    Args:
        record: each of its texts may have several lines.
        language: of its texts.
    """
    texts = [_Text(text, language) for text in record.texts]

    def write(translations: list[str]) -> str:
        rest = iter(translations)
        return record.write([text.join(list(islice(rest, len(text.sentences)))) for text in texts])

    return Record(record.source, [sentence for text in texts for sentence in text.sentences], write)


class _Text:
    """A text in sentences, with the white space before, between and after them."""

    def __init__(self, text: str, language: str) -> None:
        lines = re.split(r"(\n)", text)
        parts = [part for line in lines for part in (sentences_of(line, language) if line.strip() else [line])]
        self.sentences = [part.strip() for part in parts if part.strip()]
        self.spaces = [""]
        for part in parts:
            self.spaces[-1] += part[: len(part) - len(part.lstrip())]
            if part.strip():
                self.spaces.append(part[len(part.rstrip()) :])

    def join(self, translations: list[str]) -> str:
        """Put the translations where the sentences were, with spaces between them if their script writes them."""
        usual = space_between(translations)
        spaces = list(self.spaces)
        spaces[1:-1] = [space if "\n" in space else usual and (space or usual) for space in spaces[1:-1]]
        return spaces[0] + "".join(map("".join, zip(translations, spaces[1:], strict=True)))


def paragraphs(lines: Iterable[str]) -> Iterator[Record]:
    """Lines as paragraphs, of which one that was wrapped over several lines comes out as one; blank lines stay.

    A file is taken to be wrapped when most of its lines end where the next one's first word had no room. Where a
    program writes some lines and waits for their translation, those lines decide.
    """
    chunks = as_they_come(lines, LOOK, PATIENCE)
    beginning = next(chunks, [])
    width = wrapped_at(beginning)
    lines = chain(beginning, chain.from_iterable(chunks))
    if width is None:
        yield from (plain(line) if line.strip() else copied(line) for line in lines)
        return
    paragraph: list[str] = []
    for line, following in pairwise(chain(lines, [""])):
        if not line.strip():
            yield copied(line)
            continue
        paragraph.append(line)
        if not _goes_on(line, following, width):
            record = plain(" ".join([paragraph[0].rstrip(), *map(str.strip, paragraph[1:])]))
            yield Record("\n".join(paragraph), record.texts, record.write)
            paragraph = []


def wrapped_at(lines: list[str]) -> int | None:
    """The width at which lines were wrapped; None if they were not."""
    lengths = sorted(len(line) for line in lines if line.strip())
    if not lengths:
        return None
    width = lengths[math.ceil(0.95 * len(lengths)) - 1]  # of many lines not the longest, which may be an address
    breaks = [pair for pair in pairwise(lines) if all(map(str.strip, pair))]
    full = sum(_goes_on(*pair, width) for pair in breaks)
    return width if width in WIDTHS and 3 * full > 2 * len(breaks) else None


def _goes_on(line: str, following: str, width: int) -> bool:
    """Whether the next line's first word had no room in this one; a line that is indented begins a paragraph."""
    word = following.split(maxsplit=1)[0] if following.strip() else ""
    return bool(word) and not following[0].isspace() and len(line.rstrip()) + 1 + len(word) > width
