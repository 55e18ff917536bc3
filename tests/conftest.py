"""What every test may ask for: synthetic slides, and the real data where it is present."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from beph_store.testing.synthetic import SlidePlan, SlideTruth, formula_slide, write_slide
from tests.beside import long_ones_first, pytest_xdist_make_scheduler  # noqa: F401
from tests.objects.fixtures import moto, s3, seaweed  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="also run the tests that take minutes")


def pytest_configure(config):
    # The same examples in every run, or a change fails for what another one did; --soak draws new ones.
    settings.register_profile("beph", deadline=None, database=None, derandomize=True)
    settings.register_profile("beph-soak", deadline=None, database=None)
    settings.load_profile("beph-soak" if config.getoption("--soak") else "beph")


def _realdata_dir() -> Path:
    return Path(os.environ.get("BEPH_STORE_REALDATA") or ROOT.parent / "shared" / "data")


def pytest_collection_modifyitems(config, items):
    long_ones_first(items)
    for item in items:
        if "realdata" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.realdata)
        if "realdata" in item.keywords and not _realdata_dir().is_dir():
            item.add_marker(
                pytest.mark.skip(
                    reason="no real slides here: set BEPH_STORE_REALDATA to a folder that has them"
                )
            )
        if "soak" in item.keywords and not config.getoption("--soak"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: run with --soak"))


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real slides and tables; a test that asks for it is marked ``realdata``."""
    return _realdata_dir()


@dataclass(frozen=True)
class DrawnSlide:
    path: Path
    plan: SlidePlan
    truth: SlideTruth


@pytest.fixture(scope="session")
def drawn_slide(tmp_path_factory) -> DrawnSlide:
    """A clean H&E-like slide, 2560 × 2304 px at 0.5 µm/px, 40 % of its tissue tumour. Read only."""
    path = tmp_path_factory.mktemp("drawn") / "drawn.tif"
    plan = SlidePlan(size=(2560, 2304), seed=4, tumour=0.4, nuisances=())
    return DrawnSlide(path, plan, write_slide(path, plan))


@pytest.fixture(scope="session")
def marked_slide(tmp_path_factory) -> DrawnSlide:
    """The same with a pale area, a fold, a pen mark and a bubble. Read only."""
    path = tmp_path_factory.mktemp("drawn") / "marked.tif"
    plan = SlidePlan(size=(2560, 2304), seed=4, tumour=0.4)
    return DrawnSlide(path, plan, write_slide(path, plan))


@pytest.fixture(scope="session")
def formula_path(tmp_path_factory) -> Path:
    """A lossless slide of 1500 × 1100 px, levels 1 and 4, whose pixels spell their position. Read only."""
    path = tmp_path_factory.mktemp("formula") / "formula.tif"
    formula_slide(path, downsamples=(1, 4))
    return path


@pytest.fixture(scope="session")
def run_python():
    """Run code in a fresh interpreter, as ``run_python(code, *arguments) -> stdout``; it must succeed."""

    def run(code: str, *arguments: object) -> str:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
