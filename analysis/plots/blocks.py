"""The blocks of a UNet, in order and by short names, and the runs that report on them."""

from mtdiff.results.study import Run, Study


def order_block(site: str) -> tuple[int, str]:
    """Blocks in the order of a UNet's forward pass."""
    return next((i for i, part in enumerate(("down", "mid", "up")) if site.startswith(part)), 0), site


def shorten_site(site: str) -> str:
    """`up_blocks.1.attentions.0.transformer_blocks.0.ff` -> `up 1.0.0`."""
    words = site.removesuffix(".ff").split(".")
    head = words[0].replace("_blocks", "").replace("_block", "")
    return f"{head} {'.'.join(word for word in words[1:] if word.isdecimal())}"


def shorten_layer(layer: str) -> str:
    """`up_blocks.1.attentions.0.transformer_blocks.0.attn1` -> `up 1.0.0 attn1`; a module by itself keeps its name."""
    site, _, part = layer.rpartition(".")
    return f"{shorten_site(site)} {part}" if "transformer_blocks" in site else shorten_site(layer) if site else layer


def select_reporting(study: Study, key: str) -> list[Run]:
    """Complete runs whose `method_report` holds something."""
    return [run for run in study.complete if run.result.method_report.get(key)]
