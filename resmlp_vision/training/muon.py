"""timm's Muon on processors without instructions for bfloat16, in which it orthogonalises.

Such a processor emulates them: on an AMD EPYC (Zen 1) that took half of an update of the recipe for CIFAR-10.
"""

from typing import Any

import timm.optim.muon
import torch
from torch import Tensor

from resmlp_core.common.devices import emulates

TIMMS = timm.optim.muon.zeropower_via_newtonschulz


def orthogonalise(gradient: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return the orthogonal matrix nearest to a gradient, as timm does, in float32 where bfloat16 would be emulated.

    Args:
        gradient: ``(rows, columns)``, or a stack of them.
        args: what else timm's function takes.
        kwargs: the same, by name.
    """
    emulated = gradient.device.type == "cpu" and emulates("bfloat16")
    return TIMMS(gradient, *args, dtype=torch.float32 if emulated else torch.bfloat16, **kwargs)


def patch_muon() -> None:
    """Let timm's Muon orthogonalise by ``orthogonalise``: it has no option for the type of its products."""
    timm.optim.muon.zeropower_via_newtonschulz = orthogonalise
