"""resmlp_core stands on PyTorch alone, and its two uses know nothing of each other."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imported_packages(package: str) -> set[str]:
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.split(".")[0])
    return found


def test_core_imports_torch_alone():
    assert imported_packages("resmlp_core") - set(sys.stdlib_module_names) == {"torch", "resmlp_core"}


def test_translation_and_vision_do_not_import_each_other():
    assert not imported_packages("resmlp_mt") & {"resmlp_vision", "timm", "torchvision"}
    assert not imported_packages("resmlp_vision") & {"resmlp_mt", "fairseq"}
