"""The optimiser Muon for fairseq: ``fairseq-train --optimizer muon`` (Jordan et al., 2024).

A matrix moves by the orthogonal matrix that is nearest to its momentum, and so as far along every direction, where the
steps of Adam follow the few strongest ones. A ResMLP has no normalisation that would even these out, and learns several
times faster by Muon (``docs/notebook/2026-11.md``). All other parameters move by AdamW. Keller Jordan and others
describe Muon at https://kellerjordan.github.io/posts/muon/.

PyTorch's own ``torch.optim.Muon`` takes only matrices, computes in bfloat16, which is slow where a processor has no
instructions for it, and would fill the upper triangle of the decoder's A.
"""

from ast import literal_eval
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a quintic that takes singular values of 0 to 1 near to 1 in five steps
STEPS = 5


def is_layer_matrix(parameter: Tensor) -> bool:
    """Whether a parameter is a layer's matrix, or a stack of them, or a convolution's filters, ``(kernel_size, dim)``.

    An embedding, which is none, has many more rows than columns.
    """
    return parameter.dim() > 1 and parameter.size(-2) <= 8 * parameter.size(-1)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Approximate the nearest orthogonal matrix, U Vᵀ of the singular value decomposition U S Vᵀ.

    Args:
        matrix: ``(..., rows, columns)``.

    Returns:
        A matrix of that shape; singular values that were not negligible lie between 0.7 and 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.size(-2) <= matrix.size(-1) else matrix.mT
    enough = torch.promote_types(matrix.dtype, torch.float32)  # float16 ends at 65,504
    norm = torch.linalg.vector_norm(wide, dim=(-2, -1), keepdim=True, dtype=enough)
    x = (wide / norm.clamp(min=1e-12)).to(matrix.dtype).reshape(-1, *wide.shape[-2:])
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.view(wide.shape)
    return x if matrix.size(-2) <= matrix.size(-1) else x.mT


class Muon(torch.optim.AdamW):
    """Muon for the matrices of layers, AdamW for embeddings, scales and biases.

    Embeddings are told by their shape: more than eight times as many rows as columns. A smaller vocabulary (4,096
    entries of dimension 512) is moved as a layer's matrix is, and B of a larger hidden width as an embedding is.

    Args:
        params: parameters with gradients of the whole matrices, not flattened.
        lr: learning rate.
        momentum: of the matrices' gradients, Nesterov's.
        rms: root mean square of the entries of a matrix's step at a learning rate of 1; AdamW's is about 0.2. Of
            A, positions that no sentence has had yet do not count: room for more does not change what it learns.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of both, decoupled from the gradient.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        rms: float = 0.4,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        for group in self.param_groups:
            group.update(momentum=momentum, rms=rms)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        gradients = {}
        for group in self.param_groups:
            alike: dict[Any, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None and is_layer_matrix(parameter):
                    alike[parameter.shape, parameter.dtype, parameter.device].append(parameter)
            for parameters in alike.values():
                self._step_matrices(parameters, group)
                for parameter in parameters:
                    gradients[parameter] = parameter.grad
                    parameter.grad = None  # AdamW passes over it
        super().step()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        return loss

    def _step_matrices(self, parameters: list[Any], group: dict[str, Any]) -> None:
        """Move matrices of one shape in one stack: a GPU waits for every small operation on each."""
        for parameter in parameters:
            if not self.state[parameter]:  # by the names of AdamW, which reads the state of all when it is loaded
                self.state[parameter].update(step=torch.zeros(()), exp_avg=torch.zeros_like(parameter))
        gradients = [parameter.grad for parameter in parameters]
        momenta = [self.state[parameter]["exp_avg"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        momentum = torch.stack(momenta)
        used = momentum != 0  # not the upper triangle of a causal A, nor positions that no sentence has had yet
        nesterov = torch.stack(gradients).lerp_(momentum, group["momentum"])
        update = orthogonalise(nesterov).masked_fill_(~used, 0.0)
        longer_side = torch.maximum(used.any(-1).sum(-1), used.any(-2).sum(-1))
        update *= group["rms"] * longer_side.sqrt()[..., None, None]
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(update), alpha=-group["lr"])


@dataclass
class MuonConfig(FairseqDataclass):
    """Options of ``--optimizer muon``."""

    muon_momentum: float = field(default=0.95, metadata={"help": "momentum of the matrices' gradients"})
    muon_rms: float = field(
        default=0.4,
        metadata={"help": "root mean square of the entries of a matrix's step at a learning rate of 1"},
    )
    adam_betas: Any = field(default=(0.9, 0.98), metadata={"help": "betas of AdamW, which moves all but the matrices"})
    adam_eps: float = field(default=1e-8, metadata={"help": "epsilon of AdamW"})
    weight_decay: float = field(default=0.0, metadata={"help": "weight decay, decoupled from the gradient"})
    lr: Any = field(default=II("optimization.lr"))


@register_optimizer("muon", dataclass=MuonConfig)
class FairseqMuon(FairseqOptimizer):
    """Muon behind fairseq's interface. With --fp16 it needs --fp16-no-flatten-grads."""

    def __init__(self, cfg: MuonConfig, params: Iterable[nn.Parameter]) -> None:
        super().__init__(cfg)
        self._optimizer = Muon(params, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """The options as PyTorch's optimiser takes them; a resumed run changes them by ``--optimizer-overrides``."""
        betas = self.cfg.adam_betas
        return {
            "lr": self.cfg.lr[0],
            "momentum": self.cfg.muon_momentum,
            "rms": self.cfg.muon_rms,
            "betas": tuple(literal_eval(betas) if isinstance(betas, str) else betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }
