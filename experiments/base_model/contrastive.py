"""The two CLIPs (Radford et al., arXiv 2103.00020): one whose text half conditions the denoiser, one that measures.

They are trained alike, on other splits and from other seeds; the measuring one is used for nothing but measuring. A
small picture tower is matched to a text half that stays as it is: what reads reference pictures for the base.

Letters: B batch, L text tokens.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from base_model.loop import Stage
from base_model.records import Records
from mtdiff.backbones.latent import tokenize


def open_tokenizer(folder: Path) -> CLIPTokenizer | None:
    """The tokenizer in a folder, or None where there is none."""
    known = (folder / "tokenizer.json", folder / "vocab.json")
    return CLIPTokenizer.from_pretrained(folder) if any(path.exists() for path in known) else None


def train_tokenizer(texts: Sequence[str], folder: Path, vocabulary: int, length: int) -> CLIPTokenizer:
    """Train byte-level BPE as CLIP has it on the texts, with the `tokenizers` library, and save it in `folder`."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    trained = json.loads(bpe.to_str())["model"]
    vocab = dict(trained["vocab"])
    for letter in alphabet:  # any byte must end a word, else unseen words become unknown
        vocab.setdefault(letter + "</w>", len(vocab))
    merges = [tuple(m) for m in trained["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_clip(tokenizer: CLIPTokenizer, config: Mapping[str, Any]) -> CLIPModel:
    """A new CLIP for pictures of 64 px. config: `text`, `vision` and `projection_dim`, as CLIPConfig takes them."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids["pad_token_id"] = tokenizer.pad_token_id
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length, **ids}
    return CLIPModel(
        CLIPConfig(
            text_config={**config["text"], **text},
            vision_config={"image_size": 64, **config["vision"]},
            projection_dim=config["projection_dim"],
        )
    )


class Contrastive(Stage):
    """Each picture must find its caption in the batch, and each caption its picture.

    name: what a step's data are drawn by, beside the step.
    """

    model: CLIPModel

    def __init__(self, name: str, model: CLIPModel, tokenizer: CLIPTokenizer, records: Records, batch: int) -> None:
        self.name, self.model, self.tokenizer, self.records, self.size = name, model, tokenizer, records, batch

    def draw_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) and token ids (B, L)."""
        images, captions = self.records.draw_batch(self.size, self.name, step)
        return images, tokenize(self.tokenizer, captions)[0]

    def compute_losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, ids = (x.to(self.model.device) for x in batch)
        logits = self.model(input_ids=ids, pixel_values=images).logits_per_text.float()  # (B, B)
        target = torch.arange(len(logits), device=logits.device)
        loss = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
        return {"loss": loss, "accuracy": (logits.argmax(1) == target).float().mean()}


class Scaled(nn.Module):
    """A picture tower with the scale of its similarities, whose logarithm starts where CLIP's does, at 1 / 0.07."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower, self.scale = tower, nn.Parameter(torch.tensor(2.66))


class PictureTower(Stage):
    """A picture tower that must find the caption of each picture in the batch, by a text half that is not trained.

    Its embedding lies in the space of the text half's own pooled output (B, D), which has no projection of its own.
    """

    model: CLIPVisionModelWithProjection

    def __init__(
        self,
        model: CLIPVisionModelWithProjection,
        text: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        records: Records,
        batch: int,
    ) -> None:
        self.model, self.text = model, text.eval().requires_grad_(False)
        self.tokenizer, self.records, self.size = tokenizer, records, batch
        self.scaled = Scaled(model)

    @property
    def network(self) -> nn.Module:
        return self.scaled

    def draw_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) and token ids (B, L)."""
        images, captions = self.records.draw_batch(self.size, "vision", step)
        return images, tokenize(self.tokenizer, captions)[0]

    def compute_losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, ids = (x.to(self.model.device) for x in batch)
        logits = compare(self.model, self.text, images, ids) * self.scaled.scale.clamp(max=4.6).exp()  # (B, B)
        target = torch.arange(len(logits), device=logits.device)
        loss = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
        return {"loss": loss, "accuracy": (logits.argmax(1) == target).float().mean()}


def compare(tower: CLIPVisionModelWithProjection, text: CLIPTextModel, images: Tensor, ids: Tensor) -> Tensor:
    """(B, B): cosines of each caption, token ids (B, L), to each of the pictures (B, 3, H, W)."""
    with torch.no_grad():
        told = nn.functional.normalize(text(ids).pooler_output.float(), dim=1)  # (B, D)
    seen = nn.functional.normalize(tower(pixel_values=images).image_embeds.float(), dim=1)  # (B, D)
    return told @ seen.T


def make_tower(config: Mapping[str, Any], width: int) -> CLIPVisionModelWithProjection:
    """A new picture tower for pictures of 64 px. width: of the text half's pooled output."""
    return CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=64, projection_dim=width, **config))


def take_text_half(clip: CLIPModel) -> CLIPTextModel:
    """The text tower as a model of its own, frozen."""
    model, tower = CLIPTextModel(clip.config.text_config), clip.text_model.state_dict()
    nested = set(model.state_dict()) != set(tower)  # transformers names the tower, or leaves it unnamed
    model.load_state_dict({f"text_model.{k}": v for k, v in tower.items()} if nested else tower)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def match_captions(clip: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, captions: Sequence[str]) -> float:
    """Share of captions whose most similar picture among `images` (n, 3, H, W) is their own."""
    ids = tokenize(tokenizer, captions)[0].to(clip.device)
    logits = clip(input_ids=ids, pixel_values=images.to(clip.device)).logits_per_text
    return (logits.argmax(1).cpu() == torch.arange(len(captions))).float().mean().item()


@torch.no_grad()
def match_tower(stage: PictureTower, images: Tensor, captions: Sequence[str]) -> float:
    """As `match_captions`, by a picture tower and the text half that it was matched to."""
    ids = tokenize(stage.tokenizer, captions)[0].to(stage.model.device)
    found = compare(stage.model, stage.text, images.to(stage.model.device), ids).argmax(1).cpu()
    return (found == torch.arange(len(captions))).float().mean().item()
