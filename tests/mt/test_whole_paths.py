"""Paths of data and checkpoints with colons in them: whole where they exist, parted where they are several."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from fairseq import hub_utils, utils
from fairseq.tasks import FairseqTask, LegacyFairseqTask
from hypothesis import given
from hypothesis import strategies as st

import resmlp_mt.plugin  # noqa: F401  importing the plugin is all that a user does


@given(st.lists(st.text(":ab,|'[]= ~", min_size=1, max_size=6), min_size=1, max_size=3, unique=True))
def test_what_exists_is_whole_and_what_stands_between_parts(tmp_path_factory: pytest.TempPathFactory, names) -> None:
    folder = tmp_path_factory.mktemp("paths")
    paths = [folder / f"{name}.pt" for name in names]
    for path in paths:
        path.touch()
    assert utils.split_paths(os.pathsep.join(map(str, paths))) == [str(path) for path in paths]


def test_what_does_not_exist_is_parted_as_fairseq_does_it(tmp_path: Path) -> None:
    (tmp_path / "a:b").touch()
    assert utils.split_paths(f"{tmp_path}/a:b:no:such") == [f"{tmp_path}/a:b", "no", "such"]
    assert utils.split_paths("s3://a:b|s3://c") == ["s3://a:b", "s3://c"]


@pytest.mark.parametrize(("kind", "options"), [(FairseqTask, "cfg"), (LegacyFairseqTask, "args")])
def test_one_folder_is_no_sequence_of_them(tmp_path: Path, kind: type, options: str) -> None:
    """Of such, fairseq would batch the epochs otherwise, and still does."""
    one = SimpleNamespace(**{options: SimpleNamespace(data=str(tmp_path / "10:30"))})
    (tmp_path / "10:30").mkdir()
    two = SimpleNamespace(**{options: SimpleNamespace(data=f"{tmp_path}:{tmp_path}")})
    assert [kind.has_sharded_data(task, "train") for task in (one, two)] == [False, True]
    assert kind.has_sharded_data.__wrapped__(one, "train")


def test_fairseq_itself_still_parts_them(tmp_path: Path) -> None:
    (tmp_path / "a:b.pt").touch()
    assert utils.split_paths.__wrapped__(f"{tmp_path}/a:b.pt") == [f"{tmp_path}/a", "b.pt"]
    with pytest.raises(OSError, match=f"Model file not found: {tmp_path}/a$"):
        hub_utils.from_pretrained.__wrapped__(tmp_path, "a:b.pt")
