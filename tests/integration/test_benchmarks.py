"""The translators' benchmarks run, at the smallest size."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
import warm_python

from resmlp_core import ChannelMLP, CrossPositionLinear, ResMLPLayer
from resmlp_core.layers.onednn import onednn_is_faster
from resmlp_mt.translation.products import IS_FAST

from .recipe_runs import command, environment

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PEERS = {"ours", "fairseq's Transformer"}
BY_ONEDNN = {"fairseq's Transformer, by oneDNN"} if onednn_is_faster() else set()  # else it would be the same again
DECODERS = {("CTranslate2", dtype + threads) for dtype in ("float32", "int8") for threads in ("", ", one thread")}
DECODERS |= {("ResMLP", dtype) for dtype, is_fast in IS_FAST.items() if is_fast()}


@pytest.mark.parametrize(
    ("script", "options", "contenders", "dtypes"),
    [
        ("mt_train", ["--dtype", "float32", "bfloat16"], PEERS | BY_ONEDNN, {"float32", "bfloat16"}),
        (
            "mt_decode",
            ["--beams", "1", "--threads", "2"],
            PEERS | {f"{who} {dtype}" for who, dtype in DECODERS},
            {None},
        ),
    ],
)
def test_a_benchmark_measures_all_models_on_the_same_work(
    tmp_path, monkeypatch, run_script, script, options, contenders, dtypes
):
    """Python is new here, as one that has loaded fairseq already would say less."""
    monkeypatch.setattr("subprocess.Popen", warm_python.COLD)
    line = [sys.executable, BENCHMARKS / f"{script}.py", "--device", "cpu", "--sizes", "demo", "--rounds", 1]
    done = subprocess.run(
        [*map(str, line), "--out", tmp_path, *options], capture_output=True, text=True, cwd=BENCHMARKS.parent
    )
    assert done.returncode == 0 and not done.stderr, done.stderr[-3000:]
    rows = json.loads((tmp_path / f"{script}.json").read_text())["rows"]
    assert {row["contender"] for row in rows} == contenders
    assert {row.get("dtype") for row in rows} == dtypes
    assert all(row["per_second"] > 0 and row["contender"] in done.stdout for row in rows)
    run_script(BENCHMARKS / "plot.py", "--out", tmp_path)
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = plt.gcf().axes
    drawn = {text.get_text() for text in axes.get_legend().get_texts()}
    assert contenders - {"ours", "fairseq's Transformer"} <= drawn


def test_kernels_are_measured_beside_the_plain_way_to_write_them(tmp_path, run_script):
    """The script itself compares their outcomes."""
    run_script(BENCHMARKS / "kernels.py", "--device", "cpu", "--rounds", 1, "--out", tmp_path)
    rows = json.loads((tmp_path / "kernels.json").read_text())["rows"]
    assert [row["contender"] for row in rows] == [*["Aff", "plain"] * 2, *["Muon", "plain"] * 2]


@pytest.mark.parametrize(
    ("script", "option", "number"),
    [
        ("mt_train", "--rounds", 0),
        ("mt_train", "--threads", -1),
        ("busy", "--seconds", "inf"),
        ("prepare", "--pairs", 0),
    ],
)
def test_numbers_that_leave_nothing_to_measure_are_refused(run_script, capsys, script, option, number):
    with pytest.raises(SystemExit):
        run_script(BENCHMARKS / f"{script}.py", option, number)
    assert f"argument {option}: {number}" in capsys.readouterr().err


def test_the_preparation_of_a_corpus_is_measured(tmp_path):
    line = [sys.executable, BENCHMARKS / "prepare.py", "--pairs", 10_000, "--out", tmp_path]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, cwd=BENCHMARKS.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads((tmp_path / "prepare.json").read_text())["rows"]
    assert row["peak_memory_bytes"] > 1e8 and row["peak_disk_over_text"] > 0.5
    assert row["dropped"]["identical"] == row["dropped"]["bad_encoding"] == 10_000 / 250
    assert f"{row['pairs_per_second']:,.0f}" in done.stdout


def test_policies_of_waiting_are_measured_quiet_and_busy(tmp_path):
    line = [sys.executable, BENCHMARKS / "busy.py", "--policies", "passive", "1000", "--works", "translate one"]
    turns = ["--rounds", 1, "--seconds", 0.01, "--out", tmp_path]
    done = subprocess.run([*map(str, [*line, *turns])], capture_output=True, text=True, cwd=BENCHMARKS.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "busy.json").read_text())["rows"]
    cases = {(row["load"], row["policy"]) for row in rows}
    assert cases == {(load, policy) for load in ("quiet", "busy") for policy in ("passive", "1000")}
    assert all(rate > 0 for row in rows for rate in row["per_second"])
    assert "translate one, busy" in done.stdout


@pytest.mark.long
def test_whole_commands_translate_a_test_set(tmp_path, recipe):
    run = tmp_path / "run"
    for arch in ("resmlp_tiny", "transformer"):
        line = command(recipe, "--out", run, "--arch", arch, "train.max-epoch=1")
        subprocess.run(line, env=environment(), capture_output=True, check=True)
    line = [sys.executable, BENCHMARKS / "mt_translate.py", run, "--beams", 1, "--rounds", 1, "--threads", 2]
    done = subprocess.run([*map(str, [*line, "--out", tmp_path])], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "mt_translate.json").read_text())["rows"]
    bleu = {row["contender"]: row["BLEU"] for row in rows}
    assert {
        "ResMLP float32",
        "fairseq-interactive",
        "CTranslate2 int8",
        "CTranslate2 int8, a batch a thread",
    } <= bleu.keys()
    assert bleu["CTranslate2 float32"] == pytest.approx(bleu["fairseq-interactive"], abs=0.5)
    assert all(row["per_second"] > 0 and row["peak_memory_bytes"] > 1e7 for row in rows)


@pytest.mark.parametrize("matrices", ["A", "BC"])
def test_pruning_leaves_out_the_smallest_weights_of_each_matrix(monkeypatch, matrices):
    """What is above the diagonal of a causal A is no weight, and does not count."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from compress import prune_smallest

    mixers = [CrossPositionLinear(6), CrossPositionLinear(6, causal=True)]
    layers = torch.nn.ModuleList(ResMLPLayer(8, mixer, ChannelMLP(8, 16), 0.1) for mixer in mixers)
    pruned = dict(prune_smallest(layers, matrices, 0.5).named_parameters())
    letters = {"cross_position.mixer.weight": "A", "mixer.fc1.weight": "B", "mixer.fc2.weight": "C"}
    for name, before in layers.named_parameters():
        gone = pruned[name] != before
        if next((letter for end, letter in letters.items() if name.endswith(end)), "none") not in matrices:
            assert not gone.any()
            continue
        weights = before != 0
        assert gone.sum() == round(0.5 * weights.sum().item()) and not pruned[name][gone].any()
        assert before[gone].abs().max() < before[weights & ~gone].abs().min()
