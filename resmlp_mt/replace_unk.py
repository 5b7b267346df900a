"""Mend fairseq's --replace-unk: it takes an alignment for a list of positions, and its generator gives pairs."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps

from fairseq import utils
from torch import Tensor

Replace = Callable[[str, str, Sequence[int], Mapping[str, str], str], str]


def read_pairs(replace_unk: Replace) -> Callable[[str, str, Sequence[tuple[int, int]], Mapping[str, str], str], str]:
    """Wrap fairseq's ``replace_unk`` so that it reads the pairs (source, target) of ``--print-alignment``."""

    @wraps(replace_unk)
    def replace(
        hypothesis: str, source: str, alignment: Sequence[tuple[int, int]], lexicon: Mapping[str, str], unknown: str
    ) -> str:
        if unknown not in hypothesis.split():
            return hypothesis
        if isinstance(alignment, Tensor):  # an empty one stands for none asked for
            raise ValueError("--replace-unk needs --print-alignment, to know which source word to take")
        if not alignment:  # the source is empty
            return hypothesis
        return replace_unk(hypothesis, source, [position for position, _ in alignment], lexicon, unknown)

    return replace


def install() -> None:
    """Make every program of fairseq's replace unknown words by their alignment."""
    utils.replace_unk = read_pairs(utils.replace_unk)
