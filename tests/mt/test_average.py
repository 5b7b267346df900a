"""Averaging checkpoints: the mean of the weights, everything else from the last."""

import sys

import pytest
import torch

from resmlp_core.common.errors import UserError
from resmlp_mt.average import average_checkpoints, main

from .conftest import largest_file


def save(path, dtype=torch.float32, **weights):
    weights = {name: torch.tensor(value, dtype=dtype) for name, value in weights.items()}
    torch.save({"model": weights, "cfg": path.name, "last_optimizer_state": {"big": 1}}, path)
    return path


def test_weights_are_the_mean_and_the_rest_is_the_lasts(tmp_path):
    paths = [save(tmp_path / f"{i}.pt", a=[float(i), 1.0], b=[10.0 * i]) for i in range(1, 4)]
    state = average_checkpoints(paths)
    assert {name: w.tolist() for name, w in state["model"].items()} == {"a": [2.0, 1.0], "b": [20.0]}
    assert state["cfg"] == "3.pt" and "last_optimizer_state" not in state


def test_one_checkpoint_three_times_is_itself_in_half_precision_too(tmp_path):
    path = save(tmp_path / "a.pt", torch.float16, a=[0.1, 60000.0])
    assert torch.equal(average_checkpoints([path] * 3)["model"]["a"], torch.tensor([0.1, 60000.0]).half())


def test_tied_weights_stay_one(tmp_path):
    for i in (1.0, 3.0):
        tied = torch.full((1000,), i)
        torch.save({"model": {"embeddings": tied, "output": tied}}, tmp_path / f"{i}.pt")
    state = average_checkpoints(sorted(tmp_path.glob("*.pt")))
    assert state["model"]["output"].tolist() == [2.0] * 1000
    torch.save(state, tmp_path / "average")
    assert (tmp_path / "average").stat().st_size < 2 * 4000


def test_a_missing_file_and_another_model_are_refused_by_name(tmp_path):
    one = save(tmp_path / "one.pt", a=[1.0])
    with pytest.raises(UserError, match=r"no checkpoint .*gone\.pt"):
        average_checkpoints([one, tmp_path / "gone.pt"])
    with pytest.raises(UserError, match=r"two\.pt is a checkpoint of another model than .*one\.pt"):
        average_checkpoints([one, save(tmp_path / "two.pt", a=[1.0, 2.0])])


def test_a_torn_file_and_one_that_is_no_checkpoint_are_refused_by_name(tmp_path):
    whole = save(tmp_path / "whole.pt", a=[1.0])
    (tmp_path / "torn.pt").write_bytes(whole.read_bytes()[:200])
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": [1, 2]}, tmp_path / "pair.pt")
    for name in ("torn.pt", "list.pt", "pair.pt"):
        with pytest.raises(UserError, match=rf"{name} is not a complete fairseq checkpoint"):
            average_checkpoints([tmp_path / name])


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_an_average_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch, folder):
    whole = save(tmp_path / "whole.pt", a=[1.0] * 100_000)
    output = tmp_path / folder / "average.pt"
    monkeypatch.setattr(sys, "argv", ["average", str(whole), "--output", str(output)])
    with largest_file(50_000), pytest.raises(SystemExit, match=f"^average: {output}.*: [^\n]*$"):
        main()
    assert [path.name for path in tmp_path.iterdir()] == ["whole.pt"]


def test_a_folder_is_not_overwritten_by_an_average(tmp_path, monkeypatch):
    whole = save(tmp_path / "whole.pt", a=[1.0])
    monkeypatch.setattr(sys, "argv", ["average", str(whole), "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match=f"^average: {tmp_path}: Is a directory$"):
        main()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["average", str(whole), "--output", "."])
    with pytest.raises(SystemExit, match=r"^average: \.: Is a directory$"):
        main()
    assert whole.exists()
