"""Give fairseq the ``numpy.compat.long`` that it asks for and NumPy 2 no longer has: int, as it was.

Without it ``--sample-break-mode eos`` and fairseq-interactive end in an AttributeError for every language model.
"""

from types import SimpleNamespace

import numpy as np


def install() -> None:
    """Put it where fairseq looks for it, unless NumPy still has its own."""
    vars(np).setdefault("compat", SimpleNamespace(long=int))
