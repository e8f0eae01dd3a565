"""Compute the batch of a fault again: a loss or gradient that was not finite, kept in a run folder's `faults/`.

    python experiments/studies/replay.py run=runs/<name>                     the first fault, with its weights
    python experiments/studies/replay.py run=runs/<name> fault=step-12       another, with the weights of the first
    python experiments/studies/replay.py run=runs/<name> precision=32-true   another precision: is it rounding?

Prints every example's task, key, time and error, the loss, and the gradients that are not finite. Exit code 3 where
something is not. device=cpu packages=yours base=<folder> as for sample.py. What a method itself drops in training
(`method.dropout`) is drawn anew.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtdiff.commands.arguments import parse_options, read_packages
from mtdiff.commands.command import run_command
from mtdiff.config.schema import check, check_arguments, construct, refuse
from mtdiff.config.signatures import signature
from mtdiff.errors import shown
from mtdiff.files.reading import read_yaml, resolve_within
from mtdiff.runs.adapter import about_of
from mtdiff.runs.foreign import check_flat

NOT_FINITE = 3
NAME = re.compile(r"step-(\d+)(-rank-\d+)?")


def faults(run: Path) -> list[str]:
    """Names of the faults that a run has kept, in their order."""
    found = (p.stem for p in resolve_within(run, "faults").glob("step-*.json"))
    return sorted((n for n in found if NAME.fullmatch(n)), key=lambda n: int(n.split("-")[1]))


def chosen(run: Path, wanted: str | None) -> tuple[Path, Path]:
    """The fault's batch, and the weights of the first fault."""
    if not (run / "config.yaml").exists():
        raise ValueError(f"run={shown(run)}: no run folder, it has no config.yaml")
    names = faults(run)
    if not names:
        raise ValueError(f"run={shown(run)}: has kept no fault")
    if wanted is not None and wanted not in names:
        raise refuse("fault", wanted, names)
    step = names[0].split("-")[1]
    return resolve_within(run, f"faults/{wanted or names[0]}.json"), resolve_within(
        run, f"faults/step-{step}-weights.safetensors"
    )


def rebuild_module(run: Path, told: dict[str, Any]) -> tuple[Any, Any]:
    """The module of a run as it starts, from its `config.yaml`, and that configuration."""
    from mtdiff.config.settings import Training
    from mtdiff.runs.load import build_denoiser
    from mtdiff.training.module import MultiTaskModule

    path = resolve_within(run, "config.yaml")
    content = read_yaml(path)
    about = about_of(path, content, **told)
    for key, kind in (("balancing", dict), ("training", dict), ("trainer", dict)):
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{path}: {key}: has to be given, a mapping")
    check_arguments("training", list(signature("mtdiff.config.settings.Training")), content["training"])
    balancing = content["balancing"]
    check({"balancing": balancing}, packages=told["packages"])
    check_flat("balancing", {k: v for k, v in balancing.items() if k != "weighting"})
    check_flat("balancing.weighting", balancing.get("weighting") or {})
    training = Training(steps=1, batch_size=1, lr=0.0, dropout=content["training"].get("dropout") or {})
    return MultiTaskModule(build_denoiser(about), training, balancing=construct(balancing)), content


def lines(found: Any, tasks: list[str]) -> Iterator[str]:
    batch = found.batch
    rows = zip(batch.task.tolist(), batch.key, found.t.tolist(), found.errors.tolist(), batch.prompt, strict=True)
    for task, key, t, error, prompt in rows:
        yield f"{tasks[task]:16} t={t:<4} error {error:<12.6g} {shown(key, 60)}: {shown(prompt, 60)}"
    named = f", first {found.gradients[0]}" if found.gradients else ""
    yield f"loss {found.loss:.6g}; gradients that are not finite: {len(found.gradients)}{named}"


def main(arguments: list[str]) -> None:
    given = parse_options(arguments, ("run", "fault", "device", "precision", "packages", "base"), ("run",))
    run = Path(given["run"])
    batch, weights = chosen(run, given.get("fault"))
    told: dict[str, Any] = {"packages": read_packages(given), "base": given.get("base")}
    import torch

    from mtdiff.runs.experiment import MIXED_DTYPES
    from mtdiff.runs.load import check_device
    from mtdiff.training.faults import load, load_trained, replay

    device = given.get("device", "cpu")
    check_device(device)
    module, content = rebuild_module(run, told)
    precision = given.get("precision", str(content["trainer"].get("precision")))
    if "precision" in given and precision not in ("32-true", *MIXED_DTYPES):
        raise refuse("precision", precision, ("32-true", *MIXED_DTYPES))
    load_trained(module, weights)
    module.to(device)
    dtype = MIXED_DTYPES.get(precision)
    with torch.autocast(module.device.type, dtype, enabled=dtype is not None):
        found = replay(module, load(batch))
    print("\n".join(lines(found, list(module.tasks))))
    if found.gradients or not torch.isfinite(found.errors).all() or found.loss - found.loss != 0:
        sys.exit(NOT_FINITE)


if __name__ == "__main__":
    run_command(main, __doc__)
