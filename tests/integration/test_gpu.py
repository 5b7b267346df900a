"""fairseq's training and generation on a GPU: a pretended one, and where there is one a real."""

import pytest
import torch
from pretended_gpu import PYTORCH, pretended_gpu

from .commands import PACKAGE, TINY, TRAINING, in_this_process, logged, texts

on_pytorch = pytest.mark.skipif(
    not torch.__version__.startswith(PYTORCH), reason=f"the pretended GPU is made of private names of PyTorch {PYTORCH}"
)
PLUGIN = ("--user-dir", PACKAGE, "--distributed-world-size", 1)
UPDATES = 4
# How often a CPU may wait for the GPU in our own code, in a forward pass of a model.
BUDGET = {"resmlp_mt/left_padding.py": 2}


def train(corpus, folder):
    """Train a few updates with a validation, and return the losses."""
    options = (corpus.data, *PLUGIN, *TINY, *TRAINING, "--share-all-embeddings", "--max-update", UPDATES)
    return logged(in_this_process("train", *options, "--save-dir", folder), "loss")


def generate(corpus, checkpoint):
    """Translate the test set, and return the sentences."""
    options = (corpus.data, *PLUGIN, "--path", checkpoint, "--beam", 2, "--max-len-b", 5, "--batch-size", 32)
    return texts(in_this_process("generate", *options))


def refuse_more_waits(waits, passes):
    """Fail where our own code made the CPU wait more often than it may in so many forward passes."""
    assert {
        place: count
        for place, count in waits.items()
        if place and count > passes * BUDGET.get(place.partition(":")[0], 0)
    } == {}


@on_pytorch
def test_training_and_generating_on_a_pretended_gpu(corpus, tmp_path):
    with pretended_gpu() as waits:
        assert len(train(corpus, tmp_path)) == UPDATES
    refuse_more_waits(waits, UPDATES + 2)  # the validation has two batches
    with pretended_gpu() as waits:
        assert len(generate(corpus, tmp_path / "checkpoint_last.pt")) == 60
    refuse_more_waits(waits, 2)


@pytest.mark.gpu
def test_training_and_generating_on_a_gpu(corpus, tmp_path):
    losses = train(corpus, tmp_path)
    assert losses[-1] < losses[0] and len(generate(corpus, tmp_path / "checkpoint_last.pt")) == 60
