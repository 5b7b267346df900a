"""The language model under fairseq's commands: preprocess, train, eval-lm, generate, interactive and hydra-train."""

import json
import math
import os
import re
import shutil
from collections import Counter
from unittest import mock

import pytest
import torch
from fairseq.checkpoint_utils import load_model_ensemble
from fairseq.data import Dictionary

from .commands import (
    ENVIRONMENT,
    PLUGIN,
    TRAINING,
    fail,
    finish,
    in_this_process,
    logged,
    printed,
    start,
    train_by_hydra,
    weights,
)
from .conftest import GRAMMAR

SENTENCES = ("--task", "language_modeling", "--sample-break-mode", "eos", "--tokens-per-sample", 100)
TINY = (
    *("--arch", "resmlp_lm_tiny", "--decoder-embed-dim", 32, "--decoder-ffn-embed-dim", 32, "--decoder-layers", 1),
    "--share-decoder-input-output-embed",
)
LM_TRAINING = (*PLUGIN, *TRAINING, "--criterion", "cross_entropy")


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    """The German of the corpus, one text a split, made by fairseq-preprocess."""
    folder = tmp_path_factory.mktemp("language_model")
    options = []
    for split in ("train", "valid", "test"):
        (folder / split).write_text("".join(f"{line}\n" for line in corpus.encode(corpus.text(f"{split}.de"))))
        options += [f"--{split}pref", folder / split]
    in_this_process("preprocess", "--only-source", *options, "--destdir", folder / "data-bin")
    return folder / "data-bin"


def read(data, split):
    """The sentences of a split as the dictionary's numbers, each with its end."""
    dictionary = Dictionary.load(str(data / "dict.txt"))
    lines = (data.parent / split).read_text().splitlines()
    return [dictionary.encode_line(line, add_if_not_exist=False).long() for line in lines]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A folder with a model, and what fairseq-train logged."""
    folder = tmp_path_factory.mktemp("trained_language_model")
    options = (data, *LM_TRAINING, *SENTENCES, *TINY, "--save-interval-updates", 30, "--keep-interval-updates", 5)
    return folder, in_this_process("train", *options, "--max-update", 150, "--save-dir", folder)


def eval_lm(data, path, *options):
    """The loss in bits and the perplexity that fairseq-eval-lm prints."""
    log = in_this_process("eval_lm", data, *PLUGIN, "--path", path, "--num-workers", 0, *options)
    loss, perplexity = re.findall(r"Loss \(base 2\): ([\d.]+), Perplexity: ([\d.]+)", log)[-1]
    return float(loss), float(perplexity)


def score(path, windows):
    """The bits of a token, from the model's own log-probabilities: windows are an input, its targets, and how many."""
    (model,), _ = load_model_ensemble([str(path)])
    model.eval()
    bits = []
    with torch.no_grad():
        for inputs, targets, last in windows:
            scores = model(inputs.unsqueeze(0))[0][0].log_softmax(-1)
            bits += (-scores.gather(1, targets.unsqueeze(1)).squeeze(1)[-last:] / math.log(2)).tolist()
    return sum(bits) / len(bits)


def shifted(model_input, eos):
    return torch.cat([torch.tensor([eos]), model_input[:-1]])


def test_it_learns_far_more_than_how_often_a_word_occurs(data, trained):
    folder, log = trained
    losses = logged(log, "loss")
    dictionary = Dictionary.load(str(data / "dict.txt"))
    assert len(losses) == 150
    assert abs(losses[0] - math.log2(len(dictionary))) < 0.5 * math.log2(math.e)

    counts = Counter(torch.cat(read(data, "train")).tolist())
    test = torch.cat(read(data, "test")).tolist()
    unigram = 2 ** (-sum(math.log2(max(counts[word], 1) / counts.total()) for word in test) / len(test))
    _, perplexity = eval_lm(data, folder / "checkpoint_last.pt", *SENTENCES)
    assert perplexity < unigram / 2


def test_the_perplexity_that_eval_lm_prints_is_that_of_the_models_log_probabilities(data, trained):
    path = trained[0] / "checkpoint_last.pt"
    sentences = read(data, "test")
    eos = int(sentences[0][-1])
    expected = score(path, [(shifted(s, eos), s, len(s)) for s in sentences])
    loss, perplexity = eval_lm(data, path, *SENTENCES)
    assert loss == pytest.approx(expected, abs=2e-4)
    assert perplexity == pytest.approx(2**expected, rel=1e-3)


def test_a_context_window_gives_later_blocks_the_tokens_before_them(data, trained):
    path = trained[0] / "checkpoint_last.pt"
    stream = torch.cat(read(data, "test"))
    inputs, context, block = shifted(stream, int(stream[-1])), 16, 24
    windows = []
    for begin in range(0, len(stream), block):
        end, first = min(begin + block, len(stream)), max(0, begin - context)
        windows.append((inputs[first:end], stream[first:end], end - begin))
    sizes = ("--tokens-per-sample", context + block, "--context-window", context)
    assert eval_lm(data, path, *sizes)[0] == pytest.approx(score(path, windows), abs=2e-4)


def test_blocks_that_do_not_fit_a_end_in_one_line_that_names_the_option(data, trained):
    """fairseq-eval-lm has 1,024 tokens unless told otherwise; by itself it would evaluate none, at perplexity 1."""
    path = trained[0] / "checkpoint_last.pt"
    last = fail(start("fairseq_cli.eval_lm", data, *PLUGIN, "--path", path)).splitlines()[-1]
    assert last.startswith("ValueError: --tokens-per-sample 1024 makes samples of 1024 tokens")


def test_another_dictionary_of_the_same_size_is_refused(data, trained, tmp_path):
    other = shutil.copytree(data, tmp_path / "other")
    lines = (data / "dict.txt").read_text().splitlines()
    (other / "dict.txt").write_text("".join(f"{line}\n" for line in lines[::-1]))
    with pytest.raises(ValueError, match="are not those that the checkpoint was trained with"):
        eval_lm(other, trained[0] / "checkpoint_last.pt", *SENTENCES)


def test_a_run_that_was_stopped_ends_where_an_unbroken_run_ends(data, trained, tmp_path):
    folder, log = trained
    command = (data, *LM_TRAINING, *SENTENCES, *TINY, "--save-dir", tmp_path)
    (stopped,) = folder.glob("checkpoint_*_90.pt")
    shutil.copy(stopped, tmp_path / "checkpoint_last.pt")
    resumed = in_this_process("train", *command, "--max-update", 150)
    assert logged(resumed, "loss") == logged(log, "loss")[90:]
    for name, weight in weights(tmp_path / "checkpoint_last.pt").items():
        assert torch.equal(weight, weights(folder / "checkpoint_last.pt")[name]), name


OPTIONS = {
    "blocks of tokens": ("--sample-break-mode", "none"),
    "blocks of sentences": ("--sample-break-mode", "complete"),
    "beginning of sentence": ("--sample-break-mode", "none", "--add-bos-token"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_way_to_break_the_text_trains_and_evaluates(data, name, tmp_path):
    task = ("--task", "language_modeling", "--tokens-per-sample", 100, *OPTIONS[name])
    log = in_this_process("train", data, *LM_TRAINING, *task, *TINY, "--max-update", 20, "--save-dir", tmp_path)
    losses = logged(log, "loss")
    assert losses[-1] < losses[0] - 0.5
    side = 101 if "--add-bos-token" in task else 100
    state = weights(tmp_path / "checkpoint_last.pt")
    assert state["decoder.layers.0.cross_position.mixer.weight"].shape == (side, side)
    assert not state["decoder.layers.0.cross_position.mixer.weight"].triu(1).any()
    assert eval_lm(data, tmp_path / "checkpoint_last.pt", *task)[1] < 300


def test_adaptive_softmax_trains_and_evaluates(data, tmp_path):
    adaptive = ("--criterion", "adaptive_loss", "--adaptive-softmax-cutoff", "100,200", "--ddp-backend", "legacy_ddp")
    options = (*LM_TRAINING, *SENTENCES, *TINY[:-1], *adaptive)
    losses = logged(in_this_process("train", data, *options, "--max-update", 20, "--save-dir", tmp_path), "loss")
    assert losses[-1] < losses[0] - 0.5
    assert eval_lm(data, tmp_path / "checkpoint_last.pt", *SENTENCES)[1] < 300


@pytest.mark.parametrize("target", ["self", "past"])
def test_a_target_that_a_causal_model_cannot_have_is_refused(data, target):
    with pytest.raises(ValueError, match=f"Unsupported language modeling target: {target}"):
        in_this_process("train", data, *LM_TRAINING, *SENTENCES, *TINY, f"--{target}-target", "--no-save")


def test_interactive_and_generate_go_on_from_a_beginning(data, trained, corpus):
    path, beam = trained[0] / "checkpoint_last.pt", ("--beam", 2, "--max-len-b", 12)
    (beginning,) = corpus.encode(["Der Lehrer"])
    process = start("fairseq_cli.interactive", data, *PLUGIN, *SENTENCES, "--path", path, *beam, stdin=-1)
    typed = printed(finish(process, f"{beginning}\n"), "H")[0][0][-1]
    assert typed.startswith(f"{beginning} ") and len(typed.split()) > len(beginning.split())
    output = in_this_process(
        "generate", data, *PLUGIN, *SENTENCES, "--path", path, *beam, "--prefix-size", 2, "--num-workers", 0
    )
    targets, hypotheses = printed(output, "T"), printed(output, "H")
    assert sorted(hypotheses) == list(range(60))
    assert all(h[0][-1].split()[:2] == targets[i][0][-1].split()[:2] for i, h in hypotheses.items())


SECTIONS = """
task: {{_name: language_modeling, data: {data}, sample_break_mode: eos, tokens_per_sample: 100}}
model: {{_name: resmlp_lm_tiny, decoder_embed_dim: 32, decoder_layers: 1, pre_norm: layer_norm}}
criterion: {{_name: cross_entropy}}
"""


def test_hydra_train_knows_the_architectures_defaults(data, tmp_path):
    path = train_by_hydra(tmp_path, SECTIONS.format(data=data))
    state = weights(path)
    assert state["decoder.layers.0.cross_position.mixer.weight"].shape == (100, 100)
    assert state["decoder.layers.0.cross_channel.mixer.fc1.weight"].shape == (256, 32)  # resmlp_lm_tiny's own width
    assert state["decoder.layers.0.cross_position.post.alpha"].mean() > 0.5  # its own start is 1
    assert "decoder.layer_norm.bias" in state
    assert eval_lm(data, path, *SENTENCES)[1] < 300


def test_the_recipe_trains_evaluates_and_does_nothing_twice(corpus, tmp_path, run_script):
    recipe = GRAMMAR.with_name("language_model.py")
    text = tmp_path / "text"
    text.mkdir()
    for name in (f"{split}.{language}" for split in ("train", "valid", "test") for language in ("en", "de")):
        (text / name).write_text("".join(f"{line}\n" for line in corpus.text(name)), encoding="utf-8")

    def table(*options):
        line = [recipe, tmp_path / "out", "--corpus", text, "--models", "resmlp_lm_tiny", *options]
        with mock.patch.dict(os.environ, ENVIRONMENT):
            shown = run_script(*line)
        return shown, json.loads((tmp_path / "out" / "language_model.json").read_text())

    shown, (row,) = table("--updates", 3)
    assert row["updates"] == 3 and 100 < row["test_perplexity"] < 3300  # hardly off a guess among 3,000
    assert f"{row['test_perplexity']:.2f}" in shown.splitlines()[-1]
    again, _ = table("--updates", 3)
    assert "$ fairseq-" not in again and again.splitlines()[-1] == shown.splitlines()[-1]
