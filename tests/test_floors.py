"""The import rule: a module imports only what lies on the floors below its own.

Floors, from the ground up: kernels and errors; geometry; records; the rooms, which never
import each other; testing; engine; serve; the face (``beph_store/__init__``), which no
library module imports; command line and benchmarks. Imports inside functions count.
"""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TREES = {"beph_store": ROOT, "beph_store_cli": ROOT / "cli", "beph_store_kernels": ROOT / "kernels"}
ROOMS = [
    "slides",
    "tissue",
    "tiling",
    "encoders",
    "runtimes",
    "store",
    "cohort",
    "heads",
    "metrics",
    "search",
    "pretrain",
    "interop",
]
FLOORS = [
    ["beph_store_kernels", "beph_store.errors", "beph_store.halves", "beph_store.regular"],
    ["beph_store.geometry", "beph_store.objects", "beph_store.sqlguard", "beph_store.cells"],
    ["beph_store.records"],
    [f"beph_store.{room}" for room in ROOMS],
    ["beph_store.testing"],
    ["beph_store.engine"],
    ["beph_store.serve"],
    ["beph_store"],
    ["beph_store_cli"],
    ["tests"],  # their harnesses are what a benchmark of reliability counts with
    ["benchmarks"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

TORCH = {
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "torchsurv",
    "lightning",
    "torch_tensorrt",
    "triton",
}
#: The modules, with all below them, that may import ``TORCH``; nothing else loads them on import.
TORCH_SIDE = (
    "beph_store.encoders.torch_side",
    "beph_store.heads.torch_side",
    "beph_store.pretrain",
    "beph_store.runtimes.cuda",  # pinned memory, streams and graphs of every GPU runtime are torch's
    "beph_store.runtimes.peak",
    "beph_store.runtimes.torch",
    "beph_store_kernels.torch_ops",
    "beph_store_kernels.triton_ops",
)
MAX_LINES = 400
OUR_NAME = re.compile(r"(beph_store|beph_store_cli|beph_store_kernels)(\.\w+)+")


def library_modules() -> dict[str, Path]:
    """Name and file of every module that ships, and of the benchmarks."""
    found = {}
    for package, root in TREES.items():
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return found


MODULES = library_modules()


def place(module: str) -> str:
    """The room or floor that a module belongs to: its first one or two names."""
    if module.startswith("beph_store."):
        return ".".join(module.split(".")[:2])
    return module.split(".")[0]


def within(module: str, side: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in side)


def imports(module: str, source: str, is_package: bool = False) -> list[tuple[int, str]]:
    """`statements`, and strings that are the name of a module of ours: tables of backends are made of them."""
    strings = [
        (node.lineno, str(node.value))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and OUR_NAME.fullmatch(str(node.value))
    ]
    return statements(module, source, is_package) + strings


def statements(module: str, source: str, is_package: bool = False) -> list[tuple[int, str]]:
    """(line, absolute name) of everything imported, anywhere in the file.

    ``from a import b`` yields ``a.b`` where that is a module and ``a`` otherwise.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, is_package, node)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.append((node.lineno, whole if whole in MODULES or whole in FLOOR else base))
    return found


def _absolute(module: str, is_package: bool, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    here = module.split(".") if is_package else module.split(".")[:-1]
    base = here[: len(here) - (node.level - 1)]
    return ".".join([*base, node.module] if node.module else base)


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """What ``source``, as the module of that name, imports against the rule."""
    mine = place(module)
    if mine not in FLOOR:
        return [f"{module}: {mine} is on no floor; give it one in FLOORS"]
    wrong = []
    for line, name in imports(module, source, is_package):
        theirs = place(name)
        if name.split(".")[0] in TORCH and not within(module, TORCH_SIDE) and mine != "benchmarks":
            wrong.append(f"{module}:{line} imports {name} outside the torch side")
        if theirs == mine or theirs.split(".")[0] not in {*TREES, "benchmarks", "tests"}:
            continue
        if theirs not in FLOOR:
            wrong.append(f"{module}:{line} imports {name}, which is on no floor")
        elif FLOOR[theirs] >= FLOOR[mine]:
            wrong.append(f"{module}:{line} imports {name}, which is not below it")
        elif theirs == "beph_store_kernels" and mine in ("beph_store.geometry", "beph_store.records"):
            wrong.append(f"{module}:{line} imports {name}: the records are plain data")
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_lies_below(module):
    path = MODULES[module]
    assert violations(module, path.read_text(), path.name == "__init__.py") == []


def test_no_module_imports_itself_by_way_of_others():
    graph = {
        module: {name for _, name in statements(module, path.read_text(), path.name == "__init__.py")}
        for module, path in MODULES.items()
        if not module.startswith("benchmarks.")
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which lists the circle


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_short_enough_to_read(module):
    lines = len(MODULES[module].read_text().splitlines())
    assert lines <= MAX_LINES, f"{module} has {lines} lines: split it"


def test_the_walk_finds_the_house():
    assert {"beph_store", "beph_store.errors", "beph_store.records", "beph_store_cli.main"} <= set(MODULES)
    assert {place(module) for module in MODULES} >= {"beph_store.store", "beph_store_kernels"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("beph_store.store.reader", "from beph_store.slides import open_slide"),
        ("beph_store.store.reader", "import beph_store.slides.table"),
        ("beph_store.store.reader", "from beph_store import slides"),
        ("beph_store.store.reader", "from ..slides import open_slide"),
        ("beph_store.store.reader", "def f():\n    from beph_store.encoders import load_bundle"),
        ("beph_store.store.reader", "if False:\n    import beph_store.engine"),
        ("beph_store.store.reader", "TABLE = ['beph_store.slides.tiff']"),
        ("beph_store.store.reader", "from beph_store import Store"),
        ("beph_store.store.reader", "import beph_store"),
        ("beph_store.engine.plan", "import beph_store"),
        ("beph_store.engine.plan", "from beph_store import __version__"),
        ("beph_store.engine.plan", "from beph_store_cli.render import table"),
        ("beph_store.testing.synthetic", "from beph_store.engine import ingest"),
        ("beph_store.tiling", "from beph_store.tissue import find_tissue"),
        ("beph_store.geometry", "from beph_store.records import TileSpec"),
        ("beph_store.geometry", "from beph_store_kernels import resize_area"),
        ("beph_store.errors", "from beph_store.geometry import Size"),
        ("beph_store_kernels.reference", "from beph_store.errors import UsageError"),
        ("beph_store", "import beph_store_cli"),
        ("beph_store_cli.main", "from benchmarks import bench_ingest"),
        ("beph_store.store.reader", "import torch"),
        ("beph_store.store.reader", "def f():\n    import torch.nn as nn"),
        ("beph_store_cli.main", "from timm import create_model"),
        ("beph_store.runtimes.onnxruntime", "import onnx"),
        ("beph_store_kernels.fast", "import triton.language as tl"),
        ("beph_store.encoders", "from torch import nn"),
        ("beph_store.attic.things", "import os"),
        ("beph_store.engine.plan", "from beph_store.attic import things"),
        ("beph_store.slides.tiff", "from tests.conftest import drawn_slide"),
    ],
)
def test_the_rule_refuses(module, source):
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("beph_store.store.reader", "from beph_store.store.layout import Layout\nfrom . import registry"),
        ("beph_store.store.reader", "from beph_store.records import Recipe\nfrom ..errors import StoreError"),
        ("beph_store.store.reader", "import onnxruntime, numpy"),
        ("beph_store.slides.tiff", "from beph_store_kernels import resize_area"),
        (
            "beph_store.engine.plan",
            "from beph_store.slides import find_slides\nfrom beph_store import errors",
        ),
        ("beph_store.engine.demo", "from beph_store.testing.synthetic import demo_cohort"),
        ("beph_store.serve.app", "from beph_store.engine import embed"),
        ("beph_store", "from beph_store.engine import ingest"),
        ("beph_store_cli.main", "from beph_store import __version__\nfrom beph_store.store import Store"),
        ("beph_store.heads.torch_side.abmil", "import torch"),
        ("benchmarks.bench_ingest", "import torch, beph_store\nfrom beph_store.engine import ingest"),
    ],
)
def test_the_rule_allows(module, source):
    assert violations(module, source) == []


def test_a_package_resolves_relative_imports_from_itself():
    assert imports("beph_store.store", "from .layout import Layout", is_package=True) == [
        (1, "beph_store.store.layout")
    ]
    assert imports("beph_store.store.reader", "from .layout import Layout") == [
        (1, "beph_store.store.layout")
    ]


def test_loading_every_module_but_the_torch_side_loads_no_torch(run_python):
    names = [
        m for m in MODULES if not within(m, TORCH_SIDE) and place(m) != "benchmarks" and "__main__" not in m
    ]
    loaded = run_python(
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted(set({sorted(TORCH)!r}) & set(sys.modules)))"
    )
    assert loaded.strip() == "[]"
