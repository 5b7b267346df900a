"""Formats of files to translate: each a generator of records, which say what to translate and how to write it.

Another format is another generator, and its place in ``records_of``.
"""

import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from unicodedata import east_asian_width

from resmlp_core.common.errors import UserError
from resmlp_mt.data.csv_cells import unquoted
from resmlp_mt.text import one_line

TIME = re.compile(r"\s*\d+:\d\d:\d\d[,.]\d+\s*-->\s*\d+:\d\d:\d\d[,.]\d+")  # a subtitle's second line
TAGS = r"(?:<[^<>]*>|\{\\[^{}]*\})"  # of fonts, and of places on the screen
NO_CSV = "{}: columns between commas are not read; write it as TSV"
NO_ROWS = "{}: --nbest, --scores and --alignments are for lines of text, not for subtitles"
AROUND = rf"(?:{TAGS}|\s)*"
TAGGED = re.compile(rf"(?P<before>(?:{TAGS}|\s|[-–—])*)(?P<text>.*?)(?P<after>{AROUND})", re.DOTALL)


@dataclass(frozen=True)
class Record:
    """A part of a file that is read, translated and written as a whole: a line, a paragraph, a subtitle.

    Attributes:
        source: its lines as they were read.
        texts: what to translate in it; may be nothing.
        write: makes of the texts' translations what is written, with its line ends.
    """

    source: str
    texts: list[str]
    write: Callable[[list[str]], str]

    @property
    def lines(self) -> int:
        """How many lines were read."""
        return self.source.count("\n") + 1


def copied(line: str) -> Record:
    """A line without anything to translate."""
    return Record(line, [], lambda _: f"{line}\n")


def records_of(
    name: str,
    lines: Iterable[str],
    column: str | None = None,
    field: str | None = None,
    text: Callable[[Iterable[str]], Iterator[Record]] | None = None,
    detailed: bool = False,
) -> Iterator[Record]:
    """Read a file in the format that the options name, or that its suffix or its first lines show.

    Args:
        name: of the file, for its suffix and for messages.
        lines: without their ends.
        column: to translate in a table of columns between tabs: its number from 1, or its name in the first line.
        field: to translate in lines that are JSON objects.
        text: reads text that is none of these; a record a line when None.
        detailed: more than a translation is to be written for each line, which only lines of plain text allow.

    Raises:
        UserError: a line is not what the format asks for, or the format does not tell what to translate.
    """
    if column is not None:
        return table(name, lines, column)
    if field is not None:
        return json_lines(name, lines, field)
    lines = iter(lines)
    beginning = []
    for line in lines:
        beginning.append(line)
        if line.strip() and not line.strip().isdecimal():  # no more is read than tells: a program may wait
            break
    refuse_format(name, column, field, detailed)
    if suffix_of(name) == ".srt" or (beginning and TIME.match(beginning[-1])):
        if detailed:
            raise UserError(NO_ROWS.format(name))
        return subtitles(chain(beginning, lines))
    lines = chain(beginning, lines)
    return text(lines) if text else map(plain, lines)


def refuse_format(name: str, column: str | None, field: str | None, detailed: bool) -> None:
    """Refuse a file whose suffix tells that the options do not suit it; the arguments are those of ``records_of``.

    Raises:
        UserError: it is a table or JSON lines without what to translate in them, subtitles, or what is not read.
    """
    if column is None and field is None:
        if option := {".tsv": "--column", ".jsonl": "--field", ".json": "--field"}.get(suffix_of(name)):
            raise UserError(f"{name}: name what to translate in it by {option}")
        if suffix_of(name) == ".csv":
            raise UserError(NO_CSV.format(name))
        if detailed and suffix_of(name) == ".srt":
            raise UserError(NO_ROWS.format(name))
        if suffix_of(name) == ".vtt":
            raise UserError(f"{name}: WebVTT is not read; write it as SubRip, as ffmpeg -i FILE.vtt FILE.srt does")


def suffix_of(name: str) -> str:
    """The suffix that tells a file's format, beneath that of gzip."""
    return Path(name.lower().removesuffix(".gz")).suffix


def plain(line: str) -> Record:
    """A line of text: a translation in one line."""
    return Record(line, [line], lambda translations: f"{translations[0]}\n")


def table(name: str, lines: Iterable[str], column: str) -> Iterator[Record]:
    """Columns between tabs, of which one is replaced by its translation; blank lines stay."""
    place = int(column) - 1 if column.isdecimal() else None
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")
        if number == len(cells) == 1 and suffix_of(name) == ".csv":
            raise UserError(NO_CSV.format(name))
        if place is None:
            if column not in cells:
                raise UserError(f"{name}: its first line has no --column {column}, but {', '.join(cells)}")
            place = cells.index(column)
            yield copied(line)
        elif not line.strip():
            yield copied(line)
        elif not 0 <= place < len(cells):
            raise UserError(f"{name}, line {number}: {len(cells)} columns, and no --column {column}")
        else:
            yield Record(line, [unquoted(cells[place])], _in_cell(cells, place))


def _in_cell(cells: list[str], place: int) -> Callable[[list[str]], str]:
    def write(found: list[str]) -> str:
        text = " ".join(found[0].split())
        if unquoted(cells[place]) != cells[place]:
            text = '"' + text.replace('"', '""') + '"'
        return "\t".join([*cells[:place], text, *cells[place + 1 :]]) + "\n"

    return write


def json_lines(name: str, lines: Iterable[str], field: str) -> Iterator[Record]:
    """A JSON object a line, of which a field is replaced by its translation; one that is null or absent stays so."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            yield copied(line)
            continue
        if number == 1 and line.lstrip().startswith("["):
            raise UserError(f"{name} is a JSON array, where an object a line is read: jq -c '.[]' makes that of it")
        try:
            row = json.loads(line, parse_float=finite)
            text = row.get(field)
        except OverflowError as error:
            raise UserError(f"{name}, line {number}: {error}") from None
        except (ValueError, AttributeError, RecursionError):
            raise UserError(f"{name}, line {number}: no JSON object") from None
        if text is None:
            if number == 1 and field not in row:
                raise UserError(f"{name}: its first object has no --field {field}, but {', '.join(row)}")
            yield copied(line)
        elif not isinstance(text, str):
            raise UserError(f"{name}, line {number}: --field {field} is no text")
        else:
            text = text.encode("utf-8", "replace").decode()  # JSON can spell half a surrogate pair
            yield Record(line, [text], _in_field(row, field))


def finite(text: str) -> float:
    """Read a number of JSON's.

    Raises:
        OverflowError: it is larger than a float can be: Python would write Infinity, which is no JSON.
    """
    value = float(text)
    if math.isinf(value):
        raise OverflowError(f"the number {text} is too large to be written again")
    return value


def _in_field(row: dict[str, object], field: str) -> Callable[[list[str]], str]:
    def write(found: list[str]) -> str:
        text = json.dumps({**row, field: found[0]}, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode() + "\n"

    return write


def subtitles(lines: Iterable[str]) -> Iterator[Record]:
    """SubRip: the text of each subtitle in as many lines as it has; numbers, times and blank lines stay.

    Lines that begin with a dash are what different people say, each translated by itself. Tags around a text are kept;
    those within it are left out, and what belongs to them.
    """
    shown: list[str] = []
    for line, following in pairwise(chain(lines, [""])):
        is_number = line.strip().isdecimal() and TIME.match(following)
        if line.strip() and not is_number and not TIME.match(line):
            shown.append(line)
            continue
        if shown:
            yield _subtitle(shown)
            shown = []
        yield copied(line)
    if shown:
        yield _subtitle(shown)


def _subtitle(shown: list[str]) -> Record:
    speakers: list[list[str]] = []
    for line in shown:
        if speakers and not re.match(rf"{AROUND}[-–—]", line):
            speakers[-1].append(line)
        else:
            speakers.append([line])
    parts = [_untagged("\n".join(lines)) for lines in speakers]

    def write(found: list[str]) -> str:
        texts = [
            f"{before}{broken(text, len(lines))}{after}"
            for (before, _, after), text, lines in zip(parts, found, speakers, strict=True)
        ]
        rows = "\n".join(texts).split("\n")
        spoken = [row for row in rows if row.strip()]  # a blank line in the middle would end the subtitle
        return "\n".join([*spoken, *[""] * (len(rows) - len(spoken))]) + "\n"

    return Record("\n".join(shown), [text for _, text, _ in parts], write)


def _untagged(text: str) -> tuple[str, str, str]:
    """Part a text from the tags and dashes around it; where tags are within it, those that open or close go too."""
    found = TAGGED.fullmatch(text)
    assert found  # whatever it is
    before, within, after = found["before"], found["text"], found["after"]
    if re.search(TAGS, within):
        before, after = (re.sub(r"<[^<>]*>", "", tags) for tags in (before, after))
    return before, one_line(re.sub(TAGS, "", within)), after


def broken(text: str, lines: int) -> str:
    """Break a text into so many lines, as even as its words allow; the last are empty where it has too few words."""
    width = math.ceil(len(text) / lines) or 1
    cut = any(east_asian_width(character) == "W" for character in text)  # a line of Chinese ends anywhere
    while len(found := textwrap.wrap(text, width, break_long_words=cut, break_on_hyphens=False)) > lines:
        width += 1
    return "\n".join([*found, *[""] * (lines - len(found))])
