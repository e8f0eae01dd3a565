"""mtdiff: which adaptation turns one text-to-image diffusion model best into a model for many image tasks?"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load_run"]


def __getattr__(name: str) -> Any:
    """`load_run`, imported when it is asked for: the package itself stays free of torch."""
    if name == "load_run":
        from mtdiff.runs.load import load_run

        return load_run
    raise AttributeError(f"module 'mtdiff' has no attribute {name!r}")
