"""Options of fairseq's that change the model or the optimiser: each trains, and what it makes translates."""

import math

import pytest
import torch
from fairseq.checkpoint_utils import load_ema_from_checkpoint

from .commands import PLUGIN, TINY, TRAINING, in_this_process, logged, texts, weights

ADAPTIVE = ("--criterion", "adaptive_loss", "--adaptive-softmax-cutoff", "100,200", "--ddp-backend", "legacy_ddp")
OPTIONS = {
    "untied embeddings": (),
    "one embedding": ("--share-all-embeddings",),
    "tied decoder": ("--share-decoder-input-output-embed",),
    "activation checkpointing": ("--checkpoint-activations",),
    "adaptive softmax": ADAPTIVE,
    "adagrad": ("--optimizer", "adagrad", "--lr", 0.1),
    "muon": ("--optimizer", "muon", "--adam-betas", "(0.9, 0.98)", "--lr", 0.01),
    "layerdrop": ("--encoder-layers", 3, "--decoder-layers", 3, "--encoder-layerdrop", 0.3, "--decoder-layerdrop", 0.3),
    "moving average": ("--store-ema", "--ema-decay", 0.9),
    "several A sizes": ("--max-source-positions", 90, "--max-target-positions", 80, "--weight-decay", 0.1),
}


@pytest.fixture(scope="module")
def train(corpus, tmp_path_factory):
    """Train with the options of that name for 20 updates, once."""
    runs = {}

    def train(name):
        if name not in runs:
            folder = tmp_path_factory.mktemp("options")
            options = (*TINY, *TRAINING, "--disable-validation", *OPTIONS[name])
            log = in_this_process("train", corpus.data, *PLUGIN, *options, "--max-update", 20, "--save-dir", folder)
            runs[name] = folder / "checkpoint_last.pt", logged(log, "loss")
        return runs[name]

    return train


def translate(corpus, path, *options):
    fixed = ("--beam", 2, "--max-len-b", 20, "--num-workers", 0)
    output = in_this_process("generate", corpus.data, *PLUGIN, "--path", path, *fixed, *options)
    return texts(output)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name == "muon" else []) for name in OPTIONS]
)
def test_it_trains_from_guessing_downwards_and_translates(train, corpus, name):
    path, losses = train(name)
    assert len(losses) == 20
    if name == "adaptive softmax":  # guessing among 100 words and two classes, and in each of these among 100 words
        assert math.log2(102) < losses[0] < math.log2(102 * 100)
    else:
        assert abs(losses[0] - math.log2(300)) < 0.5 * math.log2(math.e)
    assert sum(losses[-3:]) / 3 < losses[0] - 0.5
    state = weights(path)
    assert all(weight.isfinite().all() for weight in state.values())
    matrices = [w for n, w in state.items() if n.startswith("decoder") and n.endswith("cross_position.mixer.weight")]
    assert matrices and not any(matrix.triu(1).any() for matrix in matrices)
    assert len(translate(corpus, path)) == 60


def test_the_readmes_architecture_and_optimiser_train(corpus, tmp_path):
    options = (
        *("--arch", "resmlp_plus_tiny", "--optimizer", "muon", "--weight-decay", 0.1, "--clip-norm", 1, "--lr", 0.006),
        *("--adam-betas", "(0.9, 0.98)"),
        *("--lr-scheduler", "polynomial_decay", "--warmup-updates", 5, "--total-num-update", 20, "--max-update", 20),
    )
    line = (*TINY, *TRAINING, *options, "--disable-validation", "--save-dir", tmp_path)
    losses = logged(in_this_process("train", corpus.data, *PLUGIN, *line), "loss")
    assert losses[-1] < losses[0] - 0.5
    path = tmp_path / "checkpoint_last.pt"
    state = weights(path)
    assert all(weight.isfinite().all() for weight in state.values())
    assert state["decoder.layers.0.cross_position.mixer.weight"].shape == (5, 32)
    assert not state["decoder.layers.0.cross_position.mixer.mixer.weight"].triu(1).any()
    assert len(translate(corpus, path)) == 60


def test_embeddings_are_shared_as_asked(train):
    def same(name):
        state = weights(train(name)[0])
        keys = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
        encoder, decoder, output = (state[key] for key in keys)
        return torch.equal(encoder, decoder), torch.equal(decoder, output)

    assert same("untied embeddings") == (False, False)
    assert same("tied decoder") == (False, True)
    assert same("one embedding") == (True, True)


def test_the_moving_average_of_a_model_translates(train, corpus, tmp_path):
    path, _ = train("moving average")
    average = load_ema_from_checkpoint(str(path))
    assert average["model"].keys() == weights(path).keys()
    torch.save(average, tmp_path / "average.pt")
    assert len(translate(corpus, tmp_path / "average.pt")) == 60


def test_activation_checkpointing_gives_the_same_weights(train):
    plain, checkpointed = (weights(train(name)[0]) for name in ("untied embeddings", "activation checkpointing"))
    assert plain.keys() == checkpointed.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(checkpointed[name], weight, rtol=0, atol=1e-6, msg=name)


def test_a_model_trained_with_layerdrop_can_be_pruned(train, corpus):
    path, _ = train("layerdrop")
    whole = translate(corpus, path)
    keep = ("--model-overrides", "{'encoder_layers_to_keep': '0,2', 'decoder_layers_to_keep': '1'}")
    pruned = translate(corpus, path, *keep)
    assert len(pruned) == 60
    assert pruned != whole
