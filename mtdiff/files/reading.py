"""Files that may be someone else's, read within bounds: of size, of depth, and to what lies in their folder.

Whatever is wrong with a file is a ValueError of one line that names it. No torch here.
"""

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtdiff.errors import reason, shown
from mtdiff.files.writing import MEGABYTE

DEEPEST = 50  # levels of nesting in JSON and YAML: ours have 8
HEADER = 8 * MEGABYTE  # of a safetensors file; 40,000 tensors take 4


def resolve_within(folder: Path, name: str) -> Path:
    """The file `name` of a folder. ValueError where it leads out of the folder (`..`, an absolute path, a link)."""
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path}: leads out of its folder to {path.resolve()}")
    except (OSError, RuntimeError) as error:  # links in a circle
        raise ValueError(f"{path}: cannot be read ({reason(error)})") from None
    return path


def read_bytes(path: Path, most: int = MEGABYTE) -> bytes:
    """The content of an ordinary file that lies where it seems to lie, of at most so many bytes."""
    resolve_within(path.parent, path.name)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path}: is no ordinary file")
        if found.st_size > most:
            raise ValueError(f"{path}: has {found.st_size} bytes, expected at most {most}")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({reason(error)})") from None


def read_text(path: Path, kind: str, most: int = MEGABYTE) -> str:
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not {kind}, not even UTF-8") from None


def read_json(path: Path, most: int = MEGABYTE) -> Any:
    """JSON without NaN and infinity, nested at most `DEEPEST` levels."""

    def refuse(literal: str) -> None:
        raise ValueError(f"{literal} is no JSON number, expected null")

    def whole(literal: str) -> int:
        if len(literal) > 20 or not -(2**63) <= int(literal) < 2**64:
            raise ValueError(f"{shown(literal, 40)}: expected numbers of 64 bits")
        return int(literal)

    text = read_text(path, "JSON", most)
    try:
        content = json.loads(text, parse_constant=refuse, parse_int=whole)
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()  # no 1e999, and no half of a character
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON, line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply, expected at most {DEEPEST} levels") from None
    except ValueError as error:
        raise ValueError(f"{path}: {reason(error)}") from None
    return bound_depth(path, content)


def read_yaml(path: Path, most: int = MEGABYTE // 4) -> Any:
    """YAML of plain values alone: no tags (which construct objects), no aliases (which multiply what they name)."""
    import yaml

    text = read_text(path, "YAML", most)
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:  # here, since the parser's time grows with the square of the depth
                raise RecursionError
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"alias *{event.anchor}: expected plain values")
            if getattr(event, "tag", None) is not None:
                raise ValueError(f"tag {event.tag}: expected plain values")
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({reason(error)})") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply, expected at most {DEEPEST} levels") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{path}: {reason(error)}") from None
    return bound_depth(path, content)


def bound_depth(path: Path, content: Any) -> Any:
    """The content itself, or a ValueError where it is nested too deeply."""
    level: list[Any] = [content]
    for _ in range(DEEPEST + 1):
        level = [child for node in level for child in children(node)]
        if not level:
            return content
    raise ValueError(f"{path}: nested too deeply, expected at most {DEEPEST} levels")


def children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def check_header(path: Path) -> None:
    """Refuse a safetensors file whose header is larger than the file or than any of ours, before it is parsed."""
    resolve_within(path.parent, path.name)
    try:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({reason(error)})") from None
    if size < 8 or header > min(size - 8, HEADER):
        raise ValueError(f"{path}: not safetensors, its header claims {header} bytes of {size}, at most {HEADER}")


@contextmanager
def hide_loading_bars() -> Iterator[None]:
    """No bars of transformers and diffusers inside: they show every part of every model for a moment."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    before = [library for library in (diffusers, transformers) if library.is_progress_bar_enabled()]
    for library in before:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in before:
            library.enable_progress_bar()


def check_links(folder: Path) -> None:
    """Refuse a folder that is written to, where a link in it, at any depth, leads out of it. It need not exist."""
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            if path.is_symlink():
                resolve_within(folder, str(path.relative_to(folder)))
