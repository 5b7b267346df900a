"""Run a recipe from raw text to BLEU: ``python -m resmlp_mt.recipe multi30k``, or that of a YAML file.

Prepare, train, average, generate, score; with ``--teacher`` another model translates the training set first. Each stage
prints the command that it runs and is skipped when its output is complete. After an interruption run the same command
again: it resumes.
"""

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import resmlp_mt.plugin  # noqa: F401  before other modules load fairseq, which would then configure logging
from resmlp_core.common.arguments import MINUTES, add_rehearsal_options, refuse_without_rehearsal
from resmlp_core.common.errors import UserError, reporting
from resmlp_core.common.recipes import find_recipe
from resmlp_mt.pipeline.distillation import find_teacher
from resmlp_mt.pipeline.rehearsal import rehearse
from resmlp_mt.pipeline.run import STAGES, Run
from resmlp_mt.pipeline.settings import Recipe, choose_data, read_recipe


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
    parser.add_argument("--data", help="a folder of text or tables, or a data set of the hub (default: the recipe's)")
    parser.add_argument("--pair", help="languages, such as en-fr (default: the recipe's)")
    parser.add_argument("--arch", help="one of the recipe's architectures (default: its first)")
    parser.add_argument("--stage", choices=STAGES, help="run only this stage (default: all)")
    parser.add_argument("--teacher", help="train on the translations of this architecture, trained in the same --out")
    parser.add_argument("--out", type=Path, help="where everything goes (default: build/RECIPE/PAIR)")
    add_rehearsal_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, such as train.max-update=3000")
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
