"""The network's layers as ONNX graphs, which ONNX Runtime computes faster than PyTorch on a CPU.

Of a step of one sentence PyTorch spends more time on starting some two hundred operations than on computing them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from resmlp_core import ConvolvedMixer
from resmlp_core.layers.gate import FoldedGates

OPSETS = {"": 20, "com.microsoft": 1}
IR_VERSION = 10  # the first with that opset
ACTIVATIONS = {F.gelu: "Gelu", F.relu: "Relu"}
LARGEST = 127  # whole numbers from -127 to 127 stand for those of a row
ZERO = 128  # what stands for 0 among the bytes from 0 to 255: signed by signed bytes is in few processors' instructions


class OnnxNetwork:
    """Layers of the encoder and the decoder, by ONNX Runtime.

    Args:
        encoder: ``Network.encoder``, folded.
        decoder: ``Network.decoder``, folded.
        dtype: of products, ``float32`` or ``int8``. In 8 bits the rows of W and of x are each scaled to whole numbers
            from -127 to 127, so that a sentence does not depend on its batch.
    """

    def __init__(self, encoder: Any, decoder: Any, dtype: str) -> None:
        layers = range(len(decoder.layers))
        attended = [f"{name}{number}" for name in ("keys", "values") for number in layers]
        graphs = [Graph(int8=dtype == "int8") for _ in range(2)]
        self.encoder = Session(graphs[0], ["x", "kept"], write_encoder(graphs[0], encoder, decoder))
        self.decoder = Session(graphs[1], ["x", "mixed", "own", "mask", *attended], write_step(graphs[1], decoder))

    def encode(self, x: Tensor, padding: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Map sentences' embeddings, ``(S, B, C)``, and padding, ``(B, S)``, to ``Network.read``'s two lists."""
        found = self.encoder(x, (~padding).t().unsqueeze(2).float())
        return found[: len(found) // 2], found[len(found) // 2 :]

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
        """Do what ``Network.step`` does."""
        logits, entries, *attention = self.decoder(x, mixed + offsets[:, None, None], own, mask, *keys, *values)
        return logits, entries, attention


class Graph:
    """Nodes and weights of an ONNX graph; a call adds a node.

    Args:
        int8: multiply in 8 bits.
    """

    def __init__(self, int8: bool) -> None:
        self.int8 = int8
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}  # NumPy's arrays

    def __call__(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], domain=domain, **attributes))
        return name

    def weight(self, value: Tensor) -> str:
        """Add a weight and return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights[name] = value.detach().contiguous().numpy()
        return name

    def constant(self, value: Any, dtype: torch.dtype | None = None) -> str:
        """Add a number or a list of them and return its name."""
        return self("Constant", value=numpy_helper.from_array(torch.tensor(value, dtype=dtype).numpy()))

    def linear(self, linear: nn.Linear, x: str) -> str:
        """Add W x + b."""
        if self.int8:
            # where all of a row is 0, any bytes will do: what they give is multiplied by 0
            most = self("ReduceMax", self("Abs", x), self.constant([-1]))
            scaled = self("Mul", x, self("Div", self.constant(float(LARGEST)), most))
            one, zero = self.constant(1.0), self.constant(ZERO, torch.uint8)
            weight = linear.weight.detach()
            largest = weight.abs().amax(1, keepdim=True)
            whole = (weight * (LARGEST / largest)).round().nan_to_num().to(torch.int8)  # a row of zeros has no scale
            product = self(
                *("MatMulIntegerToFloat", self("QuantizeLinear", scaled, one, zero), self.weight(whole.t())),
                *(one, self.weight(largest.flatten() / LARGEST**2), zero),
                domain="com.microsoft",
            )
            product = self("Mul", product, most)
        else:
            product = self("MatMul", x, self.weight(linear.weight.t()))
        return product if linear.bias is None else self("Add", product, self.weight(linear.bias))

    def norm(self, scale: Tensor, shift: Tensor, eps: float | None, x: str) -> str:
        """Add what ``scale_and_shift_by`` does."""
        names = self.weight(scale), self.weight(shift)
        if eps is not None:
            return self("LayerNormalization", x, *names, axis=-1, epsilon=eps)
        return self("Add", self("Mul", x, names[0]), names[1])

    def normalized(self, norm: nn.Module, dim: int, x: str) -> str:
        """Add what folding leaves of a norm: nothing, or a LayerNorm without weights."""
        return self.norm(torch.ones(dim), torch.zeros(dim), norm.eps, x) if isinstance(norm, nn.LayerNorm) else x


class Session:
    """A graph that ONNX Runtime computes, with as many threads as PyTorch has when it is made.

    Args:
        graph: its nodes and weights.
        inputs: names of what it is called with.
        outputs: names of what it returns.
    """

    def __init__(self, graph: Graph, inputs: list[str], outputs: list[str]) -> None:
        self.inputs, self.outputs = inputs, outputs
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # threads that spin between steps hold up PyTorch's, and one another where two share a core
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # no warnings of what the optimiser leaves out
        # weights are handed over apart from the graph, which as a file may have 2 GB at most
        weights = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in graph.weights.items()}
        options.add_external_initializers(list(weights), list(weights.values()))
        initializers = []
        for name, value in graph.weights.items():
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            tensor = TensorProto(name=name, data_type=kind, dims=value.shape, data_location=TensorProto.EXTERNAL)
            tensor.external_data.add(key="location", value="handed over")
            initializers.append(tensor)
        given, found = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
            for names in (inputs, outputs)
        )
        whole = helper.make_graph(graph.nodes, "layers", given, found, initializers)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Compute the outputs; several threads may."""
        arrays = {name: tensor.numpy() for name, tensor in zip(self.inputs, inputs, strict=True)}
        return [torch.from_numpy(found) for found in self.session.run(self.outputs, arrays)]


def write_encoder(graph: Graph, encoder: Any, decoder: Any) -> list[str]:
    """Add the encoder's layers; return the names of the keys and the values of the decoder's layers.

    The graph's inputs are ``x``, ``(S, B, C)``, and ``kept``, ``(S, B, 1)``, 0 at padding and 1 elsewhere.
    """
    x, dim = "x", encoder.embed_tokens.embedding_dim
    shape, size = graph("Shape", x), graph("Shape", x, start=0, end=1)
    sides = graph("Concat", size, size, axis=0)

    def mix(entry: str) -> str:
        """Equation 2, with the first rows and columns of A."""
        entry = graph("Mul", entry, "kept")
        mixer = sublayer.mixer
        matrix = graph("Slice", graph.weight(mixer.get_parameter(mixer.matrix)), graph.constant([0, 0]), sides)
        columns = graph("Reshape", entry, graph.constant([0, -1]))
        mixed = graph("Reshape", graph("MatMul", matrix, columns), shape)
        if isinstance(mixer, ConvolvedMixer):
            filters, after = graph.weight(mixer.weight.t().unsqueeze(1)), mixer.kernel_size - 1 - mixer.before
            by_channel = graph("Transpose", entry, perm=[1, 2, 0])
            near = graph("Conv", by_channel, filters, group=dim, pads=[mixer.before, after])
            mixed = graph("Add", mixed, graph("Transpose", near, perm=[2, 0, 1]))
        offset = graph.weight(sublayer.offset)
        if len(sublayer.offset) > 1:
            offset = graph("Slice", offset, graph.constant([0]), size)
        return graph("Add", mixed, offset)

    for layer in encoder.layers:
        sublayer = layer.cross_position
        x, _ = write_cross_position(graph, sublayer, x, mix)
        x = write_cross_channel(graph, layer.cross_channel, dim, x)
    x = graph.normalized(encoder.layer_norm, dim, x)
    keys: list[str] = []
    values: list[str] = []
    for layer in decoder.layers:
        attention = layer.encoder_attn
        by_head = graph.constant([0, 0, attention.heads, -1])
        for names, linear, axes in ((keys, attention.k_proj, [1, 2, 3, 0]), (values, attention.v_proj, [1, 2, 0, 3])):
            names.append(graph("Transpose", graph("Reshape", graph.linear(linear, x), by_head), perm=axes))
    return keys + values


def write_step(graph: Graph, decoder: Any) -> list[str]:
    """Add the decoder's layers and output; return the names of logits, entries and each layer's attention.

    The graph's inputs are those of ``Network.step``, with the offsets added to ``mixed``.
    """
    x, entries, weights = "x", [], []
    dim = decoder.embed_tokens.embedding_dim
    for number, layer in enumerate(decoder.layers):
        before, own = (graph("Gather", name, graph.constant(number)) for name in ("mixed", "own"))

        def mix(entry: str, before: str = before, own: str = own) -> str:
            return graph("Add", before, graph("Mul", own, entry))

        x, entry = write_cross_position(graph, layer.cross_position, x, mix)
        entries.append(graph("Unsqueeze", entry, graph.constant([0])))
        attention = layer.encoder_attn
        queries = graph.linear(attention.q_proj, graph.normalized(layer.encoder_attn_pre, dim, x))
        queries = graph("Reshape", queries, graph.constant([0, 0, attention.heads, -1]))
        products = graph("MatMul", graph("Transpose", queries, perm=[0, 2, 1, 3]), f"keys{number}")
        weights.append(graph("Softmax", graph("Add", products, "mask"), axis=-1))
        attended = graph("Transpose", graph("MatMul", weights[-1], f"values{number}"), perm=[0, 2, 1, 3])
        attended = graph("Reshape", attended, graph.constant([0, 0, -1]))
        x = graph("Add", x, graph.linear(attention.out_proj, attended))
        x = write_cross_channel(graph, layer.cross_channel, dim, x)
    logits = graph.linear(decoder.output_projection, graph.normalized(decoder.layer_norm, dim, x))
    return [logits, graph("Concat", *entries, axis=0), *weights]


def write_cross_position(graph: Graph, sublayer: Any, x: str, mix: Callable[[str], str]) -> tuple[str, str]:
    """Add the folded sublayer of positions; return the names of its output and of what enters ``mix``."""
    entry = normed = graph.norm(sublayer.scale, sublayer.shift, sublayer.eps, x)
    if not isinstance(sublayer, FoldedGates):
        return graph("Add", x, mix(entry)), entry
    send = graph("Sigmoid", graph.linear(sublayer.send, normed))
    entry = graph("Mul", graph("Mul", send, graph.constant(2.0)), normed)
    take = graph("Sigmoid", graph.linear(sublayer.take, normed))
    taken = graph("Mul", mix(entry), graph("Mul", take, graph.weight(sublayer.post_scale)))
    return graph("Add", x, graph("Add", taken, graph.weight(sublayer.post_shift))), entry


def write_cross_channel(graph: Graph, sublayer: Any, dim: int, x: str) -> str:
    """Add the folded sublayer of channels (equation 3)."""
    mlp = sublayer.mixer
    hidden = graph.linear(mlp.fc1, graph.normalized(sublayer.pre, dim, x))
    return graph("Add", x, graph.linear(mlp.fc2, graph(ACTIVATIONS[mlp.activation], hidden)))
