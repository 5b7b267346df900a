"""Mend fairseq's --replace-unk: it takes an alignment for a list of positions, and its generator gives pairs.

It also counts those positions in text whose pieces --remove-bpe has joined already, and meets another word there.
"""

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

from fairseq import utils
from fairseq.data import Dictionary
from fairseq.data.data_utils import post_process
from torch import Tensor

Processed = tuple[Tensor, str, Any]


def replace_unknown(hypothesis: str, source: str, alignment: Any, lexicon: Mapping[str, str], unknown: str) -> str:
    """Replace each unknown piece of ``hypothesis`` by the source piece it is aligned with, or by its translation.

    Args:
        hypothesis: pieces with spaces between.
        source: the same; where it is empty, an unknown piece stays.
        alignment: a pair (source position, target position) for each piece of the hypothesis, as fairseq-generate
            makes them with ``--print-alignment``.
        lexicon: translations of source pieces; one that it lacks is copied.
        unknown: how an unknown piece is written.

    Raises:
        ValueError: there is no such alignment.
    """
    pieces, sources = hypothesis.split(), source.split()
    if unknown not in pieces or not sources:
        return hypothesis
    if isinstance(alignment, Tensor) or isinstance(alignment[0][0], str):  # an empty one; probabilities, as text
        raise ValueError("--replace-unk needs --print-alignment hard, to know which source word to take")
    for source_position, target_position in alignment:
        if pieces[target_position] == unknown:
            piece = sources[source_position]
            pieces[target_position] = lexicon.get(piece, piece)
    return " ".join(pieces)


def joined_by(caller: FrameType, remove_bpe: str | None) -> str | None:
    """Name the option by which fairseq's program, the caller, has joined the pieces of the source already."""
    if Path(caller.f_code.co_filename).stem == "interactive":
        return "--remove-bpe" if remove_bpe else None
    return next((f"--{name}" for name in ("bpe", "tokenizer") if caller.f_locals.get(name)), None)


def replace_before_joining(process: Callable[..., Processed]) -> Callable[..., Processed]:
    """Wrap fairseq's ``post_process_prediction`` so that it replaces pieces first and joins them to words then."""

    @wraps(process)
    def replaced(
        hypo_tokens: Tensor,
        src_str: str,
        alignment: Any,
        align_dict: Mapping[str, str] | None,
        tgt_dict: Dictionary,
        remove_bpe: str | None = None,
        extra_symbols_to_ignore: Any = None,
    ) -> Processed:
        if align_dict is None:
            return process(hypo_tokens, src_str, alignment, align_dict, tgt_dict, remove_bpe, extra_symbols_to_ignore)
        if option := joined_by(sys._getframe(1), remove_bpe):
            raise ValueError(f"--replace-unk needs the source in pieces: leave {option} out")
        pieces = tgt_dict.string(hypo_tokens, extra_symbols_to_ignore=extra_symbols_to_ignore)
        text = replace_unknown(pieces, src_str, alignment, align_dict, tgt_dict.unk_string())
        text = post_process(text, remove_bpe)
        return tgt_dict.encode_line(text, add_if_not_exist=True), text, alignment

    return replaced


def install() -> None:
    """Make every program of fairseq's replace unknown words by their alignment."""
    utils.post_process_prediction = replace_before_joining(utils.post_process_prediction)
