"""What is made of the findings of a rehearsal: whether the run can start, why not, and what to change."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from resmlp_core.common import rehearsal_report
from resmlp_core.common.devices import Device
from resmlp_core.common.errors import UserError
from resmlp_core.common.files import write_json
from resmlp_core.common.rehearsal import Changes, Rehearsal
from resmlp_core.common.rehearsal_report import conclude, rehearsing

CHANGES = Changes(
    batch=lambda tokens: f"tokens={tokens}",
    workers=lambda number: f"workers={number}",
    rate=lambda fraction: f"lr={fraction}",
    disk="keep=3  needs less disk",
)
CPU = Device("a CPU", 10**9, False, False)


def passed(**found):
    """A rehearsal that passes, but for what is given."""
    steady = {"losses": [9.0] * 20, "gradient_norms": [1.0] * 20, "activations": [5.0] * 16, "ramp": 16, "rate": 0.1}
    memory = {"devices": [CPU], "batch": 1000, "fits": True, "largest_batch": 2000, "peak_memory": 10**8}
    whole = {"disk": {"text": 5}, "disk_free": 6, "hours": {"training": 3.0}, "steps": 100, "price": 2.0}
    lost = {"lost": [8.0, 7.0], "resumed": [8.0, 7.0]}
    times = {"milliseconds": {"data": 1.0, "forward": 99.0}, "speed": 500.0, "loader_speed": 5000.0}
    return Rehearsal("demo", "python start", "tokens", **steady | memory | whole | lost | times | found)


def report_of(found, folder, capsys):
    status = conclude(found, folder, CHANGES)
    return status, capsys.readouterr().out, json.loads((folder / "rehearsal.json").read_text())


def test_a_run_that_passes_is_told_how_to_start_and_what_it_costs(tmp_path, capsys):
    status, table, report = report_of(passed(), tmp_path, capsys)
    assert status == 0
    assert table.splitlines()[-1] == "python start"
    assert "6.00 at 2 an hour" in table
    assert report["can_start"] is True
    assert report["verdict"] == "finite"
    assert report["advice"] == []


@pytest.mark.parametrize(
    ("found", "reason", "change"),
    [
        ({"fits": False, "largest_batch": 500}, "out of memory: a batch of 1,000 tokens does not fit", "tokens=500"),
        ({"disk_free": 4}, "too little disk: the run needs 0.0 MB", "keep=3"),
        ({"losses": [9.0, float("nan")]}, "diverged: at a learning rate of 0.1", "lr=0.5"),
        ({"losses": [9.0] * 15 + [20.0] * 5}, "diverged: at a learning rate of 0.1", "lr=0.5"),
        ({"failures": ["train: a batch cannot be read"]}, "train: a batch cannot be read", None),
        ({"resumed": [8.0, 7.5]}, "not resumable: after a kill the losses were 8 7.5, before 8 7", None),
        ({"resumed": []}, "not resumable: after a kill the losses were none", None),
    ],
)
def test_a_run_that_cannot_start_says_why_first(found, reason, change, tmp_path, capsys):
    status, table, report = report_of(passed(**found), tmp_path, capsys)
    assert status == 1
    assert table.strip().startswith(f"cannot start: {reason}")
    assert "python start" not in table
    assert report["can_start"] is False
    assert not change or any(line.startswith(change) for line in report["advice"])


def test_how_fast_gpus_reach_each_other_is_told(tmp_path, capsys):
    assert "between GPUs  25 GB/s" in report_of(passed(interconnect=25.2), tmp_path, capsys)[1]


def test_a_loss_that_jumps_and_comes_back_is_no_steady_run():
    found = passed(losses=[9.0] * 15 + [90.0] + [9.0] * 4)
    assert found.verdict == "growing"
    assert not found.reasons()


def test_a_batch_that_there_was_no_time_to_try_need_not_be_smaller():
    assert passed(fits=None, largest_batch=16).advice(CHANGES) == []


def test_a_slow_machine_reads_its_speed_in_tenths_and_its_time_in_years(tmp_path, capsys):
    _, table, _ = report_of(passed(speed=1.52, hours={"training": 10.8 * 8766}), tmp_path, capsys)
    assert "1.5 tokens/s" in table and "100 updates, 10.8 years: training 10.8 years" in table


def test_a_ramp_that_is_steeper_than_the_warm_up_does_not_tell_of_a_divergence():
    steep = passed(losses=[9.0] * 15 + [20.0] * 5, warmup=2000)
    assert steep.verdict == "growing" and not steep.reasons()
    assert steep.advice(CHANGES)[0].startswith("more --rehearse-minutes  ") and "2,000" in steep.advice(CHANGES)[0]
    assert passed(losses=[9.0] * 15 + [20.0] * 5, warmup=80).verdict == "diverged"
    assert passed(losses=[9.0] * 15 + [float("inf")] * 5, warmup=2000).verdict == "diverged"


def test_gradients_that_double_at_a_steady_rate_grow_and_the_run_may_start():
    found = passed(gradient_norms=[1.0] * 16 + [3.0] * 4)
    assert found.verdict == "growing"
    assert not found.reasons()
    assert found.advice(CHANGES)[0].startswith("lr=0.5")
    assert replace(found, ramp=12).verdict == "finite"  # a quarter of it is three updates, which chance may double


def test_a_run_that_waits_for_its_data_is_told_how_many_workers_would_do():
    slow = passed(milliseconds={"data": 50.0, "forward": 50.0}, speed=500.0, loader_speed=600.0, workers=1)
    assert slow.advice(CHANGES)[0].startswith("workers=2")  # 1,000 tokens a second are wanted, and a fifth to spare


def test_where_all_cores_load_data_no_more_workers_are_advised():
    slow = passed(milliseconds={"data": 50.0, "forward": 50.0}, speed=500.0, loader_speed=600.0, workers=1)
    assert slow.advice(replace(CHANGES, workers=None)) == []


@pytest.mark.parametrize(("change", "why"), [("half", "half precision, which"), ("single", "is faster: this")])
def test_the_number_format_that_a_device_multiplies_fast_is_advised(change, why):
    (line,) = passed().advice(replace(CHANGES, **{change: "key=value"}))
    assert line.startswith(f"key=value  {why}")


def test_of_many_findings_the_first_five_are_told_in_a_line_each(tmp_path, capsys):
    waiting = {"milliseconds": {"data": 50.0, "forward": 50.0}, "loader_speed": 600.0, "workers": 1}
    wrong = passed(fits=False, largest_batch=500, losses=[9.0] * 15 + [20.0] * 5, disk_free=4, **waiting)
    assert conclude(wrong, tmp_path, replace(CHANGES, half="half=key", single="single=key")) == 1
    table, report = capsys.readouterr().out, json.loads((tmp_path / "rehearsal.json").read_text())
    told = [line.split(maxsplit=1)[1] for line in table.splitlines() if line.split()[:1] == ["change"]]
    assert told == report["advice"]
    assert [line.partition("=")[0] for line in told] == ["tokens", "lr", "keep", "workers", "half"]


def test_a_rehearsal_replaces_an_earlier_one_and_nothing_else(tmp_path):
    with rehearsing(tmp_path / "out") as folder:
        (folder / "left").touch()
    with rehearsing(tmp_path / "out") as folder:
        assert folder == tmp_path / "out.rehearsal"
        assert [path.name for path in folder.iterdir()] == ["rehearsal.json"]
    (folder / "rehearsal.json").rename(folder / "rehearsal.json.partial")  # as a kill in the first moment leaves it
    with rehearsing(tmp_path / "out"):
        pass
    Path(tmp_path, "mine.rehearsal").mkdir()
    Path(tmp_path, "mine.rehearsal", "thesis.tex").touch()
    with pytest.raises(UserError, match=r"mine.rehearsal was not made by a rehearsal"), rehearsing(tmp_path / "mine"):
        pass


def test_an_earlier_rehearsal_that_filled_the_disk_is_replaced(tmp_path, monkeypatch):
    def write(path, content):
        if (path.parent / "checkpoint.pt").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write_json(path, content)

    with rehearsing(tmp_path / "out") as folder:
        (folder / "checkpoint.pt").touch()
    monkeypatch.setattr(rehearsal_report, "write_json", write)
    with rehearsing(tmp_path / "out"):
        assert [path.name for path in folder.iterdir()] == ["rehearsal.json"]
