"""Fixtures that any test may use; what they build is described in `tiny.py`."""

import atexit
import os
import shutil
import tempfile

if "MTDIFF_CACHE" not in os.environ:  # the user's own stays as it is; worker processes share this one
    os.environ["MTDIFF_CACHE"] = tempfile.mkdtemp(prefix="mtdiff-")
    atexit.register(shutil.rmtree, os.environ["MTDIFF_CACHE"], ignore_errors=True)
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads than one each would wait for others
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from tiny import BACKBONES

from mtdiff.backbones.base import Backbone
from mtdiff.costs import drawing, measure

if TYPE_CHECKING:
    from playwright.sync_api import Browser

measure.RUN_S = drawing.PICTURE_S = 0.0  # a whole run times one call of each kind, where a user's times up to twenty


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each worker has files of its own until it steals, so that few fixtures of a file are made by two workers."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture
def tiny_unet() -> Backbone:
    """A Stable Diffusion of 16 and 32 channels."""
    return BACKBONES["unet"]()


@pytest.fixture(params=list(BACKBONES))
def tiny_backbone(request: pytest.FixtureRequest) -> Backbone:
    """Each tiny backbone in turn."""
    return BACKBONES[request.param]()


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Chromium without a screen."""
    from browser import open_browser  # starts nothing for tests that need none

    with open_browser() as opened:
        yield opened
