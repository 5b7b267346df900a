"""A recipe from text to BLEU by its real command line, cut off and repeated."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics.bleu import BLEU

import resmlp_mt  # noqa: F401  lets the options in checkpoints load
from resmlp_core.files import alone_in
from resmlp_mt.recipe import main, read_recipe

ROOT = Path(__file__).parents[2]
RECIPE = """
pair: en-de
data: {data}
vocab_size: 300
average: 2
shown_positions: 20
train:
  share-all-embeddings: true
  max-source-positions: 100
  max-target-positions: 100
  skip-invalid-size-inputs-valid-test: true
  criterion: label_smoothed_cross_entropy
  optimizer: adam
  lr: 0.01
  lr-scheduler: inverse_sqrt
  warmup-updates: 5
  max-tokens: 1000
  max-epoch: 3
  log-interval: 5
  num-workers: 0
  update-epoch-batch-itr: "True"
archs:
  resmlp_tiny: {{encoder-embed-dim: 16, encoder-ffn-embed-dim: 16, encoder-layers: 1, decoder-layers: 1}}
  transformer: {{encoder-embed-dim: 16, encoder-ffn-embed-dim: 16, encoder-layers: 1, decoder-layers: 1}}
generate: {{beam: 2, max-len-b: 20}}
"""


def command(*arguments):
    return [sys.executable, "-m", "resmlp_mt.recipe", *map(str, arguments)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run(*arguments, status=0):
    done = subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    grammar = [sys.executable, ROOT / "recipes/demo/grammar.py", folder / "corpus"]
    subprocess.run([*grammar, "--train", "400", "--valid", "20", "--test", "20"], check=True, capture_output=True)
    (folder / "recipe.yaml").write_text(RECIPE.format(data=folder / "corpus"))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def unbroken(recipe):
    out = recipe.parent / "unbroken"
    return out, run(recipe, "--out", out)


def test_one_command_goes_from_text_to_bleu(unbroken):
    out, done = unbroken
    folder = out / "resmlp_tiny"
    results = json.loads((folder / "results.json").read_text())
    hypotheses = re.findall(r"^D-(\d+)\t\S+\t(.*)$", (folder / "generate.txt").read_text(), flags=re.M)
    hypotheses = [text for _, text in sorted(hypotheses, key=lambda pair: int(pair[0]))]
    references = (out / "text" / "test.de").read_text().splitlines()
    metric = BLEU()
    assert results["bleu"] == pytest.approx(metric.corpus_score(hypotheses, [references]).score)
    assert results["signature"] == str(metric.get_signature())
    assert f"BLEU {results['bleu']:.2f}  {metric.get_signature()}" in done.stdout
    assert references[0] in done.stdout and hypotheses[0] in done.stdout
    weights = torch.load(folder / "checkpoints" / "checkpoint_last.pt", weights_only=True)["model"]
    embeddings = {name for name in weights if "embed_tokens" in name or "output_projection" in name}
    others = sum(w.numel() for name, w in weights.items() if name not in embeddings and "version" not in name)
    assert results["parameters"] == others + weights["encoder.embed_tokens.weight"].numel()
    assert results["updates"] == int(
        re.findall(r'"train_num_updates": "(\d+)"', (folder / "train.log").read_text())[-1]
    )
    for picture in ("learning-curve.png", "matrices.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_the_command_again_is_done_at_once_and_changes_nothing(recipe, unbroken):
    out, _ = unbroken
    before = {path: path.stat().st_mtime_ns for path in (out / "resmlp_tiny" / "checkpoints").iterdir()}
    done = run(recipe, "--out", out)
    assert "fairseq-train" not in done.stdout and "BLEU" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_other_settings_of_decoding_decode_anew_and_train_nothing(recipe, unbroken):
    out, _ = unbroken
    checkpoints = out / "resmlp_tiny" / "checkpoints"
    before = {path: path.stat().st_mtime_ns for path in checkpoints.iterdir()}
    again = run(recipe, "--out", out, "generate.beam=1", "average=1")
    assert "--beam 1" in again.stdout and "averaged checkpoint3.pt into" in again.stdout
    run(recipe, "--out", out)  # for the tests to come
    assert before == {path: path.stat().st_mtime_ns for path in checkpoints.iterdir()}


def test_options_of_the_command_line_win_over_those_of_the_architecture(recipe):
    settings = read_recipe(recipe, ["train.encoder-layers=2", "train.lr=0.5"], "transformer")
    train = settings["train"]
    assert (train["arch"], train["encoder-layers"], train["decoder-layers"], train["lr"]) == ("transformer", 2, 1, 0.5)


def test_a_second_run_in_the_same_folder_is_refused(recipe, unbroken, monkeypatch):
    out, _ = unbroken
    monkeypatch.setattr(sys, "argv", ["recipe", str(recipe), "--out", str(out)])
    with alone_in(out / "resmlp_tiny"), pytest.raises(SystemExit, match="another process is at work in this folder"):
        main()


def test_killed_in_training_it_goes_on_and_ends_where_the_unbroken_run_does(recipe, unbroken):
    out = recipe.parent / "killed"
    process = subprocess.Popen(
        command(recipe, "--out", out), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    first = out / "resmlp_tiny" / "checkpoints" / "checkpoint1.pt"
    deadline = time.monotonic() + 120
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert first.exists() and not (out / "resmlp_tiny" / "results.json").exists()
    # the worst moment: fairseq was copying the last checkpoint
    (first.parent / "checkpoint_last.pt").write_bytes(first.read_bytes()[:1000])

    run(recipe, "--out", out)
    name = Path("resmlp_tiny", "checkpoints", "checkpoint_last.pt")
    resumed, whole = (torch.load(folder / name, weights_only=True)["model"] for folder in (out, unbroken[0]))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_fairseqs_transformer_runs_by_the_same_recipe_and_joins_the_table(recipe, unbroken):
    out, _ = unbroken
    done = run(recipe, "--out", out, "--arch", "transformer", "train.max-epoch=1")
    rows = [
        line.split() for line in done.stdout.splitlines() if line.lstrip().startswith(("resmlp_tiny", "transformer"))
    ]
    assert [row[0] for row in rows] == ["resmlp_tiny", "transformer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arch", "lstm"), "--arch lstm is not in"),
        (("trian.lr=1",), "'trian.lr=1' is not key=value with a key of"),
        (("--pair", "en-xx"), "xx"),
        (("train.lr=0.5",), "was started with train.lr=0.01, not 0.5"),
        (("train.save-dir=elsewhere",), "train.save-dir is not to be set"),
        (("train.lr={",), "not YAML"),
        (("train.max-target-positions=9",), "more than train.max-target-positions=9; give train.max-target-positions="),
    ],
)
def test_a_mistake_is_one_line_that_names_it(recipe, unbroken, arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe", str(recipe), "--out", str(unbroken[0]), *arguments])
    with pytest.raises(SystemExit, match=r"^recipe: [^\n]*$") as stopped:
        main()
    assert message in str(stopped.value)


def test_a_run_of_another_program_that_fails_is_told(recipe):
    done = run(recipe, "--out", recipe.parent / "fails", "train.optimizer=nosuch", status=1)
    assert "recipe: fairseq-train ended with status 2" in done.stderr
    assert "invalid choice: 'nosuch'" in done.stderr.splitlines()[-1]
