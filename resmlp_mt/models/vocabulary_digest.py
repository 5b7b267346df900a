"""Which vocabulary a model's weights are for: kept in its checkpoints, compared when they are loaded."""

from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn

from resmlp_mt.text import vocabulary_digest


class Vocabulary(nn.Module):
    """The digest (SHA-256) of a dictionary's entries, in order, as a buffer among a model's weights.

    Another vocabulary of the same size would load as well, and garble what is read or written. Loading raises a
    ValueError then, whether to train on, to translate or to evaluate; weights without a digest load as they are.
    """

    version: Tensor  # by this name fairseq leaves it out of moving averages

    def __init__(self, dictionary: Dictionary) -> None:
        super().__init__()
        self.register_buffer("version", torch.tensor(vocabulary_digest(dictionary.symbols)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        given = state_dict.setdefault(f"{prefix}version", self.version)
        if given.tolist() != self.version.tolist():
            raise ValueError("the data folder's dict.*.txt are not those that the checkpoint was trained with")
        super()._load_from_state_dict(state_dict, prefix, *args)
