"Tests of fsskit.evaluation: figures against numpy, caching that changes nothing, interruptions that lose nothing."
import json
import numpy as np
import pytest
import torch
from PIL import Image
from fsskit.episodes import EpisodeSampler, load_episode, read_episodes, write_episodes
from fsskit.evaluation import (CachedBackbone, Result, Run, class_names, compare, content_key, data_family, evaluate,
                               list_hash, load_result, merge_parts, part_of, remembering, run_all, run_episode, seen_of,
                               target_at)
from fsskit.photos import FSSKitError
from fsskit.predictor import FewShotPredictor, create_model
from fsskit.similarity import ColourBackbone, FewShotModel


class Toy:
    "Three classes of coloured boxes on grey; 8, 6 and 3 photos; some pixels are ignored."
    name, class_ids, info = 'toy', [3, 5, 7], {'fold': 0, 'side': 'test', 'convention': 'clean', 'version': 1}
    sizes, colours = {3: 8, 5: 6, 7: 3}, {3: (220, 60, 40), 5: (40, 200, 60), 7: (60, 60, 220)}
    def class_name(self, c): return {3: 'red', 5: 'green', 7: 'blue'}[c]
    def photos(self, c): return [f'{c}-{i}' for i in range(self.sizes[c])]
    def _box(self, photo):
        c, i = map(int, photo.split('-'))
        rng = np.random.default_rng([c, i])
        return c, rng, *rng.integers(4, 30, 2), *rng.integers(12, 30, 2)
    def image(self, photo):
        c, rng, y, x, h, w = self._box(photo)
        image = rng.integers(90, 130, (64, 72, 3)).astype(np.uint8)
        image[y:y + h, x:x + w] = self.colours[c]
        return image
    def mask(self, photo, c):
        _, _, y, x, h, w = self._box(photo)
        mask = np.zeros((64, 72), np.uint8)
        mask[y:y + h, x:x + w], mask[0] = 1, 255
        return mask


class Red(FewShotModel):
    "Foreground where red is above 0.5013, which no mean of two bytes equals; counts its calls and can stop."
    stop_at = None
    def encode_support(self, images, masks): return None
    def segment(self, query, state):
        self.calls = getattr(self, 'calls', 0) + 1
        if self.calls == self.stop_at: raise KeyboardInterrupt
        return query[:, 0] - 0.5013


class Slow(ColourBackbone):
    "Counts photos that are really encoded."
    encoded = 0
    def forward(self, images, layers=None): Slow.encoded += len(images); return super().forward(images, layers)


class Shelf(dict):
    "A cache of the same interface as the one on disk."
    def put(self, key, value): self[key] = value


def red(): return Red(ColourBackbone(), input_size=64)


def by_hand(dataset, episodes):
    "Per class sums of intersection and union of 'red > 0.5013' on the model's square, at the label's own size."
    rows = []
    for e in episodes:
        image, mask = dataset.image(e.query), dataset.mask(e.query, e.class_id)
        red = np.asarray(Image.fromarray(image).resize((64, 64),
                                                       Image.BILINEAR))[:, :, 0].astype(np.float32) / 255 - 0.5013
        x = np.clip((np.arange(72) + 0.5) * 64 / 72 - 0.5, 0, 63)
        square = np.stack([np.interp(x, np.arange(64), row) for row in red]) > 0
        keep = mask != 255
        p, t = square & keep, (mask == 1) & keep
        rows.append((e.class_id, (p & t).sum(), (p | t).sum(), (~p & ~t & keep).sum(), ((~p | ~t) & keep).sum()))
    return np.array(rows)


def test_figures_by_hand():
    result = evaluate(red(), Toy(), episodes=25, seed=3, progress=False)
    episodes = list(EpisodeSampler(Toy(), 1, 25, 3))
    rows = by_hand(Toy(), episodes)
    assert np.array_equal(np.array(result.counts), rows)
    ious = {c: rows[rows[:, 0] == c][:, 1].sum() / rows[rows[:, 0] == c][:, 2].sum() for c in (3, 5, 7)}
    assert result.per_class == pytest.approx({'red': ious[3], 'green': ious[5], 'blue': ious[7]})
    assert result.miou == pytest.approx(np.mean(list(ious.values())))
    sums = rows[:, 1:].sum(0)
    assert result.fb_iou == pytest.approx((sums[0] / sums[1] + sums[2] / sums[3]) / 2)
    assert result.miou_ci95[0] <= result.miou <= result.miou_ci95[1]
    assert result.episodes == 25
    assert result.skipped_classes == {}
    assert not result.incomplete
    assert result.missing_classes == []
    assert result.seconds_per_episode > 0


def test_skipped_and_missing_classes():
    result = evaluate(red(), Toy(), shots=5, episodes=1, progress=False)
    assert result.skipped_classes == {'blue': 3}
    assert sorted(result.missing_classes + [n for n, v in result.per_class.items()
                                            if v is not None]) == ['green', 'red']
    assert result.per_class[result.missing_classes[0]] is None
    assert result.protocol['shots'] == 5 and result.protocol['min_photos'] == 6


def test_one_and_five_shots_share_queries():
    one, five = (evaluate(red(), Toy(), shots=k, episodes=12, min_photos=6, progress=False) for k in (1, 5))
    assert one.skipped_classes == five.skipped_classes == {'blue': 3}
    assert one.counts == five.counts and one.protocol['episode_hash'] != five.protocol['episode_hash']


def test_protocol_says_what_was_done():
    protocol = evaluate(create_model('dense_match', 'rgb', input_size=64), Toy(), episodes=2, seed=9,
                        progress=False).protocol
    expected = dict(model='dense_match', input_size=64, backbone='rgb', weights='none', layers=[0], stride=8, topk=5,
                    dataset='toy', data=Toy.info, fold=0,
                    side='test', convention='clean', shots=1, seed=9, min_photos=2,
                    replace=False, queries='random', class_ids=[3, 5, 7], score_size='original', threshold=0.0,
                    episode_hash=list_hash(list(EpisodeSampler(Toy(), 1, 2, 9))))
    assert {k: protocol[k] for k in expected} == expected
    assert set(protocol['versions']) == {'python', 'fsskit', 'torch', 'timm', 'numpy', 'pillow'}
    assert protocol['cpu_threads'] == torch.get_num_threads()


def test_model_and_predictor_agree():
    model, episode = create_model('dense_match', 'rgb', input_size=96), EpisodeSampler(Toy(), 2, 5)[1]
    data = load_episode(Toy(), episode)
    predictor = FewShotPredictor(model).set_support([s.image for s in data.support], [s.mask for s in data.support])
    mask = predictor.predict(data.query.image).mask
    keep = data.query.mask != 255
    counts = run_episode(model, data)
    assert counts.inter_fg == ((mask == 1) & (data.query.mask == 1)).sum()
    assert counts.union_fg == (((mask == 1) | (data.query.mask == 1)) & keep).sum()


@pytest.mark.parametrize('size, pixels', [('input', 64 * 64), (32, 32 * 32), ('original', 64 * 72)])
def test_score_size(size, pixels):
    counts = run_episode(red(), load_episode(Toy(), EpisodeSampler(Toy(), 1, 1)[0]), size)
    ignored = {'input': 64, 32: 0, 'original': 72}[size]
    assert counts.inter_fg + counts.union_bg == pixels - ignored


@pytest.mark.parametrize('size', ['large', 0, True, 3.5])
def test_bad_score_size(size):
    with pytest.raises(FSSKitError, match='is unknown'): evaluate(red(), Toy(), episodes=1, score_size=size)
    with pytest.raises(FSSKitError): target_at(np.zeros((2, 2)), size, 4)


def test_given_episodes(tmp_path):
    sampler = EpisodeSampler(Toy(), 2, 6, 4)
    write_episodes(tmp_path/'list.jsonl', sampler)
    drawn = evaluate(red(), Toy(), 2, 6, 4, progress=False)
    given = evaluate(red(), Toy(), episodes=read_episodes(tmp_path/'list.jsonl')[0], progress=False)
    assert given.counts == drawn.counts and given.protocol['episode_hash'] == drawn.protocol['episode_hash']
    assert given.protocol['shots'] == 2
    with pytest.raises(FSSKitError, match='empty list'): evaluate(red(), Toy(), episodes=[])


# ---- result files

def test_json(tmp_path):
    path = tmp_path/'new'/'result.json'
    result = evaluate(red(), Toy(), episodes=3, json=path, progress=False)
    data = json.loads(path.read_text())
    assert {'miou', 'miou_ci95', 'fb_iou', 'per_class', 'episodes', 'skipped_classes', 'seconds_per_episode',
            'protocol'} <= set(data)
    assert load_result(path) == result and data == json.loads(result.to_json())
    assert list(path.parent.iterdir()) == [path]
    assert str(result).startswith(f'mIoU {result.miou:.3f} [') and 'INCOMPLETE' not in str(result)


@pytest.mark.parametrize('text, words', [(None, 'cannot be read'), ('{', 'is not a result'),
                                         ('{"a": 1}', 'is not a result')])
def test_bad_result_file(tmp_path, text, words):
    if text is not None: (tmp_path/'r.json').write_text(text)
    with pytest.raises(FSSKitError, match=words): load_result(tmp_path/'r.json')


def test_interruption_loses_nothing(tmp_path):
    path, whole = tmp_path/'r.json', evaluate(red(), Toy(), episodes=8, progress=False)
    model = red()
    model.stop_at = 6
    with pytest.raises(KeyboardInterrupt): evaluate(model, Toy(), episodes=8, json=path, progress=False)
    partial = load_result(path)
    assert partial.incomplete
    assert partial.episodes == 5
    assert partial.counts == whole.counts[:5]
    assert 'INCOMPLETE' in str(partial)
    again = red()
    result = evaluate(again, Toy(), episodes=8, json=path, progress=False)
    assert again.calls == 3 and result.counts == whole.counts and not result.incomplete
    assert result.miou_ci95 == whole.miou_ci95 and load_result(path) == result


def test_other_settings_start_anew(tmp_path):
    path, model = tmp_path/'r.json', red()
    model.stop_at = 4
    with pytest.raises(KeyboardInterrupt): evaluate(model, Toy(), episodes=8, json=path, progress=False)
    other = red()
    evaluate(other, Toy(), episodes=8, seed=1, json=path, progress=False)
    assert other.calls == 8
    again = red()
    evaluate(again, Toy(), episodes=8, seed=1, json=path, progress=False)
    assert again.calls == 8  # a finished result is measured anew
    path.write_text('not json')
    assert evaluate(red(), Toy(), episodes=2, json=path, progress=False).episodes == 2


def test_interruption_before_the_first_episode(tmp_path):
    model = red()
    model.stop_at = 1
    with pytest.raises(KeyboardInterrupt): evaluate(model, Toy(), episodes=3, json=tmp_path/'r.json', progress=False)
    assert not (tmp_path/'r.json').exists()


def test_partial_results_are_written_on_the_way(tmp_path):
    saves = []
    run = Run([], 0., {}, {}, {})
    run.save = lambda: saves.append(len(run.rows))
    run_all(run, red(), Toy(), list(EpisodeSampler(Toy(), 1, 3)), 'original', progress=False, save_every=0)
    assert saves == [1, 2, 3]


# ---- what the model has seen

def knowing(**families):
    model = red()
    model.seen_classes = families
    return model


def test_classes_that_the_model_saw_are_refused(tmp_path):
    model = knowing(toy=['RED', 'zebra', 'blue'], coco=['green'])
    with pytest.raises(FSSKitError, match='trained on 2 of the classes that toy asks for .blue, red.: '
                       '.*allow_seen=True'):
        evaluate(model, Toy(), episodes=3, json=tmp_path/'r.json', progress=False)
    assert model.calls == 0 if hasattr(model, 'calls') else not (tmp_path/'r.json').exists()
    marked = evaluate(model, Toy(), episodes=3, allow_seen=True, progress=False)
    plain = evaluate(red(), Toy(), episodes=3, progress=False)
    assert marked.protocol == plain.protocol | {'seen_classes': ['blue', 'red']} and marked.counts == plain.counts
    assert 'seen_classes' not in evaluate(model, Toy(), episodes=3, classes=[5], progress=False).protocol


def test_listed_episodes_are_checked_too():
    episodes = [e for e in EpisodeSampler(Toy(), 1, 30) if e.class_id != 3]
    evaluate(knowing(toy=['red']), Toy(), episodes=episodes, progress=False)
    with pytest.raises(FSSKitError, match='trained on 1 of the classes that toy asks for .green.'):
        evaluate(knowing(toy=['green']), Toy(), episodes=episodes, progress=False)


def test_families_of_data():
    other = Toy()
    other.name = 'coco20i'
    assert data_family(other) == 'coco' and data_family(Toy()) == 'toy'
    assert seen_of(knowing(coco=['Green']), other, [3, 5]) == ['green']
    assert seen_of(knowing(coco=['Green']), Toy(), [3, 5]) == []
    assert seen_of(red(), Toy(), [3, 5, 7]) == []
    many = knowing(toy=['red', 'green', 'blue'])
    with pytest.raises(FSSKitError, match=r'3 of the classes that toy asks for \(blue, green, red\)'):
        evaluate(many, Toy(), episodes=2, progress=False)


# ---- parts of a measurement

@pytest.mark.parametrize('n', [1, 2, 3, 7])
@pytest.mark.parametrize('listed', [False, True])
def test_parts_join_to_the_whole(n, listed):
    episodes = list(EpisodeSampler(Toy(), 2, 11, 4)) if listed else 11
    options = dict(episodes=episodes, progress=False) | ({} if listed else {'shots': 2, 'seed': 4})
    whole = evaluate(red(), Toy(), **options)
    parts = [evaluate(red(), Toy(), part=(i, n), **options) for i in range(n)]
    assert [p.episodes for p in parts] == [len(range(i, 11, n)) for i in range(n)]
    joined = merge_parts(parts[::-1])
    for field in ('miou', 'miou_ci95', 'fb_iou', 'per_class', 'episodes', 'skipped_classes', 'missing_classes',
                  'protocol', 'counts', 'incomplete'):
        assert getattr(joined, field) == getattr(whole, field)
    assert joined.seconds_per_episode == pytest.approx(sum(p.seconds_per_episode * p.episodes for p in parts) / 11)
    assert n == 1 or all(p.protocol == whole.protocol | {'part': [i, n]} for i, p in enumerate(parts))


def test_parts_that_cannot_be_joined():
    halves = [evaluate(red(), Toy(), episodes=6, part=(i, 2), progress=False) for i in (0, 1)]
    other = evaluate(red(), Toy(), episodes=6, seed=1, part=(1, 2), progress=False)
    stopped = Result(**{**halves[1].to_dict(), 'incomplete': True})
    for parts in ([halves[0]], [halves[0], halves[0]], [halves[0], other], [halves[0], stopped], [*halves, halves[1]]):
        with pytest.raises(FSSKitError, match='cannot be joined'): merge_parts(parts)
    with pytest.raises(FSSKitError, match='6 and 3 episodes|3 and 6 episodes'):
        compare(halves[0], evaluate(red(), Toy(), episodes=6, progress=False))


@pytest.mark.parametrize('part', [(2, 2), (-1, 2), (0, 0), (0, 7)])
def test_parts_that_make_no_sense(part):
    with pytest.raises(FSSKitError, match='makes no sense for 6 episodes'):
        evaluate(red(), Toy(), episodes=6, part=part, progress=False)
    assert part_of([1, 2, 3], (1, 2)) == [2]


def test_an_interrupted_part_is_continued(tmp_path):
    model = red()
    model.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, Toy(), episodes=10, part=(1, 2), json=tmp_path/'b.json', progress=False)
    again = red()
    part = evaluate(again, Toy(), episodes=10, part=(1, 2), json=tmp_path/'b.json', progress=False)
    assert again.calls == 3 and part.counts == evaluate(red(), Toy(), episodes=10, progress=False).counts[1::2]


# ---- caches

def test_cache_changes_nothing_and_saves_work():
    shelf, dataset = Shelf(), Toy()
    plain = evaluate(create_model('dense_match', Slow(), input_size=64), dataset, 2, 12, progress=False)
    assert Slow.encoded <= 17  # each photo once, although 36 are needed
    Slow.encoded = 0
    first = evaluate(create_model('dense_match', Slow(), input_size=64), dataset, 2, 12, progress=False, cache=shelf)
    assert Slow.encoded == len(shelf) > 0
    Slow.encoded = 0
    second = evaluate(create_model('dense_match', Slow(), input_size=64), dataset, 2, 12, progress=False, cache=shelf)
    assert Slow.encoded == 0 and plain.counts == first.counts == second.counts


def test_cached_backbone_is_the_backbone():
    backbone, images = ColourBackbone(), torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    cached = CachedBackbone(backbone, memory=2)
    assert torch.allclose(cached(images)[0], backbone(images)[0], atol=1e-6)
    assert cached.name == 'rgb' and cached.stride == 8 and len(cached.recent) == 2
    with pytest.raises(AttributeError, match='attention'): cached.attention
    model = create_model('prototype', backbone)
    with pytest.raises(RuntimeError):
        with remembering(model): assert model.backbone is not backbone; raise RuntimeError
    assert model.backbone is backbone


def test_content_key():
    image, backbone = torch.zeros(3, 8, 8), ColourBackbone()
    other = image.clone()
    other[0, 0, 0] = 1e-3
    keys = {content_key(backbone, image, [0]), content_key(backbone, other, [0]), content_key(backbone, image, [0, 1]),
            content_key(backbone, torch.zeros(3, 4, 16), [0])}
    assert len(keys) == 4 and content_key(ColourBackbone(), torch.zeros(3, 8, 8), (0,)) in keys
    backbone.weights_id = 'other'
    assert content_key(backbone, image, [0]) not in keys


def test_class_names():
    class Twice(Toy):
        def class_name(self, c): return 'box' if c < 7 else 'blue'
    assert class_names(Twice(), [3, 5, 7]) == {3: 'box (3)', 5: 'box (5)', 7: 'blue'}


# ---- comparison

def test_compare(tmp_path):
    a = evaluate(create_model('dense_match', 'rgb', input_size=64), Toy(), episodes=15, progress=False,
                 json=tmp_path/'a.json')
    b = evaluate(red(), Toy(), episodes=15, progress=False)
    both = compare(tmp_path/'a.json', b)
    assert (both.miou_a, both.miou_b, both.episodes) == (a.miou, b.miou, 15)
    assert both.difference.value == pytest.approx(a.miou - b.miou)
    assert both.ratio.value == pytest.approx(a.miou / b.miou)
    assert both.difference.low <= both.difference.value <= both.difference.high
    same = compare(a, a)
    assert tuple(same.difference) == (0, 0, 0) and tuple(same.ratio) == (1, 1, 1)
    assert 'difference +0.000' in str(same) and 'ratio 1.000' in str(same)


def test_compare_with_nothing():
    a = evaluate(red(), Toy(), episodes=4, progress=False)
    zero = Result(**{**a.to_dict(), 'counts': [[c, 0, u, bi, bu + i] for c, i, u, bi, bu in a.counts]})
    both = compare(a, zero)
    assert both.ratio is None and both.miou_b == 0 and 'ratio' not in str(both)


def test_compare_refuses():
    a = evaluate(red(), Toy(), episodes=4, progress=False)
    with pytest.raises(FSSKitError, match='episode_hash'):
        compare(a, evaluate(red(), Toy(), episodes=4, seed=1, progress=False))
    with pytest.raises(FSSKitError, match='score_size'):
        compare(a, evaluate(red(), Toy(), episodes=4, score_size=32, progress=False))
    part = Result(**{**a.to_dict(), 'counts': a.counts[:3]})
    with pytest.raises(FSSKitError, match='4 and 3 episodes'): compare(a, part)
    wider = Result(**{**a.to_dict(), 'counts': [[c, i, u, bi, bu + 1] for c, i, u, bi, bu in a.counts]})
    with pytest.raises(FSSKitError, match='different sizes'): compare(a, wider)


def test_the_cache_on_disk(tmp_path):
    from fsskit.backbones import FeatureCache, create_backbone
    model = create_model('dense_match', create_backbone('embedded', None), input_size=64)
    first = evaluate(model, Toy(), episodes=4, progress=False, cache=FeatureCache(tmp_path))
    files = {f.name: f.stat().st_size for f in tmp_path.iterdir()}
    model.backbone.forward = None  # a second run must not encode anything
    second = evaluate(model, Toy(), episodes=4, progress=False, cache=FeatureCache(tmp_path))
    assert first.counts == second.counts and files == {f.name: f.stat().st_size for f in tmp_path.iterdir()}
    assert first.protocol['weights'] == 'random-0' and first.protocol['layers'] == [3, 5]
