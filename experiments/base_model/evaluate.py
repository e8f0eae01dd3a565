"""What came out of pre-training: facts about the autoencoder and about every denoiser that is there."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from base_model import judge
from base_model.autoencoder import measure_floor
from base_model.parts import make_painter, open_parts, read_backbone
from base_model.records import stack_portraits
from base_model.work import Work
from mtdiff.metrics.alexnet import AlexNetEmbedding
from mtdiff.metrics.embedding import MeasuringClip
from mtdiff.types import Split

SHOWN = 16
"""Pictures of each kind on a sample sheet."""


def judge_bases(work: Work) -> None:
    """Note the autoencoder's floor, what the judge says of true pictures, and what it says of each denoiser's."""
    c = work.config["judge"]
    split: Split = c["split"]
    clip = MeasuringClip(Path(c["clip"] or work.folder / "measure" / "model")).to(work.device)
    parts = open_parts(work)
    floor = measure_floor(parts["vae"].to(work.device), stack_portraits(work.source, split)[0][: c["floor"]])
    work.note("judge", split=split, floor=floor)
    portraits = judge.choose_portraits(work.source, c["number"], split)
    scenes = judge.choose_scenes(work.source, c["number"], split)
    work.note("judge", truth=judge_pictures(clip, portraits.truth, scenes.truth, portraits, scenes))
    for name in ("denoiser", "transformer"):
        folder = work.folder / name / "model"
        if folder.exists():
            painter = make_painter(work, read_backbone(name, parts, folder).to(work.device))
            alone, composed = (
                judge.draw_captions(painter, p.captions, work.seed, "judge") for p in (portraits, scenes)
            )
            work.note("judge", **{name: judge_pictures(clip, alone, composed, portraits, scenes)})
            rows = (portraits.truth, alone, scenes.truth, composed)
            work.show("judge", name, *(pictures[:SHOWN].cpu() for pictures in rows))


def judge_pictures(
    clip: MeasuringClip, alone: Tensor, composed: Tensor, portraits: judge.Prompts, scenes: judge.Scenes
) -> dict[str, Any]:
    """Pictures of portraits and of scenes against their captions, and against the true ones."""
    device = next(clip.parameters()).device
    embed = AlexNetEmbedding(pool=False).to(device)
    alone, composed, truth = alone.to(device), composed.to(device), portraits.truth.to(device)
    shares = {
        "own_by_caption": judge.find_own(clip, alone, portraits.captions),
        "own_by_picture": judge.find_own_picture(alone, truth, embed),
        "both_of_scene": judge.find_both(clip, composed, scenes),
    }
    found: dict[str, Any] = {}
    for name, hits in shares.items():
        interval = judge.share(hits, name)
        found[name] = {k: round(v, 4) for k, v in asdict(interval).items() if k in ("value", "low", "high")}
    found["fd_alexnet_portraits"] = round(judge.compare_features(alone, truth), 2)
    found["fd_alexnet_scenes"] = round(judge.compare_features(composed, scenes.truth.to(device)), 2)
    return found
