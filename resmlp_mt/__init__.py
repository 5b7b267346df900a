"""ResMLP for translation, as a fairseq plugin: ``fairseq-train --user-dir resmlp_mt --arch resmlp ...``.

Importing the package registers the model ``resmlp`` and its architectures with fairseq.
"""

import argparse

import torch

from resmlp_mt.model import ResMLPModel

# fairseq keeps the training options in its checkpoints as an argparse.Namespace, which torch.load(weights_only=True)
# refuses unless told that the type is harmless. Nothing else is let in: a checkpoint that carries code is refused.
torch.serialization.add_safe_globals([argparse.Namespace])

__all__ = ["ResMLPModel"]
