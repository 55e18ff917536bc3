"""Splits that are handed over: found, copied beside the result, and told what is wrong with them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from beph_store.cohort import Leak, SlideSplit, read_slide_splits
from beph_store.engine.protocols.options import Job
from beph_store.engine.protocols.table import Protocol
from beph_store.errors import CohortError, UsageError
from beph_store.store.durable import write_atomic

_NUMBERED = re.compile(r"splits_(\d+)\.csv")
_FOLDERS = {"slide": "10foldcv_subtype", "survival": "5foldcv_survival"}


def find(protocol: Protocol, root: Path, fraction: int) -> Path:
    """The folder below ``root`` with the splits of a protocol at a share of the training data.

    ``root`` may be the authors' whole ``splits`` folder, any folder on the way down, or the one with the files.
    UsageError where there is none.
    """
    own, share = protocol.released, f"p{fraction}"
    bases = [root, root / own, *(root / f / own for f in (_FOLDERS[protocol.level],)), root / "splits"]
    bases.append(root / "splits" / _FOLDERS[protocol.level] / own)
    tails = [Path(share) / own, Path(share)]
    if fraction == 100:
        tails += [Path(), Path(own)]
    for base in bases:
        for tail in tails:
            if (base / tail / "splits_0.csv").is_file():
                return base / tail
    wanted = f"{share}/{own}" if protocol.level == "slide" else own
    raise UsageError(
        f"no splits_0.csv of {protocol.name} at {fraction} % below {root}: name the folder with {wanted} in it, or "
        "the one with the files (unpack an archive first)",
        path=root,
    )


def take(job: Job, fraction: int) -> tuple[Path, list[SlideSplit]]:
    """The splits of a share, as many as are asked for, copied to ``out/splits``; and as they read."""
    assert job.options.splits is not None
    source = find(job.protocol, job.options.splits, fraction)
    wanted = job.options.draws if job.protocol.scheme == "monte-carlo" else job.options.folds
    files = sorted((int(m[1]), f) for f in source.iterdir() if (m := _NUMBERED.fullmatch(f.name)))
    target = job.out / "splits" / f"p{fraction}"
    chosen = files[:wanted]
    splits = [split for _, file in chosen for split in read_slide_splits(file)]
    for stale in target.glob("splits_*.csv") if target.is_dir() else ():
        stale.unlink()
    for _, file in chosen:
        write_atomic(target / file.name, file.read_bytes())
    return target, splits


def refuse_leaks(leaks: Sequence[Leak]) -> None:
    """CohortError for splits whose test figures could not be believed."""
    wrong = told([leak for leak in leaks if leak.severity == "error"])
    if wrong:
        raise CohortError(
            f"the splits leak: {wrong[0]}; leave out --splits for splits by case, or pass --as-published to "
            "reproduce published figures with the leak named"
        )


def told(leaks: Sequence[Leak]) -> list[str]:
    """One sentence a kind of leak, over all splits, the worst first. Slides that are not there are no leak."""
    return [_sentence(found) for found in _alike(leaks) if found[0].kind != "missing"]


def absent(leaks: Sequence[Leak]) -> list[str]:
    """One sentence a subset whose slides are not all there."""
    return [_sentence(found) for found in _alike(leaks) if found[0].kind == "missing"]


def _alike(leaks: Sequence[Leak]) -> list[list[Leak]]:
    """Leaks of one kind and between the same subsets together, errors before warnings."""
    alike: dict[tuple[str, ...], list[Leak]] = defaultdict(list)
    for leak in leaks:
        if leak.severity != "info":
            alike[(leak.severity, leak.kind, *leak.subsets)].append(leak)
    return [found for _, found in sorted(alike.items(), key=lambda pair: pair[0])]


def _sentence(found: Sequence[Leak]) -> str:
    low, high = (pick(leak.count for leak in found) for pick in (min, max))
    count = f"{low}" if low == high else f"{low} to {high}"
    first, last = found[0].subsets[0], found[0].subsets[-1]
    seen = " or ".join(found[0].subsets[:-1])
    where = f"in {len(found)} split{'s' if len(found) > 1 else ''}"
    return {
        "val_is_test": f"val and test are the same {count} slides {where}: what is chosen on val is chosen on test",
        "slides": f"{count} test slides are also in {seen}, {where}",
        "cases": f"{count} patients of test also have slides in {first}, {where}",
        "train_val_slides": f"{count} val slides are also in train, {where}",
        "train_val_cases": f"{count} patients of {last} also have slides in {first}, {where}",
        "listed_twice": f"{count} slides are listed twice in {first}, {where}",
        "missing": f"{count} slides of {first} have no label or no vectors, {where}",
    }[found[0].kind]
