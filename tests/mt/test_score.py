"""Reading fairseq-generate's output and scoring it."""

import pytest
from sacrebleu.metrics.bleu import BLEU

from resmlp_core.files import UserError
from resmlp_mt.score import read_hypotheses, score

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


@pytest.mark.parametrize("content", ["", "D-1\t-0.1\tone is missing\n"])
def test_a_cut_off_output_is_refused(tmp_path, content):
    (tmp_path / "out").write_text(content)
    with pytest.raises(UserError, match="not a whole output"):
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


def test_scores_are_sacrebleus():
    hypotheses = ["Der alte Mann kauft ein rotes Buch.", "die Frau schläft heute im Garten."]
    references = ["Der alte Mann kauft ein Buch.", "Die Frau schläft heute im Garten."]
    result = score(hypotheses, references)
    assert result["bleu"] == BLEU().corpus_score(hypotheses, [references]).score
    lowered = [[line.lower() for line in lines] for lines in (hypotheses, references)]
    assert result["bleu_lowercase"] == pytest.approx(BLEU().corpus_score(lowered[0], [lowered[1]]).score)
    assert result["bleu"] < result["bleu_lowercase"]
    assert "case:mixed" in result["signature"] and "case:lc" in result["signature_lowercase"]


def test_a_missing_reference_is_refused_with_both_counts():
    with pytest.raises(UserError, match="2 hypotheses but 1 references"):
        score(["a", "b"], ["a"])
