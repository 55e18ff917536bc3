"""finetune by the contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from safetensors.torch import save_file

from ..encoders.conftest import seeded_state
from ..engine.finetune.conftest import draw_table
from ..threads import one_torch_thread
from .calling import call


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():  # faster for networks this small
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Any, ...]:
    root = tmp_path_factory.mktemp("finetune")
    save_file(seeded_state(), root / "tiny.safetensors")
    return draw_table(root / "set"), root / "tiny.safetensors", root / "out"


def test_finetune_says_what_the_contract_asks_for(world) -> None:
    table, weights, out = world
    command = (
        "finetune", table, "--encoder", "beph", "--weights", weights, "--out", out, "--epochs", 2, "--batch", 8,
        "--lr", 0.02, "--workers", 0, "--draws", 50, "--fit", "crop",
    )  # fmt: skip
    text, err = call(*command, "--json")
    assert text.count("\n") == 1
    said = json.loads(text)
    wanted = {
        "out",
        "metrics",
        "folds",
        "kept",
        "classes",
        "confusion",
        "cases",
        "tiles",
        "dropped",
        "options",
    }
    assert wanted <= set(said)
    for name in ("accuracy", "balanced_accuracy", "auroc", "recall[dark]"):
        one = said["metrics"][name]
        assert one["ci_low"] <= one["mean"] <= one["ci_high"]
    assert said["kept"]["bundle"] == str(out / "bundle")
    begins = ["split, epoch 1 of 2", "split, epoch 2 of 2", "exporting the encoder of split"]
    assert [line.split(":")[0] for line in err.splitlines()] == begins
    # The same command again: nothing to train; for people.
    text, err = call(*command)
    assert err == ""
    assert "balanced accuracy" in text
    assert max(map(len, text.splitlines())) <= 100 + len(str(out))  # paths are not broken


@pytest.mark.parametrize(
    ("extra", "code", "cure"),
    [
        (("--encoder", "beph"), 2, "pass --weights"),
        (("--epochs", "0"), 2, "--epochs 0"),
        (("--target", "grade"), 1, "no column 'grade'"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_a_cure(world, tmp_path, extra, code, cure) -> None:
    _, err = call("finetune", world[0], "--out", tmp_path / "out", *extra, code=code)
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert cure in err


def test_without_torch_it_names_the_extra(world, tmp_path, run_python) -> None:
    """As in an installation without the extra: torch cannot be imported."""
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        f"sys.argv = ['beph-store', 'finetune', {str(world[0])!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "from beph_store_cli.main import main\n"
        "import io, contextlib\nsaid = io.StringIO()\n"
        "try:\n    with contextlib.redirect_stderr(said):\n        main()\n"
        "except SystemExit as end:\n    print(end.code, said.getvalue())\n"
    )
    said = run_python(code)
    assert said.startswith("1 error: ")
    assert "pip install 'beph-store[train]'" in said
