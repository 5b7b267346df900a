"""A recipe over several processes and devices, and the programs that it starts."""

import json
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resmlp_core.common.files import alone_in
from resmlp_mt.pipeline.checkpoints import updates_of
from resmlp_mt.pipeline.fairseq_commands import share_batch
from resmlp_mt.recipe import main

from .recipe_runs import ROOT, environment, run


def test_two_processes_share_the_effective_batch_of_one(recipe):
    """Each under torchrun, which on several machines would be started on each."""
    out = recipe.parent / "shared"
    run(recipe, "--out", out, "--stage", "prepare")
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "resmlp_mt.recipe", recipe]
    line += ["--out", out, "--stage", "train", "effective_tokens=600", "train.max-epoch=1"]
    done = subprocess.run(list(map(str, line)), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = (out / "resmlp_tiny" / "train.log").read_text()
    assert "--max-tokens 300" in done.stdout and "--update-freq 1" in done.stdout
    assert "distributed_world_size': 2" in log
    tokens = [float(words) for words in re.findall(r'"wpb": "([\d.]+)"', log)]
    assert tokens and 300 < max(tokens) <= 600  # of both
    again = subprocess.run(list(map(str, line)), env=environment(), capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and "training: done before" in again.stdout
    after = run(recipe, "--out", out, "effective_tokens=600", "train.max-epoch=1")
    assert "training: done before" in after.stdout and "BLEU" in after.stdout


def test_a_run_stopped_within_an_epoch_resumes_on_as_many_devices_alone(recipe):
    out = recipe.parent / "devices"
    stopped = ("--out", out, "--stage", "train", "effective_tokens=600", "train.max-update=5")
    run(recipe, "--out", out, "--stage", "prepare")
    run(recipe, *stopped)
    folder = out / "resmlp_tiny"
    (folder / "trained").unlink()
    kept = json.loads((folder / "settings.json").read_text())
    kept["train"]["max-update"] = 7  # as if a kill, not the budget, had stopped it
    (folder / "settings.json").write_text(json.dumps(kept))
    more = (*stopped[:-1], "train.max-update=7")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        refused = run(recipe, *more, status=1)
    assert "within an epoch, on 1 devices, not 2: go on with as many" in refused.stderr
    run(recipe, *more)
    assert updates_of(folder / "checkpoints" / "checkpoint_last.pt") == 7


@given(effective=st.integers(1, 10**6), most=st.integers(1, 10**5), devices=st.integers(1, 512))
def test_a_batch_is_shared_exactly_and_fits(effective, most, devices):
    shared = share_batch(effective, most, devices)
    assert shared["max-tokens"] <= most
    total = shared["max-tokens"] * shared["update-freq"] * devices
    assert abs(total - effective) <= shared["update-freq"] * devices / 2  # to the token that each step is rounded by


def test_a_program_of_fairseqs_ends_with_who_started_it(tmp_path):
    (tmp_path / "fairseq_cli").mkdir()
    (tmp_path / "fairseq_cli" / "__init__.py").touch()
    hold = "import fcntl, os, time\nfcntl.flock(os.open({!r}, os.O_RDONLY), fcntl.LOCK_EX)\n"
    hold += "print('holds', flush=True)\ntime.sleep(60)\n"
    (tmp_path / "fairseq_cli" / "wait.py").write_text(hold.format(str(tmp_path)))
    line = "from resmlp_mt.pipeline.fairseq_process import run_fairseq; "
    line += "run_fairseq('wait', [], lambda text: print(text, flush=True))"
    found_first = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with subprocess.Popen([sys.executable, "-c", line], env=found_first, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "holds\n"
        parent.kill()
    with alone_in(tmp_path):  # refused after six seconds where the program still holds it
        pass


def test_under_torchrun_the_stage_must_be_named(recipe, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["recipe", str(recipe)])
    with pytest.raises(SystemExit):
        main()
    assert "under torchrun give --stage train" in capsys.readouterr().err
