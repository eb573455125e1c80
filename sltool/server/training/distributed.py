"""The processes that train one network together: `torchrun -m sltool server-train`.

Rank 0 takes shards in, makes the decisions, writes the files and reports progress; every rank reads
the store. A process that was not started by torchrun is a job with a single rank, for which all
operations here return their input.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sltool.errors import SltoolError

if TYPE_CHECKING:
    import torch
    from torch import nn

ValueT = TypeVar("ValueT")

# The other ranks may wait for long while rank 0 takes many shards in.
TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and the count of processes of the job."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: ValueT) -> ValueT:
        """The value of rank 0, returned at every rank."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set at any rank."""
        if self.world == 1:
            return flag
        import torch

        return bool(self.sum(torch.tensor(float(flag))).item())

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, bit for bit the same at each."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        return self._reduced(value, dist.ReduceOp.SUM)

    def min(self, value: int) -> int:
        """The minimum over all ranks."""
        if self.world == 1:
            return value
        import torch
        import torch.distributed as dist

        return int(self._reduced(torch.tensor(value), dist.ReduceOp.MIN))

    def _reduced(self, value: torch.Tensor, operation: Any) -> torch.Tensor:
        import torch.distributed as dist

        device = value.device
        total = value.cuda() if dist.get_backend() == "nccl" else value.clone()
        dist.all_reduce(total, operation)
        return total.to(device)

    def local_slice(self, batch: torch.Tensor) -> torch.Tensor:
        """This rank's part of a batch; the parts of all ranks together are the batch."""
        return batch[self.rank :: self.world] if self.world > 1 else batch

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network, with gradients averaged over all ranks."""
        if self.world == 1:
            return network
        from torch import nn

        return nn.parallel.DistributedDataParallel(network)

    def prepare(self, network: nn.Module, device: torch.device) -> nn.Module:
        """On GPUs, batch normalisation over the batch of all ranks (torch has it for GPUs only)."""
        if self.world == 1 or device.type != "cuda":
            return network
        from torch import nn

        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synced


def is_distributed() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join_ranks(device: torch.device | None) -> Iterator[Ranks]:
    """Join the process group if torchrun started this process.

    Args:
        device: of this rank; not needed without torchrun.

    Raises:
        SltoolError: another process of the job has ended.
    """
    if not is_distributed():
        yield Ranks()
        return
    import torch.distributed as dist

    assert device is not None
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        raise SltoolError(
            f"another process of this job ended: {str(error).splitlines()[0]}",
            hint="start the job again: it resumes from its last checkpoint",
        ) from error
    finally:
        dist.destroy_process_group()
        # The trained network refers to the group, in a circle. With the group its threads end here
        # and not while the interpreter ends, which can abort the process.
        gc.collect()


def local_device(device: torch.device) -> torch.device:
    """The GPU of this rank on its machine; a CPU stays as it is."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        import torch

        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def _is_lost_peer(error: RuntimeError) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("gloo", "nccl", "connection", "distbackend"))
