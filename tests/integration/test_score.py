"""Scores of what fairseq-generate printed agree with sacreBLEU's own."""

import json
import re
from unittest import mock

import pytest
import sacrebleu

from resmlp_mt.score import main

from .commands import PLUGIN, finish, in_this_process, start, texts


@pytest.fixture(scope="module")
def folder(trained, corpus, tmp_path_factory):
    """What fairseq-generate printed, every second best hypothesis mended to the reference, and what was in it."""
    folder = tmp_path_factory.mktemp("score")
    options = ("--path", trained.last, "--nbest", 2, "--beam", 2, "--remove-bpe", "sentencepiece", "--num-workers", 0)
    before = generated = in_this_process("generate", corpus.data, *PLUGIN, *options)
    references = corpus.text("test.de")
    for i in range(0, 60, 2):
        generated = re.sub(rf"(\nD-{i}\t[^\t]*\t).*", lambda d, i=i: d[1] + references[i], generated, count=1)
    hypotheses = texts(generated, "D")
    untouched = texts(before, "D")
    contents = {
        "other": before,
        "othersys": "".join(f"{untouched[i]}\n" for i in range(60)),
        "generated": generated,
        "cut": re.sub(r"\nD-59\t.*", "", generated),
        "holed": re.sub(r"\nD-30\t.*", "", generated),
        "sys": "".join(f"{hypotheses[i]}\n" for i in range(60)),
        "ref": "".join(f"{line}\n" for line in references),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def test_scores_are_sacrebleus(folder):
    ours = start("resmlp_mt.score", folder / "generated", "--references", folder / "ref")
    theirs = start("fairseq_cli.score", "--sys", folder / "sys", "--ref", folder / "ref")
    sys, ref = ((folder / name).read_text(encoding="utf-8").splitlines() for name in ("sys", "ref"))
    result = json.loads(finish(ours))
    metric = sacrebleu.BLEU()
    assert result["bleu"] == pytest.approx(metric.corpus_score(sys, [ref]).score, abs=1e-9)
    assert result["signature"] == str(metric.get_signature())
    assert result["bleu_lowercase"] == pytest.approx(sacrebleu.corpus_bleu(sys, [ref], lowercase=True).score, abs=1e-9)
    assert 20 < result["bleu"] < 90
    assert result["chrf"] == pytest.approx(sacrebleu.corpus_chrf(sys, [ref]).score, abs=1e-9)

    (bleu,) = re.findall(r"BLEU4 = ([\d.]+)", finish(theirs))
    expected = sacrebleu.corpus_bleu(sys, [ref], tokenize="none", smooth_method="none", force=True).score
    assert float(bleu) == pytest.approx(expected, abs=0.006)


def test_a_comparison_is_sacrebleus(folder):
    ours = start("resmlp_mt.score", folder / "generated", "--references", folder / "ref", "--against", folder / "other")
    systems = ("-i", folder / "othersys", folder / "sys", "-m", "bleu", "chrf")
    theirs = start("sacrebleu", folder / "ref", *systems, "--paired-bs", "--width", 6, "--format", "latex")
    against = json.loads(finish(ours))["against"]
    assert against["file"] == str(folder / "other")

    table = finish(theirs)
    rows = [r for name in ("against", "generated") for r in (against["bleu"][name], against["chrf"][name])]
    intervals = [[float(n) for n in row] for row in re.findall(r"([\d.]+) \(([\d.]+) ± ([\d.]+)\)", table)]
    assert intervals == [pytest.approx([row["score"], row["mean"], row["ci95"]], abs=1e-5) for row in rows]
    p_values = [float(p) for p in re.findall(r"\(p = ([\d.]+)\)", table)]
    assert p_values == pytest.approx([against["bleu"]["p_value"], against["chrf"]["p_value"]], abs=1e-4)


@pytest.mark.parametrize(("name", "told"), [("cut", r"\b59\b"), ("holed", "lacks sentence 30:")])
def test_an_output_that_lacks_a_sentence_is_refused(folder, name, told):
    command = ["score", str(folder / name), "--references", str(folder / "ref")]
    with mock.patch("sys.argv", command), pytest.raises(SystemExit, match=f"^score: .*{told}"):
        main()
