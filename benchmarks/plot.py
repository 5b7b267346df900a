"""Draw the ratios that the benchmarks have measured: ``python benchmarks/plot.py`` makes build/benchmarks/speed.png."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from measure import MEASURED, OUT

TITLES = {
    "mt_train": "Training a translator, beside fairseq's Transformer",
    "mt_decode": "Translating, beside fairseq's Transformer",
    "vision_infer": "Classifying, beside timm's ResMLP",
    "vision_train": "Training a classifier, beside timm's ResMLP",
}
OURS = ("ours", "ours, folded")


def describe(row: Mapping[str, Any]) -> str:
    """Name a row's work."""
    work = ", ".join(f"{key} {value}" for key, value in row.items() if key not in MEASURED)
    return f"{work}, folded" if row["contender"] == "ours, folded" else work


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the benchmarks' JSON files (default: {OUT})")
    folder = parser.parse_args().out
    found = {name: folder / f"{name}.json" for name in TITLES if (folder / f"{name}.json").exists()}
    if not found:
        parser.error(f"{folder} has no results: run the benchmarks first")
    bars = {
        name: [row for row in json.loads(path.read_text(encoding="utf-8"))["rows"] if row["contender"] in OURS]
        for name, path in found.items()
    }
    heights = [len(rows) + 1 for rows in bars.values()]
    figure, grid = plt.subplots(
        len(bars), 1, figsize=(8, 0.3 * sum(heights) + 1), height_ratios=heights, sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, (name, rows) in zip(grid[:, 0], bars.items(), strict=True):
        ratios = [row["ratio"] for row in rows]
        spread = [
            [row["ratio"] - row["ratio_range"][0] for row in rows],
            [row["ratio_range"][1] - row["ratio"] for row in rows],
        ]
        axes.barh([describe(row) for row in rows], ratios, xerr=spread, color="tab:blue", ecolor="gray")
        axes.axvline(1, color="black", linewidth=1)
        axes.invert_yaxis()
        axes.set_title(TITLES[name], loc="left", fontsize="medium")
    grid[-1, 0].set_xlabel("times the peer's speed; grey: least and greatest of the rounds")
    figure.savefig(folder / "speed.png", dpi=120)
    print(folder / "speed.png")


if __name__ == "__main__":
    main()
