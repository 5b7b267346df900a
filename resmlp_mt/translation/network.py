"""The trained encoder and decoder in PyTorch, under the names that their parameters have in fairseq's checkpoints."""

import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resmlp_core import (
    NORMS,
    Affine,
    ChannelMLP,
    ConvolvedMixer,
    CrossPositionLinear,
    GatedMixer,
    PackedLinear,
    PositionMixer,
    ResMLPLayer,
    absorb_after,
    absorb_before,
    fold_,
)
from resmlp_core.common.errors import UserError
from resmlp_core.layers.gate import FoldedGates
from resmlp_mt.translation.products import LINEARS
from resmlp_mt.translation.vocabulary import PAD

ACTIVATIONS: dict[str, Any] = {"gelu": F.gelu, "relu": F.relu}  # by fairseq's --activation-fn
ONNX_DTYPES = "float32", "int8"  # in which ONNX Runtime multiplies on a CPU
HAS_ONNX_RUNTIME = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
UNREAD = re.compile(r"(.*\.)?version$")  # fairseq's marks, and the digests of vocabularies, which loading compares

# What shares its matrix with another where a file lacks it.
TIED = {
    "decoder.embed_tokens.weight": "encoder.embed_tokens.weight",
    "decoder.output_projection.weight": "decoder.embed_tokens.weight",
}


class CrossAttention(nn.Module):
    """Attention of the target's positions to the source's, by several heads."""

    def __init__(self, dim: int, source_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(source_dim, dim)
        self.v_proj = nn.Linear(source_dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def keys_and_values(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Map the encoder's output, ``(S, B, C)``, to the keys and the values, ``(B, heads, S, C / heads)``."""
        return self._by_head(self.k_proj(encoded)), self._by_head(self.v_proj(encoded))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).permute(1, 2, 0, 3).contiguous()


class DecoderLayer(ResMLPLayer):
    """The paper's layer with a triangular A, and cross-attention between its two sublayers."""

    def __init__(self, sizes: Mapping[str, int], heads: int, activation: Any, norm: str) -> None:
        dim = sizes["dim"]
        super().__init__(
            dim, mixer(sizes, causal=True), ChannelMLP(dim, sizes["hidden"], activation), 1.0, norm=NORMS[norm]
        )
        self.encoder_attn_pre: Any = NORMS[norm](dim)
        self.encoder_attn: Any = CrossAttention(dim, sizes["source_dim"], heads)
        self.encoder_attn_post: Any = Affine(dim)

    def fold_(self) -> None:
        """Absorb the Affs; those of cross-attention and the scale of its queries too."""
        super().fold_()
        attention = self.encoder_attn
        self.encoder_attn_pre = absorb_before(self.encoder_attn_pre, attention.q_proj)
        absorb_after(attention.out_proj, self.encoder_attn_post)
        for parameter in (attention.q_proj.weight, attention.q_proj.bias):
            parameter.data *= (attention.q_proj.out_features // attention.heads) ** -0.5
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(attention, name, PackedLinear(getattr(attention, name)))
        self.encoder_attn_post = nn.Identity()


def mixer(sizes: Mapping[str, int], causal: bool) -> PositionMixer:
    """Make A, with a convolution beside it and gates around it if the weights have them."""
    linear = CrossPositionLinear(sizes["positions"], causal)
    mixer = ConvolvedMixer(linear, sizes["dim"], sizes["kernel"], causal) if sizes["kernel"] else linear
    return GatedMixer(mixer, sizes["dim"]) if sizes["gates"] else mixer


class Side(nn.Module):
    """Embeddings and layers of the encoder or the decoder."""

    def __init__(
        self, vocabulary: int, sizes: Mapping[str, int], layers: list[nn.Module], norm: str, scaled: bool
    ) -> None:
        super().__init__()
        self.scale = math.sqrt(sizes["dim"]) if scaled else 1.0  # of embeddings
        self.embed_tokens = nn.Embedding(vocabulary, sizes["dim"], padding_idx=PAD)
        self.layers = nn.ModuleList(layers)
        self.layer_norm: Any = NORMS[norm](sizes["dim"])
        self.positions = sizes["positions"]


class Network(nn.Module):
    """ResMLP for translation, for inference.

    Args:
        weights: the parameters, under the names that fairseq's checkpoints have.
        settings: what they do not tell: ``heads`` of cross-attention, ``activation`` of the MLP, and whether embeddings
            are multiplied by the square root of their dimension, ``scale_embedding``.

    Raises:
        UserError: the weights or settings are those of a model with parts that are not ResMLP's.
    """

    matrices: Tensor
    filters: Tensor
    offsets: Tensor
    own: Tensor

    def __init__(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
        super().__init__()
        weights = {name: weight for name, weight in weights.items() if not UNREAD.match(name)}
        for name, tied_to in TIED.items():
            if name not in weights and tied_to in weights:
                weights[name] = weights[tied_to]
        if settings["activation"] not in ACTIVATIONS:
            raise UserError(f"the model's --activation-fn {settings['activation']} is not one of {list(ACTIVATIONS)}")
        activation = ACTIVATIONS[settings["activation"]]
        norm = "layer_norm" if "encoder.layer_norm.weight" in weights else "affine"
        scaled = settings["scale_embedding"]
        try:
            source, target = (read_sizes(weights, side) for side in ("encoder", "decoder"))
            layers = [
                ResMLPLayer(
                    source["dim"],
                    mixer(source, causal=False),
                    ChannelMLP(source["dim"], source["hidden"], activation),
                    1.0,
                    norm=NORMS[norm],
                )
                for _ in range(source["layers"])
            ]
            self.encoder: Any = Side(len(weights["encoder.embed_tokens.weight"]), source, [*layers], norm, scaled)
            self.decoder: Any = Side(
                len(weights["decoder.embed_tokens.weight"]),
                target,
                [DecoderLayer(target, settings["heads"], activation, norm) for _ in range(target["layers"])],
                norm,
                scaled,
            )
            entries, dim = weights["decoder.output_projection.weight"].shape
            self.decoder.output_projection = nn.Linear(dim, entries, bias=False)
            self.load_state_dict(weights)
        except (KeyError, RuntimeError) as error:
            reason = shorten(str(error).strip().splitlines()[-1], 200, placeholder=" ...")
            raise UserError(f"the weights are not those of a ResMLP for translation: {reason}") from None
        if self.decoder.embed_tokens.weight.equal(self.encoder.embed_tokens.weight):
            self.decoder.embed_tokens = self.encoder.embed_tokens
        self.onnx: Any = None  # OnnxNetwork, where ONNX Runtime computes
        self.eval()

    def fold_(self) -> None:
        """Absorb the final Affs into what reads them; called by ``resmlp_core.fold_``."""
        attentions = [layer.encoder_attn for layer in self.decoder.layers]
        readers = [linear for attention in attentions for linear in (attention.k_proj, attention.v_proj)]
        self.encoder.layer_norm = absorb_before(self.encoder.layer_norm, *readers)
        self.decoder.layer_norm = absorb_before(self.decoder.layer_norm, self.decoder.output_projection)
        self.decoder.output_projection = PackedLinear(self.decoder.output_projection)

    def prepare(self, dtype: str = "float32") -> "Network":
        """Fold the network for inference; done once, before any of the methods below.

        Args:
            dtype: the arithmetic of its products. On a CPU everything else stays in float32.
        """
        fold_(self)
        self._stack_position_weights()
        if self.encoder.embed_tokens.weight.device.type != "cpu":
            return self.to(getattr(torch, dtype))
        if dtype in ONNX_DTYPES and HAS_ONNX_RUNTIME:
            from resmlp_mt.translation.onnx_network import OnnxNetwork

            self.onnx = OnnxNetwork(self.encoder, self.decoder, dtype)
            self._leave_to_onnx_runtime()
        elif torch.backends.mkldnn.is_available():
            for module in list(self.modules()):
                for name, child in module.named_children():
                    if isinstance(child, nn.Linear):
                        setattr(module, name, LINEARS[dtype](child))
        return self

    def _stack_position_weights(self) -> None:
        """Put what the decoder's layers do with positions into one tensor each."""
        sublayers = [layer.cross_position for layer in self.decoder.layers]
        mixers = [sublayer.mixer for sublayer in sublayers]
        dim, positions = self.decoder.embed_tokens.embedding_dim, self.decoder.positions
        matrices = torch.stack([mixer.get_parameter(mixer.matrix) for mixer in mixers])
        no_filter = matrices.new_zeros(1, dim)
        filters = torch.stack([m.weight if isinstance(m, ConvolvedMixer) else no_filter for m in mixers])
        offsets = torch.stack([sublayer.offset[:, 0].expand(positions, dim) for sublayer in sublayers], dim=1)
        diagonals = matrices.diagonal(dim1=1, dim2=2).t().unsqueeze(2)
        self.register_buffer("matrices", matrices, persistent=False)  # A, (layers, positions, positions)
        self.register_buffer("filters", filters, persistent=False)  # of convolutions, (layers, kernel size, C)
        self.register_buffer("offsets", offsets, persistent=False)  # added to what is mixed, (positions, layers, C)
        self.register_buffer("own", diagonals + filters[:, -1], persistent=False)  # (positions, layers, C)

    def _leave_to_onnx_runtime(self) -> None:
        """Drop the layers' weights, all but A."""
        for layer in (*self.encoder.layers, *self.decoder.layers):
            del layer.cross_channel
            if isinstance(layer.cross_position, FoldedGates):
                del layer.cross_position.send, layer.cross_position.take
        for layer in self.decoder.layers:
            heads = layer.encoder_attn
            del heads.q_proj, heads.k_proj, heads.v_proj, heads.out_proj
        del self.decoder.output_projection

    def step(
        self,
        x: Tensor,
        mixed: Tensor,
        own: Tensor,
        offsets: Tensor,
        mask: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run the decoder's layers at one position of B sentences with W hypotheses each.

        Args:
            x: embeddings, ``(B, W, C)``.
            mixed: what A and the convolution make of the positions before, ``(layers, B, W, C)``.
            own: what they multiply this position's own entry with, ``(layers, C)``.
            offsets: what is added to the mixed, ``(layers, C)``.
            mask: added to the products of queries and keys, ``(B, 1, 1, S)``.
            keys: of each layer's cross-attention, ``(B, heads, C / heads, S)``.
            values: likewise, ``(B, heads, S, C / heads)``.

        Returns:
            The next token's logits, ``(B, W, vocabulary)``; what enters A here, ``(layers, B, W, C)``; and each layer's
            attention, ``(B, heads, W, S)``.
        """
        if self.onnx is not None:
            return self.onnx.step(x, mixed, own, offsets, mask, keys, values)
        entries, weights = [], []
        for number, layer in enumerate(self.decoder.layers):
            sublayer, attention, mlp = layer.cross_position, layer.encoder_attn, layer.cross_channel.mixer
            entries.append(sublayer.entering(x))
            x = sublayer.leaving(x, torch.addcmul(mixed[number], own[number], entries[-1]), offsets[number])
            queries = attention.q_proj(layer.encoder_attn_pre(x)).unflatten(2, (attention.heads, -1)).transpose(1, 2)
            weights.append((queries @ keys[number] + mask).softmax(-1))
            x = x + attention.out_proj((weights[-1] @ values[number]).transpose(1, 2).flatten(2))
            x = x + mlp.fc2(mlp.activation(mlp.fc1(layer.cross_channel.pre(x))))  # equation 3, folded
        return self.decoder.output_projection(self.decoder.layer_norm(x)), torch.stack(entries), weights

    def read(self, tokens: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Encode sentences for the decoder.

        Args:
            tokens: ``(B, S)``, padded on the right.

        Returns:
            The keys of each layer's cross-attention, ``(B, heads, C / heads, S)``, its values, ``(B, heads, S,
            C / heads)``, and which positions are padding, ``(B, S)``.
        """
        if self.onnx is not None:
            x, padding = self._embed(tokens)
            return *self.onnx.encode(x, padding), padding
        encoded, padding = self.encode(tokens)
        attended = [layer.encoder_attn.keys_and_values(encoded) for layer in self.decoder.layers]
        return [keys.transpose(2, 3).contiguous() for keys, _ in attended], [values for _, values in attended], padding

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode sentences by PyTorch.

        Args:
            tokens: ``(B, S)``, padded on the right.

        Returns:
            The encoder's output, ``(S, B, C)``, and which positions are padding, ``(B, S)``.
        """
        x, padding = self._embed(tokens)
        for layer in self.encoder.layers:
            x = layer(x, padding_mask=padding)
        return self.encoder.layer_norm(x), padding

    def _embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        padding = tokens.eq(PAD)
        x = self.encoder.embed_tokens(tokens) * self.encoder.scale
        return x.masked_fill(padding.unsqueeze(-1), 0.0).transpose(0, 1).contiguous(), padding


def read_sizes(weights: Mapping[str, Tensor], side: str) -> dict[str, int]:
    """Read from the weights of the encoder or the decoder how large it is."""
    first = f"{side}.layers.0."
    gates = f"{first}cross_position.mixer.send.weight" in weights
    mixer = f"{first}cross_position.mixer." + "mixer." * gates
    convolved = f"{mixer}mixer.weight" in weights
    hidden, dim = weights[f"{first}cross_channel.mixer.fc1.weight"].shape
    names = (re.match(rf"{side}\.layers\.(\d+)\.", name) for name in weights)
    return {
        "dim": dim,
        "hidden": hidden,
        "layers": 1 + max(int(found[1]) for found in names if found),
        "gates": int(gates),
        "positions": len(weights[f"{mixer}{'mixer.' * convolved}weight"]),
        "kernel": len(weights[f"{mixer}weight"]) if convolved else 0,
        "source_dim": weights["encoder.embed_tokens.weight"].size(1),
    }
