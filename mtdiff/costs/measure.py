"""What a denoiser costs beside its FLOPs: parameters, disk, latency, memory; and all of it together for a result.

All numbers are of the denoiser as `Denoiser.forward` runs it, not of the autoencoder or the text encoder.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from mtdiff.costs.flops import count_step_flops, device_of, encode_prompt, make_condition, make_inputs
from mtdiff.model.denoiser import Denoiser
from mtdiff.types import Condition

MB = 1e6
ALL_TASKS = 4  # of the comparison: text to image, editing, super-resolution, inpainting
RUN_S = 60.0  # seconds that a run spends on its own latency, about


# Parameters and disk


def count_parameters(denoiser: Denoiser, tasks: int = ALL_TASKS) -> dict[str, int]:
    """Count what is trained (`trainable`), one model (`total`), and what has to be kept to serve `tasks` tasks.

    A run serves the tasks that it was trained for, so ceil(tasks / its own) runs are needed. They share what stayed
    frozen, and each brings what it trained. So fully tuned single-task models count one model per task, adapters count
    base + adapters, and a model of all tasks counts once.
    """
    trained = sum(p.numel() for p in denoiser.trained_parameters().values())
    total = sum(p.numel() for p in denoiser.backbone.denoiser.parameters())
    return {
        "trainable": trained,
        "total": total,
        "total_for_all_tasks": total - trained + count_runs(denoiser, tasks) * trained,
    }


def count_runs(denoiser: Denoiser, tasks: int = ALL_TASKS) -> int:
    """Return how many trainings of this kind it takes to serve `tasks` tasks."""
    return math.ceil(tasks / len(denoiser.tasks))


def adapter_mb(denoiser: Denoiser) -> float:
    """Return the size of what a run keeps beside the base, in 10^6 bytes, without the file's header of a few kB."""
    return sum(v.numel() * v.element_size() for v in denoiser.adapter().values()) / MB


def measure_disk(denoiser: Denoiser, base: int, tasks: int = ALL_TASKS) -> dict[str, float]:
    """Measure what lies on disk, in 10^6 bytes. base: parameters of the untouched denoiser.

    adapter, adapters_for_all_tasks: what training made, as a run keeps it. shipped_float16: what has to be shipped to
    serve `tasks` tasks, that is all of `total_for_all_tasks`: what stayed frozen, and what each run trained. around:
    autoencoder and text encoders, which every method needs besides.
    """
    made, needed = adapter_mb(denoiser), count_parameters(denoiser, tasks)["total_for_all_tasks"]
    every = sum(p.numel() for p in denoiser.backbone.parameters())
    around = every - sum(p.numel() for p in denoiser.backbone.denoiser.parameters())
    return {
        "base": 4 * base / MB,
        "base_float16": 2 * base / MB,
        "adapter": made,
        "adapter_float16": sum(2 * v.numel() for v in denoiser.adapter().values()) / MB,
        "adapters_for_all_tasks": made * count_runs(denoiser, tasks),
        "shipped_float16": 2 * needed / MB,
        "around_float16": 2 * around / MB,
    }


# Latency and memory


@dataclass(frozen=True)
class Measuring:
    """How to measure. device: cpu or cuda. threads: of the CPU, null for torch's own choice.

    repeats: calls that count. warmup: calls before them.
    """

    device: str = "cpu"
    threads: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    repeats: int = 20
    warmup: int = 3

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("warmup", 0), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}: expected at least {least}")
        if self.device.partition(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"device={self.device}: expected one of cpu, cuda")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device={self.device}: torch finds no such GPU here; expected cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32


def measure_latency(
    call: Callable[[], object], repeats: int = 20, warmup: int = 3, most_s: float = math.inf
) -> dict[str, float]:
    """Time one call, with a GPU's queue emptied before and after: median and 95th percentile of the wall time.

    most_s: no further call begins once the counted ones have taken so long together.
    """
    seconds: list[float] = []
    for i in range(warmup + repeats):
        if sum(seconds) > most_s:
            break
        wait_for_gpu()
        began = time.perf_counter()
        call()
        wait_for_gpu()
        if i >= warmup:
            seconds.append(time.perf_counter() - began)
    return {"median": 1e3 * statistics.median(seconds), "p95": 1e3 * float(np.percentile(seconds, 95))}


def wait_for_gpu() -> None:
    """Let a GPU end what it was given, if one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def measure_cuda_peak(network: nn.Module, call: Callable[[], object]) -> float:
    """Measure the network's weights and what one call allocates on top of them, in 10^6 bytes."""
    tensors = [*network.parameters(), *network.buffers()]
    device = tensors[0].device
    wait_for_gpu()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    wait_for_gpu()
    weights = sum(v.numel() * v.element_size() for v in tensors)
    return (weights + torch.cuda.max_memory_allocated(device) - before) / MB


def read_resident_mb(line: Literal["VmRSS", "VmHWM"]) -> float | None:
    """Read this process's resident memory, now (VmRSS) or at its highest (VmHWM); None without the /proc of Linux.

    Not `resource.getrusage`: its maximum survives exec and so may be the parent's.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (kilobytes,) = (row.split()[1] for row in status.read_text().splitlines() if row.startswith(line + ":"))
    return int(kilobytes) * 1024 / MB


def materialise(denoiser: Denoiser, device: str, dtype: torch.dtype) -> None:
    """Give a network of shapes alone real memory and small random weights, in place: enough to time it."""
    network = denoiser.backbone.denoiser
    network.to_empty(device=device)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(0, 0.02)
        for b in network.buffers():
            b.zero_()
    network.to(dtype)


def make_call(denoiser: Denoiser, rows: Condition) -> Callable[[], None]:
    """Make a function that calls the denoiser once, to be timed."""
    noisy, t = make_inputs(denoiser.backbone, rows)

    def call() -> None:
        with torch.no_grad():
            denoiser(noisy, t, rows)

    return call


def measure_call(denoiser: Denoiser, rows: Condition, how: Measuring) -> dict[str, Any]:
    """Measure one call's latency and peak memory for a network of shapes alone, in a process that does nothing else.

    Peak memory on a GPU: the allocator's. On the CPU: the highest resident memory of the whole process; what the
    libraries had before the network was made is `libraries_mb`.
    """
    if how.threads is not None:
        torch.set_num_threads(how.threads)
    libraries = read_resident_mb("VmRSS")
    materialise(denoiser, how.device, how.dtype)
    device = device_of(denoiser.backbone)
    call, gpu = make_call(denoiser, rows.to(device, how.dtype)), device.type == "cuda"
    peak = measure_cuda_peak(denoiser.backbone.denoiser, call) if gpu else None
    latency = measure_latency(call, how.repeats, how.warmup)
    return {
        "latency_ms": latency,
        "peak_memory_mb": peak if gpu else read_resident_mb("VmHWM"),
        "peak_memory_of": "weights and one call, on the GPU" if gpu else "the whole process",
        "libraries_mb": None if gpu else libraries,
        "threads": None if gpu else torch.get_num_threads(),
        "precision": how.precision,
        "repeats": how.repeats,
        "warmup": how.warmup,
    }


# A result's costs


def measure_run(
    denoiser: Denoiser,
    tasks: int = ALL_TASKS,
    sources: Sequence[bool] | None = None,
    repeats: int = 20,
    warmup: int = 3,
    budget: float | None = None,
) -> tuple[dict[str, int], dict[str, Any]]:
    """Make `params` and `cost` of result.json from one call for a sample of the dearest task, where the denoiser is.

    tasks: how many have to be served in the end. sources: for each task of the run whether it has a source image; None:
    all have. budget: of a call, as a drawing has it; None: as the method decides. Peak memory is null on the CPU: a
    process that has loaded data and trained says nothing about one call.
    """
    backbone, device = denoiser.backbone, device_of(denoiser.backbone)
    text = encode_prompt(backbone)
    given = [True] * len(denoiser.tasks) if sources is None else sources
    reads = denoiser.method.reads
    rows = [make_condition(backbone, text, source, k, reads).to(device) for k, source in enumerate(given)]
    rows = [row.limit(budget) for row in rows]
    flops = [count_step_flops(denoiser, row) for row in rows]
    dearest = max(range(len(rows)), key=lambda k: flops[k].total)
    call = make_call(denoiser, rows[dearest])
    cost = {
        **flops[dearest].as_dict(),
        "latency_ms": measure_latency(call, repeats, warmup, RUN_S),
        "peak_memory_mb": measure_cuda_peak(backbone.denoiser, call) if device.type == "cuda" else None,
    }
    return count_parameters(denoiser, tasks), cost
