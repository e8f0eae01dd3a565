"""The emoji pack is built from the two packages' archives, and the same archives give the same bytes."""

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from base_model import build_emoji
from PIL import Image

from mtdiff.data.emoji.pack import read_index, read_pictures

SCRIPT = str(build_emoji.__file__)
EMOJI = [
    {"unified": "1F469-200D-1F680", "name": "WOMAN ASTRONAUT", "image": "a.png", "category": "People & Body"},
    {"unified": "1F40D", "name": "SNAKE", "image": "b.png", "category": "Animals & Nature"},
    {"unified": "1F1E9-1F1EA", "name": "GERMANY", "image": "c.png", "category": "Flags"},
]


def write_archive(folder: Path, package: str, pictures: str) -> None:
    common = {"short_name": "x", "subcategory": "y", "has_img_google": True, "has_img_twitter": True}
    listing = [{**raw, **common, "sort_order": -k} for k, raw in enumerate(EMOJI)]
    files = {"emoji.json": json.dumps(listing).encode()}
    for k, raw in enumerate(EMOJI):
        png = io.BytesIO()
        Image.new("RGBA", (64, 64), (40 * k, 80, 160, 255)).save(png, "PNG")
        files[f"img/{pictures}/64/{raw['image']}"] = png.getvalue()
    with tarfile.open(folder / f"{package}-{build_emoji.VERSION}.tgz", "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_a_pack_is_built_from_archives(tmp_path: Path) -> None:
    for meta in build_emoji.STYLES.values():
        write_archive(tmp_path, meta["package"], meta["folder"])
    for out in ("one", "two"):
        build_emoji.main([f"archives={tmp_path}", f"out={tmp_path / out}"])
    one, two = tmp_path / "one", tmp_path / "two"
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}
    found = json.loads(read_index(one))["emoji"]
    assert [(e["name"], e["base"]) for e in found] == [("snake", "1f40d"), ("woman astronaut", "1f9d1-1f680")]
    with zipfile.ZipFile(io.BytesIO(read_pictures(one))) as pack:
        assert sorted(pack.namelist()) == ["noto/a.webp", "noto/b.webp", "twemoji/a.webp", "twemoji/b.webp"]


@pytest.mark.parametrize("argument", ["--archives=.", "quality=high", "size=3"])
def test_a_mistake_is_one_line(argument: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, argument], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert argument.partition("=")[0] in done.stderr
