"""What is fast and what is not, as ratios of times that one run measures side by side.

    python experiments/benchmark.py out=bench.json                  every part, on a machine that does nothing else
    python experiments/benchmark.py what=experts threads=1          one part, about two minutes on 2 CPU cores
    python experiments/benchmark.py what=folded backbone=sd15 repeats=5      at full size, with random weights

    experts     MTU's feed-forward layer, forward and backward, against the dense layer and a plain loop over experts
    folded      a folded MTU against the untouched base: latency, parameters, FLOPs
    training    steps of every method against full fine-tuning, on the same batches
    loop        our training loop against a bare one of diffusers and torch alone, on the same batches
    checkpoints a checkpoint against the steps between two, as training.save_every says
    cache       steps with all encodings in a cache against steps that encode, on the same batches
    sampling    our sampler against the diffusers pipeline that an export runs in: the same pictures
    mixed       one batch of four tasks against one call a task
    inherit     drawings whose steps use features of earlier ones, by level, against the whole drawing
    report      the report page of 5, 50 and 200 runs: how large it is, how long a browser takes to open it (Chromium)

The variants of a comparison take turns, and every turn gives a ratio: shown are the median, the quartiles and whether
the median meets what is asked (`undecided`: it does not, but a quartile does). Options of its own:

    out=FILE                        a JSON file with all times; else the terminal alone
    what=PART,PART                  some of the parts above; else all
    repeats=N                       turns; else each part's own number
    device=cpu|cuda  threads=N  precision=float32|bfloat16  quick=true (small and one turn: its times mean nothing)

All others are those of experiments/run.py; precision of training is trainer.precision unless `precision` is given.
"""

import json
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from mtdiff.commands.arguments import split_settings
from mtdiff.commands.build import build_experiment
from mtdiff.commands.command import run_command
from mtdiff.commands.compose import CONFIGS, read_configuration
from mtdiff.config.schema import construct, refuse
from mtdiff.errors import ConfigError
from mtdiff.files.writing import check_folder, write_atomically
from mtdiff.provenance import provenance
from mtdiff.runs.checks import list_compared_tasks

HOW = "benchmarks.timing.How"
OWN = ("out", "what")
METHODS = ("finetune", "mtu", "lora_ffn", "ia3", "dtr", "one_pic")
TRAINER_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}
ALONE = ("sample_every", "validate_every", "save_every", "ema_decay", "cache")  # what a bare loop does not do
FULL_SIZE = 10**8  # parameters from which a call takes seconds


# Parts: (configuration, how, overrides) -> comparisons


def run_experts(plain: Mapping[str, Any], how: Any, overrides: list[str]) -> list[Any]:
    from benchmarks.experts import SIZES, compare_experts

    return compare_experts(how, 5, [(32, 64), (64, 16)] if how.quick else SIZES)


def run_folded(plain: Mapping[str, Any], how: Any, overrides: list[str]) -> list[Any]:
    from benchmarks.folded import compare_folded, numbers

    shipped = plain["backbone"]["weights"] == "nano"
    base = construct({**plain["backbone"], **({} if shipped else {"weights": "meta"})})
    large = numbers(base.denoiser) > FULL_SIZE
    return compare_folded(base, how, calls=1 if large or how.quick else 4, turns=3 if large else 60)


def run_training(plain: Mapping[str, Any], how: Any, overrides: list[str]) -> list[Any]:
    from benchmarks.training import WARMUP, compare_training

    from mtdiff.config.settings import Training
    from mtdiff.model.denoiser import Denoiser
    from mtdiff.training.module import MultiTaskModule

    number = WARMUP + 1 + (1 if how.quick else 4)
    run = build_part(plain, how, [*overrides, "training.workers=0"], number, Path())
    batches = [batch for batch, _ in zip(run.data.train_dataloader(), range(number), strict=False)]
    modules = {}
    for name in METHODS:
        method = construct(yaml.safe_load((CONFIGS / "method" / f"{name}.yaml").read_text()))
        denoiser = Denoiser(construct(plain["backbone"]), method, plain["tasks"])
        modules[name] = MultiTaskModule(denoiser, Training(steps=number, batch_size=1, lr=1e-4))
    return [compare_training(modules, batches, run.trainer, how, 5)]


def run_loop(plain: Mapping[str, Any], how: Any, overrides: list[str]) -> list[Any]:
    from benchmarks.training import WARMUP, compare_loops

    with TemporaryDirectory() as folder:
        steps = WARMUP + 1 + (1 if how.quick else 8)
        run = build_part(plain, how, [*overrides, "method=finetune"], steps, Path(folder))
        return [compare_loops(run, Path(folder), how, 7)]


def run_checkpoints(plain: Mapping[str, Any], how: Any, overrides: list[str]) -> list[Any]:
    from benchmarks.training import WARMUP, compare_checkpoints

    training = plain["training"]
    if training["save_every"] is None:
        raise ConfigError("training.save_every=None: expected a number of steps for what=checkpoints")
    with TemporaryDirectory() as folder:
        run = build_part(plain, how, overrides, WARMUP + 1 + (1 if how.quick else 8), Path(folder))
        run = replace(run, training=replace(run.training, ema_decay=training["ema_decay"]))
        return [compare_checkpoints(run, Path(folder), training["save_every"], how, 5)]


def run_cache(plain: Mapping[str, Any], how: Any, overrides: list[str]) -> list[Any]:
    from benchmarks.training import WARMUP, compare_cached

    with TemporaryDirectory() as folder:
        steps = WARMUP + 1 + (1 if how.quick else 8)
        run = build_part(plain, how, [*overrides, "training.workers=0", "training.cache=null"], steps, Path(folder))
        return [compare_cached(run, Path(folder), how, 7)]


def run_sampling(plain: Mapping[str, Any], how: Any, overrides: list[str]) -> list[Any]:
    from benchmarks.sampling import compare_sampling

    return compare_sampling(construct(plain["backbone"]), *read_drawing(plain, how), 2 if how.quick else 8, how, 5)


def run_mixed(plain: Mapping[str, Any], how: Any, overrides: list[str]) -> list[Any]:
    from benchmarks.sampling import compare_mixed

    return [compare_mixed(construct(plain["backbone"]), *read_drawing(plain, how), 1 if how.quick else 2, how, 9)]


def run_inherit(plain: Mapping[str, Any], how: Any, overrides: list[str]) -> list[Any]:
    from benchmarks.inherit import compare_inheriting

    shipped = plain["backbone"]["weights"] == "nano"
    base = construct({**plain["backbone"], **({} if shipped else {"weights": "meta"})})
    return [compare_inheriting(base, *read_drawing(plain, how), how, 5 if base.size > 64 else 20)]


def run_report(plain: Mapping[str, Any], how: Any, overrides: list[str]) -> list[Any]:
    from benchmarks.report import RUNS, compare_opening

    with TemporaryDirectory() as folder:
        return compare_opening(Path(folder), how, 5, (1, 2) if how.quick else RUNS)


PARTS: dict[str, Callable[[Mapping[str, Any], Any, list[str]], list[Any]]] = {
    "experts": run_experts,
    "folded": run_folded,
    "training": run_training,
    "loop": run_loop,
    "checkpoints": run_checkpoints,
    "cache": run_cache,
    "sampling": run_sampling,
    "mixed": run_mixed,
    "inherit": run_inherit,
    "report": run_report,
}


def build_part(plain: Mapping[str, Any], how: Any, overrides: list[str], steps: int, folder: Path) -> Any:
    """The experiment that run.py makes of the overrides, for so many steps, with nothing but training in it."""
    precision = TRAINER_PRECISION.get(how.precision, plain["trainer"]["precision"])
    accelerator = "gpu" if how.device.startswith("cuda") else "cpu"
    own = [f"training.{key}=null" for key in ALONE]
    own += [f"training.steps={steps}", "evaluation.baselines=false", "progress=false"]
    own += [f"trainer.accelerator={accelerator}", f"trainer.precision={precision}", "logger.wandb=false"]
    own += ["training.batch_size=4"] if how.quick else []
    from baselines.trivial import trivial  # imports torch

    return build_experiment(read_configuration([*overrides, *own])[0], folder, trivial)


def read_drawing(plain: Mapping[str, Any], how: Any) -> tuple[int, dict[str, Any]]:
    """Sampling steps and guidance, as configured."""
    from mtdiff.model.sampling import Guidance

    scales = plain["sampling"]["guidance"]
    guidance = {task: Guidance(**scales.get(task, {})) for task in plain["task"]}
    return (2 if how.quick else plain["sampling"]["steps"]), guidance


# The answer


def chosen(what: object) -> list[str]:
    """Parts to run, from `what=`."""
    names = list(PARTS) if what is None else [str(w) for w in what] if isinstance(what, list) else str(what).split(",")
    for name in names:
        if name not in PARTS:
            raise refuse("what", name, PARTS)
    return names


def lines(comparison: Mapping[str, Any]) -> list[str]:
    """A comparison for a person: median times, then the ratios."""
    times = {name: sorted(values)[len(values) // 2] for name, values in comparison["seconds"].items()}
    said = [f"{comparison['part']}: {comparison['case']}"]
    said.append("    " + ", ".join(f"{name} {1e3 * seconds:.4g} ms" for name, seconds in times.items()))
    for row in comparison["rows"]:
        ratio, asked = row["ratio"], f"asked {row['asked']}: {row['verdict']}" if row["verdict"] else ""
        name = f"{row['kind']} {row['variant']} / {row['against']}"
        spread = f"({ratio['low']:.3f} to {ratio['high']:.3f})"
        said.append(f"    {name:28} {ratio['median']:.3f} {spread}  {asked}".rstrip())
    said += [f"    {name:28} {value:.6g}" for name, value in comparison["counts"].items()]
    return said


def quiet() -> None:
    """Lightning's advice belongs to runs."""
    import lightning  # noqa: F401 (importing it sets the levels anew)

    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main(arguments: list[str]) -> None:
    own, overrides = split_settings(arguments, settings=HOW, further=OWN, script="benchmark")
    names = chosen(own.get("what"))
    if own.get("out") is not None:
        check_folder("out", Path(str(own["out"])).parent)
    plain, groups = read_configuration(overrides)
    compared = list_compared_tasks(plain)
    if {"mixed", "training"} & set(names) and len(plain["tasks"]) < len(compared):
        raise ConfigError(f"tasks={plain['tasks']}: expected all of {', '.join(compared)} for a comparison")
    how = construct({"_target_": HOW, **{k: v for k, v in own.items() if k not in OWN}})
    import torch

    if how.threads is not None:
        torch.set_num_threads(how.threads)
    quiet()
    found: dict[str, Any] = {"schema": 1, **provenance(how.device), "threads": torch.get_num_threads()}
    found |= {"settings": {**vars(how), "what": names, "overrides": overrides}, "backbone": groups["backbone"]}
    found |= {"comparisons": [], "seconds": {}}
    print(f"{found['device']}, {found['threads']} threads{', quick: the times mean nothing' if how.quick else ''}")
    for name in names:
        began = time.monotonic()
        for comparison in PARTS[name](plain, how, overrides):
            found["comparisons"].append(comparison.plain())
            print("\n".join(lines(found["comparisons"][-1])), flush=True)
        found["seconds"][name] = round(time.monotonic() - began, 1)
        if own.get("out") is not None:
            write_atomically(Path(str(own["out"])), json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main, __doc__)
