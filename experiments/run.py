"""Train, evaluate and keep one experiment, or a sweep of them.

    python experiments/run.py method=mtu                            -> runs/<name>/
    python experiments/run.py method=lora_ffn tasks=[edit] seed=1 run_dir=out
    python experiments/run.py tasks={edit:2,denoise:1}              -> two edits to each noisy picture
    python experiments/run.py -m method=mtu,lora_ffn seed=0,1,2
    python experiments/run.py suite=main [training.steps=400 ...]  -> the runs listed in configs/suite/main.yaml
    python experiments/run.py suite=main,experts                   -> those of several, each run once

A finished run is not run again; an unfinished one goes on from its last checkpoint.
"""

import sys
from typing import Any

from mtdiff.commands.command import guard, run_command


def answer_trivially(*given: Any, **drawn: Any) -> Any:
    from baselines.trivial import trivial  # imports torch

    return trivial(*given, **drawn)


def main(arguments: list[str]) -> int | None:
    if any(a.startswith("suite=") for a in arguments):
        from mtdiff.commands.suites import run_suites

        return run_suites(arguments, [sys.executable, __file__])
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from mtdiff.commands import compose
    from mtdiff.commands.report import report_runs
    from mtdiff.commands.run import locate_run
    from mtdiff.commands.sweeps import Sweep

    call, sweep = compose.Call.parse(arguments), Sweep()
    runs = [] if call.shows else compose.check_call(call)

    def run_job(config: Any) -> None:
        """One run, as Hydra or its launcher calls it."""
        from mtdiff.commands.run import run_once

        own = HydraConfig.get()
        sweep.run(lambda: guard(lambda: run_once(config, compose.read_choices(own), answer_trivially)), own)

    with compose.sweep_folder(call) as own:
        ordered = compose.order_arguments(arguments, call.overrides)
        sys.argv = [sys.argv[0], *compose.spread_shares(ordered), *own]
        hydra.main(version_base=None, config_path=str(compose.CONFIGS), config_name="config")(run_job)()
    if call.multirun:
        report_runs([locate_run(plain, chosen) for plain, chosen in runs if plain["report"]], "sweep")
    return sweep.summarise()


if __name__ == "__main__":
    run_command(main, None)
