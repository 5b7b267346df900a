"""resmlp_core stands on PyTorch alone, and its two uses know nothing of each other."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imported_packages(package: str, *left_out: str) -> set[str]:
    found = set()
    for path in (path for path in (ROOT / package).rglob("*.py") if path.name not in left_out):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.split(".")[0])
    return found


def test_core_imports_torch_alone():
    own = {"torch", "resmlp_core", *sys.stdlib_module_names}
    assert not imported_packages("resmlp_core", "checkpoint.py", "pictures.py") - own
    assert imported_packages("resmlp_core") - own == {"matplotlib", "numpy", "safetensors"}  # for checkpoints


def test_the_layer_needs_no_more_than_torch():
    others = "sys.modules.update(numpy=None, matplotlib=None)"
    line = f"import sys, torch; {others}; import resmlp_core; resmlp_core.CrossPositionLinear(2)(torch.ones(2, 1, 1))"
    subprocess.run([sys.executable, "-c", line], check=True)


def test_translation_and_vision_do_not_import_each_other():
    assert not imported_packages("resmlp_mt") & {"resmlp_vision", "timm", "torchvision"}
    assert not imported_packages("resmlp_vision") & {"resmlp_mt", "fairseq"}
