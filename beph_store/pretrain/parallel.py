"""Several processes as one run, when torchrun started them: ``torchrun --nproc-per-node 4 -m beph_store_cli …``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from beph_store.errors import UsageError


@dataclass(frozen=True, slots=True)
class Place:
    """The ``rank`` of a process among ``world``, and the ``device`` that it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0


def join(device: str = "auto") -> Place:
    """Join the other processes, if there are any. ``device`` 'auto' takes a GPU where one is.

    Raises UsageError for a device that is not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    wanted = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("no GPU that torch can use: pass --device cpu, or see `beph-store doctor`")
    place = torch.device(wanted)
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    if world > 1 and not distributed.is_initialized():
        how = (
            {"store": store, "rank": rank, "world_size": world} if (store := _own_store(rank, world)) else {}
        )
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", **how)
    return Place(rank, world, place)


def _own_store(rank: int, world: int) -> Any:
    """Where the processes of this start alone leave word for each other.

    torchrun on one machine restarts them all but keeps what they had written, and a process may then call one that is
    no more. Over several machines the count of restarts differs between them, and there only
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun helps.
    """
    starts, machines = os.environ.get("TORCHELASTIC_RESTART_COUNT"), os.environ.get("GROUP_WORLD_SIZE")
    if starts is None or machines != "1":
        return None
    c10d: Any = distributed  # which does not list these two among what it exports
    kept, _, _ = next(c10d.rendezvous("env://", rank, world))
    return c10d.PrefixStore(f"start-{starts}", kept)


def leave() -> None:
    """Part from the other processes; the torchrun that started them then ends well."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def wait(place: Place) -> None:
    """Until every process has come this far."""
    if place.world > 1:
        distributed.barrier()


def same_everywhere(number: int, place: Place) -> bool:
    """Whether every process has the same number."""
    if place.world == 1:
        return True
    ends = torch.tensor([number, -number], device=place.device)
    distributed.all_reduce(ends, distributed.ReduceOp.MAX)
    return int(ends[0]) == -int(ends[1])


def share(model: nn.Module, place: Place) -> nn.Module:
    """The model on this process's device, its gradients the mean over all processes."""
    model.to(place.device)
    if place.world == 1:
        return model
    ids = [place.device.index] if place.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids)
