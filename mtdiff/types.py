"""What flows through the program: Record -> Example -> Batch -> Condition.

Letters: B batch, C latent channels, H W pixels, h w latent size, L text tokens, D text width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Need = Literal["picture", "caption", "edit", "removal", "labels", "order", "label"]
"""`picture`: an image to restore, with its caption. `caption`: the same to draw from the caption alone, so outside
training it shows things whose names were seen, in combinations that were not. `edit`: a pair with an instruction.
`removal`: a pair where an object is gone. `labels`, `order`: a picture with a map of what is where, or over what.
`label`: a picture with the name of its one class."""


MASKED_SHARES = (5, 10, 15, 20)
"""In percent of a picture: the shares that are masked by which restorations are judged."""
LABEL_TIMES = (80, 60, 40, 20)
"""In percent of all times of the diffusion: what a model says at its first step at such a time or later is judged."""


REFERENCE = "reference."
"""Before the name of a reference in `Example.extra`, `Batch.extra` and `Condition.extra`."""


@dataclass(frozen=True)
class Reference:
    """A picture that shows something of another one. image: (3, H0, W0) uint8.

    words: the part of the other picture's caption that says in text what this one shows; "" where none does.
    """

    image: Tensor
    words: str = ""


@dataclass(frozen=True)
class Record:
    """What a data source knows about one picture, or about a pair of pictures before and after an edit.

    image: (3, H0, W0) uint8. `edited` has the same size; it, `instruction` and `edited_caption` are set together.
    map: (3, H0, W0) uint8, in the few colours of a palette (`mtdiff.tasks.label_maps`).
    label: the name of what class the picture is of, else "".
    reference: other pictures by name, none of which is the picture itself; a source may draw one when it is asked for.
    key: names the record, for reports and replay. kind: the source's own name for what changes (`skin tone`, `remove`).
    """

    image: Tensor
    caption: str
    key: str
    kind: str = "picture"
    edited: Tensor | None = None
    instruction: str | None = None
    edited_caption: str | None = None
    map: Tensor | None = None
    label: str = ""
    reference: Mapping[str, Reference] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """Pictures of one thing each: records, and a label of each, such as who drew it. Empty where a source has none."""

    records: Sequence[Record] = ()
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Example:
    """One training or test item of any task; every task fills the same fields.

    target (3, H, W) in [-1, 1]: what the model shall draw.
    source (3, H, W) in [-1, 1]: what it is given; where `mask` is 1 it holds nothing (0).
    mask (1, H, W) in {0, 1}: 1 where the source is unknown. All ones: no source image at all.
    prompt: the text the model reads. task: index into the run's list of tasks.
    source_caption, target_caption: captions for metrics that need them, else "".
    seed: starts what is drawn for it in training (noise, time); differs from epoch to epoch. Filled by the mixture.
    extra: what else the model is given, by name. A batch stacks it under every name that one of its examples has, with
    zeros for those that lack it; so zeros have to mean "not given".
    """

    target: Tensor
    source: Tensor
    mask: Tensor
    prompt: str
    task: int
    key: str
    source_caption: str = ""
    target_caption: str = ""
    seed: int = 0
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Examples of any tasks, stacked: target, source (B, 3, H, W); mask (B, 1, H, W); task (B,) int64.

    extra: tensors by name, each with B first; a row of zeros is an example without it.
    """

    target: Tensor
    source: Tensor
    mask: Tensor
    prompt: list[str]
    task: Tensor
    key: list[str]
    source_caption: list[str]
    target_caption: list[str]
    seed: list[int]
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def collate(cls, examples: Sequence[Example]) -> Self:
        columns = {f.name: [getattr(e, f.name) for e in examples] for f in fields(Example) if f.name != "extra"}
        columns["task"] = [torch.tensor(t) for t in columns["task"]]
        stacked: dict[str, Any] = {k: torch.stack(v) if isinstance(v[0], Tensor) else v for k, v in columns.items()}
        extra = join_extra([({k: v[None] for k, v in e.extra.items()}, 1) for e in examples])
        return cls(**stacked, extra=extra)

    @classmethod
    def cat(cls, parts: Sequence["Batch"]) -> Self:
        """Batches one after another."""
        columns = {f.name: [getattr(p, f.name) for p in parts] for f in fields(cls) if f.name != "extra"}
        joined: dict[str, Any] = {
            k: torch.cat(v) if isinstance(v[0], Tensor) else [x for part in v for x in part] for k, v in columns.items()
        }
        return cls(**joined, extra=join_extra([(p.extra, len(p)) for p in parts]))

    def rows(self, chosen: Tensor) -> Self:
        """The samples where `chosen` (B,) bool is true."""
        places = chosen.nonzero().flatten().tolist()
        lists: dict[str, Any] = {k: [v[i] for i in places] for k, v in vars(self).items() if isinstance(v, list)}
        return replace(self._map(lambda v: v[chosen]), **lists)

    def _map(self, f: Callable[[Tensor], Tensor]) -> Self:
        tensors: dict[str, Any] = {k: f(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors, extra={k: f(v) for k, v in self.extra.items()})

    def __len__(self) -> int:
        return len(self.prompt)

    def to(self, device: torch.device | str) -> Self:
        return self._map(lambda v: v.to(device))

    def pin_memory(self) -> Self:
        return self._map(Tensor.pin_memory)


def join_extra(parts: Sequence[tuple[Mapping[str, Tensor], int]]) -> dict[str, Tensor]:
    """Named tensors of several samples one after another, with zeros for what one lacks. parts: with their sizes."""
    like = {name: value for extra, _ in parts for name, value in extra.items()}
    return {
        name: torch.cat([extra.get(name, value.new_zeros(n, *value.shape[1:])) for extra, n in parts])
        for name, value in like.items()
    }


def to_double(x: Tensor) -> Tensor:
    """The same numbers as float64, on the CPU where the device knows none (Apple's GPUs)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


@dataclass(frozen=True)
class Text:
    """Encoded prompts. tokens (B, L, D); extra: what else the backbone reads, each with B first (pooled text, ...)."""

    tokens: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """All that the denoiser is told beside the noisy latent and the time. Task ids travel with the rest.

    source (B, C, h, w): latent of the source image, 0 for samples without one.
    mask (B, 1, h, w) in [0, 1]: 1 where the source is unknown. text (B, L, D). task (B,) int64.
    extra: what else the backbone's text encoder gave, and what the method reads beside it (`Method.encode_extra`), each
    tensor with B first. Zeros of the method's own mean "not given".
    budget (B,) in (0, 1]: share of the base's cost that a sample may take; None: as the method decides.
    """

    source: Tensor
    mask: Tensor
    text: Tensor
    task: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    budget: Tensor | None = None

    def __len__(self) -> int:
        return len(self.task)

    def limit(self, budget: float | None) -> Self:
        """The same condition under one budget for all samples; None: as it is."""
        if budget is None:
            return self
        return replace(self, budget=torch.full((len(self),), budget, device=self.task.device))

    def _map(self, f: Any) -> Self:
        tensors = {k: f(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors, extra={k: f(v) for k, v in self.extra.items()})

    def __getitem__(self, index: Any) -> Self:
        """Rows of the condition, as a tensor is indexed (a slice, a list, or a tensor of indices or booleans)."""
        return self._map(lambda v: v[index])

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device, and floating-point fields to a dtype; task ids and other whole numbers keep theirs."""
        wanted = torch.empty(0, device=self.source.device).to(*args, **kwargs)
        return self._map(lambda v: v.to(*args, **kwargs) if v.is_floating_point() else v.to(wanted.device))

    @classmethod
    def cat(cls, parts: Sequence["Condition"]) -> Self:
        """Stack conditions along the batch."""
        names = [f.name for f in fields(cls) if f.name != "extra" and getattr(parts[0], f.name) is not None]
        columns = {name: torch.cat([getattr(p, name) for p in parts]) for name in names}
        extra = {k: torch.cat([p.extra[k] for p in parts]) for k in parts[0].extra}
        return cls(**columns, extra=extra)
