"""W x + b for inference on a CPU by oneDNN's products, with W in 32, 16 or 8 bits."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 127  # whole numbers from -127 to 127 stand for those of a row
ZERO = 128  # what stands for 0 among the bytes from 0 to 255


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


class Int8Linear(nn.Module):
    """W x + b with the rows of W and the rows of x each scaled to whole numbers from -127 to 127.

    Args:
        linear: gives its parameters.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self.scale, whole = to_whole(weight)
        self.packed = torch.ops.onednn.qlinear_prepack(whole, None)
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Map float32, ``(..., in_features)``, to float32, ``(..., out_features)``."""
        most, whole = to_bytes(x)  # unsigned, as signed by signed is in few processors' instructions
        product = torch.ops.onednn.qlinear_pointwise(
            *(whole, 1.0, ZERO, self.packed, self.scale, self.zero_points, None, 1.0, 0, torch.float32),
            *("none", [], ""),
        )
        return torch.addcmul(self.bias, product, most)


def to_bytes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest magnitude of each row of ``x``, and the row in bytes, in which it is 127 away from ZERO."""
    # where all of a row is 0, any bytes will do: what they give is multiplied by 0
    most = x.abs().amax(-1, keepdim=True)  # vector_norm is several times slower
    return most, (x * (LARGEST / most)).add_(ZERO + 0.5).to(torch.uint8)


def to_whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return W's rows in int8, and what a product of them with 127 whole parts of x is to be multiplied by."""
    most, whole = to_bytes(weight)
    return most.flatten() / LARGEST**2, (whole.to(torch.int16) - ZERO).to(torch.int8)


# By dtype: the layer, and whether this processor has what makes it the faster one.
PRODUCTS: dict[str, tuple[type[nn.Module], Callable[[], bool]]] = {
    "float32": (Float32Linear, torch.backends.mkldnn.is_available),
    "bfloat16": (BFloat16Linear, torch.cpu._is_avx512_bf16_supported),
    "int8": (Int8Linear, torch.cpu._is_vnni_supported),
}
