"""ResMLP for image classification, on timm's parts.

Importing the package makes the models known to timm, under the same names.
"""

import resmlp_core.common.environment  # noqa: F401  first: before PyTorch is loaded
from resmlp_vision.models.registry import create_model
from resmlp_vision.models.resmlp import ResMLP

__all__ = ["ResMLP", "create_model"]
