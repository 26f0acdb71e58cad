"""Hidden checks of problem set 3 (4D correlation, center-pivot convolution). Instructor only."""
import math

import numpy as np
import torch
from grader import Question, Wrong, check, same

QUESTIONS = {
    'q1': Question('area_correlation', points=20, public=5),
    'q2': Question('mutual_matches', points=20, public=5),
    'q3': Question('transport', points=20, public=5),
    'q4': Question('pivot_blur', points=25, public=7),
    'q5': Question('pivot_cost', points=15, public=4),
}


# Cases: everything is drawn, shapes too.

def whole(rng, low: int, high: int) -> int:
    "A whole number from low to high, both included."
    return int(rng.integers(low, high + 1))


def grids(rng, low: int = 2, high: int = 5) -> tuple[int, int, int, int]:
    "Query rows and columns, support rows and columns: neither grid is square, and the grids differ."
    while True:
        hq, wq, hs, ws = (whole(rng, low, high) for _ in range(4))
        if hq != wq and hs != ws and (hq, wq) != (hs, ws): return hq, wq, hs, ws


def normal(rng, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype('float32'))


def uniform(rng, *shape: int) -> torch.Tensor:
    "Between 0.05 and 1."
    return torch.from_numpy(rng.uniform(0.05, 1, shape).astype('float32'))


def some_cells(rng, h: int, w: int) -> np.ndarray:
    "Between a third and two thirds of the cells, scattered: (h,w) of 0 and 1."
    cells = np.zeros(h * w, dtype=int)
    cells[rng.permutation(h * w)[:whole(rng, h * w // 3, h * w * 2 // 3)]] = 1
    return cells.reshape(h, w)


def speckled(rng, h: int, w: int) -> torch.Tensor:
    "A mask whose size is no multiple of the grid: pixels at random, and an ignored band of columns."
    mask = rng.choice([0, 1, 255], (5 * h + whole(rng, 1, h - 1), 4 * w + whole(rng, 1, w - 1)), p=[0.4, 0.4, 0.2])
    left = whole(rng, 0, mask.shape[1] // 2)
    mask[:, left:left + mask.shape[1] // 3] = 255
    return torch.from_numpy(mask.astype('uint8'))


def transposed(volume: torch.Tensor) -> torch.Tensor:
    "Query and support change places."
    return volume.permute(0, 1, 4, 5, 2, 3).contiguous()


# Slow references: numpy and loops, float64.

def tensor(values) -> torch.Tensor:
    return torch.tensor(np.array(values), dtype=torch.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def slow_share(mask: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    "Share of object pixels in every cell's window."
    pixels, shares = mask.numpy(), np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            (top, bottom), (left, right) = ((n * side // cells, -(-(n + 1) * side // cells))
                                            for n, side, cells in zip((i, j), pixels.shape, size))
            shares[i, j] = (pixels[top:bottom, left:right] == 1).mean()
    return shares


def varied(result, *shape: int) -> torch.Tensor:
    "A tensor of this shape; a property of a tensor that is the same everywhere proves nothing."
    if not isinstance(result, torch.Tensor): raise Wrong('wrong type')
    if tuple(result.shape) != shape: raise Wrong('wrong shape')
    if not (result.double().std() > 1e-5): raise Wrong('values differ')
    return result


def part(answer, key: str):
    "One entry of the student's dictionary."
    if not isinstance(answer, dict) or key not in answer: raise Wrong('wrong type')
    return answer[key]


def unchanged(student, volume: torch.Tensor, *args):
    "The result, after a look at the argument."
    result, after = student.after(volume, *args)
    if not torch.equal(after[0], volume): raise Wrong('input was changed')
    return result


# Exercise 1

def slow_area(query: list, support: list, masks: torch.Tensor) -> torch.Tensor:
    (b, _, hq, wq), (hs, ws) = query[0].shape, support[0].shape[2:]
    out = np.zeros((b, len(query), hq, wq, hs, ws))
    for n in range(b):
        shares = slow_share(masks[n], (hs, ws))
        for depth, (q, s) in enumerate(zip(query, support)):
            q, s = q[n].double().numpy(), s[n].double().numpy()
            for y, x, v, u in np.ndindex(hq, wq, hs, ws):
                out[n, depth, y, x, v, u] = max(0, cosine(q[:, y, x], s[:, v, u])) * shares[v, u] / shares.sum()
    return tensor(out)


def area_case(rng, pairs: int, aligned: bool = True) -> tuple[list, list, torch.Tensor]:
    "Two layers of different depth; masks with borders on cells, or of pixels at random."
    hq, wq, hs, ws = grids(rng)
    query, support = ([3 * normal(rng, pairs, c, h, w) for c in (5, 8)] for h, w in ((hq, wq), (hs, ws)))
    if not aligned: return query, support, torch.stack([speckled(rng, hs, ws)] * pairs)
    masks = [some_cells(rng, hs, ws).repeat(3, 0).repeat(2, 1).astype('uint8') for _ in range(pairs)]
    return query, support, torch.from_numpy(np.stack(masks))


@check('q1', points=5, title='Equal to loops over all places, on grids that are not square')
def area_loop(student, rng):
    case = area_case(rng, pairs=1)
    same(student(*case), slow_area(*case), tol=1e-5)


@check('q1', points=4, title='Cells count by their area, ignored pixels do not count')
def area_shares(student, rng):
    case = area_case(rng, pairs=1, aligned=False)
    same(student(*case), slow_area(*case), tol=1e-5)


@check('q1', points=3, title='Equal features give a sum of 1, whatever the size of the object')
def area_sum(student, rng):
    hq, wq, hs, ws = grids(rng)
    vector = normal(rng, 1, 6, 1, 1) + 2
    query, support = vector.repeat(1, 1, hq, wq), 4 * vector.repeat(1, 1, hs, ws)
    mask = torch.from_numpy(some_cells(rng, hs, ws).repeat(2, 0).repeat(2, 1).astype('uint8'))[None]
    for masks in (mask, mask.repeat_interleave(3, 1).repeat_interleave(2, 2)):
        found = varied(student([query], [support], masks), 1, 1, hq, wq, hs, ws)
        same(found.sum((4, 5)), torch.ones(1, 1, hq, wq), tol=1e-4)


@check('q1', points=3, title='Every photo pair of a batch is treated by itself')
def area_batch(student, rng):
    case = area_case(rng, pairs=3)
    same(student(*case), slow_area(*case), tol=1e-5)


# Exercise 2

def slow_mutual(volume: torch.Tensor) -> torch.Tensor:
    values = volume.double().numpy()
    out = np.zeros(values.shape)
    for b, n, y, x, v, u in np.ndindex(values.shape):
        value, by_query, by_support = values[b, n, y, x, v, u], values[b, n, y, x].max(), values[b, n, :, :, v, u].max()
        if value > 0: out[b, n, y, x, v, u] = value * (value / by_query) * (value / by_support)
    return tensor(out)


@check('q2', points=5, title='Equal to loops, on grids that are not square')
def mutual_loop(student, rng):
    for _ in range(2):
        volume = uniform(rng, 1, 1, *grids(rng))
        same(student(volume), slow_mutual(volume), tol=1e-5)


@check('q2', points=4, title='Query and support play the same part')
def mutual_swap(student, rng):
    volume = uniform(rng, 1, 1, *grids(rng))
    first = varied(student(volume), *volume.shape)
    same(student(transposed(volume)), transposed(first), tol=1e-5)


@check('q2', points=3, title='Places without any match, and very small volumes')
def mutual_small(student, rng):
    volume = uniform(rng, 1, 1, *grids(rng))
    volume[:, :, 0, 1], volume[:, :, :, :, 1, 0] = 0, 0
    same(student(volume), slow_mutual(volume), tol=1e-5)
    same(varied(1e4 * finite(student(1e-4 * volume)), *volume.shape), slow_mutual(volume), tol=1e-4)


def finite(result) -> torch.Tensor:
    if not isinstance(result, torch.Tensor): raise Wrong('wrong type')
    if not torch.isfinite(result).all(): raise Wrong('not finite')
    return result


@check('q2', points=3, title='Layers and photo pairs are treated by themselves, and the input stays as it was')
def mutual_apart(student, rng):
    volume = uniform(rng, 2, 3, *grids(rng))
    same(unchanged(student, volume), slow_mutual(volume), tol=1e-5)


# Exercise 3

def slow_transport(volume: torch.Tensor, photo_size: tuple[int, int]) -> dict:
    values = volume.double().numpy()
    b, _, hq, wq, hs, ws = values.shape
    where, score = np.zeros((b, 2, hq, wq)), np.zeros((b, hq, wq))
    for n, y, x in np.ndindex(b, hq, wq):
        table = sum(layer[y, x] for layer in values[n]) / len(values[n])
        score[n, y, x], v, u = max((table[v, u], v, u) for v, u in np.ndindex(hs, ws))
        where[n, :, y, x] = (2 * v + 1) * photo_size[0] / (2 * hs), (2 * u + 1) * photo_size[1] / (2 * ws)
    return {'where': tensor(where), 'score': tensor(score)}


def landing(rng, layers: int, even: bool = True) -> tuple[torch.Tensor, tuple[int, int]]:
    "A volume and a photo size: cells of an even number of pixels, or a size that is no multiple of the grid."
    hq, wq, hs, ws = grids(rng, 3, 6)
    sides = 2 * whole(rng, 2, 4), 2 * whole(rng, 5, 7)
    size = (hs * sides[0], ws * sides[1]) if even else (hs * 7 + whole(rng, 1, hs - 1), ws * 4 + whole(rng, 1, ws - 1))
    return uniform(rng, 2, layers, hq, wq, hs, ws), size


@check('q3', points=4, title='The score is the best mean similarity')
def best_score(student, rng):
    case = landing(rng, layers=3)
    same(part(student(*case), 'score'), slow_transport(*case)['score'], tol=1e-5)


@check('q3', points=4, title='One layer: the right place, on grids and photos that are not square')
def best_place(student, rng):
    for _ in range(2):
        case = landing(rng, layers=1)
        same(part(student(*case), 'where'), slow_transport(*case)['where'], tol=1e-4)


@check('q3', points=4, title='Several layers: first the mean, then the best')
def layers_vote(student, rng):
    case = landing(rng, layers=4)
    same(part(student(*case), 'where'), slow_transport(*case)['where'], tol=1e-4)


@check('q3', points=3, title='Cells that are no whole number of pixels')
def broken_cells(student, rng):
    case = landing(rng, layers=1, even=False)
    same(part(student(*case), 'where'), slow_transport(*case)['where'], tol=1e-4)


# Exercise 4

def window(n: int, cells: int, size: int) -> range:
    "Cells around cell n that exist."
    return range(max(0, n - size // 2), min(cells, n + size // 2 + 1))


def slow_blur(volume: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    values = volume.double().numpy()
    hq, wq, hs, ws = values.shape[2:]
    out = np.zeros((*values.shape[:4], len(range(0, hs, stride)), len(range(0, ws, stride))))
    for y, x, v, u in np.ndindex(out.shape[2:]):
        sv, su = stride * v, stride * u
        around_query = [values[:, :, i, j, sv, su] for i in window(y, hq, size) for j in window(x, wq, size)]
        around_support = [values[:, :, y, x, k, n] for k in window(sv, hs, size) for n in window(su, ws, size)]
        out[:, :, y, x, v, u] = (sum(around_query) / len(around_query) + sum(around_support) / len(around_support)) / 2
    return tensor(out)


def slow_blur_gradient(weights: torch.Tensor, shape: tuple[int, ...], size: int) -> torch.Tensor:
    "Every output's weight goes back to the entries of its windows (stride 1)."
    back, weights = np.zeros(shape), weights.double().numpy()
    hq, wq, hs, ws = shape[2:]
    for y, x, v, u in np.ndindex(hq, wq, hs, ws):
        query = [(i, j) for i in window(y, hq, size) for j in window(x, wq, size)]
        support = [(k, n) for k in window(v, hs, size) for n in window(u, ws, size)]
        for i, j in query: back[:, :, i, j, v, u] += weights[:, :, y, x, v, u] / len(query) / 2
        for k, n in support: back[:, :, y, x, k, n] += weights[:, :, y, x, v, u] / len(support) / 2
    return tensor(back)


@check('q4', points=6, title='Equal to loops, on grids that are not square')
def blur_loop(student, rng):
    for size in (3, 5):
        volume = normal(rng, 2, 3, *grids(rng, 3, 5))
        same(unchanged(student, volume, size, 1), slow_blur(volume, size, 1), tol=1e-5)


@check('q4', points=5, title='A stride thins out the support only, and rounds up')
def blur_stride(student, rng):
    for stride in (2, 3):
        hq, wq, hs, ws = grids(rng, 2, 3)
        volume = normal(rng, 2, 1, hq, wq, stride * hs - 1, stride * ws + 1)
        same(student(volume, 3, stride), slow_blur(volume, 3, stride), tol=1e-5)


@check('q4', points=4, title='A constant volume stays what it is, up to the border')
def blur_constant(student, rng):
    hq, wq, hs, ws = grids(rng)
    for size in (3, 5):
        value = float(np.round(rng.uniform(1, 5), 3))
        constant = torch.full((1, 2, hq, wq, hs, ws), value)
        same(student(constant, size, 1), constant, tol=1e-5)


@check('q4', points=3, title='Gradients flow back to the volume')
def blur_gradient(student, rng):
    shape = (1, 2, *grids(rng, 2, 4))
    volume, weights = normal(rng, *shape), normal(rng, *shape)
    same(student.grad([volume, 3, 1], wrt=0, weights=weights), slow_blur_gradient(weights, shape, 3), tol=1e-5)


# Exercise 5

def slow_cost(query_grid, support_grid, channels, kernels, strides) -> dict:
    "Visits every output place and every entry of a window."
    cost, volumes = {'multiply_adds': 0, 'full': 0, 'parameters': 0}, []
    rows, columns = (list(range(n)) for n in support_grid)
    volumes.append(channels[0] * math.prod(query_grid) * len(rows) * len(columns))
    for n, (k, stride) in enumerate(zip(kernels, strides)):
        rows, columns = list(range(0, len(rows), stride)), list(range(0, len(columns), stride))
        flat = sum(1 for _ in np.ndindex(k, k))
        for _ in np.ndindex(*query_grid, len(rows), len(columns)):
            cost['multiply_adds'] += (flat + flat) * channels[n] * channels[n + 1]
            cost['full'] += flat * flat * channels[n] * channels[n + 1]
        for _ in ('query', 'support'): cost['parameters'] += flat * channels[n] * channels[n + 1] + channels[n + 1]
        volumes.append(channels[n + 1] * math.prod(query_grid) * len(rows) * len(columns))
    return {**cost, 'largest': max(volumes)}


def stack(rng, ragged: bool) -> tuple[tuple, tuple, list, list, list]:
    "Three layers with strides 2, 3 and 1 in some order; the support's sides are multiples of 6, or never."
    hq, wq, hs, ws = grids(rng, 2, 4)
    support = (6 * hs - 1, 6 * ws - 1) if ragged else (6 * hs, 6 * ws)
    channels = [whole(rng, 2, 9) for _ in range(4)]
    kernels = [int(k) for k in rng.permutation([1, 3, 5])]
    return (hq, wq), support, channels, kernels, [int(s) for s in rng.permutation([2, 3, 1])]


@check('q5', points=4, title='Multiply-adds of a stack of layers, in both forms')
def cost_of_stack(student, rng):
    case = stack(rng, ragged=False)
    got, want = student(*case), slow_cost(*case)
    for key in ('multiply_adds', 'full'): same(part(got, key), want[key])


@check('q5', points=3, title='Support grids that the strides do not divide')
def cost_ragged(student, rng):
    case = stack(rng, ragged=True)
    same(part(student(*case), 'multiply_adds'), slow_cost(*case)['multiply_adds'])


@check('q5', points=2, title='The number of parameters')
def cost_parameters(student, rng):
    case = stack(rng, ragged=False)
    same(part(student(*case), 'parameters'), slow_cost(*case)['parameters'])


@check('q5', points=2, title='The largest volume, wherever it is')
def cost_largest(student, rng):
    query_grid, support_grid, channels, kernels, _ = stack(rng, ragged=False)
    for first, second, last in ((200, channels[1], 3), (2, channels[1], 60), (3, channels[1], 400), (2, 300, 3)):
        case = query_grid, support_grid, [first, second, channels[2], last], kernels, [2, 3, 1]
        same(part(student(*case), 'largest'), slow_cost(*case)['largest'])
