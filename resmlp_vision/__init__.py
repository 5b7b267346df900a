"""ResMLP for image classification, on timm's parts.

Importing the package makes the models known to timm, under the same names.
"""

import resmlp_core.environment  # noqa: F401  first: before PyTorch is loaded
from resmlp_vision.model import ResMLP
from resmlp_vision.variants import create_model

__all__ = ["ResMLP", "create_model"]
