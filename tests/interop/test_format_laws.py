"""Written and read again is the same: every format of slide features, tensors, outlines and recipes."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beph_store.interop import SlideFeatures, format_named
from beph_store.interop.geojson import area_feature, collection, read_geojson, tile_feature
from beph_store.interop.regions import signed_area
from beph_store.interop.tensors import read_pt, write_pt
from beph_store.records import EncoderSpec, Recipe, TileSpec
from tests.laws import examples

#: Format → dtype that its vectors keep exactly. STAMP and slide2vec hold half precision as it is.
HELD = {
    "clam": np.float32,
    "trident": np.float32,
    "stamp": np.float16,
    "bags": np.float32,
    "slide2vec": np.float32,
    "atlaspatch": np.float32,
}
_FIELDS = ("footprint_l0", "tile_px", "stride_px", "mpp", "mpp_l0", "size_l0", "encoder")


@st.composite
def slides(draw, dtype):
    """Features of one slide: any finite values, places that no two tiles share, and all that a file may state."""
    n, dim = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    width = 16 if dtype is np.float16 else 32
    numbers = st.floats(width=width, allow_nan=False, allow_infinity=False)
    values = draw(st.lists(numbers, min_size=n * dim, max_size=n * dim))
    places = draw(st.lists(st.tuples(*[st.integers(0, 200_000)] * 2), min_size=n, max_size=n, unique=True))
    tile_px, mpp, mpp_l0 = draw(st.integers(16, 1024)), draw(st.sampled_from([0.25, 0.5, 1.0, 2.0])), 0.25
    return SlideFeatures(
        slide_id="a b",
        vectors=np.array(values, dtype).reshape(n, dim),
        path=Path(),
        origin_l0=np.array(places, np.int32),
        footprint_l0=round(tile_px * mpp / mpp_l0),
        tile_px=tile_px,
        mpp=mpp,
        mpp_l0=mpp_l0,
        size_l0=(300_000, 300_001),
        encoder="toy",
        stride_px=draw(st.integers(8, 2048)),
        tissue=np.linspace(0.3, 1, n, dtype=np.float32),
        tissue_min=0.25,
    )


@pytest.mark.parametrize("kind", HELD)
def test_features_come_back(kind):
    pytest.importorskip("h5py", reason="no h5py: pip install 'beph-store[interop]'")
    form = format_named(kind)

    @examples(12)
    @given(slides(HELD[kind]))
    def law(slide):
        with tempfile.TemporaryDirectory() as folder:
            form.write(Path(folder), slide)
            (found,) = form.find(Path(folder))
            back = form.open(found)
            if back.origin_l0 is None and back.coords_um is not None:  # of STAMP, once mpp_l0 is said
                origin = np.rint(back.coords_um / slide.mpp_l0).astype(np.int32)
            else:
                origin = back.origin_l0
        assert back.slide_id == slide.slide_id
        assert np.array_equal(back.vectors, slide.vectors)
        if kind != "bags":
            assert np.array_equal(origin, slide.origin_l0)
        for name in _FIELDS:  # what a format states is what was said; what it cannot say stays open
            stated, said = getattr(back, name), getattr(slide, name)
            if kind == "atlaspatch" and name == "stride_px" and said > slide.tile_px:
                continue  # it has no word for a gap
            if kind == "clam" and name == "tile_px":
                said = slide.footprint_l0  # it knows tiles as they were cut only
            assert stated is None or stated == pytest.approx(said), name

    law()


arrays = st.tuples(
    st.sampled_from(["float16", "float32", "float64", "int64", "int32", "uint8"]),
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.binary(min_size=512, max_size=512),
).map(lambda drawn: _array(*drawn))


def _array(dtype, shape, raw):
    return np.frombuffer(raw, dtype)[: int(np.prod(shape))].reshape(shape)


@examples(60)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), arrays, min_size=1, max_size=3))
def test_tensors_come_back_bit_by_bit(tensors):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pt"
        write_pt(path, tensors)
        back = read_pt(path, "a")
        assert isinstance(back, dict)
        assert back.keys() == tensors.keys()
        for name, array in tensors.items():
            assert back[name].dtype == array.dtype
            assert back[name].shape == array.shape
            assert back[name].tobytes() == array.tobytes()


@st.composite
def outlines(draw):
    """Boxes with a hole or without, in hundredths of a px, as outlines are written."""
    whole = st.integers(0, 10_000_000)
    x, y, w, h = (
        draw(whole) / 100,
        draw(whole) / 100,
        draw(st.integers(40, 90_000)),
        draw(st.integers(40, 90_000)),
    )
    ring = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])
    hole = np.array([(x + w / 4, y + h / 4), (x + w / 2, y + h / 4), (x + w / 2, y + h / 2)])
    return (ring, hole) if draw(st.booleans()) else (ring,)


labels = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12)


@examples(60)
@given(
    st.lists(st.tuples(outlines(), labels), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.integers(1, 9999),
)
def test_outlines_come_back(areas, corner, side):
    features = [area_feature(polygon, {"classification": {"name": name}}) for polygon, name in areas]
    features.append(tile_feature((corner, corner + 1), side, {"classification": {"name": "tile's"}}))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.geojson"
        path.write_text(json.dumps(collection(features)))
        found = read_geojson(path)
    assert found.left_out == ()
    *drawn, tile = found.regions
    assert [region.label for region in drawn] == [name for _, name in areas]
    for region, (polygon, _) in zip(drawn, areas, strict=True):
        assert len(region.polygons[0]) == len(polygon)
        for ring, was in zip(region.polygons[0], polygon, strict=True):
            np.testing.assert_allclose(ring, was, rtol=0, atol=0.00501)
        assert not region.exact
        assert region.area == pytest.approx(
            abs(signed_area(polygon[0])) - sum(abs(signed_area(hole)) for hole in polygon[1:]), rel=1e-2
        )
        back = region.moved((3.5, -2)).moved((-3.5, 2))
        np.testing.assert_allclose(back.polygons[0][0], region.polygons[0][0], atol=1e-6)
    assert tile.exact
    assert tile.box == (corner, corner + 1, corner + side, corner + 1 + side)


@st.composite
def recipes(draw):
    number = st.floats(0.01, 500, allow_nan=False)
    tile = TileSpec(
        draw(st.integers(1, 4096)),
        draw(number),
        draw(st.integers(1, 4096)),
        draw(st.floats(0, 1)),
        draw(labels),
        draw(st.none() | st.integers(1, 1000)),
    )
    three = st.tuples(number, number, number)
    encoder = EncoderSpec(
        draw(labels), draw(labels), draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        224, draw(number), draw(st.integers(1, 4096)), "mean", draw(three), draw(three), "fp32", draw(labels),
    )  # fmt: skip
    return Recipe(tile, encoder)


@examples(100)
@given(recipes(), recipes())
def test_a_recipe_comes_back_with_its_key_and_no_other_has_it(recipe, other):
    back = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert back == recipe
    assert back.key == recipe.key
    assert (other.key == recipe.key) == (other == recipe)
    for changed in (
        dataclasses.replace(recipe, vector_dtype="float32"),
        dataclasses.replace(recipe, tile=dataclasses.replace(recipe.tile, tile_px=recipe.tile.tile_px + 1)),
        dataclasses.replace(recipe, encoder=dataclasses.replace(recipe.encoder, dim=recipe.encoder.dim + 1)),
    ):
        assert changed.key != recipe.key
