"""What fairseq's tools make of a model before they generate or evaluate with it."""

from typing import Any

from fairseq.models import BaseFairseqModel
from fairseq.modules.quantization.scalar.modules import IntLinear
from torch import nn

from resmlp_core import fold_


class FoldedForInference(BaseFairseqModel):
    """A mixin for fairseq's models, before fairseq's class: their Affs are absorbed before generation."""

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse TorchScript; called by ``torch.jit.script``."""
        raise TypeError("torch.jit.script cannot take ResMLP for text; torch.compile can")

    def make_generation_fast_(self, **kwargs: Any) -> None:
        """Absorb the Affs into the linear layers beside them; called by fairseq's tools."""
        done_before = self._is_generation_fast
        super().make_generation_fast_(**kwargs)
        # what is folded has no dropout; --quant-noise-scalar counts on linear layers of its own
        quantized = any(isinstance(module, IntLinear) for module in self.modules())
        if not (done_before or quantized or kwargs.get("retain_dropout")):
            fold_(self)
