"""One step of the decoder for all hypotheses of a batch, and what it keeps of the steps before."""

import torch
import torch.nn.functional as F
from torch import Tensor

from resmlp_mt.translation.network import Network

ROOM = 32  # positions by which what is kept grows


class Decoding:
    """The decoder at work on B sentences with W hypotheses each: B × W rows, one position a step.

    What has entered A stays where it was written, though beam search reorders the hypotheses at each step:
    ``reads[b, w, s, v]`` is 1 where hypothesis w of sentence b has v as its ancestor at position s. One product with
    ``A[t, s] · reads`` is then equation 2 for all hypotheses, and as all that entered before is known before the step
    begins, for all layers. Keys and values of cross-attention are a sentence's.

    Args:
        network: as ``Network.prepare`` leaves it.
        keys: of each layer's cross-attention, ``(B, heads, C / heads, S)``.
        values: likewise, ``(B, heads, S, C / heads)``.
        padding: True at padding of the source, ``(B, S)``.

    Attributes:
        attention: each layer's cross-attention at the newest step, ``(B, heads, W, S)``.
    """

    def __init__(self, network: Network, keys: list[Tensor], values: list[Tensor], padding: Tensor) -> None:
        self.network = network
        self.positions: int = network.decoder.positions
        self.vocabulary: int = network.decoder.embed_tokens.num_embeddings
        self.length = 0
        self.attention: list[Tensor] = []
        self.keys, self.values = keys, values
        empty, sentences, dim = keys[0].new_zeros, len(padding), network.decoder.embed_tokens.embedding_dim
        self.mask = empty(padding.shape).masked_fill_(padding, -torch.inf)[:, None, None]
        self.reads = empty(sentences, 1, 0, 1)
        self.caches = empty(len(keys), sentences, 0, 1, dim)  # (layers, B, positions, v, C)

    def step(self, tokens: Tensor) -> Tensor:
        """Read the newest token of each hypothesis, ``(B, W)``; return the next's logits, ``(B, W, vocabulary)``."""
        network, t, width = self.network, self.length, tokens.size(1)
        self._make_room(width)
        x = network.decoder.embed_tokens(tokens) * network.decoder.scale
        logits, entries, self.attention = network.step(
            x, self._mixed(), network.own[t], network.offsets[t], self.mask, self.keys, self.values
        )
        self.caches[:, :, t, :width] = entries
        self.reads[:, :, t].diagonal(dim1=1, dim2=2).fill_(1)
        self.length += 1
        return logits

    def _mixed(self) -> Tensor:
        """Return what A and the convolution make of the positions before this one, ``(layers, B, W, C)``."""
        network, t = self.network, self.length
        rows = network.matrices[:, t, : self.reads.size(2)]  # where nothing was written reads is 0
        weights = (rows[:, None, None, :, None] * self.reads).flatten(3)
        mixed = weights @ self.caches.flatten(2, 3)
        near = min(network.filters.size(1) - 1, t)
        if near:
            reads, caches = self.reads[:, :, t - near : t], self.caches[:, :, t - near : t]
            taps = torch.einsum("bwsv,lbsvc->lbwsc", reads, caches)
            mixed += (taps * network.filters[:, None, None, -1 - near : -1]).sum(3)
        return mixed

    def _make_room(self, width: int) -> None:
        """Give what is kept more positions when they are full, and a place for each hypothesis after the first."""
        room, places = self.caches.shape[2:4]
        more = min(ROOM, self.positions - room) if self.length == room else 0
        wider = max(0, width - places)
        if more or wider:
            self.caches = F.pad(self.caches, (0, 0, 0, wider, 0, more))
            self.reads = F.pad(self.reads, (0, wider, 0, more))

    def follow(self, parents: Tensor) -> None:
        """Let hypothesis w of each sentence go on from ``parents[b, w]``, ``(B, W)``, of the step before."""
        index = parents[:, :, None, None].expand(-1, -1, *self.reads.shape[2:])
        self.reads = self.reads.gather(1, index)

    def keep(self, sentences: Tensor) -> None:
        """Go on with these of the sentences only."""
        self.reads, self.mask = self.reads[sentences], self.mask[sentences]
        self.caches = self.caches[:, sentences]
        self.keys = [keys[sentences] for keys in self.keys]
        self.values = [values[sentences] for values in self.values]
