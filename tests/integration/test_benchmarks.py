"""The translators' benchmarks run, at the smallest size."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEERS = {"ours", "fairseq's Transformer"}


def run_here(script, *arguments, monkeypatch):
    """Run a benchmark's script in this process."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [*map(str, (script, *arguments))])
    runpy.run_path(str(ROOT / "benchmarks" / f"{script}.py"), run_name="__main__")


@pytest.mark.parametrize(
    ("script", "options", "contenders"),
    [
        ("mt_train", [], PEERS | {"fairseq's Transformer, by oneDNN"}),
        ("mt_decode", ["--beams", "1"], PEERS | {"CTranslate2 float32", "CTranslate2 int8"}),
    ],
)
def test_a_benchmark_measures_all_models_on_the_same_work(tmp_path, monkeypatch, script, options, contenders):
    line = [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--device", "cpu", "--sizes", "tiny", "--rounds", 1]
    done = subprocess.run([*map(str, line), "--out", tmp_path, *options], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / f"{script}.json").read_text())["rows"]
    assert {row["contender"] for row in rows} == contenders
    assert all(row["per_second"] > 0 and row["contender"] in done.stdout for row in rows)
    run_here("plot", "--out", tmp_path, monkeypatch=monkeypatch)
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_the_preparation_of_a_corpus_is_measured(tmp_path):
    line = [sys.executable, ROOT / "benchmarks" / "prepare.py", "--pairs", 20_000, "--out", tmp_path]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads((tmp_path / "prepare.json").read_text())["rows"]
    assert row["peak_memory_bytes"] > 1e8 and row["peak_disk_over_text"] > 0.5
    assert row["dropped"]["identical"] == row["dropped"]["bad_encoding"] == 20_000 / 250
    assert f"{row['pairs_per_second']:,.0f}" in done.stdout


def test_bfloat16_training_is_not_claimed_for_a_processor(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_here("mt_train", "--device", "cpu", "--dtype", "bfloat16", monkeypatch=monkeypatch)
    assert "on a GPU alone" in capsys.readouterr().err
