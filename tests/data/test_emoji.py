"""The emoji source: splits by base and by combination, purity, edits that change only what they name, compositing."""

import multiprocessing
import pickle
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mtdiff.data.emoji.changes import KINDS, gender, one_word, words
from mtdiff.data.emoji.compose import random_spots
from mtdiff.data.emoji.edits import TEMPLATES, article
from mtdiff.data.emoji.pack import HELD_OUT, Pack, combination, is_free
from mtdiff.data.emoji.scenes import PORTRAIT, UNIT, Background, Scene, blend, box, canonical, draw, paint
from mtdiff.data.emoji.source import WEIGHTS, EmojiSource, _stride
from mtdiff.types import SPLITS, Need, Record

NEEDS: tuple[Need, ...] = ("picture", "caption", "edit", "removal")
seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def source() -> EmojiSource:
    return EmojiSource()


@pytest.fixture(scope="module")
def base_of(source: EmojiSource) -> dict[str, str]:
    return {stem: e.base for e in source.pack.emoji for stem in e.tones.values()}


@pytest.fixture(scope="module")
def trained(source: EmojiSource) -> list[Record]:
    """Training records of every need."""
    return [r for need in NEEDS for r in some(source, need, "train", 600)]


@pytest.fixture(scope="module")
def known(source: EmojiSource) -> set[str]:
    return {w for text in source.texts("train") for w in words(text)}


def some(source: EmojiSource, need: Any, split: Any, count: int) -> list[Record]:
    size = source.size(need, split)
    return [source.record(need, split, i * 7 % size, np.random.default_rng([i, len(need)])) for i in range(count)]


def scenes(key: str) -> list[list[str]]:
    """Stems of each scene that a key names."""
    return [part.split("/")[1].split("+") for part in key.split(">")]


def same(a: Record, b: Record) -> bool:
    texts = [(r.caption, r.key, r.kind, r.instruction, r.edited_caption) for r in (a, b)]
    edited = a.edited is b.edited if a.edited is None or b.edited is None else bool((a.edited == b.edited).all())
    return texts[0] == texts[1] and edited and bool((a.image == b.image).all())


# Splits


def test_every_base_has_one_split(source: EmojiSource) -> None:
    splits = {(e.base, e.split) for e in source.pack.emoji}
    assert len(splits) == len({base for base, _ in splits})
    assert sum(len(source.portraits(s)) for s in SPLITS) == 2 * sum(len(e.tones) for e in source.pack.emoji)


def test_training_never_shows_an_emoji_of_another_split(
    source: EmojiSource, trained: list[Record], base_of: dict[str, str]
) -> None:
    train = {e.base for e in source.pack.of("train")}
    assert {base_of[s] for r in trained for scene in scenes(r.key) for s in scene} <= train


def test_training_never_shows_a_held_out_combination(trained: list[Record], base_of: dict[str, str]) -> None:
    several = 0
    for record in trained:
        bases = {base_of[s] for scene in scenes(record.key) for s in scene}
        several += len(bases) > 1
        assert all(combination(a, b) == "train" for a, b in combinations(bases, 2)), record.key
    assert several > 800


@pytest.mark.parametrize("split", ["validation", "test"])
def test_pictures_outside_training_show_unseen_emoji(source: EmojiSource, split: Any, base_of: dict[str, str]) -> None:
    own = {e.base for e in source.pack.of(split)}
    for record in some(source, "picture", split, source.size("picture", split)):
        assert {base_of[s] for s in scenes(record.key)[0]} <= own


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("need", ["caption", "removal"])
def test_captions_and_removals_hold_combinations_of_their_split_alone(
    source: EmojiSource, need: Any, split: Any, base_of: dict[str, str]
) -> None:
    train = {e.base for e in source.pack.of("train")}
    for record in some(source, need, split, 300):
        bases = {base_of[s] for s in scenes(record.key)[0]}
        found = {combination(a, b) for a, b in combinations(bases, 2)}
        assert bases <= train
        assert len(bases) >= 2
        assert split in found <= {split, "train"}, record.key


@given(a=st.text("abc", max_size=4), b=st.text("abc", max_size=4))
def test_combinations_are_unordered(a: str, b: str) -> None:
    assert combination(a, b) == combination(b, a)
    assert is_free([a, b, a]) == (a == b or combination(a, b) == "train")


def test_shares_of_combinations(source: EmojiSource) -> None:
    bases = sorted({e.base for e in source.pack.of("train")})[:150]
    counts = Counter(combination(a, b) for a, b in combinations(bases, 2))
    for split, share in HELD_OUT.items():
        assert counts[split] / counts.total() == pytest.approx(share, abs=0.01)


# Purity


@settings(max_examples=40, deadline=None)
@given(need=st.sampled_from(NEEDS), split=st.sampled_from(SPLITS), u=st.floats(0, 0.999), seed=seeds)
def test_records_are_pure_and_well_formed(source: EmojiSource, need: Any, split: Any, u: float, seed: int) -> None:
    index = int(u * source.size(need, split))
    first, again = (source.record(need, split, index, np.random.default_rng(seed)) for _ in range(2))
    assert same(first, again)
    pair = need in ("edit", "removal")
    for image in (first.image, first.edited) if pair else (first.image,):
        assert image is not None
        assert image.shape == (3, 64, 64)
        assert str(image.dtype) == "torch.uint8"
    assert (first.edited is not None) == (first.instruction is not None) == (first.edited_caption is not None) == pair
    assert first.kind in KINDS if pair else first.kind == "picture"


def test_index_and_generator_matter(source: EmojiSource) -> None:
    for need in ("picture", "caption", "edit", "removal"):
        a, b, c = (source.record(need, "train", i, np.random.default_rng(s)) for i, s in ((0, 0), (1, 0), (0, 1)))
        assert not same(a, b)
        assert not same(a, c)


def _record(source: EmojiSource) -> Record:
    return source.record("edit", "test", 5, np.random.default_rng(3))


def test_workers_make_the_same_records(source: EmojiSource) -> None:
    here = _record(source)
    assert same(here, _record(pickle.loads(pickle.dumps(source))))
    assert len(pickle.dumps(source)) < 2000
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            assert same(here, pool.submit(_record, source).result())


@given(count=st.integers(1, 30_000))
def test_an_epoch_visits_every_place_once(count: int) -> None:
    step = _stride(count)
    assert step >= 1
    assert np.gcd(step, count) == 1


def test_an_epoch_draws_every_emoji_in_every_style_once() -> None:
    source = EmojiSource(scenes=0, tones=False)
    keys = {source.record("picture", "validation", i, np.random.default_rng(i)).key for i in range(172)}
    assert source.size("picture", "validation") == 172 == len(keys)


def test_skin_tones_do_not_drown_the_rest(source: EmojiSource) -> None:
    captions = [r.caption for r in some(EmojiSource(scenes=0), "picture", "train", 1500)]
    toned = sum("skin tone" in c for c in captions) / len(captions)
    can = sum(len(e.tones) > 1 for e in source.pack.of("train")) / len(source.pack.of("train"))
    assert toned == pytest.approx(can / 2, abs=0.04)


# Edits


@pytest.fixture(scope="module")
def tested(source: EmojiSource) -> list[Record]:
    """The whole test set of edits."""
    return [source.record("edit", "test", i, np.random.default_rng(i)) for i in range(source.size("edit", "test"))]


def test_kinds_occur_as_often_as_asked(source: EmojiSource, tested: list[Record]) -> None:
    counts = Counter(r.kind for r in tested)
    assert {k: n / len(tested) for k, n in counts.items()} == pytest.approx(dict(WEIGHTS), abs=0.002)
    first = Counter(r.kind for r in tested[:200])  # a limited evaluation sees all kinds as well
    assert {k: n / 200 for k, n in first.items()} == pytest.approx(dict(WEIGHTS), abs=0.02)


def test_a_training_epoch_holds_every_change(source: EmojiSource) -> None:
    plan = source._plan("train")
    held = {plan.change(i) for i in range(plan.size)}
    assert held == {c for options in plan.changes.values() for c in options}


def test_only_the_kinds_asked_for_occur() -> None:
    source = EmojiSource(edits={"move": 1, "colour": 3, "add": 0})
    counts = Counter(source.record("edit", "test", i, np.random.default_rng(i)).kind for i in range(200))
    assert counts["colour"] == pytest.approx(150, abs=2)
    assert counts["move"] + counts["colour"] == 200
    assert EmojiSource(edits={}).size("edit", "train") == 0
    assert EmojiSource(styles=["noto"], edits={"style": 1}).size("edit", "test") == 0
    assert EmojiSource(tones=False, edits={"skin tone": 1}).size("edit", "train") == 0


def test_every_wording_is_used(trained: list[Record], tested: list[Record]) -> None:
    for kind, templates in TEMPLATES.items():
        said = [r.instruction or "" for r in [*trained, *tested] if r.kind == kind]
        assert len(templates) >= 4
        for template in templates:
            pattern = re.sub(r"\\\{\w+\\\}", ".+", re.escape(template))
            assert any(re.fullmatch(pattern, text) for text in said), (kind, template)


def test_words_of_test_instructions_occur_in_training(tested: list[Record], known: set[str]) -> None:
    for record in tested:
        assert set(words(record.instruction or "")) <= known, record.instruction
        if record.kind not in ("skin tone", "gender"):
            new = set(words(record.edited_caption or "")) - set(words(record.caption))
            assert new <= known, record.edited_caption


def test_test_edits_show_something_unseen(source: EmojiSource, tested: list[Record], base_of: dict[str, str]) -> None:
    own = {e.base for e in source.pack.of("test")}
    for record in tested:
        bases = {base_of[s] for scene in scenes(record.key) for s in scene}
        held = any(combination(a, b) == "test" for a, b in combinations(bases, 2))
        assert bases & own or held, record.key
        assert not bases & {e.base for e in source.pack.of("validation")}


def test_texts_hold_every_word_of_training_records(trained: list[Record], known: set[str]) -> None:
    for record in trained:
        for text in (record.caption, record.instruction, record.edited_caption):
            assert set(words(text or "")) <= known, text


def outside(scene: Scene, other: Scene, size: int) -> np.ndarray:
    """(S, S) booleans: pixels in no box of an emoji that only one of two scenes holds."""
    keep = np.ones((size, size), bool)
    for item in {*scene.items} ^ {*other.items}:
        x, y, side = box(item.spot, size)
        keep[y : y + side, x : x + side] = False
    return keep


@settings(max_examples=60, deadline=None)
@example(kind="skin tone", split="train", u=0.84765625, seed=0)  # the snowboarder
@given(kind=st.sampled_from(KINDS), split=st.sampled_from(SPLITS), u=st.floats(0, 0.999), seed=seeds)
def test_edits_change_only_what_they_name(source: EmojiSource, kind: str, split: Any, u: float, seed: int) -> None:
    options = source._plan(split).changes[kind]
    change = options[int(u * len(options))]
    edit = source.editor.edit(change, "noto", split, np.random.default_rng(seed))
    before, after = edit.before, edit.after
    pictures = [draw(s, source.pack, 64) for s in (before, after)]
    keep = outside(before, after, 64)
    assert (pictures[0][keep] == pictures[1][keep]).all()
    alike = kind == "skin tone" and change.source.name == "snowboarder"  # whose tones Noto draws alike: no skin is seen
    assert (pictures[0] != pictures[1]).any() != alike
    assert before.background == after.background
    assert before.caption != after.caption
    touched = len({*before.items} ^ {*after.items})
    if kind in ("add", "remove"):
        assert touched == 1
        assert len(after.items) - len(before.items) == {"add": 1, "remove": -1}[kind]
    elif kind != "style":
        assert touched == 2
        assert len(after.items) == len(before.items)
        spots = [i.spot for i in before.items], [i.spot for i in after.items]
        assert (spots[0] != spots[1]) == (kind == "move")


def test_pairs_of_words_are_sensible(source: EmojiSource) -> None:
    changes = source._plan("train").changes
    colours = {(c.source.name, c.word) for split in SPLITS for c in source._plan(split).changes["colour"]}
    assert colours >= {("green heart", "blue"), ("white heart", "pink"), ("large blue circle", "red")}
    assert all(c.target.name.startswith("clock face ") for c in changes["time"])
    assert all(c.source.base == c.target.base for c in changes["gender"])
    assert {c.word for c in changes["gender"]} == {"man", "woman", "person", "boy", "girl", "child"}
    for change in changes["word"]:
        assert one_word(change.source.name, change.target.name) == (change.old, change.word)
        assert change.source.subcategory == change.target.subcategory


def test_words_of_one_emoji(source: EmojiSource) -> None:
    emoji = {e.name: e for e in source.pack.emoji}
    assert [gender(emoji[n]) for n in ("prince", "mermaid", "girl", "judge")] == ["man", "woman", "girl", "person"]
    nouns = ("cat", "red apple", "hourglass", "grapes", "unicorn face", "umbrella", "man lifting weights")
    articles = ["a cat", "a red apple", "an hourglass", "grapes", "a unicorn face", "an umbrella"]
    assert [article(n) for n in nouns] == [*articles, "a man lifting weights"]
    assert one_word("red apple", "green apple") == ("red", "green")
    assert one_word("cat", "dog") is None
    assert one_word("red apple", "red apple") is None
    assert one_word("red apple", "apple") is None


# Words and pictures


def test_captions_are_short(trained: list[Record], tested: list[Record]) -> None:
    lengths = [len(r.caption.replace(",", " ,").split()) for r in [*trained, *tested]]
    assert np.percentile(lengths, 90) <= 25
    assert max(lengths) <= 34


def test_captions_name_style_emoji_tone_place_and_background(source: EmojiSource) -> None:
    assert "noto, waving hand sign with dark skin tone" in source.texts("train")
    pattern = r"(noto|twemoji), .+ (left|right|top|bottom|center), on \w+( to \w+| stripes| dots| checks)?"
    assert all(re.fullmatch(pattern, r.caption) for r in some(source, "caption", "test", 200))


def test_portraits(source: EmojiSource) -> None:
    portrait = source.portraits("test")[7]
    record = source.portrait(portrait.style, portrait.stem)
    assert record.caption == portrait.caption
    assert record.key == f"{portrait.style}/{portrait.stem}"
    assert scenes(record.key) == [[portrait.stem]]
    assert (record.image[:, 0] == 255).all()
    assert (record.image[:, :, -1] == 255).all()
    drawn = (record.image != 255).any(0).nonzero()
    assert (drawn.max(0).values - drawn.min(0).values).max() > 0.75 * PORTRAIT


def test_compositing_agrees_with_pillow(source: EmojiSource) -> None:
    rng = np.random.default_rng(0)
    straight = rng.integers(0, 256, (40, 40, 4), dtype=np.uint8)
    canvas = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    reference = Image.fromarray(canvas).convert("RGBA")
    reference.alpha_composite(Image.fromarray(straight, "RGBA"), (10, 20))
    blend(canvas, np.array(Image.fromarray(straight, "RGBA").convert("RGBa")), 10, 20)
    error = np.abs(canvas.astype(int) - np.array(reference.convert("RGB")).astype(int))
    assert error.max() <= 2


def test_resized_sprites_have_no_dark_rims(source: EmojiSource) -> None:
    """On its own colour an opaque disc must vanish: resizing straight alpha, or with negative lobes, draws a rim."""
    disc = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    mask = np.hypot(*np.mgrid[-31.5:32, -31.5:32]) < 25
    disc.paste((200, 120, 40), mask=Image.fromarray(mask.astype(np.uint8) * 255))
    pack = Pack(["noto"], False)
    pack._decoded["noto", "disc"] = disc.convert("RGBa")
    for side in (22, 37, 60, 150):
        canvas = np.full((160, 160, 3), (200, 120, 40), np.uint8)
        blend(canvas, pack.sprite("noto", "disc", side), 3, 5)
        assert np.abs(canvas.astype(int) - (200, 120, 40)).max() <= 3


@given(count=st.integers(1, 3), seed=seeds, size=st.integers(16, 200))
def test_spots_lie_in_the_frame_and_hardly_overlap(count: int, seed: int, size: int) -> None:
    spots = random_spots(count, np.random.default_rng(seed), spare=count < 3)
    for spot in spots:
        x, y, side = box(spot, size)
        assert 0 <= x <= size - side
        assert 0 <= y <= size - side
        assert 22 <= spot.side <= 44
        assert -0.01 <= spot.x <= UNIT - spot.side + 0.01
    for a, b in combinations(spots[:count], 2):
        width, height = (min(p + a.side, q + b.side) - max(p, q) for p, q in ((a.x, b.x), (a.y, b.y)))
        assert min(width, height) <= 4.1
    assert len({s.place for s in spots}) == len(spots)


@given(kind=st.sampled_from(["plain", "gradient", "stripes", "dots", "checks"]), size=st.integers(16, 96))
def test_backgrounds_stay_between_their_colours(kind: str, size: int) -> None:
    picture = paint(Background(kind, "", ((10, 200, 30), (90, 100, 30)), 0.7, 8.0), size)
    assert picture.shape == (size, size, 3)
    assert (picture.min((0, 1)) >= (10, 100, 30)).all()
    assert (picture.max((0, 1)) <= (90, 200, 30)).all()
    assert (len(np.unique(picture[..., 0])) == 1) == (kind == "plain")


@pytest.mark.parametrize("size", [16, 50, 128])
def test_pictures_of_any_size_show_the_same(source: EmojiSource, size: int) -> None:
    other = EmojiSource(size)
    for index in range(20):
        small, large = (s.record("caption", "train", index, np.random.default_rng(index)) for s in (source, other))
        assert small.caption == large.caption
        assert large.image.shape == (3, size, size)
        assert (small.image.float().mean((1, 2)) - large.image.float().mean((1, 2))).abs().max() < 16


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 8}, "size=8"),
        ({"size": 64.0}, "size=64.0"),
        ({"styles": ["openmoji"]}, "openmoji.*noto, twemoji"),
        ({"styles": []}, "styles="),
        ({"styles": ["noto", "noto"]}, "each once"),
        ({"scenes": 1.5}, "scenes=1.5.*\\[0, 1\\]"),
        ({"white": -0.1}, "white=-0.1"),
        ({"plain_tone": float("nan")}, "plain_tone=nan"),
        ({"edits": {"shrink": 1}}, "edits='shrink'.*skin tone"),
        ({"edits": {"move": -1}}, "move=-1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmojiSource(**arguments)


def test_bad_requests_are_named(source: EmojiSource) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"need='video'.*removal"):
        source.size("video", "train")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"split='all'.*train"):
        source.record("edit", "all", 0, rng)  # type: ignore[arg-type]
    for index in (-1, source.size("picture", "train")):
        with pytest.raises(IndexError, match=f"index={index}"):
            source.record("picture", "train", index, rng)
    with pytest.raises(ValueError, match="no such picture"):
        source.portrait("noto", "nothing")


def test_canonical_scene_is_the_portrait(source: EmojiSource) -> None:
    portrait = source.portraits("train")[0]
    picture = draw(canonical(portrait), source.pack, 64)
    assert (picture.transpose(2, 0, 1) == source.portrait(portrait.style, portrait.stem).image.numpy()).all()


def test_the_documented_numbers_hold(source: EmojiSource) -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    rows = {m[0]: m[1:] for m in re.findall(r"^\| `([\w ]+)` \| ([\d.]+) \| (?:(\d+) \| (\d+) \|)?", text, re.M)}
    assert {need: [int(n) for n in rows[need]] for need in NEEDS} == {
        need: [source.size(need, split) for split in SPLITS] for need in NEEDS
    }
    assert {kind: float(rows[kind][0]) for kind in KINDS} == dict(WEIGHTS)
