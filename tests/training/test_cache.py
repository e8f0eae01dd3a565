"""Cached encodings: the same losses, only for the encoders they were made by, nothing lost when the disk is full."""

import json
import re
import resource
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from forked import run_script
from lightning.pytorch.loggers import CSVLogger
from little_sets import all_four, picture, write_folder
from tiny import TASKS, tiny_unet
from tiny_fits import settings

from mtdiff.backbones.base import Backbone
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Mixture
from mtdiff.data.module import MixtureModule
from mtdiff.data.tables.source import TableSource
from mtdiff.errors import RunError
from mtdiff.methods.mtu import MTU
from mtdiff.model.conditioning import encode_condition
from mtdiff.model.denoiser import Denoiser
from mtdiff.tasks.base import Task
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.inpaint import Inpaint
from mtdiff.tasks.super_resolution import SuperResolution
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.training import cache as storage
from mtdiff.training.cache import Cache, hash_pictures, hash_text, open_user_cache
from mtdiff.training.encodings import (
    CachedEncoder,
    Chosen,
    fill_cache,
    find_lasting,
    load_batches,
    one_epoch,
    plan_parts,
)
from mtdiff.training.module import MultiTaskModule
from mtdiff.types import Batch

ROOT = Path(__file__).parents[2]
MADE: list[Task] = [TextToImage(), Edit(), SuperResolution(), Inpaint()]
CPU = torch.device("cpu")


def sets(folder: Path) -> MixtureModule:
    source = TableSource(**all_four(folder, 12), size=16)  # type: ignore[arg-type]
    return MixtureModule(source, {t.name: t for t in MADE}, batch_size=8, workers=0)


def filled(folder: Path, backbone: Backbone, mixture: Mixture, count: int, keep: Any = "all") -> CachedEncoder:
    encoder = CachedEncoder(backbone, Cache(folder, backbone, "32-true", create=True))
    for made in load_batches(Chosen(mixture, plan_parts(mixture, keep)), range(count), 8, 0):
        fill_cache(encoder, made, CPU)
    encoder.cache.write()
    return encoder


def trained(data: MixtureModule, folder: Path, cache: Path | None) -> tuple[Path, MultiTaskModule]:
    """Four steps of MTU; where its losses are, and the module."""
    torch.manual_seed(0)
    denoiser = Denoiser(tiny_unet(), MTU(experts=2), TASKS)
    found = None if cache is None else CachedEncoder(denoiser.backbone, Cache(cache, denoiser.backbone, "32-true"))
    module = MultiTaskModule(denoiser, settings(), cache=found)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=4,
        max_epochs=-1,
        logger=CSVLogger(folder, name=None, version=""),
        log_every_n_steps=1,
        limit_val_batches=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return folder / "metrics.csv", module


def rows(path: Path) -> list[dict[str, float]]:
    names, *lines = (line.split(",") for line in path.read_text().splitlines())
    return [{n: float(v) for n, v in zip(names, line, strict=True) if v and "loss" in n} for line in lines]


def test_training_with_a_cache_gives_the_same_losses(tmp_path: Path) -> None:
    data = sets(tmp_path / "sets")
    filled(tmp_path / "cache", tiny_unet(), data.train, 32)
    plain, without = trained(data, tmp_path / "plain", None)
    looked_up, module = trained(data, tmp_path / "looked up", tmp_path / "cache")
    assert module.cache is not None
    assert without.cache is None
    (pictures, asked), (texts, prompts) = module.cache.found["pictures"], module.cache.found["texts"]
    assert (pictures, texts) == (asked, prompts)
    assert prompts == 32
    assert asked > 32
    assert "32 of 32 texts were found there" in module.cache.report()
    one, two = rows(plain), rows(looked_up)
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
        assert len(a) == 5
    theirs = without.denoiser.adapter()
    for name, value in module.denoiser.adapter().items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=1e-3)


def test_what_is_not_there_is_encoded(tmp_path: Path) -> None:
    data, backbone = sets(tmp_path / "sets"), tiny_unet()
    encoder = filled(tmp_path / "cache", backbone, data.train, 8)
    batch = Batch.collate([data.train[i] for i in range(4, 20)])
    ours, theirs = encode_condition(encoder, batch), encode_condition(backbone, batch)
    torch.testing.assert_close(ours.source, theirs.source, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.text, theirs.text, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder.encode(batch.target), backbone.encode(batch.target), atol=1e-5, rtol=1e-5)
    for hits, asked in encoder.found.values():
        assert 0 < hits < asked


def test_nothing_is_computed_twice(tmp_path: Path) -> None:
    data, backbone = sets(tmp_path / "sets"), tiny_unet()
    first = filled(tmp_path / "cache", backbone, data.train, 24)
    before = sorted(p.name for p in (tmp_path / "cache").iterdir())
    again = filled(tmp_path / "cache", backbone, data.train, 24)
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == before
    for kind, shelf in first.cache.shelves.items():
        assert len(again.cache.shelves[kind]) == len(shelf) > 0


# Hashes


def test_hashes_tell_pictures_apart() -> None:
    pictures = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    hashes = hash_pictures(pictures)
    assert len(set(hashes)) == 4
    assert hash_pictures(pictures.flip(0)) == hashes[::-1]
    changed = pictures[:1].repeat(768, 1, 1, 1).flatten(1)
    changed[torch.arange(768), torch.arange(768)] += 1e-3
    assert len({*hash_pictures(changed.view(-1, 3, 16, 16)), hashes[0]}) == 769
    assert hash_pictures(pictures[:1].transpose(2, 3)) != hashes[:1]
    assert hash_text("a") != hash_text("b")


# What lasts


def test_what_lasts_is_found_by_drawing(tmp_path: Path) -> None:
    data = sets(tmp_path)
    everything = {"target", "source", "prompt"}
    redrawn = {"target", "prompt"}
    assert plan_parts(data.train, "lasting") == {
        ("text_to_image", "caption"): everything,
        ("edit", "edit"): everything,
        ("super_resolution", "picture"): redrawn,
        ("inpaint", "removal"): everything,
        ("inpaint", "picture"): redrawn,
    }
    drawn_anew = Mixture(EmojiSource(size=32), [Edit()], [1.0])
    assert "target" not in find_lasting(drawn_anew.streams[0], "edit")
    assert set(plan_parts(drawn_anew, "all").values()) == {frozenset(everything)}


def test_one_of_five_captions_lasts(tmp_path: Path) -> None:
    lines = [{"file_name": f"{i}.png", "captions": list("abcde")} for i in range(3)]
    source = TableSource(
        caption=str(write_folder(tmp_path, lines, {f"{i}.png": picture(i) for i in range(3)})), size=16
    )
    assert "prompt" in find_lasting(Mixture(source, [TextToImage()], [1.0]).streams[0], "caption")


def test_an_epoch_holds_every_record(tmp_path: Path) -> None:
    mixture = sets(tmp_path).train
    shown: dict[Any, set[int]] = {}
    for i in range(one_epoch(mixture)):
        k, n = mixture.cycle.at(i)
        draw = mixture.streams[k].draw(n)
        shown.setdefault((k, draw.need), set()).add(draw.index)
    for k, stream in enumerate(mixture.streams):
        for need in stream.needs:
            assert len(shown[k, need]) == stream.sizes[need]


# Refusals


def test_other_encoders_are_refused(tmp_path: Path) -> None:
    Cache(tmp_path, tiny_unet(), "32-true", create=True)
    Cache(tmp_path, tiny_unet(), "32-true")
    with pytest.raises(ValueError, match="made by other encoders: weights is not"):
        Cache(tmp_path, tiny_unet(seed=1), "32-true")
    with pytest.raises(ValueError, match="made by other encoders: size is not 32"):
        Cache(tmp_path, tiny_unet(size=32), "32-true")
    with pytest.raises(ValueError, match="made by other encoders: precision is not bf16-mixed"):
        Cache(tmp_path, tiny_unet(), "bf16-mixed")
    with pytest.raises(ValueError, match=r"trainer\.precision=bf16-true: with training\.cache expected one of"):
        Cache(tmp_path, tiny_unet(), "bf16-true")
    scaled: Any = tiny_unet()
    scaled.vae.register_to_config(scaling_factor=0.5)
    with pytest.raises(ValueError, match=r"same weights, but other answers \(tokenizer, scaling\?\)"):
        Cache(tmp_path, scaled, "32-true")


def test_the_denoiser_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    Cache(tmp_path, tiny_unet(), "32-true", create=True)
    backbone = tiny_unet()
    Denoiser(backbone, MTU(experts=2), TASKS)
    Cache(tmp_path, backbone, "32-true")


def test_a_missing_cache_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no cache there; make one with: python experiments/cache\.py"):
        Cache(tmp_path / "none", tiny_unet(), "32-true")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    filled(tmp_path / "cache", tiny_unet(), sets(tmp_path / "sets").train, 8)
    (path,) = (tmp_path / "cache").glob("pictures-*")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{path.name} is broken .*; delete it"):
        Cache(tmp_path / "cache", tiny_unet(), "32-true")


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may not grow beyond what the first part needs: a true error of the system at the second, larger one."""
    data, backbone, folder = sets(tmp_path / "sets"), tiny_unet(), tmp_path / "cache"
    filled(folder, backbone, data.train, 8)
    largest = max(p.stat().st_size for p in folder.iterdir())
    kept = {p.name: p.read_bytes() for p in folder.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        with pytest.raises(RunError, match=r"cannot be written .*File too large.* are kept: make room") as error:
            filled(folder, backbone, data.train, 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == kept
    monkeypatch.setattr(storage, "BUFFER", 2000)
    again = filled(folder, backbone, data.train, 64)
    assert len(list(folder.glob("pictures-*"))) > 2
    assert len(Cache(folder, backbone, "32-true").shelves["pictures"]) == len(again.cache.shelves["pictures"])


def test_a_run_from_its_cache(tmp_path: Path) -> None:
    """nano under bfloat16, as shipped; keep=all, so that the run finds everything."""
    options = [f"training.cache={tmp_path}/cache", "training.steps=2", "training.batch_size=4", "training.workers=0"]
    options += ["trainer.accelerator=cpu", "progress=false"]
    small = ["evaluation.per_task=2", "evaluation.baselines=false", "training.validate_every=null", "sampling.steps=1"]
    small += ["training.sample_every=null", f"run_dir={tmp_path}/run"]
    said = [
        run_script(f"experiments/{script}", *given)
        for script, given in (("cache.py", [*options, "keep=all"]), ("run.py", [*options, *small]))
    ]
    assert [done.returncode for done in said] == [0, 0], [done.stdout + done.stderr for done in said]
    assert "8 examples; 4096 bytes a picture" in said[0].stdout
    found = re.search(r"cache.*: (\d+) of (\d+) pictures and (\d+) of (\d+) texts were found", said[1].stdout)
    assert found is not None, said[1].stdout
    pictures, asked, texts, prompts = map(int, found.groups())
    assert (pictures, texts) == (asked, prompts)
    assert prompts == 8
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "complete"


# The user's own cache


@pytest.fixture
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "user"))
    return tmp_path / "user"


def open_growing(backbone: Backbone) -> CachedEncoder:
    found = open_user_cache(backbone, "32-true")
    assert found is not None
    return CachedEncoder(backbone, found, grows=True)


def test_the_users_cache_grows_and_changes_no_bit(user_cache: Path, tmp_path: Path) -> None:
    """Whatever is there already: nothing, some of a batch, or all of it."""
    data, backbone = sets(tmp_path / "sets"), tiny_unet()
    batch = Batch.collate([data.train[i] for i in range(7)])
    cold = open_growing(backbone)
    first = cold.encode(batch.target), cold.embed(batch.prompt)
    cold.write()
    (folder,) = user_cache.iterdir()
    for path in folder.glob("pictures-*"):  # and two of seven alone
        path.unlink()
    some = open_growing(backbone)
    some.encode(batch.target[3:5])
    some.write()
    for encoder in (open_growing(backbone), open_growing(backbone)):
        assert torch.equal(encoder.encode(batch.target), first[0])
        assert torch.equal(encoder.embed(batch.prompt).tokens, first[1].tokens)
        encoder.write()
    warm = open_growing(backbone)
    assert torch.equal(warm.encode(batch.target), first[0])
    assert warm.found == {"pictures": [7, 7], "texts": [0, 0]}


def test_other_encoders_have_a_cache_of_their_own(user_cache: Path) -> None:
    one, other = tiny_unet(), tiny_unet()
    with torch.no_grad():
        next(other.get_submodule("vae").parameters()).add_(0.1)
    open_growing(one)
    open_growing(other)
    assert len(list(user_cache.iterdir())) == 2


def test_the_users_cache_never_ends_a_run(
    user_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken file, a full disk, a folder that cannot be made: a warning each, and everything is encoded."""
    backbone = tiny_unet()
    pictures = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoder = open_growing(backbone)
    expected = encoder.encode(pictures)
    encoder.write()
    (path,) = user_cache.glob("*/pictures-*")
    path.write_bytes(path.read_bytes()[:-100])
    again = open_growing(backbone)
    assert "is broken" in caplog.text
    assert torch.equal(again.encode(pictures), expected)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        again.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in caplog.text
    monkeypatch.setenv("MTDIFF_CACHE", str(path))  # a file
    assert open_user_cache(backbone, "32-true") is None


def test_the_users_cache_stops_growing_at_its_limit(user_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LIMIT", 1000)
    encoder = open_growing(tiny_unet())
    encoder.encode(torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    first = len(encoder.cache.shelves["pictures"])
    encoder.encode(torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    assert 0 < first == len(encoder.cache.shelves["pictures"])


def test_bfloat16_is_kept_where_it_loses_nothing() -> None:
    exact, other = torch.tensor([1.5, -0.25]), torch.tensor([1.5, 0.1])
    assert storage.shorten(exact).dtype == torch.bfloat16
    assert torch.equal(storage.shorten(other), other)


def test_prompts_that_are_cut_are_counted_when_found(user_cache: Path) -> None:
    long = "an emoji of " + "a very " * 40 + "long prompt"
    first = open_growing(tiny_unet())
    first.embed([long, "short"])
    first.write()
    second = open_growing(tiny_unet())
    for _ in range(2):
        second.embed([long, "short"])
    assert second.found["texts"] == [4, 4]
    assert long in first.backbone.cut_prompts()
    assert long in second.backbone.cut_prompts()
