"""What does not fit is refused with a reason; code in a checkpoint does not run."""

from inspect import unwrap
from pathlib import Path

import pytest
import torch
from fairseq.trainer import Trainer

import resmlp_mt.plugin  # noqa: F401  lets the options in a checkpoint load

from .commands import PLUGIN, TINY, TRAINING, in_this_process, refuses_other_dictionaries, texts, weights


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
    reason = "the data folder's dict.* are not those that the checkpoint was trained with"
    with pytest.raises(Exception, match=rf"^Cannot load model parameters .*{reason}$"):
        in_this_process("train", tmp_path, *begin, "--max-update", 1)


def test_fairseq_itself_still_leaves_the_reason_to_another_traceback(trained, others, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "load_checkpoint", unwrap(Trainer.load_checkpoint))
    begin = (*trained.options, "--save-dir", tmp_path, "--finetune-from-model", others["transformer"])
    with pytest.raises(Exception, match=r"please ensure that the architectures match.$"):
        in_this_process("train", *begin, "--max-update", 1)


def test_more_positions_begin_from_a_checkpoint_of_fewer_but_do_not_go_on_with_it(trained, tmp_path):
    longer = (*trained.options, "--max-source-positions", 110, "--max-target-positions", 120, "--save-dir", tmp_path)
    with pytest.raises(
        Exception, match=r"architectures match. .*size mismatch for encoder.*\[100, 100\].*and \d+ more$"
    ):
        in_this_process("train", *longer, "--restore-file", trained.last, "--max-update", 1)
    assert not (tmp_path / "checkpoint_last.pt").exists()
    in_this_process("train", *longer, "--finetune-from-model", trained.last, "--max-update", 1, "--lr", 1e-9)
    before, after = weights(trained.last), weights(tmp_path / "checkpoint_last.pt")
    for side, positions in (("encoder", 110), ("decoder", 120)):
        name = f"{side}.layers.0.cross_position.mixer.weight"
        assert after[name].shape == (positions, positions)
        torch.testing.assert_close(after[name][:100, :100], before[name], rtol=0, atol=1e-6)
    output = in_this_process("generate", trained.options[0], *PLUGIN, "--path", tmp_path / "checkpoint_last.pt")
    expected = in_this_process("generate", trained.options[0], *PLUGIN, "--path", trained.last)
    assert texts(output) == texts(expected)


def test_a_checkpoint_cannot_pass_for_one_of_another_architecture(others, corpus, tmp_path):
    with pytest.raises(RuntimeError, match=r"loading state_dict for ResMLPModel"):
        override = ("--model-overrides", "{'arch': 'resmlp_tiny', '_name': 'resmlp_tiny'}")
        in_this_process("generate", corpus.data, *PLUGIN, "--path", others["transformer"], *override)
    with pytest.raises(Exception, match=r"resmlp_12/checkpoint_last.pt; please ensure that the architectures match"):
        options = (*TINY, *TRAINING, "--save-dir", tmp_path, "--restore-file", others["resmlp_12"])
        in_this_process("train", corpus.data, *PLUGIN, *options)
