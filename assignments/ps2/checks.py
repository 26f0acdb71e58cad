"""Hidden checks of problem set 2 (features, prototypes, similarity). Instructor only."""
import math

import numpy as np
import torch
from grader import Question, Wrong, check, same

QUESTIONS = {
    'q1': Question('layer_mix', points=20, public=5),
    'q2': Question('trimmed_prototype', points=20, public=5),
    'q3': Question('contrast_probability', points=20, public=5),
    'q4': Question('best_share_map', points=20, public=5),
    'q5': Question('reliable_prior', points=20, public=5),
}


# Cases: everything is drawn, shapes too.

def whole(rng, low: int, high: int) -> int:
    "A whole number from low to high, both included."
    return int(rng.integers(low, high + 1))


def grid(rng, low: int = 3, high: int = 6) -> tuple[int, int]:
    "Height and width, always different; either may be the larger."
    sides = [whole(rng, low, high)]
    sides.append(sides[0] + whole(rng, 1, 3))
    return tuple(sides[::-1] if rng.random() < 0.5 else sides)


def normal(rng, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype('float32'))


def lengths(rng, *shape: int) -> torch.Tensor:
    "Factors between 0.2 and 5."
    return torch.from_numpy(np.exp(rng.uniform(-1.6, 1.6, shape)).astype('float32'))


def some_cells(rng, h: int, w: int) -> np.ndarray:
    "About 40 % of the cells, scattered: (h,w) of 0 and 1."
    cells = np.zeros(h * w, dtype=int)
    cells[rng.permutation(h * w)[:round(0.4 * h * w)]] = 1
    return cells.reshape(h, w)


def enlarged(rng, cells: np.ndarray) -> torch.Tensor:
    "A mask in pixels whose borders are the borders of cells."
    return torch.from_numpy(cells.repeat(whole(rng, 2, 4), 0).repeat(whole(rng, 2, 4), 1).astype('uint8'))


def speckled(rng, cells: np.ndarray) -> torch.Tensor:
    "A mask whose size is no multiple of the grid: a quarter of the pixels at random, and an ignored band of columns."
    (h, w), (height, width) = cells.shape, (n * f + whole(rng, 1, n - 1) for n, f in zip(cells.shape, (3, 4)))
    mask = cells[np.arange(height)[:, None] * h // height, np.arange(width) * w // width]
    mask = np.where(rng.random(mask.shape) < 0.25, rng.choice([0, 1, 255], mask.shape), mask)
    left = whole(rng, 0, width // 2)
    mask[:, left:left + width // 4] = 255
    return torch.from_numpy(mask.astype('uint8'))


def scene(rng, direction: torch.Tensor, cells: np.ndarray, noise: float = 0.4) -> torch.Tensor:
    "Features (C,h,w): the direction plus noise where cells are 1, other vectors elsewhere, all of random length."
    marked = torch.from_numpy(cells).float()
    vectors = normal(rng, len(direction), *cells.shape)
    vectors = torch.where(marked > 0, direction[:, None, None] + noise * vectors, vectors)
    return vectors * lengths(rng, *cells.shape)


# Slow references: numpy and loops, float64.

def tensor(values) -> torch.Tensor:
    return torch.tensor(np.array(values), dtype=torch.float32)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(float(vector @ vector))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(unit(a) @ unit(b))


def slow_shares(mask: torch.Tensor, size: tuple[int, int], label: int) -> np.ndarray:
    "Share of the pixels with this label in every cell's window."
    pixels, shares = mask.numpy(), np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            (top, bottom), (left, right) = ((n * side // cells, -(-(n + 1) * side // cells))
                                            for n, side, cells in zip((i, j), pixels.shape, size))
            shares[i, j] = (pixels[top:bottom, left:right] == label).mean()
    return shares


def slow_mean(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    "Weighted sum of unit vectors, scaled to length 1."
    total = np.zeros(len(features))
    for i, j in np.ndindex(weights.shape): total += weights[i, j] * unit(features[:, i, j])
    return unit(total)


def slow_map(vector: np.ndarray, features: np.ndarray) -> np.ndarray:
    values = np.zeros(features.shape[1:])
    for i, j in np.ndindex(values.shape): values[i, j] = cosine(vector, features[:, i, j])
    return values


def slow_enlarge(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    "Bilinear, with cell centres at one half."
    out = np.zeros(size)
    for i, j in np.ndindex(*size):
        near = []
        for n, cells, side in zip((i, j), values.shape, size):
            at = max(0.0, (n + 0.5) * cells / side - 0.5)
            first = min(int(at), cells - 1)
            near.append([(first, 1 - (at - first)), (min(first + 1, cells - 1), at - first)])
        out[i, j] = sum(values[a, b] * s * t for a, s in near[0] for b, t in near[1])
    return out


def varied(result, *shape: int) -> torch.Tensor:
    "A tensor of this shape; a property of a map that is the same everywhere proves nothing."
    if not isinstance(result, torch.Tensor): raise Wrong('wrong type')
    if tuple(result.shape) != shape: raise Wrong('wrong shape')
    if not (result.double().std() > 1e-4): raise Wrong('values differ')
    return result


# Exercise 1

def slow_layer_mix(query_layers, support_layers, place, photo_size, weights) -> torch.Tensor:
    size, total = max((q.shape[1:] for q in query_layers), key=lambda s: s[0] * s[1]), 0
    for q, s, weight in zip(query_layers, support_layers, weights):
        row, column = (math.floor(p * n / side) for p, n, side in zip(place, s.shape[1:], photo_size))
        values = slow_map(s[:, row, column].double().numpy(), q.double().numpy())
        total = total + weight / math.fsum(weights) * slow_enlarge(values, size)
    return tensor(total)


def layer(rng, size: tuple[int, int], channels: int) -> torch.Tensor:
    return normal(rng, channels, *size) * lengths(rng, *size)


def pyramid(rng) -> tuple[list, list, tuple[int, int]]:
    "Three layers whose grids shrink, the largest in the middle; the support's grids are others. And a photo size."
    (h, w), (g, k) = grid(rng, 6, 8), grid(rng, 7, 9)
    channels = [whole(rng, 3, 8) for _ in range(3)]
    query = [layer(rng, (h // n, w // n), c) for n, c in zip((2, 1, 3), channels)]
    support = [layer(rng, (g // n, k // n), c) for n, c in zip((2, 1, 3), channels)]
    return query, support, (10 * g + whole(rng, 1, 9), 10 * k + whole(rng, 1, 9))


def in_cell(rng, size: tuple[int, int], photo: tuple[int, int], late: bool) -> tuple[int, int]:
    "A pixel of a random cell that is not on the diagonal: the first pixel of the cell or, late, its last one."
    cells = [0, 0]
    while cells[0] == cells[1]: cells = [whole(rng, 1, n - 2) for n in size]
    return tuple(-(-(c + late) * side // n) - late for c, n, side in zip(cells, size, photo))


@check('q1', points=4, title='One layer: the marked cell is found, up to the border of the photo')
def one_layer(student, rng):
    size, c = grid(rng, 4, 6), whole(rng, 3, 8)
    photo = (size[0] * 7 + whole(rng, 1, 3), size[1] * 6 + whole(rng, 1, 3))
    query, support = layer(rng, grid(rng), c), layer(rng, size, c)
    places = [in_cell(rng, size, photo, late) for late in (False, True)]
    for place in (*places, (photo[0] - 1, photo[1] - 1), (0, photo[1] - 1)):
        args = [query], [support], place, photo, [1.0]
        same(student(*args), slow_layer_mix(*args), tol=1e-5)


@check('q1', points=4, title='Several layers: each has its own grid and its own cell')
def several_layers(student, rng):
    for late in (False, True):
        query, support, photo = pyramid(rng)
        args = query, support, in_cell(rng, tuple(support[1].shape[1:]), photo, late), photo, [1.0, 1.0, 1.0]
        same(student(*args), slow_layer_mix(*args), tol=1e-5)


@check('q1', points=4, title='Only the ratio of the weights matters, and a weight of 0 is nothing')
def weights_are_shares(student, rng):
    size, other, c = grid(rng), grid(rng, 4, 6), whole(rng, 3, 8)
    query, support = [[layer(rng, s, c) for _ in range(3)] for s in (size, other)]
    photo = (other[0] * 8, other[1] * 8)
    place = in_cell(rng, other, photo, late=False)
    for weights in ([0.2, 0.5, 0.1], [6.0, 15.0, 3.0], [0.0, 3.0, 2.0]):
        args = query, support, place, photo, weights
        same(student(*args), slow_layer_mix(*args), tol=1e-5)


@check('q1', points=3, title='The length of a vector does not matter, in no layer')
def length_is_nothing(student, rng):
    size, other = grid(rng), grid(rng)
    query, support = [[layer(rng, s, c) for c in (4, 6)] for s in (size, other)]
    photo, weights = (other[0] * 8, other[1] * 8), [1.0, 1.0]
    place = (whole(rng, 0, photo[0] - 1), whole(rng, 0, photo[1] - 1))
    first = varied(student(query, support, place, photo, weights), *size)
    longer = [[values * lengths(rng, *values.shape[1:]) * factor for values, factor in zip(layers, (7.0, 0.3))]
              for layers in (query, support)]
    same(student(*longer, place, photo, weights), first, tol=1e-5)


# Exercise 2

def slow_trimmed(features: torch.Tensor, mask: torch.Tensor, trim: float) -> torch.Tensor:
    vectors, weights = features.double().numpy(), slow_shares(mask, features.shape[1:], 1)
    mean = slow_mean(vectors, weights)
    order = sorted(zip(*np.nonzero(weights)), key=lambda at: cosine(vectors[:, at[0], at[1]], mean))
    for at in order[:math.floor(trim * len(order))]: weights[at] = 0
    return tensor(slow_mean(vectors, weights))


def trim_case(rng, aligned: bool) -> tuple[torch.Tensor, torch.Tensor, float]:
    "Features, mask, and a trim that is far from a whole number of cells."
    h, w = grid(rng, 4, 6)
    cells = some_cells(rng, h, w)
    mask = enlarged(rng, cells) if aligned else speckled(rng, cells)
    count = int((slow_shares(mask, (h, w), 1) > 0).sum())
    features = scene(rng, normal(rng, whole(rng, 5, 9)), cells, noise=1.0)
    return features, mask, (whole(rng, 2, count // 2) + 0.7) / count


@check('q2', points=4, title='Without trimming: the mean of unit vectors')
def plain_mean(student, rng):
    for _ in range(2):
        features, mask, _ = trim_case(rng, aligned=True)
        same(student(features, mask, 0.0), slow_trimmed(features, mask, 0.0), tol=1e-5)


@check('q2', points=5, title='The cells that fit worst are dropped, and the right number of them')
def dropped(student, rng):
    for _ in range(3):
        case = trim_case(rng, aligned=True)
        same(student(*case), slow_trimmed(*case), tol=1e-5)


@check('q2', points=3, title='Cells at the border count by their share, ignored pixels do not count')
def shares_count(student, rng):
    for _ in range(2):
        features, mask, trim = trim_case(rng, aligned=False)
        result, after = student.after(features, mask, trim)
        same(result, slow_trimmed(features, mask, trim), tol=1e-5)
        if not (torch.equal(after[0], features) and torch.equal(after[1], mask)): raise Wrong('input was changed')


@check('q2', points=3, title='What lies outside the object changes nothing')
def outside_is_nothing(student, rng):
    features, mask, trim = trim_case(rng, aligned=True)
    shares = slow_shares(mask, features.shape[1:], 1)
    inside, mean = torch.from_numpy(shares > 0), tensor(slow_mean(features.double().numpy(), shares))[:, None, None]
    first = varied(student(features, mask, trim), len(features))
    for around in (-mean, mean):  # as unlike the object as can be, then just like it
        changed = torch.where(inside, features, around * lengths(rng, *inside.shape))
        same(student(changed, mask, trim), first, tol=1e-5)
    other = student(torch.where(inside, normal(rng, *features.shape), features), mask, trim)
    varied(varied(other, len(features)) - first, len(features))


# Exercise 3

def slow_probability(query: torch.Tensor, support: torch.Tensor, mask: torch.Tensor, temperature: float):
    vectors = support.double().numpy()
    object_, background = (slow_mean(vectors, slow_shares(mask, support.shape[1:], label)) for label in (1, 0))
    difference = [(slow_map(background, q) - slow_map(object_, q)) / temperature for q in query.double().numpy()]
    return tensor(1 / (1 + np.exp(np.clip(difference, -700, 700))))


def probability_case(rng, photos: int, aligned: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    "Query photos that show the object in some cells, a support photo, its mask."
    size, direction = grid(rng), normal(rng, whole(rng, 5, 9))
    cells = some_cells(rng, *size)
    mask = enlarged(rng, cells) if aligned else speckled(rng, cells)
    h, w = grid(rng, 4, 6)
    query = torch.stack([scene(rng, direction, some_cells(rng, h, w)) for _ in range(photos)])
    return query, scene(rng, direction, cells), mask


@check('q3', points=4, title='Equal to a loop, for a batch of photos that are not square')
def probability_loop(student, rng):
    for temperature in (0.2, 0.7):
        case = probability_case(rng, photos=3)
        same(student(*case, temperature), slow_probability(*case, temperature), tol=1e-5)


@check('q3', points=4, title='Cells count by their shares, ignored pixels on neither side')
def probability_shares(student, rng):
    for _ in range(2):
        case = probability_case(rng, photos=1, aligned=False)
        same(student(*case, 0.3), slow_probability(*case, 0.3), tol=1e-5)


@check('q3', points=4, title='A very small temperature gives numbers, and the right ones')
def probability_cold(student, rng):
    query, support, mask = probability_case(rng, photos=2)
    support = support / support.square().sum(0).sqrt()
    same(student(query, support, mask, 0.004), slow_probability(query, support, mask, 0.004), tol=5e-4)


@check('q3', points=3, title='Every query cell is judged by itself')
def probability_alone(student, rng):
    query, support, mask = probability_case(rng, photos=3)
    together = varied(student(query, support, mask, 0.4), 3, *query.shape[2:])
    order = torch.from_numpy(rng.permutation(query.shape[3]))
    same(student(query[1:2, :, :, order], support, mask, 0.4), together[1:2, :, order], tol=1e-5)
    same(student(query[:, :, 1:3, 2:3], support, mask, 0.4), together[:, 1:3, 2:3], tol=1e-5)


# Exercise 4

def slow_cells(shares: np.ndarray) -> np.ndarray:
    "Half covered; in a photo without such a cell, half as covered as the fullest."
    limit = 0.5 if shares.max() >= 0.5 else shares.max() / 2
    return (shares >= limit) & (shares > 0)


def slow_regions(support: torch.Tensor, masks: torch.Tensor) -> list[list[np.ndarray]]:
    "Object vectors and background vectors of all photos."
    found = [[], []]
    for features, mask in zip(support.double().numpy(), masks):
        object_, background = (slow_cells(slow_shares(mask, features.shape[1:], label)) for label in (1, 0))
        for i, j in np.ndindex(object_.shape):
            if object_[i, j]: found[0].append(features[:, i, j])
            elif background[i, j]: found[1].append(features[:, i, j])
    return found


def slow_best_share(query: torch.Tensor, support: torch.Tensor, masks: torch.Tensor, share: float) -> torch.Tensor:
    regions, scores = slow_regions(support, masks), np.zeros((len(query), *query.shape[2:]))
    for b, y, x in np.ndindex(scores.shape):
        vector, means = query[b, :, y, x].double().numpy(), []
        for region in regions:
            best = sorted((cosine(vector, other) for other in region), reverse=True)[:math.ceil(share * len(region))]
            means.append(sum(best) / len(best))
        scores[b, y, x] = means[0] - means[1]
    return tensor(scores)


def matching(rng, shots: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    "Queries, supports and masks with borders on cells; the shots differ in the size of the object."
    (g, k), c = grid(rng, 4, 5), whole(rng, 4, 7)
    shown = []
    for n in range(shots):
        cells = np.zeros(g * k, dtype=int)
        cells[rng.permutation(g * k)[:6 + 3 * n]] = 1
        shown.append(torch.from_numpy(cells.reshape(g, k).repeat(3, 0).repeat(2, 1).astype('uint8')))
    query, support = normal(rng, 2, c, *grid(rng, 2, 4)) * 3, normal(rng, shots, c, g, k) * lengths(rng, shots, 1, g, k)
    return query, support, torch.stack(shown)


def clear_share(rng, support: torch.Tensor, masks: torch.Tensor) -> float:
    "A share for which no region is near a whole number of cells."
    counts = [len(region) for region in slow_regions(support, masks)]
    while True:
        share = round(float(rng.uniform(0.2, 0.6)), 3)
        if all(0.1 < share * n % 1 < 0.9 for n in counts): return share


@check('q4', points=5, title='The number of partners grows with each region')
def share_of_region(student, rng):
    for _ in range(2):
        case = matching(rng, shots=1)
        share = clear_share(rng, *case[1:])
        same(student(*case, share), slow_best_share(*case, share), tol=1e-5)


@check('q4', points=4, title='The cells of several support photos are pooled')
def share_pooled(student, rng):
    query, support, masks = matching(rng, shots=3)
    share = clear_share(rng, support, masks)
    want = slow_best_share(query, support, masks, share)
    for order in ([0, 1, 2], [2, 0, 1]):
        same(student(query, support[order], masks[order], share), want, tol=1e-5)


@check('q4', points=3, title='The ends: only the best partner, and all of them')
def share_ends(student, rng):
    case = matching(rng, shots=1)
    for share in (0.001, 1.0):
        same(student(*case, share), slow_best_share(*case, share), tol=1e-5)


@check('q4', points=3, title='Small objects keep their best cells, ignored pixels are in no region')
def share_small(student, rng):
    (g, k), c = grid(rng, 4, 6), whole(rng, 4, 7)
    mask = torch.zeros(g * 6, k * 6, dtype=torch.uint8)
    ignored = whole(rng, 0, k - 3)
    mask[:, ignored * 6:(ignored + 2) * 6] = 255
    rows = rng.permutation(g)[:3] * 6
    for row, (height, width) in zip(rows, ((3, 4), (2, 4), (1, 2))):  # 12, 8 and 2 of 36 pixels
        column = 6 * (ignored + 2)
        mask[row + 1:row + 1 + height, column + 1:column + 1 + width] = 1
    query, support, masks = normal(rng, 1, c, 3, 4), normal(rng, 1, c, g, k), mask[None]
    share = clear_share(rng, support, masks)
    same(student(query, support, masks, share), slow_best_share(query, support, masks, share), tol=1e-5)


# Exercise 5

def slow_reliable(query: torch.Tensor, support: torch.Tensor, masks: torch.Tensor, temperature: float) -> dict:
    prototypes, reliability = [], []
    for features, mask in zip(support.double().numpy(), masks):
        inside, outside = (slow_shares(mask, features.shape[1:], label) for label in (1, 0))
        prototypes.append(slow_mean(features, inside))
        own = slow_map(prototypes[-1], features)
        reliability.append((own * inside).sum() / inside.sum() - (own * outside).sum() / outside.sum())
    loud = [math.exp((r - max(reliability)) / temperature) for r in reliability]
    weights, prior = [value / sum(loud) for value in loud], []
    for q in query.double().numpy():
        mixed = sum(w * slow_map(p, q) for w, p in zip(weights, prototypes))
        prior.append((mixed - mixed.min()) / (mixed.max() - mixed.min()))
    return {'weights': tensor(weights), 'prior': tensor(prior)}


def part(answer, key: str):
    "One entry of the student's dictionary."
    if not isinstance(answer, dict) or key not in answer: raise Wrong('wrong type')
    return answer[key]


def trust_case(rng, shots: int, photos: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    "Supports that show their object more and more clearly."
    (g, k), c = grid(rng, 4, 5), whole(rng, 5, 8)
    supports, masks = [], []
    for n in range(shots):
        cells = some_cells(rng, g, k)
        supports.append(scene(rng, normal(rng, c), cells, noise=1.2 - 0.35 * n))
        masks.append(torch.from_numpy(cells.repeat(3, 0).repeat(2, 1).astype('uint8')))
    size = grid(rng, 3, 5)
    query = torch.stack([normal(rng, c, *size) * lengths(rng, *size) for _ in range(photos)])
    return query, torch.stack(supports), torch.stack(masks)


@check('q5', points=4, title='The weights of the supports')
def trust_weights(student, rng):
    for temperature in (0.15, 0.4):
        case = trust_case(rng, shots=3, photos=1)
        same(part(student(*case, temperature), 'weights'), slow_reliable(*case, temperature)['weights'], tol=2e-5)


@check('q5', points=4, title='The prior: each query photo is stretched by itself, after mixing')
def trust_prior(student, rng):
    case = trust_case(rng, shots=2, photos=3)
    same(part(student(*case, 0.3), 'prior'), slow_reliable(*case, 0.3)['prior'], tol=1e-4)


@check('q5', points=4, title='The order of the supports does not matter, and K equal supports are one')
def trust_order(student, rng):
    query, support, masks = trust_case(rng, shots=3, photos=2)
    first, moved = student(query, support, masks, 0.2), student(query, support[[1, 2, 0]], masks[[1, 2, 0]], 0.2)
    same(part(moved, 'weights'), varied(part(first, 'weights'), 3)[[1, 2, 0]], tol=1e-4)
    same(part(moved, 'prior'), varied(part(first, 'prior'), 2, *query.shape[2:]), tol=1e-4)
    copies = student(query, support[[1, 1, 1, 1]], masks[[1, 1, 1, 1]], 0.2)
    same(part(copies, 'weights'), torch.full((4,), 0.25), tol=1e-5)
    same(part(copies, 'prior'), part(student(query, support[1:2], masks[1:2], 0.2), 'prior'), tol=1e-4)


@check('q5', points=3, title='Shares and ignored pixels, and a very small temperature')
def trust_cold(student, rng):
    size, c = grid(rng, 4, 5), whole(rng, 6, 8)
    cells = some_cells(rng, *size)
    support = torch.stack([scene(rng, normal(rng, c), cells, noise) for noise in (1.0, 0.1)])
    query, masks = normal(rng, 1, c, *grid(rng, 3, 5)), torch.stack([speckled(rng, cells)] * 2)
    for temperature, tol in ((0.5, 1e-4), (0.002, 2e-3)):
        got, want = student(query, support, masks, temperature), slow_reliable(query, support, masks, temperature)
        for key in ('weights', 'prior'): same(part(got, key), want[key], tol=tol)
