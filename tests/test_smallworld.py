"""Scenes, masks, folds and clips of SmallWorld."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fsskit import smallworld as sw
from fsskit.episodes import EpisodeSampler, load_episode
from fsskit.fieldguide import CLASS_NAMES, generator
from fsskit.individuals import paint
from fsskit.photos import FSSKitError
from fsskit.smallworld import SmallWorld

# mean colours of a 3 x 3 grid of six scenes (class, index) at 96 px, and the area of the class in thousandths
THUMBNAILS = {
    (0, 0): ('7b8aa76997ae6198ba677e8979868951879e9d8a6d81765d8b8878', 74.7),
    (12, 1): ('3a82a23079995e99b15f91aa667c7f5d9ab96a7f7779989d72929b', 79.1),
    (27, 2): ('8d836a888d7b8f9175aea1818e967c72917cab8a79908468918969', 43.2),
    (45, 3): ('8f94bb7f86b46b7fac6064937878a96a69a444457b5e7599576292', 116.3),
    (63, 4): ('2a82a33d91b268a7c25799a92f9aab5799b37f787985887d93a59a', 54.9),
    (80, 5): ('60a19b58968c6da28f3a828e3c6b79447783998b777974618e6c61', 118.1),
}
FROZEN = ('1.0', '7f29c848a03fa743')


def thumbnail(shot):
    return np.asarray(Image.fromarray(shot.image).resize((3, 3), Image.BOX)).ravel()


def test_scenes_look_as_they_did_when_the_world_was_frozen():
    assert (sw.VERSION, sw.world_hash()) == FROZEN
    for (class_id, index), (stored, area) in THUMBNAILS.items():
        shot = sw.scene(class_id, index, 96)
        seen = thumbnail(shot).astype(int)
        assert np.abs(seen - np.frombuffer(bytes.fromhex(stored), np.uint8).astype(int)).max() <= 4, (class_id, index)
        assert abs(1000 * shot.mask(class_id).mean() - area) <= 2


def test_pictures_do_not_depend_on_process_hash_seed_or_order():
    code = 'from fsskit.smallworld import scene; s = scene(9, 4, 64); print(int(s.image.sum()), int(s.labels.sum()))'
    output = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                            env=os.environ | {'PYTHONHASHSEED': '77'}).stdout
    sw.scene(3, 1, 64)
    here = sw.scene(9, 4, 64)
    assert output == f'{int(here.image.sum())} {int(here.labels.sum())}\n'


def test_seed_class_and_index_all_matter():
    first = sw.scene(9, 4, 64).image
    assert np.array_equal(first, sw.scene(9, 4, 64, 0).image)
    for other in (sw.scene(9, 5, 64), sw.scene(10, 4, 64), sw.scene(9, 4, 64, seed=1)):
        assert np.abs(other.image.astype(int) - first).mean() > 5


def test_visible_labels_follow_the_formula():
    layers = generator('test').random((5, 8, 9), dtype=np.float32)
    free = np.cumprod(np.concatenate([np.ones((1, 8, 9)), 1 - layers[:0:-1]]), 0)[::-1]
    visible = layers * free
    expected = np.where(visible.max(0) >= .5, visible.argmax(0) + 1, 0)
    assert np.array_equal(sw.visible_labels(list(layers)), expected)


@pytest.mark.parametrize('class_id, index', [(5, 1), (12, 2), (40, 0), (70, 3), (8, 6)])
def test_labels_are_the_visible_pixels_of_every_instance_painted_alone(class_id, index):
    layout, shot = sw.plan(class_id, index), sw.scene(class_id, index, 128)
    covers = [paint(np.zeros((3, 128, 128), np.float32), a.identity, a.pose, layout.light) for a in layout.actors]
    for k, cover in enumerate(covers):
        visible = cover * np.prod([1 - c for c in covers[k + 1:]], axis=0)
        label = shot.labels == k + 1
        assert label[visible > .501].all() and not label[visible < .499].any()
    union = np.isin(shot.labels, [k + 1 for k, c in enumerate(shot.classes) if c == class_id])
    assert np.array_equal(shot.mask(class_id), union.astype(np.uint8)) and union.any()
    assert not shot.mask(87 if class_id < 64 else 0).any()


def test_taking_the_target_away_changes_the_picture_only_around_it():
    layout = sw.plan(14, 3)
    rest = tuple(a for a in layout.actors if a.class_id != 14)
    with_it, without = sw.render(layout, 128, 128), sw.render(sw.replace(layout, actors=rest), 128, 128)
    changed = np.abs(with_it.image.astype(int) - without.image).max(2) > 12
    assert changed[with_it.mask(14) == 1].mean() > .8
    assert not without.mask(14).any()


def test_areas_are_between_two_and_forty_six_per_cent():
    areas = np.array([sw.scene(c, 30 + i, 48).mask(c).mean() for c in range(0, 88, 4) for i in range(2)])
    assert areas.min() > .015 and areas.max() < .48
    assert np.quantile(areas, .2) < .09 and np.quantile(areas, .85) > .18


def test_contents_announce_what_the_scene_shows():
    for class_id in (3, 60, 64, 87):
        for index in range(4):
            seen = sw.contents(class_id, index)
            assert sorted(a.class_id for a in sw.plan(class_id, index).actors if a.class_id >= 0) == sorted(seen)
            assert seen[0] == class_id and 1 <= seen.count(class_id) <= 3 and len(set(seen)) >= 2
            assert all((c < 64) == (class_id < 64) for c in seen)
    counts = [sw.contents(5, i).count(5) for i in range(300)]
    assert .55 < np.mean(np.array(counts) == 1) < .85 and max(counts) == 3


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(32, 120), st.integers(32, 120), st.integers(0, 87), st.integers(0, 10 ** 6), st.integers(0, 99))
def test_any_size_and_seed(h, w, class_id, index, seed):
    shot = sw.scene(class_id, index, (h, w), seed)
    assert shot.image.shape == (h, w, 3) and shot.image.dtype == np.uint8 and shot.labels.shape == (h, w)
    assert shot.labels.max() <= len(shot.classes) and shot.image.std() > 4
    assert .01 < shot.mask(class_id).mean() < .5


def test_a_plan_is_independent_of_resolution():
    small, large = sw.scene(20, 2, 64).mask(20), sw.scene(20, 2, 192).mask(20)
    pooled = large.reshape(64, 3, 64, 3).mean((1, 3)) >= .5
    assert (pooled & (small == 1)).sum() / (pooled | (small == 1)).sum() > .88


@pytest.mark.parametrize('fold', range(4))
def test_folds_partition_the_classes(fold):
    test, train = SmallWorld(fold=fold), SmallWorld(fold=fold, side='train')
    assert test.class_ids == list(range(16 * fold, 16 * fold + 16))
    assert sorted(test.class_ids + train.class_ids) == list(range(64))


def test_pools_are_disjoint():
    folds, pool = SmallWorld(), SmallWorld(pool='pretrain')
    assert len(folds.class_ids) == 64 and len(pool.class_ids) == 24 and not set(folds.class_ids) & set(pool.class_ids)
    seen = {c for class_id in pool.class_ids for i in range(20) for c in sw.contents(class_id, i)}
    assert seen <= set(pool.class_ids)


def test_clean_drops_exactly_the_pictures_with_novel_classes():
    clean = SmallWorld(fold=2, side='train', photos_per_class=12, size=64)
    keep = SmallWorld(fold=2, side='train', convention='keep', photos_per_class=12, size=64)
    novel = set(range(32, 48))
    for c in (0, 20, 63):
        allowed = [i for i in range(100) if not novel & set(sw.contents(c, i))][:12]
        assert clean.photos(c) == [f'{c:02d}-{i:04d}' for i in allowed]
        assert keep.photos(c) == [f'{c:02d}-{i:04d}' for i in range(12)]
    assert any(novel & set(sw.contents(0, i)) for i in range(12))
    both = sorted(set(clean.photos(0)) & set(keep.photos(0)))[0]
    assert np.array_equal(clean.image(both), keep.image(both))


def test_images_and_masks_are_those_of_the_scene_and_safe_to_change():
    data = SmallWorld(fold=0, size=(48, 64), seed=5)
    photo = data.photos(3)[1]
    shot = sw.scene(3, 1, (48, 64), 5)
    image = data.image(photo)
    assert np.array_equal(image, shot.image) and np.array_equal(data.mask(photo, 3), shot.mask(3))
    image[:] = 0
    assert np.array_equal(data.image(photo), shot.image)
    assert data.class_name(3) == CLASS_NAMES[3] == 'angelfish'
    other = next(c for c in sw.contents(3, 1, 5) if c != 3)
    assert np.array_equal(SmallWorld(size=(48, 64), seed=5).mask(photo, other), shot.mask(other))


def test_info_is_json_and_names_the_world():
    info = json.loads(json.dumps(SmallWorld(fold=1, side='train', convention='keep').info))
    assert info['world'] == sw.world_hash() and info['version'] == sw.VERSION
    assert (info['dataset'], info['fold'], info['convention'],
            info['photos_per_class']) == ('smallworld', 1, 'keep', 20)


@pytest.mark.parametrize('call, words', [
    (lambda: SmallWorld(pool='all'), "pool is 'all'"), (lambda: SmallWorld(side='val'), "side is 'val'"),
    (lambda: SmallWorld(convention='dirty'), "convention is 'dirty'"), (lambda: SmallWorld(fold=4), 'fold 4'),
    (lambda: SmallWorld(pool='pretrain', fold=0), 'no folds'), (lambda: SmallWorld(size=16), 'size is 16'),
    (lambda: sw.scene(88, 0), 'class 88'), (lambda: sw.scene(-1, 0), 'class -1'), (lambda: sw.video(99, 0), 'class 99'),
    (lambda: sw.scene(0, 0, (64, 400)), 'size'), (lambda: SmallWorld(fold=0).photos(16), 'class 16'),
    (lambda: SmallWorld(fold=0, side='train').mask('20-0000', 3), 'class 3'),
    (lambda: SmallWorld().image('fox'), 'fox'), (lambda: SmallWorld().image('99-0000'), '99-0000')])
def test_bad_input_gets_one_clear_sentence(call, words):
    with pytest.raises(FSSKitError, match=words):
        call()


def test_video_follows_one_identity():
    key, backdrop, horizon, steps, hero = sw._film(44, 0, 16, (1., 1.), 0)
    assert len({id(actors[hero].identity) for actors in steps}) == 1 and steps[0][hero].class_id == 44
    clip = sw.video(44, 0, 16, 96)
    assert clip.frames.shape == (16, 96, 96, 3) and clip.masks.shape == (16, 96, 96) and clip.masks.max() == 1
    assert clip.masks[0].mean() > .02 and (clip.masks.mean((1, 2)) > 0).mean() > .8
    centres = np.array([np.argwhere(m).mean(0) for m in clip.masks if m.any()])
    assert np.hypot(*np.diff(centres, axis=0).T).max() < 20  # no jumps
    assert np.array_equal(clip.frames, sw.video(44, 0, 16, 96).frames)


def test_video_masks_are_the_visible_pixels_of_the_hero():
    key, backdrop, horizon, steps, hero = sw._film(21, 2, 6, (1., 1.), 0)
    clip = sw.video(21, 2, 6, 96)
    for actors, mask in list(zip(steps, clip.masks))[::5]:
        covers = [paint(np.zeros((3, 96, 96), np.float32), a.identity, a.pose, (0., 0., 1.)) for a in actors]
        visible = covers[hero] * np.prod([1 - c for c in covers[hero + 1:]], axis=0)
        assert mask[visible > .501].all() and not mask[visible < .499].any()


def test_videos_have_twins_and_screens_sometimes_and_move_enough():
    clips = [sw.video(c, 1, 16, 48) for c in range(0, 88, 25)]
    overlap = [(c.masks[0] & m).sum() / max(1, (c.masks[0] | m).sum()) for c in clips for m in c.masks[1:]]
    assert np.mean(overlap) < .45  # copying the first mask is no solution
    cast = [sw._direct(7, generator('d', i), (1., 1.), False, .5) for i in range(40)]
    twins = np.mean([sum(m.actor.class_id == 7 for m in movers) > 1 for movers, _ in cast])
    screens = np.mean([any(m.actor.class_id < 0 for m in movers) for movers, _ in cast])
    assert .2 < twins < .6 and .2 < screens < .6
    for movers, hero in cast:
        assert movers[hero].actor.class_id == 7 and max(movers[hero].reach) > 5


def test_actor_at_swings_around_its_start():
    movers, hero = sw._direct(30, generator('s'), (1., 1.), False, .5)
    motion = movers[hero]
    poses = [sw.actor_at(motion, t).pose for t in np.linspace(0, 40, 400)]
    centres = np.array([p.centre for p in poses])
    assert np.allclose((centres.max(0) + centres.min(0)) / 2, motion.actor.pose.centre, atol=.02)
    assert np.allclose(np.ptp(centres, axis=0) / 2, motion.reach[:2], rtol=.05)
    assert max(np.abs(p.joints).max() for p in poses) <= 1


def test_atlas_and_outlined():
    figure = sw.atlas([0, 70], 3, 48)
    assert len(figure.axes) == 6
    assert figure.axes[0].get_ylabel() == 'fox'
    assert figure.axes[3].get_ylabel() == CLASS_NAMES[70]
    shot = sw.scene(0, 0, 48)
    assert np.array_equal(sw.atlas([0], 1, 48, outline=False).axes[0].images[0].get_array(), shot.image)
    drawn = sw.outlined(shot.image, shot.mask(0), (1, 2, 3))
    changed = (drawn != shot.image).any(2)
    assert changed.any() and (shot.mask(0)[changed] == 1).all()


def test_the_interface_of_few_shot_data_sets():
    data = SmallWorld(fold=3, size=48)
    episode = EpisodeSampler(data, shots=2, episodes=5, seed=0)[0]
    loaded = load_episode(data, episode)
    assert len(loaded.support) == 2 and loaded.query.image.shape == (48, 48, 3)
    assert episode.class_id in data.class_ids and loaded.query.mask.max() == 1
