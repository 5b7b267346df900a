"""A model as two ONNX graphs, the encoder and a step of the decoder, for ONNX Runtime."""

from pathlib import Path

import torch
from torch import Tensor, nn

from resmlp_core import ConvolvedMixer, fold_
from resmlp_core.common.errors import UserError
from resmlp_mt.translation.network import Network
from resmlp_mt.translation.vocabulary import EOS

EXAMPLE = 3, 5  # sentences and tokens to trace with; the graphs take any number


class EncoderGraph(nn.Module):
    """Tokens, ``(B, S)``, padded on the right, to the keys and values of every layer's cross-attention."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys and values, ``(layers, B, heads, S, C / heads)``, and which tokens are padding, ``(B, S)``."""
        encoded, padding = self.network.encode(tokens)
        attended = [layer.encoder_attn.keys_and_values(encoded) for layer in self.network.decoder.layers]
        return torch.stack([keys for keys, _ in attended]), torch.stack([values for _, values in attended]), padding


class DecoderGraph(nn.Module):
    """One step of N hypotheses, each with its sentence's keys, values and padding."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, tokens: Tensor, position: Tensor, cache: Tensor, keys: Tensor, values: Tensor, padding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read the newest tokens.

        Args:
            tokens: ``(N,)``; the end of sentence, 2, at the first position.
            position: how many tokens came before, ``(1,)``.
            cache: what has entered A, ``(layers, rows of A, N, C)``; zero from ``position`` on.
            keys: of the encoder, ``(layers, N, heads, S, C / heads)``.
            values: likewise.
            padding: of the source, ``(N, S)``.

        Returns:
            The logits of the next token, ``(N, vocabulary)``, and what to put into the cache at ``position``,
            ``(layers, N, C)``.
        """
        decoder = self.network.decoder
        x = decoder.embed_tokens(tokens) * decoder.scale
        mask = padding[:, None, None]
        entries = []
        for number, layer in enumerate(decoder.layers):
            sublayer, attention = layer.cross_position, layer.encoder_attn
            entries.append(sublayer.entering(x))
            mixed, offset = self._mix(sublayer, position, cache[number], entries[-1])
            x = sublayer.leaving(x, mixed, offset)
            queries = attention.q_proj(layer.encoder_attn_pre(x)).unflatten(1, (attention.heads, 1, -1))
            products = (queries @ keys[number].transpose(2, 3)).masked_fill(mask, -torch.inf)
            x = x + attention.out_proj((products.softmax(-1) @ values[number]).flatten(1))
            x = layer.cross_channel(x)
        return decoder.output_projection(decoder.layer_norm(x)), torch.stack(entries)

    def _mix(self, sublayer: nn.Module, position: Tensor, cache: Tensor, entry: Tensor) -> tuple[Tensor, Tensor]:
        """Return A's row at ``position`` times all that has entered it (equation 2), and what is added there."""
        mixer: nn.Module = sublayer.mixer  # type: ignore[assignment]
        places = torch.arange(cache.size(0), device=cache.device)
        inputs = torch.where(places.eq(position)[:, None, None], entry, cache)
        linear = mixer.mixer if isinstance(mixer, ConvolvedMixer) else mixer
        row = linear.weight.tril().index_select(0, position)  # type: ignore[operator]
        offset = sublayer.offset.squeeze(1)  # type: ignore[operator]
        mixed = (row @ inputs.flatten(1)).view_as(entry)
        if isinstance(mixer, ConvolvedMixer):
            taps = places - position + mixer.kernel_size - 1
            within = (taps >= 0) & (taps < mixer.kernel_size)
            filters = mixer.weight[taps.clamp(0, mixer.kernel_size - 1)] * within.unsqueeze(1)
            mixed = mixed + (filters.unsqueeze(1) * inputs).sum(0)
        return mixed, offset.expand(len(places), -1).index_select(0, position)


def write_onnx(network: Network, folder: Path) -> None:
    """Write ``encoder.onnx`` and ``decoder.onnx``, whose inputs and outputs are those of the two classes' ``forward``.

    Args:
        network: as it was made; it is folded.
        folder: it exists.

    Raises:
        UserError: onnxscript, by which PyTorch exports, is not installed.
    """
    fold_(network)
    tokens = torch.full(EXAMPLE, EOS)
    keys, values, padding = EncoderGraph(network)(tokens)
    dim = network.decoder.embed_tokens.embedding_dim
    cache = torch.zeros(len(network.decoder.layers), network.decoder.positions, len(tokens), dim)
    step = (tokens[:, 0], torch.tensor([1]), cache, keys, values, padding)
    batch, source = torch.export.Dim("batch"), torch.export.Dim("source", max=network.encoder.positions)
    attended = {1: batch, 3: source}
    graphs = (
        ("encoder", EncoderGraph(network), (tokens,), ({0: batch, 1: source},), ["keys", "values", "padding"]),
        (
            *("decoder", DecoderGraph(network), step),
            ({0: batch}, None, {2: batch}, attended, attended, {0: batch, 1: source}),
            ["logits", "entries"],
        ),
    )
    try:
        for name, graph, example, shapes, outputs in graphs:
            program = torch.export.export(graph.eval(), example, dynamic_shapes=shapes, strict=True)
            path = folder / f"{name}.onnx"
            torch.onnx.export(program, f=path, output_names=outputs, external_data=False, verbose=False)
    except ImportError:
        raise UserError("--onnx needs the package onnxscript: pip install onnxscript") from None
