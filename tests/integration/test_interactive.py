"""fairseq-interactive: odd lines neither stop it nor shift what follows, and constrained decoding."""

import subprocess

import pytest

from .commands import PLUGIN, finish, in_this_process, printed, start, texts

SENTENCE, ANOTHER = "When must the aunt cook a potato?", "The old teacher bought a red book."
LINES = [SENTENCE, "", ANOTHER, "a\0b \0", SENTENCE, "word " * 5000, ANOTHER, "My 😀 uncle \u2028 slept.", SENTENCE]
TOO_LONG = LINES.index("word " * 5000)


@pytest.fixture(scope="module")
def options(trained, corpus):
    pieces = ("--bpe", "sentencepiece", "--sentencepiece-model", corpus.sentencepiece)
    return (corpus.data, *PLUGIN, "--path", trained.last, *pieces, "--beam", 4)


@pytest.fixture
def interact(options, tmp_path):
    """Translate lines in this process."""

    def interact(lines, *more):
        (tmp_path / "input").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return in_this_process("interactive", *options, "--input", tmp_path / "input", *more)

    return interact


def test_odd_lines_neither_stop_it_nor_change_a_later_translation(options, interact):
    process = start("fairseq_cli.interactive", *options, "--skip-invalid-size-inputs-valid-test", stdin=subprocess.PIPE)
    output = finish(process, "".join(f"{line}\n" for line in LINES))
    hypotheses = printed(output, "H")
    assert sorted(hypotheses) == [i for i in range(len(LINES)) if i != TOO_LONG]
    for sentence in (SENTENCE, ANOTHER):
        (alone,) = printed(interact([sentence]), "H").values()
        places = [i for i, line in enumerate(LINES) if line == sentence]
        assert [hypotheses[i] for i in places] == [alone] * len(places)
    assert hypotheses[0] != hypotheses[2]
    assert printed(output, "S")[7][0][0].split().count("<unk>") == 1  # the emoji; U+2028 does not end a line

    batched = interact(LINES, "--skip-invalid-size-inputs-valid-test", "--buffer-size", 16, "--batch-size", 4)
    assert texts(batched) == texts(output)


def test_a_line_that_does_not_fit_is_refused_by_name_unless_skipped(interact):
    with pytest.raises(Exception, match=r"Size of sample #0 is invalid .* --skip-invalid-size-inputs-valid-test"):
        interact([LINES[TOO_LONG]])


def test_constraints_are_in_the_translation(interact):
    lines = [f"{SENTENCE}\tKartoffel\tTante", ANOTHER, f"{ANOTHER}\tKönigin"]
    output = interact(lines, "--constraints", "--beam", 8)
    constrained, free = texts(output, "D"), texts(interact([SENTENCE, ANOTHER], "--beam", 8), "D")
    assert "Kartoffel" in constrained[0] and "Tante" in constrained[0] and "Königin" in constrained[2]
    assert "Kartoffel" not in free[0] and "Tante" not in free[0] and "Königin" not in free[1]
    assert constrained[1] == free[1]


@pytest.mark.parametrize("joining", [("--remove-bpe",), ("--remove-bpe", "sentencepiece")])
def test_unknown_words_are_not_replaced_by_positions_in_a_source_that_is_joined(interact, joining):
    replacing = ("--print-alignment", "--replace-unk", "/dev/null")
    assert texts(interact([SENTENCE], *replacing))
    with pytest.raises(ValueError, match="--replace-unk needs the source in pieces: leave --remove-bpe out"):
        interact([SENTENCE], *replacing, *joining)


def test_what_is_typed_is_not_sharded(interact, capsys):
    with pytest.raises(SystemExit):
        interact([SENTENCE], "--num-shards", 2, "--shard-id", 1)
    assert "are not for fairseq-interactive, which translates all it reads" in capsys.readouterr().err.splitlines()[-1]
