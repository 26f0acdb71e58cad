#!/usr/bin/env python
"""Training-free models on SmallWorld: 4 folds, 1 and 5 shots, with 95 % intervals.

    python benchmarks/training_free.py                 # everything; finished rows are kept, an interrupted one continues
    python benchmarks/training_free.py --episodes 20   # a quick look

Writes benchmarks/results/training_free.json and training_free.md. 1 and 5 shots use the same classes and queries
(min_photos = 6). A row is measured again only when a setting of it changed: weights, SmallWorld's hash, episodes, seed.
"""
import argparse
import json
from pathlib import Path

from common import write_results
from fsskit.backbones import FeatureCache
from fsskit.datasets import open_dataset
from fsskit.evaluation import Result, evaluate, versions
from fsskit.fetch import data_dir
from fsskit.metrics import fb_iou, mean_over_folds
from fsskit.predictor import create_model

SYSTEMS = [('dense_match', 'rgb'), ('prototype', 'embedded'), ('prior_mask', 'embedded'), ('dense_match', 'embedded')]
SHOTS, FOLDS, MIN_PHOTOS = (1, 5), (0, 1, 2, 3), 6


def settings_of(model, datasets: list, shots: int, args: argparse.Namespace) -> dict:
    "What a row depends on."
    return {**model.describe(), 'shots': shots, 'episodes_per_fold': args.episodes, 'seed': args.seed,
            'min_photos': MIN_PHOTOS, 'data': [dict(d.info) for d in datasets]}


def summary(folds: list[Result]) -> dict:
    "Four folds in one row: mIoU averaged over folds, its interval, FB-IoU over all episodes."
    counts = [([row[1:] for row in f.counts], [row[0] for row in f.counts]) for f in folds]
    value, low, high = mean_over_folds(counts)
    return {'miou': value, 'miou_ci95': [low, high], 'fb_iou': fb_iou([row for part, _ in counts for row in part]),
            'episodes': sum(f.episodes for f in folds),
            'seconds_per_episode': sum(f.seconds_per_episode for f in folds) / len(folds),
            'folds': [{'miou': f.miou, 'miou_ci95': f.miou_ci95, 'fb_iou': f.fb_iou, 'per_class': f.per_class,
                       'skipped_classes': f.skipped_classes, 'missing_classes': f.missing_classes,
                       'episode_hash': f.protocol['episode_hash']} for f in folds]}


def measure(model, datasets: list, shots: int, args: argparse.Namespace, parts: Path, name: str) -> dict:
    "One row. Every fold writes a part, so that an interrupted row continues where it stopped."
    folds = []
    for fold, dataset in zip(FOLDS, datasets):
        print(f'{name}, fold {fold}', flush=True)
        folds.append(evaluate(model, dataset, shots, args.episodes, args.seed, MIN_PHOTOS, json=parts / f'{name}-{fold}.json',
                              cache=None if args.no_cache or 'rgb' in name else FeatureCache()))
    return summary(folds)


def table(rows: list[dict]) -> str:
    "The rows as Markdown, in percent."
    lines = ['| model | backbone | shots | mIoU | 95 % interval | fold 0 | fold 1 | fold 2 | fold 3 | FB-IoU | episodes | s / episode |',
             '|---|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|']
    for row in rows:
        s, (low, high) = row['settings'], row['miou_ci95']
        cells = [s['model'], s['backbone'], s['shots'], f"**{row['miou']:.1%}**", f'{low:.1%} to {high:.1%}',
                 *(f"{f['miou']:.1%}" for f in row['folds']), f"{row['fb_iou']:.1%}", row['episodes'],
                 f"{row['seconds_per_episode']:.2f}"]
        lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines) + '\n'


def write(rows: list[dict], args: argparse.Namespace) -> None:
    "Both files, each in one step."
    result = {'benchmark': 'training-free models on SmallWorld, test side', 'command': 'python benchmarks/training_free.py',
              'score_size': 'original', 'interval': 'bootstrap over the episodes of every fold, 1000 resamples, percentile',
              'versions': versions(), 'rows': rows}
    write_results(args.out, result, table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--episodes', type=int, default=200, help='per fold')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results' / 'training_free.json')
    parser.add_argument('--fresh', action='store_true', help='measure every row again')
    parser.add_argument('--no-cache', action='store_true', help='keep no features between runs (seconds are then cold)')
    args = parser.parse_args()
    parts = data_dir() / 'downloads' / 'benchmarks' / args.out.stem
    old = json.loads(args.out.read_text())['rows'] if args.out.exists() and not args.fresh else []
    datasets = [open_dataset('smallworld', fold=fold) for fold in FOLDS]
    rows = []
    for model_name, backbone in SYSTEMS:
        model = create_model(model_name, backbone)
        for shots in SHOTS:
            settings = json.loads(json.dumps(settings_of(model, datasets, shots, args)))
            row = next((r for r in old if r['settings'] == settings), None)
            if row is None:
                row = {'settings': settings, **measure(model, datasets, shots, args, parts, f'{model_name}-{backbone}-{shots}')}
            rows.append(row)
            write(rows + [r for r in old if r not in rows and len(rows) < len(SYSTEMS) * len(SHOTS)], args)
    print(table(rows))


if __name__ == '__main__':
    main()
