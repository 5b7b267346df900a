"""What does not fit is refused with a reason; code in a checkpoint does not run."""

from pathlib import Path

import pytest
import torch

import resmlp_mt  # noqa: F401  lets the options in a checkpoint load

from .commands import PLUGIN, TINY, TRAINING, in_this_process, refuses_other_dictionaries


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture(scope="module")
def others(corpus, tmp_path_factory):
    """Checkpoints of a Transformer and of a deeper ResMLP, after one update."""
    folder = tmp_path_factory.mktemp("others")
    small = (*TINY[2:-4], *TRAINING, "--max-update", 1, "--disable-validation")
    for arch, layers in (("transformer", ()), ("resmlp_12", ("--encoder-layers", 12, "--decoder-layers", 12))):
        options = ("--arch", arch, *small, *layers, "--save-dir", folder / arch)
        in_this_process("train", corpus.data, *PLUGIN, *options)
    return {arch: folder / arch / "checkpoint_last.pt" for arch in ("transformer", "resmlp_12")}


def test_what_does_not_fit_the_model_is_refused(trained, others, corpus, tmp_path):
    evil = torch.load(trained.last, weights_only=True)
    evil["model"]["encoder.layer_norm.alpha"] = Touch(tmp_path / "ran")
    torch.save(evil, tmp_path / "evil.pt")
    train = (corpus.data, *PLUGIN, *TINY, *TRAINING, "--save-dir", tmp_path, "--restore-file")
    with pytest.raises(Exception, match="please ensure that the architectures match"):
        in_this_process("train", *train, others["transformer"])
    with pytest.raises(Exception, match="Weights only load failed"):
        in_this_process("generate", *PLUGIN, "--path", tmp_path / "evil.pt", corpus.data)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "checkpoint_last.pt").exists()


@pytest.mark.parametrize("change", [lambda lines: [*lines, "one-more 1"], lambda lines: lines[::-1]])
def test_another_dictionary_than_the_checkpoints_is_refused(trained, corpus, tmp_path, change):
    """Also one of the same size, which the weights would fit."""
    refuses_other_dictionaries(trained.last, corpus.data, tmp_path, change)
    begin = (*trained.options[1:], "--save-dir", tmp_path / "tuned", "--finetune-from-model", trained.last)
    with pytest.raises(Exception, match="Cannot load model parameters") as caught:
        in_this_process("train", tmp_path, *begin, "--max-update", 1)
    assert "are not those that the checkpoint was trained with" in str(caught.value.__context__)


def test_a_checkpoint_cannot_pass_for_one_of_another_architecture(others, corpus, tmp_path):
    with pytest.raises(RuntimeError, match=r"loading state_dict for ResMLPModel"):
        override = ("--model-overrides", "{'arch': 'resmlp_tiny', '_name': 'resmlp_tiny'}")
        in_this_process("generate", corpus.data, *PLUGIN, "--path", others["transformer"], *override)
    with pytest.raises(Exception, match=r"resmlp_12/checkpoint_last.pt; please ensure that the architectures match"):
        options = (*TINY, *TRAINING, "--save-dir", tmp_path, "--restore-file", others["resmlp_12"])
        in_this_process("train", corpus.data, *PLUGIN, *options)
