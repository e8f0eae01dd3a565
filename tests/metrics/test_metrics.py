"""Metrics against independent implementations, known values and their own promises."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cleanfid.fid
import lpips
import numpy as np
import pytest
import scipy.stats
import torch
from base_model.contrastive import make_clip, train_tokenizer
from safetensors.torch import load_file
from skimage import data
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from mtdiff.metrics.alexnet import AlexNetEmbedding, lpips_alex
from mtdiff.metrics.distances import frechet, kid, paired_kid
from mtdiff.metrics.embedding import (
    MeasuringClip,
    clip_score,
    directional_image_similarity,
    directional_similarity,
    shipped_clip,
)
from mtdiff.metrics.judges import Networks, build_judge
from mtdiff.metrics.measures import Parts, Perceptual
from mtdiff.metrics.pictures import RangeMistake, RangeWarning, check_pictures, ciede2000, psnr, ssim
from mtdiff.metrics.quality import Judge
from mtdiff.metrics.suites import Embedded
from mtdiff.results import intervals as bootstrap
from mtdiff.results.intervals import mean_interval, paired_difference, seed_interval, set_interval
from mtdiff.tasks.base import Metric
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.inpaint import Inpaint
from mtdiff.tasks.super_resolution import SuperResolution
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.types import Batch, Example

TEXTS = ["a red apple", "a green apple", "a cat with a hat", "a cat"]
WEIGHTS = Path(__file__).parents[2] / "mtdiff/assets/alexnet_features.safetensors"
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pictures(n: int, side: int = 64, seed: int = 0) -> Tensor:
    """Random smooth colour pictures in [-1, 1]."""
    coarse = torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)


def noisy(images: Tensor, scale: float, seed: int = 1) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + scale * noise).clamp(-1, 1)


def features(n: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Correlated Gaussian features (n, width)."""
    mixing = rng(99).standard_normal((width, width)) / np.sqrt(width)
    return scale * rng(seed).standard_normal((n, width)) @ mixing + shift


# Pictures


def camera() -> tuple[np.ndarray, np.ndarray]:
    """scikit-image's own check: camera and camera + N(0, 20), as bytes."""
    clean = data.camera()
    noise = np.random.RandomState(5).randn(*clean.shape)  # the stream of `np.random.seed(5)`
    return clean, np.clip(clean + 20 * noise, 0, 255).astype(clean.dtype)


def as_picture(grey: np.ndarray) -> Tensor:
    return torch.from_numpy(grey / 127.5 - 1).expand(1, 3, *grey.shape)


def test_colour_difference_of_published_pairs() -> None:
    """Grey levels differ by lightness alone: CIEDE2000 of L* 50 and 60 is 9.4 (Sharma et al., 2005, eq. 2 to 22)."""
    levels = torch.tensor([118.9, 144.55]) / 127.5 - 1  # L* 50 and 60 in sRGB
    a, b = (level.expand(2, 3, 16, 16) for level in levels)
    lightness = 10 / (1 + 0.015 * (55 - 50) ** 2 / (20 + (55 - 50) ** 2) ** 0.5)
    assert ciede2000(a, b).tolist() == pytest.approx([lightness] * 2, rel=0.01)
    assert ciede2000(a, a).tolist() == [0, 0]


def test_psnr_and_ssim_give_scikit_images_published_numbers() -> None:
    a, b = map(as_picture, camera())
    assert psnr(a, b).item() == pytest.approx(22.409353363576034, abs=1e-4)
    assert ssim(a, b).item() == pytest.approx(0.357959091663361, abs=1e-4)


def test_ssim_equals_scikit_image_in_colour() -> None:
    a, b = pictures(3)[..., :40], noisy(pictures(3), 0.2)[..., :40]
    x, y = (((z + 1) / 2).double().permute(0, 2, 3, 1).numpy() for z in (a, b))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    expected = [structural_similarity(p, q, channel_axis=-1, **options) for p, q in zip(x, y, strict=True)]
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-6)


def test_pictures_are_clipped_before_they_are_scored() -> None:
    a, b = pictures(2), noisy(pictures(2), 0.2)
    assert torch.equal(psnr(a, b.clamp(-1, 1)), psnr(a, torch.where(b == 1, 1.0005, b)))
    assert psnr(a, a).tolist() == [100, 100]
    assert ssim(a, a).tolist() == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(a[..., :10], b[..., :10])


def test_lpips_equals_the_lpips_package_with_the_shipped_convolutions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="weights"):  # torchvision's complaint about the package
        reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    capsys.readouterr()
    state = load_file(WEIGHTS)
    for stage, number in enumerate((0, 3, 6, 8, 10), 1):
        conv = reference.net.get_submodule(f"slice{stage}.{number}")
        conv.load_state_dict({k: state[f"features.{number}.{k}"].float() for k in ("weight", "bias")})
    a, b = pictures(4), noisy(pictures(4), 0.3)
    with torch.no_grad():
        expected = reference(a, b).flatten()
    scores = Perceptual("lpips_alex", lpips_alex()).scores(b, batch(target=a), Parts(torch.device("cpu")))
    torch.testing.assert_close(scores.float(), expected, rtol=1e-5, atol=1e-6)
    assert expected.min() > 0.05
    assert len(scores) == 4


@pytest.mark.filterwarnings("error")
def test_building_lpips_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    lpips_alex()
    assert capsys.readouterr() == ("", "")


def test_alexnet_embedding_takes_any_size_and_is_256_wide() -> None:
    assert AlexNetEmbedding()(pictures(2, side=40)).shape == (2, 256)


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (pictures(2) * 1.01, r"\[-1, 1\], got"),
        ((pictures(2) + 1) * 127.5, r"got \[0, 255\]"),
        (pictures(2) * float("nan"), "got"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "float pictures"),
        (pictures(2)[0], r"\(B, 3, H, W\)"),
        (pictures(2)[:0], r"\(B, 3, H, W\)"),
    ],
)
def test_what_is_no_picture_is_refused(images: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_pictures(images, "outputs")


def test_pictures_in_0_to_1_are_noticed() -> None:
    wrong = (pictures(4) + 1) / 2
    with pytest.warns(RangeWarning, match=r"is this \[0, 1\]"):
        check_pictures(wrong, "outputs")
    with pytest.raises(ValueError, match="outputs: none of 4 pictures goes below 0"):
        check_pictures(wrong, "outputs", "raise")
    assert check_pictures(wrong, "outputs", "ignore") is wrong
    white = torch.ones(2, 3, 16, 16)
    assert check_pictures(white, "outputs", "raise") is white


# Distances between sets


def test_frechet_of_gaussians_whose_distance_is_known() -> None:
    x = features(500, 16, seed=0)
    shift, c, mean = np.linspace(-1, 1, 16), 2.5, x.mean(0)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x + shift) == pytest.approx(shift @ shift)
    trace = np.trace(np.cov(x, rowvar=False))
    assert frechet(x, mean + np.sqrt(c) * (x - mean)) == pytest.approx(trace * (1 - np.sqrt(c)) ** 2)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_equals_clean_fid() -> None:
    a, b = features(300, 48, seed=1), features(400, 48, seed=2, scale=1.2, shift=0.1)
    statistics = [s for x in (a, b) for s in (x.mean(0), np.cov(x, rowvar=False))]
    expected = cleanfid.fid.frechet_distance(*statistics)
    assert expected > 0.5
    assert frechet(a, b) == pytest.approx(expected, rel=1e-3)
    assert frechet(b, a) == pytest.approx(frechet(a, b))


def test_frechet_with_fewer_pictures_than_features() -> None:
    """Both sets span a common space of few dimensions, where clean-fid's formula is well conditioned."""
    a, b = features(20, 8, seed=1), features(30, 8, seed=2, shift=0.2)
    rotation = np.linalg.qr(rng(0).standard_normal((64, 8)))[0].T  # (8, 64), orthonormal rows
    assert frechet(a @ rotation, b @ rotation) == pytest.approx(frechet(a, b))
    with pytest.raises(ValueError, match="at least two"):
        frechet(a[:1], b)


def test_kid_equals_clean_fid_on_the_same_subsets() -> None:
    a, b = features(60, 24, seed=1), features(80, 24, seed=2, shift=0.1)
    np.random.seed(7)  # noqa: NPY002 (clean-fid draws from the global stream)
    expected = cleanfid.fid.kernel_distance(a, b, num_subsets=20, max_subset_size=30)
    assert kid(a, b, np.random.RandomState(7), subsets=20, subset_size=30) == pytest.approx(expected)  # type: ignore[arg-type]
    whole = cleanfid.fid.kernel_distance(a, b[:60], num_subsets=1)
    assert kid(a, b[:60], rng()) == pytest.approx(whole)


def test_kid_is_unbiased() -> None:
    values = [kid(features(12, 8, seed=2 * i), features(12, 8, seed=2 * i + 1), rng()) for i in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(300)
    assert min(values) < 0


def test_paired_kid_leaves_out_an_example_with_itself() -> None:
    a, b = features(5, 4, seed=1), features(5, 4, seed=2)
    index = np.array([0, 0, 1, 3, 3])
    k = lambda x, y: (x @ y / 4 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in index for j in index if i != j]
    expected = np.mean([k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(b[i], a[j]) for i, j in pairs])
    assert paired_kid(a, b)(np.bincount(index, minlength=5)) == pytest.approx(expected)


def test_paired_kid_is_unbiased_for_outputs_that_resemble_their_truth() -> None:
    def one(seed: int, distance: Callable[[np.ndarray, np.ndarray], float]) -> float:
        truth = features(12, 8, seed=2 * seed)
        same_law = 0.8 * truth + 0.6 * features(12, 8, seed=2 * seed + 1)
        return distance(same_law, truth)

    paired = [one(i, lambda a, b: paired_kid(a, b)(np.ones(12))) for i in range(300)]
    independent = [one(i, lambda a, b: kid(a, b, rng())) for i in range(300)]
    assert abs(np.mean(paired)) < 4 * np.std(paired) / np.sqrt(300)
    assert np.mean(independent) < -4 * np.std(independent) / np.sqrt(300)
    x = features(12, 8, seed=0)
    assert paired_kid(x, x)(np.ones(12)) == pytest.approx(0, abs=1e-12)


# Intervals


def test_mean_interval_covers_as_often_as_it_says() -> None:
    draws = rng(3).standard_normal((400, 40)) + 5
    intervals = [mean_interval(x, rng(i), resamples=1000) for i, x in enumerate(draws)]
    covered = np.mean([i.low <= 5 <= i.high for i in intervals])  # type: ignore[operator]
    assert 0.90 <= covered <= 0.975


def test_mean_interval_is_reproducible_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng(1).standard_normal(50)
    whole = mean_interval(x, rng(0))
    monkeypatch.setattr(bootstrap, "_CHUNK", 333)
    assert mean_interval(x, rng(0)) == whole
    assert mean_interval(x, rng(1)) != whole
    assert whole.low < whole.value < whole.high  # type: ignore[operator]


def test_one_value_has_no_interval_and_none_is_refused() -> None:
    assert mean_interval([2.0], rng()) == seed_interval([2.0]) == bootstrap.Interval(2.0, None, None)
    for bad in ([], [1.0, float("nan")], [[1.0]]):
        with pytest.raises(ValueError, match="finite numbers"):
            mean_interval(bad, rng())


def test_paired_difference_finds_what_separate_intervals_miss() -> None:
    base = 10 * rng(0).standard_normal(60)
    better = base + 0.5 + 0.5 * rng(1).standard_normal(60)
    found = paired_difference(better, base, rng(2))
    assert found.p < 0.01
    assert 0 < found.low < found.value < found.high  # type: ignore[operator]
    assert found.n == 60
    assert paired_difference(base, better, rng(2)).p == pytest.approx(found.p)
    assert mean_interval(base, rng()).high > mean_interval(better, rng()).low  # type: ignore[operator]
    assert paired_difference(base, base, rng()).p == 1
    with pytest.raises(ValueError, match=r"\(60,\) and \(59,\)"):
        paired_difference(base, better[1:], rng())
    gaps = np.where(np.arange(60) < 5, np.nan, 1.0)  # examples that the metric does not apply to
    assert paired_difference(better * gaps, base * gaps, rng(2)) == paired_difference(better[5:], base[5:], rng(2))
    for bad in (better * gaps, np.full(60, np.inf)):
        with pytest.raises(ValueError, match="finite numbers"):
            paired_difference(bad, base, rng())


def test_paired_difference_rejects_a_true_null_rarely() -> None:
    draws = rng(4).standard_normal((300, 40))
    p = [paired_difference(x, np.zeros(40), rng(i), resamples=500).p for i, x in enumerate(draws)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.10


def crossed(k: int, seeds: int, of_seeds: float, of_examples: float) -> np.ndarray:
    """Differences (seeds, 40) of mean zero."""
    r = rng(k)
    rows, columns = of_seeds * r.standard_normal((seeds, 1)), of_examples * r.standard_normal((1, 40))
    return rows + columns + r.standard_normal((seeds, 40))


@pytest.mark.parametrize(
    ("seeds", "of_seeds", "of_examples"), [(3, 0.0, 0.0), (3, 0.5, 0.0), (3, 0.3, 1.0), (5, 0.0, 1.0)]
)
def test_paired_difference_over_seeds_and_examples_rejects_a_true_null_rarely(
    seeds: int, of_seeds: float, of_examples: float
) -> None:
    null = np.zeros((seeds, 40))
    found = [paired_difference(crossed(k, seeds, of_seeds, of_examples), null, rng()) for k in range(400)]
    assert np.mean([f.p < 0.05 for f in found]) < 0.09
    assert all((f.p < 0.05) == (f.low > 0 or f.high < 0) for f in found)  # type: ignore[operator]


def test_paired_difference_over_seeds_sees_the_spread_of_seeds() -> None:
    """Three trainings that differ by far more than their examples: no evidence, whatever one of them says."""
    d = np.array([[1.0], [-0.2], [0.4]]) + 0.01 * rng(0).standard_normal((3, 100))
    assert paired_difference(d[0], np.zeros(100), rng()).p < 0.002
    assert paired_difference(d, np.zeros((3, 100)), rng()).p > 0.2
    clear = paired_difference(1 + crossed(1, 3, 0.1, 0.5) / 2, np.zeros((3, 40)), rng())
    assert clear.p < 0.02
    assert clear.n == 40


def test_paired_difference_of_set_metrics_is_students_over_seeds() -> None:
    a, b = np.array([[3.0], [3.5], [4.1], [3.2]]), np.array([[2.9], [3.6], [3.7], [2.9]])
    found, expected = paired_difference(a, b, rng()), scipy.stats.ttest_rel(a[:, 0], b[:, 0])
    interval = expected.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, interval.low, interval.high))
    same = paired_difference(a, a, rng())
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_seed_interval_is_students() -> None:
    x = [1.0, 2.0, 4.0]
    low, high = scipy.stats.t.interval(0.95, 2, loc=np.mean(x), scale=scipy.stats.sem(x))
    found = seed_interval(x)
    assert (found.value, found.low, found.high) == pytest.approx((7 / 3, low, high))


def test_set_interval_is_centred_and_as_wide_as_the_spread() -> None:
    x = rng(5).standard_normal(100)

    def biased_by_repeats(index: np.ndarray) -> float:
        return float(x[index].mean()) + 10 * (len(np.unique(index)) < 100)

    found, plain = set_interval(biased_by_repeats, 100, rng(0), resamples=1000), mean_interval(x, rng(0))
    assert found.value == pytest.approx(x.mean())
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.05)
    assert set_interval(biased_by_repeats, 100, rng(0), least=0.0).low == 0


# Embedding


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights, saved in the format of the shipped one."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer(TEXTS, folder, 600, 32)
    config = {"text": TOWER, "vision": {**TOWER, "patch_size": 16}, "projection_dim": 8}
    torch.manual_seed(0)
    make_clip(tokenizer, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip(clip_folder: Path) -> MeasuringClip:
    return MeasuringClip(clip_folder)


def test_clip_gives_the_models_own_features_as_unit_vectors(clip: MeasuringClip, clip_folder: Path) -> None:
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)
    ids = tokenizer(TEXTS, padding=True, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pictures(4))
    torch.testing.assert_close(clip.images(pictures(4)), out.image_embeds)
    torch.testing.assert_close(clip.texts(TEXTS), out.text_embeds)
    assert clip.images(pictures(4)).norm(dim=1).tolist() == pytest.approx([1] * 4)
    assert not any(p.requires_grad for p in clip.parameters())


def test_clip_takes_any_size_and_any_length(clip: MeasuringClip) -> None:
    large = nn.functional.interpolate(pictures(2), (128, 128), mode="nearest")
    assert (clip.images(large) * clip.images(pictures(2))).sum(1).min() > 0.98
    assert clip.texts(["a cat " * 100, ""]).isfinite().all()


def test_clip_normalises_as_its_folder_says(clip: MeasuringClip, clip_folder: Path, tmp_path: Path) -> None:
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0] * 3, "image_std": [1] * 3}))
    torch.testing.assert_close(MeasuringClip(tmp_path).images(pictures(2)), clip.images((pictures(2) + 1) / 2))


def test_a_folder_without_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a folder with a CLIPModel"):
        MeasuringClip(tmp_path)


def unit(*rows: list[float]) -> Tensor:
    return nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_directional_similarities_by_hand() -> None:
    here, there, aside = unit([1, 0, 0]), unit([0, 1, 0]), unit([0, 0, 1])
    assert directional_similarity(here, there, here, there).item() == pytest.approx(1)
    assert directional_similarity(here, there, there, here).item() == pytest.approx(-1)
    assert directional_similarity(here, there, here, aside).item() == pytest.approx(0.5)
    assert directional_image_similarity(here, there, aside).item() == pytest.approx(0.5)
    assert clip_score(here, unit([1, 1, 0])).item() == pytest.approx(0.5**0.5)


def test_no_change_is_similar_to_nothing() -> None:
    here, there = unit([1, 0, 0]), unit([0, 1, 0])
    rounding = unit([1, 3e-6, 0])
    assert directional_similarity(here, rounding, here, there).item() == 0
    assert directional_similarity(here, there, here, here).item() == 0
    assert directional_image_similarity(here, here, there).item() == 0
    assert directional_image_similarity(here, there, here).item() == 0


def test_directional_similarity_stays_in_bounds() -> None:
    parts = nn.functional.normalize(torch.randn(4, 200, 5, generator=torch.Generator().manual_seed(0)), dim=2)
    values = directional_similarity(*parts)
    assert values.abs().max() <= 1 + 1e-6
    assert values.std() > 0.2


# The judge


def batch(**fields: Tensor | list[str]) -> Batch:
    """A batch whose fields are blank unless given; `target` must be."""
    n, _, height, width = fields["target"].shape  # type: ignore[union-attr]
    blank = Example(
        torch.zeros(3, height, width), torch.zeros(3, height, width), torch.zeros(1, height, width), "", 0, "key"
    )
    return replace(Batch.collate([blank] * n), **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def networks(clip: MeasuringClip) -> Networks:
    """The embedded ones, with a tiny CLIP."""
    features = AlexNetEmbedding()
    return Networks(lpips_alex(), "lpips_alex", features, "fd_alexnet", "kid_alexnet", "paired", clip, "_embedded")


@pytest.fixture(scope="session")
def full(networks: Networks) -> Judge:
    return build_judge(networks)


def edits(n: int = 12) -> Batch:
    """Whole sources with captions of both; the second changes nothing, the third has no captions."""
    captions = [["a cat"] * n, ["a cat with a hat"] * n]
    for column in captions:
        column[2] = ""
    source, target = pictures(n, seed=2), pictures(n, seed=3)
    target[1] = source[1]
    return batch(target=target, source=source, source_caption=captions[0], target_caption=captions[1])


PER_EXAMPLE = ("psnr", "ssim", "perceptual", "caption", "directional", "directional_image")
PER_SET = ("frechet", "kernel")
NAMES = {
    "psnr": "psnr",
    "ssim": "ssim",
    "perceptual": "lpips_alex",
    "caption": "clip_score_embedded",
    "directional": "directional_similarity_embedded",
    "directional_image": "directional_image_similarity_embedded",
    "frechet": "fd_alexnet",
    "kernel": "kid_alexnet",
}


def metrics(*names: str) -> list[Metric]:
    return [Metric(name, "lower" if name in ("perceptual", *PER_SET) else "higher") for name in names]


ALL = metrics(*PER_EXAMPLE, *PER_SET)


def test_scores_are_per_example_whatever_the_batch(full: Judge) -> None:
    examples = edits(70)  # more than one part goes through the networks
    outputs = noisy(examples.target, 0.2)
    one = slice(66, 67)
    single = batch(
        target=examples.target[one],
        source=examples.source[one],
        source_caption=["a cat"],
        target_caption=["a cat with a hat"],
    )
    for metric in PER_EXAMPLE:
        scores = full.scores(metric, outputs, examples)
        assert scores.shape == (70,)
        assert full.scores(metric, outputs[one], single).item() == pytest.approx(scores[66].item(), abs=1e-4), metric


def test_metrics_apply_where_they_have_a_meaning(full: Judge) -> None:
    examples = edits()
    outputs = noisy(examples.target, 0.2)
    missing = {name: full.scores(name, outputs, examples).isnan().nonzero().flatten().tolist() for name in PER_EXAMPLE}
    assert missing.pop("directional") == [2]
    assert missing.pop("directional_image") == [1]
    assert missing.pop("caption") == [2]
    assert set(map(tuple, missing.values())) == {()}
    holes = examples.mask.clone()
    holes[:, :, :8] = 1
    assert full.scores("directional", outputs, replace(examples, mask=holes)).isnan().all()
    assert full.scores("directional_image", outputs, replace(examples, mask=holes)).isnan().all()


def test_clip_score_reads_the_prompt_where_there_is_no_source(full: Judge) -> None:
    outputs = pictures(2)
    blank = batch(target=outputs, mask=torch.ones(2, 1, 64, 64), prompt=["a cat", "a cat"])
    captioned = replace(blank, target_caption=["a cat", "a cat"], prompt=["", ""])
    found = full.scores("caption", outputs, blank)
    assert torch.equal(found, full.scores("caption", outputs, captioned))
    instruction = replace(blank, mask=torch.zeros(2, 1, 64, 64))
    assert full.scores("caption", outputs, instruction).isnan().all()


def test_a_copy_of_the_source_scores_zero_and_the_truth_one(full: Judge) -> None:
    examples = edits()
    applies = torch.tensor([i not in (1, 2) for i in range(12)])
    for name in ("directional", "directional_image"):
        assert full.scores(name, examples.source, examples)[applies].tolist() == [0] * 10
    truth = full.scores("directional_image", examples.target, examples)
    assert truth[applies].tolist() == pytest.approx([1] * 10, abs=1e-4)


def test_rows_come_in_order_with_intervals_and_counts(full: Judge) -> None:
    examples = edits()
    rows = list(full.rows("edit", ALL, noisy(examples.target, 0.2), examples, seed=0, model="copy"))
    assert [(r.metric, r.direction) for r in rows] == [(NAMES[m.name], m.direction) for m in ALL]
    assert {(r.task, r.model, r.reason) for r in rows} == {("edit", "copy", None)}
    assert [r.n for r in rows] == [12, 12, 12, 11, 11, 11, 12, 12]
    for row in rows:
        assert row.low < row.value < row.high, row  # type: ignore[operator]
    assert rows[0].value == pytest.approx(psnr(noisy(examples.target, 0.2), examples.target).mean().item())


def test_rows_depend_on_the_seed_alone(full: Judge) -> None:
    examples, names = edits(), metrics("psnr", "frechet")
    outputs = noisy(examples.target, 0.2)
    first, again, other = (list(full.rows("edit", names, outputs, examples, seed)) for seed in (0, 0, 1))
    assert first == again
    assert [r.value for r in first] == [r.value for r in other]
    assert all(a.low != b.low for a, b in zip(first, other, strict=True))


def test_the_callers_autocast_changes_nothing(full: Judge) -> None:
    examples = edits()
    outputs = noisy(examples.target, 0.2)
    plain = list(full.rows("edit", ALL, outputs, examples, 0))
    with torch.autocast("cpu", torch.bfloat16):
        assert list(full.rows("edit", ALL, outputs, examples, 0)) == plain


def test_set_metrics_rank_noise(full: Judge) -> None:
    examples = batch(target=pictures(40))
    rows = [
        {r.metric: r.value for r in full.rows("t", metrics("frechet", "kernel"), x, examples, 0)}
        for x in (examples.target, noisy(examples.target, 0.05), noisy(examples.target, 0.5))
    ]
    assert rows[0]["fd_alexnet"] == pytest.approx(0, abs=1e-6)
    for name in ("fd_alexnet", "kid_alexnet"):
        assert rows[0][name] < rows[1][name] < rows[2][name]  # type: ignore[operator]


def test_what_cannot_be_measured_is_none_with_a_reason(full: Judge) -> None:
    examples = batch(target=pictures(4), source=pictures(4))

    def only(judge: Judge, name: str, outputs: Tensor) -> tuple[float | None, float | None, int, str | None]:
        (row,) = judge.rows("t", metrics(name), outputs, examples, 0)
        return row.value, row.low, row.n, row.reason

    outputs = noisy(examples.target, 0.1)
    for name in PER_EXAMPLE[3:]:
        assert only(full, name, outputs) == (None, None, 0, "applies to none of the examples")
    assert only(full, "frechet", outputs) == (None, None, 0, "needs at least 10 examples, got 4")
    broken = outputs.clone()
    broken[1, 0, 0, 0] = float("nan")
    assert only(full, "psnr", broken) == (None, None, 0, "1 of 4 outputs are not finite")


def test_wrong_names_and_shapes_are_refused(full: Judge) -> None:
    examples = batch(target=pictures(4))
    with pytest.raises(ValueError, match="metric 'fid': expected one of psnr, ssim"):
        full.scores("fid", examples.target, examples)
    with pytest.raises(ValueError, match=r"'fid' of task 't': expected one of .*frechet, kernel"):
        list(full.rows("t", metrics("fid"), examples.target, examples, 0))
    with pytest.raises(ValueError, match="'frechet': fd_alexnet is one number of a whole set"):
        full.scores("frechet", examples.target, examples)
    with pytest.raises(ValueError, match=r"expected \(4, 3, 64, 64\) as the targets"):
        full.scores("psnr", examples.target[:3], examples)


@pytest.mark.parametrize(("mistake", "stops"), [("raise", True), ("ignore", False)])
def test_the_judge_notices_pictures_in_0_to_1(networks: Networks, mistake: RangeMistake, stops: bool) -> None:
    judge, examples = build_judge(networks, range_mistake=mistake), batch(target=pictures(4))
    wrong = (pictures(4) + 1) / 2
    if stops:
        with pytest.raises(ValueError, match="below 0"):
            judge.scores("psnr", wrong, examples)
    else:
        assert judge.scores("psnr", wrong, examples).max() < 30


def test_verdicts_hold_what_rows_are_means_of(full: Judge) -> None:
    examples = replace(edits(), key=[f"example {i}" for i in range(12)])
    found = {v.row.metric: v for v in full.verdicts("edit", ALL, noisy(examples.target, 0.2), examples, 0)}
    for kind in PER_EXAMPLE:
        verdict = found[NAMES[kind]]
        assert verdict.values is not None
        assert verdict.keys == tuple(examples.key)
        assert np.nanmean(verdict.values) == pytest.approx(verdict.row.value)
    directional = found["directional_similarity_embedded"].values
    assert directional is not None
    assert np.isnan(directional).nonzero()[0].tolist() == [2]
    assert all(found[NAMES[kind]].values is None for kind in PER_SET)


def test_the_embedded_judge_covers_what_the_tasks_name() -> None:
    judge = Embedded().judge()
    for task in (TextToImage(), Edit(), SuperResolution(), Inpaint()):
        assert [judge.measure(metric.name).name for metric in task.metrics] == [NAMES[m.name] for m in task.metrics]
    with pytest.raises(ValueError, match=r"metrics\.clip_preparation=squash: expected one of antialiased"):
        Embedded("squash")  # type: ignore[arg-type]


def test_the_shipped_clip_is_inside_the_package() -> None:
    assert shipped_clip().parts[-3:] == ("mtdiff", "assets", "measure_clip")
