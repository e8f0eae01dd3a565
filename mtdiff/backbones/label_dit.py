"""DiT: a class-conditional diffusion transformer (Peebles & Xie, arXiv 2212.09748), the setting of DTR.

It reads a class in place of text. A prompt is the name or the number of a class; the empty prompt is the class "none"
that it was trained with for guidance. Any other text takes a class by a fixed hash (`other="hash"`, so that a closed
set of instructions can be learnt) or none (`other="null"`).

Two things are as in diffusers' network only for square pictures, and in ours (`LabelTransformer`) for all: the order in
which patches are put together, and the embedding of time and class before the last layer, which it takes from the first
block by name. The folded network is diffusers' own class.

Letters: B batch, C latent channels, h w latent size, p patch size, N patches.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.models.embeddings import CombinedTimestepLabelEmbeddings, LabelEmbedding
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from mtdiff.backbones.base import Level, Part, Removable, Site, SiteKind, UnitKind
from mtdiff.backbones.ending import Ending, Middle, transformer_ending, transformer_middle
from mtdiff.backbones.hub import explain_failure
from mtdiff.backbones.latent import (
    LatentBackbone,
    block_parts,
    drawing,
    network,
    noise_schedule,
    read_parts,
    refuse_unknown,
)
from mtdiff.backbones.lighter import stack_drops
from mtdiff.backbones.modulation import absorb
from mtdiff.backbones.removable import stack_removable
from mtdiff.backbones.unet import transformer_block_sites, unit_parts
from mtdiff.rng import numpy_rng
from mtdiff.types import Condition, Text

PRESETS = {  # layers, heads, channels of a head
    "DiT-S/2": (12, 6, 64),
    "DiT-B/2": (12, 12, 64),
    "DiT-L/2": (24, 16, 64),
    "DiT-XL/2": (28, 16, 72),
}


class LabelTransformer(DiTTransformer2DModel):
    """diffusers' DiT for pictures of any shape, whose first block may stand inside another module."""

    def forward(self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor) -> Any:
        """hidden_states (B, C, h, w), timestep (B,), class_labels (B,) -> sample (B, C', h, w)."""
        p = self.patch_size
        h, w = (side // p for side in hidden_states.shape[-2:])
        x = self.pos_embed(hidden_states)  # (B, N, D)
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, None, None, None, timestep, None, class_labels)
            else:
                x = block(x, timestep=timestep, class_labels=class_labels)
        embed = next(m for m in self.transformer_blocks.modules() if isinstance(m, CombinedTimestepLabelEmbeddings))
        conditioning = nn.functional.silu(embed(timestep, class_labels, hidden_dtype=x.dtype))
        shift, scale = self.proj_out_1(conditioning).chunk(2, dim=1)
        x = self.proj_out_2(self.norm_out(x) * (1 + scale[:, None]) + shift[:, None])  # (B, N, p p C')
        x = x.unflatten(1, (h, w)).unflatten(-1, (p, p, self.out_channels))  # (B, h/p, w/p, p, p, C')
        return Transformer2DModelOutput(sample=x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3))


class LabelDiT(LatentBackbone):
    """labels: class by name. other: what a text that names no class stands for."""

    levels: ClassVar[tuple[Level, ...]] = ("block", "layer", "unit")
    reads_text: ClassVar[bool] = False

    def __init__(
        self,
        transformer: LabelTransformer,
        vae: AutoencoderKL,
        scheduler: Any,
        size: int,
        attention: Literal["fused", "plain"] = "fused",
        labels: Mapping[str, int] | None = None,
        other: Literal["hash", "null"] = "hash",
    ) -> None:
        super().__init__(transformer, vae, scheduler, size, attention)
        self.labels = {name.casefold(): number for name, number in (labels or {}).items()}
        self.other = other
        self.classes: int = transformer.config["num_embeds_ada_norm"]
        for module in transformer.modules():
            if isinstance(module, LabelEmbedding):
                module.dropout_prob = 0.0  # ours is drawn from each example's own seed

    def label(self, prompt: str) -> int:
        """The class that a prompt stands for; `classes` is the one of no class."""
        text = prompt.strip().casefold()
        if text in self.labels:
            return self.labels[text]
        if text.isdecimal() and int(text) < self.classes:
            return int(text)
        if text == "" or self.other == "null":
            return self.classes
        return int(numpy_rng("label", text).integers(self.classes))

    def embed(self, prompts: Sequence[str]) -> Text:
        """extra: `label` (B,) int64. tokens: zeros (B, 1, 1), which nothing reads."""
        device = next(self.vae.parameters()).device
        label = torch.tensor([self.label(p) for p in prompts], device=device)
        return Text(torch.zeros(len(prompts), 1, 1, device=device), {"label": label})

    def predict(self, packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
        out = self.denoiser(packed, timestep=t, class_labels=condition.extra["label"]).sample
        return out[:, : self.latent_shape[0]]  # the other half is the learned variance, which nothing here uses

    def sites(self, kind: SiteKind) -> list[Site]:
        net = self.denoiser
        if kind == "input":
            return [Site("pos_embed.proj", net.pos_embed, "proj", net.pos_embed.proj.weight.shape[-3])]
        blocks, width = net.transformer_blocks, net.inner_dim
        if kind == "block":
            return [Site(f"transformer_blocks.{i}", blocks, str(i), width, branch=False) for i in range(len(blocks))]
        return [
            site
            for i, block in enumerate(blocks)
            for site in transformer_block_sites(f"transformer_blocks.{i}", block, kind)
        ]

    def parts(self, level: Level, units: Sequence[UnitKind]) -> list[Part]:
        net = self.denoiser
        return list(unit_parts(net, units)) if level == "unit" else block_parts(net.transformer_blocks, level)

    def ending(self) -> Ending:
        return transformer_ending(self.denoiser, self.denoiser.proj_out_2)

    def middle(self) -> Middle:
        return transformer_middle(self.denoiser)

    def drops(self) -> Mapping[str, Callable[[], None]]:
        return stack_drops(self.denoiser)

    def removable(self) -> list[Removable]:
        return stack_removable(self.sites("block")[1:])  # the first one's embedding is read once more at the end

    def shards(self) -> list[nn.Module]:
        return list(self.denoiser.transformer_blocks)[1:]  # the first one's embedding is read once more at the end

    def sync_config(self) -> None:
        super().sync_config()
        self.denoiser.register_to_config(out_channels=self.denoiser.out_channels)
        for site in self.sites("ffn"):
            assert site.norm is not None
            block: Any = site.parent
            absorb(site.norm, block.norm1.linear)
        self.denoiser.__class__ = DiTTransformer2DModel


def load(
    weights: str,
    size: int = 256,
    revision: str | None = None,
    attention: Literal["fused", "plain"] = "fused",
    other: Literal["hash", "null"] = "hash",
    pickled: bool = False,
    scratch: bool = False,
    preset: Literal["DiT-S/2", "DiT-B/2", "DiT-L/2", "DiT-XL/2"] | None = None,
    architecture: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> LabelDiT:
    """A DiT by name.

    weights: a folder in diffusers format, a hub repository (pin it with `revision`), `random` (drawn from `seed`) or
    `meta` (shapes only); the last two are built from `architecture`.
    pickled: read weights that are there as a pickle alone (torch's `weights_only`), as in the authors' repository.
    scratch: with a new transformer of `architecture`, started as DiT's. preset: its size, over the architecture's.
    """
    architecture = apply_preset(architecture or {}, preset)
    if weights in ("random", "meta"):
        parts = build(architecture, "meta" if weights == "meta" else "cpu", seed)
        return LabelDiT(**parts, size=size, attention=attention, other=other)
    wanted: dict[str, Any] = {"vae": AutoencoderKL, "scheduler": DDIMScheduler}
    if scratch:
        made = read_parts(weights, revision, wanted, pickled)
        with drawing("cpu", seed):
            empty = network(LabelTransformer, "transformer", architecture["transformer"])
            made["transformer"] = start_as_identity(empty)
    elif preset is not None:
        raise ValueError(f"backbone.preset={preset}: only with backbone.scratch=true, or weights=random or meta")
    else:
        made = read_parts(weights, revision, {"transformer": LabelTransformer, **wanted}, pickled)
    return LabelDiT(**made, size=size, attention=attention, other=other, labels=label_names(weights, revision))


def apply_preset(architecture: Mapping[str, Any], preset: str | None) -> dict[str, Any]:
    """The architecture with the transformer's layers and width of a preset (table 1 of 2212.09748)."""
    if preset is None:
        return dict(architecture)
    if preset not in PRESETS:
        raise ValueError(f"backbone.preset={preset}: expected one of {', '.join(PRESETS)}")
    layers, heads, width = PRESETS[preset]
    size = {"num_layers": layers, "num_attention_heads": heads, "attention_head_dim": width, "patch_size": 2}
    return {**architecture, "transformer": {**architecture.get("transformer", {}), **size}}


@torch.no_grad()
def start_as_identity(network: LabelTransformer) -> LabelTransformer:
    """DiT's own start: every block is the identity (adaLN-Zero), and the first prediction is zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, CombinedTimestepLabelEmbeddings):
            nn.init.normal_(module.class_embedder.embedding_table.weight, std=0.02)
            for layer in (module.timestep_embedder.linear_1, module.timestep_embedder.linear_2):
                nn.init.normal_(layer.weight, std=0.02)
    nn.init.xavier_uniform_(network.pos_embed.proj.weight.flatten(1))
    nn.init.zeros_(network.pos_embed.proj.bias)
    for layer in (
        *(block.norm1.linear for block in network.transformer_blocks),
        network.proj_out_1,
        network.proj_out_2,
    ):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return network


def label_names(weights: str, revision: str | None) -> dict[str, int]:
    """Classes by name, from the pipeline's own list; a class may have several names."""
    with explain_failure(weights, revision, "model_index.json"):
        index = DiTPipeline.load_config(weights, revision=revision)
    return {
        name.strip(): int(number)
        for number, names in (index.get("id2label") or {}).items()
        for name in names.split(",")
    }


def build(architecture: dict[str, Any], device: str, seed: int) -> dict[str, Any]:
    """Parts of a given shape without pre-trained weights.

    architecture: keyword arguments for each of transformer, vae, scheduler.
    """
    wanted = ("transformer", "vae", "scheduler")
    refuse_unknown("backbone.architecture", architecture, wanted)
    for part in wanted:
        if part not in architecture:
            raise ValueError(f"backbone.architecture.{part}: has to be given where no weights are read")
    with drawing(device, seed):
        made = {
            "transformer": network(LabelTransformer, "transformer", architecture["transformer"]),
            "vae": network(AutoencoderKL, "vae", architecture["vae"]),
        }
    return {**made, "scheduler": noise_schedule(architecture["scheduler"])}
