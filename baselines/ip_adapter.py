"""IP-Adapter: every attention to the text attends to the reference as well (arXiv 2308.06721), the baseline of EMMA.

A <- Attn(x, text) + sum_i lambda_i Attn(x, P_i(C_i))        with keys and values of its own for each reference i

P is the resampler of IP-Adapter Plus; it, the attention and its processors are diffusers' own. The new keys and values
start as the base's, as published, so this is the base only where no reference is given: its tokens are 0 then, which
add nothing. Trained: P and the new keys and values.

Letters: B batch, R tokens of a reference, D_r their width, Q tokens that the resampler makes of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor2_0,
    IPAdapterAttnProcessor,
    IPAdapterAttnProcessor2_0,
)
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import Tensor, nn

from baselines.references import ReferenceMethod, are_given, find_references, follow_weights
from mtdiff.backbones.base import Backbone
from mtdiff.methods.layout import Layout, Predict
from mtdiff.methods.routing import Routing
from mtdiff.methods.untouched import TargetAlone
from mtdiff.types import Condition

MODULES = "ip_adapter"


class IPAdapter(ReferenceMethod):
    """references: names of the pictures. weights: lambda of each at use; null: 1 for all.

    tokens: Q. width, blocks, heads: of the resampler. encoder, revision, shape: as of `ReferenceMethod`.
    """

    def __init__(
        self,
        references: Sequence[str] = ("object",),
        weights: Sequence[float] | None = None,
        tokens: int = 8,
        width: int = 128,
        blocks: int = 2,
        heads: int = 4,
        encoder: str = "nano",
        revision: str | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(references, weights, encoder, revision, shape)
        for key, value in (("tokens", tokens), ("blocks", blocks), ("heads", heads)):
            if value < 1:
                raise ValueError(f"method.{key}={value}: expected at least 1")
        if width < heads or width % heads:
            raise ValueError(f"method.width={width}: expected a multiple of heads={heads}")
        self.tokens, self.width, self.blocks, self.heads = tokens, width, blocks, heads
        self._shown, self._projections = Shown(), nn.ModuleDict()

    @property
    def equals_base(self) -> bool:
        return False

    @property
    def layout(self) -> Layout:
        return ShowReferences(self._projections, self._shown, self.token_shape)

    def check(self, backbone: Backbone) -> None:
        super().check(backbone)
        if not backbone.sites("cross_attention"):
            raise ValueError(
                f"method: IPAdapter needs layers that attend to the text, {type(backbone).__name__} has none"
            )

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        self.check(backbone)
        device, layers = next(backbone.denoiser.parameters()).device, self.find_layers(backbone)
        self._shown = Shown()
        for layer in layers:
            layer.set_processor(self._make_processor(layer))
        with torch.device(device):
            self._projections = nn.ModuleDict({n: self._make_projection(layers[0]) for n in self.references})
        backbone.denoiser.add_module(MODULES, self._projections.requires_grad_(True))

    def _make_projection(self, layer: Attention) -> nn.Module:
        inner = {"hidden_dims": self.width, "depth": self.blocks, "heads": self.heads, "num_queries": self.tokens}
        ends = {"embed_dims": self.token_shape[1], "output_dims": layer.to_k.in_features}
        return IPAdapterPlusImageProjection(**ends, **inner, dim_head=self.width // self.heads)

    def find_layers(self, backbone: Backbone) -> list[Attention]:
        return [site.module for site in backbone.sites("cross_attention") if isinstance(site.module, Attention)]

    def _make_processor(self, layer: Attention) -> nn.Module:
        fused = isinstance(layer.processor, AttnProcessor2_0)
        options: dict[str, Any] = {"num_tokens": [self.tokens] * len(self.references), "scale": list(self.weights)}
        with torch.device("meta"):  # its own keys and values give way to the base's
            made = (FusedReader if fused else Reader)(layer.inner_dim, layer.to_k.in_features, **options)
        made.shown = self._shown
        made.to_k_ip, made.to_v_ip = (self._copy_named(own) for own in (layer.to_k, layer.to_v))
        return made

    def _copy_named(self, layer: nn.Linear) -> "Named":
        return Named({name: copy_linear(layer) for name in self.references})


class Shown:
    """What the attention layers look at besides: tokens (B, Q, D) of every reference in order, none without any.

    Written before every call and never cleared, as `Routing`.
    """

    def __init__(self) -> None:
        self.tokens: list[Tensor] = []


class Named(nn.ModuleList):
    """A list of modules whose names in a state are given, so that those of several runs do not collide."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def copy_linear(layer: nn.Linear) -> nn.Linear:
    """A layer that starts as another, without its bias."""
    made = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    made.weight = nn.Parameter(layer.weight.detach().clone())
    return made


class Shows:
    """A processor of diffusers that finds the references' tokens in `shown`."""

    shown: Shown

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        both = (encoder_hidden_states, self.shown.tokens)
        return super().__call__(attn, hidden_states, both, attention_mask, temb)  # type: ignore[misc]


class Reader(Shows, IPAdapterAttnProcessor):
    """On two matrix products."""


class FusedReader(Shows, IPAdapterAttnProcessor2_0):
    """On torch's fused attention."""


class ShowReferences(TargetAlone):
    """Resamples the references for the attention layers; the source is not looked at.

    projections: by reference. shape: (R, D_r).
    """

    def __init__(self, projections: nn.ModuleDict, shown: Shown, shape: tuple[int, int]) -> None:
        self.projections, self.shown, self.shape = projections, shown, shape

    def __call__(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        there, _ = follow_weights(condition, t, self.projections)
        found = find_references(there, list(self.projections), self.shape)
        zeros = there.text.new_zeros(len(condition), *self.shape)
        every = [(projection, found.get(name, zeros)) for name, projection in self.projections.items() if found]
        self.shown.tokens = [projection(tokens) * are_given(tokens) for projection, tokens in every]  # (B, Q, D)
        return super().__call__(predict, noisy, t, condition)
