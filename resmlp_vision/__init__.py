"""ResMLP for image classification, on timm's parts.

Importing the package makes the models known to timm, under the same names.
"""

from resmlp_vision.model import ResMLP
from resmlp_vision.variants import create_model

__all__ = ["ResMLP", "create_model"]
