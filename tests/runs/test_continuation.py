"""A run that goes on with another run's adapter: every method, from some tasks to others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from method_cases import NAMES, make, shake
from tiny import inputs, tiny_unet

from mtdiff.config.settings import Sampling
from mtdiff.model.denoiser import Denoiser
from mtdiff.runs.adapter import About
from mtdiff.runs.continuation import check_found, continue_adapter

EARLIER, LATER = ("text_to_image", "edit", "inpaint"), ("inpaint", "denoise", "edit")


def about(tmp_path: Path, tasks: tuple[str, ...] = EARLIER, **nodes: object) -> About:
    path = tmp_path / "adapter.json"
    path.with_suffix(".safetensors").write_bytes(b"tensors")
    return About(path, {"tasks": list(tasks), "task": nodes, "seed": 7}, {}, Sampling())


def adapted(name: str, tasks: tuple[str, ...], shaken: float = 0.0) -> Denoiser:
    torch.manual_seed(1)
    return shake(Denoiser(tiny_unet(), make(name), tasks), shaken)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_that_stays_draws_as_before(name: str, tmp_path: Path) -> None:
    """Wherever it stands in the new list; a new task does not take the place of one that is gone."""
    earlier, later = adapted(name, EARLIER, 0.05), adapted(name, LATER)
    said = continue_adapter(later, about(tmp_path), {k: v.clone() for k, v in earlier.adapter().items()})
    noisy, t, condition = inputs(earlier.backbone, [1, 1])
    for task in ("edit", "inpaint"):
        there, here = (
            replace(condition, task=torch.full_like(condition.task, tasks.index(task))) for tasks in (EARLIER, LATER)
        )
        with torch.no_grad():
            torch.testing.assert_close(later(noisy, t, here), earlier(noisy, t, there), atol=1e-5, rtol=1e-5)
    assert (said["new_tasks"], said["tasks_left"], said["seed"]) == (["denoise"], ["text_to_image"], 7)
    assert len(said["adapter"]) == 64


def test_what_has_no_place_is_refused(tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in adapted("finetune", EARLIER).adapter().items()}
    with pytest.raises(ValueError, match=r"^init_from: [^\n]* do not train the same tensors, first [^\n]*task_bias$"):
        continue_adapter(adapted("finetune", ("edit",)), about(tmp_path), state)
    name = next(iter(state))
    with pytest.raises(ValueError, match=rf"^init_from: {name} has shape \(1,\), expected"):
        continue_adapter(adapted("finetune", EARLIER), about(tmp_path), {**state, name: torch.zeros(1)})


def test_labels_of_other_data_are_refused(tmp_path: Path) -> None:
    earlier = about(tmp_path, ("sorted",), sorted={"classes": ["cat", "dog"]})
    check_found(earlier, {"sorted": {"classes": ["cat", "dog"]}})
    with pytest.raises(ValueError, match=r"^init_from: task\.sorted\.classes of this data are not those of"):
        check_found(earlier, {"sorted": {"classes": ["cat", "owl"]}})
