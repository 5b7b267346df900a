"""The translators' benchmarks run, at the smallest size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEERS = {"ours", "fairseq's Transformer"}


@pytest.mark.parametrize(
    ("script", "options", "contenders"),
    [
        ("mt_train", [], PEERS),
        ("mt_decode", ["--beams", "1"], PEERS | {"CTranslate2 float32", "CTranslate2 int8"}),
    ],
)
def test_a_benchmark_measures_all_models_on_the_same_work(tmp_path, script, options, contenders):
    line = [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--device", "cpu", "--sizes", "tiny", "--rounds", 1]
    done = subprocess.run([*map(str, line), "--out", tmp_path, *options], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / f"{script}.json").read_text())["rows"]
    assert {row["contender"] for row in rows} == contenders
    assert all(row["per_second"] > 0 and row["contender"] in done.stdout for row in rows)


def test_bfloat16_training_is_not_claimed_for_a_processor(tmp_path):
    line = [sys.executable, ROOT / "benchmarks" / "mt_train.py", "--device", "cpu", "--dtype", "bfloat16"]
    done = subprocess.run([*map(str, line), "--out", tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "on a GPU alone" in done.stderr
