"""Decoding step by step equals scoring the whole sequence, whatever beam search does to the batch."""

import torch
from fairseq.sequence_generator import SequenceGenerator
from fairseq.sequence_scorer import SequenceScorer
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import WORDS, collate, every_variant, make_dictionary, variant

DICTIONARY = make_dictionary()
EOS, PAD = DICTIONARY.eos(), DICTIONARY.pad()
LIMIT = 12


@every_variant
@settings(max_examples=25)
@given(sentences=st.integers(1, 3), beam=st.integers(1, 4), length=st.integers(1, LIMIT), seed=st.integers(0, 999))
def test_each_step_equals_the_whole_sequence_across_reorderings(name, sentences, beam, length, seed):
    """Reorder as beam search does: the hypotheses of a sentence change places, and finished sentences leave."""
    model = variant(name)
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    def draw_words(*shape):
        return draw(DICTIONARY.nspecial, DICTIONARY.nspecial + WORDS, *shape)

    sources = [[*draw_words(n).tolist(), EOS] for n in draw(0, 10, sentences)]
    src = collate(sources, left_pad=True).repeat_interleave(beam, dim=0)
    decoder, state = model.decoder, {}
    tokens = torch.full((len(src), 1), EOS)
    with torch.no_grad():
        encoded = model.encoder(src)
        for step in range(length):
            one, _ = decoder(tokens, encoder_out=encoded, incremental_state=state)
            whole, _ = decoder(tokens, encoder_out=encoded)
            assert one.size(1) == 1
            torch.testing.assert_close(one[:, 0].log_softmax(-1), whole[:, -1].log_softmax(-1), rtol=1e-5, atol=1e-5)
            if step + 1 < length:
                stay = [s for s in range(len(tokens) // beam) if draw(0, 5, 1) > 0] or [0]
                order = (torch.tensor(stay).unsqueeze(1) * beam + draw(0, beam, len(stay), beam)).flatten()
                decoder.reorder_incremental_state_scripting(state, order)
                encoded = model.encoder.reorder_encoder_out(encoded, order)
                tokens = torch.cat([tokens[order], draw_words(len(order), 1)], dim=1)


def sample(sentences, left=True):
    src = collate([[*s, EOS] for s in sentences], left)
    return {"net_input": {"src_tokens": src, "src_lengths": src.ne(PAD).sum(1)}}


@every_variant
@settings(max_examples=10)
@given(st.lists(st.lists(st.integers(4, 43), max_size=10), min_size=1, max_size=4), st.integers(1, 5))
def test_beam_search_scores_equal_fairseqs_scorer_on_the_whole_hypothesis(name, sentences, beam):
    model = variant(name)
    batch = sample(sentences)
    hypotheses = SequenceGenerator([model], DICTIONARY, beam_size=beam, max_len_b=11).generate([model], batch)
    for i, best in enumerate(h[0]["tokens"].tolist() for h in hypotheses):
        again = sample([sentences[i]])
        again["target"] = torch.tensor([best])
        again["net_input"]["prev_output_tokens"] = torch.tensor([[EOS, *best[:-1]]])
        ((scored,),) = SequenceScorer(DICTIONARY).generate([model], again)
        torch.testing.assert_close(hypotheses[i][0]["score"], scored["score"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            hypotheses[i][0]["positional_scores"], scored["positional_scores"], rtol=1e-5, atol=1e-5
        )


def test_decoding_stops_at_the_limit():
    model = variant("paper")
    assert model.max_decoder_positions() == LIMIT
    generator = SequenceGenerator([model], DICTIONARY, beam_size=4, min_len=LIMIT - 1, max_len_b=500)
    ((best, *_),) = generator.generate([model], sample([[5, 6]]))
    assert len(best["tokens"]) == LIMIT


@every_variant
@settings(max_examples=15)
@given(length=st.integers(2, LIMIT), seed=st.integers(0, 99), data=st.data())
def test_no_score_depends_on_later_tokens(name, length, seed, data):
    model = variant(name)
    t = data.draw(st.integers(1, length - 1))
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, 44, (2, length), generator=generator)
    changed = tokens.clone()
    changed[:, t:] = torch.randint(4, 44, (2, length - t), generator=generator)
    src = torch.tensor([[5, 6, 7, EOS]] * 2)
    with torch.no_grad():
        torch.testing.assert_close(model(src, None, tokens)[0][:, :t], model(src, None, changed)[0][:, :t])
