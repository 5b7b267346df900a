"""Images on a GPU: run them there by ``RESMLP_TEST_GPU=1 python -m pytest -n 0 -m gpu``."""

import json

import pytest
import torch

from resmlp_core import fold
from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_vision import create_model, evaluate
from resmlp_vision.config import Config, read_config
from resmlp_vision.distributed import join_processes, leave_processes
from resmlp_vision.train import main
from resmlp_vision.training.supervised import SupervisedTrainer

from .runs import TINY, lengthen, run


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["matmul_precision=highest", "matmul_precision=high", "dtype=bfloat16"])
def test_a_training_step_on_a_gpu_is_that_on_a_cpu_up_to_rounding(images, tmp_path, precision):
    losses = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        settings = [*TINY, f"data={images}", f"out={tmp_path}", f"device={device}", "scale=[1,1]", "hflip=0"]
        settings += ["auto_augment=null", "color_jitter=0", "drop_path=0", precision if device == "cuda" else "seed=0"]
        trainer = SupervisedTrainer(read_config(None, settings, Config), join_processes(device))
        losses[device] = trainer.train_epoch(0)["train_loss"]
        leave_processes()
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.05 if "bfloat16" in precision else 0.01)


@pytest.mark.gpu
def test_a_folded_classifier_gives_the_same_on_a_gpu():
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    model = create_model("resmlp_s12", num_classes=10, depth=2).eval().cuda()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    images = torch.randn(4, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        expected = model(images)
        torch.testing.assert_close(fold(model)(images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_a_run_resumes_on_a_gpu_and_its_checkpoint_is_for_any_device(images, tmp_path):
    settings = (*TINY, f"data={images}", f"out={tmp_path}", "device=cuda", "ema_decay=0.9")
    run(main, *settings, "epochs=3")
    lengthen(tmp_path)
    assert "going on after epoch 3" in run(main, *settings, "epochs=4")
    assert all(weight.isfinite().all() for weight in read_checkpoint(tmp_path / "last.pth.tar")["state_dict"].values())
    line = ("--checkpoint", tmp_path / "last.pth.tar", "--data", images, "--split", "val", "--workers", 0)
    found = []
    for device in ("cpu", "cuda"):
        run(evaluate.main, *line, "--device", device, "--out", tmp_path / "found.json")
        found.append(json.loads((tmp_path / "found.json").read_text())["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-2)
