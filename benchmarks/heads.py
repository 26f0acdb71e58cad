#!/usr/bin/env python
"""The two trained systems beside the best model that needs no training, on the same episodes.

    python benchmarks/heads.py --set coco=coco:PATH --only coco=data/splits/heldout_photos.txt --one-shot duck=folder:PATH

SmallWorld: the 64 classes of its four folds, none of which any training draws. `--set`: photos with masks, asked with one and
with five shots (the same classes and queries); `--one-shot`: the same, with one shot only, for sets with few photos of a class.
Where a head has seen the classes of a set (not its photos, if `--only` names photos that were kept out), the row says so.

mIoU with its 95 % interval; the difference to dense matching in points, both resampled on the same episodes; how many
parameters were trained; and milliseconds of one more query when the support is known, on as many CPU threads as stated. What is
finished is kept, an interrupted row goes on where it stopped. Writes benchmarks/results/heads.json and heads.md, and the
section 'Measured quality' of both heads' model cards.
"""
import argparse
import hashlib
import json
import time
from pathlib import Path

import torch

from common import CARDS, fill_card, write_results
from fsskit.datasets import open_dataset
from fsskit.episodes import EpisodeSampler, load_episode
from fsskit.episodic import head_state
from fsskit.evaluation import check_comparable, evaluate, load_result, Result, versions
from fsskit.fetch import data_dir
from fsskit.metrics import bootstrap_ci, fb_iou, mean_iou, paired_difference
from fsskit.predictor import create_model, FewShotPredictor

PLAIN = 'dense_match'
SYSTEMS = {PLAIN: ('dense_match', {}), 'fs_dino': ('fs_dino', {}), 'fssam, not fine-tuned': ('fssam', {'head': None}),
           'fssam': ('fssam', {})}
HEADS = {'fs_dino': 'fs_dino_embedded', 'fssam': 'fssam_embedded_sam2_tiny'}
FOLDS, SHOTS = (0, 1, 2, 3), (1, 5)


def counts_of(results: list[Result]) -> tuple[list, list]:
    "Counts and class ids of all episodes; SmallWorld's folds have different ids, so their mean is that over all classes."
    rows = [row for result in results for row in result.counts]
    return [row[1:] for row in rows], [row[0] for row in rows]


def row_of(results: list[Result], plain: list[Result]) -> dict:
    "One line of the table, with the paired difference to plain matching."
    for a, b in zip(results, plain): check_comparable(a, b)
    (counts, ids), (other, _) = counts_of(results), counts_of(plain)
    return {'miou': mean_iou(counts, ids), 'miou_ci95': list(bootstrap_ci(counts, ids)[1:]), 'fb_iou': fb_iou(counts),
            'difference': list(paired_difference(counts, other, ids)), 'classes': len(set(ids)), 'episodes': len(ids),
            'seen_classes': sorted({name for r in results for name in r.protocol.get('seen_classes', ())}),
            'episode_hashes': [r.protocol['episode_hash'] for r in results]}


def query_ms(model, dataset, repeats: int = 5) -> float:
    "Median milliseconds of one more photo, the support being known: read, segmented, at its own size."
    data = load_episode(dataset, EpisodeSampler(dataset, 1, 1)[0])
    predictor, times = FewShotPredictor(model).set_support(data.support[0].image, data.support[0].mask), []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        predictor.predict(data.query.image)
        times.append(time.perf_counter() - begin)
    return 1e3 * sorted(times[1:])[repeats // 2]


def shipped_systems() -> dict:
    "The systems whose head is in weights/; the others are named."
    absent = {name for name, card in HEADS.items() if not (CARDS / f'{card}.safetensors').exists()}
    for name in sorted(absent): print(f'{name}: no trained head in {CARDS}, left out')
    return {name: system for name, system in SYSTEMS.items() if system[0] not in absent}


def measure_set(name: str, datasets: list, shots: int, most: int, systems: dict, args: argparse.Namespace) -> list[dict]:
    "All systems on one set. Every result is a file, named after the model and the settings, so that finished ones are kept."
    rows, plain = [], None
    for system, (model_name, options) in systems.items():
        model = create_model(model_name, **options)
        learned = sum(v.numel() for v in head_state(model).values()) if model_name in HEADS else 0
        tag = hashlib.sha256(json.dumps([model.describe(), args.episodes, args.seed], default=str).encode()).hexdigest()[:12]
        results = []
        for n, dataset in enumerate(datasets):
            print(f'{name}, {shots} shots, {system}, part {n + 1} of {len(datasets)}', flush=True)
            file = args.parts / f'{name}-{n}-{shots}-{system}-{tag}.json'.replace(', ', '_').replace(' ', '_')
            kept = load_result(file) if file.exists() else None
            results.append(kept if kept and not kept.incomplete else
                           evaluate(model, dataset, shots, args.episodes, args.seed, most + 1, json=file, allow_seen=True))
        plain = plain or results
        rows.append({'set': name, 'shots': shots, 'system': system, 'learned': 0 if 'head' in options else learned,
                     'query_ms': query_ms(model, datasets[0]), 'model': model.describe(), **row_of(results, plain)})
    return rows


def table(rows: list[dict]) -> str:
    lines = ['| set | shots | system | mIoU (%) | 95 % | against dense matching (points) | 95 % | trained parameters | ms / further query '
             '| episodes |',
             '|---|--:|---|--:|---|--:|---|--:|--:|--:|']
    for row in rows:
        (low, high), (gain, least, largest) = row['miou_ci95'], row['difference']
        step = ('', '') if row['system'] == PLAIN else (f'{100 * gain:+.1f}', f'{100 * least:+.1f} to {100 * largest:+.1f}')
        known = ' (classes seen)' if row['seen_classes'] else ''
        cells = [row['set'], row['shots'], row['system'] + known, f"**{100 * row['miou']:.1f}**", f'{100 * low:.1f} to {100 * high:.1f}',
                 *step, f"{row['learned']:,}", f"{row['query_ms']:.0f}", row['episodes']]
        lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join([*lines, '', f'Times: {torch.get_num_threads()} CPU thread(s).']) + '\n'


def named(entries: list[str], of: str) -> dict[str, str]:
    "NAME=VALUE, one or several times."
    if wrong := [e for e in entries if not e.partition('=')[2]]: raise SystemExit(f"{of}: '{wrong[0]}' should look like NAME=VALUE.")
    return {name: value for name, _, value in (e.partition('=') for e in entries)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--set', action='append', default=[], metavar='NAME=SPEC', dest='sets')
    parser.add_argument('--one-shot', action='append', default=[], metavar='NAME=SPEC')
    parser.add_argument('--only', action='append', default=[], metavar='NAME=FILE', help='photos of that set to use')
    parser.add_argument('--episodes', type=int, default=100, help='of each set, and of each fold of SmallWorld')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results' / 'heads.json')
    args = parser.parse_args()
    args.parts = data_dir() / 'downloads' / 'benchmarks' / args.out.stem
    many, single, only = named(args.sets, '--set'), named(args.one_shot, '--one-shot'), named(args.only, '--only')
    plans = [('SmallWorld', lambda: [open_dataset('smallworld', fold=fold) for fold in FOLDS], SHOTS)]
    for name, spec in (many | single).items():
        plans.append((name, lambda n=name, s=spec: [open_dataset(s, only=only.get(n))], SHOTS if name in many else (1,)))
    rows, systems = [], shipped_systems()
    for name, opened, shots in plans:
        datasets = opened()
        for k in shots: rows += measure_set(name, datasets, k, max(shots), systems, args)
        text = table(rows)
        write_results(args.out, {'benchmark': 'trained systems beside dense matching', 'episodes': args.episodes, 'seed': args.seed,
                                 'interval': 'bootstrap over episodes, 1000 resamples, percentile', 'threads': torch.get_num_threads(),
                                 'versions': versions(), 'rows': rows}, text)
    print(text)
    for system in HEADS.keys() & systems.keys():
        kept = [row for row in rows if row['system'] in (PLAIN, system)]
        fill_card(CARDS / f'{HEADS[system]}.md', table(kept), 'python benchmarks/heads.py')


if __name__ == '__main__':
    main()
