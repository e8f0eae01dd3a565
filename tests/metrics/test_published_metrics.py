"""The published metrics' own code: where weights are looked for, how pictures are prepared, equality with clean-fid.

The real weights are not here; tiny networks in the same formats are in their places, and are named accordingly.
"""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cleanfid.fid
import lpips
import numpy as np
import pytest
import torch
from base_model.contrastive import make_clip, train_tokenizer
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor

from mtdiff.metrics import weights
from mtdiff.metrics.alexnet import alexnet_features, lpips_of
from mtdiff.metrics.embedding import MeasuringClip, is_vit_l14
from mtdiff.metrics.inception import InceptionFeatures
from mtdiff.metrics.measures import Frechet, Kernel, Parts
from mtdiff.metrics.suites import Published
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.types import Batch, Example

ROOT = Path(__file__).parents[2]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CPU = Parts(torch.device("cpu"))


def pictures(n: int, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """Random smooth colour pictures whose values are bytes, in [-1, 1]."""
    coarse = torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(-1, 1)
    return ((smooth + 1) * 127.5).round() / 127.5 - 1


def darker() -> Tensor:
    """24 pictures of another distribution."""
    return ((pictures(24, seed=1) * 0.4 + 0.4) * 127.5).round() / 127.5 - 1


def as_bytes(images: Tensor) -> np.ndarray:
    return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


class Layers(nn.Module):
    """(B, 3, 299, 299) -> (B, 2048), as Inception's own layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.linear = nn.AvgPool2d(32), nn.Linear(243, 2048)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(self.pool(x).flatten(1)))


class TinyInception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny CLIP, a TorchScript in Inception's place and AlexNet's convolutions in torchvision's."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.jit.script(TinyInception()).save(str(folder / weights.INCEPTION))  # type: ignore[no-untyped-call]
    state = {f"features.{k}": v for k, v in alexnet_features().state_dict().items()}
    torch.save({**state, "classifier.1.bias": torch.zeros(3)}, folder / "alexnet.pth")
    tokenizer = train_tokenizer(["a cat", "a cat with a hat"], folder / "clip", 600, 32)
    config = {"text": TOWER, "vision": {**TOWER, "patch_size": 16}, "projection_dim": 8}
    make_clip(tokenizer, config).save_pretrained(folder / "clip")
    return folder


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of torch hub and of Hugging Face."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def published(places: Path, **options: str) -> Published:
    given = {"inception": str(places), "lpips_weights": str(places / "alexnet.pth"), "clip": str(places / "clip")}
    return Published(**{**given, **options})  # type: ignore[arg-type]


# Weights


def test_offline_without_weights_a_run_stops_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TORCH_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path)}
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), "metrics=published", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=environment)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: metrics=published: weights are missing")
    for what in (
        weights.INCEPTION_URL,
        str(tmp_path / "hub" / "checkpoints"),
        "alexnet-owt",
        f"hf download {weights.CLIP}",
    ):
        assert what in line
    assert not (tmp_path / "run").exists()


def test_looking_for_weights_imports_no_torch() -> None:
    code = "import sys; from mtdiff.metrics.suites import Published\ntry: Published()\nexcept ValueError: pass\n"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_mistaken_paths_are_named(caches: Path) -> None:
    for options, expected in (
        ({"inception": str(caches)}, r"metrics\.inception=.*no such file; expected inception-2015-12-05\.pt"),
        ({"lpips_weights": "none.pth"}, r"metrics\.lpips_weights=none\.pth: no such file"),
        ({"clip": str(caches)}, r"metrics\.clip=.*no folder with a CLIPModel"),
        ({"clip": "nowhere"}, r"metrics\.clip=nowhere: no folder"),
        ({"lpips": "squeeze"}, r"metrics\.lpips=squeeze: expected one of alex, vgg"),
        ({"clip_preparation": "squash"}, r"metrics\.clip_preparation=squash: expected one of"),
    ):
        with pytest.raises(ValueError, match=expected):
            Published(**options)  # type: ignore[arg-type]


def test_files_that_are_something_else_are_named(places: Path, tmp_path: Path) -> None:
    (tmp_path / weights.INCEPTION).write_bytes(b"no TorchScript")
    (tmp_path / "alexnet.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"metrics\.inception=.*no TorchScript of Inception"):
        published(places, inception=str(tmp_path)).judge()
    with pytest.raises(ValueError, match=r"metrics\.lpips_weights=.*no torchvision weights of alex"):
        published(places, lpips_weights=str(tmp_path / "alexnet.pth")).judge()
    with pytest.raises(ValueError, match="no torchvision weights of vgg"):
        lpips_of("vgg", places / "alexnet.pth")


def test_a_file_is_downloaded_once_and_checked(caches: Path) -> None:
    (caches / "there").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    file = weights.File("key", "there", f"file://{caches}/there", digest[:8])
    assert not file.is_here()
    place = file.obtain()
    assert place == caches / "torch" / "hub" / "checkpoints" / "there"
    assert place.read_bytes() == b"weights"
    assert [p.name for p in place.parent.iterdir()] == ["there"]
    (caches / "there").unlink()
    assert file.obtain() == place
    with pytest.raises(ValueError, match="not the published file"):
        replace(file, sha256="00").obtain()


def test_what_no_server_gives_is_said_in_one_line(caches: Path) -> None:
    needs = [weights.File("key", "n", "http://127.0.0.1:9/n", "00"), weights.Clip(weights.CLIP, None)]
    with pytest.raises(ValueError, match="cannot be downloaded here") as raised:
        weights.obtain_all(needs)
    assert "http://127.0.0.1:9/n -> " in str(raised.value)
    assert f"hf download {weights.CLIP}`" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("revision", [None, weights.CLIP_REVISION])
def test_clip_is_found_in_the_hugging_face_cache(caches: Path, places: Path, revision: str | None) -> None:
    repository = caches / "hub" / "models--openai--clip-vit-large-patch14"
    snapshot = repository / "snapshots" / weights.CLIP_REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(weights.CLIP_REVISION)
    need = weights.Clip(weights.CLIP, revision)
    assert not need.is_here()
    for file in (places / "clip").iterdir():
        (snapshot / file.name).symlink_to(file)
    assert need.obtain() == snapshot
    assert MeasuringClip(need.obtain()).side == 64


# Names


def test_other_weights_have_other_names(places: Path) -> None:
    judge = published(places).judge()
    names = {kind: measure.name for kind, measure in judge.measures.items()}
    plain = {kind: name for kind, name in names.items() if "label" not in kind and "masked" not in kind}
    assert plain == {
        "psnr": "psnr",
        "ssim": "ssim",
        "colour": "ciede2000",
        "miou": "miou",
        "pixel_accuracy": "pixel_accuracy",
        "perceptual": "lpips_alex_custom",
        "caption": "clip_score_custom",
        "image": "clip_image_similarity_custom",
        "reference_image": "clip_reference_similarity_custom",
        "own": "own_of_200_custom",
        "style": "style_accuracy_custom",
        "directional": "directional_similarity_custom",
        "directional_image": "directional_image_similarity_custom",
        "frechet": "fd_custom",
        "kernel": "kid_custom",
    }
    assert names["perceptual_masked_5"] == "lpips_alex_custom_masked_5"
    assert names["label_80"] == "label_accuracy_at_80"  # of the run's own heads


def test_weights_with_the_right_checksum_have_the_published_names(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksums here are those of the tiny stand-ins."""
    for name, file in (("INCEPTION_SHA256", weights.INCEPTION), ("TRUNKS", "alexnet.pth")):
        digest = hashlib.sha256((places / file).read_bytes()).hexdigest()
        value = digest if name == "INCEPTION_SHA256" else {"alex": ("alexnet.pth", digest[:8])}
        monkeypatch.setattr(weights, name, value)
    judge = published(places).judge()
    assert [judge.measure(kind).name for kind in ("frechet", "kernel", "perceptual")] == ["fid", "kid", "lpips_alex"]


def test_which_clip_is_vit_l14() -> None:
    vision = {
        "patch_size": 14,
        "image_size": 224,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    assert is_vit_l14(CLIPConfig(vision_config=vision, projection_dim=768))
    assert not is_vit_l14(CLIPConfig())  # ViT-B/32
    for change in ({"image_size": 336}, {"hidden_act": "gelu"}):  # OpenAI's larger input; LAION's training
        assert not is_vit_l14(CLIPConfig(vision_config={**vision, **change}, projection_dim=768))


# Inception


@pytest.fixture(scope="module")
def clean_fid(places: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    """clean-fid's own features of two folders of saved pictures, by its own wrapper of the same file."""
    model, found = InceptionV3W(str(places), download=False), []
    for images in (pictures(24), darker()):
        folder = tmp_path_factory.mktemp("pictures")
        for i, array in enumerate(as_bytes(images)):
            Image.fromarray(array).save(folder / f"{i:02d}.png")
        options = {"num_workers": 0, "batch_size": 24, "device": torch.device("cpu"), "mode": "clean", "verbose": False}
        found.append(cleanfid.fid.get_folder_features(str(folder), model, **options))
    return found[0], found[1]


def test_features_are_clean_fids(places: Path, clean_fid: tuple[np.ndarray, np.ndarray]) -> None:
    ours = InceptionFeatures(places)(pictures(24)).numpy()
    assert ours.shape == (24, 2048)
    np.testing.assert_allclose(ours, clean_fid[0], rtol=1e-4, atol=1e-5)
    assert np.abs(clean_fid[0] - clean_fid[1]).max() > 0.1


def test_kernel_distance_is_clean_fids(places: Path, clean_fid: tuple[np.ndarray, np.ndarray]) -> None:
    expected = cleanfid.fid.kernel_distance(*clean_fid, num_subsets=1)
    measure = Kernel("kid", InceptionFeatures(places), "clean_fid")
    a, b = (CPU(measure.features, x).double().numpy() for x in (pictures(24), darker()))
    found = measure.distance(a, b, np.random.default_rng(0))
    assert expected > 0.01
    assert found.value == pytest.approx(expected, rel=1e-3)
    assert found.resampled(np.arange(24)) == pytest.approx(expected, rel=1e-3)


class First(nn.Module):
    """The first few features: few enough for clean-fid's matrix root to be well conditioned."""

    def __init__(self, features: nn.Module, width: int) -> None:
        super().__init__()
        self.features, self.width = features, width

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)[:, : self.width]


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_distance_is_clean_fids(places: Path, clean_fid: tuple[np.ndarray, np.ndarray]) -> None:
    expected = cleanfid.fid.fid_from_feats(clean_fid[0][:, :8], clean_fid[1][:, :8])
    measure = Frechet("fid", First(InceptionFeatures(places), 8))
    a, b = (CPU(measure.features, x).double().numpy() for x in (pictures(24), darker()))
    assert expected > 0.01
    assert measure.distance(a, b, np.random.default_rng(0)).value == pytest.approx(expected, rel=1e-3)


# CLIP and LPIPS


def test_pictures_are_prepared_as_the_option_says(places: Path) -> None:
    wide = pictures(2, height=100, width=150)
    prepared = {
        name: MeasuringClip(places / "clip", name).prepare(wide)  # type: ignore[arg-type]
        for name in ("antialiased", "instruct_pix2pix", "processor")
    }
    assert {x.shape for x in prepared.values()} == {(2, 3, 64, 64)}
    # InstructPix2Pix's script, for pictures in [0, 1]; mean and deviation are halves here
    script = nn.functional.interpolate((wide + 1) / 2, size=64, mode="bicubic", align_corners=False)
    torch.testing.assert_close(prepared["instruct_pix2pix"], (script - 0.5) / 0.5, rtol=1e-4, atol=1e-4)
    square = {"height": 64, "width": 64}
    halves: dict[str, list[float]] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=square, **halves)
    given = [Image.fromarray(array) for array in as_bytes(wide)]
    expected = processor(images=given, return_tensors="pt").pixel_values
    torch.testing.assert_close(prepared["processor"], expected, rtol=0, atol=2 / 127.5)
    names = list(prepared)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            assert (prepared[name] - prepared[other]).abs().max() > 0.02, (name, other)


def test_lpips_of_vgg_is_the_packages(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="weights"):
        reference = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    named = {name.rpartition(".")[2]: module for name, module in reference.net.named_modules()}
    convolutions = {place: module for place, module in named.items() if isinstance(module, nn.Conv2d)}
    assert len(convolutions) == 13
    state = {f"features.{i}.{k}": v for i, module in convolutions.items() for k, v in module.state_dict().items()}
    torch.save(state, tmp_path / "vgg.pth")
    a, b = pictures(2, 32, 32), pictures(2, 32, 32, seed=1)
    with torch.no_grad():
        expected = reference(a, b)
        torch.testing.assert_close(lpips_of("vgg", tmp_path / "vgg.pth")(a, b), expected)
    assert expected.min() > 1e-3


# All together


def test_a_task_is_judged_by_the_published_suite(places: Path) -> None:
    judge = published(places, clip_preparation="processor").judge()
    blank = Example(torch.zeros(3, 64, 64), torch.zeros(3, 64, 64), torch.zeros(1, 64, 64), "", 0, "key")
    captions = {"source_caption": ["a cat"] * 12, "target_caption": ["a cat with a hat"] * 12}
    examples = replace(Batch.collate([blank] * 12), target=pictures(12), source=pictures(12, seed=2), **captions)  # type: ignore[arg-type]
    rows = list(judge.rows("edit", [*Edit.metrics, *TextToImage.metrics], pictures(12, seed=1), examples, 0))
    assert [r.metric for r in rows] == [
        *("directional_similarity_custom", "lpips_alex_custom", "psnr", "ssim"),
        *("fd_custom", "kid_custom", "clip_score_custom"),
    ]
    for row in rows:
        assert row.low <= row.value <= row.high, row  # type: ignore[operator]
        assert row.n == 12
