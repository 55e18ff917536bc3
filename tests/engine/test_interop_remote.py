"""A store in a bucket imports and exports like one on a disk; other tools' files lie on a disk."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from beph_store.engine.exporting import export_features
from beph_store.engine.exporting_geojson import export_geojson
from beph_store.engine.importing import ImportOptions, import_features, import_table
from beph_store.errors import UsageError
from beph_store.store import Store, verify
from beph_store_cli.main import app
from tests.interop import layouts
from tests.objects.server import environment

ASKED = ImportOptions(encoder_name="drawn", mpp=0.5, mpp_l0=0.25)


@pytest.fixture(scope="module")
def both(moto, tmp_path_factory):
    """A folder of CLAM's features, and the stores that they were imported into: on a disk and in a bucket."""
    folder = tmp_path_factory.mktemp("interop")
    for seed, tiles in enumerate((12, 9, 40)):
        layouts.clam(folder / "in", layouts.draw(f"s{seed}", tiles, seed=seed), pt=False)
    with environment(moto), pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEPH_STORE_WORK", str(folder / "work"))
        stores = str(folder / "S"), f"{moto.bucket()}/a study/S"
        for store in stores:
            report = import_features("clam", folder / "in", store, options=ASKED)
            assert [one.status for one in report.slides] == ["done"] * 3
        yield folder, *stores


def rows(address):
    store = Store.open(address)
    return {row.slide_id: row.sha256 for row in store.rows(store.recipe().recipe.key)}


def test_the_store_in_the_bucket_is_the_one_on_the_disk(both):
    folder, disk, bucket = both
    assert rows(bucket) == rows(disk)
    assert verify(Store.open(bucket)).ok
    again = import_features("clam", folder / "in", bucket, options=ASKED)
    assert [one.status for one in again.slides] == ["skipped"] * 3


@pytest.mark.parametrize("kind", ["clam", "parquet"])
def test_it_is_exported_alike(both, kind, tmp_path):
    _, disk, bucket = both
    for store, out in ((disk, "disk"), (bucket, "bucket")):
        report = export_features(kind, store, tmp_path / out)
        assert [one.status for one in report.slides] == ["done"] * 3
    names = [
        sorted(str(p.relative_to(tmp_path / o)) for p in (tmp_path / o).rglob("*"))
        for o in ("disk", "bucket")
    ]
    assert names[0] == names[1]
    if kind == "clam":
        for name in ("s0", "s1", "s2"):
            files = [tmp_path / out / "h5_files" / f"{name}.h5" for out in ("disk", "bucket")]
            with h5py.File(files[0]) as one, h5py.File(files[1]) as other:
                np.testing.assert_array_equal(one["features"][:], other["features"][:])
                np.testing.assert_array_equal(one["coords"][:], other["coords"][:])
    again = export_features(kind, bucket, tmp_path / "bucket")
    assert [one.status for one in again.slides] == ["skipped"] * 3


def test_an_export_of_a_bucket_goes_back_into_one(both, s3, tmp_path):
    _, disk, bucket = both
    export_features("trident", bucket, tmp_path / "out")
    import_features("trident", tmp_path / "out", f"{s3}/T", options=ASKED)
    assert rows(f"{s3}/T") == rows(disk)
    assert [path.name for path in export_geojson(f"{s3}/T", tmp_path / "geo")] == [
        f"s{n}.geojson" for n in range(3)
    ]


def test_a_table_goes_into_a_bucket(s3, tmp_path):
    table = tmp_path / "f.csv"
    table.write_text("slide_id,f0,f1\na,1,2\nb,3,4\n")
    report = import_table(table, f"{s3}/S", columns=r"f\d")
    assert [one.status for one in report.slides] == ["done"] * 2
    assert verify(Store.open(f"{s3}/S")).ok


SYNC = "`aws s3 sync s3://bucket/features DIR` first"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["import", "clam", "s3://bucket/features", "--store", "S", "--encoder-name", "x", "--mpp", "0.5"],
            SYNC,
        ),
        (["import", "table", "s3://bucket/features", "--store", "S", "--columns", "f.*"], SYNC),
        (["import", "clam", "in", "--coords", "s3://bucket/features", "--store", "S"], SYNC),
        (["import", "clam", "in", "--slides", "s3://bucket/features", "--store", "S"], SYNC),
        (["export", "trident", "S", "-o", "s3://bucket/out"], "then `aws s3 sync DIR s3://bucket/out`"),
        (
            ["export", "geojson", "S", "-o", "gs://bucket/out"],
            "then `gcloud storage rsync -r DIR gs://bucket/out`",
        ),
    ],
)
def test_files_in_a_bucket_are_refused_with_the_cure(both, arguments, says, monkeypatch):
    folder, *_ = both
    monkeypatch.chdir(folder)
    ran = CliRunner().invoke(app, arguments)
    assert isinstance(ran.exception, UsageError), ran.output
    assert says in str(ran.exception)
    assert "\n" not in str(ran.exception)
    assert not Path("s3:").exists()
    assert not Path("gs:").exists()
