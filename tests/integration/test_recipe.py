"""A recipe from text to BLEU by its real command line, cut off and repeated."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

import resmlp_mt  # noqa: F401  lets the options in checkpoints load
from resmlp_core.files import alone_in
from resmlp_mt.average import average_checkpoints
from resmlp_mt.recipe import main, read_recipe
from resmlp_mt.score import read_hypotheses
from resmlp_mt.stages import share_batch

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
    assert "--beam 1" in again.stdout and "averaged checkpoint3.pt: validation BLEU" in again.stdout
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


MOMENTS = (
    "text.partial",
    "sentencepiece.model",
    "data-bin.partial",
    "resmlp_tiny/train.log",
    "resmlp_tiny/checkpoints/checkpoint1.pt",
    "resmlp_tiny/checkpoints/checkpoint3.pt",
    "resmlp_tiny/candidate.pt",
    "resmlp_tiny/valid-2.txt.partial",
    "resmlp_tiny/model.pt",
    "resmlp_tiny/generate.txt.partial",
)


def test_killed_ten_times_in_every_stage_it_ends_where_the_unbroken_run_does(recipe, unbroken):
    out, draw = recipe.parent / "killed", random.Random(1)
    for moment in MOMENTS:
        process = subprocess.Popen(
            command(recipe, "--out", out), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not (out / moment).exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(draw.random() / 2)
        with suppress(ProcessLookupError):  # it has come to its end meanwhile
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if moment.endswith("checkpoint1.pt") and not (out / "resmlp_tiny" / "trained").exists():
            # the worst moment: fairseq was copying the last checkpoint
            (out / moment).with_name("checkpoint_last.pt").write_bytes((out / moment).read_bytes()[:1000])

    run(recipe, "--out", out)
    for path in sorted((unbroken[0] / "data-bin").iterdir()):
        assert (out / "data-bin" / path.name).read_bytes() == path.read_bytes()
    name = Path("resmlp_tiny", "checkpoints", "checkpoint_last.pt")
    resumed, whole = (torch.load(folder / name, weights_only=True)["model"] for folder in (out, unbroken[0]))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    killed, smooth = (
        json.loads((folder / "resmlp_tiny" / "results.json").read_text()) for folder in (out, unbroken[0])
    )
    for key in ("updates", "valid_loss", "best_valid_loss", "averaged", "valid_bleu", "bleu", "chrf"):
        assert killed[key] == smooth[key], key


def test_fairseqs_transformer_runs_by_the_same_recipe_and_joins_the_table(recipe, unbroken):
    out, _ = unbroken
    done = run(recipe, "--out", out, "--arch", "transformer", "train.max-epoch=1")
    rows = [
        line.split() for line in done.stdout.splitlines() if line.lstrip().startswith(("resmlp_tiny", "transformer"))
    ]
    assert [row[0] for row in rows] == ["resmlp_tiny", "transformer"]


def test_the_number_of_epochs_averaged_is_chosen_on_the_validation_set(recipe, unbroken):
    out, _ = unbroken
    done = run(recipe, "--out", out, "average=[1,2,3]")
    bleu = [float(x) for x in re.findall(r"validation BLEU (\S+)", done.stdout)]
    results = json.loads((out / "resmlp_tiny" / "results.json").read_text())
    assert len(bleu) == 3
    assert results["valid_bleu"] == pytest.approx(max(bleu), abs=0.005)
    assert bleu[results["averaged"] - 1] == max(bleu)
    checkpoints = out / "resmlp_tiny" / "checkpoints"
    chosen = [checkpoints / f"checkpoint{epoch}.pt" for epoch in range(4 - results["averaged"], 4)]
    weights = torch.load(out / "resmlp_tiny" / "model.pt", weights_only=True)["model"]
    torch.testing.assert_close(weights, average_checkpoints(chosen)["model"], rtol=0, atol=0)
    run(recipe, "--out", out)  # for the tests to come


def test_a_student_trains_on_its_teachers_translations(recipe, unbroken):
    out, _ = unbroken
    done = run(recipe, "--out", out, "--arch", "transformer", "--teacher", "resmlp_tiny", "train.max-epoch=1")
    taught = out / "resmlp_tiny" / "distilled" / "text"
    translations = read_hypotheses(out / "resmlp_tiny" / "generate-train.txt")
    assert (taught / "train.de").read_text().splitlines() == translations
    assert translations != (out / "text" / "train.de").read_text().splitlines()
    for name in ("train.en", "valid.de", "test.de"):  # all else is as it was
        assert (taught / name).read_bytes() == (out / "text" / name).read_bytes()
    data_bin = out / "resmlp_tiny" / "distilled" / "data-bin"
    assert (data_bin / "dict.de.txt").read_bytes() == (out / "data-bin" / "dict.de.txt").read_bytes()
    assert f"fairseq-train {data_bin}" in done.stdout
    assert "transformer-from-resmlp_tiny" in done.stdout.splitlines()[-1]


def test_two_processes_share_the_effective_batch_of_one(recipe):
    """Each under torchrun, which on several machines would be started on each."""
    out = recipe.parent / "shared"
    run(recipe, "--out", out, "--stage", "prepare")
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "resmlp_mt.recipe", recipe]
    line += ["--out", out, "--stage", "train", "effective_tokens=600", "train.max-epoch=1"]
    line += ["train.distributed-backend=gloo", "train.ddp-backend=legacy_ddp"]
    done = subprocess.run(list(map(str, line)), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = (out / "resmlp_tiny" / "train.log").read_text()
    assert "--max-tokens 300" in done.stdout and "--update-freq 1" in done.stdout
    assert "distributed_world_size': 2" in log
    tokens = [float(words) for words in re.findall(r'"wpb": "([\d.]+)"', log)]
    assert tokens and 300 < max(tokens) <= 600  # of both
    after = run(
        recipe,
        "--out",
        out,
        "effective_tokens=600",
        "train.max-epoch=1",
        "train.distributed-backend=gloo",
        "train.ddp-backend=legacy_ddp",
    )
    assert "training: done before" in after.stdout and "BLEU" in after.stdout


@given(effective=st.integers(1, 10**6), most=st.integers(1, 10**5), devices=st.integers(1, 512))
def test_a_batch_is_shared_exactly_and_fits(effective, most, devices):
    shared = share_batch(effective, most, devices)
    assert shared["max-tokens"] <= most
    total = shared["max-tokens"] * shared["update-freq"] * devices
    assert abs(total - effective) <= shared["update-freq"] * devices / 2  # to the token that each step is rounded by


def compare(out, recipe, *arguments):
    """Run the comparison in this process, and return its table."""
    spec = spec_from_file_location("compare", ROOT / "recipes/multi30k/compare.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROUNDS = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["compare", str(out), "--recipe", str(recipe), *arguments])
        module.main()
    return json.loads((out / "comparison.json").read_text())


def test_a_comparison_takes_the_mean_over_seeds_and_leaves_the_test_set_alone_until_asked(recipe):
    out = recipe.parent / "compared"
    line = ["--seeds", "1,2", "--configs", "resmlp_tiny", "--updates", "7", "average=1"]
    (row,) = compare(out, recipe, *line)
    first, second = row["runs"]
    assert row["updates"] == 7
    assert first["best_valid_loss"] != second["best_valid_loss"]  # the seeds differ
    assert row["valid_loss"] == pytest.approx((first["valid_loss"] + second["valid_loss"]) / 2)
    assert "bleu" not in row and not list(out.glob("*/generate.txt"))
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoints/*.pt")}
    (row,) = compare(out, recipe, *line, "--test")
    assert row["bleu"] == pytest.approx(sum(run["bleu"] for run in row["runs"]) / 2)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_comparison_by_time_gives_each_the_updates_that_its_speed_allows(recipe):
    out = recipe.parent / "timed"
    line = ["--minutes", "0.02", "--configs", "resmlp_tiny,transformer", "average=1"]
    rows = compare(out, recipe, *line)
    speeds = json.loads((out / "speeds.json").read_text())
    assert {row["config"]: row["updates"] for row in rows} == {
        name: round(1.2 * speed) for name, speed in speeds.items()
    }
    assert rows[0]["valid_bleu"] >= rows[1]["valid_bleu"]
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    compare(out, recipe, *line)
    assert json.loads((out / "speeds.json").read_text()) == speeds  # a repeated run ends alike


def test_the_two_wmt14_recipes_differ_in_what_the_paper_has_them_differ():
    german, french = (
        read_recipe(ROOT / "recipes" / f"wmt14_en_{lang}" / "recipe.yaml", [], None) for lang in ("de", "fr")
    )
    assert {key for key in german if german[key] != french[key]} == {"pair", "name", "train"}
    differing = {key for key in german["train"] if german["train"][key] != french["train"][key]}
    assert differing == {"arch", "max-update"}  # dropout is the architecture's


def test_a_wmt14_recipe_runs_on_a_small_corpus(recipe):
    """Every option that it sets, on a small model and for a few updates."""
    name, pair = "wmt14_en_fr", "en-fr"
    data = recipe.parent / f"corpus-{pair}"
    shutil.copytree(recipe.parent / "corpus", data)
    for path in data.glob("*.de"):
        path.rename(path.with_suffix(f".{pair[-2:]}"))
    small = ["vocab_size=300", "average=1", "generate.max-len-b=20", "effective_tokens=2500", "clean.max_words=9"]
    small += [f"train.{side}-{key}" for side in ("encoder", "decoder") for key in ("layers=1", "embed-dim=16")]
    small += ["train.max-update=6", "train.warmup-updates=2", "train.save-interval-updates=3", "train.max-tokens=1500"]
    small += ["train.validate-interval-updates=3", "train.log-interval=1"]
    out = recipe.parent / name
    done = run(ROOT / "recipes" / name / "recipe.yaml", "--data", data, "--out", out, *small)
    results = json.loads((out / f"resmlp_{name.replace('14', '')}" / "results.json").read_text())
    assert results["updates"] == 6
    assert "--max-tokens 1250" in done.stdout and "--update-freq 2" in done.stdout
    assert {"torch", "fairseq", "sentencepiece", "sacrebleu"} <= results["versions"].keys()
    assert results["data_sha256"] == json.loads((out / "prepare.json").read_text())["text"]["sha256"]
    assert results["seed"] == 1 and "recipe" in results["command"]
    assert json.loads((out / "prepare.json").read_text())["text"]["train"]["dropped"]["max_words"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arch", "lstm"), "--arch lstm is not in"),
        (("trian.lr=1",), "'trian.lr=1' is not key=value with a key of"),
        (("--pair", "en-xx"), "xx"),
        (("train.lr=0.5",), "was started with train.lr=0.01, not 0.5"),
        (("train.save-dir=elsewhere",), "train.save-dir is not to be set"),
        (("train.lr={",), "not YAML"),
        (("train.lr=${train.nosuch}",), "Interpolation key 'train.nosuch' not found"),
        (("--teacher", "nosuch"), "--teacher nosuch: there is no"),
        (("clean.max_wrods=9",), "clean.max_wrods is no rule"),
        (("--out", "nowhere", "--stage", "train"), "there is no nowhere/data-bin: run the stage prepare first"),
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
