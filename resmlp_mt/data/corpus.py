"""Parallel sentences, streamed from text, TSV, CSV, JSON lines or parquet files, or from the Hugging Face hub."""

import re
from collections.abc import Iterator
from pathlib import Path

from resmlp_core.common.errors import UserError
from resmlp_core.common.files import digest
from resmlp_mt.data import hub
from resmlp_mt.data.formats import FORMATS, Format, text_file

SPLITS = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}  # and what files may call them
OTHERS_NAMES = {"train": ("training",), "valid": ("dev", "val", "development", "eval"), "test": ("tst", "testing")}
NOT_TEXT = {
    *("", "gz", "txt", "bz2", "xz", "zst", "zip", "xlsx", "xls", "arrow", "tmx", "xml", "sgm", "md"),
    *(end for form in FORMATS for end in form.ENDS),
}


def read_pairs(
    data: str | Path,
    source_lang: str,
    target_lang: str,
    split: str,
    mend_encoding: bool = False,
    shuffled: bool = False,
) -> Iterator[tuple[str, str]]:
    """Yield the sentence pairs of one split, in order unless told otherwise, never holding more than a batch of them.

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
        shuffled: of a data set on the hub, take its files in another order, and the pairs of each too.

    Raises:
        UserError: what is missing, empty, of unequal length, not UTF-8 or not reachable, and where.
    """
    errors = "replace" if mend_encoding else "strict"
    root = _folder(data, source_lang, target_lang)
    if root is None:
        yield from hub.read_split(str(data), source_lang, target_lang, SPLITS[split], errors, shuffled)
    else:
        form, files = _files(root, source_lang, target_lang, split)
        yield from form.read(files, source_lang, target_lang, errors)


def is_on_hub(data: str | Path, source_lang: str, target_lang: str) -> bool:
    """Whether ``data`` names a data set on the hub, and not a folder."""
    return _folder(data, source_lang, target_lang) is None


def count_pairs(data: str | Path, source_lang: str, target_lang: str, split: str) -> int | None:
    """Return about how many pairs ``read_pairs`` will yield, for a progress bar; None where only reading would tell."""
    root = _folder(data, source_lang, target_lang)
    if root is None:
        return hub.count_split(str(data), source_lang, target_lang, SPLITS[split])
    form, files = _files(root, source_lang, target_lang, split)
    return form.count(files)


def count_bytes(data: str | Path, source_lang: str, target_lang: str) -> int | None:
    """Return about how many bytes of text all splits hold; None for a data set on the hub that does not say.

    Raises:
        UserError: a split is missing.
    """
    root = _folder(data, source_lang, target_lang)
    if root is None:
        return hub.size_of(str(data), source_lang, target_lang, SPLITS["train"])
    found = (_files(root, source_lang, target_lang, split) for split in SPLITS)
    return sum(form.size(files) for form, files in found)


def fingerprint(data: str | Path, source_lang: str, target_lang: str) -> str | None:
    """Digest all files that ``read_pairs`` would read (SHA-256); None for a data set on the hub.

    Raises:
        UserError: a split is missing.
    """
    root = _folder(data, source_lang, target_lang)
    if root is None:
        return None
    return digest([path for split in SPLITS for path in _files(root, source_lang, target_lang, split)[1]])


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


def _files(folder: Path, source: str, target: str, split: str) -> tuple[Format, list[Path]]:
    """Find a split: its format, and its files."""
    for name in SPLITS[split]:
        for form in FORMATS:
            if files := form.find(folder, name, source, target):
                return form, files
    raise UserError(_why_nothing(folder, source, target, split))


def _why_nothing(folder: Path, source: str, target: str, split: str) -> str:
    """Say why no file of the split was found: the languages are others, or the split is missing or is called so."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    stems = {file: file.removesuffix(".gz").removesuffix(".txt").rpartition(".") for file in files}
    names = {name for names in SPLITS.values() for name in names}
    texts = {language for stem, _, language in stems.values() if stem in names} - NOT_TEXT
    if texts and not {source, target} <= texts:
        return f"{folder}: there is no pair {source}-{target}; the languages there are {', '.join(sorted(texts))}"
    pairs = sorted(path.name for path in folder.iterdir() if path.is_dir() and "-" in path.name)
    if pairs and not files:
        return f"{folder}: there is no pair {source}-{target}; the pairs there are {', '.join(pairs)}"
    name = SPLITS[split][0]
    for here, other in ((source, target), (target, source)):
        if found := text_file(folder, name, here):
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
