"""The stages of a recipe, in parts: which checkpoints are averaged, what may change, which commit it was."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from resmlp_core.common.errors import UserError, reporting
from resmlp_mt.pipeline import fairseq_commands
from resmlp_mt.pipeline import provenance as source
from resmlp_mt.pipeline.checkpoints import is_trained, mend_checkpoints, newest_checkpoints
from resmlp_mt.pipeline.checks import refuse_long_sentences, refuse_missing_start, refuse_other_devices
from resmlp_mt.pipeline.fairseq_commands import arguments, run_fairseq_train
from resmlp_mt.pipeline.fairseq_process import run_fairseq
from resmlp_mt.pipeline.kept_settings import keep_settings
from resmlp_mt.pipeline.learning_curve import read_curve
from resmlp_mt.pipeline.provenance import commit
from resmlp_mt.pipeline.rehearsal import RecipeRehearsal, rehearse
from resmlp_mt.pipeline.run import Run
from resmlp_mt.pipeline.settings import read_recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (b"epoch 10", ["checkpoint9.pt", "checkpoint10.pt"]),  # training ended with an epoch: the last is its copy
        (b"later", ["checkpoint10.pt", "checkpoint_last.pt"]),  # it ended within one
    ],
)
def test_the_newest_checkpoints_end_where_training_did(tmp_path, last, expected):
    for epoch in (8, 9, 10):
        (tmp_path / f"checkpoint{epoch}.pt").write_bytes(f"epoch {epoch}".encode())
    (tmp_path / "checkpoint_3_500.pt").write_bytes(b"within epoch 3")
    (tmp_path / "checkpoint_last.pt").write_bytes(last)
    assert [path.name for path in newest_checkpoints(tmp_path, 2)] == expected


def test_a_run_that_stopped_within_its_first_epoch_has_one(tmp_path):
    (tmp_path / "checkpoint_last.pt").write_bytes(b"")
    assert newest_checkpoints(tmp_path, 5) == [tmp_path / "checkpoint_last.pt"]


def test_checkpoints_of_every_so_many_updates_serve_where_no_epochs_are_kept(tmp_path):
    for name in ("1_2000", "1_4000", "2_10000"):
        (tmp_path / f"checkpoint_{name}.pt").write_bytes(name.encode())
    (tmp_path / "checkpoint_last.pt").write_bytes(b"2_10000")
    names = [path.name for path in newest_checkpoints(tmp_path, 2)]
    assert names == ["checkpoint_1_4000.pt", "checkpoint_2_10000.pt"]


def checkpoint(path, updates):
    torch.save({"model": {}, "optimizer_history": [{"num_updates": updates}]}, path)


def test_after_a_kill_the_newest_whole_checkpoint_is_the_last(tmp_path):
    """fairseq writes checkpoint_last.pt after the others: a kill between leaves an earlier one."""
    last = tmp_path / "checkpoint_last.pt"
    checkpoint(last, 4000)
    checkpoint(tmp_path / "checkpoint_1_6000.pt", 6000)
    (tmp_path / "checkpoint_best.pt").write_bytes(b"PK torn")
    mend_checkpoints(tmp_path)
    assert last.read_bytes() == (tmp_path / "checkpoint_1_6000.pt").read_bytes()
    assert not (tmp_path / "checkpoint_best.pt").exists()


def test_an_earlier_checkpoint_that_was_written_later_is_not_the_last(tmp_path):
    """As after a copy of the folder that does not keep the times."""
    last = tmp_path / "checkpoint_last.pt"
    checkpoint(last, 6000)
    checkpoint(tmp_path / "checkpoint_1_4000.pt", 4000)
    before = last.read_bytes()
    mend_checkpoints(tmp_path)
    assert last.read_bytes() == before


def test_how_far_a_run_is_and_on_how_many_devices_its_last_checkpoint_tells(tmp_path):
    """In such a copy too, where an earlier one seems to be the newest."""
    (tmp_path / "checkpoints").mkdir()
    for name, updates, within in (("last", 6000, 17), ("1_4000", 4000, 0)):
        state = {
            "optimizer_history": [{"num_updates": updates}],
            "cfg": {"distributed_training": {"distributed_world_size": 2}},
            "extra_state": {"train_iterator": {"iterations_in_epoch": within}},
        }
        torch.save(state, tmp_path / "checkpoints" / f"checkpoint_{name}.pt")
    assert is_trained(tmp_path, 6000) and not is_trained(tmp_path, 6001)
    settings = {"train": {"distributed-world-size": 4}}
    with pytest.raises(UserError, match=r"_last\.pt was written within an epoch, on 2 devices, not 4"):
        refuse_other_devices(settings, tmp_path / "checkpoints")


def test_the_later_of_two_parts_counts_on_a_curve_in_a_copy_that_lost_the_times_too(tmp_path):
    for part, values in enumerate(([1.0, 2.0], [3.0])):
        with SummaryWriter(str(tmp_path / f"part{part}")) as writer:
            for i, value in enumerate(values, start=2 - len(values)):
                writer.add_scalar("loss", value, i)
        (written,) = (tmp_path / f"part{part}").iterdir()
        copied = written.replace(tmp_path / f"events.out.tfevents.170000000{part}.host.1.0")
        os.utime(copied, (0, 9 - part))
    assert read_curve(tmp_path, "loss") == {0: 1.0, 1: 3.0}


@pytest.mark.parametrize("option", ["finetune-from-model", "continue-once"])
def test_a_model_to_begin_from_that_is_missing_is_told_before_anything_is_prepared(tmp_path, monkeypatch, option):
    begin, out = f"train.{option}={tmp_path}", tmp_path / "out"  # a folder is no file either
    settings = read_recipe(ROOT / "recipes" / "multi30k" / "recipe.yaml", [begin], None)
    with pytest.raises(UserError, match=f"^{begin}: there is no such file$"):
        Run(settings, out).run()
    assert not out.exists()
    monkeypatch.setattr(RecipeRehearsal, "measure", lambda rehearsal: pytest.fail("it begins"))
    assert rehearse(settings, out, minutes=1) == 1
    report = json.loads((tmp_path / "out.rehearsal" / "rehearsal.json").read_text())
    assert report["failures"] == [f"prepare: {begin}: there is no such file"]
    run = out / settings["name"]
    run.mkdir(parents=True)
    (run / "trained").touch()
    refuse_missing_start(settings["train"], run)  # it has begun, and needs none
    with pytest.raises(UserError, match=f"^train.{option}=5: there is no such file$"):  # a name that YAML reads so
        refuse_missing_start({option: 5}, tmp_path)


def test_a_disk_that_fills_in_training_is_named_and_what_is_half_written_is_removed(tmp_path, monkeypatch):
    def fill(*arguments):
        (tmp_path / "run" / "checkpoints" / "checkpoint2.pt.tmp").write_bytes(b"PK half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    checkpoint(tmp_path / "run" / "checkpoints" / "checkpoint_last.pt", 100)
    monkeypatch.setattr(fairseq_commands, "run_fairseq", fill)
    told = rf"^recipe: {tmp_path / 'run'}: the disk is full: No space left on device; [\d,.]+ MB are free$"
    with pytest.raises(SystemExit, match=told), reporting("recipe"):
        run_fairseq_train(tmp_path, tmp_path / "run", {})
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint_last.pt"]


def test_a_full_disk_is_seen_behind_a_long_traceback(tmp_path):
    (tmp_path / "ends.py").write_text("import sys\nprint(sys.argv[1], 60 * '\\na frame', sep='')\nsys.exit(1)\n")
    options = {"on_line": lambda line: None, "module": "ends", "environment": {"PYTHONPATH": str(tmp_path)}}
    with pytest.raises(OSError, match="No space left on device"):
        run_fairseq("train", ["OSError: [Errno 28] No space left on device"], **options)
    with pytest.raises(UserError) as stopped:
        run_fairseq("train", ["ValueError"], **options)
    assert str(stopped.value) == "fairseq-train ended with status 1:" + 20 * "\na frame"


BEFORE = {
    "pair": "en-de",
    "data": "corpus",
    "vocab_size": 100,
    "clean": {},
    "effective_tokens": 25000,
    "train": {"lr": 0.1},
    "average": 1,
    "generate": {"beam": 4},
}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"effective_tokens": 700}, "effective_tokens=25000, not 700"),
        ({"taught_by": {"generate": {"beam": 4}}}, r"taught_by=None, not \{'generate'"),
        ({"vocab_size": 999}, "vocab_size=100, not 999"),
        ({"train": {"lr": 0.2}}, r"train\.lr=0\.1, not 0\.2"),
        ({"train": {"lr": 0.1, "dropout": 0.3}}, r"train\.dropout=None, not 0\.3"),
    ],
)
def test_a_changed_setting_of_what_is_trained_is_refused_and_not_kept(tmp_path, changed, named):
    keep_settings(tmp_path, BEFORE)
    (tmp_path / "trained").touch()
    with pytest.raises(UserError, match=named):
        keep_settings(tmp_path, BEFORE | changed)
    keep_settings(tmp_path, BEFORE)


def test_an_option_that_ended_a_run_before_its_first_checkpoint_may_be_corrected(tmp_path):
    keep_settings(tmp_path, BEFORE | {"train": {"lr": "abc"}})
    (tmp_path / "tensorboard").mkdir()
    keep_settings(tmp_path, BEFORE)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    (tmp_path / "checkpoints").mkdir()
    checkpoint(tmp_path / "checkpoints" / "checkpoint1.pt", 1)
    with pytest.raises(UserError, match=r"train\.lr=0\.1, not 0\.2"):
        keep_settings(tmp_path, BEFORE | {"train": {"lr": 0.2}})


def test_how_often_a_run_logs_and_saves_may_change_between_its_parts(tmp_path):
    keep_settings(tmp_path, BEFORE)
    keep_settings(tmp_path, BEFORE | {"train": {"lr": 0.1, "num-workers": 4, "save-interval-updates": 500}})


def test_other_settings_of_decoding_leave_nothing_that_followed_from_the_earlier_ones(tmp_path):
    keep_settings(tmp_path, BEFORE)
    for name in ("average.json", "valid-5.txt", "generate.txt", "generate-train.txt", "model.pt"):
        (tmp_path / name).touch()
    keep_settings(tmp_path, BEFORE)
    assert len(list(tmp_path.iterdir())) == 6
    with pytest.raises(UserError, match="checkpoints is empty"):
        keep_settings(tmp_path, BEFORE | {"average": 5})
    assert len(list(tmp_path.iterdir())) == 6
    (tmp_path / "checkpoints").mkdir()
    checkpoint(tmp_path / "checkpoints" / "checkpoint1.pt", 1)
    keep_settings(tmp_path, BEFORE | {"average": 5})
    # what a student trains on is checked against the model when one is to be trained
    kept = {"checkpoints", "model.pt", "settings.json", "generate-train.txt"}
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize(("arch", "most"), [("resmlp_tiny", 256), ("transformer", 1024)])
def test_a_sentence_that_the_model_would_refuse_after_its_training_is_refused_before(arch, most):
    settings = {"pair": "en-de", "train": {"arch": arch}}
    refuse_long_sentences(settings, lambda split, lang: np.array([3, most], np.int32))
    told = f"has {most + 1} tokens in en, more than train.max-source-positions={most}; give"
    with pytest.raises(UserError, match=told):
        refuse_long_sentences(settings, lambda split, lang: np.array([3, most + 1], np.int32))


def test_null_takes_back_an_option_that_a_recipe_has():
    assert arguments("data", **{"patience": None, "lr": 0.1}) == arguments("data", lr=0.1)


def test_options_that_are_mappings_and_lists_reach_fairseq_as_it_reads_them(tmp_path):
    changed = ['train.eval-bleu-args={"beam": 1}', "effective_tokens=null", "train.update-freq=[4,2]"]
    run = Run(read_recipe(ROOT / "recipes" / "wmt14_en_de" / "recipe.yaml", changed, None), tmp_path)
    assert json.loads(run.train_options()["eval-bleu-args"]) == {"beam": 1}
    assert run.batches_together() == 4


@pytest.mark.parametrize(
    ("recipe", "arch"), [("demo", None), ("multi30k", "resmlp_plus_tiny"), ("multi30k", "transformer")]
)
def test_several_gpus_share_the_batch_that_a_recipe_names(tmp_path, monkeypatch, recipe, arch):
    settings = read_recipe(ROOT / "recipes" / recipe / "recipe.yaml", [], arch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    shared = Run(settings, tmp_path).train_options()
    assert 4 * shared["max-tokens"] * shared["update-freq"] == settings["train"]["max-tokens"]
    settings["train"]["cpu"] = True
    alone = Run(settings, tmp_path).train_options()
    assert alone["max-tokens"] * alone.get("update-freq", 1) == settings["train"]["max-tokens"]
    assert alone["distributed-world-size"] == 1


@pytest.mark.parametrize(
    ("arch", "changed", "gpu", "needed"),
    [
        ("resmlp_wmt_en_de", ["train.fp16=true"], True, True),  # by Adagrad
        ("resmlp_12", ["train.fp16=true", "train.optimizer=muon"], True, True),
        ("transformer_wmt_en_de", ["train.fp16=true"], True, False),  # by Adam
        ("transformer_wmt_en_de", ["train.fp16=true"], False, True),
        ("transformer_wmt_en_de", ["train.fp16=true", "train.cpu=true"], True, True),
        ("resmlp_wmt_en_de", ["train.bf16=true"], True, False),
        ("resmlp_wmt_en_de", [], True, False),
    ],
)
def test_half_precision_gets_what_the_optimiser_and_the_device_need(tmp_path, monkeypatch, arch, changed, gpu, needed):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(gpu))
    settings = read_recipe(ROOT / "recipes" / "wmt14_en_de" / "recipe.yaml", changed, arch)
    assert Run(settings, tmp_path).train_options().get("fp16-no-flatten-grads", False) == needed


@pytest.mark.parametrize(("changed", "expected"), [([], "high"), (["matmul_precision=highest"], "highest")])
def test_recipes_for_gpus_train_in_tf32_unless_told_otherwise(tmp_path, monkeypatch, changed, expected):
    """PyTorch itself says what it makes of the variable that fairseq-train is given."""
    environments = []
    monkeypatch.setattr(fairseq_commands, "run_fairseq", lambda *arguments: environments.append(arguments[-1]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    recipes = (ROOT / f"recipes/{name}/recipe.yaml" for name in ("wmt14_en_de", "wmt14_en_fr", "multi30k", "software"))
    (precision,) = {read_recipe(recipe, changed, None)["matmul_precision"] for recipe in recipes}
    run_fairseq_train(tmp_path, tmp_path / "run", {}, precision)
    line = [sys.executable, "-c", "import torch; print(torch.get_float32_matmul_precision())"]
    said = subprocess.run(line, env={**os.environ, **environments[0]}, capture_output=True, text=True, check=True)
    assert said.stdout == f"{expected}\n"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="these are files without their history")
def test_the_commit_is_this_repositorys_and_says_whether_it_was_changed():
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD"]).returncode
    assert commit() == head + "-dirty" * changed


def test_a_repository_in_which_it_is_only_installed_is_not_told_of(tmp_path, monkeypatch):
    installed = tmp_path / "resmlp_mt"
    installed.mkdir()
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(source, "PLUGIN", installed)
    assert commit() is None
