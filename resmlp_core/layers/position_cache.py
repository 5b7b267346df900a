"""What decoding one position at a time keeps of the positions before."""

import torch
from torch import Tensor


class PositionCache:
    """What has entered A so far, for decoding one position at a time, without gradients.

    The buffer doubles when it is full, so that appending copies each position a bounded number of times.
    """

    def __init__(self) -> None:
        self.length = 0
        self._buffer = torch.empty(0)

    def last(self, count: int) -> Tensor:
        """Return the newest positions, at most ``count`` of them."""
        return self._buffer[max(0, self.length - count) : self.length]

    def append(self, x: Tensor) -> Tensor:
        """Append one position, ``(1, B, C)``, and return all of them, ``(length, B, C)``."""
        if self.length == self._buffer.size(0):
            grown = x.new_empty(max(16, 2 * self.length), x.size(1), x.size(2))
            if self.length > 0:
                grown[: self.length] = self._buffer
            self._buffer = grown
        self._buffer[self.length] = x[0]
        self.length += 1
        return self._buffer[: self.length]

    def reorder(self, new_order: Tensor) -> None:
        """Select along the batch, as beam search does: entry ``i`` becomes the old entry ``new_order[i]``."""
        if self.length == 0:
            return
        old = self._buffer
        self._buffer = old.new_empty(old.size(0), new_order.numel(), old.size(2))
        torch.index_select(old[: self.length], 1, new_order, out=self._buffer[: self.length])
