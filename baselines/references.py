"""What methods that read reference pictures share: their encoder, their names, and the sum of modules trained apart.

Letters: B batch, R tokens of a reference, D_r their width.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from mtdiff.backbones.base import Backbone, Encoder
from mtdiff.backbones.picture_encoder import PictureEncoder, encode_references
from mtdiff.methods.base import CannotFold, Method
from mtdiff.methods.merging import CannotMerge
from mtdiff.types import REFERENCE, Condition

NAME = "expected names of letters, digits and underscores, each once"


def are_given(tokens: Tensor) -> Tensor:
    """(B, 1, 1), 1 where a sample has the reference. tokens (B, R, D_r): zeros where it has none."""
    return (tokens != 0).flatten(1).any(1).to(tokens).view(-1, 1, 1)


def find_references(condition: Condition, names: Sequence[str], shape: tuple[int, int]) -> dict[str, Tensor]:
    """Tokens (B, R, D_r) of the references that a condition has, by name.

    In training also of those that no sample of the batch has, as zeros, so that every module is in every graph.
    """
    keys = {name: REFERENCE + name for name in names}
    if not torch.is_grad_enabled():
        return {name: condition.extra[key] for name, key in keys.items() if key in condition.extra}
    zeros = condition.text.new_zeros(len(condition), *shape)
    return {name: condition.extra.get(key, zeros) for name, key in keys.items()}


def follow_weights(condition: Condition, t: Tensor, modules: nn.Module) -> tuple[Condition, Tensor]:
    """A condition and times (B,) where the modules' weights are: on the meta device while costs are counted."""
    device = next(modules.parameters()).device
    return (condition, t) if condition.text.device == device else (condition.to(device), t.to(device))


class ReferenceMethod(Method):
    """references: names of the pictures, each with a module of its own. weights: of each at use; null: 1 for all.

    encoder: what `PictureEncoder` reads, with its revision. shape: tokens of a picture and their width, where the
    encoder's files are not at hand and only costs are counted; null: as its own configuration says.
    """

    def __init__(
        self,
        references: Sequence[str],
        weights: Sequence[float] | None,
        encoder: str,
        revision: str | None,
        shape: Sequence[int] | None,
    ) -> None:
        valid = all(isinstance(name, str) and name.isidentifier() for name in references)
        if isinstance(references, str) or not references or not valid or len(set(references)) < len(references):
            raise ValueError(f"method.references={references!r}: {NAME}")
        if weights is not None and (len(weights) != len(references) or not all(map(isfinite, weights))):
            raise ValueError(f"method.weights={list(weights)}: expected {len(references)} finite numbers, or null")
        if shape is not None and (len(shape) != 2 or min(shape) < 1):
            raise ValueError(f"method.shape={list(shape)}: expected tokens of a picture and their width, or null")
        self.references = tuple(references)
        self.weights = tuple(float(w) for w in weights or [1.0] * len(references))
        self.encoder, self._shape = PictureEncoder(encoder, revision), shape

    @property
    def token_shape(self) -> tuple[int, int]:
        """(R, D_r)."""
        return self.encoder.shape if self._shape is None else (self._shape[0], self._shape[1])

    @property
    def beside(self) -> Mapping[str, str]:
        return {"encoder": self.encoder.digest}

    @property
    def reads(self) -> Mapping[str, tuple[int, ...]]:
        return {REFERENCE + name: self.token_shape for name in self.references}

    def encode_extra(self, encoder: Encoder, extra: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return encode_references(self.encoder, self.references, extra)

    def check(self, backbone: Backbone) -> None:
        if not backbone.reads_text:
            raise ValueError(
                f"method: {type(self).__name__} changes text tokens, and {type(backbone).__name__} reads none"
            )
        _ = self.token_shape

    def measure_text(self, backbone: Backbone) -> int:
        """Width of the text's tokens."""
        return backbone.embed([""]).tokens.shape[-1]

    def fold(self, backbone: Backbone, task: int) -> None:
        raise CannotFold(f"{type(self).__name__} needs its reference pictures: draw with load_run or sample.py")

    def sum_options(self, options: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
        names: list[str] = []
        for given in options:
            for name in given.get("references", self.references):
                if name in names:
                    raise CannotMerge(f"reference {name!r} is in two of the runs; expected each in one")
                names.append(name)
        own = [type(self)(**given).weights for given in options]
        factors = [factor * w for factor, of_run in zip(weights, own, strict=True) for w in of_run]
        return {**options[0], "references": names, "weights": factors}
