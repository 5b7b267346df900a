"""fairseq-train and fairseq-validate: what they log, and that a run that was cut off ends as an unbroken one does."""

import math
import re
import signal

import pytest
import torch
from sacrebleu import corpus_bleu

from resmlp_mt.pipeline.learning_curve import read_curve

from .commands import PLUGIN, fail, finish, in_this_process, logged, run, start, texts, weights


def test_the_first_loss_is_that_of_guessing_and_the_last_is_lower(trained):
    losses = logged(trained.log, "loss")
    assert len(losses) == 120
    assert abs(losses[0] - math.log2(300)) < 0.5 * math.log2(math.e)
    assert sum(losses[-10:]) / 10 < losses[0] - 1
    valid = logged(trained.log, "valid_loss")
    assert valid[-1] < valid[0] < losses[0]


def test_tensorboard_has_the_curves_that_were_logged(trained):
    curve = read_curve(trained.folder / "tensorboard" / "train_inner", "loss")
    assert list(curve) == list(range(1, 121))
    assert list(curve.values()) == pytest.approx(logged(trained.log, "loss"), abs=1e-3)
    valid = read_curve(trained.folder / "tensorboard" / "valid", "loss")
    assert list(valid.values())[-1] == pytest.approx(logged(trained.log, "valid_loss")[-1], abs=1e-3)


def test_the_decoders_matrix_is_zero_above_the_diagonal_in_the_checkpoint(trained):
    matrices = {name: w for name, w in weights(trained.last).items() if name.endswith("cross_position.mixer.weight")}
    assert [w.shape for w in matrices.values()] == [(100, 100)] * 2
    for name, matrix in matrices.items():
        above = torch.count_nonzero(matrix.triu(1)).item()
        assert above == (0 if name.startswith("decoder") else 99 * 50)


def test_validate_repeats_the_last_validation_and_its_bleu_is_that_of_generate(trained, corpus):
    subset = ("--batch-size", 32, "--path", trained.last)
    log = run("fairseq_cli.validate", corpus.data, *PLUGIN, "--task", "translation", *subset, "--log-format", "json")
    for key in ("valid_loss", "valid_bleu"):
        assert f'"{key}": "{logged(trained.log, key)[-1]:g}"' in log
    beam = ("--gen-subset", "valid", "--beam", 1, "--max-len-b", 30, "--remove-bpe", "sentencepiece")
    output = in_this_process("generate", corpus.data, *PLUGIN, *subset, *beam, "--num-workers", 0)
    hypotheses, references = texts(output), texts(output, "T")
    assert [references[i] for i in range(60)] == corpus.text("valid.de")
    bleu = corpus_bleu([hypotheses[i] for i in range(60)], [corpus.text("valid.de")]).score
    assert logged(trained.log, "valid_bleu")[-1] == pytest.approx(bleu, abs=0.006)
    assert bleu > 0


def test_a_run_that_is_stopped_then_killed_then_run_again_ends_where_an_unbroken_run_ends(trained, tmp_path):
    command = (*trained.options, "--save-dir", tmp_path)
    in_this_process("train", *command, "--max-update", 50)
    assert not torch.equal(
        *(weights(f / "checkpoint_last.pt")["encoder.layer_norm.alpha"] for f in (tmp_path, trained.folder))
    )

    killed = start("fairseq_cli.train", *command, "--max-update", 120)
    for line in killed.stdout:
        if '"num_updates": "85"' in line:
            killed.send_signal(signal.SIGKILL)
            break
    fail(killed)
    assert killed.returncode == -signal.SIGKILL

    log = finish(start("fairseq_cli.train", *command, "--max-update", 120))
    updates = int(re.search(r"Loaded checkpoint .* @ (\d+) updates", log)[1])
    assert 80 <= updates < 120
    assert logged(log, "loss") == logged(trained.log, "loss")[updates:]
    assert logged(log, "valid_loss")[-1] == logged(trained.log, "valid_loss")[-1]
    unbroken = weights(trained.last)
    for name, weight in weights(tmp_path / "checkpoint_last.pt").items():
        assert torch.equal(weight, unbroken[name]), name
