"""Who writes what another tool calls it is told what it is called here."""

from __future__ import annotations

import pytest
import typer

from beph_store_cli.main import app
from beph_store_cli.synonyms import OPTIONS, meant
from tests.cli.calling import call, one_object

TRAIN = ("train", "S", "--cohort", "c.csv", "--out", "o")


def _options(command) -> set[str]:
    children = getattr(command, "commands", {}).values()
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return own.union(*map(_options, children))


def test_no_synonym_is_an_option_of_ours() -> None:
    assert not set(OPTIONS) & _options(typer.main.get_command(app))


@pytest.mark.parametrize(
    ("option", "cure"),
    [("--mag", "--mpp 0.5"), ("--patch_size=256", "--tile-px"), ("--overlap", "--stride-px")],
)
def test_an_option_of_another_tool_is_translated(option, cure) -> None:
    line = ("ingest", "slides", "--store", "S", option, "20")
    assert cure in call(*line, code=2)[1].splitlines()[-1]
    assert cure in one_object(call(*line, "--json", code=2)[0])["error"]


def test_an_option_that_nobody_knows_is_only_refused() -> None:
    assert not call("ingest", "slides", "--store", "S", "--nonsense", code=2)[1].count("error: ")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ((*TRAIN, "--task", "classification"), "classify"),
        ((*TRAIN, "--task", "survival"), "survive"),
        ((*TRAIN, "--task", "classify", "--head", "mil"), "abmil"),
        ((*TRAIN, "--task", "classify", "--head", "CLAM_SB"), "clam"),
        ((*TRAIN, "--task", "classify", "--head", "lineer"), "linear"),
    ],
)
def test_a_value_of_another_tool_is_translated(line, name) -> None:
    assert f"did you mean {name}? choose from" in call(*line, code=2)[1]


def test_a_value_that_is_like_none_is_not_guessed() -> None:
    assert meant("--head", "transformer", ("linear", "abmil", "clam")) == ""


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (("export", "qupath", "S", "-o", "d"), "geojson"),
        (("export", "h5ad", "S", "-o", "d"), "anndata"),
        (("import", "hdf5", "d", "--store", "S"), "clam, trident or stamp"),
        (("import", "qupath", "d", "--store", "S"), "beph-store annotate"),
    ],
)
def test_a_format_is_called_by_our_name(line, name) -> None:
    assert f"{name}" in call(*line, code=2)[1]
