"""What a recipe's file and the command line make of its settings."""

import re

import pytest

from resmlp_core.common.errors import UserError
from resmlp_mt.pipeline.settings import choose_data, read_recipe

from .recipe_runs import ROOT


def test_options_of_the_command_line_win_over_those_of_the_architecture(recipe):
    settings = read_recipe(recipe, ["train.encoder-layers=2", "train.lr=0.5"], "transformer")
    train = settings["train"]
    assert (train["arch"], train["encoder-layers"], train["decoder-layers"], train["lr"]) == ("transformer", 2, 1, 0.5)


def test_the_two_wmt14_recipes_differ_in_what_the_paper_has_them_differ():
    german, french = (
        read_recipe(ROOT / "recipes" / f"wmt14_en_{lang}" / "recipe.yaml", [], None) for lang in ("de", "fr")
    )
    assert {key for key in german if german[key] != french[key]} == {"pair", "name", "train", "tokenized_bleu"}
    differing = {key for key in german["train"] if german["train"][key] != french["train"][key]}
    assert differing == {"arch", "dropout", "max-update"}


def test_a_recipe_has_data_by_pair():
    settings = read_recipe(ROOT / "recipes" / "multi30k" / "recipe.yaml", [], None)
    with pytest.raises(UserError, match="--pair en-cs has no data in the recipe, which names en-de, en-fr"):
        choose_data(dict(settings), "en-cs", None)
    choose_data(settings, "en-fr", None)
    assert (settings["pair"], settings["data"]) == ("en-fr", "romrawinjp/multi30k")


def test_a_recipe_may_leave_its_data_to_the_command_line(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(re.sub("(?m)^data:.*\n", "", recipe.read_text()))
    settings = read_recipe(path, [], None)
    choose_data(settings, None, "my")
    assert settings["data"] == "my"


@pytest.mark.parametrize(
    ("replaced", "content", "message"),
    [
        (rb"(?s).+", b"pair: caf\xe9", "is not YAML"),
        (rb"(?s).+", b"pair: en-de", "lacks archs, average, generate"),
        (rb"archs:\n(  .*\n)+", b"archs: {}\n", "archs must have a name for each architecture"),
        (rb"archs:\n(  .*\n)+", b"archs: {resmlp_tiny: big}\n", "archs must have a name for each architecture"),
    ],
)
def test_a_malformed_recipe_is_one_line_that_names_it(recipe, tmp_path, replaced, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(re.sub(replaced, content, recipe.read_bytes()))
    with pytest.raises(UserError, match=rf"^{path}.*{message}"):
        read_recipe(path, [], None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.arch=[a]", "train.arch=['a'] is not an architecture"),
        ("train.distributed-world-size=x", "train.distributed-world-size='x' must be an integer"),
        ("train.eval-bleu-args='{beam: 4}'", "train.eval-bleu-args={beam: 4} must be a JSON object"),
        ("train.eval-bleu-args='[4]'", "train.eval-bleu-args=[4] must be a JSON object"),
        ("train.eval-bleu-detok-args=4", "train.eval-bleu-detok-args=4 must be a JSON object"),
    ],
)
def test_an_option_of_fairseqs_of_another_kind_is_refused_by_name(override, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        read_recipe(ROOT / "recipes" / "wmt14_en_de" / "recipe.yaml", [override], None)
