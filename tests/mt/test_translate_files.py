"""resmlp-translate on files: in order, line for line, going on where it was cut off, and with what is wrong told."""

import io
import json
import shutil
import sys
from contextlib import contextmanager

import pytest
import torch

from resmlp_mt import load_translator, translate
from resmlp_mt.translation import input_text, output_file
from resmlp_mt.translation.translator import Translator

from .conftest import largest_file
from .small_translators import POSITIONS, SENTENCES, write_translator

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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_translator(tmp_path_factory.mktemp("translator"))


@pytest.fixture(scope="module")
def expected(model):
    """The translations of LINES, each by itself."""
    translator = load_translator(model)
    found = [translator.translate(line) for line in LINES]
    assert len(set(found)) > 20
    return "".join(f"{text}\n" for text in found)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.txt"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return path


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


def test_each_line_has_its_translation_in_its_place(model, source, expected, tmp_path, capsys, monkeypatch):
    run(model, source)
    assert capsys.readouterr().out == expected
    run(model, "-o", tmp_path / "twice", source, "--beam", 4, source)
    assert (tmp_path / "twice").read_text(encoding="utf-8") == 2 * expected
    typed(monkeypatch, source.read_bytes())
    run(model, "--batch-size", 3, "--max-tokens", 50)
    assert capsys.readouterr().out == expected
    typed(monkeypatch, b"caf\xe9\n")
    run(model, "-", source)
    assert capsys.readouterr().out.split("\n", 1)[1] == expected
    assert sorted(tmp_path.iterdir()) == [source, tmp_path / "twice"]


def test_at_a_terminal_it_says_what_to_do_and_answers_each_line(model, monkeypatch, capsys):
    typed(monkeypatch, f"{SENTENCES[0]}\n{LONG}\n".encode(), terminal=True)
    run(model)
    begin, *answers = capsys.readouterr().out.splitlines()
    assert begin == "Type a sentence and press Enter; Ctrl-D ends."
    assert answers == load_translator(model).translate([SENTENCES[0], LONG])


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(model, source, expected, tmp_path, monkeypatch, capsys):
    output = tmp_path / "output"
    with interrupted_after(monkeypatch, 17):
        assert refused(model, source, "-o", output) == 130
    assert not output.exists()
    partial = tmp_path / "output.partial"
    assert partial.read_text(encoding="utf-8") == "".join(expected.splitlines(keepends=True)[:17])
    assert capsys.readouterr().err.splitlines()[-1] == f"{partial} is kept: the same command goes on with it"
    with partial.open("a") as file:
        file.write("half a li")  # as a kill may leave it
    with interrupted_after(monkeypatch, None) as asked:
        run(model, source, "-o", output)
    assert asked == LINES[17:]
    assert output.read_text(encoding="utf-8") == expected
    assert sorted(tmp_path.iterdir()) == [output, source]


def test_it_does_not_go_on_with_another_model_other_settings_or_another_input(model, source, tmp_path, monkeypatch):
    output, partial = tmp_path / "output", tmp_path / "output.partial"
    with interrupted_after(monkeypatch, 9):
        refused(model, source, "-o", output)
    begun = f"translate: {partial} was begun with"
    assert refused(model, source, "-o", output, "--beam", 2) == (
        f"{begun} --beam 4, not 2: give the same again to go on, or delete it"
    )
    other = write_translator(tmp_path / "other", seed=1)
    assert refused(other, source, "-o", output).startswith(f"{begun} another model: give the same")
    changed = tmp_path / "changed"
    for lines in (["Another.", *LINES[1:]], LINES[:5]):
        changed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        assert refused(model, changed, "-o", output) == f"{begun} another input: delete it to start over"
    changed.write_text("".join(f"{line}\n" for line in [*LINES, "More."]), encoding="utf-8")
    run(model, changed, "-o", output)  # what was translated is the same, and more of it has come
    assert len(output.read_text(encoding="utf-8").split("\n")) == len(LINES) + 2


def test_an_output_that_is_there_stays_unless_it_is_to_be_replaced(model, source, expected, tmp_path):
    output = tmp_path / "output"
    output.write_text("precious")
    told = f"translate: -o {output} exists: give --force to replace it, or another file"
    assert refused(model, source, "-o", output) == told
    (tmp_path / "link").symlink_to(source)
    for same in (source, tmp_path / "link"):
        assert refused(model, source, "-o", same, "--force") == f"translate: -o {same} is the input: give another file"
    assert refused(model, source, "-o", tmp_path) == f"translate: -o {tmp_path} is not a file"
    assert output.read_text() == "precious" and source.read_text(encoding="utf-8").startswith(LINES[0])
    run(model, source, "-o", output, "--force")
    assert output.read_text(encoding="utf-8") == expected


def test_two_runs_do_not_write_one_output(model, source, tmp_path):
    with output_file.OutputFile(tmp_path / "output", {}):
        told = f"translate: {tmp_path / 'output'}: another process is writing it"
        assert refused(model, source, "-o", tmp_path / "output") == told


def test_a_full_disk_is_told_and_what_was_written_is_gone_on_with(model, source, expected, tmp_path, monkeypatch):
    output = tmp_path / "output"
    monkeypatch.setattr(output_file, "OFTEN", 0)  # note each line, as a slow run does
    with largest_file(700):
        assert refused(model, source, "-o", output) == f"translate: {output}: the disk is full: File too large"
    assert not output.exists()
    with interrupted_after(monkeypatch, None) as asked:
        run(model, source, "-o", output)
    assert len(asked) < len(LINES)
    assert output.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (SENTENCES[0].encode("utf-16"), " is UTF-16, not UTF-8: iconv -f utf-16 -t utf-8 makes that of it"),
        (
            SENTENCES[0].encode("utf-16-le"),
            " is binary, or UTF-16 without a byte order mark, where text in UTF-8 is read",
        ),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)), " is binary, or UTF-16 without a byte order mark, wh"),
        (100 * b"fine\n" + b"caf\xe9\n", ", line 101: not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused_before_anything_is_written(model, source, tmp_path, content, told, monkeypatch):
    (tmp_path / "file").write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(translate, "load_translator", None)  # before that
        assert refused(model, source, tmp_path / "file").startswith(f"translate: {tmp_path / 'file'}{told}")
    if b"fine" not in content:
        typed(monkeypatch, content)
        assert refused(model).startswith(f"translate: standard input{told}")


def test_nothing_to_read_is_nothing_to_write(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # as by <&-
    run(model)
    (tmp_path / "empty").touch()
    run(model, tmp_path / "empty", "-o", tmp_path / "output")
    assert capsys.readouterr().out == ""
    assert (tmp_path / "output").read_bytes() == b""
    assert refused(model, tmp_path / "none") == f"translate: {tmp_path / 'none'}: No such file or directory"


def test_rows_have_hypotheses_scores_and_alignments(model, tmp_path, capsys):
    source = tmp_path / "source"
    source.write_text(f"{SENTENCES[0]}\n\n{LONG}\n")
    found = load_translator(model).translate([SENTENCES[0], "", LONG], details=True, nbest=2, beam=3)
    run(model, source, "--nbest", 2, "--beam", 3)
    texts = [one.text for hypotheses in found for one in hypotheses]
    assert capsys.readouterr().out.splitlines() == [*texts[:2], "", "", *texts[-2:]]
    run(model, source, "--nbest", 2, "--beam", 3, "--scores", "tsv", "--alignments")
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [*texts[:2], "", "", *texts[-2:]]
    best = found[0][0]
    assert rows[0] == [best.text, f"{best.score:.4f}", " ".join(f"{s}-{t}" for t, s in best.alignment)]
    assert len(best.alignment) == len(best.text.split()) and float(rows[0][1]) >= float(rows[1][1])
    run(model, source, "--beam", 3, "--scores", "json", "--alignments")
    first, nothing, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"text": best.text, "score": round(best.score, 4), "alignment": [[s, t] for t, s in best.alignment]}
    assert nothing == {"text": "", "score": 0.0, "alignment": []}


def test_a_prefix_begins_each_translation_and_a_seed_repeats_samples(model, source, capsys):
    run(model, source, "--prefix", "The queen")
    assert all(line.startswith("The queen") for line in capsys.readouterr().out.splitlines() if line)
    drawn = []
    for options in (["--seed", 3], ["--seed", 3, "--batch-size", 5], ["--seed", 4]):
        run(model, source, "--sampling", *options)
        drawn.append(capsys.readouterr().out)
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_document_is_written_as_it_stood_and_what_was_too_long_is_counted(model, tmp_path, capsys):
    one, two, three = SENTENCES[:3]
    (tmp_path / "document").write_text(f"{one}  {two}\n\n{LONG} {three}\n")
    run(model, tmp_path / "document", "--document", "-o", tmp_path / "output")
    translator = load_translator(model)
    a, b, c, d = translator.translate([one, two, LONG, three])
    assert len(translator.split(LONG)) > 1 and len(c.split()) > POSITIONS / 4
    assert (tmp_path / "output").read_text() == f"{a}  {b}\n\n{c} {d}\n"
    report = capsys.readouterr().err.splitlines()[-1]
    assert report.startswith("translate: 4 sentences in ")
    assert report.endswith(f"; 1 longer than the model's {POSITIONS} positions, split at clause marks")


def test_a_cut_off_document_goes_on_by_paragraphs(model, tmp_path, monkeypatch):
    source, output = tmp_path / "source.srt", tmp_path / "output.srt"
    times = "00:00:01,000 --> 00:00:02,000"
    blocks = [f"{i}\n{times}\n{SENTENCES[i]} {SENTENCES[i + 1]}\n\n" for i in range(12)]
    source.write_text("".join(blocks))
    with interrupted_after(monkeypatch, 9):
        assert refused(model, source, "--document", "-o", output) == 130
    run(model, source, "--document", "-o", output)
    run(model, source, "--document", "-o", tmp_path / "whole.srt")
    assert output.read_text() == (tmp_path / "whole.srt").read_text()
    assert output.read_text().count("\n") == source.read_text().count("\n")
    assert output.read_text().count(times) == 12


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--beam", 0), "argument --beam: 0 must be a whole number, 1 or more"),
        (("--beam", 2, "--nbest", 3), "--nbest 3 needs as large a --beam, and has 2"),
        (("--scores", "tsv", "--document"), "leave --document, --column and --field out"),
        (("--column", 1, "--field", "a"), "argument --field: not allowed with argument --column"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_by_name(options, told, capsys):
    assert refused("model", *options) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_a_device_that_is_not_there_is_told(model, source):
    for device in ("cuda:99", "tpv"):
        assert refused(model, source, "--device", device) == f"translate: --device {device} is not on this machine"


def test_a_model_of_another_pair_or_another_vocabulary_is_refused(model, source, tmp_path, capsys):
    assert refused(model, source, "--pair", "en-fr") == f"translate: --pair en-fr: the model {model} translates en-de"
    run(model, source, "--pair", "en-de")
    others = write_translator(tmp_path / "others", sentences=[one.upper() for one in SENTENCES]).parent
    told = "translate: the dictionaries are not those that"
    assert refused(model / "model.pt", source, "--dictionaries", others / "data-bin").startswith(told)
    told = f"translate: {others / 'sentencepiece.model'}: the sentencepiece model is of another vocabulary"
    assert refused(model, source, "--sentencepiece", others / "sentencepiece.model").startswith(told)
    shutil.copy(model / "model.pt", tmp_path / "model.pt")
    assert refused(tmp_path / "model.pt", source).startswith("translate: no sentencepiece.model in ")


def fills(monkeypatch, most):
    """Let the GPU be full with batches of more than ``most`` tokens."""

    def stream(self, texts, **options):
        texts = iter(texts)
        for number, found in enumerate(whole(self, texts, **options)):
            if number == 5 and options["max_tokens"] > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield found

    whole = Translator.stream
    monkeypatch.setattr(Translator, "stream", stream)


def test_a_full_gpu_gets_smaller_batches_once(model, source, expected, capsys, monkeypatch):
    fills(monkeypatch, 1024)
    run(model, source)
    printed = capsys.readouterr()
    assert printed.out == expected
    assert printed.err.splitlines()[0] == "the GPU is full: going on with --max-tokens 1024"


def test_a_gpu_that_stays_full_is_told(model, source, capsys, monkeypatch):
    fills(monkeypatch, 100)
    told = "translate: the GPU is full with batches of 1024 tokens too: give a smaller --max-tokens, or --device cpu"
    assert refused(model, source) == told


def test_what_arrives_is_handed_on_before_more_is_read():
    waiting = []

    def lines():
        for i in range(5):
            while len(waiting) < i:  # as a program waits for an answer
                pass
            yield i

    for chunk in input_text.as_they_come(lines()):
        waiting.extend(chunk)
    assert waiting == list(range(5))
    assert next(len(chunk) for chunk in input_text.as_they_come(range(10), most=4)) <= 4

    def torn():
        yield 1
        raise OSError("torn")

    with pytest.raises(OSError, match="torn"):
        list(input_text.as_they_come(torn()))
