"""The demo: requests drawn as anywhere else, and the page used in a real browser."""

import io
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import demo
import numpy as np
import pytest
from PIL import Image
from run_folders import describe_modalities, make_run

from mtdiff import load_run
from mtdiff.commands.studio import Request, Studio, join_layers, read_editor, read_upload
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Mixture
from mtdiff.model.sampling import Guidance
from mtdiff.runs.model import to_pil

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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny runs: a method that mixes modalities, and two that read a reference each and add up."""
    root, reading = tmp_path_factory.mktemp("tiny"), {"_target_": "baselines.emma.Emma"}
    abouts = {
        "joint": describe_modalities({"_target_": "baselines.joint.Joint"}, []),
        "object": describe_modalities({**reading, "references": ["object"]}, ["object"]),
        "style": describe_modalities({**reading, "references": ["style"]}, ["style"]),
    }
    return {name: str(make_run(root / name, about, noise=0.3)) for name, about in abouts.items()}


def request(task: str, prompt: str, image: Image.Image | None, mask: Image.Image | None, **others: Any) -> Request:
    options: dict[str, Any] = {
        "seed": 3,
        "steps": 2,
        "image_guidance": 1.5,
        "text_guidance": 2.0,
        "inherit": 1,
        **others,
    }
    return Request(task, prompt, image, mask, **options)


def test_two_runs_draw_from_one_seed_as_load_run_does(studio: Studio) -> None:
    offer = studio.take_example("edit")
    (first, said), (second, _) = studio.draw(request("edit", offer.prompt, offer.picture, None))
    assert said.startswith("mtu-nano: ")
    assert said.endswith(" s")
    assert list(studio.models) == ["mtu-nano", "second"]
    assert first.picture.tobytes() == second.picture.tobytes()
    model = load_run("mtu-nano", sampling={"steps": 2})
    (own,) = model("edit", offer.prompt, offer.picture, seed=3, guidance=Guidance(image=1.5, text=2.0))
    assert own.tobytes() == first.picture.tobytes()
    (inherited, _), _ = studio.draw(request("edit", offer.prompt, offer.picture, None, inherit=2))
    assert inherited.picture.tobytes() != first.picture.tobytes()
    assert (studio.references, studio.choices, first.others, first.said) == ([], [], {}, {})


def test_an_example_has_the_hole_of_its_task(studio: Studio) -> None:
    """And where the task has examples without one, such as a thing that is to be removed, the picture alone."""
    offers = [studio.take_example("inpaint") for _ in range(16)]
    assert {offer.strokes is None for offer in offers} == {True, False}
    examples = Mixture.first_examples(EmojiSource(size=64), [studio.first.tasks["inpaint"]], "test", 16)
    given = {
        to_pil(e.source if float(e.mask.mean()) == 0 else e.target).tobytes()
        for e in map(examples.__getitem__, range(16))
    }
    assert {offer.picture.tobytes() for offer in offers if offer.picture is not None} == given
    offer = next(offer for offer in offers if offer.strokes is not None)
    assert offer.picture is not None
    assert offer.strokes is not None
    (drawn, _), _ = studio.draw(request("inpaint", offer.prompt, offer.picture, offer.strokes))
    hole = np.asarray(offer.strokes)[..., 3] > 0
    assert 0 < hole.mean() < 1
    known = np.abs(np.asarray(drawn.picture, int) - np.asarray(offer.picture, int))[~hole]
    assert known.max() <= 1
    text = studio.take_example("text_to_image")
    assert (text.picture, text.strokes) == (None, None)


def draw_bytes(studio: Studio, *arguments: Any, **others: Any) -> list[bytes]:
    return [answer.picture.tobytes() for answer, _ in studio.draw(request(*arguments, **others))]


def test_references_are_those_that_a_run_reads(tiny: dict[str, str]) -> None:
    """A sum of two beside one of them: each gets its own, and nothing that it does not read."""
    studio = Studio([tiny["object"], [tiny["object"], tiny["style"]]], weights=[1, 0.5])
    assert list(studio.models) == ["object", "object + style"]
    shows = studio.tasks["reference"]
    assert shows.references == {"object": ["object", "object + style"], "style": ["object + style"]}
    assert (shows.prompt, shows.image, shows.choices) == (True, False, {})
    assert studio.tasks["joint_label"].references == {}
    offer = studio.take_example("reference")
    assert list(offer.references) == ["object", "style"]
    shown_object = {"object": Image.new("RGB", (20, 20), "red")}
    both = {**shown_object, "style": Image.new("RGB", (9, 9), "blue")}
    plain = draw_bytes(studio, "reference", "crab", None, None)
    one = draw_bytes(studio, "reference", "crab", None, None, references=shown_object)
    two = draw_bytes(studio, "reference", "crab", None, None, references=both)
    assert plain[0] == plain[1]
    assert one[0] == one[1] == two[0] != plain[0]
    assert two[1] not in (one[1], plain[1])
    own = load_run([tiny["object"], tiny["style"]], weights=[1, 0.5])
    (drawn,) = own("reference", "crab", reference=both, seed=3, guidance=Guidance(image=1.5, text=2.0))
    assert drawn.tobytes() == two[1]


def test_what_is_known_and_labels_are_chosen_where_a_run_takes_them(tiny: dict[str, str]) -> None:
    studio = Studio([tiny["joint"]])
    assert studio.tasks["joint_masked"].choices == {"known": ["picture", "masked", "none"]}
    label = studio.tasks["joint_label"]
    assert label.choices == {"label": ["clothing", "household"]}
    assert (label.prompt, label.image, label.mask, label.references) == (False, True, False, {})
    offer = studio.take_example("joint_masked")
    known = request("joint_masked", offer.prompt, offer.picture, None, choices={"known": "picture", "label": ""})
    ((answer, _),) = studio.draw(known)
    assert list(answer.others) == ["masked"]
    ((answer, _),) = studio.draw(request("joint_label", "", None, None, choices={"known": "", "label": ""}))
    assert answer.said["label"] in (*label.choices["label"], "none of the labels that were trained")
    ((answer, _),) = studio.draw(request("joint_label", "", None, None, choices={"label": "clothing"}))
    assert answer.said == {}
    for options, words in (({"known": "picture"}, "image: known=picture needs one"), ({"known": "x"}, "known=x: exp")):
        with pytest.raises(ValueError, match=words):
            studio.draw(request("joint_masked", "crab", None, None, choices=options))
    found = [studio.take_example("joint_label").choices for _ in range(16)]
    assert {"label": "household"} in found  # a class of the run
    assert {} in found
    assert Studio([tiny["object"]]).choices == []  # a method that mixes nothing


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
        (["run=mtu-nano", "run=mtu-nano", "run=mtu-nano"], "run: given 3 times, expected 1 or 2 in all"),
        (["run=a", "run=b", "adapter=[a,b]"], "run: given 2 times, and adapter once, expected 1 or 2 in all"),
        (["adapter=a"], "adapter=a: expected runs that add up, as [runs/a,runs/b]"),
        (["weights=[1]"], "weights=[1]: expected none beside run=, but adapter=[...]"),
        (["adapter=[mtu-nano,mtu-nano]"], "MTU cannot be summed: its trainings change the same weights"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        demo.main(arguments)
    assert "\n" not in str(error.value)


def test_a_mistake_ends_the_command() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "port=99999"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "demo.py: port=99999: expected 1 to 65535\n")


# In the browser


@contextmanager
def serve_demo(folder: Path, *arguments: str) -> Iterator[str]:
    """The address of a demo in a process of its own."""
    log = folder / "log"
    with log.open("w") as out:
        command = [sys.executable, SCRIPT, *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
    try:
        while "demo: " not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield log.read_text().partition("demo: ")[2].split()[0]
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A demo that is served while the tests of this file run, with no run named."""
    with serve_demo(tmp_path_factory.mktemp("demo")) as found:
        yield found


def test_it_listens_to_this_address_alone(address: str) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=5)


@pytest.fixture
def visit(browser: "Browser") -> "Iterator[Any]":
    """Opens demos; at the end of a test the page has had no fault and asked for nothing from elsewhere."""
    from browser import Visit

    seen, opened = Visit(browser, offline=False), []

    def start(address: str) -> "Page":
        opened.append(address)
        seen.page.goto(address)
        seen.page.wait_for_load_state("networkidle")  # before it, a choice is shown and answered by nobody
        return seen.page

    yield start
    assert [url for url in seen.requests if not url.startswith((*opened, "data:", "blob:"))] == []
    assert seen.faults == []
    seen.close()


def choose(page: "Page", control: str, value: str) -> None:
    page.click(f"#{control} input")
    page.get_by_role("option", name=value, exact=True).click()


def choose_task(page: "Page", task: str) -> None:
    choose(page, "task", task)
    page.wait_for_selector("#editor canvas", timeout=120_000)


def upload(page: "Page", button: str, file: Path) -> None:
    page.set_input_files(f"input[data-testid='{button}-upload-button']", file)


def read_picture(page: "Page", place: str) -> Image.Image:
    """The picture of a place of the page, once there is one."""
    page.wait_for_selector(f"{place} img", timeout=120_000)
    return Image.open(io.BytesIO(page.request.get(str(page.get_attribute(f"{place} img", "src"))).body()))


def draw_anew(page: "Page") -> list[Image.Image]:
    """What the runs draw at a press of the button, once the stream of what the page is told has ended."""
    ended: list[str] = []
    note = lambda request: ended.append(request.url) if "/queue/data" in request.url else None  # noqa: E731
    for kind in ("requestfinished", "requestfailed"):  # the page closes it, or the server does
        page.on(kind, note)
    page.click("#draw")
    deadline = time.monotonic() + 120
    while not ended and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    page.wait_for_timeout(500)  # until it is shown
    for kind in ("requestfinished", "requestfailed"):
        page.remove_listener(kind, note)
    runs = page.locator("[id^=answer-]").count()
    return [read_picture(page, f"#answer-{k}").convert("RGB") for k in range(runs)]


def test_a_picture_is_edited_end_to_end(visit: Any, address: str, tmp_path: Path) -> None:
    page = visit(address)
    choose_task(page, "edit")
    note, red = tmp_path / "note.png", tmp_path / "red.png"
    note.write_text("no picture")
    Image.new("RGB", (64, 64), "red").save(red)
    upload(page, "Upload a picture", note)
    page.get_by_text("picture=note.png: no picture").wait_for(timeout=60_000)
    upload(page, "Upload a picture", red)
    page.fill("#prompt textarea, #prompt input", "make it a crab")
    page.fill("#steps input[type=number]", "2")
    page.wait_for_timeout(500)
    (drawn,) = draw_anew(page)
    assert drawn.size == (64, 64)
    assert np.asarray(drawn, float).std() > 0
    assert page.input_value("#time-0 textarea, #time-0 input").startswith("mtu-nano: ")
    with page.expect_download() as waiting:
        page.locator("#answer-0").get_by_role("button", name="Download").click()
    assert Image.open(waiting.value.path()).size == (64, 64)


def test_a_stroke_of_the_mouse_is_what_is_drawn_anew(visit: Any, address: str, tmp_path: Path) -> None:
    """The mask that reaches the run is where the brush went: only there the answer differs from the picture."""
    page, size = visit(address), 64
    choose_task(page, "inpaint")
    given = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(given).save(tmp_path / "noise.png")
    upload(page, "Upload a picture", tmp_path / "noise.png")
    page.fill("#prompt textarea, #prompt input", "noto, crab")
    page.fill("#steps input[type=number]", "2")
    page.wait_for_timeout(1500)
    box = page.locator("#editor canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2  # the picture lies in the middle, 288 pixels wide
    page.mouse.move(x - 63, y)
    page.mouse.down()
    page.mouse.move(x + 63, y, steps=3)
    page.mouse.up()
    page.wait_for_timeout(1500)
    (drawn,) = draw_anew(page)
    difference = np.abs(np.asarray(drawn, int) - given).max(-1)
    rows, columns = np.nonzero(difference > 1)
    assert 700 < len(rows) < 1300  # a stroke of 24 by 52 pixels with round ends
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((20, 43, 6, 57), abs=3)


def test_a_page_has_what_its_runs_take(visit: Any, tiny: dict[str, str], tmp_path: Path) -> None:
    """What is known and a label of the one run, references of the other, a sum; each where its task takes it."""
    note, red = tmp_path / "note.png", tmp_path / "red.png"
    note.write_text("no picture")
    Image.new("RGB", (64, 64), "red").save(red)
    with serve_demo(tmp_path, f"run={tiny['joint']}", f"adapter=[{tiny['object']},{tiny['style']}]") as address:
        page = visit(address)
        reference, known, label = (
            page.locator(f"#{name}") for name in ("reference-object", "choice-known", "choice-label")
        )
        known.wait_for(timeout=120_000)
        assert (reference.is_visible(), label.is_visible()) == (False, False)
        upload(page, "Upload a picture", red)
        page.fill("#prompt textarea, #prompt input", "noto, crab")
        choose(page, "choice-known", "picture")
        page.wait_for_timeout(1500)
        draw_anew(page)
        assert read_picture(page, "#beside-0").size == (16, 16)
        assert not page.locator("#beside-1").is_visible()
        choose(page, "choice-known", "none")
        page.click("#draw")
        page.get_by_text("image: known=none needs none").wait_for(timeout=60_000)

        choose(page, "task", "joint_label")
        label.wait_for()
        assert (known.is_visible(), page.locator("#prompt").is_visible()) == (False, False)
        draw_anew(page)
        assert page.input_value("#said-0 textarea, #said-0 input").startswith("label: ")
        choose(page, "choice-label", "household")
        draw_anew(page)
        assert not page.locator("#said-0").is_visible()

        choose(page, "task", "reference")
        reference.wait_for()
        assert page.get_by_text("Reference: style (read by object + style)").is_visible()
        plain = [drawn.tobytes() for drawn in draw_anew(page)]
        upload(page, "Upload a reference: style", note)
        page.get_by_text("reference.style=note.png: no picture").wait_for(timeout=60_000)
        upload(page, "Upload a reference: style", red)
        page.wait_for_selector("#reference-style img")
        shown = [drawn.tobytes() for drawn in draw_anew(page)]
        assert [a == b for a, b in zip(plain, shown, strict=True)] == [True, False]
        page.get_by_role("button", name="Leave out: style").click()
        page.wait_for_selector("#reference-style img", state="detached")
        assert [drawn.tobytes() for drawn in draw_anew(page)] == plain
        page.click("#example")
        page.wait_for_selector("#reference-object img", timeout=60_000)
