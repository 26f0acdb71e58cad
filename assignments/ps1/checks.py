"""Hidden checks of problem set 1 (episodes, folds, metrics). Instructor only."""
import numpy as np
import torch
from fsskit.episodes import draw
from grader import Question, Wrong, check, same

QUESTIONS = {
    'q1': Question('fair_folds', points=20, public=5),
    'q2': Question('scene_episode', points=20, public=5),
    'q3': Question('band_counts', points=20, public=5),
    'q4': Question('group_miou', points=20, public=5),
    'q5': Question('stratified_differences', points=20, public=5),
}


def whole(rng, low: int, high: int) -> int:
    "A whole number from low to high, both included."
    return int(rng.integers(low, high + 1))


# ---- q1: fair folds ------------------------------------------------------------------------------------------------

def slow_folds(photos: list[int], n_folds: int) -> list[list[int]]:
    "Class by class: look for the largest one that is left, then for the emptiest fold with room."
    left, member = list(range(len(photos))), {}
    while left:
        largest = left[0]
        for c in left:
            if photos[c] > photos[largest]: largest = c
        left.remove(largest)
        best = None
        for f in range(n_folds):
            inside = [c for c in member if member[c] == f]
            load = sum(photos[c] for c in inside)
            if len(inside) * n_folds < len(photos) and (best is None or load < best[0]): best = (load, f)
        member[largest] = best[1]
    return [[c for c in range(len(photos)) if member[c] == f] for f in range(n_folds)]


def heavy(rng) -> tuple[list[int], int]:
    "Different numbers of photos, one class larger than all others together; at least three classes a fold."
    n_folds, each = whole(rng, 2, 4), whole(rng, 3, 5)
    photos = rng.choice(np.arange(20, 900), n_folds * each, replace=False).tolist()
    photos[whole(rng, 0, len(photos) - 1)] = 3 * sum(photos)
    return photos, n_folds


@check('q1', points=5, title='The rule, class by class')
def rule(student, rng):
    photos, n_folds = heavy(rng)
    same(student(photos, n_folds), slow_folds(photos, n_folds))


@check('q1', points=4, title='Every class is in one fold, and all folds have the same number of classes')
def partition(student, rng):
    photos, n_folds = heavy(rng)
    folds = student(photos, n_folds)
    if not isinstance(folds, (list, tuple)) or not all(isinstance(fold, (list, tuple)) for fold in folds):
        raise Wrong('wrong type')
    same([len(fold) for fold in folds], [len(photos) // n_folds] * n_folds)
    same(sorted(c for fold in folds for c in fold), list(range(len(photos))))


@check('q1', points=3, title='Among equal classes and equal folds the smaller number comes first')
def ties(student, rng):
    n_folds, each, photos = whole(rng, 2, 5), whole(rng, 3, 5), whole(rng, 10, 99)
    same(student([photos] * (n_folds * each), n_folds), [list(range(f, n_folds * each, n_folds)) for f in range(n_folds)])


@check('q1', points=3, title='More photos of every class change nothing, and the list stays as it is')
def scaled(student, rng):
    photos, n_folds = heavy(rng)
    factor = whole(rng, 2, 9)
    folds, (after, _) = student.after([factor * n for n in photos], n_folds)
    same(folds, slow_folds(photos, n_folds))
    if after != [factor * n for n in photos]: raise Wrong('input was changed')


# ---- q2: episodes from films ---------------------------------------------------------------------------------------

def slow_episode(photos, scenes, shots, seed, index) -> tuple[str, list[str]]:
    "The same draws, with the pool filtered anew for every support."
    ordered = sorted(photos)
    taken = [ordered[draw(len(ordered), seed, index, 1)]]
    for k in range(shots):
        fresh = []
        for photo in ordered:
            if all(scenes[photo] != scenes[other] for other in taken): fresh.append(photo)
        taken.append(fresh[draw(len(fresh), seed, index, 2 + k)])
    return taken[0], taken[1:]


def films(rng, n_scenes: int) -> dict[str, int]:
    "Photos in sorted order, several of each scene; names and scene numbers say nothing about each other."
    numbers = np.repeat(rng.choice(1000, n_scenes, replace=False), 4)
    names = sorted(f'p{n:04d}' for n in rng.choice(10000, len(numbers), replace=False))
    return dict(zip(names, rng.permutation(numbers).tolist()))


@check('q2', points=5, title='The rule, draw by draw')
def draws(student, rng):
    scenes, shots, seed = films(rng, whole(rng, 6, 8)), whole(rng, 3, 4), whole(rng, 0, 999)
    for index in rng.integers(0, 5000, 12).tolist():
        same(student(list(scenes), scenes, shots, seed, index), slow_episode(scenes, scenes, shots, seed, index))


@check('q2', points=4, title='All photos of an episode come from different scenes')
def different_scenes(student, rng):
    scenes, shots, seed = films(rng, 6), 4, whole(rng, 0, 999)
    for index in rng.integers(0, 5000, 25).tolist():
        answer = student(list(scenes), scenes, shots, seed, index)
        if not isinstance(answer, (list, tuple)) or len(answer) != 2: raise Wrong('wrong type')
        query, supports = answer
        same(len(supports), shots)
        if not {query, *supports} <= scenes.keys(): raise Wrong('values differ')
        same(len({scenes[photo] for photo in (query, *supports)}), shots + 1)


@check('q2', points=3, title='The order in which the photos are listed does not matter')
def any_order(student, rng):
    scenes, shots, seed = films(rng, 7), 3, whole(rng, 0, 999)
    for index in rng.integers(0, 5000, 8).tolist():
        shuffled = rng.permutation(list(scenes)).tolist()
        same(student(shuffled, scenes, shots, seed, index), slow_episode(scenes, scenes, shots, seed, index))


@check('q2', points=3, title='One scene too few is a ValueError; exactly enough is none')
def enough(student, rng):
    shots, seed = whole(rng, 2, 4), whole(rng, 0, 999)
    few, exact = films(rng, shots), films(rng, shots + 1)
    same(student.error(list(few), few, shots, seed, 3), 'ValueError')
    same(student.error(list(exact), exact, shots, seed, 3), None)


# ---- q3: only the border -------------------------------------------------------------------------------------------

def slow_band(pred, target, width: int) -> tuple[int, int]:
    "Pixel by pixel, neighbour by neighbour."
    pred, target = np.asarray(pred), np.asarray(target)
    (height, length), inter, union = target.shape, 0, 0
    for y in range(height):
        for x in range(length):
            around = target[max(0, y - width):y + width + 1, max(0, x - width):x + width + 1]
            if target[y, x] == 255 or not (around == 1).any() or not (around == 0).any(): continue
            inter += int(pred[y, x] == 1 and target[y, x] == 1)
            union += int(pred[y, x] == 1 or target[y, x] == 1)
    return inter, union


def inner_box(rng, width: int) -> torch.Tensor:
    "A rectangle of 1 that keeps `width` + 2 pixels away from the border, in a photo that is not square."
    height, length = (2 * width + 4 + side for side in rng.choice(np.arange(5, 12), 2, replace=False).tolist())
    target, margin = torch.zeros(height, length, dtype=torch.int64), width + 2
    target[margin:height - margin, margin:length - margin] = 1
    return target


def scribble(rng, target: torch.Tensor) -> torch.Tensor:
    "A prediction without any sense: half of the pixels."
    return torch.from_numpy(rng.integers(0, 2, tuple(target.shape)))


@check('q3', points=5, title='An object inside the photo: every pixel with its neighbourhood')
def inside(student, rng):
    width = whole(rng, 2, 3)
    target = inner_box(rng, width)
    pred = scribble(rng, target)
    same(student(pred, target, width), slow_band(pred, target, width))


@check('q3', points=4, title='Ignored pixels are not counted, and are neither object nor background')
def ignored(student, rng):
    width = whole(rng, 2, 3)
    target = inner_box(rng, width)
    top, side = width + 2, whole(rng, width + 3, target.shape[1] - width - 3)
    target[top - 2:top, :] = 255  # above the object nothing but ignored pixels is near
    target[:, side] = 255  # and a line across it, whose pixels are near both
    pred = scribble(rng, target)
    pred[target == 255] = 1
    same(student(pred, target, width), slow_band(pred, target, width))


@check('q3', points=3, title='What lies outside the photo is no background')
def borders(student, rng):
    height, length = whole(rng, 8, 10), whole(rng, 11, 13)
    target, width = torch.ones(height, length, dtype=torch.int64), whole(rng, 2, 3)
    same(student(torch.ones_like(target), target, width), (0, 0))
    target[:, whole(rng, 4, 6):] = 0
    pred = scribble(rng, target)
    same(student(pred, target, width), slow_band(pred, target, width))


@check('q3', points=3, title='A band as wide as the photo counts everything')
def widest(student, rng):
    target = torch.zeros(whole(rng, 6, 8), whole(rng, 9, 12), dtype=torch.int64)
    target[0, 0] = 1
    pred = scribble(rng, target)
    pred[-1, -1] = 1
    same(student(pred, target, max(target.shape) - 1), slow_band(pred, target, max(target.shape)))


# ---- q4: a mean of means -------------------------------------------------------------------------------------------

def slow_groups(counts, class_ids, group_of) -> dict:
    "Episode by episode into sums, then class by class, then group by group."
    inter, union = {c: 0 for c in group_of}, {c: 0 for c in group_of}
    for (i, u), c in zip(counts.tolist(), class_ids.tolist()):
        inter[c] += i
        union[c] += u
    groups = {}
    for group in group_of.values():
        ious = [inter[c] / union[c] for c in group_of if group_of[c] == group and union[c]]
        groups[group] = sum(ious) / len(ious) if ious else None
    known = [value for value in groups.values() if value is not None]
    return {'miou': sum(known) / len(known), 'groups': groups}


def three_groups(rng) -> dict[int, int]:
    "Three groups of 1, 2 and 4 classes; numbers of classes and groups without any order."
    numbers = rng.choice(100, 7, replace=False).tolist()
    names = rng.choice(50, 3, replace=False).tolist()
    return dict(zip(numbers, [names[0]] + [names[1]] * 2 + [names[2]] * 4))


def episodes(rng, classes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    "Counts of episodes of these classes, 2 or more of each and no two equally often, of very different sizes, in any order."
    ids = np.repeat(classes, 2 + rng.permutation(len(classes)))
    union = np.exp(rng.uniform(3, 8, len(ids))).astype('int64')
    inter = (union * rng.uniform(.05, .95, len(ids))).astype('int64')
    order = rng.permutation(len(ids))
    return torch.from_numpy(np.stack([inter, union], 1)[order]), torch.from_numpy(ids[order])


@check('q4', points=5, title='Sums within classes, then means over classes, then over groups')
def nested(student, rng):
    group_of = three_groups(rng)
    counts, ids = episodes(rng, list(group_of))
    same(student(counts, ids, group_of), slow_groups(counts, ids, group_of))


@check('q4', points=4, title='Classes of which nothing is known are left out')
def undrawn(student, rng):
    group_of = three_groups(rng)
    classes = list(group_of)
    counts, ids = episodes(rng, [classes[0], classes[2], *classes[3:6]])
    counts[ids == classes[3]] = 0  # drawn, but without a pixel to score
    same(student(counts, ids, group_of), slow_groups(counts, ids, group_of))


@check('q4', points=3, title='A group of which nothing is known is None')
def empty_group(student, rng):
    group_of = three_groups(rng)
    classes = list(group_of)
    counts, ids = episodes(rng, classes[:1] + classes[3:])
    same(student(counts, ids, group_of), slow_groups(counts, ids, group_of))


@check('q4', points=3, title='Every episode twice, in another order: the same result')
def twice(student, rng):
    group_of = three_groups(rng)
    counts, ids = episodes(rng, list(group_of))
    order = torch.from_numpy(rng.permutation(2 * len(ids)))
    same(student(counts.repeat(2, 1)[order], ids.repeat(2)[order], group_of), slow_groups(counts, ids, group_of))


# ---- q5: a fair bootstrap ------------------------------------------------------------------------------------------

def slow_differences(a, b, class_ids, drawn) -> torch.Tensor:
    "Resample by resample, episode by episode."
    ids, rows = class_ids.tolist(), []
    for u in drawn.tolist():
        ious = {}
        for counts in (a.tolist(), b.tolist()):
            for c in set(ids):
                own = [e for e, kind in enumerate(ids) if kind == c]
                picked = [own[int(u[e] * len(own))] for e in own]
                ious.setdefault(c, []).append(sum(counts[e][0] for e in picked) / sum(counts[e][1] for e in picked))
        rows.append(sum(first - second for first, second in ious.values()) / len(ious))
    return torch.tensor(rows, dtype=torch.float32)


def two_systems(rng) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    "Counts of two systems, and classes 0, 1, 2 with 2, 4 and 7 episodes in any order."
    ids = torch.from_numpy(rng.permutation(np.repeat([0, 1, 2], [2, 4, 7])))
    system = lambda: np.exp(rng.uniform(3, 7, len(ids))).astype('int64')
    unions = system(), system()
    a, b = (torch.from_numpy(np.stack([(u * rng.uniform(.1, .9, len(u))).astype('int64'), u], 1)) for u in unions)
    return a, b, ids


def numbers(rng, episodes: int, resamples: int = 9) -> torch.Tensor:
    "Draws whose products with small whole numbers are exact."
    return torch.from_numpy(rng.integers(0, 1024, (resamples, episodes)) / 1024).float()


@check('q5', points=5, title='Every class keeps its number of episodes')
def strata(student, rng):
    a, b, ids = two_systems(rng)
    drawn = numbers(rng, len(ids))
    same(student(a, b, ids, drawn), slow_differences(a, b, ids, drawn))


@check('q5', points=4, title='Both systems are seen on the same episodes')
def paired(student, rng):
    a, b, ids = two_systems(rng)
    drawn = numbers(rng, len(ids))
    same(student(a, a.clone(), ids, drawn), torch.zeros(len(drawn)))
    half = torch.stack([a[:, 0] // 2, a[:, 1]], 1)
    same(student(a, half, ids, drawn), slow_differences(a, half, ids, drawn))


@check('q5', points=3, title='When every episode stays in its place, all differences are the plain one')
def in_place(student, rng):
    a, b, ids = two_systems(rng)
    drawn = torch.zeros(3, len(ids))
    for c in ids.unique():
        own = (ids == c).nonzero()[:, 0]
        drawn[:, own] = (torch.arange(len(own)) + .5) / len(own)
    ious = [[float(s[ids == c, 0].sum()) / float(s[ids == c, 1].sum()) for c in range(3)] for s in (a, b)]
    same(student(a, b, ids, drawn), torch.full((3,), (sum(ious[0]) - sum(ious[1])) / 3))


@check('q5', points=3, title='The numbers of the classes do not matter')
def renamed(student, rng):
    a, b, ids = two_systems(rng)
    drawn, names = numbers(rng, len(ids)), torch.from_numpy(rng.choice(np.arange(5, 90), 3, replace=False))
    same(student(a, b, names[ids], drawn), slow_differences(a, b, ids, drawn))
