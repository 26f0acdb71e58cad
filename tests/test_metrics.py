import json
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsskit.metrics import (Counts, FewShotScore, Interval, bootstrap_ci, class_sums, confusion, example_iou, fb_iou,
                            logits_to_mask, mean_iou, mean_over_folds, paired_difference, paired_ratio, per_class_iou,
                            pooled_iou, resampled_miou)
from fsskit.photos import FSSKitError

few = settings(max_examples=40, deadline=None, derandomize=True)
GOLDEN, CLASSES = [Counts(90, 100, 0, 0), Counts(1, 10, 0, 0), Counts(40, 80, 0, 0)], [0, 0, 1]  # class A, A, B


def sets(pred, target, ignore=255):
    """The definition with sets of pixel positions: (inter_fg, union_fg, inter_bg, union_bg)."""
    spots = [(y, x) for y in range(len(target)) for x in range(len(target[0])) if target[y][x] != ignore]
    P, T = ({s for s in spots if m[s[0]][s[1]] == 1} for m in (pred, target))
    p, t = set(spots) - P, set(spots) - T
    return len(P & T), len(P | T), len(p & t), len(p | t)


def loops(counts, class_ids, classes=None, zero=False):
    """mIoU and IoU by class with dictionaries."""
    sums = {c: [0, 0] for c in (set(class_ids) if classes is None else classes)}
    for row, c in zip(counts, class_ids):
        sums[c][0] += int(row[0])
        sums[c][1] += int(row[1])
    ious = {c: i / u if u else (0. if zero else None) for c, (i, u) in sums.items()}
    known = [v for v in ious.values() if v is not None]
    return (sum(known) / len(known) if known else None), ious


@st.composite
def masks(draw, batch=False):
    h, w, seed = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    shape = (draw(st.integers(1, 4)), h, w) if batch else (h, w)
    return rng.integers(0, 2, shape), rng.choice([0, 1, 255], shape)


@st.composite
def results(draw, systems=1):
    """Counts of 1..12 episodes for each system, and their classes."""
    n, rng = draw(st.integers(1, 12)), np.random.default_rng(draw(st.integers(0, 10**6)))
    ids = rng.integers(0, draw(st.integers(1, 4)), n)
    tables = []
    for _ in range(systems):
        union, background = rng.integers(1, 1000, (2, n))
        tables.append(np.stack([rng.integers(0, union + 1), union, background, background + rng.integers(0, 9, n)], 1))
    return (*tables, ids)


# --- counting

def test_confusion_of_four_by_four():
    pred = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    target = [[0, 1, 1, 255], [0, 1, 1, 255], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert confusion(pred, target) == Counts(4, 9, 5, 10) == Counts(*sets(pred, target))


@few
@given(masks())
def test_confusion_is_the_definition(pair):
    pred, target = pair
    counts = confusion(pred, target)
    assert counts == Counts(*sets(pred, target)) and all(type(c) is int for c in counts)
    assert confusion(torch.from_numpy(pred).bool(), torch.from_numpy(target)) == counts
    assert confusion(pred.astype(np.float32), target.astype(np.uint8)) == counts


@few
@given(masks(batch=True))
def test_a_batch_is_a_stack_of_singles(pair):
    pred, target = pair
    batch = confusion(pred, target)
    assert np.array_equal(np.stack(batch, 1), [confusion(p, t) for p, t in zip(pred, target)])
    assert all(c.dtype == np.int64 and c.shape == (len(pred),) for c in batch)


@few
@given(masks())
def test_ignored_pixels_never_count(pair):
    pred, target = pair
    assert confusion(np.where(target == 255, 1 - pred, pred), target) == confusion(pred, target)
    inter_fg, union_fg, inter_bg, union_bg = confusion(pred, target)
    assert inter_fg + union_bg == inter_bg + union_fg == (target != 255).sum()


@few
@given(masks())
def test_swapping_roles(pair):
    pred, target = pair[0], pair[1] % 2
    a, b = confusion(pred, target), confusion(1 - pred, 1 - target)
    assert b == Counts(a.inter_bg, a.union_bg, a.inter_fg, a.union_fg)
    assert confusion(target, pred) == a


def test_another_ignore_label_or_none():
    pred, target = np.array([[1, 1, 0]]), np.array([[1, 7, 7]])
    assert confusion(pred, target, ignore=7) == Counts(1, 1, 0, 0)
    assert confusion(pred, target % 2, ignore=None) == Counts(2, 3, 0, 1)


@pytest.mark.parametrize('pred, target, words', [
    (np.zeros((2, 3)), np.zeros((3, 2)), ['(2, 3)', '(3, 2)', 'same shape']),
    (np.zeros(3), np.zeros(3), ['(H, W)']), (np.zeros((0, 3)), np.zeros((0, 3)), ['(H, W)']),
    (np.full((2, 2), .3), np.zeros((2, 2)), ['pred', 'compare logits with 0']),
    (np.full((2, 2), np.nan), np.zeros((2, 2)), ['pred']),
    (np.full((2, 2), 255), np.zeros((2, 2)), ['pred']),
    (np.zeros((2, 2)), np.full((2, 2), 15), ['target', '0, 1, 255', 'holds 15']),
    (np.zeros((2, 2)), np.full((2, 2), np.nan), ['target']),
])
def test_bad_masks_are_named(pred, target, words):
    with pytest.raises(FSSKitError) as error: confusion(pred, target)
    assert all(w in str(error.value) for w in words), error.value


def test_without_ignore_255_is_refused():
    with pytest.raises(FSSKitError, match='only 0, 1; it holds 255'): confusion([[0]], [[255]], ignore=None)


# --- scores

def test_golden_numbers():
    assert mean_iou(GOLDEN, CLASSES) == pytest.approx(0.66364, abs=5e-6)
    assert example_iou(GOLDEN) == pytest.approx(0.5, abs=1e-12)
    assert pooled_iou(GOLDEN) == pytest.approx(0.68947, abs=5e-6)
    assert per_class_iou(GOLDEN, CLASSES) == {0: 91 / 110, 1: 0.5}


def test_fb_iou_by_hand():
    counts = [(3, 10, 80, 90), (1, 6, 5, 30)]
    assert fb_iou(counts) == pytest.approx((4 / 16 + 85 / 120) / 2)
    assert fb_iou([(0, 0, 9, 10)]) == 0.9  # no foreground anywhere: only the background is defined


@few
@given(results(), st.integers(0, 3))
def test_scores_are_the_definition(result, extra):
    counts, ids = result
    classes = range(4 + extra)
    for zero, undrawn in ((False, 'report'), (True, 'zero')):
        miou, ious = loops(counts, ids.tolist(), classes, zero)
        assert mean_iou(counts, ids, classes, undrawn) == pytest.approx(miou, rel=1e-12)
        assert per_class_iou(counts, ids, classes, undrawn) == pytest.approx(ious)
    assert mean_iou(counts, ids) == pytest.approx(loops(counts, ids.tolist())[0], rel=1e-12)
    assert example_iou(counts) == pytest.approx(sum(c[0] / c[1] for c in counts) / len(counts))
    total = [sum(int(c[k]) for c in counts) for k in range(4)]
    assert pooled_iou(counts) == pytest.approx(total[0] / total[1])
    assert fb_iou(counts) == pytest.approx((total[0] / total[1] + total[2] / total[3]) / 2)


@few
@given(results(), st.integers(0, 99))
def test_scores_do_not_depend_on_order_or_container(result, seed):
    counts, ids = result
    order = np.random.default_rng(seed).permutation(len(ids))
    as_lists = [Counts(*map(int, row)) for row in counts[order]], ids[order].tolist()
    assert mean_iou(counts, ids) == mean_iou(*as_lists)
    assert per_class_iou(counts, ids) == per_class_iou(*as_lists)
    assert fb_iou(counts) == fb_iou(as_lists[0])
    assert bootstrap_ci(counts, ids, n=20) == bootstrap_ci(*as_lists, n=20)


def test_mean_iou_is_not_the_mean_of_episodes_when_sizes_differ():
    assert mean_iou([(0, 1, 0, 0), (99, 99, 0, 0)], [4, 4]) == 0.99
    assert example_iou([(0, 1, 0, 0), (99, 99, 0, 0)]) == 0.5


def test_class_sums_lists_every_class_of_the_fold():
    classes, sums = class_sums(GOLDEN, [7, 7, 3], classes=[9, 7, 3])
    assert classes.tolist() == [3, 7, 9] and sums.tolist() == [[40, 80, 0, 0], [91, 110, 0, 0], [0, 0, 0, 0]]


def test_undrawn_class_is_missing_and_zero_only_on_request():
    rows, asked = [(60, 100, 0, 0)] * 19, [c for c in range(20) if c != 13]
    assert mean_iou(rows, asked, range(20)) == pytest.approx(0.6)
    assert mean_iou(rows, asked, range(20), undrawn='zero') == pytest.approx(0.57)
    assert per_class_iou(rows, asked, range(20))[13] is None
    assert per_class_iou(rows, asked, range(20), undrawn='zero')[13] == 0.0


def test_class_without_a_foreground_pixel_is_missing_too():
    counts = [(0, 0, 50, 50), (5, 10, 40, 45)]
    assert per_class_iou(counts, [0, 1]) == {0: None, 1: 0.5} and mean_iou(counts, [0, 1]) == 0.5
    assert mean_iou(counts, [0, 1], undrawn='zero') == 0.25
    for call in (lambda: mean_iou(counts[:1], [0]), lambda: example_iou(counts[:1]), lambda: pooled_iou(counts[:1])):
        with pytest.raises(FSSKitError, match='No pixel is foreground'): call()


def test_large_counts_do_not_overflow():
    big = np.array([[2**31, 2**32, 1, 1]] * 3)
    assert mean_iou(big, [0, 0, 0]) == 0.5
    small = np.full((3, 4), 200, np.uint8)  # sums beyond uint8
    assert class_sums(small, np.zeros(3, np.uint8))[1].tolist() == [[600] * 4]


@pytest.mark.parametrize('call, words', [
    (lambda: mean_iou([], []), 'shape (E, 4)'), (lambda: mean_iou([1, 2, 3, 4], [0]), 'shape (E, 4)'),
    (lambda: mean_iou(np.zeros((2, 3), int), [0, 0]), '(2, 3)'),
    (lambda: mean_iou(np.ones((2, 4)), [0, 0]), 'float64'), (lambda: fb_iou([(-1, 1, 1, 1)]), 'from -1'),
    (lambda: mean_iou(GOLDEN, [0, 0]), '3 whole numbers'), (lambda: mean_iou(GOLDEN, [0., 0., 1.]), 'float64'),
    (lambda: mean_iou(CLASSES, GOLDEN), 'shape (E, 4)'),  # the two arguments the wrong way round
    (lambda: mean_iou(GOLDEN, [0, 0, 9], [0, 1]), 'class 9'),
    (lambda: mean_iou(GOLDEN, CLASSES, undrawn='skip'), "'report', 'zero'"),
    (lambda: bootstrap_ci(GOLDEN, CLASSES, level=95), 'level=95'), (lambda: bootstrap_ci(GOLDEN, CLASSES, n=0), 'n=0'),
    (lambda: paired_difference(GOLDEN, GOLDEN[:2], CLASSES), 'the same episodes'),
    (lambda: paired_ratio(GOLDEN, [(0, 9, 1, 1)] * 3, CLASSES), 'mIoU 0'),
    (lambda: mean_over_folds([]), 'folds is empty'),
])
def test_bad_counts_are_named(call, words):
    with pytest.raises(FSSKitError) as error: call()
    assert words in str(error.value)


# --- intervals

def naive_samples(ids, tables, seed, n, classes=None, zero=False):
    """mIoU of the resamples by repeating episodes, with the weights and the order of episodes as documented."""
    order = sorted(range(len(ids)), key=lambda k: (ids[k], *(tuple(t[k][::-1]) for t in tables[::-1])))
    weights = np.random.default_rng(seed).multinomial(len(ids), [1 / len(ids)] * len(ids), size=n)
    samples = []
    for table in tables:
        drawn = [[order[k] for k in range(len(ids)) for _ in range(w[k])] for w in weights]
        samples.append([loops([table[k] for k in d], [int(ids[k]) for k in d], classes, zero)[0] for d in drawn])
    return np.array(samples)


@few
@given(results(systems=2), st.integers(0, 99), st.sampled_from([1, 7, 130]))
def test_resamples_are_the_loop(result, seed, n):
    a, b, ids = result
    both = resampled_miou(ids, a, b, seed=seed, n=n)
    assert np.allclose(both, naive_samples(ids, [a, b], seed, n), rtol=1e-12, atol=0)
    zero = resampled_miou(ids, a, seed=seed, n=n, classes=range(6), undrawn='zero')
    assert np.allclose(zero, naive_samples(ids, [a], seed, n, range(6), True), rtol=1e-12, atol=0)


@few
@given(results(), st.integers(0, 99))
def test_interval_is_the_middle_of_the_resamples(result, seed):
    counts, ids = result
    samples = np.sort(naive_samples(ids, [counts], seed, 41)[0])
    got = bootstrap_ci(counts, ids, seed, n=41, level=0.9)  # (41 - 1) * 5 % = place 2 from either end
    assert got == pytest.approx((loops(counts, ids.tolist())[0], samples[2], samples[38]))
    assert isinstance(got, Interval)


@few
@given(results(systems=2), st.integers(0, 99))
def test_paired_intervals_use_the_same_resamples(result, seed):
    a, b, ids = result
    b[:, 0] = np.maximum(b[:, 0], 1)
    one, two = naive_samples(ids, [a, b], seed, 41)
    whole_a, whole_b = loops(a, ids.tolist())[0], loops(b, ids.tolist())[0]
    for got, value, samples in ((paired_difference(a, b, ids, seed, 41, 0.9), whole_a - whole_b, one - two),
                                (paired_ratio(a, b, ids, seed, 41, 0.9), whole_a / whole_b, one / two)):
        assert got == pytest.approx((value, np.sort(samples)[2], np.sort(samples)[38]), abs=1e-12)


@few
@given(results())
def test_a_system_equals_itself_exactly(result):
    counts, ids = result
    counts[:, 0] = np.maximum(counts[:, 0], 1)
    assert paired_difference(counts, counts, ids, n=50) == (0, 0, 0)
    assert paired_ratio(counts, counts, ids, n=50) == (1, 1, 1)


def test_equal_episodes_have_no_spread_and_seeds_matter():
    assert bootstrap_ci([(3, 4, 9, 9)] * 30, [0] * 30) == (0.75, 0.75, 0.75)
    rng = np.random.default_rng(0)
    counts = np.stack([rng.integers(0, 100, 50), np.full(50, 100), *np.full((2, 50), 9)], 1)
    ids = rng.integers(0, 5, 50)
    assert bootstrap_ci(counts, ids, seed=1) == bootstrap_ci(counts, ids, seed=1) != bootstrap_ci(counts, ids, seed=2)
    wide, narrow = bootstrap_ci(counts, ids, level=0.99), bootstrap_ci(counts, ids, level=0.5)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_spread_follows_the_square_root_law():
    """One class, equal unions: mIoU is a mean, so its standard error is known."""
    rng = np.random.default_rng(0)
    iou = rng.integers(0, 1001, 400)
    counts = np.stack([iou, *np.full((3, 400), 1000)], 1)
    error = (iou / 1000).std() / 400 ** .5
    interval = bootstrap_ci(counts, [0] * 400, n=4000)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_resample_without_any_foreground_is_left_out():
    counts, ids = [(0, 0, 9, 9)] * 3 + [(1, 2, 9, 9)], [0, 0, 0, 1]
    assert np.isnan(resampled_miou(ids, counts, n=200)).any()
    assert bootstrap_ci(counts, ids, n=200) == (0.5, 0.5, 0.5)


def test_mean_over_folds():
    rng = np.random.default_rng(3)
    folds = []
    for f in range(3):
        union = rng.integers(1, 500, 20)
        folds.append((np.stack([rng.integers(0, union), union, union, union], 1), rng.integers(0, 2, 20) + 5 * f))
    samples = np.mean([naive_samples(ids, [counts], [7, f], 41)[0] for f, (counts, ids) in enumerate(folds)], axis=0)
    wanted = np.mean([loops(counts, ids.tolist())[0] for counts, ids in folds])
    got = mean_over_folds(folds, seed=7, n=41, level=0.9)
    assert got == pytest.approx((wanted, np.sort(samples)[2], np.sort(samples)[38]))


# --- the class

def filled(preds, targets, ids, **options):
    score = FewShotScore(**options)
    for p, t, c in zip(preds, targets, ids): score.update(p, t, int(c))
    return score


@few
@given(st.integers(1, 15), st.integers(1, 4), st.integers(0, 10**6))
def test_merged_parts_equal_the_whole(n, parts, seed):
    rng = np.random.default_rng(seed)
    preds, targets, ids = rng.integers(0, 2, (n, 3, 5)), rng.choice([0, 1, 255], (n, 3, 5)), rng.integers(0, 3, n)
    targets[:, 0, 0] = 1
    whole, part = FewShotScore(range(5)), rng.integers(0, parts, n)
    whole.update(preds, torch.from_numpy(targets), torch.from_numpy(ids))
    merged = FewShotScore(range(5))
    for k in rng.permutation(parts):
        merged.merge(filled(preds[part == k], targets[part == k], ids[part == k], classes=range(5)))
    assert merged.compute() == whole.compute() and merged.interval(n=30) == whole.interval(n=30)
    miou, ious = loops([sets(p, t) for p, t in zip(preds, targets)], ids.tolist(), range(5))
    result = whole.compute()
    assert result['miou'] == pytest.approx(miou) and result['per_class'] == pytest.approx(ious)
    assert result['missing'] == [c for c in range(5) if ious[c] is None] and result['episodes'] == n == len(whole)
    assert result['episodes_per_class'] == {c: int((ids == c).sum()) for c in range(5)}
    assert result['fb_iou'] == fb_iou(whole.counts)


def test_update_returns_the_counts():
    score = FewShotScore()
    assert score.update([[1, 0]], [[1, 1]], 3) == Counts(1, 2, 0, 1)
    assert np.array_equal(score.update([[[1, 0]]] * 2, [[[1, 1]]] * 2, [3, 4]).union_fg, [2, 2])
    assert score.counts == [Counts(1, 2, 0, 1)] * 3 and score.class_ids == [3, 3, 4]


def test_compute_with_undrawn_zero_still_names_the_missing():
    score = filled([[[1, 1]]], [[[1, 0]]], [2], classes=[2, 5], undrawn='zero')
    result = score.compute()
    assert result['miou'] == 0.25 and result['per_class'] == {2: 0.5, 5: 0.0} and result['missing'] == [5]
    assert score.interval(n=10) == (0.25, 0.25, 0.25)
    assert json.loads(json.dumps(result))['missing'] == [5]


def test_state_survives_json_pickle_and_reset():
    score = filled([[[1, 1]], [[0, 1]]], [[[1, 0]], [[255, 1]]], [2, 5], classes=[5, 2])
    state = json.loads(json.dumps(score.state_dict()))
    assert state == {'classes': [2, 5], 'undrawn': 'report', 'ignore': 255, 'class_ids': [2, 5],
                     'counts': [[1, 2, 0, 1], [1, 1, 0, 0]]}
    loaded = filled([[[1]]], [[[1]]], [2], classes=[2, 5])
    loaded.load_state_dict(state)
    assert loaded.compute() == score.compute() == pickle.loads(pickle.dumps(score)).compute()
    state['counts'].clear()
    assert len(loaded) == 2  # the state was copied
    score.reset()
    assert len(score) == 0 and len(loaded) == 2
    with pytest.raises(FSSKitError, match='No episode was scored'): score.compute()


@pytest.mark.parametrize('options, words', [({'classes': [0]}, 'classes'), ({'undrawn': 'zero'}, 'undrawn'),
                                            ({'ignore': None}, 'ignore')])
def test_scores_with_other_settings_do_not_merge(options, words):
    score, other = filled([[[1]]], [[[1]]], [0]), filled([[[1]]], [[[1]]], [0], **options)
    with pytest.raises(FSSKitError, match=f'do not belong together: {words}'): score.merge(other)
    with pytest.raises(FSSKitError, match='do not belong together'): score.load_state_dict(other.state_dict())
    assert len(score) == 1


@pytest.mark.parametrize('args', [([[2]], [[1]], 0), ([[1]], [[1]], 7), ([[1]], [[1]], 0.5), ([[1]], [[1]], [0, 1]),
                                  ([[[1]], [[1]]], [[[1]], [[1]]], 0)])
def test_a_refused_update_leaves_no_trace(args):
    score = filled([[[1]]], [[[1]]], [0], classes=[0, 1])
    with pytest.raises(FSSKitError): score.update(*args)
    assert len(score) == len(score.class_ids) == 1


def test_unknown_undrawn_is_refused_at_once():
    with pytest.raises(FSSKitError, match="undrawn='drop'"): FewShotScore(undrawn='drop')


def _part(k):
    rng = np.random.default_rng(k)
    return filled(rng.integers(0, 2, (5, 4, 4)), rng.choice([0, 1, 255], (5, 4, 4)), rng.integers(0, 3, 5))


@pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='needs fork, to keep the test short')
@pytest.mark.filterwarnings('ignore:.*fork:DeprecationWarning')
def test_parts_from_other_processes_merge():
    with multiprocessing.get_context('fork').Pool(2) as pool: parts = pool.map(_part, range(4))
    merged, here = FewShotScore(), FewShotScore()
    for k in (2, 0, 3, 1): merged.merge(parts[k])
    for k in range(4): here.merge(_part(k))
    assert merged.compute() == here.compute() and merged.interval() == here.interval() and len(merged) == 20


# --- the size of scoring

def bilinear(grid, size, corners):
    """Bilinear interpolation of (h, w) by the formula, pixel by pixel."""
    out = np.zeros(size)
    for Y in range(size[0]):
        for X in range(size[1]):
            at = []
            for k, (i, n, m) in enumerate(((Y, size[0], grid.shape[0]), (X, size[1], grid.shape[1]))):
                s = i * (m - 1) / max(n - 1, 1) if corners else max((i + .5) * m / n - .5, 0)
                low = min(int(s), m - 1)
                at.append((low, min(low + 1, m - 1), s - low))
            (y0, y1, dy), (x0, x1, dx) = at
            top, bottom = (grid[y, x0] * (1 - dx) + grid[y, x1] * dx for y in (y0, y1))
            out[Y, X] = top * (1 - dy) + bottom * dy
    return out


@pytest.mark.parametrize('corners', [False, True])
@pytest.mark.parametrize('size', [(9, 14), (4, 5), (3, 17), (2, 3)])
def test_logits_are_enlarged_before_the_threshold(size, corners):
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    masks = logits_to_mask(logits, size, align_corners=corners)
    assert masks.dtype == torch.bool and masks.shape == (3, *size)
    for grid, mask in zip(logits.double().numpy(), masks.numpy()):
        wanted = bilinear(grid, size, corners)
        sure = abs(wanted) > 1e-5
        assert sure.mean() > 0.9 and np.array_equal(mask[sure], (wanted > 0)[sure])


def test_logits_of_the_same_size_are_only_compared_and_zero_is_background():
    logits = torch.tensor([[[-1., 0.], [1e-6, 3.]]])
    assert logits_to_mask(logits, (2, 2)).tolist() == [[[False, False], [True, True]]]
    assert logits_to_mask(logits.bfloat16(), (2, 2)).tolist() == [[[False, False], [True, True]]]
    with pytest.raises(FSSKitError, match=r'\(B, h, w\); got \(2, 2\)'): logits_to_mask(logits[0], (2, 2))
