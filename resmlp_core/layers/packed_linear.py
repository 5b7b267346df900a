"""W x + b for inference on a CPU, as fast as the processor reads W."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resmlp_core.layers.onednn import can_multiply


class PackedLinear(nn.Linear):
    """W x + b, with W laid out once as oneDNN reads it fastest.

    That serves float32 on a CPU without gradients: a step of decoding above all, whose few positions leave little to do
    but to read W. Elsewhere this computes as ``nn.Linear`` does; PyTorch's dynamic quantisation, which takes
    only ``nn.Linear`` itself, passes over it. The second copy of W is made at first use, and again after W changed; it
    is not saved. What PyTorch does not count as a change, such as one of ``weight.data``, is not seen.

    Args:
        linear: gives its parameters.
    """

    __jit_ignored_attributes__ = ("_packed",)  # TorchScript computes as nn.Linear does
    _packed: tuple[Tensor, Tensor, Any, Tensor] | None = None  # W, its storage, which values these were, W packed

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        if torch.jit.is_scripting():
            return F.linear(x, self.weight, self.bias)
        if torch.is_grad_enabled() or not can_multiply(x, self.weight, self.bias):
            return super().forward(x)
        return torch.ops.mkldnn._linear_pointwise(x, self._pack(), self.bias, "none", [], "")

    def _pack(self) -> Tensor:
        weight = self.weight
        values = weight.data_ptr(), None if weight.is_inference() else weight._version
        packed = self._packed
        if packed is None or packed[0] is not weight or packed[2] != values:
            storage = weight.detach()  # held, so that no other weights come to lie at its address
            packed = weight, storage, values, torch.ops.mkldnn._reorder_linear_weight(storage)
            self._packed = packed
        return packed[3]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None}  # a copy, or a file, holds W once
