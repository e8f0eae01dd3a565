"""Quality against measured time of a drawing: every way to draw faster, each beside as little time by fewer steps.

    python experiments/studies/frontier.py run=runs/full out=frontier.json
    python experiments/studies/frontier.py run=runs/full light=runs/light lighter=runs/a,runs/b per_task=64 repeats=20

run: drawn whole, with fewer steps (80 to 25 % of its own), and with every level of inheritance at every 2, 3 and 5.
light: a run that begins until three times of the schedule. lighter: runs that draw everything, such as assembled ones.

Time is that of the denoiser for one guided picture of the task whose drawing is dearest. In every turn each setting
computes each kind of its steps once, and the settings take turns; ratios to the whole drawing are of one turn, and
their median and quartiles are shown. Quality is judged on test examples from equal noise, by the metrics of the tasks,
with paired 95 % intervals of the difference to the whole drawing and to the fewer steps that take about the same time.

Options of its own: per_task=16 repeats=5 batch_size=16 device=cpu. All others are those of experiments/run.py: data,
metrics, evaluation.split, task.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff.commands.arguments import check_output, read_number, split_options
from mtdiff.commands.command import run_command
from mtdiff.commands.compose import read_configuration
from mtdiff.config.schema import construct
from mtdiff.files import write_atomically
from mtdiff.provenance import provenance
from mtdiff.results.encoding import write_lines

if TYPE_CHECKING:
    from mtdiff.results.record import Row
    from mtdiff.runs.model import Model

OWN = ("run", "light", "lighter", "per_task", "repeats", "batch_size", "device", "out")
SHARES = (0.8, 0.65, 0.5, 0.4, 0.3, 0.25)  # of the run's own steps
EVERY = (2, 3, 5)
UNTIL = (750, 500, 250)
WHOLE = "whole"


@dataclass(frozen=True)
class Setting:
    """One way to draw: a run, and options over its own sampling. fewer: it is nothing but fewer steps."""

    name: str
    run: str
    sampling: Mapping[str, Any]
    fewer: bool = False


def list_settings(
    run: str,
    steps: int,
    levels: Sequence[str],
    light: str | None,
    lighter: list[str],
    budgets: Sequence[float] = (),
) -> list[Setting]:
    """Every setting of a study, the whole drawing first. budgets: of the run's method."""
    found = [Setting(WHOLE, run, {})]
    fewer = dict.fromkeys(max(1, round(share * steps)) for share in SHARES)
    found += [Setting(f"{n} steps", run, {"steps": n}, fewer=True) for n in fewer if n < steps]
    for level in levels:
        found += [Setting(f"{level} every {n}", run, {"inherit": {"level": level, "every": n}}) for n in EVERY]
    found += [Setting(f"budget {b:g}", run, {"budget": b}) for b in budgets if b < 1]
    if light is not None:
        switches = [{"light": light, "until": until} for until in UNTIL]
        found += [Setting(f"light until {s['until']}", run, {"switch": s}) for s in switches]
    return found + [Setting(f"run {name}", name, {}) for name in lighter]


def load_models(settings: Sequence[Setting], device: str) -> "dict[str, Model]":
    """The model of each setting; one run is read once for all settings that only sample otherwise."""
    from mtdiff.runs.adapter import choose_sampling, read_about
    from mtdiff.runs.load import load_run, make_painter
    from mtdiff.runs.model import Model

    read: dict[str, Any] = {}
    made: dict[str, Model] = {}
    for setting in settings:
        if "switch" in setting.sampling:
            made[setting.name] = load_run(setting.run, device, sampling=setting.sampling)
            continue
        if setting.run not in read:
            read[setting.run] = load_run(setting.run, device)
        model, about = read[setting.run], read_about(Path(setting.run))
        painter = make_painter(model.painter.denoiser, choose_sampling(about, setting.sampling))
        made[setting.name] = Model(painter, model.tasks)
    return made


def time_drawings(models: "Mapping[str, Model]", repeats: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of every setting in every turn, and FLOPs, for one picture of the task that is dearest drawn whole."""
    from mtdiff.costs.drawing import count_drawing, guide_task, time_turn
    from mtdiff.costs.flops import encode_prompt, has_source

    whole = models[WHOLE]
    backbone, tasks = whole.painter.denoiser.backbone, list(whole.tasks)
    text, empty = encode_prompt(backbone), backbone.embed([""])
    sources = {name: has_source(task) for name, task in whole.tasks.items()}

    def guide(model: "Model", task: str) -> Any:
        number = list(model.painter.denoiser.tasks).index(task)
        return guide_task(model.painter, text, empty, sources[task], number)

    dearest = max(tasks, key=lambda task: count_drawing(whole.painter, guide(whole, task)).total)
    rows = {name: guide(model, dearest) for name, model in models.items()}
    flops = {name: count_drawing(model.painter, rows[name]).total for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(-1, repeats):
        for name, model in models.items():
            found = time_turn(model.painter, rows[name])
            if turn >= 0:
                seconds[name].append(found)
    return seconds, flops


def judge_settings(
    models: "Mapping[str, Model]", plain: Mapping[str, Any], per_task: int, size: int
) -> "dict[str, list[Row]]":
    """Rows of every setting on the same examples from the same noise."""
    from mtdiff.data.mixture import Mixture
    from mtdiff.runs.judging import draw_batches, judge_rows
    from mtdiff.types import Batch

    judge = construct(plain["metrics"]).judge()
    whole = models[WHOLE]
    tasks = whole.tasks
    source, split = construct(plain["data"]), plain["evaluation"]["split"]
    examples = Mixture.first_examples(source, list(tasks.values()), split, per_task)
    batches = [
        Batch.collate([examples[i] for i in range(start, min(start + size, len(examples)))])
        for start in range(0, len(examples), size)
    ]
    seed, shape, rows = plain["evaluation"]["seed"], whole.painter.denoiser.backbone.latent_shape, {}
    for name, model in models.items():
        if list(model.tasks) != list(tasks):
            raise ValueError(f"{name}: was trained on {', '.join(model.tasks)}, expected {', '.join(tasks)}")
        batch, answers = draw_batches(batches, model.painter.draw, shape, seed)
        rows[name] = list(judge_rows(judge, tasks, batch, answers, seed, name))
        print(f"judged: {name}", flush=True)
    return rows


def compare_rows(rows: "Sequence[Row]", others: "Sequence[Row]") -> list[dict[str, Any]]:
    """Paired difference of each metric to the same metric of others; null where it is of the whole set alone."""
    from mtdiff.results.paired import compare_paired

    found = []
    for row, other in zip(rows, others, strict=True):
        paired = None
        if row.values is not None and other.values is not None:
            paired = compare_paired({0: row.values}, {0: other.values})
        found.append({"task": row.task, "metric": row.metric, "difference": None if paired is None else vars(paired)})
    return found


def summarise(values: Sequence[float]) -> dict[str, float]:
    import numpy as np

    low, median, high = (float(v) for v in np.quantile(values, (0.25, 0.5, 0.75)))
    return {"median": median, "low": low, "high": high}


def describe_settings(
    settings: Sequence[Setting], seconds: Mapping[str, list[float]], flops: Mapping[str, int], rows: "Mapping[str, Any]"
) -> Iterator[dict[str, Any]]:
    """One entry a setting, for the file."""
    ratios = {n: summarise([a / b for a, b in zip(s, seconds[WHOLE], strict=True)]) for n, s in seconds.items()}
    for setting in settings:
        name = setting.name
        rivals = [s.name for s in settings if s.fewer or s.name == WHOLE]
        rival = min(rivals, key=lambda other: abs(ratios[other]["median"] - ratios[name]["median"]))
        yield {
            "name": name,
            "sampling": dict(setting.sampling),
            "latency_ms": summarise([1e3 * s for s in seconds[name]]),
            "time_ratio": ratios[name],
            "flops_ratio": flops[name] / flops[WHOLE],
            "rows": [{k: v for k, v in vars(row).items() if k not in ("values", "model")} for row in rows[name]],
            "against_whole": compare_rows(rows[name], rows[WHOLE]),
            "fewer_steps": rival,
            "against_fewer_steps": compare_rows(rows[name], rows[rival]),
        }


def print_setting(entry: Mapping[str, Any]) -> None:
    ratio = entry["time_ratio"]
    print(
        f"{entry['name']:20} time {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}), FLOPs "
        f"{entry['flops_ratio']:.2f}; rival: {entry['fewer_steps']}"
    )
    for row, rival in zip(entry["rows"], entry["against_fewer_steps"], strict=True):
        apart = rival["difference"]
        said = ""
        if apart is not None:
            said = f", to the rival {apart['value']:+.4g} [{apart['low']:+.4g}, {apart['high']:+.4g}]"
        value = "no value" if row["value"] is None else f"{row['value']:.4g}"
        print(f"    {row['task']:18}{row['metric']:24}{row['direction']:8}{value}{said}")


def main(arguments: list[str]) -> None:
    own, overrides = split_options(arguments, OWN)
    if not own.get("run"):
        raise ValueError("run: has to be given, as run=...")
    out = check_output(own.get("out"))
    numbers = {
        key: read_number(own, key, int, default, low)
        for key, default, low in (("per_task", 16, 2), ("repeats", 5, 1), ("batch_size", 16, 1))
    }
    plain, _ = read_configuration(overrides)
    from mtdiff.runs.adapter import read_about
    from mtdiff.runs.checks import find_levels

    about = read_about(Path(own["run"]))
    levels = find_levels(about.backbone)
    lighter = [name for name in own.get("lighter", "").split(",") if name]
    budgets = construct(about.content["method"]).budgets
    settings = list_settings(own["run"], about.sampling.steps, levels, own.get("light"), lighter, budgets)
    device = own.get("device", "cpu")
    models = load_models(settings, device)
    seconds, flops = time_drawings(models, numbers["repeats"])
    rows = judge_settings(models, plain, numbers["per_task"], numbers["batch_size"])
    entries = list(describe_settings(settings, seconds, flops, rows))
    for entry in entries:
        print_setting(entry)
    if out is not None:
        head = {"schema": 1, "run": own["run"], **numbers, **provenance(device)}
        write_atomically(out, write_lines({**head, "settings": entries}) + "\n")


if __name__ == "__main__":
    run_command(main, __doc__)
