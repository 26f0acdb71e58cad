import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsskit.episodes import (Episode, EpisodeSampler, FewShotDataset, coco20i_classes, draw, draw_support, fold_classes,
                             load_episode, pascal5i_classes, query_list, read_episodes, sampler_settings,
                             usable_classes, write_episodes)
from fsskit.photos import FSSKitError

few = settings(max_examples=40, deadline=None, derandomize=True)


class Toy:
    """A data set of names; class c has sizes[c] photos of its own and `shared` photos that count for every class."""
    name, info = 'toy', {}

    def __init__(self, sizes, shared=0, shuffle=None):
        self.sizes, self.shared, self.shuffle = sizes, shared, shuffle
        self.class_ids = self._mixed(list(range(len(sizes))))

    def _mixed(self, items):
        if self.shuffle is not None: random.Random(self.shuffle).shuffle(items)
        return items

    def class_name(self, class_id): return f'class-{class_id}'

    def photos(self, class_id):
        own = [f'{class_id}/{i:02d}' for i in range(self.sizes[class_id])]
        return self._mixed(sorted(own + [f'both/{i}' for i in range(self.shared)]))

    def image(self, photo): return np.full((3, 4, 3), sum(photo.encode()) % 256, np.uint8)
    def mask(self, photo, class_id): return np.full((3, 4), class_id == 1, np.uint8)


def naive_draw(n, *key):
    """floor(h * n / 2^64) with exact fractions."""
    h = hashlib.blake2b(','.join(map(str, key)).encode(), digest_size=8, person=b'fsskit-ep-1').hexdigest()
    return int(Fraction(int(h, 16), 2**64) * n)


def naive_episode(photos, class_ids, shots, seed, index, replace=False):
    """Episode `index` from the text of the notebook alone, with explicit pools."""
    def pick(items, slot):
        return items[naive_draw(len(items), seed, index, slot)]
    c = pick(class_ids, 0)
    query, support = pick(photos[c], 1), []
    for k in range(shots):
        support.append(pick([p for p in photos[c] if p != query and (replace or p not in support)], 2 + k))
    return Episode(index, c, tuple(support), query)


# --- folds

def test_pascal_folds_are_the_published_names():
    voc = ('aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person '
           'pottedplant sheep sofa train tv').split()
    assert [voc[c] for c in pascal5i_classes(0)] == ['aeroplane', 'bicycle', 'bird', 'boat', 'bottle']
    assert [voc[c] for c in pascal5i_classes(2)] == ['diningtable', 'dog', 'horse', 'motorbike', 'person']
    assert [voc[c] for c in pascal5i_classes(3)] == ['pottedplant', 'sheep', 'sofa', 'train', 'tv']


def test_coco_folds_take_every_fourth_class():
    assert coco20i_classes(0)[:3] == [0, 4, 8] and coco20i_classes(2)[-1] == 78
    assert all(coco20i_classes(f) == [f + 4 * v for v in range(20)] for f in range(4))


@few
@given(st.integers(1, 60), st.integers(1, 9), st.sampled_from(['blocks', 'strided']))
def test_folds_are_a_partition_of_nearly_equal_parts(extra, n_folds, layout):
    n = n_folds + extra
    folds = [fold_classes(n, f, n_folds, layout) for f in range(n_folds)]
    assert sorted(sum(folds, [])) == list(range(n))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    assert all(f == sorted(f) for f in folds)
    if layout == 'blocks': assert all(f[-1] - f[0] == len(f) - 1 for f in folds)


@pytest.mark.parametrize('call, words', [
    (lambda: pascal5i_classes(4), ['fold=4', 'from 0 to 3']),
    (lambda: coco20i_classes(-1), ['fold=-1', 'from 0 to 3']),
    (lambda: fold_classes(3, 0, 4), ['n_classes=3', 'at least 4']),
    (lambda: fold_classes(20, 0, 0), ['n_folds=0', 'at least 1']),
    (lambda: fold_classes(20, 1.0), ['fold=1.0', 'whole number']),
    (lambda: fold_classes(20, True), ['fold=True', 'whole number']),
    (lambda: fold_classes(20, 0, layout='round'), ["layout='round'", "'blocks', 'strided'"]),
])
def test_bad_folds_are_named(call, words):
    with pytest.raises(FSSKitError) as error: call()
    assert all(w in str(error.value) for w in words)


# --- draws

def test_draw_is_pinned():
    assert [draw(1000, 0, 0, j) for j in range(6)] == [naive_draw(1000, 0, 0, j) for j in range(6)]
    assert [draw(1000, 0, 0, j) for j in range(3)] == [477, 582, 614]  # may never change: published lists depend on it
    assert draw(1, 5) == 0 and draw(7, np.int64(3), 2) == draw(7, 3, 2)


@pytest.mark.parametrize('n', [2, 6, 7, 20])
@pytest.mark.parametrize('slot', [0, 1, 2])
def test_draws_are_uniform(n, slot):
    counts = np.bincount([draw(n, 3, i, slot) for i in range(1000 * n)], minlength=n)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert len(counts) == n
    assert abs(chi_square - (n - 1)) < 5 * (2 * (n - 1)) ** .5  # mean n-1, variance 2(n-1)


def test_neighbouring_draws_are_independent():
    table = np.zeros((4, 4))
    for i in range(16_000): table[draw(4, 0, i, 0), draw(4, 0, i + 1, 0)] += 1
    assert ((table - 1000) ** 2 / 1000).sum() < 37.7  # chi-square, 15 degrees of freedom, 0.1 %


# --- the sampler

@few
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 3), st.integers(1, 5),
       st.integers(0, 10**12), st.booleans())
def test_sampler_follows_the_definition(sizes, shared, shots, seed, replace):
    data, least = Toy(sizes, shared), 2 if replace else shots + 1
    photos = {c: data.photos(c) for c in data.class_ids}
    usable = [c for c in data.class_ids if len(photos[c]) >= least]
    if not usable:
        with pytest.raises(FSSKitError, match=f'{least} photos'): EpisodeSampler(data, shots, replace=replace)
        return
    sampler = EpisodeSampler(data, shots, 12, seed, replace=replace)
    assert list(sampler) == [naive_episode(photos, usable, shots, seed, i, replace) for i in range(12)]
    assert sampler.skipped_classes == {f'class-{c}': len(photos[c]) for c in photos if c not in usable}
    for i, e in enumerate(sampler):
        assert e.index == i and len(e.support) == shots and e.query not in e.support
        assert {e.query, *e.support} <= set(photos[e.class_id])
        assert replace or len(set(e.support)) == shots


@few
@given(st.integers(2, 5), st.integers(0, 99), st.sampled_from(['random', 'each', 'listed']), st.booleans())
def test_fewer_shots_are_a_prefix_of_more(shots, seed, queries, replace):
    data = Toy([3, 9, 6, 7, 2])
    one, more = (EpisodeSampler(data, k, 30, seed, min_photos=6, queries=queries, replace=replace) for k in (1, shots))
    for a, b in zip(one, more):
        assert (a.index, a.class_id, a.query, a.support) == (b.index, b.class_id, b.query, b.support[:1])
    assert one.skipped_classes == more.skipped_classes == {'class-0': 3, 'class-4': 2}


@few
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_order_of_listing_does_not_matter(seed, shuffle):
    plain, mixed = (EpisodeSampler(Toy([4, 5, 6], 2, s), 2, 20, seed) for s in (None, shuffle))
    assert list(plain) == list(mixed)


def test_any_episode_can_be_asked_for_first_and_a_short_list_is_a_prefix():
    long, short = (EpisodeSampler(Toy([5, 6]), 3, n, seed=4) for n in (200, 20))
    assert long[150] == list(long)[150]
    assert list(short) == [long[i] for i in range(20)]
    assert len(long) == 200 and long[np.int64(7)] == long[7]
    assert list(EpisodeSampler(Toy([5, 6]), 3, 20, seed=5)) != list(short)


@pytest.mark.parametrize('index', [-1, 20, 1000])
def test_index_outside_the_list(index):
    with pytest.raises(IndexError, match='of 20'): EpisodeSampler(Toy([5]), 1, 20)[index]


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
@pytest.mark.parametrize('queries', ['random', 'each'])
def test_same_episodes_from_0_1_and_4_workers(queries):
    from torch.utils.data import DataLoader
    sampler = EpisodeSampler(Toy([9, 4, 6, 8]), 2, 60, seed=3, queries=queries)
    wanted = [sampler[i] for i in range(60)]
    for workers in (0, 1, 4):
        assert list(DataLoader(sampler, batch_size=None, num_workers=workers)) == wanted
    batches = list(DataLoader(sampler, batch_size=7, num_workers=1, collate_fn=list))
    assert sum(batches, []) == wanted


def test_same_episodes_in_another_process_with_another_hash_seed_and_after_pickling():
    code = ('from fsskit.episodes import *\nclass D:\n name, class_ids, info = "d", [0, 1, 2], {}\n'
            ' def class_name(self, c): return str(c)\n def photos(self, c): return [f"{c}{i}" for i in range(5 + c)]\n')
    scope = {}
    exec(code, scope)
    sampler = EpisodeSampler(scope['D'](), 2, 50, seed=9)
    env = {**os.environ, 'PYTHONHASHSEED': '12345'}
    done = subprocess.run([sys.executable, '-c', code + 'print(list(EpisodeSampler(D(), 2, 50, seed=9)))'], env=env,
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(list(sampler))
    assert list(pickle.loads(pickle.dumps(sampler))) == list(sampler)


def test_classes_come_up_equally_often_whatever_their_size():
    sampler = EpisodeSampler(Toy([2, 10, 100, 400]), 1, 4000)
    counts = Counter(e.class_id for e in sampler)
    assert sum((counts[c] - 1000) ** 2 / 1000 for c in range(4)) < 16.3  # chi-square, 3 degrees of freedom, 0.1 %
    queries = Counter(e.query for e in sampler if e.class_id == 1)
    mean = counts[1] / 10
    assert sum((queries[q] - mean) ** 2 / mean for q in Toy([0, 10]).photos(1)) < 27.9  # 9 degrees of freedom


def test_without_replacement_every_ordered_support_is_equally_likely():
    pairs = Counter(draw_support('abcd', 'b', 2, seed=0, index=i) for i in range(6000))
    assert set(pairs) == {(x, y) for x in 'acd' for y in 'acd' if x != y}
    assert sum((n - 1000) ** 2 / 1000 for n in pairs.values()) < 20.5  # 5 degrees of freedom, 0.1 %


def test_replace_is_the_published_rule():
    """Published code: draw any photo of the class, throw it away if it is the query, until K are there."""
    def published(photos, query, shots, rng):
        support = []
        while len(support) < shots:
            photo = rng.choice(photos)
            if photo != query: support.append(photo)
        return tuple(support)
    rng = random.Random(0)
    ours = Counter(draw_support('abcd', 'b', 2, 0, i, replace=True) for i in range(9000))
    theirs = Counter(published('abcd', 'b', 2, rng) for _ in range(9000))
    assert set(ours) == set(theirs) == {(x, y) for x in 'acd' for y in 'acd'}
    for counts in (ours, theirs): assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 26.1  # 8 degrees
    assert EpisodeSampler(Toy([2]), 5, 3, replace=True)[0].support in [('0/00',) * 5, ('0/01',) * 5]


def test_photos_that_count_for_several_classes():
    sampler = EpisodeSampler(Toy([0, 0], shared=3), 2, 50)
    assert {e.class_id for e in sampler} == {0, 1}
    assert all(sorted([e.query, *e.support]) == ['both/0', 'both/1', 'both/2'] for e in sampler)


# --- listed queries

def test_each_asks_every_pair_once_and_wraps_with_other_supports():
    data = Toy([3, 5, 1], shared=1)
    pairs = {(c, p) for c in range(3) for p in data.photos(c)}
    sampler = EpisodeSampler(data, 1, 3 * len(pairs), queries='each')
    asked = [(e.class_id, e.query) for e in sampler]
    for turn in range(3): assert set(asked[turn * len(pairs):(turn + 1) * len(pairs)]) == pairs
    assert [c for c, _ in asked[:6]] == [0, 1, 2, 0, 1, 2]
    first, second = list(sampler)[:len(pairs)], list(sampler)[len(pairs):2 * len(pairs)]
    assert any(a.support != b.support for a, b in zip(first, second))


def test_a_short_list_of_each_covers_all_classes_evenly():
    asked = Counter(e.class_id for e in EpisodeSampler(Toy([9] * 7), 1, 21, queries='each'))
    assert asked == {c: 3 for c in range(7)}


def test_listed_is_the_order_of_photo_ids():
    photos = {0: ('a', 'b', 'c'), 1: ('b', 'd')}
    assert query_list(photos, 'listed') == [(0, 'a'), (0, 'b'), (1, 'b'), (0, 'c'), (1, 'd')]
    assert query_list(photos, 'each') == [(0, 'a'), (1, 'b'), (0, 'b'), (1, 'd'), (0, 'c')]


def test_listed_gives_the_queries_of_a_published_list(shared):
    """HSNet's PASCAL test takes the lines of its list in order and starts again at the end."""
    lines = (shared / 'data/pascal/lists/hsnet/val/fold0.txt').read_text().split()

    class Listed(Toy):
        def photos(self, class_id): return [x.split('__')[0] for x in lines if int(x.split('__')[1]) == class_id + 1]

    sampler = EpisodeSampler(Listed([0] * 5), 1, 1000, queries='listed')
    assert [f'{e.query}__{e.class_id + 1:02d}' for e in sampler] == [lines[i % len(lines)] for i in range(1000)]


# --- classes and errors

@pytest.mark.parametrize('options, words', [
    ({'shots': 0}, ['shots=0', 'at least 1']), ({'shots': -2}, ['shots=-2']), ({'shots': 1.5}, ['shots=1.5']),
    ({'episodes': 0}, ['episodes=0', 'at least 1']), ({'episodes': -1}, ['episodes=-1']),
    ({'seed': -1}, ['seed=-1', 'at least 0']), ({'seed': '7'}, ["seed='7'"]), ({'seed': True}, ['seed=True']),
    ({'min_photos': 0}, ['min_photos=0', 'at least 1']),
    ({'shots': 5, 'min_photos': 4}, ['min_photos=4', 'shots=5', '6']),
    ({'replace': True, 'min_photos': 1}, ['min_photos=1', '2']),
    ({'queries': 'all'}, ["queries='all'", "'random', 'each', 'listed'"]),
    ({'classes': [0, 7]}, ['Class 7', "'toy'", '3 classes']), ({'classes': []}, ['No class to draw from']),
    ({'shots': 9}, ["No class of data set 'toy' has 10 photos", 'largest of 3 has 6']),
])
def test_bad_settings_are_named(options, words):
    with pytest.raises(FSSKitError) as error: EpisodeSampler(Toy([4, 5, 6]), **options)
    assert all(w in str(error.value) for w in words), error.value


def test_empty_data_set_and_photo_listed_twice():
    with pytest.raises(FSSKitError, match='has 0 classes'): EpisodeSampler(Toy([]))
    twice = Toy([3])
    twice.photos = lambda c: ['x', 'y', 'x']
    with pytest.raises(FSSKitError, match="lists photo 'x' twice for class 0"): EpisodeSampler(twice)


def test_many_classes_are_shortened_in_messages():
    with pytest.raises(FSSKitError, match=r'30 classes, 0, 1, 2, 3, 4, 5, 6, 7, \.\.\. 29'):
        EpisodeSampler(Toy([3] * 30), classes=[99])


def test_classes_restrict_the_draw_and_small_ones_are_skipped_by_name():
    sampler = EpisodeSampler(Toy([2, 9, 5, 9]), 5, 100, classes={3, 2, 0, 2})
    assert {e.class_id for e in sampler} == {3} and sampler.class_ids == [3]
    assert sampler.skipped_classes == {'class-0': 2, 'class-2': 5}
    assert usable_classes(Toy([1, 2]), 2) == ({1: ('1/00', '1/01')}, {'class-0': 1})


def test_episode_is_frozen_and_protocol_is_structural():
    with pytest.raises(FrozenInstanceError): EpisodeSampler(Toy([5]))[0].query = 'x'
    assert isinstance(Toy([1]), FewShotDataset) and not isinstance(object(), FewShotDataset)


def test_settings_list_the_same_episodes_again():
    data = Toy([4, 9, 2])
    s = json.loads(json.dumps(sampler_settings(EpisodeSampler(data, 2, 40, 5, 4, True, 'each', [0, 1, 2]))))
    assert s == {'dataset': 'toy', 'shots': 2, 'episodes': 40, 'seed': 5, 'min_photos': 4, 'replace': True,
                 'queries': 'each', 'class_ids': [0, 1], 'skipped_classes': {'class-2': 2}}
    again = EpisodeSampler(data, s['shots'], s['episodes'], s['seed'], s['min_photos'], s['replace'], s['queries'],
                           s['class_ids'])
    assert list(again) == list(EpisodeSampler(data, 2, 40, 5, 4, True, 'each'))


# --- pixels

def test_load_episode_reads_what_it_names():
    loaded = load_episode(Toy([4, 4]), Episode(3, 1, ('1/02', '1/00'), '1/01'))
    assert [s.photo for s in loaded.support] == ['1/02', '1/00'] and loaded.query.photo == '1/01'
    assert loaded.episode.index == 3
    for s in (*loaded.support, loaded.query):
        assert (s.image == sum(s.photo.encode()) % 256).all() and (s.mask == 1).all()
    assert (load_episode(Toy([4]), Episode(0, 0, ('0/00',), '0/01')).query.mask == 0).all()


@pytest.mark.parametrize('episode, words', [
    (Episode(5, 9, ('0/00',), '0/01'), 'Class 9 does not exist'),
    (Episode(5, 0, ('1/00',), '0/01'), "Episode 5 names photo '1/00'"),
    (Episode(5, 0, ('0/00',), '../../etc/passwd'), 'does not list for class 0'),
])
def test_load_episode_refuses_what_the_data_set_does_not_list(episode, words):
    with pytest.raises(FSSKitError, match=words): load_episode(Toy([4, 4]), episode)


# --- lists on disk

@pytest.fixture
def written(tmp_path):
    sampler = EpisodeSampler(Toy([5, 6, 7]), 2, 25, seed=8)
    write_episodes(tmp_path / 'list.jsonl', sampler, sampler_settings(sampler))
    return tmp_path / 'list.jsonl', sampler


def test_lists_come_back_equal(written):
    path, sampler = written
    episodes, header = read_episodes(path)
    assert episodes == list(sampler)
    assert header == {**sampler_settings(sampler), 'fsskit_episodes': 1, 'count': 25, 'sha256': header['sha256']}
    first, lines = path.read_bytes().split(b'\n', 1)
    assert header['sha256'] == hashlib.sha256(lines).hexdigest() == write_episodes(str(path), episodes)
    assert json.loads(lines.splitlines()[4]) == {'index': 4, 'class_id': sampler[4].class_id, 'query': sampler[4].query,
                                                 'support': list(sampler[4].support)}
    assert read_episodes(path)[1].keys() == {'fsskit_episodes', 'count', 'sha256'}
    assert [p.name for p in path.parent.iterdir()] == ['list.jsonl']  # nothing is left behind


# a lone \udc80 is how Python spells a byte of a file name that is not UTF-8
names = st.text('aZ0/. "\\\n\r\t\x00é\u2028\U0001f600\udc80', min_size=1, max_size=8)


@few
@given(st.lists(st.tuples(st.integers(-5, 2**60), names, st.lists(names, min_size=1, max_size=4)),
                min_size=1, max_size=5))
def test_any_names_survive_the_file(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp('lists') / 'e.jsonl'
    episodes = [Episode(i, c, tuple(support), query) for i, (c, query, support) in enumerate(rows)]
    write_episodes(path, episodes, {'note': rows[0][1]})
    back, header = read_episodes(path)
    assert back == episodes and header['note'] == rows[0][1]


@few
@given(st.data())
def test_any_changed_byte_is_found(tmp_path_factory, data):
    path = tmp_path_factory.mktemp('lists') / 'e.jsonl'
    write_episodes(path, EpisodeSampler(Toy([3, 4]), 1, 3))
    whole = bytearray(path.read_bytes())
    start = whole.index(b'\n') + 1
    at = data.draw(st.integers(start, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    with pytest.raises(FSSKitError, match='changed or cut short'): read_episodes(path)


@few
@given(st.integers(0, 300))
def test_a_list_cut_short_is_found(tmp_path_factory, missing):
    path = tmp_path_factory.mktemp('lists') / 'e.jsonl'
    write_episodes(path, EpisodeSampler(Toy([3, 4]), 1, 3))
    path.write_bytes(path.read_bytes()[:-1 - missing])
    with pytest.raises(FSSKitError, match='not a usable episode list'): read_episodes(path)


def forged(header, *lines):
    body = b''.join(line + b'\n' for line in lines)
    return json.dumps({'sha256': hashlib.sha256(body).hexdigest(), **header}).encode() + b'\n' + body


good = b'{"index": 0, "class_id": 1, "support": ["a"], "query": "b"}'


@pytest.mark.parametrize('content, words', [
    (b'', 'first line is not a header'), (b'\x89PNG\r\n\x1a\n', 'first line is not a header'),
    (b'[1, 2]\n', 'first line is not a header'), (good + b'\n', 'first line is not a header'),
    (forged({'fsskit_episodes': 2}, good), 'format 2, this fsskit reads format 1'),
    (forged({'fsskit_episodes': 1, 'sha256': None}, good), 'header says None'),
    (forged({'fsskit_episodes': 1}, b'not json'), 'is not an episode'),
    (forged({'fsskit_episodes': 1}, b'[1]'), 'is not an episode'),
    (forged({'fsskit_episodes': 1}, good.replace(b'"b"', b'7')), 'is not an episode'),
    (forged({'fsskit_episodes': 1}, good.replace(b'["a"]', b'[]')), 'is not an episode'),
    (forged({'fsskit_episodes': 1}, good.replace(b'["a"]', b'"ab"')), 'is not an episode'),
    (forged({'fsskit_episodes': 1}, good.replace(b'1', b'true')), 'is not an episode'),
    (forged({'fsskit_episodes': 1}, good.replace(b'"query"', b'"target"')), 'is not an episode'),
])
def test_files_that_are_no_lists(tmp_path, content, words):
    path = tmp_path / 'bad.jsonl'
    path.write_bytes(content)
    with pytest.raises(FSSKitError, match=words) as error: read_episodes(path)
    assert str(path) in str(error.value)


def test_forged_list_is_read_when_it_is_right(tmp_path):
    (tmp_path / 'ok').write_bytes(forged({'fsskit_episodes': 1}, good))
    assert read_episodes(tmp_path / 'ok')[0] == [Episode(0, 1, ('a',), 'b')]


def test_missing_file_empty_list_and_taken_header_key(tmp_path):
    with pytest.raises(FSSKitError, match='none.jsonl cannot be read'): read_episodes(tmp_path / 'none.jsonl')
    with pytest.raises(FSSKitError, match='No episodes to write'): write_episodes(tmp_path / 'x', [])
    one = [Episode(0, 0, ('a',), 'b')]
    with pytest.raises(FSSKitError, match="header key 'count'"): write_episodes(tmp_path / 'x', one, {'count': 1})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_list(written):
    path, sampler = written
    old = path.read_bytes()

    def broken():
        yield sampler[0]
        raise RuntimeError('no more')
    with pytest.raises(RuntimeError): write_episodes(path, broken())
    assert path.read_bytes() == old
