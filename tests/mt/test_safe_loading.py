"""Checkpoints load with weights_only: options are let in, code is not."""

import argparse
import pickle
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

import resmlp_mt  # noqa: F401  importing it is what lets argparse.Namespace in


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_options_come_back(tmp_path):
    torch.save({"args": argparse.Namespace(lr=[0.1]), "cfg": None, "model": {}}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt")["args"].lr == [0.1]


def test_a_checkpoint_that_carries_code_is_refused_and_the_code_does_not_run(tmp_path):
    torch.save({"args": None, "cfg": None, "model": Touch(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()
