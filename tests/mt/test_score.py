"""The command that scores fairseq-generate's output: how it reads that and the references, and what it prints."""

import gzip
import json
import sys
import unicodedata

import pytest

from resmlp_core.common.errors import UserError
from resmlp_mt.data.corpus import read_pairs
from resmlp_mt.data.generate_output import read_hypotheses
from resmlp_mt.data.text_lines import read_lines
from resmlp_mt.metrics import compare, other_form, score, score_tokenized
from resmlp_mt.score import main

from .scored_sentences import REFERENCES, SYSTEM

GENERATED = """S-1\tb
D-1\t-0.5\tZwei Hunde .
D-1\t-0.9\tnot the best
S-0\ta
H-0\t-0.1\t▁Ein Hund
D-0\t-0.1\tEin Hund.
D-2\t-0.2\t
"""


def test_hypotheses_come_in_the_corpuss_order_and_are_the_best(tmp_path):
    (tmp_path / "out").write_text(GENERATED)
    assert read_hypotheses(tmp_path / "out") == ["Ein Hund.", "Zwei Hunde .", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has none of fairseq-generate's D- lines"),
        ("Ein Hund.\n", "out has none .*: sacrebleu REFERENCES -i .*out scores plain text$"),
        ("D-0\t-0.1\tone\nD-3\t-0.1\tfour\n", "out lacks sentence 1: fairseq-generate has not ended, or left out"),
    ],
)
def test_what_is_not_all_of_an_output_is_refused(tmp_path, content, message):
    (tmp_path / "out").write_text(content)
    with pytest.raises(UserError, match=message):
        read_hypotheses(tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "D-0\t-0.1\t▁Ein ▁Hund\n".encode(),
            "holds pieces, not words: give fairseq-generate --remove-bpe sentencepiece",
        ),
        ("D-0\t-0.1\tKöln\n".encode("latin-1"), ", line 1: not UTF-8"),
    ],
)
def test_pieces_and_other_encodings_are_refused(tmp_path, content, message):
    (tmp_path / "out").write_bytes(content)
    with pytest.raises(UserError, match=f"out ?{message}"):
        read_hypotheses(tmp_path / "out")


def test_references_are_read_as_prepare_reads_them(tmp_path):
    for language in ("en", "de"):
        (tmp_path / f"test.{language}").write_bytes("\ufeffHallo .\r\n zwei\rdrei \nvier\n".encode())
    prepared = [target for _, target in read_pairs(tmp_path, "en", "de", "test")]
    assert read_lines(tmp_path / "test.de") == prepared == ["Hallo .", "zwei drei", "vier"]


def test_references_in_gzip_are_read_and_those_of_an_old_macintosh_refused(tmp_path):
    (tmp_path / "ref.gz").write_bytes(gzip.compress(b"a\nb\n"))
    assert read_lines(tmp_path / "ref.gz") == ["a", "b"]
    (tmp_path / "ref").write_bytes(b"a\rb\rc")
    with pytest.raises(UserError, match="ref: its lines end in CR, not in LF"):
        read_lines(tmp_path / "ref")


@pytest.mark.parametrize("decomposed", ["ref", "out"])
def test_accents_that_are_written_in_two_ways_are_told(tmp_path, monkeypatch, capsys, decomposed):
    contents = {"out": "".join(f"D-{i}\t-0.1\t{line}\n" for i, line in enumerate(SYSTEM)), "ref": "\n".join(REFERENCES)}
    for name, content in contents.items():
        form = "NFD" if name == decomposed else "NFC"
        (tmp_path / name).write_text(unicodedata.normalize(form, content), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["score", "out", "--references", "ref"])
    main()
    printed = capsys.readouterr()
    before, after = json.loads(printed.out)["bleu"], score(SYSTEM, REFERENCES)["bleu"]
    assert before < after
    assert f"BLEU is {before:.2f}, and would be {after:.2f} with references and hypotheses in NFC" in printed.err
    assert other_form(SYSTEM, REFERENCES) == ""
    assert other_form([unicodedata.normalize("NFD", line) for line in REFERENCES], ["x"] * 4) == ""


def test_the_command_prints_every_score_that_was_asked_for(tmp_path, monkeypatch, capsys):
    for name, lines in (("out", SYSTEM), ("other", REFERENCES)):
        (tmp_path / name).write_text("".join(f"D-{i}\t-0.1\t{line}\n" for i, line in enumerate(lines)))
    (tmp_path / "ref").write_text("\n".join(REFERENCES))
    monkeypatch.chdir(tmp_path)
    options = ["--tokenized", "de", "--split-compounds", "--against", "other"]
    monkeypatch.setattr("sys.argv", ["score", "out", "--references", "ref", *options])
    main()
    result = json.loads(capsys.readouterr().out)
    against = result.pop("against")
    assert result == score(SYSTEM, REFERENCES) | score_tokenized(SYSTEM, REFERENCES, "de", split_compounds=True)
    assert against == {"file": "other", **compare(SYSTEM, REFERENCES, REFERENCES)}


def test_the_command_scores_and_compares_in_the_language_that_it_is_given(tmp_path, monkeypatch, capsys):
    ours, other, references = ["今天的天气非常好我们去公园吧"], ["今天天气好"], ["今天的天气非常好我们去公园玩吧"]
    for name, lines in (("out", ours), ("other", other)):
        (tmp_path / name).write_text(f"D-0\t-0.1\t{lines[0]}\n", encoding="utf-8")
    (tmp_path / "ref").write_text(f"{references[0]}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["score", "out", "--references", "ref", "--target-lang", "zh", "--against", "other"]
    )
    main()
    against = {"file": "other", **compare(ours, other, references, "zh")}
    assert json.loads(capsys.readouterr().out) == score(ours, references, "zh") | {"against": against}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokenized", "german"], "--tokenized: Moses does not know the language german, only as, .*"),
        (["--tokenized", "de"], "--tokenized: .*sacremoses.*: pip install sacremoses"),
        (["--split-compounds"], "--split-compounds needs --tokenized LANG"),
        (["--comet"], "--comet and --sources need each other"),
        (["--sources", "ref"], "--comet and --sources need each other"),
        (["--comet", "--sources", "ref"], "--comet: .*comet.*: pip install unbabel-comet .*"),
        (["--comet", "--sources", "short"], "1 sources but 3 references"),
        (["--against", "short"], "short has none of fairseq-generate's D- lines: sacrebleu .*"),
        (["--against", "other"], "1 hypotheses of --against but 3 references"),
    ],
)
def test_options_that_cannot_be_served_are_refused(tmp_path, monkeypatch, options, message):
    contents = {"out": GENERATED, "ref": "a\nb\nc\n", "short": "a\n", "other": "D-0\t-0.1\tEin Hund.\n"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "comet", None)  # as if it were not installed
    if options == ["--tokenized", "de"]:
        monkeypatch.setitem(sys.modules, "sacremoses", None)
    monkeypatch.setattr("sys.argv", ["score", "out", "--references", "ref", *options])
    with pytest.raises(SystemExit, match=f"^score: {message}$"):
        main()
