"""BLEU by the length of the source sentence, of several models of one recipe, as a table and a plot:

    python recipes/software/by_length.py OUT RUN... [--edges 10,15,20,30]

OUT is the recipe's folder, and each RUN a folder of a trained and scored model in it. The table goes to
OUT/by-length.json, the plot to OUT/by-length.png. Beside each length stands how many sentences of the test set have it,
and the share of the training set that is as long or longer: what training rarely saw.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from resmlp_core.common.errors import UserError, reporting
from resmlp_core.common.files import write_json
from resmlp_core.inspect.plots import save
from resmlp_mt.data.generate_output import read_hypotheses
from resmlp_mt.data.text_lines import read_lines
from resmlp_mt.metrics import bleu_of


def words(path: Path) -> NDArray[np.int64]:
    """Count the words of each line."""
    return np.array([len(line.split()) for line in read_lines(path)])


def by_length(out: Path, runs: list[str], edges: list[int]) -> list[dict[str, Any]]:
    """Score each run on the sentences of each length.

    Args:
        out: the recipe's folder.
        runs: folders in it, whose test set is translated.
        edges: the words at which a length begins, ascending; below the first is a length of its own.

    Returns:
        A row for each length that the test set has: ``from`` and ``below`` (None: no limit) in words, ``sentences`` of
        the test set, ``as_long``, the share of the training set from there on, and ``bleu`` by run.

    Raises:
        UserError: a run has not been scored yet.
    """
    for run in runs:
        if not (out / run / "results.json").exists():
            raise UserError(f"there is no {out / run / 'results.json'}: run all stages of {run} first")
    results = json.loads((out / runs[0] / "results.json").read_text(encoding="utf-8"))
    source, _, target = results["settings"]["pair"].partition("-")
    length, trained = words(out / "text" / f"test.{source}"), words(out / "text" / f"train.{source}")
    references = np.array(read_lines(out / "text" / f"test.{target}"))
    found = [(run, np.array(read_hypotheses(out / run / "generate.txt"))) for run in runs]
    bleu = bleu_of(target)
    rows: list[dict[str, Any]] = []
    for first, below in zip([0, *edges], [*edges, None], strict=True):
        here = (length >= first) & (length < (below or np.inf))
        if not here.any():
            continue
        scores = {run: bleu.corpus_score(list(of[here]), [list(references[here])]).score for run, of in found}
        as_long = float(np.mean(trained >= first))
        rows.append({"from": first, "below": below, "sentences": int(here.sum()), "as_long": as_long, "bleu": scores})
    return rows


def name(row: dict[str, Any]) -> str:
    """Return what a row's lengths are called."""
    return f"{row['from']} and more" if row["below"] is None else f"{row['from']} to {row['below'] - 1}"


def draw(rows: list[dict[str, Any]], runs: list[str], path: Path) -> None:
    """Draw BLEU over length, a line a run."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    names = [f"{name(row)}\n{row['sentences']:,} sentences" for row in rows]
    for run in runs:
        axes.plot(names, [row["bleu"][run] for row in rows], marker="o", label=run)
    axes.set(xlabel="words of the source sentence", ylabel="BLEU, test set", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


@reporting("by_length")
def main() -> None:
    """Run the command line."""
    about, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the recipe's folder")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders in it, of models that are scored")
    parser.add_argument("--edges", default="10,15,20,30", metavar="N,...", help="where lengths begin, in words")
    args = parser.parse_args()
    try:
        edges = [int(edge) for edge in args.edges.split(",")]
    except ValueError:
        parser.error(f"--edges {args.edges}: not numbers")
    if edges != sorted(set(edges)) or edges[0] < 1:
        parser.error(f"--edges {args.edges} must ascend from 1 or more")
    rows = by_length(args.out, args.runs, edges)
    write_json(args.out / "by-length.json", rows)
    draw(rows, args.runs, args.out / "by-length.png")
    print(f"{'words':>12}{'sentences':>12}{'as long':>10}" + "".join(f"{run:>24}" for run in args.runs))
    for row in rows:
        scores = "".join(f"{row['bleu'][run]:>24.2f}" for run in args.runs)
        print(f"{name(row):>12}{row['sentences']:>12,}{row['as_long']:>10.1%}{scores}")


if __name__ == "__main__":
    main()
