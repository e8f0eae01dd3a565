"""A trained run as a library object: one call draws pictures of any of its tasks.

    from mtdiff import load_run
    model = load_run("runs/mtu-nano-emoji-seed0-...")
    pictures = model("edit", prompt="make it a woman", image=picture)       # one, or lists of each, tasks mixed

A run folder is data: safetensors and JSON are read, and only classes of this project's packages are constructed.

Letters: B batch, H W pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mtdiff.config import PACKAGES, check, construct, refuse
from mtdiff.denoiser import Denoiser
from mtdiff.evaluate import first_noise
from mtdiff.module import MultiTaskModule
from mtdiff.sampling import Guidance
from mtdiff.tasks import Task
from mtdiff.types import Batch, Record

Picture = Image.Image | Tensor


def load_run(folder: str | Path, device: str = "cpu", packages: Sequence[str] = PACKAGES) -> "Model":
    """The model that a run left. ValueError in one line where the folder does not hold one."""
    folder = Path(folder)
    about = _about(folder / "adapter.json")
    check({k: about[k] for k in ("method", "backbone", "task")}, packages=packages)
    tasks = {name: construct(about["task"][name]) for name in about["tasks"]}
    denoiser = Denoiser(construct(about["backbone"]), construct(about["method"]), list(tasks))
    try:
        denoiser.load_adapter(load_file(folder / "adapter.safetensors"))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder}/adapter.safetensors: cannot be read ({error})") from None
    sampling = about["sampling"]
    guidance = {task: Guidance(**scales) for task, scales in sampling["guidance"].items()}
    module = MultiTaskModule(denoiser, {"lr": 0.0}, guidance, sampling["sampler"], sampling["steps"])
    return Model(module.to(device).eval(), tasks)


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a finished run ({error})") from None
    for key in ("method", "backbone", "task", "tasks", "sampling"):
        if not isinstance(about, dict) or key not in about:
            raise ValueError(f"{path}: key `{key}` is missing")
    return about


class Model:
    """module: in evaluation mode on its device. tasks: by name, in the order of their ids."""

    def __init__(self, module: MultiTaskModule, tasks: dict[str, Task]) -> None:
        self.module, self.tasks = module, tasks
        self.takes = {name: Takes.of(task) for name, task in tasks.items()}

    @property
    def size(self) -> int:
        """Side of its pictures in pixels."""
        return self.module.denoiser.backbone.size

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

        image: PIL, or (3, H, W) in [-1, 1]; resized to the model's size. mask: PIL or (1, H, W), white or 1 where the
        picture shall be drawn anew. seed: request i starts from the noise of (seed, i). guidance: over the run's own.
        """
        columns = _broadcast(task=task, prompt=prompt, image=image, mask=mask)
        requests = [self._request(*row) for row in zip(*columns, strict=True)]
        source, hole = (torch.stack(part) for part in zip(*requests, strict=True))
        prompts, names = [str(p) for p in columns[1]], list(self.tasks)
        ids = torch.tensor([names.index(t) for t in columns[0]])
        keys, seeds = [f"request {i}" for i in range(len(ids))], [0] * len(ids)
        batch = Batch(source, source, hole, prompts, ids, keys, prompts, prompts, seeds).to(self.module.device)
        noise = first_noise(batch, self.module.denoiser.backbone.latent_shape, seed).to(self.module.device)
        table = None if guidance is None else dict.fromkeys(names, guidance)
        return [to_pil(picture) for picture in self.module.generate(batch, noise, table)]

    def _request(self, task: str, prompt: str, image: Picture | None, mask: Picture | None) -> tuple[Tensor, Tensor]:
        """Source (3, H, W) and mask (1, H, W) of one request, or a ValueError."""
        if task not in self.tasks:
            raise refuse("task", task, self.tasks)
        takes = self.takes[task]
        for what, given, wanted in (("image", image is not None, takes.image), ("prompt", bool(prompt), takes.prompt)):
            if wanted and not given:
                raise ValueError(f"{what}: task {task!r} needs one")
        if image is None:
            return torch.zeros(3, self.size, self.size), torch.ones(1, self.size, self.size)
        if not takes.image:
            raise ValueError(f"image: task {task!r} takes none")
        if mask is None:
            return self._tensor(image), torch.zeros(1, self.size, self.size)
        if not takes.mask:
            raise ValueError(f"mask: task {task!r} takes none")
        if _side(mask) != _side(image):
            raise ValueError(f"mask: has {_side(mask)} pixels, expected the image's {_side(image)}")
        hole = (self._mask(mask) > 0.5).float()
        return self._tensor(image) * (1 - hole), hole

    def _tensor(self, image: Picture) -> Tensor:
        if isinstance(image, Tensor):
            if image.ndim != 3 or image.shape[0] != 3 or not -1.001 <= image.min() <= image.max() <= 1.001:
                raise ValueError(f"image: expected (3, H, W) in [-1, 1], got {tuple(image.shape)}")
            return _resized(image.float(), self.size)
        rgb = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
        pixels = torch.from_numpy(np.asarray(rgb).copy()).permute(2, 0, 1)  # (3, H, W) uint8
        return _resized(pixels.float() / 127.5 - 1, self.size)

    def _mask(self, mask: Picture) -> Tensor:
        if isinstance(mask, Image.Image):
            mask = torch.from_numpy(np.asarray(mask.convert("L")).copy())[None].float() / 255
        if mask.ndim != 3 or mask.shape[0] != 1:
            raise ValueError(f"mask: expected (1, H, W), got {tuple(mask.shape)}")
        return _resized(mask.float(), self.size)


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


def _broadcast(**columns: Any) -> list[list[Any]]:
    """Columns of equal length; a single value stands for all."""
    lists = {k: list(v) if isinstance(v, list | tuple) else [v] for k, v in columns.items()}
    longest = max(map(len, lists.values()))
    for name, values in lists.items():
        if len(values) not in (1, longest):
            raise ValueError(f"{name}: {len(values)} values, expected 1 or {longest}")
    return [v * longest if len(v) == 1 else v for v in lists.values()]


def _side(picture: Picture) -> tuple[int, int]:
    """(W, H) in pixels."""
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[-1], picture.shape[-2])


def _resized(image: Tensor, size: int) -> Tensor:
    """(C, H, W) -> (C, size, size), bicubic and antialiased; unchanged where it has that size."""
    if image.shape[-2:] == (size, size):
        return image
    resized = torch.nn.functional.interpolate(image[None], (size, size), mode="bicubic", antialias=True)[0]
    return resized.clamp(image.min(), image.max())


def to_pil(picture: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> PIL."""
    array = ((picture.cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)
