"""The training loader on one core: images a second of the project's, beside timm's; and the time of each of its steps.

    python benchmarks/vision_loader.py [--images 512] [--size 500 375] [--repeats 3 0]

Both read the same generated JPEG files with the released recipe's augmentation, into batches of bytes, in a process
that is started for each turn; a GPU normalises and erases. timm's decodes each of an image's copies, and crops by
Pillow. The steps are those of the main process.
"""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import options, save, summarise

import numpy as np
import PIL
import timm
import torch
import torchvision  # type: ignore[import-untyped]
from PIL import Image
from timm.data import ImageDataset, create_loader
from timm.data.loader import fast_collate
from torch.utils.data import default_collate

from resmlp_core.common.arguments import at_least
from resmlp_vision.config import Config
from resmlp_vision.data.image_io import open_rgb, read_image
from resmlp_vision.data.loaders import training_loader
from resmlp_vision.data.opening import open_dataset
from resmlp_vision.distributed import join_processes, leave_processes

PEER = "timm's"


def write_images(folder: Path, count: int, width: int = 500, height: int = 375) -> None:
    """Write JPEG files with about the bytes a pixel of a photograph in ImageNet."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    for i in range(count):
        shapes = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
        pixels = np.asarray(shapes) + rng.normal(0, 16, (height, width, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.JPEG", quality=90)


def loaders(data: Path, repeats: int) -> dict[str, Any]:
    """Make the project's loader and timm's with the same settings; each yields batches of bytes."""
    config = Config(data=str(data), batch_size=64, workers=1, repeated_aug=repeats)
    cpu = torch.device("cpu")
    ours = training_loader(open_dataset(config, "train", training=True), config, cpu)
    timms = create_loader(
        ImageDataset(str(data / "train")),
        input_size=(3, config.img_size, config.img_size),
        batch_size=config.batch_size,
        is_training=True,
        scale=config.scale,
        auto_augment=config.auto_augment,
        num_aug_repeats=repeats,
        interpolation=config.interpolation,
        num_workers=1,
        distributed=True,
        device=cpu,
        persistent_workers=False,
    )
    return {"ours": ours.loader, PEER: timms.loader}


def steps(data: Path) -> dict[str, Callable[[], object]]:
    """Make a call of each step that takes time, on all images."""
    ours, timms = (loader.dataset.transform.transforms for loader in loaders(data, 0).values())
    files = sorted((data / "train").rglob("*.JPEG"))[:64]
    images = list(map(open_rgb, files))
    cropped = [timms[0](image) for image in images]
    augmented = [timms[2](image) for image in cropped]
    items = [(timms[-1](image), 0) for image in augmented]
    return {
        "decoding": lambda: [read_image(file, lambda image: None) for file in files],
        "crop, by Pillow": lambda: [timms[0](image) for image in images],
        "crop, by PyTorch": lambda: [ours[0](image) for image in images],
        "flip": lambda: [timms[1](image) for image in cropped],
        "RandAugment": lambda: [timms[2](image) for image in cropped],
        "to a tensor": lambda: [timms[-1](image) for image in augmented],
        "timm's collate": lambda: fast_collate(items),
        "PyTorch's collate": lambda: default_collate(items),
    }


def main() -> None:
    """Run the command line."""
    parser = options(__doc__)
    parser.add_argument(
        "--images", type=at_least(64), default=512, help="files that are read, 64 at least (default: 512)"
    )
    parser.add_argument(
        "--size", type=at_least(1), nargs=2, default=(500, 375), help="width, height (default: 500 375)"
    )
    parser.add_argument(
        "--repeats", type=at_least(0), nargs="+", default=[3, 0], help="copies of an image (default: 3 0)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)  # as in the processes of a loader
    join_processes("cpu")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_images(data / "train" / "one", args.images, *args.size)
        for repeats in args.repeats:
            contenders = {name: read_all(loader) for name, loader in loaders(data, repeats).items()}
            count = contenders[PEER]()
            rows += summarise({"repeated_aug": repeats}, contenders, count, PEER, args.rounds, "cpu")
        calls = steps(data)
        rows += summarise({"step": "alone"}, calls, 64, next(iter(calls)), args.rounds, "cpu")
    leave_processes()
    save(args, rows, timm=timm.__version__, pillow=PIL.__version__, torchvision=torchvision.__version__)


def read_all(loader: Any) -> Callable[[], int]:
    """Make a call that reads an epoch, each time with the same draws, and counts its images."""

    def read() -> int:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        return sum(len(labels) for _, labels in loader)

    return read


if __name__ == "__main__":
    main()
