"""Build the shipped picture pack from two npm packages (needs npm's registry, or the two archives already on disk).

    python experiments/base_model/build_emoji.py [archives=FOLDER] [out=mtdiff/assets/emoji] [quality=88]

Pictures: `emoji-datasource-google` 16.0.0 (Noto Emoji, Apache-2.0) and `emoji-datasource-twitter` 16.0.0
(Twemoji, CC-BY-4.0), 64 px RGBA, without flags and bare components, re-encoded as WebP at quality 88 (alpha lossless).
Names, categories and skin-tone variants are those of the packages' `emoji.json` (official Unicode names).

The split is made here, once, by *base emoji*: `base_of` strips skin tone, gender and direction from the code points,
so that no variant or style of one emoji crosses a split.
"""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

from PIL import Image

from mtdiff.commands.arguments import override_defaults, read_number
from mtdiff.commands.command import run_command
from mtdiff.data.emoji.pack import INDEX, PICTURES

OUT = Path(__file__).parents[2] / "mtdiff" / "assets" / "emoji"
DEFAULTS = {"archives": ".", "out": str(OUT), "quality": "88"}
VERSION = "16.0.0"
STYLES = {
    "noto": {
        "package": "emoji-datasource-google",
        "folder": "google",
        "license": "Apache-2.0",
        "author": "Google LLC, Noto Emoji",
    },
    "twemoji": {
        "package": "emoji-datasource-twitter",
        "folder": "twitter",
        "license": "CC-BY-4.0",
        "author": "Twitter, Inc. and other contributors",
    },
}
TONES = {"1F3FB": "light", "1F3FC": "medium light", "1F3FD": "medium", "1F3FE": "medium dark", "1F3FF": "dark"}
SPLITS = {"train": 0.80, "validation": 0.06, "test": 0.14}

_DROPPED = {"FE0F", "200D", "2640", "2642", "27A1", *TONES}
_NEUTRAL = {"1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2", "1F474": "1F9D3", "1F475": "1F9D3"}
# Code points of their own that differ from another emoji by gender alone.
_SAME_BASE = {
    "1F936": "1F385",  # mother and father Christmas
    "1F9D1-1F384": "1F385",  # mx claus
    "1F478": "1F934",  # princess, prince
    "1FAC5": "1F934",  # person with crown
    "1F57A": "1F483",  # man dancing, dancer
    "1F930": "1FAC4",  # pregnant woman, man, person
    "1FAC3": "1FAC4",
    "1F46C": "1F46B",  # holding hands
    "1F46D": "1F46B",
    "1F9D1-1F91D-1F9D1": "1F46B",
    "1F9D1-2764-1F9D1": "1F491",  # couple with heart
    "1F9D1-2764-1F48B-1F9D1": "1F48F",  # kiss
}


_NAMES = {"1F935": "person in tuxedo"}  # the package gives this one and its male form the same name


def base_of(unified: str) -> str:
    """Code points of an emoji without skin tone, gender and direction, e.g. `1F469-200D-1F680` -> `1F9D1-1F680`."""
    points = [_NEUTRAL.get(p, p) for p in unified.split("-") if p not in _DROPPED]
    if len(points) > 1 and set(points) <= {"1F9D1", "1F9D2"}:
        return "1F46A"  # every family
    key = "-".join(points)
    return _SAME_BASE.get(key, key)


def split_of(base: str) -> str:
    """Split of a base emoji, from a hash of its code points (stable when emoji are added)."""
    u = int(hashlib.sha256(base.encode()).hexdigest()[:8], 16) / 2**32
    for split, share in SPLITS.items():
        if u < share:
            return split
        u -= share
    return "test"


def archive(package: str, folder: Path) -> tarfile.TarFile:
    path = folder / f"{package}-{VERSION}.tgz"
    if not path.exists():
        subprocess.run(["npm", "pack", f"{package}@{VERSION}", "--silent"], cwd=folder, check=True)
    return tarfile.open(path)


def read(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(f"package/{name}")
    if member is None:
        raise SystemExit(f"{tar.name!s}: no file {name}")
    return member.read()


def webp(png: bytes, quality: int) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGBA").save(out, "WEBP", quality=quality, method=4)
    return out.getvalue()


def entry(raw: dict) -> dict:
    """One base or gendered emoji with its pictures by skin tone: `tones[""]` is the plain (yellow) one."""
    base = base_of(raw["unified"])
    tones = {"": Path(raw["image"]).stem}
    for key, variant in raw.get("skin_variations", {}).items():
        tones[" and ".join(TONES[t] for t in key.split("-"))] = Path(variant["image"]).stem
    return {
        "name": _NAMES.get(raw["unified"], raw["name"].lower()),
        "short_name": raw["short_name"],
        "category": raw["category"],
        "subcategory": raw["subcategory"],
        "base": base.lower(),
        "split": split_of(base),
        "tones": tones,
    }


def build(archives: Path, out: Path, quality: int) -> None:
    tars = {style: archive(meta["package"], archives) for style, meta in STYLES.items()}
    raws = json.loads(read(tars["noto"], "emoji.json"))
    raws = [r for r in raws if r["category"] not in ("Flags", "Component")]
    raws = [r for r in raws if all(r[f"has_img_{meta['folder']}"] for meta in STYLES.values())]
    entries = [entry(r) for r in sorted(raws, key=lambda r: r["sort_order"])]
    out.mkdir(parents=True, exist_ok=True)
    archived = io.BytesIO()
    with zipfile.ZipFile(archived, "w", zipfile.ZIP_STORED) as pack:
        for style, meta in STYLES.items():
            for stem in sorted(stem for e in entries for stem in e["tones"].values()):
                png = read(tars[style], f"img/{meta['folder']}/64/{stem}.png")
                # A fixed date: the same inputs give the same bytes.
                pack.writestr(zipfile.ZipInfo(f"{style}/{stem}.webp"), webp(png, quality))
    (out / PICTURES).write_bytes(gzip.compress(archived.getvalue(), 9, mtime=0))
    index = {"schema": 1, "version": VERSION, "size": 64, "styles": STYLES, "emoji": entries}
    text = json.dumps(index, separators=(",", ":"), ensure_ascii=False) + "\n"
    (out / INDEX).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    counts = {s: sum(e["split"] == s for e in entries) for s in SPLITS}
    pictures = sum(len(e["tones"]) for e in entries)
    size = (out / PICTURES).stat().st_size / 2**20
    print(f"{len(entries)} emoji {counts}, {pictures} pictures in each of {len(STYLES)} styles, {size:.2f} MiB")


def main(arguments: list[str]) -> None:
    options = override_defaults(arguments, DEFAULTS)
    quality = read_number(options, "quality", int, low=0)
    build(Path(options["archives"]), Path(options["out"]), quality)


if __name__ == "__main__":
    run_command(main, __doc__)
