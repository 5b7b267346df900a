"""Vision needs torchvision, which PyPI builds for its own PyTorch: beside a CPU-only PyTorch it cannot be imported."""

import warnings

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError) as error:
    warnings.warn(f"tests/vision is left out, as torchvision cannot be imported here: {error}", stacklevel=1)
    collect_ignore_glob = ["test_*.py"]
