"""Training from cached encodings, and filling the cache.

What can be kept: every picture and prompt that comes again. A low-resolution source that is degraded anew, a picture
with a new hole, or a scene that is drawn anew each epoch needs its pixels and its encoder every time; `lasting` finds
out by drawing examples of several epochs.

Letters: B batch, C latent channels, H W pixels, h w latent size, L text tokens, D text width.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtdiff.backbones.base import Backbone
from mtdiff.data.loader import START
from mtdiff.data.mixture import Mixture, Stream, one_thread
from mtdiff.errors import RunError
from mtdiff.rng import numpy_rng
from mtdiff.training.cache import Cache, Hash, Kind, hash_pictures, hash_text
from mtdiff.types import Batch, Example, Need, Text

log = logging.getLogger(__name__)
Part = Literal["target", "source", "prompt"]
Keep = Literal["lasting", "all"]
TOGETHER = 4
"""Pictures that are encoded at once where a cache grows."""
SHORT = 16
"""Characters of a prompt that no text encoder cuts: 64 bytes at most, each at most a token."""
MOST_NOTED = 100_000
DRAWS = 16
"""Epochs in which a record is drawn to see what lasts."""


class CachedEncoder:
    """Encodes as its backbone does, and looks up first. found: how many of each kind were there, and were asked for.

    Stands in for the backbone where pictures and prompts are encoded; it is no module, so nothing is saved twice.
    grows: what was not there is kept, until `write` at the latest.
    """

    def __init__(self, backbone: Backbone, cache: Cache, *, grows: bool = False) -> None:
        self.backbone, self.cache, self.grows = backbone, cache, grows
        self._noted: set[str] = set()
        self.found: dict[Kind, list[int]] = {kind: [0, 0] for kind in get_args(Kind)}

    @property
    def size(self) -> int:
        return self.backbone.size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.backbone.latent_shape

    def encode(self, images: Tensor) -> Tensor:
        """Return latents (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1]."""
        hashes = hash_pictures(images)
        rows = self._look_up("pictures", hashes)
        missing = [i for i, row in enumerate(rows) if row is None]
        latents = images.new_zeros(len(images), *self.latent_shape, dtype=torch.float32)
        for i, row in enumerate(rows):
            if row is not None:
                latents[i] = row["latents"].to(latents.device, non_blocking=True)
        if missing:
            latents[missing] = encode_in_parts(self.backbone, images[missing])
            self._keep("pictures", [(hashes[i], {"latents": latents[i]}) for i in missing])
        return latents

    def embed(self, prompts: Sequence[str]) -> Text:
        """Return tokens (B, L, D) and whatever else the backbone reads."""
        rows = self._look_up("texts", [hash_text(p) for p in prompts])
        missing = [i for i, row in enumerate(rows) if row is None]
        self._note_found([p for p, row in zip(prompts, rows, strict=True) if row is not None])
        if missing:
            made = embed_in_parts(self.backbone, [prompts[i] for i in missing])
            for i, row in zip(missing, made, strict=True):
                rows[i] = row
                self._keep("texts", [(hash_text(prompts[i]), row)])
        device = next(self.backbone.parameters()).device
        columns = {k: torch.stack([row[k].to(device) for row in rows if row is not None]) for k in rows[0] or {}}
        return Text(columns.pop("tokens"), columns)

    def _note_found(self, prompts: Sequence[str]) -> None:
        """Prompts that are cut are counted where they are tokenized, which those that are found are not."""
        long = [p for p in dict.fromkeys(prompts) if len(p) > SHORT and p not in self._noted]
        if long and len(self._noted) < MOST_NOTED:
            self.backbone.note_prompts(long)
            self._noted |= set(long)

    def _keep(self, kind: Kind, rows: Sequence[tuple[Hash, dict[str, Tensor]]]) -> None:
        shelf = self.cache.shelves[kind]
        if not self.grows or shelf.full:
            return
        for key, row in rows:
            if key not in shelf:
                shelf.add(key, row)

    def write(self) -> None:
        """Put what was kept into files; where the disk refuses, that is said, and the run goes on."""
        if not self.grows:
            return
        try:
            self.cache.write()
        except RunError as error:
            log.warning("%s", error)

    def report(self) -> str:
        """Say in one line, for the end of a run, how much was found."""
        shares = (f"{hits} of {asked} {kind}" for kind, (hits, asked) in self.found.items())
        return f"cache {self.cache.folder}: {' and '.join(shares)} were found there"

    def _look_up(self, kind: Kind, hashes: Sequence[Hash]) -> list[dict[str, Tensor] | None]:
        rows = [self.cache.shelves[kind].get(h) for h in hashes]
        self.found[kind][0] += sum(row is not None for row in rows)
        self.found[kind][1] += len(rows)
        return rows


def encode_in_parts(backbone: Backbone, images: Tensor) -> Tensor:
    """Latents (B, C, h, w), encoded TOGETHER at a time: the last bits of a latent may depend on how many are encoded
    with it, and how many are missing differs from run to run.
    """
    if images.device.type != "cpu":  # where parts would cost more, and no cache grows
        return backbone.encode(images)
    parts = []
    for part in images.split(TOGETHER):
        filled = torch.cat([part, part[:1].expand(TOGETHER - len(part), -1, -1, -1)])
        parts.append(backbone.encode(filled)[: len(part)])
    return torch.cat(parts)


def embed_in_parts(backbone: Backbone, prompts: Sequence[str]) -> list[dict[str, Tensor]]:
    """What the text encoder makes of each prompt, TOGETHER at a time for the same reason."""
    rows: list[dict[str, Tensor]] = []
    for start in range(0, len(prompts), TOGETHER):
        part = list(prompts[start : start + TOGETHER])
        text = backbone.embed([*part, *part[:1] * (TOGETHER - len(part))])
        rows += [text_row(text, k) for k in range(len(part))]
    return rows


def text_row(text: Text, k: int) -> dict[str, Tensor]:
    return {"tokens": text.tokens[k], **{name: v[k] for name, v in text.extra.items()}}


# What comes again


def draw_example(stream: Stream, need: Need, epoch: int, index: int) -> Example:
    """Draw the example that a stream makes of one record in one epoch."""
    rng = numpy_rng(*stream.key, need, epoch, index)
    return stream.task.make(stream.source.record(need, stream.split, index, rng), rng, 0)


def find_lasting(stream: Stream, need: Need, records: int = 2) -> frozenset[Part]:
    """Find the parts of a stream's examples that come again: DRAWS epochs of a record show at most half as many.

    So one of five captions lasts, and a new degradation in every epoch does not.
    """
    found = set(get_args(Part))
    for index in range(min(records, stream.sizes[need])):
        examples = [draw_example(stream, need, epoch, index) for epoch in range(DRAWS)]
        seen = {
            "target": hash_pictures(torch.stack([e.target for e in examples])),
            "source": hash_pictures(torch.stack([e.source for e in examples])),
            "prompt": [hash_text(e.prompt) for e in examples],
        }
        found &= {part for part, hashes in seen.items() if len(set(hashes)) <= DRAWS // 2}
    return frozenset(found)


def plan_parts(mixture: Mixture, keep: Keep) -> dict[tuple[str, Need], frozenset[Part]]:
    """Choose the parts to keep, by task and kind of record."""
    if keep == "all":
        return {(s.task.name, n): frozenset(get_args(Part)) for s in mixture.streams for n in s.needs}
    return {(s.task.name, n): find_lasting(s, n) for s in mixture.streams for n in s.needs}


def one_epoch(mixture: Mixture) -> int:
    """Count the examples of a run until every record of every task has come once, up to rounding."""
    counts = mixture.cycle.counts
    rounds = (
        -(-size * stream.cycle.length // stream.cycle.counts[k])  # examples of the task
        * mixture.cycle.length
        / count
        for stream, count in zip(mixture.streams, counts, strict=True)
        for k, size in enumerate(stream.sizes[n] for n in stream.needs)
    )
    return int(max(rounds)) + mixture.cycle.length


# Filling


@dataclass(frozen=True)
class Chosen(Dataset[tuple[Example, frozenset[Part]]]):
    """Examples of a run with the parts to keep."""

    mixture: Mixture
    parts: dict[tuple[str, Need], frozenset[Part]]

    def __getitem__(self, i: int) -> tuple[Example, frozenset[Part]]:
        k, n = self.mixture.cycle.at(i)
        stream = self.mixture.streams[k]
        return stream.example(n, k), self.parts[stream.task.name, stream.draw(n).need]


def load_batches(
    chosen: Chosen, numbers: range, batch_size: int, workers: int
) -> Iterator[list[tuple[Example, frozenset]]]:
    loader = DataLoader(
        chosen,
        sampler=numbers,  # type: ignore[arg-type]
        batch_size=batch_size,
        num_workers=workers,
        multiprocessing_context=START if workers > 0 else None,
        collate_fn=list,
        worker_init_fn=one_thread,
    )
    yield from loader


def fill_cache(encoder: CachedEncoder, made: Sequence[tuple[Example, frozenset[Part]]], device: torch.device) -> None:
    """Encode and keep what a batch has that is wanted and not there yet."""
    backbone, shelves = encoder.backbone, encoder.cache.shelves
    batch = Batch.collate([example for example, _ in made])
    given = (batch.mask < 1).flatten(1).any(1).tolist()
    wanted = [e.target for e, parts in made if "target" in parts]
    wanted += [e.source for (e, parts), known in zip(made, given, strict=True) if known and "source" in parts]
    if wanted:
        images = torch.stack(wanted).to(device)
        new = _find_new(shelves["pictures"].__contains__, hash_pictures(images))
        if new:
            latents = encode_in_parts(backbone, images[list(new.values())])
            for key, row in zip(new, latents, strict=True):
                shelves["pictures"].add(key, {"latents": row})
    prompts = [e.prompt for e, parts in made if "prompt" in parts]
    missing = _find_new(shelves["texts"].__contains__, [hash_text(p) for p in prompts])
    if missing:
        made_rows = embed_in_parts(backbone, [prompts[i] for i in missing.values()])
        for key, row in zip(missing, made_rows, strict=True):
            shelves["texts"].add(key, row)


def _find_new(there: Callable[[Hash], bool], hashes: Sequence[Hash]) -> dict[Hash, int]:
    """Return the hashes that are not there yet, each once, with a place where it stands."""
    return {h: i for i, h in enumerate(hashes) if not there(h)}
