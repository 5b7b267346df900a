"""Cleaning: which training pairs each rule leaves out, and what the report says of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from resmlp_core.common.errors import UserError
from resmlp_mt.data.cleaning import Duplicates, Rules, badly_encoded
from resmlp_mt.data.normalization import NORMALIZATIONS, normalizer
from resmlp_mt.prepare import main
from resmlp_mt.text import has_text


@pytest.mark.parametrize(
    ("rules", "source", "target", "broken"),
    [
        (Rules(), "a", "", "empty"),
        (Rules(), "a b c", "x", None),
        (Rules(max_words=2), "a b", "x y", None),
        (Rules(max_words=2), "a b", "x y z", "max_words"),
        (Rules(max_words=2, max_chars=4), "ab", "wxyz", None),
        (Rules(max_words=2, max_chars=4), "ab", "wxyzä", "max_chars"),
        (Rules(max_chars=4), "abcde", "x", "max_chars"),
        (Rules(max_ratio=1.5), "a b c", "x y", None),
        (Rules(max_ratio=1.5), "a b c d", "x y", "max_ratio"),
        (Rules(max_ratio=1.5), "a b", "w x y z", "max_ratio"),
        (Rules(drop_identical=True), "Berlin", "BERLIN", "identical"),
        (Rules(), "Berlin", "Berlin", None),
        (Rules(drop_bad_encoding=True), "fine", "sch\ufffdn", "bad_encoding"),
        (Rules(), "fine", "sch\ufffdn", None),
        (Rules(drop_identical=True), "ﬁne  …", "Fine ...", "identical"),
        (Rules(max_words=2), "a\u200bb c", "x", "max_words"),
        (Rules(max_words=2), "a\u3000b", "x y", None),
        (Rules(max_ratio=2), "a", "x\u200by\ufeffz", "max_ratio"),
    ],
)
def test_each_rule(rules: Rules, source: str, target: str, broken: str | None) -> None:
    seen = normalizer("nmt_nfkc")
    assert rules.broken_by((source, target), (seen(source), seen(target))) == broken


INVISIBLE = ["\u200b", "\u200e", "\ufeff", "\x01", "\x7f", "\x85", "\u2028 \u00a0", "\u2581", "\u00ad", "\u2060", "\0"]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("text", INVISIBLE)
def test_what_has_nothing_to_be_seen_is_empty(normalization: str, text: str) -> None:
    seen = normalizer(normalization)
    assert Rules().broken_by((text, "x"), (seen(text), seen("x"))) == "empty"
    assert Rules().broken_by(("x", f"{text}x"), (seen("x"), seen(f"{text}x"))) is None
    assert not has_text(text.replace("\u2581", " "))


@given(st.text())
def test_a_text_is_seen_as_sentencepiece_normalises_it(text: str) -> None:
    whole = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc").normalize(text)
    assert normalizer("nmt_nfkc")(text) == whole.replace("▁", " ").strip()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"max_words": 0}, "max_words=0 must be a positive integer"),
        ({"max_words": -3}, "max_words=-3 must be a positive integer"),
        ({"max_words": "many"}, "max_words=many must be a positive integer"),
        ({"max_chars": True}, "max_chars=True must be a positive integer"),
        ({"max_ratio": 0.5}, "max_ratio=0.5 must be a number of at least 1"),
        ({"max_ratio": float("nan")}, "max_ratio=nan must be a number of at least 1"),
        ({"max_ratio": "2:1"}, "max_ratio=2:1 must be a number of at least 1"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(rules: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Rules(**rules)


def test_the_command_refuses_it_in_one_line(tmp_path: Path) -> None:
    line = ["--data", str(tmp_path), "--source-lang", "en", "--target-lang", "de", "--vocab-size", "60"]
    with pytest.raises(SystemExit) as caught:
        main([*line, "--out", str(tmp_path / "out"), "--max-ratio", "nan"])
    assert caught.value.code == "prepare: max_ratio=nan must be a number of at least 1"
    assert not (tmp_path / "out").exists()


@given(st.text("äöüßÖÜéèêàâçœôîïûÉ", min_size=1), st.text("–—„“”‘’«»…€", min_size=1))
def test_utf8_that_was_read_as_windows_1252_is_known_by_its_looks(letters: str, signs: str) -> None:
    assert not badly_encoded(f"so {letters} {signs} geht")
    for character in letters + signs:
        try:
            mangled = character.encode().decode("cp1252")
        except UnicodeDecodeError:
            continue  # five bytes stand for nothing there
        assert badly_encoded(f"so {mangled}e geht") and badly_encoded(f"«gro{mangled}»")


@pytest.mark.parametrize(
    "text",
    [
        *("l'œil à l’été", "jusqu'à\xa0» puis", "ÉTÉ «", "日本語", "ab\tcd", "Здравствуйте", "İstanbul"),
        *("«BLÅ»", "”NEJ TILL EU PÅ”", "5 Å–10 Å", "„Ä“", "«CAFFÈ»", "“KILIÇ”", "DET ER EN KNÆ”"),
    ],
)
def test_what_is_rightly_encoded_stays(text: str) -> None:
    assert not badly_encoded(text)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y\nz"]))))
def test_duplicates_are_those_of_a_set(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    duplicates, seen, expected = Duplicates(tmp_path_factory.mktemp("digests")), set(), []
    for pair in pairs:
        duplicates.add(*pair)
        expected.append(pair in seen)
        seen.add(pair)
    assert np.array_equal(duplicates.find(), expected)


def test_the_command_cleans_train_alone_and_reports_each_rule(tmp_path: Path) -> None:
    words = [f"word{i} of sentence {i}" for i in range(300)]
    pairs = [(line, line[::-1]) for line in words]
    bad = [
        ("", "x"),
        ("a b c d e f g", "x"),
        ("same", "Same"),
        ("Ã¤", "x"),
        pairs[7],
        pairs[7],
        (" ".join("abcdefghijk"), "x"),
        ("x", "z" * 60_000),
        ("\u200b", "x"),
        ("x", "\x01"),
        (f"{pairs[7][0]}\u200e", pairs[7][1].replace(" ", "\u00a0")),
    ]
    data = tmp_path / "data"
    data.mkdir()
    for name, rows in (("train", [*pairs, *bad]), ("valid", bad), ("test", bad)):
        for lang, side in zip(("en", "de"), zip(*rows, strict=True), strict=True):
            (data / f"{name}.{lang}").write_text("".join(line + "\n" for line in side), encoding="utf-8")
    with (data / "train.en").open("ab") as source, (data / "train.de").open("a") as target:
        source.write("verr\xfcckt\n".encode("latin-1"))
        target.write("crazy\n")
    out = tmp_path / "out"
    line = ["--data", str(data), "--source-lang", "en", "--target-lang", "de", "--vocab-size", "60", "--out", str(out)]
    with pytest.raises(SystemExit, match=r"train.en, line 312: not UTF-8"):
        main(line)
    limits = ["--max-words", "10", "--max-chars", "1000", "--max-ratio", "4"]
    main([*line, *limits, "--drop-identical", "--drop-bad-encoding", "--drop-duplicates"])
    report = json.loads((out / "prepare.json").read_text())["text"]
    limits_broken = {"max_words": 1, "max_chars": 1, "max_ratio": 1}
    dropped = {"empty": 3, **limits_broken, "identical": 1, "bad_encoding": 2, "duplicates": 3}
    assert report["train"] == {"read": 312, "kept": 300, "dropped": dropped}
    assert report["valid"] == {"read": 11, "kept": 11, "dropped": {}}
    assert (out / "text" / "train.en").read_text().splitlines() == words
    with pytest.raises(SystemExit, match="was prepared with max_words=10, not None"):
        main(line)
