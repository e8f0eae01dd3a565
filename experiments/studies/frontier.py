"""Quality against measured time of a drawing: every way to draw faster, each beside as little time by fewer steps.

    python experiments/studies/frontier.py suite=assembled,assembled_taught out=docs/measured/frontier.json
    python experiments/studies/frontier.py 'run=runs/full-*' 'light=runs/light-*' 'lighter=runs/*-light-*' out=out.json

The first trains what of these suites is not complete: the first line of the first one is the whole network, the second
the light one; python docs/write_table.py then fills the page. Or name finished runs: those that differ in their seed
alone count as one. Of a supernet the budgets are drawn too.

run: drawn whole, with fewer steps, and with every level of inheritance at every 2, 3 and 5. light: begins until three
times of the schedule. lighter: draws everything. Each is set beside the number of steps that takes about its time.

Time is that of the denoiser for one guided picture of the task whose drawing is dearest. In every turn each way
computes each kind of its steps once, and the ways take turns; n steps take n times one step of the whole drawing.
Ratios to the whole drawing are of one turn, and shown by their quartiles. Quality is judged on test examples from equal
noise, by the metrics of the tasks, with paired 95 % intervals over examples and seeds. What is judged is kept in the
user's cache, so that the same command goes on where it was stopped.

Options of its own: per_task=64 repeats=20 batch_size=32 device=cpu. All others are those of experiments/run.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtdiff.commands.arguments import check_output, read_number, split_options
from mtdiff.commands.command import run_command
from mtdiff.commands.compose import read_configuration
from mtdiff.commands.studies import build_examples, find_runs, list_folders
from mtdiff.config.schema import construct
from mtdiff.files.writing import write_atomically
from mtdiff.provenance import provenance
from mtdiff.results.encoding import write_lines
from mtdiff.results.ways import (
    SCHEMA,
    WHOLE,
    build_ways,
    compare_rows,
    describe_aim,
    describe_columns,
    find_rival,
    list_choices,
    list_entries,
    mean_value,
    name_steps,
    round_number,
    summarise,
)

if TYPE_CHECKING:
    from mtdiff.results.record import Row
    from mtdiff.runs.ways import Examples, Variant, Way

OWN = ("suite", "run", "light", "lighter", "per_task", "repeats", "batch_size", "device", "out")
SHARES = (0.8, 0.65, 0.5, 0.35, 0.25)  # of the run's own steps, beside those that other ways are compared with
EVERY = (2, 3, 5)
UNTIL = (750, 500, 250)


def read_variants(own: Mapping[str, str], overrides: Sequence[str]) -> "tuple[Variant, Variant | None, list[Variant]]":
    """The whole network, the light one, and all that draw alone. ValueError where they are not of the same tasks."""
    from mtdiff.runs.ways import check_tasks, group_runs

    runs = find_runs(own, overrides)
    if own.get("suite"):
        whole, *lighter = group_runs(runs, "suite")
        light = lighter[0] if lighter else None
    else:
        named = {key: group_runs(list_folders(own, key), key) for key in ("run", "light", "lighter")}
        for key in ("run", "light"):
            if len(named[key]) > 1:
                several = " and ".join(variant.name for variant in named[key][:2])
                raise ValueError(f"{key}: {several} differ in more than their seed")
        (whole,), lighter = named["run"], named["lighter"]
        light = named["light"][0] if named["light"] else None
    check_tasks([whole, *lighter, *([] if light is None else [light])], "run")
    return whole, light, lighter


def list_ways(whole: "Variant", light: "Variant | None", lighter: "Sequence[Variant]") -> "list[Way]":
    """Every way that is timed, the whole drawing first."""
    from mtdiff.runs.adapter import read_about
    from mtdiff.runs.checks import find_levels
    from mtdiff.runs.ways import Way

    about = read_about(whole.folders[whole.first])
    found = [Way(WHOLE, whole)]
    for level in find_levels(about.backbone):
        found += [Way(f"{level} every {n}", whole, {"inherit": {"level": level, "every": n}}) for n in EVERY]
    budgets = construct(about.content["method"]).budgets
    found += [Way(f"budget {b:g}", whole, {"budget": b}) for b in budgets if b < 1]
    if light is not None:
        found += [Way(f"light until {until}", whole, {"switch": {"until": until}}, light) for until in UNTIL]
    return found + [Way(variant.name, variant) for variant in lighter]


def list_fewer(whole: "Variant", steps: int, ratios: Mapping[str, Sequence[float]]) -> "list[Way]":
    """Fewer steps of the whole network: a few for a curve, and the rival of every other way."""
    from mtdiff.runs.ways import Way

    rivals = {find_rival(ratio[1], steps) for ratio in ratios.values()}
    numbers = sorted({max(1, round(share * steps)) for share in SHARES} | rivals, reverse=True)
    return [Way(name_steps(n, steps), whole, {"steps": n}) for n in numbers if n < steps]


def time_first(ways: "Sequence[Way]", device: str, repeats: int) -> Any:
    """Times of the ways, with the first run of each variant."""
    from mtdiff.runs.ways import load_models, time_ways

    found = load_models([(way, way.seeds[0]) for way in ways], device)
    return time_ways({way.name: model for way, _, model in found}, repeats)


def describe_ways(
    ways: "Sequence[Way]",
    steps: int,
    times: Any,
    ratios: Mapping[str, Sequence[float]],
    rows: "Mapping[str, Mapping[int, Sequence[Row]]]",
) -> Iterator[dict[str, Any]]:
    """One entry a way, for the file."""
    whole = summarise([1e3 * s for s in times.seconds[WHOLE]])
    for way in ways:
        name, fewer, rival = way.name, way.sampling.get("steps"), None
        if fewer is None:
            ratio, flops = ratios[name], times.flops[name] / times.flops[WHOLE]
            milliseconds = summarise([1e3 * s for s in times.seconds[name]])
            rival = None if name == WHOLE else name_steps(find_rival(ratio[1], steps), steps)
        else:
            ratio, flops = [round_number(fewer / steps)] * 3, fewer / steps
            milliseconds = [round_number(flops * value) for value in whole]
        others = (None if name == WHOLE else WHOLE, rival)
        against = [compare_rows(rows[name], rows[other]) if other else None for other in others]
        number = len(next(iter(rows[name].values())))
        yield {
            "name": name,
            "of": way.variant.name,
            "sampling": dict(way.sampling),
            "seeds": way.seeds,
            "latency_ms": milliseconds,
            "time_ratio": ratio,
            "flops_ratio": round_number(flops),
            "fewer_steps": rival,
            "rows": [[mean_value(rows[name], k), *(d and d[k] for d in against)] for k in range(number)],
        }


def judge(ways: "Sequence[Way]", examples: "Examples", device: str) -> "dict[str, dict[int, list[Row]]]":
    from mtdiff.runs.ways import judge_ways

    return judge_ways(ways, examples, device, lambda text: print(text, flush=True))


def main(arguments: list[str]) -> None:
    own, overrides = split_options(arguments, OWN)
    out = check_output(own.get("out"))
    numbers = {
        key: read_number(own, key, int, default, low)
        for key, default, low in (("per_task", 64, 2), ("repeats", 20, 1), ("batch_size", 32, 1))
    }
    plain, _ = read_configuration(overrides)
    whole, light, lighter = read_variants(own, overrides)
    from mtdiff.runs.adapter import read_about

    first, device = whole.folders[whole.first], own.get("device", "cpu")
    steps, timed = read_about(first).sampling.steps, list_ways(whole, light, lighter)
    times = time_first(timed, device, numbers["repeats"])
    turns = {name: zip(seconds, times.seconds[WHOLE], strict=True) for name, seconds in times.seconds.items()}
    ratios = {name: summarise([a / b for a, b in pairs]) for name, pairs in turns.items()}
    ways = [timed[0], *list_fewer(whole, steps, ratios), *timed[1:]]
    rows = judge(ways, build_examples(plain, first, numbers["per_task"], numbers["batch_size"]), device)
    columns = describe_columns(rows[WHOLE][whole.first])
    head = {
        "schema": SCHEMA,
        "run": whole.name,
        "steps": steps,
        "timed": times.task,
        "seeds": sorted(whole.folders),
    }
    entries = list(describe_ways(ways, steps, times, ratios, rows))
    content = {**head, **numbers, **provenance(device), **columns, "ways": entries}
    report(content)
    if out is not None:
        write_atomically(out, write_lines(content) + "\n")


def report(content: Mapping[str, Any]) -> None:
    """Print what the study answers, as it stands on the page."""
    found = build_ways(content)
    print("\n".join([*list_entries(found), "", *list_choices(found), "", describe_aim(found)]))


if __name__ == "__main__":
    run_command(main, __doc__)
