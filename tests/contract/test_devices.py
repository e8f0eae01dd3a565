"""Every method and backbone on a GPU that is not there: fake tensors know shapes and devices, and no values.

What is forgotten on the CPU fails here as it would on the device, and so does float64, which Apple's GPUs do not have.
"""

import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from method_cases import CASES, adapted, inputs_of, takes
from tiny import BACKBONES, TASKS, inputs
from tiny_fits import batch, settings
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mtdiff.backbones.diffusion import Diffusion
from mtdiff.methods.layout import Canvas
from mtdiff.metrics.pictures import psnr, ssim
from mtdiff.model.conditioning import Dropout
from mtdiff.model.denoiser import Denoiser
from mtdiff.training.balancing import gram_matrix
from mtdiff.training.module import MultiTaskModule, sum_per_task
from mtdiff.types import Text, to_double

DEVICE = "cuda"
NOISY = "one_pic train=full"  # its noise is drawn from the values of the latents


class NoDouble(TorchDispatchMode):
    """Refuses tensors of 64-bit floats on the device, as Apple's GPUs do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            double = isinstance(x, Tensor) and x.device.type == DEVICE and x.dtype == torch.float64
            if double and not called_by("diffusers"):  # which asks for the kind of device itself
                raise TypeError(f"{func}: there is no float64")
        return out


def called_by(package: str) -> bool:
    return any(f"/{package}/" in frame.filename for frame in traceback.extract_stack())


@contextmanager
def fake_device() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True), NoDouble(), torch.no_grad():
        yield


def moved(x: Tensor, device: str = DEVICE) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=device)


def move(module: nn.Module) -> None:
    """As `module.to(device)`, which cannot take real parameters to a fake device."""
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, value in store.items():
                if value is not None:
                    fake = moved(value)
                    store[name] = nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake


def halves(self: Canvas, condition: Any, beside: Any, alone: Any) -> Tensor:
    """In place of looking which samples have a source, of which fake tensors know nothing."""
    rows = torch.arange(len(condition.mask), device=condition.mask.device)
    return torch.cat([beside(rows[:2]), alone(rows[2:])])


@pytest.mark.parametrize(("case", "backbone"), [(c, b) for c in CASES for b in BACKBONES if c != NOISY and takes(c, b)])
def test_a_step_stays_on_its_device(case: str, backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Canvas, "_in_two", halves)
    denoiser = adapted(case, backbone)
    noisy, t, condition = inputs_of(denoiser, [2, 0, 3, 1])
    with fake_device():
        move(denoiser)
        on_device = condition._map(moved)
        noisy, t = moved(noisy), moved(t)
        prediction = denoiser(noisy, t, on_device)
        errors = denoiser.errors(noisy, t, on_device, noisy)
    assert (prediction.device.type, prediction.shape) == (DEVICE, noisy.shape)
    assert (errors.device.type, errors.shape) == (DEVICE, (4,))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_stands_around_the_denoiser_does_too(backbone: str) -> None:
    """Encoding, noise, dropout, sums per task, decoding, and what judges by pixels."""
    made = BACKBONES[backbone]()
    prompts = ["a", "b", "c", "d"]
    noisy, t, condition = inputs(made, [2, 0, 3, 1])
    diffusion, four = Diffusion(made.scheduler), batch()
    with fake_device():
        move(made)
        on_device = condition._map(moved)
        latents, t = moved(noisy), moved(t)
        found = [made.encode(moved(four.target)), made.decode(latents), made.embed(prompts).tokens]
        found += [f(latents, latents, t) for f in (diffusion.noisy, diffusion.target)]
        found += [diffusion.clean_error(t), diffusion.snr(t)]
        empty = Text(on_device.text[:1], {k: v[:1] for k, v in on_device.extra.items()})
        found.append(Dropout()(on_device, empty, torch.empty(4, device=DEVICE)).text)
        found.append(sum_per_task(latents.mean((1, 2, 3)), on_device.task, 4))
    assert {x.device.type for x in found} == {DEVICE}


def test_sums_of_squares_are_float64_where_the_device_has_it_and_on_the_cpu_elsewhere() -> None:
    with FakeTensorMode():
        for device, place in (("cuda", "cuda"), ("mps", "cpu"), ("cpu", "cpu")):
            found = to_double(torch.empty(3, device=device))
            assert (found.device.type, found.dtype) == (place, torch.float64)
        pictures = torch.empty(2, 3, 16, 16, device=DEVICE)
        judged = [psnr(pictures, pictures), ssim(pictures, pictures), gram_matrix([[pictures], [pictures]])]
    assert {x.dtype for x in judged} == {torch.float64}


def test_a_forgotten_device_is_found() -> None:
    """The test of the tests."""
    denoiser = adapted("mtu", "unet")
    noisy, t, condition = inputs(denoiser.backbone, [2, 0])
    with fake_device():
        move(denoiser)
        noisy, t, here = moved(noisy), moved(t), condition._map(lambda x: moved(x, "cpu"))
        with pytest.raises(Exception, match="device"):
            denoiser(noisy, t, here)
        with pytest.raises(TypeError, match="there is no float64"):
            noisy.double()


class Waits(TorchDispatchMode):
    """Counts what a GPU's queue would have to run empty for: numbers that Python reads, and shapes made of values."""

    NAMES = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in self.NAMES or (func.name() == "aten::index.Tensor" and has_booleans(args[1])):
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


def has_booleans(indices: Any) -> bool:
    return any(i is not None and i.dtype == torch.bool for i in indices)


@pytest.mark.parametrize("case", CASES)
def test_how_often_a_step_waits_for_the_device(case: str) -> None:
    """A call of the denoiser never does, but for ONE-PIC, which has to know which samples have a source."""
    denoiser = adapted(case, "unet")
    noisy, t, condition = inputs_of(denoiser, [2, 0, 3, 1])
    with torch.no_grad(), Waits() as waits:
        denoiser.errors(noisy, t, condition, noisy)
    if not case.startswith("one_pic"):
        assert waits.found == []
    assert len([name for name in waits.found if name == "aten::nonzero"]) <= 2  # both on the CPU, after one copy


@pytest.mark.parametrize("case", ["joint", "joint label=E"])
def test_mixing_modalities_in_training_waits_for_nothing(case: str) -> None:
    """Neither to see which samples have a modality, nor whether there is room for a label."""
    denoiser = adapted(case, "unet")
    noisy, t, condition = inputs_of(denoiser, [2, 0, 3, 1])
    process, states = denoiser.method.process, {"joint_masked": [1, 0, 2, 0], "joint_label": [0, 5, -1, 128]}
    assert process is not None
    brought = replace(condition, extra={name: torch.tensor(values) for name, values in states.items()})
    with Waits() as waits:
        mixed, given = process.mix(noisy, t, brought)
        denoiser(mixed, t, given)
        denoiser.method.extra_errors(denoiser.backbone, mixed, t, given)
    assert waits.found == []


def test_a_training_step_waits_once_to_encode(tiny_unet: Any) -> None:
    """For which samples have a source; its losses are told to the loggers apart from that."""
    denoiser = Denoiser(tiny_unet, adapted("lora_ffn", "unet").method.__class__(), TASKS)
    module = MultiTaskModule(denoiser, settings())
    module.empty_text()
    with Waits() as waits:
        module.training_errors(batch())
    assert waits.found == ["aten::nonzero"]


def test_signals_that_a_system_lacks_are_not_needed() -> None:
    """As on Windows: everything that draws and trains is imported without SIGUSR1 and SIGCHLD."""
    program = """
import enum, signal
real = signal.Signals
names = {k: int(v) for k, v in real.__members__.items() if k not in ("SIGUSR1", "SIGCHLD")}
signal.Signals = enum.IntEnum("Signals", names)
del signal.SIGUSR1, signal.SIGCHLD
import mtdiff, mtdiff.runs.execute, mtdiff.data.module
from mtdiff.training.signals import ENDING, Signals
with Signals():
    print([int(s) for s in ENDING])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([int(signal.SIGTERM), int(signal.SIGINT)])
