"""Notebooks run on the committed results and on others, their pages ask for nothing, and studies are told apart."""

import base64
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from little_study import ODD, TASKS, pictures, result, write
from PIL import Image

from mtdiff.results.changes import difference, find_yardstick, list_changes
from mtdiff.results.find import find
from mtdiff.results.record import Result, Row
from mtdiff.results.study import Run, Study, read
from mtdiff.results.variants import central_options, methods, options, select_central, select_main

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
NAMES = ["comparison", "frontier", "experts", "routers", "deviation", "interference", "pictures", "budgets", "studies"]


def command(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / script), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("study") / "runs")


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return exported(tmp_path_factory.mktemp("committed"))


@pytest.fixture(scope="module")
def invented(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("invented")
    pages = exported(out, f"results={runs}/*/result.json", f"figures={out}/figures")
    assert (out / "figures" / "comparison.pdf").read_bytes().startswith(b"%PDF")
    return pages


def exported(out: Path, *arguments: str) -> dict[str, str]:
    done = command("analysis/export.py", f"out={out}", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [Path(line).stem for line in done.stdout.split()] == NAMES
    return {name: (out / f"{name}.html").read_text() for name in NAMES}


class Fetches(HTMLParser):
    """What a browser would load: attributes that name a resource, and styles."""

    LOADING = ("src", "srcset", "href", "xlink:href", "poster", "data", "action", "background")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.pictures: list[str] = []
        self.scripts = 0
        self.feed(text)
        self.found += re.findall(r"@import[^;]*|url\([^)#]*\)", text)

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.scripts += tag in ("script", "iframe", "object", "embed")
        for name, value in attributes:
            if name in self.LOADING and value and not value.startswith(("data:", "#")):
                if tag != "a" or "//" in value:
                    self.found.append(f"{tag} {name}={value[:80]}")
            elif value and value.startswith("data:image/svg+xml;base64,"):
                self.pictures.append(base64.b64decode(value.partition(",")[2]).decode())


@pytest.mark.parametrize("name", NAMES)
def test_pages_ask_for_nothing(name: str, committed: dict[str, str], invented: dict[str, str]) -> None:
    for page in (committed[name], invented[name]):
        read = Fetches(page)
        assert read.found == []
        assert read.scripts == 0
        for picture in read.pictures:
            assert Fetches(picture).found == []
        assert "Traceback" not in page
        assert not re.search(r">\s*(nan|None)\s*<", page)


@pytest.mark.parametrize("width", [400, 1600])
def test_pages_fit_their_window(
    width: int, committed: dict[str, str], invented: dict[str, str], browser: "Browser", tmp_path: Path
) -> None:
    from browser import Visit

    seen = Visit(browser, width=width)
    for name in NAMES:
        for text in (committed[name], invented[name]):
            (tmp_path / "page.html").write_text(text)
            seen.page.goto((tmp_path / "page.html").as_uri())
            assert seen.overflow <= 0, name
            cut = (
                "[...document.querySelectorAll('table,img')].filter(e => e.getBoundingClientRect().right > innerWidth)"
            )
            assert seen.page.evaluate(f"{cut}.length") == 0, name
    assert seen.faults == []
    assert seen.outside == []
    seen.close()


def test_every_notebook_opens_with_its_question_and_finding(invented: dict[str, str]) -> None:
    for name, page in invented.items():
        opening = re.findall(r"<p>(.*?)</p>", page, re.S)[:2]
        assert opening[0].startswith("<strong>"), name
        assert opening[0].endswith("?</strong>"), name
        assert opening[1] != "The results do not tell.", name
        assert not opening[1].startswith("Complete runs"), name
    assert "What moves most is" in invented["deviation"]


def test_what_is_not_committed_yet_is_said(committed: dict[str, str]) -> None:
    """Either a figure or a sentence, never nothing."""
    for name, page in committed.items():
        assert Fetches(page).pictures or re.search(r"<p>[^<]*\b(no|No|The) result", page), name


def test_every_figure_is_drawn_where_there_is_data(invented: dict[str, str]) -> None:
    figures = {name: len(Fetches(page).pictures) for name, page in invented.items()}
    assert figures == {
        "comparison": 2,
        "frontier": 1,
        "experts": 1,
        "routers": 2,
        "deviation": 2,
        "interference": 7,
        "pictures": 4,
        "budgets": 1,
        "studies": 0,
    }
    for page in invented.values():
        assert "Left blank: broken/result.json: not JSON" in page
        for name in ODD:
            assert f"Left blank: {name}/result.json: " in page
        assert "training.warmup=7 instead of 0" in page
    assert "seed 0 failed: loss is nan" in invented["comparison"]
    assert "no seed of mtu trained on inpaint alone" in invented["interference"]


def test_studies_of_time_are_drawn_where_their_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure and what it answers for each; without a file one sentence that says so."""
    monkeypatch.syspath_prepend(str(ROOT / "analysis"))
    import plots.canvas
    from little_ways import BUDGETS, WAYS

    shown: list[str] = []
    monkeypatch.setattr(plots.canvas, "display", lambda html: shown.append(html.data))
    for name, draw, content, said in (
        ("WAYS", plots.draw_ways, WAYS, "at 2 or more tasks: good, mixed"),
        ("BUDGETS", plots.draw_kept, BUDGETS, "uniform: better at 1, worse at 1 of 4"),
    ):
        shown.clear()
        draw(Study([]))
        assert re.fullmatch(r"<p>No results of experiments/studies/\w+.py are here; [^<]*</p>", shown[0])
        (tmp_path / name).write_text(json.dumps(content))
        monkeypatch.setenv(f"MTDIFF_{name}", str(tmp_path / name))
        draw(Study([]))
        assert len(Fetches(shown[-1]).pictures) == 1
        assert said in "".join(shown)


def test_notebooks_are_committed_without_outputs() -> None:
    for path in sorted((ROOT / "analysis").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
        assert all(len(cell["source"]) <= 3 for cell in code)


def test_nothing_at_all_is_said_and_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "analysis"))
    import plots.canvas

    shown: list[str] = []
    monkeypatch.setattr(plots.canvas, "display", lambda html: shown.append(html.data))
    study = plots.load(f"{tmp_path}/*.json")
    assert shown == [f"<p>No result fits {tmp_path}/*.json.</p>"]
    for path in sorted((ROOT / "analysis").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"][3:]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), {"plots": plots, "study": study})
    assert all(re.fullmatch(r"<p>[^<]+</p>", text) for text in shown)


@pytest.mark.parametrize("argument", ["results", "size=3", "out=", "only=prices"])
def test_a_wrong_argument_gives_one_line(argument: str) -> None:
    done = command("analysis/export.py", argument)
    assert done.returncode == 2
    assert done.stderr.startswith("export.py: ")
    assert done.stderr.count("\n") == 1


# Which runs belong together


def runs_of(*results: Result) -> list[Run]:
    return [Run(Path(f"{i}/result.json"), one) for i, one in enumerate(results)]


def test_the_variant_that_others_vary_is_the_method(runs: Path) -> None:
    some = [
        result("lora", seed, options={"rank": r, "alpha": a})
        for seed in (0, 1)
        for r, a in ((4, 4), (16, 16), (64, 64))
    ]
    some += [result("lora", seed, options={"rank": 16, "alpha": 16, "per_task": False}) for seed in (0, 1)]
    assert central_options(runs_of(*some))["method.rank"] == 16
    study = read(f"{runs}/*/result.json")
    mtu = [run for run in select_central(study) if run.result.method == "mtu"]
    assert {run.result.config["method"]["experts"] for run in mtu} == {4}
    assert not any(options(run.result)["balancing.pcgrad"] for run in mtu)
    assert {len(run.result.tasks) for run in select_main(study).runs} == {1, 4}


def test_methods_may_have_learning_rates_of_their_own(tmp_path: Path) -> None:
    for method, rate, batch in (("mtu", 0.001, 8), ("lora", 0.01, 8), ("lora", 0.03, 8), ("ia3", 0.01, 16)):
        one = result(method, 0)
        one.config["training"] |= {"lr": rate, "batch_size": batch}
        one.save(tmp_path / f"{method}-{rate}.json")
    study = read(f"{tmp_path}/*.json")
    assert {(run.result.method, options(run.result)["training.lr"]) for run in study.runs} == {
        ("mtu", 0.001),
        ("lora", 0.01),
        ("lora", 0.03),
    }
    assert "ia3" in study.notes[0]
    assert "training.batch_size" in study.notes[0]
    assert len(select_central(study)) == 2


def test_repeated_files_count_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        result("mtu", 0).save(tmp_path / f"{name}.json")
    assert len(read(f"{tmp_path}/*.json").runs) == 1


def test_what_was_judged_otherwise_has_no_value(tmp_path: Path) -> None:
    for seed in range(3):
        one = result("mtu", seed)
        one.config["evaluation"]["per_task"] = 12 if seed else 6
        one.save(tmp_path / f"{seed}.json")
    odd = read(f"{tmp_path}/*.json").results[0]
    assert all(row.value is None and "judged otherwise" in (row.reason or "") for row in odd.rows)


def scored(value: float, values: list[float] | None, metric: str = "psnr") -> Row:
    return Row("edit", metric, "higher", value, 3, None, None, values=None if values is None else tuple(values))


def test_differences_are_paired_and_turned() -> None:
    a, b = {0: scored(2.0, [1.0, 2.0, 3.0])}, {0: scored(1.0, [0.1, 0.9, 2.0]), 1: scored(9.0, [9.0] * 3)}
    better = difference(a, b, "higher")
    worse = difference(a, b, "lower")
    assert better is not None
    assert worse is not None
    assert better.value == pytest.approx(1.0)
    assert (worse.value, worse.low, worse.high) == pytest.approx((-better.value, -better.high, -better.low))  # type: ignore[operator]
    whole = difference(
        {s: scored(2.0 + s / 10, None) for s in (0, 1)}, {s: scored(1.0, None) for s in (0, 1)}, "higher"
    )
    assert whole is not None
    assert whole.low is not None
    assert whole.low < whole.value == pytest.approx(1.05)
    assert difference(a, {5: scored(1.0, None)}, "higher") is None
    one = difference({0: scored(2.0, None)}, {0: scored(1.0, None)}, "higher")
    assert one is not None
    assert (one.value, one.low) == (1.0, None)


def test_company_is_held_against_the_task_alone(runs: Path) -> None:
    study = read(f"{runs}/*/result.json")
    assert find_yardstick(study) == "finetune"
    found = {(c.tasks, c.task): c for c in list_changes(study, "mtu", "mtu")}
    assert found[TASKS[:2], "edit"].seeds == 2
    assert found[TASKS, "inpaint"].interval is None
    assert "no seed of mtu trained on inpaint alone" in str(found[TASKS, "inpaint"].reason)


def test_studies_without_results_are_empty() -> None:
    empty = Study([])
    assert (empty.columns, empty.tasks, methods(empty), find_yardstick(empty)) == ([], [], [], None)


def test_methods_separate_where_the_best_ties_with_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three budgets: apart, tied and apart again, so that only the last one counts."""
    monkeypatch.syspath_prepend(str(ROOT / "analysis"))
    from plots.budgets import find_separation

    for budget, apart in ((0.5, 1.0), (1.0, 0.0), (2.0, 1.0)):
        for seed, (method, level) in itertools.product((0, 1), (("finetune", 0.0), ("lora_ffn", apart))):
            result(method, seed, level=level, budget=budget).save(tmp_path / f"{method}-{seed}-{budget}.json")
    study = read(f"{tmp_path}/*.json")
    assert list(study.budgets) == [400, 800, 1600]
    said = find_separation(study)
    assert "edit: from 1.6k examples of it on (lora_ffn 4." in said
    assert "inpaint: from 1.6k examples of it on (finetune 3." in said
    assert "super_resolution: at no budget" not in said
    (tmp_path / "lora_ffn-0-2.0.json").unlink()
    (tmp_path / "lora_ffn-1-2.0.json").unlink()
    assert "edit: at no budget up to 800 examples of it" in find_separation(read(f"{tmp_path}/*.json"))


# Collecting


def test_runs_are_collected_small(tmp_path: Path) -> None:
    made = result("mtu", 0)
    made.config["run_dir"] = "/somewhere/first"
    made.save(tmp_path / "runs/first/result.json")
    pictures(tmp_path / "runs/first/samples", TASKS, 20)
    result("ia3", 0, status="failed", rows=[]).save(tmp_path / "runs/second/result.json")
    options: list[Any] = [f"runs={tmp_path}/runs/*/result.json", f"out={tmp_path}/results", "study=main"]
    done = command("experiments/collect.py", *options)
    assert done.returncode == 0, done.stderr
    assert "second/result.json: failed" in done.stderr
    names = sorted(path.name for path in (tmp_path / "results/main").iterdir())
    assert names == sorted(["first.json", *(f"first-{task}.webp" for task in TASKS)])
    (one,) = find(f"{tmp_path}/results/**/*.json")
    assert one.result is not None
    assert one.result.config.pop("run_dir") == "first"
    made.config.pop("run_dir")
    assert one.result == made
    (run,) = read(f"{tmp_path}/results/**/*.json").runs
    path = run.picture("edit")
    assert path is not None
    before, after = (
        np.asarray(Image.open(p).convert("RGB"), float) for p in (tmp_path / "runs/first/samples/edit.png", path)
    )
    assert before.shape == after.shape
    assert np.abs(before - after).mean() < 40  # noise is the hardest for WebP
    assert command("experiments/collect.py", options[0], "study=a/b").returncode == 2
    assert command("experiments/collect.py", f"runs={tmp_path}/none", "study=a").stderr.endswith("no such file\n")
