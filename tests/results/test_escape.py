"""Text of other people's results, where it leaves: nothing of it is live, and what is ordinary stays as it is."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mtdiff.results.escape import escape_html, escape_latex, escape_markdown, escape_terminal
from mtdiff.results.record import Result, Row
from mtdiff.results.render import Aside, html, latex, markdown
from mtdiff.results.summary import summarise
from mtdiff.results.terminal import announce

HOSTILE = (
    "[red]x[/] \x1b[31m\x07 \u202e ![i](http://e/x.png) [l](https://e) www.e.org <img src=x onerror=y> "
    '" onload="z | a\nb\r\n$\\input{x}$ %c #1 *b* ``c`` _d_ ~~e~~ &amp; [^1] \\'
)
NAME = "".join(c for c in HOSTILE if c.isprintable())
ORDINARY = "lpips_alex of 3 tasks, 20.5 + 1"
ESCAPES = (escape_terminal, escape_markdown, escape_html, escape_latex)


@pytest.mark.parametrize("escape", ESCAPES)
def test_text_is_one_printable_line(escape: object) -> None:
    assert callable(escape)
    line = escape(HOSTILE)
    assert line.isprintable()
    assert len(escape("x" * 100_000)) < 2100


def test_ordinary_text_stays() -> None:
    assert {escape_terminal(ORDINARY), escape_markdown(ORDINARY), escape_html(ORDINARY)} == {ORDINARY}
    assert escape_latex(ORDINARY) == ORDINARY.replace("_", "\\_")
    assert escape_latex("Schlüssel ↓") == r"Schlüssel $\downarrow$"
    assert escape_latex("a 图") == "a [U+56FE]"
    assert escape_markdown("_a_b_") == r"\_a_b\_"
    assert escape_markdown("# a") == r"\# a"
    assert escape_markdown("key `rows[0].n`: <3 ``a``") == r"key `rows[0].n`: &lt;3 \`\`a\`\`"


def test_no_markdown_is_live() -> None:
    line = escape_markdown(HOSTILE)
    assert not re.search(r"(?<!\\)(\\\\)*[\[\]|*`$~]", line)
    assert "<" not in line
    assert "://" not in line
    assert "www" not in line


def test_no_html_is_live() -> None:
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag + "".join(name for name, _ in attrs))

    Reader().feed(f'<p title="{escape_html(HOSTILE)}">{escape_html(HOSTILE)}</p>')
    assert tags == ["ptitle"]


def test_no_latex_is_live() -> None:
    line = escape_latex(HOSTILE)
    assert "\\input" not in line
    assert not re.search(r"(?<!\\)[%#&_^]", line)
    assert line.startswith("{[}red]")
    assert line.count("{") == line.count("}")


def hostile_result() -> Result:
    rows = [Row(f"t{NAME}", f"m{NAME}", "lower", 0.5, 4, 0.4, 0.6), Row("edit", "psnr", "higher", 1e55, 4, 1, 2)]
    rows += [Row("edit", "psnr", "higher", None, 4, None, None, NAME, HOSTILE)]
    return Result(NAME, NAME, NAME, ["edit", NAME], 0, rows=rows, device=HOSTILE, error=HOSTILE)


def test_a_hostile_result_in_every_report() -> None:
    aside = Aside(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]], [HOSTILE])
    table = summarise([hostile_result()])
    for render in (markdown, html, latex):
        text = render(table, [aside])
        assert all(line.isprintable() for line in text.split("\n"))
        assert max(len(word) for word in text.split()) < 600  # no number is a line of digits
    head, rule, *_ = (line for line in markdown(table, []).splitlines() if line.startswith("|"))
    assert len(re.findall(r"(?<!\\)\|", head)) == rule.count("|")


# The terminal


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("columns", ["40", "80", "2000"])
def test_a_run_ends_in_words_on_every_terminal(encoding: str, columns: str, tmp_path: Path) -> None:
    """In another process, whose output has this encoding and refuses what the encoding lacks."""
    rows = [
        Row(task, metric, "lower", value, 9, value - 1, value + 1, model)
        for task in ("edit", "super_resolution")
        for metric in ("directional_similarity_embedded", "lpips_alex")
        for value, model in ((12.345, "run"), (23.456, "copy"), (34.567, "a_long_reference"))
    ]
    Result("mtu", "nano", "emoji", ["edit"], 0, rows=[*rows, *hostile_result().rows]).save(tmp_path / "result.json")
    code = (
        "from pathlib import Path; from mtdiff.results.record import Result; "
        "from mtdiff.results.terminal import announce; "
        "announce(Result.load(Path('result.json')), Path('Läufe/[b]x'), 'done')"
    )
    environment = {"PYTHONIOENCODING": f"{encoding}:strict", "COLUMNS": columns, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode(encoding)
    for word in (
        "12.345",
        "34.567",
        "a_long_reference",
        "directional_similarity_embedded",
        "1e+55",
        "[b]x/result.json",
    ):
        assert word in text
    assert "…" not in text
    assert "\x1b" not in text
    assert ("┃" in text) == (columns == "2000" and encoding == "utf-8")


def test_a_wide_terminal_gets_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    row = Row("edit", "psnr", "higher", 20.0, 4, 19.5, 20.5)
    announce(Result("mtu", "nano", "emoji", ["edit"], 0, rows=[row]), Path("runs/a"), "done")
    text = capsys.readouterr().out
    assert "20.000 ±0.500" in text
    assert "psnr ↑" in text
    assert text.endswith("done: runs/a/result.json, pictures in runs/a/samples/\n")
