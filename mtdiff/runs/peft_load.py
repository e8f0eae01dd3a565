"""An adapter folder of others on a base model: what `peft` saves, or diffusers' `pytorch_lora_weights.safetensors`.

It is merged into the base, whose drawing is then that of `load_run`. The folder is data of someone else: tensors come
from safetensors alone, whose shapes decide what is allocated; of the settings those are read that change what is
computed, and any other that is switched on is refused by its name.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import IA3Config, LoraConfig, PeftModel
from safetensors import safe_open

from mtdiff.backbones.base import Backbone
from mtdiff.backbones.stable_diffusion import StableDiffusion
from mtdiff.config.settings import Sampling
from mtdiff.errors import shown
from mtdiff.files.reading import check_header, read_json, resolve_within
from mtdiff.methods.base import Method
from mtdiff.methods.layout import ChannelConcat, Layout
from mtdiff.methods.untouched import TargetAlone, Untouched
from mtdiff.model.denoiser import Denoiser
from mtdiff.runs.export import INPUT, input_channels, widen_input_conv
from mtdiff.runs.load import make_painter
from mtdiff.runs.model import Model
from mtdiff.tasks.base import Task
from mtdiff.tasks.takes import Takes

LARGEST_RANK = 4096
SETTINGS, OF_PEFT = "adapter_config.json", "adapter_model.safetensors"
OF_DIFFUSERS = "pytorch_lora_weights.safetensors"
UNET = "unet."  # before the names in a file of diffusers
NAME = re.compile(r"\^?[\w.]+")  # of a layer: no other pattern, since peft reads names as regular expressions
READ = {  # settings that change what is computed, by the class that takes them
    LoraConfig: (
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "use_rslora",
        "use_dora",
        "lora_bias",
        "modules_to_save",
    ),
    IA3Config: ("target_modules", "feedforward_modules", "modules_to_save"),
}
KINDS: dict[str, Any] = {"LORA": LoraConfig, "IA3": IA3Config}
NOTES = {  # settings that change nothing once the adapter is trained
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
    "init_lora_weights",
}
STARTS = (True, False, "gaussian")  # of init_lora_weights; others have changed the base too


class Merged(Method):
    """A base into which an adapter of others was merged; nothing is trained. sourced: it reads source and mask."""

    def __init__(self, *, sourced: bool) -> None:
        self.sourced = sourced

    @property
    def layout(self) -> Layout:
        return ChannelConcat() if self.sourced else TargetAlone()

    adapt = Untouched.adapt
    fold = Untouched.fold


def load_peft(backbone: Backbone, folder: Path, *, name: str, task: Task, sampling: Sampling) -> Model:
    """A model of one task from a base, which is changed, and an adapter folder of others.

    Its input convolution may have the channels of the task's pipeline (`mtdiff.runs.export`), or the base's own alone.
    ValueError in one line where the folder holds no such adapter, or one that does not fit.
    """
    if not isinstance(backbone, StableDiffusion):
        raise ValueError(
            f"adapter={shown(folder)}: is read on Stable Diffusion's family, not {type(backbone).__name__}"
        )
    takes = Takes.of(task)
    merge_adapter(backbone, folder, takes)
    if takes.image:
        spread_input(backbone, takes)
    denoiser = Denoiser(backbone, Merged(sourced=takes.image), [name]).eval()
    return Model(make_painter(denoiser, sampling), {name: task})


def merge_adapter(backbone: StableDiffusion, folder: Path, takes: Takes) -> None:
    """Merge the folder into the denoiser, which becomes that of the task's pipeline."""
    path = find_weights(folder)
    settings = read_settings(path)
    try:
        widen_input_conv(backbone.denoiser, len(input_channels(takes, backbone.latent_shape[0])))
        merge = merge_peft if path.name == OF_PEFT else merge_diffusers
        backbone.denoiser = merge(backbone.denoiser, path, settings)
    except Exception as error:  # of peft, diffusers or torch, for tensors that belong to another network
        raise ValueError(f"{path}: does not fit the base ({shown(error, 300)})") from None
    for name, parameter in backbone.denoiser.named_parameters():
        if not parameter.is_meta and not parameter.isfinite().all():
            raise ValueError(f"{path}: {name} is not finite with it")
    backbone.denoiser.eval().requires_grad_(False)


def find_weights(folder: Path) -> Path:
    """The file of tensors in an adapter folder, whose header is of a size that may be read."""
    if not folder.is_dir():
        raise ValueError(f"adapter={shown(folder)}: no such folder")
    of_peft = resolve_within(folder, SETTINGS).exists()
    path = resolve_within(folder, OF_PEFT if of_peft else OF_DIFFUSERS)
    if not of_peft and not path.exists():
        raise ValueError(
            f"adapter={shown(folder)}: holds neither {SETTINGS} (of peft) nor {OF_DIFFUSERS} (of diffusers)"
        )
    check_header(path)
    return path


# Settings


def read_settings(path: Path) -> LoraConfig | IA3Config | None:
    """What peft is told of an adapter, from the file beside its tensors, or from their header; None where none is."""
    if path.name == OF_PEFT:
        return check_settings(path.with_name(SETTINGS), read_json(path.with_name(SETTINGS)))
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
    if text is None:
        return None
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: its metadata is not JSON") from None
    if not isinstance(given, Mapping):
        raise ValueError(f"{path}: its metadata is no mapping")
    whole = {f"{UNET}{key}": value for key, value in given.items()} if is_bare(given) else given
    unet = {key.removeprefix(UNET): value for key, value in whole.items() if key.startswith(UNET)}
    return check_settings(path, {"peft_type": "LORA", **unet})


def is_bare(names: Iterable[str]) -> bool:
    """Whether a file of diffusers holds a network's own names, as `save_lora_adapter` writes them."""
    return not any(name.startswith((UNET, "text_encoder")) for name in names)


def check_settings(path: Path, given: Any) -> LoraConfig | IA3Config:
    """peft's configuration from what a file says, every value checked."""
    kind = given.get("peft_type") if isinstance(given, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{path}: peft_type={shown(kind)}: expected one of {', '.join(KINDS)}")
    cls = KINDS[kind]
    defaults = cls().to_dict()
    if given.get("init_lora_weights", True) not in STARTS:
        raise ValueError(f"{path}: init_lora_weights={shown(given['init_lora_weights'])}: has changed the base as well")
    for key, value in given.items():
        plain = key in READ[cls] or key in NOTES or not value or value == defaults.get(key)
        if not plain:
            raise ValueError(f"{path}: {shown(key)}={shown(value)}: is not read here, expected none")
    settings = {key: given[key] for key in READ[cls] if given.get(key) is not None}
    for key, value in settings.items():
        check_setting(f"{path}: {key}={shown(value)}", key, value)
    return cls(**settings)


def check_setting(shown_value: str, key: str, value: Any) -> None:
    """ValueError for a value that is not of the setting's kind, or out of bounds."""
    expected = ""
    if key == "r" and not is_rank(value):
        expected = f"a whole number from 1 to {LARGEST_RANK}"
    elif key == "lora_alpha" and not is_number(value):
        expected = "a finite number"
    elif key.startswith("use_") or key == "lora_bias":
        expected = "" if isinstance(value, bool) else "true or false"
    elif key.endswith("_pattern"):
        fits = is_rank if key == "rank_pattern" else is_number
        if not isinstance(value, Mapping) or not (are_names(value) and all(fits(v) for v in value.values())):
            expected = "numbers by the names of layers"
    elif key == "modules_to_save" and value != [INPUT]:
        expected = f"[{INPUT}] or none"
    elif key.endswith("_modules") and not (isinstance(value, list) and are_names(value)):
        expected = "a list of names of layers"
    if expected:
        raise ValueError(f"{shown_value}: expected {expected}")


def is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_RANK


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def are_names(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) and NAME.fullmatch(value) for value in values)


# Merging


def merge_peft(unet: Any, path: Path, settings: Any) -> Any:
    """The network with the adapter of a folder of peft in its weights. Nothing is allocated but the file's tensors."""
    made = PeftModel.from_pretrained(unet, str(path.parent), config=settings, low_cpu_mem_usage=True)
    missing = [name for name, parameter in made.named_parameters() if parameter.is_meta]
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, first {missing[0]}")
    return made.merge_and_unload()


def merge_diffusers(unet: Any, path: Path, settings: Any) -> Any:
    """The same with diffusers' LoRA. settings: None where the file does not tell them."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        if not are_names(names):
            raise ValueError(f"{shown(next(n for n in names if not NAME.fullmatch(n)))}: is no name of a tensor")
        tensors = {name: file.get_tensor(name) for name in names}
    state, alphas = StableDiffusionPipeline.lora_state_dict(tensors, unet_config=unet.config)
    if is_bare(state):
        state = {f"{UNET}{name}": tensor for name, tensor in state.items()}
    others = [name for name in state if not name.startswith(UNET)]
    if others or not state:
        belongs = f"of which {shown(others[0])} is the first, are not the UNet's" if others else "are there"
        raise ValueError(f"{len(others)} tensors, {belongs}")
    if settings is not None:
        unet.load_lora_adapter(state, prefix="unet", metadata=prefix_keys(settings))
    else:
        unet.load_lora_adapter(state, prefix="unet", network_alphas=alphas)
    unet.fuse_lora()
    unet.unload_lora()
    return unet


def prefix_keys(settings: LoraConfig) -> dict[str, Any]:
    """peft's configuration as diffusers takes it."""
    own = {key: getattr(settings, key) for key in READ[LoraConfig] if key != "modules_to_save"}
    return {f"{UNET}{key}": value for key, value in own.items()}


@torch.no_grad()
def spread_input(backbone: StableDiffusion, takes: Takes) -> None:
    """Bring a pipeline's input convolution into our order [noisy, source, mask]: the reverse of `arrange_input`."""
    conv, latent = backbone.denoiser.conv_in, backbone.latent_shape[0]
    channels: Sequence[int] = input_channels(takes, latent)
    weight = conv.weight.new_zeros(conv.out_channels, 2 * latent + 1, *conv.kernel_size)
    weight[:, list(channels)] = conv.weight
    if not takes.mask:  # whose pipeline gives image latents unscaled
        weight[:, latent : 2 * latent] /= backbone.vae.config["scaling_factor"]
    widen_input_conv(backbone.denoiser, 2 * latent + 1)
    backbone.denoiser.conv_in.weight.copy_(weight)
