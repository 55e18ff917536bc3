"""The encoders of a run, one a seat: put there, listened to, replaced when lost; also on nodes that join meanwhile."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from beph_store.encoders import Bundle
from beph_store.engine.cluster.bundles import Shipped, packed, shipped
from beph_store.engine.cluster.encoding import Encoder, Heard, Orders, Target
from beph_store.engine.cluster.inbox import Inbox
from beph_store.engine.cluster.reading import Work
from beph_store.engine.cluster.seats import Seat, seats_of
from beph_store.engine.cluster.session import alive, cluster_size
from beph_store.engine.pipeline import Clocks
from beph_store.engine.provenance import WRITTEN_BY
from beph_store.engine.report import ClusterCount, Computing, ReadStats
from beph_store.errors import BephStoreError, ClusterUnavailable
from beph_store.runtimes import entries, gpus

#: How often the nodes are looked at; how long an encoder may wait for room while none is at work.
LOOK_SECONDS, PLACE_SECONDS = 5.0, 120.0
#: How long a run waits for machines to come back when all are gone, as spot machines may be.
REJOIN_SECONDS = 600.0
#: How often an encoder may be lost in a row, with nothing done, before its seat is given up.
DEATHS = 3
#: How long one question for news waits, and how long a stopped encoder has for writing what it has.
HEAR_SECONDS, GRACE_SECONDS = 5.0, 6.0


@dataclass(slots=True, eq=False)
class Member:
    """An encoder. ``founder`` was there at the start: what it cannot do the run cannot do."""

    seat: Seat
    actor: Any
    founder: bool
    since: float = field(default_factory=time.monotonic)
    placed: bool = False
    opening: Computing | None = None
    works: bool = False
    heard: Heard | None = None

    @property
    def name(self) -> str:
        """That of its seat."""
        return self.seat.name

    @property
    def spans(self) -> int:
        """How many it should have in hand: those under way, one that waits at their door, one on its way here."""
        return self.seat.readers + self.seat.far + 2

    def give(self, works: list[Work]) -> None:
        """Let it encode these, too."""
        self.actor.give.remote(works)


class Crew:
    """``heard`` is told what a member says, ``lost`` that one is gone with all that it had in hand."""

    def __init__(
        self,
        ray: Any,
        inbox: Inbox,
        bundle: Bundle,
        *,
        runtime: str,
        precision: str | None,
        batch: int | None,
        readers: int | None,
    ) -> None:
        self._ray = ray
        self._inbox = inbox
        self._bundle = bundle
        self._asked = (runtime, precision, batch)
        self._readers = readers
        self._home = ray.get_runtime_context().get_node_id()
        self._on_gpus = _on_gpus(ray, runtime)
        self._members: dict[str, Member] = {}
        self._deaths: dict[str, int] = {}
        self._given_up: dict[str, str] = {}
        self._gone: list[Heard] = []
        self._seats: dict[str, Seat] = {}  # every one that ever worked
        self._sent: Any = None
        self._target: Target | None = None
        self._looked = 0.0
        self._founded = False
        self._first: Computing | None = None
        self._devices: dict[str, str] = {}
        self.clocks = Clocks()  # kept up to date every few seconds
        self.chosen: Callable[[Computing], None] = lambda _: None  # hears what computes, once
        self.restarts = 0
        self.moved = time.monotonic()  # when something last came of it
        self.heard: Callable[[Member, Heard], None] = lambda *_: None
        self.lost: Callable[[Member], None] = lambda *_: None

    @property
    def at_work(self) -> list[Member]:
        """Those that take spans."""
        return [member for member in self._members.values() if member.works]

    @property
    def nodes(self) -> list[str]:
        """The nodes with a seat, those at work first."""
        members = sorted(self._members.values(), key=lambda member: not member.works)
        return list(dict.fromkeys(member.seat.node_id for member in members))

    def look(self) -> None:
        """Fill every seat of the cluster as it is now. Raises ClusterUnavailable where there is none to fill."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        seats = seats_of(alive(self._ray), gpus=self._on_gpus, readers=self._readers)
        for seat in seats:
            if seat.name not in self._members and seat.name not in self._given_up and self._may_start():
                self._start(seat)
        if not self._members:
            self._complain(seats)
        self._founded = self._founded or self._first is not None
        self._require_room()
        self._measure()

    def choose(self) -> Computing:
        """What the first encoder found: it decides for all. Waits for it."""
        while self._first is None:
            self.look()
            self._inbox.take(1.0)
        return self._first

    @property
    def computing(self) -> Computing | None:
        """What computes, on all its devices; None before that is known."""
        if self._first is None:
            return None
        counts = Counter(self._devices.values())
        devices = [device if n == 1 else f"{n} × {device}" for device, n in counts.items()]
        return replace(self._first, device=", ".join(devices) or self._first.device)

    def begin(self, target: Target, chosen: Callable[[Computing], None]) -> None:
        """Vectors go there from now on, for good. ``chosen`` hears what computes."""
        if self._target is not None:
            return
        self._target, self.chosen = target, chosen
        if self._first is not None:
            chosen(self._first)
        for member in self._members.values():
            if member.opening is not None:
                self._begin(member)

    def drop(self, slide_id: str) -> None:
        """Nothing more of this slide is wanted."""
        for member in self.at_work:
            member.actor.drop.remote(slide_id)

    def progress(self, member: Member) -> None:
        """Something came of it."""
        self._deaths.pop(member.name, None)
        self.moved = time.monotonic()

    def close(self, *, orderly: bool) -> None:
        """End all of them; where the run is broken off they first write what is encoded."""
        members = list(self._members.values())
        self._members.clear()
        if not orderly:
            asked = [member.actor.finish.remote() for member in members if member.works]
            self._ray.wait(asked, num_returns=len(asked), timeout=GRACE_SECONDS) if asked else None
        for member in members:
            self._ray.kill(member.actor)

    def totals(self) -> Heard:
        """Summed over all that ever worked; of the seconds between first and last batch the most."""
        stats, encode, write, steady = ReadStats(), 0.0, 0.0, 0.0
        for heard in [*self._gone, *(m.heard for m in self._members.values() if m.heard)]:
            stats.add(heard.stats)
            encode, write = encode + heard.encode, write + heard.write
            steady = max(steady, heard.steady)
        return Heard((), stats, encode, write, steady)

    def _measure(self) -> None:
        totals, encoders = self.totals(), max(1, len(self._seats))
        self.clocks.encode = totals.encode / encoders
        self.clocks.write.busy = totals.write / encoders

    def count(self) -> ClusterCount:
        """What took part."""
        seats = self._seats.values()
        return ClusterCount(
            nodes=len({seat.node_id for seat in seats}),
            encoders=len(seats),
            readers=sum(seat.readers + seat.far for seat in seats),
            restarts=self.restarts,
        )

    def notes(self) -> tuple[str, ...]:
        """What the user should know of nodes that took no part."""
        return tuple(f"an encoder took no part any more: {why}" for why in self._given_up.values())

    # One member after the other: placed, opened, begun, heard.

    def _may_start(self) -> bool:
        """The first encoder decides which runtime all use, unless that was said."""
        runtime, precision, _ = self._asked
        undecided = self._first is None and (runtime == "auto" or precision == "auto")
        return not (undecided and self._members)

    def _start(self, seat: Seat) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = (
            self._ray.remote(Encoder)
            .options(
                num_cpus=seat.cpus,
                num_gpus=seat.gpus,
                max_restarts=0,
                max_concurrency=4,
                scheduling_strategy=NodeAffinitySchedulingStrategy(seat.node_id, soft=False),
            )
            .remote(seat)
        )
        member = Member(seat, actor, founder=not self._founded)
        self._members[seat.name] = member
        self._inbox.ask(actor.placed.remote(), lambda _, error: self._placed(member, error))

    def _placed(self, member: Member, error: BaseException | None) -> None:
        if self._trouble(member, error):
            return
        member.placed = True
        self.moved = time.monotonic()
        runtime, precision, batch = self._asked
        if self._first is not None:
            runtime, precision = self._first.runtime, self._first.precision
        orders = Orders(self._ship(member.seat), runtime, precision, batch, WRITTEN_BY, socket.gethostname())
        self._inbox.ask(member.actor.open.remote(orders), lambda value, e: self._opened(member, value, e))

    def _ship(self, seat: Seat) -> Shipped:
        if seat.node_id != self._home and self._sent is None:
            self._sent = self._ray.put(packed(self._bundle))
        return shipped(self._bundle, None if seat.node_id == self._home else self._sent)

    def _opened(self, member: Member, value: Computing, error: BaseException | None) -> None:
        if self._trouble(member, error):
            return
        member.opening = value
        self.moved = time.monotonic()
        self._devices[member.name] = value.device
        if self._first is None:
            self._first = value
            self._looked = 0.0  # the others may start
            self.chosen(value)
        if self._target is not None:
            self._begin(member)

    def _begin(self, member: Member) -> None:
        self._inbox.ask(member.actor.begin.remote(self._target), lambda _, e: self._begun(member, e))

    def _begun(self, member: Member, error: BaseException | None) -> None:
        if self._trouble(member, error):
            return
        member.works = True
        self._seats[member.name] = member.seat
        self._listen(member)

    def _listen(self, member: Member) -> None:
        asked = member.actor.hear.remote(HEAR_SECONDS)
        self._inbox.ask(asked, lambda value, error: self._hear(member, value, error))

    def _hear(self, member: Member, value: Heard, error: BaseException | None) -> None:
        if error is not None and not self._inbox.lost(error):
            raise error  # of the store, the runtime, or ours: the run's
        if self._trouble(member, error):
            return
        member.heard = value
        self._listen(member)
        self.heard(member, value)

    def _trouble(self, member: Member, error: BaseException | None) -> bool:
        """Whether the member is not there any more; raises what concerns the whole run."""
        if self._members.get(member.name) is not member:
            return True
        if error is None:
            return False
        if not self._inbox.lost(error) and (member.founder or not isinstance(error, BephStoreError)):
            raise error
        del self._members[member.name]
        if member.heard is not None:
            self._gone.append(member.heard)
        self._deaths[member.name] = self._deaths.get(member.name, 0) + 1
        if not self._inbox.lost(error):
            self._given_up[member.name] = str(error)
            self._ray.kill(member.actor)
        elif self._deaths[member.name] >= DEATHS:
            self._given_up[member.name] = _how(error)
        else:
            self.restarts += 1
        self.lost(member)
        self._looked = 0.0
        return True

    # What can never be.

    def _complain(self, seats: list[Seat]) -> None:
        if self._seats and time.monotonic() - self.moved < REJOIN_SECONDS:
            return
        if self._given_up:
            raise ClusterUnavailable(f"no encoder is left: {'; '.join(set(self._given_up.values()))}")
        if not seats:
            what = "a GPU and a core" if self._on_gpus else "a core"
            raise ClusterUnavailable(
                f"no node of the cluster has room for an encoder: it needs {what}, the cluster has "
                f"{cluster_size(self._ray)}"
            )

    def _require_room(self) -> None:
        if any(member.placed for member in self._members.values()):
            return
        waiting = [m for m in self._members.values() if time.monotonic() - m.since > PLACE_SECONDS]
        if waiting:
            seat = waiting[0].seat
            free = self._ray.available_resources()
            asked = ", ".join(f"{count:g} {name}" for name, count in seat.wanted.items() if count)
            raise ClusterUnavailable(
                f"no encoder was given room for {PLACE_SECONDS:.0f} s: it needs {asked} on one node, the cluster has "
                f"{cluster_size(self._ray)}, of which {free.get('CPU', 0):g} cores and {free.get('GPU', 0):g} GPUs "
                "are free: wait for the jobs that use it"
            )


def _on_gpus(ray: Any, runtime: str) -> bool:
    """Whether encoders sit on GPUs. ClusterUnavailable where a runtime was named that needs one and there is none."""
    wanted = any(entry.devices is gpus.count for entry in entries(runtime))
    there = any(node["Resources"].get("GPU", 0) >= 1 for node in alive(ray))
    if wanted and not there and runtime != "auto":
        raise ClusterUnavailable(f"{runtime} needs a GPU: the cluster has {cluster_size(ray)}")
    return wanted and there


def _how(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"it was lost {DEATHS} times ({type(error).__name__}: {lines[0] if lines else ''})"
