"""Run a recipe from raw text to BLEU: ``python -m resmlp_mt.recipe recipes/multi30k/recipe.yaml``.

Prepare, train, average, generate, score; with ``--teacher`` another model translates the training set first. Each stage
prints the command that it runs, is skipped when its output is whole, and goes on where it was cut off: run the same
command again after a kill.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq.models import ARCH_CONFIG_REGISTRY
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError
from yaml import YAMLError

from resmlp_core.files import UserError, reporting
from resmlp_mt.prepare import NORMALIZATIONS, RULES
from resmlp_mt.stages import STAGES, Run

OPTIONAL: dict[str, Any] = {
    "clean": {},
    "normalization": NORMALIZATIONS[0],
    "effective_tokens": None,
    "tokenized_bleu": None,
}
TOKENIZED = (None, "moses", "split compounds")
KEYS = (*OPTIONAL, "pair", "data", "vocab_size", "average", "shown_positions", "train", "archs", "generate")
OWN_TRAIN_OPTIONS = {"save-dir", "tensorboard-logdir", "log-format", "user-dir"}
OWN_GENERATE_OPTIONS = {"path", "gen-subset", "remove-bpe", "user-dir"}


def read_recipe(
    path: Path, overrides: Sequence[str], arch: str | None, more_archs: Path | None = None
) -> dict[str, Any]:
    """Read a recipe and settle its options.

    Args:
        path: a YAML file; ``recipes/multi30k/recipe.yaml`` explains the keys.
        overrides: ``key=value``, such as ``train.max-epoch=3``. They win over the recipe and its architectures.
        arch: one of the recipe's ``archs``; the first by default.
        more_archs: a YAML file of further ``archs``, each a name and options of fairseq-train. They may name an
            ``arch`` of fairseq's, else the name is it.

    Returns:
        The settings, with ``name`` set to the architecture and its own options merged into ``train``.

    Raises:
        UserError: no such file, a key that is missing or unknown or has a value of another kind, an architecture that
            the recipe does not list, or an option that is the recipe command's own to set.
    """
    if not path.is_file():
        raise UserError(f"no recipe {path}")
    try:
        config: Any = OmegaConf.load(path)
        changes: Any = OmegaConf.from_dotlist(list(overrides))
    except YAMLError as error:
        raise UserError(f"{path} is not YAML, or an override is not: {' '.join(str(error).split())}") from None
    if not isinstance(config, DictConfig) or set(OPTIONAL | dict(config)) != set(KEYS):
        raise UserError(f"{path} must have the keys {', '.join(KEYS)}, of which {', '.join(OPTIONAL)} may be left out")
    config = OmegaConf.merge(OPTIONAL, config)
    archs: Any = OmegaConf.merge(config.pop("archs"), OmegaConf.load(more_archs) if more_archs else {})
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or key.split(".")[0] not in config:
            raise UserError(f"{override!r} is not key=value with a key of {path}: {', '.join(map(str, config))}")
    arch = arch or str(next(iter(archs)))
    if arch not in archs:
        raise UserError(f"--arch {arch} is not in {path}, which has {', '.join(map(str, archs))}")
    config.train = OmegaConf.merge(config.train or {}, {"arch": arch}, archs[arch] or {})
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.merge(config, changes), resolve=True)
    except InterpolationKeyError as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    refuse_other_kinds(settings)
    for stage, options in (("train", OWN_TRAIN_OPTIONS), ("generate", OWN_GENERATE_OPTIONS)):
        for option in options & settings[stage].keys():
            raise UserError(f"{stage}.{option} is not to be set: --out says where everything goes")
    for rule in settings["clean"].keys() - set(RULES):
        raise UserError(f"clean.{rule} is no rule; there are {', '.join(RULES)}")
    if settings["tokenized_bleu"] not in TOKENIZED:
        raise UserError(f"tokenized_bleu={settings['tokenized_bleu']} is none of moses, split compounds")
    if settings["normalization"] not in NORMALIZATIONS:
        raise UserError(f"normalization={settings['normalization']} is none of {', '.join(NORMALIZATIONS)}")
    return settings | {"name": arch}


def refuse_other_kinds(settings: dict[str, Any]) -> None:
    """Raise a UserError for a setting that is not a mapping, a number or an architecture where it has to be one."""
    for key in ("clean", "train", "generate"):
        if not isinstance(settings[key], dict):
            raise UserError(f"{key}={settings[key]} is no mapping of options to values")
    counts = settings["average"] if isinstance(settings["average"], list) else [settings["average"]]
    numbers = {
        "vocab_size": [settings["vocab_size"]],
        "average": counts or [0],
        "shown_positions": [settings["shown_positions"]],
        "effective_tokens": [settings["effective_tokens"] or 1],  # it may be left out
    }
    for key, values in numbers.items():
        if not all(isinstance(value, int) and value > 0 for value in values):
            raise UserError(f"{key}={settings[key]} must be a whole number above 0")
    if settings["effective_tokens"] and "max-tokens" not in settings["train"]:
        raise UserError("effective_tokens needs train.max-tokens, the most that a device takes at once")
    if settings["train"].get("disable-validation"):
        raise UserError("train.disable-validation: a recipe reports the validation loss")
    if settings["train"]["arch"] not in ARCH_CONFIG_REGISTRY:
        raise UserError(f"train.arch={settings['train']['arch']} is no architecture of fairseq's, nor one of ours")


def choose_data(settings: dict[str, Any], pair: str | None, data: str | None) -> None:
    """Settle which corpus a recipe is for.

    Args:
        settings: the recipe's; its ``data`` may have one data set for each pair.
        pair: the languages asked for, such as ``en-fr``, in place of the recipe's.
        data: a folder or a data set of the hub, in place of the recipe's.

    Raises:
        UserError: the recipe has no data for the pair.
    """
    settings |= {key: value for key, value in (("pair", pair), ("data", data)) if value}
    if isinstance(settings["data"], dict):
        if settings["pair"] not in settings["data"]:
            known = ", ".join(settings["data"])
            raise UserError(f"--pair {settings['pair']} has no data in the recipe, which names {known}; give --data")
        settings["data"] = settings["data"][settings["pair"]]


def show_table(out: Path) -> None:
    """Print one row for each architecture that has been scored in the folder of a recipe."""
    columns = ("parameters", "updates", "hours", "tokens/s", "valid loss", "valid BLEU", "BLEU", "lower-cased")
    print(f"\n{'arch':>28}" + "".join(f"{column:>12}" for column in columns))
    for path in sorted(out.glob("*/results.json")):
        r = json.loads(path.read_text(encoding="utf-8"))
        print(
            f"{path.parent.name:>28}{r['parameters']:>12,}{r['updates']:>12,}{r['hours']:>12.2f}"
            f"{r['tokens_per_second']:>12,.0f}{r['valid_loss']:>12.3f}{r['valid_bleu']:>12.2f}{r['bleu']:>12.2f}"
            f"{r['bleu_lowercase']:>12.2f}"
        )


@reporting("recipe")
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m resmlp_mt.recipe", description="Run a recipe, from text to BLEU.")
    parser.add_argument("recipe", type=Path, metavar="RECIPE.YAML")
    parser.add_argument("--data", help="a folder of text or parquet files, or a hub data set (default: the recipe's)")
    parser.add_argument("--pair", help="languages, such as en-fr (default: the recipe's)")
    parser.add_argument("--arch", help="one of the recipe's architectures (default: its first)")
    parser.add_argument("--stage", choices=STAGES, help="only this one (default: all)")
    parser.add_argument("--teacher", help="train on the translations of this architecture, trained in the same --out")
    parser.add_argument("--out", type=Path, help="where everything goes (default: build/RECIPE/PAIR)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as train.max-epoch=3")
    args = parser.parse_intermixed_args()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and args.stage != "train":
        parser.error("under torchrun give --stage train; the other stages are for one process, before and after it")
    settings = read_recipe(args.recipe, args.overrides, args.arch)
    choose_data(settings, args.pair, args.data)
    if args.teacher:
        settings |= {"teacher": args.teacher, "name": f"{settings['name']}-from-{args.teacher}"}
    run = Run(settings, args.out or Path("build", args.recipe.parent.name, settings["pair"]))
    run.run([args.stage] if args.stage else STAGES)
    if args.stage in (None, "score"):
        outcome = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
        show_table(run.out)
        for name, what in (("tokenized", "BLEU on Moses's tokens"), ("tokenized_split", "and with compounds apart")):
            if f"bleu_{name}" in outcome:
                print(f"{what} {outcome[f'bleu_{name}']:.2f}  {outcome[f'signature_{name}']}")
        print(f"BLEU {outcome['bleu']:.2f}  {outcome['signature']}\nEverything is in {run.folder}")


if __name__ == "__main__":
    main()
