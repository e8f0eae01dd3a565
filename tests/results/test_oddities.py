"""One odd result never ends a report of many: it is left out, and named with the reason."""

import json
from pathlib import Path

import pytest
from forked import run_script
from little_study import ODD, TASKS, result

from mtdiff.results.find import find
from mtdiff.results.study import Run, Study, read
from mtdiff.results.summary import summarise_found

ROOT = Path(__file__).parents[2]
STRANGE = ["[red]mtu", "a | b", "../../mtu", "\\input{x}", "<b>", "$x$", "_" * 200, "\u202ertl", "mtu (single task)"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two good runs, in whose company every odd one is read."""
    for seed in (0, 1):
        result("mtu", seed).save(tmp_path / "runs" / f"good-{seed}" / "result.json")
    return tmp_path / "runs"


def add(runs: Path, name: str) -> None:
    content = json.loads((runs / "good-0" / "result.json").read_text())
    ODD[name](content)
    (runs / name).mkdir()
    (runs / name / "result.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ODD)
def test_an_odd_result_is_left_out_and_named(name: str, runs: Path) -> None:
    add(runs, name)
    (odd,) = [one for one in find(f"{runs}/*/result.json") if one.result is None]
    assert odd.path.parent.name == name
    assert odd.reason
    assert "\n" not in odd.reason
    table = summarise_found(find(f"{runs}/*/result.json"))
    assert [line.label for line in table.lines if not line.reference] == ["mtu", name]
    study = read(f"{runs}/*/result.json")
    assert len(study.runs) == 2
    assert [note for note in study.notes if name in note]


@pytest.mark.parametrize("script", ["table", "collect"])
def test_commands_go_on(script: str, runs: Path, tmp_path: Path) -> None:
    for name in ODD:
        add(runs, name)
    for k, method in enumerate(STRANGE):
        if method.isprintable():
            result(method, 0).save(runs / f"strange-{k}" / "result.json")
    key = "results" if script == "table" else "runs"
    options = [f"{key}={runs}/*/result.json", f"out={tmp_path}/out", *(["study=x"] if script == "collect" else [])]
    done = run_script(f"experiments/{script}.py", *options)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for name in ODD:
        assert name in done.stderr, name
    kept = {path.parent for path in tmp_path.rglob("*.*") if path.is_file() and runs not in path.parents}
    assert kept == ({tmp_path} if script == "table" else {tmp_path / "out" / "x"})


@pytest.mark.parametrize("method", STRANGE)
def test_figures_of_strange_methods_stay_in_their_folder(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "analysis"))
    import plots
    import plots.canvas

    monkeypatch.setattr(plots.canvas, "display", lambda html: None)
    monkeypatch.setenv("MTDIFF_FIGURES", str(tmp_path / "deep" / "figures"))
    runs = [Run(tmp_path / "result.json", result(method, 0)), Run(tmp_path, result(method, 0, TASKS[:1]))]
    plots.draw_company(Study(runs))
    assert [path.parent for path in tmp_path.rglob("*.pdf")] == [tmp_path / "deep" / "figures"]
