"""A step of decoding by ONNX Runtime is what PyTorch makes of it, in float32 and in 8 bits."""

import pytest
import torch

from resmlp_mt.translation import network as module
from resmlp_mt.translation.batches import pad
from resmlp_mt.translation.decoding import Decoding
from resmlp_mt.translation.network import Network
from resmlp_mt.translation.products import PRODUCTS
from resmlp_mt.translation.search import SearchOptions, search

from ..conftest import every_variant, small_model, variant

EOS = 2
OPTIONS = {"heads": 2, "activation": "gelu", "scale_embedding": True}
SOURCES = pad([[5, 6, 7, EOS], [8, EOS], [*range(10, 20), EOS]])
needs_int8 = pytest.mark.skipif(not PRODUCTS["int8"][1](), reason="no instructions for int8")


@pytest.fixture
def both(monkeypatch):
    """Make a network for ONNX Runtime and one for PyTorch."""

    def make(weights, dtype="float32", **options):
        made = []
        for has_it in (True, False):
            monkeypatch.setattr(module, "HAS_ONNX_RUNTIME", has_it)
            made.append(Network(weights, OPTIONS | options).prepare(dtype))
        assert made[0].onnx_step and not made[1].onnx_step
        return made

    return make


def decode(network):
    """Steps of two and three hypotheses for sentences of which one ends: all logits and the last attention."""
    with torch.inference_mode():
        decoding = Decoding(network, *network.encode(SOURCES))
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
    return [x.clone() for x in (*logits, *decoding.attention)]


@every_variant
def test_float32(both, name):
    for found, expected in zip(*map(decode, both(variant(name).state_dict())), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@needs_int8
@every_variant
def test_int8_has_the_same_whole_numbers(both, name):
    """So the two differ by much less than either does from float32; a number that is rounded otherwise is rare."""
    weights = variant(name).state_dict()
    found, expected = (torch.cat([x.flatten() for x in decode(one)]) for one in both(weights, "int8"))
    exact = torch.cat([x.flatten() for x in decode(both(weights)[1])])
    assert (found - expected).norm() < 0.1 * (exact - expected).norm() > 0


def test_relu_and_an_output_of_its_own(both):
    trained = small_model(activation_fn="relu", share_decoder_input_output_embed=False)
    for found, expected in zip(*map(decode, both(trained.state_dict(), activation="relu")), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@every_variant
def test_the_same_hypotheses(both, name):
    first, second = both(variant(name).state_dict())
    found, expected = (search(one, SOURCES, SearchOptions(3, max_len_b=9)) for one in (first, second))
    assert [[h.tokens for h in one] for one in found] == [[h.tokens for h in one] for one in expected]
    scores = [[h.score for one in several for h in one] for several in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)
