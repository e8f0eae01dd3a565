"""The best network for a task under a limit of your device, from a run of method=budgeted, in seconds.

    python experiments/assemble.py run=runs/<name> task=super_resolution latency_ms=40 out=small
    python experiments/assemble.py run=runs/<name> task=edit flops=6e8 out=small
    python experiments/assemble.py run=runs/<name> task=edit memory_mb=25 out=small

Exactly one limit, of one call of the denoiser with one sample: latency_ms is measured on this machine (the table of
modules is made once, and kept in the user's cache), flops are counted, memory_mb is weights in float32 and activations.
The network is written to out=: as a diffusers pipeline where a configuration can say it, else as an adapter that
load_run reads, with denoiser.onnx beside it; assembly.json holds the card that is printed. Options:

    candidates=24     exchanges of modules that the search tries on validation examples
    seed=0            of the search: the same seed gives the same network for the same table
    threads=N         of the CPU.  device=cpu
    onnx=false        no denoiser.onnx, which takes most of the time
    packages=yours    whose classes the run may name, beside ours. base=<folder>: the base model, where it is yours

All others are those of experiments/run.py: data, evaluation.validation_per_task.
"""

from mtdiff.commands.command import run_command


def main(arguments: list[str]) -> None:
    from mtdiff.commands.arguments import split_options
    from mtdiff.commands.assemble import OWN, assemble_network

    given, overrides = split_options(arguments, OWN)
    for key in ("run", "task", "out"):
        if not given.get(key):
            raise ValueError(f"{key}: has to be given, as {key}=...")
    assemble_network(given, overrides)


if __name__ == "__main__":
    run_command(main, __doc__)
