"""The project installed, without its checkout: a wheel has all of it, its recipes too, and commands list themselves."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from resmlp_core import __version__
from resmlp_core.common.errors import UserError
from resmlp_core.common.recipes import find_recipe
from resmlp_mt.pipeline.settings import Recipe
from resmlp_vision.config import Config, DINOConfig

ROOT = Path(__file__).parents[1]
TINY = (
    *("vocab_size=1000", "train.max-update=4", "train.total-num-update=4", "train.warmup-updates=1"),
    *("train.encoder-layers=1", "train.decoder-layers=1", "train.max-tokens=1000", "generate.beam=1"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds wheels, is not installed")
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, ROOT], check=True)
    return next(out.glob("*.whl"))


def test_a_wheel_has_every_module_and_every_recipe(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    packages = {name for name in tracked if name.startswith(("resmlp_core/", "resmlp_mt/", "resmlp_vision/"))}
    recipes = {f"resmlp_{name}" for name in tracked if name.startswith("recipes/")}
    assert len(packages) > 100 and len(recipes) > 20
    assert packages | recipes <= held
    assert wheel.name.split("-")[1] == __version__
    others = {name.partition("/")[0] for name in held - packages - recipes}
    assert others == {f"resmlp-{__version__}.dist-info"}


def test_the_demo_runs_by_its_name_where_the_wheel_is_installed(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    subprocess.run([*pip, "--target", site, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    corpus = (
        "from resmlp_mt.recipe import Recipe, find_recipe; print(find_recipe('demo', Recipe).parent / 'grammar.py')"
    )
    grammar = subprocess.run(
        [sys.executable, "-c", corpus], cwd=work, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert Path(grammar).is_relative_to(site)
    sizes = ("--train", "1000", "--valid", "20", "--test", "20")  # the recipe would write the whole corpus
    subprocess.run([sys.executable, grammar, "build/demo/corpus", *sizes], cwd=work, env=environment, check=True)
    line = [sys.executable, "-m", "resmlp_mt.recipe", "demo", "--out", "run", *TINY]
    done = subprocess.run(line, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((work / "run" / "resmlp_tiny" / "results.json").read_text(encoding="utf-8"))
    assert results["updates"] == 4 and str(site) in done.stdout


def test_a_recipe_that_is_not_there_is_refused_by_name():
    assert find_recipe("imagenet/distillation", Config) == ROOT / "recipes" / "imagenet" / "distillation.yaml"
    assert find_recipe("multi30k", Recipe).name == "recipe.yaml"
    with pytest.raises(UserError) as missing:
        find_recipe("imagenet", Config)
    assert str(missing.value) == (
        "no recipe imagenet: give a YAML file, or one of cifar10/ablations, cifar10/finetune, cifar10, "
        "cifar10/teacher, digits, imagenet/distillation, imagenet/finetune, imagenet/old_fashioned, "
        "imagenet/pretrain_21k, imagenet/resmlp_s12"
    )
    with pytest.raises(UserError, match=r"no recipe cifar10: .* demo, multi30k, software, wmt14_en_de, wmt14_en_fr$"):
        find_recipe("cifar10", Recipe)
    with pytest.raises(UserError, match=r"no recipe digits: .* one of dino/cifar10, dino/resmlp_s12$"):
        find_recipe("digits", DINOConfig)


def test_every_command_has_a_console_script():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    modules = {target.partition(":")[0] for target in scripts.values()}
    translation = {"recipe", "prepare", "average", "score", "translate", "export"}
    commands = translation, {"train", "dino", "evaluate", "classify"}
    expected = {f"resmlp_mt.{name}" for name in commands[0]} | {f"resmlp_vision.{name}" for name in commands[1]}
    assert modules == expected | {"resmlp_core.inspect.__main__"}
    assert all(target.endswith(":main") for target in scripts.values())


@pytest.mark.parametrize("package", ["resmlp_mt", "resmlp_vision"])
def test_a_package_lists_its_commands(package):
    line = [sys.executable, "-m", package, "--help"]
    shown = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in (ROOT / package).glob("[a-z]*.py"):
        if "\ndef main(" in path.read_text(encoding="utf-8"):
            assert f"python -m {package}.{path.stem} " in shown


def test_where_the_plugin_lies_is_said_without_importing_fairseq():
    line = [sys.executable, "-X", "importtime", "-m", "resmlp_mt"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(ROOT / "resmlp_mt")
    imported = {row.rpartition("|")[2].strip().partition(".")[0] for row in done.stderr.splitlines()}
    assert "resmlp_mt" in imported and not imported & {"fairseq", "torch"}
