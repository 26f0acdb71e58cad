#!/usr/bin/env python
"""How far should a trained head be trusted? Both heads, mixed with plain matching in several ways, on the same episodes.

    python benchmarks/trust.py --set coco=coco:PATH --only coco=data/splits/heldout_photos.txt --set duck=folder:PATH

Every episode is answered twice, by what was learned and by plain matching; all mixtures follow from these two answers. In the
first rows the share of the learned answer is the same everywhere (trust), in the others it falls where matching is decided
(deference, see `fsskit.fs_dino.temper`). Numbers are points of mIoU above plain matching with one shot, with 95 % intervals of
the paired difference. The heads' settings were chosen with the help of this table: it is no test of them.
Writes benchmarks/results/trust.json and trust.md.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import torch

from common import write_results
from fsskit.datasets import open_dataset
from fsskit.episodes import EpisodeSampler, load_episode
from fsskit.evaluation import versions
from fsskit.fs_dino import MATCH_SCALE, temper
from fsskit.metrics import confusion, mean_iou, paired_difference
from fsskit.predictor import create_model, FewShotPredictor, resize_scores
from heads import FOLDS, HEADS, named

MIXTURES = [*((t, 0.) for t in (.1, .2, .35, .5, 1.)), *((1., d) for d in (5., 7., 8., 9., 10., 11., 14.))]


def answers(model, episode) -> list[torch.Tensor]:  # logits (1, h, w): learned, plain
    "What one model says of an episode when it is trusted completely, and not at all."
    shot, settings, found = episode.support[0], model.settings, []
    predictor = FewShotPredictor(model).set_support(shot.image, shot.mask)
    for trust in (1., 0.):
        model.settings = replace(settings, trust=trust, deference=0.)
        with torch.no_grad(): found.append(model.segment(predictor.prepare(episode.query.image)[None], predictor.state))
    model.settings = settings
    return found


def measure(model, datasets: list, episodes: int, seed: int) -> list[dict]:
    "A row for every mixture."
    counts, plain_counts, ids = {mixture: [] for mixture in MIXTURES}, [], []
    for dataset in datasets:
        sampler = EpisodeSampler(dataset, 1, episodes, seed=seed)
        for i in range(episodes):
            episode = load_episode(dataset, sampler[i])
            learned, plain = answers(model, episode)
            truth = episode.query.mask
            counted = lambda logits: confusion(resize_scores(logits, truth.shape)[0] > 0, truth)
            ids.append(sampler[i].class_id)
            plain_counts.append(counted(plain))
            for (trust, deference), row in counts.items():
                row.append(counted(temper(learned, plain / MATCH_SCALE, trust, deference)))
    return [{'trust': trust, 'deference': deference, 'miou': mean_iou(row, ids), 'plain': mean_iou(plain_counts, ids),
             'difference': list(paired_difference(row, plain_counts, ids)), 'episodes': len(ids)}
            for (trust, deference), row in counts.items()]


def table(rows: list[dict]) -> str:
    "One table a system: mixtures down, sets across."
    lines = []
    for system in dict.fromkeys(row['system'] for row in rows):
        own = [row for row in rows if row['system'] == system]
        sets = {row['set']: row['plain'] for row in own}
        lines += [f'**{system}**', '', '| trust | deference | ' + ' | '.join(sets) + ' |', '|--:|--:|' + '---|' * len(sets),
                  '| plain matching, mIoU (%) | | ' + ' | '.join(f'{100 * v:.1f}' for v in sets.values()) + ' |']
        for trust, deference in MIXTURES:
            cells = [f'{100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})' for gain, low, high in
                     (row['difference'] for row in own if (row['trust'], row['deference']) == (trust, deference))]
            lines.append(f'| {trust:g} | {deference:g} | ' + ' | '.join(cells) + ' |')
        lines.append('')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--set', action='append', default=[], metavar='NAME=SPEC', dest='sets')
    parser.add_argument('--only', action='append', default=[], metavar='NAME=FILE', help='photos of that set to use')
    parser.add_argument('--episodes', type=int, default=40, help='of each set, and of each fold of SmallWorld')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results' / 'trust.json')
    args = parser.parse_args()
    sets, only, rows = named(args.sets, '--set'), named(args.only, '--only'), []
    opened = {'SmallWorld': [open_dataset('smallworld', fold=fold) for fold in FOLDS]}
    opened |= {name: [open_dataset(spec, only=only.get(name))] for name, spec in sets.items()}
    for system in HEADS:
        model = create_model(system).eval()
        for name, datasets in opened.items():
            print(f'{system}, {name}', flush=True)
            rows += [{'system': system, 'set': name, **row} for row in measure(model, datasets, args.episodes, args.seed)]
            write_results(args.out, {'benchmark': 'mixtures of learned answer and plain matching', 'seed': args.seed, 'shots': 1,
                                     'interval': 'bootstrap over episodes, 1000 resamples, percentile', 'versions': versions(),
                                     'heads': {s: create_model(s).head_id for s in HEADS}, 'rows': rows}, table(rows))
    print(table(rows))


if __name__ == '__main__':
    main()
