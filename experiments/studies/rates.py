"""Which learning rate leaves the smallest loss on validation examples: runs side by side.

    python experiments/run.py suite=rates
    python experiments/studies/rates.py runs='runs/*/result.json' out=docs/measured/rates.json
    python experiments/studies/rates.py runs='runs/*/result.json' write=experiments/configs/rate

The loss is the last that a run logged for validation examples, summed over its tasks. Runs of a method are compared
within one base, data, list of tasks, number of steps and seed: those of the commonest kind; how many are left out is
said. write: a folder of configurations, in which each method's best rate is put down as `<base>_<method>.yaml`; of runs
whose other rates (`method.router_rate` and the like) are at their defaults, which stand in the method's own file.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtdiff.commands.arguments import override_defaults
from mtdiff.commands.command import run_command
from mtdiff.config.defaults import literal_defaults
from mtdiff.files.writing import check_folder, check_writable, write_atomically
from mtdiff.results.encoding import write_lines
from mtdiff.results.find import find
from mtdiff.results.protocol import every_option
from mtdiff.results.record import Result

DEFAULTS = {"runs": "", "out": "", "write": ""}
RATES = ("training.lr", "method.router_rate", "method.norm_rate", "method.input_rate")
LOSS = "validation/loss/"


def read_losses(result: Result) -> dict[str, float]:
    """The last loss on validation examples of each task; empty where the run validated nothing."""
    curves: Mapping[str, Any] = result.method_report.get("curves", {})
    return {name.removeprefix(LOSS): curve["values"][-1] for name, curve in curves.items() if name.startswith(LOSS)}


def describe_budget(result: Result) -> tuple[Any, ...]:
    """What two runs have to share for their losses to be compared."""
    number = every_option(result).get("evaluation.validation_per_task")
    return result.backbone, result.data, tuple(result.tasks), result.steps, result.seed, number


def compare_rates(results: Iterable[Result]) -> list[dict[str, Any]]:
    """One row a run of its method's commonest budget, the smallest loss of each method first."""
    validated = [r for r in results if r.status == "complete" and read_losses(r)]
    rows = []
    for result in validated:
        if describe_budget(result) == find_budget(validated, result.method):
            options, losses = every_option(result), read_losses(result)
            rates = {key: options[key] for key in RATES if key in options}
            row = {"method": result.method, **rates, "loss": round(sum(losses.values()), 4), **losses}
            more = {"router_alive": result.method_report.get("router_alive"), "base": result.backbone}
            rows.append(row | more | {"usual": has_usual_rates(result)})
    return sorted(rows, key=lambda row: (row["method"], row["loss"]))


def find_budget(results: Sequence[Result], method: str) -> tuple[Any, ...]:
    """The budget of most runs of a method; of equally frequent ones that of most runs of all."""
    every = Counter(describe_budget(r) for r in results)
    own = Counter(describe_budget(r) for r in results if r.method == method)
    return max(own, key=lambda budget: (own[budget], every[budget]))


def has_usual_rates(result: Result) -> bool:
    """Whether every rate but `training.lr` is at its default."""
    options = every_option(result)
    defaults = literal_defaults(str(result.config.get("method", {}).get("_target_", "")))
    own = [key.partition(".")[2] for key in RATES[1:]]
    return all(options[f"method.{name}"] == defaults.get(name) for name in own if f"method.{name}" in options)


def format_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        rates = " ".join(f"{key.partition('.')[2]}={row[key]:g}" for key in RATES if key in row)
        alive = "" if row["router_alive"] is None else f"  routers alive {row['router_alive']:.0%}"
        yield f"{row['loss']:.4f}  {row['method']:9} {rates}{alive}"


def write_rates(rows: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[str]:
    """Put down the best rate of each method and base. Yields what was written, and what a reader should know of it."""
    for place in dict.fromkeys((row["base"], row["method"]) for row in rows):
        own = [row for row in rows if (row["base"], row["method"]) == place]
        usual = [row for row in own if row["usual"]]
        if not usual:
            continue
        best, tried = usual[0], sorted({row["training.lr"] for row in usual})
        path, lr = folder / f"{place[0]}_{place[1]}.yaml", format_rate(best["training.lr"])
        text = f"# @package training\n# Chosen on validation examples (experiments/studies/rates.py).\nlr: {lr}\n"
        write_atomically(path, text)
        edge = ", at the edge of what was tried" if best["training.lr"] in (tried[0], tried[-1]) else ""
        other = "" if own[0]["usual"] else "; other rates were better with another rate of a group of parameters"
        yield f"{path}: {lr}{edge}{other}"


def format_rate(lr: float) -> str:
    """0.003 -> 3.0e-3."""
    digits, _, exponent = f"{lr:.1e}".partition("e")
    return f"{digits}e{int(exponent)}"


def main(arguments: list[str]) -> None:
    options = override_defaults(arguments, DEFAULTS)
    if not options["runs"]:
        raise ValueError("runs: has to be given, as runs='runs/*/result.json'")
    out = check_writable("out", options["out"], (".json",)) if options["out"] else None
    folder = check_folder("write", options["write"]) if options["write"] else None
    found = find(options["runs"])
    rows = compare_rates(one.result for one in found if one.result is not None)
    if not rows:
        raise ValueError(f"runs={options['runs']}: no complete run with a loss on validation examples")
    print("\n".join(format_rows(rows)))
    if len(rows) < len(found):
        print(f"{len(found) - len(rows)} of {len(found)} left out: not complete, or of another budget", file=sys.stderr)
    if out is not None:
        write_atomically(out, write_lines({"rows": rows}) + "\n")
    for line in () if folder is None else write_rates(rows, folder):
        print(line)


if __name__ == "__main__":
    run_command(main, __doc__)
