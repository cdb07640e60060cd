"""Several processes with one thread each, instead of one process with several threads.

A policy of 2 M parameters has operators that are over in microseconds, and threads that meet after each of them mostly
wait: two processes of one thread each, which meet once a step or less, do more than twice the work of one process with
two threads (docs/teabag-policy.md).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import spawn


class Peers:
    """Process `rank` of `count`. Each call but share() is made by all of them, in the same order."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self.first = rank == 0

    def share(self, paths: Sequence[Path]) -> list[Path]:
        """This process's part of what is to be made, whether or not it is there: what is there changes meanwhile."""
        return list(paths[self.rank :: self.count])

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes the mean over all processes, in place."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        at = 0
        for tensor in tensors:
            tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
            at += tensor.numel()


def together(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """work(peers, *arguments) in `count` new processes, until all are done. Raises what the first one raised."""
    with tempfile.TemporaryDirectory() as place:
        spawn(_begin, (count, f"file://{place}/meeting", work, arguments), nprocs=count)


def _begin(rank: int, count: int, meeting: str, work: Callable[..., None], arguments: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    if count > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nothing leaves this machine
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    try:
        work(Peers(rank, count), *arguments)
    finally:
        if count > 1:
            dist.destroy_process_group()
