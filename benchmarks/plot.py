"""Draw the ratios that the benchmarks have measured: ``python benchmarks/plot.py`` makes build/benchmarks/speed.png."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from measure import OUT

import matplotlib.pyplot as plt
from matplotlib.axes import Axes


@dataclass
class Benchmark:
    """How the rows of a benchmark are drawn: ResMLP's as bars, some others as markers, all as ratios to the peer."""

    title: str
    work: str  # a row's, made of its keys
    others: tuple[str, ...]
    ours: str = "ours"

    def of(self, contender: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """Return a contender's rows by their work."""
        return {self.work.format_map(row): row for row in rows if row["contender"] == contender}


BENCHMARKS = {
    "mt_train": Benchmark(
        "Training a translator, beside fairseq's Transformer",
        "{dtype}, {size}, {words:,} words a batch",
        ("fairseq's Transformer, by oneDNN",),
    ),
    "mt_decode": Benchmark(
        "Translating, beside fairseq's Transformer",
        "beam {beam}, {batch} × {length} tokens",
        (
            "ResMLP bfloat16",
            "ResMLP int8",
            "CTranslate2 float32",
            "CTranslate2 int8",
            "CTranslate2 float32, one thread",
            "CTranslate2 int8, one thread",
        ),
        "ResMLP float32",
    ),
    "vision_infer": Benchmark(
        "Classifying, beside timm's ResMLP", "{dtype}, {batch} × 224², {mode}", ("ours",), "ours, folded"
    ),
    "vision_train": Benchmark(
        "Training a classifier, beside timm's ResMLP",
        "{dtype}, {batch} × 224²",
        ("timm's resmlp_12_224, by oneDNN",),
    ),
}


def draw(axes: Axes, benchmark: Benchmark, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw one benchmark."""
    bars = benchmark.of(benchmark.ours, rows)
    ratios = [row["ratio"] for row in bars.values()]
    spread = [[abs(row["ratio"] - row["ratio_range"][i]) for row in bars.values()] for i in (0, 1)]
    axes.barh(list(bars), ratios, xerr=spread, color="tab:blue", ecolor="gray", label=benchmark.ours)
    for other, marker in zip(benchmark.others, cycle("osD^v*"), strict=False):
        if found := benchmark.of(other, rows):
            ratios = [row["ratio"] for row in found.values()]
            axes.plot(ratios, list(found), marker, color="tab:orange", markeredgecolor="black", label=other)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_title(benchmark.title, loc="left", fontsize="medium")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", frameon=False)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the benchmarks' JSON files (default: {OUT})")
    folder = parser.parse_args().out
    rows = {
        name: json.loads(path.read_text(encoding="utf-8"))["rows"]
        for name in BENCHMARKS
        if (path := folder / f"{name}.json").exists()
    }
    if not rows:
        parser.error(f"{folder} has no results: run the benchmarks first")
    heights = [len(BENCHMARKS[name].of(BENCHMARKS[name].ours, rows[name])) + 1 for name in rows]
    figure, grid = plt.subplots(
        len(rows), 1, figsize=(10, 0.3 * sum(heights) + 1), height_ratios=heights, sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, name in zip(grid[:, 0], rows, strict=True):
        draw(axes, BENCHMARKS[name], rows[name])
    grid[-1, 0].set_xlabel("times the peer's speed; grey: least and greatest of the rounds")
    figure.savefig(folder / "speed.png", dpi=120)
    print(folder / "speed.png")


if __name__ == "__main__":
    main()
