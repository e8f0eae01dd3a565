"""Training step, conditioning dropout, averaging and checkpoints, on a tiny U-Net."""

from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
from diffusers.training_utils import EMAModel
from tiny import TASKS, tiny_unet
from tiny_fits import batch, fit, settings

from mtdiff.methods.mtu import MTU
from mtdiff.model.conditioning import Dropout, encode_condition
from mtdiff.model.denoiser import Denoiser
from mtdiff.rng import torch_rng
from mtdiff.training.callbacks import EMA
from mtdiff.training.module import MultiTaskModule, scale_learning_rate, sum_per_task
from mtdiff.types import Condition, Text


def module(seed: int = 0, **optimizer: float) -> MultiTaskModule:
    torch.manual_seed(seed)
    denoiser = Denoiser(tiny_unet(), MTU(experts=2), TASKS)
    return MultiTaskModule(denoiser, settings(**optimizer), seed=seed)


def test_sum_per_task_against_a_loop() -> None:
    losses, task = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 2, 2, 3])
    assert sum_per_task(losses, task, 5).tolist() == [1, 0, 6, 8, 0]


def test_errors_are_a_pure_function_of_each_examples_seed() -> None:
    """The same alone, in another order, and in a larger batch; other draws with another seed."""
    made, four = module(), batch()
    errors, t = made.errors(four, Dropout(0.3, 0.3, 0.3))
    alone, t_alone = made.errors(four.rows(torch.tensor([False, False, True, False])), Dropout(0.3, 0.3, 0.3))
    assert t[2] == t_alone[0]
    torch.testing.assert_close(errors[2:3], alone, rtol=1e-5, atol=1e-6)
    other, _ = made.errors(replace(four, seed=[9, 9, 9, 9]), Dropout(0.3, 0.3, 0.3))
    assert not torch.isclose(errors, other).any()


def test_source_without_content_has_a_zero_latent() -> None:
    condition = encode_condition(tiny_unet(), batch())
    assert condition.source[0].abs().sum() == 0
    assert (condition.mask[0] == 1).all()
    assert (condition.source[1:].flatten(1).abs().sum(1) > 0).all()


def test_dropout_shares_and_what_is_dropped() -> None:
    n = 6000
    source, mask = torch.ones(n, 1, 1, 1), torch.zeros(n, 1, 1, 1)
    full = Condition(source, mask, torch.ones(n, 2, 3), torch.zeros(n, dtype=torch.long))
    u = torch.rand(n, generator=torch_rng(0))
    out = Dropout(text=0.1, image=0.2, both=0.3)(full, Text(torch.zeros(1, 2, 3)), u)
    no_text, no_image = out.text.sum((1, 2)) == 0, out.source.flatten() == 0
    assert torch.equal(no_image, out.mask.flatten() == 1)
    shares = [(no_text & ~no_image), (~no_text & no_image), (no_text & no_image)]
    for found, wanted in zip(shares, (0.1, 0.2, 0.3), strict=True):
        assert found.float().mean().item() == pytest.approx(wanted, abs=0.025)  # 4 standard errors
    with pytest.raises(ValueError, match="dropout"):
        Dropout(0.5, 0.5, 0.5)


def test_fit_trains_what_it_should_and_keeps_the_average(tmp_path: Path) -> None:
    made = module()
    frozen = {k: v.clone() for k, v in made.named_parameters() if not v.requires_grad}
    fit(made, tmp_path, 3, [EMA(0.5)])
    for k, v in made.named_parameters():
        if k in frozen:
            assert torch.equal(v, frozen[k]), k
    averaged = {k: v.detach().clone() for k, v in made.named_parameters() if v.requires_grad}

    again = module()
    params = [p for p in again.parameters() if p.requires_grad]
    reference = EMAModel(params, decay=0.5, use_ema_warmup=True, power=0.75)

    class Follow(lightning.Callback):
        def on_train_batch_end(self, *args: object) -> None:
            reference.step(params)

    fit(again, tmp_path, 3, [Follow()])
    reference.copy_to(params)
    for k, v in again.named_parameters():
        if k in averaged:
            assert torch.equal(v, averaged[k]), k


def test_checkpoint_holds_only_what_is_trained(tmp_path: Path) -> None:
    made = module()
    trainer = fit(made, tmp_path, 1, [])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    trained = {k for k, v in made.named_parameters() if v.requires_grad}
    assert set(state) == trained


def test_optimizer_warms_up() -> None:
    made = module(warmup=4)
    schedule = made.configure_optimizers()["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


def test_rate_falls_to_zero_over_the_decay() -> None:
    scales = [scale_learning_rate(step, 8, 2, 0.5) for step in range(9)]
    assert scales == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert scale_learning_rate(10**6, 8, 2, 0.0) == 1
