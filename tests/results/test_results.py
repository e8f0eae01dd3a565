"""Run results: the file format, its validation, where they come from, and the tables made of them."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from baselines.published_numbers import read_published
from mtdiff.provenance import git_state, provenance
from mtdiff.results import record as module
from mtdiff.results.encoding import strip_machine, write_lines
from mtdiff.results.find import find
from mtdiff.results.intervals import Interval
from mtdiff.results.paired import compare_paired
from mtdiff.results.ranking import is_surely_worse
from mtdiff.results.record import Result, Row, describe_schema
from mtdiff.results.summary import summarise
from mtdiff.results.table import Cell, Column

SCRIPT = Path(__file__).parents[2] / "experiments/table.py"


def row(value: float | None, task: str = "edit", metric: str = "psnr", **fields: Any) -> Row:
    bounds = (None, None) if value is None else (value - 0.5, value + 0.5)
    return replace(Row(task, metric, "higher", value, 20, *bounds), **fields)


def result(method: str = "mtu", seed: int = 0, rows: list[Row] | None = None, **fields: Any) -> Result:
    base = Result(
        method=method,
        backbone="nano",
        data="emoji",
        tasks=["edit", "inpaint"],
        seed=seed,
        config={"seed": seed, "method": {"experts": 4}},
        git={"commit": "a" * 40, "dirty": False},
        versions={"torch": "2.11"},
        device="cpu: x",
        steps=100,
        samples_seen=3200,
        seconds={"train": 1.5, "eval": None},
        params={"trainable": 158_000_000, "total": 869_000_000, "total_for_all_tasks": 869_000_000},
        cost={
            "flops": 6.8e11,
            "flops_no_attn": 6e11,
            "latency_ms": {"median": 12.34, "p95": 15.0},
            "peak_memory_mb": None,
        },
        rows=[row(20.0 + seed), row(30.0, "inpaint")] if rows is None else rows,
    )
    return replace(base, **fields)


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit a saved result as JSON."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# The file


def test_a_result_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    saved = result(rows=[row(20.0), row(None, reason="no measuring CLIP"), row(19.0, model="copy")])
    saved.save(path)
    assert Result.load(path) == saved
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_the_keys_are_the_documented_ones(tmp_path: Path) -> None:
    result().save(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    expected = (
        "schema status method backbone data tasks seed config git versions device steps samples_seen "
        "seconds params cost rows method_report starvation parts error"
    )
    assert set(content) == set(expected.split())
    assert set(content["cost"]) == {"flops", "flops_no_attn", "latency_ms", "peak_memory_mb"}
    assert set(content["params"]) == {"trainable", "total", "total_for_all_tasks"}


def test_a_bare_result_is_valid_and_blank(tmp_path: Path) -> None:
    Result("mtu", "nano", "emoji", ["edit"], 0, status="failed").save(tmp_path / "r.json")
    loaded = Result.load(tmp_path / "r.json")
    assert loaded.cost["latency_ms"] == {"median": None, "p95": None}
    assert loaded.params["trainable"] is None


def test_what_is_not_finite_becomes_null_with_a_reason(tmp_path: Path) -> None:
    saved = result(rows=[row(math.nan), row(math.inf, reason="diverged")], seconds={"train": math.inf, "eval": 1.0})
    saved.save(tmp_path / "r.json")
    assert "NaN" not in (tmp_path / "r.json").read_text()
    loaded = Result.load(tmp_path / "r.json")
    assert [(r.value, r.low, r.reason) for r in loaded.rows] == [
        (None, None, "the value was nan"),
        (None, None, "diverged"),
    ]
    assert loaded.seconds == {"train": None, "eval": 1.0}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    result().save(path)

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        result(seed=5).save(path)
    assert Result.load(path).seed == 0
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_an_invalid_result_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"r.json: key `steps`: expected a whole number of at least 0, got -1$"):
        result(steps=-1).save(tmp_path / "r.json")
    with pytest.raises(ValueError, match=r"key `rows\[0\].reason`: expected a text, since `value` is null"):
        result(rows=[row(None)]).save(tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


MALFORMED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "schema": (lambda c: c.update(schema=2), "key `schema`: expected 1, got 2"),
    "no schema": (lambda c: c.pop("schema"), "key `schema`: expected 1, got None"),
    "true": (lambda c: c.update(schema=True), "key `schema`: expected 1, got True"),
    "status": (
        lambda c: c.update(status="done"),
        "key `status`: expected one of complete, failed, interrupted, got 'done'",
    ),
    "missing": (lambda c: c.pop("method"), "key `method`: missing, expected a text"),
    "unknown": (lambda c: c.update(extra=1), "key `extra`: unknown, expected schema, status"),
    "tasks": (lambda c: c.update(tasks="edit"), "key `tasks`: expected a list of texts, got 'edit'"),
    "seed": (lambda c: c.update(seed=0.5), "key `seed`: expected a whole number, got 0.5"),
    "bool seed": (lambda c: c.update(seed=True), "key `seed`: expected a whole number, got True"),
    "git": (lambda c: c["git"].update(dirty="no"), "key `git.dirty`: expected true, false or null, got 'no'"),
    "versions": (lambda c: c["versions"].update(torch=2), "key `versions`: expected a mapping of texts"),
    "seconds": (lambda c: c.update(seconds=3), "key `seconds`: expected a mapping, got 3"),
    "latency": (
        lambda c: c["cost"]["latency_ms"].pop("p95"),
        "key `cost.latency_ms.p95`: missing, expected a finite number",
    ),
    "no rows": (lambda c: c.pop("rows"), "key `rows`: missing, expected a list"),
    "rows": (lambda c: c.update(rows={}), "key `rows`: expected a list, got {}"),
    "row": (lambda c: c["rows"].append(3), "key `rows[2]`: expected a mapping, got 3"),
    "value": (
        lambda c: c["rows"][1].update(value="20"),
        "key `rows[1].value`: expected a finite number or null, got '20'",
    ),
    "reason": (
        lambda c: c["rows"][0].update(value=None),
        "key `rows[0].reason`: expected a text, since `value` is null",
    ),
    "direction": (
        lambda c: c["rows"][0].update(direction="up"),
        "key `rows[0].direction`: expected one of lower, higher",
    ),
    "too large": (
        lambda c: c["rows"][0].update(value=1e308),
        "key `rows[0].value`: expected a finite number or null, of at most 1e+60, got 1e+308",
    ),
    "no name": (lambda c: c.update(method="\x1b[2J"), "key `method`: expected a text of 1 to 200 printable characters"),
    "long name": (lambda c: c["rows"][0].update(task="x" * 201), "key `rows[0].task`: expected a text of 1 to 200"),
    "task name": (lambda c: c.update(tasks=["edit", ""]), "key `tasks`: expected a list of texts, got ['edit', '']"),
    "n": (lambda c: c["rows"][0].update(n=-1), "key `rows[0].n`: expected a whole number of at least 0, got -1"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_gives_one_line(case: str, tmp_path: Path) -> None:
    change, complaint = MALFORMED[case]
    path = tmp_path / "result.json"
    result().save(path)
    changed(path, change)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        Result.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {complaint}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "not JSON, line 1"),
        (b"\xff\xfe", "not JSON, not even UTF-8"),
        (b"[]", "key `schema`: expected 1, got None"),
        (b'{"schema": NaN}', "NaN is no JSON number, expected null"),
    ],
)
def test_what_is_no_json_gives_one_line(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        Result.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_the_schema_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs/results_schema.md"
    assert page.read_text() == describe_schema() + "\n"


def test_committed_results_load() -> None:
    folder = Path(__file__).parents[2] / "experiments/results"
    found = find(f"{folder}/**/*.json")
    assert len(found) == len(list(folder.rglob("*.json"))) > 0
    assert [f"{one.path}: {one.reason}" for one in found if one.result is None] == []


def test_rows_need_neither_model_nor_reason(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    result().save(path)
    changed(path, lambda c: [r.pop(k) for r in c["rows"] for k in ("model", "reason")])
    assert Result.load(path) == result()


def test_paths_lose_the_machines_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/someone"))
    config = {"a": str(tmp_path / "runs/x"), "b": ["/home/someone/data", "/mnt/data"], "c": "a/b", "d": None}
    expected = {"a": "runs/x", "b": ["~/data", "/mnt/data"], "c": "a/b", "d": None}
    assert strip_machine(config) == strip_machine(expected) == expected
    result(config=config).save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json").config == expected


def test_files_are_found_by_path_and_a_broken_one_has_its_reason(tmp_path: Path) -> None:
    for name, seed in (("b", 1), ("a", 2), ("c", 0)):
        result(seed=seed).save(tmp_path / name / "result.json")
    found = find(f"{tmp_path}/*/result.json,{tmp_path}/a/*.json")
    assert [one.result.seed for one in found if one.result is not None] == [2, 1, 0]
    assert find(f"{tmp_path}/*/nothing.json") == []
    (tmp_path / "b/result.json").write_text("")
    assert [str(one.reason)[:8] for one in find(f"{tmp_path}/*/result.json")] == ["None", "not JSON", "None"]


# Provenance


def test_provenance_fills_a_result(tmp_path: Path) -> None:
    found = provenance()
    assert found["device"].startswith("cpu: ")
    assert {"python", "torch", "mtdiff"} <= found["versions"].keys()
    result(**found).save(tmp_path / "r.json")


def test_git_state_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a hook

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True, env=environment
        ).stdout

    unknown = {"commit": None, "dirty": None}
    assert git_state(tmp_path) == unknown
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    assert git_state(tmp_path) == unknown
    git("commit", "-m", "one")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD").strip(), "dirty": False}
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path)["dirty"] is True
    (tmp_path / "installed").mkdir()  # an installed package inside somebody else's repository
    assert git_state(tmp_path / "installed") == unknown


# The summary


def cells(results: list[Result], label: str) -> dict[tuple[str, str], Cell]:
    table = summarise(results)
    line = next(line for line in table.lines if line.label == label)
    return {(c.task, c.metric): cell for c, cell in zip(table.columns, line.cells, strict=True)}


def labels(results: list[Result]) -> list[str]:
    return [line.label for line in summarise(results).lines]


def test_one_run_keeps_its_own_interval() -> None:
    cell = cells([result()], "mtu")["edit", "psnr"]
    assert (cell.interval, cell.seeds, cell.n) == (Interval(20.0, 19.5, 20.5), 1, 20)


def test_seeds_are_averaged_with_students_interval() -> None:
    runs = [result(seed=s) for s in (0, 1, 4)]
    cell = cells(runs, "mtu")["edit", "psnr"]
    low, high = scipy.stats.t.interval(0.95, 2, loc=65 / 3, scale=scipy.stats.sem([20, 21, 24]))
    assert cell.interval is not None
    assert (cell.interval.value, cell.interval.low, cell.interval.high) == pytest.approx((65 / 3, low, high))
    assert cell.seeds == 3


def test_other_options_make_another_line_named_by_them() -> None:
    other = result(config={"seed": 3, "method": {"experts": 1}})
    assert labels([result(), other, result(seed=1)]) == ["mtu (method.experts=4)", "mtu (method.experts=1)"]
    here, elsewhere = {"training": {"workers": 1}}, {"logger": {"wandb": True}, "training": {"workers": 4}}
    assert labels([result(config=result().config | place) for place in (here, {"run_dir": "x", **elsewhere})]) == [
        "mtu"
    ]
    assert labels([result(), result("dtr")]) == ["mtu", "dtr"]
    assert labels([result(), result(backbone="sd15")]) == ["mtu (nano)", "mtu (sd15)"]
    assert labels([result(), result(tasks=["edit", "sr"])]) == ["mtu (edit + inpaint)", "mtu (edit + sr)"]


def test_lines_that_differ_in_several_options_name_what_is_unusual() -> None:
    """Each line its own, and the table says what all others have."""

    def one(seed: int = 0, **method: object) -> Result:
        weighting = {"_target_": method.pop("weighting", "mtdiff.training.balancing.Uniform")}
        return result(seed=seed, config={"seed": seed, "method": {"experts": 4, **method}, "balancing": weighting})

    runs = [
        one(experts=1),
        one(experts=8),
        one(weighting="mtdiff.training.balancing.MinSNR"),
        one(),
        one(1),
        one(shift=2),
    ]
    table = summarise(runs)
    assert [line.label for line in table.lines] == [
        "mtu (method.experts=1)",
        "mtu (method.experts=8)",
        "mtu (balancing=MinSNR, balancing.gamma=5)",
        "mtu",
        "mtu (method.shift=2)",
    ]
    assert "mtu, where a line says nothing else: balancing=Uniform, method.experts=4." in table.notes
    lacking = [one(shift=2), one(shift=2, experts=1), one(experts=1), one(shift=2, experts=8)]
    assert labels(lacking)[:3] == ["mtu (method.experts=4)", "mtu", "mtu (no method.shift)"]


def test_an_option_that_is_newer_than_a_result_has_its_default() -> None:
    old, new, other = (
        result(seed=seed, config={"seed": seed, "method": {"_target_": "mtdiff.methods.mtu.MTU", "experts": 4, **told}})
        for seed, told in enumerate(({}, {"router_rate": 1}, {"router_rate": 0.02}))
    )
    assert labels([old, new]) == ["mtu"]
    assert labels([old, new, other]) == ["mtu (method.router_rate=1)", "mtu (method.router_rate=0.02)"]


def test_a_file_is_short_and_keeps_every_text() -> None:
    texts = {"braces": "a } b {", "list": "[1,  2]", "lines": "{\n  c,\n  d\n}", "umlaut": "ä"}
    rows = [{"values": [1, -2.5e-3, None], "of": texts}, {}]
    content = {"rows": rows, "leaf": {"a": 1, "b": {"x": {"y": []}}}, "empty": []}
    text = write_lines(content, levels=2)
    assert json.loads(text) == content
    lines = text.splitlines()
    assert lines[2].startswith('{"values":[1,-0.0025,null],"of":{')
    assert lines[3:5] == ["{}", "],"]
    assert lines[5:] == ['"leaf":{', '"a":1,', '"b":{"x":{"y":[]}}', "},", '"empty":[]', "}"]


def test_single_task_models_form_one_line() -> None:
    single = [
        result("finetune", seed, [row(10.0 + seed, task)], tasks=[task], config={"seed": seed, "tasks": [task]})
        for task in ("edit", "inpaint")
        for seed in (0, 1)
    ]
    table = summarise([result(), *single])
    line = table.lines[1]
    assert line.label == "finetune (single task)"
    assert [cell.seeds for cell in line.cells] == [2, 2]
    assert line.cost.trainable == 158_000_000
    assert line.cost.total_for_all_tasks == 869_000_000


def test_gaps_have_reasons() -> None:
    failed = result("dtr", rows=[], status="failed")
    partial = [result("ia3", s, [row(20.0)] if s else [row(None, reason="diverged")]) for s in (0, 1)]
    alone = result("finetune", rows=[row(9.0)], tasks=["edit"])
    runs = [result(), failed, *partial, alone, result("one_pic", rows=[])]
    assert cells(runs, "dtr")["edit", "psnr"].reason == "seed 0 failed"
    assert cells(runs, "ia3")["edit", "psnr"].note == "1 of 2 runs: diverged"
    assert cells(runs, "ia3")["edit", "psnr"].interval == Interval(20.0, 19.5, 20.5)
    assert cells(runs, "finetune (single task)")["inpaint", "psnr"].reason == "not trained on this task"
    assert cells(runs, "one_pic")["edit", "psnr"].reason == "not measured"


def test_a_failed_seed_does_not_count() -> None:
    runs = [result(), result(seed=1, status="interrupted")]
    cell = cells(runs, "mtu")["edit", "psnr"]
    assert cell.interval == Interval(20.0, 19.5, 20.5)
    assert cell.note == "1 of 2 runs: seed 1 interrupted"


def test_references_stand_apart_and_count_once() -> None:
    rows = [row(20.0), row(12.0, model="copy"), row(15.0, model="base")]
    drawn = [row(21.0), row(12.0, model="copy"), row(16.0, model="base")]
    table = summarise([result(rows=rows), result("dtr", rows=drawn)])
    assert [(line.label, line.reference) for line in table.lines] == [
        ("mtu", False),
        ("dtr", False),
        ("copy", True),
        ("base", True),
    ]
    copy, base = (line.cells[0] for line in table.lines[2:])
    assert (copy.interval, copy.seeds) == (Interval(12.0, 11.5, 12.5), 1)
    assert (base.interval.value, base.seeds) == (15.5, 2)  # type: ignore[union-attr]


def test_the_best_is_marked_in_either_direction() -> None:
    def marks(direction: str) -> list[tuple[bool, bool]]:
        runs = [result(str(v), rows=[row(v, direction=direction), row(99.0, model="copy")]) for v in (10.0, 10.6, 12.0)]
        return [(line.cells[0].best, line.cells[0].tied) for line in summarise(runs).lines]

    assert marks("higher") == [(False, False), (False, False), (True, False), (False, False)]
    assert marks("lower") == [(True, False), (False, True), (False, False), (False, False)]
    assert not summarise([result()]).lines[0].cells[0].best


def test_intervals_join_as_independent_ones() -> None:
    best = Interval(10.0, 9.0, 11.0)
    edge = math.sqrt(2)
    for gap, expected in ((edge - 0.01, False), (edge + 0.01, True)):
        lower, higher = Interval(10 - gap, 9 - gap, 11 - gap), Interval(10 + gap, 9 + gap, 11 + gap)
        assert is_surely_worse(lower, best, "higher") is expected
        assert is_surely_worse(higher, best, "lower") is expected
    assert is_surely_worse(Interval(3.0), best, "higher") is None


def test_what_makes_runs_incomparable_is_said() -> None:
    assert summarise([result(), result(seed=1)]).notes == []
    other = result(
        "dtr",
        samples_seen=6400,
        git={"commit": "b" * 40, "dirty": True},
        versions={"torch": "2.12"},
        device="cuda: y",
    )
    assert summarise([result(), other]).notes == [
        "Unequal budgets: 1,600, 3,200 training samples of a task seen.",
        "Runs of 2 commits: aaaaaaaaaa, bbbbbbbbbb.",
        "1 of 2 runs come from a working tree with uncommitted changes.",
        "Mixed versions of torch: 2.11, 2.12.",
        "Latencies are of different devices: cpu: x, cuda: y.",
    ]


def test_columns_keep_tasks_together() -> None:
    first = result(rows=[row(1.0), row(1.0, "inpaint")])
    second = result("dtr", rows=[row(1.0, metric="ssim"), row(1.0)])
    expected = [("edit", "psnr"), ("edit", "ssim"), ("inpaint", "psnr")]
    assert [(c.task, c.metric) for c in summarise([first, second]).columns] == expected
    assert summarise([first]).columns[0] == Column("edit", "psnr", "higher")


# The command


def table(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    every = {
        "a": result(rows=[row(20.0), row(None, "inpaint", reason="no <pair> | here"), row(12.0, model="copy")]),
        "b": result("dtr", rows=[row(20.2), row(0.01234, "inpaint", "lpips_alex", direction="lower")]),
        "c": result("ia3", status="failed", rows=[]),
    }
    for name, one in every.items():
        one.save(tmp_path / "runs" / name / "result.json")
    return tmp_path


def test_a_table_of_some_columns(runs: Path) -> None:
    done = table("published=false", "columns=inpaint/lpips_alex,edit/psnr", cwd=runs)
    assert (done.returncode, done.stderr) == (0, "")
    head, _, mtu, dtr, *_ = (line.split(" | ") for line in (runs / "table.md").read_text().splitlines())
    assert head[1:3] == ["inpaint<br>lpips_alex ↓", "edit<br>psnr ↑"]
    assert "20.00" in mtu[2]
    assert "0.0123" in dtr[1]
    done = table("columns=edit/lpips", cwd=runs)
    assert done.returncode == 2
    assert done.stderr.startswith("table.py: columns=edit/lpips: expected one of edit/psnr, ")


def test_the_table_as_markdown(runs: Path) -> None:
    done = table("published=false", cwd=runs)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["table.md", "table.html", "table.tex"]
    text = (runs / "table.md").read_text()
    lines = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("|")]
    head, rule, mtu, dtr, ia3, apart, copy = lines
    assert head[1] == "edit<br>psnr ↑"
    assert head[2] == "inpaint<br>psnr ↑"
    assert head[3] == "inpaint<br>lpips_alex ↓"
    assert set("".join(rule)) == {"|", "-", ":", " "}
    assert mtu[1:3] == ["20.00 ≈ [19.50, 20.50]", "[^1]"]
    assert dtr[1] == "**20.20** [19.70, 20.70]"
    assert dtr[3] == "0.0123 [-0.488, 0.512]"
    assert mtu[-6:] == ["1", "158M", "869M", "869M", "680G", "12.3 |"]
    assert mtu[3] == dtr[2] == "[^2]"
    assert ia3[1] == ia3[2] == ia3[3] == "[^3]"
    assert "references" in apart[0]
    assert copy[0] == "| copy"
    assert copy[1] == "12.00 [11.50, 12.50]"
    assert "[^1]: no &lt;pair> \\| here" in text
    assert "[^2]: not measured" in text
    assert "[^3]: seed 0 failed" in text


def test_the_table_as_html(runs: Path) -> None:
    assert table("out=deep/page", "published=false", cwd=runs).returncode == 0
    page = (runs / "deep/page.html").read_text()
    assert "http" not in page
    assert "<b>20.20</b>" in page
    assert "no &lt;pair&gt; | here" in page
    assert page.count("<tbody>") == 2
    above, below = page.split("<tbody>")[1:]
    assert "dtr" in above
    assert "copy" in below
    assert page.count("<li>seed 0 failed</li>") == 1
    for tag in ("table", "tr", "td", "th", "ol", "b"):
        assert page.count(f"<{tag}>") + page.count(f"<{tag} ") == page.count(f"</{tag}>"), tag


def test_several_patterns_and_a_repeated_run(runs: Path) -> None:
    assert table("results=runs/a/*.json,runs/b/*.json", cwd=runs).returncode == 0
    text = (runs / "table.md").read_text()
    assert "dtr" in text
    assert "ia3" not in text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["results=no/*.json"], "table.py: results=no/*.json: no such file"),
        (["size=3"], "table.py: argument 'size=3': expected results=... out=... columns=... published=..."),
        (["results"], "table.py: argument 'results': expected results=... out=... columns=... published=..."),
        (["published=no"], "table.py: published=no: expected true or false"),
        (["out="], "table.py: argument 'out=': expected results=... out=... columns=... published=..."),
    ],
)
def test_a_wrong_command_gives_one_line_and_code_2(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    done = table(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", complaint + "\n")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_is_blank_with_the_reason(runs: Path) -> None:
    changed(runs / "runs/b/result.json", lambda c: c.update(schema=2))
    done = table("published=false", cwd=runs)
    assert done.returncode == 0
    assert done.stderr == "table.py: left blank: runs/b/result.json: key `schema`: expected 1, got 2\n"
    text = (runs / "table.md").read_text()
    blank = next(line for line in text.splitlines() if line.startswith("| b |"))
    assert blank.split(" | ")[1:3] == ["[^3]", "[^3]"]
    assert "[^3]: key `schema`: expected 1, got 2" in text
    for path in runs.glob("runs/*/result.json"):
        changed(path, lambda c: c.update(schema=2))
    assert table(cwd=runs).returncode == 2


def test_published_numbers_stand_apart_with_their_source(runs: Path) -> None:
    assert table(cwd=runs).returncode == 0
    ours, theirs = (runs / "table.md").read_text().split("## Published elsewhere")
    assert "869M | 7.2 ↓" not in ours
    assert "arXiv 2503.11905" not in ours
    row = next(line for line in theirs.splitlines() if line.startswith("| MTU N=4 | SD 1.5"))
    assert [c.strip() for c in row.strip("| ").split("|")][2:8] == ["0.68", "869M", "7.2", "17.2", "24.8", "44.0"]
    assert all("arXiv" in line for line in theirs.splitlines() if line.startswith("| ") and "SD" in line)
    found = read_published()
    for kind in ("tasks", "routing"):
        assert {r["source"] for r in found[kind]} <= set(found["sources"])


def test_the_table_as_latex(runs: Path) -> None:
    assert table(cwd=runs).returncode == 0
    text = (runs / "table.tex").read_text()
    assert "lpips\\_alex $\\downarrow$" in text
    assert "\\textbf{20.20}" in text
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 2
    assert text.count("{") == text.count("}")
    assert ".." not in text.replace("...", "")
    ours = text[: text.index("\\bottomrule")]
    rows = [line for line in ours.splitlines() if line.endswith(" \\\\")]
    widths = {line.count(" & ") for line in rows[1:]}
    assert len(widths) == 1


# Paired comparison and protocols


def scores(d: Any) -> dict[int, list[float]]:
    return dict(enumerate(np.atleast_2d(d).tolist()))


def test_one_seed_is_nearly_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=400), rng.normal(0.1, size=400)
    found, expected = compare_paired(scores(a), scores(b)), scipy.stats.ttest_rel(a, b)
    assert found is not None
    low, high = expected.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, low, high), abs=0.03)


def test_examples_that_do_not_differ_leave_the_t_test_over_seeds() -> None:
    d = np.repeat([[0.1], [0.5], [0.3], [0.6]], 9, axis=1)
    found = compare_paired(scores(d), scores(0 * d))
    assert found is not None
    assert found.p == pytest.approx(scipy.stats.ttest_1samp(d[:, 0], 0).pvalue)


def test_only_shared_seeds_and_examples_are_compared() -> None:
    a = {0: [1.0, 2.0, None], 1: [9.0, 9.0, 9.0]}
    found = compare_paired(a, {0: [0.5, 1.5, 7.0], 2: [0.0, 0.0, 0.0]})
    assert found is not None
    assert (found.value, found.n) == (0.5, 2)
    assert compare_paired(a, {3: [1.0, 2.0, 3.0]}) is None
    assert compare_paired(a, {0: [1.0, 2.0]}) is None


def test_scores_decide_where_intervals_cannot() -> None:
    base = np.linspace(0, 10, 20)
    close = row(5.1, values=tuple(base + 0.1 + 0.01 * (-1) ** np.arange(20)))
    runs = [result("a", rows=[row(5.0, values=tuple(base))]), result("b", rows=[close])]
    assert [line.cells[0].tied for line in summarise(runs).lines] == [False, False]
    blind = [replace(r, rows=[replace(x, values=None) for x in r.rows]) for r in runs]
    assert [line.cells[0].tied for line in summarise(blind).lines] == [True, False]
    assert compare_paired({0: [1.0, None, 2.0]}, {1: [1.0, 2.0, 3.0]}) is None


@pytest.mark.parametrize("key", ["per_task", "split", "sampling", "task", "data", "version"])
def test_what_was_judged_otherwise_is_blank_with_the_reason(key: str) -> None:
    config = {
        "seed": 0,
        "evaluation": {"per_task": 64, "split": "test"},
        "sampling": {"steps": 20},
        "task": {"edit": {"x": 1}, "inpaint": {"x": 1}},
    }
    other = json.loads(json.dumps(config))
    fields: dict[str, Any] = {}
    if key in ("per_task", "split"):
        other["evaluation"][key] = {"per_task": 32, "split": "validation"}[key]
    elif key == "sampling":
        other["sampling"]["steps"] = 10
    elif key == "task":
        other["task"]["edit"]["x"] = 2
    else:
        fields = {"data": "faces"} if key == "data" else {"versions": {"mtdiff": "0.2"}}
    runs = [result(config=config), result("ia3", config=config), result("dtr", config=other, **fields)]
    edit, inpaint = summarise(runs).lines[2].cells
    assert edit.interval is None
    assert edit.reason is not None
    assert edit.reason.startswith("judged otherwise: ")
    assert (inpaint.interval is None) == (key != "task")


def test_scores_stay_on_one_line_in_the_file(tmp_path: Path) -> None:
    saved = result(rows=[row(20.0, values=(1.5, None, -2e-07))], method_report={"a": [[1, 2], [3, 4]]})
    saved.save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json") == saved
    assert '"values":[1.5,null,-2e-07]' in (tmp_path / "r.json").read_text()


def test_help_names_the_arguments(tmp_path: Path) -> None:
    done = table("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "results='runs/*/result.json' out=table" in done.stdout


def test_tables_load_no_heavy_package(runs: Path) -> None:
    """What makes the command answer at once; its time itself depends on what else the machine does."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{str(SCRIPT)!r}]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'transformers', 'pandas', 'hydra', 'skimage', 'matplotlib', 'scipy.stats'}\n"
        "print('loaded:', *heavy & set(sys.modules))"
    )
    began = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], cwd=runs, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded:", done.stderr
    assert time.process_time() - began < 5
    assert module.__name__ in sys.modules
