"""Compute the encodings of a run once: latents of pictures, embeddings of prompts. Then train with the same options.

    python experiments/cache.py data=folder data.edit=/pictures/edits tasks=[edit] training.cache=/scratch/cache
    python experiments/run.py   data=folder data.edit=/pictures/edits tasks=[edit] training.cache=/scratch/cache

Options of run.py, and:
keep=lasting   what comes again in later epochs, of the first `examples` of the run (an epoch where it is not given)
keep=all       all of the first `examples` (the whole run): for several methods with one seed, which see the same ones
What is there already is not computed again, so a command that was cut off goes on.
"""

import sys

from check_data import configured, divided
from composing import guarded, sections
from run import experiment
from sample import number

from mtdiff.config.schema import refuse
from mtdiff.errors import ConfigError
from mtdiff.runs.checks import check_constructors

OWN = ("examples", "keep")
KEEPS = ("lasting", "all")


def main(arguments: list[str]) -> None:
    given, overrides = divided(arguments, OWN)
    examples, keep = number(given, "examples", int, None, 1), given.get("keep", "lasting")
    if keep not in KEEPS:
        raise refuse("keep", keep, KEEPS)
    everything = keep == "all"
    plain = configured(overrides)
    folder, training = plain["training"]["cache"], sections(plain)["training"]
    if folder is None:
        raise ConfigError("training.cache: has to be given, a folder")
    check_constructors(plain)
    from pathlib import Path

    import torch
    from rich.progress import track

    from mtdiff.data.mixture import Mixture
    from mtdiff.training import encodings
    from mtdiff.training.cache import Cache

    # 1. The run's own data and encoders
    plain["training"]["cache"], plain["evaluation"]["baselines"], plain["logger"]["wandb"] = None, False, False
    made = experiment(plain, Path())
    backbone, mixture = made.module.denoiser.backbone, made.data.train
    assert isinstance(mixture, Mixture)  # buckets are refused beside a cache
    cache = Cache(folder, backbone, str(plain["trainer"]["precision"]), create=True)
    gpu = torch.cuda.is_available() and plain["trainer"]["accelerator"] != "cpu"
    device = made.module.to("cuda" if gpu else "cpu").device

    # 2. What is kept
    parts = encodings.plan_parts(mixture, "all" if everything else "lasting")
    for (task, need), kept in parts.items():
        anew = sorted({"target", "source", "prompt"} - kept)
        says = f"; {', '.join(anew)} made anew every time, so not kept" if anew else ""
        print(f"{task}/{need}: {', '.join(sorted(kept)) or 'nothing'} kept{says}")
    run = training.steps * training.batch_size * training.accumulate
    count = examples or (run if everything else min(run, encodings.one_epoch(mixture)))
    c, h, w = backbone.latent_shape
    prompt = encodings.text_row(backbone.embed([""]), 0)
    text = sum(v.nbytes for v in prompt.values())
    print(f"{count} examples; {4 * c * h * w} bytes a picture, {text} a prompt, each once")

    # 3. Encoding
    encoder = encodings.CachedEncoder(backbone, cache)
    batches = encodings.load_batches(
        encodings.Chosen(mixture, parts), range(count), training.batch_size, training.workers
    )
    total = -(-count // training.batch_size)
    with torch.no_grad(), made.autocast():
        for batch in track(batches, "encoding", total, disable=not plain["progress"]):
            encodings.fill_cache(encoder, batch, device)
    cache.write()
    for name, skipped in made.data.skipped().items():
        print(f"- data: {skipped} unreadable rows of {name} were replaced")
    print(f"{folder}: {', '.join(f'{len(shelf)} {kind}' for kind, shelf in cache.shelves.items())}")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
    else:
        guarded(lambda: main(sys.argv[1:]))
