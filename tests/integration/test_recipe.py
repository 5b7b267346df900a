"""A recipe from text to BLEU by its real command line, and again."""

import json
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from unittest import mock

import pytest
import sentencepiece
import torch
from sacrebleu.metrics.bleu import BLEU

from resmlp_core.common import files
from resmlp_core.common.files import alone_in, remove
from resmlp_mt.average import average_checkpoints
from resmlp_mt.data.generate_output import read_hypotheses
from resmlp_mt.pipeline import run as stages
from resmlp_mt.pipeline.run import Run
from resmlp_mt.recipe import main

from .recipe_runs import ROOT, command, environment, run


@pytest.fixture(scope="module")
def unbroken(recipe):
    """What one run leaves, and prints; tests only read it."""
    out = recipe.parent / "unbroken"
    line = command(recipe, "--out", out)
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done


@pytest.fixture
def out(unbroken, tmp_path):
    """A copy of it, to go on with."""
    return shutil.copytree(unbroken[0], tmp_path / "out")


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
    log = (folder / "train.log").read_text()
    losses = [float(loss) for loss in re.findall(r'"valid_loss": "([\d.]+)"', log)]
    assert len(losses) > 1
    assert results["valid_loss"] == pytest.approx(losses[-1], abs=1e-3)
    assert results["best_valid_loss"] == pytest.approx(min(losses), abs=1e-3)
    speeds = [float(speed) for speed in re.findall(r'"train_wps": "([\d.]+)"', log)]
    assert results["tokens_per_second"] == pytest.approx(sum(speeds) / len(speeds), rel=1e-3)
    assert 3600 * results["hours"] == pytest.approx(float(re.findall(r'"train_wall": "(\d+)"', log)[-1]), abs=5)
    assert results["command"].startswith("python -m resmlp_mt.recipe ")
    if not torch.cuda.is_available():
        assert f": {results['device']}\n" in Path("/proc/cpuinfo").read_text()
    for picture in ("learning-curve.png", "matrices.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


ODD_NAMES = "10:30 it's [a] {b}, c=~d|é"


def test_no_name_of_a_folder_and_no_terminal_ends_a_run(recipe, tmp_path):
    """Fairseq would part the name; and the test set is in letters that the terminal lacks."""
    data, out = tmp_path / f"data {ODD_NAMES}", tmp_path / f"out {ODD_NAMES}"
    shutil.copytree(recipe.parent / "corpus", data)
    for path in data.glob("test.de"):
        path.write_text(path.read_text(encoding="utf-8").replace(".", "€."), encoding="utf-8")
    line = command(recipe, "--data", data, "--out", out, "train.max-epoch=1", "average=1")
    done = subprocess.run(line, env=environment() | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "?.\n" in done.stdout and "BLEU" in done.stdout
    assert (out / "resmlp_tiny" / "results.json").exists()
    translated = subprocess.run(
        [sys.executable, "-m", "resmlp_mt.translate", out / "resmlp_tiny"],
        **{"env": environment(), "input": "\u200b\nThe old man.\n", "capture_output": True, "encoding": "utf-8"},
    )
    assert translated.returncode == 0, translated.stderr
    assert translated.stdout.startswith("\n") and translated.stdout.count("\n") == 2


def test_results_are_kept_before_any_are_shown(recipe, out, monkeypatch):
    (out / "resmlp_tiny" / "results.json").unlink()
    monkeypatch.setattr(stages, "show_translations", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Run(json.loads((out / "resmlp_tiny" / "settings.json").read_text()), out).score()
    assert (out / "resmlp_tiny" / "results.json").exists()


def test_the_command_again_is_done_at_once_and_changes_nothing(recipe, out):
    before = {path: path.stat().st_mtime_ns for path in (out / "resmlp_tiny" / "checkpoints").iterdir()}
    done = run(recipe, "--out", out)
    assert "fairseq-train" not in done.stdout and "BLEU" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_same_folder_of_data_may_be_written_otherwise(recipe, out, monkeypatch):
    monkeypatch.chdir(recipe.parent)
    for data in ("corpus/", "./corpus"):
        done = run(recipe, "--out", out, "--data", data)
        assert "training: done before" in done.stdout
    shutil.copytree("corpus", "another")  # as where the project has moved
    stage = ("--stage", "score", "--data", "another")
    run(recipe, "--out", out, *stage)
    Path("another", "test.en").write_bytes(Path("another", "valid.en").read_bytes())
    message = run(recipe, "--out", out, *stage, status=1).stderr
    assert f"was prepared with data={recipe.parent / 'corpus'}, not another" in message


def test_other_settings_of_decoding_decode_anew_and_train_nothing(recipe, out):
    checkpoints = out / "resmlp_tiny" / "checkpoints"
    before = {path: path.stat().st_mtime_ns for path in checkpoints.iterdir()}
    again = run(recipe, "--out", out, "generate.beam=1", "average=1")
    assert "--beam 1" in again.stdout and "averaged checkpoint3.pt: validation BLEU" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in checkpoints.iterdir()}


def test_without_its_checkpoints_a_run_is_scored_again_but_not_averaged_anew(recipe, out):
    folder = out / "resmlp_tiny"
    results = json.loads((folder / "results.json").read_text())
    remove(folder / "checkpoints")
    run(recipe, "--out", out, "tokenized_bleu=moses")
    again = json.loads((folder / "results.json").read_text())
    assert "bleu_tokenized" in again and again["updates"] == results["updates"]
    assert "checkpoints is empty" in run(recipe, "--out", out, "generate.beam=1", status=1).stderr
    assert json.loads((folder / "results.json").read_text()) == again
    remove(folder / "model.pt")
    message = run(recipe, "--out", out, status=1).stderr
    assert f"{folder / 'checkpoints'} is empty: delete {folder} to train anew" in message


def test_a_kill_before_the_first_epoch_is_logged_costs_no_results(recipe, out):
    folder = out / "resmlp_tiny"
    remove(folder / "tensorboard" / "train")  # fairseq writes it after the last checkpoint
    run(recipe, "--out", out, "--stage", "score")
    assert json.loads((folder / "results.json").read_text())["tokens_per_second"] > 0
    remove(folder / "tensorboard")
    message = run(recipe, "--out", out, "--stage", "score", status=1).stderr
    assert f"{folder / 'tensorboard'} lacks losses or speeds: delete {folder}" in message


def test_everything_goes_where_the_recipes_folder_says_from_within_it_too(recipe, monkeypatch):
    monkeypatch.chdir(recipe.parent)
    message = run(recipe.name, "--stage", "train", status=1).stderr
    assert f"there is no {Path('build', recipe.parent.name, 'en-de', 'data-bin')}: run the stage prepare" in message


def test_a_stage_alone_takes_nothing_that_is_out_of_date(recipe, out):
    """Neither an average of a training that was cut off, nor translations by a model that is to be averaged anew."""
    folder = out / "resmlp_tiny"
    done = run(recipe, "--out", out, "--stage", "generate", "generate.beam=3", status=1)
    assert f"there is no {folder / 'average.json'}: run the stage average first" in done.stderr
    (folder / "trained").unlink()
    done = run(recipe, "--out", out, "--stage", "average", "generate.beam=3", status=1)
    assert f"there is no {folder / 'trained'}: run the stage train first" in done.stderr


def test_a_second_run_in_the_same_folder_is_refused(recipe, unbroken, monkeypatch):
    out, _ = unbroken
    monkeypatch.setattr(sys, "argv", ["recipe", str(recipe), "--out", str(out)])
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    with alone_in(out / "resmlp_tiny"), pytest.raises(SystemExit, match="another process is at work in this folder"):
        main()


def test_the_number_of_epochs_averaged_is_chosen_on_the_validation_set(recipe, out):
    done = run(recipe, "--out", out, "--stage", "average", "average=[1,2,3]")
    bleu = [float(x) for x in re.findall(r"validation BLEU (\S+)", done.stdout)]
    choice = json.loads((out / "resmlp_tiny" / "average.json").read_text())
    assert len(bleu) == 3
    assert choice["valid_bleu"] == pytest.approx(max(bleu), abs=0.005)
    assert bleu[choice["averaged"] - 1] == max(bleu)
    checkpoints = out / "resmlp_tiny" / "checkpoints"
    chosen = [checkpoints / f"checkpoint{epoch}.pt" for epoch in range(4 - choice["averaged"], 4)]
    weights = torch.load(out / "resmlp_tiny" / "model.pt", weights_only=True)["model"]
    torch.testing.assert_close(weights, average_checkpoints(chosen)["model"], rtol=0, atol=0)


def test_a_student_trains_on_its_teachers_translations_and_joins_the_table(recipe, out):
    """The student being fairseq's Transformer, by the same recipe."""
    done = run(recipe, "--out", out, "--arch", "transformer", "--teacher", "resmlp_tiny", "train.max-epoch=1")
    taught = out / "resmlp_tiny" / "distilled" / "text"
    translations = read_hypotheses(out / "resmlp_tiny" / "generate-train.txt")
    assert (taught / "train.de").read_text().splitlines() == translations
    made = (out / "resmlp_tiny" / "distilled.json").read_text()
    assert f'"model_sha256": "{sha256((out / "resmlp_tiny" / "model.pt").read_bytes()).hexdigest()}"' in made
    assert "" not in translations
    assert translations != (out / "text" / "train.de").read_text().splitlines()
    for name in ("train.en", "valid.de", "test.de"):  # all else is as it was
        assert (taught / name).read_bytes() == (out / "text" / name).read_bytes()

    # a pair that is too long for the teacher, and so has no translation, keeps its own target
    generated = out / "resmlp_tiny" / "generate-train.txt"
    generated.write_text(re.sub(r"^D-3\t.*\n", "", generated.read_text(), flags=re.M))
    shutil.rmtree(taught.parent)
    Run(json.loads((out / "transformer-from-resmlp_tiny" / "settings.json").read_text()), out).prepare()
    translations[3] = (out / "text" / "train.de").read_text().splitlines()[3]
    assert (taught / "train.de").read_text().splitlines() == translations
    data_bin = out / "resmlp_tiny" / "distilled" / "data-bin"
    assert (data_bin / "dict.de.txt").read_bytes() == (out / "data-bin" / "dict.de.txt").read_bytes()
    assert f"fairseq-train {data_bin}" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    names = [row[0] for row in rows if row and row[0] in ("resmlp_tiny", "transformer-from-resmlp_tiny")]
    assert names == ["resmlp_tiny", "transformer-from-resmlp_tiny"]
    written = (taught / "train.de").stat().st_mtime_ns
    again = [*("--arch", "transformer", "--teacher", "resmlp_tiny", "train.max-epoch=1"), "generate.beam=3"]
    run(recipe, "--out", out, "--stage", "prepare", *again)  # by another beam search
    assert "training: done before" in run(recipe, "--out", out, "--stage", "train", *again).stdout
    assert (taught / "train.de").stat().st_mtime_ns == written

    # as a kill leaves it while the teacher translates
    generated.unlink()
    shutil.rmtree(taught.parent)
    assert "run the stage prepare first" in run(recipe, "--out", out, "--stage", "train", *again, status=1).stderr
    run(recipe, "--out", out, "--stage", "prepare", *again)
    assert json.loads((out / "resmlp_tiny" / "distilled.json").read_text())["generate"]["beam"] == 3


def test_training_pairs_that_do_not_fit_are_counted(recipe, out):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "sentencepiece.model"))
    lengths = {
        split: [len(pieces) + 1 for pieces in processor.encode((out / "text" / f"{split}.de").read_text().splitlines())]
        for split in ("train", "valid", "test")
    }
    limit = max(lengths["valid"] + lengths["test"])
    longer = sum(length > limit for length in lengths["train"])
    assert longer
    options = ("--arch", "transformer", f"train.max-target-positions={limit}", "train.max-epoch=1")
    assert f"{longer} training pairs are longer than" in run(recipe, "--out", out, "--stage", "train", *options).stdout


def test_a_stage_on_data_that_were_prepared_otherwise_is_refused(recipe, unbroken):
    out, _ = unbroken
    for changed in ("vocab_size=200", "normalization=identity", "clean.max_words=9"):
        done = run(recipe, "--out", out, "--stage", "train", changed, status=1)
        assert f"was prepared with {changed.split('=')[0].removeprefix('clean.')}=" in done.stderr


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
    small += ["train.log-interval=1"]
    out = recipe.parent / name
    done = run(ROOT / "recipes" / name / "recipe.yaml", "--data", data, "--out", out, *small)
    results = json.loads((out / f"resmlp_{name.replace('14', '')}" / "results.json").read_text())
    assert results["updates"] == 6
    assert "--max-tokens 1250" in done.stdout and "--update-freq 2" in done.stdout
    assert {"torch", "fairseq", "sentencepiece", "sacrebleu"} <= results["versions"].keys()
    assert results["data_sha256"] == json.loads((out / "prepare.json").read_text())["text"]["sha256"]
    assert results["seed"] == 1
    assert "bleu_tokenized" in results and f"BLEU on Moses's tokens {results['bleu_tokenized']:.2f}" in done.stdout
    assert json.loads((out / "prepare.json").read_text())["text"]["train"]["dropped"]["max_words"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arch", "lstm"), "--arch lstm is not in"),
        (("--arch", ""), "--arch  is not in"),
        (("effective_tokens=2000", "train.max-tokens=8k"), "effective_tokens needs train.max-tokens"),
        (("effective_tokens=2000", "train.max-tokens=null"), "effective_tokens needs train.max-tokens"),
        (("train.validate-after-updates=9",), "train.validate-after-updates: a recipe reports the validation loss"),
        (("trian.lr=1",), "trian: Key 'trian' not in 'Recipe'"),
        (("--pair", "en-xx"), "was prepared with target_lang=de, not xx"),
        (("--pair", "en"), "--pair en: two languages with a hyphen between them, as in en-de or en-pt_br, are needed"),
        (("--pair", "en-de-AT"), "--pair en-de-AT: two languages"),
        (("--pair", "de-en", "--stage", "train"), "was prepared with source_lang=en, not de; give another --out"),
        (("--data", "gone", "--stage", "train"), "not gone; give the same --data, or another --out"),
        (("train.lr=0.5",), "was started with train.lr=0.01, not 0.5"),
        (("train.save-dir=elsewhere",), "train.save-dir cannot be set"),
        (("train.checkpoint-suffix=-x",), "train.checkpoint-suffix cannot be set"),
        (("generate.quiet=true",), "generate.quiet cannot be set"),
        (("generate.results-path=x",), "generate.results-path cannot be set"),
        (("train.lr={",), "not YAML"),
        (("train.lr=${train.nosuch}",), "Interpolation key 'train.nosuch' not found"),
        (("--teacher", "nosuch"), "--teacher nosuch: there is no"),
        (("clean.max_wrods=9",), "clean.max_wrods: Key 'max_wrods' not in 'Rules'"),
        (("--out", "nowhere", "--stage", "train"), "there is no nowhere/data-bin: run the stage prepare first"),
        (("matmul_precision=low",), "matmul_precision=low is none of highest, high"),
        (("matmul_precision=high",), "was started with matmul_precision=highest, not high"),
        (("normalization=nfd",), "normalization=nfd is none of nmt_nfkc, identity"),
        (("vocab_size=10k",), "vocab_size: Value '10k' of type 'str' could not be converted to Integer"),
        (("vocab_size=0",), "vocab_size=0 must be a positive integer"),
        (("clean.max_words=many",), "clean.max_words: Value 'many' of type 'str' could not be converted"),
        (("data=null",), "the recipe names no data; give --data"),
        (("data=5",), "data=5 is neither a folder nor a data set of the hub"),
        (("lr",), "'lr' is not key=value"),
        (("train.max-source-positions=many",), "train.max-source-positions=many must be a positive integer"),
        (("train.seed=20260101123456",), "train.seed=20260101123456 must be an integer from 0 to 2147483647"),
        (("generate.seed=-1",), "generate.seed=-1 must be an integer from 0 to 2147483647"),
        (("average=0",), "average=[0] must be a positive integer"),
        (("average=null",), "average=[None] must be a positive integer"),
        (("average=[1,best]",), "average=[1, 'best'] must be a positive integer"),
        (("generate=null",), "generate: field 'generate' is not Optional"),
        (("shown_positions=1.5",), "shown_positions: Value '1.5' of type 'float' could not be converted to Integer"),
        (("archs.resmlp_tiny.lr=0.1",), "archs.resmlp_tiny.lr=0.1 is not for the command line: give train.KEY=VALUE"),
        (("train.validate-interval=2",), "train.validate-interval=2 leaves out the last of train.max-epoch=3 epochs"),
        (("train.max-update='8'",), "train.max-update='8' must be an integer, without quotation marks"),
        (("train.save-interval=2",), "train.save-interval=2 leaves out the last of train.max-epoch=3 epochs"),
        (("train.no-last-checkpoints=true",), "train.no-last-checkpoints: a run that was interrupted would begin anew"),
        (("train.disable-validation=true",), "train.disable-validation: a recipe reports the validation loss"),
        (("train.reset-optimizer=true",), "train.reset-optimizer: a run that was interrupted would begin anew"),
        (("effective_tokens=2000", "train.update-freq=2"), "train.update-freq follows from effective_tokens"),
        (("train.arch=resmlp_tny",), "train.arch=resmlp_tny is not an architecture"),
        (("train.max-target-positions=9",), "more than train.max-target-positions=9; give train.max-target-positions="),
    ],
)
def test_a_mistake_is_one_line_that_names_it(recipe, unbroken, arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe", str(recipe), "--out", str(unbroken[0]), *arguments])
    with pytest.raises(SystemExit, match=r"^recipe: [^\n]*$") as stopped:
        main()
    assert message in str(stopped.value)


@pytest.mark.parametrize("stage", [(), ("--stage", "prepare")])
def test_a_teacher_that_is_missing_is_told_before_anything_is_prepared(recipe, tmp_path, stage):
    out = tmp_path / "out"
    told = run(recipe, "--out", out, "--teacher", "nosuch", *stage, status=1).stderr
    assert told.startswith(f"recipe: --teacher nosuch: there is no finished {out / 'nosuch' / 'model.pt'}")
    assert not out.exists()


def test_a_tokeniser_that_is_missing_is_told_before_training(recipe, unbroken, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    options = [str(recipe), "--out", str(unbroken[0]), "--stage", "train", "tokenized_bleu=moses"]
    monkeypatch.setattr(sys, "argv", ["recipe", *options])
    with pytest.raises(SystemExit, match=r"^recipe: tokenized_bleu: .*sacremoses"):
        main()


def test_a_run_of_another_program_that_fails_is_told(recipe):
    done = run(recipe, "--out", recipe.parent / "fails", "train.optimizer=nosuch", status=1)
    assert "recipe: fairseq-train ended with status 2" in done.stderr
    assert "invalid choice: 'nosuch'" in done.stderr.splitlines()[-1]
