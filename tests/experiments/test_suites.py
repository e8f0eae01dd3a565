"""Suites as a user runs them: planned and checked as a whole, stopped and started again, and the same as W&B sweeps."""

import itertools
import json
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import run_script, start_script

from mtdiff.commands.suites import plan_suite
from mtdiff.runs.suite import Planned

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "experiments/sweeps").glob("*/*.yaml"))
NAMES = ["main", "experts", "task_subsets", "lora_rank", "dtr", "balancing"]
SMALL = [
    "training.batch_size=2",
    "training.sample_every=null",
    "training.validate_every=null",
    "training.workers=0",
    "evaluation.per_task=2",
    "evaluation.validation_per_task=2",
    "evaluation.baselines=false",
    "sampling.steps=1",
    "trainer.accelerator=cpu",
    "progress=false",
]


@pytest.fixture(scope="module")
def plans() -> dict[str, list[Planned]]:
    """Every shipped suite, and every suite's W&B sweeps as one suite, written as W&B's own agent would call them."""
    return {name: plan_suite(name, ["evaluation.baselines=false"]) for name in NAMES}


def agent_calls(sweep: dict[str, Any]) -> list[list[str]]:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    parameters = sweep["parameters"]
    choices = [p.get("values", [p.get("value")]) for p in parameters.values()]
    return [
        create_sweep_command_args({"args": {k: {"value": v} for k, v in zip(parameters, values, strict=True)}})[
            "args_no_hyphens"
        ]
        for values in itertools.product(*choices)
    ]


def test_suites_have_the_runs_that_the_study_needs(plans: dict[str, list[Planned]]) -> None:
    assert {name: len(runs) for name, runs in plans.items()} == {
        "main": 44,
        "experts": 27,
        "task_subsets": 33,
        "lora_rank": 15,
        "dtr": 15,
        "balancing": 24,
    }
    assert {p.stem for p in (ROOT / "experiments/configs/suite").glob("*.yaml")} >= set(NAMES)


def test_both_kinds_of_backbone_are_compared_on_the_same_runs(plans: dict[str, list[Planned]]) -> None:
    def list_options(runs: list[Planned]) -> set[frozenset[str]]:
        beside = ("backbone=", "logger.group=", "evaluation.baselines=")
        return {frozenset(o for o in run.overrides if not o.startswith(beside)) for run in runs}

    transformers = list_options(plan_suite("backbones", []))
    assert len(transformers) == 12
    assert transformers < list_options(plans["main"])


def test_every_model_sees_the_same_examples_of_a_task(plans: dict[str, list[Planned]]) -> None:
    steps = {1: 450, 2: 900, 4: 1800}
    for run in plans["main"] + plans["task_subsets"]:
        tasks = next((o for o in run.overrides if o.startswith("tasks=")), "a,b,c,d").count(",") + 1
        assert f"training.steps={steps[tasks]}" in run.overrides

    from mtdiff.data.emoji.source import EmojiSource
    from mtdiff.data.mixture import Mixture
    from mtdiff.tasks.edit import Edit
    from mtdiff.tasks.text_to_image import TextToImage

    source = EmojiSource()
    both = Mixture(source, [TextToImage(), Edit()], [1.0, 1.0])
    alone = Mixture(source, [Edit()], [1.0])
    seen = sorted(example.key for example in (both[i] for i in range(16)) if example.task == 1)
    assert seen == sorted(alone[i].key for i in range(8))


@pytest.mark.parametrize("name", NAMES)
def test_wandb_sweeps_are_the_suites_runs(name: str, plans: dict[str, list[Planned]], tmp_path: Path) -> None:
    files = [path for path in SWEEPS if path.parent.name == name]
    lines = []
    for path in files:
        sweep = yaml.safe_load(path.read_text())
        assert sweep["program"] == "experiments/run.py"
        assert sweep["command"][1:] == ["python", "experiments/run.py", "${args_no_hyphens}"]
        assert path.read_text().splitlines()[0].startswith(f"# wandb sweep experiments/sweeps/{name}/{path.name}")
        lines += [" ".join(call) for call in agent_calls(sweep)]
    copy = tmp_path / "sweep.yaml"
    copy.write_text(yaml.safe_dump({"equal_budget": False, "runs": lines}))
    swept = plan_suite(str(copy), [])
    assert {run.folder for run in swept} == {run.folder for run in plans[name]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["suite=mian"], ["suite=mian", "did you mean 'main'"]),
        (["suite=main", "-m"], ["-m", "not together with suite"]),
        (["suite=main", "run_dir=x"], ["run_dir=x", "folder of its own"]),
        (["suite=main", "method=mtu"], ["method=mtu", "suite main compares values of `method`"]),
        (["suite=twice.yaml"], ["suite twice", "are the same"]),
        (["suite=main", "seed=0", "training.steps=6"], ["training.steps=6", "a share of 0.25"]),
        (["suite=main", "seed=0", "training.stps=8"], ["training.stps", "did you mean 'training.steps'"]),
        (["suite=bad.yaml"], ["bad", "run", "expected one of common, equal_budget, runs"]),
    ],
)
def test_a_mistake_is_one_line_before_the_first_run(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("run: [method=mtu]\n")
    (tmp_path / "twice.yaml").write_text("runs: [method=mtu seed=1, 'method=mtu seed=1,2']\n")
    done = run_script("experiments/run.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "runs").exists()


def start(folder: Path, log: str, *arguments: str) -> BaseProcess:
    out = folder / log
    return start_script("experiments/run.py", *arguments, out=out, err=out, cwd=folder)


def test_a_stopped_suite_finishes_with_each_run_done_once(tmp_path: Path) -> None:
    """Stopped in its second run, then taken up by two processes at once; one run of the suite cannot succeed."""
    lines = ["method=ia3 tasks=[edit] seed=0,1", "method=finetune tasks=[edit]", "method=finetune tasks=[inpaint]"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"runs": lines}))
    arguments = ["suite=mine.yaml", "training.steps=4", "report=false", *SMALL]
    first = start(tmp_path, "first", *arguments)
    said = ""
    while "[2/4]" not in said:
        assert first.exitcode is None, said
        time.sleep(0.1)
        said = (tmp_path / "first").read_text() if (tmp_path / "first").exists() else ""
    first.terminate()
    first.join()
    assert first.exitcode == 128 + signal.SIGTERM
    results = list((tmp_path / "runs").glob("*/result.json"))
    before = {path: path.read_bytes() for path in results if json.loads(path.read_bytes())["status"] == "complete"}
    assert len(before) == 1

    spoilt = Path(next(o for o in said_folders(tmp_path, arguments) if "inpaint" in o))
    (tmp_path / spoilt).mkdir(parents=True)
    (tmp_path / spoilt / "config.yaml").write_text("method: another\n")
    both = [start(tmp_path, name, *arguments) for name in ("second", "third")]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [1, 1]
    said = "".join((tmp_path / name).read_text() for name in ("first", "second", "third"))
    done = [line for line in said.splitlines() if line.startswith("done: ")]
    assert len(done) == len(set(done)) == 3, said
    assert "holds a run with another" in said
    assert said.count("3 of 4 runs are complete") == 2
    results = list((tmp_path / "runs").glob("*/result.json"))
    assert [json.loads(path.read_bytes())["status"] for path in results] == ["complete"] * 3
    assert all(path.read_bytes() == content for path, content in before.items())


def said_folders(folder: Path, arguments: list[str]) -> list[str]:
    """Where the runs of a suite go, by the plan of a process in that folder."""
    code = "from mtdiff.commands.suites import plan_suite\n"
    code += f"print(*(r.folder for r in plan_suite('mine.yaml', {arguments[1:]!r})), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split()


def read_options(run: Planned) -> dict[str, str]:
    return dict(o.split("=", 1) for o in run.overrides)


def test_studies_of_more_tasks_see_the_same_examples_of_each() -> None:
    """Two, four, seven and ten tasks; and one model for each of four tasks beside joint ones."""
    runs = plan_suite("tasks", ["training.steps=480"])
    steps: dict[int, set[int]] = {}
    for options in map(read_options, runs):
        steps.setdefault(options["tasks"].count(",") + 1, set()).add(int(options["training.steps"]))
    assert steps == {2: {240}, 4: {480}, 7: {840}, 10: {1200}}
    parts = [read_options(run).get("tasks", "a,b") for run in plan_suite("merging", ["training.steps=480"])]
    assert (len(parts), sum("," in tasks for tasks in parts)) == (48, 12)


STUDIES = ["main", "experts", "dtr", "balancing", "task_subsets", "lora_rank", "merging", "tasks", "examples"]
SHARED = 28
"""Runs of one seed that stand in an earlier suite already."""


def describe_run(run: Planned) -> tuple[str, ...]:
    """What a run is, without options at their defaults and without the trivial answers that are judged beside it."""
    options = read_options(run)
    method = yaml.safe_load((ROOT / f"experiments/configs/method/{options['method']}.yaml").read_text())
    known = {f"method.{name}": value for name, value in method.items()}
    known |= {"tasks": ["text_to_image", "edit", "super_resolution", "inpaint"], "balancing": "uniform"}
    plain = {name: yaml.safe_load(value.replace(",", ", ")) for name, value in options.items()}
    kept = {k: v for k, v in plain.items() if k not in ("evaluation.baselines", "logger.group") and known.get(k) != v}
    return tuple(sorted(f"{name}={value}" for name, value in kept.items()))


def test_what_two_suites_share_is_trained_once() -> None:
    """No two runs of the studies differ in nothing but the trivial answers that are judged beside them."""
    folders: dict[tuple[str, ...], set[Path]] = {}
    plans = [run for name in STUDIES for run in plan_suite(name, ["seed=0"])]
    for run in plans:
        folders.setdefault(describe_run(run), set()).add(run.folder)
    assert [what for what, found in folders.items() if len(found) > 1] == []
    assert len({run.folder for run in plans}) == len(folders) == len(plans) - SHARED
