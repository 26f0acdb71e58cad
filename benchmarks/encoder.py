#!/usr/bin/env python
"""The embedded encoder against its teacher, MobileNetV2, with the same matcher on the same episodes of real photos.

    python benchmarks/encoder.py --teacher PATH/mobilenetv2_100_imagenet.safetensors --set coco=coco:PATH --set pets=folder:PATH

Every --set is NAME=SPEC as for `fsskit evaluate`; `--only NAME=FILE` keeps a set to the photos that a file lists, for
example data/splits/heldout_photos.txt. Writes benchmarks/results/encoder.json and encoder.md: mIoU of both, and the paired
ratio embedded / teacher with its 95 % interval, per set and shots. Finished evaluations are kept; an interrupted one goes on.
"""
import argparse
from pathlib import Path

from common import CARDS, fill_card, write_results
from fsskit.backbones import FeatureCache
from fsskit.datasets import open_dataset
from fsskit.evaluation import compare, evaluate, load_result, versions
from fsskit.fetch import data_dir
from fsskit.predictor import create_model


def open_set(spec: str, only: str | None): return open_dataset(spec, only=only) if only else open_dataset(spec)


def measure(model, dataset, shots: int, args: argparse.Namespace, tag: str):
    "One evaluation; a finished one of the same weights, episodes and seed is read back."
    parts = data_dir() / 'downloads' / 'benchmarks' / 'encoder'
    parts.mkdir(parents=True, exist_ok=True)
    print(f'{tag}, {shots} shot(s)', flush=True)
    old = load_result(path) if (path := parts / f'{tag}-{shots}.json').exists() else None
    if old and not old.incomplete and (old.episodes, old.protocol['seed']) == (args.episodes, args.seed): return old
    return evaluate(model, dataset, shots, args.episodes, args.seed, json=path, cache=FeatureCache())


def row_of(name: str, shots: int, ours, teachers) -> dict:
    "One line of the table."
    pair = compare(ours, teachers)
    return {'set': name, 'shots': shots, 'episodes': pair.episodes, 'classes': len(ours.per_class),
            'skipped_classes': len(ours.skipped_classes), 'embedded': pair.miou_a, 'embedded_ci95': ours.miou_ci95,
            'mobilenetv2': pair.miou_b, 'mobilenetv2_ci95': teachers.miou_ci95, 'ratio': list(pair.ratio),
            'seconds_per_episode': ours.seconds_per_episode, 'episode_hash': ours.protocol['episode_hash']}


def table(rows: list[dict], shots: tuple[int, ...]) -> str:
    "The rows as Markdown, with the mean ratio of each number of shots."
    lines = ['| photos | shots | classes | embedded | MobileNetV2 | ratio | 95 % interval of the ratio | episodes |',
             '|---|--:|--:|--:|--:|--:|---|--:|']
    lines += [f"| {r['set']} | {r['shots']} | {r['classes']} | {r['embedded']:.3f} | {r['mobilenetv2']:.3f} | "
              f"{r['ratio'][0]:.3f} | {r['ratio'][1]:.3f} to {r['ratio'][2]:.3f} | {r['episodes']} |" for r in rows]
    for k in shots:
        ratios = [r['ratio'][0] for r in rows if r['shots'] == k]
        lines.append(f'| **mean of {len(ratios)} sets** | {k} | | | | **{sum(ratios) / len(ratios):.3f}** | | |')
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--teacher', required=True, help='weights of mobilenetv2_100 under timm names')
    parser.add_argument('--set', action='append', required=True, metavar='NAME=SPEC', dest='sets')
    parser.add_argument('--only', action='append', default=[], metavar='NAME=FILE')
    parser.add_argument('--episodes', type=int, default=300)
    parser.add_argument('--shots', type=int, nargs='+', default=(1, 5))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--weights', default='embedded', help='of the embedded encoder: another file than the shipped one')
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results' / 'encoder.json')
    args = parser.parse_args()
    only = dict(pair.split('=', 1) for pair in args.only)
    models = {'embedded': create_model('dense_match', 'embedded', args.weights),
              'mobilenetv2': create_model('dense_match', 'mobilenetv2_100', args.teacher)}
    rows, left_out = [], []
    for name, spec in (pair.split('=', 1) for pair in args.sets):
        dataset = open_set(spec, only.get(name))
        most = max(len(dataset.photos(c)) for c in dataset.class_ids)
        for shots in args.shots:
            if most <= shots:
                left_out.append(f'{name} at {shots} shots is left out: its largest class has {most} photos.')
                continue
            results = [measure(m, dataset, shots, args, f'{name}-{key}-{m.backbone.weights_id[-8:]}')
                       for key, m in models.items()]
            rows.append(row_of(name, shots, *results))
    content = {'benchmark': 'embedded encoder against MobileNetV2, dense_match, scored at the original size',
               'weights': {k: m.backbone.weights_id for k, m in models.items()}, 'seed': args.seed, 'versions': versions(),
               'rows': rows, 'left_out': left_out}
    text = table(rows, tuple(args.shots)) + ''.join(f'\n{line}\n' for line in left_out)
    write_results(args.out, content, text)
    if args.weights == 'embedded': fill_card(CARDS / 'embedded_vit.md', text, 'python benchmarks/encoder.py')
    print(text)


if __name__ == '__main__':
    main()
