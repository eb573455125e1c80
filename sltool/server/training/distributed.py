"""The processes that train one network together: `torchrun -m sltool server-train`.

Rank 0 takes shards in, decides, writes and talks; every rank reads the store. A process that was
not started by torchrun is a job of one rank, for which nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import nn

from sltool.errors import SltoolError

ValueT = TypeVar("ValueT")

# Taking in many shards at rank 0 may keep the others waiting.
TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """This process's place among those of the job."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: ValueT) -> ValueT:
        """Rank 0's value, at every rank."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set at any rank."""
        return bool(self.sum(torch.tensor(float(flag))).item()) if self.world > 1 else flag

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, the same bits at each."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        return self._reduced(value, dist.ReduceOp.SUM)

    def least(self, number: int) -> int:
        """The least of all ranks' numbers."""
        if self.world == 1:
            return number
        import torch.distributed as dist

        return int(self._reduced(torch.tensor(number), dist.ReduceOp.MIN))

    def _reduced(self, value: torch.Tensor, operation: Any) -> torch.Tensor:
        import torch.distributed as dist

        device = value.device
        total = value.cuda() if dist.get_backend() == "nccl" else value.clone()
        dist.all_reduce(total, operation)
        return total.to(device)

    def local_slice(self, batch: torch.Tensor) -> torch.Tensor:
        """This rank's part of a batch; the parts of all ranks are the batch."""
        return batch[self.rank :: self.world] if self.world > 1 else batch

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are the mean over all ranks."""
        if self.world == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def prepare(self, network: nn.Module, device: torch.device) -> nn.Module:
        """On GPUs, batch normalisation over the batch of all ranks; torch has none for the CPU."""
        if self.world == 1 or device.type != "cuda":
            return network
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synced


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started, if it did.

    Raises:
        SltoolError: another process of the job ended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    import torch.distributed as dist

    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        raise SltoolError(
            f"another process of this job ended: {str(error).splitlines()[0]}",
            hint="start the job again: it goes on from its last checkpoint",
        ) from error
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """Each rank's own GPU of its machine."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def _is_lost_peer(error: RuntimeError) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("gloo", "nccl", "connection", "distbackend"))
