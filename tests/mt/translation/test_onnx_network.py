"""ONNX Runtime computes what PyTorch does, in float32 and in 8 bits."""

import os
import subprocess
import sys

import onnxruntime
import pytest
import torch

from resmlp_mt.translation import network as module
from resmlp_mt.translation.batches import pad
from resmlp_mt.translation.decoding import Decoding
from resmlp_mt.translation.network import Network
from resmlp_mt.translation.products import IS_FAST, Float32Linear
from resmlp_mt.translation.search import SearchOptions, search

from ..conftest import every_variant, small_model, variant

EOS = 2
OPTIONS = {"heads": 2, "activation": "gelu", "scale_embedding": True}
SOURCES = pad([[5, 6, 7, EOS], [8, EOS], [*range(10, 20), EOS]])
needs_int8 = pytest.mark.skipif(not IS_FAST["int8"](), reason="no instructions for int8")


@pytest.fixture
def make(monkeypatch):
    """Make a network that computes by ONNX Runtime, or by PyTorch."""

    def make(weights, by_onnx, dtype="float32", **options):
        monkeypatch.setattr(module, "HAS_ONNX_RUNTIME", by_onnx)
        made = Network(weights, OPTIONS | options).prepare(dtype)
        assert (made.onnx is not None) == by_onnx
        return made

    return make


class SlowInt8Linear(torch.nn.Module):
    """W x + b with the rows of both scaled to whole numbers from -127 to 127, summed exactly."""

    def __init__(self, linear):
        super().__init__()
        self.most, self.whole = to_whole(linear.weight)
        self.bias = 0 if linear.bias is None else linear.bias

    def forward(self, x):
        most, whole = to_whole(x)
        return (whole.double() @ self.whole.double().t()).float() * (most * self.most.t() / 127**2) + self.bias


def to_whole(x):
    most = x.abs().amax(-1, keepdim=True)
    return most, (x * (127 / most)).round().nan_to_num()


def decode(network):
    """Steps of two and three hypotheses for sentences of which one ends: the read, all logits, the last attention."""
    with torch.inference_mode():
        read = network.read(SOURCES)
        decoding = Decoding(network, *read)
        logits = [decoding.step(torch.full((3, 1), EOS))]
        decoding.follow(torch.zeros(3, 2, dtype=torch.long))
        for number in range(9):
            sentences, width = (3, 2) if number < 4 else (2, 3)
            logits.append(decoding.step(torch.arange(sentences * width).view(sentences, width) + 4 + number))
            if number == 3:
                decoding.keep(torch.tensor([0, 2]))
                decoding.follow(torch.tensor([[1, 0, 0], [0, 1, 1]]))
            else:
                decoding.follow(torch.arange(width).flip(0).expand(sentences, -1))
    return [*read[0], *read[1], *logits, *decoding.attention]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


@every_variant
def test_float32(make, name):
    weights = variant(name).state_dict()
    assert_same(decode(make(weights, True)), decode(make(weights, False)))


@needs_int8
@every_variant
def test_int8_has_the_whole_numbers_of_a_slow_reference(make, name):
    """They differ by much less than either does from float32: a number that is rounded otherwise is rare."""
    weights = variant(name).state_dict()
    slow = make(weights, False)
    exact = decode(slow)
    for parent in list(slow.modules()):
        for child_name, child in parent.named_children():
            if isinstance(child, Float32Linear):
                setattr(parent, child_name, SlowInt8Linear(child))
    found, expected, exact = (
        torch.cat([x.flatten() for x in values])
        for values in (decode(make(weights, True, "int8")), decode(slow), exact)
    )
    assert (found - expected).norm() < 0.1 * (exact - expected).norm() > 0


def test_relu_other_sizes_and_an_output_of_its_own(make):
    options = {"activation_fn": "relu", "share_decoder_input_output_embed": False, "decoder_layers": 3}
    weights = small_model(**options, decoder_embed_dim=24, decoder_ffn_embed_dim=48).state_dict()
    assert_same(*(decode(make(weights, by_onnx, activation="relu")) for by_onnx in (True, False)))


@every_variant
def test_the_same_hypotheses(make, name):
    weights = variant(name).state_dict()
    first, second = (search(make(weights, x), SOURCES, SearchOptions(3, max_len_b=9)) for x in (True, False))
    assert [[h.tokens for h in one] for one in first] == [[h.tokens for h in one] for one in second]
    scores = [[h.score for one in found for h in one] for found in (first, second)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_its_threads_are_pytorchs_and_do_not_spin(make, monkeypatch):
    made, real = [], onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *args, **more: made.append(args[1]) or real(*args, **more)
    )
    make(variant("paper").state_dict(), True)
    assert [options.intra_op_num_threads for options in made] == [torch.get_num_threads()] * 2
    assert {options.get_session_config_entry("session.intra_op.allow_spinning") for options in made} == {"0"}


def test_it_reports_nothing_of_its_use(tmp_path):
    """Of its own accord it keeps what it is to send in the home folder."""
    variables = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    line = [sys.executable, "-c", "import resmlp_mt.translation.onnx_network"]
    subprocess.run(line, env=variables | {"HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
