"""What a model costs: parameters, FLOPs, disk, and with latency=true time and memory. Needs no weights.

    python experiments/cost.py backbone=sd15 method=mtu out=cost.json
    python experiments/cost.py method=finetune tasks=[edit]        one model per task
    python experiments/cost.py method=mtu latency=true threads=1

Everything is counted on shapes alone, by running the adapted denoiser as training and sampling do. Options of its own:

    out=FILE               a JSON file; else the terminal alone
    latency=true           also run it, with random weights, in a process of its own
    device=cpu|cuda  threads=N  precision=float32|bfloat16  repeats=20  warmup=3         how to run it

All others are those of experiments/run.py: backbone, method, tasks, task, sampling and what is below them.
"""

import json

from mtdiff.commands.command import run_command

OWN = ("out", "latency")
MEASURING = "mtdiff.costs.measure.Measuring"


def main(arguments: list[str]) -> None:
    from mtdiff.commands.arguments import check_output, read_switch, split_settings
    from mtdiff.commands.compose import read_configuration
    from mtdiff.config.schema import construct
    from mtdiff.files.writing import write_atomically
    from mtdiff.runs.costs import count_costs, describe_costs, measure_alone

    own, overrides = split_settings(arguments, settings=MEASURING, further=OWN, script="cost")
    out, latency = check_output(own.get("out")), read_switch(own, "latency", False)
    plain, chosen = read_configuration(overrides)
    options = {k: v for k, v in own.items() if k not in OWN}
    construct({"_target_": MEASURING, **options})  # a mistake there answers before the counting
    found = count_costs(plain, chosen)
    if latency:
        how = measure_alone(plain, found["dearest_task"], options)
        found["cost"] |= {k: how.pop(k) for k in ("latency_ms", "peak_memory_mb", "picture_ms")}
        found["measured"] = how
    print("\n".join(describe_costs(found)))
    if out is not None:
        write_atomically(out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main, __doc__)
