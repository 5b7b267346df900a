"""What is read from a file and written of its translations: lines, tables, JSON, subtitles, documents."""

import json
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resmlp_core.common.errors import UserError
from resmlp_mt.translation.documents import by_sentence, paragraphs, sentences_of, wrapped_at
from resmlp_mt.translation.formats import json_lines, records_of, subtitles

SUBTITLES = """\ufeff1
00:00:01,000 --> 00:00:02,500
He waits.

2
00:00:03,000 --> 00:00:05,000 X1:40
<i>Nobody knows
what it was.</i>

42
00:00:06,000 --> 00:00:07,000
- Are you there?
–<i>I am.</i>

4
00:00:08,000 --> 00:00:09,000
<i>{\\an8}The</i> <b>old</b> teacher
buys a red book.
1984

"""


def through(text, translate=str.upper, name="file.txt", **options):
    """Translate a file's text by a function, one sentence at a time; return what is written and what was translated."""
    asked, written = [], []
    for record in records_of(name, text.removeprefix("\ufeff").removesuffix("\n").split("\n"), **options):
        asked += record.texts
        written.append(record.write([translate(text) for text in record.texts]))
    return "".join(written), asked


def document(text, translate=str.upper, language="en", name="file.txt", **options):
    """Translate a document likewise."""
    asked, written = [], []
    for record in records_of(name, text.removesuffix("\n").split("\n"), text=paragraphs, **options):
        split = by_sentence(record, language)
        asked += split.texts
        written.append(split.write([translate(text) for text in split.texts]))
    return "".join(written), asked


def test_a_line_becomes_a_line():
    text = "a b.\n\n  c\u2028d\n1\n"
    assert through(text) == (text.upper(), text[:-1].split("\n"))


def test_a_column_of_a_table_is_translated_and_the_others_stay():
    table = 'id\ten\tnote\n1\ta "dog"\tx\n\n2\t\ty\n'
    assert through(table, column="en")[0] == 'id\ten\tnote\n1\tA "DOG"\tx\n\n2\t\ty\n'
    assert through(table, column="2")[1] == ["en", 'a "dog"', ""]
    assert through("1\ta\n", lambda text: "with\ta tab", column="2")[0] == "1\twith a tab\n"
    quoted = '1\t"a ""dog"""\n'  # as a writer of CSV does
    assert through(quoted, column="2") == (quoted.upper(), ['a "dog"'])


def test_a_field_of_json_lines_is_translated_and_the_others_stay():
    lines = ['{"id": 1, "text": "a dog", "ok": true}', "", '{"id": 2, "text": null}', '{"text": "é\\ud83d\\n."}']
    written, asked = through("\n".join(lines) + "\n", field="text")
    rows = [json.loads(line) if line else None for line in written.splitlines()]
    assert rows == [{"id": 1, "text": "A DOG", "ok": True}, None, {"id": 2, "text": None}, {"text": "É?\n."}]
    assert asked == ["a dog", "é?\n."]
    assert json.loads(through('{"a": "b", "c": "\\ud83d"}', field="a")[0]) == {"a": "B", "c": "\ud83d"}


def test_subtitles_keep_times_numbers_and_the_lines_of_each():
    written, asked = through(SUBTITLES)
    assert asked == [
        *("He waits.", "Nobody knows what it was.", "Are you there?", "I am."),
        "The old teacher buys a red book. 1984",
    ]
    assert written.splitlines() == [
        *("1", "00:00:01,000 --> 00:00:02,500", "HE WAITS.", ""),
        *("2", "00:00:03,000 --> 00:00:05,000 X1:40", "<i>NOBODY KNOWS", "WHAT IT WAS.</i>", ""),
        *("42", "00:00:06,000 --> 00:00:07,000", "- ARE YOU THERE?", "–<i>I AM.</i>", ""),
        *("4", "00:00:08,000 --> 00:00:09,000", "{\\an8}THE OLD", "TEACHER BUYS A", "RED BOOK. 1984", ""),
    ]


@pytest.mark.parametrize(
    ("answer", "lines"), [("Ja.", ["Ja.", ""]), ("", ["", ""]), ("他在等我们", ["他在等", "我们"])]
)
def test_a_short_subtitle_and_one_without_spaces_have_as_many_lines(answer, lines):
    written, _ = through("1\n00:00:01,0 --> 00:00:02,0\nHe waits\nfor us.\n\n", lambda text: answer)
    assert written.splitlines()[2:4] == lines


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("a\tb\n", {"column": "3"}, "file.txt, line 1: 2 columns, and no --column 3"),
        ("a\tb\n", {"column": "0"}, "file.txt, line 1: 2 columns, and no --column 0"),
        ("a\tb\n", {"column": "en"}, "file.txt: its first line has no --column en, but a, b"),
        ('{"a": 1}\n', {"field": "en"}, "file.txt: its first object has no --field en, but a"),
        ('{"a": 1}\n', {"field": "a"}, "file.txt, line 1: --field a is no text"),
        ('{"a": "b"}\n[1]\n', {"field": "a"}, "file.txt, line 2: no JSON object"),
        ('{"a": ' + "[" * 9999, {"field": "a"}, "file.txt, line 1: no JSON object"),
        ('{"a": "b", "c": 1e400}\n', {"field": "a"}, "file.txt, line 1: the number 1e400 is too large to be written"),
        ('[{"a": "b"}]\n', {"field": "a"}, "file.txt is a JSON array, where an object a line is read"),
        ("a\tb\n", {"name": "x.TSV"}, "x.TSV: name what to translate in it by --column"),
        ("a\tb\n", {"name": "x.tsv.gz"}, "x.tsv.gz: name what to translate in it by --column"),
        ('{"a": 1}\n', {"name": "x.jsonl"}, "x.jsonl: name what to translate in it by --field"),
        ('{"a": 1}\n', {"name": "x.json"}, "x.json: name what to translate in it by --field"),
        ("a,b\n", {"name": "x.csv"}, "x.csv: columns between commas are not read; write it as TSV"),
        ("a,b\n", {"name": "x.csv", "column": "1"}, "x.csv: columns between commas are not read; write it as TSV"),
        (
            "WEBVTT\n",
            {"name": "x.vtt"},
            "x.vtt: WebVTT is not read; write it as SubRip, as ffmpeg -i FILE.vtt FILE.srt does",
        ),
        (SUBTITLES, {"detailed": True}, "file.txt: --nbest, --scores and --alignments are for lines of text, not for "),
    ],
)
def test_what_a_format_lacks_is_told_in_one_line(text, options, told):
    with pytest.raises(UserError) as raised:
        through(text, **options)
    assert str(raised.value).startswith(told)


DOCUMENT = """Title

Dr. Smith paid $3.50 at 5 p.m. on Friday. He left!  "Why?" she asked.
   Another paragraph. It is indented.
"""


def test_a_document_is_translated_by_sentences_and_joined_as_it_stood():
    written, asked = document(DOCUMENT)
    assert written == DOCUMENT.upper()
    assert asked == [
        "Title",
        *("Dr. Smith paid $3.50 at 5 p.m. on Friday.", "He left!", '"Why?" she asked.'),
        *("Another paragraph.", "It is indented."),
    ]


@pytest.mark.parametrize(
    ("text", "language", "answers", "written"),
    [
        ("这是一句话。第二句！\n", "zh", ["A.", "B."], "A. B.\n"),
        ("One. Two.\n", "en", ["一。", "二。"], "一。二。\n"),
        ("One.  Two.\n", "en", ["按 Ctrl 退出。", "Python 也一样。"], "按 Ctrl 退出。Python 也一样。\n"),
        ("One. Two.\n", "en", ["他在等。", "น้ำ"], "他在等。น้ำ\n"),
        ("One. Two.\n", "en", ["하나입니다.", "둘입니다."], "하나입니다. 둘입니다.\n"),
        ("Eins. Zwei.\n", "de", ["猫 is a cat.", "犬 is a dog."], "猫 is a cat. 犬 is a dog.\n"),
    ],
)
def test_sentences_are_joined_as_the_translations_script_joins_them(text, language, answers, written):
    assert document(text, lambda _: answers.pop(0), language)[0] == written


def test_a_field_may_hold_a_document_of_its_own():
    written, asked = document('{"a": "One. Two.\\n\\n Three."}\n', field="a")
    assert json.loads(written) == {"a": "ONE. TWO.\n\n THREE."}
    assert asked == ["One.", "Two.", "Three."]


WRAPPED = """Chapter 1

The old teacher bought a red book. It was
a long way from the shop to his house, and
he had to walk. The road was dark.

  Nobody knew what he wanted of it, since
he could not read at all.
"""


def test_a_paragraph_that_was_wrapped_over_lines_becomes_one_line():
    written, asked = document(WRAPPED, str)
    assert asked[2] == "It was a long way from the shop to his house, and he had to walk."
    assert len(written.splitlines()) == 5
    assert written.split() == WRAPPED.split()
    assert written.splitlines()[4].startswith("  Nobody knew")


@pytest.mark.parametrize(
    "text",
    [
        "apples\nbananas\npears\nan orange\nplums\n",  # a list
        "He waits for us.\nThe old teacher buys a red book.\nNobody knows.\nWhere is it?\n",  # sentences
        f"{'A long paragraph. ' * 20}|\n{'Another one. ' * 30}|\nA short one.\n",
        "one line\n",
        "",
    ],
)
def test_lines_that_were_not_wrapped_stay_lines(text):
    assert wrapped_at(text.splitlines()) is None
    assert document(text, str)[0].splitlines() == text.splitlines() or not text


@settings(max_examples=300)
@given(
    st.text(alphabet=st.sampled_from('aB .!?,;:"()-1\t。！“”»…\u2028\u200b\ufeff😀\0')),
    st.sampled_from(["en", "zh", "xx"]),
)
@example("A\xa0.", "fr")  # which the package does not survive
def test_sentences_are_the_text_in_pieces_whatever_it_is(text, language):
    pieces = sentences_of(text, language)
    assert "".join(pieces) == text
    written, asked = document(text, str, language)
    assert "".join(written.split()) == "".join(text.split())
    assert all(map(str.strip, asked))


@pytest.mark.parametrize("language", ["pt", "pt_BR", "PT"])
def test_a_language_of_a_region_has_the_abbreviations_of_the_language(language):
    assert sentences_of("O Exmo. Sr. Silva chegou.", language) == ["O Exmo. Sr. Silva chegou."]


def test_without_the_package_that_splits_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(UserError, match=r"^--document needs the package sentencex: pip install 'resmlp\[mt\]', or"):
        document("One. Two.\n")


def test_a_line_is_translated_before_the_next_is_there():
    lines = iter(["a", "b"])
    assert next(records_of("file.txt", lines)).texts == ["a"]
    assert list(lines) == ["b"]


def test_no_blank_line_ends_a_subtitle_before_its_last_speaker():
    lines = ["1", "00:00:01,000 --> 00:00:02,000", "- I said", "no.", "- OK.", ""]
    *_, shown = [record for record in subtitles(lines) if record.texts]
    assert shown.write(["Nein.", "OK."]) == "- Nein.\n- OK.\n\n"


def test_a_first_object_may_have_null_in_the_field():
    first, second = json_lines("rows", ['{"text": null}', '{"text": "A dog."}'], "text")
    assert first.write([]) == '{"text": null}\n' and second.texts == ["A dog."]
