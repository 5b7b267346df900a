"""resmlp-translate as tests run it, in this process."""

import io
import sys
from contextlib import contextmanager

import pytest

from resmlp_mt import load_translator, translate
from resmlp_mt.translation.translator import Translator

from .small_translators import SENTENCES

LINES = [
    *SENTENCES[:40],
    "",
    "\u200b",
    SENTENCES[50],
    "a\0b",
    f"{SENTENCES[60]} \u2028 {SENTENCES[61]}",
    *SENTENCES[90:99],
]
LONG = " ".join(sentence.replace(".", ",") for sentence in SENTENCES[:7]) + " so there."


def refused(*arguments):
    """Run the command, which must end with an error; return that."""
    with pytest.raises(SystemExit) as stopped:
        translate.main([*map(str, arguments)])
    return stopped.value.code


def run(*arguments):
    translate.main([*map(str, arguments)])


@contextmanager
def interrupted_after(monkeypatch, sentences):
    """Press Ctrl-C when so many sentences are translated; yield the sentences that were begun with."""
    asked = []

    def stream(self, texts, **options):
        def noted():
            for text in texts:
                asked.append(text)
                yield text

        for number, found in enumerate(whole(self, noted(), **options)):
            if number == sentences:
                raise KeyboardInterrupt
            yield found

    whole = Translator.stream
    with monkeypatch.context() as patch:
        patch.setattr(Translator, "stream", stream)
        yield asked


def typed(monkeypatch, text, terminal=False):
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(text)), encoding="utf-8")
    monkeypatch.setattr(stdin, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdin", stdin)


def write_source(path):
    """Write LINES to a file."""
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return path


def translations(model):
    """The translations of LINES, each by itself, as a file of them."""
    translator = load_translator(model)
    found = [translator.translate(line) for line in LINES]
    assert len(set(found)) > 20
    return "".join(f"{text}\n" for text in found)
