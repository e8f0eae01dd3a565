"""The method that the README shows is a whole one: it starts as the base, trains what it says, and folds."""

import ast
import re
from pathlib import Path

import pytest
import torch
from tiny import TASKS, inputs, tiny_unet

from mtdiff.methods.base import Method
from mtdiff.model.denoiser import Denoiser

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def source() -> str:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    (found,) = (block for block in blocks if "(Method)" in block)
    return found


@pytest.fixture
def method(source: str) -> Method:
    names: dict[str, type[Method]] = {}
    exec(source, names)
    return names["BitFit"]()


def test_it_says_its_types(source: str) -> None:
    """As mypy asks of every method."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert functions
    assert all(f.returns is not None and all(a.annotation is not None for a in f.args.args[1:]) for f in functions)


@torch.no_grad()
def test_it_starts_as_the_base_trains_biases_and_folds(method: Method) -> None:
    base = tiny_unet()
    noisy, t, condition = inputs(base, [1, 1])
    expected = base.predict(noisy, t, condition)
    denoiser = Denoiser(base, method, TASKS)
    assert torch.equal(denoiser(noisy, t, condition), expected)
    trained = denoiser.trained_parameters()
    assert {name.rpartition(".")[2] for name in trained if "conv_in" not in name} == {"bias"}
    for parameter in trained.values():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    answers = denoiser(noisy, t, condition)
    method.fold(base, 1)
    assert torch.allclose(method.layout(base.predict, noisy, t, condition), answers, atol=1e-5)
