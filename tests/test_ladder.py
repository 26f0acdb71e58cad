"Tests of fsskit.ladder: rows as tables, differences against plain loops, a toy ladder run, interrupted, resumed and extended."
import json
import random
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from fsskit import ladder as module, predictor
from fsskit.backbones import FeatureCache
from fsskit.datasets import ListedDataset
from fsskit.episodic import DataPlan, FitPlan, head_facts, Losses, TrainableModel
from fsskit.evaluation import load_result, Result
from fsskit.ladder import (best_free, Cell, cell_data, check_plan,
                           check_start, difference, find_ladder, finished_results, Ladder,
                           LADDERS, ladder_figure, ladder_markdown,
                           ladder_report, LadderPlan, MATCHING, mean_difference, minutes_left,
                           plan_facts, recipe_of, Row, row_figures, row_model, row_recipe, run_ladder, same_order,
                           train_row, verdict, write_report)
from fsskit.metrics import mean_iou, paired_difference
from fsskit.photos import FSSKitError
from fsskit.similarity import ColourBackbone
from fsskit.training import limited_threads, read_checkpoint, read_log


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    with limited_threads(1): yield


# the tables

def test_rows_of_fs_dino_are_the_papers_and_differ_by_their_switches():
    from fsskit.fs_dino import PAPER_MIOU, VARIANTS
    rows = {row.name: row for row in LADDERS['fs_dino'].rows}
    assert {name: row.paper for name, row in rows.items() if row.paper} == PAPER_MIOU
    settings = {n: asdict(replace(VARIANTS[r.options['variant']],
                                  **{k: v for k, v in r.options.items() if k != 'variant'}))
                for n, r in rows.items() if r.trained}
    changed = {n: {k for k in settings[n] if settings[n][k] != settings[rows[n].against][k]} for n in settings
               if rows[n].against}
    assert changed == {'no_distillation': {'adapter'},
                       'compact': {'decoder'}, 'semantic': {'semantic'}, 'full': {'contrast'},
                       'correlation': {'correlation', 'prototype', 'contrast'}, 'full_frozen': {'decoder'},
                       'matched': {'match', 'semantic'}}
    assert rows['full_frozen'].against == rows['matched'].against == 'full'
    assert {name: row.paper_step for name, row in rows.items()
            if row.paper_step} == {'full': 2.2}  # 64.5 - 62.3, both with the Mamba


def test_rows_of_fssam_are_the_papers():
    rows = {row.name: row for row in LADDERS['fssam'].rows}
    parts = lambda name: ''.join(p[0] for p in module.PARTS if rows[name].options[p])
    paper = {name: (row.paper, parts(name), row.trained, row.options.get('iterations')) for name, row in rows.items()
             if row.paper}
    assert paper == {'sam2': (44.7, '', False, None), 'untrained': (58.5, 'prc', False,
                                                                    None), 'support_only': (69.4, '', True, None),
                     'pseudo_prompts': (78.2, 'p', True, None),
                     'refinement': (79.6, 'pr', True, None), 'calibration': (79.0, 'pc', True, None),
                     'all': (81.0, 'prc', True, None), 'iterations_1': (79.3, 'prc', True, 1),
                     'iterations_2': (80.3, 'prc', True, 2), 'iterations_4': (80.8, 'prc', True, 4)}
    assert rows['calibration'].against == rows['refinement'].against == 'pseudo_prompts'
    assert rows['support_only'].against == 'sam2'


def test_options_exist():
    from inspect import signature
    for ladder in LADDERS.values():
        if ladder.model not in predictor.MODELS: continue
        for row in ladder.rows: assert set(row.options) <= set(signature(predictor.find_model(row.model)).parameters)
    assert [row.name for ladder in LADDERS.values() for row in ladder.rows[-3:]] == 2 * [row.name for row in MATCHING]


def test_finding_ladders():
    some = find_ladder('fs_dino', ['full', 'dense_match'])
    assert [row.name for row in some.rows] == ['full', 'dense_match']
    assert find_ladder(some) == some
    assert find_ladder('fssam') is not None
    for words, wrong in ((('fs', None), "There is no ladder 'fs': choose 'fs_dino' or 'fssam'"),
                         (('fssam', ['x']), "has no row 'x': choose from sam2")):
        with pytest.raises(FSSKitError, match=wrong): find_ladder(*words)


# differences

def result(rows, tag='t', size='original'):
    "A result with these (class, intersection, union) of 100 px episodes."
    counts = [[c, i, u, 100 - u, 100 - i] for c, i, u in rows]
    value = mean_iou([r[1:] for r in counts], [r[0] for r in counts])
    return Result(value, [value - .1, value + .1], 0., {}, len(counts), {}, .5,
                  {'episode_hash': tag, 'score_size': size}, counts=counts)


def random_results(seed, n=40, gap=10):
    rng = random.Random(seed)
    ids, hard = [rng.randrange(4) for _ in range(n)], [rng.randrange(20, 60) for _ in range(n)]
    make = lambda shift: result([(c, max(0, min(90, h + shift + rng.randrange(-5, 6))), 90) for c, h in zip(ids, hard)],
                                f'{seed}')
    return make(gap), make(0)


def plain_miou(counts):
    ious = {c: [sum(r[k] for r in counts if r[0] == c) for k in (1, 2)] for c in {r[0] for r in counts}}
    return sum(i / u for i, u in ious.values()) / len(ious)


def test_mean_difference_is_the_mean_over_cells_with_a_bootstrap_interval():
    pairs = [random_results(s) for s in range(3)]
    got = mean_difference(pairs, n=3000)
    assert got.value == pytest.approx(sum(plain_miou(a.counts) - plain_miou(b.counts) for a, b in pairs) / 3, abs=1e-12)
    rng, drawn = random.Random(5), []
    for _ in range(1500):
        gaps = []
        for a, b in pairs:
            chosen = [rng.randrange(40) for _ in range(40)]
            gaps.append(plain_miou([a.counts[k] for k in chosen]) - plain_miou([b.counts[k] for k in chosen]))
        drawn.append(sum(gaps) / 3)
    assert np.allclose(got[1:], np.quantile(drawn, [.025, .975]), atol=.004) and got.low < got.value < got.high
    wide = mean_difference(pairs, n=3000, level=.5)
    assert np.allclose(wide[1:], np.quantile(drawn, [.25, .75]), atol=.003)


def test_one_cell_is_the_paired_difference_and_other_episodes_are_refused():
    a, b = random_results(1)
    one = mean_difference([(a, b)], seed=3, n=500)
    table = [[r[1:] for r in x.counts] for x in (a, b)]
    assert one == pytest.approx(paired_difference(*table, [r[0] for r in a.counts], seed=[3, 0], n=500))
    with pytest.raises(FSSKitError, match='cannot be paired'): mean_difference([(a, random_results(2)[1])])


def test_verdicts_and_order():
    assert verdict((.02, .01, .03), 1.) == verdict((-.02, -.03, -.01), -4.) == 'as in the paper'
    assert verdict((.02, .01, .03), -1.) == 'the other way round' and verdict((.02, .01, .03), None) == ''
    assert [verdict(step, 1.) for step in ((.01, 0., .02), (.01, -.01, .02), (-.01, -.02, 0.))] == ['not decided'] * 3
    assert verdict((.02, .01, .03), 0.) == 'not decided'
    rng = random.Random(0)
    for _ in range(20):
        ours, paper = ([rng.randrange(4) for _ in range(5)] for _ in range(2))
        pairs = [(ours[i] - ours[j], paper[i] - paper[j]) for i in range(5) for j in range(i) if paper[i] != paper[j]]
        assert same_order(ours, paper) == (sum(a * b > 0 for a, b in pairs), len(pairs))


# a report of invented results

def folder_of_results(tmp_path, shots=(1,)):
    "Three rows; the second has one cell less, the third is training-free."
    ladder = Ladder('x', (Row('a', 'first', 'fs_dino', trained=True,
                              paper=50.), Row('b', 'second', 'fs_dino', {'k': 1}, True, 60., 'a'),
                          Row('c', 'free', 'dense_match'), Row('d', 'nothing yet', 'fs_dino', {}, True, 70., 'b')),
                    'BENCH', 'SOURCE')
    for name, shift in (('a', 10), ('b', -5), ('c', 0)):
        for cell in ([Cell(0, 0), Cell(1, 0), Cell(0, 10)] if name != 'b' else [Cell(0, 0), Cell(1, 0)]):
            for k in shots:
                better, base = random_results(100 * cell.fold + cell.seed + 7 * k, gap=shift)
                (base if name == 'c' else better).to_json(tmp_path/'rows'/name/f'fold{cell.fold}_seed{cell.seed}'/f'{k}shot.json')
    (tmp_path/'rows/a/fold0_seed0/trained.json').write_text('{"steps": 7, "minutes": 1.26, "kept_step": 4, '
                                                            '"learned": 9}')
    return ladder


def test_results_are_read_back_without_the_unfinished(tmp_path):
    ladder = folder_of_results(tmp_path, (1, 5))
    broken = tmp_path/'rows/a/fold0_seed10/5shot.json'
    replace(load_result(broken), incomplete=True).to_json(broken)
    found = finished_results(tmp_path, ladder.rows[0])
    assert list(found) == [1, 5]
    assert list(found[1]) == [Cell(0, 0), Cell(0, 10), Cell(1, 0)]
    assert list(found[5]) == [Cell(0, 0), Cell(1, 0)]
    assert found[1][Cell(0, 10)] == load_result(tmp_path/'rows/a/fold0_seed10/1shot.json')
    assert finished_results(tmp_path, ladder.rows[3]) == {}


def test_the_report(tmp_path):
    ladder = folder_of_results(tmp_path)
    report = json.loads(json.dumps(ladder_report(ladder, tmp_path, {'test': 'toys', 'episodes': 40})))
    a, b, c, d = report['rows']
    cells = {name: finished_results(tmp_path, row)[1] for name, row in zip('abc', ladder.rows)}
    figures = a['shots']['1']
    assert figures['miou'] == pytest.approx(np.mean([r.miou for r in cells['a'].values()]))
    assert figures['episodes'] == 120
    assert figures['ci95'][0] < figures['miou'] < figures['ci95'][1] and figures['seconds_per_episode'] == .5
    assert figures['cells'][1] == {'fold': 0, 'seed': 10, 'miou': cells['a'][Cell(0, 10)].miou}
    sums = np.sum([row[1:] for r in cells['a'].values() for row in r.counts], 0)
    assert figures['fb_iou'] == pytest.approx((sums[0] / sums[1] + sums[2] / sums[3]) / 2)
    step = b['shots']['1']['step']
    both = [Cell(0, 0), Cell(1, 0)]
    assert step['from'] == 'a' and step['paper'] == 10. and step['verdict'] == 'the other way round'
    own = Ladder('x', (ladder.rows[0], replace(ladder.rows[1], paper_step=7.), *ladder.rows[2:]))
    assert ladder_report(own, tmp_path, {'test': 'toys',
                                         'episodes': 40})['rows'][1]['shots']['1']['step']['paper'] == 7.
    assert step['ours'][0] == pytest.approx(np.mean([cells['b'][x].miou - cells['a'][x].miou for x in both]))
    assert step['ours'][2] < 0
    assert figures['step'] is None and figures['over_free']['from'] == 'c' and figures['over_free']['ours'][1] > 0
    assert c['shots']['1']['over_free'] is None and d['shots'] == {} and report['pairs_in_order'] == {'1': [0, 1]}
    assert a['trainings'] == [{'steps': 7, 'minutes': 1.26, 'kept_step': 4, 'learned': 9}] and b['options'] == {'k': 1}


def test_differences_need_common_cells(tmp_path):
    ladder = folder_of_results(tmp_path)
    found = {row.name: finished_results(tmp_path, row) for row in ladder.rows}
    assert difference({Cell(0, 0): found['a'][1][Cell(0, 0)]}, {Cell(1, 0): found['c'][1][Cell(1, 0)]}) is None
    assert best_free(ladder, found, 1) == 'c' and best_free(ladder, found, 5) is None
    report = ladder_report(replace(ladder, rows=ladder.rows[:2]), tmp_path)
    assert report['rows'][0]['shots']['1']['over_free'] is None and row_figures(found['a'][1])['episodes'] == 120


def test_table_and_figure(tmp_path):
    ladder = folder_of_results(tmp_path, (1, 5))
    report = write_report(ladder, tmp_path, {'test': 'toys', 'steps': 600})
    text = (tmp_path/'results.md').read_text()
    rows = {line.split(' | ')[0].strip('| '): line for line in text.splitlines() if line.startswith('| ')}
    first = report['rows'][0]['shots']['1']
    low, high = (f'{100 * v:.1f}' for v in first['ci95'])
    assert f"{100 * first['miou']:.1f} [{low}, {high}]" in text and '7 steps, 1.3 min' in text and '| no |' in text
    for words in ('# Ladder of x', 'BENCH (SOURCE)', 'toys', 'the other way round', '**5 shots.**',
                  '0 of 1 pairs of rows', 'training-free row: c'):
        assert words in text
    assert set(rows) >= {'a', 'b', 'c', 'd'}
    assert json.loads((tmp_path/'results.json').read_text()) == json.loads(json.dumps(report))
    assert Image.open(tmp_path/'results.png').size[0] > 500 and '<svg' in (tmp_path/'results.svg').read_text()
    figure = ladder_figure(report)
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == ['a', 'b', 'c (no training)', 'd']
    assert 'BENCH' in right.get_title()
    assert right.lines[0].get_xdata().tolist() == [50, 60, 70] and right.lines[0].get_ydata().tolist() == [0, 1, 3]
    assert [t.get_text() for t in left.get_legend().get_texts()] == ['1 shot', '5 shots']


def test_an_empty_ladder_has_a_report_too(tmp_path):
    report = write_report(Ladder('x', (Row('c', 'free', 'dense_match'),)), tmp_path)
    assert report['shots'] == [] and 'none yet' in ladder_markdown(report) and len(ladder_figure(report).axes) == 1


# models, recipes, plans

class Toy(TrainableModel):
    "A convolution on the cosine to the support's mean colour."
    name, learned = 'toy', ('net',)

    def __init__(self, backbone, wide=False, bias=0., seed=0, input_size=32):
        super().__init__(backbone, input_size)
        self.wide, self.bias = wide, bias
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3 if wide else 1, padding=int(wide)), nn.GELU(),
                                     nn.Conv2d(4, 1, 1))

    def describe(self): return {**super().describe(), 'wide': self.wide, 'bias': self.bias}

    def episode_logits(self, batch):
        (query,), (support,) = batch.query, batch.support
        inside = F.adaptive_avg_pool2d((batch.support_masks == 1).to(query), query.shape[-2:])
        mean = torch.einsum('bkchw,bkhw->bc', support, inside)
        near = torch.einsum('bchw,bc->bhw', F.normalize(query, dim=1), F.normalize(mean, dim=1))
        return self.net(near[:, None])[:, 0] + self.bias


def boxes(c, i):
    "Photo i of class c: a coloured box on noise; uint8 (40,48,3) and its mask."
    rng = np.random.default_rng([c, i])
    image, mask = rng.integers(90, 130, (40, 48, 3)).astype(np.uint8), np.zeros((40, 48), np.uint8)
    y, x, h, w = *rng.integers(2, 16, 2), *rng.integers(10, 22, 2)
    image[y:y + h, x:x + w], mask[y:y + h, x:x + w] = np.random.default_rng(c).integers(0, 256, 3), 1
    return image, mask


def boxes_set(spec, fold=None, side='test', progress=True, convention='clean', only=None, min_area=None):
    "Twelve classes of boxes; fold f tests f, f + 4, f + 8."
    assert spec == 'boxes'
    classes = [c for c in range(12) if fold is None or (c % 4 == fold) == (side == 'test')]
    split = lambda photo: tuple(map(int, photo.split('-')))
    def mask(photo, c): return boxes(*split(photo))[1] if split(photo)[0] == c else np.zeros((40, 48), np.uint8)
    count = 6 if only is None else 3
    info = {'dataset': 'boxes', 'fold': fold, 'side': side, 'convention': convention}
    return ListedDataset('boxes', {c: f'colour {c}' for c in classes}, {c: [f'{c}-{i}' for i in range(count)]
                                                                        for c in classes},
                         lambda photo: boxes(*split(photo))[0], mask, info)


TOYS = Ladder('toy', (Row('narrow', 'one cell', 'toy', trained=True, paper=40.),
                      Row('wide', '+ neighbours', 'toy', {'wide': True}, True, 45., 'narrow'),
                      Row('untrained', 'as it comes', 'toy'),
                      Row('match', 'the mean colour', 'prototype', {'input_size': 32})), 'TOYBENCH')
PLAN = LadderPlan('boxes', DataPlan(smallworld=0, collages=0, variants=1, every=3, questions=4), steps=8, batch=2,
                  episodes=6, min_photos=3, backbone='rgb', lr=.02)


class NoFigure:
    "Drawing takes most of the time of a tiny ladder."
    def savefig(self, file, format, dpi): file.write(b'a picture')


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr('fsskit.ladder.ladder_figure', lambda report: NoFigure())
    monkeypatch.setitem(predictor.MODELS, 'toy', f'{__name__}:Toy')
    monkeypatch.setattr('fsskit.ladder.open_dataset', boxes_set)
    monkeypatch.setattr('fsskit.episodic.open_dataset', boxes_set)


def climb(out, **more):
    "The toy ladder in one cell, one shot."
    return run_ladder(TOYS, out, **{**dict(plan=PLAN, folds=[0], seeds=[0], shots=[1], progress=False), **more})


def test_models_of_rows(toys):
    net = lambda row, seed=0, **options: row_model(row, ColourBackbone(waves=8), options, seed)
    a, b, c = (net(TOYS.rows[0], seed).net[0].weight for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(a, Toy(ColourBackbone(waves=8), seed=3).net[0].weight)
    assert net(TOYS.rows[1], bias=2.).bias == 2. and net(TOYS.rows[1]).wide
    assert net(Row('x', '', 'toy', {'bias': 1.}), bias=2.).bias == 1.
    assert net(TOYS.rows[3]).name == 'prototype'
    with pytest.raises(FSSKitError, match='has no part that learns'): net(replace(TOYS.rows[3], trained=True))


def test_recipes():
    assert recipe_of('fs_dino') == recipe_of('anything')
    assert recipe_of('fssam').episodes.losses == Losses(0., 1., 1e-8, squares=True)
    fit, episodes = row_recipe('fssam', replace(PLAN, steps=40, batch=6, lr=None), 1.5)
    assert fit == FitPlan(40, 1.5, 1e-3, 0., 0, 'poly', validate_every=10, save_every=5)
    assert episodes.batch == 6
    assert episodes.losses.bce == 0
    fit, _ = row_recipe('fs_dino', PLAN, 4.)
    assert (fit.steps, fit.lr, fit.warmup, fit.schedule, fit.validate_every,
            fit.save_every) == (8, .02, 0, 'cosine', 2, 1)
    assert row_recipe('fs_dino', replace(PLAN, steps=3000), 4.)[0].warmup == 100


def test_the_recipe_of_fssam_is_the_models():
    fssam = pytest.importorskip('fsskit.fssam')
    assert recipe_of('fssam').episodes.losses == fssam.DICE


def test_plans(tmp_path):
    plan = replace(PLAN, train=replace(PLAN.train, data=('coco:/home/me/coco', 'boxes'), exclude='/home/me/list.txt'),
                   test='coco:/home/me/coco', options={'adapter_weights': Path('/home/me/adapter.safetensors'),
                                                       'topk': 3})
    facts = plan_facts(TOYS, plan, ColourBackbone())
    assert '/home' not in json.dumps(facts)
    assert facts['train']['data'] == 'coco:coco boxes'
    assert facts['test'] == 'coco:coco'
    assert facts['options'] == {'adapter_weights': 'adapter.safetensors', 'topk': 3} and facts['encoder'] == 'rgb, none'
    assert plan_facts(TOYS, PLAN, ColourBackbone())['train']['data'] == 'boxes'
    assert cell_data(PLAN, Cell(2, 7)) == replace(PLAN.train, data=('boxes',), fold=2)
    assert cell_data(plan, Cell(1, 0)).data == plan.train.data
    check_plan(tmp_path/'l', facts)
    check_plan(tmp_path/'l', facts)
    with pytest.raises(FSSKitError, match=r'holds a ladder with steps = 8, not 9'):
        check_plan(tmp_path/'l', facts | {'steps': 9})


# the run

def test_a_ladder_from_start_to_end(toys, tmp_path):
    report = climb(tmp_path, folds=[0, 1], shots=[1, 2])
    assert [len(row['shots']['2']['cells']) for row in report['rows']] == [2] * 4 and report['plan']['ladder'] == 'toy'
    cell = tmp_path/'rows/wide/fold1_seed0'
    assert sorted(p.name for p in cell.iterdir()) == ['1shot.json', '2shot.json', 'head.md', 'head.safetensors',
                                                      'log.csv', 'record.json', 'start.json', 'trained.json',
                                                      'validation.csv']
    facts = head_facts(cell/'head.safetensors')
    results = {r.name: load_result(tmp_path/'rows'/r.name/'fold1_seed0/2shot.json') for r in TOYS.rows}
    assert facts['fold'] == 1
    assert not {'colour 1', 'colour 5', 'colour 9'} & {*facts['classes']['boxes'], *facts['chosen_by']['boxes']}
    assert len({r.protocol['episode_hash'] for r in results.values()}) == 1
    assert set(results['wide'].per_class) == {'colour 1', 'colour 5', 'colour 9'}
    assert results['wide'].protocol['head'] != 'untrained' and results['untrained'].protocol['head'] == 'untrained'
    assert results['wide'].episodes == 6
    assert results['wide'].protocol['shots'] == 2
    assert results['wide'].protocol['min_photos'] == 3
    trained = json.loads((cell/'trained.json').read_text())
    assert trained['steps'] == 8
    assert trained['learned'] == 4 * 9 + 4 + 4 + 1
    assert trained['kept_step'] == facts['training']['step']
    assert trained['minutes'] < 2
    assert report['rows'][1]['trainings'][1] == trained and len(list((tmp_path/'features').iterdir())) > 20


def test_what_is_finished_is_kept(toys, tmp_path, monkeypatch):
    climb(tmp_path)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.glob('rows/*/*/*')}
    monkeypatch.setattr(module, 'train_model', None)
    again = climb(tmp_path)
    assert files == {p: p.stat().st_mtime_ns for p in tmp_path.glob('rows/*/*/*')}
    more = climb(tmp_path, seeds=[0, 1], rows=['untrained', 'match'])
    assert [len(row['shots']['1']['cells']) for row in more['rows']] == [1, 1, 2, 2]
    assert more['rows'][0] == again['rows'][0]
    shutil.rmtree(tmp_path/'rows/narrow/fold0_seed0')
    with pytest.raises(TypeError): climb(tmp_path)


def test_an_interrupted_ladder_goes_on_where_it_stopped(toys, tmp_path, monkeypatch):
    whole = climb(tmp_path/'one')
    train = module.train_model
    def stop(out):
        if 4 in read_log(out/'validation.csv').get('step', ()): raise KeyboardInterrupt
    monkeypatch.setattr(module, 'train_model', lambda out, model,
                        *w, **n: train(out, model, *w, **n, watch=stop if model.wide else None))
    with pytest.raises(KeyboardInterrupt): climb(tmp_path/'two')
    cell = tmp_path/'two/rows/wide/fold0_seed0'
    assert read_checkpoint(cell/'checkpoint.pt')['step'] == 4 and not (cell/'head.safetensors').exists()
    partial = json.loads((tmp_path/'two/results.json').read_text())
    assert [list(row['shots']) for row in partial['rows']] == [['1'], [], [], []]
    seen = {}
    monkeypatch.setattr(module, 'train_model', lambda out, model,
                        *w, **n: (seen.update(n), train(out, model, *w, **n))[1])
    again = climb(tmp_path/'two')
    assert seen['resume'] == cell/'checkpoint.pt'
    assert not (cell/'checkpoint.pt').exists()
    assert not (cell/'best.pt').exists()
    parts = lambda report: [(row['shots']['1']['miou'], row['shots']['1']['step']) for row in report['rows']]
    assert parts(again) == parts(whole)
    heads = [(tmp_path/n/'rows/wide/fold0_seed0/head.safetensors').read_bytes() for n in ('one', 'two')]
    assert heads[0] == heads[1]


def test_an_interrupted_measurement_goes_on(toys, tmp_path, monkeypatch):
    measure, calls = module.evaluate, []
    def stop(*words, **names):
        calls.append(names['json'].parent.parent.name)
        if len(calls) == 2: raise KeyboardInterrupt
        return measure(*words, **names)
    monkeypatch.setattr(module, 'evaluate', stop)
    with pytest.raises(KeyboardInterrupt): climb(tmp_path)
    assert (tmp_path/'rows/wide/fold0_seed0/head.safetensors').exists() and calls == ['narrow', 'wide']
    monkeypatch.setattr(module, 'train_model', None)
    climb(tmp_path)
    assert calls == ['narrow', 'wide', 'wide', 'untrained', 'match']


def test_features_are_encoded_before_the_clock_starts(toys, tmp_path, monkeypatch):
    calls, train = [], module.train_model
    real = module.encode_ahead
    def ahead(model, data, *words): calls.append(('encode', model.wide)); return real(model, data, *words)
    def trained(out, model, *words, **names):
        count = []
        monkeypatch.setattr(Toy, 'frozen_features',
                            lambda self, images: (count.append(1), TrainableModel.frozen_features(self, images))[1])
        head = train(out, model, *words, **names)
        calls.append(('train', model.wide, len(count)))
        return head
    monkeypatch.setattr(module, 'encode_ahead', ahead)
    monkeypatch.setattr(module, 'train_model', trained)
    climb(tmp_path)
    assert calls == [('encode', False), ('train', False, 0), ('train', True, 0)]


def test_the_time_of_a_training_is_what_is_left(toys, tmp_path):
    assert minutes_left(tmp_path, 4.) == 4.
    model = row_model(TOYS.rows[0], ColourBackbone(waves=8))
    short = replace(PLAN, minutes=0.)
    train_row(model, short, Cell(0, 0), tmp_path/'a', progress=False)
    assert json.loads((tmp_path/'a/trained.json').read_text())['steps'] == 0
    torch.save({'learned': {}, 'optimiser': {}, 'step': 1, 'seconds': 90., 'extra': {}}, tmp_path/'checkpoint.pt')
    assert minutes_left(tmp_path, 4.) == pytest.approx(2.5) and minutes_left(tmp_path, 1.) == 0.


def test_other_first_weights_are_refused(toys, tmp_path):
    models = [row_model(TOYS.rows[0], ColourBackbone(waves=8), seed=s) for s in (0, 0, 1)]
    check_start(tmp_path/'x', models[0])
    check_start(tmp_path/'x', models[1])
    with pytest.raises(FSSKitError, match='was begun with other weights'): check_start(tmp_path/'x', models[2])


def test_requests_that_cannot_work(toys, tmp_path):
    for more, words in ((dict(folds=[]), 'at least one fold'), (dict(shots=[]), 'at least one fold'),
                        (dict(shots=[3]), r'3 shots and a query need classes of 4 photos, but min_photos=3'),
                        (dict(rows=['nothing']), "has no row 'nothing'"),
                        (dict(plan=replace(PLAN, options={'magic': 1})), "Model 'toy' has no option 'magic'")):
        with pytest.raises(FSSKitError, match=words): climb(tmp_path/words[:5], **more)
    with pytest.raises(FSSKitError, match='steps = 8, not 9'):
        climb(tmp_path/'y', rows=['match']), climb(tmp_path/'y', plan=replace(PLAN, steps=9))


def test_photos_of_the_test_can_be_listed(toys, tmp_path):
    climb(tmp_path, plan=replace(PLAN, only='held_out.txt'), rows=['match'])
    with pytest.raises(FSSKitError):
        climb(tmp_path/'z', plan=replace(PLAN, only='held_out.txt', min_photos=4), rows=['match'])


def test_a_head_that_saw_the_test_is_refused(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'cell_data',
                        lambda plan, cell: replace(plan.train, data=('boxes',), fold=1 - cell.fold))
    with pytest.raises(FSSKitError, match="weights were trained on"): climb(tmp_path, rows=['narrow'])


def test_a_real_row_of_fs_dino(tmp_path, monkeypatch):
    "The fs_dino ladder with a random adapter, a new decoder and colours for features: options reach the model."
    monkeypatch.setattr('fsskit.ladder.open_dataset', boxes_set)
    monkeypatch.setattr('fsskit.episodic.open_dataset', boxes_set)
    options = {'sam': None, 'adapter': 'random', 'input_size': 64}
    plan = replace(PLAN, steps=1, batch=1, episodes=2, options=options, train=replace(PLAN.train, questions=1))
    report = run_ladder('fs_dino', tmp_path, plan, [0], [0], [1], ['prototype', 'dense_match'], progress=False)
    by_name = {row['name']: row for row in report['rows']}
    assert by_name['prototype']['shots']['1']['episodes'] == 2 and by_name['full']['shots'] == {}
    settings = head_facts(tmp_path/'rows/prototype/fold0_seed0/head.safetensors')['settings']
    assert (settings['semantic'], settings['prototype'], settings['adapter'],
            settings['input_size']) == (False, True, 'random', 64)
