"""Two processes, each with its share of every batch, train as one that gathers the shares."""

import socket

import torch

from .commands import PLUGIN, TINY, TRAINING, finish, logged, start, weights


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_processes_reach_the_losses_of_one_that_gathers_two_batches(corpus, tmp_path):
    # legacy_ddp: PyTorch's wants a GPU's number from fairseq. Dropout is off, as its draws differ by process.
    options = (corpus.data, *PLUGIN, *TINY, *TRAINING, "--dropout", 0, "--max-epoch", 1, "--ddp-backend", "legacy_ddp")
    options += ("--eval-bleu", "--eval-bleu-args", '{"beam": 1, "max_len_b": 5}')
    group = ("--distributed-init-method", f"tcp://127.0.0.1:{free_port()}", "--distributed-backend", "gloo")
    two = ("--distributed-world-size", 2, "--distributed-no-spawn", *group, "--save-dir", tmp_path / "two")
    ranks = [start("fairseq_cli.train", *options, *two, "--distributed-rank", rank) for rank in (0, 1)]
    log, _ = [finish(process) for process in ranks]
    one = finish(start("fairseq_cli.train", *options, "--update-freq", 2, "--save-dir", tmp_path / "one"))
    assert len(logged(log, "loss")) == 10  # 19 batches of 32
    for key in ("loss", "train_loss", "valid_loss"):
        torch.testing.assert_close(torch.tensor(logged(log, key)), torch.tensor(logged(one, key)), rtol=0, atol=2e-3)
    expected = weights(tmp_path / "one" / "checkpoint_last.pt")
    for name, weight in weights(tmp_path / "two" / "checkpoint_last.pt").items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-3, msg=name)
