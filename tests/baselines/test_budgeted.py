"""The supernet of `budgeted`: gates, the choice of modules, budgets in training, and the network that is left."""

import copy
from pathlib import Path

import pytest
import torch
from method_cases import base, shake
from tiny import BACKBONES, TASKS, inputs
from torch import Tensor

from baselines.budgeted import Budgeted, draw_budgets
from mtdiff.backbones.base import Backbone
from mtdiff.costs.flops import count_flops
from mtdiff.methods.assembler import Assembler, find_assembler
from mtdiff.methods.base import CannotAssemble, CannotFold, fold_input
from mtdiff.methods.gates import GatedBlock, mix
from mtdiff.methods.supernet import close_choice, find_modules, list_drops
from mtdiff.methods.untouched import Untouched
from mtdiff.model.denoiser import Denoiser
from mtdiff.rng import torch_rng
from mtdiff.types import Condition

MIXED = [2, 0, 3, 1, 0, 3]


def make(name: str = "unet", shaken: float = 0.0, **options: object) -> Denoiser:
    torch.manual_seed(1)
    return shake(Denoiser(copy.deepcopy(base(name)), Budgeted(**options), TASKS), shaken)  # type: ignore[arg-type]


def assembler_of(denoiser: Denoiser) -> Assembler:
    found = find_assembler(denoiser.backbone.denoiser)
    assert found is not None
    return found


def fix_choice(denoiser: Denoiser, gates: Tensor) -> None:
    """In place of the assembler's choice: gates (B, M), or one row for every sample."""
    vars(assembler_of(denoiser))["forward"] = lambda task, budget: gates.expand(len(task), -1)


def half(condition: Condition) -> Condition:
    return condition.limit(0.5)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_budget_one_is_the_base_bit_for_bit(name: str) -> None:
    denoiser = make(name)
    noisy, t, condition = inputs(base(name), MIXED)
    untouched = base(name).predict(noisy, t, condition)
    for given in (condition, condition.limit(1.0)):
        assert torch.equal(denoiser(noisy, t, given), untouched)  # masked, with gradient
        with torch.no_grad():
            assert torch.equal(denoiser(noisy, t, given), untouched)  # nothing is masked


@torch.no_grad()
@pytest.mark.parametrize("name", list(BACKBONES))
def test_masked_and_materialised_networks_are_equal(name: str) -> None:
    """Random assemblies: masked in a mixed batch, skipped where all rows agree, and with the modules gone."""
    denoiser = make(name, shaken=0.05)
    assembler = assembler_of(denoiser)
    noisy, t, condition = inputs(denoiser.backbone, [1, 3])
    everything = torch.ones(1, len(assembler.plan))
    for trial in range(50 if name == "unet" else 5):
        share = 0.3 + 0.6 * trial / 50
        keep = [bool(x) for x in torch.rand(len(assembler.plan), generator=torch_rng("assembly", trial)) < share]
        rows = torch.cat([torch.tensor([keep]).float(), everything])
        fix_choice(denoiser, rows)
        masked = denoiser(noisy, t, half(condition))[:1]
        fix_choice(denoiser, rows[:1])
        skipped = denoiser(noisy[:1], t[:1], half(condition[[0]]))
        left = copy.deepcopy(denoiser.backbone)
        denoiser.method.assemble(left, keep, 1)
        fold_input(left, 0)
        gone = denoiser.method.layout(left.predict, noisy[:1], t[:1], condition[[0]])
        for found in (skipped, gone):
            assert (found - masked).abs().max() <= 1e-5 * max(1.0, float(masked.abs().max()))
        assert size_of(left) < size_of(denoiser.backbone)


def size_of(backbone: Backbone) -> int:
    return sum(p.numel() for p in backbone.denoiser.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", list(BACKBONES))
def test_an_assembled_network_is_a_method_of_its_own(name: str) -> None:
    """What `assemble` leaves has the names and shapes of `assembly` on an untouched base."""
    denoiser = make(name, shaken=0.05)
    keep, _ = assembler_of(denoiser).propose(1, 0.6)
    options = denoiser.method.assembly_options({}, keep)
    small = Denoiser(copy.deepcopy(base(name)), Budgeted(**options), TASKS[1:2])
    noisy, t, condition = inputs(denoiser.backbone, [1, 1])
    expected = denoiser(noisy, t, condition.limit(0.6))
    denoiser.method.assemble(denoiser.backbone, keep, 1)
    state = denoiser.backbone.denoiser.state_dict()
    assert set(small.adapter()) <= set(state)
    small.load_adapter({k: state[k] for k in small.adapter()})
    condition.task.zero_()
    assert (small(noisy, t, condition) - expected).abs().max() <= 1e-5
    with pytest.raises(CannotAssemble, match=r"^[^\n]{20,120}$"):
        small.method.assembly_options({}, keep)


def test_what_is_off_gets_no_gradient() -> None:
    denoiser = make(shaken=0.05)
    modules = assembler_of(denoiser).plan
    for number in (0, 3, len(modules) - 1):
        gates = torch.tensor([float(k != number) for k in range(len(modules))], requires_grad=True)
        fix_choice(denoiser, gates)
        noisy, t, condition = inputs(denoiser.backbone, MIXED)
        denoiser.zero_grad()
        denoiser(noisy, t, half(condition)).square().mean().backward()
        assert gates.grad is not None
        inside = torch.tensor([m.parent == number for m in modules])
        assert torch.equal(gates.grad != 0, ~inside)  # also of the one that is off: it may come back
        name = modules[number].name.partition("#")[0]
        if "#" not in modules[number].name:
            (gated,) = (m for m in denoiser.backbone.modules() if isinstance(m, GatedBlock) and m.number == number)
            kept = ("conv_shortcut",)
            off = {k: p.grad for k, p in gated.block.named_parameters() if not k.startswith(kept)}
        else:
            layer = next(site.module for site in denoiser.backbone.sites("ffn") if strip(site.name) == name)
            weight = layer.get_submodule("net.2").weight
            off = {"slice": weight.grad[:, -weight.shape[1] // 4 :]}  # type: ignore[index, union-attr, operator]
        assert off
        assert not any(g.any() for g in off.values() if g is not None)  # type: ignore[union-attr]


def strip(name: str) -> str:
    """A name in the gated network as the base has it."""
    return name.replace(".block.", ".")


def test_a_gate_has_the_gradient_of_mixing() -> None:
    block, skip = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    gate = torch.tensor([1.0, 0.0], requires_grad=True)
    mixed = mix(gate, block, skip)
    assert torch.equal(mixed, torch.stack([block[0], skip[1]]))
    mixed.square().sum().backward()
    other = gate.detach().clone().requires_grad_()
    smooth = other.view(-1, 1, 1) * block + (1 - other.view(-1, 1, 1)) * skip
    smooth.square().sum().backward()
    assert torch.allclose(gate.grad, other.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("choice", ["learned", "uniform", "random"])
@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_choice_fits_its_budget(name: str, choice: str) -> None:
    denoiser = make(name, shaken=0.3, choice=choice)
    assembler = assembler_of(denoiser)
    shares = [m.share for m in assembler.plan]
    fixed = 1 - sum(shares)
    for task in range(len(TASKS)):
        for budget in (1.0, 0.75, 0.5, 0.35):
            keep, _ = assembler.propose(task, budget)
            assert keep == close_choice(assembler.plan, keep)
            spent = fixed + sum(s for s, on in zip(shares, keep, strict=True) if on)
            assert spent <= max(budget, fixed) + 1e-5
            left = [s for s, m, on in zip(shares, assembler.plan, keep, strict=True) if not on and m.parent is None]
            assert all(spent + s > budget - 1e-5 for s in left)  # no block that would fit was left out
        assert assembler.propose(task, 1.0)[0] == [True] * len(shares)
    same = [assembler_of(make(name, shaken=0.3, choice=choice)).propose(1, 0.5) for _ in range(2)]
    assert same[0] == same[1]


@pytest.mark.parametrize("name", list(BACKBONES))
def test_shares_are_those_of_flops(name: str) -> None:
    """What a module's share says is what the network without it saves, counted."""
    backbone = base(name)
    modules = find_modules(backbone, 4)
    noisy, t, condition = inputs(backbone, [1])
    whole = count_flops(backbone.denoiser, lambda: backbone.predict(noisy, t, condition)).total
    residual = next((k for k, m in enumerate(modules) if m.kind == "residual"), 0)
    for number in (0, residual, len(modules) - 1):
        keep = close_choice(modules, [k != number for k in range(len(modules))])
        gone = sum(m.share for m, on in zip(modules, keep, strict=True) if not on)
        left = copy.deepcopy(backbone)
        denoiser = Denoiser(left, Budgeted(assembly="".join("01"[on] for on in keep)), TASKS[:1])
        for site in left.sites("input"):
            site.replace(copy.deepcopy(backbone).sites("input")[0].module)
        found = count_flops(left.denoiser, lambda left=left: left.predict(noisy, t, condition)).total  # type: ignore[misc]
        assert denoiser.method.budgets == ()
        assert abs(found / whole - (1 - gone)) < 1e-9


def test_budgets_are_drawn_by_the_sandwich_rule() -> None:
    sizes = (1.0, 0.75, 0.5, 0.35)
    u = torch.tensor([0.0, 0.24, 0.25, 0.49, 0.5, 0.63, 0.75, 0.999], dtype=torch.float64)
    expected = torch.tensor([1.0, 1.0, 0.35, 0.35, 1.0, 0.75, 0.5, 0.35])
    assert torch.equal(draw_budgets(u, sizes), expected)
    denoiser = make()
    _, _, condition = inputs(denoiser.backbone, MIXED)
    seeds = [5, 6, 7, 8, 9, 10]
    drawn = denoiser.method.draw_condition(condition, seeds).budget
    again = denoiser.method.draw_condition(condition[[1, 0]], [6, 5]).budget
    assert drawn is not None
    assert again is not None
    assert torch.equal(drawn[[1, 0]], again)


def test_the_largest_budget_teaches_the_others() -> None:
    """The term is the distance to the network's own prediction at budget 1, and leaves what a backward pass reads."""
    denoiser = make(shaken=0.05)
    denoiser.method.teach(denoiser.backbone, lambda: copy.deepcopy(base("unet")))
    noisy, t, condition = inputs(denoiser.backbone, MIXED)
    condition = condition.limit(0.5)
    assert condition.budget is not None
    condition.budget[0] = 1.0
    out = denoiser(noisy, t, condition)
    state = assembler_of(denoiser).choice.read()
    (term,) = denoiser.extra_errors(noisy, t, condition).values()
    with torch.no_grad():
        wanted = denoiser(noisy, t, condition.limit(1.0))
    assert torch.allclose(term, (out - wanted).square().mean((1, 2, 3)), atol=1e-6)
    assert term[0] == 0
    assert (term[1:] > 0).all()
    assert state[0] is not None
    assert not any(m.budgets for m in (Untouched(), Budgeted(assembly="1")))


def test_a_choice_that_a_configuration_can_say_folds(tmp_path: Path) -> None:
    denoiser = make(shaken=0.05)
    modules = assembler_of(denoiser).plan
    without = ("mid_block", "down_blocks.0.attentions", "up_blocks.1.attentions")
    keep = close_choice(modules, [not m.name.startswith(without) for m in modules])
    backbone: Backbone = copy.deepcopy(base("unet"))
    off = [block.site.module for block, on in zip(backbone.removable(), keep, strict=False) if not on]
    assert list_drops(backbone, off) == ["attention.0", "middle"]
    method = Budgeted(assembly="".join("01"[on] for on in keep))
    small = Denoiser(copy.deepcopy(backbone), method, TASKS[:1])
    noisy, t, condition = inputs(backbone, [0])
    expected = small(noisy, t, condition)
    method.fold(small.backbone, 0)
    small.backbone.denoiser.save_pretrained(tmp_path)  # type: ignore[operator]
    small.backbone.denoiser = type(small.backbone.denoiser).from_pretrained(tmp_path)  # type: ignore[attr-defined]
    with torch.no_grad():
        found = method.layout(small.backbone.predict, noisy, t, condition)
    assert torch.allclose(found, expected, atol=1e-5)
    keep[[m.kind for m in modules].index("residual")] = False
    odd = Denoiser(copy.deepcopy(backbone), Budgeted(assembly="".join("01"[on] for on in keep)), TASKS[:1])
    with pytest.raises(CannotFold, match=r"^[^\n]{20,100}$"):
        odd.method.fold(odd.backbone, 0)


WRONG = [
    ({"budgets": []}, r"method.budgets=\[\]: expected"),
    ({"budgets": [0.0]}, r"method.budgets=\[0.0\]: expected"),
    ({"slices": 0}, r"method.slices=0: expected at least 1"),
    ({"choice": "best"}, r"method.choice='best': expected one of learned, uniform, random"),
    ({"distil": -1.0}, r"method.distil=-1.0: expected"),
    ({"assembly": "12"}, r"method.assembly='12': expected"),
]


@pytest.mark.parametrize(("options", "line"), WRONG)
def test_wrong_options_get_one_line(options: dict, line: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{line}[^\n]*\Z"):
        Budgeted(**options)


def test_a_base_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match=r"\Amethod.slices=7: expected a divisor of the \d+ hidden units of [^\n]*\Z"):
        make(slices=7)
    with pytest.raises(ValueError, match=r"\Amethod.assembly='101': expected \d+ digits[^\n]*\Z"):
        make(assembly="101")
