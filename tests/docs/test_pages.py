"""Pages: every link leads somewhere, every command is understood, and zsh takes it as it stands."""

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from mtdiff.commands.compose import check_configuration, compose_run, composer, expand_sweep

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/results/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"```bash\n(.*?)```", re.S)
MISSING = re.compile(r"no such (folder|file|repository)|cannot be read|not a finished run")
ELSEWHERE = ("suite=", "hydra/launcher=")  # checked by the tests of suites; a launcher that is not installed


def headings(path: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    lines = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S).splitlines()
    titles = (line.lstrip("#").strip().lower() for line in lines if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def links() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        found += [(str(page.relative_to(ROOT)), target) for target in LINK.findall(text)]
    return found


@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    if target.startswith(("http://", "https://")):
        return
    place, _, anchor = target.partition("#")
    path = (ROOT / page).parent / place if place else ROOT / page
    assert path.exists(), f"{page}: {target}"
    if anchor:
        assert anchor in headings(path), f"{page}: {target}"


def test_the_index_leads_to_every_page() -> None:
    index = LINK.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"} <= set(index)


def commands() -> list[tuple[str, str]]:
    """Every line of a shell block, continued lines joined."""
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(str(page.relative_to(ROOT)), line.strip()) for line in lines if line.strip()]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_zsh_takes_a_command_as_it_stands(page: str, line: str) -> None:
    """Brackets, braces, stars and question marks outside quotes are patterns there, and one that fits nothing fails."""
    bare = re.sub(r"""'[^']*'|"[^"]*"|(^|\s)#.*""", "", line)
    assert not re.search(r"[\[\]*?{}]", bare), f"{page}: {line}"


RUNS = [(page, line) for page, line in commands() if "experiments/run.py" in line and "--help" not in line]


def mistakes(options: list[str]) -> list[str]:
    """What is wrong with the configurations that options give, but for folders that a reader would have."""
    found = []
    with composer():
        for run in expand_sweep(options):
            try:
                check_configuration(compose_run(run)[0])
            except ValueError as error:
                found += [] if MISSING.search(str(error)) else [str(error)]
    return found


@pytest.mark.parametrize(("page", "line"), RUNS)
def test_a_run_is_understood(page: str, line: str) -> None:
    """Options exist and take such values; what a command's comment says it needs may be missing."""
    words = shlex.split(line, comments=True)
    options = [w for w in words[words.index("experiments/run.py") + 1 :] if w != "-m" and not w.startswith(ELSEWHERE)]
    assert "needs" in line.partition("#")[2] or mistakes(options) == [], f"{page}: {line}"


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_table", ROOT / "docs" / "write_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_figures_are_those_of_the_committed_results(page: Path, writer: ModuleType) -> None:
    """Where this fails, `python docs/write_table.py` mends it."""
    text = page.read_text(encoding="utf-8")
    assert writer.write_figures(text) == text


def test_every_section_of_figures_stands_on_one_page(writer: ModuleType) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert sorted(re.findall(r"<!-- figures: (\w+) -->", text)) == sorted(writer.SECTIONS)


def test_studies_fill_their_pages(writer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once their files are there, and with what they answer; nothing stands there before."""
    from little_ways import BUDGETS, WAYS

    monkeypatch.setattr(writer, "MEASURED", tmp_path)
    texts = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("faster", "budgets")}
    for name, text in texts.items():
        assert f"<!-- figures: {name} -->\n<!-- end -->" in writer.write_figures(text)
    (tmp_path / "frontier.json").write_text(json.dumps(WAYS))
    (tmp_path / "budgets.json").write_text(json.dumps(BUDGETS))
    written = writer.write_figures(texts["faster"])
    assert "| 30% | good | 68% | edit | inpaint |" in written
    assert "At least 1.4 times faster with no sure loss at 2 or more tasks: good, mixed." in written
    assert writer.write_figures(written) == written
    written = writer.write_figures(texts["budgets"])
    assert "| Budgeted at 0.5 | 52% | 60% | 20 MB | 0.300 − ▲ | 0.300 = |" in written


def test_an_edited_figure_is_found(writer: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    head = "<!-- figures: methods -->"
    edited = re.sub(rf"({head}.*?)\d[.]\d\d\d", r"\g<1>0.001", text, count=1, flags=re.S)
    assert edited != text
    assert writer.write_figures(edited) == text
