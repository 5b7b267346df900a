"""Who may import whom, room by room, and which packages of others a room may load."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ("resmlp_core.layers", "resmlp_core.common", "resmlp_core.inspect")
MT_ROOMS = ("resmlp_mt.patches", "resmlp_mt.models", "resmlp_mt.data")
TEXT, PLUGIN, TRANSLATION = "resmlp_mt.text", "resmlp_mt.plugin", "resmlp_mt.translation"
MT_PARTS = (*MT_ROOMS, TEXT, PLUGIN, TRANSLATION, "resmlp_mt.prepare", "resmlp_mt.average", "resmlp_mt.metrics")
MT = (*MT_PARTS, "resmlp_mt.pipeline")
VISION_ROOMS = ("resmlp_vision.config", "resmlp_vision.distributed", "resmlp_vision.data", "resmlp_vision.models")
VISION = (*VISION_ROOMS, "resmlp_vision.evaluation", "resmlp_vision.training")
# A module or a room, and the modules and rooms that it may import besides its own. What is not listed, such as a
# package's __init__, may import all of its package and resmlp_core.
MAY_IMPORT = {
    "resmlp_core.layers": (),
    "resmlp_core.common": ("resmlp_core.layers",),
    "resmlp_core.inspect": ("resmlp_core.layers", "resmlp_core.common"),
    "resmlp_core": ("resmlp_core.layers",),
    "resmlp_mt.patches": CORE,
    TEXT: (),
    "resmlp_mt.models": (*CORE, TEXT),
    "resmlp_mt.data": (*CORE, TEXT),
    "resmlp_mt.muon": CORE,
    TRANSLATION: (*CORE, TEXT, "resmlp_mt.data.text_lines", "resmlp_mt.data.csv_cells"),
    "resmlp_mt.prepare": (*CORE, *MT_ROOMS, PLUGIN),
    "resmlp_mt.export": (*CORE, TRANSLATION),
    "resmlp_mt.average": (*CORE, *MT_ROOMS),
    "resmlp_mt.metrics": CORE,
    "resmlp_mt.score": (*CORE, *MT_ROOMS, "resmlp_mt.metrics"),
    "resmlp_mt.pipeline": (*CORE, *MT_PARTS),
    "resmlp_mt.recipe": (*CORE, *MT),
    "resmlp_mt.translate": (*CORE, *MT),
    "resmlp_vision.config": CORE,
    "resmlp_vision.distributed": CORE,
    "resmlp_vision.data": (*CORE, "resmlp_vision.config", "resmlp_vision.distributed"),
    "resmlp_vision.models": (*CORE, "resmlp_vision.config", "resmlp_vision.distributed"),
    "resmlp_vision.evaluation": (*CORE, *VISION_ROOMS),
    "resmlp_vision.training": (*CORE, *VISION_ROOMS, "resmlp_vision.evaluation"),
    **{f"resmlp_vision.{command}": (*CORE, *VISION) for command in ("train", "dino", "evaluate", "classify")},
    "resmlp_mt": ("resmlp_core", "resmlp_mt"),
    PLUGIN: ("resmlp_core", "resmlp_mt"),
    "resmlp_vision": ("resmlp_core", "resmlp_vision"),
}
OTHERS = {
    "resmlp_core.layers": {"torch"},
    "resmlp_core.common": {"torch", "numpy", "omegaconf", "yaml", "safetensors", "PIL"},
    "resmlp_core.inspect": {"torch", "numpy", "matplotlib", "PIL"},
    "resmlp_mt.translation": {"torch", "sentencepiece", "safetensors", "sentencex", "onnx", "onnxruntime"},
}
PACKAGES = ("resmlp_core", "resmlp_mt", "resmlp_vision")


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


@cache
def modules() -> dict[str, Path]:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@cache
def imports(name: str) -> frozenset[str]:
    """Name what a module imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(modules()[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            wholes = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= wholes & modules().keys() or {node.module}
    return frozenset(found)


def own_imports(name: str) -> set[str]:
    """Name the modules of the project that a module imports; a package's __init__ only hands names on."""
    return {other for other in imports(name) if other in modules() and other != name}


def test_every_module_imports_only_the_rooms_that_it_may():
    for name in modules():
        room = max((room for room in MAY_IMPORT if within(name, room)), key=len)
        if room in PACKAGES and name != room and room != "resmlp_core":
            assert name == f"{room}.__main__", f"{name} stands in no room"
        for other in own_imports(name):
            rooms = (room, *MAY_IMPORT[room])
            allowed = other == "resmlp_core" or any(within(other, may) for may in rooms)
            assert allowed, f"{name} imports {other}"


def test_no_circle_of_imports():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " imports ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in own_imports(name):
                if modules()[other].name != "__init__.py":
                    visit(other, (*path, name))
            done.add(name)

    for name, path in modules().items():
        if path.name != "__init__.py":
            visit(name, ())


@pytest.mark.parametrize("room", OTHERS)
def test_a_room_loads_few_packages_of_others(room):
    for name in filter(lambda name: within(name, room), modules()):
        others = {other.partition(".")[0] for other in imports(name)} - {*sys.stdlib_module_names, *PACKAGES}
        assert others <= OTHERS[room], name


def test_importing_the_layer_loads_torch_and_nothing_else():
    others = {"numpy", "matplotlib", "omegaconf", "yaml", "safetensors", "fairseq", "timm", "datasets"}
    hidden = "sys.modules.update(dict.fromkeys(names))"
    layer = "resmlp_core.CrossPositionLinear(2)(torch.ones(2, 1, 1))"
    line = f"import sys, torch; names = {sorted(others)}; {hidden}; import resmlp_core; {layer}"
    subprocess.run([sys.executable, "-c", line], check=True)


def test_translation_and_vision_do_not_import_each_other():
    for name in modules():
        others = {other.partition(".")[0] for other in imports(name)}
        if within(name, "resmlp_mt"):
            assert not others & {"resmlp_vision", "timm", "torchvision"}, name
        if within(name, "resmlp_vision"):
            assert not others & {"resmlp_mt", "fairseq"}, name
