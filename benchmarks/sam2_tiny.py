#!/usr/bin/env python
"""Tiny SAM 2: following objects through clips, against copying the first mask and dense matching; and what identity is worth.

    python benchmarks/sam2_tiny.py --photos PATH/coco_mini             # the shipped weights; held-out photos of a set in COCO's format
    python benchmarks/sam2_tiny.py --weights FILE --clips 2 --no-speed # a quick look
    python benchmarks/sam2_tiny.py --official                          # adds round trips and memory of the official models (random weights)

Writes benchmarks/results/sam2.json and sam2.md. (A script called sam2.py would hide the package sam2.) What is held out, precisely:
- unseen classes: SmallWorld videos of the 64 classes of the folds; no training of the kit draws these classes;
- unseen individuals: videos of the 24 pretraining classes with indices from 200,000 on; trainings draw far smaller ones
  (`LessonPlan.clips`), validations those from 100,000 on;
- real: moving cut-outs whose objects and backgrounds come only from the photos named in data/splits/heldout_photos.txt.
Region IoU: the mean over the propagated frames of a clip, then over clips; frames in which the object is hidden do not count.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common import CARDS, fill_card, write_results
from fsskit.cutouts import coco_pictures, CutoutPool, moving_clip
from fsskit.datasets import find_instances, matching_photos, read_coco, read_lines
from fsskit.evaluation import versions
from fsskit.fieldguide import CLASS_NAMES, N_CLASSES
from fsskit.memory import Memory, memory_of, segment_with
from fsskit.predictor import create_model
from fsskit.propagation import clip_tensor, propagate, region_iou
from fsskit.sam2 import build_sam2, load_sam2, RELEASED, SAM2_MODELS, sam2_config, TINY_FILE
from fsskit.smallworld import video
from fsskit.training import save_weights

LIST = Path(__file__).parents[1] / 'data' / 'splits' / 'heldout_photos.txt'
FRAMES, SIZE, FAR = 8, 256, .45
METHODS = ('copy the first mask', 'dense matching', 'sam2_tiny')


class Take:
    "A clip, its masks, and the class of what it follows."
    def __init__(self, frames: np.ndarray, masks: np.ndarray, name: str) -> None:
        self.frames, self.masks, self.name = frames, masks.astype(np.uint8), name

    @property
    def copy(self) -> float: return seen_mean(region_iou(np.repeat(self.masks[:1], len(self.masks), 0), self.masks), self.masks)


def seen_mean(ious: np.ndarray, masks: np.ndarray) -> float:
    "Mean over the later frames that show the object."
    shown = masks[1:].any((1, 2))
    return float(ious[1:][shown].mean()) if shown.any() else float('nan')


def world_takes(classes: range, first: int, count: int) -> list[Take]:
    "Every second frame of SmallWorld videos."
    takes = []
    for class_id in classes:
        for index in range(first, first + count):
            clip = video(class_id, index, 2 * FRAMES, SIZE)
            takes.append(Take(clip.frames[::2], clip.masks[::2], CLASS_NAMES[class_id]))
    return takes


def heldout_pool(photos: str) -> CutoutPool:
    "Objects and backgrounds of the held-out photos only."
    table = read_coco(find_instances(photos, 'train'))
    kept = sorted(matching_photos({photo for photo, _ in table.segments}, read_lines(LIST)))
    return CutoutPool(list(coco_pictures(table, kept, 384, .01)))


def real_takes(photos: str, count: int) -> list[Take]:
    "Moving cut-outs of held-out photos."
    pool = heldout_pool(photos)
    clips = [moving_clip(pool, index, seed=77, size=SIZE, frames=FRAMES) for index in range(count)]
    return [Take(clip.frames, clip.masks, clip.classes[0]) for clip in clips]


# --- methods ---------------------------------------------------------------------------------------------------------

def dense_masks(model, take: Take) -> np.ndarray:
    "Every frame matched with the first one."
    images = F.interpolate(clip_tensor(take.frames), (model.input_size,) * 2, mode='bilinear', antialias=True)
    with torch.no_grad():
        state = model.encode_support(images[:1], torch.from_numpy(take.masks[:1]))
        logits = model.segment(images[1:], state)
    logits = F.interpolate(logits[:, None], take.frames.shape[1:3], mode='bilinear')[:, 0]
    return np.concatenate([take.masks[:1], (logits > 0).numpy().astype(np.uint8)])


def score(method: str, take: Take, model, dense) -> float:
    if method == METHODS[0]: return take.copy
    masks = dense_masks(dense, take) if method == METHODS[1] else propagate(model, take.frames, take.masks[0])
    return seen_mean(region_iou(masks, take.masks), take.masks)


def interval(values: np.ndarray, seed: int = 0, n: int = 1000) -> list[float]:
    "Mean and the 95 % percentile interval of a bootstrap over clips."
    values = values[np.isfinite(values)]
    if not len(values): return [float('nan')] * 3
    draws = np.random.default_rng(seed).integers(0, len(values), (n, len(values)))
    return [float(values.mean()), *np.percentile(values[draws].mean(1), [2.5, 97.5]).tolist()]


def propagation(name: str, takes: list[Take], model, dense) -> dict:
    "All methods on a set of clips: all of them, and those that copying does not solve."
    scores = {method: np.array([score(method, take, model, dense) for take in takes]) for method in METHODS}
    far = scores[METHODS[0]] <= FAR
    rows = {kind: {m: interval(v[chosen]) for m, v in scores.items()} | {
        'sam2_tiny minus dense matching': interval((scores[METHODS[2]] - scores[METHODS[1]])[chosen]), 'clips': int(chosen.sum())}
        for kind, chosen in (('all clips', np.ones(len(takes), bool)), (f'copying at most {FAR}', far))}
    return {'set': name, 'rows': rows, 'per_clip': {m: v.round(4).tolist() for m, v in scores.items()}}


# --- identities ------------------------------------------------------------------------------------------------------

def pairs(takes: list[Take]) -> list[tuple[Take, Take, Take]]:
    "A clip, another one of its class, and one of another class."
    found = []
    for n, take in enumerate(takes):
        same = [t for t in takes if t.name == take.name and t is not take]
        other = [t for t in takes if t.name != take.name]
        if same and other: found.append((take, same[n % len(same)], other[n % len(other)]))
    return found


def by_memory(model, support: np.ndarray, mask: np.ndarray, take: Take, gate: bool) -> float:
    "One marked picture as the only memory; every later frame of a clip by itself."
    later = clip_tensor(take.frames[1:])
    with torch.no_grad():
        memory = memory_of(model, clip_tensor(support[None]), torch.from_numpy(mask[None]))
        memory = Memory(*(x.expand(len(later), *x.shape[1:]) for x in memory))
        masks = (segment_with(model, later, [memory], gate) > 0).numpy().astype(np.uint8)
    return seen_mean(region_iou(np.concatenate([take.masks[:1], masks]), take.masks), take.masks)


def identities(name: str, takes: list[Take], model, gate: bool) -> dict:
    "The same frames, with supports that are further and further away."
    triples = pairs(takes)
    moved = lambda take, other: np.where(take.masks[0][..., None] == 1, take.frames[0], other.frames[0])
    kinds = {
        'the same individual, its own clip': [by_memory(model, t.frames[0], t.masks[0], t, gate) for t, _, _ in triples],
        'the same individual, pasted into another clip': [by_memory(model, moved(t, o), t.masks[0], t, gate) for t, _, o in triples],
        'another individual of the class': [by_memory(model, s.frames[0], s.masks[0], t, gate) for t, s, _ in triples],
        'an individual of another class': [by_memory(model, o.frames[0], o.masks[0], t, gate) for t, _, o in triples]}
    values = {kind: np.array(v) for kind, v in kinds.items()}
    same, pasted, other, _ = values.values()
    return {'set': name, 'gate': gate, 'clips': len(triples), 'rows': {k: interval(v) for k, v in values.items()},
            'lost by another individual': interval(same - other), 'of it by other surroundings': interval(same - pasted)}


# --- speed and official models ---------------------------------------------------------------------------------------

def speed(model) -> dict:
    "Milliseconds a call, best of five."
    image, mask = torch.rand(1, 3, SIZE, SIZE), torch.zeros(1, SIZE, SIZE)
    mask[:, 60:160, 80:180] = 1
    frames = (np.random.default_rng(0).random((6, SIZE, SIZE, 3)) * 255).astype(np.uint8)
    def best(call) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            with torch.no_grad(): call()
            times.append(time.perf_counter() - start)
        return round(1000 * min(times), 1)
    memory = memory_of(model, image, mask)
    return {'memory_of': best(lambda: memory_of(model, image, mask)), 'segment_with': best(lambda: segment_with(model, image, [memory])),
            'propagate, a frame': round(best(lambda: propagate(model, frames, mask[0].numpy())) / len(frames), 1),
            'threads': torch.get_num_threads()}


def official_row(name: str) -> dict:
    "Save a random official model under its official name, load it back, segment once at its own size."
    size = sam2_config(name).image_size
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        os.environ['FSSKIT_WEIGHTS'] = folder
        model = build_sam2(name, size, seed=1)
        state = model.state_dict()
        file = Path(folder) / (RELEASED[name].file if name in RELEASED else TINY_FILE)
        if name in RELEASED: torch.save({'model': state}, file)
        else: save_weights(state, file)
        sums = {k: v.half().float().sum().item() for k, v in state.items()}
        parameters, megabytes = sum(p.numel() for p in model.parameters()), file.stat().st_size / 1e6
        del model, state
        model = load_sam2(name, 'hub', seed=2)
        equal = all(np.isclose(v.half().float().sum().item(), sums[k], rtol=1e-4, atol=1e-3) for k, v in model.state_dict().items())
        image, start = torch.rand(1, 3, size, size), time.perf_counter()
        out = segment_with(model, image, [memory_of(model, image, torch.ones(1, size, size))])
    return {'model': name, 'parameters': parameters, 'file_mb': round(megabytes, 1), 'image_size': size, 'round_trip': equal,
            'finite': bool(torch.isfinite(out).all()), 'seconds': round(time.perf_counter() - start, 1),
            'peak_gib': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20, 2)}


def official_rows() -> list[dict]:
    "Each model in a process of its own, so that peaks are its own."
    rows = []
    for name in SAM2_MODELS:
        done = subprocess.run([sys.executable, __file__, '--official-row', name], capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


# --- report ----------------------------------------------------------------------------------------------------------

def percent(values: list[float]) -> str: return f'**{values[0]:.1%}** ({values[1]:.1%} to {values[2]:.1%})'


def table(result: dict) -> str:
    "The result as Markdown."
    lines = [f"# Tiny SAM 2\n\nWeights `{result['weights']}`, {result['parameters']:,} parameters, {SIZE} px, clips of {FRAMES} frames. "
             'Region IoU, mean with a 95 % bootstrap interval over clips.\n', '## Following an object\n',
             f"| set | clips | {' | '.join(METHODS)} | sam2_tiny minus dense matching |", '|---|--:|---|---|---|---|']
    for part in result['propagation']:
        for kind, row in part['rows'].items():
            cells = [percent(row[m]) for m in (*METHODS, 'sam2_tiny minus dense matching')]
            lines.append(f"| {part['set']}, {kind} | {row['clips']} | {' | '.join(cells)} |")
    lines += ['\n## What identity is worth\n',
              'One marked picture is the only memory; each later frame of a clip is segmented by itself.\n',
              '| the marked picture shows | ' + ' | '.join(f"{p['set']}, {'with' if p['gate'] else 'without'} the gate ({p['clips']} clips)"
                                                         for p in result['identities']) + ' |',
              '|---|' + '---|' * len(result['identities'])]
    for kind in result['identities'][0]['rows']:
        lines.append(f'| {kind} | ' + ' | '.join(percent(p['rows'][kind]) for p in result['identities']) + ' |')
    for kind in ('lost by another individual', 'of it by other surroundings'):
        lines.append(f'| *{kind}* | ' + ' | '.join(percent(p[kind]) for p in result['identities']) + ' |')
    if result.get('milliseconds'):
        lines += ['\n## Milliseconds a call\n', ', '.join(f'{k} {v}' for k, v in result['milliseconds'].items())]
    if result.get('official'):
        lines += ['\n## Round trips under the official names (random weights)\n',
                  '| model | parameters | file MB | px | same weights | memory and one segmentation, s | peak GiB |',
                  '|---|--:|--:|--:|---|--:|--:|']
        lines += [f"| {r['model']} | {r['parameters']:,} | {r['file_mb']} | {r['image_size']} | "
                  f"{'yes' if r['round_trip'] and r['finite'] else 'NO'} | {r['seconds']} | {r['peak_gib']} |" for r in result['official']]
    return '\n'.join([*lines, '\n## What is held out\n', __doc__.split('precisely:\n')[1]])


def measure(args: argparse.Namespace) -> dict:
    "Everything that was asked for."
    model, dense = load_sam2('sam2_tiny', args.weights, image_size=SIZE), create_model('dense_match', 'embedded')
    sets = {'SmallWorld, unseen classes': world_takes(range(N_CLASSES), 0, args.clips),
            'SmallWorld, unseen individuals': world_takes(range(N_CLASSES, len(CLASS_NAMES)), 200_000, args.clips)}
    if args.photos: sets['real cut-outs, held-out photos'] = real_takes(args.photos, 48 * args.clips)
    rows = []
    for name, takes in sets.items():
        rows.append(propagation(name, takes, model, dense))
        print(name, {m: round(v[0], 3) for m, v in rows[-1]['rows']['all clips'].items() if m != 'clips'}, flush=True)
    return {'benchmark': 'tiny SAM 2', 'command': 'python ' + ' '.join(sys.argv), 'weights': model.weights_id, 'dense': dense.describe(),
            'parameters': sum(p.numel() for p in model.parameters()), 'versions': versions(), 'propagation': rows,
            'identities': [identities(name, takes, model, gate) for name, takes in sets.items() for gate in (False, True)],
            'milliseconds': None if args.no_speed else speed(model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', default='shipped', help="a weight file of sam2_tiny, or 'random'")
    parser.add_argument('--photos', help="folder of a set in COCO's format; its held-out photos are used")
    parser.add_argument('--clips', type=int, default=4, help='of each class')
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results' / 'sam2.json')
    parser.add_argument('--no-speed', action='store_true')
    parser.add_argument('--official', action='store_true', help='measure the official models too (minutes, several GiB)')
    parser.add_argument('--official-only', action='store_true', help='measure only them, and put them into the results that exist')
    parser.add_argument('--speed-only', action='store_true', help='measure only milliseconds, and put them into the results that exist')
    parser.add_argument('--official-row', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.official_row: return print(json.dumps(official_row(args.official_row)))
    if args.clips < 2: parser.error('--clips must be at least 2: identities are compared within a class')
    args.weights = None if args.weights == 'random' else args.weights
    old = json.loads(args.out.read_text()) if args.out.exists() else {}
    result = old if args.official_only or args.speed_only else measure(args)
    if args.speed_only: result['milliseconds'] = speed(load_sam2('sam2_tiny', args.weights, image_size=SIZE))
    result['official'] = official_rows() if args.official or args.official_only else old.get('official')
    text = table(result)
    write_results(args.out, result, text)
    if args.weights == 'shipped': fill_card(CARDS / 'sam2_tiny.md', text, 'python benchmarks/sam2_tiny.py')
    print(text)


if __name__ == '__main__':
    main()
