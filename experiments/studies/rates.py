"""Which learning rate leaves the smallest loss on validation examples: runs side by side.

    python experiments/run.py suite=rates
    python experiments/studies/rates.py runs='runs/*/result.json' out=docs/measured/rates.json

The loss is the last that a run logged for validation examples, summed over its tasks. Runs are compared within one
base, data, list of tasks, number of steps and seed: those of the commonest kind; how many are left out is said.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mtdiff.commands.arguments import override_defaults
from mtdiff.commands.command import run_command
from mtdiff.files import check_writable, write_atomically
from mtdiff.results.encoding import write_lines
from mtdiff.results.find import find
from mtdiff.results.protocol import every_option
from mtdiff.results.record import Result

DEFAULTS = {"runs": "", "out": ""}
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
    """One row a run of the commonest budget, the smallest loss of each method first."""
    validated = [r for r in results if r.status == "complete" and read_losses(r)]
    budgets = Counter(describe_budget(r) for r in validated)
    rows = []
    for result in validated:
        if describe_budget(result) == budgets.most_common(1)[0][0]:
            options, losses = every_option(result), read_losses(result)
            rates = {key: options[key] for key in RATES if key in options}
            row = {"method": result.method, **rates, "loss": round(sum(losses.values()), 4), **losses}
            rows.append(row | {"router_alive": result.method_report.get("router_alive")})
    return sorted(rows, key=lambda row: (row["method"], row["loss"]))


def format_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        rates = " ".join(f"{key.partition('.')[2]}={row[key]:g}" for key in RATES if key in row)
        alive = "" if row["router_alive"] is None else f"  routers alive {row['router_alive']:.0%}"
        yield f"{row['loss']:.4f}  {row['method']:9} {rates}{alive}"


def main(arguments: list[str]) -> None:
    options = override_defaults(arguments, DEFAULTS)
    if not options["runs"]:
        raise ValueError("runs: has to be given, as runs='runs/*/result.json'")
    out = check_writable("out", options["out"], (".json",)) if options["out"] else None
    found = find(options["runs"])
    rows = compare_rates(one.result for one in found if one.result is not None)
    if not rows:
        raise ValueError(f"runs={options['runs']}: no complete run with a loss on validation examples")
    print("\n".join(format_rows(rows)))
    if len(rows) < len(found):
        print(f"{len(found) - len(rows)} of {len(found)} left out: not complete, or of another budget", file=sys.stderr)
    if out is not None:
        write_atomically(out, write_lines({"rows": rows}) + "\n")


if __name__ == "__main__":
    run_command(main, __doc__)
