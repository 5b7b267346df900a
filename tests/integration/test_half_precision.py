"""bfloat16 and half precision: what trains in it goes on from its checkpoints, and these translate."""

from functools import partial

import pytest
import torch

from .commands import PLUGIN, TINY, TRAINING, in_this_process, logged, texts, weights

FORMATS = {
    "bf16": ("--bf16", "--optimizer", "adam"),
    "bf16, muon": ("--bf16", "--optimizer", "muon"),
    "bf16, adagrad": ("--bf16", "--optimizer", "adagrad", "--lr", 0.1),
    "bf16 alone": ("--memory-efficient-bf16", "--optimizer", "adam"),
    "fp16, muon": ("--fp16", "--fp16-no-flatten-grads", "--optimizer", "muon"),
    "amp, adagrad": ("--amp", "--optimizer", "adagrad", "--lr", 0.1),
}
DTYPES = {"--fp16": torch.float16, "--amp": torch.float32}  # of the weights; the others' is bfloat16


@pytest.mark.parametrize("name", FORMATS)
def test_it_learns_and_goes_on_and_translates(corpus, tmp_path, name, monkeypatch):
    # --amp leaves a CPU at float32: let it do there what it does on a GPU
    monkeypatch.setattr("torch.cuda.amp.autocast", partial(torch.autocast, "cpu", torch.float16))
    monkeypatch.setattr("torch.cuda.amp.GradScaler", partial(torch.amp.GradScaler, "cpu"))
    line = (corpus.data, *PLUGIN, *TINY, *TRAINING, *FORMATS[name], "--disable-validation", "--save-dir", tmp_path)
    losses = logged(in_this_process("train", *line, "--max-update", 12), "loss")
    losses += logged(in_this_process("train", *line, "--max-update", 20), "loss")
    assert len(losses) == 20
    assert sum(losses[-3:]) / 3 < losses[0] - 0.5
    assert losses[12] < losses[0] - 0.3
    path = tmp_path / "checkpoint_last.pt"
    dtype = DTYPES.get(FORMATS[name][0], torch.bfloat16)
    for key, weight in weights(path).items():  # which fairseq writes as float32, whatever they were
        assert torch.equal(weight, weight.to(dtype).float()), key
    output = in_this_process("generate", corpus.data, *PLUGIN, "--path", path, "--max-len-b", 20, "--num-workers", 0)
    assert len(texts(output)) == 60
