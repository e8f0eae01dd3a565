"""A frozen network that teaches the one in training: the untouched base, or what an earlier run made of it."""

from dataclasses import dataclass

from mtdiff.backbones.base import Backbone
from mtdiff.methods.layout import Layout, Predict


@dataclass(frozen=True, eq=False)
class Teaching:
    """backbone: whose denoiser is called, and has the stages. predict: noisy (B, C, h, w), t (B,) and a condition with
    the student's task ids -> (B, C, h, w). layout: how it sees its input; None: the base, which sees no source.
    """

    backbone: Backbone
    predict: Predict
    layout: Layout | None = None
