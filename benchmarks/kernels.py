"""What fewer, larger kernels save: Aff's own backward, and Muon's products, each beside the plain way to write it.

    python benchmarks/kernels.py

Aff goes forward and backward on what a translator and S12 pass it. Muon's matrices are those of one layer of the
encoder and one of the decoder at 512 / 2048, and of all layers at 128 / 256; a unit is such a set of matrices.
"""

from collections.abc import Callable, Sequence
from functools import partial

from measure import Contenders, options, save, summarise

import torch
from torch import Tensor

from resmlp_core import Affine
from resmlp_mt.muon import NEWTON_SCHULZ, STEPS, orthogonalise

SHAPES = {"a translator": (1788, 512), "S12": (16 * 196, 384)}  # rows, channels
MATRICES = {  # shape and number
    "512 / 2048, two layers": {(256, 256): 2, (512, 512): 4, (2048, 512): 2, (512, 2048): 2},
    "128 / 256, 4 + 4 layers": {(64, 64): 8, (128, 128): 16, (256, 128): 8, (128, 256): 8},
}
PLAIN = "plain"


def make_affs(rows: int, channels: int, device: str) -> Contenders:
    """Prepare Aff and autograd's α ⊙ x + β to go forward and backward; raise unless their gradients are equal."""
    x, gradient = torch.randn(2, rows, channels, device=device)
    x.requires_grad_()
    aff = Affine(channels, 0.5).to(device)
    inputs = [x, aff.alpha, aff.beta]
    ways: dict[str, Callable[[], Tensor]] = {
        "Aff": lambda: aff(x),
        PLAIN: lambda: torch.addcmul(aff.beta, aff.alpha, x),
    }

    def there_and_back(way: Callable[[], Tensor]) -> object:
        return torch.autograd.grad(way(), inputs, gradient)

    torch.testing.assert_close(*map(there_and_back, ways.values()))
    return {name: partial(there_and_back, way) for name, way in ways.items()}


def one_by_one(stack: Tensor) -> Tensor:
    """Do what ``orthogonalise`` does for each matrix on its own, an operation at a time."""
    a, b, c = NEWTON_SCHULZ
    found = []
    for matrix in stack:
        x = matrix if matrix.size(0) <= matrix.size(1) else matrix.T
        x = x / x.norm().clamp(min=1e-12)
        for _ in range(STEPS):
            gram = x @ x.T
            x = a * x + (b * gram + c * (gram @ gram)) @ x
        found.append(x if matrix.size(0) <= matrix.size(1) else x.T)
    return torch.stack(found)


def make_steps(stacks: Sequence[Tensor]) -> Contenders:
    """Prepare both ways to orthogonalise stacks of matrices of one shape; raise unless they give the same."""
    for stack in stacks:
        torch.testing.assert_close(orthogonalise(stack), one_by_one(stack), rtol=0, atol=1e-5)
    return {
        "Muon": lambda: [orthogonalise(stack) for stack in stacks],
        PLAIN: lambda: [one_by_one(stack) for stack in stacks],
    }


def main() -> None:
    """Run the command line."""
    args = options(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = []
    for work, shape in SHAPES.items():
        rows += summarise({"work": work}, make_affs(*shape, args.device), shape[0], PLAIN, args.rounds, args.device)
    for work, numbers in MATRICES.items():
        stacks = [torch.randn(number, *shape, device=args.device) for shape, number in numbers.items()]
        rows += summarise({"work": work}, make_steps(stacks), 1, PLAIN, args.rounds, args.device)
    save(args, rows)


if __name__ == "__main__":
    main()
