"""ResMLP for translation, as a fairseq plugin: ``fairseq-train --user-dir resmlp_mt --arch resmlp ...``.

Importing the package registers the model ``resmlp``, its architectures, the language model ``resmlp_lm`` and the
optimiser ``muon`` with fairseq.
"""

import argparse
import logging
from typing import Any

import numpy as np
import torch

# Importing fairseq configures logging, down to DEBUG, unless that is done already, as in fairseq's own commands.
logging.basicConfig(level=logging.WARNING)

from resmlp_mt import muon, numpy_compat, replace_unk, whole_corpus  # noqa: E402, F401
from resmlp_mt.language_model import ResMLPLanguageModel  # noqa: E402
from resmlp_mt.model import ResMLPModel  # noqa: E402

# torch.load(weights_only=True) refuses types that it has not been told are harmless. fairseq keeps two in its
# checkpoints: the training options, an argparse.Namespace, and the counts of --eval-bleu, NumPy arrays of integers, or
# of doubles where several processes summed them. Nothing else is let in: a checkpoint that carries code is refused.
make_array: Any = np.zeros(0).__reduce__()[0]  # what a pickle calls for an array; NumPy keeps it private
torch.serialization.add_safe_globals(
    [
        # with its name beside it: another library's safe_globals([argparse.Namespace]) takes the bare type away again
        (argparse.Namespace, "argparse.Namespace"),
        *(np.ndarray, np.dtype, np.dtypes.Int64DType, np.dtypes.Float64DType),
        # by the names that NumPy 1 and NumPy 2 write
        *((make_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    ]
)

numpy_compat.install()
whole_corpus.install()
replace_unk.install()

__all__ = ["ResMLPLanguageModel", "ResMLPModel"]
