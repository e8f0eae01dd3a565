"""mtdiff: which adaptation turns one text-to-image diffusion model best into a model for many image tasks?"""

__version__ = "0.1.0"
