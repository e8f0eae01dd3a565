"""EMMA: reference pictures through gated resampler blocks on the text tokens (arXiv 2406.09162; no training code).

    L <- L + sum_i lambda_i a_i(L) Attn_i(AdaLN(L, t), C_i)        a_i(L) = (Linear_i(L)) A_i
    L <- L + sum_i lambda_i f_i(L) FFN_i(AdaLN(L, t))              f_i(L) = (Linear_i'(L)) F_i

L are the text tokens, C_i the tokens of the reference i. Every token has a gate of its own, Linear(L), times a learned
global gate, A or F, which start at 0: the model starts as the base, bit for bit. Frozen: denoiser, text encoder and
picture encoder. Modules that were trained apart are summed as they are, each with a weight lambda_i; all of them read
the same L. A sample without a reference, or whose text is dropped for guidance, gets nothing of its module.

Decided here: the paper has the blocks between a connector (ELLA's) and the denoiser, and the bases here have none, so
L are the text encoder's own tokens; the gates' layers start near 1, so that training starts as with the scalar gate;
A and F are single numbers. Ablations: `gate: scalar` leaves Linear(L) out, `time: false` the time.

Letters: B batch, L text tokens, D their width, R tokens of a reference, D_r their width, E width of the time embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.normalization import AdaLayerNorm
from torch import Tensor, nn

from baselines.references import ReferenceMethod, are_given, find_references, follow_weights
from mtdiff.backbones.base import Backbone
from mtdiff.methods.layout import Layout, Predict
from mtdiff.methods.routing import Routing
from mtdiff.methods.untouched import TargetAlone
from mtdiff.types import Condition

TIME = 256  # numbers of a time's sinusoidal embedding
MODULES = "emma"


class Emma(ReferenceMethod):
    """references: names of the pictures, a module for each. weights: lambda of each at use; null: 1 for all.

    blocks: attention and feed-forward layers of a module. width: of a module's attention, null: the text's own.
    heads: of the attention. expansion: hidden units of the feed-forward layer, as a multiple of the text's width.
    gate: per token and global, or global alone. time: whether the layers look at the time.
    encoder, revision, shape: the frozen picture encoder (`ReferenceMethod`).
    """

    def __init__(
        self,
        references: Sequence[str] = ("object",),
        weights: Sequence[float] | None = None,
        blocks: int = 2,
        width: int | None = None,
        heads: int = 4,
        expansion: int = 2,
        gate: Literal["token", "scalar"] = "token",
        time: bool = True,
        encoder: str = "nano",
        revision: str | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(references, weights, encoder, revision, shape)
        for key, value in (("blocks", blocks), ("heads", heads), ("expansion", expansion)):
            if value < 1:
                raise ValueError(f"method.{key}={value}: expected at least 1")
        if width is not None and (width < heads or width % heads):
            raise ValueError(f"method.width={width}: expected a multiple of heads={heads}, or null for the text's")
        if gate not in ("token", "scalar"):
            raise ValueError(f"method.gate={gate!r}: expected 'token' or 'scalar'")
        self.blocks, self.width, self.heads, self.expansion = blocks, width, heads, expansion
        self.gate, self.time = gate, time
        self._modules = nn.ModuleDict()

    @property
    def layout(self) -> Layout:
        return Resampled(self._modules, dict(zip(self.references, self.weights, strict=True)), self.token_shape)

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        self.check(backbone)
        device = next(backbone.denoiser.parameters()).device
        text, (_, wide) = self.measure_text(backbone), self.token_shape
        width = self.width or text - text % self.heads
        with torch.device(device):
            self._modules = nn.ModuleDict({name: self._make_module(text, width, wide) for name in self.references})
        backbone.denoiser.add_module(MODULES, self._modules.requires_grad_(True))

    def _make_module(self, text: int, width: int, wide: int) -> "Module":
        gated = self.gate == "token"
        blocks = [Block(text, width, wide, self.heads, self.expansion, gated, self.time) for _ in range(self.blocks)]
        return Module(blocks, text if self.time else None)

    def report(self, backbone: Backbone, tasks: Sequence[str]) -> dict[str, Any]:
        """gates: the global gates A and F of every block, by reference."""
        modules: Any = self._modules
        gates = {
            name: [{"attention": round(b.A.item(), 4), "feed_forward": round(b.F.item(), 4)} for b in module.blocks]
            for name, module in modules.items()
        }
        return {"gates": gates}


class Resampled(TargetAlone):
    """Changes the text tokens before the denoiser reads them; the source is not looked at.

    modules: by reference. weights: lambda of each; one of 0 is as if it were not there. shape: (R, D_r).
    """

    def __init__(self, modules: Any, weights: Mapping[str, float], shape: tuple[int, int]) -> None:
        self.modules, self.weights, self.shape = modules, weights, shape

    def __call__(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return super().__call__(predict, noisy, t, replace(condition, text=self.resample(condition, t)))

    def resample(self, condition: Condition, t: Tensor) -> Tensor:
        """(B, L, D): the text tokens with what every reference adds to them, block after block."""
        condition, t = follow_weights(condition, t, self.modules)
        names = [name for name, weight in self.weights.items() if weight]
        used = find_references(condition, names, self.shape)
        given = {name: are_given(tokens) for name, tokens in used.items()}  # (B, 1, 1)
        times = {name: self.modules[name].embed_time(t) for name in used}
        text = condition.text
        for k in range(len(next(iter(self.modules.values())).blocks) if used else 0):
            blocks = {name: self.modules[name].blocks[k] for name in used}
            shares = {name: self.weights[name] * given[name] for name in used}
            text = text + sum(shares[n] * block.attend(text, used[n], times[n]) for n, block in blocks.items())
            text = text + sum(shares[n] * block.think(text, times[n]) for n, block in blocks.items())
        return text


class Module(nn.Module):
    """The blocks of one reference, and the embedding of the time that they share."""

    def __init__(self, blocks: Sequence["Block"], width: int | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.sinusoid = Timesteps(TIME, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = None if width is None else TimestepEmbedding(TIME, width)

    def embed_time(self, t: Tensor) -> Tensor | None:
        """t (B,) -> (B, E), or None where the blocks do not look at it."""
        if self.time is None:
            return None
        return self.time(self.sinusoid(t).to(self.time.linear_1.weight.dtype))


class Block(nn.Module):
    """One gated attention to the reference and one gated feed-forward layer."""

    def __init__(self, text: int, width: int, wide: int, heads: int, expansion: int, gated: bool, timed: bool) -> None:
        super().__init__()
        self.norm_reference = nn.LayerNorm(wide)
        self.norm_attention, self.norm_feed = (make_norm(text, timed) for _ in range(2))
        options: dict[str, Any] = {"cross_attention_dim": wide, "heads": heads, "dim_head": width // heads}
        self.attention = Attention(text, **options)
        self.feed = FeedForward(text, mult=expansion, activation_fn="gelu")
        self.gate_attention, self.gate_feed = (make_gate(text) if gated else None for _ in range(2))
        self.A, self.F = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def attend(self, text: Tensor, reference: Tensor, time: Tensor | None) -> Tensor:
        """What attention to the reference (B, R, D_r) adds to the text (B, L, D)."""
        looked = self.attention(normalise(self.norm_attention, text, time), self.norm_reference(reference))
        return open_gate(self.gate_attention, text, self.A) * looked

    def think(self, text: Tensor, time: Tensor | None) -> Tensor:
        """What the feed-forward layer adds to the text (B, L, D)."""
        return open_gate(self.gate_feed, text, self.F) * self.feed(normalise(self.norm_feed, text, time))


def make_norm(text: int, timed: bool) -> nn.Module:
    """A layer norm over the text's width, whose gain and shift come from the time's embedding, or are learned."""
    return AdaLayerNorm(text, output_dim=2 * text, chunk_dim=1) if timed else nn.LayerNorm(text)


def normalise(norm: nn.Module, text: Tensor, time: Tensor | None) -> Tensor:
    return norm(text) if time is None else norm(text, temb=time)


def make_gate(text: int) -> nn.Linear:
    """A gate per token, near 1 at the start."""
    gate = nn.Linear(text, 1)
    nn.init.normal_(gate.weight, std=0.02)
    nn.init.ones_(gate.bias)
    return gate


def open_gate(gate: nn.Module | None, text: Tensor, over_all: Tensor) -> Tensor:
    """(B, L, 1), or () without a gate per token."""
    return over_all if gate is None else gate(text) * over_all
