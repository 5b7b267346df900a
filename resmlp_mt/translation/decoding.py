"""One step of the decoder for all hypotheses of a batch, and what it keeps of the steps before."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resmlp_core import ConvolvedMixer
from resmlp_mt.translation.network import Network


class Decoding:
    """The decoder at work on B sentences with W hypotheses each: B × W rows, one position a step.

    What has entered A stays where it was written, though beam search reorders the hypotheses at each step:
    ``reads[b, w, s, v]`` is 1 where hypothesis w of sentence b has v as its ancestor at position s. One product with
    ``A[t, s] · reads`` is then equation 2 for all hypotheses. Keys and values of cross-attention are a sentence's.

    Args:
        network: as ``Network.prepare`` leaves it.
        encoded: the encoder's output, ``(S, B, C)``.
        padding: True at padding of the source, ``(B, S)``.
    """

    def __init__(self, network: Network, encoded: Tensor, padding: Tensor) -> None:
        self.network = network
        self.layers: Any = network.decoder.layers
        self.positions: int = network.decoder.positions
        self.vocabulary: int = network.decoder.output_projection.out_features
        self.matrices: Any = network.matrices
        self.length = 0
        sentences = encoded.size(1)
        self.reads = encoded.new_ones(sentences, 1, 0, 1)
        attended = [layer.encoder_attn.keys_and_values(encoded) for layer in self.layers]
        self.keys = [keys.transpose(2, 3).contiguous() for keys, _ in attended]
        self.values = [values for _, values in attended]
        self.mask: Tensor | None = None
        if padding.any():
            self.mask = encoded.new_zeros(padding.shape).masked_fill_(padding, -torch.inf)[:, None, None]
        self.caches = [encoded.new_empty(sentences, 0, 1, network.decoder.embed_tokens.embedding_dim)] * len(
            self.layers
        )

    def step(self, tokens: Tensor) -> Tensor:
        """Read the newest token of each hypothesis, ``(B, W)``; return the next's logits, ``(B, W, vocabulary)``."""
        decoder = self.network.decoder
        sentences, width = tokens.shape
        self._make_room(width)
        own = torch.eye(width, dtype=self.reads.dtype, device=tokens.device)[:, None, : self.reads.size(3)]
        self.reads = torch.cat([self.reads, own.expand(sentences, -1, -1, -1)], dim=2)
        x = decoder.embed_tokens(tokens) * decoder.scale
        rows = self.matrices[:, self.length, : self.length + 1]  # of A, one a layer
        weights = (rows[:, None, None, :, None] * self.reads).flatten(3)
        for number in range(len(self.layers)):
            x = self._layer(number, x, weights[number])
        self.length += 1
        return decoder.output_projection(decoder.layer_norm(x))

    def _layer(self, number: int, x: Tensor, weights: Tensor) -> Tensor:
        """One layer at the newest position, ``(B, W, C)``."""
        layer = self.layers[number]
        x = self._mix(layer.cross_position, self.caches[number], x, weights)
        attention = layer.encoder_attn
        queries = attention.q_proj(layer.encoder_attn_pre(x)).unflatten(2, (attention.heads, -1)).transpose(1, 2)
        products = queries @ self.keys[number]
        attended = (products if self.mask is None else products + self.mask).softmax(-1) @ self.values[number]
        x = x + attention.out_proj(attended.transpose(1, 2).flatten(2))
        mlp = layer.cross_channel.mixer
        return x + mlp.fc2(mlp.activation(mlp.fc1(layer.cross_channel.pre(x))))  # equation 3, folded

    def _mix(self, sublayer: Any, cache: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        """The cross-position sublayer at the newest position (equation 2, folded)."""
        t = self.length
        cache[:, t] = sublayer.entering(x)
        mixed = torch.bmm(weights, cache[:, : t + 1].flatten(1, 2))
        if isinstance(sublayer.mixer, ConvolvedMixer):
            near = min(sublayer.mixer.kernel_size, t + 1)
            taps = torch.einsum("bwsv,bsvc->bwsc", self.reads[:, :, -near:], cache[:, t + 1 - near : t + 1])
            mixed = mixed + (taps * sublayer.mixer.weight[-near:]).sum(2)
        return sublayer.leaving(x, mixed, sublayer.offset[t if len(sublayer.offset) > 1 else 0])

    def _make_room(self, width: int) -> None:
        """Double the caches' positions when they are full; give them a place for each hypothesis after the first."""
        old = self.caches[0]
        room = old.size(1) if self.length < old.size(1) else max(16, 2 * old.size(1))
        if room == old.size(1) and old.size(2) >= width:
            return
        for number, cache in enumerate(self.caches):
            grown = cache.new_zeros(cache.size(0), room, width, cache.size(3))
            grown[:, : self.length, : cache.size(2)] = cache[:, : self.length]
            self.caches[number] = grown
        if width > self.reads.size(3):
            self.reads = F.pad(self.reads, (0, width - self.reads.size(3)))

    def follow(self, parents: Tensor) -> None:
        """Let hypothesis w of each sentence go on from ``parents[b, w]``, ``(B, W)``, of the step before."""
        index = parents[:, :, None, None].expand(-1, -1, *self.reads.shape[2:])
        self.reads = self.reads.gather(1, index)

    def keep(self, sentences: Tensor) -> None:
        """Go on with these of the sentences only."""
        self.reads = self.reads[sentences]
        self.caches = [cache[sentences] for cache in self.caches]
        self.keys = [keys[sentences] for keys in self.keys]
        self.values = [values[sentences] for values in self.values]
        self.mask = None if self.mask is None else self.mask[sentences]
