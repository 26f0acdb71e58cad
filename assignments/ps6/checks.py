"""Hidden checks of problem set 6, the open project. Instructor only.

Two kinds: promises, checked on made-up features whose answer is plain, and accuracy, on pictures of SmallWorld that
follow from the secret. A matcher that keeps a promise but gets the plain case wrong has kept nothing: a constant map is
repeatable, too."""
from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from fsskit.backbones import create_backbone
from fsskit.smallworld import scene
from grader import Question, Wrong, check, same
from torch import Tensor

QUESTIONS = {'project': Question('match', points=100, public=10)}

HALF = 192  # channels of each of the two blocks
SIZE, STRIDE = (224, 304), 16  # px of the pictures; px a place
CLASSES, PICTURES, SHOTS = 12, 4, 3  # of the hidden world; every picture is the query once
AREA = .06, .5  # share of the picture that the object covers
FLOOR, BETTER, CLEARLY, GAIN = .05, .01, .015, .01  # in mIoU, see the accuracy checks
SECONDS = 3.  # for sixteen matches, five of them with five supports
PATIENCE = 5.  # seconds for all queries of the hidden world, times the number of supports


# ---- made-up features whose answer is plain ----------------------------------------------------------------------

class Case(NamedTuple):
    "Arguments of a match, and where the object is in the query."
    query: Tensor
    support: Tensor
    masks: Tensor
    truth: Tensor


def unit(rng, *shape: int) -> np.ndarray:
    "Random directions along the first axis."
    x = rng.normal(size=shape)
    return x / np.sqrt((x ** 2).sum(0))


def box(rng, h: int, w: int) -> np.ndarray:
    "A rectangle somewhere in the grid: 1 inside."
    high, wide = int(rng.integers(2, h // 2 + 1)), int(rng.integers(2, w // 2 + 1))
    top, left = int(rng.integers(0, h - high + 1)), int(rng.integers(0, w - wide + 1))
    mask = np.zeros((h, w))
    mask[top:top + high, left:left + wide] = 1
    return mask


def scenery(rng, mask: np.ndarray, object_: np.ndarray, rest: np.ndarray) -> np.ndarray:
    "Features (384,h,w): two directions in each half, mixed by the mask, with noise; lengths differ from half to half."
    maps = object_[:, None, None] * mask + rest[:, None, None] * (1 - mask)
    noise = np.concatenate([unit(rng, HALF, *mask.shape) for _ in (0, 1)])
    lengths = np.repeat(rng.uniform(5, 20, 2), HALF)[:, None, None]
    return (maps + .4 * noise) * lengths


def plain(rng, shots: int = 1) -> Case:
    "An object that looks the same in query and supports, and a background that does too. The grid is not square."
    h, w = rng.choice(np.arange(6, 12), 2, replace=False).tolist()
    object_, rest = (np.concatenate([unit(rng, HALF), unit(rng, HALF)]) for _ in (0, 1))
    masks = [box(rng, h, w) for _ in range(shots + 1)]
    query, *support = [torch.from_numpy(np.float32(scenery(rng, mask, object_, rest))) for mask in masks]
    soft = torch.from_numpy(np.float32(np.stack(masks[1:])))
    return Case(query, torch.stack(support), soft, torch.from_numpy(masks[0] > 0))


def finite(scores, case: Case) -> Tensor:
    "A score map as it must be."
    if not isinstance(scores, Tensor) or not scores.is_floating_point(): raise Wrong('wrong type')
    if scores.shape != case.query.shape[1:]: raise Wrong('wrong shape')
    if not torch.isfinite(scores).all(): raise Wrong('not finite')
    return scores


def solved(scores, case: Case, errors: float = .05) -> Tensor:
    "The scores, if nearly all places are right."
    right = (finite(scores, case) > 0) == case.truth
    if right.float().mean() < 1 - errors: raise Wrong('values differ')
    return scores


def alike(got: Tensor, want: Tensor) -> None:
    "Equal scores, whatever their unit is."
    scale = float(want.abs().amax())
    same(got / scale, want / scale, tol=2e-3)


@check('project', points=10, title='Any grid, any number of supports; objects smaller than a place; no background')
def grids(student, rng):
    for shots in (1, 2, 5):
        case = plain(rng, shots)
        solved(student(*case[:3]), case)
    case = plain(rng)
    small = .4 * case.masks  # the object covers less than half of each of its places
    solved(student(case.query, case.support, small), case)
    finite(student(case.query, case.support, torch.ones_like(case.masks)), case)


@check('project', points=5, title='The same answer twice, and what was given is left alone')
def repeatable(student, rng):
    case = plain(rng, 2)
    first = solved(student(*case[:3]), case)
    again, after = student.after(*case[:3])
    same(again, first, tol=0)
    if any(not torch.equal(a, b) for a, b in zip(after, case[:3])): raise Wrong('input was changed')


@check('project', points=5, title='The order of the supports means nothing')
def order(student, rng):
    case, turn = plain(rng, 4), rng.permutation(4)
    if (turn == np.arange(4)).all(): turn = turn[::-1].copy()
    turn = torch.from_numpy(np.roll(turn, 1) if turn[0] == 0 else turn)  # another support comes first
    first = solved(student(*case[:3]), case)
    alike(finite(student(case.query, case.support[turn], case.masks[turn]), case), first)


@check('project', points=5, title='K copies of a support say what one says')
def copies(student, rng):
    case, shots = plain(rng), int(rng.integers(2, 5))
    one = solved(student(*case[:3]), case)
    many = student(case.query, case.support.repeat(shots, 1, 1, 1), case.masks.repeat(shots, 1, 1))
    alike(finite(many, case), one)


@check('project', points=5, title='Only the direction of a feature vector counts')
def directions(student, rng):
    case = plain(rng, 2)
    first = solved(student(*case[:3]), case)
    query, support = (x * torch.from_numpy(np.float32(rng.uniform(.3, 3, size)))
                      for x, size in ((case.query, case.truth.shape), (case.support, (2, 1, *case.truth.shape))))
    alike(finite(student(query, support, case.masks), case), first)


@check('project', points=5, title='Sixteen matches within the time limit', seconds=SECONDS)
def time_limit(student, rng):
    h, w = (side // STRIDE for side in SIZE)
    object_, rest = (np.concatenate([unit(rng, HALF), unit(rng, HALF)]) for _ in (0, 1))
    masks = [box(rng, h, w) for _ in range(6)]
    query, *support = [torch.from_numpy(np.float32(scenery(rng, mask, object_, rest))) for mask in masks]
    soft = torch.from_numpy(np.float32(np.stack(masks[1:])))
    case = Case(query, torch.stack(support), soft, torch.from_numpy(masks[0] > 0))
    calls = [(query, case.support[:k], soft[:k]) for k in [1] * 11 + [5] * 5]
    for scores in student.many(calls, seconds=SECONDS): solved(scores, case)


# ---- the hidden world --------------------------------------------------------------------------------------------

class Episode(NamedTuple):
    "One query, its supports, and the truth in pixels."
    class_id: int
    query: Tensor  # (384,h,w)
    support: Tensor  # (SHOTS,384,h,w)
    masks: Tensor  # (SHOTS,h,w) share of each place
    truth: Tensor  # (H,W) bool


@lru_cache(maxsize=1)
def encoder(): return create_backbone('embedded')


def drawn(class_id: int, seed: int):
    "Pictures of a class in which it is neither tiny nor everywhere: image (H,W,3) and mask (H,W), endlessly."
    for index in count():
        shown = scene(class_id, index, SIZE, seed)
        mask = shown.mask(class_id)
        if AREA[0] <= mask.mean() <= AREA[1]: yield shown.image, mask


@lru_cache(maxsize=256)
def pictures(class_id: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    "Features (384,h,w) and mask (H,W) of some pictures of a class."
    found = []
    for image, mask in islice(drawn(class_id, seed), PICTURES):
        blocks = encoder()(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
        found.append((torch.cat(blocks, 1)[0], torch.from_numpy(mask) > 0))
    return found


def place_shares(mask: Tensor) -> Tensor:
    "Share of object pixels in each place."
    h, w = (side // STRIDE for side in SIZE)
    return mask.float().view(h, STRIDE, w, STRIDE).mean((1, 3))


@lru_cache(maxsize=8)
def world(seed: int) -> list[Episode]:
    "Twelve of 64 novel classes, four pictures each. Every picture is the query once, the next ones are its supports."
    chosen = sorted(np.random.default_rng(seed).choice(64, CLASSES, replace=False).tolist())
    episodes = []
    for class_id in chosen:
        known = pictures(class_id, seed)
        for n, (query, truth) in enumerate(known):
            others = [known[(n + k) % PICTURES] for k in range(1, SHOTS + 1)]
            support, masks = torch.stack([x for x, _ in others]), torch.stack([place_shares(m) for _, m in others])
            episodes.append(Episode(class_id, query, support, masks, truth))
    return episodes


def miou(scores: list[Tensor], episodes: list[Episode]) -> float:
    "Scores enlarged to pixels, cut at 0; intersections and unions added up for each class; mean over the classes."
    totals = {}
    for map_, episode in zip(scores, episodes):
        pixels = F.interpolate(map_[None, None].float(), SIZE, mode='bilinear', align_corners=False)[0, 0] > 0
        both, either = (pixels & episode.truth).sum(), (pixels | episode.truth).sum()
        before = totals.get(episode.class_id, (0, 0))
        totals[episode.class_id] = before[0] + int(both), before[1] + int(either)
    return sum(a / b for a, b in totals.values()) / len(totals)


def directions_of(maps: Tensor) -> Tensor:
    "Both halves as unit vectors: (...,h w,384), so that a product is the sum of two cosines."
    halves = [F.normalize(x, dim=-3) for x in maps.split(HALF, -3)]
    return torch.cat(halves, -3).flatten(-2).transpose(-1, -2)


def baseline(query: Tensor, support: Tensor, masks: Tensor) -> Tensor:
    "Nearest prototype: the cosine to the mean of the object minus the cosine to the mean of the rest."
    asked, known, shares = directions_of(query), directions_of(support).flatten(0, 1), masks.flatten()
    means = [(known * weight[:, None]).sum(0)[None] for weight in (shares, 1 - shares)]
    near = [F.cosine_similarity(asked, mean, dim=1) for mean in means]
    return (near[0] - near[1]).view(query.shape[1:])


def dense(query: Tensor, support: Tensor, masks: Tensor) -> Tensor:
    "The mean of the five best cosines to object places minus the same for the rest."
    asked, known, shares = directions_of(query), directions_of(support).flatten(0, 1), masks.flatten()
    inside = shares >= min(.5, float(shares.amax()))
    products = [asked @ known[chosen].T for chosen in (inside, ~inside)]
    sides = [x.topk(min(5, x.shape[1]), 1).values.mean(1) for x in products]
    return (sides[0] - sides[1]).view(query.shape[1:])


@lru_cache(maxsize=8)
def yardsticks(seed: int) -> dict[str, float]:
    "What simple matchers reach in this world, with one support."
    episodes = world(seed)
    one = [(e.query, e.support[:1], e.masks[:1]) for e in episodes]
    return {'everything': miou([torch.ones(e.query.shape[1:]) for e in episodes], episodes),
            'baseline': miou([baseline(*case) for case in one], episodes),
            'dense': miou([dense(*case) for case in one], episodes)}


class Reached(NamedTuple):
    "What a matcher reaches, beside the yardsticks of the same world."
    one: float
    three: float
    sticks: dict[str, float]


_REACHED: WeakKeyDictionary = WeakKeyDictionary()


def answers(student, calls: list[tuple], episodes: list[Episode]) -> list[Tensor]:
    "Score maps of the right kind."
    maps = student.many(calls, seconds=PATIENCE * len(calls[0][1]))
    return [finite(x, Case(e.query, e.support, e.masks, e.truth)) for x, e in zip(maps, episodes)]


def reached(student, rng) -> Reached:
    "Measured once for each submission; the first accuracy check draws the world."
    if student not in _REACHED:
        seed = int(rng.integers(1, 2 ** 31))
        episodes = world(seed)
        one = answers(student, [(e.query, e.support[:1], e.masks[:1]) for e in episodes], episodes)
        student.board['miou'], student.board['seconds'] = miou(one, episodes), student.seconds
        three = answers(student, [(e.query, e.support, e.masks) for e in episodes], episodes)
        _REACHED[student] = Reached(student.board['miou'], miou(three, episodes), yardsticks(seed))
    return _REACHED[student]


@check('project', points=10, title='Novel classes: far better than marking everything', cases=1)
def floor(student, rng):
    found = reached(student, rng)
    if found.one < found.sticks['everything'] + FLOOR: raise Wrong('values differ')


@check('project', points=20, title='Novel classes: better than the nearest prototype and than dense matching', cases=1)
def better(student, rng):
    found = reached(student, rng)
    if found.one < max(found.sticks['baseline'], found.sticks['dense']) + BETTER: raise Wrong('values differ')


@check('project', points=15, title='Novel classes: clearly better than both', cases=1)
def clearly_better(student, rng):
    found = reached(student, rng)
    if found.one < max(found.sticks['baseline'], found.sticks['dense']) + CLEARLY: raise Wrong('values differ')


@check('project', points=10, title='Three supports are better than one', cases=1)
def more_shots(student, rng):
    found = reached(student, rng)
    if found.three < max(found.one + GAIN, found.sticks['everything'] + FLOOR): raise Wrong('values differ')
