"""The words of the demo's grammar: nouns, verbs, adjectives, adverbials, determiners, pronouns and conjunctions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

NOM, ACC, DAT = range(3)  # the cases, as indices
CASES = {"acc": ACC, "dat": DAT}


class Pair(NamedTuple):
    """A stretch of English and its German."""

    en: str
    de: str


NOTHING = Pair("", "")


def words(text: str) -> list[str]:
    return text.split()


class Noun(NamedTuple):
    """`weak` masculines look plural outside the nominative; `where`, for a place: its "in" (both), its German "to"."""

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


# ------------------------------------------------------------------------------------------------------- lexicon
# English, gender (mw: see Noun.weak), German singular and plural ("-": has none). "_" stands for a space.
NOUN_TABLE = {
    "person": """
        teacher m Lehrer Lehrer, doctor m Arzt Ärzte, man m Mann Männer, boy mw Junge Jungen, father m Vater Väter,
        brother m Bruder Brüder, son m Sohn Söhne, uncle m Onkel Onkel, grandfather m Großvater Großväter,
        cook m Koch Köche, farmer mw Bauer Bauern, neighbour mw Nachbar Nachbarn, student mw Student Studenten,
        policeman mw Polizist Polizisten, baker m Bäcker Bäcker, painter m Maler Maler, gardener m Gärtner Gärtner,
        king m König Könige, friend m Freund Freunde, colleague mw Kollege Kollegen, guest m Gast Gäste,
        woman f Frau Frauen, mother f Mutter Mütter, sister f Schwester Schwestern, daughter f Tochter Töchter,
        aunt f Tante Tanten, grandmother f Großmutter Großmütter, queen f Königin Königinnen,
        actress f Schauspielerin Schauspielerinnen, waitress f Kellnerin Kellnerinnen,
        nurse f Krankenschwester Krankenschwestern, child n Kind Kinder, girl n Mädchen Mädchen""",
    "text": """
        book n Buch Bücher, letter m Brief Briefe, novel m Roman Romane, story f Geschichte Geschichten,
        poem n Gedicht Gedichte""",
    "press": "newspaper f Zeitung Zeitungen, magazine f Zeitschrift Zeitschriften, map f Landkarte Landkarten",
    "food": """
        apple m Apfel Äpfel, cake m Kuchen Kuchen, pear f Birne Birnen, tomato f Tomate Tomaten,
        biscuit m Keks Kekse, strawberry f Erdbeere Erdbeeren, cheese m Käse -, bread n Brot -, butter f Butter -""",
    "dish": """
        soup f Suppe Suppen, potato f Kartoffel Kartoffeln, egg n Ei Eier, sausage f Wurst Würste,
        carrot f Karotte Karotten, rice m Reis -""",
    "drink": "milk f Milch -, water n Wasser -, coffee m Kaffee -, tea m Tee -, juice m Saft -",
    "clothes": """
        coat m Mantel Mäntel, dress n Kleid Kleider, shirt n Hemd Hemden, hat m Hut Hüte, skirt m Rock Röcke,
        jacket f Jacke Jacken, scarf m Schal Schals, shoe m Schuh Schuhe""",
    "thing": """
        bag f Tasche Taschen, ring m Ring Ringe, watch f Uhr Uhren, umbrella m Regenschirm Regenschirme,
        key m Schlüssel Schlüssel, picture n Bild Bilder, cup f Tasse Tassen, plate m Teller Teller,
        knife n Messer Messer, flower f Blume Blumen, gift n Geschenk Geschenke, ball m Ball Bälle,
        chair m Stuhl Stühle, guitar f Gitarre Gitarren""",
    "openable": """
        door f Tür Türen, window n Fenster Fenster, box f Kiste Kisten, suitcase m Koffer Koffer, gate n Tor Tore,
        bottle f Flasche Flaschen, drawer f Schublade Schubladen""",
    "device": """
        lamp f Lampe Lampen, computer m Computer Computer, radio n Radio Radios, television m Fernseher Fernseher,
        camera f Kamera Kameras, heater f Heizung Heizungen""",
    "vehicle": """
        bus m Bus Busse, train m Zug Züge, taxi n Taxi Taxis, ship n Schiff Schiffe, car n Auto Autos,
        bicycle n Fahrrad Fahrräder""",
    "animal": """
        dog m Hund Hunde, cat f Katze Katzen, horse n Pferd Pferde, bird m Vogel Vögel, cow f Kuh Kühe,
        rabbit n Kaninchen Kaninchen""",
    # Places add how they say "in" (English, German with dative) and how German says "to".
    "place": """
        garden m Garten Gärten in in in, kitchen f Küche Küchen in in in, school f Schule Schulen in in in,
        station m Bahnhof Bahnhöfe at an zu, restaurant n Restaurant Restaurants in in in,
        park m Park Parks in in in, museum n Museum Museen in in in, hotel n Hotel Hotels in in in,
        library f Bibliothek Bibliotheken in in in, office n Büro Büros in in in,
        theatre n Theater Theater in in in, church f Kirche Kirchen in in in, market m Markt Märkte at auf auf,
        hospital n Krankenhaus Krankenhäuser in in in, bridge f Brücke Brücken on auf zu,
        airport m Flughafen Flughäfen at an zu, forest m Wald Wälder in in in, café n Café Cafés in in in""",
    "far": """
        city f Stadt Städte in in in, village n Dorf Dörfer in in in, coast f Küste Küsten on an an,
        lake m See Seen at an an, farm m Bauernhof Bauernhöfe on auf auf, island f Insel Inseln on auf auf,
        river m Fluss Flüsse by an an""",
    "surface": "table m Tisch Tische on auf auf, bed n Bett Betten on auf auf, shelf n Regal Regale on auf auf",
}
# English, German when it stands alone, and the stem that takes endings where that differs.
ADJECTIVE_TABLE = {
    "person": """
        old alt, young jung, friendly freundlich, tired müde müd, happy glücklich, sad traurig, poor arm,
        rich reich, clever klug, famous berühmt, polite höflich, curious neugierig, hungry hungrig, nervous nervös,
        brave mutig, ill krank, tall groß, strong stark""",
    "thing": """
        old alt, new neu, beautiful schön, expensive teuer teur, cheap billig, big groß, small klein, heavy schwer,
        red rot, blue blau, green grün, black schwarz, white weiß, dirty schmutzig, wet nass, light leicht""",
    "text": """
        old alt, new neu, long lang, short kurz, interesting interessant, boring langweilig, famous berühmt,
        beautiful schön, funny lustig, difficult schwierig""",
    "food": """
        fresh frisch, hot heiß, cold kalt, delicious lecker, warm warm, expensive teuer teur, cheap billig, good gut""",
    "animal": """
        old alt, young jung, small klein, big groß, black schwarz, white weiß, wild wild, hungry hungrig,
        beautiful schön""",
    "place": """
        old alt, new neu, small klein, big groß, beautiful schön, quiet ruhig, famous berühmt, dark dunkel dunkl,
        modern modern""",
}
ADJECTIVE_KIND = {"person": "person", "text": "text", "press": "text", "food": "food", "dish": "food", "drink": "food",
                  "animal": "animal", "place": "place", "far": "place"}  # fmt: skip  # otherwise "thing"

# English base, past, participle : German infinitive, he-present, he-preterite, participle (* with sein) : frames.
# acc, dat, give (a person something), to and at (a place), none, rise (no place), inf, that; acc* has no adverbials;
# for/auf/acc is a preposition in both languages and the German case.
VERB_TABLE = """
be was been : sein ist war *gewesen : copula
buy bought bought : kaufen kauft kaufte gekauft : acc text press food dish drink clothes thing device vehicle animal
sell sold sold : verkaufen verkauft verkaufte verkauft : acc text press food drink clothes thing device vehicle animal
find found found : finden findet fand gefunden : acc text press clothes thing animal
lose lost lost : verlieren verliert verlor verloren : acc text clothes thing
look_for looked_for looked_for : suchen sucht suchte gesucht : acc text press clothes thing animal person
carry carried carried : tragen trägt trug getragen : acc thing device
take_along took_along taken_along : mit|nehmen nimmt nahm genommen : acc text press food clothes thing
bring_along brought_along brought_along : mit|bringen bringt brachte gebracht : acc text press food drink clothes thing
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
    "present": """
        every_day jeden_Tag, every_morning jeden_Morgen, every_evening jeden_Abend, in_summer im_Sommer,
        in_winter im_Winter, at_the_weekend am_Wochenende, on_Sundays sonntags""",
    "past": """
        yesterday gestern, last_week letzte_Woche, last_year letztes_Jahr, on_Monday am_Montag,
        on_Friday am_Freitag, last_night gestern_Abend, two_days_ago vor_zwei_Tagen, a_month_ago vor_einem_Monat,
        after_dinner nach_dem_Abendessen""",
    "perfect": "today heute, this_morning heute_Morgen, this_week diese_Woche, this_year dieses_Jahr",
    "future": """
        tomorrow morgen, next_week nächste_Woche, next_year nächstes_Jahr, on_Saturday am_Samstag,
        tonight heute_Abend, today heute, in_three_days in_drei_Tagen, before_breakfast vor_dem_Frühstück""",
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
TOWN_TABLE = "Berlin Berlin, Vienna Wien, Munich München, Cologne Köln, Hamburg Hamburg, Zurich Zürich, Rome Rom"
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
    "my": ("mein", "ein"), "our": ("unser", "ein"), "his": ("sein", "ein"), "her": ("ihr", "ein"),
    "their": ("ihr", "ein"),
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
CONJUNCTION_TABLE = {
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
IRREGULAR_S = {
    "man": "men", "woman": "women", "policeman": "policemen", "child": "children", "knife": "knives",
    "scarf": "scarves", "shelf": "shelves", "potato": "potatoes", "tomato": "tomatoes", "go": "goes", "have": "has",
}  # fmt: skip


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
CONJUNCTIONS = {tense: pairs(table) for tense, table in CONJUNCTION_TABLE.items()}
TOWNS, QUESTIONS = pairs(TOWN_TABLE), pairs("why warum, when wann, how_often wie_oft")
ADVERBS = {en: pair for tables in (TIMES, MIDS, MANNERS) for table in tables.values() for en, pair in table.items()}
