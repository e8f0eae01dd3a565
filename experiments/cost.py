"""What a model costs: parameters, FLOPs, disk, and with latency=true time and memory. Needs no weights.

    python experiments/cost.py backbone=sd15 method=mtu out=cost.json
    python experiments/cost.py method=finetune tasks=[edit]        one model per task
    python experiments/cost.py method=mtu latency=true threads=1

Everything is counted on shapes alone, by running the adapted denoiser as training and sampling do. Options of its own:

    out=FILE               a JSON file; else the terminal alone
    latency=true           also run it, with random weights, in a process of its own
    device=cpu|cuda  threads=N  precision=float32|bfloat16  repeats=20  warmup=3         how to run it

All others are those of experiments/run.py: backbone, method, tasks, task, sampling and what is below them.
"""

import json
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import yaml
from composing import CONFIGS, checked, composed, groups, guarded, sections, single_runs
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from mtdiff.config.schema import check_arguments, construct, signature
from mtdiff.errors import ConfigError
from mtdiff.files import check_folder, write_atomically
from mtdiff.provenance import device_name, versions

OWN = ("out", "latency")
MEASURING = "mtdiff.costs.measure.Measuring"


# 1. The command line


def split(
    arguments: list[str], settings: str = MEASURING, further: Sequence[str] = OWN
) -> tuple[dict[str, Any], list[str]]:
    """A script's own options by name, and the overrides that are run.py's. settings: the class that has the former."""
    known = list(signature(settings))
    names = {*further, *(a.name for a in known)}
    own, rest = {}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in names:
            try:
                own[key] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise ConfigError(f"{argument}: expected a plain value") from None
        else:
            rest.append(argument)
    check_arguments(Path(sys.argv[0]).stem, known, {k: v for k, v in own.items() if k not in further})
    return own, rest


def configured(overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """run.py's checked configuration, and the chosen backbone and method by name."""
    if len(single_runs(overrides)) > 1:
        raise ConfigError("one configuration at a time; expected one value an option")
    with initialize_config_dir(str(CONFIGS.resolve()), version_base=None):
        plain = checked(composed(overrides))
    sections(plain)
    defaults = yaml.safe_load((CONFIGS / "config.yaml").read_text())["defaults"]
    chosen = {k: v for entry in defaults if isinstance(entry, dict) for k, v in entry.items()}
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.key_or_group in groups():
            chosen[override.key_or_group] = str(override.value())
    return plain, chosen


# 2. Counting, on shapes alone


def shapes(plain: Mapping[str, Any]) -> Any:
    """The configured backbone on the meta device."""
    return construct({**plain["backbone"], "weights": "meta"})


def adapted(backbone: Any, plain: Mapping[str, Any]) -> Any:
    from mtdiff.model.denoiser import Denoiser

    return Denoiser(backbone, construct(plain["method"]), plain["tasks"])


def counted(plain: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, Any]:
    """Parameters, FLOPs and disk of the untouched base and of the adapted model."""
    from mtdiff.costs import measure as cost
    from mtdiff.costs.flops import count_step_flops, encode_prompt, guide_row, has_source, make_condition
    from mtdiff.methods.untouched import Untouched
    from mtdiff.model.denoiser import Denoiser
    from mtdiff.model.sampling import Guidance

    backbone = shapes(plain)
    text = encode_prompt(backbone)
    sources = {name: has_source(construct(plain["task"][name])) for name in plain["tasks"]}
    rows = {name: make_condition(backbone, text, source, k) for k, (name, source) in enumerate(sources.items())}
    base = Denoiser(backbone, Untouched(), plain["tasks"])
    parameters = cost.count_parameters(base)["total"]
    untouched = {"parameters": parameters, **count_step_flops(base, next(iter(rows.values()))).named()}

    denoiser = adapted(backbone, plain)
    steps = {name: count_step_flops(denoiser, row) for name, row in rows.items()}
    pictures = {}
    for name, row in rows.items():
        guided = guide_row(row, text, Guidance(**plain["sampling"]["guidance"].get(name, {})))
        flops = count_step_flops(denoiser, guided).named(plain["sampling"]["steps"])
        pictures[name] = {"predictions": len(guided), "steps": plain["sampling"]["steps"], **flops}
    served = len(plain["task"])
    dearest = max(steps, key=lambda name: steps[name].total)
    blank = {"latency_ms": {"median": None, "p95": None}, "peak_memory_mb": None}
    return {
        "schema": 1,
        **{k: chosen[k] for k in ("backbone", "method")},
        "options": plain["method"],
        "tasks": plain["tasks"],
        "tasks_served": list(plain["task"]),
        "batch": 1,
        "latent_shape": list(backbone.latent_shape),
        "text_tokens": text.tokens.shape[1],
        "base": untouched,
        "params": cost.count_parameters(denoiser, served),
        "cost": {**steps[dearest].named(), **blank},
        "dearest_task": dearest,
        "per_step": {name: flops.named() for name, flops in steps.items()},
        "per_picture": pictures,
        "disk_mb": cost.measure_disk(denoiser, parameters, served),
        "measured": None,
        "versions": versions(),
    }


# 3. Measuring, with random weights, in a process of its own


def measured(plain: Mapping[str, Any], task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Runs in the new process."""
    from mtdiff.costs.flops import encode_prompt, has_source, make_condition
    from mtdiff.costs.measure import Measuring, measure_call

    backbone = shapes(plain)
    source = has_source(construct(plain["task"][task]))
    row = make_condition(backbone, encode_prompt(backbone), source, plain["tasks"].index(task))
    how = Measuring(**options)
    return {**measure_call(adapted(backbone, plain), row, how), "device": device_name(how.device)}


def in_a_process(plain: Mapping[str, Any], task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measured, plain, task, options).result()
        except BrokenProcessPool:
            raise ConfigError(
                "latency=true: the measuring process was killed, most likely for want of memory"
            ) from None


# 4. The answer


def lines(found: Mapping[str, Any]) -> list[str]:
    """The result for a person."""
    base, params, cost, disk = found["base"], found["params"], found["cost"], found["disk_mb"]
    said = [
        f"{found['method']} on {found['backbone']}, trained for {', '.join(found['tasks'])}; one sample, "
        f"latents {'x'.join(map(str, found['latent_shape']))}, {found['text_tokens']} tokens",
        f"parameters      base {base['parameters'] / 1e6:.1f}M, model {params['total'] / 1e6:.1f}M, trained "
        f"{params['trainable'] / 1e6:.1f}M, for {len(found['tasks_served'])} tasks "
        f"{params['total_for_all_tasks'] / 1e6:.1f}M",
        f"disk, float16   base {disk['base_float16']:.1f} MB, what training made {disk['adapter_float16']:.1f} MB, "
        f"shipped for all tasks {disk['shipped_float16']:.1f} MB; autoencoder and text {disk['around_float16']:.1f} MB",
        f"a step          base {tera(base)}, model {tera(cost)} ({cost['flops'] / base['flops'] - 1:+.1%}), "
        f"dearest task {found['dearest_task']}",
    ]
    for name, flops in found["per_picture"].items():
        said.append(
            f"a picture       {name}: {flops['steps']} steps x {flops['predictions']} predictions, {tera(flops)}"
        )
    how = found["measured"]
    if how is not None:
        where = how["device"] + (f", threads: {how['threads']}" if how["threads"] else "")
        latency = cost["latency_ms"]
        said.append(f"latency         median {latency['median']:.1f} ms, p95 {latency['p95']:.1f} ms ({where})")
        peak = "unknown" if cost["peak_memory_mb"] is None else f"{cost['peak_memory_mb']:.0f} MB"
        libraries = f", libraries {how['libraries_mb']:.0f} MB of it" if how["libraries_mb"] else ""
        said.append(f"peak memory     {peak} ({how['peak_memory_of']}{libraries})")
    return said


def tera(flops: Mapping[str, int]) -> str:
    return f"{flops['flops'] / 1e12:.4g} TFLOPs ({flops['flops_no_attn'] / 1e12:.4g} without attention products)"


def main(arguments: list[str]) -> None:
    own, overrides = split(arguments)
    if own.get("out") is not None:
        check_folder("out", Path(str(own["out"])).parent)
    if not isinstance(own.get("latency", False), bool):
        raise ConfigError(f"latency={own['latency']}: expected true or false")
    plain, chosen = configured(overrides)
    options = {k: v for k, v in own.items() if k not in OWN}
    construct({"_target_": MEASURING, **options})  # a mistake there answers before the counting
    found = counted(plain, chosen)
    if own.get("latency", False):
        how = in_a_process(plain, found["dearest_task"], options)
        found["cost"] |= {k: how.pop(k) for k in ("latency_ms", "peak_memory_mb")}
        found["measured"] = how
    print("\n".join(lines(found)))
    if own.get("out") is not None:
        write_atomically(Path(str(own["out"])), json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit()
    guarded(lambda: main(sys.argv[1:]))
