"""The encodings of a run, computed once into a folder that `training.cache` names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mtdiff.commands.build import build_experiment
from mtdiff.data.mixture import Mixture
from mtdiff.results.phases import Phases
from mtdiff.training import encodings
from mtdiff.training.cache import Cache


def fill_cache(plain: Mapping[str, Any], examples: int | None, *, everything: bool) -> None:
    """Encode the first `examples` of the run of a checked configuration, and say what is kept of them.

    everything: all of an example is kept, else only what comes again in later epochs.
    """
    training = plain["training"]
    folder, batch_size = training["cache"], training["batch_size"]

    # 1. The run's own data and encoders
    untold = {"evaluation": {**plain["evaluation"], "baselines": False}, "logger": {**plain["logger"], "wandb": False}}
    phases = Phases(shown=plain["progress"])
    with phases.start("load"):
        without = {**plain, **untold, "training": {**training, "cache": None}}
        made = build_experiment(without, Path(), answer_nothing, phases)
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
    run = training["steps"] * batch_size * training["accumulate"]
    count = examples or (run if everything else min(run, encodings.one_epoch(mixture)))
    c, h, w = backbone.latent_shape
    prompt = encodings.text_row(backbone.embed([""]), 0)
    text = sum(v.nbytes for v in prompt.values())
    print(f"{count} examples; {4 * c * h * w} bytes a picture, {text} a prompt, each once")

    # 3. Encoding
    encoder = encodings.CachedEncoder(backbone, cache)
    batches = encodings.load_batches(encodings.Chosen(mixture, parts), range(count), batch_size, training["workers"])
    with torch.no_grad(), made.autocast(), phases.start("encode", count, "examples") as phase:
        for batch in batches:
            encodings.fill_cache(encoder, batch, device)
            phase.advance(len(batch))
    cache.write()
    for name, skipped in made.data.count_skipped().items():
        print(f"- data: {skipped} unreadable rows of {name} were replaced")
    print(f"{folder}: {', '.join(f'{len(shelf)} {kind}' for kind, shelf in cache.shelves.items())}")


def answer_nothing(*given: Any) -> dict[str, torch.Tensor]:
    """In place of the trivial answers of an evaluation: nothing is evaluated."""
    return {}
