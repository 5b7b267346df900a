"""W x + b for inference on a CPU by oneDNN's products, with W in 32 or 16 bits."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Float32Linear(nn.Module):
    """W x + b, with W laid out as oneDNN reads it fastest.

    One thread multiplies one row of x faster by PyTorch's own product, which never takes more threads for it.

    Args:
        linear: gives its parameters.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight.detach()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        if x.numel() == self.in_features and torch.get_num_threads() == 1:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class BFloat16Linear(nn.Module):
    """W x + b with W and x rounded to bfloat16; sums in float32, the result rounded to bfloat16.

    Args:
        linear: gives its parameters.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().bfloat16()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)  # as oneDNN reads it fastest
        self.bias = None if linear.bias is None else linear.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """Map float32, ``(..., in_features)``, to float32, ``(..., out_features)``."""
        return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.packed, self.bias, "none", [], "").float()


# The layers by dtype. Products in 8 bits are ONNX Runtime's.
LINEARS: dict[str, type[nn.Module]] = {"float32": Float32Linear, "bfloat16": BFloat16Linear}

# By dtype: whether this processor has the instructions that make it the faster one.
IS_FAST: dict[str, Callable[[], bool]] = {
    "float32": lambda: True,
    "bfloat16": torch.cpu._is_avx512_bf16_supported,
    "int8": torch.cpu._is_vnni_supported,
}
