"""What a task reads of a request, found out by making examples; and whether a request has it. No model is needed.

Letters: H W picture.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from mtdiff.errors import shown
from mtdiff.rng import numpy_rng
from mtdiff.tasks.base import Task
from mtdiff.types import Example


@dataclass(frozen=True)
class Takes:
    """What a task reads, found by making examples from small noise pictures.

    references: their names. choices: what a request may say besides, with the values that are allowed.
    """

    image: bool
    prompt: bool
    mask: bool
    optional: frozenset[str] = frozenset()
    references: Sequence[str] = ()
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def may_have_image(self) -> bool:
        """Whether a request may bring an image, needed or not."""
        return self.image or "image" in self.optional

    @classmethod
    def of(cls, task: Task) -> "Takes":
        rng = numpy_rng("probe", "make")
        made = [task.make(task.probe(need), rng, 0) for need in task.needs]
        return cls(
            image=any(bool((e.mask < 1).any()) for e in made),
            prompt=all(e.prompt for e in made),
            mask=any(bool((e.mask < 1).any() and (e.mask > 0).any()) for e in made),
            optional=task.optional,
            references=tuple(task.shows),
            choices=dict(task.choices),
        )

    def check(self, task: str, *, prompt: object, image: bool, mask: bool, references: Iterable[str] = ()) -> None:
        """Refuse a request that lacks what the task needs, or has what it does not take. task: its name.

        references: names of those that come with it. Any may be left out, and beside one there may be no prompt.
        """
        check_prompt(prompt)
        named = list(references)
        for name in named:
            if name not in self.references:
                takes = f"expected one of {', '.join(self.references)}" if self.references else "takes none"
                raise ValueError(f"reference.{shown(name)}: task {task!r} {takes}")
        for what, given, wanted in (("image", image, self.image), ("prompt", bool(str(prompt).strip()), self.prompt)):
            needed = wanted and what not in self.optional and not (what == "prompt" and named)
            if needed and not given:
                raise ValueError(f"{what}: task {task!r} needs one")
        for what, given, wanted in (("image", image, self.image), ("mask", mask, self.mask)):
            if given and not wanted and what not in self.optional:
                raise ValueError(f"{what}: task {task!r} takes none")
        if mask and not image:
            raise ValueError("mask: needs an image too")


def probe_request(prompt: str, *, image: bool, mask: bool) -> Example:
    """An example as a request makes it, with a grey picture of 2 px in place of its own."""
    source = torch.zeros(3, 2, 2)
    hole = torch.full_like(source[:1], 0.0 if image else 1.0)
    hole[:, 0] = 1.0 if mask else hole[:, 0]
    return Example(source, source, hole, prompt, 0, "request")


def check_prompt(prompt: object) -> None:
    if not isinstance(prompt, str):
        raise ValueError(f"prompt={shown(prompt)}: expected a text")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise ValueError(f"prompt={shown(ascii(prompt))}: expected Unicode text") from None
