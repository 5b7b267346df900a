"""The stages of a recipe, in parts: which checkpoints are averaged."""

import pytest

from resmlp_mt.stages import newest_checkpoints


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
