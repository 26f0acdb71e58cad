"""fsskit.cutouts: scissors and glue, checked against pixel loops, and what must not be in a pool."""
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from fsskit import cutouts
from fsskit.cutouts import (close_view, CutoutPool, Cutout, Picture, Pose, Way, copy_first_iou, crop_thing, draw_thing,
                            fit_picture, gather_cutouts, lay, lift, moving_clip, paste_scene, photo_view, pose_at,
                            stack, training_picture, view, whole_mask, world_pictures)
from fsskit.datasets import read_coco
from fsskit.fieldguide import CLASS_NAMES, N_CLASSES, generator
from fsskit.photos import FSSKitError, save_mask


def noise(key, h=120, w=160):
    return generator('test', key).integers(0, 256, (h, w, 3)).astype(np.uint8)


def disc(h, w, y, x, r):
    rows, columns = np.mgrid[:h, :w]
    return np.hypot(rows - y, columns - x) < r


@pytest.fixture(scope='module')
def pool():
    "Five photos of two classes with discs, rings and rectangles."
    pictures = []
    for n in range(5):
        ring = disc(120, 160, 60, 50, 30) & ~disc(120, 160, 60, 50, 12)
        box = np.zeros((120, 160), bool)
        box[20 + 5 * n:90, 100:150] = True
        pictures.append(fit_picture(noise(n), [('ring', ring), ('box', box)], 160, source=str(n)))
    return CutoutPool(pictures, [noise('plain', 200, 150)])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2 ** 20))
def test_a_thing_is_its_mask(key):
    mask = generator('mask', key).random((9, 13)) < .08
    thing = crop_thing(mask, 'x')
    if not mask.any():
        assert thing is None
        return
    assert (whole_mask(thing, mask.shape) == mask).all() and thing.area == mask.sum()
    assert thing.mask[0].any() and thing.mask[-1].any() and thing.mask[:, 0].any() and thing.mask[:, -1].any()


def test_fit_keeps_holes_and_drops_the_small():
    ring = disc(200, 300, 100, 120, 60) & ~disc(200, 300, 100, 120, 30)
    picture = fit_picture(noise(0, 200, 300), [('ring', ring), ('speck', disc(200, 300, 20, 280, 6))], 150)
    assert picture.image.shape == (100, 150, 3) and [t.name for t in picture.things] == ['ring']
    mask = picture.masks()[0]
    assert not mask[50, 60] and mask[50, 60 + 22]
    assert abs(mask.sum() - ring.sum() / 4) < .02 * ring.sum() / 4
    smaller = fit_picture(noise(0, 200, 300), [('speck', disc(200, 300, 20, 280, 12))], 150, least=0)
    assert smaller.things[0].area >= 64
    assert Picture(noise(0), ()).masks().shape == (0, 120, 160)


def test_lift_has_a_margin_inside_the_picture(pool):
    cut = lift(pool.pictures[0], 0)
    left, top, right, bottom = pool.pictures[0].things[0].box
    assert cut.cover.shape == (bottom - top + 6, right - left + 6) and set(np.unique(cut.cover)) == {0, 255}
    assert (cut.image == pool.pictures[0].image[top - 3:bottom + 3, left - 3:right + 3]).all()
    assert cut.area == (cut.cover == 255).sum()
    corner = Picture(noise(1), (crop_thing(disc(120, 160, 0, 0, 20), 'corner'),))
    assert lift(corner, 0).cover.shape == (20 + 3, 20 + 3)


def test_lay_is_porter_and_duff_pixel_by_pixel():
    cover = generator('cover').integers(0, 256, (6, 8)).astype(np.uint8)
    cut = Cutout('x', noise('cut', 6, 8), cover, 10)
    canvas = noise('canvas', 12, 10).astype(np.float32)
    before = canvas.copy()
    got = lay(canvas, cut, Pose((9, 2), gains=(1., .5, 2.), soft=0))  # hangs over the right and the upper border
    top, left = round(2 - 3), round(9 - 4)
    for y in range(12):
        for x in range(10):
            inside = 0 <= y - top < 6 and 0 <= x - left < 8
            a = cover[y - top, x - left] / 255 if inside else 0.
            colour = cut.image[y - top, x - left] * np.array([1., .5, 2.]) if inside else np.zeros(3)
            assert got[y, x] == pytest.approx(a)
            assert canvas[y, x] == pytest.approx((1 - a) * before[y, x] + a * colour, abs=1e-2)


def test_lay_outside_changes_nothing():
    canvas = noise('canvas', 12, 10).astype(np.float32)
    before = canvas.copy()
    covered = lay(canvas, Cutout('x', noise('cut', 6, 8), np.full((6, 8), 255, np.uint8), 48), Pose((40, 40)))
    assert not covered.any() and (canvas == before).all()


def test_a_pose_mirrors_turns_and_scales():
    cover = np.zeros((20, 30), np.uint8)
    cover[5:10, 4:12] = 255
    cut = Cutout('x', np.repeat(cover[..., None], 3, 2), cover, 40)
    at = lambda **k: stack(np.zeros((60, 60, 3), np.uint8), [(cut, Pose((30, 30), soft=0, **k))])[1] == 1
    plain = at()
    assert (np.argwhere(plain) == np.argwhere(np.pad(cover, ((20, 20), (15, 15))) > 0)).all()
    assert (at(flip=True) == plain[:, ::-1]).all()
    assert (at(turn=180) == plain[::-1, ::-1]).all()
    assert at(scale=2.).sum() == pytest.approx(160, abs=16)
    assert at(turn=90).sum() == 40


def test_the_upper_layer_owns_the_pixel():
    full = Cutout('x', np.full((4, 4, 3), 200, np.uint8), np.full((4, 4), 255, np.uint8), 16)
    half = Cutout('y', np.full((4, 4, 3), 0, np.uint8), np.full((4, 4), 102, np.uint8), 16)  # covers 0.4
    image, labels, covers = stack(np.zeros((4, 4, 3), np.uint8),
                                  [(full, Pose((2, 2), soft=0)), (half, Pose((2, 2), soft=0))])
    assert (labels == 1).all() and (image == 120).all() and covers[1] == pytest.approx(np.full((4, 4), .4))
    assert (stack(image, [])[1] == 0).all() and (stack(image, [])[0] == image).all()


def test_soft_edges_are_soft():
    cut = Cutout('x', np.full((20, 20, 3), 255, np.uint8), np.pad(np.full((10, 10), 255, np.uint8), 5), 100)
    hard, soft = (stack(np.zeros((30, 30, 3), np.uint8), [(cut, Pose((15, 15), soft=s))])[0] for s in (0, 1.))
    assert set(np.unique(hard)) == {0, 255} and len(np.unique(soft)) > 5


def test_draws_follow_the_square_root(pool):
    pictures = [pool.pictures[0]._replace(things=pool.pictures[0].things[:1])] * 9 \
        + [pool.pictures[0]._replace(things=pool.pictures[0].things[1:])]
    mixed, rng = CutoutPool(pictures), generator('draws')
    names = [mixed.pictures[i].things[k].name for i, k in (draw_thing(mixed, rng) for _ in range(2000))]
    assert names.count('ring') / 2000 == pytest.approx(3 / 4, abs=.04) and len(mixed) == 10
    assert mixed.pictures[draw_thing(mixed, rng, 'box')[0]].things[0].name == 'box'


def test_a_view_keeps_image_and_masks_together():
    "The object is red and nothing else is: wherever the window lies, red and mask agree."
    mask = disc(120, 160, 70, 60, 35)
    image = np.zeros((120, 160, 3), np.uint8)
    image[mask] = (200, 0, 0)
    picture = fit_picture(image, [('red', mask)], 160)
    for n in range(12):
        seen = view(picture, generator('v', n), 128, square=n % 2 == 0)
        assert max(seen.image.shape[:2]) == 128 and (n % 2 or seen.image.shape[0] == seen.image.shape[1])
        if seen.things:
            red = seen.image[..., 0] > 70
            assert (red & seen.masks()[0]).sum() / (red | seen.masks()[0]).sum() > .93


def test_views_and_collages_follow_from_seed_and_index(pool):
    for make in (photo_view, paste_scene, training_picture, close_view):
        a, b, c, d = make(pool, 3, 1), make(pool, 3, 1), make(pool, 4, 1), make(pool, 3, 2)
        assert (a.image == b.image).all() and (a.masks() == b.masks()).all()
        assert a.image.shape != c.image.shape or (a.image != c.image).any()
        assert a.image.shape != d.image.shape or (a.image != d.image).any()
    kinds = [training_picture(pool, n, whole=w).source.startswith('paste') for n in range(20) for w in (0, 1)]
    assert kinds[::2] == [True] * 20 and not any(kinds[1::2])
    near = [training_picture(pool, n, 1, close=.5) for n in range(40)]
    same = [(a.image.shape, a.image.sum()) == (b.image.shape, b.image.sum())
            for n, a in enumerate(near) for b in [close_view(pool, n, 1)]]
    assert 12 <= sum(same) <= 28


def test_close_views_come_close():
    "A disc of 1 % of its photo: the window is 1.2 to 4 times its box, so it covers 5 to 55 % of it, and it is still a disc."
    far = CutoutPool([Picture(noise(7, 400, 400), (crop_thing(disc(400, 400, 200, 220, 22), 'disc'),))])
    seen = [close_view(far, n, size=128) for n in range(40)]
    shares = [p.things[0].area / p.image[..., 0].size for p in seen]
    assert .04 < min(shares) < .09 and .4 < max(shares) < .56 and all(len(p.things) == 1 for p in seen)
    for p in seen:
        left, top, right, bottom = p.things[0].box
        if left and top and right < p.image.shape[1] and bottom < p.image.shape[0]:  # not cut by the window
            assert abs(p.things[0].area / ((right - left) * (bottom - top)) - np.pi / 4) < .06
    corner = CutoutPool([Picture(noise(7, 300, 100), (crop_thing(disc(300, 100, 290, 50, 40), 'edge'),))])
    assert all(max(close_view(corner, n, size=64).image.shape) == 64 for n in range(10))  # wider than the photo


def test_an_empty_window_is_tried_again(pool):
    "A tiny object in a corner: one window often misses it, twelve hardly ever do."
    corner = Picture(noise(7, 300, 300), (crop_thing(disc(300, 300, 15, 15, 14), 'corner'),))
    lonely = CutoutPool([corner])
    assert sum(bool(photo_view(lonely, n, size=128).things) for n in range(20)) >= 18


def test_a_collage_lists_what_is_seen(pool):
    for n in range(25):
        made = paste_scene(pool, n)
        masks, area = made.masks(), made.image.shape[0] * made.image.shape[1]
        assert max(made.image.shape[:2]) == 256
        assert all(t.area >= max(64, .005 * area) for t in made.things)
        assert (masks.sum(0) > 1).mean() < .005


def test_hidden_objects_are_not_listed():
    names, whole = ['seen', 'hidden', 'small'], [400, 400, 100]
    masks = [np.zeros((100, 100), bool) for _ in names]
    masks[0][:20, :20], masks[1][50:57, :20], masks[2][80:84, :10] = True, True, True
    assert [t.name for t in cutouts._seen(names, masks, whole, .005)] == ['seen']
    assert cutouts._seen([], [], [], .005) == ()


def test_the_path_is_a_bezier_curve():
    way = Way(Pose((0., 4.), 1., turn=10), bend=(8., 4.), end=(8., 20.), growth=math.log(2), spin=-20,
              dimming=math.log(.5))
    assert pose_at(way, 0.) == way.pose
    third = pose_at(way, 1 / 3)
    assert third.centre == pytest.approx((4 / 9 * 0 + 4 / 9 * 8 + 1 / 9 * 8, 4 / 9 * 4 + 4 / 9 * 4 + 1 / 9 * 20))
    assert third.scale == pytest.approx(2 ** (1 / 3)) and third.turn == pytest.approx(10 - 20 / 3)
    assert third.gains == pytest.approx([.5 ** (1 / 3)] * 3)


def test_clips_follow_one_object(pool):
    clips = [moving_clip(pool, n, size=128, frames=5) for n in range(16)]
    again = moving_clip(pool, 5, size=128, frames=5)
    assert (again.frames == clips[5].frames).all() and (again.labels == clips[5].labels).all()
    for clip in clips:
        assert clip.frames.shape == (5, 128, 128, 3) and clip.labels.max() <= len(clip.classes)
        assert ((clip.labels == 1) == clip.masks).all() and clip.twin == (clip.classes[0] in clip.classes[1:])
        assert (clip.masks.sum((1, 2)) >= 64).all()
    assert {c.twin for c in clips} == {True, False} and {c.screened for c in clips} == {True, False}
    assert np.mean([copy_first_iou(c.masks) for c in clips]) < .45


def test_standing_still_is_scored_by_iou():
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[0, 0], masks[1, 0, :2] = 1, 1
    assert copy_first_iou(masks) == pytest.approx((2 / 4 + 0) / 2)
    assert copy_first_iou(np.zeros((2, 4, 4))) == 0


def test_a_clip_that_hides_its_hero_is_drawn_again(pool, monkeypatch):
    grades = iter([.2, .7, .4] * 10)
    monkeypatch.setattr(cutouts, '_film', lambda pool, rng, frames, size: (grade := next(grades), grade))
    assert moving_clip(pool, 0) == .7  # none is good enough: the best of twenty


def test_smallworld_gives_pretraining_classes_only():
    pictures = list(world_pictures(1, side=96))
    names = {t.name for p in pictures for t in p.things}
    assert len(pictures) == 24 and names and names <= set(CLASS_NAMES[N_CLASSES:])


@pytest.fixture
def coco(tmp_path):
    "Two photos: two boxes and a crowd on the first, one box on the second."
    root = tmp_path / 'mini'
    (root / 'images').mkdir(parents=True)
    rectangle = lambda x, y, w, h: [[x, y, x + w, y, x + w, y + h, x, y + h]]
    rows = [(1, 1, rectangle(10, 10, 30, 20), 0), (1, 1, rectangle(60, 10, 30, 20), 0),
            (1, 2, rectangle(0, 50, 90, 20), 1), (2, 2, rectangle(20, 20, 40, 40), 0)]
    annotations = [dict(id=n, image_id=i, category_id=c, segmentation=s, iscrowd=crowd, area=1, bbox=[0, 0, 1, 1])
                   for n, (i, c, s, crowd) in enumerate(rows)]
    images = [dict(id=i, file_name=f'{i}.jpg', height=80, width=100) for i in (1, 2)]
    for i in (1, 2): Image.fromarray(noise(i, 80, 100)).save(root / 'images' / f'{i}.jpg')
    categories = [dict(id=1, name='cat'), dict(id=2, name='dog')]
    (root / 'instances.json').write_text(json.dumps(dict(images=images, annotations=annotations,
                                                         categories=categories)))
    return root


def test_coco_gives_instances_without_crowds(coco, tmp_path):
    pool = gather_cutouts(f'coco:{coco}', smallworld=0, side=100, progress=False)
    found = [[(t.name, t.area) for t in p.things] for p in pool.pictures]
    assert found == [[('cat', 600), ('cat', 600)], [('dog', 1600)]]
    assert pool.pictures[0].things[1].box == (60, 10, 90, 30)
    assert pool.facts == {'sources': {'mini': 2}, 'smallworld': 0, 'left_out': 0, 'exclude': ''}
    (tmp_path / 'out.txt').write_text('mini/1.jpg\n')
    rest = gather_cutouts([f'coco:{coco}'], exclude=tmp_path / 'out.txt', smallworld=0, progress=False)
    assert [p.source for p in rest.pictures] == ['2.jpg'] and rest.facts['left_out'] == 1


def test_folders_give_masks_and_backdrops(tmp_path):
    mask = disc(60, 80, 30, 40, 20)
    for name in ('cat/a', 'cat/b'):
        (tmp_path / 'set' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(name, 60, 80)).save(tmp_path / 'set' / f'{name}.jpg')
        save_mask(mask.astype(np.uint8), tmp_path / 'set' / f'{name}.png')
    (tmp_path / 'plain').mkdir()
    for n in range(3): Image.fromarray(noise(n, 60, 80)).save(tmp_path / 'plain' / f'{n}.png')
    (tmp_path / 'out.txt').write_text('# held out\ncat/b.jpg\nplain/2.png\n')
    pool = gather_cutouts(f"folder:{tmp_path / 'set'}", [tmp_path / 'plain'], tmp_path / 'out.txt', 0, 80,
                          progress=False)
    assert [p.source for p in pool.pictures] == ['cat/a.jpg'] and (pool.pictures[0].masks()[0] == mask).mean() > .99
    assert len(pool.backdrops) == 2 and pool.backdrops[0].shape == (60, 80, 3)
    assert pool.facts == {'sources': {'set': 1, 'plain': 2}, 'smallworld': 0, 'left_out': 2, 'exclude': 'out.txt'}


def test_what_is_refused():
    with pytest.raises(FSSKitError, match='no object'): CutoutPool([Picture(noise(0), ())])
    with pytest.raises(FSSKitError, match='folds are for tests'): gather_cutouts('smallworld', progress=False)
    with pytest.raises(FSSKitError, match='no object'): gather_cutouts(smallworld=0, progress=False)


def test_held_out_photos_of_the_kit_stay_out(shared):
    listed = Path(__file__).parents[1] / 'data' / 'splits' / 'heldout_photos.txt'
    if not (shared / 'data' / 'coco_mini').is_dir(): pytest.skip('coco_mini is not there')
    table = read_coco(shared / 'data' / 'coco_mini' / 'instances.json')
    names = [line for line in listed.read_text().splitlines() if line.startswith('coco_mini/')]
    kept, out = cutouts._allowed(table.sizes, cutouts.read_lines(listed))
    assert out == len(names)
    assert not {f'coco_mini/{p}' for p in kept} & set(names)
    assert len(kept) + out == len(table.sizes)
