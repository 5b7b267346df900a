"""A small synchronous grammar of English and German, and the parallel corpus it writes.

    python recipes/demo/grammar.py OUT_DIR [--train 20000 --valid 1000 --test 1000 --seed 1]

Both languages grow from the same choices: a clause is a subject, a verb in a tense and a few named slots, and each
language puts the slots in its own order. What differs is what a translator has to learn: German keeps its finite verb
second in a main clause and last in a subordinate one, splits separable verbs, and declines articles, adjectives, nouns
and pronouns.

    Yesterday the old teacher bought a red book because his daughter wanted to read it.
    Gestern kaufte der alte Lehrer ein rotes Buch, weil seine Tochter es lesen wollte.

The German is a function of the English: every English word has one translation in its construction, "it" always means
the object of the main clause (or the weather), and "you" and tenses that look alike ("they read") do not occur.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from clauses import (
    NP,
    Clause,
    clause,
    comma,
    direction,
    fronted,
    infinitive,
    join,
    location,
    noun_phrase,
    predicate,
    preposition,
    pronoun,
    pronoun_for,
    qualified,
    question,
    relative_pronoun,
    sentence,
    statement,
    subordinate,
    without,
)
from lexicon import (
    ACC,
    BELOW,
    CASES,
    CONJUNCTIONS,
    DAT,
    DESCRIBES,
    FRAMES,
    FRONTED_MIDS,
    MANNERS,
    MIDS,
    MODALS,
    NAMES,
    NOTHING,
    NOUNS,
    PRONOUN_TABLE,
    QUESTIONS,
    TIMES,
    TOWNS,
    VERBS,
    Frame,
    Pair,
    words,
)

T = TypeVar("T")

OPEN_SLOTS = {  # the adverbials that a frame leaves room for; of two joined by "+" only one is taken
    "acc": "time+mid place manner+company benefit", "dat": "time+mid place", "give": "time+mid place",
    "none": "time+mid place manner+company", "to": "time+mid manner+company", "at": "time+mid company",
    "rise": "time+mid", "copula": "time+mid", "that": "time", "inf": "mid", "lie": "time",
}  # fmt: skip
FREQUENT = {"acc": 3, "dat": 2, "give": 3, "rise": 2, "to": 3, "at": 2, "copula": 6}  # tickets in the draw; others 1
FAVOURS = set(words("buy cook carry open close repair write draw find look_for bring_along wash clean steal"))
COLOURS = set(words("red blue green black white"))
KIN = set(words("father mother brother sister son daughter uncle aunt grandfather grandmother"))
PARENTS = {"father", "mother"}  # no plural
STRANGERS = set(words("man woman boy girl king queen policeman"))  # nobody's
PERSONAL = ("manner", ("person",))  # nobody is met slowly
ON_REQUEST = ("that", "inf", "weather", "lie")
TENSES = ["past"] * 4 + ["present"] * 3 + ["perfect"] * 3 + ["future"] * 2 + list(MODALS)
GAP = NP("", "", ("", "", ""), 1, "n", "", pronominal=True)  # the place in a relative clause that its pronoun has left


def base(tense: str) -> str:
    return MODALS[tense][2] if tense in MODALS else tense


class Sampler:
    """Draws sentences. Within one sentence no noun, verb or adjective is drawn twice."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.used: set[str] = set()

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, options: Iterable[T]) -> T:
        return self.rng.choice(list(options))

    def fresh(self, names: Iterable[str]) -> str:
        """One of the names that this sentence has not used yet."""
        names = list(names)
        name = self.pick([name for name in names if name not in self.used] or names)
        self.used.add(name)
        return name

    def adjective(self, kind: str, degrees: Sequence[str]) -> str:
        """Old, or very old; colours have no degrees."""
        name = self.fresh(DESCRIBES[kind])
        return name if name in COLOURS else join(self.pick(degrees), name)

    def noun(self, kinds: Iterable[str], owner: NP | None = None, negated: bool = False) -> tuple[NP, str]:
        """A noun phrase of one of the kinds, perhaps its owner's, and the noun in it."""
        name = self.fresh(name for kind in kinds for name in NAMES[kind])
        noun = NOUNS[name]
        plural = noun.plural != "-" and name not in PARENTS and self.chance(0.1 if noun.where else 0.3)
        owned = [owner.possessive] * 2 if owner and owner.possessive and name not in STRANGERS else []
        if name in KIN:
            choices = owned or ["the", "our" if plural else "my"]
        elif negated:
            choices = ["the", "not a"]
        elif noun.plural == "-":
            choices = ["the", ""]
        elif noun.where:
            choices = ["the", "the", "the", "two" if plural else "a"]
        else:
            choices = words("the the these some many two three" if plural else "the the a a this")
            choices += owned
        adjective = self.adjective(noun.kind, ["very", "", "", "", ""]) if self.chance(0.4) else ""
        return noun_phrase(self.pick(choices), name, adjective, plural), name

    def subject(self, pronouns: float = 0.25) -> NP:
        """A person, by noun or by pronoun; sometimes mine or ours, every or all."""
        if self.chance(pronouns):
            return pronoun(self.pick(PRONOUN_TABLE))
        if self.chance(0.75):
            return self.noun(["person"])[0]
        name = self.fresh(NAMES["person"])
        plural = name not in PARENTS and self.chance(0.3)
        choices = [] if name in STRANGERS else ["my", "our"]
        choices += [] if name in KIN else ["all" if plural else "every"]
        return noun_phrase(self.pick(choices), name, plural=plural)

    def other(self, subject: NP) -> NP:
        """A person who is not the subject, as a pronoun: him, us."""
        first = ("I", "we")
        return pronoun(self.pick(name for name in PRONOUN_TABLE if not (subject.en in first and name in first)))

    def place(self, kinds: Sequence[str], towards: bool = False) -> Pair:
        """In the garden or to the garden, in Vienna or to Vienna."""
        if "town" in kinds and self.chance(0.4):
            town = self.pick(TOWNS.values())
            return Pair(f"to {town.en}", f"nach {town.de}") if towards else Pair(f"in {town.en}", f"in {town.de}")
        np, name = self.noun(kind for kind in kinds if kind != "town")
        return direction(np, name) if towards else location(np, name)

    def adverbial(self, slot: str, frame: Frame, tense: str, subject: NP) -> Pair:
        """What fills one of the OPEN_SLOTS."""
        if slot == "place":
            return self.place(["place", "far"])
        if slot in ("benefit", "company"):
            en, de, case = ("for", "für", ACC) if slot == "benefit" else ("with", "mit", DAT)
            return preposition(en, de, case, self.noun(["person"], subject)[0])
        tables = {"time": TIMES[base(tense)], "mid": MIDS[base(tense)]}
        return self.pick((tables.get(slot) or MANNERS.get(frame.verb) or MANNERS[frame.takes]).values())

    def objects(self, frame: Frame, subject: NP, negated: bool) -> tuple[dict[str, NP | Pair | str], NP | None]:
        """The slots that the verb demands, and the object that a pronoun may take up later."""
        takes = frame.takes.rstrip("*")
        if takes == "copula":
            return {"predicate": predicate(self.adjective(subject.kind, ["", "", "very", "too"]))}, None
        if takes in ("to", "at", "lie"):
            return {"direction": self.place(frame.kinds, towards=takes == "to")}, None
        if not frame.kinds:
            return {}, None
        np, _ = self.noun(frame.kinds, subject, negated)
        if "/" in takes:
            en, de, case = takes.split("/")
            return {"prepositional": preposition(en, de, CASES[case], np)}, np
        if takes == "give":
            person = self.other(subject) if self.chance(0.3) else self.noun(["person"], subject)[0]
            return {"dative": person, "accusative": np}, np
        if np.kind == "person" and self.chance(0.2):
            np = self.other(subject)
        return {"dative" if takes == "dat" else "accusative": np}, np

    def clause(self, subject: NP, tense: str, adverbials: int = 1, takes: str = "", about: NP | None = None) -> Clause:
        """A clause with so many adverbials at most, of that frame if it is named, with that object if it is given."""
        frame = self.frame(tense, takes, about)
        kind, alone = frame.takes.rstrip("*"), frame.takes.endswith("*")
        plain = not (takes or about or tense in MODALS or kind == "copula" or subject.en.startswith(("all ", "every ")))
        negated = plain and self.chance(0.1)
        slots, target = self.objects(frame, subject, negated) if about is None else ({}, None)
        if about is not None:
            slots["dative" if kind == "dat" else "accusative"] = about
        room = [] if alone else OPEN_SLOTS.get(kind, "time+mid place").split()
        if negated:  # kein has taken the place of nicht where the object is indefinite
            no = target is not None and target.de[ACC].startswith("kein")
            slots["not"] = Pair("not", "" if no else "nicht")
        for choice in self.rng.sample(room, min(adverbials, len(room))):
            slot = self.pick(choice.split("+"))
            if (slot == "mid" and tense in MODALS) or (negated and slot != "time"):
                continue
            if (slot == "benefit" and frame.verb.replace(" ", "_") not in FAVOURS) or (slot, frame.kinds) == PERSONAL:
                continue
            slots[slot] = self.adverbial(slot, frame, tense, subject)
        return replace(clause(subject, frame.verb, tense, **slots), object=target)

    def frame(self, tense: str, takes: str, about: NP | None) -> Frame:
        """A verb and what it takes. Where its present and past look alike (they read), it is in neither."""
        simple = tense in ("present", "past")
        if about is not None:
            options = [frame for frame in FRAMES if frame.takes == (takes or "acc") and about.kind in frame.kinds]
        else:
            options = [frame for frame in FRAMES if (frame.takes == takes if takes else frame.takes not in ON_REQUEST)]
        options = [f for f in options if (f.verb != VERBS[f.verb].past if simple else f.takes != "copula")]
        if tense in MODALS:  # one does not try to know
            options = [frame for frame in options if frame.takes != "acc*"]
        verb = self.fresh(frame.verb for frame in options for _ in range(FREQUENT.get(frame.takes, 1)))
        return self.pick(frame for frame in options if frame.verb == verb)

    def relative(self, np: NP, tense: str) -> Pair:
        """Who lives in Vienna; whom the king thanked; that is too heavy; that she bought yesterday."""
        who, tense, shape = relative_pronoun(np), self.pick(BELOW[base(tense)]), self.rng.random()
        if np.kind == "person" and shape < 0.6:
            return subordinate(NOTHING, self.clause(who, tense, self.pick([0, 1])))
        if np.kind != "person" and shape < 0.4:
            tense = "past" if base(tense) == "past" else "present"
            takes = "lie" if np.kind in ("text", "press", "clothes") and shape < 0.2 else "copula"
            return subordinate(NOTHING, self.clause(who, tense, 0, takes))
        takes = "dat" if np.kind == "person" and shape < 0.8 else "acc"
        inner = self.clause(self.subject(0.4), tense, self.pick([0, 0, 1]), takes, replace(GAP, kind=np.kind))
        return subordinate(Pair(who.en_object, who.de[DAT if takes == "dat" else ACC]), inner)

    def main(self, subject: NP, tense: str, adverbials: int = 1, takes: str = "") -> tuple[Pair, Clause]:
        """A main clause, perhaps with an adverbial in front and a relative clause on its subject or its object."""
        kept = subject
        if not subject.pronominal and not takes and self.chance(0.12):
            relative = self.relative(subject, tense)
            kept = qualified(subject, relative)
        inner = self.clause(kept, tense, adverbials, takes)
        first = [slot for slot in ("time", "place", "mid") if slot in inner.slots and self.chance(0.6)]
        first = [slot for slot in first if slot != "mid" or inner.slots[slot].en in FRONTED_MIDS][:1]
        # In English the object must come last to have a relative clause: what follows would seem to belong to that.
        last = {"accusative", "dative", "prepositional", "pronoun", "mid", "not", *first}.issuperset(inner.slots)
        if inner.object and not inner.object.pronominal and last and kept is subject and self.chance(0.3):
            relative = self.relative(inner.object, tense)
            inner = replace(inner, tail=Pair(relative.en, f", {relative.de},"), object=None)
        return fronted(first[0], inner) if first else statement(inner), inner

    def dependent(self, above: Clause, subject: NP, tense: str) -> Pair:
        """A subordinate clause below a main clause; its pronouns take up the main clause's subject and object."""
        tense, conjunctions = self.pick(BELOW[base(tense)]), CONJUNCTIONS[base(tense)]
        first, simple = self.pick(conjunctions.values()), "past" if base(tense) == "past" else "present"
        he, it = pronoun_for(subject), pronoun_for(above.object) if above.object else None
        if it and it.kind != "person" and self.chance(0.3):  # because it was cheap
            return subordinate(conjunctions[self.pick(["because", "although"])], self.clause(it, simple, 0, "copula"))
        if self.chance(0.08):
            return subordinate(first, self.clause(pronoun("it"), simple, 0, "weather"))
        if he is None or self.chance(0.35):
            he = self.subject(0)
        if it and self.chance(0.5):
            return subordinate(first, self.clause(he, tense, 0, "", it))
        return subordinate(first, self.clause(he, tense, self.pick([0, 1])))

    def bare(self, subject: NP) -> Clause:
        """The clause below "to": no time of its own."""
        return without(self.clause(subject, "can"), "time")

    def draw(self) -> Pair:
        """A sentence."""
        self.used.clear()
        return sentence(*getattr(self, self.pick(SHAPES))(self.subject(), self.pick(TENSES)))

    def simple(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """Tomorrow the nurse will call her aunt."""
        return self.main(subject, tense, self.pick([0, 1, 1, 2]))[0], "."

    def below(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """The cook bought the apples because they were cheap."""
        pair, above = self.main(subject, tense, self.pick([0, 1]))
        return comma(pair, self.dependent(above, subject, tense)), "."

    def above(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """If it snows, the farmer will stay in the village."""
        first, low = self.pick(CONJUNCTIONS[base(tense)].values()), self.pick(BELOW[base(tense)])
        if self.chance(0.2):
            early = self.clause(pronoun("it"), "past" if base(low) == "past" else "present", 0, "weather")
            later = subject
        else:
            early = self.clause(subject, low, self.pick([0, 1]))
            later = pronoun_for(subject) or self.subject(0)
            later = later if self.chance(0.6) else self.subject(0)
        opening = subordinate(first, early)
        return fronted(Pair(f"{opening.en},", f"{opening.de},"), self.clause(later, tense, self.pick([0, 1]))), "."

    def reported(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """The gardener noticed that a boy fed the rabbit."""
        tense = self.pick(["past", "present"])
        inner = self.pick(("past past could" if tense == "past" else "present perfect future can must").split())
        who = pronoun_for(subject) if self.chance(0.4) else None
        pair, _ = self.main(subject, tense, self.pick([0, 0, 1]), "that")
        return comma(pair, subordinate(Pair("that", "dass"), self.clause(who or self.subject(0.1), inner))), "."

    def effort(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """My brother forgot to turn off the radio."""
        pair, _ = self.main(subject, tense, self.pick([0, 0, 1]), "inf")
        return comma(pair, infinitive(self.bare(subject))), "."

    def purpose(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """The queen drove to the coast to visit her sister."""
        pair, _ = self.main(subject, tense, 1, "to")
        return comma(pair, infinitive(self.bare(subject), purpose=True)), "."

    def asked(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """When did the guests arrive?"""
        subject = pronoun("we") if subject.en == "I" else subject
        inner = self.clause(subject, tense, self.pick([0, 1, 2]))
        asks = self.pick([NOTHING] * 3 + list(QUESTIONS.values()))
        if asks.en:
            inner = without(inner, "time", "mid")
        return question(inner, asks), "?"

    def joined(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """My uncle was tired, so he slept: two main clauses."""
        one, first = self.main(subject, tense, 1)
        who = pronoun_for(subject) if self.chance(0.3) else None
        it = pronoun_for(first.object) if first.object and self.chance(0.3) else None
        two = self.clause(who or self.subject(0), tense, 0, "", it)
        link = self.rng.random()
        if link < 0.3:  # deshalb is an adverb: the verb follows it
            then = fronted(Pair("so", "deshalb"), two)
            return Pair(f"{one.en}, {then.en}", f"{one.de}, {then.de}"), "."
        then = statement(two)
        if link < 0.65:
            return Pair(f"{one.en}, and {then.en}", f"{one.de} und {then.de}"), "."
        return Pair(f"{one.en}, but {then.en}", f"{one.de}, aber {then.de}"), "."

    def things(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """These novels are very long."""
        kinds, takes = self.pick([("text press clothes", "lie"), ("thing device vehicle text food", "copula")])
        np, _ = self.noun(kinds.split())
        if takes == "copula" and self.chance(0.7):
            relative = self.relative(np, "past")
            np = qualified(np, relative)
        return statement(self.clause(np, self.pick(["present", "past"]), 0, takes)), "."


SHAPES = words(
    "simple simple simple simple simple simple below below below below above above joined joined "
    "reported reported effort effort purpose asked asked asked things"
)


LENGTHS = range(3, 31)  # words on either side
PATIENCE = 5_000  # draws without a new sentence before we say so


def corpus(sizes: dict[str, int], seed: int) -> dict[str, list[Pair]]:
    """The splits, training first. No English sentence occurs twice, and the later splits hold no unseen word."""
    sampler, seen, known = Sampler(random.Random(seed)), set[str](), set[str]()
    splits: dict[str, list[Pair]] = {}
    for split, size in sizes.items():
        lines = splits.setdefault(split, [])
        draws = 0
        while len(lines) < size:
            draws += 1
            if draws > PATIENCE:
                raise ValueError(f"no new {split} sentence in {PATIENCE} draws: ask for fewer, or for more to train on")
            pair = sampler.draw()
            vocabulary = {word for text in pair for word in re.findall(r"\w+", text)}
            fits = all(len(text.split()) in LENGTHS for text in pair)
            if not fits or pair.en in seen or (len(splits) > 1 and not vocabulary <= known):
                continue
            draws = 0
            seen.add(pair.en)
            lines.append(pair)
            if len(splits) == 1:
                known |= vocabulary
    return splits


def files(splits: dict[str, list[Pair]]) -> dict[str, bytes]:
    """What the folder holds, by file name."""
    return {
        f"{split}.{side}": "".join(f"{getattr(pair, side)}\n" for pair in lines).encode()
        for split, lines in splits.items()
        for side in Pair._fields
    }


def write(folder: Path, contents: dict[str, bytes]) -> bool:
    """Write the folder completely or not at all; False if it is there already, just so."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if all((folder / name).is_file() and (folder / name).read_bytes() == text for name, text in contents.items()):
            return False
        raise FileExistsError(f"{folder} exists and is not this corpus; name another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        whole = Path(beside) / folder.name
        whole.mkdir()
        for name, text in contents.items():
            (whole / name).write_bytes(text)
        whole.rename(folder)
    return True


def positive(text: str) -> int:
    """A count of sentences."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write an English-German corpus from a small grammar.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder to make")
    for split, size in (("train", 20000), ("valid", 1000), ("test", 1000)):
        text = f"{split} sentences (default {size})"
        parser.add_argument(f"--{split}", type=positive, default=size, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=1, help="another seed, another corpus (default 1)")
    args = parser.parse_args(argv)
    sizes = {split: getattr(args, split) for split in ("train", "valid", "test")}
    try:
        fresh = write(args.out, files(corpus(sizes, args.seed)))
    except (OSError, ValueError) as error:
        print(f"grammar.py: {error}", file=sys.stderr)
        return 1
    counts = ", ".join(f"{size} {split}" for split, size in sizes.items())
    print(f"{args.out}: {counts} pairs" if fresh else f"{args.out}: {counts} pairs, there already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
