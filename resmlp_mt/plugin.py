"""What importing the plugin does to fairseq: models and an optimiser are registered, and its faults are mended."""

import logging
import warnings

import resmlp_core.common.environment

# Importing fairseq configures logging, down to DEBUG, unless that is done already, as in fairseq's own commands.
done_already = logging.NullHandler()
logging.root.addHandler(done_already)
with warnings.catch_warnings(action="ignore", category=FutureWarning):  # that PyTorch gives up torch.jit.script
    import fairseq  # noqa: F401
logging.root.removeHandler(done_already)

from fairseq.models import ARCH_CONFIG_REGISTRY  # noqa: E402

import resmlp_core.common.checkpoint  # noqa: E402, F401  lets in the types that fairseq keeps in its checkpoints
from resmlp_mt import muon, patches  # noqa: E402, F401
from resmlp_mt.models.resmlp import ResMLPModel  # noqa: E402
from resmlp_mt.models.resmlp_lm import ResMLPLanguageModel  # noqa: E402

patches.install()

__all__ = ["ARCH_CONFIG_REGISTRY", "ResMLPLanguageModel", "ResMLPModel"]
