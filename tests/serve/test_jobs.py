"""Jobs live and die as real processes: whatever is killed, the record tells the truth and nothing is done twice."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beph_store.serve.jobs.events import append, read_events
from beph_store.serve.jobs.files import Folder, is_locked, locked
from beph_store.serve.jobs.log import read_log
from beph_store.serve.jobs.queue import Busy, Jobs, NewJob, NoSuchJob
from beph_store.serve.jobs.record import Job, here, read, write

STUB = (sys.executable, "-P", str(Path(__file__).with_name("stub_keeper.py")))
WAIT = 20.0


def until(true: Callable[[], object], seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclasses.dataclass
class Desk:
    jobs: Jobs

    def ask(self, code: str, kind: str = "train", **options: float) -> Job:
        return self.jobs.submit(NewJob(kind, "a title", {"code": code, **options}, None, {}))

    def folder(self, job: Job) -> Folder:
        return self.jobs.folder(job.job)

    def state(self, job: Job) -> str:
        return self.jobs.get(job.job).state

    def number(self, job: Job, name: str) -> int:
        """What the worker has written into that file of its folder, once it has."""
        path = self.folder(job).root / name
        until(lambda: path.exists() and path.read_text())
        return int(path.read_text())

    def pid(self, job: Job) -> int:
        """Of the worker, once it has started; what it was asked for may not have begun: see `ready`."""
        return self.number(job, "pid")

    def ready(self, job: Job) -> int:
        """Start it and wait until it has said ``ready()``; its pid."""
        pid = self.started(job)
        until((self.folder(job).root / "ready").exists)
        return pid

    def keeper(self, job: Job) -> int:
        record = read(self.folder(job))
        assert record is not None
        assert record.worker is not None
        return int(record.worker["process"])

    def started(self, job: Job) -> int:
        self.jobs.tick()
        return self.pid(job)

    def run(self, job: Job) -> Job:
        def over() -> bool:
            self.jobs.tick()
            return self.jobs.get(job.job).ended

        until(over)
        return self.jobs.get(job.job)

    def log(self, job: Job) -> str:
        return read_log(self.folder(job).log).decode()


@pytest.fixture
def desk(tmp_path) -> Iterator[Desk]:
    made = Desk(Jobs(tmp_path / "jobs", STUB))
    yield made
    for job in made.jobs.all():  # nothing is left behind by a test that fails
        with contextlib.suppress(Busy, NoSuchJob):
            made.jobs.cancel(job.job)
    until(lambda: not any(is_locked(made.folder(job).lock) for job in made.jobs.all()))
    made.jobs.tick()


def test_a_job_is_done_and_tells_how(desk) -> None:
    job = desk.ask("print('hello'); done(answer=42)")
    assert (job.state, desk.state(job)) == ("queued", "queued")
    job = desk.run(job)
    assert (job.state, job.result, job.error) == ("done", {"answer": 42}, None)
    assert job.created_at <= job.started_at <= job.ended_at
    events = read_events(desk.folder(job).events)
    assert [(e["n"], e["kind"], e["state"]) for e in events] == [
        (1, "state", "queued"),
        (2, "state", "running"),
        (3, "state", "done"),
    ]
    assert desk.log(job) == "hello\n"
    assert not {"work", "starts", "worker"} & set(job.told())
    until(lambda: desk.jobs.tick() or not desk.jobs._children)  # the keeper was waited for: no zombie
    assert not alive(desk.keeper(job))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("sys.exit(3)", "exit code 3"),
        ("raise ValueError('no')", "exit code 1"),
        ("write_json(folder.result, {'error': 'too few cases'}); sys.exit(1)", "too few cases"),
        ("os.kill(os.getpid(), signal.SIGSEGV); time.sleep(9)", "signal 11 (SIGSEGV)"),
    ],
)
def test_a_job_that_fails_says_why(desk, code: str, error: str) -> None:
    job = desk.run(desk.ask(code))
    assert job.state == "failed"
    assert error in job.error
    assert read_events(desk.folder(job).events)[-1]["error"] == job.error


def test_a_worker_that_is_killed_is_told_from_one_that_fails(desk) -> None:
    job = desk.ask("print('so far'); ready(); time.sleep(60)")
    os.kill(desk.ready(job), signal.SIGKILL)
    job = desk.run(job)
    assert job.state == "failed"
    assert "signal 9 (SIGKILL)" in job.error
    assert "memory" in job.error
    assert "so far" in desk.log(job)


def test_a_keeper_that_is_killed_takes_its_worker_along(desk) -> None:
    """With what the worker started; until all of them are gone nothing else runs in their lane."""
    job = desk.ask(
        "child = subprocess.Popen(['sleep', '60']); (folder.root / 'child').write_text(str(child.pid)); time.sleep(60)"
    )
    worker, child = desk.started(job), desk.number(job, "child")
    other = desk.ask("done()")
    os.kill(desk.keeper(job), signal.SIGKILL)
    until(lambda: not alive(worker) and not alive(child))
    assert desk.state(job) == "failed"  # seen, before anybody wrote it down
    assert read(desk.folder(job)).state == "running"
    assert desk.run(other).state == "done"
    assert read(desk.folder(job)).state == "failed"
    assert "without a word" in desk.jobs.get(job.job).error


def test_cancelling_asks_first(desk) -> None:
    job = desk.ask("try: ready(); time.sleep(60)\nexcept KeyboardInterrupt: print('put away'); sys.exit(130)")
    worker = desk.ready(job)
    assert desk.jobs.cancel(job.job).state in ("running", "cancelled")
    assert desk.run(job).state == "cancelled"
    assert "put away" in desk.log(job)
    assert not alive(worker)
    with pytest.raises(Busy, match="ended"):
        desk.jobs.cancel(job.job)


def test_who_does_not_listen_is_killed(desk) -> None:
    job = desk.ask("signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(60)", grace=0.6)
    worker = desk.ready(job)
    desk.jobs.cancel(job.job)
    assert desk.run(job).state == "cancelled"
    assert not alive(worker)
    assert "killed" in desk.log(job)


def test_what_was_finished_when_it_was_cancelled_is_done(desk) -> None:
    job = desk.ask(
        "done(kept=True)\nwhile True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: sys.exit(130)"
    )
    desk.started(job)
    until(lambda: desk.folder(job).result.exists())
    desk.jobs.cancel(job.job)
    job = desk.run(job)
    assert (job.state, job.result) == ("done", {"kept": True})


def test_a_job_that_waits_is_cancelled_at_once_and_never_starts(desk) -> None:
    job = desk.ask("(folder.root / 'ran').touch()")
    assert desk.jobs.cancel(job.job).state == "cancelled"
    desk.jobs.tick()
    time.sleep(0.3)
    assert not (desk.folder(job).root / "ran").exists()
    desk.jobs.delete(job.job)
    with pytest.raises(NoSuchJob):
        desk.jobs.get(job.job)


def test_what_a_worker_leaves_running_does_not_keep_its_job(desk) -> None:
    """A child that holds the pipe: the job ends, and the child with it."""
    job = desk.ask(
        "child = subprocess.Popen(['sleep', '60']); (folder.root / 'child').write_text(str(child.pid)); done()"
    )
    assert desk.run(job).state == "done"
    child = desk.number(job, "child")
    until(lambda: not alive(child))


def test_a_flood_is_bounded(desk) -> None:
    code = "print('the beginning')\nfor i in range(60000): print('x' * 100)\nprint('the end'); done()"
    job = desk.run(desk.ask(code))
    assert job.state == "done"
    log = desk.log(job)
    assert log.startswith("the beginning\n")
    assert log.endswith("the end\n")
    assert "left out" in log
    kept = sum(path.stat().st_size for path in desk.folder(job).root.glob("log.txt*"))
    assert kept < 2 << 20 < 60000 * 101


def test_one_at_a_time_in_each_lane_in_the_order_of_asking(desk) -> None:
    code = "wait('go'); done()"
    first, second, light = desk.ask(code), desk.ask(code), desk.ask(code, "apply")
    desk.started(first)
    desk.pid(light)
    for _ in range(5):
        desk.jobs.tick()
    assert [desk.state(job) for job in (first, second, light)] == ["running", "queued", "running"]
    (desk.folder(first).root / "go").touch()
    (desk.folder(second).root / "go").touch()
    assert desk.run(second).state == "done"
    assert desk.jobs.get(first.job).ended_at <= desk.jobs.get(second.job).started_at
    (desk.folder(light).root / "go").touch()
    assert desk.run(light).state == "done"


def test_light_jobs_see_no_gpu(desk, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    code = "done(gpu=os.environ.get('CUDA_VISIBLE_DEVICES'))"
    heavy, light = desk.ask(code), desk.ask(code, "apply")
    assert desk.run(heavy).result == {"gpu": "0"}
    assert desk.run(light).result == {"gpu": ""}


def test_servers_that_share_a_store_run_every_job_once(desk, tmp_path) -> None:
    """Four of them look at the queue as fast as they can."""
    ran = tmp_path / "ran"
    code = f"os.write(os.open({str(ran)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT), b'x'); done()"
    asked = [desk.ask(code, kind) for kind in ("train", "apply") * 3]
    servers = [Jobs(desk.jobs.root, STUB) for _ in range(4)]
    over = threading.Event()
    errors: list[BaseException] = []

    def serve(jobs: Jobs) -> None:
        try:
            while not over.is_set():
                jobs.tick()
        except BaseException as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    threads = [threading.Thread(target=serve, args=(jobs,)) for jobs in servers]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(desk.jobs.get(job.job).ended for job in asked) or errors)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert ran.read_bytes() == b"x" * len(asked)
    assert {desk.state(job) for job in asked} == {"done"}
    assert [read(desk.folder(job)).starts for job in asked] == [1] * len(asked)
    heavy = sorted(
        (desk.jobs.get(job.job) for job in asked if job.kind == "train"), key=lambda j: j.started_at
    )
    assert all(a.ended_at <= b.started_at for a, b in itertools.pairwise(heavy))


def test_a_job_outlives_its_server_and_the_next_one_finds_it(desk) -> None:
    job, waiting = desk.ask("wait('go'); done(a=1)"), desk.ask("done(b=2)")
    desk.started(job)
    until(lambda: desk.state(job) == "running")
    again = Desk(Jobs(desk.jobs.root, STUB))
    again.jobs.tick()
    assert [again.state(job), again.state(waiting)] == ["running", "queued"]
    (desk.folder(job).root / "go").touch()
    assert again.run(job).result == {"a": 1}
    assert again.run(waiting).result == {"b": 2}


def test_after_a_restart_of_the_machine_what_ran_has_failed_and_what_waited_goes_on(desk) -> None:
    died, waits = desk.ask("done()"), desk.ask("done()")
    folder = desk.folder(died)
    write(folder, dataclasses.replace(read(folder), state="running", worker=here() | {"boot": "another"}))
    assert "restarted" in desk.jobs.get(died.job).error
    assert desk.run(waits).state == "done"
    assert read(folder).state == "failed"


def test_a_number_that_was_given_to_a_stranger_proves_nothing(desk) -> None:
    """The record names a process that lives, ours: the job has died all the same, and the process is left alone."""
    job = desk.ask("done()")
    folder = desk.folder(job)
    write(folder, dataclasses.replace(read(folder), state="running", worker=here()))
    assert desk.state(job) == "failed"
    with pytest.raises(Busy, match="ended"):
        desk.jobs.cancel(job.job)
    desk.jobs.delete(job.job)
    assert alive(os.getpid())


def test_a_process_that_does_not_start_is_not_tried_for_ever(desk) -> None:
    desk.jobs.command = (sys.executable, "-P", "-c", "raise SystemExit('broken')")
    job = desk.run(desk.ask("done()"))
    assert (job.state, read(desk.folder(job)).starts) == ("failed", 3)
    assert "keeper.txt" in job.error
    assert "broken" in desk.folder(job).keeper_log.read_text()


def test_files_that_lie_where_the_server_was_started_are_not_run(desk, tmp_path, monkeypatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert desk.run(desk.ask("done(a=1)")).result == {"a": 1}


def test_a_disk_without_locks_is_said_when_a_job_is_asked_for(desk, monkeypatch) -> None:
    monkeypatch.setattr("beph_store.serve.jobs.files._lock", lambda handle, alone: False)
    with pytest.raises(Busy, match="without file locks"):
        desk.ask("done()")
    monkeypatch.undo()
    assert list(desk.jobs.root.iterdir()) == []


def test_only_what_has_ended_is_deleted(desk) -> None:
    job = desk.ask("wait('go'); done()")
    with pytest.raises(Busy):
        desk.jobs.delete(job.job)
    desk.started(job)
    with pytest.raises(Busy):
        desk.jobs.delete(job.job)
    (desk.folder(job).root / "go").touch()
    desk.run(job)
    desk.jobs.delete(job.job)
    assert [path.name for path in desk.jobs.root.iterdir()] == ["lock"]


def test_a_job_is_there_whole_or_not_at_all(desk, tmp_path) -> None:
    good = desk.ask("done()")
    for name, text in {"20200101T000000-00000000": "{", "20200101T000000-11111111": "[]"}.items():
        (desk.jobs.root / name).mkdir()
        (desk.jobs.root / name / "job.json").write_text(text)
    (desk.jobs.root / ".new-20200101T000000-22222222").mkdir()
    assert [job.job for job in desk.jobs.all()] == [good.job]
    with pytest.raises(NoSuchJob, match="cannot be read"):
        desk.jobs.get("20200101T000000-00000000")
    for name in ("..", "../jobs", ".new-20200101T000000-22222222", "lock", "", good.job + "/"):
        with pytest.raises(NoSuchJob):
            desk.jobs.get(name)
    assert Jobs(tmp_path / "none").all() == []


def test_the_queue_is_bounded(desk, monkeypatch) -> None:
    monkeypatch.setattr("beph_store.serve.jobs.queue.MOST_OPEN", 2)
    desk.ask("done()")
    desk.ask("done()")
    with pytest.raises(Busy, match="2 jobs"):
        desk.ask("done()")


def test_events_survive_a_torn_line(tmp_path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, {"kind": "note", "text": "first"})
    with path.open("ab") as file:
        file.write(b'{"kind": "no')
    assert [e["n"] for e in read_events(path)] == [1]
    append(path, {"kind": "note", "text": "last"})
    assert [(e["n"], e["text"]) for e in read_events(path)] == [(1, "first"), (3, "last")]
    assert [e["n"] for e in read_events(path, 1)] == [3]


def test_a_lock_is_held_until_the_last_of_its_holders_is_gone(tmp_path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with locked(path) as handle:
        assert handle is not None
        copy = os.dup(handle)
        with locked(path) as second:
            assert second is None
    assert is_locked(path)
    os.close(copy)
    assert not is_locked(path)
    path.unlink()
    with locked(tmp_path / "gone" / "lock") as none:
        assert none is None
