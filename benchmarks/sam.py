#!/usr/bin/env python
"""Tiny SAM on objects that it never trained on, from one click, three clicks and a box, beside answers that need no network.

    python benchmarks/sam.py --set coco=coco:PATH --only coco=data/splits/heldout_photos.txt

What is held out. SmallWorld: the 64 classes of its folds (ids 0 to 63); training only ever draws the 24 classes of its
pretraining pool, so neither the classes nor the pictures were seen. Real photos: the photos that a list names, for example
data/splits/heldout_photos.txt; no photo on that list is used in any training, though their categories are.

Every object is asked about in every way. `click`: the point deepest inside the object. `three clicks`: that point and two
more on the object, from a seed. `box`: the object's exact bounding box. Our rows: the single mask, and the best of the three
masks if an oracle chose. `from near`: `closer_mask`, several windows around the box, also without its prior for the shape of
the box. Peers: growing a region of similar
colour from the click (the tolerance is chosen on objects of SmallWorld's pretraining pool), the filled box, and the ellipse
inscribed in the box. Mean IoU over objects at the size of the photo, 95 % intervals by resampling photos (objects of one
photo are not independent), and paired differences. Small objects cover
less than 2 % of their picture, and are listed apart. Writes benchmarks/results/sam.json and sam.md.
"""
import argparse
import time
from pathlib import Path

import numpy as np
import torch
from skimage.segmentation import flood

from common import CARDS, fill_card, write_results
from fsskit.cutouts import coco_instances, crop_thing, fit_picture, LEAST_SHARE, Picture, world_pictures
from fsskit.datasets import find_instances, matching_photos, open_dataset, read_coco, read_lines
from fsskit.evaluation import versions
from fsskit.fetch import sha256_file, shipped_weights
from fsskit.fieldguide import CLASS_NAMES, generator, N_CLASSES
from fsskit.sam import central_point, closer_mask, embed_image, interior_points, load_sam, sam_masks
from fsskit.smallworld import scene

NEAR = 'sam_tiny box, from near'
SMALL = .02  # share of the picture below which an object is called small
TOLERANCES = (8, 12, 16, 24, 32, 48, 64, 96, 128)  # grey levels


def grow(photo: np.ndarray, x: int, y: int, tolerance: float) -> np.ndarray:
    "The connected region around (x, y) whose colours differ by at most `tolerance` from the mean around the click."
    mean = photo[max(0, y - 2):y + 3, max(0, x - 2):x + 3].reshape(-1, 3).astype(float).mean(0)
    like = np.abs(photo - mean).max(-1) <= tolerance
    like[y, x] = True
    return flood(like.astype(np.uint8), (y, x), connectivity=1)


def ellipse(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    "The ellipse inscribed in a box."
    left, top, right, bottom = box
    y, x = np.mgrid[:size[0], :size[1]] + .5
    return ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 <= 1


def filled(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[box[1]:box[3], box[0]:box[2]] = True
    return mask


def iou(a: np.ndarray, b: np.ndarray) -> float: return float((a & b).sum() / max((a | b).sum(), 1))


def answers(sam, photo: np.ndarray, image, mask: np.ndarray, box, rng, tolerance: float) -> dict[str, float]:
    "IoU of every way to ask, and of every peer, for one object."
    click = central_point(mask)
    clicks = np.concatenate([click[None], interior_points(mask, 2, rng, 1)])
    found = {'region growing (click)': iou(grow(photo, int(click[0]), int(click[1]), tolerance), mask),
             'filled box': iou(filled(box, mask.shape), mask), 'ellipse in box': iou(ellipse(box, mask.shape), mask)}
    for name, given in (('click', dict(points=[click])), ('three clicks', dict(points=clicks)), ('box', dict(box=box))):
        found[f'sam_tiny {name}'] = iou(sam_masks(sam, image, **given, multimask=False).masks[0], mask)
        three = sam_masks(sam, image, **given).masks
        ious = [iou(m, mask) for m in three]
        found[f'sam_tiny {name}, best by its own score'], found[f'sam_tiny {name}, oracle of three'] = ious[0], max(ious)
    found[NEAR] = iou(closer_mask(sam, photo, box), mask)
    found[f'{NEAR}, without the prior'] = iou(closer_mask(sam, photo, box, prior=0), mask)
    return found


def smallworld_test(per_class: int) -> list[Picture]:
    "Pictures of the 64 classes that no training draws; things are the individuals of those classes."
    pictures = []
    for c in range(N_CLASSES):
        for index in range(per_class):
            shot = scene(c, index, 256, seed=1)
            masks = [(CLASS_NAMES[k], shot.labels == n + 1) for n, k in enumerate(shot.classes) if k >= 0]
            pictures.append(fit_picture(shot.image, masks, 256, source=f'{c}-{index}'))
    return pictures


def real_test(spec: str, only: str | None) -> list[Picture]:
    "Photos of a data set at their own size, objects from 0.5 % of the photo on; the listed photos only, where a list is given."
    names = read_lines(only) if only else None
    kept = lambda photos: sorted(matching_photos(photos, names) if names else photos)
    kind, _, path = spec.partition(':')
    if kind == 'coco':
        table, pictures = read_coco(find_instances(path)), []
        dataset = open_dataset(spec, min_area=1, progress=False)
        for photo in kept({p for p, _ in table.segments}):
            things = [crop_thing(m, c) for c, m in coco_instances(table, photo) if m.mean() >= LEAST_SHARE]
            if things: pictures.append(Picture(dataset.image(photo), tuple(things), photo))
        return pictures
    dataset = open_dataset(spec, progress=False)
    photos = {p: c for c in dataset.class_ids for p in dataset.photos(c)}
    return [Picture(dataset.image(p), (crop_thing(dataset.mask(p, photos[p]) == 1, dataset.class_name(photos[p])),), p)
            for p in kept(set(photos))]


def best_tolerance() -> float:
    "The tolerance of region growing that does best on SmallWorld's pretraining pool."
    scores = dict.fromkeys(TOLERANCES, 0.)
    for picture in world_pictures(1, side=192, seed=2):
        for mask in picture.masks():
            x, y = central_point(mask).astype(int)
            for t in TOLERANCES: scores[t] += iou(grow(picture.image, x, y, t), mask)
    return max(scores, key=scores.get)


def measure(sam, pictures: list[Picture], tolerance: float) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    "Names of the rows, IoU of each row and object (R, N), the object's photo (N,), and its share of the photo (N,)."
    rows, photo_of, share = [], [], []
    for n, picture in enumerate(pictures):
        image, rng = embed_image(sam, picture.image), generator('bench', n)
        for thing, mask in zip(picture.things, picture.masks()):
            rows.append(answers(sam, picture.image, image, mask, thing.box, rng, tolerance))
            photo_of.append(n); share.append(mask.mean())
        if n % 20 == 19: print(f'{n + 1} of {len(pictures)} pictures', flush=True)
    return list(rows[0]), np.array([[r[k] for r in rows] for k in rows[0]]), np.array(photo_of), np.array(share)


def resampled(ious: np.ndarray, photo_of: np.ndarray, seed: int = 0, n: int = 2000) -> np.ndarray:
    "Mean IoU of each row (R, n) over resampled photos; an object counts as often as its photo was drawn."
    photos, inverse = np.unique(photo_of, return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(photos), np.full(len(photos), 1 / len(photos)), size=n)
    weights = draws[:, inverse].astype(float)
    return ious @ weights.T / weights.sum(1)


def interval(samples: np.ndarray) -> list[float]: return [float(v) for v in np.quantile(samples, [.025, .975])]


def summary(names: list[str], ious: np.ndarray, photo_of: np.ndarray) -> dict:
    "Means, intervals, and the two paired differences that matter."
    if not len(photo_of): return {'objects': 0}
    samples, row = resampled(ious, photo_of), names.index
    pairs = {'click minus region growing': ('sam_tiny click', 'region growing (click)'),
             'box minus ellipse': ('sam_tiny box', 'ellipse in box'), 'box from near minus ellipse': (NEAR, 'ellipse in box')}
    return {'objects': len(photo_of), 'photos': len(np.unique(photo_of)),
            'rows': {k: {'mean_iou': float(ious[i].mean()), 'ci95': interval(samples[i])} for i, k in enumerate(names)},
            'paired': {k: {'difference': float((ious[row(a)] - ious[row(b)]).mean()),
                           'ci95': interval(samples[row(a)] - samples[row(b)])} for k, (a, b) in pairs.items()}}


def table(content: dict) -> str:
    "The results as Markdown."
    columns = [(name, part) for name in content['sets'] for part in ('all', 'small') if content['sets'][name][part]['objects']]
    cells = {c: content['sets'][c[0]][c[1]] for c in columns}
    head = [f"{name}{', small' if part == 'small' else ''} ({cells[name, part]['objects']})" for name, part in columns]
    lines = ['| mean IoU (95 % interval) | ' + ' | '.join(head) + ' |', '|---|' + '---|' * len(columns)]
    say = lambda m, low, high: f'{m:.3f} ({low:.3f} to {high:.3f})'
    for name in cells[columns[0]]['rows']:
        values = [say(cells[c]['rows'][name]['mean_iou'], *cells[c]['rows'][name]['ci95']) for c in columns]
        lines.append(f'| {name} | ' + ' | '.join(values) + ' |')
    for name in cells[columns[0]]['paired']:
        values = [say(cells[c]['paired'][name]['difference'], *cells[c]['paired'][name]['ci95']) for c in columns]
        lines.append(f'| **{name}**, paired | ' + ' | '.join(values) + ' |')
    notes = [f"Weights {content['weights']}. Small: below {SMALL:.0%} of the picture. Tolerance of region growing: "
             f"{content['tolerance']} grey levels. Number of objects in brackets. {content['ms_encode']:.0f} ms a photo and "
             f"{content['ms_prompt']:.0f} ms a prompt on {content['threads']} CPU thread(s)."]
    return '\n'.join([*lines, '', *notes]) + '\n'


def speed(sam, photo: np.ndarray) -> tuple[float, float]:
    "Milliseconds of the image encoder and of one prompt, best of five."
    encode, ask = [], []
    for _ in range(5):
        start = time.perf_counter(); image = embed_image(sam, photo); encode.append(time.perf_counter() - start)
        start = time.perf_counter(); sam_masks(sam, image, box=[10, 10, 90, 90]); ask.append(time.perf_counter() - start)
    return 1e3 * min(encode), 1e3 * min(ask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--set', action='append', default=[], metavar='NAME=SPEC', dest='sets')
    parser.add_argument('--only', action='append', default=[], metavar='NAME=FILE')
    parser.add_argument('--smallworld', type=int, default=2, help='pictures of each of the 64 held-out classes')
    parser.add_argument('--most', type=int, help='pictures of each set, at most')
    parser.add_argument('--weights', default='shipped', help="of sam_tiny: another file than the shipped one, or 'random'")
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results' / 'sam.json')
    args = parser.parse_args()
    random = args.weights == 'random'
    sam = load_sam('sam_tiny', None if random else args.weights)
    file = None if random else shipped_weights('sam_tiny.safetensors') if args.weights == 'shipped' else Path(args.weights)
    only, tolerance, results = dict(pair.split('=', 1) for pair in args.only), best_tolerance(), {}
    tests = {'SmallWorld, held-out classes': smallworld_test(args.smallworld)} if args.smallworld else {}
    tests |= {name: real_test(spec, only.get(name)) for name, spec in (pair.split('=', 1) for pair in args.sets)}
    for name, pictures in tests.items():
        print(name, flush=True)
        names, ious, photo_of, share = measure(sam, pictures[:args.most], tolerance)
        small = share < SMALL
        results[name] = {'all': summary(names, ious, photo_of), 'small': summary(names, ious[:, small], photo_of[small])}
    encode, ask = speed(sam, next(iter(tests.values()))[0].image)
    content = {'benchmark': 'sam_tiny against region growing, filled box and ellipse', 'weights': f'sha256:{sha256_file(file)[:16]}'
               if file else 'random', 'tolerance': tolerance, 'ms_encode': encode, 'ms_prompt': ask,
               'threads': torch.get_num_threads(), 'versions': versions(), 'sets': results}
    text = table(content)
    write_results(args.out, content, text)
    if args.weights == 'shipped': fill_card(CARDS / 'sam_tiny.md', text, 'python benchmarks/sam.py')
    print(text)


if __name__ == '__main__':
    main()
