"""What fine-tuning trains, and where its task embedding enters."""

import copy

import pytest
import torch
from tiny import TASKS, inputs

from baselines.finetune import Finetune, TaskBias, time_sites
from mtdiff.backbones.base import Backbone
from mtdiff.model.denoiser import Denoiser


def test_everything_is_trained_once(tiny_backbone: Backbone) -> None:
    denoiser = Denoiser(tiny_backbone, Finetune(), TASKS)
    idle = tuple(f"{name}." for name in tiny_backbone.idle())
    assert set(denoiser.trained_parameters()) == {
        k for k, _ in tiny_backbone.denoiser.named_parameters() if not k.startswith(idle)
    }


@pytest.mark.parametrize("part", ["ffn", "self_attention", "cross_attention"])
def test_one_part_and_the_input(tiny_backbone: Backbone, part: str) -> None:
    names = [site.name for site in tiny_backbone.sites(part)]  # type: ignore[arg-type]
    names += [site.name for site in tiny_backbone.sites("input")]
    denoiser = Denoiser(tiny_backbone, Finetune(parts=[part], task_embedding=False), TASKS)  # type: ignore[list-item]
    named, idle = tuple(f"{n}." for n in names), tuple(f"{n}." for n in tiny_backbone.idle())
    parameters = [k for k, _ in tiny_backbone.denoiser.named_parameters() if not k.startswith(idle)]
    expected = {k for k in parameters if k.startswith(named)}
    assert set(denoiser.trained_parameters()) == expected


def test_a_single_task_has_no_embedding(tiny_backbone: Backbone) -> None:
    single = Denoiser(copy.deepcopy(tiny_backbone), Finetune(), TASKS[:1])
    without = Denoiser(copy.deepcopy(tiny_backbone), Finetune(task_embedding=False), TASKS)
    joint = Denoiser(tiny_backbone, Finetune(), TASKS)
    for denoiser, count in ((single, 0), (without, 0), (joint, len(time_sites(joint.backbone)))):
        assert len([m for m in denoiser.backbone.modules() if isinstance(m, TaskBias)]) == count


def test_the_embedding_is_added_to_that_of_the_time(tiny_unet: Backbone) -> None:
    base = copy.deepcopy(tiny_unet)
    denoiser = Denoiser(tiny_unet, Finetune(), TASKS)
    layer = time_sites(tiny_unet)[0].module
    assert isinstance(layer, TaskBias)
    with torch.no_grad():
        layer.task_bias.normal_()
        bias = base.denoiser.time_embedding.linear_2.bias  # type: ignore[union-attr]
        noisy, t, condition = inputs(base, [2, 2])
        bias += layer.task_bias[2]
        torch.testing.assert_close(
            denoiser(noisy, t, condition), base.predict(noisy, t, condition), atol=1e-5, rtol=1e-5
        )
