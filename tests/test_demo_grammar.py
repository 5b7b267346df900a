"""The demo's corpus: correct German for chosen English, a function of the English, and a folder written whole."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

DEMO = Path(__file__).parents[1] / "recipes" / "demo"
SMALL = ["--train", "1500", "--valid", "40", "--test", "40"]
T = TypeVar("T")


def load() -> Any:
    """recipes/ is no package: import the demo's three modules as the script itself does, under one name."""
    sys.path.insert(0, str(DEMO))
    names: dict[str, Any] = {}
    for module in ("lexicon", "clauses", "grammar"):
        names |= vars(importlib.import_module(module))
    sys.path.remove(str(DEMO))
    return SimpleNamespace(**names)


g = load()
np, clause, pronoun, sentence = g.noun_phrase, g.clause, g.pronoun, g.sentence
old_teacher = np("the", "teacher", "old")


def because(above: Any, below: Any) -> Any:
    return sentence(g.comma(above, g.subordinate(g.Pair("because", "weil"), below)))


def relative(head: Any, case: int, below: Any) -> Any:
    """The head as a subject with a relative clause in which it has the case."""
    who = g.relative_pronoun(head)
    return g.qualified(head, g.subordinate(g.Pair(who.en_object, who.de[case]), below))


def adjectives(case: int) -> list[str]:
    phrases = [np("the", "dog", "old"), np("a", "dog", "old"), np("a", "cow", "old"), np("the", "horse", "old"),
               np("a", "horse", "old"), np("the", "dog", "old", True), np("many", "dog", "old", True)]  # fmt: skip
    return [phrase.de[case] for phrase in phrases]


def gap(kind: str) -> Any:
    return g.replace(g.GAP, kind=kind)


EXPECTED = {
    "the example: verb second, verb last, it": (
        because(
            g.fronted("time", clause(old_teacher, "buy", "past", time="yesterday", accusative=np("a", "book", "red"))),
            clause(np("his", "daughter"), "read", "wanted to", accusative=g.pronoun_for(np("a", "book"))),
        ),
        "Yesterday the old teacher bought a red book because his daughter wanted to read it.",
        "Gestern kaufte der alte Lehrer ein rotes Buch, weil seine Tochter es lesen wollte.",
    ),
    "separable in a main clause": (
        sentence(g.statement(clause(np("the", "nurse"), "call", "present", time="every day", accusative=old_teacher))),
        "The nurse calls the old teacher every day.",
        "Die Krankenschwester ruft jeden Tag den alten Lehrer an.",
    ),
    "separable in a subordinate clause, feminine it": (
        because(
            g.statement(clause(pronoun("we"), "open", "past", accusative=np("the", "box"))),
            clause(np("the", "boy", plural=True), "bring along", "past", accusative=g.pronoun_for(np("the", "box"))),
        ),
        "We opened the box because the boys brought it along.",
        "Wir machten die Kiste auf, weil die Jungen sie mitbrachten.",
    ),
    "separable with zu": (
        sentence(g.comma(
            g.statement(clause(np("my", "brother"), "forget", "perfect")),
            g.infinitive(clause(np("my", "brother"), "turn off", "can", accusative=np("the", "radio", "new"))),
        )),
        "My brother has forgotten to turn off the new radio.",
        "Mein Bruder hat vergessen, das neue Radio auszuschalten.",
    ),
    "perfect with sein, contraction, weak noun": (
        sentence(g.fronted("time", clause(
            np("many", "child", plural=True), "go", "perfect", time="today",
            company=g.preposition("with", "mit", g.DAT, np("their", "neighbour")),
            direction=g.direction(np("the", "station"), "station"),
        ))),
        "Today many children have gone to the station with their neighbour.",
        "Heute sind viele Kinder mit ihrem Nachbarn zum Bahnhof gegangen.",
    ),
    "purpose": (
        sentence(g.comma(
            g.statement(clause(pronoun("I"), "drive", "past", direction=g.direction(np("the", "city"), "city"))),
            g.infinitive(clause(pronoun("I"), "visit", "can", accusative=np("my", "sister")), purpose=True),
        )),
        "I drove to the city to visit my sister.",
        "Ich fuhr in die Stadt, um meine Schwester zu besuchen.",
    ),
    "modal, dative object": (
        sentence(g.statement(clause(np("the", "student"), "help", "must", time="tomorrow",
                                    dative=np("the", "guest", "very old", True)))),
        "The student must help the very old guests tomorrow.",
        "Der Student muss morgen den sehr alten Gästen helfen.",
    ),
    "two objects": (
        sentence(g.statement(clause(np("the", "queen"), "give", "past", dative=np("a", "child", "tired"),
                                    accusative=np("a", "apple", "fresh")))),
        "The queen gave a tired child a fresh apple.",
        "Die Königin gab einem müden Kind einen frischen Apfel.",
    ),
    "relative pronoun, accusative": (
        sentence(g.statement(clause(
            relative(np("the", "coat"), g.ACC, clause(pronoun("she"), "try on", "past", accusative=gap("clothes"))),
            "be", "past", predicate=g.predicate("too expensive"),
        ))),
        "The coat that she tried on was too expensive.",
        "Der Mantel, den sie anprobierte, war zu teuer.",
    ),
    "relative pronoun, dative plural": (
        sentence(g.statement(clause(
            relative(np("the", "guest", plural=True), g.DAT,
                     clause(pronoun("I"), "thank", "past", dative=gap("person"))),
            "arrive", "perfect", mid="just",
        ))),
        "The guests whom I thanked have just arrived.",
        "Die Gäste, denen ich dankte, sind gerade angekommen.",
    ),
    "place before object, time first": (
        sentence(g.fronted("time", clause(
            pronoun("they"), "read", "future", time="tomorrow", manner="quietly",
            place=g.location(np("the", "garden"), "garden"), accusative=np("a", "letter", "interesting"),
        ))),
        "Tomorrow they will read an interesting letter quietly in the garden.",
        "Morgen werden sie im Garten leise einen interessanten Brief lesen.",
    ),
    "question": (
        sentence(g.question(clause(np("the", "cook"), "get up", "past"), g.Pair("when", "wann")), "?"),
        "When did the cook get up?",
        "Wann stand der Koch auf?",
    ),
    "kein": (
        sentence(g.statement(clause(np("the", "girl"), "eat", "present", accusative=np("not a", "pear"),
                                    **{"not": g.Pair("not", "")}))),
        "The girl does not eat a pear.",
        "Das Mädchen isst keine Birne.",
    ),
    "particle behind a pronoun": (
        sentence(g.statement(clause(pronoun("he"), "pick up", "want to", accusative=pronoun("she"), time="today"))),
        "He wants to pick her up today.",
        "Er will sie heute abholen.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_expected_pair(name: str) -> None:
    pair, en, de = EXPECTED[name]
    assert pair == (en, de)


def test_adjective_endings() -> None:
    assert adjectives(g.NOM) == [
        "der alte Hund", "ein alter Hund", "eine alte Kuh", "das alte Pferd", "ein altes Pferd",
        "die alten Hunde", "viele alte Hunde",
    ]  # fmt: skip
    assert adjectives(g.ACC) == [
        "den alten Hund", "einen alten Hund", "eine alte Kuh", "das alte Pferd", "ein altes Pferd",
        "die alten Hunde", "viele alte Hunde",
    ]  # fmt: skip
    assert adjectives(g.DAT) == [
        "dem alten Hund", "einem alten Hund", "einer alten Kuh", "dem alten Pferd", "einem alten Pferd",
        "den alten Hunden", "vielen alten Hunden",
    ]  # fmt: skip


def pick_early(self: Any, options: Iterable[T]) -> T:
    """Draw from the first words of every list, so that the same English comes up again and again."""
    options = list(options)
    few = options if options == g.SHAPES else list(dict.fromkeys(options))[:2]
    return cast(T, self.rng.choice(few))


Narrow = type("Narrow", (g.Sampler,), {"pick": pick_early})


@pytest.mark.parametrize(("sampler", "draws", "repeats"), [(g.Sampler, 10_000, 0), (Narrow, 10_000, 500)])
def test_german_is_a_function_of_english(sampler: Any, draws: int, repeats: int) -> None:
    source = sampler(random.Random(7))
    german: dict[str, str] = {}
    for _ in range(draws):
        pair = source.draw()
        assert german.setdefault(pair.en, pair.de) == pair.de, pair.en
    assert draws - len(german) >= repeats


def test_names_are_unique() -> None:
    """No English noun, verb or adjective stands in two tables with different German."""
    nouns = [noun.en for noun in g.read_nouns()]
    verbs = [verb.en for verb, _ in g.read_verbs()]
    rows = [row for table in g.ADJECTIVE_TABLE.values() for row in g.rows(table)]
    assert len(nouns) == len(set(nouns)) and len(verbs) == len(set(verbs))
    assert len({row[0] for row in rows}) == len({tuple(row) for row in rows})
    assert 150 <= len(nouns) + len(verbs) + len(g.ADJECTIVES) + len(g.ADVERBS) <= 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "corpus"
    assert g.main([str(out), *SMALL]) == 0
    return out


def lines(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text(encoding="utf-8").splitlines()


def test_counts_lengths_and_looks(folder: Path) -> None:
    assert sorted(path.name for path in folder.parent.iterdir()) == ["corpus"]
    assert len(list(folder.iterdir())) == 6
    for split, size in (("train", 1500), ("valid", 40), ("test", 40)):
        for side in ("en", "de"):
            found = lines(folder, f"{split}.{side}")
            assert len(found) == size
            for line in found:
                assert 3 <= len(line.split()) <= 30
                assert line[0].isupper() and line[-1] in ".?" and line[-2].isalpha()
                assert "  " not in line and " ," not in line and ",," not in line
    lengths = [len(line.split()) for line in lines(folder, "train.en")]
    assert 10 <= sum(lengths) / len(lengths) <= 13


def test_splits_share_no_english_and_train_has_every_word(folder: Path) -> None:
    english = [line for split in ("train", "valid", "test") for line in lines(folder, f"{split}.en")]
    assert len(set(english)) == len(english)
    for side in ("en", "de"):
        train, test = (
            {word.strip(".,?") for line in lines(folder, f"{split}.{side}") for word in line.split()}
            for split in ("train", "test")
        )
        assert test <= train


def test_same_seed_same_corpus() -> None:
    sizes = {"train": 300, "test": 5}
    assert g.corpus(sizes, 1) == g.corpus(sizes, 1) != g.corpus(sizes, 2)


def test_second_run_keeps_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert g.main([str(folder), *SMALL]) == 0
    assert "already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("as_file", [True, False])
def test_foreign_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], as_file: bool) -> None:
    out = tmp_path / "mine"
    if not as_file:
        out.mkdir()
    notes = out if as_file else out / "notes.txt"
    notes.write_text("keep me")
    assert g.main([str(out), *SMALL]) != 0
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and str(out) in captured.err
    assert notes.read_text() == "keep me" and len(list(tmp_path.rglob("*"))) == (1 if as_file else 2)


def test_other_seed_is_refused(folder: Path) -> None:
    assert g.main([str(folder), *SMALL, "--seed", "2"]) != 0


def test_too_little_to_train_on_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert g.main([str(tmp_path / "out"), "--train", "1", "--test", "1", "--valid", "1"]) != 0
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()
