"""Starting is cheap: what costs seconds is loaded by the command that needs it. No time is asserted."""

import json

import pytest

#: Each of these costs 0.1 s to 4 s to import.
HEAVY = [
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime",
    "openvino",
    "lance",
    "lancedb",
    "pyarrow",
    "polars",
    "pandas",
    "zarr",
    "scipy",
    "sklearn",
    "matplotlib",
]

LOADED = f"print(); print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
COMMAND = """
sys.argv = ["beph-store", *sys.argv[1:]]
try:
    from beph_store_cli.main import main
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def _heavy_after(run_python, code, *arguments):
    return json.loads(run_python(f"import json, sys\n{code}\n{LOADED}", *arguments).splitlines()[-1])


def test_the_library_loads_nothing_heavy_on_import(run_python):
    assert _heavy_after(run_python, "import beph_store, beph_store.records") == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ingest", "--help"], ["demo", "--help"]])
def test_help_loads_nothing_heavy(run_python, arguments):
    assert _heavy_after(run_python, COMMAND, *arguments) == []


def test_the_measure_sees_what_is_loaded(run_python):
    assert "scipy" in _heavy_after(run_python, "import beph_store.testing.synthetic")
