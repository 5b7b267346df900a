"""Phrases and clauses of the demo's grammar, each built in both languages from the same choices."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from lexicon import (
    ACC,
    ADJECTIVES,
    ADVERBS,
    DAT,
    DEFINITE,
    DETERMINERS,
    HABEN,
    IRREGULAR_S,
    IT,
    MODALS,
    NOM,
    NOTHING,
    NOUNS,
    PRONOUN_TABLE,
    SEIN,
    STRONG,
    VERBS,
    WERDEN,
    Pair,
    Verb,
    rows,
    words,
)


# -------------------------------------------------------------------------------------------------- noun phrases
@dataclass(frozen=True)
class NP:
    """A noun phrase: English as subject and as object, German by case, and what others need to agree with it."""

    en: str
    en_object: str
    de: tuple[str, ...]
    agreement: int  # 0: I, 1: he, she, it, 2: we, they
    gender: str  # m, f, n; p for any plural
    kind: str
    possessive: str = ""
    pronominal: bool = False


def add_s(word: str) -> str:
    """The English -s of plurals and of the third person, on the first word: story → stories, wake up → wakes up."""
    head, *rest = word.split()
    if head in IRREGULAR_S:
        head = IRREGULAR_S[head]
    elif re.search(r"[^aeiou]y$", head):
        head = head[:-1] + "ies"
    else:
        head += "es" if re.search(r"(s|sh|ch|x)$", head) else "s"
    return " ".join([head, *rest])


def article(determiner: str, gender: str, case: int) -> tuple[str, str]:
    """The German article and the ending it leaves to the adjective: der alte, ein alter, zwei alte Männer."""
    stem, inflection = DETERMINERS[determiner]
    strong = STRONG[gender].split()[case]
    weak = "e" if gender != "p" and (case == NOM or (case == ACC and gender in "fn")) else "en"
    if inflection == "der":
        return DEFINITE[gender].split()[case], weak
    if inflection == "ein" and (gender, case) in (("m", NOM), ("n", NOM), ("n", ACC)):
        return stem, strong  # an article without an ending: the adjective must show the gender
    if inflection == "none":
        return stem, strong
    return stem + strong, strong if inflection == "viele" else weak


def noun_phrase(determiner: str, name: str, adjective: str = "", plural: bool = False) -> NP:
    """The old teacher: der alte Lehrer, den alten Lehrer, dem alten Lehrer. The adjective may be "very old"."""
    noun = NOUNS[name]
    gender = "p" if plural else noun.gender
    adverb, _, plain = adjective.rpartition(" ")
    forms = []
    for case in (NOM, ACC, DAT):
        word = noun.plural if plural or (noun.weak and case != NOM) else noun.de
        if plural and case == DAT and word[-1] not in "ns":
            word += "n"
        front, ending = article(determiner, gender, case)
        described = ADJECTIVES[plain][1] + ending if plain else ""
        forms.append(join(front, "sehr" if adverb else "", described, word))
    en = join(adjective, add_s(name) if plural else name)
    shown = {"not a": "" if plural or noun.plural == "-" else "a"}.get(determiner, determiner)
    en = join("an" if shown == "a" and en[0] in "aeiou" else shown, en)
    possessive = "their" if plural else {"m": "his", "f": "her"}.get(gender, "")
    return NP(en, en, tuple(forms), 2 if plural else 1, gender, noun.kind, possessive)


def pronoun(name: str) -> NP:
    """I, he, she, we or they; "it" here is the weather's: es."""
    if name == "it":
        return NP("it", "it", tuple(IT["n"].split()), 1, "n", "weather", pronominal=True)
    en_object, de, agreement, gender, possessive = PRONOUN_TABLE[name]
    return NP(name, en_object, tuple(de.split()), agreement, gender, "person", possessive, True)


def pronoun_for(np: NP) -> NP | None:
    """What takes up a noun phrase: the coat, it: der Mantel, er. None for das Kind, where English says he or she."""
    if np.pronominal:
        return np
    if np.gender == "p":
        return replace(pronoun("they"), kind=np.kind)
    if np.kind == "person":
        return {"m": pronoun("he"), "f": pronoun("she")}.get(np.gender)
    return NP("it", "it", tuple(IT[np.gender].split()), 1, np.gender, np.kind, pronominal=True)


def preposition(en: str, de: str, case: int, np: NP) -> Pair:
    """At the old station: am alten Bahnhof."""
    german = f"{de} {np.de[case]}"
    for contraction in rows("in dem im, in das ins, an dem am, an das ans, zu dem zum, zu der zur, von dem vom"):
        *full, short = contraction
        if german.split()[:2] == full:
            german = join(short, *german.split()[2:])
    return Pair(f"{en} {np.en_object}", german)


def location(np: NP, name: str) -> Pair:
    """In the garden: im Garten."""
    en, de, _ = NOUNS[name].where
    return preposition(en, de, DAT, np)


def direction(np: NP, name: str) -> Pair:
    """To the garden: in den Garten; to the station: zum Bahnhof."""
    de = NOUNS[name].where[2]
    return preposition("to", de, DAT if de == "zu" else ACC, np)


# --------------------------------------------------------------------------------------------------------- verbs
def english_verb(verb: Verb, tense: str, agreement: int, support: bool) -> tuple[str, str]:
    """The auxiliary, if any, and the rest: ("has", "bought"), ("", "buys"), or with do-support ("does", "buy")."""
    if tense in MODALS:
        modal, _, modal_tense = MODALS[tense][0].partition(" ")
        if not modal_tense:
            return modal, verb.en
        helper = Verb("want", "wanted", *[""] * 7) if modal == "want" else VERBS["have"]
        auxiliary, rest = english_verb(helper, modal_tense, agreement, support)
        return auxiliary, f"{rest} to {verb.en}"
    if tense == "future":
        return "will", verb.en
    if tense == "perfect":
        return ("have", "has", "have")[agreement], verb.done
    if verb.en == "be":
        return (("was", "was", "were") if tense == "past" else ("am", "is", "are"))[agreement], ""
    if support:
        return "did" if tense == "past" else ("do", "does", "do")[agreement], verb.en
    return "", verb.past if tense == "past" else add_s(verb.en) if agreement == 1 else verb.en


def german_verb(verb: Verb, tense: str, agreement: int) -> tuple[str, str, str]:
    """The finite verb, what ends the main clause, and what ends a subordinate one: ("ruft", "an", "anruft")."""
    if tense in ("present", "past"):
        if tense == "past":
            finite = verb.preterite
            if agreement == 2:
                finite += "n" if finite.endswith("e") else "en"
        elif verb.en == "be":
            finite = SEIN[agreement]
        else:
            first = verb.de.removesuffix("n") + ("" if verb.de.endswith("en") else "e")  # ich kaufe, ich füttere
            finite = (first, verb.present3, verb.de)[agreement]
        return finite, verb.particle, verb.particle + finite
    if tense == "perfect":
        finite, end = (SEIN if verb.auxiliary == "sein" else HABEN)[agreement], verb.particle + verb.participle
    else:
        finite = WERDEN[agreement] if tense == "future" else MODALS[tense][1].split()[agreement]
        end = verb.particle + verb.de
    return finite, end, f"{end} {finite}"


# ------------------------------------------------------------------------------------------------------- clauses
# English ends with manner, place and time; German has time first, and its objects as near the last verb as they can be.
ENGLISH_ORDER = words("pronoun dative accusative prepositional predicate direction benefit company manner place time")
GERMAN_ORDER = words(
    "pronoun time mid benefit place company manner dative accusative not prepositional predicate direction"
)


@dataclass(frozen=True)
class Clause:
    """A subject, a verb in a tense, and slots; `tail` follows all else in both languages, as relative clauses do."""

    subject: NP
    verb: Verb
    tense: str
    slots: dict[str, Pair] = field(default_factory=dict)
    tail: Pair = NOTHING
    object: NP | None = None  # what "it" will mean


def clause(subject: NP, verb: str, tense: str, **slots: NP | Pair | str) -> Clause:
    """A clause from explicit choices: clause(pronoun("she"), "call", "past", time="yesterday", accusative=...).

    Adverbs may be given by their English; an object that is a pronoun moves to the slot of pronouns.
    """
    filled: dict[str, Pair] = {}
    for slot, value in slots.items():
        if isinstance(value, str):
            value = ADVERBS[value]
        elif isinstance(value, NP):
            case = ACC if slot == "accusative" else DAT
            slot = "pronoun" if value.pronominal else slot
            value = Pair(value.en_object, value.de[case])
        filled[slot] = value
    return Clause(subject, VERBS[verb], tense, filled)


def without(clause: Clause, *names: str) -> Clause:
    return replace(clause, slots={slot: pair for slot, pair in clause.slots.items() if slot not in names})


def predicate(adjective: str) -> Pair:
    """Too heavy: zu schwer."""
    degree, _, plain = adjective.rpartition(" ")
    return Pair(adjective, join({"": "", "very": "sehr", "too": "zu"}[degree], ADJECTIVES[plain][0]))


def join(*words: str) -> str:
    return " ".join(word for word in words if word)


def english(clause: Clause, support: bool = False) -> tuple[str, str]:
    """The auxiliary and everything after the subject."""
    slots = clause.slots
    auxiliary, rest = english_verb(clause.verb, clause.tense, clause.subject.agreement, support or "not" in slots)
    head, _, particle = rest.rpartition(" ")
    if "pronoun" in slots and particle in ("up", "on", "off", "along"):  # pick up the boy, but pick him up
        rest = join(head, slots["pronoun"].en, particle)
        slots = without(clause, "pronoun").slots
    before = [slots[slot].en for slot in ("not", "mid") if slot in slots]
    after = [slots[slot].en for slot in ENGLISH_ORDER if slot in slots]
    return auxiliary, join(*before, rest, *after, clause.tail.en)


def german(clause: Clause) -> tuple[str, str, str, str]:
    """The finite verb, the middle field, and the end of a main and of a subordinate clause."""
    finite, end, final = german_verb(clause.verb, clause.tense, clause.subject.agreement)
    middle = join(*(clause.slots[slot].de for slot in GERMAN_ORDER if slot in clause.slots))
    return finite, middle, join(end, clause.tail.de), join(final, clause.tail.de)


def statement(clause: Clause) -> Pair:
    """The baker gets up every day: der Bäcker steht jeden Tag auf."""
    auxiliary, rest = english(clause)
    finite, middle, end, _ = german(clause)
    return Pair(join(clause.subject.en, auxiliary, rest), join(clause.subject.de[NOM], finite, middle, end))


def fronted(first: Pair | str, clause: Clause) -> Pair:
    """Something, or the slot so named, before the verb: every day the baker gets up: jeden Tag steht der Bäcker auf."""
    if isinstance(first, str):
        slot = first
        first, clause = clause.slots[slot], without(clause, slot)
    auxiliary, rest = english(clause)
    finite, middle, end, _ = german(clause)
    subject = clause.subject
    return Pair(join(first.en, subject.en, auxiliary, rest), join(first.de, finite, subject.de[NOM], middle, end))


def question(clause: Clause, asks: Pair = NOTHING) -> Pair:
    """(Why) does the baker get up: (warum) steht der Bäcker auf."""
    auxiliary, rest = english(clause, support=True)
    finite, middle, end, _ = german(clause)
    subject = clause.subject
    return Pair(join(asks.en, auxiliary, subject.en, rest), join(asks.de, finite, subject.de[NOM], middle, end))


def subordinate(first: Pair, clause: Clause) -> Pair:
    """Because the baker gets up: weil der Bäcker aufsteht. Relative pronouns too: whom we see: den wir sehen."""
    auxiliary, rest = english(clause)
    _, middle, _, final = german(clause)
    subject = clause.subject
    return Pair(join(first.en, subject.en, auxiliary, rest), join(first.de, subject.de[NOM], middle, final))


def infinitive(clause: Clause, purpose: bool = False) -> Pair:
    """To call his aunt: seine Tante anzurufen; as a purpose: um seine Tante anzurufen."""
    _, rest = english(replace(clause, tense="can"))
    _, middle, _, _ = german(clause)
    verb = clause.verb
    zu = f"{verb.particle}zu{verb.de}" if verb.particle else f"zu {verb.de}"
    return Pair(join("to", rest), join("um" if purpose else "", middle, zu, clause.tail.de))


def relative_pronoun(np: NP) -> NP:
    """The subject of a relative clause: the aunt, who: die Tante, die."""
    forms = DEFINITE[np.gender].split()
    forms[DAT] = "denen" if np.gender == "p" else forms[DAT]
    return replace(np, en="who" if np.kind == "person" else "that", en_object="whom" if np.kind == "person" else "that",
                   de=tuple(forms))  # fmt: skip


def qualified(np: NP, relative: Pair) -> NP:
    """A subject with its relative clause: the aunt who sings: die Tante, die singt."""
    return replace(np, en=f"{np.en} {relative.en}", de=(f"{np.de[NOM]}, {relative.de},", *np.de[1:]))


def comma(before: Pair, after: Pair) -> Pair:
    """Join a clause and one below it. German sets a comma on either side; `sentence` drops what doubles."""
    return Pair(join(before.en, after.en), f"{before.de}, {after.de},")


def sentence(pair: Pair, mark: str = ".") -> Pair:
    """Finish a sentence: punctuation and the capital letter."""

    def finish(text: str) -> str:
        text = re.sub(r"( *,)+", ",", text + mark)
        text = re.sub(r",(?=[.?])", "", text)
        return text[0].upper() + text[1:]

    return Pair(finish(pair.en), finish(pair.de))
