"Tests of fsskit.episodic: losses and scenes against plain computations, exact resume, honest weight files, two processes."
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from fsskit import episodic, predictor
from fsskit.backbones import FeatureCache
from fsskit.cutouts import CutoutPool, fit_picture, Picture
from fsskit.episodes import EpisodeSampler
from fsskit.episodic import (answer_queries, build_model, class_scene, close_up, CutoutSource, DataPlan, DatasetSource,
                             enlarge, episode_losses, EpisodeBatch, EpisodePlan, EpisodicTask, FitPlan, fixed_episodes,
                             Frozen, frozen_key, FrozenStore, gather_batch, gather_training, head_facts, head_state,
                             HeadRecord, hold_out, join_classes, LivePlot, load_head, Losses, Mixture, photo_variant,
                             pixel_losses, plot_training, Resources, restrict, save_head, seen_classes, square_mask,
                             train_model, train_pictures, TrainableModel, View, without_folders, without_photos)
from fsskit.datasets import ListedDataset, open_dataset
from fsskit.evaluation import evaluate, merge_parts
from fsskit.fieldguide import generator
from fsskit.metrics import mean_iou
from fsskit.photos import FSSKitError, resize_mask, to_tensor
from fsskit.predictor import FewShotPredictor
from fsskit.similarity import ColourBackbone
from fsskit.training import fit, limited_threads, read_checkpoint, read_log, save_weights, Team, team


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    with limited_threads(1): yield


COLOURS = {0: (230, 40, 30), 1: (30, 210, 50), 2: (40, 60, 230), 3: (220, 210, 40), 4: (200, 40, 210),
           5: (50, 210, 220)}
NAMES = ('red', 'green', 'blue', 'yellow', 'pink', 'cyan')


def boxes(c, i):
    "Photo i of class c: a coloured box and a grey one on noise; uint8 (48,60,3) and its mask with an ignored corner."
    rng = np.random.default_rng([c, i])
    image, mask = rng.integers(90, 130, (48, 60, 3)).astype(np.uint8), np.zeros((48, 60), np.uint8)
    y, x, h, w = *rng.integers(2, 20, 2), *rng.integers(12, 26, 2)
    image[30:, 40:] = 60
    image[y:y + h, x:x + w], mask[y:y + h, x:x + w] = COLOURS[c], 1
    mask[-2:, -2:] = 255
    return image, mask


def toy_set(photos=6, classes=6, read=None):
    "Boxes in six colours; photo ids 'c-i'."
    split = lambda photo: tuple(map(int, photo.split('-')))
    def image(photo):
        if read is not None: read.append(photo)
        return boxes(*split(photo))[0]
    def mask(photo, c): return boxes(*split(photo))[1] if split(photo)[0] == c else np.zeros((48, 60), np.uint8)
    return ListedDataset('toy', dict(enumerate(NAMES[:classes])),
                         {c: [f'{c}-{i}' for i in range(photos)] for c in range(classes)},
                         image, mask, {'dataset': 'toy'})


class ToyHead(TrainableModel):
    "A convolution on the cosine to the support's mean colour, and an offset of its own rate."
    name, learned, rates = 'toy', ('net', 'offset'), {'offset': 0.5}

    def __init__(self, backbone=None, input_size=32, layers=None, width=3, coarse=False, shots='mean'):
        super().__init__(backbone or ColourBackbone(waves=8), input_size, layers)
        self.net, self.offset = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.GELU(),
                                              nn.Conv2d(width, 1, 1)), nn.Linear(1, 1)
        self.coarse, self.shots, self.encoded = coarse, shots, 0

    def describe(self): return {**super().describe(), 'shots': self.shots}

    def frozen_features(self, images):
        self.encoded += len(images)
        return super().frozen_features(images)

    def episode_logits(self, batch):
        (query,), (support,) = batch.query, batch.support
        inside = F.adaptive_avg_pool2d((batch.support_masks == 1).to(query), query.shape[-2:])
        mean = torch.einsum('bkchw,bkhw->bc', support, inside) / (inside.sum((1, 2, 3)) + 1e-3)[:, None]
        near = torch.einsum('bchw,bc->bhw', F.normalize(query, dim=1), F.normalize(mean, dim=1))
        logits = self.net(near[:, None])[:, 0] + self.offset(torch.ones(1, 1))[0]
        return {'logits': logits, 'coarse': logits[:, ::2, ::2]} if self.coarse else logits


def toy_head(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ToyHead(**options)


class Counted(DatasetSource):
    "Remembers which episodes were asked for."
    def __call__(self, index):
        self.__dict__.setdefault('asked', []).append(index)
        return super().__call__(index)


# losses

def by_hand(z, t, smooth=1.):
    "Cross-entropy and Dice of one episode, pixel by pixel."
    total = overlap = sizes = n = 0
    for score, truth in zip(z.flatten().tolist(), t.flatten().tolist()):
        if truth == 255: continue
        p, n = 1 / (1 + math.exp(-score)), n + 1
        total -= math.log(p if truth else 1 - p)
        overlap, sizes = overlap + p * truth, sizes + p + truth
    return total / max(n, 1), 1 - (2 * overlap + smooth) / (sizes + smooth)


def scores_and_target(b=3, h=5, w=7):
    g = torch.Generator().manual_seed(b)
    target = torch.randint(0, 3, (b, h, w), generator=g)
    logits = 3 * torch.randn(b, h, w, generator=g, dtype=torch.float64)
    return logits, torch.where(target == 2, 255, target).to(torch.uint8)


@pytest.mark.parametrize('smooth', [1., 0.1])
def test_losses_are_sums_over_counted_pixels(smooth):
    z, t = scores_and_target()
    got = torch.stack(pixel_losses(z, t, smooth), 1)
    assert np.allclose(got, [by_hand(a, b, smooth) for a, b in zip(z, t)], rtol=1e-12)
    single = torch.cat([torch.stack(pixel_losses(a[None], b[None], smooth), 1) for a, b in zip(z, t)])
    assert torch.equal(got, single)


def test_losses_at_the_edges():
    sure, target = torch.full((1, 4, 4), 40.), torch.ones(1, 4, 4, dtype=torch.uint8)
    assert all(v.item() < 1e-6 for v in pixel_losses(sure, target))
    assert pixel_losses(-sure, target)[0].item() == pytest.approx(40)
    empty = torch.zeros(1, 4, 4, dtype=torch.uint8)
    assert all(v.item() < 1e-6 for v in pixel_losses(-sure, empty))
    ignored = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    assert [v.item() for v in pixel_losses(sure, ignored)] == [0, 0]


def test_gradients_of_the_losses_through_the_enlargement():
    z, t = scores_and_target(2, 8, 6)
    small = z[:, ::2, ::3].clone().requires_grad_()
    assert enlarge(small, (8, 6)).dtype == torch.float64
    assert enlarge(torch.tensor([[[0., 1.]]]), (1, 4)).tolist() == [[[0, .25, .75, 1]]]  # centres of cells, not corners
    assert torch.autograd.gradcheck(lambda x: pixel_losses(x, t), small)
    assert torch.autograd.gradcheck(lambda x: episode_losses({'logits': x, 'aux': x[:, :2]}, t)['loss'], small)


def test_parts_and_weights_of_the_loss():
    z, t = scores_and_target()
    parts = episode_losses({'logits': z, 'a': -z, 'b': z / 2}, t, Losses(2., 3., 0.5, 0.25))
    mean = lambda x: np.mean([by_hand(u, v, 0.5) for u, v in zip(x, t)], 0)
    assert set(parts) == {'bce', 'dice', 'a', 'b', 'loss'} and parts['a'].item() == pytest.approx(mean(-z).sum())
    assert parts['loss'].item() == pytest.approx(mean(z) @ [2, 3] + 0.25 * (mean(-z).sum() + mean(z / 2).sum()))
    wanted = np.sum(np.mean([by_hand(u, v) for u, v in zip(z, t)], 0))
    assert episode_losses(z, t)['loss'].item() == pytest.approx(wanted)


# the model

def test_using_a_model_is_answering_an_episode():
    model = toy_head(coarse=True).eval()
    photos = [boxes(0, i) for i in range(4)]
    tensors = torch.stack([to_tensor(image, 32) for image, _ in photos])
    with torch.no_grad():
        state = model.encode_support(tensors[:2], [torch.from_numpy(m) for _, m in photos[:2]])
        got = model.segment(tensors[2:], state)
        levels, masks = model.features(tensors)[0], torch.stack([torch.from_numpy(resize_mask(m, 32).copy())
                                                                 for _, m in photos[:2]])
        each = [model.episode_logits(EpisodeBatch([levels[i:i + 1]], [levels[None, :2]], masks[None]))['logits']
                for i in (2, 3)]
    assert torch.equal(state.masks, masks) and torch.allclose(got, torch.cat(each), atol=1e-6)
    assert FewShotPredictor(model).set_support(*zip(*photos[:1])).predict(photos[1][0]).mask.shape == (48, 60)
    with pytest.raises(FSSKitError, match='no foreground'): model.encode_support(tensors[:1], [torch.zeros(4, 4)])
    with pytest.raises(NotImplementedError, match='episode_logits'):
        TrainableModel(ColourBackbone()).episode_logits(None)


def test_the_frozen_part_has_a_name():
    a, b, c = toy_head(), toy_head(input_size=64), toy_head(seed=1)
    assert a.frozen_id == 'rgb,none,[0],32' == c.frozen_id != b.frozen_id and a.describe()['head'] == 'untrained'
    image = to_tensor(boxes(0, 0)[0], 32)
    other = image.clone()
    other[0, 0, 0] += 1e-3
    assert len({frozen_key(a, image), frozen_key(c, image), frozen_key(a, other), frozen_key(b, image)}) == 3


def test_thin_objects_survive_the_squashing():
    mask = np.zeros((90, 300), np.uint8)
    mask[:, 101] = 1
    assert not (resize_mask(mask, 30) == 1).any()
    small = square_mask(mask, 30)
    assert small.shape == (30, 30) and (small[:, 10] == 1).all() and small.sum() == 30
    assert torch.equal(square_mask(boxes(1, 2)[1], 30), torch.from_numpy(resize_mask(boxes(1, 2)[1], 30).copy()))
    assert square_mask(np.zeros((9, 9), np.uint8), 4).sum() == 0


# sources

def test_a_close_up_is_a_window_with_the_object():
    rng, mask = np.random.default_rng(1), np.zeros((180, 240), np.uint8)
    image = np.stack([*np.mgrid[:180, :240], np.zeros((180, 240))],
                     -1).astype(np.uint8)  # a pixel's colour is its place
    mask[60:110, 80:140] = 1
    windows = [close_up(image, mask, rng) for _ in range(40)]
    for window, inside in windows:
        y, x = window[0, 0, :2]
        here = slice(y, y + len(inside)), slice(x, x + inside.shape[1])
        assert np.array_equal(window, image[here]) and np.array_equal(inside, mask[here]) and min(inside.shape) >= 48
    shares = [inside.mean() for _, inside in windows]
    assert 0.1 < min(shares) < 0.3 and max(shares) > 0.7 and 0.35 < np.mean(shares) < 0.7
    small = np.zeros_like(mask, bool)
    small[170:178, 230:238] = True
    assert min(close_up(image, mask, rng, around=small)[1].sum() for _ in range(20)) == 0  # around the other object
    assert [w.shape for w, _ in (close_up(image[:20, :30], mask[60:80, 80:110], rng),)] == [(20, 30, 3)]


def test_variants_of_a_photo():
    image, mask = np.arange(90 * 120 * 3, dtype=np.uint16).reshape(90, 120, 3) % 251, np.zeros((90, 120), np.uint8)
    image, mask[30:70, 40:90] = image.astype(np.uint8), 1
    plain, mirror, near, again, flipped = (photo_variant(image, mask, n, 'x') for n in (0, 1, 2, 2, 3))
    assert np.array_equal(plain[0], image)
    assert np.array_equal(mirror[0][:, ::-1], image)
    assert np.array_equal(mirror[1][:, ::-1], mask)
    assert np.array_equal(near[0], again[0]) and near[0].shape != image.shape and flipped[0].flags['C_CONTIGUOUS']
    window = close_up(image, mask, generator('close-up', 'x', 3))
    assert np.array_equal(flipped[0][:, ::-1], window[0]) and np.array_equal(flipped[1][:, ::-1], window[1])
    assert not np.array_equal(photo_variant(image, mask, 2, 'y')[1], near[1])


def test_episodes_of_photos_follow_from_seed_and_index():
    source, again = DatasetSource(toy_set(), 2, 5), DatasetSource(toy_set(), 2, 5)
    forward, backward = [source(i) for i in range(30)], [again(i) for i in reversed(range(30))][::-1]
    keys = [[v.key for v in views] for views in forward]
    assert keys == [[v.key for v in views] for views in backward] != [[v.key
                                                                       for v in DatasetSource(toy_set(), 2, 6)(i)]
                                                                      for i in range(30)]
    for views, e in zip(forward, EpisodeSampler(toy_set(), 2, 30, 5)):
        _, classes, photos, variants = zip(*(v.key.split('/') for v in views))
        assert photos == (*e.support, e.query) and set(classes) == {str(e.class_id)} and set(variants) <= set('012345')
        image, mask = views[0].make()
        assert (mask == 1).any() and (image[mask == 1] == COLOURS[e.class_id]).all() and views[0].keep == 'pixels'
    assert len({k.split('/')[3] for row in keys for k in row}) == 6 and source.classes == {'toy': sorted(NAMES)}
    other = toy_set()
    other.info['dataset'] = 'changed'
    assert DatasetSource(other).tag != source.tag


def colour_pool(classes=3, photos=3):
    "Pictures of coloured boxes with one thing each."
    items = [(c, i, *boxes(c, i)) for c in range(classes) for i in range(photos)]
    return CutoutPool([Picture(*fit_picture(image, [(NAMES[c], mask == 1)], 120)[:2]) for c, i, image, mask in items])


def is_red(image):
    r, g, b = image.astype(int).transpose(2, 0, 1)
    return (r > g + 60) & (r > b + 60)


@pytest.mark.parametrize('kind', ['photo', 'close', 'paste'])
def test_the_mask_of_a_scene_marks_all_of_the_class_and_nothing_else(kind):
    pool, shares, counts = colour_pool(), [], set()
    for n in range(25):
        image, mask = class_scene(pool, 'red', pool.places['red'][n % 3], generator(kind, n), 100, [kind])
        red = is_red(image)
        wrong = (red != (mask == 1)).mean()
        assert image.dtype == mask.dtype == np.uint8 and image.shape[:2] == mask.shape and wrong < 0.06
        shares.append(mask.mean())
        if kind == 'paste': counts.add(bool((image.astype(int)[..., 2] > image.astype(int)[..., 0] + 60).any()))
    assert max(shares) > (2 if kind == 'photo' else 4) * min(shares)
    if kind == 'paste': assert counts == {True, False}  # with and without distractors


def test_scenes_follow_from_their_generator():
    pool = colour_pool()
    a, b, c = (class_scene(pool, 'blue', (6, 0), generator('k', n), 90) for n in (1, 1, 2))
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and not np.array_equal(a[0], c[0])


def test_a_class_that_is_everywhere_is_pasted_on_grey(monkeypatch):
    pool = colour_pool(classes=1)
    image, mask = class_scene(pool, 'red', (0, 0), generator('only'), 80, ['paste'])
    assert (image[0, 0] == 118).all() or mask[0, 0] == 1
    pool.backdrops = [np.full((60, 60, 3), 200, np.uint8)]
    stages = [episodic._empty_stage(pool, 'red', generator('stage', n), 40).mean() for n in range(20)]
    assert any(s == 118 for s in stages) and any(s > 130 for s in stages)
    monkeypatch.setitem(episodic.SCENES, 'photo', lambda *_: (np.zeros((9, 9, 3), np.uint8),
                                                              np.zeros((9, 9), np.uint8)))
    assert class_scene(pool, 'red', (0, 0), generator('never'), 80, ['photo'])[1].any()  # a close-up instead


def test_collages_slide_through_a_window():
    source = CutoutSource(colour_pool(), {'toy': ['red', 'green', 'blue']}, 2, 7, 64, reuse=5, window=4)
    groups = {}
    for i in range(200):
        views = source(i)
        (number,), members = {v.key.split('/')[2] for v in views}, [v.key.split('/')[3] for v in views]
        assert i // 5 <= int(number) < i // 5 + 4 and len(set(members)) == 3 and {v.keep for v in views} == {''}
        groups.setdefault(int(number), []).append(i)
    assert np.mean([len(g) for n, g in groups.items() if 4 <= n < 40]) == pytest.approx(5, abs=0.4)
    assert [v.key for v in source(50)] == [v.key for v in source(50)]
    image, mask = source.view(3, 1).make()
    again, _ = source.view(3, 1).make()
    assert np.array_equal(image, again) and (mask == 1).any()
    with pytest.raises(FSSKitError, match='group=2 pictures are too few for 2 shots and a query: give 3'):
        CutoutSource(colour_pool(), {}, 2, group=2)


def test_a_group_begins_with_different_objects_of_one_class(monkeypatch):
    seen = []
    monkeypatch.setattr(episodic, 'class_scene', lambda pool, name, place, *_: seen.append((name, place)))
    source = CutoutSource(colour_pool(), {}, group=6)
    for number in range(12):
        seen.clear()
        for member in range(6): source.view(number, member).make()
        names, places = zip(*seen)
        assert len(set(names)) == 1 and len(set(places[:3])) == 3 and places[:3] == places[3:]


def test_mixture():
    a, b = DatasetSource(toy_set(classes=2)), DatasetSource(toy_set(classes=4), variants=1)
    mixed = Mixture([a, b], [3, 1], seed=2)
    plain = [all(v.key.endswith('/0') for v in mixed(i)) and mixed(i) is not None and b(i)[0].key == mixed(i)[0].key
             for i in range(400)]
    assert 0.18 < np.mean(plain) < 0.32 and mixed.classes == {'toy': sorted(NAMES[:4])}
    assert [v.key for v in mixed(9)] in ([v.key for v in a(9)], [v.key for v in b(9)])
    for weights in ([1], [1, 0], []):
        with pytest.raises(FSSKitError, match='do not suit 2 sources'): Mixture([a, b], weights)
    assert join_classes({'x': ['b', 'a']}, {'y': ['c'], 'x': ['a']}) == {'x': ['a', 'b'], 'y': ['c']}


# what is remembered

def view_of(c, i, keep='pixels'): return View(f'{c}/{i}', lambda: boxes(c, i), keep)


def test_features_are_computed_once_and_rounded(tmp_path):
    model, cache = toy_head(), FeatureCache(tmp_path)
    store = FrozenStore(model, cache)
    first, second = store(view_of(0, 0)), store(view_of(0, 0))
    exact = model.features(to_tensor(boxes(0, 0)[0], 32)[None])[0][0]
    assert first is second and torch.equal(first.levels[0], exact.half()) and model.encoded == 1
    model.encoded = 0
    fresh, cache.put = FrozenStore(model, cache), lambda *_: pytest.fail('what came from disk is written again')
    assert torch.equal(fresh(view_of(0, 0)).levels[0], exact.half()) and model.encoded == 0
    fresh(view_of(0, 1, ''))
    assert model.encoded == 1 and len(list(tmp_path.iterdir())) == 1  # not kept on disk
    same_pixels = FrozenStore(model, cache)(View('another name', lambda: boxes(0, 0)))
    assert torch.equal(same_pixels.levels[0], exact.half()) and model.encoded == 1


def test_what_follows_from_its_name_is_not_even_drawn_again(tmp_path):
    model, cache, made = toy_head(), FeatureCache(tmp_path), []
    view = View('drawn/1', lambda: made.append(1) or boxes(0, 0), 'name')
    first, second = (FrozenStore(model, cache)(view) for _ in range(2))
    assert made == [1]
    assert model.encoded == 1
    assert torch.equal(first.levels[0], second.levels[0])
    assert torch.equal(first.mask, second.mask)
    assert second.mask.dtype == torch.uint8 and torch.equal(second.mask, square_mask(boxes(0, 0)[1], 32))
    FrozenStore(toy_head(input_size=64), cache)(view), FrozenStore(model, cache)(view._replace(key='drawn/2'))
    assert made == [1, 1, 1]
    world = toy_set()
    world.name = 'smallworld'
    assert DatasetSource(world)(0)[0].keep == 'name'


def test_collages_that_are_kept_are_named_after_their_pool(tmp_path):
    pool, cache, model = colour_pool(), FeatureCache(tmp_path), toy_head()
    a, b = (CutoutSource(p, {}, keep='name', size=64)(3)[0] for p in (pool, colour_pool()))
    assert a.key == b.key and a.keep == 'name'
    changed, bare = colour_pool(), colour_pool()
    changed.pictures[0] = changed.pictures[0]._replace(image=255 - changed.pictures[0].image)
    bare.backdrops = [np.zeros((9, 9, 3), np.uint8)]
    others = [CutoutSource(p, {}, keep='name', size=s, mix=m)(3)[0].key
              for p, s, m in ((changed, 64, episodic.MIX), (bare, 64, episodic.MIX), (pool, 65, episodic.MIX),
                              (pool, 64, ('close',)))]
    assert len({a.key, *others}) == 5
    first = FrozenStore(model, cache)(a)
    model.encoded = 0
    assert torch.equal(FrozenStore(model, cache)(b).levels[0], first.levels[0]) and model.encoded == 0


def test_memory_is_bounded_and_forgets_the_oldest():
    model = toy_head()
    size = FrozenStore(model)(view_of(0, 0)).bytes
    assert size == 32 * 32 + 2 * 16 * 4 * 4
    store = FrozenStore(model, memory=3 * size)
    for i in (0, 1, 2, 0, 3): store(view_of(1, i))
    assert list(store.kept) == ['1/2', '1/0', '1/3'] and store.bytes == 3 * size
    model.encoded = 0
    store(view_of(1, 0)), store(view_of(1, 1))
    assert model.encoded == 1


def test_features_that_do_not_fit():
    model = toy_head()
    model.frozen_features = lambda images: [images * 1e6]
    with pytest.raises(FSSKitError, match="features of '0/0' are too large for half precision"):
        FrozenStore(model)(view_of(0, 0))


def test_a_batch_is_stacked_from_its_views():
    model = toy_head()
    rows = [[(0, 0), (0, 1), (0, 2)], [(1, 3), (1, 4), (1, 5)]]
    batch = gather_batch(FrozenStore(model), [tuple(view_of(*at) for at in row) for row in rows])
    level = lambda at: model.features(to_tensor(boxes(*at)[0], 32)[None])[0][0].half().float()
    for b, row in enumerate(rows):
        assert torch.equal(batch.query[0][b], level(row[2]))
        assert torch.equal(batch.target[b], square_mask(boxes(*row[2])[1], 32))
        for k in (0, 1):
            assert torch.equal(batch.support[0][b, k], level(row[k]))
            assert torch.equal(batch.support_masks[b, k], square_mask(boxes(*row[k])[1], 32))


# the task

def toy_task(seed=0, batch=4, **options):
    data = toy_set()
    return EpisodicTask(toy_head(), Counted(data, 1, 3), seed, batch,
                        held_out={'classes': fixed_episodes(data, 8), 'photos': fixed_episodes(data, 5, 2)},
                        **options)


def test_a_step_is_the_mean_over_its_episodes():
    task = toy_task()
    parts = task(5)
    assert task.source.asked == [20, 21, 22, 23]
    assert task.learned == ('model.net', 'model.offset')
    assert task.rates == {'model.offset': 0.5}
    each = [episode_losses(task.model.episode_logits(b), b.target) for i in range(20, 24)
            for b in [gather_batch(task.store, [task.source(i)])]]
    assert all(parts[k].item() == pytest.approx(np.mean([e[k].item() for e in each]), rel=1e-5)
               for k in ('bce', 'dice', 'loss'))
    assert toy_task(rates={}).rates == {}


def test_tasks_that_cannot_be_trained(monkeypatch):
    for batch in (0, -1):
        with pytest.raises(FSSKitError, match=f'batch={batch} episodes for 1 process'): toy_task(batch=batch)
    monkeypatch.setattr(episodic, 'team', lambda: Team(0, 3))
    with pytest.raises(FSSKitError, match='batch=4 episodes for 3 process'): toy_task()
    class Nothing(ToyHead): learned = ()
    with pytest.raises(FSSKitError, match="Model 'Nothing' names no learned part"): EpisodicTask(Nothing(), None)


@pytest.mark.parametrize('offset', [0, 100])  # 100: all is foreground, the ignored corner too
def test_validation_is_miou_over_classes(offset):
    task = toy_task()
    task.eval()
    with torch.no_grad(): task.model.offset.bias += offset
    with torch.no_grad(): scores = task.validate()
    rows, held = [], task.held_out['photos']
    for c, views in zip(held.class_ids, held.episodes):
        batch = gather_batch(task.store, [views])
        with torch.no_grad():
            on = F.interpolate(task.model.episode_logits(batch)[:, None], (32, 32), mode='bilinear')[0, 0].numpy() > 0
        truth, keep = batch.target[0].numpy() == 1, batch.target[0].numpy() != 255
        rows.append((c, (on & truth & keep).sum(), ((on | truth) & keep).sum()))
    rows = np.array(rows)
    ious = [rows[rows[:, 0] == c][:, 1].sum() / rows[rows[:, 0] == c][:, 2].sum() for c in np.unique(rows[:, 0])]
    assert scores['photos'] == pytest.approx(np.mean(ious))
    assert scores['score'] == pytest.approx((scores['classes'] + scores['photos']) / 2)


def test_it_learns_and_a_resumed_training_is_exact(tmp_path):
    plan = dict(lr=0.05, warmup=2, weight_decay=0, validate_every=10, log_every=1, progress=False)
    fit(toy_task(), tmp_path / 'one', 30, **plan)
    fit(toy_task(), tmp_path / 'two', 30, minutes=0, **plan)
    class Stop(Exception): pass
    def stop(out):
        if 17 in read_log(out / 'log.csv').get('step', ()): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        fit(toy_task(), tmp_path / 'two', 30, resume=tmp_path / 'two/checkpoint.pt', watch=stop, **plan)
    assert read_checkpoint(tmp_path / 'two/checkpoint.pt')['step'] == 17
    other = toy_task()
    for p in other.model.net.parameters(): nn.init.ones_(p)
    fit(other, tmp_path / 'two', 30, resume=tmp_path / 'two/checkpoint.pt', **plan)
    a, b = (read_checkpoint(tmp_path / name / 'checkpoint.pt')['learned'] for name in ('one', 'two'))
    assert all(torch.equal(v, b[name][k]) for name in a for k, v in a[name].items())
    scores = read_log(tmp_path / 'one/validation.csv')['score']
    assert scores[-1] > scores[0] + 0.1


# held out

def test_walls_between_training_and_what_is_held_out():
    shared = {c: [f'{c}-{i}' for i in range(8)] + ['both'] for c in range(6)}  # one photo belongs to all classes
    data = ListedDataset('toy', dict(enumerate(NAMES)), shared, None, None, {'a': 1})
    for seed in range(20):
        train, held = hold_out(data, 3, seed)
        on = {name: {p for c in d.class_ids for p in d.photos(c)} for name, d in ({'train': train} | held).items()}
        assert len(held['classes'].class_ids) == 2 and not set(train.class_ids) & set(held['classes'].class_ids)
        assert 'both' in on['classes'] and not on['train'] & on['classes'] and not on['train'] & on.get('photos', set())
        assert not on.get('photos', set()) & on['classes'] and set(held['photos'].class_ids) <= set(train.class_ids)
        assert train.info == {'a': 1, 'held_out': 'the rest'} and held['classes'].info['held_out'] == 'classes'
    assert len({tuple(hold_out(data, 3, seed)[1]['classes'].class_ids) for seed in range(20)}) > 3
    train, held = hold_out(toy_set(classes=2), every=6)
    assert set(held) <= {'photos'} and train.class_ids == [0, 1]
    assert hold_out(toy_set(photos=1))[1] == {}


def test_restricting_and_leaving_out():
    data = toy_set()
    small = restrict(data, {0: ['0-3', '0-1'], 1: []}, note='x')
    assert small.class_ids == [0]
    assert small.photos(0) == ['0-1', '0-3']
    assert small.info == {'dataset': 'toy', 'note': 'x'}
    assert np.array_equal(small.image('0-1'), boxes(0, 1)[0]) and small.name == 'toy'
    rest, out = without_photos(data, ['0-1.jpg', '3-2', 'zebra'])
    assert out == 2 and '0-1' not in rest.photos(0) and '3-2' not in rest.photos(3) and len(rest.photos(1)) == 6
    assert without_photos(data, []) == (data, 0) and without_photos(data, ['zebra']) == (data, 0)
    assert without_folders({'data': 'coco:/a/b c/set/', 'only': '/x/list.txt', 'n': 3,
                            'w': 'clean'}) == {'data': 'coco:set', 'only': 'list.txt', 'n': 3, 'w': 'clean'}


# plots

def test_plots_show_the_logs(tmp_path, monkeypatch):
    assert [len(ax.lines) for ax in plot_training(tmp_path).axes] == [0, 0]
    (tmp_path / 'log.csv').write_text('step,seconds,bce,loss\n1,0,0.5,1.5\n2,0,0.25,1.25\n')
    (tmp_path / 'validation.csv').write_text('step,seconds,score,a,b,c,d\n0,0,1,2,3,4,5\n')
    left, right = plot_training(tmp_path).axes
    assert [line.get_label() for line in left.lines] == ['bce', 'loss']
    assert left.lines[1].get_ydata().tolist() == [1.5, 1.25]
    assert len(right.lines) == 5 and right.lines[4].get_linestyle() == '--'
    import IPython.display
    shown, now = [], [0.]
    class Place:
        def update(self, figure): shown.append('update')
    monkeypatch.setattr(IPython.display, 'display', lambda figure, display_id: shown.append('display') or Place())
    monkeypatch.setattr(episodic.time, 'monotonic', lambda: now[0])
    live = LivePlot(2.)
    for now[0] in (10., 11., 12.5, 13., 15.): live(tmp_path)
    assert shown == ['display', 'update', 'update']


# weight files

RECORD = HeadRecord([{'dataset': 'toy'}], 2, {'toy': ['red', 'blue']}, {'toy': ['pink'], 'other': ['x']}, {'seed': 3})


def test_a_head_out_and_in(tmp_path):
    model = toy_head(3)
    path = save_head(model, tmp_path / 'h.safetensors', RECORD)
    loaded = load_head(toy_head(4), path)
    for k, v in head_state(model).items():
        assert torch.equal(head_state(loaded)[k], v.half().float())
    assert loaded.seen_classes == seen_classes(path) == {'other': ['x'], 'toy': ['blue', 'pink', 'red']}
    assert loaded.describe()['head'] == loaded.head_id and len(loaded.head_id) == 16
    facts = head_facts(path)
    assert facts['fold'] == 2 and facts['classes'] == {'toy': ['red', 'blue']} and facts['training'] == {'seed': 3}
    assert facts['settings'] == {'model': 'toy', 'input_size': 32, 'layers': [0], 'backbone': 'rgb', 'weights': 'none',
                                 'shots': 'mean'}
    assert ToyHead.seen_classes == {}
    assert path.read_bytes() == save_head(toy_head(3), tmp_path / 'again.safetensors', RECORD).read_bytes()


def test_heads_that_do_not_belong(tmp_path):
    path = save_head(toy_head(), tmp_path / 'h.safetensors', RECORD)
    other = ColourBackbone(waves=8)
    other.weights_id = 'changed'
    class Renamed(ToyHead): frozen_id = 'something else'
    class Free(ToyHead): free_options = ('shots',)
    for model, words in ((toy_head(input_size=64),
                          'trained with input_size=32, but the model has '
                          'input_size=64'), (ToyHead(other), "weights='none'"),
                         (Renamed(), "frozen='rgb,none,\\[0\\],32'"), (toy_head(shots='vote'), "shots='mean'"),
                         (toy_head(width=4), 'holds other weights than')):
        before = {k: v.clone() for k, v in head_state(model).items()}
        with pytest.raises(FSSKitError, match=words): load_head(model, path)
        assert all(torch.equal(v, before[k]) for k, v in head_state(model).items()) and model.seen_classes == {}
    assert load_head(Free(shots='vote'), path).seen_classes
    class More(ToyHead): learned = ('net',)
    with pytest.raises(FSSKitError, match='see offset.bias'): load_head(More(), path)
    (tmp_path / 'cut.safetensors').write_bytes(path.read_bytes()[:40])
    save_weights({'a': torch.ones(1)}, tmp_path / 'silent.safetensors')
    for name, words in (('cut', 'cannot be read'), ('none', 'cannot be read'),
                        ('silent', 'does not say what it was trained on')):
        with pytest.raises(FSSKitError, match=words): head_facts(tmp_path / f'{name}.safetensors')


def test_evaluation_of_what_a_head_saw(tmp_path):
    model = load_head(toy_head(), save_head(toy_head(), tmp_path / 'h.safetensors', RECORD))
    with pytest.raises(FSSKitError, match='trained on 3 of the classes that toy asks for .blue, pink, red.'):
        evaluate(model, toy_set(), episodes=3, progress=False)
    result = evaluate(model, toy_set(), episodes=3, progress=False, allow_seen=True)
    assert result.protocol['seen_classes'] == ['blue', 'pink', 'red'] and result.protocol['head'] == model.head_id
    fair = evaluate(model, toy_set(), episodes=3, classes=[1, 3, 5], progress=False)
    assert 'seen_classes' not in fair.protocol


# the command

@pytest.fixture(scope='module')
def folder_set(tmp_path_factory):
    "The toy classes as a folder of photos and masks."
    root = tmp_path_factory.mktemp('data') / 'mine'
    for c, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for i in range(5):
            image, mask = boxes(c, i)
            Image.fromarray(image).save(root / name / f'{i}.bmp')
            Image.fromarray(np.where(mask == 1, 255, 0).astype(np.uint8)).save(root / name / f'{i}.png')
    return root


@pytest.fixture(scope='module')
def coco_set(tmp_path_factory):
    "Eight categories, four photos each, in COCO's format; photo 0 of each also shows category 0 in a corner."
    root = tmp_path_factory.mktemp('coco')
    (root / 'images').mkdir()
    images, rows = [], []
    for n in range(32):
        c, i = divmod(n, 4)
        image, mask = boxes(c % 6, 10 * c + i)
        y, x = np.argwhere(mask == 1).min(0)
        h, w = np.argwhere(mask == 1).max(0) - (y, x) + 1
        images.append({'id': n, 'file_name': f'{n}.png', 'height': 48, 'width': 60})
        square = lambda a, b, e, f: [[float(v) for v in (a, b, a + e, b, a + e, b + f, a, b + f)]]
        for k, (cat, box) in enumerate([(c, (x, y, w, h))] + [(0, (50, 2, 8, 8))] * (i == 0)):
            rows.append({'id': 2 * n + k, 'image_id': n, 'category_id': cat + 1, 'segmentation': square(*map(int, box)),
                         'iscrowd': 0, 'bbox': [float(v) for v in box], 'area': float(box[2] * box[3])})
        Image.fromarray(image).save(root / 'images' / f'{n}.png')
    categories = [{'id': c + 1, 'name': f'kind {c}'} for c in range(8)]
    (root / 'instances.json').write_text(json.dumps({'images': images, 'annotations': rows, 'categories': categories}))
    return root


def test_cut_outs_of_a_coco_set_are_single_instances_of_learned_classes(coco_set):
    spec = f'coco:{coco_set}'
    keep = open_dataset(spec, fold=0, side='train', convention='keep', progress=False)  # kinds 0 and 4 are held out
    pictures = list(train_pictures(spec, keep, 60))
    assert {t.name for p in pictures for t in p.things} == {f'kind {c}' for c in (1, 2, 3, 5, 6, 7)}
    assert all(len(p.things) == 1 for p in pictures)
    everything = open_dataset(spec, side='train', progress=False)
    assert max(len([t for t in p.things if t.name == 'kind 0']) for p in train_pictures(spec, everything, 60)) == 2
    assert all(len(p.things) == 1 for p in train_pictures('smallworld', toy_set(), 60))
    names = [p.source for p in train_pictures(spec, everything, 60)]
    assert [p.source for p in train_pictures(spec, everything, 60, most=len(names) // 2)] == names[::2]
    assert [p.source for p in train_pictures(spec, everything, 60, most=len(names))] == names


def test_the_data_of_a_fold(coco_set, tmp_path):
    (tmp_path / 'out.txt').write_text('9.png\n')
    plan = DataPlan([f'coco:{coco_set}'], 1, 'keep', exclude=str(tmp_path / 'out.txt'), smallworld=0, every=3,
                    questions=4, side=48, min_area=.001, reuse=7, keep=True)
    data = gather_training(plan, seed=2, progress=False)
    learned, chosen = data.record.classes['coco'], data.record.chosen_by['coco']
    assert set(learned) | set(chosen) <= {f'kind {c}' for c in (0, 2, 3, 4, 6, 7)}
    assert len(set(chosen) - set(learned)) == 2
    assert data.record.fold == 1
    assert data.record.data[0]['data'] == f'coco:{coco_set.name}'
    assert data.record.data[0]['excluded'] == 1
    assert str(coco_set.parent) not in json.dumps(data.record.data)
    assert list(data.photos) == [f'coco:{coco_set}']
    assert len(data.source.sources) == 2
    assert data.source.sources[1].size == 48
    assert data.source.sources[1].reuse == 7 and data.source.sources[1].keep and data.record.data[0]['min_area'] == .001
    assert data.source.ends.tolist() == [0.5, 1] and all(len(h.episodes) == 4 for h in data.held_out.values())
    photos_only = gather_training(DataPlan(plan.data, 1, collages=0., smallworld=0, every=3), progress=False)
    assert len(photos_only.source.sources) == 1 and not isinstance(photos_only.source.sources[0], CutoutSource)


def test_several_sets_and_collages_alone(coco_set, folder_set):
    (folder_set.parent / 'some.txt').write_text('red/0.bmp\nred/1.bmp\nred/2.bmp\ngreen/0.bmp\ngreen/1.bmp\ngreen/2.bmp\n')
    both = gather_training(DataPlan([f'folder:{folder_set}', f'coco:{coco_set}'], smallworld=0, collages=0.2, every=2),
                           progress=False)
    assert np.allclose(both.source.ends, [0.4, 0.8, 1]) and {'folder_0_classes', 'coco_1_classes'} <= set(both.held_out)
    assert set(both.record.classes) == {'coco', 'folder'}
    few = gather_training(DataPlan([f'folder:{folder_set}'], only=str(folder_set.parent / 'some.txt'), smallworld=0),
                          progress=False)
    assert few.record.classes['folder'] and set(few.record.classes['folder']) <= {'red', 'green'}
    drawn = gather_training(DataPlan(smallworld=1, collages=1.), progress=False)
    assert drawn.held_out == {} and len(drawn.source.sources) == 1 and len(drawn.record.classes['smallworld']) == 24
    mostly = gather_training(DataPlan(smallworld=1), progress=False)
    assert len(mostly.source.sources) == 1 and mostly.source.ends.tolist() == [1.0]
    with pytest.raises(FSSKitError, match='No data: name data sets'): gather_training(DataPlan(smallworld=0))


def train(out, folder_set, **options):
    return train_model(out, toy_head(), DataPlan([f'folder:{folder_set}'], smallworld=0, every=3, questions=6),
                       FitPlan(8, lr=0.02, warmup=2, log_every=2, validate_every=4), EpisodePlan(batch=2),
                       progress=False, **options)


def test_the_command_writes_weights_that_say_what_they_saw(folder_set, tmp_path):
    path = train(tmp_path / 'run', folder_set, use=Resources(FeatureCache(tmp_path / 'cache'), threads=1),
                 data_note='made up')
    assert sorted(p.name for p in path.parent.iterdir()) == ['best.pt', 'checkpoint.pt', 'head.md', 'head.safetensors',
                                                             'log.csv', 'record.json', 'validation.csv']
    facts, best = head_facts(path), read_checkpoint(path.parent / 'best.pt')
    assert facts['training']['step'] == best['step']
    assert facts['training']['rates'] == {'model.offset': 0.5}
    assert facts['fold'] is None
    assert set(seen_classes(path)['folder']) == set(NAMES) and len(facts['chosen_by']['folder']) >= 2
    model = load_head(toy_head(9), path)
    assert torch.equal(model.net[0].weight, best['learned']['model.net']['0.weight'].half().float())
    card = path.with_suffix('.md').read_text()
    for words in ('# toy: model card', 'mine: ', 'made up', 'Classes that chose the best step',
                  ', '.join(facts['classes']['folder']), 'seed: 0'):
        assert words in card
    assert str(folder_set.parent) not in card and list((tmp_path / 'cache').iterdir())
    with pytest.raises(FSSKitError, match='already holds a training'): train(tmp_path / 'run', folder_set)


def test_the_command_can_be_interrupted_and_resumed(folder_set, tmp_path):
    def stop(out):
        if 6 in read_log(out / 'log.csv').get('step', ()): raise KeyboardInterrupt
    whole = train(tmp_path / 'one', folder_set)
    with pytest.raises(KeyboardInterrupt): train(tmp_path / 'two', folder_set, watch=stop)
    checkpoint = tmp_path / 'two/checkpoint.pt'
    with pytest.raises(FSSKitError, match='trained with other data than asked for now'):
        train_model(tmp_path / 'two', toy_head(), DataPlan(smallworld=1, collages=1.), resume=checkpoint,
                    progress=False)
    assert whole.read_bytes() == train(tmp_path / 'two', folder_set, resume=checkpoint).read_bytes()


def test_without_anything_held_out_the_last_step_counts(tmp_path):
    path = train_model(tmp_path, toy_head(), DataPlan(smallworld=1, collages=1.),
                       FitPlan(3, patience=2, validate_every=1), EpisodePlan(batch=1), progress=False)
    facts = head_facts(path)
    assert facts['training']['step'] == 3
    assert facts['training']['held-out score'] is None
    assert not (tmp_path / 'validation.csv').exists()
    assert 'best.pt' not in {p.name for p in tmp_path.iterdir()} and 'none' in path.with_suffix('.md').read_text()


def test_models_by_name(monkeypatch):
    monkeypatch.setitem(predictor.MODELS, 'toy', f'{__name__}:ToyHead')
    torch.rand(3)
    a, b, c = (build_model('toy', 'rgb', options={'width': 5}, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.net[0].weight, b.net[0].weight)
    assert not torch.equal(a.net[0].weight, c.net[0].weight)
    assert build_model(a) is a
    with pytest.raises(FSSKitError, match="Model 'dense_match' has no part that learns"):
        build_model('dense_match', 'rgb')


# two processes

SCRIPT = '''
import sys, json
sys.path.insert(0, {tests!r})
from test_episodic import *
out, us = Path({out!r}), team()
model = toy_head(seed=us.rank)  # other weights in each process: the first one's count
task = EpisodicTask(model, DatasetSource(toy_set(), 1, 3), 0, 4, held_out={{'classes': fixed_episodes(toy_set(), 7)}})
fit(task, out, 12, lr=0.05, warmup=2, weight_decay=0.01, validate_every=4, log_every=1, progress=False)
part = evaluate(model, toy_set(), episodes=9, part=(us.rank, us.size), progress=False)
whole = merge_parts(us.gather(part))
late = fit(task, out / 'late', 500 * (us.size - 1), minutes=0 if us.rank else 9, progress=False).step  # one stops: all stop
(out / f'rank{{us.rank}}.json').write_text(json.dumps({{'size': us.size, 'rows': whole.counts, 'late': late, 'weights':
    [p.detach().flatten().tolist() for p in model.parameters()]}}))
'''


def run_together(out, size):
    "The script in `size` processes on the CPU, as `accelerate launch --cpu --num_processes` starts them."
    out.mkdir()
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'WORLD_SIZE': str(size), 'MASTER_ADDR': '127.0.0.1',
           'MASTER_PORT': str(port), 'ACCELERATE_USE_CPU': 'true'}
    script = SCRIPT.format(tests=str(Path(__file__).parent), out=str(out))
    jobs = [subprocess.Popen([sys.executable, '-c', script], env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)})
            for r in range(size)]
    try: assert [job.wait(timeout=1200) for job in jobs] == [0] * size
    finally:
        for job in jobs: job.poll() is None and job.kill()
    return [json.loads((out / f'rank{r}.json').read_text()) for r in range(size)]


def test_two_processes_give_the_training_and_the_metrics_of_one(tmp_path, monkeypatch):
    two = run_together(tmp_path / 'two', 2)
    script = SCRIPT.format(tests=str(Path(__file__).parent), out=str(tmp_path / 'one'))
    (tmp_path / 'one').mkdir()
    exec(compile(script, 'script', 'exec'), {})
    one = json.loads((tmp_path / 'one/rank0.json').read_text())
    assert [t['size'] for t in two] == [2, 2] and one['size'] == 1 and [t['late'] for t in two] == [0, 0]
    assert two[0]['weights'] == two[1]['weights']
    for a, b in zip(one['weights'], two[0]['weights']): assert np.allclose(a, b, atol=2e-5)
    for name, columns in (('log.csv', ('bce', 'dice', 'loss')), ('validation.csv', ('score', 'classes'))):
        a, b = (read_log(tmp_path / run / name) for run in ('one', 'two'))
        assert a['step'].tolist() == b['step'].tolist() and all(np.allclose(a[c], b[c], atol=2e-4) for c in columns)
    assert two[0]['rows'] == two[1]['rows'] and len(two[0]['rows']) == 9
    ious = [mean_iou([r[1:] for r in t['rows']], [r[0] for r in t['rows']]) for t in (one, two[0])]
    assert [r[0] for r in one['rows']] == [r[0] for r in two[0]['rows']] and ious[0] == pytest.approx(ious[1], abs=5e-3)
    hardware = read_checkpoint(tmp_path / 'two/checkpoint.pt')['extra']['hardware']
    assert hardware.endswith('processes: 2')
