"""Draw what the digits' classifier confuses, and the rows of A that its first layer learned, into its folder."""

import argparse
from pathlib import Path

import torch
from sklearn.metrics import ConfusionMatrixDisplay  # type: ignore[import-untyped]
from timm.data import create_transform, resolve_model_data_config

from resmlp_core.inspect.plots import draw_filters, save
from resmlp_vision.data.image_io import open_rgb
from resmlp_vision.models.loading import load_trained


def look(data: Path, run: Path) -> None:
    """Classify the test images one by one and draw confusion.png and filters.png."""
    model = load_trained(run / "last.pth.tar")
    transform = create_transform(**resolve_model_data_config(model))
    counts = torch.zeros(10, 10, dtype=torch.long)
    with torch.inference_mode():
        for path in sorted((data / "test").glob("*/*.png")):
            predicted = model(transform(open_rgb(path)).unsqueeze(0)).argmax().item()
            counts[int(path.parent.name), int(predicted)] += 1
    matrix = ConfusionMatrixDisplay(counts.numpy(), display_labels=model.classes)
    save(matrix.plot(cmap="Blues", colorbar=False).figure_, run / "confusion.png")
    first = model.layers[0].cross_position.mixer.weight.detach()
    draw_filters({"trunk": {1: first}}, model.stem.grid_size, run / "filters.png")
    print(f"{counts.diagonal().sum() / counts.sum():.1%} of {counts.sum()} test digits are read right")
    print(f"What it confuses: {run / 'confusion.png'}; the rows of A in the first layer: {run / 'filters.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder that digits.py wrote")
    parser.add_argument("run", type=Path, help="the folder that training wrote")
    look(**vars(parser.parse_args()))
