"""OpenMP spins in every command as the processor wants, training on a CPU keeps memory; what a user has set wins."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from resmlp_core.common import environment as environment_module
from resmlp_core.common.environment import BRIEFLY, BY_DEFAULT, NEVER, SHAPES, is_busy, spins

ROOT = Path(__file__).parents[2]
VARIABLES = (
    *("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"),
    *("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"),
)
COMMANDS = (
    *("resmlp_core.inspect", "resmlp_mt.recipe", "resmlp_mt.translate", "resmlp_mt.average", "resmlp_mt.prepare"),
    *("resmlp_vision.train", "resmlp_vision.dino", "resmlp_vision.evaluate", "resmlp_vision.classify"),
)
RESIDENT = """
import ctypes
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def kept(size=1 << 26):
    before = resident()
    block = ctypes.c_void_p(libc.malloc(size))
    ctypes.memset(block, 1, size)
    libc.free(block)
    return resident() - before > size / 2
"""


def environment(**own: str) -> dict[str, str]:
    unset = {key: value for key, value in os.environ.items() if key not in VARIABLES and not key.startswith("MALLOC_")}
    return {**unset, "PYTHONPATH": str(ROOT), **own}


def told_spins(*line: str, **own: str) -> str:
    """Start Python; return how often the first OpenMP that it loads says it will spin, and end it."""
    command = [sys.executable, *line]
    display = environment(OMP_DISPLAY_ENV="verbose", **own)
    with subprocess.Popen(
        command, env=display, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        said = ""
        for said in process.stderr:
            if found := re.search(r"GOMP_SPINCOUNT = '(\d+)'", said):
                process.kill()
                return found[1]
    raise AssertionError(f"no OpenMP was loaded: {said}")


@pytest.fixture
def busy_machine():
    """Other processes compute on every core meanwhile."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    time.sleep(0.1)
    yield
    for other in others:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    "command", [COMMANDS[0], COMMANDS[1], *(pytest.param(name, marks=pytest.mark.long) for name in COMMANDS[2:])]
)
def test_a_commands_threads_spin_as_this_processor_wants(busy_machine, command):
    assert told_spins("-m", command, "--help") == spins()


@pytest.mark.parametrize(
    ("maker", "busy", "count"),
    [
        ("GenuineIntel", False, "10000"),
        ("GenuineIntel", True, "10000"),
        ("AuthenticAMD", False, "300000"),
        ("AuthenticAMD", True, "0"),
    ],
)
def test_threads_spin_as_was_measured_to_be_best_on_the_processor(tmp_path, maker, busy, count):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {maker}\ncpu family\t: 25\n" * 64)
    elsewhere = os.cpu_count() - len(os.sched_getaffinity(0))  # as many can run on cores that this process may not use
    (tmp_path / "loadavg").write_text(f"2.08 1.16 0.54 {1 + elsewhere + busy}/98 5431\n")
    assert spins(str(tmp_path / "cpuinfo"), str(tmp_path / "loadavg")) == count
    assert spins(str(tmp_path / "none")) == "10000"


def test_a_machine_is_busy_where_others_compute_on_its_cores(busy_machine):
    assert is_busy()
    assert not is_busy("there is no such file")


@pytest.mark.parametrize(
    ("own", "count"),
    [
        ({"GOMP_SPINCOUNT": "77"}, "77"),
        ({"OMP_WAIT_POLICY": "passive"}, "0"),
        ({"OMP_WAIT_POLICY": "active"}, "30000000000"),
    ],
)
def test_a_users_own_waiting_wins(own, count):
    assert told_spins("-m", "resmlp_core.inspect", "--help", **own) == count


@pytest.mark.parametrize(
    ("own", "kept"),
    [({}, int(SHAPES)), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "9"}, 9), ({"DNNL_PRIMITIVE_CACHE_CAPACITY": "7"}, 7)],
)
def test_onednn_keeps_few_shapes_or_as_many_as_a_user_says(own, kept):
    """Shapes of products come twice: few are prepared once, and of too many each is forgotten before it comes again."""
    lines = ["import torch, resmlp_core", "from torch.backends import mkldnn"]  # as fairseq does: PyTorch is first
    lines += ["with mkldnn.verbose(mkldnn.VERBOSE_ON_CREATION):"]
    for width, shapes in ((9, kept // 2), (8, 2 * kept)):
        product = f"torch.ones(rows, {width}), torch.ones({width}, {width})"
        lines += [f"  for rows in 2 * list(range(1, {shapes + 1})):"]
        lines += [f"    torch.ops.mkldnn._linear_pointwise({product}, None, 'none', [], '')"]
    line = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(line, env=environment(**own), capture_output=True, text=True, check=True)
    assert done.stdout.count("create:cache_miss") == kept // 2 + 4 * kept


def test_where_pytorch_comes_first_the_children_spin_so():
    child = "import os, torch, resmlp_core; print(os.environ['GOMP_SPINCOUNT'])"
    done = subprocess.run([sys.executable, "-c", child], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() in {NEVER, BRIEFLY, BY_DEFAULT}


@pytest.mark.parametrize(
    ("call", "own", "kept"),
    [
        ("", {}, "False"),
        ("keep_memory()", {}, "True"),
        ("keep_memory()", {"MALLOC_MMAP_THRESHOLD_": "4096"}, "False"),
    ],
)
def test_memory_is_kept_where_it_is_asked_for_and_a_users_own_setting_wins(call, own, kept):
    source = (ROOT / "resmlp_core" / "common" / "environment.py").read_text(
        encoding="utf-8"
    )  # PyTorch would take seconds
    line = [sys.executable, "-c", f"{source}\n{call}\n{RESIDENT}\nprint(kept())"]
    done = subprocess.run(line, env=environment(**own), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kept


def test_a_fairseq_program_of_a_recipe_gets_both(tmp_path):
    (tmp_path / "fairseq_cli").mkdir()
    (tmp_path / "fairseq_cli" / "__init__.py").touch()
    (tmp_path / "fairseq_cli" / "probe.py").write_text(
        f"{RESIDENT}\nimport os\nprint(kept(), os.environ['GOMP_SPINCOUNT'])"
    )
    runs = "for keep in (False, True): run_fairseq('probe', [], print, keep_memory=keep)"
    line = [sys.executable, "-c", f"from resmlp_mt.pipeline.fairseq_process import run_fairseq\n{runs}"]
    found_first = environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    done = subprocess.run(line, env=found_first, capture_output=True, text=True, check=True)
    without, spun, keeping, spun_too = done.stdout.split()
    assert (without, keeping) == ("False", "True") and {spun, spun_too} <= {NEVER, BRIEFLY, BY_DEFAULT}


def test_where_there_is_no_c_library_to_ask_nothing_is_done(monkeypatch):
    """As on Windows, where ``CDLL`` needs a name."""
    monkeypatch.setattr(environment_module, "os", SimpleNamespace(name="nt", environ={}))
    monkeypatch.setattr(environment_module.ctypes, "CDLL", lambda name: name + "")
    environment_module.keep_memory()
