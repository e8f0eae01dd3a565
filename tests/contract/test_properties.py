"""What holds for every input, tried on inputs drawn by hypothesis (the same ones each time)."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mtdiff.config.schema import check, construct
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Cycle, Mixture, Stream, cycle_counts
from mtdiff.errors import shown
from mtdiff.files.reading import read_json, read_yaml
from mtdiff.methods.layout import Canvas, ChannelConcat, Layout
from mtdiff.results.record import Result, Row
from mtdiff.results.schema import LARGEST
from mtdiff.results.summary import summarise
from mtdiff.tasks.base import Task
from mtdiff.tasks.degradations import Bicubic, RealESRGAN
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.inpaint import Inpaint
from mtdiff.tasks.masks import COVERAGE, random_hole
from mtdiff.tasks.super_resolution import SuperResolution
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.types import Batch, Condition, Example, Split

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
repeatable = settings(settings.get_profile("repeatable"))
few = settings(settings.get_profile("repeatable"), max_examples=12)

TASKS: list[Task] = [TextToImage(), Edit(), SuperResolution(), Inpaint()]
SEEDS = st.integers(0, 2**32 - 1)
SPLITS = st.sampled_from(["train", "validation", "test"])


@cache
def emoji() -> EmojiSource:
    return EmojiSource()


def refusal(action: Callable[[], Any]) -> str:
    """Empty where it works, else the line of its ValueError."""
    try:
        action()
    except ValueError as error:
        line = str(error)
    else:
        return ""
    assert line
    assert "\n" not in line
    return line


def same(one: Example, other: Example) -> bool:
    pairs = ((a, vars(other)[k]) for k, a in vars(one).items())
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


# Data


@few
@given(numbers=st.lists(st.integers(0, 500), min_size=2, max_size=4), seed=SEEDS, split=SPLITS)
def test_an_example_is_its_number_alone(numbers: list[int], seed: int, split: Split) -> None:
    forth, back = (Mixture(emoji(), TASKS, [1.0] * 4, split, seed) for _ in range(2))
    first = {i: forth[i] for i in numbers}
    for i in reversed(numbers):
        assert same(first[i], back[i])


@few
@given(i=st.integers(0, 300), seed=SEEDS)
def test_examples_fill_the_same_fields(i: int, seed: int) -> None:
    example = Mixture(emoji(), TASKS, [1.0] * 4, "train", seed)[i]
    assert example.target.shape == example.source.shape == (3, 64, 64)
    assert example.mask.shape == (1, 64, 64)
    assert set(example.mask.unique().tolist()) <= {0.0, 1.0}
    assert (example.source * example.mask == 0).all()
    for picture in (example.source, example.target):
        assert -1 <= picture.min() <= picture.max() <= 1


@few
@given(n=st.integers(0, 400), seed=SEEDS, other=st.integers(1, 9))
def test_a_tasks_examples_do_not_depend_on_the_others(n: int, seed: int, other: int) -> None:
    alone = Stream(emoji(), TASKS[3], "train", seed).example(n, 0)
    mixture = Mixture(emoji(), [TASKS[0], TASKS[3]], [float(other), 1.0], "train", seed)
    assert same(alone, mixture.streams[1].example(n, 0))


WEIGHTS = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@repeatable
@given(weights=WEIGHTS, scale=st.floats(1e-3, 1e3))
def test_cycles_keep_shares(weights: list[int], scale: float) -> None:
    named = {str(k): w * scale for k, w in enumerate(weights)}
    counts = cycle_counts(named)
    assert sum(counts) <= 100
    for count, weight in zip(counts, weights, strict=True):
        assert count / sum(counts) == pytest.approx(weight / sum(weights), rel=0.0101)


@repeatable
@given(weights=WEIGHTS, seed=SEEDS, cycles=st.integers(1, 3))
def test_cycles_number_each_kind_without_gaps(weights: list[int], seed: int, cycles: int) -> None:
    cycle = Cycle({str(k): float(w) for k, w in enumerate(weights)}, (seed, "x"))
    places = range(cycles * cycle.length)
    found = {i: cycle.at(i) for i in np.random.default_rng(seed).permutation(len(places)).tolist()}
    seen: Counter[int] = Counter()
    for i in places:
        kind, before = found[i]
        assert before == seen[kind]
        seen[kind] += 1
    assert [seen[k] for k in range(len(weights))] == [cycles * count for count in cycle.counts]


@repeatable
@given(st.dictionaries(st.text(max_size=3), st.floats() | st.integers(-5, 5), min_size=1, max_size=4))
def test_any_weights_give_a_cycle_or_one_line(weights: dict[str, float]) -> None:
    line = refusal(lambda: cycle_counts(weights))
    assert "weights" in line if line else min(cycle_counts(weights)) >= 1


@repeatable
@given(seed=SEEDS, order=st.permutations(range(6)))
def test_rows_of_a_batch(seed: int, order: list[int]) -> None:
    noise = torch.Generator().manual_seed(seed)
    made = [
        Example(*torch.rand(2, 3, 4, 4, generator=noise), torch.ones(1, 4, 4), f"prompt {i}", i % 4, f"key {i}")
        for i in range(6)
    ]
    batch = Batch.collate([made[i] for i in order])
    assert batch.key == [f"key {i}" for i in order]
    chosen = batch.task == 1
    rows = batch.rows(chosen)
    assert rows.prompt == [p for p, c in zip(batch.prompt, chosen.tolist(), strict=True) if c]
    assert torch.equal(rows.source, batch.source[chosen])
    halves = Batch.cat([batch.rows(chosen), batch.rows(~chosen)])
    assert Counter(halves.key) == Counter(batch.key)


# Degradations


def noise_picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


@repeatable
@given(
    seed=SEEDS,
    scale=st.sampled_from([1, 2, 4]),
    height=st.integers(4, 20),
    width=st.integers(4, 20),
    clean=st.booleans(),
)
def test_degradations(seed: int, scale: int, height: int, width: int, clean: bool) -> None:
    picture = noise_picture(seed, scale * height, scale * width)
    before = picture.copy()
    degrade = Bicubic(scale) if clean else RealESRGAN(scale)
    once, again = (degrade(picture, np.random.default_rng(seed)) for _ in range(2))
    assert once.shape == (height, width, 3)
    assert once.dtype == np.float32
    assert 0 <= once.min() <= once.max() <= 1
    assert np.allclose(once * 255, np.rint(once * 255), atol=1e-3)
    assert np.array_equal(once, again)
    assert np.array_equal(picture, before)


@repeatable
@given(level=st.floats(0, 1, width=32), scale=st.sampled_from([2, 4]))
def test_a_clean_degradation_keeps_a_flat_picture(level: float, scale: int) -> None:
    flat = np.full((16, 16, 3), level, np.float32)
    assert np.abs(Bicubic(scale)(flat, np.random.default_rng(0)) - level).max() <= 0.51 / 255


# Masks


@settings(repeatable, max_examples=100)
@given(seed=SEEDS, height=st.integers(16, 96), width=st.integers(16, 96))
def test_holes(seed: int, height: int, width: int) -> None:
    once, again = (random_hole(height, width, np.random.default_rng(seed)) for _ in range(2))
    assert once.shape == (height, width)
    assert set(np.unique(once)) == {0, 1}
    assert COVERAGE[0] - 1e-9 <= once.mean() <= COVERAGE[1] + 1e-9
    assert np.array_equal(once, again)


# Layouts


def per_sample(packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """A stand-in for a network: looks at each sample alone, at its time and at its task."""
    shift = (t + condition.task).float().view(-1, 1, 1, 1)
    return packed[:, :4] * 2 + packed.mean((1, 2, 3), keepdim=True) + shift / 7


def conditions(seed: int, n: int) -> tuple[Tensor, Tensor, Condition]:
    noise = torch.Generator().manual_seed(seed)
    mask = torch.rand(n, 1, 4, 4, generator=noise).round()
    mask[torch.rand(n, generator=noise) < 0.4] = 1  # samples without a source
    mask[0, 0, 0, 0] = 0
    source = torch.randn(n, 4, 4, 4, generator=noise) * (1 - mask)
    task, t = torch.randint(4, (n,), generator=noise), torch.randint(1000, (n,), generator=noise)
    condition = Condition(source, mask, torch.randn(n, 3, 5, generator=noise), task)
    return torch.randn(n, 4, 4, 4, generator=noise), t, condition


@pytest.mark.parametrize("make", [ChannelConcat, Canvas])
@repeatable
@given(seed=SEEDS, order=st.permutations(range(5)))
def test_layouts_permute_with_the_batch(make: Callable[[], Layout], seed: int, order: list[int]) -> None:
    noisy, t, condition = conditions(seed, 5)
    there = make()(per_sample, noisy, t, condition)
    permuted = make()(per_sample, noisy[order], t[order], condition[order])
    assert torch.allclose(permuted, there[order], atol=1e-6)


@pytest.mark.parametrize("make", [ChannelConcat, Canvas])
@repeatable
@given(seed=SEEDS, n=st.integers(1, 4))
def test_layouts_give_back_what_they_packed(make: Callable[[], Layout], seed: int, n: int) -> None:
    noisy, t, condition = conditions(seed, n)
    assert torch.equal(make()(lambda packed, t, condition: packed[:, :4], noisy, t, condition), noisy)


@repeatable
@given(seed=SEEDS, n=st.integers(1, 4))
def test_channels_are_noisy_source_mask(seed: int, n: int) -> None:
    noisy, t, condition = conditions(seed, n)
    seen: list[Tensor] = []
    ChannelConcat()(lambda packed, t, condition: seen.append(packed) or packed[:, :4], noisy, t, condition)
    (packed,) = seen
    assert packed.shape[1] == 4 + ChannelConcat().extra_channels(4)
    assert torch.equal(packed[:, 4:8], condition.source)
    blind = condition.mask.flatten(1).amin(1) == 1
    assert (packed[blind, 8:] == 0).all()
    assert torch.equal(packed[~blind, 8:], condition.mask[~blind])


@repeatable
@given(seed=SEEDS, cut=st.integers(1, 4))
def test_conditions_come_apart_and_together(seed: int, cut: int) -> None:
    _, _, condition = conditions(seed, 5)
    together = Condition.cat([condition[:cut], condition[cut:]])
    for name, value in vars(condition).items():
        assert not isinstance(value, Tensor) or torch.equal(value, vars(together)[name])


# Result files

TEXTS = st.text(max_size=8)
NAMES = st.text(st.characters(categories=["L", "M", "N", "P", "S"]), min_size=1, max_size=8)  # printable
NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.none()
ROWS = st.builds(
    Row,
    task=NAMES,
    metric=NAMES,
    direction=st.sampled_from(["lower", "higher"]),
    value=NUMBERS,
    n=st.integers(0, 99),
    low=NUMBERS,
    high=NUMBERS,
    reason=st.text(min_size=1, max_size=5),
)
RESULTS = st.builds(
    Result,
    method=NAMES,
    backbone=NAMES,
    data=NAMES,
    tasks=st.lists(NAMES, max_size=3),
    seed=st.integers(-(2**63), 2**63 - 1),
    status=st.sampled_from(["complete", "failed", "interrupted"]),
    rows=st.lists(ROWS, max_size=3),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def comparable(value: float | None) -> bool:
    return value is not None and abs(value) <= LARGEST


@repeatable
@given(RESULTS)
def test_results_come_back(tmp_path: Path, result: Result) -> None:
    result.save(tmp_path / "result.json")
    loaded = Result.load(tmp_path / "result.json")
    for before, after in zip(result.rows, loaded.rows, strict=True):
        assert after.value == (before.value if comparable(before.value) else None)
        assert (after.task, after.metric, after.n) == (before.task, before.metric, before.n)
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "result.json").read_bytes()


@settings(repeatable, max_examples=150)
@given(JSON)
def test_any_json_is_a_result_or_one_line(tmp_path: Path, content: Any) -> None:
    (tmp_path / "result.json").write_text(json.dumps(content))
    refusal(lambda: Result.load(tmp_path / "result.json"))


@settings(repeatable, max_examples=150)
@given(result=RESULTS, data=st.data())
def test_a_result_with_any_value_anywhere(tmp_path: Path, result: Result, data: st.DataObject) -> None:
    content = json.loads(json.dumps(asdict(result)))
    key = data.draw(st.sampled_from(sorted(content)))
    content[key] = data.draw(JSON)
    (tmp_path / "result.json").write_text(json.dumps(content))
    refusal(lambda: summarise([Result.load(tmp_path / "result.json")]))


@settings(repeatable, max_examples=100)
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_file_is_read_or_refused(tmp_path: Path, content: str | bytes) -> None:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    (tmp_path / "file").write_bytes(data)
    refusal(lambda: read_json(tmp_path / "file"))
    refusal(lambda: read_yaml(tmp_path / "file"))


# Configurations


@settings(repeatable, max_examples=150)
@given(option=st.sampled_from(["experts", "granularity", "top_k", "rescale", "router_input"]), value=JSON)
def test_any_value_of_an_option_is_taken_or_refused(option: str, value: Any) -> None:
    assume(option != "experts" or not isinstance(value, int) or value < 1000)
    node = {"_target_": "mtdiff.methods.mtu.MTU", option: value}
    line = refusal(lambda: (check({"method": node}), construct(node)))
    assert not line or f"method.{option}" in line


@repeatable
@given(st.text() | st.binary())
def test_shown_values_are_one_printable_line(value: str | bytes) -> None:
    text = shown(value)
    assert len(text) <= 1000
    assert "\n" not in text
    assert text.isprintable()
