"""A sentence is encoded, scored and translated the same alone, in any batch, in any order, padded on either side."""

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import VARIANTS, WORDS, collate, every_variant, make_dictionary, small_model, variant

DICTIONARY = make_dictionary()
EOS, PAD = DICTIONARY.eos(), DICTIONARY.pad()
SENTENCE = st.lists(st.integers(DICTIONARY.nspecial, DICTIONARY.nspecial + WORDS - 1), min_size=0, max_size=10)
PAIRS = st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=5)


def source(words):
    return [*words, EOS]


def shifted_target(words):
    return [EOS, *words]  # what fairseq feeds a decoder


@every_variant
@settings(max_examples=30)
@given(pairs=PAIRS, left_source=st.booleans(), left_target=st.booleans(), extra=st.integers(0, 1))
def test_encoding_and_scores_do_not_depend_on_the_batch(name, pairs, left_source, left_target, extra):
    model = variant(name)
    src = collate([source(s) for s, _ in pairs], left_source)
    src = collate([source(s) for s, _ in pairs], left_source, pad_to=src.size(1) + extra)
    prev = collate([shifted_target(t) for _, t in pairs], left_target)
    with torch.no_grad():
        encoded = model.encoder(src, return_all_hiddens=True)
        logits, _ = model(src, None, prev)
        for i, (s, t) in enumerate(pairs):
            alone_src, alone_prev = torch.tensor([source(s)]), torch.tensor([shifted_target(t)])
            alone = model.encoder(alone_src, return_all_hiddens=True)
            at = src[i].ne(PAD)
            assert torch.equal(encoded["encoder_padding_mask"][0][i], ~at)
            for batched, single in zip(encoded["encoder_states"], alone["encoder_states"], strict=True):
                torch.testing.assert_close(batched[at, i], single[:, 0], rtol=1e-5, atol=1e-5)
            for key, index in (("encoder_out", (at, i)), ("encoder_embedding", (i, at))):
                single = alone[key][0].squeeze(1 if key == "encoder_out" else 0)
                torch.testing.assert_close(encoded[key][0][index], single, rtol=1e-5, atol=1e-5)
            expected = model(alone_src, None, alone_prev)[0][0].log_softmax(-1)
            got = logits[i][prev[i].ne(PAD)].log_softmax(-1)
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def translate(model, src):
    generator = SequenceGenerator([model], DICTIONARY, beam_size=4, max_len_b=11)
    return generator.generate([model], {"net_input": {"src_tokens": src, "src_lengths": src.ne(PAD).sum(1)}})


@every_variant
@settings(max_examples=10)
@given(sentences=st.lists(SENTENCE, min_size=2, max_size=5), left=st.booleans(), data=st.data())
def test_beam_hypotheses_do_not_depend_on_the_batch(name, sentences, left, data):
    model = variant(name)
    order = data.draw(st.permutations(range(len(sentences))))
    batch = translate(model, collate([source(sentences[i]) for i in order], left))
    for place, i in enumerate(order):
        (alone,) = translate(model, torch.tensor([source(sentences[i])]))
        assert [h["tokens"].tolist() for h in batch[place]] == [h["tokens"].tolist() for h in alone]
        torch.testing.assert_close(
            torch.stack([h["score"] for h in batch[place]]),
            torch.stack([h["score"] for h in alone]),
            rtol=1e-5,
            atol=1e-5,
        )


def test_the_decoders_attention_is_returned_in_the_order_of_the_tokens_given():
    model = variant("paper")
    src = collate([source([5, 6, 7]), source([8])], left_pad=True)
    right = collate([shifted_target([9, 10]), shifted_target([11])], left_pad=False)
    left = collate([shifted_target([9, 10]), shifted_target([11])], left_pad=True)
    with torch.no_grad():
        (attention_right,) = model(src, None, right)[1]["attn"]
        (attention_left,) = model(src, None, left)[1]["attn"]
    torch.testing.assert_close(attention_left[1, -2:], attention_right[1, :2])
    assert attention_right.shape == (2, 3, 4)
    assert attention_right[1, :, :2].abs().max() == 0  # the padding before the short source gets nothing


def test_a_batch_of_nothing_but_padding_is_encoded_without_an_error():
    assert variant("paper").encoder(torch.full((2, 3), PAD))["encoder_out"][0].isfinite().all()


@every_variant
@pytest.mark.parametrize("left", [False, True])
def test_gradients_do_not_depend_on_the_padding(left, name):
    model = small_model(dropout=0.0, **VARIANTS[name]).train()
    sentences = [source([5, 6, 7, 8]), source([9])]
    prev = [shifted_target([4, 5, 6]), shifted_target([7])]

    def gradients(batches):
        model.zero_grad()
        for src, tokens in batches:
            model(src, None, tokens)[0][tokens.ne(PAD)].logsumexp(-1).sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    together = gradients([(collate(sentences, left), collate(prev, left))])
    apart = gradients([(torch.tensor([s]), torch.tensor([p])) for s, p in zip(sentences, prev, strict=True)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
