"""Parallel sentences, streamed from text, TSV, CSV, JSON lines or parquet files, or from the Hugging Face hub."""

import csv
import gzip
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from resmlp_core.common.errors import UserError
from resmlp_core.common.files import digest
from resmlp_mt.text import one_line

SPLITS = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}  # and what files may call them
GZIP_RATIO = 4  # text is seldom compressed further
LOOK = 1 << 16  # bytes of a file by which to tell how its lines end
TEXT_ENDS = ("", ".txt", ".gz", ".txt.gz")
LINES_OF_PAIRS = {"tsv": "\t", "csv": ",;\t", "jsonl": "", "json": ""}  # the kinds, and what may part their columns
OTHERS_NAMES = {"train": ("training",), "valid": ("dev", "val", "development", "eval"), "test": ("tst", "testing")}
NOT_TEXT = {"", "parquet", "gz", "txt", "bz2", "xz", "zst", "zip", "xlsx", "xls", "arrow", "tmx", "xml", "sgm", "md"}


def read_pairs(
    data: str | Path, source_lang: str, target_lang: str, split: str, mend_encoding: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield the sentence pairs of one split, in order, never holding more than a batch of them.

    A sentence comes without white space around it; a line break within it is a space. It may be empty.

    Args:
        data: a folder with files of one of these kinds, directly or in a sub-folder ``en-de`` or ``de-en``; otherwise
            the name of a data set on the hub, ``owner/name`` or ``owner/name:config``.

            - ``{split}.{language}``, also ``{split}.{language}.txt``: text, a sentence a line;
            - ``{split}.tsv``: a header line that names the languages, then a pair a line, quoted as a writer of CSV
              does or not at all;
            - ``{split}.csv``: the same with commas or semicolons;
            - ``{split}.jsonl`` or ``.json``: an object a line, with a text for each language, or with those in
              ``translation``;
            - ``{split}.parquet``, or its shards as on the hub, ``{split}-00000-of-00003.parquet``: a text column for
              each language, or a column ``translation``, a struct of those. The hub's data sets are alike.

            Any but parquet may end in ``.gz``.
        source_lang: the language of the first of each pair, as the files, fields or columns call it.
        target_lang: the language of the second.
        split: train, valid or test; ``valid`` is also found under the name ``validation``.
        mend_encoding: read U+FFFD for what is not UTF-8, in place of the error.

    Raises:
        UserError: what is missing, empty, of unequal length, not UTF-8 or not reachable, and where.
    """
    errors = "replace" if mend_encoding else "strict"
    root = _folder(data, source_lang, target_lang)
    if root is None:
        batches = _hub_batches(str(data), source_lang, target_lang, split)
        return (yield from _columns(batches, source_lang, target_lang, str(data), errors))
    files = _files(root, source_lang, target_lang, split)
    kind = _kind(files[0])
    if kind == "parquet":
        yield from _columns(_parquet(files), source_lang, target_lang, str(files[0]), errors)
    elif kind in ("tsv", "csv"):
        yield from _table(files[0], source_lang, target_lang, errors)
    elif kind in ("jsonl", "json"):
        yield from _jsonl(files[0], source_lang, target_lang, errors)
    else:
        yield from _texts(files[0], files[1], errors)


def count_pairs(data: str | Path, source_lang: str, target_lang: str, split: str) -> int | None:
    """Return about how many pairs ``read_pairs`` will yield, for a progress bar; None where only reading would tell."""
    root = _folder(data, source_lang, target_lang)
    if root is None:
        stream = _hub_stream(str(data), source_lang, target_lang, split)
        known = (stream.info.splits or {}).get(str(stream.split))
        return known.num_examples if known else None
    files = _files(root, source_lang, target_lang, split)
    path = files[0]
    if _kind(path) == "parquet":
        return sum(_metadata(path).num_rows for path in files)
    if path.suffix == ".gz":
        return None
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    return lines - (_kind(path) in ("tsv", "csv"))


def count_bytes(data: str | Path, source_lang: str, target_lang: str) -> int | None:
    """Return about how many bytes of text all splits hold; None for a data set on the hub that does not say.

    Raises:
        UserError: a split is missing.
    """
    root = _folder(data, source_lang, target_lang)
    if root is None:
        return _hub_stream(str(data), source_lang, target_lang, "train").info.dataset_size
    return sum(_text_bytes(path) for split in SPLITS for path in _files(root, source_lang, target_lang, split))


def fingerprint(data: str | Path, source_lang: str, target_lang: str) -> str | None:
    """Digest all files that ``read_pairs`` would read (SHA-256); None for a data set on the hub.

    Raises:
        UserError: a split is missing.
    """
    root = _folder(data, source_lang, target_lang)
    if root is None:
        return None
    return digest([path for split in SPLITS for path in _files(root, source_lang, target_lang, split)])


def _folder(data: str | Path, source: str, target: str) -> Path | None:
    """Find the folder that holds the splits' files; None when ``data`` names a data set on the hub."""
    if source == target:
        raise UserError(f"--source-lang and --target-lang are both {source!r}")
    root = Path(data)
    if root.is_dir():
        pairs = [root / f"{source}-{target}", root / f"{target}-{source}"]
        # what a recipe or prepare writes may bear that name too, and lie in the same folder
        return next((pair for pair in pairs if any(_split_files(pair))), root)
    if root.exists() or root.is_absolute() or str(data).startswith("."):
        raise UserError(f"--data {data}: there is no such folder")
    return None


def _split_files(folder: Path) -> Iterator[Path]:
    """Yield the files of any split."""
    return (file for names in SPLITS.values() for name in names for file in folder.glob(f"{name}[.-]*"))


def _files(folder: Path, source: str, target: str, split: str) -> list[Path]:
    """List a split's files: its two texts, or its parquet shards."""
    for name in SPLITS[split]:
        texts = [_text_file(folder, name, language) for language in (source, target)]
        if texts[0] and texts[1]:
            return [texts[0], texts[1]]
        for end in ("", ".gz"):
            for kind in LINES_OF_PAIRS:
                if (file := folder / f"{name}.{kind}{end}").exists():
                    return [file]
        if shards := _shards(folder, name):
            return shards
    raise UserError(_why_nothing(folder, source, target, split))


def _text_file(folder: Path, name: str, language: str) -> Path | None:
    paths = (folder / f"{name}.{language}{end}" for end in TEXT_ENDS)
    return next((path for path in paths if path.exists()), None)


def _why_nothing(folder: Path, source: str, target: str, split: str) -> str:
    """Say why no file of the split was found: the languages are others, or the split is missing or is called so."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    stems = {file: file.removesuffix(".gz").removesuffix(".txt").rpartition(".") for file in files}
    names = {name for names in SPLITS.values() for name in names}
    texts = {language for stem, _, language in stems.values() if stem in names} - NOT_TEXT - LINES_OF_PAIRS.keys()
    if texts and not {source, target} <= texts:
        return f"{folder}: there is no pair {source}-{target}; the languages there are {', '.join(sorted(texts))}"
    pairs = sorted(path.name for path in folder.iterdir() if path.is_dir() and "-" in path.name)
    if pairs and not files:
        return f"{folder}: there is no pair {source}-{target}; the pairs there are {', '.join(pairs)}"
    name = SPLITS[split][0]
    for here, other in ((source, target), (target, source)):
        if found := _text_file(folder, name, here):
            return f"{folder / name}.{other} is missing beside {found.name}"
    return (
        f"{folder}: the split {split!r} is missing: bring {name}.{source} and {name}.{target} (also .txt or .gz), "
        f"{name}.tsv, .csv or .jsonl, or {SPLITS[split][-1]}.parquet{_what_is_there(files, split)}"
    )


def _what_is_there(files: list[str], split: str) -> str:
    """Name the files that may be meant for a split, and what to do with them; else some of all files."""
    name = SPLITS[split][0]
    first = {file: re.split(r"[._-]", file.lower())[0] for file in files}
    if near := [file for file in files if first[file] in OTHERS_NAMES[split]]:
        renamed = ", ".join(name + file[len(first[file]) :] for file in near)
        return f"; {', '.join(near)} may be it: call that {renamed}"
    if near := [file for file in files if first[file] in SPLITS[split]]:
        return f"; {', '.join(near)} is not read"
    return f"; there are {', '.join(files[:6])}{' and others' if len(files) > 6 else ''}" if files else ""


def _texts(source: Path, target: Path, errors: str) -> Iterator[tuple[str, str]]:
    for path in (source, target):
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty")
    for one, other in zip_longest(lines_of(source, errors), lines_of(target, errors)):
        if one is None or other is None:
            counts = (f"{path} has {sum(1 for _ in lines_of(path, 'replace'))} lines" for path in (source, target))
            raise UserError(f"{' and '.join(counts)}: they must be the same sentences in the same order")
        yield one_line(one), one_line(other)


def _table(path: Path, source: str, target: str, errors: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of TSV or CSV, whose first line names the columns."""
    lines = Numbered(lines_of(path, errors))
    _, first = next(lines, (1, ""))
    delimiters, headers = LINES_OF_PAIRS[_kind(path)], []
    for delimiter in delimiters:
        headers.append(next(csv.reader([first], delimiter=delimiter), []))
        if source in headers[-1] and target in headers[-1]:
            break
    else:
        found = max(headers, key=len)
        raise UserError(
            f"{path}: the first line must name the columns, {source} and {target} among them, not {', '.join(found)}"
        )
    columns = [headers[-1].index(language) for language in (source, target)]
    quoted = _kind(path) == "csv" or first.startswith('"')
    for number, line in _no_blank_ones(lines, path):
        try:
            cells = _cells(line, lines, delimiter, None if quoted else len(headers[-1]))
        except csv.Error as error:
            raise UserError(f"{path}, line {number}: not CSV ({error})") from None
        if len(cells) != len(headers[-1]):
            raise UserError(f"{path}, line {number}: {len(cells)} columns where the first line has {len(headers[-1])}")
        yield one_line(cells[columns[0]]), one_line(cells[columns[1]])


class Numbered(Iterator[tuple[int, str]]):
    """Lines with their numbers from 1 on, of which the next can be looked at."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = enumerate(lines, start=1)
        self._looked_at: list[tuple[int, str]] = []

    def __next__(self) -> tuple[int, str]:
        """Return the next line and go on."""
        return self._looked_at.pop() if self._looked_at else next(self._lines)

    def peek(self) -> str:
        """Return the next line; an empty one at the end."""
        self._looked_at = self._looked_at or list(islice(self._lines, 1))
        return self._looked_at[0][1] if self._looked_at else ""


def _cells(line: str, following: Numbered, delimiter: str, unless: int | None) -> list[str]:
    """Part a line as a writer of CSV has joined it, over the following lines where a quoted cell has line breaks.

    Args:
        line: the first of it.
        following: the lines after it, with their numbers.
        delimiter: what stands between cells.
        unless: so many cells, parted at every delimiter, are taken as they are: not all TSV is quoted. Of these only
            a cell is unquoted which only such a writer makes: one with doubled quotation marks within a pair of them,
            or one at the end that opens a pair, where the next line has not as many cells.

    Raises:
        csv.Error: it was not joined so, and must have been.
    """
    plain = line.removesuffix("\r").split(delimiter)
    following_line = following.peek().removesuffix("\r")
    opens = plain[-1].startswith('"') and plain[-1].count('"') % 2
    goes_on = opens and following_line and following_line.count(delimiter) + 1 != unless
    if len(plain) == unless and not goes_on:
        return [_unquoted(cell) for cell in plain]
    if unless and '"' not in line:
        return plain
    lines = chain([line], (text for _, text in following))
    try:
        cells = next(csv.reader((f"{text}\n" for text in lines), delimiter=delimiter, strict=True))
    except csv.Error:
        if unless is None or goes_on:
            raise
        return plain
    return cells if unless in (None, len(cells)) or goes_on else plain


def _unquoted(cell: str) -> str:
    within = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '""' in within and '"' not in within.replace('""', ""):
        return within.replace('""', '"')
    return cell


def _jsonl(path: Path, source: str, target: str, errors: str) -> Iterator[tuple[str, str]]:
    for number, line in _no_blank_ones(enumerate(lines_of(path, errors), start=1), path):
        if number == 1 and line.lstrip().startswith("["):
            raise UserError(f"{path} is a JSON array, where an object a line is read: jq -c '.[]' makes that of it")
        try:
            row = json.loads(line)
            row = row.get("translation", row)
            pair = one_line(row[source] or ""), one_line(row[target] or "")
            "".join(pair).encode("utf-8", errors)  # JSON can spell half a surrogate pair, which is no text
        except (ValueError, AttributeError, KeyError, TypeError):
            raise UserError(
                f"{path}, line {number}: no JSON object with a text for {source} and for {target}"
            ) from None
        yield pair


def _no_blank_ones(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines; blank ones may stand at the end only."""
    blank = 0
    for number, line in lines:
        if not line.strip("\r"):
            blank = blank or number
        elif blank:
            raise UserError(f"{path}, line {blank} is blank")
        else:
            yield number, line


def lines_of(path: Path, errors: str = "strict") -> Iterator[str]:
    """Yield the lines of a text file, which may be in gzip, without their ends and byte order marks.

    A line ends at LF only: ``str.splitlines`` would end one at a lone CR or U+2028 too, and so shift the pairs.

    Args:
        path: the file.
        errors: what to do with bytes that are not UTF-8, as for ``bytes.decode``.

    Raises:
        UserError: it is not UTF-8, no whole gzip file, or its lines end in CR, as on an old Macintosh.
    """
    open_binary: Callable[[Path], Any] = gzip.open if path.suffix == ".gz" else partial(open, mode="rb", buffering=LOOK)
    with open_binary(path) as file, _whole(path):
        beginning = file.peek(LOOK)
        if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{path} is UTF-16, not UTF-8: iconv -f utf-16 -t utf-8 makes that of it")
        if beginning.removesuffix(b"\r").count(b"\r") - beginning.count(b"\r\n") > beginning.count(b"\n"):
            raise UserError(f"{path}: its lines end in CR, not in LF: tr '\\r' '\\n' makes that of it")
        number = 0
        try:
            for number, line in enumerate(file, start=1):  # noqa: B007  the error tells it
                yield line.decode("utf-8", errors).removeprefix("\ufeff").removesuffix("\n")
        except UnicodeDecodeError:
            raise UserError(f"{path}, line {number}: not UTF-8") from None


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say in one line that a compressed or parquet file is torn or damaged."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path}: not a complete gzip file") from None
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):  # the system's word, not pyarrow's
            raise
        raise UserError(f"{path}: not a complete parquet file ({str(error).splitlines()[0]})") from None


def _kind(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[2]


def _text_bytes(path: Path) -> int:
    if _kind(path) == "parquet":
        metadata = _metadata(path)
        return sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return path.stat().st_size * (GZIP_RATIO if path.suffix == ".gz" else 1)


def _shards(folder: Path, name: str) -> list[Path]:
    if (whole := folder / f"{name}.parquet").exists():
        return [whole]
    shards = sorted(folder.glob(f"{name}-[0-9]*-of-[0-9]*.parquet"))
    if shards and len(shards) != int(re.findall(r"-of-(\d+)", shards[0].name)[-1]):
        raise UserError(f"{folder}: {len(shards)} of the {name} shards are there, not all, as {shards[0].name} shows")
    return shards


def _parquet(paths: list[Path]) -> Iterator[Any]:
    for path in paths:
        with _whole(path):
            yield from pq.ParquetFile(path).iter_batches(batch_size=1000)


def _metadata(path: Path) -> Any:
    with _whole(path):
        return pq.read_metadata(path)


def _hub_batches(data: str, source: str, target: str, split: str) -> Iterator[Any]:
    stream = _hub_stream(data, source, target, split)
    with _reaching_hub(data, source, target):
        yield from stream.with_format("arrow").iter(batch_size=1000)


def _hub_stream(data: str, source: str, target: str, split: str) -> Any:
    streams = _hub(data, source, target)
    part = next((one for one in SPLITS[split] if one in streams), None)
    if part is None:
        raise UserError(f"--data {data}: the split {split!r} is missing; the data set has {', '.join(streams)}")
    return streams[part]


@cache  # to open it takes several requests
def _hub(data: str, source: str, target: str) -> Any:
    """Open a data set of the hub: a stream for each of its splits."""
    import datasets  # takes a second to import, and most corpora are files

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # else each retry is a line of its own
    name, _, config = data.partition(":")
    with _reaching_hub(data, source, target):
        configs = datasets.get_dataset_config_names(name)
        wanted = [config] if config else [f"{source}-{target}", f"{target}-{source}"]
        config = next((one for one in wanted if one in configs), "" if config or len(configs) > 1 else configs[0])
        if not config:
            raise UserError(f"--data {data}: there is no {' or '.join(wanted)}; the data set has {', '.join(configs)}")
        return datasets.load_dataset(name, config, streaming=True)


@contextmanager
def _reaching_hub(data: str, source: str, target: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the hub's libraries raise many kinds; the answer to each is the same
        raise UserError(
            f"--data {data}: no such folder here, and the hub's data set of that name cannot be read "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); without a network, bring "
            f"train.parquet, validation.parquet and test.parquet, or train, valid and test .{source} and .{target}, "
            "into a folder and give that to --data"
        ) from error


def _columns(batches: Iterable[Any], source: str, target: str, where: str, errors: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of Arrow batches or tables that have either schema."""
    batch = None
    for batch in batches:
        yield from zip(*(_column(batch, language, where, errors) for language in (source, target)), strict=True)
    if batch is None:
        raise UserError(f"{where} is empty")


def _column(batch: Any, language: str, where: str, errors: str) -> list[str]:
    schema, column = batch.schema, None
    if "translation" in schema.names and pa.types.is_struct(kind := schema.field("translation").type):
        languages = [field.name for field in kind]
        if language in languages:
            column = pc.struct_field(batch.column("translation"), language)
    else:
        languages = schema.names
        if language in languages:
            column = batch.column(language)
    if column is None:
        raise UserError(f"{where}: there is no language {language!r}; those there are {', '.join(languages)}")
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise UserError(f"{where}: {language!r} holds {column.type}, not text")
    try:  # as bytes, since pyarrow decodes strictly
        return [one_line((text or b"").decode("utf-8", errors)) for text in column.cast(pa.large_binary()).to_pylist()]
    except UnicodeDecodeError:
        raise UserError(f"{where}: the text in {language!r} is not UTF-8") from None
