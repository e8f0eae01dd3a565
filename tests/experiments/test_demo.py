"""The demo: requests drawn as anywhere else, and the page used in a real browser."""

import io
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from mtdiff import load_run
from mtdiff.commands.studio import Request, Studio, join_layers, read_editor, read_upload
from mtdiff.model.sampling import Guidance

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "experiments" / "demo.py")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """The shipped adapter beside a copy of itself."""
    copy = tmp_path_factory.mktemp("runs") / "second"
    shutil.copytree(ROOT / "mtdiff/assets/adapters/mtu-nano", copy)
    return Studio(["mtu-nano", str(copy)])


def request(task: str, prompt: str, image: Image.Image | None, mask: Image.Image | None, **others: int) -> Request:
    options = {"seed": 3, "steps": 2, "image_guidance": 1.5, "text_guidance": 2.0, "inherit": 1, **others}
    return Request(task, prompt, image, mask, **options)  # type: ignore[arg-type]


def test_two_runs_draw_from_one_seed_as_load_run_does(studio: Studio) -> None:
    picture, _, prompt = studio.take_example("edit")
    (first, said), (second, _) = studio.draw(request("edit", prompt, picture, None))
    assert said.startswith("mtu-nano: ")
    assert said.endswith(" s")
    assert list(studio.models) == ["mtu-nano", "second"]
    assert first.tobytes() == second.tobytes()
    model = load_run("mtu-nano", sampling={"steps": 2})
    (own,) = model("edit", prompt, picture, seed=3, guidance=Guidance(image=1.5, text=2.0))
    assert own.tobytes() == first.tobytes()
    (inherited, _), _ = studio.draw(request("edit", prompt, picture, None, inherit=2))
    assert inherited.tobytes() != first.tobytes()


def test_an_example_has_the_hole_of_its_task(studio: Studio) -> None:
    picture, strokes, prompt = studio.take_example("inpaint")
    assert picture is not None
    assert strokes is not None
    (drawn, _), _ = studio.draw(request("inpaint", prompt, picture, strokes))
    hole = np.asarray(strokes)[..., 3] > 0
    assert 0 < hole.mean() < 1
    known = np.abs(np.asarray(drawn, int) - np.asarray(picture, int))[~hole]
    assert known.max() <= 1
    text = studio.take_example("text_to_image")
    assert text[:2] == (None, None)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": 0}, "steps=0: expected 1 to 1000"),
        ({"seed": -1}, "seed=-1: expected a whole number of at least 0"),
        ({}, "image: task 'edit' needs one"),
    ],
)
def test_a_request_that_cannot_be_is_one_line(studio: Studio, changed: dict[str, int], words: str) -> None:
    picture = Image.new("RGB", (64, 64)) if changed else None
    with pytest.raises(ValueError, match=words) as error:
        studio.draw(request("edit", "make it red", picture, None, **changed))
    assert "\n" not in str(error.value)


def test_what_an_editor_holds() -> None:
    assert read_editor(None) == read_editor({"background": None, "layers": []}) == (None, None)
    clear, stroke = Image.new("RGBA", (4, 4), (0, 0, 0, 0)), Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    stroke.putpixel((1, 2), (255, 255, 255, 255))
    picture, mask = read_editor({"background": Image.new("RGBA", (4, 4), "red"), "layers": [clear, stroke]})
    assert picture is not None
    assert picture.mode == "RGB"
    assert mask is not None
    assert mask.getbbox() == (1, 2, 2, 3)
    assert join_layers([clear, None]) is None


def test_a_bad_upload_is_one_line_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"^picture=note\.png: no picture, expected one of JPEG"):
        read_upload(tmp_path / "note.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run=none"], "none"),
        (["port=99999"], "port=99999: expected 1 to 65535"),
        (["run=mtu-nano", "run=mtu-nano", "run=mtu-nano"], "run: given 3 times, expected 1 or 2"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("demo.py: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


# In the browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A demo that is served while the tests of this file run, with no run named."""
    log = tmp_path_factory.mktemp("demo") / "log"
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, SCRIPT], stdout=out, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        while "demo: " not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield log.read_text().partition("demo: ")[2].split()[0]
    finally:
        process.terminate()
        process.wait(60)


def test_it_listens_to_this_address_alone(address: str) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=5)


def choose_task(page: "Page", task: str) -> None:
    page.click("#task input")
    page.get_by_role("option", name=task, exact=True).click()
    page.wait_for_selector("#editor canvas", timeout=120_000)


def read_answer(page: "Page") -> Image.Image:
    page.wait_for_selector("#answer-0 img", timeout=120_000)
    return Image.open(io.BytesIO(page.request.get(str(page.get_attribute("#answer-0 img", "src"))).body()))


def test_a_picture_is_edited_end_to_end(browser: "Browser", address: str, tmp_path: Path) -> None:
    from browser import Visit

    seen = Visit(browser, offline=False)
    page = seen.page
    page.goto(address)
    page.wait_for_load_state("networkidle")  # before it, a choice is shown and answered by nobody
    choose_task(page, "edit")
    note, red = tmp_path / "note.png", tmp_path / "red.png"
    note.write_text("no picture")
    Image.new("RGB", (64, 64), "red").save(red)
    page.set_input_files("#upload input, input#upload, input[type=file]", note)
    page.get_by_text("picture=note.png: no picture").wait_for(timeout=60_000)
    page.set_input_files("#upload input, input#upload, input[type=file]", red)
    page.fill("#prompt textarea, #prompt input", "make it a crab")
    page.fill("#steps input[type=number]", "2")
    page.wait_for_timeout(500)
    page.click("#draw")
    drawn = read_answer(page)
    assert drawn.size == (64, 64)
    assert np.asarray(drawn.convert("RGB"), float).std() > 0
    assert page.input_value("#time-0 textarea, #time-0 input").startswith("mtu-nano: ")
    with page.expect_download() as waiting:
        page.locator("#answer-0").get_by_role("button", name="Download").click()
    assert Image.open(waiting.value.path()).size == (64, 64)
    assert [url for url in seen.requests if not url.startswith((address, "data:", "blob:"))] == []
    assert seen.faults == []
    seen.close()
