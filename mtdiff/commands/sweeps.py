"""How a sweep goes on when one of its runs fails, and what it says at its end. No torch here."""

import sys
from collections.abc import Callable
from typing import Any

from mtdiff.errors import shown

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # runs all jobs in this process


class Sweep:
    """Exit codes of the runs that this process has started, by their overrides; none for a single run."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}

    def run(self, action: Callable[[], None], hydra: Any) -> None:
        """Run a job. In a sweep of this process a failure is kept, so that the next job starts; Ctrl-C ends all.

        hydra: its own configuration. Launchers with processes of their own are told how each of them ended.
        """
        if hydra.mode is None or hydra.mode.name != "MULTIRUN" or hydra.launcher._target_ != BASIC:
            action()
            return
        name = " ".join(override for override in hydra.overrides.task)
        try:
            self.codes[name] = 1
            action()
            self.codes[name] = 0
        except SystemExit as ended:
            self.codes[name] = ended.code if isinstance(ended.code, int) else 1
            if self.codes[name] > 128:  # 128 + a signal's number
                raise

    def summarise(self) -> int:
        """Say how many runs are complete, and which are not; the exit code is that of the first one that is not."""
        failed = {name: code for name, code in self.codes.items() if code}
        if self.codes:
            print(f"sweep: {len(self.codes) - len(failed)} of {len(self.codes)} runs are complete", file=sys.stderr)
        for name, code in failed.items():
            print(f"sweep: exit code {code}: {shown(name, 300)}", file=sys.stderr)
        return next(iter(failed.values()), 0)
