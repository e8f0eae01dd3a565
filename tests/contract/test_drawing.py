"""Faster drawings: inherited features and two models in turns, on a tiny backbone of each family."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import CombinedTimestepLabelEmbeddings
from method_cases import NAMES, adapted, inputs_of, make, shake, takes
from tiny import TASKS, inputs
from tiny_families import FAMILIES
from tiny_fits import batch
from torch import Tensor

from mtdiff.backbones.base import Backbone, Level
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.drawing import Step, Switch, map_tasks, plan_steps
from mtdiff.model.inheritance import Inheritance, Store
from mtdiff.model.painter import Painter, first_noise
from mtdiff.model.sampling import SAMPLERS, Guidance, make_scheduler, sample
from mtdiff.types import Condition

LEVELS: dict[str, tuple[Level, ...]] = {  # a tiny transformer has nothing between its outermost two blocks
    **dict.fromkeys(("unet", "sdxl"), ("block", "layer", "unit")),
    **dict.fromkeys(("transformer", "joint", "label"), ("layer", "unit")),
}
PLACES = [(family, level) for family, levels in LEVELS.items() for level in levels]
GUIDANCE = {"edit": Guidance(1.5, 3), "text_to_image": Guidance(1, 3)}  # double, single, and none for the others
DEFAULT: dict[str, Any] = {"start": None, "until": 0, "spacing": "uniform"}
DEFAULT |= {"units": ("self_attention", "cross_attention", "ffn")}


def inheriting(level: Level, every: int, **options: Any) -> Inheritance:
    return Inheritance(level=level, every=every, **{**DEFAULT, **options})


@cache
def made(family: str, method: str = "mtu") -> Denoiser:
    torch.manual_seed(1)
    return shake(Denoiser(FAMILIES[family](), make(method), TASKS), 0.05)


def painter(family: str, sampler: str = "ddim", steps: int = 4, **options: Any) -> Painter:
    return Painter(denoiser=made(family), guidance=GUIDANCE, sampler=sampler, steps=steps, **options)


def draw(made: Painter, order: list[int] | None = None) -> Tensor:
    four = batch()
    noise = first_noise(four, made.denoiser.backbone.latent_shape, 0)
    if order is None:
        return made.draw(four, noise)
    picked = {k: v[order] for k, v in vars(four).items() if isinstance(v, Tensor)}
    return made.draw(replace(four, **picked, prompt=[four.prompt[i] for i in order]), noise[order])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("family", "level"), PLACES)
def test_every_step_whole_keeps_the_bits_and_every_second_does_not(family: str, level: Level, sampler: str) -> None:
    plain = draw(painter(family, sampler))
    assert torch.equal(draw(painter(family, sampler, inherit=inheriting(level, 1))), plain)
    faster = draw(painter(family, sampler, inherit=inheriting(level, 2)))
    assert torch.isfinite(faster).all()
    assert not torch.equal(faster, plain)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_switching_to_the_same_model_keeps_the_bits(family: str, sampler: str) -> None:
    plain, twin = draw(painter(family, sampler)), copy.deepcopy(made(family))
    for first in ("light", "full"):
        switch = Switch(light=twin, until=500, first=first)  # type: ignore[arg-type]
        assert torch.equal(draw(painter(family, sampler, switch=switch)), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_models_draw_the_steps_of_the_plan(family: str) -> None:
    """A light model that has other weights, and its tasks in another order, changes the steps it draws alone."""
    light = Denoiser(FAMILIES[family](), make("ia3"), tuple(reversed(TASKS)))
    switched = painter(family, switch=Switch(light=light, until=500, first="full"))
    sides = [step.side for step in switched.plan()]
    assert sides == sorted(sides)
    assert len(set(sides)) == 2
    drawn = draw(switched)
    never = draw(painter(family, switch=Switch(light=light, until=0, first="full")))
    assert torch.equal(never, draw(painter(family)))
    assert not torch.equal(drawn, never)
    with pytest.raises(ValueError, match=r"sampling.switch.light: was not trained for edit, expected text_to_image"):
        map_tasks(TASKS, ("text_to_image",))


@pytest.mark.parametrize(("family", "level"), PLACES)
def test_a_permuted_batch_inherits_its_own_features(family: str, level: Level) -> None:
    faster, order = painter(family, inherit=inheriting(level, 3)), [2, 0, 3, 1]
    torch.testing.assert_close(draw(faster, order), draw(faster)[order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "family", "level"), [(m, *p) for m in NAMES for p in PLACES if p[0] != "sdxl" and takes(m, p[0])]
)
def test_an_inherited_call_on_the_same_input_gives_the_same(family: str, level: Level, method: str) -> None:
    """With every method: what is skipped is put back where it was. The network has all its own forwards afterwards."""
    denoiser = adapted(method, family, shaken=0.05)
    forwards = [m.forward for m in denoiser.modules()]
    store, given = Store(denoiser, inheriting(level, 2)), inputs_of(denoiser, [2, 0, 3, 1])
    with torch.inference_mode():
        expected = store(*given, whole=True, keep=True)
        calls = count_calls(store)
        found = store(*given, whole=False, keep=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert calls == []
    assert [m.forward for m in denoiser.modules()] == forwards


def count_calls(store: Store) -> list[str]:
    """Names of modules inside of skipped parts that are called from here on, but for DiT's embedding of the time: the
    last layer reads the first block's."""
    inner = [module for part in store.parts for module in part.module.modules() if module is not part.module]
    time = {m for module in inner if isinstance(module, CombinedTimestepLabelEmbeddings) for m in module.modules()}
    called: list[str] = []
    for module in set(inner) - time:
        module.register_forward_hook(lambda module, args, out: called.append(type(module).__name__))
    return called


@pytest.mark.parametrize("family", FAMILIES)
def test_two_drawings_at_a_time_do_not_see_each_other(family: str) -> None:
    """The steps of two drawings, one after the other in turns, of other pictures and another number of them."""
    faster = painter(family, inherit=inheriting("layer", 2))
    apart = [draw_latents(faster, n) for n in (4, 3)]
    inner: list[Tensor] = []

    def disturb(step: int) -> None:
        if step == 1:
            inner.append(draw_latents(faster, 3))

    assert torch.equal(draw_latents(faster, 4, disturb), apart[0])
    assert torch.equal(inner[0], apart[1])


def draw_latents(made: Painter, n: int, between: Callable[[int], None] = lambda step: None) -> Tensor:
    """n latents; `between` is called before every step of theirs."""
    noise, _, condition = inputs(made.denoiser.backbone, [2, 0, 3, 1][:n], seed=n)
    predict, step = made.start(noise.device), iter(range(made.steps))

    def denoise(noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        between(next(step))
        return predict(noisy, t, condition)

    def guided(denoise: Any, x: Tensor, t: Tensor) -> Tensor:
        return denoise(x, t.expand(n), condition)

    return sample(denoise, make_scheduler("ddim", made.denoiser.backbone.scheduler), guided, noise, made.steps)  # type: ignore[arg-type]


def test_a_batch_of_another_size_is_computed_whole() -> None:
    store = Store(made("unet"), inheriting("block", 2))
    four, two = inputs(store.denoiser.backbone, [0, 1, 2, 3]), inputs(store.denoiser.backbone, [1, 2], seed=1)
    with torch.inference_mode():
        store(*four, whole=True, keep=True)
        assert torch.equal(store(*two, whole=False, keep=False), store.denoiser(*two))


PLANS = [
    ({"every": 1}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ({"every": 3}, [0, 3, 6, 9]),
    ({"every": 3, "spacing": "quad"}, [0, 1, 2, 5]),
    ({"every": 10, "spacing": "quad"}, [0]),
    ({"every": 2, "start": 650}, [0, 1, 2, 3, 5, 7, 9]),
    ({"every": 2, "until": 500}, [0, 2, 4, 5, 6, 7, 8, 9]),
    ({"every": 4, "start": 900, "until": 900}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ({"every": 2, "start": 1000, "until": 999.5}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
]


@pytest.mark.parametrize(("options", "whole"), PLANS)
def test_which_steps_are_whole(options: dict[str, Any], whole: list[int]) -> None:
    times = [950.0 - 100 * i for i in range(10)]
    found = inheriting("layer", **options).plan(times)
    assert [i for i, is_whole in enumerate(found) if is_whole] == whole


def test_a_plan_keeps_what_is_inherited_and_models_inherit_from_themselves() -> None:
    times, rule = [900.0, 700.0, 500.0, 300.0, 100.0], inheriting("layer", 2)
    plain = plan_steps(times, rule, None)
    assert plain == [Step("full", w, k) for w, k in ((True, True), (False, False)) * 2] + [Step("full", True, False)]
    switch = Switch(light=made("unet"), until=500, first="light")
    assert plan_steps(times, rule, switch) == [
        Step("light", True, True),
        Step("light", False, False),
        Step("light", True, False),
        Step("full", True, True),
        Step("full", False, False),
    ]


def test_what_has_nothing_to_skip_says_so() -> None:
    with pytest.raises(ValueError, match=r"^sampling.inherit.level=block: this PixArt has none to skip$"):
        painter("transformer", inherit=inheriting("block", 2))

    class Bare(type(FAMILIES["unet"]())):  # type: ignore[misc]
        parts = Backbone.parts

    bare = FAMILIES["unet"]()
    bare.__class__ = Bare
    with pytest.raises(ValueError, match=r"level=unit: Bare names nothing that may be inherited$"):
        bare.parts("unit", ())
