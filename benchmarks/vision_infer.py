"""Classifying: images a second and peak memory, ResMLP-S12 beside timm's of the same weights and models of like size.

    python benchmarks/vision_infer.py [--compile] [--dtype float32 bfloat16] [--batch 1 32]

The weights are random. That S12, folded and not, and timm's resmlp_12_224 give the same logits is checked first. Each
turn classifies the same number of images, whatever the size of the batch. Weights and images are of one type; bfloat16
is left out by default where the processor would emulate it.
"""

import argparse
import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from measure import options, save, summarise

import timm
import torch
from torch import Tensor, nn

from resmlp_core import fold
from resmlp_core.common.arguments import at_least
from resmlp_core.common.devices import emulates
from resmlp_vision import create_model, to_timm

PEER = "timm's resmlp_12_224"
FOLDED = "ours, folded"
OTHERS = ("vit_small_patch16_224", "deit_small_patch16_224", "mixer_s16_224")
BATCHES = {"cpu": [1, 32], "cuda": [1, 32, 1024]}


def make_models() -> dict[str, nn.Module]:
    """Build the contenders; those that are to have the same weights do, all of them away from their start."""
    torch.manual_seed(0)
    ours = create_model("resmlp_s12").eval()
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(torch.randn_like(p), alpha=0.02 if p.dim() > 1 else 0.2)
    peer = timm.create_model("resmlp_12_224").eval()
    peer.load_state_dict(to_timm(ours))
    models = {"ours": ours, FOLDED: fold(ours), PEER: peer}
    check_equal(models)
    return models | {f"timm's {name}": timm.create_model(name).eval() for name in OTHERS}


def check_equal(models: Mapping[str, nn.Module]) -> None:
    """Raise an AssertionError unless the logits are the same within 1e-4 of the largest."""
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = models[PEER](images)
        for model in models.values():
            torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def classify(model: Callable[[Tensor], Tensor], images: Tensor, times: int) -> None:
    """Classify the same images so many times."""
    with torch.inference_mode():
        for _ in range(times):
            model(images)


def compare(models: Mapping[str, nn.Module], dtype: str, batch: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure models at one size of the batch; if asked, the folded S12 and timm's compiled too."""
    images = torch.randn(batch, 3, 224, 224, device=args.device, dtype=getattr(torch, dtype))
    times = max(args.batch) // batch
    modes: dict[str, Mapping[str, Any]] = {"eager": models}
    if args.compile:
        torch.compiler.reset()  # past a number of recompilations it would go on eagerly
        modes["compiled"] = {name: torch.compile(models[name], dynamic=False) for name in (FOLDED, PEER)}
    rows = []
    for mode, entrants in modes.items():
        case = {"dtype": dtype, "batch": batch, "mode": mode}
        contenders = {name: partial(classify, model, images, times) for name, model in entrants.items()}
        rows += summarise(case, contenders, batch * times, PEER, args.rounds, args.device)
    return rows


def default_dtypes(device: str) -> list[str]:
    """Return the types that a device computes with, not by emulation."""
    return ["float32"] if device == "cpu" and emulates("bfloat16") else ["float32", "bfloat16"]


def main() -> None:
    """Run the command line."""
    parser = options(__doc__)
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), help="(default: what is native)")
    parser.add_argument("--batch", nargs="+", type=at_least(1), help=f"images in a batch (default: {BATCHES})")
    parser.add_argument("--compile", action="store_true", help="measure the folded S12 and timm's compiled too")
    args = parser.parse_args()
    args.dtype = args.dtype or default_dtypes(args.device)
    args.batch = args.batch or BATCHES[args.device]
    torch.set_num_threads(args.threads)
    models = make_models()
    rows = []
    for dtype in args.dtype:
        cast = {name: copy.deepcopy(model).to(args.device, getattr(torch, dtype)) for name, model in models.items()}
        rows += [row for batch in args.batch for row in compare(cast, dtype, batch, args)]
    save(args, rows, timm=timm.__version__)


if __name__ == "__main__":
    main()
