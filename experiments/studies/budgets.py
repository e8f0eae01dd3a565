"""Quality of a supernet at every budget, beside all its rivals; and what its networks cost, keep and promise.

    python experiments/studies/budgets.py suite=budgets out=docs/measured/budgets.json
    python experiments/studies/budgets.py 'run=runs/full-*,runs/supernet-*,runs/uniform-*' out=budgets.json

The first trains what of the suite is not complete; python docs/write_table.py then fills the page. Or name finished
runs; those that differ in their seed alone count as one. The first is the whole network, the second the supernet whose
assembler is judged, and the others are its rivals: of a supernet every budget, of a model of one size its own.

Networks are timed as they are left when what a budget does not keep is taken out: in turns with the whole network, for
one call with one picture of each task, with the first seed. Quality is judged on test examples from equal noise by the
metrics of the tasks, with paired 95 % intervals over examples and seeds: to the whole network, to so many of its steps
as take the same time, and to the first supernet at that budget. What is judged is kept in the user's cache, so that the
same command goes on where it was stopped.

limits: random limits of latency, for each of which a network is searched and its promise held against what is measured.
Options of its own: per_task=64 repeats=20 limits=20 candidates=24 batch_size=32 device=cpu. All others are those of
experiments/run.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtdiff.commands.arguments import check_output, read_number, split_options
from mtdiff.commands.command import run_command
from mtdiff.commands.compose import read_configuration
from mtdiff.commands.studies import build_examples, find_runs
from mtdiff.config.schema import construct
from mtdiff.files.writing import write_atomically
from mtdiff.provenance import provenance
from mtdiff.results import budget_study as results
from mtdiff.results import ways as drawings
from mtdiff.results.encoding import write_lines

if TYPE_CHECKING:
    from mtdiff.runs.budget_study import Network
    from mtdiff.runs.ways import Variant, Way

NUMBERS = (("per_task", 64, 2), ("repeats", 20, 1), ("limits", 20, 0), ("candidates", 24, 0), ("batch_size", 32, 1))
OWN = ("suite", "run", "device", "out", *(name for name, _, _ in NUMBERS))


def list_ways(variants: "Sequence[Variant]") -> "dict[Way, float]":
    """Every network that is judged, and its budget."""
    from mtdiff.runs.adapter import read_about
    from mtdiff.runs.ways import Way

    found = {}
    for variant in variants:
        budgets = construct(read_about(variant.folders[variant.first]).content["method"]).budgets
        if not budgets:
            raise ValueError(f"run={variant.folders[variant.first]}: has no budgets, expected a run of method=budgeted")
        for budget in budgets:
            several = len(budgets) > 1
            name = f"{variant.name} at {budget:g}" if several else variant.name
            found[Way(name, variant, {"budget": budget} if several else {})] = budget
    return found


def measure_ways(ways: "Mapping[Way, float]", repeats: int, device: str) -> "dict[str, dict[str, Network]]":
    """What each network costs for each task, with the first seed; of equal ones one is measured."""
    from mtdiff.runs.budget_study import measure_network, propose_all
    from mtdiff.runs.ways import load_models

    found: dict[str, dict[str, Network]] = {}
    for way, _, model in load_models([(way, way.variant.first) for way in ways], device):
        kept, found[way.name] = propose_all(model, ways[way]), {}
        made: dict[Any, Network] = {}
        for task, keep in kept.items():
            key = (tuple(keep), model.takes[task].image)
            made[key] = made.get(key) or measure_network(model, task, keep, repeats)
            found[way.name][task] = made[key]
        print(f"measured: {way.name}", flush=True)
    return found


def count_kept(variant: "Variant", device: str) -> "tuple[list[str], dict[str, dict[str, list[int]]]]":
    """Names of the modules, and by task and budget in how many seeds each is kept."""
    from mtdiff.runs.budget_study import propose_all, read_supernet
    from mtdiff.runs.ways import Way, load_models

    modules: list[str] = []
    kept: dict[str, dict[str, list[int]]] = {}
    for _, _, model in load_models([(Way("", variant), seed) for seed in variant.folders], device):
        denoiser, assembler = read_supernet(model)
        modules = [module.name for module in assembler.plan]
        for budget in denoiser.method.budgets:
            for task, keep in propose_all(model, budget).items():
                counts = kept.setdefault(task, {}).setdefault(f"{budget:g}", [0] * len(keep))
                kept[task][f"{budget:g}"] = [n + on for n, on in zip(counts, keep, strict=True)]
    return modules, kept


def check_limits(
    variant: "Variant", plain: Mapping[str, Any], numbers: Mapping[str, int], device: str
) -> dict[str, Any]:
    """Promises of the first seed's supernet for random limits, held against what is measured."""
    from mtdiff.runs.budget_study import check_promises, summarise_promises
    from mtdiff.runs.drops import Noised, read_examples
    from mtdiff.runs.load import load_run

    model = load_run(variant.folders[variant.first], device)
    backbone, noised = model.painter.denoiser.backbone, {}
    for task in model.tasks:
        noised[task] = Noised.of(backbone, read_examples({**plain, "tasks": [task]}).to(device), 0)
    found = check_promises(model, noised, numbers["limits"], numbers["candidates"], numbers["repeats"])
    return summarise_promises(list(found))


def share_time(network: "Network") -> float:
    """Of the whole network's call, the median over turns."""
    return drawings.summarise([own / whole for own, whole in network.turns])[1]


def describe_costs(network: "Network", whole: "Network", steps: int) -> dict[str, float]:
    return {
        "flops": drawings.round_number(network.flops / whole.flops),
        "time": share_time(network),
        "latency_ms": drawings.summarise([own for own, _ in network.turns])[1],
        "memory_mb": drawings.round_number(network.memory_mb),
        "steps": drawings.find_rival(share_time(network), steps),
    }


def describe_ways(
    ways: "Mapping[Way, float]",
    costs: Mapping[str, Mapping[str, Mapping[str, float]]],
    rows: Mapping[str, drawings.Rows],
    steps: int,
) -> Iterator[dict[str, Any]]:
    """One entry a network, for the file. Its rival in steps is one of its own for every task."""
    first = next(iter(ways)).variant.name
    leaders = {budget: way.name for way, budget in ways.items() if way.variant.name == first}
    for way, budget in ways.items():
        own = rows[way.name]
        columns = next(iter(own.values()))
        rivals = {t: drawings.name_steps(int(cost["steps"]), steps) for t, cost in costs[way.name].items()}
        against = {name: drawings.compare_rows(own, rows[name]) for name in {drawings.WHOLE, *rivals.values()}}
        leader = leaders.get(budget) if way.variant.name != first else None
        beside = drawings.compare_rows(own, rows[leader]) if leader else [None] * len(columns)
        yield {
            "name": way.name,
            "of": way.variant.name,
            "budget": budget,
            "costs": costs[way.name],
            "rows": [
                [drawings.mean_value(own, k), against[drawings.WHOLE][k], against[rivals[row.task]][k], beside[k]]
                for k, row in enumerate(columns)
            ],
        }


def describe_drawings(
    ways: "Sequence[Way]", whole: Mapping[str, Mapping[str, float]], rows: Mapping[str, drawings.Rows], steps: int
) -> Iterator[dict[str, Any]]:
    """The same for the whole network and fewer steps of it. whole: its costs by task."""
    for way in ways:
        number, own = way.sampling.get("steps", steps), rows[way.name]
        share, columns = drawings.round_number(number / steps), next(iter(own.values()))
        costs = {t: {**cost, "flops": share, "time": share, "steps": number} for t, cost in whole.items()}
        beside = [None] * len(columns) if number == steps else drawings.compare_rows(own, rows[drawings.WHOLE])
        table = [[drawings.mean_value(own, k), beside[k], None, None] for k in range(len(columns))]
        yield {"name": way.name, "of": results.FEWER, "budget": share, "costs": costs, "rows": table}


def list_drawings(whole: "Variant", costs: Mapping[str, Mapping[str, Mapping[str, float]]], steps: int) -> "list[Way]":
    """The whole network, and so many of its steps as any network of any task takes the time of."""
    from mtdiff.runs.ways import Way

    numbers = sorted(
        {int(cost["steps"]) for tasks in costs.values() for cost in tasks.values()} - {steps}, reverse=True
    )
    fewer = [Way(drawings.name_steps(n, steps), whole, {"steps": n}) for n in numbers]
    return [Way(drawings.WHOLE, whole), *fewer]


def main(arguments: list[str]) -> None:
    own, overrides = split_options(arguments, OWN)
    out = check_output(own.get("out"))
    numbers = {key: read_number(own, key, int, default, low) for key, default, low in NUMBERS}
    plain, _ = read_configuration(overrides)
    folders, device = find_runs(own, overrides), own.get("device", "cpu")
    from mtdiff.runs.adapter import read_about
    from mtdiff.runs.ways import check_tasks, group_runs, judge_ways

    whole, *variants = group_runs(folders, "run")
    if not variants:
        raise ValueError("run: names one network, expected the whole one, a supernet, and its rivals")
    check_tasks([whole, *variants], "run")
    first, ways = whole.folders[whole.first], list_ways(variants)
    steps = read_about(first).sampling.steps
    networks = measure_ways(ways, numbers["repeats"], device)
    full = next(iter(networks.values()))  # the first supernet at its largest budget
    costs = {
        name: {task: describe_costs(network, full[task], steps) for task, network in tasks.items()}
        for name, tasks in networks.items()
    }
    examples = build_examples(plain, first, numbers["per_task"], numbers["batch_size"])
    fewer, whole_costs = list_drawings(whole, costs, steps), next(iter(costs.values()))
    rows = judge_ways([*fewer, *ways], examples, device, lambda text: print(text, flush=True))
    modules, kept = count_kept(variants[0], device)
    head = {"schema": results.SCHEMA, "kind": results.KIND, "steps": steps, "seeds": sorted(whole.folders)}
    content = {
        **head,
        **numbers,
        **provenance(device),
        **drawings.describe_columns(rows[drawings.WHOLE][whole.first]),
        "modules": modules,
        "kept": kept,
        "promises": check_limits(variants[0], plain, numbers, device),
        "networks": [*describe_ways(ways, costs, rows, steps), *describe_drawings(fewer, whole_costs, rows, steps)],
    }
    report(content)
    if out is not None:
        write_atomically(out, write_lines(content) + "\n")


def report(content: Mapping[str, Any]) -> None:
    """Print what the study answers, as it stands on the page."""
    study = results.build_budget_study(content)
    sentences = (results.describe_winner, results.describe_fewer, results.describe_kept)
    print("\n".join([*results.list_networks(study), "", *(say(study) for say in sentences)]))


if __name__ == "__main__":
    run_command(main, __doc__)
