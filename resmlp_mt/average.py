"""Average the weights of checkpoints: ``python -m resmlp_mt.average CHECKPOINT... --output FILE``.

fairseq keeps such a script beside its package, so an installed fairseq lacks it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from resmlp_core.common.checkpoint import read_checkpoint, write_checkpoint
from resmlp_core.common.errors import UserError, reporting


def average_checkpoints(paths: Sequence[Path]) -> dict[str, Any]:
    """Average fairseq checkpoints of one architecture.

    Args:
        paths: checkpoint files; options and everything but the weights are those of the last.

    Returns:
        A checkpoint's state for fairseq, without the optimiser's.

    Raises:
        UserError: a file is missing or no checkpoint, or its parameters are not those of the first; it is named.
    """
    total: dict[str, torch.Tensor] = {}
    state: dict[str, Any] = {}
    for path in paths:
        if not path.is_file():
            raise UserError(f"no checkpoint {path}")
        try:
            state = read_checkpoint(path)
            weights = dict(state["model"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is not a complete fairseq checkpoint") from None
        if not total:
            total = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
        if {n: w.shape for n, w in weights.items()} != {n: w.shape for n, w in total.items()}:
            raise UserError(f"{path} is a checkpoint of another model than {paths[0]}")
        for name, weight in weights.items():
            total[name] += weight
    for name, weight in state["model"].items():  # in place: tied weights stay one in memory, and in a file
        weight.copy_(total[name] / len(paths))
    state.pop("last_optimizer_state", None)
    return state


@reporting("average")
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m resmlp_mt.average", description="Average fairseq checkpoints.")
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="of one model, as fairseq-train saves them"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="where their average goes")
    args = parser.parse_args()
    state = average_checkpoints(args.checkpoints)
    write_checkpoint(args.output, state)
    print(f"averaged {len(args.checkpoints)} checkpoints into {args.output}")


if __name__ == "__main__":
    main()
