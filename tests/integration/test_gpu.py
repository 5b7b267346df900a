"""fairseq's commands on a GPU: run them there by ``RESMLP_TEST_GPU=1 python -m pytest -n 0 -m gpu``."""

import pytest

from .commands import PACKAGE, TINY, TRAINING, in_this_process, logged, texts

PLUGIN = ("--user-dir", PACKAGE, "--distributed-world-size", 1)
UPDATES = 4


def train(corpus, folder):
    """Train a few updates with a validation, and return the losses."""
    options = (corpus.data, *PLUGIN, *TINY, *TRAINING, "--share-all-embeddings", "--max-update", UPDATES)
    return logged(in_this_process("train", *options, "--save-dir", folder), "loss")


def generate(corpus, checkpoint):
    """Translate the test set, and return the sentences."""
    options = (corpus.data, *PLUGIN, "--path", checkpoint, "--beam", 2, "--max-len-b", 5, "--batch-size", 32)
    return texts(in_this_process("generate", *options))


@pytest.mark.gpu
def test_training_and_generating_on_a_gpu(corpus, tmp_path):
    losses = train(corpus, tmp_path)
    assert losses[-1] < losses[0] and len(generate(corpus, tmp_path / "checkpoint_last.pt")) == 60
