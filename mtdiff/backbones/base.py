"""What every denoising network offers to methods, samplers and cost counters.

Letters: B batch, C latent channels, H W pixels, h w latent size, L text tokens, D text width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from mtdiff.backbones.ending import Ending, Middle
from mtdiff.types import Condition, Text

SiteKind = Literal["ffn", "self_attention", "cross_attention", "block", "input"]
Level = Literal["block", "layer", "unit"]
UnitKind = Literal["ffn", "self_attention", "cross_attention"]


@dataclass(frozen=True)
class Site:
    """A named place in the denoiser that a method may replace.

    name: dotted, relative to the denoiser. width: channels that enter it.
    norm: for `ffn`, the normalisation just before it.
    branch: for `block`, True where the module only opens a residual branch (x + f(module(x))),
    False where it is a whole residual block, its own skip included.
    """

    name: str
    parent: nn.Module
    attribute: str
    width: int
    norm: "Site | None" = None
    branch: bool = True

    @property
    def module(self) -> nn.Module:
        if isinstance(self.parent, nn.ModuleList):
            return self.parent[int(self.attribute)]
        return getattr(self.parent, self.attribute)

    def replace(self, module: nn.Module) -> None:
        if isinstance(self.parent, nn.ModuleList):
            self.parent[int(self.attribute)] = module
        else:
            setattr(self.parent, self.attribute, module)


@dataclass(frozen=True)
class Part:
    """A module that a drawing may skip in some steps, using again what it gave in an earlier one.

    adds: the module returns its input plus something, and only what it adds is used again, on the step's own input.
    """

    module: nn.Module
    adds: bool = False


@dataclass(frozen=True)
class Removable:
    """A block without which every shape in the denoiser stays what it is.

    skip: called with the block and with the block's own arguments, gives what the block gives where it adds nothing.
    keeps: children of the block that `skip` calls, so that they stay once the block is gone.
    """

    site: Site
    kind: Literal["transformer", "residual"]
    skip: Callable[..., Any]
    keeps: tuple[str, ...] = ()


class Encoder(Protocol):
    """Makes latents and text embeddings: a backbone, or one that looks them up first."""

    @property
    def size(self) -> int: ...

    @property
    def latent_shape(self) -> tuple[int, int, int]: ...

    def encode(self, images: Tensor) -> Tensor:
        """As `Backbone.encode`."""

    def embed(self, prompts: Sequence[str]) -> Text:
        """As `Backbone.embed`."""


class Backbone(nn.Module, ABC):
    """A pre-trained latent diffusion model: autoencoder and text encoder (both frozen for good) around `denoiser`.

    size: side of its pictures in pixels. latent_shape: (C, h, w) at that size.
    scheduler: a diffusers scheduler that carries the noise schedule and the prediction type.
    levels: of what `parts` can name. reads_text: whether `predict` looks at `Condition.text`.
    """

    levels: ClassVar[tuple[Level, ...]] = ()
    reads_text: ClassVar[bool] = True
    denoiser: nn.Module
    scheduler: Any
    size: int
    latent_shape: tuple[int, int, int]

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> scaled latents (B, C, h, w), without gradient."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W), clipped to [-1, 1], without gradient."""

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Text:
        """Prompts -> tokens (B, L, D) and whatever else this denoiser reads."""

    @abstractmethod
    def predict(self, packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """One call of the denoiser: packed (B, C', h, w'), t (B,) -> (B, C, h, w')."""

    @abstractmethod
    def sites(self, kind: SiteKind) -> list[Site]:
        """The places of one kind, in the order of the forward pass."""

    def parts(self, level: Level, units: Sequence[UnitKind]) -> list[Part]:
        """The modules whose results a drawing may inherit from an earlier step, as they are now, adapted or not.

        block: all but the outermost blocks. layer: all but the last layer and the convolutions around. unit: every
        attention or feed-forward layer of the kinds in `units`, which only this level reads.
        """
        raise ValueError(f"sampling.inherit.level={level}: {type(self).__name__} names nothing that may be inherited")

    def drops(self) -> Mapping[str, Callable[[], None]]:
        """What can be taken out of the denoiser so that it stays a plain diffusers network: {name: what takes it out}.

        In place, the configuration included. The names are those of the denoiser as it is now.
        """
        return {}

    def removable(self) -> list[Removable]:
        """Blocks that may be skipped one by one, in the order of the forward pass; what is left need not be plain."""
        return []

    def stages(self) -> dict[str, nn.Module]:
        """Parts of the denoiser, one after the other, whose results a lighter one may be taught to give, by name."""
        shards = {id(part) for part in Backbone.shards(self)}
        return {name: module for name, module in self.denoiser.named_modules() if id(module) in shards}

    def convolutions(self) -> list[Site]:
        """The convolutions inside of residual blocks; a transformer has none."""
        return []

    def ending(self) -> Ending:
        """The denoiser's last layers, with a copy of them for another head. ValueError where they are not named."""
        raise ValueError(f"method: {type(self).__name__} names no last layers for a head")

    def middle(self) -> Middle:
        """Where the middle of the denoiser can be read. ValueError where it is not named."""
        raise ValueError(f"method: {type(self).__name__} names no middle for a head")

    def note_prompts(self, prompts: Sequence[str]) -> None:
        """Count prompts among `cut_prompts` that are not embedded, since their embeddings are known."""

    def cut_prompts(self) -> Mapping[str, int]:
        """Prompts (their beginnings) that were longer than the text encoder reads, with the tokens that it reads."""
        return {}

    def idle(self) -> list[str]:
        """Modules of the denoiser that are computed but whose result nothing uses: no method trains them."""
        return []

    def shards(self) -> list[nn.Module]:
        """Parts of the denoiser, called one after the other, that are gathered one at a time where it is sharded."""
        names = ("down_blocks", "mid_block", "up_blocks", "transformer_blocks")
        children = (child for name, child in self.denoiser.named_children() if name in names)
        return [part for child in children for part in (child if isinstance(child, nn.ModuleList) else [child])]

    @abstractmethod
    def sync_config(self) -> None:
        """Bring the denoiser's own diffusers configuration in line with its modules, once a method has folded."""

    def compile_denoiser(self, in_parts: bool = False, **options: Any) -> None:
        """torch.compile in place, which changes no name in the state dict; in_parts: each of `shards` by itself."""
        for part in self.shards() if in_parts else [self.denoiser]:
            part.compile(**options)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass (diffusers' own switch)."""
        self.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
