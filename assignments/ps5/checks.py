"""Hidden checks of problem set 5. Instructor only."""
import math

import numpy as np
import torch
from grader import Question, Wrong, check, same
from torch import Tensor

QUESTIONS = {'q1': Question('area_prior', points=25, public=6), 'q2': Question('settle', points=30, public=7),
             'q3': Question('trusted_attention', points=25, public=6),
             'q4': Question('block_shares', points=20, public=5)}


def draw(rng, *shape: int) -> Tensor:
    "Normal numbers, float32."
    return torch.from_numpy(np.float32(rng.normal(size=shape)))


def sides(rng, low: int, high: int) -> tuple[int, int]:
    "Height and width of a grid that is not square."
    h, w = rng.choice(np.arange(low, high + 1), 2, replace=False).tolist()
    return h, w


def slow_cosine(a, b) -> float:
    "Number by number; lengths of at least 1e-6."
    lengths = [max(math.sqrt(sum(float(x) ** 2 for x in v)), 1e-6) for v in (a, b)]
    return sum(float(x) * float(y) for x, y in zip(a, b)) / lengths[0] / lengths[1]


def slow_stretch(values: np.ndarray) -> np.ndarray:
    "Min-max of one map."
    low, high = min(values.ravel()), max(values.ravel())
    return (values - low) / (high - low + 1e-7)


# ---- q1: the larger object has the larger say --------------------------------------------------------------------

def slow_prototype(features: np.ndarray, mask: np.ndarray) -> np.ndarray:
    "Every pixel brings the features of its place."
    total, pixels = np.zeros(len(features)), 0
    high, wide = (n // m for n, m in zip(mask.shape, features.shape[1:]))
    for y, x in zip(*np.nonzero(mask == 1)):
        total, pixels = total + features[:, y // high, x // wide], pixels + 1
    return total / max(pixels, 1)


def slow_area_prior(query: Tensor, support: Tensor, masks: Tensor) -> Tensor:
    "The weighted mean of cosines, place by place."
    query, support, masks = np.float64(query), np.float64(support), masks.numpy()
    areas = [int((mask == 1).sum()) for mask in masks]
    prior = np.zeros(query.shape[1:])
    for features, mask, area in zip(support, masks, areas):
        prototype = slow_prototype(features, mask)
        for i, j in np.ndindex(*prior.shape):
            prior[i, j] += area / max(sum(areas), 1) * slow_cosine(prototype, query[:, i, j])
    return torch.from_numpy(np.float32(slow_stretch(prior)))


def supports(rng, shares: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    "A query, and a support for each share of object pixels; grids and blocks of pixels are not square."
    channels, (h, w), (g, k) = int(rng.integers(3, 6)), sides(rng, 3, 6), sides(rng, 2, 5)
    high, wide = sides(rng, 2, 4)
    masks = torch.zeros(len(shares), g * high, k * wide, dtype=torch.uint8)
    for mask, share in zip(masks, shares):
        flat, count = mask.view(-1), math.ceil(share * mask.numel())
        flat[torch.from_numpy(rng.permutation(mask.numel())[:count])] = 1
    return draw(rng, channels, h, w), draw(rng, len(shares), channels, g, k), masks


@check('q1', points=4, title='Three supports, equal to a slow loop')
def prior_loops(student, rng):
    case = supports(rng, rng.uniform(.15, .7, 3).tolist())
    same(student(*case), slow_area_prior(*case), tol=1e-4)


@check('q1', points=4, title='Ignored pixels are not object')
def ignored(student, rng):
    query, support, masks = supports(rng, [.3, .3])
    doubtful = torch.from_numpy(rng.random(masks.shape) < .3) & (masks == 0)
    marked = torch.where(doubtful, torch.tensor(255, dtype=torch.uint8), masks)
    same(student(query, support, marked), student(query, support, masks), tol=1e-5)


@check('q1', points=4, title='A hundred times the area, a hundred times the say')
def say(student, rng):
    query, support, masks = supports(rng, [.9, .9])
    masks[1] = 0
    masks[1, int(rng.integers(masks.shape[1])), int(rng.integers(masks.shape[2]))] = 1
    same(student(query, support, masks), slow_area_prior(query, support, masks), tol=1e-4)


@check('q1', points=4, title='A support without an object has no say; without any object the prior is 0')
def nothing(student, rng):
    query, support, masks = supports(rng, [.4, .4])
    masks[1] = 0
    same(student(query, support, masks), student(query, support[:1].clone(), masks[:1].clone()), tol=1e-5)
    same(student(query, support, torch.zeros_like(masks)), torch.zeros(query.shape[1:]), tol=1e-5)


@check('q1', points=3, title='Copies of a support are one support, and their order means nothing')
def copies(student, rng):
    query, support, masks = supports(rng, [.3, .5, .2])
    one = student(query, support[:1].clone(), masks[:1].clone())
    same(student(query, support[[0, 0, 0]], masks[[0, 0, 0]]), one, tol=1e-4)
    order = rng.permutation(3)
    same(student(query, support[order], masks[order]), student(query, support, masks), tol=1e-4)


# ---- q2: refine until it settles ---------------------------------------------------------------------------------

def slow_step(memory, prior, generous, wide, witness, damping: float):
    "One step, place by place."
    total = sum(float(p) for p in prior.ravel())
    sure = [sum(float(p) * float(m) for p, m in zip(prior.ravel(), row.ravel())) / max(total, 1e-6) for row in memory]
    own, memory, after = np.zeros(prior.shape), memory.copy(), prior.copy()
    for i, j in np.ndindex(*prior.shape): own[i, j] = slow_cosine(sure, generous[:, i, j])
    own = slow_stretch(own)
    for i, j in np.ndindex(*prior.shape):
        share = damping * max(0., own[i, j] + witness[i, j] - 1)
        memory[:, i, j] = (1 - share) * memory[:, i, j] + share * generous[:, i, j]
        after[i, j] = (1 - share) * prior[i, j] + share * wide[i, j]
    return memory, after, float(np.abs(after - prior).max())


def slow_settle(memory, prior, generous, wide, witness, damping, tolerance, limit) -> dict:
    "Steps until one is small."
    memory, prior, generous, wide, witness = (np.float64(x) for x in (memory, prior, generous, wide, witness))
    changes = []
    for _ in range(limit):
        memory, prior, change = slow_step(memory, prior, generous, wide, witness, damping)
        changes.append(change)
        if change < tolerance: break
    settled = bool(changes) and changes[-1] < tolerance
    tensors = [torch.from_numpy(np.float32(x)) for x in (memory, prior)]
    return {'memory': tensors[0], 'prior': tensors[1], 'changes': changes, 'settled': settled}


def memories(rng) -> list[Tensor]:
    "Two memories, two priors, a witness; the strict prior covers a part of what the wide one covers."
    channels, grid = int(rng.integers(3, 6)), sides(rng, 3, 6)
    wide = torch.from_numpy(np.float32(rng.uniform(.5, 1, grid)))
    prior = wide * torch.from_numpy(np.float32(rng.uniform(0, .8, grid)))
    witness = torch.from_numpy(np.float32(rng.uniform(.2, 1, grid)))
    return [draw(rng, channels, *grid), prior, draw(rng, channels, *grid), wide, witness]


def parts(answer, *names: str) -> dict:
    "The named items of an answer."
    if not isinstance(answer, dict): raise Wrong('wrong type')
    if set(answer) != {'memory', 'prior', 'changes', 'settled'}: raise Wrong('values differ')
    return {name: answer[name] for name in names}


@check('q2', points=5, title='One step: memory and prior')
def one_step(student, rng):
    case = [*memories(rng), float(rng.uniform(.15, .4)), 0., 1]
    same(parts(student(*case), 'memory', 'prior'), parts(slow_settle(*case), 'memory', 'prior'), tol=1e-4)


@check('q2', points=4, title='Several steps, each from where the last one ended')
def several(student, rng):
    case = [*memories(rng), float(rng.uniform(.6, .85)), 0., 4]
    same(parts(student(*case), 'memory', 'prior'), parts(slow_settle(*case), 'memory', 'prior'), tol=3e-4)


@check('q2', points=5, title='The rule ends the iteration, and the last step counts')
def stops(student, rng):
    while True:
        case = [*memories(rng), float(rng.uniform(.3, .45))]
        changes = slow_settle(*case, 0., 6)['changes']
        ends = [n for n in range(2, 6) if .02 < changes[n] < .9 * min(changes[:n])]
        if ends: break
    tolerance = math.sqrt(changes[ends[0]] * min(changes[:ends[0]]))
    names, case = ('memory', 'prior', 'changes', 'settled'), [*case, tolerance, 12]
    same(parts(student(*case), *names), parts(slow_settle(*case), *names), tol=3e-4)


@check('q2', points=3, title='The limit ends it too; no step at all is allowed')
def limited(student, rng):
    case, limit = [*memories(rng), .5, 0.], int(rng.integers(2, 5))
    found = parts(student(*case, limit), 'changes', 'settled')
    if not isinstance(found['changes'], (list, tuple)): raise Wrong('wrong type')
    if len(found['changes']) != limit: raise Wrong('wrong shape')
    same(found['settled'], False)
    wanted = {'memory': case[0], 'prior': case[1], 'changes': [], 'settled': False}
    same(parts(student(*case, 0), *wanted), wanted, tol=1e-6)


@check('q2', points=3, title='A step mixes old and new and invents nothing; undamped or not, an unsure start stays')
def mixes(student, rng):
    case = memories(rng)
    found = parts(student(*case, float(rng.uniform(.5, 1)), 0., 3), 'memory', 'prior')
    for got, old, new in ((found['memory'], case[0], case[2]), (found['prior'], case[1], case[3])):
        if not isinstance(got, Tensor): raise Wrong('wrong type')
        if got.shape != old.shape: raise Wrong('wrong shape')
        low, high = torch.minimum(old, new) - 1e-5, torch.maximum(old, new) + 1e-5
        if not ((got >= low) & (got <= high)).all(): raise Wrong('values differ')
    unsure = [case[0], torch.zeros_like(case[1]), *case[2:]]
    kept = parts(student(*unsure, .7, 0., 2), 'memory', 'prior')
    same(kept, {'memory': unsure[0], 'prior': unsure[1]}, tol=1e-5)


@check('q2', points=3, title='What was given is left alone')
def untouched(student, rng):
    case = memories(rng)
    _, after = student.after(*case, .6, 0., 2)
    if any(not torch.equal(a, b) for a, b in zip(after, case)): raise Wrong('input was changed')


# ---- q3: trust in one block of keys ------------------------------------------------------------------------------

def slow_trusted(q, k, v, blocks, which, trust) -> Tensor:
    "Weights one by one, shifted so that no exponential is too large."
    q, k, v, trust = (np.float64(x) for x in (q, k, v, trust))
    everyone = [1.] * sum(blocks[:which]) + trust.tolist() + [1.] * sum(blocks[which + 1:])
    rows = []
    for row in q:
        scores = [sum(a * b for a, b in zip(row, key)) / math.sqrt(len(row)) for key in k]
        top = max(s for s, t in zip(scores, everyone) if t > 0)
        weights = [t * math.exp(s - top) if t > 0 else 0. for s, t in zip(scores, everyone)]
        rows.append(sum(w * value for w, value in zip(weights, v)) / sum(weights))
    return torch.from_numpy(np.float32(np.array(rows)))


def reading(rng) -> list:
    "Queries, keys and values of three blocks of different lengths, the doubtful one at any place but the first."
    lengths = (rng.choice(np.arange(2, 7), 3, replace=False)).tolist()
    n, c, d, total = int(rng.integers(3, 6)), int(rng.integers(3, 7)), int(rng.integers(2, 5)), sum(lengths)
    which = int(rng.integers(1, 3))
    trust = torch.from_numpy(np.float32(rng.uniform(.05, .6, lengths[which])))
    return [draw(rng, n, c), draw(rng, total, c), draw(rng, total, d), tuple(lengths), which, trust]


@check('q3', points=5, title='Equal to a slow loop, blocks of different lengths')
def trusted_loops(student, rng):
    case = reading(rng)
    same(student(*case), slow_trusted(*case), tol=1e-4)


@check('q3', points=4, title='Full trust is plain attention, no trust takes the block away')
def extremes(student, rng):
    q, k, v, blocks, which, trust = reading(rng)
    start = sum(blocks[:which])
    plain = slow_trusted(q, k, v, (len(k),), 0, torch.ones(len(k)))
    same(student(q, k, v, blocks, which, torch.ones_like(trust)), plain, tol=1e-4)
    rest = [n for n in range(len(k)) if not start <= n < start + blocks[which]]
    without = slow_trusted(q, k[rest], v[rest], (len(rest),), 0, torch.ones(len(rest)))
    same(student(q, k, v, blocks, which, torch.zeros_like(trust)), without, tol=1e-4)


@check('q3', points=4, title='Where the doubtful block stands means nothing')
def moved(student, rng):
    q, k, v, blocks, which, trust = reading(rng)
    before = student(q, k, v, blocks, which, trust)
    keys, values = (list(x.split(list(blocks))) for x in (k, v))
    lengths, others = list(blocks), [n for n in range(3) if n != which]
    for order in ([which, *others], [*others, which], [others[1], which, others[0]]):
        args = torch.cat([keys[n] for n in order]), torch.cat([values[n] for n in order])
        same(student(q, *args, tuple(lengths[n] for n in order), order.index(which), trust), before, tol=1e-4)


@check('q3', points=3, title='Scores in the hundreds')
def large(student, rng):
    q, k, v, blocks, which, trust = reading(rng)
    q, k = (torch.cat([x, torch.full((len(x), 1), 40.)], 1) for x in (q, k))  # the same large number in every score
    same(student(q, k, v, blocks, which, trust), slow_trusted(q, k, v, blocks, which, trust), tol=2e-3)


@check('q3', points=3, title='The gradient of the queries is right, also where keys are not trusted at all')
def slopes(student, rng):
    q, k, v, blocks, which, _ = reading(rng)
    trust, weights, wanted = torch.zeros(blocks[which]), draw(rng, len(q), v.shape[1]), np.zeros(q.shape)
    for place in np.ndindex(*q.shape):
        step = np.zeros(q.shape)
        step[place] = 1e-4
        plus, minus = (slow_exact(np.float64(q) + sign * step, k, v, blocks, which, trust) for sign in (1, -1))
        wanted[place] = ((plus - minus) * np.float64(weights)).sum() / 2e-4
    slope = student.grad((q, k, v, blocks, which, trust), wrt=0, weights=weights)
    same(slope, torch.from_numpy(np.float32(wanted)), tol=2e-4)


def slow_exact(q, k, v, blocks, which, trust) -> np.ndarray:
    "The formula as it stands, in double precision, for scores of ordinary size."
    k, v = np.float64(k), np.float64(v)
    factor = np.concatenate([np.ones(sum(blocks[:which])), np.float64(trust), np.ones(sum(blocks[which + 1:]))])
    weights = factor * np.exp(q @ k.T / math.sqrt(q.shape[1]))
    return weights @ v / weights.sum(1, keepdims=True)


# ---- q4: who is read? --------------------------------------------------------------------------------------------

def slow_shares(scores: Tensor, blocks: tuple, places: Tensor) -> dict:
    "Weight by weight."
    scores, chosen = np.float64(scores), [n for n, p in enumerate(places.tolist()) if p]
    share, owner = [0.] * len(blocks), [b for b, length in enumerate(blocks) for _ in range(length)]
    for head in scores:
        for n in chosen:
            weights = [math.exp(s - max(head[n])) for s in head[n]]
            for b, w in zip(owner, weights): share[b] += w / sum(weights) / len(scores) / len(chosen)
    lift = [s * sum(blocks) / length if length else 0. for s, length in zip(share, blocks)]
    return {'share': torch.tensor(share), 'lift': torch.tensor(lift)}


def scored(rng) -> tuple[Tensor, tuple, Tensor]:
    "Scores of several heads, of different spreads; blocks of different lengths; some places chosen."
    lengths = (rng.choice(np.arange(1, 7), 3, replace=False)).tolist()
    heads, n = int(rng.integers(2, 4)), int(rng.integers(4, 8))
    scores = draw(rng, heads, n, sum(lengths)) * torch.tensor([.5, 3., 2.])[:heads, None, None]
    places = torch.zeros(n)
    places[torch.from_numpy(rng.permutation(n)[:int(rng.integers(2, n))])] = 1
    return scores, tuple(lengths), places


def item(answer, name: str) -> Tensor:
    "One item of an answer."
    if not isinstance(answer, dict) or not isinstance(answer.get(name), Tensor): raise Wrong('wrong type')
    return answer[name]


@check('q4', points=5, title='Shares: softmax first, then the means')
def shares(student, rng):
    case = scored(rng)
    same(item(student(*case), 'share'), slow_shares(*case)['share'], tol=1e-4)


@check('q4', points=3, title='Lifts, for places that are all chosen and heads that agree')
def lifts(student, rng):
    scores, blocks, places = scored(rng)
    case = scores[:1, :1].expand(2, 3, -1).contiguous(), blocks, torch.ones(3)
    same(item(student(*case), 'lift'), slow_shares(*case)['lift'], tol=1e-4)


@check('q4', points=3, title='The shares add up to 1, and a constant added to all scores of a row changes nothing')
def sums(student, rng):
    scores, blocks, places = scored(rng)
    share = item(student(scores, blocks, places), 'share')
    same(share.sum(), 1., tol=1e-4)
    same(item(student(scores + draw(rng, *scores.shape[:2], 1), blocks, places), 'share'), share, tol=1e-4)


@check('q4', points=4, title='Empty blocks and no chosen place: zeros, not NaN')
def empty(student, rng):
    scores, blocks, places = scored(rng)
    found = student(scores, (0, *blocks, 0), places)
    for name in ('share', 'lift'):
        values = item(found, name)
        if values.shape != (len(blocks) + 2,): raise Wrong('wrong shape')
        same(values[[0, -1]], torch.zeros(2))
    zeros = torch.zeros(len(blocks))
    same(student(scores, blocks, torch.zeros_like(places)), {'share': zeros, 'lift': zeros})
