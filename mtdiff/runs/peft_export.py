"""One task of a run as an adapter folder, for `peft` and for diffusers' `load_lora_weights`.

What leaves is what folding has changed of the base: a layer's change of low rank is a LoRA of just that rank, and rows
or columns that are scaled are (IA)^3 vectors. Both are exact, so a method needs no form of its own for it. The input
convolution, which every method trains, is a LoRA of full rank, or saved whole beside (IA)^3.

Letters: O width out, I width in (for a convolution times its kernel), r rank.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from peft import IA3Config, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn

from mtdiff.errors import RunError, reason, shown
from mtdiff.methods.base import CannotFold
from mtdiff.runs.adapter import About
from mtdiff.runs.export import INPUT, fold_network, pipeline_name, widen_input_conv
from mtdiff.runs.load import build_base
from mtdiff.runs.model import Model

TOLERANCE = 2e-6  # of a layer's weight: folding rounds to float32
LARGEST_RANK = 256
OF_PEFT = "base_model.model."  # before every name in a network of peft
ELSE = "form=pipeline exports every change"


@dataclass(frozen=True)
class Layer:
    """A layer of the base and the same one after folding. weight (O, I, ...), bias (O,)."""

    name: str
    before: nn.Module
    after: nn.Module

    @property
    def change(self) -> Tensor:
        """(O, I) float64, the kernel flattened."""
        return (weight_of(self.after) - weight_of(self.before)).flatten(1)

    @property
    def tolerance(self) -> float:
        """Length of a rest that is rounding."""
        return TOLERANCE * float(weight_of(self.before).norm())

    @property
    def bias_change(self) -> Tensor | None:
        """(O,) float64; None for a layer without bias."""
        before, after = (getattr(m, "bias", None) for m in (self.before, self.after))
        return None if before is None or after is None else (after - before).detach().double()

    def scales_bias(self, vector: Tensor | None) -> bool:
        """Whether the bias is scaled by a vector (O,) as well, or is as it was with None."""
        before, after = (getattr(m, "bias", None) for m in (self.before, self.after))
        if before is None or after is None:
            return before is after
        wanted = before.detach().double() * (1 if vector is None else vector)
        return bool(torch.allclose(after.detach().double(), wanted, rtol=1e-5, atol=1e-7))


def weight_of(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().double()


def find_changes(base: nn.Module, folded: nn.Module) -> list[Layer]:
    """Layers that folding has changed. CannotFold where something else than linear layers and convolutions is."""
    before, after = dict(base.named_modules()), dict(folded.named_modules())
    own, other = base.state_dict(), folded.state_dict()
    odd = sorted(own.keys() ^ other.keys())
    changed = [key for key in own if key in other and not torch.equal(own[key], other[key])]
    found = [Layer(name, before[name], after[name]) for name in dict.fromkeys(k.rpartition(".")[0] for k in changed)]
    odd += [layer.name for layer in found if not isinstance(layer.before, nn.Linear | nn.Conv2d)]
    if odd:
        raise CannotFold(f"{odd[0]} has changed, which no adapter of linear layers and convolutions tells; {ELSE}")
    return found


def factor(layer: Layer) -> tuple[Tensor, Tensor]:
    """The change as B A of the least rank: A (r, I), B (O, r). CannotFold where that is no small one."""
    u, s, v = torch.linalg.svd(layer.change, full_matrices=False)
    rest = s.square().flip(0).cumsum(0).flip(0).sqrt()  # of the change, without the first 0, 1, ... parts
    rank = max(1, int((rest > layer.tolerance).sum()))
    most = min(LARGEST_RANK, min(layer.change.shape) // 2)
    if layer.name != INPUT and rank > most:
        raise CannotFold(f"{layer.name} has changed by a matrix of rank {rank}, a LoRA has at most {most} here; {ELSE}")
    root = s[:rank].sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root


def write_lora(base: nn.Module, folded: nn.Module, out: Path, weights: str) -> None:
    """Write peft's `adapter_config.json` and `adapter_model.safetensors`, and the file of diffusers."""
    layers = find_changes(base, folded)
    factors = {layer.name: factor(layer) for layer in layers}
    biases = {layer.name: layer.bias_change for layer in layers}
    ranks = {name: len(a) for name, (a, _) in factors.items()}
    common = max(set(ranks.values()), key=list(ranks.values()).count)
    odd = {name: rank for name, rank in ranks.items() if rank != common}
    config = LoraConfig(
        r=common,
        lora_alpha=common,  # the factors are the change itself
        rank_pattern=odd,
        alpha_pattern=odd,
        target_modules=list(factors),
        lora_bias=any(b is not None and bool(b.any()) for b in biases.values()),
    )
    made = get_peft_model(base, config)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, (a, b) in factors.items():
            layer: Any = made.get_base_model().get_submodule(name)
            into, out_of = layer.lora_A["default"], layer.lora_B["default"]
            into.weight.copy_(a.view(into.weight.shape))
            out_of.weight.copy_(b.view(out_of.weight.shape))
            if out_of.bias is not None:
                bias = biases[name]
                out_of.bias.copy_(torch.zeros_like(out_of.bias) if bias is None else bias)
    save_peft(made, out, weights)
    notes = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    state = {key.removeprefix(OF_PEFT): value for key, value in get_peft_model_state_dict(made).items()}
    StableDiffusionPipeline.save_lora_weights(out, unet_lora_layers=state, unet_lora_adapter_metadata=notes)


def save_peft(made: Any, out: Path, weights: str) -> None:
    """peft's own two files. weights: of the base, as the run names it; peft knows no name for a bare network."""
    made.peft_config["default"].base_model_name_or_path = weights
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that biases of LoRA have one axis, as they have
        made.save_pretrained(str(out))


def fit_vector(layer: Layer) -> tuple[Tensor, bool]:
    """The (IA)^3 vector of a layer, and whether it scales what comes in. CannotFold where neither side does."""
    before, after = weight_of(layer.before), weight_of(layer.after)
    for on_input in (False, True):
        axis = 0 if on_input else 1
        vector = (before * after).sum(axis) / before.square().sum(axis).clamp_min(1e-30)
        scaled = before * (vector if on_input else vector[:, None])
        if float((after - scaled).norm()) <= layer.tolerance and layer.scales_bias(None if on_input else vector):
            return vector, on_input
    raise CannotFold(f"{layer.name} has changed by more than a scale of its rows or columns; {ELSE}")


def write_ia3(base: nn.Module, folded: nn.Module, out: Path, weights: str) -> None:
    """`adapter_config.json` and `adapter_model.safetensors` of peft; the input convolution is saved whole."""
    layers = {layer.name: layer for layer in find_changes(base, folded)}
    conv = layers.pop(INPUT, None)
    vectors = {name: fit_vector(layer) for name, layer in layers.items()}
    config = IA3Config(
        target_modules=list(vectors),
        feedforward_modules=[name for name, (_, on_input) in vectors.items() if on_input],
        modules_to_save=[INPUT] if conv else None,
    )
    made = get_peft_model(base, config)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, (vector, _) in vectors.items():
            target: Any = made.get_base_model().get_submodule(name)
            target.ia3_l["default"].copy_(vector.view(target.ia3_l["default"].shape))
        if conv:
            kept: Any = made.get_base_model().get_submodule(INPUT)
            kept.modules_to_save["default"].load_state_dict(conv.after.state_dict())
    save_peft(made, out, weights)


WRITERS = {"lora": write_lora, "ia3": write_ia3}


def export_adapter(model: Model, about: About, task: str, out: Path, form: str) -> str:
    """Fold `model` in place for a task and write its change as an adapter folder. Returns its pipeline's class name.

    CannotFold (a ValueError) where the change is of another kind than `form`.
    """
    folded = fold_network(model, task).denoiser.float()
    base = build_base(about).denoiser
    assert isinstance(base, nn.Module)
    widen_input_conv(base.float(), folded.config["in_channels"])
    try:
        WRITERS[form](base, folded, out, str(about.backbone.get("weights")))
    except (OSError, SafetensorError) as error:
        raise RunError(f"out={shown(out)}: cannot be written ({reason(error)}); what is there is not whole") from None
    return pipeline_name(model.takes[task])
