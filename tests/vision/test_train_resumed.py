"""A training that was stopped goes on to the end of an unbroken one; with other settings or data it is refused."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_vision.train import main

from .runs import TINY, fail, lengthen, read_figures, run, same, start, wait, weights


def test_killed_in_an_epoch_it_ends_with_the_weights_of_an_unbroken_run(images, tmp_path):
    settings = (
        f"data={images}",
        "epochs=6",
        "auto_augment=rand-m9-mstd0.5-inc1",
        "mixup=0.8",
        "cutmix=1",
        "reprob=0.5",
    )
    settings = (*TINY, *settings, "repeated_aug=3", "ema_decay=0.9", "workers=1", "drop_path=0.2")
    settings = (*settings, "opt=lamb", "accumulate=2", "dtype=float16")
    run(main, *settings, f"out={tmp_path / 'whole'}")
    out = tmp_path / "killed"
    process = start(*settings, f"out={out}")
    log = out / "log.jsonl"
    wait(process, lambda: log.exists() and len(log.read_text().splitlines()) >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "going on after epoch" in run(main, *settings, f"out={out}")
    assert same(weights(out), weights(tmp_path / "whole"))
    last, whole = (read_checkpoint(folder / "last.pth.tar") for folder in (out, tmp_path / "whole"))
    assert same(last["state_dict_ema"], whole["state_dict_ema"])
    best = [read_checkpoint(path / "model_best.pth.tar")["state_dict_ema"] for path in (out, tmp_path / "whole")]
    assert same(*best)
    assert read_figures(out) == read_figures(tmp_path / "whole")


@pytest.mark.parametrize("kill", [0, 1])
def test_stopped_before_the_best_checkpoint_had_its_names_it_gets_them(images, tmp_path, monkeypatch, kill):
    settings = (*TINY, f"data={images}", "epochs=1")
    run(main, *settings, f"out={tmp_path / 'whole'}")
    replace, named = os.replace, []

    def stop(source, name):
        if Path(name).name in ("model_best.pth.tar", "checkpoint-0.pth.tar"):
            named.append(name)
            if len(named) > kill:
                raise KeyboardInterrupt
        replace(source, name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(SystemExit):
            run(main, *settings, f"out={tmp_path / 'stopped'}")
    run(main, *settings, f"out={tmp_path / 'stopped'}")
    for name in ("model_best.pth.tar", "checkpoint-0.pth.tar"):
        states = [read_checkpoint(tmp_path / folder / name)["state_dict"] for folder in ("stopped", "whole")]
        assert same(*states)
    results = [json.loads((tmp_path / folder / "results.json").read_text()) for folder in ("stopped", "whole")]
    assert results[0]["best_epoch"] == results[1]["best_epoch"]


def test_stopped_while_a_better_checkpoint_is_named_only_the_best_stays(images, tmp_path, monkeypatch):
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "epochs=3")
    monkeypatch.setattr("resmlp_vision.training.run.score", lambda record: {1: 50.0, 2: 60.0, 3: 55.0}[record["epoch"]])
    replace = os.replace

    def stop(source, name):
        if Path(name).name == "checkpoint-1.pth.tar":
            raise KeyboardInterrupt
        replace(source, name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(SystemExit):
            run(main, *settings)
    run(main, *settings)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1.pth.tar"]


def test_run_again_it_trains_nothing_and_other_settings_are_refused(images, tmp_path):
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "epochs=1")  # the last epoch is the best
    run(main, *settings)
    names = {path.name for path in tmp_path.iterdir()}
    before = (tmp_path / "last.pth.tar").stat().st_mtime_ns
    run(main, *settings, "workers=1")
    assert (tmp_path / "last.pth.tar").stat().st_mtime_ns == before
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "lr=0.01, not 0.02" in fail(main, *settings, "lr=0.02")


def test_other_data_in_the_same_folder_are_refused(images, tmp_path):
    settings = (*TINY, f"out={tmp_path / 'out'}")
    run(main, *settings, f"data={images}")
    shutil.copytree(images, tmp_path / "data")
    image = next((tmp_path / "data" / "train").rglob("*.png"))
    kept = image.read_bytes()
    image.unlink()
    before = (tmp_path / "out" / "results.json").read_bytes()
    assert "started on data with 24 images, not 23" in fail(main, *settings, f"data={tmp_path / 'data'}")
    image.write_bytes(kept)
    for split in ("train", "val"):
        (tmp_path / "data" / split / "class0").rename(tmp_path / "data" / split / "other")
    assert "with classes of other names" in fail(main, *settings, f"data={tmp_path / 'data'}")
    for split in ("train", "val"):
        shutil.copytree(tmp_path / "data" / split / "other", tmp_path / "data" / split / "third")
    assert "with 2 classes, not 3" in fail(main, *settings, f"data={tmp_path / 'data'}")
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_it_goes_on_where_the_data_have_moved_and_its_first_weights_are_gone(images, tmp_path):
    run(main, *TINY, f"data={images}", f"out={tmp_path / 'before'}", "epochs=1")
    first = tmp_path / "before" / "last.pth.tar"
    settings = (*TINY, f"out={tmp_path / 'after'}", f"checkpoint={first}")
    run(main, *settings, f"data={images}")
    first.unlink()
    shutil.copytree(images, tmp_path / "moved")
    lengthen(tmp_path / "after")
    settings = (*settings, f"data={tmp_path / 'moved'}", "image_key=img", "epochs=4")
    assert "going on after epoch 3" in run(main, *settings)
    shutil.copy(tmp_path / "after" / "last.pth.tar", first)
    assert "the file of checkpoint=... has changed since" in fail(main, *settings)
