"""A small store of real pixels behind the API: a drawn slide, and a formula slide with a name to be afraid of."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.serve.app import make_app
from beph_store.serve.shelf import handle
from beph_store.store import Store
from beph_store.testing.synthetic import formula_slide

TOKEN = "a-token-of-the-tests"
NASTY = "<img src=x onerror=alert(1)>\"'.tif"
BASE = "http://127.0.0.1:8765"


@dataclass(frozen=True)
class Served:
    """``client`` sends the token; ``store`` the folder; ``slides`` where the files lie."""

    client: TestClient
    store: Path
    slides: Path
    key: str
    labels: Path

    def url(self, slide_id: str, rest: str = "") -> str:
        return f"/api/recipes/{self.key}/slides/{handle(slide_id)}{rest}"

    def json(self, url: str, code: int = 200):
        answer = self.client.get(url)
        assert answer.status_code == code, answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json()

    def pixels(self, url: str) -> np.ndarray:
        answer = self.client.get(url)
        assert answer.status_code == 200, answer.text
        return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


@pytest.fixture(scope="session")
def ingested(tmp_path_factory, drawn_slide) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("serve")
    slides = folder / "slides"
    slides.mkdir()
    shutil.copy(drawn_slide.path, slides / "drawn.tif")
    formula_slide(slides / NASTY, downsamples=(1, 4))
    (slides / "broken.tif").write_bytes(b"II*\0 this is no slide")
    ingest([slides], folder / "S", options=IngestOptions(limit_tiles=12, tissue_min=0))
    labels = folder / "labels.csv"
    with labels.open("w", newline="") as file:
        rows = [
            ["slide_id", "case_id", "grade", "age"],
            ["drawn.tif", "A", "high", 61],
            [NASTY, "B", "low", 70],
        ]
        csv.writer(file).writerows(rows)
    return folder / "S", slides, labels


def client_of(store: Path, **options) -> TestClient:
    app = make_app(store, token=TOKEN, **options)
    return TestClient(app, base_url=BASE, headers={"authorization": f"Bearer {TOKEN}"})


@pytest.fixture(scope="module")
def served(ingested) -> Iterator[Served]:
    store, slides, labels = ingested
    (record,) = Store.open(store).recipes()
    with client_of(store, labels=labels) as client:
        yield Served(client, store, slides, record.recipe.key, labels)
