"""Mistakes in the configuration: one line, exit code 2, the key, the value and what is allowed, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from whole_runs import composed

from mtdiff.commands.run import hash_configuration
from mtdiff.config.defaults import fill_defaults, strip_defaults
from mtdiff.config.schema import check
from mtdiff.config.signatures import signature
from mtdiff.errors import ConfigError
from mtdiff.runs.checks import check_tasks, list_compared_tasks

ROOT = Path(__file__).parents[2]
CASES = [
    ("method=foo", ["method=foo", "dtr", "mtu", "lora_ffn"]),
    ("backbone=sd9", ["backbone=sd9", "nano"]),
    ("data=mnist", ["data=mnist", "emoji"]),
    ("trainig.steps=3", ["trainig.steps", "did you mean 'training'", "sampling"]),
    ("training.stps=3", ["training.stps", "did you mean 'training.steps'"]),
    ("training.steps=many", ["training.steps=many", "a whole number"]),
    ("training.steps=0", ["training.steps=0", "at least 1"]),
    ("training.ema_decay=1.5", ["training.ema_decay=1.5", "0 to 1"]),
    ("training.dropout={txt: 0.1}", ["training.dropout", "txt"]),
    ("tasks=[edt]", ["tasks=edt", "did you mean 'edit'", "super_resolution"]),
    ("tasks=[]", ["tasks=[]", "at least one of"]),
    ("method.experts=three", ["method.experts=three", "a whole number"]),
    ("method.exprts=3", ["method.exprts", "did you mean 'method.experts'"]),
    ("+method.exprts=3", ["method.exprts=3", "no such option"]),
    ("backbone.attention=fast", ["backbone.attention=fast", "fused, plain"]),
    ("sampling.sampler=euler", ["sampling.sampler=euler", "ddim, dpm++"]),
    ("sampling.steps=0", ["sampling.steps=0", "1 to 1000"]),
    ("task.super_resolution.degradation=jpeg", ["task.super_resolution.degradation=jpeg", "realesrgan"]),
    ("method._target_=os.system", ["method._target_=os.system", "mtdiff, baselines"]),
    ("method._target_=mtdiff.methods.mtu.Mtu", ["mtdiff.methods.mtu.Mtu", "no such class"]),
    ("seed=-1", ["seed=-1", "at least 0"]),
    ("nonsense", ["nonsense", "key=value"]),
    ("+weights.edt=2", ["weights=edt", "edit"]),
    ("training.start=nowhere", ["training.start=nowhere", "no such folder", "mtu-nano"]),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[str, int]]:
    """All cases in one process: what `guard(check_call)` prints and its exit code."""
    script = f"""
import contextlib, io, json, sys
from mtdiff.commands.command import guard
from mtdiff.commands.compose import Call, check_call
answers = {{}}
for case in {[case for case, _ in CASES]!r}:
    err = io.StringIO()
    code = 0
    with contextlib.redirect_stderr(err):
        try:
            guard(lambda: check_call(Call([case])))
        except SystemExit as e:
            code = e.code
    answers[case] = (err.getvalue(), code)
assert "torch" not in sys.modules, "a mistake has to be answered before torch is imported"
print(json.dumps(answers))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    import json

    return json.loads(done.stdout)


@pytest.mark.parametrize(("case", "words"), CASES, ids=[c for c, _ in CASES])
def test_one_line_names_key_value_and_allowed(case: str, words: list[str], answers: dict[str, tuple[str, int]]) -> None:
    message, code = answers[case]
    assert code == 2
    assert message.count("\n") == 1
    for word in words:
        assert word in message


def test_the_command_itself_answers_so() -> None:
    done = run("method=foo")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert done.stderr.startswith("error: method=foo: expected one of")


def test_a_sweep_is_checked_whole_before_its_first_run() -> None:
    done = run("-m", "method=mtu,mtuu", "seed=0,1")
    assert done.returncode == 2
    assert "method=mtuu" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        (["method=finetune"], 1e-3),
        (["method=finetune", "training.lr=5e-4"], 5e-4),
        (["method=finetune", "rate=nano_ia3"], 3e-2),
        (["method=mtu", "backbone=sdxl"], 5e-5),
        (["method=ia3", "backbone=pixart"], 3e-3),  # none was chosen: config.yaml's
    ],
)
def test_a_method_brings_its_learning_rate(overrides: list[str], rate: float) -> None:
    assert composed(overrides)[0]["training"]["lr"] == rate


def test_a_rate_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^rate=foo: expected one of .*nano_mtu"):
        composed(["rate=foo"])


def test_help_lists_the_groups() -> None:
    done = run("--help")
    assert done.returncode == 0
    for group in ("method", "backbone", "data", "trainer"):
        assert group in done.stdout


def test_signature_reads_classes_functions_and_dataclasses() -> None:
    names = {a.name for a in signature("mtdiff.methods.mtu.MTU")}
    assert {"experts", "granularity", "top_k", "rescale"} <= names
    assert "weights" in {a.name for a in signature("mtdiff.backbones.stable_diffusion.load")}
    required = {a.name for a in signature("mtdiff.config.settings.Training") if a.is_required}
    assert required == {"steps", "batch_size", "lr"}


def test_a_configuration_is_completed_by_todays_defaults() -> None:
    """Of constructors and settings of this project; what it says itself stays, and so does what nobody knows."""
    method = {"_target_": "mtdiff.methods.mtu.MTU", "experts": 8}
    weighting = {"_target_": "mtdiff.training.balancing.MinSNR"}
    others = {"unknown": {"_target_": "elsewhere.Thing", "a": 1}, "gone": {"_target_": "mtdiff.methods.gone.Gone"}}
    config = {"method": method, "balancing": {"weighting": weighting}, "training": {"steps": 3}, "seed": 0, **others}
    found = fill_defaults(config)
    assert found["method"]["experts"] == 8
    assert found["method"]["router_rate"] == 1.0
    assert found["balancing"] == {"weighting": {**weighting, "gamma": 5.0}}
    assert (found["training"]["steps"], found["training"]["accumulate"]) == (3, 1)
    assert "batch_size" not in found["training"]  # has no default
    assert {name: found[name] for name in ("seed", *others)} == {"seed": 0, **others}
    assert fill_defaults(found) == found
    assert config["method"] == {"_target_": "mtdiff.methods.mtu.MTU", "experts": 8}


def test_other_packages_only_by_name() -> None:
    node = {"_target_": "json.JSONDecoder"}
    with pytest.raises(ConfigError, match="json"):
        check({"method": node})


def test_a_runs_name_does_not_change_with_a_new_option() -> None:
    """Only options that are not at their defaults make a run another one."""
    plain, _ = composed(["method=mtu"])
    without = {**plain, "method": {k: v for k, v in plain["method"].items() if k != "norm_rate"}}
    elsewhere = {**plain, "training": {**plain["training"], "cache": "folder"}, "progress": False}
    assert hash_configuration(without) == hash_configuration(plain) == hash_configuration(elsewhere)
    assert hash_configuration(composed(["method.norm_rate=2"])[0]) != hash_configuration(plain)
    assert strip_defaults(fill_defaults(without)) == strip_defaults(plain)


def test_a_task_that_a_run_does_not_compare_makes_it_no_other_run() -> None:
    """The four tasks of the default run have shares; what else the configuration knows changes nothing."""
    plain, _ = composed(["method=mtu"])
    compared = list(plain["weights"])
    assert list_compared_tasks(plain) == compared == plain["tasks"] != list(plain["task"])
    four = {**plain, "task": {name: plain["task"][name] for name in compared}}
    assert hash_configuration(four) == hash_configuration(plain)
    other, _ = composed(["method=mtu", "tasks=[denoise]"])
    assert list_compared_tasks(other) == [*compared, "denoise"]
    assert hash_configuration(other) != hash_configuration({**other, "tasks": ["edit"]})


def test_tasks_differ_in_more_than_case() -> None:
    """Their pictures would be one file where a file system knows no case."""
    node = {"_target_": "mtdiff.tasks.edit.Edit"}
    with pytest.raises(ConfigError, match="'Edit' differs from another in upper and lower case alone"):
        check_tasks(["edit", "Edit"], {"edit": node, "Edit": node})
