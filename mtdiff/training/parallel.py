"""Several processes on one run: sharding of the denoiser, work dealt out over processes, tensors made whole again.

Letters: B batch, H W pixels.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mtdiff.model.denoiser import Denoiser
from mtdiff.types import Batch

FSDP = "fsdp"


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for torch's fully sharded data parallelism (FSDP2), over all processes.

    Its older one (FSDP1) renames parameters and needs a GPU. Checkpoints are single files, without what is frozen.
    """

    def __init__(self, processes: int) -> None:
        super().__init__(data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        assert self.model is not None
        return get_model_state_dict(self.model, options=options)


def trainer_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of Lightning's Trainer; `strategy: fsdp` stands for `Sharded` over the processes asked for."""
    if options.get("strategy") != FSDP:
        return dict(options)
    devices = options.get("devices", "auto")
    if isinstance(devices, list):
        devices = len(devices)
    if not isinstance(devices, int) or devices < 1:
        raise ValueError(f"trainer.devices={devices}: expected a number of devices with trainer.strategy={FSDP}")
    return {**options, "strategy": Sharded(devices * options.get("num_nodes", 1))}


def shard(denoiser: Denoiser, mesh: DeviceMesh) -> None:
    """Shard the denoising network part by part, so that one part at a time is whole on a process."""
    network = denoiser.backbone.denoiser
    if isinstance(network, FSDPModule):
        return
    for part in denoiser.backbone.shards():
        fully_shard(part, mesh=mesh)
    fully_shard(network, mesh=mesh)
    denoiser.method.layout.equally = True


def reshard(module: nn.Module) -> nn.Module:
    """Shard a module's parameters again, since a pass without gradients leaves some of them whole; returns it."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    return module


def gather_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor where it is sharded, which every process has to ask for; any other is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Shard a whole tensor as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def average_gradients(gradients: list[Tensor]) -> None:
    """Average over the processes, in place."""
    for gradient in gradients:
        distributed.all_reduce(gradient)
        gradient /= distributed.get_world_size()


def merge_rows(rows: Mapping[Any, Any]) -> dict[Any, Any]:
    """Merge what all processes have, by name; the result is the same everywhere, in one order."""
    if not distributed.is_initialized():
        return dict(rows)
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, dict(rows))
    return {k: v for part in parts for k, v in part.items()}


def rank_windows(number: int, processes: int) -> tuple[list[int], int]:
    """Say where each process's rows start, and how many they are: equally many, so some rows may belong to two."""
    each = -(-number // processes)
    return [min(rank * each, number - each) for rank in range(processes)], each


def split_over_ranks(
    draw: Callable[[Batch, Tensor], Tensor], device: torch.device
) -> Callable[[Batch, Tensor], Tensor]:
    """Make `draw` share a batch over all processes: each draws some rows, in equally many calls, and gets all.

    device: where the processes exchange tensors.
    """

    def together(batch: Batch, noise: Tensor) -> Tensor:
        if not distributed.is_initialized():
            return draw(batch, noise)
        starts, each = rank_windows(len(batch), distributed.get_world_size())
        place = torch.arange(len(batch)) - starts[distributed.get_rank()]
        mine = (place >= 0) & (place < each)
        drawn = draw(batch.rows(mine), noise[mine]).to(device).contiguous()
        parts = [torch.empty_like(drawn) for _ in starts]
        distributed.all_gather(parts, drawn)
        out = drawn.new_empty(len(batch), *drawn.shape[1:]).cpu()
        for start, part in zip(starts, parts, strict=True):
            out[start : start + each] = part.cpu()
        return out

    return together
