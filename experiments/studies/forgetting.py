"""How much of what the base draws from a caption is left in trained runs: catastrophic forgetting. For data=emoji.

    python experiments/studies/forgetting.py runs='runs/*'     run folders and names of shipped adapters, commas between
    python experiments/studies/forgetting.py runs=mtu-nano number=200 seed=0 device=cpu out=forgetting.json

Of `number` random captions of training emoji, the share whose picture finds its own emoji among all their truths by
the nearest AlexNet feature, as nano's model card measures the base. Test examples of text_to_image, compositions that
the base draws badly itself, hardly tell. The base and all runs, which have to share it, draw from the same noise,
sampled as the first run samples text_to_image. seed: of captions and noise. Intervals are over captions.
"""

import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # where base_model is

from mtdiff.commands.arguments import override_defaults, read_number
from mtdiff.commands.command import run_command
from mtdiff.config.schema import construct
from mtdiff.errors import shown
from mtdiff.files.reading import check_header
from mtdiff.files.writing import check_writable, write_atomically
from mtdiff.provenance import provenance
from mtdiff.results.encoding import write_lines
from mtdiff.runs.adapter import About, list_shipped, read_about

TASK = "text_to_image"
DEFAULTS = {"runs": "", "number": "200", "seed": "0", "device": "cpu", "out": ""}


def read_runs(patterns: str) -> dict[str, About]:
    """What runs say of themselves, by the name they were found under."""
    names: list[str] = []
    for pattern in patterns.split(","):
        fitting = (
            [pattern] if pattern in list_shipped() else sorted(path for path in glob(pattern) if Path(path).is_dir())
        )
        if not fitting:
            raise ValueError(
                f"runs={shown(pattern)}: no run folder, nor a shipped adapter ({', '.join(list_shipped())})"
            )
        names += fitting
    every: dict[str, About] = {}
    for name in dict.fromkeys(names):
        try:
            about = read_about(Path(name))
            check_header(about.weights)
        except ValueError as error:
            if len(names) == 1:
                raise
            print(f"forgetting.py: left out: {shown(error, 300)}", file=sys.stderr)
            continue
        every[name] = about
    for name, about in every.items():
        if TASK not in about.tasks:
            raise ValueError(f"{name}: was not trained on {TASK}")
        if about.backbone != next(iter(every.values())).backbone:
            raise ValueError(f"{name}: has another base than {next(iter(every))}")
    if not every:
        raise ValueError(f"runs={shown(patterns)}: none of {len(names)} runs can be measured")
    return every


def measure_shares(every: dict[str, About], count: int, seed: int, device: str) -> Iterator[tuple[str, Any]]:
    """(`base` or the run's name, interval of its share), one after the other."""
    from base_model.judge import draw_captions, find_own_picture
    from base_model.records import stack_records

    from mtdiff.data.emoji.source import EmojiSource
    from mtdiff.methods.untouched import Untouched
    from mtdiff.metrics.alexnet import AlexNetEmbedding
    from mtdiff.model.denoiser import Denoiser
    from mtdiff.results.intervals import mean_interval
    from mtdiff.rng import numpy_rng
    from mtdiff.runs.load import check_device, load_run, make_painter

    check_device(device)
    about, source = next(iter(every.values())), EmojiSource()
    portraits = source.portraits("train")
    if count > len(portraits):
        raise ValueError(f"number={count}: expected at most {len(portraits)}")
    chosen = numpy_rng("forgetting", seed).choice(len(portraits), count, replace=False)
    records = [source.portrait(portraits[i].style, portraits[i].stem) for i in chosen]
    truth, captions = stack_records(records)
    truth = truth.to(device)
    embed = AlexNetEmbedding(pool=False).to(device)

    def share(denoiser: Denoiser) -> Any:
        painter = make_painter(denoiser, about.sampling)
        hits = find_own_picture(draw_captions(painter, captions, "forgetting", seed), truth, embed)
        return mean_interval(hits.double().cpu().numpy(), numpy_rng("forgetting", seed, "interval"))

    untouched = Denoiser(construct(about.backbone), Untouched(), [TASK])
    yield "base", share(untouched.to(device).eval())
    for name in every:
        yield name, share(load_run(name, device).painter.denoiser)


def main(arguments: list[str]) -> None:
    options = override_defaults(arguments, DEFAULTS)
    if not options["runs"]:
        raise ValueError("runs: has to be given, as runs='runs/*'")
    count, seed = read_number(options, "number", int, None, 2), read_number(options, "seed", int, None, 0)
    out = check_writable("out", options["out"], (".json",)) if options["out"] else None
    every = read_runs(options["runs"])
    rows = {}
    for name, share in measure_shares(every, count, seed, options["device"]):
        rows[name] = {"own_emoji": share.value, "low": round(share.low, 4), "high": round(share.high, 4)}
        print(f"{share.value:6.1%} [{share.low:.1%}, {share.high:.1%}]  {name}", flush=True)
    if out is not None:
        about = {"number": count, "seed": seed, **provenance(options["device"])}
        write_atomically(out, write_lines({**about, "rows": rows}) + "\n")


if __name__ == "__main__":
    run_command(main, __doc__)
