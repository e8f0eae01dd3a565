"""MT-Diffusion: its process against draws and an exact posterior, its heads, and what the four commands make of it."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import draw_sheets
import pytest
import sample
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from method_cases import adapted, base
from PIL import Image
from safetensors.torch import load_file
from tiny import TASKS, inputs, tiny_unet
from tiny_fits import batch, settings
from torch import Tensor
from whole_runs import composed, whole_run

from baselines.finetune import Finetune
from baselines.joint import Joint
from mtdiff.backbones.diffusion import Diffusion
from mtdiff.commands.pictures import check_request
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Stream
from mtdiff.data.tables.convert import Samples, write_shards
from mtdiff.data.tables.source import TableSource
from mtdiff.methods.base import CannotFold
from mtdiff.methods.process import Answers, Course, Held
from mtdiff.methods.untouched import Untouched
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import Painter, first_noise
from mtdiff.model.sampling import Guidance, Known, guide, make_scheduler
from mtdiff.model.sampling import sample as draw_steps
from mtdiff.runs.adapter import read_about
from mtdiff.runs.checks import check_constructors
from mtdiff.runs.export import fold_network
from mtdiff.runs.load import load_run
from mtdiff.tasks.joint import JointLabel, JointMasked
from mtdiff.training.module import MultiTaskModule
from mtdiff.types import SPLITS, Batch, Condition, Text

ZERO_SNR = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False)
KINDS = ("joint", "joint label=E")


def conditioned(**extra: Tensor) -> Condition:
    """Two samples with sources, and what they bring."""
    rng = torch.Generator().manual_seed(3)
    source = torch.randn(2, 4, 8, 8, generator=rng)
    return Condition(source, torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 16), torch.tensor([1, 3]), extra)


def brought(*states: int, label: int = 5) -> dict[str, Tensor]:
    return {"joint_masked": torch.tensor(states), "joint_label": torch.tensor([label] * len(states))}


# The process


@pytest.mark.parametrize("t", [0, 300, 700, 999])
def test_mean_and_variance_of_what_is_mixed(t: int) -> None:
    """z_t = sqrt(abar) z_0 + atil E + sqrt(1 - abar) eps, over 10,000 draws of the noise."""
    diffusion, draws, c = Diffusion(ZERO_SNR), 10_000, 2.0
    latent, e, times = torch.tensor(1.5), torch.tensor(-3.0), torch.full((draws,), t)
    noise = torch.randn(draws, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    z = diffusion.noisy(latent, noise, times) + diffusion.aggregate(times, c) * e
    abar = float(ZERO_SNR.alphas_cumprod[t])
    mean = abar**0.5 * 1.5 + c * abar**0.5 * (1 - abar**0.5) * -3.0
    spread = (1 - abar) ** 0.5
    assert abs(float(z.mean()) - mean) < 4 * spread / draws**0.5 + 1e-6
    assert abs(float(z.var()) - (1 - abar)) < 4 * (1 - abar) * (2 / draws) ** 0.5 + 1e-6


@pytest.mark.parametrize(("t", "s"), [(999, 900), (999, 0), (700, 500), (500, 499), (100, 3)])
def test_the_reverse_mean_is_the_exact_posterior(t: int, s: int) -> None:
    """A jump from t to s: the mean of q(z_s | z_t, z_0) by Bayes' rule on the joint Gaussian of z_s and z_t."""
    c, z0, e, zt = 1.7, 0.8, -2.0, 0.4
    abar = ZERO_SNR.alphas_cumprod.double()
    a_t, a_s = float(abar[t]), float(abar[s])
    atil = lambda a: c * a**0.5 * (1 - a**0.5)  # noqa: E731
    mean_s, mean_t = (a**0.5 * z0 + atil(a) * e for a in (a_s, a_t))
    covariance = (a_t / a_s) ** 0.5 * (1 - a_s)  # z_t is sqrt(a_t / a_s) z_s plus what does not depend on it
    posterior = mean_s + covariance / (1 - a_t) * (zt - mean_t)

    w = c * a_s**0.5 * (a_s**0.5 - a_t**0.5)  # METHODS: the plain mean minus w E
    coefficient = (a_t / a_s) ** 0.5 * (1 - a_s) / (1 - a_t)
    plain = lambda y: coefficient * y + a_s**0.5 * (1 - a_t / a_s) / (1 - a_t) * z0  # noqa: E731
    y = zt - atil(a_t) * e
    assert plain(y) + atil(a_s) * e == pytest.approx(posterior, abs=1e-9)
    if a_t > 0:  # in the noise's own form, which zero terminal SNR does not have
        noise = (y - a_t**0.5 * z0) / (1 - a_t) ** 0.5
        ratio = a_t / a_s
        from_noise = (zt - (1 - ratio) / (1 - a_t) ** 0.5 * noise) / ratio**0.5
        assert from_noise - w * e == pytest.approx(posterior, abs=1e-7)


class Fixed(Course):
    """Mixes a modality that is known, in every sample."""

    def __init__(self, diffusion: Diffusion, condition: Condition, e: Tensor, c: float) -> None:
        self.diffusion, self.condition, self.e, self.c, self.held = diffusion, condition, e, c, None

    def mix(self, plain: Tensor, t: Tensor) -> Tensor:
        return plain + self.diffusion.aggregate(t, self.c) * self.e

    def part(self, mixed: Tensor, t: Tensor) -> Tensor:
        return mixed - self.diffusion.aggregate(t, self.c) * self.e

    def guess(self, rows: Tensor, t: Tensor) -> None:
        pass

    def answer(self) -> Answers:
        return Answers()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("zero_snr", [True, False])
def test_a_gaussian_is_drawn_whatever_is_mixed(sampler: str, zero_snr: bool) -> None:
    """Data of N(m, s^2) in one dimension: the exact denoiser of what is mixed gives the data's mean and spread back."""
    schedule = DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=zero_snr, clip_sample=False, timestep_spacing="trailing"
    )
    diffusion, m, spread, e, c = Diffusion(schedule), 0.7, 0.5, 2.0, 1.5
    n = 1024
    condition = Condition(
        torch.zeros(n, 1, 1, 1), torch.ones(n, 1, 1, 1), torch.zeros(n, 1, 1), torch.zeros(n, dtype=torch.long)
    )

    def denoise(z: Tensor, t: Tensor, given: Condition) -> Tensor:
        signal, level = diffusion.coefficients(t)
        y = z - diffusion.aggregate(t, c) * e
        z0 = m + signal * spread**2 / (signal**2 * spread**2 + level**2) * (y - signal * m)
        noise = (y - signal * z0) / level
        return signal * noise - level * z0

    guided = guide(condition, Text(torch.zeros(1, 1, 1)), [Guidance()] * n)
    noise = torch.randn(n, 1, 1, 2, generator=torch.Generator().manual_seed(1))
    course = Fixed(diffusion, condition, torch.tensor(e), c)
    drawn = draw_steps(denoise, make_scheduler(sampler, schedule), guided, noise, 50, None, course)
    assert float(drawn.mean()) == pytest.approx(m, abs=0.06)
    assert float(drawn.std()) == pytest.approx(spread, abs=0.06)


def test_without_strength_it_is_the_bases_process_bit_for_bit() -> None:
    """c = 0: training's noisy latents and targets, and drawn pictures, are those of plain fine-tuning."""
    torch.manual_seed(0)
    plain = Denoiser(tiny_unet(), Finetune(task_embedding=False), TASKS)
    torch.manual_seed(0)
    joint = Denoiser(tiny_unet(), Joint(strength=0.0), TASKS)
    extra = {"masked": torch.tensor([0, 1, 1, 1]), "label": torch.tensor([4, 0, 2, 0])}
    given, noise = replace(batch(), extra=extra), first_noise(batch(), (4, 8, 8), 0)
    first, second = (MultiTaskModule(d, settings(), seed=0).prepare(given, None, 1.0) for d in (plain, joint))
    assert all(torch.equal(first[k], second[k]) for k in (0, 1, 3))
    for sampler in ("ddim", "ddpm"):
        drawn = [Painter(denoiser=d, guidance={}, sampler=sampler, steps=3).draw(given, noise) for d in (plain, joint)]
        assert torch.equal(*drawn)


def test_samples_without_modalities_train_as_the_base_does() -> None:
    joint = MultiTaskModule(adapted("joint", "unet"), settings(), seed=0)
    plain = MultiTaskModule(Denoiser(tiny_unet(), Untouched(), TASKS), settings(), seed=0)
    given = replace(batch(), extra={"masked": torch.tensor([0, 1, 0, 0])})
    same = (joint.prepare(given, None, 1.0)[0] == plain.prepare(given, None, 1.0)[0]).flatten(1).all(1)
    assert same.tolist() == [True, False, True, True]


# Heads


@pytest.mark.parametrize("backbone", ["unet", "transformer"])
@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("head", ["picture_head", "label_head"])
def test_a_heads_error_reaches_the_shared_network(head: str, case: str, backbone: str) -> None:
    denoiser = adapted(case, backbone, shaken=0.05)
    noisy, t, condition = inputs(denoiser.backbone, [1, 3])
    condition = replace(condition, extra={**condition.extra, **brought(1, 1)})
    mixed, given = denoiser.method.process.mix(noisy, t, condition)  # type: ignore[union-attr]
    denoiser(mixed, t, given)
    denoiser.extra_errors(mixed, t, given)[head].sum().backward()
    reached = {k for k, p in denoiser.trained_parameters().items() if p.grad is not None and p.grad.any()}
    own = {k for k in reached if k.startswith("joint_heads.")}
    other = "label" if head == "picture_head" else "picture"
    assert own
    assert not [k for k in own if k.startswith(f"joint_heads.{other}.")]
    blocks = [k for k in reached if k.startswith(("down_blocks.0", "mid_block", "transformer_blocks.0"))]
    assert blocks


def test_a_picture_head_starts_as_the_output() -> None:
    denoiser = adapted("joint", "unet")
    noisy, t, condition = inputs(denoiser.backbone, [1, 3])
    with torch.no_grad():
        out = denoiser(noisy, t, condition)
    heads = denoiser.backbone.denoiser.get_submodule("joint_heads")
    assert torch.equal(heads.read_picture(8, 8), out)  # type: ignore[operator]
    assert copy.deepcopy(heads)._read == {}


def test_u_hides_what_x_sees() -> None:
    for case, seen in (("joint", True), ("joint label=E", False)):  # its variant has picture=U
        process = adapted(case, "unet").method.process
        assert process is not None
        condition = conditioned(**brought(1, 0))
        _, given = process.mix(torch.zeros(2, 4, 8, 8), torch.tensor([5, 5]), condition)
        assert bool(given.source[0].any()) == seen
        assert bool(given.mask[0].any()) != seen
        assert torch.equal(given.source[1], condition.source[1])  # no modality of this sample's


# Drawing


def painter(case: str = "joint", steps: int = 4, **options: object) -> Painter:
    return Painter(denoiser=adapted(case, "unet", shaken=0.02), guidance={}, sampler="ddim", steps=steps, **options)  # type: ignore[arg-type]


def asked(**extra: Tensor) -> Batch:
    return replace(batch(2), extra=extra)


def test_known_and_unknown_in_any_subset() -> None:
    """What is known stays, what is unknown is what the head said last, and other samples are asked nothing."""
    made, noise = painter(), first_noise(batch(2), (4, 8, 8), 0)
    both = made.answer(asked(masked=torch.tensor([2, 1]), label=torch.tensor([-1, 3])), noise)
    assert both.asked["masked"].tolist() == [True, False]
    assert (both.numbers["label"] > 0).tolist() == [True, False]
    assert {"label_80", "label_60", "label_40", "label_20"} <= set(both.numbers)
    none = made.answer(asked(masked=torch.tensor([0, 0])), noise)
    assert (none.others, none.numbers["label"].tolist()) == ({}, [0, 0])
    heads = made.denoiser.backbone.denoiser.get_submodule("joint_heads")
    course = made.denoiser.method.process.start(conditioned(**brought(2, 2)))  # type: ignore[union-attr]
    made.denoiser(torch.zeros(2, 4, 8, 8), torch.tensor([9, 9]), course.condition)
    course.guess(torch.tensor([0, 1]), torch.tensor(9))
    assert torch.equal(course.answer().latents["masked"], heads.read_picture(8, 8))  # type: ignore[operator]


def test_a_picture_that_is_held_comes_back() -> None:
    made, noise = painter(), first_noise(batch(2), (4, 8, 8), 0)
    picture = batch(2).target
    drawn = made.answer(asked(picture=picture, label=torch.tensor([-1, -1])), noise).pictures
    backbone = made.denoiser.backbone
    torch.testing.assert_close(drawn, backbone.decode(backbone.encode(picture)), atol=1e-5, rtol=0)
    known = Known.with_held(None, Held(torch.tensor([True, False]), torch.ones(2, 4, 8, 8)))
    assert known.place.flatten(1).all(1).tolist() == [True, False]


def test_perfect_heads_and_denoiser_give_the_known_picture() -> None:
    """The masked version of a picture without masks is the picture: told by the head alone, it is drawn."""
    made = painter(steps=10)
    process = made.denoiser.method.process
    assert process is not None
    diffusion = Diffusion(made.denoiser.backbone.scheduler)
    truth = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    course = process.start(conditioned(**brought(2, 2, label=0)))
    heads = course.process.heads  # type: ignore[attr-defined]

    def perfect(z: Tensor, t: Tensor, given: Condition) -> Tensor:
        heads._read = {"picture": truth, "label": torch.zeros(2, 128)}
        signal, level = diffusion.coefficients(t)
        noise = (z - diffusion.aggregate(t, 1.0) * course._latent - signal * truth) / level  # type: ignore[attr-defined]
        return noise if diffusion.prediction == "epsilon" else signal * noise - level * truth

    guided = guide(course.condition, Text(torch.zeros(1, 1, 16)), [Guidance()] * 2)
    scheduler = make_scheduler("ddim", made.denoiser.backbone.scheduler)
    drawn = draw_steps(perfect, scheduler, guided, torch.randn(2, 4, 8, 8), 10, None, course)
    torch.testing.assert_close(course.answer().latents["masked"], truth)
    assert (drawn - truth).abs().mean() < 0.2 * truth.abs().mean()


def test_a_drawing_is_a_function_of_each_request_alone() -> None:
    made = replace(painter(), sampler="ddpm")
    given = asked(masked=torch.tensor([2, 1]), label=torch.tensor([-1, 3]))
    noise, order = first_noise(batch(2), (4, 8, 8), 0), torch.tensor([1, 0])
    swapped = Batch.cat([given.rows(torch.tensor([False, True])), given.rows(torch.tensor([True, False]))])
    torch.testing.assert_close(made.draw(swapped, noise[order]), made.draw(given, noise)[order], atol=1e-5, rtol=1e-4)


def test_samplers_and_shortcuts_without_a_form_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^sampling.sampler=dpm\+\+: has no form[^\n]* expected ddim or ddpm$"):
        replace(painter(), sampler="dpm++")
    with pytest.raises(ValueError, match=r"^method: mixes modalities[^\n]*the sampler of a flow has no form"):
        Painter(denoiser=adapted("joint", "joint"), guidance={}, sampler="ddim", steps=1)


def test_a_run_refuses_them_before_anything_is_loaded() -> None:
    for option in ("sampling.sampler=dpm++", "sampling.inherit={level: block, every: 2}"):
        plain, _ = composed(["method=joint", option])
        with pytest.raises(ValueError, match=r"^sampling\.(sampler=dpm|inherit: expected null)"):
            check_constructors(plain)


def test_more_labels_than_there_is_room_for(tmp_path: Path) -> None:
    """Of a run's data, before a model is built; and of a request to a model that came with another list of names."""
    with pytest.raises(ValueError, match=r"^method\.classes=2: expected at least the number of labels, [0-9]+$"):
        whole_run(tmp_path / "run", *TINY, "method.classes=2")
    made = painter().denoiser.method.process
    assert made is not None
    with pytest.raises(ValueError, match=r"^method\.classes=128: expected at least the number of labels, 129$"):
        made.start(conditioned(**brought(0, 0, label=129)))


# Whole runs

TINY = [
    "method=joint",
    "tasks=[joint_masked,joint_label]",
    "training.steps=2",
    "training.save_every=1",
    "sampling.steps=2",
    "evaluation.per_task=3",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "joint"
    whole_run(folder, *TINY)
    return folder


def test_a_run_trains_judges_and_records_its_labels(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert result["status"] == "complete"
    rows = {(row["task"], row["metric"]): row for row in result["rows"]}
    assert rows["joint_label", "label_accuracy"]["n"] > 0
    assert ("joint_masked", "lpips_alex_masked_20") in rows
    classes = json.loads((finished / "adapter.json").read_text())["task"]["joint_label"]["classes"]
    assert classes == sorted(classes) == result["method_report"]["task_options"]["joint_label"]["classes"]
    adapter = load_file(finished / "adapter.safetensors")
    assert {"joint_heads.label.weight", "joint_heads.picture.2.weight"} <= set(adapter)


def test_a_run_goes_on_where_it_was(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "joint"
    shutil.copytree(finished, folder)
    (folder / "result.json").unlink()
    for path in (folder / "checkpoints").glob("*00000002*"):
        path.unlink()
    whole_run(folder, *TINY)
    first, second = (load_file(f / "adapter.safetensors") for f in (finished, folder))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_single_task_phase_goes_on_with_an_adapter(finished: Path, tmp_path: Path) -> None:
    """-M*: what tasks share comes along, and so do the rows of the task that stays."""
    single = [f"init_from={finished}", "tasks=[joint_label]", "training.steps=1", "training.lr=0", *TINY[4:]]
    result = whole_run(tmp_path / "single", "method=joint", *single)
    first, after = (load_file(f / "adapter.safetensors") for f in (finished, tmp_path / "single"))
    assert torch.equal(after["conv_in.weight"][0], first["conv_in.weight"][1])
    assert torch.equal(after["mid_block.resnets.0.conv1.weight"], first["mid_block.resnets.0.conv1.weight"])
    told = result["method_report"]["init_from"]
    assert (told["tasks"], told["tasks_left"], told["new_tasks"]) == (
        ["joint_masked", "joint_label"],
        ["joint_masked"],
        [],
    )
    with pytest.raises(ValueError, match=r"^method=[^\n]*not what [^\n]*adapter.json was trained with"):
        composed([f"init_from={finished}", "method=finetune"])
    with pytest.raises(ValueError, match=r"expected null with training\.start"):
        composed([f"init_from={finished}", f"training.start={finished}", *TINY[:2]])


def test_sample_refuses_a_request_before_it_loads_a_model(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = read_about(finished)
    for task, told in (("joint_masked", {"known": "picture"}), ("joint_label", {"label": "x"})):
        with pytest.raises(ValueError, match=r"^(image: known=picture needs one|label=x: expected one of)"):
            check_request(about.content["task"][task], {"task": task}, told)
    sample.main([f"run={finished}", "task=joint_masked", "known=none", f"out={finished}/drawn.png"])
    assert capsys.readouterr().out.split() == [f"{finished}/drawn.png", f"{finished}/drawn.masked.png"]
    assert (finished / "drawn.masked.png").exists()


def test_requests_of_several_modalities(finished: Path) -> None:
    model, picture = load_run(finished), torch.zeros(3, 64, 64)
    one, two, three = model.answer(
        ["joint_masked", "joint_label", "joint_label"],
        image=[picture, picture, None],
        given=[{"known": "picture"}, {}, {"label": "clothing"}],
    )
    assert (list(one.others), list(two.said), list(three.said)) == (["masked"], ["label"], [])
    refusals = {
        "known=all: expected one of picture, masked, none": ("joint_masked", picture, {"known": "all"}),
        "image: known=picture needs one": ("joint_masked", None, {"known": "picture"}),
        "image: known=none needs none": ("joint_masked", picture, {"known": "none"}),
        "label=x: expected one of": ("joint_label", None, {"label": "x"}),
        "known=picture: task 'joint_label' takes none": ("joint_label", None, {"known": "picture"}),
    }
    for said, (task, image, given) in refusals.items():
        with pytest.raises(ValueError, match=f"^{said}"):
            model(task, image=image, given=given)
    with pytest.raises(CannotFold, match="guessed by a head at every step, which no plain pipeline does"):
        fold_network(model, "joint_label")


# Tasks


@pytest.mark.parametrize("shards", [False, True])
def test_labels_of_a_folder_and_of_shards(shards: bool, tmp_path: Path) -> None:
    """Classes are those of the training rows; a held-out one that training lacks counts as not given."""
    folder = tmp_path / "folder"
    for split, names in (("train", ["cat", "dog", "cat", "owl"]), ("validation", ["dog"]), ("test", ["cat", "newt"])):
        (folder / split).mkdir(parents=True)
        rows = [{"file_name": f"{i}.png", "label": name} for i, name in enumerate(names)]
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for i in range(len(names)):
            Image.new("RGB", (16, 16), (i, 0, 0)).save(folder / split / f"{i}.png")
    source = TableSource(label=str(folder), size=16)
    if shards:
        write_shards(str(tmp_path / "shards"), {split: Samples(source, "label", split) for split in SPLITS})
        source = TableSource(label=str(tmp_path / "shards"), size=16)
    task = JointLabel()
    task = replace(task, **task.read_data(source.list_classes))
    assert task.classes == ["cat", "dog", "owl"]
    stream = Stream(source, task, "test", 0)
    assert sorted(int(stream.example(n, 0).extra["label"]) for n in range(2)) == [0, 1]


def test_the_label_never_leaks_through_the_text() -> None:
    """Its prompt is empty; nor do the text that the network reads and its source differ between labels."""
    source = EmojiSource(size=16)
    task = JointLabel(classes=source.list_classes())
    examples = [Stream(source, task, "train", 0).example(n, 1) for n in range(8)]
    assert {e.prompt for e in examples} == {""}
    assert len({int(e.extra["label"]) for e in examples}) > 4
    module = MultiTaskModule(adapted("joint", "unet"), settings(), seed=0)
    _, _, condition, _ = module.prepare(Batch.collate(examples), None, 1.0)
    empty = base("unet").embed([""]).tokens
    assert torch.equal(condition.text, empty.expand_as(condition.text))
    assert not condition.source.any()
    assert (condition.mask == 1).all()


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_masked_pictures_have_the_share_asked_for(share: float) -> None:
    stream = Stream(EmojiSource(), JointMasked(share=(share, share)), "train", 0)
    shares = [float(stream.example(n, 0).mask.mean()) for n in range(12)]
    assert sum(shares) / len(shares) == pytest.approx(share, rel=0.2)
    assert max(shares) < 1.3 * share


def test_a_sheet_shows_what_is_known_and_drawn(finished: Path, tmp_path: Path) -> None:
    """Two columns: rows of pictures that are held are those pictures, others differ, and labels are written."""
    model = load_run(finished)
    examples = draw_sheets.read_examples(model, "joint_masked", 2)
    rows = dict(draw_sheets.list_masked_rows(model, examples))
    assert list(rows) == [
        *("picture", "masked: given", "... restored", "picture given: masked", "nothing given", "... and its masked"),
    ]
    assert all(one.picture is not None for tiles in rows.values() for one in tiles)
    assert rows["picture"][0].text == examples[0].prompt
    told = dict(draw_sheets.list_label_rows(model, draw_sheets.read_examples(model, "joint_label", 2)))
    classes = model.tasks["joint_label"].classes  # type: ignore[attr-defined]
    assert all(one.text for one in told["... label told"])
    assert all(one.text in classes for one in told["label given"])
    path = draw_sheets.save_sheet("joint", [str(finished)], 2, tmp_path / "sheet.webp")
    with Image.open(path) as sheet:
        assert sheet.size == (150 + 2 * 92 - 4, 9 * 105)
    assert (
        path.read_bytes() == draw_sheets.save_sheet("joint", [str(finished)], 2, tmp_path / "again.webp").read_bytes()
    )
