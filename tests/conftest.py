"""For all tests: the same draws in every run, on one thread of a CPU, as the models are tiny, and a terminal."""

import io
import math
import os
import pty
import runpy
import select
import shutil
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")
if os.environ.get("RESMLP_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before PyTorch looks for a GPU: tests compare bits
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests start: other threads add up in another order
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of them would compile this project


SLOW = (  # files and folders whose tests start programs, or train
    *(
        "integration",
        "test_packaging",
        "test_examples",
        "test_settings",
        "test_pretended_gpu",
        "test_environment",
        "test_explorer",
    ),
    *("test_processes", "test_train", "test_dino", "test_evaluate", "test_scripts", "test_deployment", "test_library"),
    *("test_bad_settings", "test_classify", "test_patches", "test_prepare", "test_inspection", "vision/test_model"),
    *("vision/test_rehearsal", "vision/test_weights", "test_timms_tools", "test_translate_processes", "test_show"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``make check`` leaves out, and let it begin: two workers then end together."""
    for item in items:
        if any(f"/{name}" in str(item.path) for name in SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none, or where it is hidden."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU: RESMLP_TEST_GPU=1 python -m pytest -n 0 -m gpu")


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a script in this process, without the seconds that a new one takes to import; returns what it prints."""

    def run(path: Path, *arguments: object) -> str:
        with monkeypatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
            patch.setattr(sys, "argv", [*map(str, (path, *arguments))])
            patch.syspath_prepend(path.parent)  # as for a script that Python is given
            runpy.run_path(str(path), run_name="__main__")
        return printed.getvalue()

    return run


@pytest.fixture
def on_a_terminal() -> Callable[..., str]:
    """Runs a command whose errors and progress go to a terminal of 120 columns; returns what that shows."""

    def run(line: list[str], **options: Any) -> str:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 120))
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=theirs, **options) as process:
            os.close(theirs)
            shown = b""
            while select.select([ours], [], [], 60)[0]:
                try:
                    shown += os.read(ours, 4096)
                except OSError:  # the other side has closed
                    break
        assert process.returncode == 0
        return shown.decode()

    return run


class Operations(TorchDispatchMode):
    """Counts what a GPU would run as a kernel each, and the bytes that these read and write: no views, no allocations.

    A tensor that is expanded counts as what it is expanded from.
    """

    FREE = ("detach", "_unsafe_view", "empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided")

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if not function.is_view and name not in self.FREE:
            self.kernels[name] += 1
            for tensor in tree_leaves((args, kwargs, result)):
                if isinstance(tensor, torch.Tensor):
                    stored = [n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
                    self.bytes += math.prod(stored) * tensor.element_size()
        return result


CHROMIUM_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real browser, driven by selenium."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("no Chromium with its chromedriver on PATH")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium comes with the extra [dev]")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*CHROMIUM_FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        yield browser


@pytest.fixture
def operations() -> type[Operations]:
    """A mode that counts kernels and bytes: ``with operations() as counted``."""
    return Operations
