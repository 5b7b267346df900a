"""What a GPU is asked to do for a layer: so many operations and no more, and no question that it must answer first."""

import pytest
import torch

from resmlp_mt.models.decoder import ResMLPDecoderLayer
from resmlp_mt.models.encoder import ResMLPEncoderLayer
from resmlp_mt.muon import Muon

from .conftest import VARIANTS, collate, make_dictionary, make_model, small_model

the_paper_and_beyond = pytest.mark.parametrize("name", ["paper", "all"])  # of the variants
EOS, PAD = make_dictionary().eos(), make_dictionary().pad()


def layer_of(side):
    """A layer of the paper's base model in training, on a device without values, and what it is called with."""
    model = make_model("resmlp", random=False).to("meta").train()
    x = torch.randn(7, 2, 512, device="meta", requires_grad=True)
    memory = torch.randn(6, 2, 512, device="meta", requires_grad=True)
    layer = getattr(model, side).layers[0]
    assert isinstance(layer, ResMLPEncoderLayer | ResMLPDecoderLayer)
    return layer, (x, memory) if side == "decoder" else (x,)


@pytest.mark.parametrize(("side", "forward", "backward"), [("encoder", 17, 33), ("decoder", 32, 66)])
def test_a_layer_asks_for_no_more_operations(operations, side, forward, backward):
    layer, inputs = layer_of(side)
    with operations() as there:
        y = layer(*inputs)
    y = y if side == "encoder" else y[0]
    gradient = torch.ones_like(y)
    with operations() as back:
        y.backward(gradient)
    assert there.kernels.total() <= forward, dict(there.kernels)
    assert back.kernels.total() <= backward, dict(back.kernels)


def test_muon_asks_for_no_more_operations_an_update(operations):
    """Of all matrices of the model: as many stacks as there are shapes, however many layers."""

    def counted(layers):
        size = {"encoder_layers": layers, "decoder_layers": layers, "words": 2000}
        model = make_model("resmlp_tiny", random=False, **size).to("meta")
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        muon = Muon(model.parameters(), lr=0.01)
        muon.param_groups[0]["foreach"] = True  # as AdamW's own steps are on a GPU
        muon.step()
        with operations() as counter:
            muon.step()
        for name in list(counter.kernels):  # AdamW reads its counts of steps, which the CPU has; marks for profilers
            if name == "_local_scalar_dense" or name.startswith("_record_function"):
                del counter.kernels[name]
        return counter.kernels

    assert counted(4) == counted(2)
    assert counted(4).total() <= 152, counted(4)


@pytest.mark.parametrize("left", [False, True])
def test_the_forward_pass_asks_the_device_nothing(left):
    """A tensor on PyTorch's meta device has no values: whoever asks for one ends in an error."""
    src = collate([[5, 6, 7, EOS], [8, EOS]], left).to("meta")
    prev = collate([[EOS, 5, 6], [EOS, 7]], left).to("meta")
    small_model().to("meta").train()(src, None, prev)


def test_fairseqs_forward_pass_does():
    """The reason for the encoder's own."""
    model = small_model(arch="transformer").to("meta")
    with pytest.raises(RuntimeError, match="meta"):
        model(torch.full((2, 3), 5, device="meta"), None, torch.full((2, 3), 5, device="meta"))


@pytest.mark.parametrize("left", [False, True])
def test_what_is_done_without_asking_changes_nothing(left, monkeypatch):
    model = small_model()
    src, prev = collate([[5, 6, 7, EOS], [8, 9, EOS]], left), collate([[EOS, 5, 6], [EOS, 7]], left)
    full = torch.tensor([[5, 6, EOS], [7, 8, EOS]])  # no padding at all
    for tokens, before in ((src, prev), (full, full)):
        with monkeypatch.context() as patch:
            patch.setattr("resmlp_mt.models.left_padding.possible", lambda condition: True)
            patch.setattr("resmlp_mt.models.encoder.possible", lambda condition: True)
            blind = model(tokens, None, before)[0]
        torch.testing.assert_close(blind, model(tokens, None, before)[0], rtol=1e-6, atol=1e-6)


@the_paper_and_beyond
def test_both_sides_compile_without_a_graph_break(name):
    model = small_model(**VARIANTS[name]).train()
    src, prev = collate([[5, 6, 7, EOS], [8, EOS]], True), collate([[EOS, 5, 6], [EOS, 7]], False)
    model.double()
    torch._dynamo.reset()
    explained = torch._dynamo.explain(lambda *tokens: model(tokens[0], None, tokens[1])[0])(src, prev)
    assert explained.graph_break_count == 0, explained.break_reasons


@the_paper_and_beyond
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_layer_compiles_to_the_same_gradients(side, name):
    torch._dynamo.reset()
    model = small_model(dropout=0.0, **VARIANTS[name]).train()
    layer = getattr(model, side).layers[0]
    x, memory = torch.randn(7, 2, 16, requires_grad=True), torch.randn(6, 2, 16)
    inputs = (x, memory) if side == "decoder" else (x,)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (layer, compiled):
        y = run(*inputs)
        (y if side == "encoder" else y[0]).square().sum().backward()
        gradients.append([x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)])
        x.grad = None
        layer.zero_grad()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_scripting_is_refused_in_one_line():
    with pytest.raises(TypeError, match=r"^torch.jit.script cannot take ResMLP for text; .*$"):
        torch.jit.script(small_model())
