"""resmlp-translate as a program: killed, piped, and at a terminal."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from resmlp_mt import load_translator, translate

from .small_translators import SENTENCES

pytestmark = pytest.mark.usefixtures("warm")

LINE = [sys.executable, "-m", "resmlp_mt.translate"]
OPTIONS = {"env": {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}, "encoding": "utf-8"}
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **OPTIONS}


def test_after_a_kill_the_same_command_goes_on_where_it_was(model, tmp_path, capsys):
    source, output = tmp_path / "source", tmp_path / "output"
    os.mkfifo(source)
    begun = [*map(str, (model, source, "-o", output))]
    with subprocess.Popen([*LINE, *begun], stderr=subprocess.DEVNULL, **OPTIONS) as process:
        with open(source, "w", buffering=1) as file:
            file.write("".join(f"{line}\n" for line in SENTENCES[:50]))
            patience = time.monotonic() + 60
            while not (tmp_path / "output.partial.json").exists() and time.monotonic() < patience:
                time.sleep(0.2)
                file.write(f"{SENTENCES[50]}\n")
            process.kill()
        process.wait()
    assert not output.exists()
    source.unlink()
    source.write_text("".join(f"{line}\n" for line in (*SENTENCES[:50], *[SENTENCES[50]] * 400)))
    translate.main(begun)
    assert output.read_text().splitlines() == load_translator(model).translate(source.read_text().splitlines())
    assert sorted(tmp_path.iterdir()) == [output, source]
    done = int(capsys.readouterr().err.split()[1])
    assert 300 < done < 400  # the 50 first and some more were translated before


def test_a_program_is_answered_line_by_line_and_may_leave_at_any_time(model):
    pipes = PIPES | {"env": OPTIONS["env"] | {"PYTHONIOENCODING": "ascii"}}  # as a locale may be
    with subprocess.Popen([*LINE, str(model), "--column", "2"], bufsize=1, **pipes) as process:
        patience = threading.Timer(60, process.kill)
        patience.start()
        expected = load_translator(model).translate(SENTENCES[:3])
        for sentence, translation in zip(SENTENCES[:3], expected, strict=True):
            process.stdin.write(f"größer\t{sentence}\n")
            assert process.stdout.readline() == f"größer\t{translation}\n"
        process.stdout.close()
        process.stdin.write("".join(f"\t{sentence}\n" for sentence in SENTENCES[:9]))
        process.stdin.close()
        assert process.wait() == 0
        patience.cancel()
        assert "Traceback" not in (errors := process.stderr.read()) and "rror" not in errors


def test_a_program_that_writes_a_paragraph_and_waits_is_answered(model):
    with subprocess.Popen([*LINE, str(model), "--document"], bufsize=1, **PIPES) as process:
        patience = threading.Timer(60, process.kill)
        patience.start()
        translated = load_translator(model).translate
        for first, second in (SENTENCES[:2], SENTENCES[2:4]):
            process.stdin.write(f"{first} {second}\n")
            assert process.stdout.readline() == " ".join(translated([first, second])) + "\n"
        process.stdin.close()
        assert process.wait() == 0
        patience.cancel()


def test_ctrl_c_while_it_waits_for_a_line_ends_it(model):
    with subprocess.Popen([*LINE, str(model)], bufsize=1, **PIPES) as process:
        process.stdin.write(f"{SENTENCES[0]}\n")
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == ""


def test_a_terminal_shows_how_fast_it_is_and_how_long_it_takes(model, tmp_path, on_a_terminal):
    lines = ["The queen.", *SENTENCES[:299]]  # the shortest is translated last
    (tmp_path / "source").write_text("".join(f"{line}\n" for line in lines))
    shown = on_a_terminal([*LINE, *map(str, (model, tmp_path / "source", "--batch-size", 100))], env=OPTIONS["env"])
    assert "100% |" in shown and " 300 of 300 lines [" in shown
    assert re.search(r" 0% \|[^\r]*\| 0 of 300 lines \[[^\r]* left, 100 sentences, [\d.]+ a second\]", shown)
    assert "translate: 300 sentences in " in shown
