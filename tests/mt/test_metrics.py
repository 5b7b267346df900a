"""Scores of translations: sacreBLEU's, those of the historic scripts, COMET's, and the comparison of two systems."""

import sys
from types import SimpleNamespace

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from resmlp_core.common.errors import UserError
from resmlp_mt.metrics import compare, score, score_comet, score_tokenized, split

from .scored_sentences import REFERENCES, SYSTEM


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
