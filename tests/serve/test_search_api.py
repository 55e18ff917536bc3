"""What is found over HTTP is what the engine finds; overlays align with the grid."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from beph_store.engine.search.ask import SearchOptions, ask_at, ask_images, ask_region, ask_slide, find
from beph_store.engine.search.table import open_table
from beph_store.serve.shelf import handle

from .conftest import NASTY


@pytest.fixture(scope="module")
def table(served):
    return open_table(served.store, labels=served.labels)


@pytest.fixture(scope="module")
def search(served):
    def post(code: int = 200, **body):
        answer = served.client.post(f"/api/recipes/{served.key}/search", json=body)
        assert answer.status_code == code, answer.text
        return answer.json()

    return post


def same(found, hits) -> None:
    assert [(h["slide_id"], h["tile"], h["x"], h["y"]) for h in found["hits"]] == [
        (h.slide_id, h.tile_index, *h.origin_l0) for h in hits
    ]
    assert [h["score"] for h in found["hits"]] == pytest.approx([h.score for h in hits])
    assert all(h["slide"] == handle(h["slide_id"]) for h in found["hits"])


def test_a_point_a_region_and_a_slide_find_what_the_engine_finds(table, search) -> None:
    x, y = (int(v) + 5 for v in table.flat.origin_l0[table.span(table.slide("drawn.tif"))][2])
    drawn = handle("drawn.tif")
    found = search(slide=drawn, point=[x, y], top=7)
    same(found, find(table, ask_at(table, "drawn.tif", x, y), SearchOptions(top=7)))
    assert found["query"]["tile"]["slide"] == drawn
    assert {hit["slide_id"] for hit in found["hits"]} == {NASTY}  # the own case is left out
    own = search(slide=drawn, point=[x, y], top=3, exclude="none")
    same(own, find(table, ask_at(table, "drawn.tif", x, y), SearchOptions(top=3, exclude="none")))
    assert own["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    box = (0, 0, 1400, 1000)
    options = SearchOptions(top=9, pool="max", exclude="none", where="tile % 2 = 0 AND age < 65")
    found = search(
        slide=handle(NASTY),
        region=list(box),
        top=9,
        pool="max",
        exclude="none",
        where="tile % 2 = 0 AND age < 65",
    )
    same(found, find(table, ask_region(table, NASTY, box), options))
    assert {hit["slide_id"] for hit in found["hits"]} == {"drawn.tif"}
    same(
        search(slide=drawn, per_slide=2, exclude="none", exact=True),
        find(table, ask_slide(table, "drawn.tif"), SearchOptions(top=24, per_slide=2, exclude="none")),
    )


def test_an_uploaded_image_finds_what_the_engine_finds(served, table, tmp_path) -> None:
    tile = int(table.flat.tile_index[4])
    name = table.flat.slide_ids[int(table.slide_of[4])]
    png = served.client.get(served.url(name, f"/tiles/{tile}.png")).content
    url = f"/api/recipes/{served.key}/search/image"
    answer = served.client.post(url, content=png, headers={"content-type": "image/png"}, params={"top": 5})
    assert answer.status_code == 200, answer.text
    (tmp_path / "tile.png").write_bytes(png)
    same(answer.json(), find(table, ask_images(table, [tmp_path / "tile.png"]), SearchOptions(top=5)))
    assert answer.json()["hits"][0]["tile"] == tile
    assert answer.json()["hits"][0]["score"] > 0.999


def jpeg(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "pink").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "params", "status"),
    [
        (b"no image", "image/png", {}, 422),
        (b"", "image/jpeg", {}, 422),
        (jpeg((224, 224)), "image/png", {}, 422),
        (jpeg((224, 224))[:200], "image/jpeg", {}, 422),
        (jpeg((224, 224)), "text/html", {}, 422),
        (jpeg((224, 224)), "image/svg+xml", {}, 422),
        (jpeg((300, 224)), "image/jpeg", {}, 422),
        (jpeg((100, 100)), "image/jpeg", {"fit": "centre"}, 422),
        (jpeg((224, 224)), "image/jpeg", {"fit": "stretch"}, 422),
        (jpeg((224, 224)), "image/jpeg", {"top": "0"}, 422),
        (jpeg((9000, 9000)), "image/jpeg", {"fit": "squeeze"}, 413),
        (jpeg((300, 260)), "image/jpeg", {"fit": "squeeze"}, 200),
    ],
)
def test_images_that_cannot_be_used_are_refused(served, content, kind, params, status) -> None:
    url = f"/api/recipes/{served.key}/search/image"
    answer = served.client.post(url, content=content, headers={"content-type": kind}, params=params)
    assert answer.status_code == status, answer.text
    assert status == 200 or set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"slide": 3}, 422),
        ({"slide": "0" * 16}, 404),
        ({"slide": "../../etc/passwd"}, 404),
        ({"slide": "D", "point": [1]}, 422),
        ({"slide": "D", "point": [1, True]}, 422),
        ({"slide": "D", "point": [1.5, 2]}, 422),
        ({"slide": "D", "point": [10**12, 2]}, 422),
        ({"slide": "D", "point": [900_000, 2]}, 422),
        ({"slide": "D", "point": [1, 2], "region": [0, 0, 1, 1]}, 422),
        ({"slide": "D", "region": [5, 5, 5, 5]}, 422),
        ({"slide": "D", "top": 0}, 422),
        ({"slide": "D", "top": True}, 422),
        ({"slide": "D", "top": 501}, 422),
        ({"slide": "D", "exclude": "all"}, 422),
        ({"slide": "D", "where": "path = 'x'"}, 422),
        ({"slide": "D", "where": "slide_id IN (SELECT k FROM read_csv('/etc/passwd'))"}, 422),
        ({"slide": "D", "tpo": 3}, 422),
    ],
)
def test_questions_that_cannot_be_meant_are_refused(search, body, status) -> None:
    body = {name: handle("drawn.tif") if value == "D" else value for name, value in body.items()}
    assert set(search(status, **body)) == {"error"}


@pytest.mark.parametrize("content", [b"{", b"", b"[1]", b"\xff", b'{"slide": ' + b"[" * 100_000])
def test_what_is_no_json_object_is_refused(served, content) -> None:
    url = f"/api/recipes/{served.key}/search"
    answer = served.client.post(url, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert set(answer.json()) == {"error"}
    assert served.client.post(url, data={"slide": "x"}).status_code == 422


def test_the_grid_is_the_stored_tiles_in_both_forms(served, table) -> None:
    rows = table.span(table.slide(NASTY))
    data = served.json(served.url(NASTY, "/grid.json"))
    assert data["tile"] == table.flat.tile_index[rows].tolist()
    assert np.array_equal(np.stack([data["x"], data["y"]], axis=1), table.flat.origin_l0[rows])
    assert data["footprint_l0"] == 224
    answer = served.client.get(served.url(NASTY, "/grid.bin"))
    assert answer.headers["content-type"] == "application/octet-stream"
    packed = np.frombuffer(answer.content, "<i4").reshape(-1, 3)
    assert packed[:, 0].tolist() == data["tile"]
    assert np.array_equal(packed[:, 1:], table.flat.origin_l0[rows])
    served.json(served.url(NASTY, "/grid.csv"), 404)
    served.json(served.url("broken.tif", "/grid.json"), 404)


def test_similarity_is_the_cosine_in_the_order_of_the_grid(served, table) -> None:
    rows = table.span(table.slide(NASTY))
    vectors = table.flat.vectors[rows].astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    tile, (x, y) = int(table.flat.tile_index[rows][2]), table.flat.origin_l0[rows][2].tolist()
    wanted = unit @ unit[2]
    data = served.json(served.url(NASTY, f"/similarity.json?tile={tile}"))
    assert data["score"] == pytest.approx(wanted, abs=1e-4)
    assert data["score"][2] == 1
    packed = served.client.get(served.url(NASTY, f"/similarity.bin?x={x + 9}&y={y + 9}"))
    assert packed.headers["x-tile"] == str(tile)
    assert np.frombuffer(packed.content, "<f4") == pytest.approx(wanted, abs=1e-4)
    other = served.json(served.url("drawn.tif", f"/similarity.json?tile={tile}&of={handle(NASTY)}"))
    theirs = table.flat.vectors[table.span(table.slide("drawn.tif"))].astype(np.float64)
    assert other["score"] == pytest.approx(theirs @ unit[2] / np.linalg.norm(theirs, axis=1), abs=1e-4)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 422),
        ("tile=1&x=1&y=1", 422),
        ("x=1", 422),
        ("tile=x", 422),
        ("tile=99999", 404),
        ("x=900000&y=1", 422),
    ],
)
def test_similarity_to_nothing_is_refused(served, query: str, status: int) -> None:
    assert set(served.json(served.url(NASTY, f"/similarity.json?{query}"), status)) == {"error"}
    served.json(served.url(NASTY, "/similarity.json?tile=1&of=0"), 404)


def test_the_tissue_is_a_mask_that_lies_over_the_slide(served, table) -> None:
    answer = served.client.get(served.url("drawn.tif", "/tissue.png"))
    picture = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
    mask = table.store.rasters(served.key, "drawn.tif").tissue.mask
    assert np.array_equal(picture[..., 3] > 0, mask)
    assert 0 < mask.mean() < 1
