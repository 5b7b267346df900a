"""Compare configurations of translation models at one budget, over seeds, fairly:

    python recipes/multi30k/compare.py OUT --minutes 30 --seeds 1,2,3 --configs resmlp_tiny,transformer [--test]

Each configuration of comparison.yaml that is named is trained once a seed, for a number of updates or, with --minutes,
for as many as it does in that time: speeds are measured first, in turns, on what should then be a quiet machine. How
many epochs are averaged is chosen on the validation set, and configurations are to be chosen by their BLEU there: the
test set is looked at only with --test. The table goes to OUT/comparison.json, the curves to OUT/comparison.png.
The same command again resumes where it was interrupted.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import matplotlib.pyplot as plt
import torch

from resmlp_core.common.arguments import at_least, positive
from resmlp_core.common.errors import UserError, reporting
from resmlp_core.common.files import alone_in, remove, write_json
from resmlp_core.inspect.plots import save
from resmlp_mt.pipeline.fairseq_commands import run_fairseq_train
from resmlp_mt.pipeline.learning_curve import read_curve
from resmlp_mt.pipeline.run import STAGES, Run
from resmlp_mt.pipeline.settings import choose_data, read_recipe

RECIPE = Path(__file__).with_name("recipe.yaml")
CONFIGS = Path(__file__).with_name("comparison.yaml")
ROUNDS = 3  # of the measurement of speed, each configuration once a round
UPDATES = 40  # in a round; the first quarter warms up
SET_BY = {"train.max-update": "--updates", "train.max-epoch": "--updates", "train.seed": "--seeds"}


def measure_speeds(configs: dict[str, dict[str, Any]], out: Path) -> dict[str, float]:
    """Measure the updates a second of each configuration by fairseq-train itself, in turns A B A B.

    Args:
        configs: settings of recipes by name.
        out: a folder with the data prepared; speeds.json in it keeps the outcome, so that a repeated run ends alike.
            What was measured there with other options or another number of threads is measured anew.

    Returns:
        The median over rounds, by name.
    """
    path = out / "speeds.json"
    known: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    work: dict[str, dict[str, Any]] = {
        name: {"threads": torch.get_num_threads(), "options": Run(settings, out).train_options()}
        for name, settings in configs.items()
    }
    missing = [name for name in work if {**known.get(name, {}), **work[name]} != known.get(name)]
    rounds: dict[str, list[float]] = {name: [] for name in missing}
    for number in range(ROUNDS):
        for name in missing:
            print(f"\nspeed of {name}, round {number + 1} of {ROUNDS}")
            brief = {"max-update": UPDATES, "log-interval": UPDATES // 4, "no-save": True, "disable-validation": True}
            folder = out / "speed"
            remove(folder)
            precision = configs[name]["matmul_precision"]
            run_fairseq_train(out / "data-bin", folder, work[name]["options"] | brief, precision)
            # fairseq rounds updates a second to hundredths; its words a second and words an update are not so coarse
            per_second, per_update = (read_curve(folder / "tensorboard" / "train_inner", key) for key in ("wps", "wpb"))
            remove(folder)
            rounds[name].append(median([per_second[step] / per_update[step] for step in per_second][1:]))
    if missing:
        known |= {name: {**work[name], "updates_per_second": median(rounds[name])} for name in missing}
        write_json(path, known)
    return {name: known[name]["updates_per_second"] for name in work}


def train_and_score(run: Run, test: bool) -> dict[str, Any]:
    """Run the stages of one model, those on the test set only if asked, and return its results."""
    run.run(STAGES if test else STAGES[: STAGES.index("generate")])
    results = run.folder / "results.json"
    return json.loads(results.read_text(encoding="utf-8")) if test else run.describe()


def summarise(name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the runs of a configuration, one a seed, into one row: mean, and the spread of BLEU as standard deviation."""
    row: dict[str, Any] = {"config": name, "seeds": len(runs)}
    row |= {key: runs[0][key] for key in ("parameters", "updates")}
    for key in ("valid_loss", "valid_bleu", "bleu", "bleu_lowercase", "chrf"):
        values = [run[key] for run in runs if key in run]
        if len(values) == len(runs):
            row[key] = mean(values)
            row[f"{key}_spread"] = stdev(values) if len(values) > 1 else None
    return row | {"runs": list(runs)}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table, the best on the validation set first."""
    columns = (
        "parameters",
        "updates",
        "min",
        "seeds",
        "valid loss",
        "valid BLEU",
        "±",
        "test BLEU",
        "±",
        "lower-cased",
        "chrF",
    )
    print(f"\n{'':>28}" + "".join(f"{column:>12}" for column in columns))
    for row in rows:
        cells = [f"{row['parameters']:,}", f"{row['updates']:,}", f"{row['minutes']:.1f}" if "minutes" in row else ""]
        cells += [str(row["seeds"]), f"{row['valid_loss']:.3f}"]
        for key in ("valid_bleu", "valid_bleu_spread", "bleu", "bleu_spread", "bleu_lowercase", "chrf"):
            cells.append("" if row.get(key) is None else f"{row[key]:.2f}")
        print(f"{row['config']:>28}" + "".join(f"{cell:>12}" for cell in cells))


def draw(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Draw the validation loss of each configuration's first seed, over minutes where the speed is known."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    timed = all("minutes" in row for row in rows)
    late: list[float] = []  # after the first tenth, whose fall would leave no room to tell the curves apart
    for row in rows:
        curve = read_curve(out / row["runs"][0]["folder"] / "tensorboard" / "valid", "loss")
        scale = row["minutes"] / row["updates"] if timed else 1
        axes.plot([update * scale for update in curve], list(curve.values()), label=row["config"])
        late += [loss for update, loss in curve.items() if 10 * update >= row["updates"]]
    axes.set_ylim(min(late) - 0.05, max(late) + 0.05)
    axes.set(xlabel="minutes of training" if timed else "updates", ylabel="validation loss (bits a token)")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, out / "comparison.png")


def parse_arguments() -> argparse.Namespace:
    """Read the command line; names and seeds come as lists."""
    about, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="where everything goes")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="what holds for all (default: the one here)")
    parser.add_argument("--configs", required=True, metavar="NAME,...", help="those to compare")
    parser.add_argument("--seeds", default="1", metavar="N,...", help="train each once a seed (default: 1)")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--updates", type=at_least(1), help="train each for so many updates")
    budget.add_argument("--minutes", type=positive, help="train each for as many updates as it does in this time")
    parser.add_argument("--teacher", help="train on the translations of this run in OUT, such as transformer-1")
    parser.add_argument("--test", action="store_true", help="score the test set; not while choosing")
    parser.add_argument("--data", help="a folder, or a data set of the hub (default: the recipe's)")
    parser.add_argument("--pair", help="languages, such as en-fr (default: the recipe's)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as train.dropout=0.1")
    args = parser.parse_intermixed_args()
    args.configs, args.seeds = args.configs.split(","), args.seeds.split(",")
    if not all(seed.isdecimal() for seed in args.seeds):
        parser.error(f"--seeds {','.join(args.seeds)}: seeds are integers")
    if any(len(set(given)) < len(given) for given in (args.configs, args.seeds)):
        parser.error("--configs and --seeds must name each but once")
    for key in SET_BY.keys() & {override.partition("=")[0] for override in args.overrides}:
        parser.error(f"{key} is set by {SET_BY[key]}")
    return args


@reporting("compare")
def main() -> None:
    """Run the command line."""
    args = parse_arguments()

    def read(name: str, *overrides: str) -> dict[str, Any]:
        settings = read_recipe(args.recipe, [*args.overrides, "train.max-epoch=0", *overrides], name, CONFIGS)
        choose_data(settings, args.pair, args.data)
        return settings

    configs = {name: read(name, f"train.max-update={args.updates or UPDATES}") for name in args.configs}
    speeds: dict[str, float] = {}
    if args.minutes is not None:
        settings = next(iter(configs.values()))
        Run(settings, args.out).prepare()
        with alone_in(args.out):
            speeds = measure_speeds(configs, args.out)
    rows = []
    for name in args.configs:
        updates = args.updates if args.minutes is None else round(args.minutes * 60 * speeds[name])
        if updates < 1:
            raise UserError(f"--minutes {args.minutes} leaves no time for one update of {name}")
        runs = []
        for seed in args.seeds:
            run = f"{name}-{seed}" + (f"-from-{args.teacher}" if args.teacher else "")
            print(f"\n== {run}: {updates} updates", flush=True)
            settings = read(name, f"train.max-update={updates}", f"train.seed={seed}")
            settings |= {"name": run, "teacher": args.teacher}
            runs.append({"folder": run} | train_and_score(Run(settings, args.out), args.test))
        row = summarise(name, runs)
        rows.append(row | ({"minutes": row["updates"] / speeds[name] / 60} if args.minutes else {}))
    rows.sort(key=lambda row: -row["valid_bleu"])
    write_json(args.out / "comparison.json", rows)
    draw(rows, args.out)
    show(rows)


if __name__ == "__main__":
    main()
