"""Where a run's numbers go while it trains: `metrics.csv`, and loggers that may be slow or gone.

Neither ends nor holds up a run: what cannot be written is said in one line.
"""

import csv
import io
import json
import logging
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mtdiff.errors import reason, shown
from mtdiff.files.reading import read_json, read_text
from mtdiff.files.writing import MEGABYTE, append_text, hold_folder, write_atomically
from mtdiff.results.record import Result, Row
from mtdiff.results.samples import read_prompts, read_strips

log = logging.getLogger(__name__)
HURRY = 5.0  # seconds
LARGEST = 256 * MEGABYTE  # of a `metrics.csv`: a million steps


class Rows(Logger):
    """`metrics.csv`: each row is in the file as soon as it is logged, one line per call, columns in alphabetical order.

    before: rows of earlier steps are kept, those of this step and later belong to what a resumed run does again.
    """

    def __init__(self, path: Path, before: int = 0) -> None:
        super().__init__()
        self.path = path
        self.rows = [row for row in read_rows(path) if int(row["step"]) < before]
        self._columns: list[str] = []  # of the file; none: it has to be written anew
        self._failed = False

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """They are in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.rows.append({k: str(float(v)) if k != "epoch" else str(int(v)) for k, v in metrics.items()})
        self.rows[-1]["step"] = str(step)
        try:
            self._write()
        except OSError as error:
            self._columns = []
            if not self._failed:
                log.warning("%s cannot be written (%s); rows wait until it can", self.path, reason(error))
            self._failed = True

    def _write(self) -> None:
        columns = sorted({*self._columns, *self.rows[-1]})
        if self._columns and columns == self._columns:
            append_text(self.path, table([self.rows[-1]], columns, header=False))
            return
        columns = sorted({column for row in self.rows for column in row})
        write_atomically(self.path, table(self.rows, columns))
        self._columns, self._failed = columns, False


def table(rows: list[dict[str, str]], columns: list[str], header: bool = True) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole lines of a `metrics.csv`, without empty cells; a killed process may have left half a line last."""
    if not path.exists():
        return []
    text = read_text(path, "CSV", LARGEST)
    complete = text[: text.rfind("\n") + 1]
    try:
        rows = [{k: v for k, v in row.items() if k and v} for row in csv.DictReader(io.StringIO(complete))]
    except csv.Error as error:
        raise ValueError(f"{path}: not CSV ({reason(error)})") from None
    return [row for row in rows if re.fullmatch(r"\d{1,18}", row.get("step", ""))]


class Background(Logger):
    """Another logger in a thread of its own: a service that stalls or cannot be reached costs its rows, not the run.

    make: starts it, in the thread. finish: ends it. patience: seconds to wait for it at the end, at most `HURRY` where
    the run is cut off. most: rows that wait. After training it stays open for what `tell` is given, until `close`.
    """

    def __init__(
        self, name: str, make: Callable[[], Logger], finish: Callable[[], None], patience: float, most: int = 10_000
    ) -> None:
        super().__init__()
        self._name, self._make, self._finish, self.patience = name, make, finish, patience
        self._waiting: queue.Queue[Callable[[Any], object] | None] = queue.Queue(most)
        self.lost = 0
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Given to `make`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {k: float(v) for k, v in metrics.items()}
        self.tell(lambda logger: logger.log_metrics(row, step))

    @rank_zero_only
    def tell(self, message: Callable[[Any], object]) -> None:
        """message: what is done with the logger, in the thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            self.lost += 1

    def _work(self) -> None:
        try:
            logger = self._make()
            while (message := self._waiting.get()) is not None:
                message(logger)
                self._waiting.task_done()
            logger.finalize("success")
            self._finish()
        except Exception as error:
            log.warning("%s: %s; the run goes on without it", self._name, " ".join(str(error).split())[:200])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Called when training ends: a run that is cut off has nothing more to tell."""
        if status != "success":
            self.close(HURRY)

    @rank_zero_only
    def close(self, patience: float = float("inf")) -> None:
        """patience: an upper bound for what the logger has of its own."""
        if self._thread is None:
            return
        patience = min(self.patience, patience)
        end = time.monotonic() + patience
        try:
            self._waiting.put(None, timeout=patience if self._thread.is_alive() else 0.001)
        except queue.Full:
            self.lost += 1
        self._thread.join(max(0.0, end - time.monotonic()))
        unsent = self.lost + (self._waiting.qsize() if self._thread.is_alive() else 0)
        if self._thread.is_alive() or self.lost:
            log.warning("%s does not keep up: up to %d rows are not there; the run goes on", self._name, unsent)
        self._thread = None


def wandb_logger(folder: Path, options: Mapping[str, Any], patience: float) -> Background:
    """Weights & Biases under an id that the run folder keeps, so that a resumed run goes on in the same curve."""

    def make() -> Logger:
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        with hold_folder(folder, "wandb"):  # which is no link
            settings = wandb.Settings(init_timeout=patience, finish_timeout=patience)
            made = WandbLogger(save_dir=folder, id=wandb_id(folder / "wandb.json"), settings=settings, **options)
        _ = made.experiment  # starts it
        return made

    def finish() -> None:
        import wandb

        wandb.finish()

    return Background("Weights & Biases", make, finish, patience)


def wandb_id(path: Path) -> str:
    """The id under which the run's curve goes on; the file is made at the run's first start."""
    if not path.exists():
        write_atomically(path, json.dumps({"id": secrets.token_hex(4)}) + "\n")
    found = read_json(path)
    name = found.get("id") if isinstance(found, dict) else None
    if not isinstance(name, str) or not re.fullmatch(r"[0-9a-z]{1,64}", name):
        raise ValueError(f"{path}: key `id`: expected lower-case letters and digits, got {shown(name)}")
    return name


# The end of a run

EVALUATION = ("model", "task", "metric", "direction", "value", "low", "high", "n", "reason")
PICTURES = ("task", "example", "prompt", "source", "answer", "truth")


def cells(row: Row) -> list[Any]:
    """A row as a line of the table with the columns `EVALUATION`."""
    return [getattr(row, column) for column in EVALUATION]


def name_metric(row: Row) -> str:
    """How a row's value is called where numbers have one name each."""
    return f"{row.model}/{row.task}/{row.metric}"


def list_picture_rows(folder: Path, tasks: Iterable[str]) -> Iterator[list[Any]]:
    """A line of the table with the columns `PICTURES` for each example of a run's walls: pictures are (S, S, 3)."""
    for task in tasks:
        try:
            strips = read_strips(folder / "result.json", task)
            prompts = read_prompts(folder / "result.json", task)
        except ValueError as error:
            log.warning("%s: no table of pictures (%s)", task, shown(error, 200))
            continue
        if strips is not None:
            side = strips[0].shape[0]
            for i in range(strips[0].shape[1] // side):
                tiles = (strip[:, i * side : (i + 1) * side] for strip in strips)
                yield [task, i, prompts[i] if i < len(prompts) else "", *tiles]


def log_pictures(logger: Any, rows: Iterable[list[Any]], step: int) -> None:
    """A table with a line for each example: its task, prompt, source, answer and truth."""
    from wandb import Image

    data = [[*row[:3], *(Image(picture) for picture in row[3:])] for row in rows]
    if data:
        logger.log_table("pictures", list(PICTURES), data, step=step)


def publish(loggers: Iterable[Logger], result: Result, folder: Path) -> None:
    """The evaluation's numbers and table, and the sample pictures, to the loggers that take more than rows."""
    pictures = [str(path) for path in (folder / "samples" / f"{task}.png" for task in result.tasks) if path.exists()]
    numbers = {name_metric(row): row.value for row in result.rows if row.value is not None}

    def message(logger: Any) -> None:
        logger.log_metrics(numbers, result.steps)
        logger.log_table("evaluation", list(EVALUATION), [cells(row) for row in result.rows], step=result.steps)
        if pictures:
            captions = [f"{Path(path).stem}: source, answer, truth" for path in pictures]
            logger.log_image("samples", pictures, result.steps, caption=captions)
        log_pictures(logger, list_picture_rows(folder, result.tasks), result.steps)

    for logger in loggers:
        if isinstance(logger, Background):
            logger.tell(message)


def close(loggers: Iterable[Logger], patience: float = float("inf")) -> None:
    """Wait for the loggers that stay open after training."""
    for logger in loggers:
        if isinstance(logger, Background):
            logger.close(patience)
