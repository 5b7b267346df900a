"""resmlp-translate with what is wrong: told in one line, before hours of work and without a loss."""

import re
import shutil
import sys

import pytest
import torch

from resmlp_mt import load_translator, translate
from resmlp_mt.translation import output_file
from resmlp_mt.translation.translator import Translator

from ..conftest import largest_file
from .small_translators import POSITIONS, SENTENCES, write_translator
from .translate_runs import LINES, interrupted_after, refused, run, typed


def test_an_output_that_is_there_stays_unless_it_is_to_be_replaced(model, source, expected, tmp_path):
    output = tmp_path / "output"
    output.write_text("precious")
    told = f"translate: -o {output} exists: give --force to replace it, or another file"
    assert refused(model, source, "-o", output) == told
    (tmp_path / "link").symlink_to(source)
    for same in (source, tmp_path / "link"):
        assert refused(model, source, "-o", same, "--force") == f"translate: -o {same} is the input: give another file"
    assert refused(model, source, "-o", tmp_path) == f"translate: -o {tmp_path} is not a file"
    told = f"translate: -o {tmp_path}/x.gz: what is written is not compressed; name it without .gz"
    assert refused(model, source, "-o", tmp_path / "x.gz") == told
    assert output.read_text() == "precious" and source.read_text(encoding="utf-8").startswith(LINES[0])
    run(model, source, "-o", output, "--force")
    assert output.read_text(encoding="utf-8") == expected


def test_two_runs_do_not_write_one_output(model, source, tmp_path):
    with output_file.OutputFile(tmp_path / "output", {}):
        told = f"translate: {tmp_path / 'output'}: another process is writing it"
        assert refused(model, source, "-o", tmp_path / "output") == told


def test_a_full_disk_is_told_and_what_was_written_is_gone_on_with(model, source, expected, tmp_path, monkeypatch):
    output = tmp_path / "output"
    monkeypatch.setattr(output_file, "OFTEN", 0)  # note each line, as a slow run does
    with largest_file(700):
        assert refused(model, source, "-o", output) == f"translate: {output}: the disk is full: File too large"
    assert not output.exists()
    with interrupted_after(monkeypatch, None) as asked:
        run(model, source, "-o", output)
    assert len(asked) < len(LINES)
    assert output.read_text(encoding="utf-8") == expected


def test_a_disk_that_is_full_at_the_very_end_is_told_and_nothing_is_left(model, source, tmp_path):
    output = tmp_path / "output"
    with largest_file(700):  # which a buffer is larger than
        assert refused(model, source, "-o", output) == f"translate: {output}: the disk is full: File too large"
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (SENTENCES[0].encode("utf-16"), " is UTF-16, not UTF-8: iconv -f utf-16 -t utf-8 makes that of it"),
        (
            SENTENCES[0].encode("utf-16-le"),
            " is binary, or UTF-16 without a byte order mark, where text in UTF-8 is read",
        ),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)), " is binary, or UTF-16 without a byte order mark, wh"),
        (100 * b"fine\n" + b"caf\xe9\n", ", line 101: not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused_before_anything_is_written(model, source, tmp_path, content, told, monkeypatch):
    (tmp_path / "file").write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(translate, "load_translator", None)  # before that
        assert refused(model, source, tmp_path / "file").startswith(f"translate: {tmp_path / 'file'}{told}")
    if b"fine" not in content:
        typed(monkeypatch, content)
        assert refused(model).startswith(f"translate: standard input{told}")


def test_nothing_to_read_is_nothing_to_write(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # as by <&-
    run(model)
    (tmp_path / "empty").touch()
    run(model, tmp_path / "empty", "-o", tmp_path / "output")
    assert capsys.readouterr().out == ""
    assert (tmp_path / "output").read_bytes() == b""
    assert refused(model, tmp_path / "none") == f"translate: {tmp_path / 'none'}: No such file or directory"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--beam", 0), "argument --beam: 0 must be a whole number, 1 or more"),
        (("--beam", 2, "--nbest", 3), "--nbest 3 needs as large a --beam, and has 2"),
        *((("--lenpen", value), f"--lenpen {value} must be from -10 to 10") for value in ("nan", "1000.0")),
        (("--scores", "tsv", "--document"), "leave --document, --column and --field out"),
        (("--column", 1, "--field", "a"), "argument --field: not allowed with argument --column"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_by_name(options, told, capsys):
    assert refused("model", *options) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_a_device_that_is_not_there_is_told(model, source):
    for device in ("cuda:99", "tpv"):
        assert refused(model, source, "--device", device) == f"translate: device {device} is not on this machine"


def test_a_model_of_another_pair_or_another_vocabulary_is_refused(model, source, tmp_path, capsys):
    assert refused(model, source, "--pair", "en-fr") == f"translate: --pair en-fr: the model {model} translates en-de"
    run(model, source, "--pair", "en-de")
    others = write_translator(tmp_path / "others", sentences=[one.upper() for one in SENTENCES]).parent
    told = "translate: the dictionaries are not those that"
    assert refused(model / "model.pt", source, "--dictionaries", others / "data-bin").startswith(told)
    told = f"translate: {others / 'sentencepiece.model'}: the sentencepiece model is of another vocabulary"
    assert refused(model, source, "--sentencepiece", others / "sentencepiece.model").startswith(told)
    shutil.copy(model / "model.pt", tmp_path / "model.pt")
    assert refused(tmp_path / "model.pt", source).startswith("translate: no sentencepiece.model in ")


def fills(monkeypatch, most):
    """Let the GPU be full with batches of more than ``most`` tokens."""

    def stream(self, texts, **options):
        texts = iter(texts)
        for number, found in enumerate(whole(self, texts, **options)):
            if number == 5 and options["max_tokens"] > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield found

    whole = Translator.stream
    monkeypatch.setattr(Translator, "stream", stream)


def test_a_full_gpu_gets_smaller_batches_once(model, source, expected, capsys, monkeypatch):
    fills(monkeypatch, 1024)
    run(model, source)
    printed = capsys.readouterr()
    assert printed.out == expected
    assert printed.err.splitlines()[0] == "the GPU is full: going on with --max-tokens 1024"


def test_a_gpu_that_stays_full_is_told(model, source, capsys, monkeypatch):
    fills(monkeypatch, 100)
    told = "translate: the GPU is full with batches of 1024 tokens too: give a smaller --max-tokens, or --device cpu"
    assert refused(model, source) == told


def test_a_beam_larger_than_the_vocabulary_is_refused(model, source, capsys):
    entries = len(load_translator(model).vocabulary.target)
    told = f"translate: --beam {entries + 1}: the model's vocabulary has only {entries} entries to choose from"
    assert refused(model, source, "--beam", entries + 1) == told
    assert capsys.readouterr().out == ""


def test_a_prefix_that_cannot_begin_a_translation_is_refused(model, source):
    told = "translate: the prefix '漢' has what the model's vocabulary lacks"
    assert refused(model, source, "--prefix", "漢") == told
    long = " ".join(["queen"] * POSITIONS)
    told = rf"translate: the prefix '(queen )+\.\.\.' has \d+ tokens, and a translation at most {POSITIONS - 1}"
    assert re.fullmatch(told, refused(model, source, "--prefix", long))


def test_standard_input_is_named(model, monkeypatch):
    typed(monkeypatch, b"1\n")
    assert refused(model, "--field", "a") == "translate: standard input, line 1: no JSON object"


def test_a_format_that_does_not_tell_what_to_translate_is_refused_before_any_other_file(model, source, tmp_path):
    table = tmp_path / "table.tsv"
    table.write_text("a\tb\n")
    output = tmp_path / "output"
    assert "table.tsv: name what to translate in it by --column" in refused(model, source, table, "-o", output)
    assert not list(tmp_path.glob("output*"))
