"""The report page of 5, 50 and 200 runs: how large it is, and how long a browser takes until all of it is drawn.

The runs are the committed ones of four tasks, again and again under other options, each with pictures of its own: eight
examples a task, as collected results have.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.timing import Bar, Comparison, How, take_turns
from mtdiff.commands.browser import open_browser
from mtdiff.errors import ConfigError
from mtdiff.results.find import Found, find
from mtdiff.results.page.write import write_report
from mtdiff.results.samples import find_grid, read_grid

if TYPE_CHECKING:
    from playwright.sync_api import Browser

RUNS = (5, 50, 200)
RESULTS = Path(__file__).parents[1] / "results" / "main"
TIMEOUT = 120_000  # milliseconds
MEGABYTE = 1e6


def compare_opening(folder: Path, how: How, turns: int, numbers: Sequence[int] = RUNS) -> list[Comparison]:
    """Opening pages of so many runs, with their pictures beside them and inside of them."""
    found = [make_results(folder / str(number), number) for number in numbers]
    with open_browser() as browser:
        return [compare_pages(folder, found, inline, browser, how, turns) for inline in (False, True)]


def make_results(folder: Path, number: int) -> list[Found]:
    """So many results: one option of a method tells a copy from the others, and a shade its pictures."""
    committed = [one for one in find(f"{RESULTS}/*.json") if one.result and len(one.result.tasks) > 1]
    if not committed:
        raise ConfigError(f"what=report: no results of several tasks in {RESULTS}")
    folder.mkdir()
    made = []
    for k in range(number):
        copy, place = divmod(k, len(committed))
        one = committed[place].result
        assert one is not None
        config = {**one.config, "method": {**one.config["method"], **({"copy": copy} if copy else {})}}
        path = folder / f"run-{k}.json"
        made.append(Found(path, replace(one, config=config)))
        for task in one.tasks:
            write_grid(task, path, k, [other.path for other in committed])
    return made


def write_grid(task: str, path: Path, k: int, others: Sequence[Path]) -> None:
    """The grid of a committed result whose answers are k shades darker, beside the result at `path`."""
    grid = next(grid for grid in (find_grid(other, task) for other in others) if grid is not None)
    pixels = np.array(read_grid(grid))  # (H, W, 3): rows of sources, answers and truths
    third = len(pixels) // 3
    pixels[third : 2 * third] = np.maximum(pixels[third : 2 * third], 40) - (k % 40)
    Image.fromarray(pixels).save(path.with_name(f"{path.stem}-{task}.webp"), quality=90, method=0)


def compare_pages(
    folder: Path, found: Sequence[Sequence[Found]], inline: bool, browser: "Browser", how: How, turns: int
) -> Comparison:
    variants: dict[str, Callable[[], float | None]] = {}
    counts: dict[str, float] = {}
    processor: dict[str, list[float]] = {}
    for results in found:
        name = f"{len(results)} runs"
        page = write_report(results, folder / f"{name}{' inline' if inline else ''}.html", inline=inline)
        processor[name] = []
        variants[name] = partial(time_opening, browser, page, processor[name])
        counts[f"megabytes, {name}"] = page.stat().st_size / MEGABYTE
    seconds = take_turns(variants, how, how.turns(turns), warmup=0 if how.quick else 1)
    counts |= {f"processor seconds, {name}": min(values) for name, values in processor.items()}
    first, *others = variants
    case = f"pictures {'inside' if inline else 'beside'}"
    return Comparison("report", case, seconds, tuple(Bar(name, first) for name in others), counts)


def time_opening(browser: "Browser", page: Path, processor: list[float]) -> float:
    """Seconds until a page is drawn; those on a processor are appended to a list."""
    found = open_page(browser, page)
    processor.append(found["processor"])
    return found["seconds"]


def open_page(browser: "Browser", page: Path) -> dict[str, float]:
    """Seconds until all of a page is drawn, from its address on; and of them those of its own thread on a processor."""
    context = browser.new_context(viewport={"width": 1600, "height": 900}, offline=True)
    try:
        tab: Any = context.new_page()
        session = context.new_cdp_session(tab)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        tab.goto(page.resolve().as_uri(), timeout=TIMEOUT)
        tab.wait_for_selector("html[data-ready]", timeout=TIMEOUT)
        seconds = float(tab.get_attribute("html", "data-ready")) / 1000  # by the page's own clock
        values = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return {"seconds": seconds, "processor": values["TaskDuration"]}
    finally:
        context.close()
