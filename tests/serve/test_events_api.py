"""The stream of events: nothing twice, nothing lost, and nothing left behind when somebody goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from beph_store.serve.events_api import EventStream
from beph_store.serve.jobs import feed as feeding
from beph_store.serve.jobs.events import append
from beph_store.serve.jobs.feed import Feed, Reader, Watch
from beph_store.serve.jobs.queue import Jobs, NewJob
from beph_store.store.layout import Layout

Chunks = AsyncGenerator[bytes, None]


@pytest.fixture(autouse=True)
def quickly(monkeypatch) -> None:
    monkeypatch.setattr(feeding, "LOOK_SECONDS", 0.02)


def made(root: Path, **options) -> Feed:
    layout = Layout(root)
    return Feed(Watch(Jobs(layout.jobs), layout), **options)


def ask(feed: Feed, title: str = "a title"):
    return feed.watch.jobs.submit(NewJob("train", title, {}, None, {}))


def parsed(chunk: bytes) -> list[dict]:
    found = []
    for block in chunk.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            fields["data"] = json.loads(fields["data"])
        if fields:
            found.append(fields)
    return found


class Stream:
    """A stream as its reader sees it, message by message; ``first`` is what it begins with."""

    def __init__(self, feed: Feed, last: str | None) -> None:
        self.chunks = feed.follow(Reader(), last)
        self.waiting: list[dict] = []
        self.first: list[dict] = []

    async def next(self, kind: str) -> dict:
        """The next message of that kind."""
        while True:
            while self.waiting:
                message = self.waiting.pop(0)
                if message.get("event") == kind:
                    return message
            self.waiting = parsed(await asyncio.wait_for(anext(self.chunks), 10))

    async def close(self) -> None:
        await self.chunks.aclose()


async def opened(feed: Feed, last: str | None = None) -> Stream:
    stream = Stream(feed, last)
    assert await anext(stream.chunks) == b"retry: 2000\n\n"
    stream.first = parsed(await asyncio.wait_for(anext(stream.chunks), 10))
    return stream


def test_a_new_stream_begins_with_what_is_open_and_goes_on_with_what_changes(tmp_path) -> None:
    async def story() -> None:
        feed = made(tmp_path)
        before = ask(feed)
        stream = await opened(feed)
        assert [m["data"]["job"] for m in stream.first if m.get("event") == "job"] == [before.job]
        assert "work" not in stream.first[0]["data"]
        new = ask(feed, "<b>new</b>\n\nevent: evil")
        told = await stream.next("job")
        assert (told["data"]["job"], told["data"]["title"]) == (new.job, "<b>new</b>\n\nevent: evil")
        first_event = await stream.next("job-event")
        assert (first_event["data"]["job"], first_event["data"]["n"]) == (new.job, 1)
        append(feed.watch.jobs.folder(before.job).events, {"kind": "epoch", "epoch": 1})
        event = await stream.next("job-event")
        assert event["data"] | {"at": ""} == {
            "job": before.job,
            "n": 2,
            "kind": "epoch",
            "epoch": 1,
            "at": "",
        }
        feed.watch.jobs.cancel(before.job)
        assert (await stream.next("job"))["data"]["state"] == "cancelled"
        feed.watch.jobs.delete(before.job)
        assert (await stream.next("job-gone"))["data"] == {"job": before.job}
        await stream.close()

    asyncio.run(story())


def test_a_stream_that_comes_back_gets_what_it_missed_and_nothing_twice(tmp_path) -> None:
    async def story() -> None:
        feed = made(tmp_path)
        job = ask(feed)
        stream = await opened(feed)
        events = feed.watch.jobs.folder(job.job).events
        append(events, {"kind": "note", "text": "1"})
        last = (await stream.next("job-event"))["id"]
        assert stream.first[-1]["id"] != last
        await stream.close()
        assert feed._looking is None  # nobody watches: nothing is looked at
        for text in "234":
            append(events, {"kind": "note", "text": text})
        again = await opened(feed, last)
        assert [m["data"]["text"] for m in again.first] == ["2", "3", "4"]
        await again.close()

    asyncio.run(story())


@pytest.mark.parametrize("last", ["", "nonsense", "deadbeef-3", "x-9999999999999999999999"])
def test_a_stream_that_cannot_go_on_is_told_to_ask_anew(tmp_path, last: str) -> None:
    async def story() -> None:
        feed = made(tmp_path)
        job = ask(feed)
        stream = await opened(feed, last)
        kinds = [m.get("event") for m in stream.first]
        assert kinds == [*(["reset"] if last else []), "job", None]
        assert job.state == "queued"
        await stream.close()

    asyncio.run(story())


def test_who_was_away_for_too_long_is_told_to_ask_anew(tmp_path, monkeypatch) -> None:
    async def story() -> None:
        feed = made(tmp_path)
        feed._kept = type(feed._kept)(maxlen=5)
        job = ask(feed)
        stream = await opened(feed)
        start = stream.first[-1]["id"]
        await stream.close()
        for _ in range(20):
            append(feed.watch.jobs.folder(job.job).events, {"kind": "note"})
        again = await opened(feed, start)
        assert again.first[0]["event"] == "reset"
        await again.close()

    asyncio.run(story())


def test_labels_and_runs_are_told_whoever_changed_them(tmp_path) -> None:
    async def story() -> None:
        feed = made(tmp_path)
        stream = await opened(feed)
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "abc.jsonl").write_text("{}\n")
        assert (await stream.next("labels"))["data"] == {"recipe": "abc"}
        (tmp_path / "runs").mkdir()
        progress = tmp_path / "runs" / "r1.progress"
        progress.write_text('{"done": 3}')
        assert (await stream.next("run"))["data"] == {
            "run": "r1",
            "state": "stopped",
            "progress": {"done": 3},
        }
        progress.unlink()
        assert (await stream.next("run"))["data"]["state"] == "ended"
        await stream.close()

    asyncio.run(story())


def test_it_says_now_and_then_that_it_is_there(tmp_path) -> None:
    async def story() -> None:
        feed = made(tmp_path, heartbeat=0.05)
        stream = await opened(feed)
        assert (await asyncio.wait_for(anext(stream.chunks), 5)).startswith(b":")
        await stream.close()

    asyncio.run(story())


def test_closing_ends_every_stream_and_leaves_nothing(tmp_path) -> None:
    async def story() -> None:
        feed = made(tmp_path)
        streams = [await opened(feed) for _ in range(20)]
        assert feed.streams == 20
        ends = [asyncio.create_task(_rest(stream.chunks)) for stream in streams]
        await asyncio.sleep(0.05)
        feed.close()
        await asyncio.wait_for(asyncio.gather(*ends), 5)
        await asyncio.sleep(0.05)
        assert (feed.streams, feed._looking, feed._tasks) == (0, None, set())
        late = feed.follow(Reader(), None)
        assert len([chunk async for chunk in late]) == 2
        assert (feed.streams, feed._looking) == (0, None)

    asyncio.run(story())


async def _rest(chunks: Chunks) -> None:
    async for _ in chunks:
        pass


def test_a_client_that_leaves_is_let_go(tmp_path) -> None:
    """As the protocol tells it, a thousand times; no file and no task is left."""

    async def story() -> None:
        feed = made(tmp_path)
        ask(feed)
        files, tasks = len(list(Path("/proc/self/fd").iterdir())), len(asyncio.all_tasks())
        for _ in range(1000):
            await _visit(feed)
        await asyncio.sleep(0.05)
        assert feed.streams == 0
        assert len(asyncio.all_tasks()) == tasks
        assert len(list(Path("/proc/self/fd").iterdir())) <= files  # those of other tests may go meanwhile

    asyncio.run(story())


async def _visit(feed: Feed) -> None:
    sent = asyncio.Event()

    async def send(message) -> None:
        if message.get("body"):
            sent.set()

    async def receive():
        await sent.wait()
        return {"type": "http.disconnect"}

    answer = EventStream(feed, None)
    await asyncio.wait_for(answer({"type": "http", "method": "GET"}, receive, send), 5)


def test_only_the_head_of_a_stream_can_be_asked_for(served) -> None:
    answer = served.client.head("/api/events")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
