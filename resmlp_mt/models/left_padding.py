"""A is positional, and fairseq pads sources on the left: these move the padding to the right and back.

Row t of A must meet the t-th token of a sentence, whatever the length of its neighbours in the batch. fairseq's
default would shift a sentence along A by as much as the longest of the batch is longer.
"""

import torch
from torch import Tensor


def possible(condition: Tensor) -> bool:
    """Whether any entry is True, as far as it costs nothing to know.

    Returns:
        The truth on a CPU. True on a GPU, which would have to finish its work before it could answer, and where
        PyTorch compiles or exports, which has no values yet.
    """
    return condition.device.type != "cpu" or torch.compiler.is_compiling() or bool(condition.any())


def left_padding(tokens: Tensor, padding_idx: int) -> Tensor | None:
    """Count the padding before each sentence of ``tokens``, ``(B, T)``.

    Returns:
        ``(B,)``, or None where it is known that no sentence begins with padding and there is nothing to move.
    """
    if not possible(tokens[:, :1].eq(padding_idx)):
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
