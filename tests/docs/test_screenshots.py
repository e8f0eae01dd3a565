"""docs/take_screenshots.py: its pictures are of the size that is asked, and show something."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("take_screenshots", ROOT / "docs" / "take_screenshots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_pictures_are_taken(script: ModuleType, browser: "Browser", tmp_path: Path) -> None:
    few = f"{ROOT}/experiments/results/main/*-seed0-*.json"
    taken = [script.take_report(browser, tmp_path / "report.webp", few), script.take_demo(browser, tmp_path / "d.webp")]
    for path in taken:
        picture = Image.open(path)
        assert (picture.format, picture.width) == ("WEBP", 1200)
        assert 600 < picture.height < 1600
        assert 5000 < path.stat().st_size < 40_000
        assert np.asarray(picture.convert("L"), float).std() > 10
