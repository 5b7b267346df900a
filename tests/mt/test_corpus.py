"""Reading parallel text: what comes out of each kind of source, and what is said of a bad one."""

import csv
import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resmlp_core.common.errors import UserError
from resmlp_mt.data.corpus import count_bytes, count_pairs, read_pairs
from resmlp_mt.data.sample import write_sample
from resmlp_mt.data.text_lines import lines_of
from resmlp_mt.prepare import main, prepare
from resmlp_mt.text import one_line

PAIRS = [("one dog", "ein Hund"), ("", "leer"), ("two cats", "zwei Katzen")]


def write_text(folder: Path, split: str = "train", source: str = "a\nb\n", target: str = "c\nd\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.en").write_bytes(source.encode())
    (folder / f"{split}.de").write_bytes(target.encode())


def translation_table(pairs: list[tuple[str | None, str | None]]) -> pa.Table:
    return pa.table({"translation": [{"de": target, "en": source} for source, target in pairs]})


def column_table(pairs: list[tuple[str | None, str | None]]) -> pa.Table:
    return pa.table(
        {"id": list(range(len(pairs))), "en": [pair[0] for pair in pairs], "de": [pair[1] for pair in pairs]}
    )


def read(data: Path | str, source: str = "en", target: str = "de", split: str = "train") -> list[tuple[str, str]]:
    return list(read_pairs(data, source, target, split))


def command(data: Path | str, out: Path) -> list[str]:
    languages = ["--source-lang", "en", "--target-lang", "de"]
    return ["--data", str(data), *languages, "--vocab-size", "100", "--out", str(out)]


def test_text(tmp_path: Path) -> None:
    write_text(tmp_path, "valid", "one dog\n\n two cats ", "ein Hund\r\nleer\r\nzwei Katzen\r\n")
    assert read(tmp_path, split="valid") == PAIRS
    assert read(tmp_path, "de", "en", "valid") == [(target, source) for source, target in PAIRS]


@pytest.mark.parametrize("line_break", ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_only_a_newline_ends_a_line(tmp_path: Path, line_break: str) -> None:
    write_text(tmp_path, source=f"\ufeffa{line_break}b\nc\n", target="d\ne\n")
    assert read(tmp_path) == [("a b", "d"), ("c", "e")]


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert line == line.strip() == one_line(line)
    assert line.split() == text.replace("\ufeff", " ").split()


def test_a_byte_order_mark_is_no_part_of_a_sentence(tmp_path: Path) -> None:
    """Files that were joined have one within them too."""
    write_text(tmp_path, source="\ufeffa\n\ufeffb c\n", target="d\ufeffe\nf\ufeff\n")
    assert read(tmp_path) == [("a", "d e"), ("b c", "f")]


@pytest.mark.parametrize("table", [translation_table, column_table])
@pytest.mark.parametrize("folder", [".", "en-de", "de-en"])
@pytest.mark.parametrize(("name", "split"), [("train", "train"), ("validation", "valid"), ("valid", "valid")])
def test_parquet(tmp_path: Path, table: Callable[..., pa.Table], folder: str, name: str, split: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    pq.write_table(table([*PAIRS, (None, "x\ny")]), tmp_path / folder / f"{name}.parquet")
    assert read(tmp_path, split=split) == [*PAIRS, ("", "x y")]


@pytest.mark.parametrize("end", ["", "-b42a775f407cee45"])  # older versions of datasets wrote a hash
def test_parquet_shards_are_read_in_order_and_must_all_be_there(tmp_path: Path, end: str) -> None:
    for number, pair in enumerate(PAIRS):
        pq.write_table(translation_table([pair]), tmp_path / f"train-0000{number}-of-00003{end}.parquet")
    (tmp_path / "train-part-of-it.parquet").touch()  # none of them
    assert read(tmp_path) == PAIRS
    (tmp_path / f"train-00001-of-00003{end}.parquet").unlink()
    with pytest.raises(UserError, match="2 of the train shards"):
        read(tmp_path)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("kind", ["tsv", "jsonl", "jsonl of translation", "text"])
def test_text_in_other_files(tmp_path: Path, kind: str, end: str) -> None:
    pairs = [("a b", "ä"), ("", "x"), ("c\u2028d", "y")]
    write = gzip.open if end else open
    contents: dict[str, str] = {}
    if kind == "text":
        contents["train.en"] = "".join(source + "\n" for source, _ in pairs)
        contents["train.de"] = "".join(target + "\n" for _, target in pairs)
    elif kind == "tsv":
        rows_of_text = "".join(f"{target}\t0.5\t{source}\n" for source, target in pairs)
        contents["train.tsv"] = "de\tscore\ten\n" + rows_of_text
    else:
        rows = [{"de": target, "en": source} for source, target in pairs]
        rows = [{"translation": row} for row in rows] if "translation" in kind else rows
        contents["train.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content in contents.items():
        with write(tmp_path / (name + end), "wt", encoding="utf-8") as file:
            file.write(content)
    assert read(tmp_path) == [("a b", "ä"), ("", "x"), ("c d", "y")]
    assert count_pairs(tmp_path, "en", "de", "train") == (None if end else 3)


AWKWARD = [
    ('"Hello", he said', "tab\there"),
    ("comma, semicolon;", '"Zitat"'),
    ("", "x\ny"),
    ('7" pipe', "ä"),
    ("", ""),
]


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(("kind", "delimiter"), [("csv", ","), ("csv", ";"), ("csv", "\t"), ("tsv", "\t")])
def test_what_a_writer_of_csv_writes_is_read(tmp_path: Path, kind: str, delimiter: str, quoting: int, end: str) -> None:
    with (gzip.open if end else open)(tmp_path / f"train.{kind}{end}", "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
        writer.writerow(["id", "de", "en"])
        writer.writerows([i, target, source] for i, (source, target) in enumerate(AWKWARD))
    expected = [(one_line(source), one_line(target)) for source, target in AWKWARD]
    assert read(tmp_path) == expected
    assert read(tmp_path, "de", "en") == [(target, source) for source, target in expected]


@given(st.lists(st.tuples(st.text('ab" ,\t\n'), st.text('ä"; \n'))))
def test_any_text_survives_csv(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("csv")
    for kind, delimiter in (("csv", ","), ("tsv", "\t")):
        if kind == "tsv" and any(("\t" in side and "\n" in side) or "\n\n" in side for pair in pairs for side in pair):
            continue  # their lines can be taken for whole ones
        with open(folder / f"{kind}.part", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([("en", "de"), *pairs])
        (folder / f"{kind}.part").rename(folder / f"train.{kind}")
        assert read(folder) == [(one_line(source), one_line(target)) for source, target in pairs]
        (folder / f"train.{kind}").unlink()


def test_quotation_marks_of_tsv_that_is_not_quoted_stay(tmp_path: Path) -> None:
    rows = ['"Hello"\t"Hallo"', 'x\t"Nun', '"x\ty"', '"Well\t„Nun“', 'a" b\t"', '"x" and "y"\t""']
    (tmp_path / "train.tsv").write_text("".join(f"{row}\n" for row in ["en\tde", *rows]), encoding="utf-8")
    assert read(tmp_path) == [tuple(row.split("\t")) for row in rows]


@pytest.mark.parametrize("end", ["\n", "\n\n", "\r\n\r\n", "\n\n\n", ""])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("train.tsv", ["en\tde", "a\tb", "\tc"]),
        ("train.csv", ["en,de", "a,b", ",c"]),
        ("train.jsonl", ['{"en": "a", "de": "b"}', '{"en": "", "de": "c"}']),
        ("train.json", ['{"en": "a", "de": "b"}', '{"en": "", "de": "c"}']),
    ],
)
def test_blank_lines_may_end_a_file(tmp_path: Path, name: str, lines: list[str], end: str) -> None:
    (tmp_path / name).write_text("\n".join(lines) + end, newline="")
    assert read(tmp_path) == [("a", "b"), ("", "c")]
    (tmp_path / name).write_text("\n".join([*lines[:-1], "", lines[-1]]))
    with pytest.raises(UserError, match=rf"{name}, line {len(lines)} is blank"):
        read(tmp_path)


@pytest.mark.parametrize(
    "names", [("train.en.gz", "train.de"), ("train.en.txt", "train.de.txt"), ("train.en", "train.de.txt.gz")]
)
def test_each_side_is_read_under_the_name_that_it_has(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, text in zip(names, ("a\nb\n", "c\nd\n"), strict=True):
        with (gzip.open if name.endswith(".gz") else open)(tmp_path / name, "wt") as file:
            file.write(text)
    assert read(tmp_path) == [("a", "c"), ("b", "d")]


def test_a_pipe_is_read_too(tmp_path: Path) -> None:
    write_text(tmp_path)
    (tmp_path / "train.en").rename(tmp_path / "text")
    os.mkfifo(tmp_path / "train.en")
    with subprocess.Popen(f"cat '{tmp_path}/text' > '{tmp_path}/train.en'", shell=True):
        assert list(lines_of(tmp_path / "train.en")) == ["a", "b"]


def test_a_sub_folder_of_the_pair_holds_the_data_if_there_are_any_in_it(tmp_path: Path) -> None:
    """A recipe, or prepare, may be told to write to a folder of that name beside the data."""
    (tmp_path / "en-de" / "text").mkdir(parents=True)
    (tmp_path / "en-de" / "prepare.json").touch()
    (tmp_path / "train.jsonl").write_text('{"en": "above", "de": "oben"}\n')
    assert read(tmp_path) == [("above", "oben")]
    (tmp_path / "en-de" / "train.jsonl").write_text('{"en": "below", "de": "unten"}\n')
    assert read(tmp_path) == [("below", "unten")]


def invalid_parquet(folder: Path) -> None:
    """Write three pairs, of which the second's German is Latin-1."""
    folder.mkdir(exist_ok=True)
    german = pa.array([b"ok", b"\xe4h", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"en": ["a", "b", "c"], "de": german}), folder / "train.parquet")


def test_what_is_not_utf8_can_be_read_as_such_in_parquet(tmp_path: Path) -> None:
    invalid_parquet(tmp_path)
    assert list(read_pairs(tmp_path, "en", "de", "train", mend_encoding=True)) == [
        ("a", "ok"),
        ("b", "\ufffdh"),
        ("c", ""),
    ]


def test_what_is_not_utf8_can_be_read_as_such(tmp_path: Path) -> None:
    write_text(tmp_path)
    (tmp_path / "train.de").write_bytes(b"ok\n\xe4h\n")
    (tmp_path / "train.en").write_text("a\nb\n")
    assert list(read_pairs(tmp_path, "en", "de", "train", mend_encoding=True)) == [("a", "ok"), ("b", "\ufffdh")]


def test_half_a_surrogate_pair_in_json_can_be_read_as_what_is_not_utf8(tmp_path: Path) -> None:
    jsonl_with_half_a_character(tmp_path)
    assert list(read_pairs(tmp_path, "en", "de", "train", mend_encoding=True)) == [("a", "\ufffd")]


def test_a_text_with_a_nul_and_a_wrong_byte_is_text(tmp_path: Path) -> None:
    write_text(tmp_path)
    (tmp_path / "train.de").write_bytes(b"ok\n\xe4h\0\n")
    (tmp_path / "train.en").write_text("a\nb\n")
    assert list(read_pairs(tmp_path, "en", "de", "train", mend_encoding=True)) == [("a", "ok"), ("b", "\ufffdh\0")]
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        list(read_pairs(tmp_path, "en", "de", "train"))


def test_the_pairs_folder_is_chosen(tmp_path: Path) -> None:
    write_text(tmp_path / "en-de", source="en-de\n", target="x\n")
    (tmp_path / "en-fr").mkdir()
    pq.write_table(pa.table({"en": ["en-fr"], "fr": ["x"]}), tmp_path / "en-fr" / "train.parquet")
    assert read(tmp_path) == [("en-de", "x")]
    assert read(tmp_path, "fr", "en") == [("x", "en-fr")]


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    sentence = "word " * 40 + "\n"
    write_text(tmp_path, source=sentence * 20_000, target=sentence * 20_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_pairs(tmp_path, "en", "de", "train")) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 500_000  # of eight million bytes
    finally:
        tracemalloc.stop()


def unequal(folder: Path) -> None:
    write_text(folder, source="a\nb\nc\n")


def empty(folder: Path) -> None:
    write_text(folder, target="")


def latin1(folder: Path) -> None:
    write_text(folder)
    (folder / "train.de").write_bytes("c\nd\n\u00e4\n".encode("latin-1"))


def one_side(folder: Path) -> None:
    write_text(folder, "valid")
    (folder / "train.en").write_text("a\n")


def other_split(folder: Path) -> None:
    write_text(folder, "valid")


def other_split_of_tsv(folder: Path) -> None:
    (folder / "test.tsv").write_text("en\tde\nA dog.\tEin Hund.\n")


def other_languages(folder: Path) -> None:
    write_text(folder)
    (folder / "train.de").rename(folder / "train.fr")


def other_pairs(folder: Path) -> None:
    write_text(folder / "en-fr")
    write_text(folder / "en-cs")


def other_fields(folder: Path) -> None:
    pq.write_table(pa.table({"translation": [{"en": "a", "fr": "b"}]}), folder / "train.parquet")


def other_columns(folder: Path) -> None:
    pq.write_table(pa.table({"en": ["a"], "cs": ["b"]}), folder / "train.parquet")


def a_column_twice(folder: Path) -> None:
    columns = [pa.array([text]) for text in ("a", "b", "c")]
    pq.write_table(pa.Table.from_arrays(columns, ["en", "de", "en"]), folder / "train.parquet")


def numbers(folder: Path) -> None:
    pq.write_table(pa.table({"en": ["a"], "de": [1]}), folder / "train.parquet")


def no_rows(folder: Path) -> None:
    pq.write_table(translation_table(PAIRS).slice(0, 0), folder / "train.parquet")


def damaged(folder: Path) -> None:
    pq.write_table(pa.table({"en": [f"a {i}" for i in range(9999)], "de": ["b"] * 9999}), folder / "train.parquet")
    with (folder / "train.parquet").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff" * 1000)


def torn(folder: Path) -> None:
    pq.write_table(translation_table(PAIRS), folder / "train.parquet")
    whole = (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(whole[: len(whole) // 2])


def tsv_without_header(folder: Path) -> None:
    (folder / "train.tsv").write_text("a\tx\nb\ty\n")


def tsv_of_unequal_rows(folder: Path) -> None:
    (folder / "train.tsv").write_text("en\tde\na\tx\nb\n")


def jsonl_without_a_language(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"en": "a", "de": "b"}\n{"en": "c"}\n')


def jsonl_with_half_a_character(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"en": "a", "de": "\\ud800"}\n')


def torn_gzip(folder: Path) -> None:
    write_text(folder)
    for lang in ("en", "de"):
        whole = gzip.compress((folder / f"train.{lang}").read_bytes())
        (folder / f"train.{lang}").unlink()
        (folder / f"train.{lang}.gz").write_bytes(whole[: len(whole) - 9])


def content(name: str, text: str | bytes) -> Callable[[Path], None]:
    """Return what writes a file, beside whole sets of the other splits."""

    def make(folder: Path) -> None:
        for split in {"valid", "test"} - {name.partition(".")[0]}:
            write_text(folder, split)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return make


def dev(folder: Path) -> None:
    write_text(folder, "Training")


def old_macintosh(folder: Path) -> None:
    write_text(folder, source="a\rb\rc\r", target="d\re\rf\r")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (content("train.csv", "English,German\na,b\n"), ["train.csv: the first line must name", "not English, German"]),
        (content("train.csv", 'en,de\n"a"b,c\n'), ["train.csv, line 2: not CSV ("]),
        (content("train.csv", 'en,de\na,"b\n'), ["train.csv, line 2: not CSV (unexpected end of data)"]),
        (content("train.csv", "en,de\na,b,c\n"), ["train.csv, line 2: 3 columns where the first line has 2"]),
        (content("train.json", '[{"en": "a", "de": "b"}]'), ["train.json is a JSON array", "jq -c '.[]'"]),
        (content("train.jsonl", '[\n{"en": "a", "de": "b"}]'), ["train.jsonl is a JSON array"]),
        (
            content("train.txt", "a\n"),
            ["'train' is missing", "train.de (also .txt", "train.txt is not read"],
        ),
        (content("train.en.xz", "a\n"), ["'train' is missing", "train.en.xz is not read"]),
        (content("corpus.tsv", "en\tde\na\tb\n"), ["'train' is missing", "there are corpus.tsv, test.de, test.en"]),
        (dev, ["'train' is missing", "Training.de, Training.en may be it: call that train.de, train.en"]),
        (old_macintosh, ["train.en: its lines end in CR, not in LF: tr '\\r' '\\n'"]),
        (content("train.tsv", "en\tde\na\tb\n".encode("utf-16")), ["train.tsv is UTF-16, not UTF-8"]),
        (tsv_without_header, ["train.tsv: the first line must name the columns, en and de among them"]),
        (tsv_of_unequal_rows, ["train.tsv, line 3: 1 columns where the first line has 2"]),
        (jsonl_without_a_language, ["train.jsonl, line 2: no JSON object with a text for en and for de"]),
        *(
            (content("train.jsonl", f'{{"en": "a", "de": {value}}}\n'), ["line 1: no JSON object with a text for"])
            for value in ("0", "1", "false", "[]", "{}")
        ),
        (jsonl_with_half_a_character, ["train.jsonl, line 1: no JSON object with a text for en and for de"]),
        (torn_gzip, ["train.en.gz: not a complete gzip file"]),
        (unequal, ["train.en has 3 lines", "train.de has 2 lines"]),
        (empty, ["train.de is empty"]),
        (latin1, ["train.de, line 3: not UTF-8"]),
        (one_side, ["train.de is missing beside train.en"]),
        (other_split, ["'train' is missing", "train.en and train.de", "train.parquet"]),
        (other_split_of_tsv, ["'train' is missing"]),
        (other_languages, ["no pair en-de", "en, fr"]),
        (other_pairs, ["no pair en-de", "en-cs, en-fr"]),
        (other_fields, ["train.parquet: there is no language 'de'", "en, fr"]),
        (other_columns, ["train.parquet: there is no language 'de'", "en, cs"]),
        (a_column_twice, ["train.parquet: there is more than one column 'en'"]),
        (content("train.tsv", "en\tde\ten\na\tb\tc\n"), ["train.tsv: the first line names en more than once"]),
        (numbers, ["'de' holds int64, not text"]),
        (no_rows, ["train.parquet is empty"]),
        (invalid_parquet, ["train.parquet: the text in 'de' is not UTF-8"]),
        (damaged, ["train.parquet: not a complete parquet file"]),
        (torn, ["train.parquet: not a complete parquet file"]),
        (lambda folder: folder.rmdir(), ["there is no such folder"]),
        (lambda folder: None, ["'train' is missing"]),
    ],
)
def test_bad_data(tmp_path: Path, make: Callable[[Path], None], said: list[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    make(data)
    with pytest.raises(UserError) as caught:
        read(data)
    message = str(caught.value)
    assert str(data) in message
    assert "\n" not in message
    for part in said:
        assert part in message


@pytest.mark.parametrize("make", [torn, damaged, torn_gzip, invalid_parquet])
def test_the_command_tells_of_bad_data_in_one_line(tmp_path: Path, make: Callable[[Path], None]) -> None:
    data = tmp_path / "data"
    for split in ("valid", "test"):
        write_text(data, split)
    make(data)
    with pytest.raises(SystemExit, match=rf"^prepare: {data}/train\.[^\n]*$"):
        main(command(data, tmp_path / "out"))


@pytest.mark.parametrize(
    ("called", "call"), [("dev", "valid"), ("val", "valid"), ("tst", "test"), ("DEV-2016", "valid")]
)
def test_a_split_of_another_name_is_found(tmp_path: Path, called: str, call: str) -> None:
    for split in {"train", "valid", "test", called} - {call}:
        write_text(tmp_path, split)
    end = called[3:]
    said = f"{called}.de, {called}.en may be it: call that {call}{end}.de, {call}{end}.en$"
    with pytest.raises(UserError, match=said):
        read(tmp_path, split=call)


def test_the_two_languages_differ(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="both 'en'"):
        read(tmp_path, "en", "en")


@pytest.fixture(scope="module")
def hub_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set laid out as on the hub, which the real ``datasets`` reads from a local path in the same way.

    Of its two pairs of languages one has a test set and tells its sizes.
    """
    folder = tmp_path_factory.mktemp("hub")
    header, sizes = ["---", "configs:"], ["dataset_info:", "- config_name: de-en", "  splits:"]
    for config, languages in (("de-en", ("de", "en")), ("fr-en", ("fr", "en"))):
        header += [f"- config_name: {config}", "  data_files:"]
        for split in ("train", "validation", "test")[: 3 if config == "de-en" else 2]:
            (folder / config).mkdir(exist_ok=True)
            rows = [{languages[0]: f"{config} {split} {i}", languages[1]: f"line\u2028{i}"} for i in range(2500)]
            pq.write_table(pa.table({"translation": rows}), folder / config / f"{split}-00000-of-00001.parquet")
            header += [f"  - split: {split}", f"    path: {config}/{split}-*"]
            sizes += [f"  - name: {split}", "    num_examples: 2500"] * (config == "de-en")
    sizes += ["  dataset_size: 200000"]
    (folder / "README.md").write_text("\n".join([*header, *sizes, "---", ""]))
    return folder


@pytest.fixture
def hub(hub_data: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What to give to ``--data`` for it, before a configuration: with the colon it is no folder."""
    monkeypatch.chdir(hub_data.parent)
    return f"{hub_data.name}:"


def test_hub(hub: str) -> None:
    assert read(hub, split="valid") == [(f"line {i}", f"de-en validation {i}") for i in range(2500)]
    assert read(f"{hub}fr-en", "en", "fr")[-1] == ("line 2499", "fr-en train 2499")


def test_of_the_hub_a_sample_reads_no_more_than_it_takes(hub: str, tmp_path: Path) -> None:
    sample = write_sample((f"{hub}", "en", "de"), tmp_path / "some", 100, 10, 60.0)
    numbers = [int(line.split()[-1]) for line in (tmp_path / "some" / "train.de").read_text().splitlines()]
    assert (sample.pairs, sample.read, sample.taken) == (2500, 100, 100)
    assert numbers[:50] == list(range(50))
    assert max(numbers[50:]) > 1000


def test_the_sizes_that_the_hub_knows(hub: str) -> None:
    assert count_pairs(hub, "en", "de", "valid") == 2500
    assert count_bytes(hub, "en", "de") == 200_000
    assert count_pairs(hub, "en", "fr", "valid") is None
    assert count_bytes(hub, "en", "fr") is None


def test_data_of_the_hub_are_identified_by_their_text(hub: str, tmp_path: Path) -> None:
    there = prepare(hub, "en", "de", 60, tmp_path / "hub")["text"]
    assert there["source_sha256"] is None
    assert prepare(hub, "en", "de", 60, tmp_path / "hub")["text"] == there
    here = prepare(tmp_path / "hub" / "text", "en", "de", 60, tmp_path / "here")["text"]
    assert here["sha256"] == there["sha256"]


@pytest.mark.parametrize(
    ("config", "target", "split", "said"),
    [
        ("", "cs", "train", "there is no en-cs or cs-en; the data set has de-en, fr-en"),
        ("xx", "de", "train", "there is no xx; the data set has de-en, fr-en"),
        ("", "fr", "test", "the split 'test' is missing; the data set has train, validation"),
    ],
)
def test_hub_without_what_is_asked(hub: str, config: str, target: str, split: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(f"{hub}{config}", "en", target, split)


def test_an_unreachable_hub_is_told_in_one_line(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "resmlp_mt.prepare", *command("owner/name", tmp_path / "out")]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("prepare:")] == [done.stderr.splitlines()[-1]]
    for part in ("--data owner/name: no such folder", "train.parquet", "test .en and .de"):
        assert part in done.stderr
