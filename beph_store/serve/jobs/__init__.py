"""Work that takes longer than a request: a queue in the store, and processes that outlive the page and the server.

    server ── queue.tick ──▶ keeper ── pipe, lifeline ──▶ worker ──▶ reader processes, torch, …
                             a job's record and log       the work itself

**Where truth lives.** A job is a folder ``S/jobs/<id>/`` of plain files, each written aside, flushed and renamed, so
that it is whole or as it was before. Not SQLite: its locks are unreliable on the network disks that stores lie on, a
record changes a handful of times in its life, and a folder can be read, mended and deleted by hand.

**Who may write it: whoever holds its lock.** The kernel lets go of a lock when the last process that has it is gone,
however it went: no process number is stored and believed, so none can be reused by a stranger; a zombie holds no lock;
a restarted server, or a second one, sees what lives by trying the locks. A server locks a queued job and passes
the open lock on to the keeper, which passes it on to the worker: the job is locked without a gap until both are gone.
So a job is queued if its record says so and its lock is free, and one whose record says `running` while its lock is
free has died. Starting is done under one more lock, ``S/jobs/lock``, so two servers never start one job twice, nor two
jobs where one is allowed.

**Who ends it.** To cancel is to put a file ``cancel`` into the folder. The keeper, parent of the worker, sees it, asks
(SIGTERM), waits, then kills: a child that was not waited for keeps its number, so no stranger is hit. An ingest that
is asked keeps what it has encoded; one that is killed loses seconds, as the store is made for it. If the keeper
is killed, its end of the lifeline closes and the worker kills itself with its readers.

**What is bounded.** The log (see `log`), the events (see `events`), the queue (see `queue`).

Modules that the keeper needs import the standard library alone: it stays for hours and must cost nothing.
"""
