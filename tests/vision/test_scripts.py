"""The demo's scripts, the ablations, timm's networks beside the recipe and the benchmarks of images run."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from resmlp_core.layers.onednn import onednn_is_faster
from resmlp_vision.train import main as train

from .runs import TINY, run, write_images

ROOT = Path(__file__).parents[2]


def start_script(path, *arguments):
    """Run a script in a process of its own."""
    line = [sys.executable, ROOT / path, *arguments]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_digits_are_written_learnt_looked_at_and_compressed(tmp_path, run_script):
    digits, out = tmp_path / "digits", tmp_path / "run"
    run_script(ROOT / "recipes/digits/digits.py", digits)
    assert [len(list((digits / split).glob("*/*.png"))) for split in ("train", "test")] == [1437, 360]
    line = ("--config", ROOT / "recipes/digits/recipe.yaml", "epochs=1", "warmup_epochs=0", "device=cpu")
    run(train, *line, f"data={digits}", f"out={out}")
    printed = run_script(ROOT / "recipes/digits/look.py", digits, out)
    top1 = json.loads((out / "results.json").read_text())["top1"]
    assert f"{top1:.1f}% of 360 test digits" in printed
    assert {"confusion.png", "filters.png"} <= {path.name for path in out.iterdir()}
    start_script(
        "benchmarks/compress.py", "--classifier", out / "last.pth.tar", "--images", digits, "--rounds", 1, "--out", out
    )
    whole, integers, *pruned = json.loads((out / "compress.json").read_text())["rows"]
    assert abs(whole["quality"] - top1) < 0.5 and whole["per_second"] > 0  # folded, a digit may fall to the other side
    assert integers["megabytes"] < 0.6 * whole["megabytes"] and len(pruned) == 12


def test_every_ablation_trains_and_those_that_are_done_are_left(tmp_path, run_script):
    images = write_images(tmp_path / "images")
    line = (tmp_path / "out", *TINY, f"data={images}", "val_split=val", "image_key=image", "epochs=1")
    table = run_script(ROOT / "recipes/cifar10/ablations.py", *line)
    rows = json.loads((tmp_path / "out" / "ablations.json").read_text())
    assert len({row["parameters"] for row in rows}) == 8  # LayerNorm has as many as Aff
    assert all(f"{row['parameters']:,}" in table for row in rows)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("last.pth.tar")}
    run_script(ROOT / "recipes/cifar10/ablations.py", *line)
    assert len(made) == len(rows) == len(json.loads((tmp_path / "out" / "ablations.json").read_text()))
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_timms_networks_train_by_the_recipe_with_as_many_parameters(tmp_path, run_script):
    images = write_images(tmp_path / "images")
    line = (f"data={images}", "val_split=val", "epochs=1", "batch_size=8", "workers=0", "device=cpu")
    for name in ("resmlp", "mixer", "vit"):
        printed = run_script(ROOT / "recipes/cifar10/peers.py", tmp_path, name, *line)
        parameters = json.loads((tmp_path / name / "results.json").read_text())["parameters"]
        assert f"{parameters:,} parameters" in printed
        assert abs(parameters / 927_490 - 1) < 0.03  # the recipe's own


def test_a_benchmark_measures_all_models_on_the_same_work(tmp_path):
    line = ("--device", "cpu", "--batch", 1, "--rounds", 1, "--dtype", "float32", "--out", tmp_path)
    printed = start_script("benchmarks/vision_infer.py", *line, "--threads", torch.get_num_threads())
    rows = json.loads((tmp_path / "vision_infer.json").read_text())["rows"]
    assert {row["contender"] for row in rows} >= {"ours", "ours, folded", "timm's resmlp_12_224"}
    assert all(row["per_second"] > 0 and row["contender"] in printed for row in rows)


def test_the_training_benchmark_measures_both_models(tmp_path):
    line = ("--device", "cpu", "--batch", 2, "--rounds", 1, "--out", tmp_path)
    start_script("benchmarks/vision_train.py", *line)
    rows = json.loads((tmp_path / "vision_train.json").read_text())["rows"]
    models = ["ours", "timm's resmlp_12_224", *["timm's resmlp_12_224, by oneDNN"] * onednn_is_faster()]
    assert [row["contender"] for row in rows] == models
    assert all(row["per_second"] > 0 for row in rows)


def test_the_loader_and_its_steps_are_measured_beside_timms(tmp_path):
    line = ("--device", "cpu", "--rounds", 1, "--images", 64, "--size", 64, 48, "--out", tmp_path)
    printed = start_script("benchmarks/vision_loader.py", *line)
    rows = json.loads((tmp_path / "vision_loader.json").read_text())["rows"]
    assert [(row["repeated_aug"], row["contender"]) for row in rows[:4]] == [
        (repeats, name) for repeats in (3, 0) for name in ("ours", "timm's")
    ]
    assert len(rows) == 4 + 8 and all(row["per_second"] > 0 and row["contender"] in printed for row in rows)
