"""resmlp_core stands on PyTorch alone, and the two uses of it do not know each other."""

import ast
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(("package", "other"), [("resmlp_mt", "resmlp_vision"), ("resmlp_vision", "resmlp_mt")])
def test_translation_and_vision_do_not_import_each_other(package, other):
    assert other not in imported_packages(package)
