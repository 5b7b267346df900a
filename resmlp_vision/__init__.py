"""ResMLP for image classification, on timm's parts.

Importing the package makes the models known to timm, under the same names.
"""

import resmlp_core.common.environment  # noqa: F401  first: before PyTorch is loaded
from resmlp_core import fold
from resmlp_vision.models.registry import create_model
from resmlp_vision.models.resmlp import ResMLP
from resmlp_vision.models.weights import to_timm

__all__ = ["ResMLP", "create_model", "fold", "to_timm"]
