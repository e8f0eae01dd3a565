"""Write the figures of the README and of these pages anew from the committed results.

    python docs/write_table.py               rewrites each page where a figure has changed

`<!-- figures: NAME -->` begins one of the sections below, `<!-- table: FILES COLUMN ... -->` a table as
`experiments/table.py` makes it, of files below experiments/results; both go to `<!-- end -->`. So a new base or study
changes the pages by this command alone; a test holds them together.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtdiff.results.find import Found

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
MEASURED = ROOT / "docs" / "measured"
NAMES = {
    "mtu": "MTU",
    "lora_ffn": "LoRA",
    "ia3": "IA3",
    "finetune": "full fine-tuning",
    "dtr": "DTR",
    "one_pic": "ONE-PIC",
}
COLUMNS = (("edit", "lpips_alex"), ("super_resolution", "lpips_alex"), ("inpaint", "lpips_alex"))
SHOWN = ("run", "copy", "bicubic", "biharmonic", "autoencoder", "base")


def read_results(study: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((RESULTS / study).glob("*.json"))]


def find_value(result: dict[str, Any], model: str, task: str, metric: str) -> float | None:
    rows = (r for r in result["rows"] if (r["model"], r["task"], r["metric"]) == (model, task, metric))
    return next((r["value"] for r in rows), None)


def read_joint(study: str, method: str) -> dict[str, dict[str, Any]]:
    """Runs of a method on several tasks by name, of the options that most of them have."""
    every = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((RESULTS / study).glob("*.json"))
    }
    found = {name: r for name, r in every.items() if r["method"] == method and len(r["tasks"]) > 1}
    options = {name: json.dumps(r["config"]["method"], sort_keys=True) for name, r in found.items()}
    usual = Counter(options.values()).most_common(1)
    return {name: r for name, r in found.items() if options[name] == usual[0][0]}


def mean_kept(names: Collection[str]) -> str:
    """Mean over seeds of the share of training emoji that runs still draw; empty where it was not measured."""
    rows = json.loads((MEASURED / "forgetting.json").read_text(encoding="utf-8"))["rows"]
    shares = [rows[f"runs/{name}"]["own_emoji"] for name in names if f"runs/{name}" in rows]
    return f"{mean(shares):.1%}".replace("%", " %") if shares else ""


def format_count(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count / 1e3:.1f} k"


def method_lines() -> Iterator[str]:
    """One line a method: means over seeds of the joint runs of the reference study."""
    yield "| | edit | super-resolution | inpaint | trained | FLOPs | kept |"
    yield "|---|---|---|---|---|---|---|"
    for method, name in NAMES.items():
        joint = read_joint("main", method)
        runs = list(joint.values())
        found = [[find_value(r, "run", *column) for r in runs] for column in COLUMNS]
        values = [mean(v for v in column if v is not None) for column in found]
        costs = [format_count(runs[0]["params"]["trainable"]), f"{runs[0]['cost']['flops'] / 1e9:.2f} G"]
        cells = [name, *(f"{v:.3f}" for v in values), *costs, mean_kept(joint)]
        yield "| " + " | ".join(cells) + " |"


def default_lines() -> Iterator[str]:
    """What the default run prints of LPIPS."""
    (result,) = read_results("default")
    yield "```"
    yield f"{result['method']} on {result['backbone']}/{result['data']}, seed {result['seed']}, {result['steps']} steps"
    yield f"{'task':17}{'metric':14}" + "".join(f"{model:>12}" for model in SHOWN)
    for task, metric in COLUMNS:
        values = (find_value(result, model, task, metric) for model in SHOWN)
        yield f"{task:17}{metric + ' ↓':14}" + "".join(f"{'' if v is None else format(v, '.3f'):>12}" for v in values)
    yield "```"


def faster_lines() -> Iterator[str]:
    """What the study of ways to draw faster answers; nothing while its file is not there."""
    from mtdiff.results import ways

    study = ways.read_ways(MEASURED / "frontier.json")
    if study is not None:
        yield from (f"Measured: {ways.describe_study(study)}", "", *ways.list_choices(study), "")
        yield from (ways.describe_aim(study), "", *ways.list_entries(study), "", ways.LEGEND)


def budget_lines() -> Iterator[str]:
    """What the study of budgets answers; nothing while its file is not there."""
    from mtdiff.results import budget_study as budgets

    study = budgets.read_budget_study(MEASURED / "budgets.json")
    if study is not None:
        yield from (f"Measured: {budgets.describe_study(study)}", "", *budgets.list_networks(study), "", budgets.LEGEND)
        for describe in (budgets.describe_winner, budgets.describe_fewer, budgets.describe_kept):
            yield from ("", describe(study))
        yield from ("", budgets.describe_promises(study))


def find_committed(folder: str = "**") -> list["Found"]:
    """Result files below a folder of the committed results."""
    from mtdiff.results.find import find

    return find(str(RESULTS / folder / "*.json"))


def claim_lines() -> Iterator[str]:
    from mtdiff.results.questions.claims import list_claim_lines
    from mtdiff.results.study import list_runs

    return list_claim_lines(list_runs(find_committed())[0])


def joint_lines() -> Iterator[str]:
    from mtdiff.results.questions.joint import list_joint_lines

    yield from list_joint_lines([one.result for one in find_committed("joint*") if one.result is not None])
    yield from sheet_lines("joint", "Joint drawings: a row for what is known, a column for each test example")


def reference_lines() -> Iterator[str]:
    from mtdiff.results.questions.references import list_reference_lines

    yield from list_reference_lines([one.result for one in find_committed("emma") if one.result is not None])
    yield from sheet_lines("references", "Drawings: a row for each text, a column for each set of reference pictures")


def company_lines() -> Iterator[str]:
    from mtdiff.results.questions.company import list_company_lines
    from mtdiff.results.study import list_runs

    return list_company_lines(list_runs(find_committed())[0])


def merged_lines() -> Iterator[str]:
    from mtdiff.results.questions.company import list_merged_lines
    from mtdiff.results.study import choose_study

    return list_merged_lines(choose_study(find_committed()))


def sheet_lines(name: str, description: str) -> Iterator[str]:
    """The picture sheet of a page, where one is drawn."""
    if (ROOT / "docs" / f"{name}.webp").exists():
        yield f"![{description}]({name}.webp)"


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "methods": method_lines,
    "default": default_lines,
    "faster": faster_lines,
    "budgets": budget_lines,
    "claims": claim_lines,
    "joint": joint_lines,
    "references": reference_lines,
    "company": company_lines,
    "merged": merged_lines,
}
"""By the name that a page gives. What has no results yet gives no line, or says which study is missing."""


def table_lines(files: str, columns: str) -> Iterator[str]:
    """files: patterns below experiments/results, with commas between. columns: `task/metric`, with spaces between."""
    from mtdiff.results.find import find
    from mtdiff.results.render import Footnotes, markdown_notes, markdown_table
    from mtdiff.results.summary import summarise_found
    from mtdiff.results.write import select_columns

    found = find(",".join(str(RESULTS / pattern) for pattern in files.split(",")))
    table, footnote = select_columns(summarise_found(found), columns.split()), Footnotes()
    name = re.sub(r"\W+", "-", files)  # a page has several tables, and footnotes are of the whole page
    for text in (markdown_table(table, footnote), markdown_notes(table, footnote)):
        yield re.sub(r"\[\^(\d+)\]", rf"[^{name}-\1]", text) + "\n"


def write_figures(text: str) -> str:
    """A page with every section and table of it written anew."""

    def write_section(match: re.Match[str]) -> str:
        kind, named = match[1], match[2].split(maxsplit=1)
        lines = SECTIONS[named[0]]() if kind == "figures" else table_lines(named[0], *named[1:] or [""])
        return "\n".join([f"<!-- {kind}: {match[2]} -->", *lines, "<!-- end -->"])

    return re.sub(r"<!-- (figures|table): ([^>]+?) -->\n.*?<!-- end -->", write_section, text, flags=re.DOTALL)


def write_pages() -> Iterator[Path]:
    """Write every page anew, and yield those that changed."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        before = page.read_text(encoding="utf-8")
        if (after := write_figures(before)) != before:
            page.write_text(after, encoding="utf-8")
            yield page.relative_to(ROOT)


if __name__ == "__main__":
    for changed in write_pages():
        print(changed)
