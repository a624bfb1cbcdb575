"""Several processes as one run: `torchrun` starts them, each takes a share of the work.

    torchrun --nproc-per-node 4 -m semid_lib.cli run resid beauty --profile paper

Every process builds the same networks and draws the same batches. Of a batch of
`batch_size` x processes samples each computes the gradient of its share, and all take the mean
(`training.train`); users to rank are shared out too (`evaluation.evaluate`). What has no gradient,
and tokenizers, every process does as a whole. Only the first one writes files, which the others
read: machines must share the folder of runs.
"""

from __future__ import annotations

import os

_rank = 0
_world_size = 1


def rank() -> int:
    """This process's number, 0 unless `join` found others."""
    return _rank


def world_size() -> int:
    """How many processes work together, 1 unless `join` found more."""
    return _world_size


def join(device: str) -> str:
    """Join the processes that torchrun started, if it did; return the device of this one.

    Args:
        device: "cpu" or "cuda"; with "cuda" each process of a machine takes the GPU of its number.
    """
    global _rank, _world_size
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return device
    import torch

    if device.startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group()
    _rank = torch.distributed.get_rank()
    _world_size = torch.distributed.get_world_size()
    return device


def broadcast(value):
    """What the first process was given; the others wait for it."""
    if _world_size == 1:
        return value
    import torch

    values = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]


def all_gather(value) -> list:
    """The values of all processes, in their order."""
    if _world_size == 1:
        return [value]
    import torch

    values = [None] * _world_size
    torch.distributed.all_gather_object(values, value)
    return values


def broadcast_parameters(module) -> None:
    """Give a module's parameters and buffers the first process's values."""
    if _world_size > 1:
        import torch

        for tensor in module.state_dict().values():
            torch.distributed.broadcast(tensor, 0)


def all_reduce(tensors) -> None:
    """Replace tensors of one dtype by their sums over the processes, in one message."""
    if _world_size == 1:
        return
    import torch

    whole = torch.cat([t.flatten() for t in tensors])
    torch.distributed.all_reduce(whole)
    for tensor, part in zip(tensors, whole.split([t.numel() for t in tensors])):
        tensor.copy_(part.view_as(tensor))
