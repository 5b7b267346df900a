"""timm's Muon computes in the type that the processor multiplies fast."""

import inspect

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resmlp_vision.train import main
from resmlp_vision.training import muon
from resmlp_vision.training.muon import TIMMS

from .runs import TINY, read_log, run


class Types(TorchDispatchMode):
    """Collects the types of all tensors that are computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.seen |= {leaf.dtype for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)}
        return result


@pytest.mark.parametrize("has", [False, True])
def test_it_trains_in_bfloat16_where_the_processor_has_it(images, tmp_path, monkeypatch, has):
    monkeypatch.setattr(muon, "emulates", lambda dtype: not has)
    with Types() as types:
        run(main, *TINY, "opt=muon", f"data={images}", f"out={tmp_path}")
    assert (torch.bfloat16 in types.seen) == has
    records = read_log(tmp_path)
    assert records[-1]["train_loss"] < records[0]["train_loss"]


def test_timm_itself_computes_in_bfloat16_on_every_processor():
    """A canary: when this fails, the patch can go."""
    assert inspect.signature(TIMMS).parameters["dtype"].default == torch.bfloat16
