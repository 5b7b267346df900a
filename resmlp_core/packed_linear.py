"""W x + b for inference on a CPU, as fast as the processor reads W."""

from typing import Any

import torch
from torch import Tensor, nn


class PackedLinear(nn.Linear):
    """W x + b, with W laid out once as oneDNN reads it fastest.

    That serves float32 on a CPU without gradients: a step of decoding above all, whose few positions leave little to do
    but to read W. Elsewhere this is an ``nn.Linear``. The second copy of W is made at first use; it is not saved, and
    made anew after the weights are loaded or moved.

    Args:
        linear: gives its parameters.
    """

    _packed: Tensor | None = None

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        if not self._packs(x):
            return super().forward(x)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")

    def _packs(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return False
        return (
            x.device.type == self.weight.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and x.numel() > 0
            and torch.backends.mkldnn.is_available()
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "PackedLinear":
        self._packed = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._packed = None
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None}  # a copy, or a file, holds W once
