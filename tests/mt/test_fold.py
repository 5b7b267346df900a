"""What fairseq's tools make of a model before they generate: no Aff left, the same scores and hypotheses."""

import copy

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import nn

from resmlp_core import Affine, fold

from .conftest import collate, every_variant, make_dictionary, small_model, variant
from .test_decoding import EOS, sample

SENTENCES = [[5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15], [16, 17]]


def batch():
    tokens = [[EOS, *sentence] for sentence in SENTENCES]
    return collate([[*s, EOS] for s in SENTENCES], left_pad=True), None, collate(tokens, left_pad=False)


@every_variant
def test_scores_are_equal(name):
    model = variant(name)
    folded = fold(model)
    with torch.no_grad():
        torch.testing.assert_close(folded(*batch())[0], model(*batch())[0], rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, Affine) for module in folded.modules())


@every_variant
@pytest.mark.parametrize("beam", [1, 4])
def test_hypotheses_are_identical(name, beam):
    model = variant(name)
    fast = copy.deepcopy(model)
    fast.make_generation_fast_()
    assert not any(isinstance(module, Affine) or type(module) is nn.Linear for module in fast.modules())
    found = []
    for each in (model, fold(fast)):  # which a user may do to a model from the hub interface, fast already
        generator = SequenceGenerator([each], make_dictionary(), beam_size=beam, max_len_b=11)
        found.append(generator.generate([each], sample(SENTENCES)))
    for slow_hypotheses, fast_hypotheses in zip(*found, strict=True):
        for one, other in zip(slow_hypotheses, fast_hypotheses, strict=True):
            assert one["tokens"].tolist() == other["tokens"].tolist()
            torch.testing.assert_close(one["positional_scores"], other["positional_scores"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"no_cross_attention": True},
        {"share_decoder_input_output_embed": True},
        {"decoder_output_dim": 8},
        {"adaptive_softmax_cutoff": "10,20"},
    ],
)
def test_models_of_other_forms_fold_too(options):
    model = small_model(**options)
    with torch.no_grad():
        plain, fast = (each.get_normalized_probs(each(*batch()), log_probs=True) for each in (model, fold(model)))
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_dropout_that_is_to_stay_stays():
    """--retain-dropout draws from the model's own layers; what is folded has no dropout."""
    model = small_model(dropout=0.5)
    model.make_generation_fast_(retain_dropout=True)
    assert any(isinstance(module, Affine) for module in model.modules())


@pytest.mark.parametrize("seed", range(3))
def test_a_model_in_training_is_folded_whole_though_it_drops_layers(seed):
    model = small_model(decoder_layers=6, decoder_layerdrop=0.5).train()
    torch.manual_seed(seed)
    folded = fold(model)
    with torch.no_grad():
        torch.testing.assert_close(folded(*batch())[0], model.eval()(*batch())[0], rtol=1e-5, atol=1e-5)
