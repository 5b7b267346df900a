"""Run a recipe from raw text to BLEU: ``python -m resmlp_mt.recipe multi30k``, or that of a YAML file.

Prepare, train, average, generate, score; with ``--teacher`` another model translates the training set first. Each stage
prints the command that it runs and is skipped when its output is complete. After an interruption run the same command
again: it resumes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

import resmlp_mt.plugin
from resmlp_core.common.arguments import MINUTES, add_rehearsal_options, refuse_without_rehearsal
from resmlp_core.common.errors import UserError, reporting
from resmlp_core.common.recipes import find_recipe
from resmlp_core.common.settings import reading_settings
from resmlp_core.inspect.report import SHOWN_POSITIONS
from resmlp_mt.data.cleaning import Rules
from resmlp_mt.data.normalization import NORMALIZATIONS
from resmlp_mt.pipeline.distillation import find_teacher
from resmlp_mt.pipeline.rehearsal import rehearse
from resmlp_mt.pipeline.run import STAGES, Run

TOKENIZED = (None, "moses", "split compounds")
PRECISIONS = ("highest", "high")
OWN_TRAIN_OPTIONS = {"save-dir", "checkpoint-suffix", "tensorboard-logdir", "log-format", "user-dir"}
RESTARTS = {
    *("restore-file", "reset-optimizer", "reset-lr-scheduler", "reset-meters", "reset-dataloader"),
    *("no-save", "no-last-checkpoints", "no-save-optimizer-state"),
}
MOST_SEED = 2**31 - 1  # fairseq adds epochs and updates to it, and NumPy takes 32 bits
OWN_GENERATE_OPTIONS = {"path", "gen-subset", "remove-bpe", "results-path", "quiet", "user-dir"}


@dataclass
class Recipe:
    """The keys of a recipe.

    Args:
        pair: the languages, such as ``en-de``.
        data: a folder of text or parquet files, or a data set of the hub; or a mapping from pairs to these; null leaves
            it to ``--data``.
        vocab_size: entries of the joint vocabulary.
        average: how many of the last checkpoints to average; of several numbers validation BLEU picks one.
        train: options of fairseq-train.
        archs: the choices for ``--arch``, each with the options of fairseq-train that differ for it.
        generate: options of fairseq-generate.
        shown_positions: how many positions of A are drawn.
        clean: which training pairs to leave out.
        normalization: how sentencepiece normalises characters: ``nmt_nfkc`` writes … as three points and full-width
            punctuation as ASCII's, ``identity`` keeps all.
        effective_tokens: the most target tokens of an update, over all devices; null leaves it to ``train``.
        tokenized_bleu: a BLEU to report beside sacreBLEU's: on Moses's tokens (``moses``), or on these with German
            compounds split (``split compounds``).
        data_script: a script beside the recipe that writes ``data``, given it as its argument, where it is not there.
        matmul_precision: of float32 matrix products in training on a GPU, as ``torch.set_float32_matmul_precision``
            names it: ``highest``, or ``high``, which is TF32.
    """

    pair: str = MISSING
    data: Any = None
    vocab_size: int = MISSING
    average: Any = MISSING
    train: dict[str, Any] = MISSING
    archs: dict[str, Any] = MISSING
    generate: dict[str, Any] = MISSING
    shown_positions: int = SHOWN_POSITIONS
    clean: Rules = field(default_factory=Rules)
    normalization: str = NORMALIZATIONS[0]
    effective_tokens: int | None = None
    tokenized_bleu: str | None = None
    data_script: str | None = None
    matmul_precision: str = PRECISIONS[0]


def read_recipe(
    path: Path, overrides: Sequence[str], arch: str | None, more_archs: Path | None = None
) -> dict[str, Any]:
    """Read a recipe and settle its options.

    Args:
        path: a YAML file with the keys of ``Recipe``.
        overrides: ``key=value``, such as ``train.max-update=3000``. They win over the recipe and its architectures.
        arch: one of the recipe's ``archs``; the first by default.
        more_archs: a YAML file of further ``archs``, each a name and options of fairseq-train. They may name an
            ``arch`` of fairseq's, else the name is it.

    Returns:
        The settings, ``average`` as a list, with ``name`` set to the architecture and its own options merged into
        ``train``.

    Raises:
        UserError: no such file, a key that is missing or unknown or has a value of another kind, an architecture that
            the recipe does not list, or an option that is the recipe command's own to set.
    """
    with reading_settings(path, overrides, where=f"{path}, or an override: "):
        for override in overrides:
            if override.startswith("archs."):
                raise UserError(f"{override} is not for the command line: give train.KEY=VALUE")
        config: Any = OmegaConf.merge(OmegaConf.structured(Recipe), OmegaConf.load(path))
        if missing := OmegaConf.missing_keys(config):
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}")
        archs: Any = OmegaConf.merge(config.archs, OmegaConf.load(more_archs) if more_archs else {})
        if not archs or not all(options is None or OmegaConf.is_dict(options) for options in archs.values()):
            raise UserError(f"{path}: archs must have a name for each architecture, and under it options or nothing")
        arch = str(next(iter(archs))) if arch is None else arch
        if arch not in archs:
            raise UserError(f"--arch {arch} is not in {path}, which has {', '.join(map(str, archs))}")
        config.train = OmegaConf.merge(config.train, {"arch": arch}, archs[arch] or {})
        config = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))
        settings: Any = OmegaConf.to_container(config, resolve=True)
        Rules(**settings["clean"])
    del settings["archs"]
    if not isinstance(settings["average"], list):
        settings["average"] = [settings["average"]]
    check_values(settings)
    return settings | {"name": arch}


def check_values(settings: dict[str, Any]) -> None:
    """Raise a UserError for a value of the right kind that cannot be meant."""
    for key in ("vocab_size", "shown_positions", "effective_tokens"):
        if settings[key] is not None and settings[key] <= 0:  # the dataclass lets only effective_tokens be None
            raise UserError(f"{key}={settings[key]} must be a positive integer")
    counts = settings["average"]
    if not counts or not all(type(count) is int and count > 0 for count in counts):
        raise UserError(f"average={counts} must be a positive integer")
    choices = {"tokenized_bleu": TOKENIZED, "normalization": NORMALIZATIONS, "matmul_precision": PRECISIONS}
    for key, known in choices.items():
        if settings[key] not in known:
            raise UserError(f"{key}={settings[key]} is none of {', '.join(filter(None, known))}")
    train = settings["train"]
    for stage, options in (("train", OWN_TRAIN_OPTIONS), ("generate", OWN_GENERATE_OPTIONS)):
        for option in options & settings[stage].keys():
            raise UserError(f"{stage}.{option} cannot be set: a recipe decides what goes where, by --out")
        seed = settings[stage].get("seed", 1)
        if type(seed) is not int or not 0 <= seed <= MOST_SEED:
            raise UserError(f"{stage}.seed={seed} must be an integer from 0 to {MOST_SEED}")
    for option in sorted(RESTARTS & train.keys()):
        raise UserError(
            f"train.{option}: a run that was interrupted would begin anew; train.finetune-from-model=FILE starts a "
            "recipe from another model"
        )
    if settings["effective_tokens"] and not (type(train.get("max-tokens")) is int and train["max-tokens"] > 0):
        raise UserError("effective_tokens needs train.max-tokens, the most that a device takes at once, as an integer")
    if settings["effective_tokens"] and "update-freq" in train:
        raise UserError("train.update-freq follows from effective_tokens; give effective_tokens=null beside it")
    for option in ("disable-validation", "validate-after-updates"):
        if train.get(option):
            raise UserError(f"train.{option}: a recipe reports the validation loss")
    for option in ("max-update", "max-epoch", "validate-interval", "save-interval"):
        if not isinstance(train.get(option), int | None):
            raise UserError(f"train.{option}={train[option]!r} must be an integer, without quotation marks")
    for option in ("validate-interval", "save-interval"):
        epochs, interval = train.get("max-epoch"), train.get(option)
        if epochs and interval and epochs % interval:
            raise UserError(
                f"train.{option}={interval} leaves out the last of train.max-epoch={epochs} epochs, whose weights and "
                "validation loss a recipe reports"
            )
    if train["arch"] not in resmlp_mt.plugin.ARCH_CONFIG_REGISTRY:
        raise UserError(f"train.arch={train['arch']} is not an architecture of fairseq's or of this plugin")


def choose_data(settings: dict[str, Any], pair: str | None, data: str | None) -> None:
    """Settle which corpus a recipe is for.

    Args:
        settings: the recipe's; its ``data`` may have one data set for each pair.
        pair: the languages asked for, such as ``en-fr``, in place of the recipe's.
        data: a folder or a data set of the hub, in place of the recipe's.

    Raises:
        UserError: the pair is none, or the recipe has no data for it, or what it has is no name.
    """
    settings |= {key: value for key, value in (("pair", pair), ("data", data)) if value}
    if not re.fullmatch("[^-]+-[^-]+", settings["pair"]):
        raise UserError(f"--pair {settings['pair']}: two languages with a hyphen between them, as in en-de, are needed")
    if isinstance(settings["data"], dict):
        if settings["pair"] not in settings["data"]:
            known = ", ".join(settings["data"])
            raise UserError(f"--pair {settings['pair']} has no data in the recipe, which names {known}; give --data")
        settings["data"] = settings["data"][settings["pair"]]
    if settings["data"] is None:
        raise UserError("the recipe names no data; give --data")
    if not isinstance(settings["data"], str):
        raise UserError(f"data={settings['data']} is neither a folder nor a data set of the hub")


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


def write_data(script: Path, data: Path) -> None:
    """Let a recipe's script write its data, unless they are there.

    Raises:
        UserError: it failed; it has said why.
    """
    if not data.exists() and subprocess.run([sys.executable, script, data]).returncode:
        raise UserError(f"{script} has not written {data}")


@reporting("recipe")
def main() -> None:
    """Run the command line."""
    about = "Run a recipe, from text to BLEU."
    # without abbreviations, as a rehearsal takes its own options out of the command line to tell what starts the run
    parser = argparse.ArgumentParser("python -m resmlp_mt.recipe", description=about, allow_abbrev=False)
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a recipe of this project by name: multi30k")
    parser.add_argument("--data", help="a folder of text or parquet files, or a hub data set (default: the recipe's)")
    parser.add_argument("--pair", help="languages, such as en-fr (default: the recipe's)")
    parser.add_argument("--arch", help="one of the recipe's architectures (default: its first)")
    parser.add_argument("--stage", choices=STAGES, help="only this one (default: all)")
    parser.add_argument("--teacher", help="train on the translations of this architecture, trained in the same --out")
    parser.add_argument("--out", type=Path, help="where everything goes (default: build/RECIPE/PAIR)")
    add_rehearsal_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as train.max-update=3000")
    args = parser.parse_intermixed_args()
    refuse_without_rehearsal(parser, args)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and args.stage != "train" and not args.rehearse:
        parser.error("under torchrun give --stage train; the other stages are for one process, before and after it")
    recipe = find_recipe(args.recipe, Recipe)
    settings = read_recipe(recipe, args.overrides, args.arch)
    script = settings.pop("data_script")
    choose_data(settings, args.pair, args.data)
    if args.teacher:
        settings |= {"teacher": args.teacher, "name": f"{settings['name']}-from-{args.teacher}"}
    out = args.out or Path("build", recipe.resolve().parent.name, settings["pair"])
    if args.rehearse:
        unwritten = script and not args.data and not Path(settings["data"]).exists()
        write = partial(write_data, recipe.parent / script) if unwritten else None
        if status := rehearse(settings, out, args.rehearse_minutes or MINUTES, args.price, write):
            raise SystemExit(status)
        return
    run = Run(settings, out)
    if args.stage in (None, "prepare"):
        if args.teacher:
            find_teacher(out, args.teacher)
        if script and not args.data:
            write_data(recipe.parent / script, Path(settings["data"]))
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
