"""The decoder's layers at one position as an ONNX graph, which ONNX Runtime computes faster than PyTorch on a CPU.

PyTorch takes longer to start the some two hundred small operations of a step than to compute them.
"""

from collections.abc import Sequence
from typing import Any

import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from resmlp_core.layers.gate import FoldedGates
from resmlp_mt.translation.products import LARGEST, ZERO, to_whole

OPSETS = {"": 20, "com.microsoft": 1}
IR_VERSION = 10  # the first with that opset
ACTIVATIONS = {F.gelu: "Gelu", F.relu: "Relu"}


class OnnxStep:
    """What ``Network.step`` does, by ONNX Runtime.

    Args:
        decoder: of a folded network.
        dtype: of its products, ``float32`` or ``int8``.
    """

    def __init__(self, decoder: Any, dtype: str) -> None:
        graph = Graph(int8=dtype == "int8")
        layers = len(decoder.layers)
        self.outputs = write_step(graph, decoder)
        self.inputs = ["x", "mixed", "own", "mask"]
        self.inputs += [f"{name}{number}" for name in ("keys", "values") for number in range(layers)]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # threads that spin between steps hold up PyTorch's, and one another where two share a core
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # no warnings of what the optimiser leaves out
        weights = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in graph.weights.items()}
        options.add_external_initializers(list(weights), list(weights.values()))
        model = graph.serialize(self.inputs, self.outputs)
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(
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
        given = (x, mixed + offsets[:, None, None], own, mask, *keys, *values)
        arrays = {name: tensor.numpy() for name, tensor in zip(self.inputs, given, strict=True)}
        logits, entries, *attention = map(torch.from_numpy, self.session.run(self.outputs, arrays))
        return logits, entries, attention


class Graph:
    """Nodes and weights of an ONNX graph; a call adds a node.

    Args:
        int8: multiply in 8 bits, as ``Int8Linear`` does.
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
            most = self("ReduceMax", self("Abs", x), self.constant([-1]))
            scaled = self("Mul", x, self("Div", self.constant(float(LARGEST)), most))
            one, zero = self.constant(1.0), self.constant(ZERO, torch.uint8)
            scale, whole = to_whole(linear.weight.detach())
            product = self(
                *("MatMulIntegerToFloat", self("QuantizeLinear", scaled, one, zero), self.weight(whole.t())),
                *(one, self.weight(scale), zero),
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

    def serialize(self, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        """Return the model's bytes without its weights, which the session is given apart: a file has 2 GB at most."""
        initializers = []
        for name, value in self.weights.items():
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            tensor = TensorProto(name=name, data_type=kind, dims=value.shape, data_location=TensorProto.EXTERNAL)
            tensor.external_data.add(key="location", value="given")
            initializers.append(tensor)
        values = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
            for names in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "step", values[0], values[1], initializers)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()


def write_step(graph: Graph, decoder: Any) -> list[str]:
    """Add the decoder's layers and output; return the names of logits, entries and each layer's attention."""
    x, entries, weights = "x", [], []
    dim = decoder.embed_tokens.embedding_dim
    for number, layer in enumerate(decoder.layers):
        sublayer, attention, mlp = layer.cross_position, layer.encoder_attn, layer.cross_channel.mixer
        index = graph.constant(number)
        mixed, own = (graph("Gather", name, index) for name in ("mixed", "own"))
        entry = normed = graph.norm(sublayer.scale, sublayer.shift, sublayer.eps, x)
        if isinstance(sublayer, FoldedGates):
            send = graph("Sigmoid", graph.linear(sublayer.send, normed))
            entry = graph("Mul", graph("Mul", send, graph.constant(2.0)), normed)
        entries.append(graph("Unsqueeze", entry, graph.constant([0])))
        mixed = graph("Add", mixed, graph("Mul", own, entry))
        if isinstance(sublayer, FoldedGates):
            take = graph("Sigmoid", graph.linear(sublayer.take, normed))
            mixed = graph("Mul", mixed, graph("Mul", take, graph.weight(sublayer.post_scale)))
            mixed = graph("Add", mixed, graph.weight(sublayer.post_shift))
        x = graph("Add", x, mixed)
        queries = graph.linear(attention.q_proj, graph.normalized(layer.encoder_attn_pre, dim, x))
        queries = graph("Reshape", queries, graph.constant([0, 0, attention.heads, -1]))
        products = graph("MatMul", graph("Transpose", queries, perm=[0, 2, 1, 3]), f"keys{number}")
        weights.append(graph("Softmax", graph("Add", products, "mask"), axis=-1))
        attended = graph("Transpose", graph("MatMul", weights[-1], f"values{number}"), perm=[0, 2, 1, 3])
        attended = graph("Reshape", attended, graph.constant([0, 0, -1]))
        x = graph("Add", x, graph.linear(attention.out_proj, attended))
        hidden = graph.linear(mlp.fc1, graph.normalized(layer.cross_channel.pre, dim, x))
        x = graph("Add", x, graph.linear(mlp.fc2, graph(ACTIVATIONS[mlp.activation], hidden)))
    logits = graph.linear(decoder.output_projection, graph.normalized(decoder.layer_norm, dim, x))
    return [logits, graph("Concat", *entries, axis=0), *weights]
