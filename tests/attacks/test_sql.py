"""SQL as an attacker: conditions compare columns, queries read the tables they were given, and neither reads a file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from beph_store.engine.search.table import open_table
from beph_store.errors import QueryError
from beph_store.sqlguard import check_condition, check_query
from beph_store.store import Store, query

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "format1"
FULL = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))["full"]
SECRET = "hunter2"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A store, and a file beside it that no SQL may show."""
    home = tmp_path_factory.mktemp("sql")
    shutil.copytree(GOLDEN / "S", home / "S")
    (home / "secret.csv").write_text(f"row,tile,word\n0,0,{SECRET}\n")
    pl.read_csv(home / "secret.csv").write_parquet(home / "secret.parquet")
    pl.read_csv(home / "secret.csv").write_ndjson(home / "secret.json")
    pl.read_csv(home / "secret.csv").write_ipc(home / "secret.ipc")
    return home


READS = [
    "read_csv('{}/secret.csv')",
    "read_parquet('{}/secret.parquet')",
    "read_ipc('{}/secret.ipc')",
    "read_json('{}/secret.json')",
]
CONDITIONS = [
    "tile IN (SELECT tile FROM {read})",
    "tile = 0 UNION SELECT row FROM {read}",
    "tile IN (WITH q AS (SELECT tile FROM {read}) SELECT tile FROM q)",
    "EXISTS (SELECT 1 FROM {read})",
    "tile > (SELECT max(tile) FROM {read})",
    "1=1; CREATE TABLE z AS SELECT * FROM {read}",
    "tile = 0 -- {read}",
    "tile = 0 /* {read} */",
    "tile = CAST({read} AS INT)",
]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_no_condition_reads_a_file(home, condition, read):
    text = condition.format(read=read.format(home))
    with pytest.raises(QueryError) as caught:
        open_table(home / "S", recipe=FULL).where(text)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(QueryError):
        check_condition(text, ["tile", "row"])


QUERIES = [
    "SELECT * FROM {read}",
    "select * from {upper}",
    'SELECT * FROM "{name}"({arguments})',
    "SELECT * FROM {name}/**/({arguments})",
    "SELECT * FROM {name}\n\t({arguments})",
    "SELECT * FROM slides, {read}",
    "SELECT * FROM slides JOIN {read} r ON true",
    "WITH q AS (SELECT * FROM {read}) SELECT * FROM q",
    "SELECT * FROM (SELECT * FROM {read})",
    "CREATE TABLE z AS SELECT * FROM {read}",
    "SELECT slide_id FROM slides UNION SELECT word FROM {read}",
    "SELECT E'\\'' , * FROM {read}",
]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("text", QUERIES)
def test_no_query_reads_a_file(home, text, read):
    read = read.format(home)
    name, _, arguments = read.rstrip(")").partition("(")
    upper = f"{name.upper()}({arguments})"
    sql = text.format(read=read, name=name, arguments=arguments, upper=upper)
    with pytest.raises(QueryError) as caught:
        query(Store.open(home / "S"), sql, recipe=FULL)
    assert SECRET not in str(caught.value)


def test_polars_would_have_read_them(home):
    """Else the tests above would prove nothing: the same text, without the guard."""
    read = READS[0].format(home)
    assert SECRET in str(pl.SQLContext().execute(f"SELECT * FROM {read}", eager=True))


def test_a_new_function_of_polars_that_reads_files_would_be_noticed():
    """What polars takes after FROM is tried by name; each that it knows must be one that the guard refuses."""
    words = (
        "csv",
        "tsv",
        "ipc",
        "feather",
        "arrow",
        "json",
        "ndjson",
        "parquet",
        "avro",
        "delta",
        "iceberg",
        "excel",
        "lance",
    )
    for name in (
        f"{verb}_{word}"
        for verb in ("read", "scan")
        for word in (*words, "database", "lines", "text", "clipboard")
    ):
        try:
            pl.SQLContext().execute(f"SELECT * FROM {name}('nowhere')", eager=True)
        except (pl.exceptions.PolarsError, OSError) as error:
            if "not a supported table function" not in str(error):
                with pytest.raises(QueryError):
                    check_query(f"SELECT * FROM {name}('nowhere')")


def test_what_people_ask_still_works(home):
    table = open_table(home / "S", recipe=FULL)
    assert table.where("tile < 3 AND slide_id LIKE 'a/%' AND NOT (x = 0 OR tissue > 0.9)").sum() == 2
    assert table.where("case_id IN ('case-2', 'case-3')").sum() == 17
    many = ", ".join(f"'slide-{i}'" for i in range(3000))
    assert table.where(f"slide_id IN ({many})").sum() == 0
    found = query(
        Store.open(home / "S"), "SELECT count(*) AS n FROM tiles WHERE read_status = 'ok'", recipe=FULL
    )
    assert found["n"].item() == 56


def test_the_command_says_it_in_one_line(home):
    line = [
        sys.executable,
        "-m",
        "beph_store_cli",
        "query",
        str(home / "S"),
        f"SELECT * FROM read_csv('{home}/secret.csv')",
    ]
    done = subprocess.run([*line, "--recipe", FULL], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a query reads no files by itself (read_csv)")
    assert SECRET not in done.stdout + done.stderr
