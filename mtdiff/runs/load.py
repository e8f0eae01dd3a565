"""A trained run as a library object: one call draws pictures of any of its tasks.

    from mtdiff import load_run
    model = load_run("mtu-nano")                      # the shipped adapter, or the folder of a run
    pictures = model("edit", prompt="make it a woman", image=picture)       # one, or lists of each, tasks mixed

A run folder is data, and may be someone else's: safetensors and JSON are read, only classes of this project's packages
are constructed, and nothing in it leads to other files (mtdiff/runs/adapter.py).

Letters: B batch, H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mtdiff.config.schema import PACKAGES, construct, refuse
from mtdiff.config.settings import Sampling
from mtdiff.files import check_header, reason, shown
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import Painter, first_noise
from mtdiff.model.sampling import Guidance
from mtdiff.pictures import check_hole, lay_on_white, read_mask, read_pixels, upright_size
from mtdiff.runs.adapter import About, read_about
from mtdiff.tasks.base import Task
from mtdiff.types import Batch, Record

Picture = Image.Image | Tensor
DEVICES = ("cpu", "cuda", "mps", "xpu")
FLOATS = {"F32", "F16", "BF16"}  # safetensors' names
PARAMETERS = 50e9  # of the largest base that is drawn at random for a run folder


def load_run(
    folder: str | Path, device: str = "cpu", packages: Sequence[str] = PACKAGES, base: str | None = None
) -> "Model":
    """The model that a run left. ValueError in one line where the folder does not hold one.

    packages: whose classes may be constructed. base: the base model, where it is a folder of yours or not pinned.
    """
    check_device(device)
    about = read_about(Path(folder), packages, base)
    tasks = build_tasks(about)
    check_header(about.weights)
    try:
        denoiser = build_denoiser(about)
    except Exception as error:  # an architecture is free, and a library meets bad numbers with any exception
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{about.path}: cannot be built ({kind}{shown(error, 500)})") from None
    load_adapter(denoiser, about)
    return Model(make_painter(denoiser.to(device).eval(), about.sampling), tasks)


def make_painter(denoiser: Denoiser, sampling: Sampling) -> Painter:
    """A painter with the sampler, steps and guidance of a run's settings."""
    guidance = {task: Guidance(**scales) for task, scales in sampling.guidance.items()}
    return Painter(denoiser=denoiser, guidance=guidance, sampler=sampling.sampler, steps=sampling.steps)


def check_device(device: str) -> None:
    try:
        if torch.device(device).type not in DEVICES:
            raise ValueError(f"device={shown(device)}: expected one of {', '.join(DEVICES)}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={shown(device)}: not usable here ({reason(error)})") from None


def build_tasks(about: About) -> dict[str, Task]:
    """Tasks by name. Their constructors check values."""
    try:
        return {name: construct(about.content["task"][name]) for name in about.tasks}
    except ValueError as error:
        raise ValueError(f"{about.path}: task: {error}") from None


def build_denoiser(about: About) -> Denoiser:
    """The base with the method on it, its adapter still as the method starts it."""
    method, backbone = construct(about.content["method"]), about.backbone
    if backbone.get("weights") == "meta":
        raise ValueError("backbone.weights=meta: has shapes alone, no weights")
    if backbone.get("weights") == "random":
        size = sum(p.numel() for p in construct({**backbone, "weights": "meta"}).parameters())
        if size > PARAMETERS:
            raise ValueError(f"backbone.architecture: {size} parameters, expected at most {PARAMETERS:.0f}")
    return Denoiser(construct(backbone), method, about.tasks)


def load_adapter(denoiser: Denoiser, about: About) -> None:
    """Put the run's adapter into a denoiser of the same method, base and tasks."""
    denoiser.load_adapter(read_adapter(about.weights, denoiser.adapter(), about.digest))


def read_adapter(path: Path, expected: Mapping[str, Tensor], digest: str) -> dict[str, Tensor]:
    """The tensors of an adapter: names, shapes and types as `expected`, all finite.

    digest: of the `adapter.json` beside it; files of one run carry the same (older ones, none).
    """
    check_header(path)
    try:
        with safe_open(path, "pt") as file:
            odd = sorted(set(expected) ^ set(file.keys()))
            if odd:
                belongs = f"{len(odd)} tensors do not belong to this method and base, first {shown(odd[0])!r}"
                raise ValueError(f"{path}: {belongs}")
            for name, own in expected.items():
                found = file.get_slice(name)
                _check_tensor(f"{path}: {name}", found.get_shape(), found.get_dtype(), own)
            if (file.metadata() or {}).get("about", digest) != digest:
                raise ValueError(f"{path}: was made for another method, base or list of tasks than adapter.json says")
            state = {name: file.get_tensor(name) for name in expected}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({reason(error)})") from None
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} holds values that are not finite")
    return state


def _check_tensor(name: str, shape: Sequence[int], dtype: str, own: Tensor) -> None:
    if tuple(shape) != tuple(own.shape):
        raise ValueError(f"{name} has shape {tuple(shape)}, expected {tuple(own.shape)}")
    if own.is_floating_point() and dtype not in FLOATS:
        raise ValueError(f"{name} has type {dtype}, expected one of {', '.join(sorted(FLOATS))}")


class Model:
    """Checks requests and draws them. tasks: by name, in the order of their ids."""

    def __init__(self, painter: Painter, tasks: dict[str, Task]) -> None:
        self.painter, self.tasks = painter, tasks
        self.takes = {name: Takes.of(task) for name, task in tasks.items()}

    @property
    def size(self) -> int:
        """Side of its pictures in pixels."""
        return self.painter.denoiser.backbone.size

    @torch.no_grad()
    def __call__(
        self,
        task: str | Sequence[str],
        prompt: str | Sequence[str] = "",
        image: Picture | Sequence[Picture | None] | None = None,
        mask: Picture | Sequence[Picture | None] | None = None,
        *,
        seed: int = 0,
        guidance: Guidance | None = None,
    ) -> list[Image.Image]:
        """Pictures for one request or several; single values serve every request.

        image: PIL, or (3, H, W) in [-1, 1]; resized to the model's size. mask: PIL or (1, H, W) in [0, 1], from 0.5 on
        drawn anew (of layers: `mtdiff.pictures`). seed: request i starts from the noise of (seed, i).
        guidance: over the run's own.
        """
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed={shown(seed)}: expected a whole number of at least 0")
        columns = _broadcast(task=task, prompt=prompt, image=image, mask=mask)
        requests = [self._request(*row) for row in zip(*columns, strict=True)]
        source, hole = (torch.stack(part) for part in zip(*requests, strict=True))
        prompts, names = [str(p) for p in columns[1]], list(self.tasks)
        ids = torch.tensor([names.index(t) for t in columns[0]])
        keys, seeds = [f"request {i}" for i in range(len(ids))], [0] * len(ids)
        batch = Batch(source, source, hole, prompts, ids, keys, prompts, prompts, seeds)
        noise = first_noise(batch, self.painter.denoiser.backbone.latent_shape, seed)
        scales = self.painter.guidance if guidance is None else dict.fromkeys(names, guidance)
        return [to_pil(picture) for picture in replace(self.painter, guidance=scales).draw(batch, noise)]

    def _request(self, task: str, prompt: str, image: Picture | None, mask: Picture | None) -> tuple[Tensor, Tensor]:
        """Source (3, H, W) and mask (1, H, W) of one request, or a ValueError."""
        if not isinstance(task, str) or task not in self.tasks:
            raise refuse("task", task, self.tasks)
        takes = self.takes[task]
        _check_prompt(prompt)
        for what, given, wanted in (
            ("image", image is not None, takes.image),
            ("prompt", bool(prompt.strip()), takes.prompt),
        ):
            if wanted and not given:
                raise ValueError(f"{what}: task {task!r} needs one")
        for what, picture, wanted in (("image", image, takes.image), ("mask", mask, takes.mask)):
            if picture is not None and not wanted:
                raise ValueError(f"{what}: task {task!r} takes none")
            if picture is not None and not isinstance(picture, Image.Image | Tensor):
                raise ValueError(f"{what}: expected a PIL picture or a tensor, got {type(picture).__name__}")
        if image is None:
            return torch.zeros(3, self.size, self.size), torch.ones(1, self.size, self.size)
        if mask is None:
            return self._tensor(image), torch.zeros(1, self.size, self.size)
        if _width_and_height(mask) != _width_and_height(image):
            raise ValueError(
                f"mask: has {_width_and_height(mask)} pixels, expected the image's {_width_and_height(image)}"
            )
        hole = self._mask(mask)
        return self._tensor(image) * (1 - hole), hole

    def _tensor(self, image: Picture) -> Tensor:
        if isinstance(image, Tensor):
            if image.ndim != 3 or image.shape[0] != 3 or not image.numel() or not image.is_floating_point():
                kind = f"{tuple(image.shape)} of {str(image.dtype).removeprefix('torch.')}"
                raise ValueError(f"image: expected floats (3, H, W), got {kind}")
            low, high = float(image.min()), float(image.max())
            if not -1.001 <= low <= high <= 1.001:
                raise ValueError(f"image: has values from {low:g} to {high:g}, expected -1 to 1")
            return _resize(image.float(), self.size)
        rgb = lay_on_white(read_pixels("image", image))
        pixels = torch.from_numpy(np.asarray(rgb).copy()).permute(2, 0, 1)  # (3, H, W) uint8
        return _resize(pixels.float() / 127.5 - 1, self.size)

    def _mask(self, mask: Picture) -> Tensor:
        """(1, S, S), 1 in the hole, by the rule of `mtdiff.pictures`."""
        if isinstance(mask, Image.Image):
            mask = torch.from_numpy(read_mask(mask))[None]
        if mask.ndim != 3 or mask.shape[0] != 1 or not mask.numel():
            raise ValueError(f"mask: expected (1, H, W), got {tuple(mask.shape)}")
        outside = int((~((mask >= 0) & (mask <= 1))).sum())  # NaN too
        if outside:
            raise ValueError(f"mask: {outside} of {mask.numel()} pixels are not between black (0) and white (1)")
        hole = (_resize(mask.float(), self.size) >= 0.5).float()
        check_hole(float(hole.mean()))
        return hole


@dataclass(frozen=True)
class Takes:
    """What a task reads, found by making examples from a small noise picture."""

    image: bool
    prompt: bool
    mask: bool

    @classmethod
    def of(cls, task: Task) -> "Takes":
        rng = np.random.default_rng(0)
        noise = torch.from_numpy(rng.integers(0, 256, (3, 64, 64), dtype=np.uint8))
        plain = Record(noise, "a picture", "probe")
        pair = Record(noise, "a picture", "probe", "pair", noise, "change it", "a picture")
        needs = set(task.needs)
        records = [plain] * bool(needs & {"picture", "caption"}) + [pair] * bool(needs & {"edit", "removal"})
        made = [task.make(record, rng, 0) for record in records]
        return cls(
            image=any(bool((e.mask < 1).any()) for e in made),
            prompt=all(e.prompt for e in made),
            mask=any(bool((e.mask < 1).any() and (e.mask > 0).any()) for e in made),
        )


def _check_prompt(prompt: object) -> None:
    if not isinstance(prompt, str):
        raise ValueError(f"prompt={shown(prompt)}: expected a text")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise ValueError(f"prompt={shown(ascii(prompt))}: expected Unicode text") from None


def _broadcast(**columns: Any) -> list[list[Any]]:
    """Columns of equal length; a single value stands for all."""
    lists = {k: list(v) if isinstance(v, list | tuple) else [v] for k, v in columns.items()}
    longest = max(map(len, lists.values()))
    for name, values in lists.items():
        if len(values) not in (1, longest):
            raise ValueError(f"{name}: {len(values)} values, expected 1 or {longest}")
    return [v * longest if len(v) == 1 else v for v in lists.values()]


def _width_and_height(picture: Picture) -> tuple[int, int]:
    """(W, H) in pixels, of a photo once it is upright."""
    return upright_size(picture) if isinstance(picture, Image.Image) else (picture.shape[-1], picture.shape[-2])


def _resize(image: Tensor, size: int) -> Tensor:
    """(C, H, W) -> (C, size, size), bicubic and antialiased; unchanged where it has that size."""
    if image.shape[-2:] == (size, size):
        return image
    resized = torch.nn.functional.interpolate(image[None], (size, size), mode="bicubic", antialias=True)[0]
    return resized.clamp(image.min(), image.max())


def to_pil(picture: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> PIL."""
    array = ((picture.cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)
