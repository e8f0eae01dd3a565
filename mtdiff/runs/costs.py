"""What a configured model costs: parameters, FLOPs and disk on shapes alone, time and memory with random weights."""

import copy
import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from mtdiff.config.schema import construct
from mtdiff.config.signatures import PACKAGES
from mtdiff.errors import ConfigError
from mtdiff.provenance import device_name, versions
from mtdiff.runs.checks import list_compared_tasks

# Counting


def build_shapes(plain: Mapping[str, Any]) -> Any:
    """The configured backbone on the meta device."""
    return construct({**plain["backbone"], "weights": "meta"})


def adapt_backbone(backbone: Any, plain: Mapping[str, Any]) -> Any:
    """A denoiser of the configured method on the backbone."""
    from mtdiff.model.denoiser import Denoiser

    return Denoiser(backbone, construct(plain["method"]), plain["tasks"])


def build_painter(backbone: Any, plain: Mapping[str, Any]) -> Any:
    """A painter of shapes alone, as configured; the other model of `sampling.switch` is on a copy of the backbone."""
    from mtdiff.config.settings import Sampling
    from mtdiff.methods.assembler import find_assembler
    from mtdiff.model.denoiser import Denoiser
    from mtdiff.runs.adapter import read_light
    from mtdiff.runs.load import make_painter

    sampling = Sampling(**plain["sampling"])
    packages = (*PACKAGES, *plain["packages"])
    about = read_light(sampling.switch, plain, packages, plain["backbone"].get("weights"))
    light = None
    if about is not None:
        light = Denoiser(copy.deepcopy(backbone), construct(about.method), about.tasks)
    denoiser = adapt_backbone(backbone, plain)
    assembler = find_assembler(denoiser.backbone.denoiser)
    if assembler is not None and sampling.budget is not None:  # shapes alone cannot carry the number
        assembler.whole = sampling.budget
    return make_painter(denoiser, sampling, light)


def count_budgets(denoiser: Any, row: Any) -> list[dict[str, Any]]:
    """Parameters and FLOPs of the network that is left at each budget, with the modules that training starts with."""
    from mtdiff.costs.flops import count_step_flops
    from mtdiff.costs.measure import count_parameters
    from mtdiff.methods.assembler import find_assembler

    assembler, found = find_assembler(denoiser.backbone.denoiser), []
    for budget in denoiser.method.budgets if assembler is not None else ():
        trial = copy.deepcopy(denoiser)
        trial.method.assemble(trial.backbone, assembler.propose_evenly(budget), 0)  # type: ignore[union-attr]
        parameters = count_parameters(trial)["total"]
        found.append({"budget": budget, "parameters": parameters, **count_step_flops(trial, row).as_dict()})
    return found


def count_costs(plain: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, Any]:
    """Parameters, FLOPs and disk of the untouched base and of the adapted model."""
    from mtdiff.costs import measure as cost
    from mtdiff.costs.drawing import count_drawing, describe_drawing
    from mtdiff.costs.flops import count_step_flops, encode_prompt, guide_row, has_source, make_condition
    from mtdiff.methods.untouched import Untouched
    from mtdiff.model.denoiser import Denoiser
    from mtdiff.model.sampling import Guidance

    backbone = build_shapes(plain)
    text = encode_prompt(backbone)
    sources = {name: has_source(construct(plain["task"][name])) for name in plain["tasks"]}
    reads = construct(plain["method"]).reads
    rows = {name: make_condition(backbone, text, source, k, reads) for k, (name, source) in enumerate(sources.items())}
    base = Denoiser(backbone, Untouched(), plain["tasks"])
    parameters = cost.count_parameters(base)["total"]
    untouched = {"parameters": parameters, **count_step_flops(base, next(iter(rows.values()))).as_dict()}

    painter = build_painter(backbone, plain)
    denoiser = painter.denoiser
    steps = {name: count_step_flops(denoiser, row) for name, row in rows.items()}
    pictures = {}
    for name, row in rows.items():
        guided = guide_row(row, text, painter.guidance.get(name, Guidance()))
        pictures[name] = {**describe_drawing(painter, len(guided)), **count_drawing(painter, guided).as_dict()}
    compared = list_compared_tasks(plain)
    dearest = max(steps, key=lambda name: steps[name].total)
    blank = {"latency_ms": {"median": None, "p95": None}, "peak_memory_mb": None, "picture_ms": None}
    return {
        "schema": 1,
        **{k: chosen[k] for k in ("backbone", "method")},
        "options": plain["method"],
        "tasks": plain["tasks"],
        "tasks_served": compared,
        "batch": 1,
        "latent_shape": list(backbone.latent_shape),
        "text_tokens": text.tokens.shape[1],
        "base": untouched,
        "params": cost.count_parameters(denoiser, len(compared)),
        "cost": {**steps[dearest].as_dict(), **blank},
        "dearest_task": dearest,
        "per_step": {name: flops.as_dict() for name, flops in steps.items()},
        "per_picture": pictures,
        "budgets": count_budgets(denoiser, rows[dearest]),
        "disk_mb": cost.measure_disk(denoiser, parameters, len(compared)),
        "measured": None,
        "versions": versions(),
    }


# Measuring


def ignore_interrupts() -> None:
    """Ctrl-C reaches the whole terminal; the process that waits says the one line about it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def measure_costs(plain: Mapping[str, Any], task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Time and memory of a step; runs in the new process."""
    from mtdiff.costs.drawing import measure_drawing
    from mtdiff.costs.flops import device_of, encode_prompt, guide_row, has_source, make_condition
    from mtdiff.costs.measure import Measuring, materialise, measure_call
    from mtdiff.model.sampling import Guidance

    backbone = build_shapes(plain)
    source = has_source(construct(plain["task"][task]))
    reads = construct(plain["method"]).reads
    row = make_condition(backbone, encode_prompt(backbone), source, plain["tasks"].index(task), reads)
    how, painter = Measuring(**options), build_painter(backbone, plain)
    found = measure_call(painter.denoiser, row, how)
    if painter.switch is not None:
        materialise(painter.switch.light, how.device, how.dtype)
    guided = guide_row(row, encode_prompt(backbone), painter.guidance.get(task, Guidance()))
    guided = guided.to(device_of(painter.denoiser.backbone), how.dtype)
    picture = measure_drawing(painter, guided, how.repeats, how.warmup, float("inf"))
    return {**found, "picture_ms": picture["median"], "device": device_name(how.device)}


def measure_alone(plain: Mapping[str, Any], task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """`measure_costs` in a process that has nothing else in its memory. ConfigError where it is killed."""
    with ProcessPoolExecutor(1, get_context("spawn"), ignore_interrupts) as pool:
        try:
            return pool.submit(measure_costs, plain, task, options).result()
        except BrokenProcessPool:
            raise ConfigError(
                "latency=true: the measuring process was killed, most likely for want of memory"
            ) from None


# The answer


def describe_costs(found: Mapping[str, Any]) -> list[str]:
    """The result for a person, line by line."""
    base, params, cost, disk = found["base"], found["params"], found["cost"], found["disk_mb"]
    said = [
        f"{found['method']} on {found['backbone']}, trained for {', '.join(found['tasks'])}; one sample, "
        f"latents {'x'.join(map(str, found['latent_shape']))}, {found['text_tokens']} tokens",
        f"parameters      base {base['parameters'] / 1e6:.1f}M, model {params['total'] / 1e6:.1f}M, trained "
        f"{params['trainable'] / 1e6:.1f}M, for {len(found['tasks_served'])} tasks "
        f"{params['total_for_all_tasks'] / 1e6:.1f}M",
        f"disk, float16   base {disk['base_float16']:.1f} MB, what training made {disk['adapter_float16']:.1f} MB, "
        f"shipped for all tasks {disk['shipped_float16']:.1f} MB; autoencoder and text {disk['around_float16']:.1f} MB",
        f"a step          base {format_tera(base)}, model {format_tera(cost)} "
        f"({cost['flops'] / base['flops'] - 1:+.1%}), dearest task {found['dearest_task']}",
    ]
    for size in found["budgets"]:
        saved = f"({size['flops'] / base['flops'] - 1:+.1%} to the base), {size['parameters'] / 1e6:.1f}M parameters"
        said.append(f"budget {size['budget']:<9g}{format_tera(size)} {saved}")
    for name, flops in found["per_picture"].items():
        steps = f"{flops['steps']} steps x {flops['predictions']} predictions"
        for what, key in (("inheriting", "inheriting_steps"), ("by the light model", "light_steps")):
            steps += f", {flops[key]} {what}" if flops[key] else ""
        said.append(f"a picture       {name}: {steps}, {format_tera(flops)}")
    how = found["measured"]
    if how is not None:
        where = how["device"] + (f", threads: {how['threads']}" if how["threads"] else "")
        latency = cost["latency_ms"]
        said.append(f"latency         median {latency['median']:.1f} ms, p95 {latency['p95']:.1f} ms ({where})")
        said.append(
            f"                {cost['picture_ms']:.0f} ms for all steps of a picture of {found['dearest_task']}"
        )
        peak = "unknown" if cost["peak_memory_mb"] is None else f"{cost['peak_memory_mb']:.0f} MB"
        libraries = f", libraries {how['libraries_mb']:.0f} MB of it" if how["libraries_mb"] else ""
        said.append(f"peak memory     {peak} ({how['peak_memory_of']}{libraries})")
    return said


def format_tera(flops: Mapping[str, int]) -> str:
    """FLOPs in both conventions."""
    return f"{flops['flops'] / 1e12:.4g} TFLOPs ({flops['flops_no_attn'] / 1e12:.4g} without attention products)"
