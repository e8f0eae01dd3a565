"""Reference pictures of the shipped set, of folders, and the task that shows them."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtdiff.data.emoji.pack import Portrait
from mtdiff.data.emoji.references import SceneReferences
from mtdiff.data.emoji.scenes import canonical
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Stream
from mtdiff.data.tables.convert import Samples, write_shards
from mtdiff.data.tables.shards import Shards
from mtdiff.data.tables.source import TableSource
from mtdiff.rng import numpy_rng
from mtdiff.tasks.reference import FromReference, hide_words
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.types import SPLITS, Batch, Need

NAMES = ("object", "style", "tone")


@cache
def emoji(side: int = 64) -> EmojiSource:
    return EmojiSource(size=side)


def test_no_reference_of_the_whole_set_is_the_picture_itself() -> None:
    """Every drawing of every split with every reference it has; 32 px, where drawings differ less than at 64."""
    source, found = emoji(32), dict.fromkeys(NAMES, 0)
    draw = cache(source.draw)
    for split in SPLITS:
        for portrait in source.portraits(split):
            scene = canonical(portrait)
            image, pool = draw(scene), source.pack.of(split)
            shown = SceneReferences(scene, image, pool, source.pack.styles, draw, 7)
            assert set(shown) == {"object", "style", *(["tone"] if portrait.tone else [])}
            for name, reference in shown.items():
                assert not torch.equal(reference.image, image)
                assert reference.words in scene.caption
                found[name] += 1
    assert found["object"] == found["style"] > found["tone"] > 1000


def test_a_reference_shows_one_thing_of_the_picture() -> None:
    source = emoji()
    drawn: dict[bytes, list[Portrait]] = {}  # some emoji are drawn alike
    for portrait in source.portraits("train"):
        image = source.portrait(portrait.style, portrait.stem).image
        drawn.setdefault(image.numpy().tobytes(), []).append(portrait)
    for index in range(0, 60, 3):
        record = source.record("picture", "train", index, numpy_rng("test", index))
        scene = source.scene("picture", "train", index, numpy_rng("test", index))
        main = scene.items[0].portrait
        shown = {name: drawn[r.image.numpy().tobytes()] for name, r in record.reference.items()}
        assert any(p.emoji == main.emoji and p.style != main.style and p.tone == main.tone for p in shown["object"])
        assert any(p.emoji.base not in scene.bases and p.style == main.style for p in shown["style"])
        assert ("tone" in shown) == (main.tone != "")
        assert all(p.tone == main.tone and p.emoji.base not in scene.bases for p in shown.get("tone", []))
        again = source.record("picture", "train", index, numpy_rng("test", index))
        assert all(torch.equal(again.reference[n].image, record.reference[n].image) for n in record.reference)


def test_what_others_draw_stays_as_it_was() -> None:
    """A record with references leaves the generator where a task without them finds it."""
    rng, bare = numpy_rng(3), numpy_rng(3)
    emoji().record("picture", "train", 5, rng)
    emoji().scene("picture", "train", 5, bare)
    assert rng.bit_generator.state == bare.bit_generator.state


def test_the_task_shows_pictures_and_hides_their_words() -> None:
    task = FromReference(reference=("object", "style", "tone"))
    stream = Stream(emoji(), task, "train", 0)
    examples = [stream.example(n, 0) for n in range(40)]
    assert all(set(e.extra) <= {f"reference.{name}" for name in NAMES} for e in examples)
    assert {len(e.extra) for e in examples} == {2, 3}
    assert not any(e.prompt.startswith(("noto", "twemoji")) or "skin tone" in e.prompt.split(",")[0] for e in examples)
    assert all(e.target_caption.startswith(("noto,", "twemoji,")) for e in examples)
    batch = Batch.collate(examples)
    toned = ["reference.tone" in e.extra for e in examples]
    assert batch.extra["reference.tone"].flatten(1).any(1).tolist() == toned
    alone = Stream(emoji(), FromReference(reference=(), hidden=("style",)), "train", 0)
    bare = [alone.example(n, 0) for n in range(9)]
    assert not any(e.extra or e.prompt.startswith(("noto", "twemoji")) for e in bare)
    assert all(torch.equal(e.target, other.target) for e, other in zip(bare, examples[:9], strict=True))
    some = Stream(emoji(), FromReference(reference=("object", "style"), kept=0.5), "train", 0)
    assert {len(some.example(n, 0).extra) for n in range(30)} == {0, 1, 2}


def test_words_are_taken_out_of_a_caption() -> None:
    caption = "noto, waving hand with dark skin tone left, on red"
    assert hide_words(caption, ["noto, "]) == "waving hand with dark skin tone left, on red"
    assert hide_words(caption, [" with dark skin tone"]) == "noto, waving hand left, on red"
    assert hide_words("noto, cat face", ["cat face", "noto, "]) == ""


def test_references_of_a_folder_are_columns(tmp_path: Path) -> None:
    rows = []
    for k, split in enumerate(("train", "train", "train", "validation", "test")):
        for name in ("a", "b"):
            picture = np.full((24, 20, 3), 40 * k + (name == "b"), np.uint8)
            Image.fromarray(picture).save(tmp_path / f"{name}{k}.png")
        row = {"file_name": f"a{k}.png", "text": f"picture {k}", "split": split}
        rows.append(json.dumps(row if k == 1 else {**row, "reference_style_file_name": f"b{k}.png"}))
    (tmp_path / "b1.png").unlink()
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    source = TableSource(picture=str(tmp_path), caption=str(tmp_path), size=16)
    assert list(source.reference_names("picture", "train")) == ["style"]
    numbers = range(source.size("picture", "train"))
    records = [source.record("picture", "train", k, numpy_rng(k)) for k in numbers]
    assert sorted(len(r.reference) for r in records) == [0] + [1] * (len(records) - 1)
    shown = next(r for r in records if r.reference)
    assert shown.reference["style"].image.shape == (3, 16, 16)
    assert int(shown.reference["style"].image[0, 0, 0]) == int(shown.image[0, 0, 0]) + 1
    example = Stream(source, FromReference(reference=("style",)), "train", 0).example(0, 0)
    assert example.prompt.startswith("picture")
    message = r"task\.reference\.reference=tone: no such reference pictures, the data has style"
    with pytest.raises(ValueError, match=message):
        Stream(source, FromReference(reference=("tone",)), "train", 0)


class Few(Samples):
    def __len__(self) -> int:
        return 6


@pytest.mark.parametrize("need", ["picture", "caption"])
def test_shards_hold_the_references_of_drawn_records(need: Need, tmp_path: Path) -> None:
    """What the task makes of them is what it makes of the drawn records: pictures, prompts without the words shown."""
    written = Few(emoji(32), need, "train")
    write_shards(str(tmp_path), {"train": written})
    source = TableSource(**{need: Shards(str(tmp_path), held_out=0.0)}, size=32)  # type: ignore[arg-type]
    assert set(source.reference_names(need, "train")) == set(NAMES)
    task = FromReference(reference=NAMES, need=need)
    for k, index in enumerate(numpy_rng(*written.key).permutation(len(written)).tolist()):
        drawn = task.make(emoji(32).record(need, "train", index, numpy_rng(*written.key, index)), numpy_rng(0), 0)
        read = task.make(source.record(need, "train", k, numpy_rng(0)), numpy_rng(0), 0)
        assert (read.prompt, read.target_caption) == (drawn.prompt, drawn.target_caption)
        assert read.extra.keys() == drawn.extra.keys() >= {"reference.object", "reference.style"}
        assert all(torch.equal(read.extra[name], drawn.extra[name]) for name in drawn.extra)


def test_mistakes_are_one_line() -> None:
    message = r"task\.reference\.reference=objekt: no such reference pictures, the data has object"
    with pytest.raises(ValueError, match=message):
        Stream(emoji(), FromReference(reference=("objekt",)), "train", 0)
    for wrong in ({"reference": ["style", "style"]}, {"reference": "style"}, {"kept": 0}, {"need": "edit"}):
        with pytest.raises(ValueError, match=r"^task\.reference\.\w+=[^\n]*: expected [^\n]*$"):
            FromReference(**wrong)  # type: ignore[arg-type]
    assert not TextToImage().shows
