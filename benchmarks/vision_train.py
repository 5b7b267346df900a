"""Training a classifier: images a second and peak memory, this project's ResMLP beside timm's.

    python benchmarks/vision_train.py [--dtype bfloat16] [--batch 16]

One step is mixup, forward, loss, backward and the optimiser's update through the project's own trainer, with the
settings of the released recipe; both models get the same batch. Where oneDNN computes its linear layers, on AMD's
processors with AVX-512 in float32, timm's model is measured with its own by oneDNN too. What the data loader delivers
is measured by vision_loader.py.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

from measure import options, save, summarise

import timm
import torch

from resmlp_core import by_onednn
from resmlp_core.common.arguments import at_least
from resmlp_core.layers.onednn import onednn_is_faster
from resmlp_vision.config import Config
from resmlp_vision.distributed import join_processes, leave_processes
from resmlp_vision.training.supervised import SupervisedTrainer
from vision_loader import write_images

PEER = "timm's resmlp_12_224"
MODELS = {"ours": "resmlp_s12", PEER: "resmlp_12_224"}
BATCH = {"cpu": 16, "cuda": 256}
CLASSES = 1000


def make_trainer(model: str, data: Path, dtype: str, device: torch.device) -> SupervisedTrainer:
    """Build a model and the project's trainer around it."""
    config = Config(
        data=str(data), val_split=None, model=model, num_classes=CLASSES, batch_size=64, workers=0, dtype=dtype
    )
    return SupervisedTrainer(config, device)


def make_step(trainer: SupervisedTrainer, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """Prepare an update on a batch."""
    trainer.loader = [(images, labels)]
    trainer.updates_per_epoch = 1
    trainer.task.train()
    return lambda: list(trainer.updates(0))


def compare(data: Path, dtype: str, args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Measure a training step of both models."""
    images = torch.randn(args.batch, 3, 224, 224, device=device)
    labels = torch.randint(CLASSES, (args.batch,), device=device)

    def contender(name: str, onednn: bool = False) -> Callable[[], object]:
        trainer = make_trainer(name, data, dtype, device)
        if onednn:
            model = trainer.task.get_trainable_module()
            model.forward = MethodType(by_onednn(type(model).forward), model)
        return make_step(trainer, images, labels)

    contenders = {name: contender(model) for name, model in MODELS.items()}
    if args.device == "cpu" and dtype == "float32" and onednn_is_faster():
        contenders[f"{PEER}, by oneDNN"] = contender(MODELS[PEER], onednn=True)
    case = {"dtype": dtype, "batch": args.batch}
    return summarise(case, contenders, args.batch, PEER, args.rounds, args.device)


def main() -> None:
    """Run the command line."""
    parser = options(__doc__)
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--batch", type=at_least(2), help=f"images in a step, an even number (default: {BATCH})")
    args = parser.parse_args()
    args.batch = args.batch or BATCH[args.device]
    torch.set_num_threads(args.threads)
    device = join_processes(args.device)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_images(data / "train" / "one", 64)  # which no step reads
        rows = [row for dtype in args.dtype for row in compare(data, dtype, args, device)]
    leave_processes()
    save(args, rows, timm=timm.__version__)


if __name__ == "__main__":
    main()
