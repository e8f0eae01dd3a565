"""A short run of the fuzzer; `python tests/helpers/fuzz.py number=20000` is the long one."""

import numpy as np
import pytest
from fuzz import CHANGES, Loaders, Report, attempt, fuzz, spoilt


def test_no_spoilt_file_crashes_a_loader() -> None:
    report = fuzz(range(300), seed=0)
    assert report.crashes == []
    assert report.tried.total() == 300
    for name, tried in report.tried.items():
        assert 0 < report.refused[name] <= tried
    assert sum(report.refused.values()) < 300  # some are harmless, and read


@pytest.mark.parametrize("change", CHANGES)
def test_spoiling_is_a_function_of_the_seed(change: object) -> None:
    data = bytes(range(256)) * 4
    once, again, other = (spoilt(data, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert once == again
    assert once != other
    assert any(change(data, np.random.default_rng(k)) != data for k in range(5))  # type: ignore[operator]


@pytest.mark.parametrize(("error", "word"), [(KeyError("x"), "KeyError"), (ValueError("two\nlines"), "several lines")])
def test_a_crash_is_found(error: Exception, word: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    def broken(rng: np.random.Generator) -> None:
        raise error

    loaders, report = Loaders(tmp_path_factory.mktemp("fuzz")), Report()
    loaders.read = {"good": lambda rng: None, "broken": broken}
    attempt(loaders, 0, 0, report)
    (crash,) = report.crashes
    assert word in crash
