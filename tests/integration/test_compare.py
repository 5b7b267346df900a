"""Configurations compared at one budget, over seeds, in one table."""

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import warm_python
from fairseq.options import get_training_parser, parse_args_and_arch
from omegaconf import OmegaConf

from resmlp_mt.pipeline.fairseq_commands import arguments
from resmlp_mt.pipeline.run import Run
from resmlp_mt.pipeline.settings import read_recipe

ROOT = Path(__file__).parents[2]


def load_compare():
    """Load the comparison's script as a module."""
    spec = spec_from_file_location("compare", ROOT / "recipes/multi30k/compare.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROUNDS, module.UPDATES = 1, 8
    return module


def compare(out, recipe, *arguments):
    """Run the comparison in this process, and return its table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["compare", str(out), "--recipe", str(recipe), *arguments])
        load_compare().main()
    return json.loads((out / "comparison.json").read_text())


@pytest.mark.slow
def test_a_comparison_says_nothing_of_what_libraries_log():
    """Python is new here: the other tests' processes are forks of one that has loaded fairseq already."""
    script = str(ROOT / "recipes/multi30k/compare.py")
    code = f"import logging, runpy; runpy.run_path({script!r}); logging.debug('of a library')"
    new = warm_python.COLD([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    _, told = new.communicate()
    assert new.returncode == 0 and "of a library" not in told


def test_a_comparison_takes_the_mean_over_seeds_and_leaves_the_test_set_alone_until_asked(recipe):
    out = recipe.parent / "compared"
    line = ["--seeds", "1,2", "--configs", "resmlp_tiny", "--updates", "7", "average=1"]
    (row,) = compare(out, recipe, *line)
    first, second = row["runs"]
    assert row["updates"] == 7
    assert first["best_valid_loss"] != second["best_valid_loss"]  # the seeds differ
    assert row["valid_loss"] == pytest.approx((first["valid_loss"] + second["valid_loss"]) / 2)
    assert "bleu" not in row and not list(out.glob("*/generate.txt"))
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoints/*.pt")}
    (row,) = compare(out, recipe, *line, "--test")
    for key in ("bleu", "chrf"):
        assert row[key] == pytest.approx(sum(run[key] for run in row["runs"]) / 2)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train.seed=5",), "train.seed is set by --seeds"),
        (("train.max-epoch=5",), "train.max-epoch is set by --updates"),
        (("--seeds", "1,1"), "--configs and --seeds must name each but once"),
        (("--seeds", "one"), "--seeds one: seeds are integers"),
    ],
)
def test_what_a_comparison_cannot_take_is_refused(recipe, capsys, arguments, message):
    with pytest.raises(SystemExit):
        compare(recipe.parent / "none", recipe, "--updates", "7", "--configs", "resmlp_tiny", *arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "budget", [("--minutes", "0"), ("--minutes", "inf"), ("--minutes", "nan"), ("--updates", "-1")]
)
def test_a_comparison_without_a_budget_is_refused(recipe, capsys, budget):
    with pytest.raises(SystemExit):
        compare(recipe.parent / "none", recipe, *budget, "--configs", "resmlp_tiny")
    assert f"argument {budget[0]}: {budget[1]}" in capsys.readouterr().err


def test_a_comparison_by_time_gives_each_the_updates_that_its_speed_allows(recipe):
    out = recipe.parent / "timed"
    line = ["--minutes", "0.02", "--configs", "resmlp_tiny,transformer", "average=1"]
    rows = compare(out, recipe, *line)
    speeds = json.loads((out / "speeds.json").read_text())
    assert {row["config"]: row["updates"] for row in rows} == {
        name: round(1.2 * measured["updates_per_second"]) for name, measured in speeds.items()
    }
    assert rows[0]["valid_bleu"] >= rows[1]["valid_bleu"]
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    compare(out, recipe, *line)
    assert json.loads((out / "speeds.json").read_text()) == speeds  # a repeated run ends alike


def test_every_configuration_of_the_comparison_can_be_read_and_changes_something():
    module = load_compare()
    read = {
        name: read_recipe(module.RECIPE, ["train.max-update=800"], name, module.CONFIGS)["train"]
        for name in ("resmlp_tiny", "resmlp_plus_tiny", "transformer", *OmegaConf.load(module.CONFIGS))
    }
    assert len({json.dumps(options, sort_keys=True) for options in read.values()}) == len(read)
    for options in read.values():
        assert options["lr-scheduler"] == "inverse_sqrt" or options["total-num-update"] == 800
    for options in read.values():
        parse_args_and_arch(get_training_parser(), ["data-bin", *arguments(**options)])


def test_a_speed_that_was_measured_with_other_options_is_measured_anew(recipe):
    out, module = recipe.parent / "timed", load_compare()
    options = (["train.max-epoch=0", f"train.max-tokens={tokens}"] for tokens in (200, 1000))
    one, other = (read_recipe(recipe, each, None) for each in options)
    Run(one, out).prepare()
    speeds = module.measure_speeds({"a": one, "b": one}, out)
    assert module.measure_speeds({"a": one}, out) == {"a": speeds["a"]}
    again = module.measure_speeds({"a": one, "b": other}, out)
    assert again["a"] == speeds["a"] and again["b"] != speeds["b"]
