"""Reading fairseq-generate's output and scoring it."""

import gzip
import json
import sys
import unicodedata
from types import SimpleNamespace

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from resmlp_core.common.errors import UserError
from resmlp_mt.data.corpus import read_pairs
from resmlp_mt.score import (
    compare,
    main,
    other_form,
    read_hypotheses,
    read_lines,
    score,
    score_comet,
    score_tokenized,
    split,
)

GENERATED = """S-1\tb
D-1\t-0.5\tZwei Hunde .
D-1\t-0.9\tnot the best
S-0\ta
H-0\t-0.1\t▁Ein Hund
D-0\t-0.1\tEin Hund.
D-2\t-0.2\t
"""

SYSTEM = [
    "Die Nord-Süd-Bahn fährt z. B. um 7.30 Uhr, sagt Dr. Weber.",
    'Das "E-Mail-Programm" läuft nicht: 50% der Nutzer (etwa 1,5 Mio.) warten...',
    "Er hat's gesagt & sie glaubt's ihm – oder?",
    "Der alte, müde Hund liegt auf der A-B-C-Matte.",
]
REFERENCES = [
    "Die Nord-Süd-Strecke fährt z. B. um 7.30 Uhr ab, sagt Dr. Weber.",
    'Das "E-Mail-Programm" läuft nicht: 50 % der Nutzer (etwa 1,5 Mio.) warten …',
    "Er hat's gesagt & sie glaubt's ihm - oder nicht?",
    "Der alte, müde Hund schläft auf der A-B-C-Matte.",
]


def test_hypotheses_come_in_the_corpuss_order_and_are_the_best(tmp_path):
    (tmp_path / "out").write_text(GENERATED)
    assert read_hypotheses(tmp_path / "out") == ["Ein Hund.", "Zwei Hunde .", ""]


@pytest.mark.parametrize("content", ["", "D-1\t-0.1\tone is missing\n"])
def test_a_cut_off_output_is_refused(tmp_path, content):
    (tmp_path / "out").write_text(content)
    with pytest.raises(UserError, match="not a complete output"):
        read_hypotheses(tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "D-0\t-0.1\t▁Ein ▁Hund\n".encode(),
            "holds pieces, not words: give fairseq-generate --remove-bpe sentencepiece",
        ),
        ("D-0\t-0.1\tKöln\n".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_pieces_and_other_encodings_are_refused(tmp_path, content, message):
    (tmp_path / "out").write_bytes(content)
    with pytest.raises(UserError, match=f"out {message}"):
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


def test_scores_are_sacrebleus():
    hypotheses = ["Der alte Mann kauft ein rotes Buch.", "die Frau schläft heute im Garten."]
    references = ["Der alte Mann kauft ein Buch.", "Die Frau schläft heute im Garten."]
    result = score(hypotheses, references)
    assert result["bleu"] == BLEU().corpus_score(hypotheses, [references]).score
    lowered = [[line.lower() for line in lines] for lines in (hypotheses, references)]
    assert result["bleu_lowercase"] == pytest.approx(BLEU().corpus_score(lowered[0], [lowered[1]]).score)
    assert result["bleu"] < result["bleu_lowercase"]
    assert "case:mixed" in result["signature"] and "case:lc" in result["signature_lowercase"]
    chrf = CHRF()
    assert result["chrf"] == chrf.corpus_score(hypotheses, [references]).score
    assert result["signature_chrf"] == str(chrf.get_signature())


def test_bleu_of_a_language_without_spaces_is_on_its_own_tokens():
    hypotheses, references = ["今天的天气非常好我们去公园吧"], ["今天的天气非常好我们去公园玩吧"]
    result = score(hypotheses, references, "zh")
    assert result == score(hypotheses, references, "zh_TW")
    assert "tok:zh" in result["signature"] and "tok:zh" in result["signature_lowercase"]
    assert result["bleu"] > 70 > 1 > score(hypotheses, references)["bleu"]


def test_a_tokeniser_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "MeCab", None)
    with pytest.raises(UserError, match=r"BLEU of ja: .*pip install sacrebleu\[ja\]$"):
        score(["a"], ["a"], "ja")


def test_a_missing_reference_is_refused_with_both_counts():
    with pytest.raises(UserError, match="2 hypotheses but 1 references"):
        score(["a", "b"], ["a"])


def test_tokenized_bleu_is_what_the_historic_scripts_print():
    result = score_tokenized(SYSTEM, REFERENCES, "de", split_compounds=True)
    # tokenizer.perl 1.1 -l de on both, the second with perl's s{(\S)-(\S)}{$1 ##AT##-##AT## $2}g too, multi-bleu.perl
    assert result["bleu_tokenized"] == pytest.approx(77.071442, abs=1e-6)
    assert result["bleu_tokenized_split"] == pytest.approx(80.232719, abs=1e-6)
    assert "|tok:moses-de-sacremoses-" in result["signature_tokenized"]
    assert "-atat|smooth:none" in result["signature_tokenized_split"]
    assert "bleu_tokenized_split" not in score_tokenized(SYSTEM, REFERENCES, "de")


def test_tokenized_bleu_on_an_example_worked_by_hand():
    result = score_tokenized(["ein E-Mail-Programm ist da"], ["das E-Mail-Programm ist da"], "de", split_compounds=True)
    assert result["bleu_tokenized"] == pytest.approx(0, abs=1e-9)  # 3/4, 2/3, 1/2, 0/1, and nothing is smoothed
    assert result["bleu_tokenized_split"] == pytest.approx(100 * (7 / 8 * 6 / 7 * 5 / 6 * 4 / 5) ** (1 / 4))


def test_the_languages_abbreviations_count():
    english, german = (
        score_tokenized(["Wien bzw. Rom im Mai"], ["Wien bzw . Rom im Mai"], language) for language in ("en", "de")
    )
    assert english["bleu_tokenized"] == pytest.approx(100)
    assert german["bleu_tokenized"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("line", "apart"),
    [
        ("rich-text format", "rich ##AT##-##AT## text format"),
        ("Nord-Süd-Bahn", "Nord ##AT##-##AT## Süd ##AT##-##AT## Bahn"),
        ("A-B-C-Matte", "A ##AT##-##AT## B-C ##AT##-##AT## Matte"),  # perl's matches do not overlap
        ("A-Ö-C", "A ##AT##-##AT## Ö ##AT##-##AT## C"),  # and are of bytes
        ("a--b", "a ##AT##-##AT## -b"),
        ("- 5 -3 x- @-@", "- 5 -3 x- @ ##AT##-##AT## @"),
    ],
)
def test_compounds_come_apart_as_perl_does_it(line, apart):
    assert split(line) == apart


def test_two_systems_are_compared_in_their_order():
    better = [*REFERENCES[:3], SYSTEM[3]]
    comparison = compare(better, SYSTEM, REFERENCES)
    assert (comparison["samples"], comparison["seed"]) == (1000, "12345")
    for name in "bleu", "chrf":
        assert comparison[name]["generated"]["score"] == score(better, REFERENCES)[name]
        assert comparison[name]["against"]["score"] == score(SYSTEM, REFERENCES)[name]


def test_a_system_is_not_compared_with_itself():
    with pytest.raises(UserError, match="--against: both outputs hold the same hypotheses"):
        compare(SYSTEM, SYSTEM, REFERENCES)


def test_comet_gets_sources_hypotheses_and_references(monkeypatch):
    """unbabel-comet's models are too large for a test: this one's score is the share of its samples that are right."""
    right = {"src": "a cat", "mt": "eine Katz", "ref": "eine Katze"}
    model = SimpleNamespace(predict=lambda samples, **_: SimpleNamespace(system_score=samples.count(right) / 2))
    comet = SimpleNamespace(download_model=lambda name: f"{name}.ckpt", load_from_checkpoint={"tiny.ckpt": model}.get)
    monkeypatch.setitem(sys.modules, "comet", comet)
    result = score_comet(["eine Katz", "Hund"], ["eine Katze", "ein Hund"], ["a cat", "a dog"], "tiny")
    assert result == {"comet": 0.5, "comet_model": "tiny"}


def test_a_comet_model_that_cannot_be_had_is_told_in_one_line(monkeypatch):
    def download_model(name):
        raise KeyError(f"Model '{name}' not\nsupported")

    comet = SimpleNamespace(download_model=download_model, load_from_checkpoint=None)
    monkeypatch.setitem(sys.modules, "comet", comet)
    with pytest.raises(UserError, match=r"^--comet: none cannot be downloaded or loaded: .*'none' not.*supported.$"):
        score_comet(["a"], ["a"], ["a"], "none")


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
        (["--against", "short"], "short is not a complete output of fairseq-generate: 0 sentences have a D- line"),
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
