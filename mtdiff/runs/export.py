"""A trained run, folded for one task, as an ordinary diffusers pipeline of Stable Diffusion's family.

The folded input convolution reads [noisy latent, source latent, mask]. What a task never fills is cut away, and the
rest is put into the order and scale of the pipeline:

no source             4 channels    StableDiffusionPipeline
source without mask   8             StableDiffusionInstructPix2PixPipeline, which gives image latents unscaled
source with mask      9             StableDiffusionInpaintPipeline, whose order is latent, mask, masked image
"""

from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
from safetensors import SafetensorError
from torch import nn

from mtdiff.backbones.stable_diffusion import StableDiffusion
from mtdiff.errors import RunError, reason, shown
from mtdiff.files.reading import hide_loading_bars
from mtdiff.methods.base import CannotFold
from mtdiff.model.sampling import make_scheduler
from mtdiff.runs.model import Model
from mtdiff.tasks.takes import Takes

INPUT = "conv_in"  # the input convolution of a diffusers UNet


def pipeline_name(takes: Takes) -> str:
    if not takes.image:
        return "StableDiffusionPipeline"
    return "StableDiffusionInpaintPipeline" if takes.mask else "StableDiffusionInstructPix2PixPipeline"


def count_channels(model: Model, task: str) -> int:
    """How many channels the network of a task's pipeline reads."""
    return len(input_channels(model.takes[task], model.painter.denoiser.backbone.latent_shape[0]))


def input_channels(takes: Takes, latent_channels: int) -> Sequence[int]:
    """Return the folded network's input channels that the pipeline feeds, in its order."""
    noisy = list(range(latent_channels))
    source = [c + latent_channels for c in noisy]
    if not takes.image:
        return noisy
    return [*noisy, 2 * latent_channels, *source] if takes.mask else [*noisy, *source]


@torch.no_grad()
def fold_network(model: Model, task: str) -> StableDiffusion:
    """Fold `model` in place for a task: its denoiser becomes the network of the task's pipeline.

    CannotFold (a ValueError) where the method has no plain denoiser or the backbone is of another family.
    """
    backbone, takes = model.painter.denoiser.backbone, model.takes[task]
    if not isinstance(backbone, StableDiffusion):
        raise CannotFold(f"{type(backbone).__name__}: only Stable Diffusion's family is exported as a pipeline")
    refuse_modalities(model, task)
    model.painter.denoiser.method.fold(backbone, list(model.tasks).index(task))
    (site,) = backbone.sites("input")
    assert isinstance(site.module, nn.Conv2d)
    site.replace(arrange_input(site.module, takes, backbone))
    backbone.sync_config()
    return backbone


def refuse_modalities(model: Model, task: str) -> None:
    """CannotFold for a task of several modalities, where the model's process mixes them."""
    named = model.tasks[task].modalities
    if named and model.painter.denoiser.method.process is not None:
        raise CannotFold(
            f"task={task}: its {', '.join(named)} is mixed into the noise and guessed by a head at every step, which "
            "no plain pipeline does"
        )


def export_pipeline(model: Model, task: str, out: str | Path) -> str:
    """Write the pipeline folder of `fold_network`. Returns the pipeline's class name."""
    backbone, name = fold_network(model, task), pipeline_name(model.takes[task])
    pipeline = getattr(diffusers, name)(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.denoiser,
        scheduler=make_scheduler(model.painter.sampler, backbone.scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    try:
        with hide_loading_bars():
            pipeline.save_pretrained(out)
    except (OSError, SafetensorError) as error:
        raise RunError(f"out={shown(out)}: cannot be written ({reason(error)}); what is there is not whole") from None
    return name


def arrange_input(conv: nn.Conv2d, takes: Takes, backbone: StableDiffusion) -> nn.Conv2d:
    """Return a copy of the input convolution whose channels stand as the pipeline feeds them."""
    channels = backbone.latent_shape[0]
    chosen = list(input_channels(takes, channels))
    weight = conv.weight.detach().clone()
    if takes.image and not takes.mask:
        weight[:, channels : 2 * channels] *= backbone.vae.config["scaling_factor"]
    made = nn.Conv2d(len(chosen), conv.out_channels, conv.kernel_size, conv.stride, conv.padding)  # type: ignore[arg-type]
    made.weight, made.bias = nn.Parameter(weight[:, chosen]), nn.Parameter(conv.bias.detach().clone())  # type: ignore[union-attr]
    return made.to(conv.weight.device)


def widen_input_conv(unet: nn.Module, channels: int) -> None:
    """Give the input convolution of a diffusers UNet more channels, in place; new ones are zero.

    ValueError where it reads more already.
    """
    old = unet.get_submodule(INPUT)
    assert isinstance(old, nn.Conv2d)
    if old.in_channels > channels:
        raise ValueError(f"{INPUT} reads {old.in_channels} channels, expected at most {channels}")
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding)  # type: ignore[arg-type]
    with torch.no_grad():
        new.weight.zero_()[:, : old.in_channels] = old.weight
    new.bias = old.bias
    unet.conv_in = new
    unet.register_to_config(in_channels=channels)  # type: ignore[operator]
