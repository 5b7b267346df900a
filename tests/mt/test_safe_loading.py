"""Checkpoints load with weights_only: what fairseq keeps in them is let in."""

import argparse
import zipfile

import numpy as np
import pytest
import torch

import resmlp_mt.plugin  # noqa: F401  importing it is what lets argparse.Namespace in


def test_options_come_back(tmp_path):
    torch.save({"args": argparse.Namespace(lr=[0.1]), "cfg": None, "model": {}}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt")["args"].lr == [0.1]


def test_options_come_back_after_another_library_has_let_them_in_for_a_while(tmp_path):
    """timm does so around its own loading; what it lets in it takes away at the end."""
    torch.save({"args": argparse.Namespace(lr=[0.1])}, tmp_path / "a.pt")
    with torch.serialization.safe_globals([argparse.Namespace]):
        pass
    assert torch.load(tmp_path / "a.pt", weights_only=True)["args"].lr == [0.1]


@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_counts_of_eval_bleu_come_back(tmp_path, kind):
    """Doubles are what several processes sum them to. NumPy 1 and 2 name the function that makes an array otherwise."""
    counts = np.arange(4, dtype=kind)
    torch.save({"counts": counts}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as ours, zipfile.ZipFile(tmp_path / "other.pt", "w") as other:
        for entry in ours.namelist():
            content = ours.read(entry)
            names = (b"numpy._core.", b"numpy.core.")[:: 1 if b"numpy._core." in content else -1]
            other.writestr(entry, content.replace(*names))
    for name in ("a.pt", "other.pt"):
        np.testing.assert_array_equal(torch.load(tmp_path / name, weights_only=True)["counts"], counts)
