"""What a GPU would refuse, and what it would be waited for, found on a pretended one (pretended_gpu.py)."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from integration.commands import ENVIRONMENT, PACKAGE, TINY, TRAINING
from vision.runs import TINY as TINY_VISION
from vision.runs import write_images

from resmlp_mt.prepare import prepare

PYTORCH = "2.15."
# How often a function of ResMLP may wait for the GPU in an epoch: none of them does so in an update.
SUPERVISED = {
    "resmlp_vision.training.trainer.Trainer.train_epoch": 3,  # losses, their mean, whether weights are finite
    "resmlp_vision.evaluation.accuracy.evaluate": 2,  # the images of a validation, and of that of the average
}
DINO = {
    "resmlp_vision.training.trainer.Trainer.train_epoch": 3,
    "resmlp_vision.evaluation.knn.knn": 1,
    "resmlp_vision.evaluation.knn.measure_knn": 2,
}
GRAMMAR = Path(__file__).parents[1] / "recipes" / "demo" / "grammar.py"
pytestmark = pytest.mark.skipif(
    not torch.__version__.startswith(PYTORCH),
    reason=f"the pretended GPU replaces inner parts of PyTorch, as {PYTORCH}x has them",
)


def waits(*command: object) -> Counter[str]:
    """Run a program as on a GPU, in which no CPU tensor may meet a GPU's; return how often which function waits for it.

    Args:
        command: a module and its arguments.
    """
    line = [sys.executable, Path(__file__).with_name("pretended_gpu.py"), "-m", *command]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.stdout, done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["faults"] == {}
    assert done.returncode == 0, done.stderr[-4000:]
    assert report["operations"] > 500  # else it was no GPU that computed
    return Counter(report["synchronisations"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    sizes = ["--train", "600", "--valid", "60", "--test", "60"]
    subprocess.run([sys.executable, GRAMMAR, folder / "text", *sizes], check=True)
    prepare(folder / "text", "en", "de", 300, folder / "prepared", workers=1)
    return folder / "prepared" / "data-bin"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torchvision")
    return write_images(tmp_path_factory.mktemp("images"))


def test_translation_waits_for_no_gpu_in_training_nor_in_use(data, tmp_path):
    plugin = (data, "--user-dir", PACKAGE)
    line = (*plugin, *TINY, *TRAINING, "--max-update", 4, "--save-dir", tmp_path)
    assert waits("fairseq_cli.train", *line) == Counter()
    using = ("--path", tmp_path / "checkpoint_best.pt", "--beam", 2, "--max-len-b", 5, "--num-workers", 0)
    assert waits("fairseq_cli.generate", *plugin, *using) == Counter()


def test_a_classifier_waits_for_no_gpu_in_an_update(images, tmp_path):
    line = (f"data={images}", f"out={tmp_path}", *TINY_VISION, "device=cuda", "epochs=2", "mixup=0.8", "ema_decay=0.9")
    allowed = Counter({name: 2 * count for name, count in SUPERVISED.items()})
    assert waits("resmlp_vision.train", *line) - allowed == Counter()


def test_dino_waits_for_no_gpu_in_an_update(images, tmp_path):
    line = (f"data={images}", f"out={tmp_path}", TINY_VISION[0], "img_size=16", "local_size=8", "local_views=2")
    sizes = ("out_dim=32", "hidden_dim=16", "bottleneck_dim=8", "epochs=1", "batch_size=8", "warmup_epochs=0")
    found = waits("resmlp_vision.dino", *line, *sizes, "workers=0", "device=cuda")
    assert found - Counter(DINO) == Counter()
