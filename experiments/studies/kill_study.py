"""Kill runs at random moments (SIGKILL), give the same command again, and compare the ends with runs never killed.

    python experiments/studies/kill_study.py out=kills.json                    25 kills over six methods, real commands
    python experiments/studies/kill_study.py kills=2 methods=mtu warm=true     the short form, which the tests run

A moment lies between a run's claim of its folder and its end, drawn evenly from the CPU time that an uninterrupted run
takes in between (which other work on the machine does not change); so training, saving, validation and evaluation are
hit in proportion to their time. Equal are `adapter.safetensors`, `metrics.csv` and the rows of `result.json`, byte for
byte. warm: start runs as copies of a process that has the libraries loaded. Exit code 1 where an end differs or a
checkpoint cannot be read. Linux alone.
"""

import json
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from mtdiff.commands.arguments import override_defaults
from mtdiff.commands.command import run_command
from mtdiff.files.writing import write_atomically
from mtdiff.provenance import provenance

RUN = Path(__file__).parents[1] / "run.py"
METHODS = "mtu,lora_ffn,ia3,dtr,one_pic,finetune"
DEFAULTS = {"kills": "25", "methods": METHODS, "seed": "0", "out": "", "warm": "false"}
TINY = [
    *("training.steps=8", "training.batch_size=2", "training.accumulate=2", "training.workers=1"),
    *("training.save_every=2", "training.validate_every=4", "training.sample_every=4", "training.warmup=4"),
    *("evaluation.per_task=2", "evaluation.validation_per_task=1", "evaluation.batch_size=8"),
    *("evaluation.baselines=false", "sampling.steps=1", "trainer.accelerator=cpu", "progress=false"),
]


# Processes


class Process(Protocol):
    """A run under way."""

    pid: Any

    def exit_code(self) -> int | None:
        """Its exit code, None while it runs."""
        ...


class Command(subprocess.Popen[bytes]):
    """The command as a user gives it."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        with log.open("ab") as file:
            super().__init__([sys.executable, str(RUN), *arguments], stdout=file, stderr=file)

    def exit_code(self) -> int | None:
        return self.poll()


FORKS = multiprocessing.get_context("forkserver")


class Copy(FORKS.Process):  # type: ignore[name-defined,misc]
    """The same, in a copy of a process that has loaded the libraries."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        FORKS.set_forkserver_preload(
            ["mtdiff.runs.execute", "mtdiff.metrics.judges", "mtdiff.backbones.stable_diffusion", "torch._dynamo"]
        )
        super().__init__(target=run_here, args=(list(arguments), log))
        self.start()

    def exit_code(self) -> int | None:
        self.join(0)
        return self.exitcode


def run_here(arguments: list[str], log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    multiprocessing.set_start_method("fork", force=True)  # for the loader's workers, as where a run is started by hand
    sys.argv = [str(RUN), *arguments]
    sys.path.insert(0, str(RUN.parent))  # as where it is started by hand
    runpy.run_path(str(RUN), run_name="__main__")


# One run


@dataclass(frozen=True)
class Kill:
    """method: of the run. moment: CPU seconds after its claim. during: what it was at. step: of its last checkpoint.

    unreadable: checkpoints that do not hold what their names promise. identical: whether the end is the same.
    """

    method: str
    moment: float
    during: str
    step: int | None
    unreadable: int
    identical: bool


@dataclass(frozen=True)
class Study:
    """Runs of one study: options of a run, where they are, and how they are started."""

    folder: Path
    warm: bool

    def start(self, method: str, run: Path) -> Process:
        arguments = [f"method={method}", f"run_dir={run}", *TINY]
        return (Copy if self.warm else Command)(arguments, run.with_suffix(".log"))

    def wait_for_claim(self, process: Process, run: Path) -> None:
        """Wait until a run has written its configuration."""
        while not (run / "config.yaml").exists():
            if process.exit_code() is not None:
                raise ValueError(f"{run.name}: ended before it began")
            time.sleep(0.01)

    def finish(self, process: Process, run: Path) -> float:
        """Wait for a run's end. Returns its CPU seconds from now on."""
        began = spent = cpu_seconds(process)
        while process.exit_code() is None:
            spent = max(spent, cpu_seconds(process))
            time.sleep(0.02)
        if process.exit_code() != 0:
            said = " ".join(run.with_suffix(".log").read_text(errors="replace").split())
            raise ValueError(f"{run.name}: exit code {process.exit_code()}: {said[-500:]}")
        return spent - began

    def reference(self, method: str) -> tuple[dict[str, str], float]:
        """The end of a run that is let be, and its CPU seconds after the claim."""
        run = self.folder / method
        process = self.start(method, run)
        self.wait_for_claim(process, run)
        spent = self.finish(process, run)
        return end(run), spent

    def kill(self, method: str, moment: float, run: Path, expected: dict[str, str]) -> Kill:
        process = self.start(method, run)
        self.wait_for_claim(process, run)
        due = cpu_seconds(process) + moment
        while process.exit_code() is None and cpu_seconds(process) < due:
            time.sleep(0.005)
        if process.exit_code() is None:
            os.kill(process.pid, signal.SIGKILL)
        while process.exit_code() is None:
            time.sleep(0.01)
        during, (step, unreadable) = phase(run), checkpoints(run)
        self.finish(self.start(method, run), run)
        return Kill(method, round(moment, 2), during, step, unreadable, end(run) == expected)


def cpu_seconds(process: Process) -> float:
    """Of a run's main process so far; 0 where it is gone. The number of its clock: clock_getcpuclockid(3) on Linux."""
    try:
        return time.clock_gettime(~int(process.pid) << 3 | 2)
    except OSError:
        return 0.0


# What a run leaves


def end(run: Path) -> dict[str, str]:
    rows = json.loads((run / "result.json").read_text())["rows"]
    files = {name: (run / name).read_bytes().hex() for name in ("adapter.safetensors", "metrics.csv")}
    return {**files, "rows": json.dumps(rows)}


def phase(run: Path) -> str:
    """What a run was at when it was killed, told by its folder."""
    if (run / "result.json").exists():
        return "after its end"
    if (run / "adapter.safetensors").exists():
        return "evaluating"
    if list((run / "checkpoints").glob(".*.tmp")):
        return "saving"
    return "training" if (run / "metrics.csv").exists() else "starting"


def checkpoints(run: Path) -> tuple[int | None, int]:
    """Step of the last checkpoint, and how many of them are not whole."""
    from mtdiff.training.checkpoint_files import is_whole, list_checkpoints, step_of

    found = list_checkpoints(run / "checkpoints")
    return max(map(step_of, found), default=None), sum(not is_whole(path) for path in found)


# The study


def study(kills: int, methods: Sequence[str], seed: int, warm: bool, folder: Path) -> dict[str, Any]:
    began, rng, runs, done = time.monotonic(), random.Random(seed), Study(folder, warm), []
    references: dict[str, tuple[dict[str, str], float]] = {}
    for i in range(kills):
        method = methods[i % len(methods)]
        if method not in references:
            references[method] = runs.reference(method)
            print(f"{method}: {references[method][1]:.1f} CPU seconds without a kill", flush=True)
        expected, span = references[method]
        kill = runs.kill(method, rng.uniform(0, span), folder / f"{i}-{method}", expected)
        done.append(kill)
        verdict = "identical" if kill.identical else "DIFFERENT"
        said = f"{method} after {kill.moment} CPU seconds, {kill.during}, step {kill.step}: {verdict}"
        print(f"[{i + 1}/{kills}] {said}", flush=True)
    return {
        "kills": len(done),
        "identical": sum(kill.identical for kill in done),
        "unreadable_checkpoints": sum(kill.unreadable for kill in done),
        "during": dict(Counter(kill.during for kill in done)),
        "seed": seed,
        "methods": list(methods),
        "options": TINY,
        "warm": warm,
        **provenance(),
        "seconds": round(time.monotonic() - began, 1),
        "each": [asdict(kill) for kill in done],
    }


def parse(arguments: Sequence[str]) -> dict[str, str]:
    options = override_defaults(arguments, DEFAULTS)
    for key in ("kills", "seed"):
        if not options[key].isdecimal():
            raise ValueError(f"{key}={options[key]}: expected a whole number of at least 0")
    if options["warm"] not in ("true", "false"):
        raise ValueError(f"warm={options['warm']}: expected true or false")
    for method in options["methods"].split(","):
        if method not in METHODS.split(","):
            raise ValueError(f"methods={options['methods']}: expected some of {METHODS}")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="kill-study-") as folder:
        found = study(
            int(options["kills"]),
            options["methods"].split(","),
            int(options["seed"]),
            options["warm"] == "true",
            Path(folder),
        )
    text = json.dumps(found, indent=1) + "\n"
    if options["out"]:
        write_atomically(Path(options["out"]), text)
    print(json.dumps({k: v for k, v in found.items() if k != "each"}))
    return 0 if found["identical"] == found["kills"] and found["unreadable_checkpoints"] == 0 else 1


if __name__ == "__main__":
    run_command(main, __doc__)
