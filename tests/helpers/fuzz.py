"""Spoils valid files of every kind that others may hand us, and reads them: each works, or is refused in one line.

    python tests/helpers/fuzz.py number=2000 seed=0    prints inputs tried and crashes found; exit code 1 if any
    python tests/helpers/fuzz.py only=1234 seed=0      one input again

A crash is any exception but ValueError and RunError, a message of several lines, or 20 seconds without an answer.
"""

import copy
import io
import json
import shutil
import signal
import sys
import tarfile
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import yaml
from run_folders import ABOUT, make_run, picture

from mtdiff.config.schema import construct
from mtdiff.data.tables.convert import write_index
from mtdiff.data.tables.shard_index import INDEX
from mtdiff.data.tables.source import TableSource
from mtdiff.errors import RunError
from mtdiff.files.pictures import load_picture
from mtdiff.files.reading import read_yaml
from mtdiff.results.record import Result, Row
from mtdiff.results.render import html, latex, markdown
from mtdiff.results.summary import summarise
from mtdiff.runs.adapter import read_about
from mtdiff.runs.load import build_denoiser, build_tasks, load_run, read_adapter
from mtdiff.training.checkpoint_files import WholeFiles, find_newest
from mtdiff.training.faults import keep, load
from mtdiff.training.loggers import read_rows
from mtdiff.training.random_states import read_random_state
from mtdiff.types import Batch, Example

Rng = np.random.Generator
SECONDS = 20
NASTY = [
    b"\0",
    b"\xff" * 8,
    b"\x7f" * 4,
    b"{",
    b"[",
    b'"',
    b"\\",
    b"\n",
    b"NaN",
    b"-1",
    b"1e999",
    b"\xed\xa0\x80",
    b"../",
]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**62,
    10**30,
    1e308,
    "",
    "..",
    "/etc/passwd",
    [],
    {},
    [[]],
    {"_target_": "os.x"},
]
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tif": "TIFF"}


class Hang(Exception):
    """No answer in time."""


@dataclass
class Report:
    tried: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        for name, tried in sorted(self.tried.items()):
            yield f"{name:18s} {tried:6d} inputs, {self.refused[name]} refused, {tried - self.refused[name]} read"
        yield from self.crashes
        yield f"inputs tried: {self.tried.total()}, crashes found: {len(self.crashes)}"


# Spoiling


def spoilt(data: bytes, rng: Rng) -> bytes:
    """One to three changes to the bytes of a file."""
    for _ in range(int(rng.integers(1, 4))):
        data = CHANGES[int(rng.integers(len(CHANGES)))](data, rng)
    return data


def place(data: bytes, rng: Rng) -> int:
    """Near the start in half of all cases: that is where headers are."""
    return int(rng.integers(0, 1 + (min(len(data), 200) if rng.random() < 0.5 else len(data))))


def flipped(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if changed else 0):
        changed[min(place(data, rng), len(data) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def truncated(data: bytes, rng: Rng) -> bytes:
    return data[: place(data, rng)]


def inserted(data: bytes, rng: Rng) -> bytes:
    at = place(data, rng)
    return data[:at] + NASTY[int(rng.integers(len(NASTY)))] * int(rng.integers(1, 4)) + data[at:]


def overwritten(data: bytes, rng: Rng) -> bytes:
    at, some = place(data, rng), rng.bytes(int(rng.integers(1, 17)))
    return data[:at] + some + data[at + len(some) :]


def removed(data: bytes, rng: Rng) -> bytes:
    at = place(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 65)) :]


def repeated(data: bytes, rng: Rng) -> bytes:
    at, length = place(data, rng), int(rng.integers(1, 257))
    return data[: at + length] + data[at : at + length] * int(rng.integers(1, 5)) + data[at + length :]


CHANGES: list[Callable[[bytes, Rng], bytes]] = [flipped, truncated, inserted, overwritten, removed, repeated]


def swapped(content: Any, rng: Rng) -> Any:
    """JSON with one or two of its values replaced: by another of its values, or by a nasty one; or with a key gone."""
    content = copy.deepcopy(content)
    for _ in range(int(rng.integers(1, 3))):
        places = list(holders(content))
        if not places:
            return content
        node, key = places[int(rng.integers(len(places)))]
        if rng.random() < 0.15:
            del node[key]
        elif rng.random() < 0.5:
            node[key] = copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])
        else:
            other, name = places[int(rng.integers(len(places)))]
            node[key] = copy.deepcopy(other[name])
    return content


def holders(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value: its mapping or list, and its key or index."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in list(pairs):
        yield node, key
        yield from holders(child)


# Loaders


class Loaders:
    """Valid files in a folder of our own, and by name what spoils one and reads it."""

    def __init__(self, work: Path) -> None:
        self.good, self.folder = make_run(work / "good"), work / "spoilt"
        shutil.copytree(self.good, self.folder)
        about = read_about(self.good)
        self.expected, self.digest = build_denoiser(about).adapter(), about.digest
        self.result = json.loads(json.dumps(asdict(result())))
        self.pictures = {ending: drawn(kind) for ending, kind in FORMATS.items()}
        keep(self.folder / "fault.json", {"step": 1}, batch())
        torch.save({"state_dict": {"a": torch.ones(9)}, "random": read_random_state()}, self.folder / "good.ckpt")
        tarred(self.folder / "shards" / "a.tar")
        write_index(str(self.folder / "shards"))
        names = ("fault.json", "fault.safetensors", "good.ckpt", "shards/a.tar", f"shards/{INDEX}")
        self.whole = {name: (self.folder / name).read_bytes() for name in names}
        self.read: dict[str, Callable[[Rng], Any]] = {
            "adapter.json": self.about,
            "adapter.safetensors": self.adapter,
            "config.yaml": self.config,
            "result.json": self.table,
            "picture": self.picture,
            "metrics.csv": self.rows,
            "checkpoint": self.checkpoint,
            "fault": self.fault,
            "shards": self.shards,
            "run folder": self.run,
        }

    def written(self, name: str, content: Any, rng: Rng) -> Path:
        """A file spoilt in its bytes, or, for JSON content, in its values or both."""
        data = content
        if not isinstance(content, bytes):
            data = json.dumps(swapped(content, rng) if rng.random() < 0.7 else content, indent=1).encode()
        if isinstance(content, bytes) or rng.random() < 0.4:
            data = spoilt(data, rng)
        path = self.folder / name
        path.write_bytes(data)
        return path

    def about(self, rng: Rng) -> None:
        self.written("adapter.json", ABOUT, rng)
        about = read_about(self.folder)
        build_tasks(about)
        construct(about.content["method"])

    def adapter(self, rng: Rng) -> None:
        path = self.written("adapter.safetensors", (self.good / "adapter.safetensors").read_bytes(), rng)
        read_adapter(path, self.expected, self.digest)

    def config(self, rng: Rng) -> None:
        text = yaml.safe_dump(swapped(ABOUT, rng) if rng.random() < 0.3 else ABOUT)
        read_yaml(self.written("config.yaml", text.encode(), rng))

    def table(self, rng: Rng) -> None:
        table = summarise([Result.load(self.written("result.json", self.result, rng))])
        for render in (markdown, html, latex):
            render(table, []).encode()

    def picture(self, rng: Rng) -> None:
        ending = list(FORMATS)[int(rng.integers(len(FORMATS)))]
        load_picture("image", self.written(f"picture.{ending}", self.pictures[ending], rng))

    def rows(self, rng: Rng) -> None:
        read_rows(self.written("metrics.csv", b"epoch,loss,step\n0,0.5,1\n0,0.25,2\n,0.125,3\n", rng))

    def checkpoint(self, rng: Rng) -> None:
        """Under a checksum that is wrong, and as if someone had made it fit."""
        path = self.written("step-00000001-0123456789abcdef.ckpt", self.whole["good.ckpt"], rng)
        WholeFiles().load_checkpoint(path)
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        path.replace(self.folder / "checkpoints" / path.name)
        if find_newest(self.folder / "checkpoints") is not None:
            raise AssertionError("taken for whole")

    def fault(self, rng: Rng) -> None:
        name = ("fault.json", "fault.safetensors")[int(rng.integers(2))]
        self.restored()
        content = json.loads(self.whole[name]) if name.endswith("json") else self.whole[name]
        self.written(name, content, rng)
        load(self.folder / "fault.json")

    def shards(self, rng: Rng) -> None:
        name = ("shards/a.tar", f"shards/{INDEX}")[int(rng.integers(2))]
        self.restored()
        content = json.loads(self.whole[name]) if name.endswith("json") else self.whole[name]
        self.written(name, content, rng)
        source = TableSource(caption=str(self.folder / "shards"), size=16)
        for index in range(source.size("caption", "train")):
            source.record("caption", "train", index, rng)

    def restored(self) -> None:
        for name, data in self.whole.items():
            (self.folder / name).write_bytes(data)

    def run(self, rng: Rng) -> None:
        """All of `load_run`, on a folder with either file spoilt."""
        for name in ("adapter.json", "adapter.safetensors"):
            shutil.copy(self.good / name, self.folder / name)
        if rng.random() < 0.7:
            self.written("adapter.json", ABOUT, rng)
        else:
            self.written("adapter.safetensors", (self.good / "adapter.safetensors").read_bytes(), rng)
        load_run(self.folder)


def result() -> Result:
    rows = [Row("edit", "psnr", "higher", 20.0, 4, 19.0, 21.0), Row("edit", "psnr", "higher", 9.0, 4, 8.0, 9.5, "copy")]
    rows += [Row("inpaint", "lpips_alex", "lower", None, 0, None, None, reason="too few")]
    config = {"method": {"experts": 4}, "seed": 0}
    return Result("mtu", "nano", "emoji", ["edit", "inpaint"], 0, config=config, rows=rows)


def batch() -> Batch:
    blank = torch.zeros(3, 16, 16)
    return Batch.collate([Example(blank, blank, blank[:1], f"do {i}", i, f"key {i}", seed=i) for i in range(2)])


def tarred(path: Path) -> None:
    """A shard of four samples."""
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for i in range(4):
            for name, data in ((f"{i}.png", drawn("PNG")), (f"{i}.txt", f"picture {i}".encode())):
                about = tarfile.TarInfo(name)
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))


def drawn(kind: str) -> bytes:
    buffer = io.BytesIO()
    picture(side=24).save(buffer, kind)
    return buffer.getvalue()


# Running


def attempt(loaders: Loaders, index: int, seed: int, report: Report) -> None:
    """Input number `index`: a pure function of (seed, index)."""
    rng = np.random.default_rng((seed, index))
    names = list(loaders.read)
    name = names[index % (len(names) - 1)] if index % 40 else names[-1]  # a whole run is slow
    report.tried[name] += 1
    set_limit(SECONDS)
    try:
        loaders.read[name](rng)
    except (ValueError, RunError) as error:
        report.refused[name] += 1
        if "\n" in str(error) or not str(error):
            report.crashes.append(f"only={index} seed={seed} {name}: a message of several lines: {str(error)[:200]!r}")
    except Exception as error:  # whatever it is, it is the finding
        text = " ".join(str(error).split())[:200]
        report.crashes.append(f"only={index} seed={seed} {name}: {type(error).__name__}: {text}")
    finally:
        set_limit(0)


def set_limit(seconds: float) -> None:
    """Of the processor's time, since a busy machine is slow; and ten times that of the clock, for what only waits."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)


def late(number: int, frame: FrameType | None) -> None:
    raise Hang(f"no answer in {SECONDS} s")


def catch_limit() -> dict[int, Any]:
    """Let both limits raise `Hang`; returns what stood there before."""
    return {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}


def fuzz(numbers: range, seed: int) -> Report:
    report = Report()
    before = catch_limit()
    try:
        with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about what it finds in spoilt pictures
            loaders = Loaders(Path(work))
            for index in numbers:
                attempt(loaders, index, seed, report)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return report


def main(arguments: list[str]) -> int:
    given = dict(argument.split("=", 1) for argument in arguments)
    seed = int(given.get("seed", 0))
    only = given.get("only")
    numbers = range(int(given.get("number", 2000))) if only is None else range(int(only), int(only) + 1)
    report = fuzz(numbers, seed)
    print("\n".join(report.lines()))
    return 1 if report.crashes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
