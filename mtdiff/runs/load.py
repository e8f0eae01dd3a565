"""A trained run as a library object: one call draws pictures of any of its tasks.

    from mtdiff import load_run
    model = load_run("mtu-nano")                      # the shipped adapter, or the folder of a run
    pictures = model("edit", prompt="make it a woman", image=picture)       # one, or lists of each, tasks mixed

A run folder is data, and may be someone else's: safetensors and JSON are read, only classes of this project's packages
are constructed, and nothing in it leads to other files (mtdiff/runs/adapter.py).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mtdiff.backbones.base import Backbone
from mtdiff.config import drawing
from mtdiff.config.schema import construct
from mtdiff.config.settings import Sampling
from mtdiff.config.signatures import PACKAGES
from mtdiff.errors import reason, shown
from mtdiff.files.reading import check_header
from mtdiff.methods.teaching import Teaching
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.drawing import Switch, map_tasks
from mtdiff.model.inheritance import Inheritance
from mtdiff.model.painter import Painter
from mtdiff.model.sampling import Guidance
from mtdiff.provenance import hash_weights
from mtdiff.runs.adapter import About, check_base, check_beside, choose_sampling, read_about, read_light
from mtdiff.runs.checks import check_levels
from mtdiff.runs.model import Model
from mtdiff.runs.sums import join_runs, join_tensors
from mtdiff.tasks.base import Task
from mtdiff.types import Condition

DEVICES = ("cpu", "cuda", "mps", "xpu")
FLOATS = {"F32", "F16", "BF16"}  # safetensors' names
PARAMETERS = 4e9  # of the largest base that is drawn at random for a run folder


class Refused(ValueError):
    """What is wrong with the tensors of an adapter, in a line that names the file."""


def load_run(
    folder: str | Path | Sequence[str | Path],
    device: str = "cpu",
    packages: Sequence[str] = PACKAGES,
    base: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    encoder: str | None = None,
    weights: Sequence[float] | None = None,
) -> Model:
    """Load the model that a run left. ValueError in one line where the folder does not hold one.

    folder: of a run; or a list of runs on one base that add up (`mtdiff.runs.sums`), by their `weights`, 1 each.
    packages: whose classes may be constructed. base: the base model, where it is a folder of yours or not pinned.
    sampling: options over the run's own, such as {"steps": 10} or {"inherit": {"level": "block", "every": 3}}.
    encoder: the picture encoder, likewise where it is yours.
    """
    check_device(device)
    if not isinstance(folder, str | Path):
        parts = [read_about(Path(part), packages, base, "adapter", encoder) for part in folder]
        return load_parts(parts, weights, device, packages, base, sampling or {})
    if weights is not None:
        raise ValueError(f"weights={list(weights)}: expected none beside one run")
    about = read_about(Path(folder), packages, base, encoder=encoder)
    settings = choose_sampling(about, sampling or {})
    check_levels(about.backbone, settings.inherit)
    light = read_light(settings.switch, about, packages, base)
    tasks = build_tasks(about)
    check_header(about.weights)
    with explain_failure(about):
        backbone = build_base(about, check_plan=lambda shapes: check_adapter(about.weights, shapes, about.digest))
    check_base(about, hash_weights(backbone.parameters()))
    other = None if light is None else build_light(light, backbone)
    with explain_failure(about):
        denoiser = Denoiser(backbone, construct(about.method), about.tasks)
    load_adapter(denoiser, about)
    return Model(make_painter(denoiser.to(device).eval(), settings, other), tasks)


def load_parts(
    parts: Sequence[About],
    weights: Sequence[float] | None,
    device: str,
    packages: Sequence[str],
    base: str | None,
    sampling: Mapping[str, Any],
) -> Model:
    """Load several runs as the one model that they add up to."""
    about = join_runs(parts, weights)
    settings = choose_sampling(about, sampling)
    check_levels(about.backbone, settings.inherit)
    light = read_light(settings.switch, about, packages, base)
    for part in parts:
        check_header(part.weights)
    with explain_failure(about):
        backbone = build_base(about)
    digest = hash_weights(backbone.parameters())
    tensors = [read_part(part, backbone, digest) for part in parts]
    other = None if light is None else build_light(light, backbone)
    with explain_failure(about):
        denoiser = Denoiser(backbone, construct(about.method), about.tasks)
    for part in parts:
        check_beside(part, denoiser.method.beside)
    denoiser.load_adapter(join_tensors(tensors))
    return Model(make_painter(denoiser.to(device).eval(), settings, other), build_tasks(about))


def read_part(about: About, base: Backbone, digest: str) -> dict[str, Tensor]:
    """The adapter of a run, once it is known to fit the base. base: untouched; digest: the hash of its weights."""
    check_base(about, digest)
    return read_adapter(about.weights, plan_adapter(base, about), about.digest)


def make_painter(denoiser: Denoiser, sampling: Sampling, light: Denoiser | None = None) -> Painter:
    """Make a painter of a run's settings. light: the model that `sampling.switch` names."""
    inherit = None if sampling.inherit is None else Inheritance(**vars(drawing.Inherit.read(sampling.inherit)))
    switch = None
    if (light is None) != (sampling.switch is None):
        raise ValueError("sampling.switch: expected null here, where no other run is read")
    if light is not None and sampling.switch is not None:
        named = drawing.Switch.read(sampling.switch)
        switch = Switch(light=light, until=named.until, first=named.first)
    return Painter(
        denoiser=denoiser,
        guidance={task: Guidance(**scales) for task, scales in sampling.guidance.items()},
        sampler=sampling.sampler,
        steps=sampling.steps,
        keep_known=sampling.keep_known,
        inherit=inherit,
        switch=switch,
        budget=sampling.budget,
    )


def build_light(about: About, base: Backbone) -> Denoiser:
    """The other model of a drawing, on a copy of the untouched base; only the denoising network is copied."""
    check_base(about, hash_weights(base.parameters()))
    around = {id(module): module for module in base.children() if module is not base.denoiser}
    with explain_failure(about):
        light = Denoiser(copy.deepcopy(base, around), construct(about.method), about.tasks)
    check_header(about.weights)
    load_adapter(light, about)
    return light.eval()


def build_teacher(about: About, base: Backbone, tasks: Sequence[str]) -> Teaching:
    """What a run predicts, for a network in training that numbers its tasks so. base: untouched."""
    denoiser = build_light(about, base)
    if denoiser.method.process is not None:
        raise ValueError(
            f"method.teacher={shown(about.path.parent)}: mixes others into pictures, expected one that does not"
        )
    ids = map_tasks(tasks, denoiser.tasks)  # (T,)

    def predict(noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return denoiser(noisy, t, replace(condition, task=ids.to(condition.task.device)[condition.task]))

    return Teaching(denoiser.backbone, predict, denoiser.method.layout)


def check_device(device: str) -> None:
    try:
        if torch.device(device).type not in DEVICES:
            raise ValueError(f"device={shown(device)}: expected one of {', '.join(DEVICES)}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={shown(device)}: not usable here ({reason(error)})") from None


def build_tasks(about: About) -> dict[str, Task]:
    """Build the tasks of a run, by name. Their constructors check values."""
    try:
        return {name: construct(about.content["task"][name]) for name in about.tasks}
    except ValueError as error:
        raise ValueError(f"{about.path}: task: {error}") from None


@contextmanager
def explain_failure(about: About) -> Iterator[None]:
    """One line in place of whatever a library raises: an architecture is free, and its numbers may be bad."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{about.path}: cannot be built ({kind}{shown(error, 500)})") from None


def build_denoiser(about: About) -> Denoiser:
    """The base with the method on it, its adapter still as the method starts it."""
    return Denoiser(build_base(about), construct(about.method), about.tasks)


def build_base(about: About, check_plan: Callable[[Mapping[str, Tensor]], None] = lambda shapes: None) -> Backbone:
    """The base of a run. check_plan: refuses the shapes of an adapter on it, before anything of that size is made."""
    if about.backbone.get("weights") == "meta":
        raise ValueError("backbone.weights=meta: has shapes alone, no weights")
    if about.backbone.get("weights") != "random":
        base = construct(about.backbone)
        check_plan(plan_adapter(base, about))
        return base
    shapes = construct({**about.backbone, "weights": "meta"})
    size = sum(p.numel() for p in shapes.parameters())
    if size > PARAMETERS:
        raise ValueError(f"backbone.architecture: {size} parameters, expected at most {PARAMETERS:.0f}")
    check_plan(plan_adapter(shapes, about))
    return construct(about.backbone)


def plan_adapter(base: Backbone, about: About) -> dict[str, Tensor]:
    """Names and shapes of the adapter that a run's method has on a base, which stays as it is; no memory is taken."""
    shapes: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), False) for p in base.parameters()}
    shapes |= {id(b): b.to("meta") for b in base.buffers()}
    copied = copy.deepcopy(base, shapes)  # which takes what stands in `shapes` for what it has copied already
    return Denoiser(copied, construct(about.method), about.tasks).adapter()


def load_adapter(denoiser: Denoiser, about: About) -> None:
    """Put the run's adapter into a denoiser of the same method, base and tasks."""
    check_beside(about, denoiser.method.beside)
    denoiser.load_adapter(read_adapter(about.weights, denoiser.adapter(), about.digest))


def check_adapter(path: Path, expected: Mapping[str, Tensor], digest: str) -> None:
    """Refuse a file whose header has not the names, shapes and types of `expected`, of which no value is looked at.

    digest: of the `adapter.json` beside it; files of one run carry the same (older ones, none).
    """
    with open_adapter(path) as file:
        odd = sorted(set(expected) ^ set(file.keys()))
        if odd:
            belongs = f"{len(odd)} tensors do not belong to this method and base, first {shown(odd[0])!r}"
            raise Refused(f"{path}: {belongs}")
        for name, own in expected.items():
            found = file.get_slice(name)
            _check_tensor(f"{path}: {name}", found.get_shape(), found.get_dtype(), own)
        if (file.metadata() or {}).get("about", digest) != digest:
            raise Refused(f"{path}: was made for another method, base or list of tasks than adapter.json says")


def read_adapter(path: Path, expected: Mapping[str, Tensor], digest: str) -> dict[str, Tensor]:
    """The tensors of an adapter, once `check_adapter` has passed it; all of their values are finite."""
    check_adapter(path, expected, digest)
    with open_adapter(path) as file:
        state = {name: file.get_tensor(name) for name in expected}
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} holds values that are not finite")
    return state


@contextmanager
def open_adapter(path: Path) -> Iterator[Any]:
    check_header(path)
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise Refused(f"{path}: cannot be read ({reason(error)})") from None


def _check_tensor(name: str, shape: Sequence[int], dtype: str, own: Tensor) -> None:
    if tuple(shape) != tuple(own.shape):
        raise Refused(f"{name} has shape {tuple(shape)}, expected {tuple(own.shape)}")
    if own.is_floating_point() and dtype not in FLOATS:
        raise Refused(f"{name} has type {dtype}, expected one of {', '.join(sorted(FLOATS))}")
