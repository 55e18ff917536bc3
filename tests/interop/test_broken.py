"""Malformed, cut off and mismatched files: one line about that slide, and the store as it was."""

import hashlib
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from beph_store.engine.importing import ImportOptions, import_features
from beph_store.interop.hdf5 import Dataset, write_h5
from beph_store.store import Store
from tests.interop import layouts
from tests.interop.test_published import ASKED, written


def h5_of(root: Path, kind: str, name: str = "b") -> Path:
    return next(
        path for path in sorted(root.rglob(f"{name}.h5")) if kind != "clam" or path.parent.name == "h5_files"
    )


def cut(path: Path, keep: float = 0.5) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])


def edit(name: str, change):
    def do(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            data = change(file[name][()])
            attributes = dict(file[name].attrs)
            del file[name]
            file[name] = data
            file[name].attrs.update(attributes)

    return do


def attribute(where: str, name: str, value):
    def do(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            attributes = file[where].attrs
            if value is None:
                del attributes[name]
            else:
                attributes[name] = value

    return do


def poked(value: float):
    def change(data: np.ndarray) -> np.ndarray:
        data = data.copy()
        data[3, 1] = value
        return data

    return change


def zero_row(data: np.ndarray) -> np.ndarray:
    data = data.copy()
    data[3] = 0
    return data


def patches(then):
    return lambda path: then(path.parents[1] / "patches" / path.name)


FEATURES = {"clam": "features", "trident": "features", "stamp": "feats", "atlaspatch": "features/uni_v2"}
COMMON = {
    "cut off": (cut, "no whole HDF5 file|cannot be read"),
    "text": (lambda path: path.write_text("features"), "no whole HDF5 file"),
    "empty": (lambda path: path.write_bytes(b""), "no whole HDF5 file"),
    "NaN": (
        lambda kind: edit(FEATURES[kind], poked(np.nan)),
        "1 of 40 vectors cannot be stored, 1 hold a NaN",
    ),
    "infinite": (lambda kind: edit(FEATURES[kind], poked(np.inf)), "infinite or beyond 65504"),
    "a zero row": (lambda kind: edit(FEATURES[kind], zero_row), "1 of 40 vectors are all zero"),
    "fewer rows": (
        lambda kind: edit(FEATURES[kind], lambda d: d[:-3]),
        "37 rows of features and 40|coords of shape",
    ),
    "fewer places": (lambda kind: edit("coords", lambda d: d[:-3]), "40 .*37|37 .*40|coords of shape"),
    "flat": (lambda kind: edit(FEATURES[kind], lambda d: d[:, 0]), "not \\(tiles, values\\)|coords of shape"),
    "whole numbers": (lambda kind: edit(FEATURES[kind], lambda d: d.astype(np.int16)), "are int16"),
    "no features": (lambda kind: edit(FEATURES[kind], lambda d: np.bytes_("x")), "not numbers"),
    "another length": (lambda kind: edit(FEATURES[kind], lambda d: d[:, :5]), "vectors of 5 values, 12 in"),
}
OWN = {
    ("clam", "beyond float16"): (edit("features", poked(1e6)), "beyond 65504"),
    ("clam", "other tiles"): (patches(edit("coords", lambda d: d + 1)), "they are of another run"),
    ("clam", "no side"): (patches(attribute("coords", "patch_size", None)), "lack the attribute patch_size"),
    ("clam", "no scale"): (patches(attribute("coords", "downsample", None)), "lack the attribute downsample"),
    ("clam", "odd scale"): (patches(attribute("coords", "downsample", "two")), "not one or two numbers"),
    ("clam", "squeezed"): (patches(attribute("coords", "downsample", (2.0, 3.0))), "shrunk unequally"),
    ("trident", "no side"): (attribute("coords", "patch_size", None), "lack the attribute patch_size"),
    ("trident", "odd side"): (attribute("coords", "patch_size", 25.5), "not a whole number"),
    ("trident", "no coords"): (edit("coords", lambda d: np.bytes_("x")), "not numbers"),
    ("trident", "another slide's"): (
        attribute("coords", "level0_width", 900),
        "beyond the slide of 900 × 30000",
    ),
    ("trident", "another step"): (attribute("coords", "overlap", 128), "--stride-px 256"),
    ("trident", "fractions of px"): (edit("coords", lambda d: d + 0.5), "no whole numbers"),
    ("trident", "far away"): (edit("coords", lambda d: d + (1 << 40)), "beyond any slide"),
    ("stamp", "no unit"): (attribute("/", "tile_size_um", None), "STAMP before 2.0"),
    ("stamp", "other unit"): (attribute("/", "unit", "px"), "not in µm"),
    ("stamp", "slide features"): (attribute("/", "feat_type", "slide"), "one vector a slide"),
    ("atlaspatch", "no side"): (
        attribute("/", "patch_size_level0", None),
        "lacks the attribute patch_size_level0",
    ),
}
CASES = [(kind, what) for kind in FEATURES for what in COMMON] + list(OWN)


def state(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "locks" not in path.parts
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """For each format, a store that holds the good slide of a folder."""
    made = {}
    for kind in ASKED:
        folder = tmp_path_factory.mktemp(kind)
        written(kind, folder / "good", layouts.draw("a", seed=5))
        import_features(kind, folder / "good", folder / "S", options=ASKED[kind])
        made[kind] = folder / "S"
    return made


def refused(kind: str, root: Path, store: Path) -> str:
    """The one line about slide b, once it was seen that the store is what it was."""
    before = state(store)
    report = import_features(kind, root, store, options=ASKED[kind])
    assert state(store) == before
    assert [(o.slide_id, o.status) for o in report.slides if o.slide_id != "a"] == [("b", "failed")]
    why = report.failed[0].error
    assert why
    assert "\n" not in why
    return why


@pytest.mark.parametrize(("kind", "what"), CASES, ids=lambda x: x.replace(" ", "-"))
def test_a_broken_h5_costs_its_slide_and_nothing_else(good, tmp_path, kind, what):
    written(kind, tmp_path / "f", layouts.draw("a", seed=5))
    written(kind, tmp_path / "f", layouts.draw("b"))
    if (kind, what) in OWN:
        harm, match = OWN[kind, what]
    else:
        harm, match = COMMON[what]
        harm = harm if what in ("cut off", "text", "empty") else harm(kind)
    harm(h5_of(tmp_path / "f", kind))
    why = refused(kind, tmp_path / "f", good[kind])
    if kind == "atlaspatch" and what in ("cut off", "text", "empty"):
        match = "no whole HDF5 file|cannot be read"
    assert re.search(match, why), why


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (lambda f: cut(f / "tile_embeddings" / "b.pt"), "cut off"),
        (lambda f: (f / "tile_embeddings" / "b.pt").unlink(), "its vectors are not"),
        (lambda f: cut(f / "tiles" / "b.coordinates.npz"), "cannot be read"),
        (lambda f: (f / "tiles" / "b.coordinates.npz").unlink(), "no file of coordinates"),
        (lambda f: (f / "tiles" / "b.coordinates.meta.json").unlink(), "is not there"),
        (lambda f: (f / "tile_embeddings" / "b.meta.json").write_text("{"), "no JSON"),
        (lambda f: (f / "tile_embeddings" / "b.meta.json").write_text("{}"), "lack or misstate"),
        (lambda f: said(f, "num_tiles", 39), "39"),
        (lambda f: said(f, "encoder_name", "another"), "of the encoder another"),
    ],
)
def test_a_broken_slide2vec_costs_its_slide_and_nothing_else(good, tmp_path, harm, match):
    for name in "ab":
        layouts.slide2vec(tmp_path / "f", layouts.draw(name, seed=5 if name == "a" else 0))
    harm(tmp_path / "f")
    assert match in refused("slide2vec", tmp_path / "f", good["slide2vec"])


def said(folder: Path, name: str, value) -> None:
    path = folder / "tile_embeddings" / "b.meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (lambda t: {"features": t.randn(4, 12), "coords": t.zeros(4, 2)}, "not whole px"),
        (lambda t: {"features": t.randn(4, 12), "coords": t.zeros(3, 2).long()}, "4 rows of features and 3"),
        (lambda t: {"x": t.randn(4, 12)}, "no features among its tensors"),
        (lambda t: t.randn(4), "not (tiles, values)"),
        (lambda t: t.nn.Linear(2, 2), "nothing of it was run"),
        (lambda t: [1, 2], "neither a tensor"),
    ],
)
def test_a_broken_bag_costs_its_slide_and_nothing_else(good, tmp_path, tensors, match):
    torch = pytest.importorskip("torch")
    layouts.bags(tmp_path / "f", layouts.draw("a", seed=5), as_dict=True)
    torch.save(tensors(torch), tmp_path / "f" / "b.pt")
    assert match in refused("bags", tmp_path / "f", good["bags"])


def test_two_files_of_one_id_are_refused_both(tmp_path):
    """Two folders of slides without an extractor between them."""
    for number, name in enumerate(("one", "two")):
        layouts.stamp(tmp_path / "f" / name, layouts.draw("a", seed=number))
    report = import_features("stamp", tmp_path / "f", tmp_path / "S", options=ASKED["stamp"])
    assert [o.status for o in report.slides] == ["failed", "failed"]
    assert "two files have this id" in (report.failed[0].error or "")


def test_a_changed_file_is_refused_until_it_may_replace(tmp_path):
    layouts.clam(tmp_path / "f", layouts.draw("a"))
    options = ASKED["clam"]
    first = import_features("clam", tmp_path / "f", tmp_path / "S", options=options)
    other = layouts.draw("a", seed=9)
    layouts.clam(tmp_path / "f", other)
    again = import_features("clam", tmp_path / "f", tmp_path / "S", options=options)
    assert "pass --replace" in (again.failed[0].error or "")
    replace = ImportOptions(encoder_name="resnet50", mpp=0.5, replace=True)
    import_features("clam", tmp_path / "f", tmp_path / "S", options=replace)
    bag = Store.open(tmp_path / "S").bag(first.recipe, "a")
    np.testing.assert_array_equal(bag.vectors, other.vectors.astype(np.float16))


def test_only_whole_h5_files_get_their_name(tmp_path):
    write_h5(tmp_path / "a.h5", {"x": Dataset(np.ones((2, 2)))})
    before = (tmp_path / "a.h5").read_bytes()
    with pytest.raises(TypeError):
        write_h5(tmp_path / "a.h5", {"x": Dataset(np.array([object()]))})
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert (tmp_path / "a.h5").read_bytes() == before
