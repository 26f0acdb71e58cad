#!/usr/bin/env python
"""New classes on real photos, in one table: `benchmarks/results/folds.md`, from the reports of four ladders.

For each fold of COCO-20i's rule a head is trained on the other three folds only, and asked about the classes of this one:

    D="--data coco:PATH --folds 0,1,2,3 --seeds 0 --option deference=9"
    fsskit ladder fs_dino $D --rows matched,dense_match,prior_mask --steps 1000 --minutes 14 --episodes 100 --out A
    fsskit ladder fssam $D --rows support_only,all,dense_match,prior_mask --steps 200 --minutes 8 --lr 2e-4 --episodes 60 --out B

The frozen parts under the heads (encoder, adapter, tiny SAM, tiny SAM 2) saw photos of all folds, without class names. So
both are asked a second time, in folders of their own, about photos that no training of the kit has drawn. There are few of
them, enough for one shot; rows that were trained may be copied from A and B without their `*shot.json`:

    --only data/splits/heldout_photos.txt --shots 1 --min-photos 2 --episodes 100

A/results.json is kept as results/folds_fs_dino.json, B's as folds_fssam.json, the others as folds_heldout_*.json, with
their .md beside them. This script computes nothing new; it reads the four files.
"""
import json
from pathlib import Path

RESULTS = Path(__file__).parent / 'results'

REPORTS = (('fs_dino', 'matched'), ('fssam', 'all'))
PHOTOS = (('folds', 'all'), ('folds_heldout', 'held out'))


def line(system: str, photos: str, shots: str, row: dict, free: dict) -> str:
    "A row of the table."
    gain, low, high = (100 * v for v in row['over_free']['ours'])
    return (f"| {system} | {photos} | {shots} | {100 * free['miou']:.1f} | **{100 * row['miou']:.1f}** | {gain:+.1f} | "
            f'{low:+.1f} to {high:+.1f} | {row["episodes"]} |')


def table(folder: Path) -> str:
    "The table, as Markdown."
    lines = ['| system | photos | shots | best training-free (mIoU, %) | trained (mIoU, %) | difference (points) | 95 % | episodes |',
             '|---|---|--:|--:|--:|--:|---|--:|']
    for photos, title in PHOTOS:
        for system, name in REPORTS:
            rows = {r['name']: r['shots'] for r in json.loads((folder / f'{photos}_{system}.json').read_text())['rows']}
            for shots, found in rows[name].items():
                lines.append(line(system, title, shots, found, rows[found['over_free']['from']][shots]))
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    text = table(RESULTS)
    (RESULTS / 'folds.md').write_text(text)
    print(text, end='')
