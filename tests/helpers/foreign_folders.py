"""Spoils whole run folders that someone else might hand us, and gives them to every command that reads such folders.

    export PYTHONPATH=.:experiments
    python tests/helpers/foreign_folders.py number=500 seed=0    prints folders tried, refusals, crashes, peak memory
    python tests/helpers/foreign_folders.py only=123 seed=0      one folder again
    python tests/helpers/foreign_folders.py notebooks=true       the analysis notebooks as well, which take seconds each

Every file is cut, swollen, emptied, or replaced by a folder, a pipe or a link; every field of JSON and YAML is changed;
links lie at every depth. Beside the folder lies a canary: a whole run folder with files of every name, which is never
read, changed or added to. The process has a limit of memory. A crash is any exception but ValueError, OSError and
RunError, a message of several lines, 20 seconds of work without an answer, a look at the canary, or a change of it.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import collect
import export
import matplotlib.pyplot as plt
import numpy as np
import sample
import table
import torch
import yaml
from fuzz import SECONDS, Report, catch_limit, set_limit, spoilt, swapped
from little_study import pictures, result
from run_folders import ABOUT, hole, make_run, picture

from analysis import report as analysis_report
from analysis.export import notebooks as list_notebooks
from mtdiff.commands.run import refuse_another
from mtdiff.errors import RunError
from mtdiff.files.reading import check_links
from mtdiff.results.record import Result
from mtdiff.results.study import read
from mtdiff.runs.load import load_run
from mtdiff.training.checkpoint_files import PARTS, WholeFiles, find_newest
from mtdiff.training.loggers import read_rows, wandb_id
from mtdiff.training.random_states import read_random_state

Rng = np.random.Generator
MEMORY = 4 * 2**30
"""Of this process's own data, which includes torch; the swollen files hold a terabyte."""


def make_foreign(folder: Path) -> Path:
    """A run folder with a file of every kind that a run leaves."""
    make_run(folder)
    made = result("mtu", 0)
    made.save(folder / "result.json")
    pictures(folder / "samples", made.tasks, 20)
    (folder / "samples" / "training").mkdir()
    shutil.copy(folder / "samples" / "edit.png", folder / "samples" / "training" / "edit-000002.png")
    (folder / "samples" / "wall").mkdir()
    shutil.copy(folder / "samples" / "edit.png", folder / "samples" / "wall" / "edit.png")
    (folder / "samples" / "wall" / "edit.json").write_text(json.dumps({"prompts": ["a", "b", "c", "d"]}))
    (folder / "config.yaml").write_text(yaml.safe_dump({**ABOUT, **made.config}))
    rows = io.StringIO()
    csv.writer(rows).writerows([["step", "train/loss"], [1, 0.5], [2, 0.25]])
    (folder / "metrics.csv").write_text(rows.getvalue())
    (folder / "evaluation.csv").write_text("task,metric,value\nedit,psnr,20\n")
    (folder / "wandb.json").write_text(json.dumps({"id": "abcd1234"}))
    (folder / "checkpoints").mkdir()
    state = {**{key: {} for key in PARTS}, "state_dict": {"a": torch.ones(9)}, "random": read_random_state()}
    WholeFiles().save_checkpoint(state, folder / "checkpoints" / "step-00000001.ckpt")
    return folder


class Bench:
    """A good folder, the copy that is spoilt, the canary beside them, and what reads the copy."""

    def __init__(self, work: Path, notebooks: bool = False) -> None:
        self.work, self.good, self.copy = work, make_foreign(work / "good"), work / "runs" / "foreign"
        make_foreign(work / "runs" / "neighbour")
        self.canary = make_foreign(work / "canary")
        self.files = sorted(p.relative_to(self.good) for p in self.good.rglob("*") if p.is_file())
        self.folders = sorted(p.relative_to(self.good) for p in self.good.rglob("*") if p.is_dir())
        self.content, self.plain = self.list_content(), yaml.safe_load((self.good / "config.yaml").read_text())
        self.looks: list[str] = []
        picture().save(work / "in.png")
        hole().save(work / "mask.png")
        self.spoil: list[Callable[[Rng], Any]] = [
            self.spoil_bytes,
            self.spoil_bytes,
            self.spoil_fields,
            self.spoil_fields,
            self.swell,
            self.replace,
            self.link_file,
            self.link_folder,
            self.rename_checkpoint,
        ]
        self.read: dict[str, Callable[[], Any]] = {
            "load_run": lambda: load_run(self.copy),
            "sample.py": self.sample,
            "export.py": self.export,
            "table.py": lambda: table.main([f"results={work}/runs/*/result.json", f"out={work}/out/table"]),
            "collect.py": lambda: collect.main([f"runs={work}/runs/*/result.json", f"out={work}/out", "study=x"]),
            "report.py": lambda: analysis_report.main([f"results={work}/runs/*/result.json", f"out={work}/out/page"]),
            "study": self.study,
            "resume": self.resume,
        }
        if notebooks:
            self.read["notebooks"] = self.run_notebooks

    def list_content(self) -> str:
        """A hash of all that lies in the canary and beside the folders: names, kinds, bytes."""
        found = hashlib.sha256(" ".join(sorted(path.name for path in self.work.iterdir())).encode())
        for path in sorted(self.canary.rglob("*")):
            found.update(f"{path} {path.is_file()} {path.is_symlink()}".encode())
            found.update(path.read_bytes() if path.is_file() else b"")
        return found.hexdigest()

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: whatever is opened below the canary was reached through a link."""
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            with contextlib.suppress(OSError):
                place = os.path.realpath(arguments[0])
                if place.startswith(f"{self.canary}/") and not self.looking:
                    self.looks.append(f"{arguments[0]} leads to {place}")

    looking = False

    def check_watch(self) -> None:
        """A look through a link, which the hook has to see: else it would see none later."""
        (self.work / "link").symlink_to(self.canary / "result.json")
        (self.work / "link").read_bytes()
        (self.work / "link").unlink()
        if not self.looks:
            raise AssertionError("the canary is not watched")
        self.looks.clear()

    # Spoiling

    def choose(self, names: list[Path], rng: Rng) -> Path:
        return self.copy / names[int(rng.integers(len(names)))]

    def spoil_bytes(self, rng: Rng) -> None:
        path = self.choose(self.files, rng)
        path.write_bytes(spoilt(path.read_bytes(), rng))

    def spoil_fields(self, rng: Rng) -> None:
        path = self.choose([f for f in self.files if f.suffix in (".json", ".yaml")], rng)
        read_file, write = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
        path.write_text(write(swapped(read_file(path.read_text()), rng)))  # type: ignore[operator]

    def swell(self, rng: Rng) -> None:
        with self.choose(self.files, rng).open("r+b") as file:
            file.truncate(int(rng.choice([0, 2**30, 2**40])))

    def replace(self, rng: Rng) -> None:
        path = self.choose(self.files, rng)
        path.unlink()
        if (kind := int(rng.integers(3))) == 0:
            path.mkdir()
        elif kind == 1:
            os.mkfifo(path)

    def link_file(self, rng: Rng) -> None:
        path = self.choose(self.files, rng)
        path.unlink()
        path.symlink_to([self.canary / path.relative_to(self.copy), self.canary, path][int(rng.integers(3))])

    def link_folder(self, rng: Rng) -> None:
        path = self.choose(self.folders, rng)
        shutil.rmtree(path)
        path.symlink_to(self.canary / path.relative_to(self.copy))

    def rename_checkpoint(self, rng: Rng) -> None:
        (path,) = (self.copy / "checkpoints").iterdir()
        names = ["step-1.ckpt", "step-99999999999999999999-0123456789abcdef.ckpt", "step-\n.ckpt", "-.ckpt", ".ckpt"]
        path.rename(path.with_name(names[int(rng.integers(len(names)))]))

    # Reading

    def sample(self) -> None:
        given = [
            f"run={self.copy}",
            "task=inpaint",
            "prompt=x",
            f"image={self.work}/in.png",
            f"mask={self.work}/mask.png",
        ]
        sample.main([*given, f"out={self.work}/out/out.png"])

    def export(self) -> None:
        shutil.rmtree(self.work / "out" / "exported", ignore_errors=True)
        export.main([f"run={self.copy}", "task=edit", f"out={self.work}/out/exported"])

    def study(self) -> None:
        found = read(f"{self.work}/runs/*/result.json")
        assert [run for run in found.runs if run.path.parent.name == "neighbour"]
        for run in found.runs:
            for task in run.result.tasks:
                with contextlib.suppress(ValueError):
                    run.picture(task)

    def run_notebooks(self) -> None:
        """What `analysis/export.py` runs in a kernel, here in this process."""
        for name, path in list_notebooks().items():
            namespace: dict[str, Any] = {"RESULTS": f"{self.work}/runs/*/result.json"}
            for cell in json.loads(path.read_text())["cells"]:
                code = "".join(cell["source"])
                if cell["cell_type"] == "code" and not code.startswith("RESULTS"):
                    exec(compile(code, name, "exec"), namespace)
            plt.close("all")

    def resume(self) -> None:
        """All that a run reads of its own folder when it goes on, before it trains and writes."""
        check_links(self.copy)
        refuse_another(self.copy, self.plain)
        if (self.copy / "result.json").exists():
            Result.load(self.copy / "result.json")
        newest = find_newest(self.copy / "checkpoints")
        read_rows(self.copy / "metrics.csv")
        wandb_id(self.copy / "wandb.json")
        if newest is not None:
            WholeFiles().load_checkpoint(newest)


def attempt(bench: Bench, index: int, seed: int, report: Report) -> None:
    """Folder number `index`, a pure function of (seed, index), given to one command after the other."""
    rng = np.random.default_rng((seed, index))
    how = bench.spoil[index % len(bench.spoil)]
    shutil.rmtree(bench.copy, ignore_errors=True)
    shutil.copytree(bench.good, bench.copy)
    how(rng)
    for name, command in bench.read.items():
        label = f"only={index} seed={seed} {how.__name__} {name}"
        report.tried[name] += 1
        set_limit(SECONDS)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                command()
        except (ValueError, OSError, RunError) as error:
            report.refused[name] += 1
            if "\n" in str(error) or not str(error):
                report.crashes.append(f"{label}: a message of several lines: {str(error)[:200]!r}")
        except Exception as error:  # whatever it is, it is the finding
            report.crashes.append(f"{label}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        finally:
            set_limit(0)
        report.crashes += [f"{label}: {look}" for look in bench.looks]
        bench.looks.clear()
    bench.looking = True
    if bench.list_content() != bench.content:
        report.crashes.append(f"only={index} seed={seed} {how.__name__}: the canary has changed")
    bench.looking = False


def try_folders(numbers: range, seed: int, notebooks: bool = False) -> Iterator[str]:
    """What came of it, in lines."""
    report = Report()
    catch_limit()
    with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = Bench(Path(work).resolve(), notebooks)
        (bench.work / "out").mkdir()
        bench.content = bench.list_content()
        sys.addaudithook(bench.watch)
        bench.check_watch()
        load_run(bench.good)  # whose memory counts as that of a good folder
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        for index in numbers:
            attempt(bench, index, seed, report)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        bench.looking = True
    yield from report.lines()
    yield f"peak memory: {before} MB with a good folder, {after} MB in all"


def main(arguments: list[str]) -> int:
    given = dict(argument.split("=", 1) for argument in arguments)
    only = given.get("only")
    numbers = range(int(given.get("number", 200))) if only is None else range(int(only), int(only) + 1)
    lines = list(try_folders(numbers, int(given.get("seed", 0)), given.get("notebooks") == "true"))
    print("\n".join(lines))
    return 0 if any(line.endswith("crashes found: 0") for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
