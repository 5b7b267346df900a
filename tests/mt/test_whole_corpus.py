"""Every sentence of a corpus is in exactly one batch, within fairseq's limits."""

import numpy as np
from fairseq.data import data_utils
from hypothesis import given
from hypothesis import strategies as st

import resmlp_mt.plugin  # noqa: F401  importing the plugin is all that a user does


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=200).map(sorted),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([None, 60, 400, 12000]),
    st.sampled_from([None, 3, 20]),
    st.booleans(),
)
def test_batches_hold_every_sentence_once_in_order(sizes, multiple, max_tokens, max_sentences, vector):
    batches = data_utils.batch_by_size(
        list(range(len(sizes))),
        lambda i: sizes[i],
        num_tokens_vec=np.array(sizes) if vector else None,
        max_tokens=max_tokens,
        max_sentences=max_sentences,
        required_batch_size_multiple=multiple,
    )
    assert [i for batch in batches for i in batch] == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) < multiple or len(batch) % multiple == 0
        assert max_sentences is None or len(batch) <= max(max_sentences, multiple - 1)
        assert max_tokens is None or len(batch) * max(sizes[i] for i in batch) <= max(max_tokens, 50)
