"""`experiments/assemble.py`: one limit is read and checked, then a network is searched, written and described."""

import json
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mtdiff.commands.arguments import read_number, read_switch
from mtdiff.commands.compose import read_configuration
from mtdiff.commands.pictures import read_run
from mtdiff.errors import shown
from mtdiff.files.writing import check_folder, write_atomically

LIMITS = ("latency_ms", "flops", "memory_mb")
OWN = ("run", "task", "out", *LIMITS, "candidates", "seed", "threads", "device", "onnx", "packages", "base")
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def read_limit(given: Mapping[str, str]) -> tuple[str, float]:
    """The one limit of a command, by its name. ValueError where there is none, or more than one."""
    named = [kind for kind in LIMITS if kind in given]
    if len(named) != 1:
        found = ", ".join(named) or "none"
        raise ValueError(f"limit={found}: expected exactly one of {', '.join(f'{kind}=...' for kind in LIMITS)}")
    value = read_number(given, named[0], float, low=0)
    if value == 0:
        raise ValueError(f"{named[0]}={given[named[0]]}: expected a number above 0")
    return named[0], value


def check_onnx(given: Mapping[str, str]) -> bool:
    """Whether an ONNX file is to be written. ValueError where its libraries are not there."""
    wanted = read_switch(given, "onnx", True)
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if wanted and missing:
        raise ValueError(f"onnx=true: needs {missing[0]}, pip install -e '.[onnx]', or onnx=false")
    return wanted


def assemble_network(given: Mapping[str, str], overrides: Sequence[str]) -> None:
    """Search, write and describe. overrides: of the configuration that validation examples come from."""
    kind, value = read_limit(given)
    onnx, out = check_onnx(given), check_folder("out", given["out"])
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out={shown(out)}: expected an empty folder, or none there")
    candidates = read_number(given, "candidates", int, 24, 0)
    threads = read_number(given, "threads", int, None, 1)
    about, options = read_run(given)
    plain, _ = read_configuration(overrides)
    seed = read_number(given, "seed", int, 0, 0)
    task, device = given["task"], given.get("device", "cpu")
    import torch

    from mtdiff.methods.assembler import find_assembler
    from mtdiff.provenance import provenance
    from mtdiff.results.phases import Phases
    from mtdiff.runs import assemble
    from mtdiff.runs.drops import Noised, read_examples
    from mtdiff.runs.load import load_run
    from mtdiff.runs.module_costs import build_costs

    if threads is not None:
        torch.set_num_threads(threads)
    phases, limit, seconds = Phases(shown=plain["progress"]), assemble.Limit(kind, value), {}
    with phases.start("load") as phase:
        model = load_run(device=device, **options)
        denoiser = model.painter.denoiser
        assembler, number = find_assembler(denoiser.backbone.denoiser), denoiser.tasks.index(task)
        if assembler is None:
            raise ValueError(f"run={shown(given['run'])}: has one size, expected a run of method=budgeted")
    seconds["load"] = phase.seconds
    source = model.takes[task].image
    began = time.perf_counter()
    costs = build_costs(denoiser, assembler, number, source, phases, timed=kind == "latency_ms")
    seconds["costs"], began = time.perf_counter() - began, time.perf_counter()
    assemble.check_limit(limit, costs)
    examples = read_examples({**plain, "task": about.content["task"], "tasks": [task]})
    noised = Noised.of(denoiser.backbone, examples.to(device), seed)
    judge = assemble.make_judge(denoiser, assembler, noised, number)
    seconds["examples"], began = time.perf_counter() - began, time.perf_counter()
    found = assemble.search(assembler, number, limit, costs, judge, candidates=candidates, seed=seed)
    seconds["search"], began = time.perf_counter() - began, time.perf_counter()
    small, content = assemble.assemble(about, denoiser, found.keep, task)
    assemble.check_equal(small, denoiser, assembler, found.keep, noised)
    measured = assemble.measure_small(small, source)
    seconds["assemble"], began = time.perf_counter() - began, time.perf_counter()
    with phases.start("write"):
        written = assemble.write_network(out, small, content, about, model, onnx)
    seconds["write"] = time.perf_counter() - began
    card = assemble.build_card(limit, costs, found, measured, seed)
    head: dict[str, Any] = {"schema": 1, "run": given["run"], "task": task, "seed": seed, **provenance(device)}
    rounded = {name: round(s, 3) for name, s in seconds.items()}
    text = json.dumps({**head, "threads": torch.get_num_threads(), "seconds": rounded, **card}, indent=1)
    write_atomically(out / "assembly.json", text + "\n")
    print("\n".join(assemble.describe_card(card)))
    print(f"{'seconds':12}{', '.join(f'{name} {s:.1f}' for name, s in seconds.items())}")
    print(f"{out}: {written}")
