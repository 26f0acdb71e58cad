"""Hidden checks of problem set 4. Instructor only."""
import math

import numpy as np
import torch
from grader import Question, Wrong, check, same
from torch import Tensor

QUESTIONS = {'q1': Question('feature_loss', points=20, public=5), 'q2': Question('teacher_at', points=25, public=6),
             'q3': Question('carry_over', points=20, public=5), 'q4': Question('adapt', points=20, public=5),
             'q5': Question('paint_pair', points=15, public=4)}


def draw(rng, *shape: int) -> Tensor:
    "Normal numbers, float32."
    return torch.from_numpy(np.float32(rng.normal(size=shape)))


def sides(rng, low: int = 2, high: int = 6) -> tuple[int, int]:
    "Height and width of a grid that is not square."
    h, w = rng.choice(np.arange(low, high + 1), 2, replace=False).tolist()
    return h, w


# ---- q1: direction and length ------------------------------------------------------------------------------------

def slow_cost(s: np.ndarray, t: np.ndarray, alpha: float) -> float:
    "Cost of one cell, number by number."
    inner = sum(float(a) * float(b) for a, b in zip(s, t))
    own, wanted = (max(math.sqrt(sum(float(a) ** 2 for a in x)), 1e-6) for x in (s, t))
    return 1 - inner / own / wanted + alpha * (math.log(own) - math.log(wanted)) ** 2


def slow_loss(student, teacher, valid, alpha: float) -> float:
    "Sum over valid cells, divided by their number."
    student, teacher, valid = (np.float64(x) for x in (student, teacher, valid))
    costs = [slow_cost(student[b, :, i, j], teacher[b, :, i, j], alpha) for b, i, j in zip(*np.nonzero(valid))]
    return sum(costs) / len(costs) if costs else 0.


def slow_slope(student: Tensor, teacher: Tensor, valid: Tensor, alpha: float) -> Tensor:
    "Central differences of `slow_loss` in every number of the student."
    start, slope = np.float64(student), np.zeros(student.shape)
    for place in np.ndindex(*student.shape):
        step = np.zeros(student.shape)
        step[place] = 1e-5
        plus, minus = (slow_loss(start + sign * step, teacher, valid, alpha) for sign in (1, -1))
        slope[place] = (plus - minus) / 2e-5
    return torch.from_numpy(np.float32(slope))


def pair(rng, largest: int = 6) -> tuple[Tensor, Tensor]:
    "Student and teacher of the same shape, not square."
    shape = (2, int(rng.integers(3, 6)), *sides(rng, 2, largest))
    return draw(rng, *shape), draw(rng, *shape)


def uneven(rng, shape: tuple[int, int, int]) -> Tensor:
    "Valid cells: one in the first photo, all but one in the second."
    valid = torch.zeros(shape)
    valid[1] = 1
    flat = valid.view(shape[0], -1)
    flat[0, rng.integers(flat.shape[1])] = 1
    flat[1, rng.integers(flat.shape[1])] = 0
    return valid


@check('q1', points=4, title='Direction: the cosine of every cell')
def direction(student, rng):
    own, wanted = pair(rng)
    valid = torch.ones(own[:, 0].shape)
    same(student(own, wanted, valid, 0.), slow_loss(own, wanted, valid, 0.), tol=1e-4)


@check('q1', points=4, title='Length: the squared logarithm of the ratio')
def length(student, rng):
    _, wanted = pair(rng)
    ratio = torch.from_numpy(np.float32(rng.uniform(.3, 3, wanted[:, :1].shape)))
    valid, alpha = torch.ones(wanted[:, 0].shape), float(rng.uniform(.5, 2))
    same(student(wanted * ratio, wanted, valid, alpha), alpha * float(ratio.double().log().square().mean()), tol=1e-4)


@check('q1', points=4, title='Only valid cells count, and each of them equally')
def cells(student, rng):
    own, wanted = pair(rng)
    wanted[0] = -own[0]  # the photo with a single valid cell is as bad as can be
    valid = uneven(rng, own[:, 0].shape)
    same(student(own, wanted, valid, 0.), slow_loss(own, wanted, valid, 0.), tol=1e-4)
    same(student(own, wanted, torch.zeros_like(valid), 0.), 0.)


@check('q1', points=3, title='Gradients: none for the teacher, the right one for the student, none from padding')
def gradients(student, rng):
    own, wanted = pair(rng, 3)
    valid = uneven(rng, own[:, 0].shape)
    own[0] *= valid[0]  # vectors of zeros on padding
    wanted[0] *= valid[0]
    weights = torch.ones(())
    same(student.grad((own, wanted, valid, .7), wrt=1, weights=weights), torch.zeros_like(wanted))
    same(student.grad((own, wanted, valid, .7), wrt=0, weights=weights), slow_slope(own, wanted, valid, .7), tol=1e-3)


# ---- q2: two grids and padding -----------------------------------------------------------------------------------

def slow_axis(pixels: int, cells: int, longest: int, side: int) -> list[tuple[int, int, float]]:
    "For each student cell: a teacher cell, the next one, and the share of the next one."
    shown = [k for k in range(side) if (k + .5) * longest / side < pixels] or [0]
    found = []
    for i in range(cells):
        place = (i + .5) * pixels / cells * side / longest - .5
        place = min(max(place, 0.), float(shown[-1]))
        low = min(int(place), shown[-1])
        found.append((low, min(low + 1, shown[-1]), place - low))
    return found


def slow_lookup(teacher: Tensor, photo: tuple, grid: tuple) -> Tensor:
    "Four teacher cells for each student cell."
    maps, side = np.float64(teacher), teacher.shape[-1]
    rows, columns = (slow_axis(photo[n], grid[n], max(photo), side) for n in (0, 1))
    out = np.zeros((*maps.shape[:2], *grid))
    for i, (top, bottom, v) in enumerate(rows):
        for j, (left, right, u) in enumerate(columns):
            upper = (1 - u) * maps[:, :, top, left] + u * maps[:, :, top, right]
            lower = (1 - u) * maps[:, :, bottom, left] + u * maps[:, :, bottom, right]
            out[:, :, i, j] = (1 - v) * upper + v * lower
    return torch.from_numpy(np.float32(out))


def oblong(rng) -> tuple[tuple[int, int], int, tuple[int, int]]:
    """A wide photo, the teacher's side, and a student's grid finer than the teacher's.

    The short side ends 0.15 to 0.4 cells behind a teacher cell: rounding to whole cells is wrong, and without clamping
    padding shows."""
    side, cell = int(rng.integers(6, 10)), int(rng.integers(20, 40))
    rows = int(rng.integers(3, side - 1))
    short = round((rows + rng.uniform(.18, .38)) * cell)
    grid = int(rng.integers(rows + 2, 2 * rows + 3)), int(rng.integers(side - 1, side + 4))
    return (short, side * cell), side, grid


def both_ways(rng):
    "The oblong case, lying and standing: photo, side, grid."
    photo, side, grid = oblong(rng)
    yield photo, side, grid
    yield photo[::-1], side, grid[::-1]


@check('q2', points=5, title='A square photo: no padding, two strides')
def square(student, rng):
    side, pixels = int(rng.integers(5, 9)), int(rng.integers(100, 300))
    teacher, grid = draw(rng, 2, 3, side, side), (side + int(rng.integers(1, 4)), side - int(rng.integers(1, 3)))
    same(student(teacher, (pixels, pixels), grid), slow_lookup(teacher, (pixels, pixels), grid), tol=1e-4)


@check('q2', points=6, title='Wide and tall photos')
def wide_and_tall(student, rng):
    for photo, side, grid in both_ways(rng):
        teacher = draw(rng, 2, 3, side, side)
        same(student(teacher, photo, grid), slow_lookup(teacher, photo, grid), tol=1e-4)


@check('q2', points=4, title='What the padding holds changes nothing')
def padding(student, rng):
    for photo, side, grid in both_ways(rng):
        teacher = draw(rng, 1, 2, side, side)
        other, shown = teacher + 50., [math.ceil(n * side / max(photo) - .5) for n in photo]
        other[:, :, :shown[0], :shown[1]] = teacher[:, :, :shown[0], :shown[1]]
        same(student(other, photo, grid), student(teacher, photo, grid), tol=1e-3)


@check('q2', points=4, title='Away from the edges every cell is told its own place')
def places(student, rng):
    for photo, side, grid in both_ways(rng):
        cell = max(photo) / side
        centres = (torch.arange(side) + .5) * cell / 100
        teacher = torch.stack([centres[:, None].expand(side, side), centres[None].expand(side, side)])[None]
        wanted = [(torch.arange(n) + .5) * pixels / n / 100 for n, pixels in zip(grid, photo)]
        inside = [slice(*np.searchsorted(w, [cell / 200, (pixels - cell) / 100])) for w, pixels in zip(wanted, photo)]
        told = student(teacher, photo, grid)
        if not isinstance(told, Tensor): raise Wrong('wrong type')
        if told.shape != (1, 2, *grid): raise Wrong('wrong shape')
        same(told[0, 0, inside[0], 0], wanted[0][inside[0]], tol=1e-4)
        same(told[0, 1, 0, inside[1]], wanted[1][inside[1]], tol=1e-4)


# ---- q3: carrying weights over -----------------------------------------------------------------------------------

def slow_rows(table: Tensor, extra: int, old: tuple, new: tuple) -> Tensor:
    "The new table, row by row."
    maps = np.float64(table)
    rows = [maps[n] for n in range(extra)]
    for i in range(new[0]):
        for j in range(new[1]):
            y = min(max((i + .5) * old[0] / new[0] - .5, 0), old[0] - 1)
            x = min(max((j + .5) * old[1] / new[1] - .5, 0), old[1] - 1)
            value = 0.
            for k in range(old[0]):
                for l in range(old[1]):
                    value = value + max(0, 1 - abs(y - k)) * max(0, 1 - abs(x - l)) * maps[extra + k * old[1] + l]
            rows.append(value)
    return torch.from_numpy(np.float32(rows))


def stage(rng, extra: int) -> tuple[dict, tuple, tuple]:
    "Weights, the old grid, and a finer one."
    old = sides(rng, 2, 5)
    new = old[0] + int(rng.integers(1, 5)), old[1] + int(rng.integers(1, 5))
    table = draw(rng, extra + old[0] * old[1], 3)
    return {'kernel': draw(rng, 3, 2, 3, 3), 'positions': table, 'norm': draw(rng, 3)}, old, new


def table_of(carried) -> Tensor:
    "The table of positions that came back."
    if not isinstance(carried, dict) or not isinstance(carried.get('positions'), Tensor): raise Wrong('wrong type')
    return carried['positions']


@check('q3', points=5, title='Cells on a finer grid, not square')
def finer(student, rng):
    weights, old, new = stage(rng, 1)
    rows = table_of(student(weights, old, new))
    wanted = slow_rows(weights['positions'], 1, old, new)
    if rows.shape[-1:] != wanted.shape[-1:] or len(rows) < new[0] * new[1]: raise Wrong('wrong shape')
    same(rows[-new[0] * new[1]:], wanted[1:], tol=1e-4)


@check('q3', points=4, title='No extra token, one, or five: they are kept as they are')
def extras(student, rng):
    for extra in (0, 1, 5):
        weights, old, new = stage(rng, extra)
        rows = table_of(student(weights, old, new))
        if rows.shape != (extra + new[0] * new[1], 3): raise Wrong('wrong shape')
        same(rows[:extra], weights['positions'][:extra], tol=0)


@check('q3', points=3, title='All other weights are kept, and what was given is left alone')
def others(student, rng):
    weights, old, new = stage(rng, 1)
    carried, (after, *_) = student.after(weights, old, new)
    if not isinstance(carried, dict): raise Wrong('wrong type')
    same({k: v for k, v in carried.items() if k != 'positions'}, {k: weights[k] for k in ('kernel', 'norm')}, tol=0)
    if after.keys() != weights.keys() or any(not torch.equal(after[k], v) for k, v in weights.items()):
        raise Wrong('input was changed')


@check('q3', points=3, title='The type is kept, and the same grid gives the same table')
def kept(student, rng):
    weights, old, new = stage(rng, 1)
    half = {'positions': weights['positions'].half()}
    rows = table_of(student(half, old, new))
    if rows.dtype != torch.float16: raise Wrong('wrong type')
    if not torch.isfinite(rows).all(): raise Wrong('not finite')
    same(table_of(student(weights, old, old)), weights['positions'], tol=1e-6)


# ---- q4: a narrow adapter ----------------------------------------------------------------------------------------

def slow_gelu(z: float) -> float: return z * (1 + math.erf(z / math.sqrt(2))) / 2


def slow_adapter(features, scale, shift, down, up, gate) -> Tensor:
    "Cell by cell."
    maps, scale, shift, down, up = (np.float64(x) for x in (features, scale, shift, down, up))
    out = maps.copy()
    for b, i, j in np.ndindex(maps.shape[0], *maps.shape[2:]):
        x = maps[b, :, i, j]
        centre = sum(x) / len(x)
        spread = sum((v - centre) ** 2 for v in x) / len(x)
        normal = [a * (v - centre) / math.sqrt(spread + 1e-6) + s for a, v, s in zip(scale, x, shift)]
        narrow = [slow_gelu(sum(w * v for w, v in zip(row, normal))) for row in down]
        out[b, :, i, j] += float(gate) * np.array([sum(w * v for w, v in zip(row, narrow)) for row in up])
    return torch.from_numpy(np.float32(out))


def adapter_case(rng, rank: int = 2) -> list[Tensor]:
    "Features whose cells have means and spreads of their own, and an adapter."
    channels, grid = int(rng.integers(5, 9)), sides(rng, 3, 6)
    features = draw(rng, 2, channels, *grid) * (1 + 2 * draw(rng, 2, 1, *grid).abs()) + 2 * draw(rng, 2, 1, *grid)
    vectors = [1 + .3 * draw(rng, channels), .3 * draw(rng, channels)]
    gate = torch.tensor(float(rng.uniform(.5, 1.5)))
    return [features, *vectors, draw(rng, rank, channels), draw(rng, channels, rank), gate]


@check('q4', points=4, title='Every cell as the formula says')
def formula(student, rng):
    case = adapter_case(rng)
    same(student(*case), slow_adapter(*case), tol=2e-4)


@check('q4', points=3, title='A closed gate, or an empty U, leaves the features as they are')
def closed(student, rng):
    case = adapter_case(rng)
    features, *middle, up, gate = case
    same(student(features, *middle, up, torch.tensor(0.)), features)
    same(student(features, *middle, torch.zeros_like(up), gate), features)


@check('q4', points=3, title='Each cell by itself: other cells and other photos change nothing')
def alone(student, rng):
    features, *rest = adapter_case(rng)
    whole = student(features, *rest)
    if not isinstance(whole, Tensor): raise Wrong('wrong type')
    if whole.shape != features.shape: raise Wrong('wrong shape')
    b, i, j = (int(rng.integers(n)) for n in (features.shape[0], *features.shape[2:]))
    cell = features[b:b + 1, :, i:i + 1, j:j + 1].clone()
    same(student(cell, *rest), whole[b:b + 1, :, i:i + 1, j:j + 1], tol=1e-4)
    order = rng.permutation(features.shape[3])
    same(student(features[..., order].contiguous(), *rest), whole[..., order], tol=1e-4)


@check('q4', points=2, title='The correction has at most rank r')
def narrow(student, rng):
    features, *rest = adapter_case(rng)
    changed = student(features, *rest)
    if not isinstance(changed, Tensor): raise Wrong('wrong type')
    if changed.shape != features.shape: raise Wrong('wrong shape')
    correction = (changed - features).double().permute(1, 0, 2, 3).flatten(1)
    sizes = np.linalg.svd(correction.numpy(), compute_uv=False)
    if not np.isfinite(sizes).all(): raise Wrong('not finite')
    if sizes[2] > 1e-4 * sizes[0]: raise Wrong('values differ')


@check('q4', points=3, title='Gradients reach the adapter and the features below it')
def flow(student, rng):
    case = adapter_case(rng)
    weights = draw(rng, *case[0].shape)
    for number, step in ((5, ()), (3, (1, 2)), (4, (2, 1)), (0, (1, 2, 1, 0))):
        slope = student.grad(tuple(case), wrt=number, weights=weights)
        moved = [[x.double().clone() for x in case] for _ in (0, 1)]
        moved[0][number][step] += 1e-3
        moved[1][number][step] -= 1e-3
        plus, minus = (slow_double(*args) for args in moved)
        same(slope[step].reshape(()), float(((plus - minus) * np.float64(weights)).sum() / 2e-3), tol=3e-3)


def slow_double(features, scale, shift, down, up, gate) -> np.ndarray:
    "The formula in double precision, channel sums written out; for differences."
    maps, a, b, d, u = (np.float64(x) for x in (features, scale, shift, down, up))
    centred = maps - maps.mean(1, keepdims=True)
    normal = centred / np.sqrt((centred ** 2).mean(1, keepdims=True) + 1e-6)
    normal = normal * a[None, :, None, None] + b[None, :, None, None]
    hidden = np.stack([sum(w * normal[:, c] for c, w in enumerate(row)) for row in d], 1)
    hidden = np.vectorize(slow_gelu)(hidden)
    return maps + float(gate) * np.stack([sum(w * hidden[:, c] for c, w in enumerate(row)) for row in u], 1)


# ---- q5: pictures in the teacher's colours -----------------------------------------------------------------------

def slow_axes(cells: np.ndarray, inside: np.ndarray) -> np.ndarray:
    "Three axes (C, 3) by singular values, turned towards the mask."
    centred = cells - cells.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:3].T
    for n in range(3):
        heights = [float(x @ axes[:, n]) for x in centred]
        under = [v for v, m in zip(heights, inside) if m]
        rest = [v for v, m in zip(heights, inside) if not m]
        if sum(under) / len(under) < sum(rest) / len(rest): axes[:, n] = -axes[:, n]
    return axes


def slow_pair(teacher: Tensor, student: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    "Both pictures."
    cells, inside = np.float64(teacher).reshape(len(teacher), -1).T, np.float64(mask).reshape(-1) > 0
    axes = slow_axes(cells, inside)
    places = (cells - cells.mean(0)) @ axes
    low, high = places.min(0), places.max(0)
    pictures = []
    for maps in (teacher, student):
        rows = (np.float64(maps).reshape(len(maps), -1).T - cells.mean(0)) @ axes
        picture = np.clip((rows - low) / (high - low), 0, 1).T.reshape(3, *maps.shape[1:])
        pictures.append(torch.from_numpy(np.float32(picture)))
    return tuple(pictures)


def painted(rng) -> tuple[Tensor, Tensor, Tensor]:
    "Teacher with three clear axes, a student on another grid, and a mask that tells the sign of each axis clearly."
    channels = int(rng.integers(5, 8))
    (h, w), (sh, sw) = sides(rng, 6, 9), sides(rng, 3, 7)
    turn = np.linalg.qr(rng.normal(size=(channels, channels)))[0]
    sizes = np.array([4, 2.4, 1.4] + [.2] * (channels - 3))
    mean = 3 * rng.normal(size=channels)
    while True:
        flat = rng.normal(size=(h * w, channels)) * sizes
        inside = rng.random(h * w) < .3
        gap = np.abs(flat[inside].mean(0) - flat[~inside].mean(0))[:3] if 2 < inside.sum() < h * w - 2 else np.zeros(3)
        spread = np.linalg.svd(flat - flat.mean(0), compute_uv=False)[:3]
        if (gap > .15 * sizes[:3]).all() and (spread[:2] > 1.3 * spread[1:]).all(): break
    student = rng.normal(size=(sh * sw, channels)) * sizes * 1.5  # wider than the teacher: some colours end at 0 or 1
    student[:, 0] += 2.
    maps = [torch.from_numpy(np.float32((x @ turn + mean).T.reshape(channels, *g)))
            for x, g in ((flat, (h, w)), (student, (sh, sw)))]
    return *maps, torch.from_numpy(np.float32(inside.reshape(h, w)))


def pictures_of(answer, teacher: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    "Two pictures of the right shapes, or a reason."
    if not isinstance(answer, (list, tuple)): raise Wrong('wrong type')
    if not all(isinstance(x, Tensor) for x in answer): raise Wrong('wrong type')
    if [x.shape for x in answer] != [(3, *maps.shape[1:]) for maps in (teacher, other)]: raise Wrong('wrong shape')
    if not all(torch.isfinite(x).all() for x in answer): raise Wrong('not finite')
    return tuple(answer)


def unflipped(answer: tuple, wanted: tuple) -> tuple[Tensor, Tensor]:
    "Both pictures, each colour turned over if the teacher's picture is nearer to the wanted one then."
    far = [(a - b).abs().sum() > (1 - a - b).abs().sum() for a, b in zip(answer[0], wanted[0])]
    return tuple(torch.stack([1 - colour if turn else colour for colour, turn in zip(x, far)]) for x in answer)


@check('q5', points=4, title="The teacher's picture: centre, axes and range (signs are left to another check)")
def teachers(student, rng):
    case = painted(rng)
    wanted = slow_pair(*case)
    same(unflipped(pictures_of(student(*case), *case[:2]), wanted)[0], wanted[0], tol=1e-3)


@check('q5', points=4, title="The student in the teacher's colours")
def students(student, rng):
    case = painted(rng)
    wanted = slow_pair(*case)
    same(unflipped(pictures_of(student(*case), *case[:2]), wanted)[1], wanted[1], tol=1e-3)


@check('q5', points=3, title='The mask alone decides the signs, also after turning the whole feature space')
def signs(student, rng):
    teacher, other, mask = painted(rng)
    turn = torch.from_numpy(np.float32(np.linalg.qr(rng.normal(size=(len(teacher), len(teacher))))[0]))
    turned = [torch.einsum('cd,dhw->chw', turn, maps) for maps in (teacher, other)]
    for marked in (mask, 1 - mask):
        for maps in ((teacher, other), turned):
            picture = pictures_of(student(*maps, marked), *maps)[0]
            under, rest = (picture[:, marked == value].mean(1) for value in (1, 0))
            if (under < rest).any(): raise Wrong('values differ')
