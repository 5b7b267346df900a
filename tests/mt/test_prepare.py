"""Preparing a corpus with the real sentencepiece; fairseq itself reads what is made of it."""

import errno
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
from fairseq.data import Dictionary, data_utils
from hypothesis import example, given
from hypothesis import strategies as st

from resmlp_core.common import files
from resmlp_core.common.errors import UserError
from resmlp_core.common.files import alone_in, replacing
from resmlp_mt.data import binarized as binary
from resmlp_mt.data import vocabulary_stage
from resmlp_mt.data.normalization import NORMALIZATIONS
from resmlp_mt.data.prepared import Settings, read_report
from resmlp_mt.prepare import STAGES, main, prepare
from resmlp_mt.text import one_line

from .conftest import largest_file

pytestmark = pytest.mark.usefixtures("warm")

VOCABULARY = 300
# What could be taken for a special symbol, for white space or for sentencepiece's own mark.
ODD = [
    "</s> <s> <pad> <unk>",
    "<pad><pad>",
    "no\u00a0break\u3000wide",
    "zero\u200bwidth\ufeff",
    "\u2581mark",
    "tab\tnull\0x",
]


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyzäöüß", k=draw.randint(1, 7))) for _ in range(400)]
    return [" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(count)]


def write_corpus(folder: Path, train: list[str]) -> Path:
    """Write train sentences with themselves in capitals for German, and a little of everything to valid and test."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in {"train": train, "valid": [*sentences(20, 2), ""], "test": [*sentences(20, 3), *ODD]}.items():
        (folder / f"{split}.en").write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")
        german = "".join(line.upper() + "\n" for line in lines)
        (folder / f"{split}.de").write_text(german, encoding="utf-8", newline="\n")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"), [*sentences(2000, 1), "", *ODD * 5])


@pytest.fixture(scope="module")
def prepared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an unbroken run makes; tests only read it."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(data, "en", "de", VOCABULARY, out, workers=1)
    return out


@pytest.fixture(scope="module", params=NORMALIZATIONS)
def normalized(data: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The same, by each kind of normalisation."""
    out = tmp_path_factory.mktemp("normalized") / "out"
    prepare(data, "en", "de", VOCABULARY, out, normalization=request.param, workers=1)
    return out


def settings_for(data: Path | str, **options: Any) -> Settings:
    languages = {"source_lang": "en", "target_lang": "de"}
    return Settings(**{"data": str(data), **languages, "vocab_size": VOCABULARY, "seed": 1, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(data: Path | str, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "resmlp_mt.prepare", *arguments(data, out, *more)]


def arguments(data: Path | str, out: Path, *more: str) -> list[str]:
    languages = ["--source-lang", "en", "--target-lang", "de"]
    return ["--data", str(data), *languages, "--vocab-size", str(VOCABULARY), "--out", str(out), *more]


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_the_outputs(prepared: Path) -> None:
    splits = [f"{split}.{language}" for split in ("train", "valid", "test") for language in ("en", "de")]
    binary = [f"{name.replace('.', '.en-de.')}.{kind}" for name in splits for kind in ("bin", "idx")]
    assert set(contents(prepared)) == {
        *(f"text/{name}" for name in splits),
        *(f"data-bin/{name}" for name in [*binary, "dict.en.txt", "dict.de.txt"]),
        *("sentencepiece.model", "sentencepiece.vocab", "prepare.json"),
    }
    report = json.loads((prepared / "prepare.json").read_text())
    assert report["text"]["train"] == {"read": 2031, "kept": 2030, "dropped": {"empty": 1}}
    assert report["text"]["valid"] == {"read": 21, "kept": 21, "dropped": {}}  # its empty line has to be kept
    text = b"".join(path.read_bytes() for path in sorted((prepared / "text").iterdir()))
    assert report["text"]["sha256"] == hashlib.sha256(text).hexdigest()
    assert report["sentencepiece"]["vocabulary"] == VOCABULARY
    assert (prepared / "text" / "valid.de").read_text() == "".join(s.upper() + "\n" for s in [*sentences(20, 2), ""])


def test_sentencepiece_and_fairseq_number_the_pieces_alike(prepared: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(prepared / "sentencepiece.model"))
    dictionary = Dictionary.load(str(prepared / "data-bin" / "dict.de.txt"))
    assert dictionary.symbols == [processor.id_to_piece(i) for i in range(len(processor))]
    listed = (prepared / "sentencepiece.vocab").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [line.split("\t")[0] for line in listed] == dictionary.symbols


def test_the_binary_data_decode_to_the_text(prepared: Path) -> None:
    dictionary = Dictionary.load(str(prepared / "data-bin" / "dict.en.txt"))
    for split in ("train", "valid", "test"):
        for language in ("en", "de"):
            binary = data_utils.load_indexed_dataset(
                str(prepared / "data-bin" / f"{split}.en-de.{language}"), dictionary
            )
            text = (prepared / "text" / f"{split}.{language}").read_bytes().decode().removesuffix("\n").split("\n")
            assert len(binary) == len(text)
            for tokens, line in zip(binary, text, strict=True):
                assert (tokens == dictionary.eos()).nonzero().flatten().tolist() == [len(tokens) - 1]
                if line.replace(" ", "").isalpha():
                    assert dictionary.string(tokens, bpe_symbol="sentencepiece") == line


def binarize(prepared: Path, line: str) -> list[int]:
    """Make a training set of one line binary, in a prepared folder's vocabulary, and let fairseq read it."""
    with TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "text").mkdir()
        for name in (f"{split}.{language}" for split in ("train", "valid", "test") for language in ("en", "de")):
            (out / "text" / name).write_text(line + "\n", encoding="utf-8", newline="\n")
        (out / "sentencepiece.model").symlink_to(prepared / "sentencepiece.model")
        report = {"text": {split: {"kept": 1} for split in ("train", "valid", "test")}}
        STAGES["data-bin"].run(settings_for(""), out, 1, report)
        (tokens,) = data_utils.load_indexed_dataset(str(out / "data-bin" / "train.en-de.en"))
    ids: list[int] = tokens.tolist()
    return ids


@given(st.text())
@example("</s>")
@example("日本</s>日本")
@example("a\u2028b\x85c\u00a0d\u3000e")
def test_every_piece_is_one_token_to_fairseq(normalized: Path, text: str) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(normalized / "sentencepiece.model"))
    dictionary = Dictionary.load(str(normalized / "data-bin" / "dict.en.txt"))
    line = one_line(text)
    ids = binarize(normalized, line)
    typed = dictionary.encode_line(" ".join(processor.encode(line, out_type=str)), add_if_not_exist=False)
    assert typed.tolist() == ids  # what is typed into fairseq-interactive is what was trained on
    assert ids.index(dictionary.eos()) == len(ids) - 1
    assert not {dictionary.bos(), dictionary.pad()} & set(ids)
    assert [dictionary[i] for i in ids[:-1]] == [processor.id_to_piece(i) for i in ids[:-1]]


def test_the_command_gives_the_same_bytes_and_then_has_nothing_to_do(
    data: Path, prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = subprocess.run(command(data, out, "--workers", "3"), env=ENVIRONMENT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    stages = [line.split(":")[0] for line in first.stdout.splitlines()]
    assert stages == ["text", "sentencepiece", "data-bin", f"{out} is ready"]
    assert "pairs/s" not in first.stderr  # no progress bars, as it is no terminal
    assert contents(out) == contents(prepared)
    changed = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != "prepare.json"}
    main(arguments(data, out))
    assert {path: path.stat().st_mtime_ns for path in changed} == changed


def test_parquet_gives_the_bytes_that_text_gives(data: Path, prepared: Path, tmp_path: Path) -> None:
    for name, split in (("train", "train"), ("validation", "valid"), ("test", "test")):
        sides = {lang: (data / f"{split}.{lang}").read_bytes().decode().split("\n")[:-1] for lang in ("en", "de")}
        pairs = [{"de": target, "en": source} for source, target in zip(sides["en"], sides["de"], strict=True)]
        pq.write_table(pa.table({"translation": pairs}), tmp_path / f"{name}.parquet")
    settings = settings_for(tmp_path)
    STAGES["text"].run(settings, tmp_path, 1, {})
    assert contents(tmp_path / "text") == contents(prepared / "text")


def test_a_terminal_shows_pairs_a_second_and_the_time_left(
    data: Path, tmp_path: Path, on_a_terminal: Callable[..., str]
) -> None:
    environment = {**ENVIRONMENT, "TQDM_MININTERVAL": "0"}  # all is done within the tenth of a second between two looks
    bars = on_a_terminal(command(data, tmp_path), env=environment).split("\r")
    for bar in ("reading train: .*/2.03k", "encoding: .*/2.08k"):
        assert any(re.match(bar + r" \[\d\d:\d\d<\d\d:\d\d, .*\d.* pairs/s", line) for line in bars), bar


def test_a_stage_whose_output_is_gone_is_done_again_with_those_after_it(prepared: Path, tmp_path: Path) -> None:
    for path, content in contents(prepared).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    (tmp_path / "sentencepiece.model").unlink()
    (tmp_path / "data-bin" / "dict.en.txt").write_text("from another model\n")
    text = (tmp_path / "text").stat().st_mtime_ns
    data = json.loads((prepared / "prepare.json").read_text())["settings"]["data"]
    prepare(data, "en", "de", VOCABULARY, tmp_path, workers=1)
    assert contents(tmp_path) == contents(prepared)
    assert (tmp_path / "text").stat().st_mtime_ns == text


@pytest.mark.parametrize(
    "appears",
    [
        "text.partial",
        "text",
        "sentencepiece.model",
        "data-bin.partial/dict.en.txt",
        "data-bin.partial/train.en-de.en.bin",
    ],
)
def test_a_killed_run_goes_on(data: Path, prepared: Path, tmp_path: Path, appears: str) -> None:
    out = tmp_path / "out"
    child = start_until(command(data, out, "--workers", "2"), out, appears, stdout=subprocess.DEVNULL)
    child.kill()
    child.wait()
    prepare(data, "en", "de", VOCABULARY, out, workers=1)
    assert contents(out) == contents(prepared)


def start_until(line: list[str], out: Path, appears: str, **options: Any) -> subprocess.Popen[Any]:
    """Start a command and give it back as a file in ``out`` appears; what is there for milliseconds may be missed."""
    for _ in range(3):
        child = subprocess.Popen(line, env=ENVIRONMENT, **options)
        while child.poll() is None:
            if (out / appears).exists():
                return child
            time.sleep(0.002)
        assert child.returncode == 0
        shutil.rmtree(out)
    pytest.fail(f"{appears} was not seen")


def test_ctrl_c_leaves_nothing_half_written(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a suite in the background would not hear it
    appears = "data-bin.partial/dict.en.txt"
    child = start_until(command(data, out), out, appears, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate()
    assert child.returncode == 130
    assert "Traceback" not in errors
    assert {path.name for path in out.iterdir()} == {
        "text",
        "sentencepiece.model",
        "sentencepiece.vocab",
        "prepare.json",
    }


@pytest.mark.parametrize(("kind", "factor"), [("text", 2), ("gz", 8), ("parquet", 2)])
def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, factor: int
) -> None:
    data, out = write_corpus(tmp_path / "data", sentences(300, 1)), tmp_path / "out"
    size = sum(path.stat().st_size for path in data.iterdir())
    for split in ("train", "valid", "test") if kind != "text" else ():
        sides = {lang: (data / f"{split}.{lang}").read_text(encoding="utf-8") for lang in ("en", "de")}
        for lang, text in sides.items():
            (data / f"{split}.{lang}").unlink()
            if kind == "gz":
                (data / f"{split}.{lang}.gz").write_bytes(gzip.compress(text.encode()))
        if kind == "parquet":
            columns = {lang: text.split("\n") for lang, text in sides.items()}
            pq.write_table(pa.table(columns), data / f"{split}.parquet", compression="gzip")
    if kind == "gz":
        size = sum(path.stat().st_size for path in data.iterdir())
    needed = factor * size
    space = needed // 2

    def disk_usage(path: Path) -> Any:
        taken = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return SimpleNamespace(free=space - taken)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    line = arguments(data, out, "--vocab-size", "100")
    with pytest.raises(SystemExit, match=rf"^prepare: --out {out}: needs about [\d.]+ MB, [\d.]+ MB are free$"):
        main(line)
    assert not list(out.iterdir())
    space = needed * 5 // 4
    (out / "text.partial").write_bytes(bytes(space))  # a killed run's, which is not in the way
    main(line)


# Short sentences make the text (78 kB) smaller than the vocabulary (240 kB), and that smaller than fairseq's index.
@pytest.mark.parametrize(
    ("size", "failed", "left"),
    [
        (40_000, "text", {"prepare.json"}),
        (100_000, "sentencepiece.model", {"prepare.json", "text"}),
        (300_000, "data-bin", {"prepare.json", "text", "sentencepiece.model", "sentencepiece.vocab"}),
    ],
)
def test_a_full_disk(tmp_path: Path, size: int, failed: str, left: set[str]) -> None:
    draw = random.Random(1)
    data = write_corpus(tmp_path / "data", ["".join(draw.choices("abcd", k=2)) for _ in range(26_000)])
    out = tmp_path / "out"
    with largest_file(size), pytest.raises(SystemExit) as caught:
        main(arguments(data, out, "--workers", "2", "--vocab-size", "20"))
    assert caught.value.code == f"prepare: {out / failed}: the disk is full: {os.strerror(errno.EFBIG)}"
    assert {path.name for path in out.iterdir()} == left


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": 200}, "vocab_size=300, not 200"),
        ({"target_lang": "fr"}, "target_lang=de, not fr"),
        ({"seed": 2}, "seed=1, not 2"),
        ({"data": "other/corpus"}, "not other/corpus; give the same --data, or another --out"),
        ({"normalization": "identity"}, "normalization=nmt_nfkc, not identity"),
        ({"target_lang": "pt-br"}, "--target-lang pt-br: fairseq takes the hyphen for the end of the name"),
    ],
)
def test_other_settings_are_refused(data: Path, prepared: Path, change: dict[str, Any], said: str) -> None:
    before = contents(prepared)
    options = {"data": data, "source_lang": "en", "target_lang": "de", "vocab_size": VOCABULARY, "seed": 1, **change}
    with pytest.raises(UserError, match=said):
        prepare(out=prepared, **options)
    assert contents(prepared) == before


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (100_000, r"vocab_size=100000 .* at most (\d+)"),
        (10, r"vocab_size=10 .* at least (\d+)"),
        (4, "^vocab_size=4 leaves no entry beside fairseq's 4 special ones$"),
        (-5, "^vocab_size=-5 leaves no entry"),
        (10**12, r"vocab_size=1000000000000 .* at most (\d+)"),
    ],
)
def test_a_vocabulary_that_the_corpus_cannot_give(data: Path, tmp_path: Path, size: int, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        prepare(data, "en", "de", size, tmp_path / "out", workers=1)
    if str(caught.value).split()[-1].isdigit():  # what it advises is right, and can be used in the same folder
        settings = settings_for(data, vocab_size=int(str(caught.value).split()[-1]))
        report = json.loads((tmp_path / "out" / "prepare.json").read_text())
        made, _ = STAGES["sentencepiece"].run(settings, tmp_path / "out", 1, report)
        assert made["vocabulary"] == settings.vocab_size


@pytest.mark.parametrize(("normalization", "kept"), [("nmt_nfkc", "m2 ... 1⁄2 A"), ("identity", "m² … ½ Ａ")])
def test_characters_are_normalised_only_as_asked(tmp_path: Path, normalization: str, kept: str) -> None:
    data = write_corpus(tmp_path / "data", [*sentences(2000, 1), "m² … ½ Ａ m2 ... 1⁄2 A"])
    prepare(data, "en", "de", VOCABULARY, tmp_path / "out", normalization=normalization, workers=1)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / "sentencepiece.model"))
    assert processor.decode(processor.encode("m² … ½ Ａ")) == kept


def test_a_long_line_counts_for_the_vocabulary(tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data", [*sentences(2000, 1), "word " * 2000 + "Ω"])
    prepare(data, "en", "de", VOCABULARY, tmp_path / "out", workers=1)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / "sentencepiece.model"))
    assert processor.unk_id() not in processor.encode("Ω")


def test_data_that_changed_since_are_refused(data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / "data")
    prepare(copy, "en", "de", VOCABULARY, tmp_path / "out", workers=1)
    lines = (copy / "test.de").read_text(encoding="utf-8").split("\n")
    (copy / "test.de").write_text("\n".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")  # of the same size
    with pytest.raises(UserError, match=r"data has changed since .*out was prepared from it"):
        prepare(copy, "en", "de", VOCABULARY, tmp_path / "out", workers=1)


def test_a_project_that_moved_goes_on(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(data, here / "data")
    prepare(here / "data", "en", "de", VOCABULARY, here / "out", workers=1)
    here.rename(there)
    capsys.readouterr()
    report = prepare(there / "data", "en", "de", VOCABULARY, there / "out", workers=1)
    assert capsys.readouterr().out.count("done before") == 3
    assert report["settings"]["data"] == read_report(there / "out")["settings"]["data"] == str(there / "data")
    other = write_corpus(tmp_path / "other", sentences(30, seed=5))
    with pytest.raises(UserError, match="give the same --data, or another --out"):
        prepare(other, "en", "de", VOCABULARY, there / "out", workers=1)


def test_data_that_are_away_are_not_taken_for_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, "data")
    prepare("data", "en", "de", VOCABULARY, "out", workers=1)
    Path("data").rename("elsewhere")
    with pytest.raises(UserError, match="there is no folder"):
        prepare("data", "en", "de", VOCABULARY, "out", workers=1)


def test_a_mistake_can_be_mended_in_the_same_folder(data: Path, tmp_path: Path) -> None:
    for wrong in ({"data": tmp_path / "nowhere"}, {"target_lang": "fr"}):
        with pytest.raises(UserError, match=r"nowhere|en-fr"):
            prepare(
                **{"data": data, "source_lang": "en", "target_lang": "de", "vocab_size": 9, "out": tmp_path, **wrong}
            )
    with pytest.raises(UserError, match="vocab_size=9 is less"):
        prepare(data, "en", "de", 9, tmp_path)


def test_train_without_text_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", ["", "\u200b"])
    with pytest.raises(UserError, match="train has no pair"):
        prepare(tmp_path / "data", "en", "de", VOCABULARY, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["prepare.json"]


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("nothing", ["", "\u200b", "\ufeff", "\x7f", "\u2581"])
def test_a_set_without_text_is_refused(tmp_path: Path, split: str, nothing: str) -> None:
    data = write_corpus(tmp_path / "data", sentences(300, 1))
    (data / f"{split}.en").write_text(f"{nothing}\n" * 3, encoding="utf-8")
    (data / f"{split}.de").write_text("eins\nzwei\ndrei\n")
    with pytest.raises(UserError, match=f"{split} has no pair with text on both sides"):
        prepare(data, "en", "de", VOCABULARY, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("-x", "--out -x: fairseq takes it for an option"),
        ("a${b}", r"--out a\${b}: fairseq's configuration gives \${ a meaning"),
        ("a\\'b", r"--out a\\'b: fairseq's configuration gives \\' a meaning"),
        (os.fsdecode(b"\xff"), r"--out \?: the name is not UTF-8"),
    ],
)
def test_a_name_that_fairseq_does_not_take_is_refused_at_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        prepare(data, "en", "de", VOCABULARY, name)
    assert not list(tmp_path.iterdir())


def test_data_in_a_folder_whose_name_is_not_utf8_are_refused(data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / os.fsdecode(b"\xff"))
    with pytest.raises(UserError, match=r"--data .*\?: the name is not UTF-8"):
        prepare(copy, "en", "de", VOCABULARY, tmp_path / "out")


def test_a_folder_of_anothers_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    with pytest.raises(UserError, match="text was not made by prepare"):
        prepare(data, "en", "de", VOCABULARY, tmp_path)
    (tmp_path / "prepare.json").write_text("[]")
    with pytest.raises(UserError, match="is not a report"):
        prepare(data, "en", "de", VOCABULARY, tmp_path)


def test_one_process_at_a_time(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    with alone_in(tmp_path), pytest.raises(UserError, match="another process"):
        prepare(data, "en", "de", VOCABULARY, tmp_path)


def test_no_workers(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--workers 0"):
        prepare(data, "en", "de", VOCABULARY, tmp_path, workers=0)


def test_sentences_are_found_whose_places_are_computed_in_several_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary, "BLOCK", 2)
    sentences = [[5, 2], [6, 7, 8, 2], [2], [9, 2], [10, 11, 2]]
    assert binary.write_dataset(tmp_path / "x", [sentences[:3], sentences[3:]], 100) == 12
    assert [tokens.tolist() for tokens in data_utils.load_indexed_dataset(str(tmp_path / "x"))] == sentences


def test_a_large_corpus_is_sampled_by_the_seed(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(seed: int) -> list[str]:
        settings = settings_for("", seed=seed)
        return list(vocabulary_stage.sample_sentences(settings, prepared, 2030))

    assert len(sample(1)) == 2 * 2030
    monkeypatch.setattr(vocabulary_stage, "VOCABULARY_SENTENCES", 400)
    assert 300 < len(sample(1)) < 500
    assert sample(1) == sample(1) != sample(2)


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (tmp_path / "folder.partial").mkdir()  # what a kill left
    with replacing(path) as partial:
        partial.mkdir()
        (partial / "a").write_text("1")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.mkdir()
        _ = 1 / 0
    assert contents(tmp_path) == {"folder/a": b"1"}
    with replacing(path) as partial:
        partial.mkdir()
    assert contents(tmp_path) == {}
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
