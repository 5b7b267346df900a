"""Vision needs torchvision, which PyPI builds for its own PyTorch: beside a CPU-only PyTorch it cannot be imported."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm_python import started_warm

from .runs import write_images

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError) as error:
    warnings.warn(f"tests/vision is left out, as torchvision cannot be imported here: {error}", stacklevel=1)
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="package", autouse=True)
def warm() -> Iterator[None]:
    """Start programs whose libraries are imported already."""
    with started_warm(
        "timm", "torchvision", "lightly.loss", "lightly.utils.scheduler", "datasets", "matplotlib.pyplot"
    ):
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of two classes; tests only read it."""
    return write_images(tmp_path_factory.mktemp("images"))
