"""The contract of every task that the configuration names: from the shipped set, mixed freely, under every method."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from method_cases import NAMES, make, shake
from tiny import tiny_unet
from torch import Tensor

from baselines.trivial import REFERENCES
from mtdiff.config.schema import construct
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import streams
from mtdiff.model.conditioning import encode_condition
from mtdiff.model.denoiser import Denoiser
from mtdiff.tasks.base import Task
from mtdiff.tasks.takes import Takes
from mtdiff.types import SPLITS, Batch, Example, Split

CONFIG: Any = yaml.safe_load((Path(__file__).parents[2] / "experiments" / "configs" / "config.yaml").read_text())
TASKS: dict[str, Task] = {name: construct(node) for name, node in CONFIG["task"].items()}
DEFAULT = ["text_to_image", "edit", "super_resolution", "inpaint"]
SIDE = 16


@cache
def examples(split: Split = "train", seed: int = 0) -> list[Example]:
    """Two examples of every task, task by task."""
    made = streams(EmojiSource(size=SIDE), list(TASKS.values()), split, seed)
    return [stream.example(n, k) for k, stream in enumerate(made) for n in range(2)]


def test_the_default_run_has_the_four_tasks_of_the_paper() -> None:
    assert CONFIG["tasks"] == list(CONFIG["weights"]) == list(TASKS)[:4] == DEFAULT


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_named_as_its_line(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert task.metrics
    assert set(task.references) <= set(REFERENCES)
    assert sum(task.needs.values()) == pytest.approx(1)
    assert Takes.of(task).image == (name not in ("text_to_image", "joint_label", "reference"))


@pytest.mark.parametrize("split", SPLITS)
def test_the_shipped_set_feeds_every_task(split: Split) -> None:
    for example in examples(split):
        assert example.target.shape == example.source.shape == (3, SIDE, SIDE)
        assert not (example.source * example.mask).any()
        assert max(example.target.abs().max(), example.source.abs().max()) <= 1


def test_examples_are_a_function_of_their_number_alone() -> None:
    again = streams(EmojiSource(size=SIDE), list(reversed(TASKS.values())), "train", 0)
    first = {(e.task, e.key): e for e in examples()}
    for k, stream in enumerate(reversed(again)):
        for n in (1, 0):
            e = stream.example(n, k)
            same = first[k, e.key]
            assert torch.equal(e.source, same.source)
            assert torch.equal(e.target, same.target)
            assert (e.seed, e.prompt) == (same.seed, same.prompt)


@torch.no_grad()
def predict(denoiser: Denoiser, chosen: list[int]) -> Tensor:
    """Predictions for some of `examples`, each from noise and time of its own."""
    rng = torch.Generator().manual_seed(0)
    noise, t = torch.randn(2 * len(TASKS), *denoiser.backbone.latent_shape, generator=rng), torch.arange(0, 1000, 37)
    batch = Batch.collate([examples()[i] for i in chosen])
    return denoiser(noise[chosen], t[chosen], encode_condition(denoiser.backbone, batch))


@pytest.mark.parametrize("name", NAMES)
def test_all_tasks_mix_in_a_batch(name: str) -> None:
    """A permuted batch gives the permuted result, and a mixed batch what its tasks give one by one."""
    torch.manual_seed(0)
    denoiser = shake(Denoiser(tiny_unet(size=SIDE), make(name), list(TASKS)), 0.05)
    everything = list(range(2 * len(TASKS)))
    whole = predict(denoiser, everything)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(1)).tolist()
    torch.testing.assert_close(predict(denoiser, order), whole[order], atol=1e-5, rtol=1e-5)
    for k in range(len(TASKS)):
        own = [2 * k, 2 * k + 1]
        torch.testing.assert_close(predict(denoiser, own), whole[own], atol=1e-5, rtol=1e-5)
