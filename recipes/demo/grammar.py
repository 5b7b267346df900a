"""A small synchronous grammar of English and German, and the parallel corpus it writes.

    python recipes/demo/grammar.py OUT_DIR [--train 20000 --valid 1000 --test 1000 --seed 1]

Both languages grow from the same choices: a clause is a subject, a verb in a tense and a few named slots, and each language
puts the slots in its own order. What differs is what a translator has to learn: German keeps its finite verb second in a main
clause and last in a subordinate one, splits separable verbs, and declines articles, adjectives, nouns and pronouns.

    Yesterday the old teacher bought a red book because his daughter wanted to read it.
    Gestern kaufte der alte Lehrer ein rotes Buch, weil seine Tochter es lesen wollte.

The German is a function of the English: every English word has one translation in its construction, "it" always means the
object of the main clause, "you" and tenses that look alike ("they read") do not occur.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")
NOM, ACC, DAT = range(3)  # the cases, as indices
CASES = {"acc": ACC, "dat": DAT}


class Pair(NamedTuple):
    """A stretch of English and its German."""

    en: str
    de: str


class Noun(NamedTuple):
    """`weak` masculines add -n outside the nominative; `where`: English and German "in", and German "to", for a place."""

    en: str
    gender: str
    de: str
    plural: str
    weak: bool
    kind: str
    where: tuple[str, ...]


class Verb(NamedTuple):
    """Principal parts in both languages; `auxiliary` is haben or sein, `particle` is what separates, as in an|rufen."""

    en: str
    past: str
    done: str
    particle: str
    de: str
    present3: str
    preterite: str
    participle: str
    auxiliary: str


class Frame(NamedTuple):
    """One way to use a verb: what it takes, and the kinds of noun that fit."""

    verb: str
    takes: str
    kinds: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------------- lexicon
# English, gender (mw, nw: see Noun.weak), German singular and plural ("-": has none). "_" stands for a space.
NOUN_TABLE = {
    "person": "teacher m Lehrer Lehrer, doctor m Arzt Ärzte, man m Mann Männer, boy mw Junge Jungen, father m Vater Väter, "
    "brother m Bruder Brüder, son m Sohn Söhne, uncle m Onkel Onkel, grandfather m Großvater Großväter, cook m Koch Köche, "
    "farmer mw Bauer Bauern, neighbour mw Nachbar Nachbarn, student mw Student Studenten, policeman mw Polizist Polizisten, "
    "baker m Bäcker Bäcker, painter m Maler Maler, gardener m Gärtner Gärtner, king m König Könige, friend m Freund Freunde, "
    "colleague mw Kollege Kollegen, guest m Gast Gäste, woman f Frau Frauen, mother f Mutter Mütter, sister f Schwester "
    "Schwestern, daughter f Tochter Töchter, aunt f Tante Tanten, grandmother f Großmutter Großmütter, queen f Königin "
    "Königinnen, actress f Schauspielerin Schauspielerinnen, waitress f Kellnerin Kellnerinnen, nurse f Krankenschwester "
    "Krankenschwestern, child n Kind Kinder, girl n Mädchen Mädchen",
    "text": "book n Buch Bücher, letter m Brief Briefe, novel m Roman Romane, story f Geschichte Geschichten, poem n Gedicht "
    "Gedichte",
    "press": "newspaper f Zeitung Zeitungen, magazine f Zeitschrift Zeitschriften, map f Landkarte Landkarten",
    "food": "apple m Apfel Äpfel, cake m Kuchen Kuchen, pear f Birne Birnen, tomato f Tomate Tomaten, biscuit m Keks Kekse, "
    "strawberry f Erdbeere Erdbeeren, cheese m Käse -, bread n Brot -, butter f Butter -",
    "dish": "soup f Suppe Suppen, potato f Kartoffel Kartoffeln, egg n Ei Eier, sausage f Wurst Würste, carrot f Karotte "
    "Karotten, rice m Reis -",
    "drink": "milk f Milch -, water n Wasser -, coffee m Kaffee -, tea m Tee -, juice m Saft -",
    "clothes": "coat m Mantel Mäntel, dress n Kleid Kleider, shirt n Hemd Hemden, hat m Hut Hüte, skirt m Rock Röcke, jacket f "
    "Jacke Jacken, scarf m Schal Schals, shoe m Schuh Schuhe",
    "thing": "bag f Tasche Taschen, ring m Ring Ringe, watch f Uhr Uhren, umbrella m Regenschirm Regenschirme, key m Schlüssel "
    "Schlüssel, picture n Bild Bilder, cup f Tasse Tassen, plate m Teller Teller, knife n Messer Messer, flower f Blume Blumen, "
    "gift n Geschenk Geschenke, ball m Ball Bälle, chair m Stuhl Stühle, guitar f Gitarre Gitarren",
    "openable": "door f Tür Türen, window n Fenster Fenster, box f Kiste Kisten, suitcase m Koffer Koffer, gate n Tor Tore, "
    "bottle f Flasche Flaschen, drawer f Schublade Schubladen",
    "device": "lamp f Lampe Lampen, computer m Computer Computer, radio n Radio Radios, television m Fernseher Fernseher, camera "
    "f Kamera Kameras, heater f Heizung Heizungen",
    "vehicle": "bus m Bus Busse, train m Zug Züge, taxi n Taxi Taxis, ship n Schiff Schiffe, car n Auto Autos, bicycle n Fahrrad "
    "Fahrräder",
    "animal": "dog m Hund Hunde, cat f Katze Katzen, horse n Pferd Pferde, bird m Vogel Vögel, cow f Kuh Kühe, rabbit n Kaninchen "
    "Kaninchen",
    # Places add how they say "in" (English, German with dative) and how German says "to".
    "place": "garden m Garten Gärten in in in, kitchen f Küche Küchen in in in, school f Schule Schulen in in in, station m "
    "Bahnhof Bahnhöfe at an zu, restaurant n Restaurant Restaurants in in in, park m Park Parks in in in, museum n Museum Museen "
    "in in in, hotel n Hotel Hotels in in in, library f Bibliothek Bibliotheken in in in, office n Büro Büros in in in, theatre n "
    "Theater Theater in in in, church f Kirche Kirchen in in in, market m Markt Märkte at auf auf, hospital n Krankenhaus "
    "Krankenhäuser in in in, bridge f Brücke Brücken on auf zu, airport m Flughafen Flughäfen at an zu, forest m Wald Wälder in "
    "in in, café n Café Cafés in in in",
    "far": "city f Stadt Städte in in in, village n Dorf Dörfer in in in, coast f Küste Küsten on an an, lake m See Seen at an an, "
    "farm m Bauernhof Bauernhöfe on auf auf, island f Insel Inseln on auf auf, river m Fluss Flüsse by an an",
    "surface": "table m Tisch Tische on auf auf, bed n Bett Betten on auf auf, shelf n Regal Regale on auf auf",
}
# English, German when it stands alone, and the stem that takes endings where that differs.
ADJECTIVE_TABLE = {
    "person": "old alt, young jung, friendly freundlich, tired müde müd, happy glücklich, sad traurig, poor arm, rich reich, "
    "clever klug, famous berühmt, polite höflich, curious neugierig, hungry hungrig, nervous nervös, brave mutig, ill krank, "
    "tall groß, strong stark",
    "thing": "old alt, new neu, beautiful schön, expensive teuer teur, cheap billig, big groß, small klein, heavy schwer, red rot, "
    "blue blau, green grün, black schwarz, white weiß, dirty schmutzig, wet nass, light leicht",
    "text": "old alt, new neu, long lang, short kurz, interesting interessant, boring langweilig, famous berühmt, beautiful schön, "
    "funny lustig, difficult schwierig",
    "food": "fresh frisch, hot heiß, cold kalt, delicious lecker, warm warm, expensive teuer teur, cheap billig, good gut",
    "animal": "old alt, young jung, small klein, big groß, black schwarz, white weiß, wild wild, hungry hungrig, beautiful schön",
    "place": "old alt, new neu, small klein, big groß, beautiful schön, quiet ruhig, famous berühmt, dark dunkel dunkl, modern "
    "modern",
}
ADJECTIVE_KIND = {"person": "person", "text": "text", "press": "text", "food": "food", "dish": "food", "drink": "food",
                  "animal": "animal", "place": "place", "far": "place"}  # fmt: skip  # otherwise "thing"

# English base, past, participle : German infinitive, he-present, he-preterite, participle (* with sein) : frames.
# acc, dat, give (a person something), to (a place), at (a place), none, rise (no place), inf, that; acc* has no adverbials;
# for/auf/acc is a preposition in both languages and the German case.
VERB_TABLE = """
be was been : sein ist war *gewesen : copula
buy bought bought : kaufen kauft kaufte gekauft : acc text press food dish drink clothes thing device vehicle animal
sell sold sold : verkaufen verkauft verkaufte verkauft : acc text press food drink clothes thing device vehicle animal
find found found : finden findet fand gefunden : acc text press clothes thing animal
lose lost lost : verlieren verliert verlor verloren : acc text clothes thing
look_for looked_for looked_for : suchen sucht suchte gesucht : acc text press clothes thing animal person
carry carried carried : tragen trägt trug getragen : acc thing device
take_along took_along taken_along : mit|nehmen nimmt nahm genommen : acc text press food clothes thing device
bring_along brought_along brought_along : mit|bringen bringt brachte gebracht : acc text press food drink clothes thing device
read read read : lesen liest las gelesen : acc text press
write wrote written : schreiben schreibt schrieb geschrieben : acc text
eat ate eaten : essen isst aß gegessen : acc food dish
drink drank drunk : trinken trinkt trank getrunken : acc drink
cook cooked cooked : kochen kocht kochte gekocht : acc dish
open opened opened : auf|machen macht machte gemacht : acc openable
close closed closed : zu|machen macht machte gemacht : acc openable
turn_on turned_on turned_on : ein|schalten schaltet schaltete geschaltet : acc device
turn_off turned_off turned_off : aus|schalten schaltet schaltete geschaltet : acc device
clean cleaned cleaned : putzen putzt putzte geputzt : acc openable vehicle device
repair repaired repaired : reparieren repariert reparierte repariert : acc device vehicle openable
try_on tried_on tried_on : an|probieren probiert probierte probiert : acc clothes
hide hid hidden : verstecken versteckt versteckte versteckt : acc text clothes thing
steal stole stolen : stehlen stiehlt stahl gestohlen : acc text clothes thing vehicle animal
need needed needed : brauchen braucht brauchte gebraucht : acc* clothes thing device vehicle
have had had : haben hat hatte gehabt : acc* clothes thing vehicle animal
forget forgot forgotten : vergessen vergisst vergaß vergessen : acc* clothes thing text; inf
draw drew drawn : zeichnen zeichnet zeichnete gezeichnet : acc animal thing
feed fed fed : füttern füttert fütterte gefüttert : acc animal
wash washed washed : waschen wäscht wusch gewaschen : acc clothes vehicle
visit visited visited : besuchen besucht besuchte besucht : acc person
see saw seen : sehen sieht sah gesehen : acc person animal
meet met met : treffen trifft traf getroffen : acc person
call called called : an|rufen ruft rief gerufen : acc person
invite invited invited : ein|laden lädt lud geladen : acc person
pick_up picked_up picked_up : ab|holen holt holte geholt : acc person
greet greeted greeted : begrüßen begrüßt begrüßte begrüßt : acc person
ask asked asked : fragen fragt fragte gefragt : acc person
wake_up woke_up woken_up : auf|wecken weckt weckte geweckt : acc person
hug hugged hugged : umarmen umarmt umarmte umarmt : acc person
know knew known : kennen kennt kannte gekannt : acc* person
love loved loved : lieben liebt liebte geliebt : acc* person animal
understand understood understood : verstehen versteht verstand verstanden : acc* person text
help helped helped : helfen hilft half geholfen : dat person
thank thanked thanked : danken dankt dankte gedankt : dat person
follow followed followed : folgen folgt folgte *gefolgt : dat person animal vehicle
answer answered answered : antworten antwortet antwortete geantwortet : dat person
listen_to listened_to listened_to : zu|hören hört hörte gehört : dat person
congratulate congratulated congratulated : gratulieren gratuliert gratulierte gratuliert : dat person
give gave given : geben gibt gab gegeben : give text food clothes thing device
show showed shown : zeigen zeigt zeigte gezeigt : give text press clothes thing device vehicle animal
send sent sent : schicken schickt schickte geschickt : give text press clothes thing
lend lent lent : leihen leiht lieh geliehen : give text clothes thing device vehicle
bring brought brought : bringen bringt brachte gebracht : give text press food drink clothes thing
wait waited waited : warten wartet wartete gewartet : none; for/auf/acc person vehicle
think thought thought : denken denkt dachte gedacht : of/an/acc person animal
talk talked talked : sprechen spricht sprach gesprochen : about/über/acc person text animal
dream dreamed dreamed : träumen träumt träumte geträumt : of/von/dat thing animal vehicle
laugh laughed laughed : lachen lacht lachte gelacht : none; at/über/acc person text
play played played : spielen spielt spielte gespielt : none; with/mit/dat animal
work worked worked : arbeiten arbeitet arbeitete gearbeitet : none
sleep slept slept : schlafen schläft schlief geschlafen : none
dance danced danced : tanzen tanzt tanzte getanzt : none
sing sang sung : singen singt sang gesungen : none
swim swam swum : schwimmen schwimmt schwamm *geschwommen : rise
cry cried cried : weinen weint weinte geweint : none
shop shopped shopped : ein|kaufen kauft kaufte gekauft : rise
get_up got_up got_up : auf|stehen steht stand *gestanden : rise
fall_asleep fell_asleep fallen_asleep : ein|schlafen schläft schlief *geschlafen : rise
arrive arrived arrived : an|kommen kommt kam *gekommen : rise
come_back came_back come_back : zurück|kommen kommt kam *gekommen : rise
go went gone : gehen geht ging *gegangen : to place
run ran run : laufen läuft lief *gelaufen : to place
hurry hurried hurried : eilen eilt eilte *geeilt : to place
hike hiked hiked : wandern wandert wanderte *gewandert : to far
drive drove driven : fahren fährt fuhr *gefahren : to far town
travel travelled travelled : reisen reist reiste *gereist : to far town
return returned returned : zurück|kehren kehrt kehrte *gekehrt : to far town
live lived lived : wohnen wohnt wohnte gewohnt : at* far town
stay stayed stayed : bleiben bleibt blieb *geblieben : at place far town
sit sat sat : sitzen sitzt saß gesessen : at place
stand stood stood : stehen steht stand gestanden : at place
lie lay lain : liegen liegt lag gelegen : lie surface
say said said : sagen sagt sagte gesagt : that
believe believed believed : glauben glaubt glaubte geglaubt : that
hope hoped hoped : hoffen hofft hoffte gehofft : that; inf
notice noticed noticed : bemerken bemerkt bemerkte bemerkt : that
try tried tried : versuchen versucht versuchte versucht : inf
decide decided decided : beschließen beschließt beschloss beschlossen : inf
promise promised promised : versprechen verspricht versprach versprochen : inf
begin began begun : an|fangen fängt fing gefangen : inf
rain rained rained : regnen regnet regnete geregnet : weather
snow snowed snowed : schneien schneit schneite geschneit : weather
"""
# The adverbs that suit a tense; the modal verbs borrow those of the future or the past.
TIME_TABLE = {
    "present": "every_day jeden_Tag, every_morning jeden_Morgen, every_evening jeden_Abend, in_summer im_Sommer, in_winter "
    "im_Winter, at_the_weekend am_Wochenende, on_Sundays sonntags",
    "past": "yesterday gestern, last_week letzte_Woche, last_year letztes_Jahr, on_Monday am_Montag, on_Friday am_Freitag, "
    "last_night gestern_Abend, two_days_ago vor_zwei_Tagen, a_month_ago vor_einem_Monat, after_dinner nach_dem_Abendessen",
    "perfect": "today heute, this_morning heute_Morgen, this_week diese_Woche, this_year dieses_Jahr",
    "future": "tomorrow morgen, next_week nächste_Woche, next_year nächstes_Jahr, on_Saturday am_Samstag, tonight heute_Abend, "
    "today heute, in_three_days in_drei_Tagen, before_breakfast vor_dem_Frühstück",
}
MID_TABLE = {
    "present": "often oft, always immer, usually meistens, sometimes manchmal, rarely selten, never nie",
    "past": "often oft, finally endlich, suddenly plötzlich, never nie, soon bald",
    "perfect": "already schon, just gerade, finally endlich, never nie, often oft",
    "future": "certainly bestimmt, probably wahrscheinlich, never nie, soon bald, perhaps vielleicht",
}
FRONTED_MIDS = {"sometimes", "finally", "suddenly", "soon", "perhaps"}
MANNER_TABLE = {
    "acc": "quickly schnell, slowly langsam, carefully vorsichtig, secretly heimlich, quietly leise",
    "none": "quietly leise, alone allein, happily fröhlich",
    "to": "quickly schnell, slowly langsam, alone allein, secretly heimlich",
    "travel": "by_train mit_dem_Zug, by_car mit_dem_Auto, by_bus mit_dem_Bus, by_ship mit_dem_Schiff",
}
TOWNS = "Berlin Berlin, Vienna Wien, Munich München, Cologne Köln, Hamburg Hamburg, Zurich Zürich, Rome Rom"
PRONOUN_TABLE = {  # English object form; German nominative, accusative, dative; agreement; gender; possessive
    "I": ("me", "ich mich mir", 0, "", "my"),
    "he": ("him", "er ihn ihm", 1, "m", "his"),
    "she": ("her", "sie sie ihr", 1, "f", "her"),
    "we": ("us", "wir uns uns", 2, "p", "our"),
    "they": ("them", "sie sie ihnen", 2, "p", "their"),
}
IT = {"m": "er ihn ihm", "f": "sie sie ihr", "n": "es es ihm"}
# German stem and how it inflects: see `article`. "not a" is what "a" becomes under negation: kein.
DETERMINERS = {
    "": ("", "none"), "the": ("", "der"), "a": ("ein", "ein"), "not a": ("kein", "ein"),
    "this": ("dies", "dies"), "these": ("dies", "dies"), "every": ("jed", "dies"), "all": ("all", "dies"),
    "my": ("mein", "ein"), "our": ("unser", "ein"), "his": ("sein", "ein"), "her": ("ihr", "ein"), "their": ("ihr", "ein"),
    "some": ("einig", "viele"), "many": ("viel", "viele"), "two": ("zwei", "none"), "three": ("drei", "none"),
}  # fmt: skip
DEFINITE = {"m": "der den dem", "f": "die die der", "n": "das das dem", "p": "die die den"}
STRONG = {"m": "er en em", "f": "e e er", "n": "es es em", "p": "e e en"}
HABEN, SEIN, WERDEN = ("habe", "hat", "haben"), ("bin", "ist", "sind"), ("werde", "wird", "werden")
# English (a bare auxiliary, or verb and tense), German by agreement, and the tense whose adverbs and company it keeps.
MODALS = {
    "can": ("can", "kann kann können", "future"), "must": ("must", "muss muss müssen", "future"),
    "should": ("should", "sollte sollte sollten", "future"), "want to": ("want present", "will will wollen", "future"),
    "could": ("could", "konnte konnte konnten", "past"), "had to": ("have past", "musste musste mussten", "past"),
    "wanted to": ("want past", "wollte wollte wollten", "past"),
}  # fmt: skip
CONJUNCTIONS = {
    "present": "because weil, although obwohl, if wenn, as_soon_as sobald, while während, before bevor",
    "past": "because weil, although obwohl, when als, as_soon_as sobald, while während, before bevor, until bis",
    "perfect": "because weil, although obwohl",
    "future": "because weil, although obwohl, if wenn, as_soon_as sobald, before bevor",
}
BELOW = {  # tenses that may stand in a clause below one of that tense
    "present": ("present", "present", "can", "want to", "must"),
    "past": ("past", "past", "past", "could", "wanted to", "had to"),
    "perfect": ("past", "past", "wanted to", "had to"),
    "future": ("present", "present", "want to"),
}
IRREGULAR_S = {"man": "men", "woman": "women", "policeman": "policemen", "child": "children", "knife": "knives", "scarf": "scarves",
           "shelf": "shelves", "potato": "potatoes", "tomato": "tomatoes", "go": "goes", "have": "has"}  # fmt: skip


def rows(table: str) -> list[list[str]]:
    """Split "a b, c d_e" into [["a", "b"], ["c", "d e"]]."""
    return [[word.replace("_", " ") for word in row.split()] for row in table.split(",")]


def pairs(table: str) -> dict[str, Pair]:
    return {en: Pair(en, de) for en, de in rows(table)}


def read_nouns() -> Iterator[Noun]:
    for kind, table in NOUN_TABLE.items():
        for en, gender, de, plural, *where in rows(table):
            yield Noun(en, gender[0], de, plural, gender.endswith("w"), kind, tuple(where))


def read_verbs() -> Iterator[tuple[Verb, list[Frame]]]:
    for line in VERB_TABLE.strip().splitlines():
        english, german, frames = (part.strip() for part in line.split(" : "))
        en, past, done = rows(english)[0]
        infinitive, present3, preterite, participle = german.split()
        particle, _, base = infinitive.rpartition("|")
        auxiliary = "sein" if participle.startswith("*") else "haben"
        verb = Verb(en, past, done, particle, base, present3, preterite, participle.lstrip("*"), auxiliary)
        yield verb, [Frame(en, takes, tuple(kinds)) for takes, *kinds in (frame.split() for frame in frames.split(";"))]


NOUNS = {noun.en: noun for noun in read_nouns()}
VERBS = {verb.en: verb for verb, _ in read_verbs()}
FRAMES = [frame for _, frames in read_verbs() for frame in frames]
ADJECTIVES = {row[0]: (row[1], row[-1]) for table in ADJECTIVE_TABLE.values() for row in rows(table)}
NAMES = {kind: [row[0] for row in rows(table)] for kind, table in NOUN_TABLE.items()}
DESCRIBES = {kind: [row[0] for row in rows(ADJECTIVE_TABLE[ADJECTIVE_KIND.get(kind, "thing")])] for kind in NOUN_TABLE}
TIMES = {tense: pairs(table) for tense, table in TIME_TABLE.items()}
MIDS = {tense: pairs(table) for tense, table in MID_TABLE.items()}
MANNERS = {takes: pairs(table) for takes, table in MANNER_TABLE.items()}
ADVERBS = {en: pair for tables in (TIMES, MIDS, MANNERS) for table in tables.values() for en, pair in table.items()}


# ----------------------------------------------------------------------------------------------------------- noun phrases
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
    """The pronoun that takes up a noun phrase: the coat, it: der Mantel, er. None for das Kind, where English has he or she."""
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
    for long, short in (("in dem ", "im "), ("in das ", "ins "), ("an dem ", "am "), ("an das ", "ans "), ("zu dem ", "zum "),
                        ("zu der ", "zur "), ("von dem ", "vom ")):  # fmt: skip
        if german.startswith(long):
            german = short + german[len(long) :]
    return Pair(f"{en} {np.en_object}", german)


def location(np: NP, name: str) -> Pair:
    """In the garden: im Garten."""
    en, de, _ = NOUNS[name].where
    return preposition(en, de, DAT, np)


def direction(np: NP, name: str) -> Pair:
    """To the garden: in den Garten; to the station: zum Bahnhof."""
    de = NOUNS[name].where[2]
    return preposition("to", de, DAT if de == "zu" else ACC, np)


# ------------------------------------------------------------------------------------------------------------------ verbs
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


# ---------------------------------------------------------------------------------------------------------------- clauses
# English has manner, place, time at the end; German has time first, and the objects as near as they can be to its last verb.
ENGLISH_ORDER = "pronoun dative accusative prepositional predicate direction benefit company manner place time".split()
GERMAN_ORDER = "pronoun time mid benefit place company manner dative accusative not prepositional predicate direction".split()


@dataclass(frozen=True)
class Clause:
    """A subject, a verb in a tense, and slots; `tail` follows the last verb in both languages, as relative clauses do."""

    subject: NP
    verb: Verb
    tense: str
    slots: dict[str, Pair] = field(default_factory=dict)
    tail: Pair = Pair("", "")
    object: NP | None = None  # what "it" will mean


def clause(subject: NP, verb: str, tense: str, **slots: NP | Pair | str) -> Clause:
    """A clause from explicit choices: clause(pronoun("she"), "call", "past", time="yesterday", accusative=noun_phrase(...)).

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
        slots = {slot: pair for slot, pair in slots.items() if slot != "pronoun"}
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
        slots = dict(clause.slots)
        first = slots.pop(first)
        clause = replace(clause, slots=slots)
    auxiliary, rest = english(clause)
    finite, middle, end, _ = german(clause)
    return Pair(join(first.en, clause.subject.en, auxiliary, rest), join(first.de, finite, clause.subject.de[NOM], middle, end))


def question(clause: Clause, asks: Pair = Pair("", "")) -> Pair:
    """(Why) does the baker get up: (warum) steht der Bäcker auf."""
    auxiliary, rest = english(clause, support=True)
    finite, middle, end, _ = german(clause)
    return Pair(join(asks.en, auxiliary, clause.subject.en, rest), join(asks.de, finite, clause.subject.de[NOM], middle, end))


def subordinate(first: Pair, clause: Clause) -> Pair:
    """Because the baker gets up: weil der Bäcker aufsteht. A relative pronoun opens a clause just so: that he buys: das er kauft."""
    auxiliary, rest = english(clause)
    _, middle, _, final = german(clause)
    return Pair(join(first.en, clause.subject.en, auxiliary, rest), join(first.de, clause.subject.de[NOM], middle, final))


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


# --------------------------------------------------------------------------------------------------------------- sampling
OPEN_SLOTS = {  # the adverbials that a frame leaves room for; of two joined by "+" only one is taken
    "acc": "time+mid place manner+company benefit", "dat": "time+mid place", "give": "time+mid place", "rise": "time+mid",
    "none": "time+mid place manner+company", "to": "time+mid manner+company", "at": "time+mid company", "copula": "time+mid",
    "that": "time", "inf": "mid", "weather": "time", "lie": "time",
}  # fmt: skip
FREQUENT = {"acc": 3, "dat": 2, "give": 3, "rise": 2, "to": 3, "at": 2, "copula": 6}  # how many times a frame is in the hat
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

    def noun(self, kinds: Iterable[str], owner: NP | None = None, negated: bool = False) -> tuple[NP, str]:
        """A noun phrase of one of the kinds, perhaps its owner's, and the noun in it."""
        name = self.fresh(name for kind in kinds for name in NAMES[kind])
        noun = NOUNS[name]
        plural = noun.plural != "-" and self.chance(0.1 if noun.where else 0.3)
        if negated:
            choices = ["the", "not a"]
        elif noun.plural == "-":
            choices = ["the", ""]
        elif noun.where:
            choices = ["the", "the", "the", "two" if plural else "a"]
        else:
            choices = ["the", "the", "these", "some", "many", "two", "three"] if plural else ["the", "the", "a", "a", "this"]
            choices += [owner.possessive] * 2 if owner and owner.possessive else []
        adjective = join(self.pick(["very", "", "", "", ""]), self.fresh(DESCRIBES[noun.kind])) if self.chance(0.4) else ""
        return noun_phrase(self.pick(choices), name, adjective, plural), name

    def subject(self, pronouns: float = 0.25) -> NP:
        """A person, by noun or by pronoun; sometimes mine or ours, every or all."""
        if self.chance(pronouns):
            return pronoun(self.pick(PRONOUN_TABLE))
        if self.chance(0.75):
            return self.noun(["person"])[0]
        plural = self.chance(0.3)
        determiner = self.pick(["my", "our", "all"] if plural else ["my", "our", "every"])
        return noun_phrase(determiner, self.fresh(NAMES["person"]), plural=plural)

    def other(self, subject: NP) -> NP:
        """A person who is not the subject, as a pronoun: him, us."""
        first = ("I", "we")
        return pronoun(self.pick(name for name in PRONOUN_TABLE if not (subject.en in first and name in first)))

    def place(self, kinds: Sequence[str], towards: bool = False) -> Pair:
        """In the garden or to the garden, in Vienna or to Vienna."""
        if "town" in kinds and self.chance(0.4):
            town = self.pick(pairs(TOWNS).values())
            return Pair(f"to {town.en}", f"nach {town.de}") if towards else Pair(f"in {town.en}", f"in {town.de}")
        np, name = self.noun(kind for kind in kinds if kind != "town")
        return direction(np, name) if towards else location(np, name)

    def adverbial(self, slot: str, frame: Frame, tense: str, subject: NP) -> Pair:
        """What fills one of the OPEN_SLOTS."""
        if slot == "place":
            return self.place(["place", "far"])
        if slot in ("benefit", "company"):
            person, _ = self.noun(["person"], subject)
            return preposition("for", "für", ACC, person) if slot == "benefit" else preposition("with", "mit", DAT, person)
        tables = {"time": TIMES[base(tense)], "mid": MIDS[base(tense)]}
        return self.pick((tables.get(slot) or MANNERS.get(frame.verb) or MANNERS[frame.takes]).values())

    def objects(self, frame: Frame, subject: NP, negated: bool) -> tuple[dict[str, NP | Pair | str], NP | None]:
        """The slots that the verb demands, and the object that a pronoun may take up later."""
        takes = frame.takes.rstrip("*")
        if takes == "copula":
            return {"predicate": predicate(join(self.pick(["", "", "very", "too"]), self.fresh(DESCRIBES[subject.kind])))}, None
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
        """A clause of that subject: with up to that many adverbials, of that frame if named, with that object if given."""
        frame = self.frame(tense, takes, about)
        kind, alone = frame.takes.rstrip("*"), frame.takes.endswith("*")
        negated = not (takes or about or tense in MODALS or kind == "copula") and self.chance(0.1)
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
            slots[slot] = self.adverbial(slot, frame, tense, subject)
        return replace(clause(subject, frame.verb, tense, **slots), object=target)

    def frame(self, tense: str, takes: str, about: NP | None) -> Frame:
        """A verb and what it takes. Verbs whose present and past look alike (they read) stay out of these two tenses."""
        simple = tense in ("present", "past")
        if about is not None:
            options = [frame for frame in FRAMES if frame.takes == (takes or "acc") and about.kind in frame.kinds]
        else:
            options = [frame for frame in FRAMES if (frame.takes == takes if takes else frame.takes not in ON_REQUEST)]
        options = [f for f in options if not (simple and f.verb == VERBS[f.verb].past) and (simple or f.takes != "copula")]
        verb = self.fresh(frame.verb for frame in options for _ in range(FREQUENT.get(frame.takes, 1)))
        return self.pick(frame for frame in options if frame.verb == verb)

    def relative(self, np: NP, tense: str) -> Pair:
        """Who lives in Vienna; whom the king thanked; that is too heavy; that she bought yesterday."""
        who, tense, shape = relative_pronoun(np), self.pick(BELOW[base(tense)]), self.rng.random()
        if np.kind == "person" and shape < 0.6:
            return subordinate(Pair("", ""), self.clause(who, tense))
        if np.kind != "person" and shape < 0.4:
            tense = "past" if base(tense) == "past" else "present"
            takes = "lie" if np.kind in ("text", "press", "clothes") and shape < 0.2 else "copula"
            return subordinate(Pair("", ""), self.clause(who, tense, 0, takes))
        takes = "dat" if np.kind == "person" and shape < 0.8 else "acc"
        inner = self.clause(self.subject(0.4), tense, 1, takes, replace(GAP, kind=np.kind))
        return subordinate(Pair(who.en_object, who.de[DAT if takes == "dat" else ACC]), inner)

    def main(self, subject: NP, tense: str, adverbials: int = 1, takes: str = "") -> tuple[Pair, Clause]:
        """A main clause, perhaps with an adverbial in front and a relative clause on its subject or its object."""
        kept = subject
        if not subject.pronominal and not takes and self.chance(0.12):
            relative = self.relative(subject, tense)
            kept = replace(subject, en=f"{subject.en} {relative.en}", de=(f"{subject.de[NOM]}, {relative.de},", *subject.de[1:]))
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
        tense, conjunctions = self.pick(BELOW[base(tense)]), pairs(CONJUNCTIONS[base(tense)])
        first = self.pick(conjunctions.values())
        he, it = pronoun_for(subject), pronoun_for(above.object) if above.object else None
        if it and it.kind != "person" and self.chance(0.3):  # because it was cheap
            reason = conjunctions[self.pick(["because", "although"])]
            return subordinate(reason, self.clause(it, "past" if base(tense) == "past" else "present", 0, "copula"))
        if self.chance(0.08):
            return subordinate(first, self.clause(pronoun("it"), tense if tense in TIMES else "past", 0, "weather"))
        if he is None or self.chance(0.35):
            he = self.subject(0)
        if it and self.chance(0.5):
            return subordinate(first, self.clause(he, tense, 1, "", it))
        return subordinate(first, self.clause(he, tense))

    def bare(self, subject: NP) -> Clause:
        """The clause below "to": no time of its own."""
        inner = self.clause(subject, "can", 2)
        return replace(inner, slots={slot: pair for slot, pair in inner.slots.items() if slot != "time"})

    def draw(self) -> Pair:
        """A sentence."""
        self.used.clear()
        return sentence(*getattr(self, self.pick(SHAPES))(self.subject(), self.pick(TENSES)))

    def simple(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """Tomorrow the nurse will call her aunt."""
        return self.main(subject, tense, self.pick([1, 2, 3]))[0], "."

    def below(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """The cook bought the apples because they were cheap."""
        pair, above = self.main(subject, tense, self.pick([0, 1, 2]))
        return comma(pair, self.dependent(above, subject, tense)), "."

    def above(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """If it snows, the farmer will stay in the village."""
        first, low = self.pick(pairs(CONJUNCTIONS[base(tense)]).values()), self.pick(BELOW[base(tense)])
        if self.chance(0.2):
            early = self.clause(pronoun("it"), "past" if base(low) == "past" else "present", 0, "weather")
            later = subject
        else:
            early = self.clause(subject, low)
            later = pronoun_for(subject) or self.subject(0)
            later = later if self.chance(0.6) else self.subject(0)
        opening = subordinate(first, early)
        return fronted(Pair(f"{opening.en},", f"{opening.de},"), self.clause(later, tense, self.pick([0, 1, 2]))), "."

    def reported(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """The gardener noticed that somebody had to feed the rabbit."""
        tense = self.pick(["past", "present"])
        inner = self.pick(["past", "past", "could"] if tense == "past" else ["present", "perfect", "future", "can", "must"])
        who = pronoun_for(subject) if self.chance(0.4) else None
        pair, _ = self.main(subject, tense, self.pick([0, 0, 1]), "that")
        return comma(pair, subordinate(Pair("that", "dass"), self.clause(who or self.subject(0.1), inner, 2))), "."

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
        inner = self.clause(subject, tense, 2)
        asks = self.pick([Pair("", "")] * 3 + list(pairs("why warum, when wann, how_often wie_oft").values()))
        if asks.en:
            inner = replace(inner, slots={slot: pair for slot, pair in inner.slots.items() if slot not in ("time", "mid")})
        return question(inner, asks), "?"

    def joined(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """It is late, but the students are working: two main clauses."""
        one, first = self.main(subject, tense, 1)
        who = pronoun_for(subject) if self.chance(0.3) else None
        it = pronoun_for(first.object) if first.object and self.chance(0.3) else None
        two = self.clause(who or self.subject(0), tense, 1, "", it)
        link = self.rng.random()
        if link < 0.3:  # deshalb is an adverb: the verb follows it
            then = fronted(Pair("so", "deshalb"), two)
            return Pair(f"{one.en}, {then.en}", f"{one.de}, {then.de}"), "."
        then = statement(two)
        if link < 0.65:
            return Pair(f"{one.en}, and {then.en}", f"{one.de} und {then.de}"), "."
        return Pair(f"{one.en}, but {then.en}", f"{one.de}, aber {then.de}"), "."

    def things(self, subject: NP, tense: str) -> tuple[Pair, str]:
        """These novels are very long. The key that you see nowhere lies on the shelf."""
        kinds, takes = self.pick([(["text", "press", "clothes"], "lie"), (["thing", "device", "vehicle", "text", "food"], "copula")])
        np, _ = self.noun(kinds)
        if self.chance(0.5):
            relative = self.relative(np, "past")
            np = replace(np, en=f"{np.en} {relative.en}", de=(f"{np.de[NOM]}, {relative.de},", *np.de[1:]))
        return statement(self.clause(np, self.pick(["present", "past"]), 1, takes)), "."


SHAPES = ["simple"] * 5 + ["below"] * 6 + ["above"] * 3 + ["joined"] * 3 + ["reported", "effort", "purpose", "asked"] * 2 + ["things"]


# ----------------------------------------------------------------------------------------------------------------- corpus
LENGTHS = range(3, 31)  # words on either side
PATIENCE = 20_000  # draws without a new sentence before we say so


def corpus(sizes: dict[str, int], seed: int) -> dict[str, list[Pair]]:
    """The splits, the first of them for training. No English sentence occurs twice, and later splits have no unseen word."""
    sampler, seen, known = Sampler(random.Random(seed)), set[str](), set[str]()
    splits: dict[str, list[Pair]] = {}
    for split, size in sizes.items():
        lines = splits.setdefault(split, [])
        draws = 0
        while len(lines) < size:
            draws += 1
            if draws > PATIENCE:
                raise ValueError(f"no new sentence for {split} in {PATIENCE} draws: ask for fewer, or for more to train on")
            pair = sampler.draw()
            words = {word for text in pair for word in re.findall(r"\w+", text)}
            fits = all(len(text.split()) in LENGTHS for text in pair)
            if not fits or pair.en in seen or (len(splits) > 1 and not words <= known):
                continue
            draws = 0
            seen.add(pair.en)
            lines.append(pair)
            if len(splits) == 1:
                known |= words
    return splits


def files(splits: dict[str, list[Pair]]) -> dict[str, bytes]:
    """What the folder holds, by file name."""
    sides = [(split, lines, side) for split, lines in splits.items() for side in Pair._fields]
    return {f"{split}.{side}": "".join(f"{getattr(pair, side)}\n" for pair in lines).encode() for split, lines, side in sides}


def write(folder: Path, contents: dict[str, bytes]) -> bool:
    """Write the folder whole or not at all; False if it is there already, just so."""
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
        parser.add_argument(f"--{split}", type=positive, default=size, metavar="N", help=f"{split} sentences (default {size})")
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
