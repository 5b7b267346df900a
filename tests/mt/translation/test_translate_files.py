"""resmlp-translate on files: in order, line for line, going on where it was cut off."""

import json
from itertools import chain

import pytest

from resmlp_mt import load_translator
from resmlp_mt.translation import input_text
from resmlp_mt.translation.output_file import OutputFile

from .small_translators import POSITIONS, SENTENCES, write_translator
from .translate_runs import LINES, LONG, interrupted_after, refused, run, typed


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
    shown = capsys.readouterr()
    answers = shown.out.splitlines()
    assert shown.err.splitlines()[0] == "Type a sentence and press Enter; Ctrl-D ends."
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


def test_ctrl_c_while_a_line_is_written_neither_loses_it_nor_writes_it_twice(
    model, source, expected, tmp_path, monkeypatch
):
    output = tmp_path / "output"
    read = OutputFile._read

    def interrupted(self, record):
        if record.source == LINES[6]:
            raise KeyboardInterrupt
        read(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(OutputFile, "_read", interrupted)
        assert refused(model, source, "-o", output) == 130
    run(model, source, "-o", output)
    assert output.read_text(encoding="utf-8") == expected


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
    assert report.endswith(f"; 1 longer than the model's {POSITIONS} positions, split at punctuation marks")


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
    chunks = list(input_text.as_they_come(range(10_000), most=4))
    assert max(map(len, chunks)) <= 4 and [*chain.from_iterable(chunks)] == [*range(10_000)]

    def torn():
        yield 1
        raise OSError("torn")

    with pytest.raises(OSError, match="torn"):
        list(input_text.as_they_come(torn()))
