"""Weights of a model with fewer positions as the beginning of one with more: A grows, as fine-tuning may ask."""

from typing import Any

from fairseq.models import BaseFairseqModel
from torch import Tensor

from resmlp_core import CrossPositionLinear


class GrowingPositions(BaseFairseqModel):
    """A mixin for fairseq's models, before fairseq's class: they may begin from the weights of a smaller A.

    The old A is put into the upper left corner, the old bias at its beginning. The rest stays as it is at a start, so
    that sentences which fitted before are translated as before.
    """

    positions_may_grow = False  # only where training begins from the weights: the optimiser's state would not fit

    def load_state_dict(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights, as fairseq does; those of a smaller A where ``positions_may_grow``."""
        if self.positions_may_grow:
            grown = {}
            for name, module in self.named_modules():
                if isinstance(module, CrossPositionLinear):
                    for key, parameter in module.named_parameters(name):
                        if key in state_dict:
                            grown[key] = in_the_corner_of(parameter, state_dict[key])
            state_dict = {**state_dict, **grown}
        return super().load_state_dict(state_dict, *args, **kwargs)


def in_the_corner_of(start: Tensor, weights: Tensor) -> Tensor:
    """Return ``start`` with smaller ``weights`` as its corner; the weights as they are where they are not smaller."""
    if any(old > new for old, new in zip(weights.shape, start.shape, strict=True)):
        return weights
    grown = start.detach().clone()
    grown[tuple(slice(size) for size in weights.shape)] = weights
    return grown
