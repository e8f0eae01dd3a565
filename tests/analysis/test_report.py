"""The report page: made of any results, and used in a real browser, from a file, without a network."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from little_study import ODD, TASKS, pictures, result, write
from PIL import Image

from mtdiff.commands.report import report_run
from mtdiff.results.escape import escape_script
from mtdiff.results.find import find
from mtdiff.results.page.content import describe_results, list_undominated
from mtdiff.results.page.libraries import load_libraries
from mtdiff.results.page.strips import Store
from mtdiff.results.page.verdicts import judge_task
from mtdiff.results.page.write import locate_page, write_report
from mtdiff.results.paired import compare_paired
from mtdiff.results.record import Result
from mtdiff.results.samples import cut_strips, read_prompts, read_strips
from mtdiff.results.study import EXAMPLES, read, read_studies, setup
from mtdiff.results.summary import summarise

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
HOSTILE = "</script><img src=x onerror=alert(1)>"
FORMULA = '=HYPERLINK("http://x.y")'


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "analysis" / "report.py")
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("study") / "runs")


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    done = report(f"results={runs}/*/result.json", f"out={runs.parent}/page")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{runs.parent}/page.html\n"
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of results whose every name is an attack."""
    folder = tmp_path_factory.mktemp("hostile")
    for seed in (0, 1):
        for method in (HOSTILE, FORMULA):
            one = result(method, seed, options={HOSTILE: HOSTILE})
            one.config["training"]["steps"] = 400
            place = folder / f"{seed}{len(method)}"
            Result.save(one, place / "result.json")
            pictures(place / "samples", one.tasks, 20)
            (place / "samples/wall").mkdir()
            for task in one.tasks:
                wall = place / "samples/wall"
                (wall / f"{task}.png").write_bytes((place / f"samples/{task}.png").read_bytes())
                (wall / f"{task}.json").write_text(json.dumps({"prompts": [HOSTILE] * 4}))
    result("late", 0, status="failed", rows=[], method_report={}, error=HOSTILE).save(folder / "late/result.json")
    return write_report(find(f"{folder}/*/result.json"), folder / "page.html", inline=True)


@pytest.fixture
def visit(browser: "Browser") -> "Iterator[Any]":
    """Opens pages; at the end of a test none has had a fault or asked for anything."""
    from browser import Visit

    visits: list[Visit] = []

    def start(path: Path, state: str = "", **options: Any) -> Visit:
        visits.append(Visit(browser, **options))
        return visits[-1].open(path, state)

    yield start
    for one in visits:
        assert one.faults == []
        assert one.outside == []
        one.close()


# Content


def test_numbers_are_the_tables_own(runs: Path) -> None:
    found = describe_results(find(f"{runs}/*/result.json"), Store(None))["studies"][0]
    table = summarise(read(f"{runs}/*/result.json").results)
    assert [line["label"] for line in found["lines"]] == [line.label for line in table.lines]
    for made, line in zip(found["lines"], table.lines, strict=True):
        for one, cell in zip(made["cells"], line.cells, strict=True):
            if cell.interval is None:
                assert one == {"reason": cell.reason}
            else:
                assert one["value"] == pytest.approx(cell.interval.value, rel=1e-4)
                assert one["low"] == pytest.approx(cell.interval.low, rel=1e-4)
                assert len(one["values"]) == (0 if line.reference else cell.seeds)
    for one in found["differences"][:40]:
        a, b = (table.lines[one[k]].cells[one["column"]].scores for k in ("a", "b"))
        own = compare_paired(a, b)
        assert own is not None
        assert one["value"] == pytest.approx(own.value, rel=1e-3, abs=1e-9)
        assert one["p"] == pytest.approx(own.p, rel=1e-3, abs=1e-9)


def test_the_frontier_holds_what_nothing_dominates(runs: Path) -> None:
    """Against the definition: no other line costs no more and is better, or costs less and is as good."""
    table = summarise(read(f"{runs}/*/result.json").results)
    for i, column in enumerate(table.columns):
        sign = 1 if column.direction == "higher" else -1
        points = {
            k: (line.cost.flops, sign * line.cells[i].interval.value)
            for k, line in enumerate(table.lines)
            if line.cost.flops is not None and line.cells[i].interval is not None
        }
        kept = {
            k
            for k, (cost, value) in points.items()
            if not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points.values())
        }
        assert set(list_undominated(table, i, "flops")) == kept


def test_a_tie_is_called_one_and_a_winner_by_name(tmp_path: Path) -> None:
    for name, level, method in (("a", 0.0, "good"), ("b", 0.001, "alike"), ("c", 2.0, "poor")):
        for seed in (0, 1, 2):
            result(method, seed, ("inpaint",), level=level).save(tmp_path / f"{name}{seed}.json")
    study = read(f"{tmp_path}/*.json")
    table = summarise(study.results)
    verdict = judge_task(table, table.columns[0])
    assert verdict.tie
    assert "a tie. " in verdict.lead
    assert "poor" not in verdict.lead
    alone = summarise([r for r in study.results if r.method != "alike"])
    clear = judge_task(alone, alone.columns[0])
    assert not clear.tie
    assert clear.lead.startswith("lpips_alex ↓: good ")
    assert clear.lead.endswith("is best of 2; all others are significantly worse.")


def test_every_run_is_in_one_study(runs: Path) -> None:
    studies, notes = read_studies(find(f"{runs}/*/result.json"))
    odd = ("broken", *ODD)
    whole = [path for path in runs.glob("*/result.json") if path.parent.name not in odd]
    assert [len(study.runs) for study in studies] == [len(whole) - 3, 2, 1]
    assert studies[2].runs[0].result.method == "one_pic"
    assert all(any(f"{name}/result.json" in note for note in notes) for name in odd)


def test_walls_are_cut_without_gaps(tmp_path: Path) -> None:
    pictures(tmp_path / "samples", ("edit",), 77)
    strips = read_strips(tmp_path / "result.json", "edit")
    assert strips is not None
    assert [strip.shape for strip in strips] == [(16, 64, 3)] * 3
    assert (strips[1] == 77).all()
    assert read_prompts(tmp_path / "result.json", "edit") == []
    with pytest.raises(ValueError, match="no grid of three rows"):
        cut_strips(np.zeros((40, 30, 3), np.uint8))


def test_a_folder_of_others_costs_its_pictures_alone(tmp_path: Path) -> None:
    for k, method in enumerate(("good", "broken", "other")):
        one = result(method, 0, ("edit",))
        one.save(tmp_path / method / "result.json")
        pictures(tmp_path / method / "samples", ("edit",), 20 * k)
    (tmp_path / "broken/samples/edit.png").write_bytes(b"no picture")
    grid = np.array(Image.open(tmp_path / "other/samples/edit.png"))
    Image.fromarray(255 - grid).save(tmp_path / "other/samples/edit.png")
    content = describe_results(find(f"{tmp_path}/*/result.json"), Store(None))["studies"][0]
    assert len(content["runs"]) == 3
    assert len(content["walls"][0]["answers"]) == 1
    text = " ".join(content["notes"])
    assert "cannot be shown: edit.png: not a picture" in text
    assert "are of other examples" in text


@pytest.mark.parametrize("text", ["</script>", "<!--", "]]>", "\u2028", "\N{GRINNING FACE}", "&lt;"])
def test_script_content_parses_to_itself(text: str) -> None:
    escaped = escape_script({text: [text]})
    assert not re.search(r"[<>&\u2028]", escaped)
    assert json.loads(escaped) == {text: [text]}


def test_libraries_carry_their_licences() -> None:
    vega, tables = load_libraries()
    assert "window.vegaEmbed=" in vega.script
    assert "Redistribution and use" in vega.licence
    assert "window.DataTable=" in tables.script
    assert "MIT" in tables.licence
    assert sum(len(x.script) + len(x.style) for x in (vega, tables)) < 2_000_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["results=/none/*.json", "out=x"], "report.py: results=/none/*.json: no such file"),
        (["inline=perhaps"], "report.py: inline=perhaps: expected true or false"),
        (["size=3"], "report.py: argument 'size=3': expected results=... out=... inline=..."),
    ],
)
def test_a_wrong_argument_gives_one_line(arguments: list[str], said: str) -> None:
    done = report(*arguments)
    assert (done.returncode, done.stderr) == (2, said + "\n")


def test_a_run_ends_well_without_the_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result("mtu", 0).save(tmp_path / "result.json")
    monkeypatch.setitem(sys.modules, "itables", None)  # as Python has it for a package that is not there
    report_run(tmp_path)
    said = capsys.readouterr().out
    assert (
        said == "report: not made, the page's plots and tables come out of two packages: pip install -e '.[analysis]'\n"
    )
    assert not (tmp_path / "report.html").exists()


def test_a_merged_run_says_what_it_is_made_of(tmp_path: Path, visit: Any) -> None:
    """In its provenance, whose column other pages lack; budgets of one method are lines of their own."""
    plain = result("mtu", 0)
    seen = setup(plain)[EXAMPLES] * len(plain.tasks)  # by what it is made of, so that it stands beside the plain one
    part = {"method": HOSTILE, "tasks": ["edit"], "seed": 0, "weight": 0.5, "samples_seen": seen}
    for k, budget in enumerate((None, 0.5, 0.9)):
        one = result("mtu", 0, parts=[part, {}][: 2 * k])
        one.config["sampling"] = {"budget": budget}
        one.save(tmp_path / str(k) / "result.json")
    content = describe_results(find(f"{tmp_path}/*/result.json"), Store(None))["studies"][0]
    labels = [line["label"] for line in content["lines"] if not line["reference"]]
    assert [label.partition("sampling.budget=")[2][:3] for label in labels].count("0.9") == 1
    made_of = f"0.5 x {HOSTILE} on edit, seed 0; ? x ? on unknown tasks, seed ?"
    assert [run["origin"]["parts"] for run in content["runs"]] == ["", made_of, made_of]
    page = write_report(find(f"{tmp_path}/*/result.json"), tmp_path / "page.html", inline=True)
    rows = list(csv.DictReader(io.StringIO(visit(page).download("#origin-csv"))))
    assert [row["made of"] for row in rows] == ["", made_of, made_of]


def test_an_output_has_one_ending() -> None:
    assert locate_page("a/b.html") == locate_page("a/b") == Path("a/b.html")


# In the browser


@pytest.mark.parametrize(("width", "dark"), [(400, True), (1600, False)])
def test_a_page_fits_its_window_and_is_accessible(page: Path, visit: Any, width: int, dark: bool) -> None:
    seen = visit(page, width=width, dark=dark)
    assert seen.overflow == 0
    assert seen.page.evaluate("document.documentElement.classList.contains('dark')") is dark
    assert seen.list_violations() == []
    assert seen.page.locator("#frontier-plot svg[aria-label]").count() == 1


def test_a_heading_sorts_and_a_filter_filters(page: Path, visit: Any) -> None:
    seen = visit(page).page
    first = seen.locator("#table-box tbody tr th")
    seen.locator("#table-box thead th").nth(1).locator("[role=button]").press("Enter")
    seen.wait_for_selector("#table-box thead th[aria-sort=ascending]")
    cells = seen.locator("#table-box tbody td:nth-child(2)").all_inner_texts()
    values = [float(text.split()[0]) for text in cells if text.strip()]
    assert values == sorted(values)
    seen.fill("#table-filter", "lora")
    assert first.all_inner_texts() == ["lora_ffn"]
    assert "table-filter=lora" in seen.url
    assert "sort=1.asc" in seen.url
    assert seen.locator("#table-box svg.dots[aria-label*='seed 0']").count() > 0


def test_the_table_as_csv(page: Path, runs: Path, visit: Any) -> None:
    seen = visit(page)
    rows = list(csv.DictReader(io.StringIO(seen.download("#table-csv"))))
    table = summarise(read(f"{runs}/*/result.json").results)
    assert [row["method"] for row in rows] == [line.label for line in table.lines]
    for i, column in enumerate(table.columns):
        name = f"{column.task} {column.metric} {'↓' if column.direction == 'lower' else '↑'} value"
        for row, line in zip(rows, table.lines, strict=True):
            interval = line.cells[i].interval
            assert row[name] == "" if interval is None else float(row[name]) == pytest.approx(interval.value, rel=1e-4)
    for name, lines in (("frontier", 5), ("pair", 12), ("curve", 20), ("config", 1), ("origin", 20)):
        assert len(seen.download(f"#{name}-csv").splitlines()) > lines


def test_axes_pairs_curves_and_configurations_are_chosen(page: Path, visit: Any) -> None:
    seen = visit(page).page
    seen.select_option("#frontier-x", "latency_ms")
    seen.select_option("#frontier-y", "3")
    seen.wait_for_selector("#frontier-plot svg[aria-label*='latency of one call']")
    seen.select_option("#frontier-x", "memory_mb")
    assert seen.inner_text("#frontier-empty").startswith("No line has both values")
    seen.select_option("#pair-a", label="lora_ffn")
    seen.wait_for_selector("#pair-plot svg[aria-label*='lora_ffn minus']")
    assert re.search(r"p = .* n = 12: (a tie at 5 %|.* is better)\.", seen.inner_text("#pair-text"))
    seen.select_option("#curve", "validation/loss/inpaint")
    seen.wait_for_selector("#curve-plot svg[aria-label^='validation/loss/inpaint']")
    options = seen.locator("#config-b option").all_inner_texts()
    seen.select_option("#config-b", label=next(text for text in options if "ia3" in text))
    assert "method._target_" in seen.inner_text("#config-box")
    text = seen.inner_text("#gaps")
    assert "loss is nan" in text
    assert "broken/result.json: not JSON" in text


def test_two_pictures_lie_under_a_slider(page: Path, visit: Any) -> None:
    seen = visit(page).page
    seen.select_option("#wall-task", label="edit")
    assert seen.locator("#wall-box tbody tr").count() == 4
    seen.locator("#wall-box tbody tr").nth(2).locator("button").nth(3).press("Enter")
    slider = seen.locator("#compare input[type=range]")
    assert slider.evaluate("e => e === document.activeElement")
    before = seen.locator("#compare .strip").nth(1).evaluate("e => e.style.clipPath")
    slider.press("ArrowRight")
    assert seen.locator("#compare .strip").nth(1).evaluate("e => e.style.clipPath") != before
    assert "example=2" in seen.url
    assert seen.inner_text("#compare p").startswith("Example 3: left ")
    seen.select_option("#wall-order", "difference")
    assert "Ordered by the difference in" in seen.inner_text("#wall-note")
    seen.click("#wall-choose summary")
    wide = seen.locator("#wall-box thead th").count()
    seen.locator("#wall-runs input:checked").first.click()
    assert seen.locator("#wall-box thead th").count() == wide - 1
    loaded = "async e => { const i = new Image(); i.src = e.style.backgroundImage.slice(5, -2); await i.decode(); "
    assert seen.locator("#wall-box .strip").first.evaluate(loaded + "return i.width }") == 64


def test_an_address_restores_what_was_seen(page: Path, visit: Any) -> None:
    first = visit(page).page
    first.locator("#table-box thead th").nth(2).click()
    first.fill("#table-filter", "mtu")
    first.select_option("#frontier-x", "trainable")
    first.select_option("#wall-task", label="inpaint")
    first.select_option("#wall-size", "160")
    first.click("#theme")
    again = visit(page, first.url[first.url.index("#") :]).page
    for name in ("#table-filter", "#frontier-x", "#wall-task", "#wall-size", "#wall-left", "#pair-column"):
        assert again.input_value(name) == first.input_value(name)
    assert again.evaluate("document.documentElement.classList.contains('dark')")
    rows = "#table-box tbody tr th"
    assert again.locator(rows).all_inner_texts() == first.locator(rows).all_inner_texts()
    assert again.get_attribute("#table-box thead th:nth-child(3)", "aria-sort") == "ascending"


def test_hostile_names_are_texts(hostile: Path, visit: Any) -> None:
    seen = visit(hostile, width=400)
    assert seen.overflow == 0
    assert seen.page.locator("img").count() == 0
    assert HOSTILE in seen.page.locator("#table-box tbody th").all_inner_texts()
    assert "made of" not in seen.page.inner_text("#origin-box")
    for place in ("#gaps", "#wall-box", "#config-box", "#provenance", "#verdicts"):
        assert HOSTILE in seen.page.inner_text(place).replace("\n", " "), place
    seen.page.fill("#table-filter", "onerror")
    seen.page.select_option("#wall-order", "difference")
    seen.page.hover("#frontier-plot svg path[aria-roledescription=point]")
    seen.page.fill("#table-filter", "")
    assert "\"'=HYPERLINK(" in seen.download("#table-csv")
    assert len(seen.requests) == 1  # the page itself
    assert visit(hostile, width=1600).overflow == 0


def test_a_page_of_one_run(tmp_path: Path, visit: Any) -> None:
    result("mtu", 0).save(tmp_path / "result.json")
    made = write_report(find(f"{tmp_path}/result.json"), tmp_path / "report.html", inline=True)
    seen = visit(made, width=400)
    assert seen.overflow == 0
    assert "the one line with a value" in seen.page.inner_text("#verdicts")
    assert seen.page.inner_text("#wall-note") == "No run keeps pictures here."
    assert len(TASKS) == seen.page.locator("#verdict-list p").count()
    assert seen.list_violations() == []
