"""What latent diffusion models in diffusers format share: the autoencoder around the denoiser, reading, building.

Letters: B batch, C latent channels, H W pixels, h w latent size, L text tokens.
"""

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import CLIPTokenizer, PreTrainedModel

from mtdiff.backbones.base import Backbone, Level, Part
from mtdiff.backbones.hub import explain_failure
from mtdiff.files.reading import hide_loading_bars

MOST_CUT = 10_000  # prompts that are remembered as cut
LONGEST_CUT = 1000  # characters of each


class LatentBackbone(Backbone):
    """A diffusers denoiser in the latent space of an `AutoencoderKL`; text is left to the heirs.

    attention: `fused` is torch's scaled dot-product kernel, `plain` two matrix products (faster training on CPUs).
    """

    denoiser: Any

    def __init__(self, denoiser: nn.Module, vae: AutoencoderKL, scheduler: Any, size: int, attention: str) -> None:
        super().__init__()
        self.denoiser, self.vae, self.scheduler, self.size = denoiser, vae.eval(), scheduler, size
        step = 2 ** (len(vae.config["block_out_channels"]) - 1)
        if size < step or size % step:
            raise ValueError(
                f"backbone.size={size}: expected a multiple of {step}, pixels of a latent of its autoencoder"
            )
        self.factor, side = step, size // step
        self.latent_shape = (vae.config["latent_channels"], side, side)
        if attention == "plain":
            self.denoiser.set_attn_processor(AttnProcessor())
        self._cut: dict[str, int] = {}

    def train(self, mode: bool = True) -> "LatentBackbone":
        """The autoencoder and the text encoders stay in evaluation mode."""
        self.training = mode
        self.denoiser.train(mode)
        return self

    def tokenize(
        self, tokenizer: Any, prompts: Sequence[str], length: int | None = None, *, longest: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, both (B, L) int64, padded or cut to L = `length` or the tokenizer's own.

        longest: no other tokenizer of this backbone reads more, so that what is cut here is not read at all.
        """
        ids, mask, cut = tokenize(tokenizer, prompts, length)
        if longest and len(self._cut) < MOST_CUT:
            self._cut |= {
                prompt[:LONGEST_CUT]: ids.shape[1] for prompt, is_cut in zip(prompts, cut, strict=True) if is_cut
            }
        return ids, mask

    def list_tokenizers(self) -> list[tuple[Any, int | None]]:
        """The tokenizers that read most of a prompt, with the tokens that each may give: None for its own number."""
        return []

    def note_prompts(self, prompts: Sequence[str]) -> None:
        for tokenizer, length in self.list_tokenizers():
            self.tokenize(tokenizer, prompts, length)

    def cut_prompts(self) -> Mapping[str, int]:
        return self._cut

    @property
    def shift(self) -> float:
        """What is taken from the autoencoder's latents before they are scaled; most have none."""
        return self.vae.config.get("shift_factor") or 0.0

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        latents = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mean  # (B, C, h, w)
        return (latents.float() - self.shift) * self.vae.config["scaling_factor"]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        unscaled = latents / self.vae.config["scaling_factor"] + self.shift
        return self.vae.decode(unscaled.to(self.vae.dtype)).sample.float().clamp(-1, 1)

    def sync_config(self) -> None:
        """Bring the denoiser's own config in line with its modules once a method has folded.

        diffusers rebuilds a saved network from that config alone; after this `from_pretrained` gives the same network.
        """
        (site,) = self.sites("input")
        self.denoiser.register_to_config(in_channels=site.width)


def block_parts(blocks: nn.ModuleList, level: Level) -> list[Part]:
    """Parts of a transformer's stack: all but the outermost blocks, or all but the last. Each adds to its input."""
    return [Part(block, adds=True) for block in blocks[1 if level == "block" else 0 : -1]]


# Text


def tokenize(
    tokenizer: Any, prompts: Sequence[str], length: int | None = None
) -> tuple[Tensor, Tensor, Sequence[bool]]:
    """Token ids and attention mask, both (B, L) int64, padded or cut to L; and which of the prompts were cut.

    length: L, in place of the tokenizer's own.
    """
    length = length or tokenizer.model_max_length
    options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    out = tokenizer(list(prompts), **options)
    cut = [bool(e.overflowing) for e in out.encodings] if out.encodings else [False] * len(prompts)
    return out.input_ids, out.attention_mask, cut


def byte_tokenizer(length: int) -> CLIPTokenizer:
    """A CLIP tokenizer without merges, 514 tokens: for models drawn at random, which know no words anyway."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=length)


# Reading


def read_parts(
    weights: str | Path, revision: str | None, parts: Mapping[str, Any], pickled: bool = False
) -> dict[str, Any]:
    """Parts by folder name and class, from a folder in diffusers format or the hub, in float32.

    Safetensors only; pickled: also what is there as a pickle alone, read by torch's `weights_only`.
    """
    made = {}
    for name, cls in parts.items():
        with explain_failure(weights, revision, name), hide_loading_bars():
            made[name] = _read(cls, weights, name, revision, pickled)
    return made


def _read(cls: Any, weights: str | Path, name: str, revision: str | None, pickled: bool) -> Any:
    options: dict[str, Any] = {"subfolder": name, "revision": revision}
    if not inspect.isclass(cls):
        return cls(weights, **options)
    if issubclass(cls, ModelMixin):
        options |= {"use_safetensors": None if pickled else True, "torch_dtype": torch.float32}
    elif issubclass(cls, PreTrainedModel):
        options |= {"use_safetensors": True, "dtype": torch.float32}
    elif cls is DDIMScheduler:
        options |= {"clip_sample": False}  # latents have no range, and files written by other schedulers do not say so
    return cls.from_pretrained(weights, **options)


# Building


@contextmanager
def drawing(device: str, seed: int) -> Iterator[None]:
    """Modules made inside live on `device` (`meta`: shapes only), with weights drawn from `seed` alone."""
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def network(cls: Any, part: str, given: Mapping[str, Any]) -> Any:
    """A diffusers network from keyword arguments of its class."""
    refuse_unknown(f"backbone.architecture.{part}", given, inspect.signature(cls).parameters)
    return cls.from_config(dict(given))


def text_network(cls: Any, config: Any, part: str, given: Mapping[str, Any], tokenizer: Any) -> Any:
    """A transformers text encoder of class `cls` from keyword arguments of its configuration class `config`."""
    refuse_unknown(f"backbone.architecture.{part}", given, config().to_dict())
    filled = config(**given)
    if len(tokenizer) > filled.vocab_size:
        expected = f"expected at least the {len(tokenizer)} of its tokenizer"
        raise ValueError(f"backbone.architecture.{part}.vocab_size={filled.vocab_size}: {expected}")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(filled, name, getattr(tokenizer, name))
    return cls(filled)


def noise_schedule(given: Mapping[str, Any]) -> DDIMScheduler:
    """Noise schedule and prediction type, as keyword arguments of diffusers' DDIMScheduler; latents are not clipped."""
    refuse_unknown("backbone.architecture.scheduler", given, inspect.signature(DDIMScheduler).parameters)
    return DDIMScheduler.from_config({"clip_sample": False, **given})


def flow_schedule(given: Mapping[str, Any]) -> FlowMatchEulerDiscreteScheduler:
    """Times of a flow, as keyword arguments of diffusers' FlowMatchEulerDiscreteScheduler."""
    known = inspect.signature(FlowMatchEulerDiscreteScheduler).parameters
    refuse_unknown("backbone.architecture.scheduler", given, known)
    return FlowMatchEulerDiscreteScheduler.from_config(dict(given))


def refuse_unknown(key: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """One line for a name that is not allowed; names with an underscore in front are diffusers' own notes."""
    names = list(allowed)
    for name in given:
        if name not in names and not name.startswith("_"):
            near = difflib.get_close_matches(name, names, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"{key}.{name}: expected one of {', '.join(names)}{hint}")
