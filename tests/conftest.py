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
from typing import TYPE_CHECKING

import pytest
from tiny import BACKBONES

from mtdiff.backbones.base import Backbone

if TYPE_CHECKING:
    from playwright.sync_api import Browser


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
