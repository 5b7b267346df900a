"""A is positional, and fairseq pads sources on the left: these move the padding to the right and back.

Row t of A must meet the t-th token of a sentence, whatever the length of its neighbours in the batch. fairseq's
default would shift a sentence along A by as much as the longest of the batch is longer.
"""

import torch
from torch import Tensor


def left_padding(tokens: Tensor, padding_idx: int) -> Tensor | None:
    """Count the padding before each sentence of ``tokens``, ``(B, T)``.

    Returns:
        ``(B,)``, or None when no sentence begins with padding and there is nothing to move.
    """
    if not tokens[:, :1].eq(padding_idx).any():
        return None
    return tokens.ne(padding_idx).cumsum(dim=1).eq(0).sum(dim=1)


def rotate(x: Tensor, shift: Tensor, positions_dim: int) -> Tensor:
    """Rotate each sentence of ``x`` to the left by its own ``shift``, ``(B,)``; a negative shift undoes it.

    ``x`` is ``(B, T, ...)`` with ``positions_dim=1`` or ``(T, B, ...)`` with ``positions_dim=0``.
    """
    length = x.size(positions_dim)
    index = (torch.arange(length, device=x.device) + shift.unsqueeze(1)) % length  # (B, T)
    if positions_dim == 0:
        index = index.t()
    return x.gather(positions_dim, index.reshape(index.shape + (1,) * (x.dim() - 2)).expand_as(x))
