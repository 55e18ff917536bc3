"""A store in a bucket whose server loses answers, whose writers die, and whose credentials are wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import lance
import numpy as np
import pytest

from beph_store.errors import ObjectStorageError, StoreError, UsageError
from beph_store.objects import storage_options
from beph_store.store import Store, compact, locks, verify
from beph_store.store.conditional import require_conditional_puts
from beph_store.store.journal import Journal
from beph_store.store.layout import Layout
from beph_store.store.place import ObjectPath, place, remove_tree
from beph_store.testing.store_parts import KEY, RECIPE, claimed, fill, rasters_of, row_of, seal, writer_of
from tests.objects.proxy import Proxy, faulty
from tests.objects.server import ACCESS_KEY, SECRET_KEY, environment, free_port, rclone_server


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("BEPH_STORE_WORK", str(tmp_path / "work"))


@pytest.fixture
def proxy(moto):
    with faulty(moto) as proxy, environment(proxy.server):
        yield proxy


@pytest.fixture
def store(proxy):
    return Store.create(f"{proxy.server.bucket()}/S", written_by="tests")


def lose(proxy: Proxy, method: str, what: str, times: int = 1) -> None:
    """The next answers to such requests are errors, though all was done."""
    left = [times]

    def plan(asked: str, path: str):
        if asked == method and re.search(what, path) and left[0]:
            left[0] -= 1
            return "after"
        return None

    proxy.plan = plan


def data_files(store: Store) -> list[str]:
    return [file.path for f in store.dataset(KEY).get_fragments() for file in f.data_files()]


def whole(store: Store, slides: int, rows: int) -> None:
    report = verify(store)
    assert report.problems == []
    assert (report.slides, store.dataset(KEY).count_rows()) == (slides, rows)
    assert len(set(data_files(store))) == len(data_files(store))


def test_a_caller_who_tries_again_after_an_error_commits_twice(store, proxy):
    """Why `append` looks first and counts afterwards. A single lost answer Lance finds out about by itself.

    Once, on a busy machine, the second commit left 9 rows: what Lance makes of a commit is not held here, only that the
    rows can be there twice.
    """
    writer = writer_of(store)
    seal(writer, "a.svs", 9)
    (ready,) = writer._ready
    uri = str(store.layout.tiles(KEY))

    def commit():
        lance.LanceDataset.commit(
            uri,
            lance.LanceOperation.Append(
                [lance.FragmentMetadata.from_json(json.dumps(f)) for f in ready.fragments]
            ),
            read_version=lance.dataset(uri, storage_options=storage_options(uri)).version,
            storage_options=storage_options(uri),
        )

    lose(proxy, "PUT", r"/tiles/.*/_versions/")
    commit()
    assert proxy.faults["after"] == 1
    assert store.dataset(KEY).count_rows() >= 9
    for _ in range(3):
        if store.dataset(KEY).count_rows() == 9:
            commit()
    assert store.dataset(KEY).count_rows() == 18
    writer.close()  # a writer that finds its slide there twice puts it right
    whole(store, 1, 9)


@pytest.mark.parametrize("times", [1, 3])
def test_a_lost_answer_to_a_commit_doubles_nothing(store, proxy, times):
    writer = writer_of(store)
    for name in ("a.svs", "b.svs"):
        seal(writer, name, 9)
    lose(proxy, "PUT", r"/tiles/.*/_versions/", times)
    writer.close()
    assert proxy.faults["after"] == times
    whole(store, 2, 18)


def test_a_commit_that_is_never_answered_is_found_done(store, proxy, monkeypatch):
    """The client gives up; the next look at the table says that it was done."""
    monkeypatch.setattr("beph_store.objects.RETRIES", 1)
    writer = writer_of(store)
    seal(writer, "a.svs", 9)
    lose(proxy, "PUT", r"/tiles/.*/_versions/", 2)
    writer.close()
    whole(store, 1, 9)


def test_a_lost_answer_to_the_registry_leaves_one_row_each(store, proxy):
    writer = writer_of(store)
    for name in ("a.svs", "b.svs"):
        seal(writer, name, 9)
    lose(proxy, "PUT", r"/slides\.lance/_versions/", 2)
    writer.close()
    assert proxy.faults["after"] == 2
    assert store.registry.dataset().count_rows() == 2
    whole(store, 2, 18)


def test_lost_answers_while_a_store_is_made(proxy):
    lose(proxy, "PUT", r"/_versions/|/locks/", 4)
    store = Store.create(f"{proxy.server.bucket()}/S", written_by="tests")
    assert proxy.faults["after"] == 4
    assert store.rows(KEY) == []


def test_a_lease_whose_answer_was_lost_is_ours(store, proxy):
    lose(proxy, "PUT", r"\.lease$")
    writer = writer_of(store)
    claimed(writer, "a.svs")
    assert proxy.faults["after"] == 1
    writer.release("a.svs")
    assert writer_of(store).claim("a.svs") is not None


def test_a_journal_whose_answer_was_lost_has_the_entry_once(store, proxy):
    journal = Journal(store.layout.annotations(KEY))
    for number in range(3):
        lose(proxy, "PUT", r"/annotations/", 2)
        journal.append(lambda seen, n=number: {"n": n})
    assert [entry["n"] for entry in Journal(store.layout.annotations(KEY)).read()] == [0, 1, 2]


def test_a_dead_holder_is_followed_by_the_servers_clock(store, monkeypatch):
    """A process that claims a slide, seals another, and is killed. Death comes soon only when that is waited for."""
    script = (
        "import sys, time\nfrom beph_store.store import Store\n"
        "from beph_store.testing.store_parts import claimed, seal, writer_of\n"
        "writer = writer_of(Store.open(sys.argv[1]), 'dead')\n"
        "seal(writer, 'sealed.svs', 9)\nclaimed(writer, 'a.svs')\nprint('claimed', flush=True)\ntime.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(store.layout.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "claimed\n"
        writer = writer_of(store, "heir")
        assert writer.claim("a.svs") is None
        with pytest.raises(StoreError, match="another process"):
            compact(store)
        process.send_signal(signal.SIGKILL)
    assert writer.claim("a.svs") is None  # it may only be slow
    monkeypatch.setattr(locks, "DEAD_S", 1.0)
    end = time.monotonic() + 20
    while (claim := writer.claim("a.svs")) is None:
        assert time.monotonic() < end
        time.sleep(0.3)
    fill(writer, claim, 5)
    writer.seal(claim, rasters_of(), row_of("a.svs"))
    row = writer.recover(claimed(writer, "sealed.svs"))
    assert row is not None
    assert row.run == "dead"
    writer.close()
    whole(store, 2, 14)
    compact(store)
    names = {path.suffix for path in (store.layout.root / "locks").iterdir()}
    assert names <= {".session"}  # ours


def test_a_holder_that_slept_through_its_death_spoils_nothing(store, monkeypatch):
    """Others took its slide over and cleaned up; it wakes and commits what is no longer there."""
    monkeypatch.setattr(locks, "BEAT_S", 600.0)  # it does not beat: it sleeps
    sleeper = writer_of(store, "sleeper")
    seal(sleeper, "a.svs", 9)
    seal(sleeper, "b.svs", 9)
    monkeypatch.setattr(locks, "_SESSIONS", {})  # another process, so to speak
    monkeypatch.setattr(locks, "DEAD_S", -1.0)  # so long that any other session is dead
    for name in ("a.svs", "b.svs"):
        remove_tree(store.layout.slide_staging(KEY, name))
    heir = writer_of(store, "heir")
    seal(heir, "a.svs", 9, version=1)
    heir.close()
    compact(store)
    with pytest.raises(StoreError, match="took this one for dead"):
        sleeper.publish(force=True)
    whole(store, 1, 9)
    np.testing.assert_array_equal(store.slides(KEY)["run"].to_list(), ["heir"])
    retried = writer_of(store, "again")
    seal(retried, "b.svs", 9)
    retried.close()
    whole(store, 2, 18)


def _contend(root: str, number: int) -> None:
    writer = writer_of(Store.open(root), f"writer-{number}")
    for at in range(8):
        slide_id = f"{(at + 2 * number) % 8}.svs"
        claim = writer.claim(slide_id)
        known = writer.registry.get(KEY, slide_id)
        if claim is None or (known and known.complete):
            writer.release(slide_id)
            continue
        fill(writer, claim, 30)
        writer.seal(claim, rasters_of(), row_of(slide_id))
        writer.publish(force=True)
    writer.close()


@pytest.mark.soak
def test_four_processes_and_a_server_that_loses_answers_and_stalls(moto):
    """A twentieth of the answers lost, and bursts in which all it says is 503."""
    begun = time.monotonic()

    def burst(method: str, path: str):
        return "busy" if (time.monotonic() - begun) % 4 < 0.3 else None

    with faulty(moto, seed=8, before=0.02, after=0.03) as proxy, environment(proxy.server):
        proxy.plan = burst
        store = Store.create(f"{proxy.server.bucket()}/S", written_by="tests")
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=_contend, args=(str(store.layout.root), i)) for i in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4
        proxy.plan = lambda method, path: None
        proxy.shares = {}
        whole(store, 8, 8 * 30)
        assert proxy.faults["after"]
        assert proxy.faults["busy"]


def test_a_server_that_ignores_conditions_gets_no_store():
    with rclone_server() as server, environment(server):
        root = f"{server.bucket()}/S"
        with pytest.raises(StoreError, match="ignores conditional puts") as refused:
            Store.create(root, written_by="tests")
        assert "\n" not in str(refused.value)
        assert [*place(root).rglob("*")] == []
        with pytest.raises(StoreError, match="ignores conditional puts"):
            Journal(Layout(place(root)).annotations(KEY)).append(lambda seen: {})


def test_the_probe_is_asked_once_a_server(s3, monkeypatch):
    root = place(f"{s3}/S")
    require_conditional_puts(root)
    monkeypatch.setattr(ObjectPath, "put_new", None)
    require_conditional_puts(root)
    with pytest.raises(TypeError):
        require_conditional_puts(place("s3://other/S"))


def test_a_second_look_at_the_registry_costs_no_second_client(store, proxy):
    """Every table is opened with the same options: no request goes to look for credentials or regions."""
    writer = writer_of(store)
    seal(writer, "a.svs", 9)
    writer.close()
    before = proxy.requests.total()
    store.rows(KEY)
    assert proxy.requests.total() - before <= 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-" + SECRET_KEY}, "refuses these credentials"),
        ({"AWS_ACCESS_KEY_ID": "AKIAWRONG"}, "refuses these credentials"),
        ({"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}, "cannot be reached"),
        ({"AWS_ACCESS_KEY_ID": None}, "no credentials"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_without_secrets(seaweed, monkeypatch, change, said):
    monkeypatch.setattr("beph_store.objects.RETRIES", 2)
    with environment(seaweed):
        bucket = seaweed.bucket()
        for name, value in change.items():
            monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
        for attempt in (Store.open, lambda root: Store.create(root, written_by="tests")):
            with pytest.raises((ObjectStorageError, UsageError), match=said) as failed:
                attempt(f"{bucket}/S")
            text = str(failed.value)
            assert "\n" not in text
            assert SECRET_KEY not in text
            assert ACCESS_KEY not in text


def test_no_such_bucket_is_said(seaweed):
    with environment(seaweed):
        for attempt in (Store.open, lambda root: Store.create(root, written_by="tests")):
            with pytest.raises(ObjectStorageError, match="has no bucket absent-bucket: make it first"):
                attempt("s3://absent-bucket/S")


def test_a_server_that_never_answers_is_an_error_and_no_wait(store, proxy, monkeypatch):
    monkeypatch.setattr("beph_store.objects.REQUEST_S", 1)
    monkeypatch.setattr("beph_store.objects.RETRY_S", 1)
    monkeypatch.setattr("beph_store.objects.RETRIES", 1)
    monkeypatch.setattr("beph_store.objects._OPEN", {})
    proxy.plan = lambda method, path: "hang"
    begun = time.monotonic()
    with pytest.raises(ObjectStorageError, match="cannot be reached"):
        Store.open(store.layout.root)
    with pytest.raises(ObjectStorageError, match="cannot be reached"):
        store.rows(KEY)
    assert time.monotonic() - begun < 20


def test_the_secret_is_nowhere(store, proxy, tmp_path):
    """Not in what a command prints, with every log that Lance and its client have, nor in the store."""
    writer = writer_of(store)
    seal(writer, "a.svs", 9)
    writer.close()
    logs = {"LANCE_LOG": "trace", "RUST_LOG": "trace", "RUST_BACKTRACE": "1"}
    for change in ({}, {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}):
        done = subprocess.run(
            [sys.executable, "-m", "beph_store_cli", "--debug", "verify", str(store.layout.root), "--json"],
            capture_output=True,
            text=True,
            env={**os.environ, **logs, **change},
            check=False,
        )
        assert done.returncode == (1 if change else 0), done.stderr[-500:]
        assert SECRET_KEY not in done.stdout + done.stderr
    assert SECRET_KEY not in repr(store) + repr(store.dataset(KEY))
    for path in store.layout.root.rglob("*"):
        assert SECRET_KEY.encode() not in path.read_bytes(), path
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET_KEY.encode() not in path.read_bytes(), path


def test_threads_that_take_the_same_lease_take_it_in_turn(store):
    taken = []

    def work(number: int) -> None:
        with locks.held(store.layout, "commit"):
            taken.append(("in", number))
            time.sleep(0.05)
            taken.append(("out", number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert all(a[1] == b[1] for a, b in zip(taken[::2], taken[1::2], strict=True))
    assert RECIPE.key == KEY
