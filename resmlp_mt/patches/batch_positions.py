"""Number the sentences of a batch by their places, as searches expect: fairseq's generator gives them the data set's.

``--diverse-beam-groups`` then looks for the penalty of sentence 7 in a table of as many rows as the batch has, and ends
in an IndexError or takes another sentence's; so does a function of ``prefix_allowed_tokens_fn``.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from fairseq.sequence_generator import SequenceGenerator


def number_by_place(generate: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the generator's method so that it gets each sentence's place in the batch as its ``id``."""

    @wraps(generate)
    def numbered(self: SequenceGenerator, sample: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if torch.is_tensor(sample.get("id")):
            sample = {**sample, "id": torch.arange(len(sample["id"]), device=sample["id"].device)}
        return generate(self, sample, *args, **kwargs)

    return numbered


def install() -> None:
    """Make every generator of fairseq's number its batch so."""
    SequenceGenerator._generate = number_by_place(SequenceGenerator._generate)
