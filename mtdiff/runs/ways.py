"""Ways to draw faster with trained runs: timed in turns, and judged on the same examples from the same noise.

A way is a variant, runs that differ in their seed alone, with options over their own sampling. Rows of a way and seed
are kept in the user's cache as they are made, under a hash of all that they depend on: a study that was stopped loses
the one that it was at.
"""

import ast
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtdiff.config.signatures import PACKAGES, definition, signature
from mtdiff.costs.drawing import count_drawing, guide_task, time_turn
from mtdiff.costs.flops import encode_prompt, has_source
from mtdiff.data.mixture import Mixture
from mtdiff.data.source import Source
from mtdiff.files.writing import find_user_cache
from mtdiff.metrics.quality import Judge
from mtdiff.provenance import hash_sources, versions
from mtdiff.results.record import Result, Row
from mtdiff.runs.adapter import About, choose_sampling, drop_teacher, read_about
from mtdiff.runs.baselines import describe_judge, hash_batch, read_rows, write_rows
from mtdiff.runs.judging import draw_batches, judge_rows
from mtdiff.runs.load import load_run, make_painter
from mtdiff.runs.model import Model
from mtdiff.tasks.base import Task
from mtdiff.types import Batch, Split

# Runs


@dataclass(frozen=True)
class Variant:
    """Runs that differ in their seed alone. folders: by seed."""

    name: str
    folders: Mapping[int, Path]

    @property
    def first(self) -> int:
        return min(self.folders)


@dataclass(frozen=True, eq=False)
class Way:
    """One way to draw. sampling: over the variant's own. light: whose run of the same seed a `switch` names."""

    name: str
    variant: Variant
    sampling: Mapping[str, Any] = field(default_factory=dict)
    light: Variant | None = None

    def choose_options(self, seed: int) -> dict[str, Any]:
        """Options of sampling for the run of this seed."""
        if self.light is None:
            return dict(self.sampling)
        return {**self.sampling, "switch": {**self.sampling["switch"], "light": str(self.light.folders[seed])}}

    @property
    def seeds(self) -> list[int]:
        others = self.variant.folders if self.light is None else self.light.folders
        return sorted(set(self.variant.folders) & set(others))


def group_runs(folders: Iterable[Path], option: str) -> list[Variant]:
    """Finished runs as variants, in the order in which they come. ValueError for two runs of one variant and seed."""
    found: dict[str, dict[int, Path]] = {}
    for folder in folders:
        name, seed = describe_run(folder, option)
        runs = found.setdefault(name, {})
        if seed in runs:
            raise ValueError(f"{option}: {runs[seed]} and {folder} are the same, {name} of seed {seed}")
        runs[seed] = folder
    return [Variant(name, runs) for name, runs in found.items()]


def describe_run(folder: Path, option: str) -> tuple[str, int]:
    """What the run in a folder is but for its seed, and its seed. ValueError where none is finished there."""
    about = read_about(folder, option=option)
    method, seed = about.content["method"], about.content.get("seed", 0)
    name = str(method["_target_"]).rpartition(".")[2]
    if (folder / "result.json").exists():
        result = Result.load(folder / "result.json")
        name, method = result.method, result.config.get("method", method)
    taught = ["taught by a run"] if method.get("teacher") is not None else []
    return " ".join([name, *list_changes(drop_teacher(method)), *taught]), seed


def list_changes(node: Mapping[str, Any]) -> Iterator[str]:
    """Options of one of our constructors that are not at their defaults, as `key=value`."""
    dotted = str(node["_target_"])
    if dotted.split(".")[0] not in PACKAGES or definition(dotted) is None:
        return
    defaults = {a.name: ast.literal_eval(a.default) for a in signature(dotted) if a.default is not None}
    for key, value in sorted(node.items()):
        default = defaults.get(key)
        if key != "_target_" and value != (list(default) if isinstance(default, tuple) else default):
            yield f"{key}={json.dumps(value).replace(chr(34), '').replace(' ', '')}"


def check_tasks(variants: Sequence[Variant], option: str) -> list[str]:
    """The tasks of all runs, which have to be the same. ValueError where they are not."""
    tasks: list[str] = []
    for folder in (folder for variant in variants for folder in variant.folders.values()):
        own = read_about(folder, option=option).tasks
        tasks = tasks or own
        if own != tasks:
            raise ValueError(f"{option}={folder}: was trained on {', '.join(own)}, expected {', '.join(tasks)}")
    return tasks


def load_models(pairs: Iterable[tuple[Way, int]], device: str) -> Iterator[tuple[Way, int, Model]]:
    """The model of each way and seed; a run is read once for its ways that only sample otherwise and come together."""
    read: tuple[Path, Model] | None = None
    for way, seed in pairs:
        folder, options = way.variant.folders[seed], way.choose_options(seed)
        if way.light is not None:
            yield way, seed, load_run(folder, device, sampling=options)
            continue
        if read is None or read[0] != folder:
            read = folder, load_run(folder, device)
        model = read[1]
        painter = make_painter(model.painter.denoiser, choose_sampling(read_about(folder), options))
        yield way, seed, Model(painter, model.tasks)


# Time


@dataclass(frozen=True)
class Times:
    """Of one picture of a task: seconds in every turn, and FLOPs, by the name of the way."""

    task: str
    seconds: Mapping[str, Sequence[float]]
    flops: Mapping[str, int]


def time_ways(models: Mapping[str, Model], repeats: int) -> Times:
    """Time the denoiser's part of one guided picture of the task that is dearest under the first of these ways.

    In every turn each way computes each kind of its steps once; the ways take turns, and the first turn is not counted.
    """
    whole = next(iter(models.values()))
    rows = {task: guide_rows(whole, task) for task in whole.tasks}
    task = max(rows, key=lambda name: count_drawing(whole.painter, rows[name]).total)
    own = {name: guide_rows(model, task) for name, model in models.items()}
    flops = {name: count_drawing(model.painter, own[name]).total for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(-1, repeats):
        for name, model in models.items():
            found = time_turn(model.painter, own[name])
            if turn >= 0:
                seconds[name].append(found)
    return Times(task, seconds, flops)


def guide_rows(model: Model, task: str) -> Any:
    """The rows that a guided step of this model predicts for one picture of a task."""
    backbone = model.painter.denoiser.backbone
    text, empty = encode_prompt(backbone), backbone.embed([""])
    return guide_task(model.painter, text, empty, has_source(model.tasks[task]), list(model.tasks).index(task))


# Quality


@dataclass(frozen=True, eq=False)
class Examples:
    """What every way is judged on. digest: of the examples."""

    batches: Sequence[Batch]
    tasks: Mapping[str, Task]
    judge: Judge
    seed: int
    digest: str


def read_examples(
    source: Source, tasks: Mapping[str, Task], judge: Judge, split: Split, per_task: int, size: int, seed: int
) -> Examples:
    """The first examples of each task of a split, in batches of a size. seed: of the noise."""
    found = Mixture.first_examples(source, list(tasks.values()), split, per_task)
    starts = range(0, len(found), size)
    batches = [Batch.collate([found[i] for i in range(start, min(start + size, len(found)))]) for start in starts]
    return Examples(batches, tasks, judge, seed, hash_batch(Batch.cat(batches)))


def judge_way(way: Way, model: Model, examples: Examples, path: Path) -> list[Row]:
    """Rows of the pictures that a way's model draws, which are kept at `path`."""
    shape = model.painter.denoiser.backbone.latent_shape
    batch, answers = draw_batches(examples.batches, model.painter.draw, shape, examples.seed)
    rows = list(judge_rows(examples.judge, examples.tasks, batch, answers, examples.seed, way.name))
    write_rows(path, rows)
    return rows


def judge_ways(
    ways: Sequence[Way], examples: Examples, device: str, say: Callable[[str], object]
) -> dict[str, dict[int, list[Row]]]:
    """Rows of every way by its name and seed: from the cache, or made now. say: is told of each that was made."""
    there = {(way.name, seed): locate_rows(way, seed, examples, device) for way in ways for seed in way.seeds}
    kept = {key: read_rows(path) for key, path in there.items()}
    pairs = sorted(((way, seed) for way in ways for seed in way.seeds), key=lambda pair: pair[1])
    for way, seed, model in load_models([(way, s) for way, s in pairs if kept[way.name, s] is None], device):
        began = time.perf_counter()
        kept[way.name, seed] = judge_way(way, model, examples, there[way.name, seed])
        say(f"judged in {time.perf_counter() - began:.0f} s: {way.name}, seed {seed}")
    return {way.name: {seed: kept[way.name, seed] or [] for seed in way.seeds} for way in ways}


def locate_rows(way: Way, seed: int, examples: Examples, device: str) -> Path:
    text = json.dumps(describe_way(way, seed, examples, device), sort_keys=True, default=str)
    return find_user_cache() / "ways" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def describe_way(way: Way, seed: int, examples: Examples, device: str) -> dict[str, Any]:
    """All that the rows of a way depend on."""
    about = read_about(way.variant.folders[seed])
    options = asdict(choose_sampling(about, way.choose_options(seed)))
    if way.light is not None:
        options["switch"] = {**options["switch"], "light": hash_run(read_about(way.light.folders[seed]))}
    return {
        "run": hash_run(about),
        "sampling": options,
        "examples": examples.digest,
        "batches": [len(batch.key) for batch in examples.batches],
        "seed": examples.seed,
        "judge": describe_judge(examples.judge),
        "device": device,
        "sources": hash_sources(),
        "versions": versions(),
    }


def hash_run(about: About) -> list[Any]:
    """What a run is: its method, base and tasks, the hash of the base's weights, and that of what was trained."""
    return [about.digest, about.content.get("base"), hashlib.sha256(about.weights.read_bytes()).hexdigest()]
