"""The language model that fairseq builds from a command line: its sizes, its scores, and what it refuses."""

import copy
import math
import warnings
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.language_modeling import LanguageModelingTask
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import resmlp_mt.plugin
from resmlp_core import Affine, CrossPositionLinear
from resmlp_mt.models.resmlp_lm import NOT_IN_LANGUAGE_MODEL, ResMLPLanguageModelConfig

from .conftest import VARIANTS, WORDS, collate, every_variant, make_dictionary, randomise, small_model

DICTIONARY = make_dictionary()
EOS, PAD = DICTIONARY.eos(), DICTIONARY.pad()
LIMIT = 12
SMALL = ("--decoder-embed-dim", 16, "--decoder-ffn-embed-dim", 32, "--decoder-layers", 2, "--tokens-per-sample", LIMIT)
ADAPTIVE_INPUT = ("--adaptive-input", "--adaptive-input-cutoff", "10,20")
ADAPTIVE_SOFTMAX = ("--adaptive-softmax-cutoff", "10,20")
EMBEDDINGS = {
    "untied": (),
    "tied": ("--share-decoder-input-output-embed",),
    "other dimensions": ("--decoder-input-dim", 8, "--decoder-output-dim", 24),
    "adaptive softmax": ADAPTIVE_SOFTMAX,
    "adaptive softmax tied to adaptive input": (*ADAPTIVE_INPUT, *ADAPTIVE_SOFTMAX, "--tie-adaptive-weights"),
    "characters": ("--character-embeddings", "--character-filters", "[(1, 8), (2, 8)]"),
}


def build(*line, words=WORDS):
    """Build a model in training mode for these options of fairseq-train."""
    torch.manual_seed(0)
    start = ("data", "--user-dir", Path(resmlp_mt.__file__).parent, "--task", "language_modeling", "--arch")
    parser = options.get_training_parser("language_modeling")
    with warnings.catch_warnings(action="ignore"):  # fairseq's, about its use of Hydra
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, [*map(str, (*start, *line))]))
    return LanguageModelingTask(cfg.task, make_dictionary(words)).build_model(cfg.model)


def small(*line):
    """Build a small model in evaluation mode, its α, β and biases drawn."""
    model = build("resmlp_lm", *SMALL, *line).eval()
    randomise(model)
    return model


@cache
def variant(name):
    """A small model with the options of ``VARIANTS``."""
    line = []
    for option, value in VARIANTS[name].items():
        line += [f"--{option.replace('_', '-')}", *([] if value is True else [value])]
    return small(*line)


def draw(length, batch=2, seed=0):
    return torch.randint(4, 4 + WORDS, (batch, length), generator=torch.Generator().manual_seed(seed))


def log_probs(model, tokens):
    with torch.no_grad():
        return model.get_normalized_probs(model(tokens), log_probs=True)


@pytest.mark.parametrize(
    ("arch", "layers", "dim", "hidden"), [("resmlp_lm", 6, 512, 2048), ("resmlp_lm_tiny", 4, 128, 256)]
)
def test_an_architecture_has_its_dimensions_and_not_one_parameter_more(arch, layers, dim, hidden):
    model = build(arch, "--tokens-per-sample", 20, "--share-decoder-input-output-embed")
    affine, mlp, a = 2 * dim, 2 * dim * hidden + dim + hidden, 20**2 + 20
    expected = len(DICTIONARY) * dim + layers * (4 * affine + a + mlp) + affine
    assert sum(p.numel() for p in model.parameters()) == expected
    scales = torch.cat([p for name, p in model.named_parameters() if name.endswith("post.alpha")])
    torch.testing.assert_close(scales.unique(), torch.tensor([{"resmlp_lm": 0.2, "resmlp_lm_tiny": 1.0}[arch]]))


@pytest.mark.parametrize(
    ("line", "positions"),
    [
        (("--tokens-per-sample", 20), 20),
        (("--tokens-per-sample", 20, "--add-bos-token"), 21),
        (("--tokens-per-sample", 20, "--max-target-positions", 30), 30),
        (("--max-target-positions", 30, "--sample-break-mode", "eos"), 30),
    ],
)
def test_a_is_as_large_as_a_sample_unless_the_user_asks_and_fairseq_is_told_it(line, positions):
    model = build("resmlp_lm_tiny", *line)
    assert {m.weight.shape for m in model.modules() if isinstance(m, CrossPositionLinear)} == {(positions, positions)}
    assert model.max_positions() == model.max_decoder_positions() == positions


@pytest.mark.parametrize("bos", [(), ("--add-bos-token",)])
def test_samples_that_are_longer_than_a_are_refused_by_the_options_name(bos):
    tokens = 31 - len(bos)
    with pytest.raises(ValueError, match=f"--tokens-per-sample {tokens} makes samples of 31 tokens.* 30 positions"):
        build("resmlp_lm_tiny", "--tokens-per-sample", tokens, "--max-target-positions", 30, *bos)


def test_a_sequence_that_is_longer_than_a_is_refused_by_the_options_name():
    with pytest.raises(ValueError, match=f"{LIMIT + 1} positions .*--max-target-positions"):
        variant("paper")(draw(LIMIT + 1))


OFFERED = [field.name for field in fields(ResMLPLanguageModelConfig) if field.name in NOT_IN_LANGUAGE_MODEL]
VALUES = {"attention_dropout": [0.1], "base_layers": [1], "decoder_xformers_att_config": ["scaled_dot_product"]}


@pytest.mark.parametrize("option", OFFERED)
def test_what_resmlp_lacks_is_refused_by_the_options_name(option):
    name = f"--{option.replace('_', '-')}"
    with pytest.raises(ValueError, match=f"{name} does not apply to ResMLP"):
        small(name, *VALUES.get(option, []))


def test_it_is_the_translators_decoder_without_cross_attention():
    """Under the same names of parameters, for the same options: a decoder of one can go on as the other's."""
    for name, changes in VARIANTS.items():
        translator = small_model(no_cross_attention=True, **changes)
        model, tokens = copy.deepcopy(variant(name)), draw(LIMIT)
        model.decoder.load_state_dict(translator.decoder.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(model(tokens)[0], translator.decoder(tokens)[0])


@pytest.mark.parametrize("tied", [(), ("--share-decoder-input-output-embed",)])
@pytest.mark.parametrize("arch", ["resmlp_lm", "resmlp_lm_tiny"])
def test_the_first_loss_is_that_of_guessing(arch, tied):
    words = 2000
    model = build(arch, "--tokens-per-sample", 20, *tied, words=words)
    tokens = torch.randint(4, 4 + words, (16, 21), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(tokens[:, :-1])[0].flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(words)) < 0.5


@every_variant
@settings(max_examples=15)
@given(length=st.integers(2, LIMIT), seed=st.integers(0, 99), data=st.data())
def test_no_score_depends_on_later_tokens(name, length, seed, data):
    t = data.draw(st.integers(1, length - 1))
    tokens = draw(length, seed=seed)
    changed = torch.cat([tokens[:, :t], draw(length - t, seed=seed + 100)], dim=1)
    torch.testing.assert_close(log_probs(variant(name), tokens)[:, :t], log_probs(variant(name), changed)[:, :t])


@every_variant
@settings(max_examples=15)
@given(length=st.integers(1, LIMIT), seed=st.integers(0, 99))
def test_each_step_equals_the_whole_sequence_across_reorderings(name, length, seed):
    decoder, state, generator = variant(name).decoder, {}, torch.Generator().manual_seed(seed)
    tokens = torch.full((4, 1), EOS)
    with torch.no_grad():
        for _ in range(length):
            one, whole = decoder(tokens, incremental_state=state)[0], decoder(tokens)[0]
            torch.testing.assert_close(one[:, 0].log_softmax(-1), whole[:, -1].log_softmax(-1), rtol=1e-5, atol=1e-5)
            order = torch.randint(0, 4, (4,), generator=generator)
            decoder.reorder_incremental_state_scripting(state, order)
            tokens = torch.cat([tokens[order], torch.randint(4, 44, (4, 1), generator=generator)], dim=1)


@every_variant
@settings(max_examples=15)
@given(
    sentences=st.lists(st.lists(st.integers(4, 43), max_size=10), min_size=1, max_size=5),
    left=st.booleans(),
    extra=st.integers(0, 1),
)
def test_scores_do_not_depend_on_the_batch(name, sentences, left, extra):
    lines = [[EOS, *sentence] for sentence in sentences]
    batch = collate(lines, left, pad_to=max(map(len, lines)) + extra)
    together = log_probs(variant(name), batch)
    for i, line in enumerate(lines):
        alone = log_probs(variant(name), torch.tensor([line]))
        torch.testing.assert_close(together[i][batch[i].ne(PAD)], alone[0], rtol=1e-5, atol=1e-5)


@every_variant
def test_the_model_that_fairseq_evaluates_has_no_aff_and_the_same_scores(name):
    tokens, plain = draw(LIMIT), variant(name)
    folded = copy.deepcopy(plain)
    folded.make_generation_fast_()
    torch.testing.assert_close(log_probs(folded, tokens), log_probs(plain, tokens), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, Affine) for module in folded.modules())


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_every_kind_of_embeddings_gives_probabilities_and_folds(kind):
    model, tokens = small(*EMBEDDINGS[kind]), draw(LIMIT)
    plain = log_probs(model, tokens)
    torch.testing.assert_close(plain.exp().sum(-1), torch.ones(tokens.shape))
    model.make_generation_fast_()
    torch.testing.assert_close(log_probs(model, tokens), plain, rtol=1e-5, atol=1e-5)


def test_tied_embeddings_are_one_parameter():
    untied, tied = (sum(p.numel() for p in small(*EMBEDDINGS[kind]).parameters()) for kind in ("untied", "tied"))
    assert untied - tied == len(DICTIONARY) * 16


def test_layers_can_be_kept_and_dropped():
    model = small("--decoder-layers", 3, "--decoder-layers-to-keep", "0,2")
    assert len(model.decoder.layers) == 2


@pytest.mark.parametrize("prefix", [[], [5, 6, 7]])
def test_it_generates_from_a_prefix_and_stops_at_the_limit(prefix):
    model = variant("paper")
    generator = SequenceGenerator([model], DICTIONARY, beam_size=3, min_len=LIMIT - 1, max_len_b=500)
    start = torch.tensor([[EOS, *prefix]])
    sample = {"net_input": {"src_tokens": start, "src_lengths": torch.tensor([len(start[0])])}}
    ((best, *_),) = generator.generate([model], sample, prefix_tokens=torch.tensor([prefix]) if prefix else None)
    tokens = best["tokens"]
    assert len(tokens) == LIMIT and tokens[: len(prefix)].tolist() == prefix
    scores = log_probs(model, torch.cat([torch.tensor([EOS]), tokens[:-1]]).unsqueeze(0))[0]
    expected = scores.gather(1, tokens.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(best["positional_scores"], expected, rtol=1e-5, atol=1e-5)
