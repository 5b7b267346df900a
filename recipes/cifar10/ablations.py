"""The paper's ablations at the scale of CIFAR-10, and three rows beyond: each trains one small model.

    python recipes/cifar10/ablations.py OUT [KEY=VALUE ...]

Rows that are done are skipped, so the command can be run again after a kill; the table is in OUT/ablations.json too.
"""

import argparse
import logging
from pathlib import Path

from resmlp_core.common.errors import reporting
from resmlp_core.common.files import write_json
from resmlp_vision.config import Config, read_config
from resmlp_vision.distributed import leave_processes
from resmlp_vision.training.run import train
from resmlp_vision.training.supervised import SupervisedTrainer

RECIPE = Path(__file__).with_name("ablations.yaml")
CONVOLVED = "model_args.position_mixer=convolved_linear"
WELL_SCALED = ["model_args.norm=layer_norm", "model_args.layer_scale=1"]
ROWS = {
    "ResMLP": [],
    "Aff → LayerNorm": ["model_args.norm=layer_norm"],
    "average pooling → Class-MLP": ["model_args.global_pool=class_mlp"],
    "cross-patch linear → none": ["model_args.position_mixer=none"],
    "cross-patch linear → MLP": ["model_args.position_mixer=mlp"],
    "cross-patch linear → conv 3×3": ["model_args.position_mixer=conv3x3"],
    "cross-patch linear → depth-wise conv 3×3": ["model_args.position_mixer=depthwise_conv3x3"],
    "cross-patch linear → depth-separable conv 3×3": ["model_args.position_mixer=separable_conv3x3"],
    # beyond the paper
    "a depth-wise conv 3×3 beside A": [CONVOLVED],
    "Aff → LayerNorm, LayerScale from 1": WELL_SCALED,
    "and with it a depth-wise conv 3×3 beside A": [*WELL_SCALED, CONVOLVED],
}


@reporting("ablations")
def run_ablations(out: Path, overrides: list[str]) -> None:
    """Train every row, then print the table and write it as JSON."""
    logging.getLogger("timm").setLevel(logging.WARNING)
    table = []
    try:
        for number, (name, changes) in enumerate(ROWS.items()):
            print(f"\n{name}", flush=True)
            config = read_config(RECIPE, [f"out={out / str(number)}", *overrides, *changes], Config)
            if results := train(config, SupervisedTrainer):  # the first process has them
                table.append({"row": name, **{key: results[key] for key in ("parameters", "top1")}})
    finally:
        leave_processes()
    if not table:
        return
    write_json(out / "ablations.json", table)
    print(f"\n{'':<48}{'parameters':>12}{'top-1':>8}")
    for row in table:
        print(f"{row['row']:<48}{row['parameters']:>12,}{row['top1']:>8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train every ablation and print their table.")
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as data=FOLDER")
    run_ablations(**vars(parser.parse_args()))
