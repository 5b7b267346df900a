"""What the plugin mends in fairseq works; and a canary for each: when it fails, fairseq's own is well again."""

import inspect
import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from fairseq import options, utils
from fairseq.data import TokenBlockDataset, data_utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed
from fairseq.models import DistributedFairseqModel
from fairseq.optim import OPTIMIZER_REGISTRY, AMPOptimizer, FairseqOptimizer, build_optimizer
from fairseq.trainer import Trainer
from omegaconf import OmegaConf
from torch import nn

import resmlp_mt.plugin  # noqa: F401  importing the plugin is all that a user does
from resmlp_mt.patches import bfloat16
from resmlp_mt.patches.cpu_processes import free_port
from resmlp_mt.patches.unsupported import FLAT, IN_HALF

from .conftest import make_dictionary

# What fairseq says of options that it fails at without fairscale, without a GPU, or with that optimiser.
FAILS = r"(?i)fairscale|CUDA|NVIDIA|Unsupported optimizer"


def configure(*line):
    """fairseq's options of a training, from a command line."""
    arguments = ["data", "--arch", "transformer", "--max-tokens", "100", "--lr", "1", *map(str, line)]
    if "--optimizer" not in line:
        arguments += ["--optimizer", "adam"]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments))


def blocks():
    """What a language model reads sentence by sentence, which asks for numpy.compat where sizes are a list."""
    return TokenBlockDataset([torch.ones(3)], [3], None, pad=1, eos=2, break_mode="eos")


def test_canary_numpy_compat():
    code = "from fairseq.data import TokenBlockDataset as T; import torch; T([torch.ones(3)], [3], None, 1, 2, 'eos')"
    line = [sys.executable, "-W", "ignore", "-c", code]
    assert "has no attribute 'compat'" in subprocess.run(line, capture_output=True, text=True).stderr
    assert len(blocks()) == 1


def test_canary_whole_corpus():
    def count(batch_by_size):
        sizes = np.full(13, 5)
        return sum(map(len, batch_by_size(np.arange(13), sizes.__getitem__, sizes, required_batch_size_multiple=8)))

    assert count(inspect.unwrap(data_utils.batch_by_size)) < 13
    assert count(data_utils.batch_by_size) == 13


def test_canary_replace_unk():
    """The second piece is aligned with the third source word."""
    words = make_dictionary()
    tokens = torch.tensor([words.index("w1"), words.unk()])
    arguments = (tokens, "a b c", [(0, 0), (2, 1)], {}, words)
    assert utils.post_process_prediction(*arguments)[1] == "w1 c"
    try:
        text = inspect.unwrap(utils.post_process_prediction)(*arguments)[1]
    except (TypeError, IndexError):
        return
    assert text != "w1 c"


@pytest.mark.parametrize("unpatched", [False, True])
def test_amp_gives_the_optimiser_the_true_gradient(unpatched):
    """A scale of 128 and a gradient of 1; the canary's is 1/128."""
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = AMPOptimizer.build_optimizer(configure("--amp", "--optimizer", "sgd"), [parameter])
    optimiser._grad_scaler = torch.amp.GradScaler("cpu", init_scale=128)
    optimiser.backward(parameter.sum())
    assert optimiser.clip_grad_norm(0).item() == 1
    (inspect.unwrap(AMPOptimizer.step) if unpatched else AMPOptimizer.step)(optimiser)
    assert parameter.item() == (-1 / 128 if unpatched else -1)


@pytest.mark.parametrize("option", ["--bf16", "--memory-efficient-bf16"])
@pytest.mark.parametrize("asked", [False, True])
def test_only_its_name_asks_for_a_tpu(option, asked):
    line = ["data", "--arch", "transformer", option, *["--tpu"] * asked]
    assert options.parse_args_and_arch(options.get_training_parser(), line).tpu == asked
    unpatched = inspect.unwrap(options.parse_args_and_arch)
    assert unpatched(options.get_training_parser(), line).tpu
    namespace, unknown = options.parse_args_and_arch(options.get_training_parser(), [*line, "--x"], parse_known=True)
    assert (namespace.tpu, unknown) == (asked, ["--x"])


def test_bfloat16_that_the_processor_emulates_is_told(monkeypatch):
    monkeypatch.setattr(bfloat16, "emulates", lambda dtype: True)
    line = ["data", "--arch", "transformer", "--cpu"]
    with pytest.warns(UserWarning, match="--bf16 is emulated by this processor"):
        options.parse_args_and_arch(options.get_training_parser(), [*line, "--bf16"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options.parse_args_and_arch(options.get_training_parser(), line)


def test_what_is_broadcast_can_be_read_by_the_others():
    state = {"cfg": OmegaConf.create({"model": {"dim": 3, "args": None}}), "model": {"weight": torch.ones(2)}}

    def arrives(split):
        sent = io.BytesIO()
        torch.save(split(state, tensors := []), sent)
        sent.seek(0)
        return distributed._put_tensors_in_obj(torch.load(sent), tensors)

    arrived = arrives(distributed._split_tensors_from_obj)
    assert arrived["cfg"] == {"model": {"dim": 3, "args": None}}
    assert arrived["model"]["weight"].equal(torch.ones(2))
    patched = distributed._split_tensors_from_obj
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "_split_tensors_from_obj", inspect.unwrap(patched))
        with pytest.raises(Exception, match=r"Weights only load failed[\s\S]*omegaconf"):
            arrives(distributed._split_tensors_from_obj)
    trusted = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with pytest.raises(Exception, match=r"Weights only load failed[\s\S]*_TensorPlaceholder"):
            arrives(patched)
    finally:
        torch.serialization.add_safe_globals(trusted)


def test_canary_cpu_processes(monkeypatch):
    """That two processes of a CPU train is shown in integration/test_distributed.py."""
    start = inspect.unwrap(distributed.call_main)
    with pytest.raises(AssertionError, match="world size is 2 but have 0 available devices"):
        start(configure("--cpu", "--distributed-world-size", 2), print)
    alone = ("--distributed-rank", 0, "--distributed-no-spawn", "--device-id", 0)
    cfg = configure("--cpu", *alone, "--distributed-init-method", f"tcp://localhost:{free_port()}")
    with pytest.raises((RuntimeError, ValueError), match=r"(?i)nccl"):
        start(cfg, print)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    with pytest.raises(ValueError, match="device_ids and output_device"):
        DistributedFairseqModel(cfg.distributed_training, nn.Linear(1, 1), None, "cpu")
    torch.distributed.destroy_process_group()
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ZeroDivisionError):
        start(configure("--cpu", "--distributed-world-size", 2), print)


@pytest.mark.parametrize("name", sorted(OPTIMIZER_REGISTRY.keys() - {"composite", "cpu_adam", "lamb"}))
def test_what_an_optimiser_can_is_what_fairseqs_says(name):
    """Those that need other libraries, or have parts, cannot be made here."""
    optimiser: FairseqOptimizer = build_optimizer(
        configure("--optimizer", name).optimizer, [nn.Parameter(torch.ones(2))]
    )
    assert optimiser.supports_flat_params == (name in FLAT)
    assert optimiser.supports_memory_efficient_fp16 == (name in IN_HALF)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (("--ddp-backend", "fully_sharded"), "fully_sharded needs fairscale, which is not installed: give pytorch_ddp"),
        (("--ddp-backend", "slowmo"), "--ddp-backend slowmo needs fairscale, which is not installed: give pytorch_ddp"),
        (("--zero-sharding", "os"), "--zero-sharding os needs fairscale, which is not installed: leave it out"),
        (
            ("--ddp-backend", "fully_sharded", "--optimizer", "muon"),
            "--ddp-backend fully_sharded cannot train with --optimizer muon, only with adadelta, adam, ",
        ),
        (("--fp16", "--optimizer", "muon"), "--fp16 with --optimizer muon needs --fp16-no-flatten-grads"),
        (("--fp16", "--optimizer", "adagrad"), "--fp16 with --optimizer adagrad needs --fp16-no-flatten-grads"),
        (("--fp16",), "--fp16 on a CPU needs --fp16-no-flatten-grads"),
        (
            ("--memory-efficient-bf16", "--optimizer", "muon"),
            "--memory-efficient-bf16 cannot train with --optimizer muon, only with adafactor, adam, ",
        ),
        (("--memory-efficient-fp16", "--optimizer", "adagrad"), "nag: give --fp16"),
    ],
)
def test_what_cannot_train_is_refused_in_one_line_that_says_what_can(line, reason):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as refused:
        distributed.call_main(configure("--cpu", *line), lambda cfg: pytest.fail("it began"))
    assert reason in str(refused.value)
    cfg = configure("--cpu", *line)
    with pytest.raises((ImportError, RuntimeError, TypeError, ValueError), match=FAILS):  # fairseq itself still does
        trainer = Trainer(cfg, None, nn.Linear(1, 1), nn.Identity())
        trainer.optimizer  # noqa: B018  it is built only now
        DistributedFairseqModel(cfg.distributed_training, trainer.model, None, "cpu")  # as for several processes


@pytest.mark.parametrize(
    "line", [("--fp16", "--fp16-no-flatten-grads", "--optimizer", "muon"), ("--bf16", "--optimizer", "adagrad"), ()]
)
def test_what_can_train_begins(line):
    begun = []
    distributed.call_main(configure("--cpu", *line), begun.append)
    assert len(begun) == 1
