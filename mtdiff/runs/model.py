"""A trained run's model as a caller meets it: requests are checked, made into a batch, drawn, and given back as PIL.

Letters: B batch, H W pixels, S the model's side in pixels.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mtdiff.config.schema import refuse
from mtdiff.errors import shown
from mtdiff.files.pictures import check_hole, lay_on_white, read_mask, read_pixels, upright_size
from mtdiff.model.painter import Drawn, Painter, first_noise
from mtdiff.model.sampling import Guidance
from mtdiff.tasks.base import Task
from mtdiff.tasks.takes import Takes
from mtdiff.types import REFERENCE, Batch, Example

log = logging.getLogger(__name__)
Picture = Image.Image | Tensor
References = Mapping[str, Picture]


@dataclass(frozen=True)
class Answer:
    """What a request is answered with. others: pictures of other modalities, by name. said: what is no picture."""

    picture: Image.Image
    others: Mapping[str, Image.Image] = field(default_factory=dict)
    said: Mapping[str, str] = field(default_factory=dict)


class Model:
    """Checks requests and draws them. tasks: by name, in the order of their ids."""

    def __init__(self, painter: Painter, tasks: dict[str, Task]) -> None:
        self.painter, self.tasks = painter, tasks
        self.takes = {name: Takes.of(task) for name, task in tasks.items()}

    @property
    def size(self) -> int:
        """Side of its pictures in pixels."""
        return self.painter.denoiser.backbone.size

    def __call__(
        self,
        task: str | Sequence[str],
        prompt: str | Sequence[str] = "",
        image: Picture | Sequence[Picture | None] | None = None,
        mask: Picture | Sequence[Picture | None] | None = None,
        *,
        reference: References | Sequence[References | None] | None = None,
        seed: int = 0,
        guidance: Guidance | None = None,
        given: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None,
    ) -> list[Image.Image]:
        """Draw pictures for one request or several; a single value serves every request.

        image: PIL, or (3, H, W) in [-1, 1]; resized to the model's size. mask: PIL or (1, H, W) in [0, 1], from 0.5 on
        drawn anew (of layers: `mtdiff.files.pictures`). seed: request i starts from the noise of (seed, i).
        guidance: over the run's own. given: what a task of several modalities takes besides, such as {"label": ...}.
        reference: pictures by name, as `image`; a task says which it takes.
        """
        options: dict[str, Any] = {"seed": seed, "guidance": guidance, "given": given, "reference": reference}
        answers = self.answer(task, prompt, image, mask, **options)
        return [answer.picture for answer in answers]

    @torch.no_grad()
    def answer(
        self,
        task: str | Sequence[str],
        prompt: str | Sequence[str] = "",
        image: Picture | Sequence[Picture | None] | None = None,
        mask: Picture | Sequence[Picture | None] | None = None,
        *,
        reference: References | Sequence[References | None] | None = None,
        seed: int = 0,
        guidance: Guidance | None = None,
        given: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None,
    ) -> list[Answer]:
        """As a call, with all that the model draws or says beside the pictures."""
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed={shown(seed)}: expected a whole number of at least 0")
        columns = _broadcast_columns(task=task, prompt=prompt, image=image, mask=mask, given=given, reference=reference)
        examples = [self._read_request(i, *row) for i, row in enumerate(zip(*columns, strict=True))]
        batch, names = Batch.collate(examples), list(self.tasks)
        noise = first_noise(batch, self.painter.denoiser.backbone.latent_shape, seed)
        scales = self.painter.guidance if guidance is None else dict.fromkeys(names, guidance)
        drawn = replace(self.painter, guidance=scales).answer(batch, noise)
        answers = [self._make_answer(columns[0][i], drawn, i) for i in range(len(examples))]
        for start, tokens in self.painter.denoiser.backbone.cut_prompts().items():
            if any(p.startswith(start) for p in batch.prompt):
                log.warning("prompt=%s: cut after %d tokens, the most that the base reads", shown(start, 60), tokens)
        return answers

    def _make_answer(self, task: str, drawn: Drawn, i: int) -> Answer:
        """The answer to request i."""
        others = {name: to_pil(pictures[i]) for name, pictures in drawn.others.items() if drawn.asked[name][i]}
        numbers = {name: int(values[i]) for name, values in drawn.numbers.items()}
        return Answer(to_pil(drawn.pictures[i]), others, self.tasks[task].name_numbers(numbers))

    def _read_request(
        self,
        number: int,
        task: str,
        prompt: str,
        image: Picture | None,
        mask: Picture | None,
        given: Mapping[str, str] | None,
        reference: References | None,
    ) -> Example:
        """Make the example of a request, whose target nothing reads; ValueError where the task does not take it."""
        source, hole, extra = self._read_pictures(task, prompt, image, mask, reference or {})
        key, index = f"request {number}", list(self.tasks).index(task)
        example = Example(source, source, hole, str(prompt), index, key, str(prompt), str(prompt), extra=extra)
        return self.tasks[task].read_request(example, given or {})

    def _read_pictures(
        self, task: str, prompt: str, image: Picture | None, mask: Picture | None, named: References
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return source (3, S, S), mask (1, S, S) and references (3, S, S) by their keys in `Batch.extra`."""
        if not isinstance(task, str) or task not in self.tasks:
            raise refuse("task", task, self.tasks)
        given = {"image": image is not None, "mask": mask is not None}
        self.takes[task].check(task, prompt=prompt, **given, references=named)
        for what, picture in (("image", image), ("mask", mask), *((REFERENCE + k, v) for k, v in named.items())):
            if picture is not None and not isinstance(picture, Image.Image | Tensor):
                raise ValueError(f"{what}: expected a PIL picture or a tensor, got {type(picture).__name__}")
        extra = {REFERENCE + name: self._read_image(picture) for name, picture in named.items()}
        if image is None:
            return torch.zeros(3, self.size, self.size), torch.ones(1, self.size, self.size), extra
        if mask is None:
            return self._read_image(image), torch.zeros(1, self.size, self.size), extra
        if _width_and_height(mask) != _width_and_height(image):
            raise ValueError(
                f"mask: has {_width_and_height(mask)} pixels, expected the image's {_width_and_height(image)}"
            )
        hole = self._read_mask(mask)
        return self._read_image(image) * (1 - hole), hole, extra

    def _read_image(self, image: Picture) -> Tensor:
        """(3, S, S) in [-1, 1], S the model's size; transparent pixels are white."""
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

    def _read_mask(self, mask: Picture) -> Tensor:
        """(1, S, S), 1 in the hole, by the rule of `mtdiff.files.pictures`."""
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


def _broadcast_columns(**columns: Any) -> list[list[Any]]:
    """Bring columns to equal length, where a single value stands for all."""
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
    """Resize (C, H, W) to (C, size, size), bicubic and antialiased; a picture of that size stays as it is."""
    if image.shape[-2:] == (size, size):
        return image
    resized = torch.nn.functional.interpolate(image[None], (size, size), mode="bicubic", antialias=True)[0]
    return resized.clamp(image.min(), image.max())


def to_pil(picture: Tensor) -> Image.Image:
    """Turn a picture (3, H, W) in [-1, 1] into bytes of PIL."""
    array = ((picture.cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)
