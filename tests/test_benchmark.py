"""The benchmarks: plain rivals are right, wrong results are refused, turns and quotients are what they say."""
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from fsskit import benchmark as module
from fsskit.backbones import create_backbone
from fsskit.benchmark import (at, benchmark_table, BENCHMARKS, check_results, Contestant, correlation_tasks,
                              encoder_tasks, gigaflops,
                              largest_difference, marked_photos, model_tasks, peak_gb, pivot_tasks,
                              plain_blocks, plain_center_pivot, plain_correlation, processor, race, random_episodes,
                              row_of, run_benchmark, seconds_of, support_tasks, take_turns, Task, times_as_fast,
                              timm_twin, token_distance, training_tasks)
from fsskit.correlation import CenterPivotConv4d, CP4DBlock
from fsskit.episodic import TrainableModel
from fsskit.photos import FSSKitError
from fsskit.similarity import FewShotModel
from fsskit.training import limited_threads

TINY = {'correlation': dict(grids=((3, 4),), layers=2), 'center_pivot': dict(grids=(4,), layers=2, widths=(4, 8)),
        'training': dict(networks=((2, (4, 8), 3),), side=4, batch=2),
        'encoder': dict(size=28, depth=1, embed_dim=12, num_heads=2),
        'support': dict(shots=2, queries=3, input_size=32)}


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    with limited_threads(1): yield


def rand(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
def still(value): return lambda: torch.as_tensor(value)


# ---------------------------------------------------------------- the rivals
def test_plain_correlation_is_the_formula():
    query, support = ([rand(2, c, *grid, seed=c) for c in (3, 5)] for grid in ((2, 3), (4, 2)))
    volume = plain_correlation(query, support, eps=.1)
    assert volume.shape == (2, 2, 2, 3, 4, 2)
    for b, l, y, x, v, u in np.ndindex(*volume.shape):
        q, s = query[l][b, :, y, x], support[l][b, :, v, u]
        assert volume[b, l, y, x, v, u].item() == pytest.approx(max(0,
                                                                    float(q @ s / ((q.norm() + .1) * (s.norm() + .1)))))


@pytest.mark.parametrize('stride', [1, 2, (2, 3)])
def test_plain_center_pivot_is_one_small_convolution_at_every_place(stride):
    torch.manual_seed(0)
    conv, volume = CenterPivotConv4d(2, 3, stride=stride).double(), rand(2, 2, 3, 2, 5, 4)
    with torch.no_grad():
        out = plain_center_pivot(conv, volume)
        for y, x, v, u in np.ndindex(*out.shape[2:]):
            sv, su = v * conv.stride[0], u * conv.stride[1]
            around_query = F.conv2d(volume[..., sv, su], conv.query.weight, conv.query.bias, padding=1)[..., y, x]
            around_support = F.conv2d(volume[:, :, y, x], conv.support.weight, conv.support.bias,
                                      padding=1)[..., sv, su]
            assert torch.allclose(out[:, :, y, x, v, u], around_query + around_support)


def test_plain_blocks_are_ours():
    torch.manual_seed(0)
    blocks, volume = nn.Sequential(CP4DBlock(2, 4, stride=2), CP4DBlock(4, 8)).double(), rand(1, 2, 3, 2, 4, 5)
    for block in blocks: nn.init.normal_(block.norm.weight), nn.init.normal_(block.norm.bias)
    assert torch.allclose(plain_blocks(blocks, volume), blocks(volume))


def test_the_twin_is_timms_model_with_our_positions():
    backbone = create_backbone('dinov2_vits14', None, depth=1, embed_dim=12, num_heads=2)
    twin = timm_twin(backbone, 'vit_small_patch14_dinov2', 42, depth=1, embed_dim=12, num_heads=2)
    photos = torch.rand(2, 3, 42, 42, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): out = twin(photos)
    assert out.shape == (2, 12, 3, 3) and torch.allclose(out, backbone(photos, [0])[0], atol=1e-6)
    native = timm.create_model('vit_small_patch14_dinov2', num_classes=0, depth=1, embed_dim=12, num_heads=2).eval()
    native.load_state_dict(backbone.net.state_dict())
    whole = torch.rand(1, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    same = timm_twin(backbone, 'vit_small_patch14_dinov2', 518, depth=1, embed_dim=12, num_heads=2)
    with torch.no_grad():
        wanted = native.forward_features(backbone.normalised(whole))[:, 1:].transpose(1, 2).reshape(1, 12, 37, 37)
        assert torch.allclose(same(whole), wanted, atol=1e-6)


# ---------------------------------------------------------------- distances and the check
def test_distances():
    right = torch.tensor([[2., -8.], [0., 1.]])
    assert largest_difference(right + torch.tensor([[0., 2.], [0., 0.]]), right) == .25
    cells = rand(1, 4, 3, 3)
    assert abs(token_distance(cells, cells)) < 1e-12 and abs(token_distance(5 * cells, cells)) < 1e-12
    bad = cells.clone()
    bad[0, :, 2, 1] *= -1
    assert token_distance(bad, cells) == pytest.approx(2)
    assert token_distance(cells.float(), cells.float()) < 1e-12  # computed in float64


def test_results_are_compared_with_the_first():
    task = Task('t', [Contestant('a', still([1., 2.])), Contestant('b', still([1., 2.2]), .11),
                      Contestant('c', still([1., 2.]))], largest_difference)
    assert check_results(task) == {'b': pytest.approx(.1), 'c': 0}
    assert check_results(Task('alone', [Contestant('a', lambda: None)])) == {}


@pytest.mark.parametrize('value', [[1., 2.3], [1., math.nan], [math.inf, 2.]])
def test_a_wrong_result_is_not_timed(value, monkeypatch):
    monkeypatch.setattr(module, 'take_turns', lambda *args: pytest.fail('timed'))
    task = Task('sums', [Contestant('a', still([1., 2.])), Contestant('b', still(value), .1)], largest_difference)
    with pytest.raises(FSSKitError, match="benchmark, sums: 'b' is .* away from 'a', allowed are 0.1"):
        race(task, 1, progress=False)


# ---------------------------------------------------------------- turns and quotients
def test_turns_rotate_and_every_call_is_timed(monkeypatch):
    clock, calls = [0.], []
    monkeypatch.setattr(module.time, 'perf_counter', lambda: clock[0])
    def run(name, seconds):
        def call(): calls.append(name); clock[0] += seconds
        return call
    moves = []
    bar = type('Bar', (), {'update': lambda self: moves.append(1)})()
    seconds = take_turns({'a': run('a', 1.), 'b': run('b', 2.), 'c': run('c', 4.)}, 4, bar)
    assert ''.join(calls) == 'abc' 'bca' 'cab' 'abc' and len(moves) == 12
    assert seconds == {'a': [1.] * 4, 'b': [2.] * 4, 'c': [4.] * 4}
    assert seconds_of(run('d', 8.)) == 8


def test_the_quotient_is_that_of_the_same_round():
    slow = np.array([1, 1, 5, 1, 1, 1, 9, 1, 1.])
    assert times_as_fast(3 * slow, slow) == pytest.approx((3, 3, 3))
    peer, own = np.random.default_rng(0).random((2, 12)) + .1
    low, median, high = np.percentile(peer / own, [25, 50, 75])
    assert times_as_fast(peer, own) == pytest.approx((median, low, high))
    assert times_as_fast([3.], [2.]) == (1.5, 1.5, 1.5)
    with pytest.raises(ValueError): times_as_fast([1., 2.], [1.])


def test_a_row_has_two_rivals():
    ways = [Contestant('plain fp32', None), Contestant('plain medium', None, .1),
            Contestant('ours', None, .2, 'plain medium')]
    seconds = {'plain fp32': [.4, .6, .8], 'plain medium': [.3, .3, .3], 'ours': [.2, .1, .4]}
    row = row_of(Task('t', ways), ways[2], seconds, .05)
    assert row == {'what': 't', 'who': 'ours', 'peer': 'plain fp32',
                   'median_ms': pytest.approx(200), 'best_ms': pytest.approx(100),
                   'n': 3, 'distance': .05, 'limit': .2, 'ratio': pytest.approx({'median': 2, 'low': 2, 'high': 4}),
                   'equal': pytest.approx({'median': 1.5, 'low': 1.125, 'high': 2.25})}
    first, second = (row_of(Task('t', ways), way, seconds) for way in ways[:2])
    assert 'ratio' not in first and 'equal' not in first and first['distance'] is None
    assert 'equal' not in second and second['ratio']['median'] == pytest.approx(2)


def test_a_race_checks_then_takes_turns():
    calls = []
    def count(name):
        def call(): calls.append(name); return torch.ones(1)
        return call
    rows = race(Task('t', [Contestant('a', count('a')), Contestant('b', count('b'))], largest_difference), 3,
                progress=False)
    assert ''.join(calls) == 'ab' 'ab' 'ba' 'ab' and [row['n'] for row in rows] == [3, 3]
    assert all(len(row['probe_gflops']) == 2 and min(row['probe_gflops']) > 0 for row in rows)
    assert rows[1]['distance'] == 0


def test_the_probe_divides_operations_by_time(monkeypatch):
    monkeypatch.setattr(module, 'seconds_of', lambda run: (run(), 1e-3)[1])
    assert gigaflops(100) == pytest.approx(2e6 / 1e-3 / 1e9)


@pytest.mark.parametrize('mode, allowed', [('fp32', 1e-6), ('medium', 1e-2), ('bf16', 1e-2)])
def test_calls_in_a_precision(mode, allowed):
    a, seen = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_(), []
    def product(x):
        seen.append((torch.is_grad_enabled(), torch.get_float32_matmul_precision(), torch.is_autocast_enabled('cpu')))
        return x @ x
    out = at(mode, product, a)()
    assert seen == [(False, 'medium' if mode == 'medium' else 'highest', mode == 'bf16')]
    assert largest_difference(out.float(), a.detach() @ a.detach()) < allowed and torch.is_grad_enabled()


# ---------------------------------------------------------------- the tasks
def test_correlation_tasks_have_equals():
    first, second = correlation_tasks(((2, 3), (3, 5)), layers=2)
    assert [(c.name, c.equal) for c in first.contestants] == [('plain fp32', ''), ('ours fp32', 'plain fp32'),
                                                              ('plain medium', ''), ('ours medium', 'plain medium')]
    assert first.contestants[0].run().shape == (1, 2, 2, 2, 2, 2)
    assert second.contestants[1].run().shape == (1, 2, 3, 3, 3, 3)
    assert check_results(second)['ours fp32'] < 1e-6 and '3 x 3, 5 channels' in second.what


def test_the_published_sizes_are_the_default():
    assert correlation_tasks.__defaults__ == (((32, 384), (37, 768)), 12)
    assert pivot_tasks.__defaults__ == ((32, 37), 12, (16, 64, 128))
    assert encoder_tasks.__defaults__ == (('dinov2_vits14',), 448) and support_tasks.__defaults__[2] == 5


def test_pivot_and_training_tasks_agree_with_the_plain_way():
    squeeze, mix = pivot_tasks(**TINY['center_pivot'])
    assert squeeze.contestants[1].run().shape == (1, 8, 4, 4, 1, 1)
    assert mix.contestants[0].run().shape == (1, 8, 4, 4, 4, 4)
    tasks = [squeeze, mix, *training_tasks(((2, (4, 8), 3), (3, (4,), 5)), side=4, batch=2)]
    assert all(check_results(task)['ours'] < 1e-5 for task in tasks)
    net_weights = sum(p.numel() for p in module.CorrelationNet(3, (4,)).parameters())
    assert tasks[3].contestants[0].run().shape == (net_weights,)  # each task keeps its own network


def test_encoder_task_has_three_precisions():
    (task,) = encoder_tasks(('dinov2_vits14',), **TINY['encoder'])
    assert [c.name for c in task.contestants] == [f'{who} {mode}' for mode in ('fp32', 'medium', 'bf16')
                                                  for who in ('timm', 'ours')]
    distances = check_results(task)
    assert distances['ours fp32'] < 1e-6 and 1e-9 < distances['ours bf16'] < 2e-2
    assert [c.limit for c in task.contestants] == [1e-5, 1e-5, 1e-5, 1e-5, 2e-2, 2e-2]


class Counting(FewShotModel):
    "A model that counts what it encodes; its answer depends on the support."
    def __init__(self):
        nn.Module.__init__(self)
        self.input_size, self.known, self.asked = 8, 0, 0

    def encode_support(self, images, masks):
        self.known += len(images)
        return (images.mean(1) * masks).sum((1, 2)).mean()

    def segment(self, query, state):
        self.asked += len(query)
        return query.mean(1) - state


def test_support_is_encoded_once(monkeypatch):
    model = Counting()
    monkeypatch.setattr(module, 'create_model', lambda *args, **options: model)
    (task,) = support_tasks(shots=3, queries=4)
    results, counts = [], []
    for contestant in task.contestants:
        model.known = model.asked = 0
        results.append(contestant.run())
        counts.append((model.known, model.asked))
    assert counts == [(12, 4), (3, 4)] and torch.equal(*results) and results[0].shape == (4, 8, 8)
    assert task.contestants[1].limit == 1e-5


def test_marked_photos():
    photos, masks = marked_photos(3, 16)
    assert photos.shape == (3, 3, 16, 16) and 0 <= photos.min() and photos.max() <= 1 and masks.dtype == torch.uint8
    assert masks[1, 4:8, 4:12].all() and masks.sum() == 3 * 32


class Learner(TrainableModel):
    "The smallest model that learns."
    name, learned = 'learner', ('net',)
    def __init__(self):
        nn.Module.__init__(self)
        self.net, self.input_size = nn.Conv2d(3, 1, 1), 8

    def frozen_features(self, images): return [F.avg_pool2d(images, 2)]
    def episode_logits(self, batch): return self.net(batch.query[0] - batch.support[0].mean(1))[:, 0]


def test_random_episodes_are_the_photos_features():
    model = Learner()
    batch, photos, masks = random_episodes(model, 2)
    assert torch.equal(batch.query[0], F.avg_pool2d(photos[:2], 2))
    assert torch.equal(batch.support[0][:, 0], F.avg_pool2d(photos[2:], 2))
    assert torch.equal(batch.target, masks[:2]) and torch.equal(batch.support_masks, masks[2:, None])


def test_model_tasks_train_and_answer(monkeypatch):
    model, asked = Learner(), {}
    monkeypatch.setattr(module, 'create_model', lambda *args, **options: asked.update(args=args, **options) or model)
    step, episode = model_tasks('learner', 'embedded', 2, input_size=8)
    assert asked == {'args': ('learner', 'embedded', None), 'head': None, 'input_size': 8}
    before = model.net.weight.clone()
    step.contestants[0].run()
    assert not torch.equal(before, model.net.weight) and model.training
    out = episode.contestants[0].run()
    assert out.shape == (1, 4, 4) and not out.requires_grad and not model.training
    assert check_results(step) == {} and '2 episode(s)' in step.what and 'at 8 px' in episode.what


# ---------------------------------------------------------------- reports
@pytest.mark.parametrize('name', list(TINY))
def test_every_benchmark_runs(name, tmp_path):
    out = tmp_path / 'results' / f'{name}.json'
    rows = run_benchmark(name, threads=1, repeats=2, json=out, progress=False, **TINY[name])
    report = json.loads(out.read_text())
    assert report['rows'] == json.loads(json.dumps(rows)) and report['benchmark'] == name and report['threads'] == 1
    assert {'processor', 'versions'} <= report.keys() and out.with_suffix('.md').read_text() == benchmark_table(rows)
    assert all(row['n'] == 2 and 0 < row['best_ms'] <= row['median_ms'] for row in rows)
    assert all(row['peak_gb'] is None or .01 < row['peak_gb'] < 1000 for row in rows)
    ours = [row for row in rows if row['who'] != row['peer']]
    assert ours and all(row['distance'] <= row['limit'] and row['ratio']['low'] <= row['ratio']['high'] for row in ours)


def test_every_benchmark_is_named_and_described():
    assert set(TINY) | {'fs_dino'} == set(BENCHMARKS) and all(f.__doc__ for f in BENCHMARKS.values())


def test_runs_repeat_and_leave_no_trace(monkeypatch):
    results = []
    monkeypatch.setattr(module, 'race', lambda task, *args: results.append(task.contestants[0].run()) or [])
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    for seed in (0, 0, 1): run_benchmark('correlation', threads=2, seed=seed, **TINY['correlation'])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_what_is_refused():
    with pytest.raises(FSSKitError, match="no benchmark 'speed': choose correlation, center_pivot"):
        run_benchmark('speed')
    with pytest.raises(FSSKitError, match='repeats=0: give at least 1'): run_benchmark('correlation', repeats=0)


def test_the_table_by_hand():
    row = dict(what='w', who='a', peer='a', median_ms=12.34, best_ms=12, n=3, distance=None)
    other = row | dict(who='b', distance=1.26e-6, ratio=dict(median=2.345, low=2, high=3))
    lines = benchmark_table([row, other]).splitlines()
    assert lines[2] == '| w | a | 12.3 | 12.0 | 3 |  |  |  |' and len(set(line.count('|') for line in lines)) == 1
    assert lines[3] == '| w | b | 12.3 | 12.0 | 3 | **2.35** (2.00 to 3.00) |  | 1e-06 |' or '**2.34**' in lines[3]


def test_the_machine_says_who_it_is(monkeypatch, tmp_path):
    assert processor() and (peak_gb() is None or .05 < peak_gb() < 1000)
    class Missing:
        def __init__(self, path): pass
        def read_text(self): raise OSError
    monkeypatch.setattr(module, 'Path', Missing)
    monkeypatch.setattr(module.platform, 'processor', lambda: 'a chip')
    assert processor() == 'a chip'
    class Other(Missing):
        def read_text(self): return 'model name\t: Chip 9\nmodel name\t: Chip 9\n'
    monkeypatch.setattr(module, 'Path', Other)
    assert processor() == 'Chip 9'
    monkeypatch.setitem(__import__('sys').modules, 'resource', None)
    assert peak_gb() is None


@pytest.mark.parametrize('shots', [1, 2])
def test_the_plain_fssam_of_the_script_agrees_with_ours(shots, monkeypatch):
    "benchmarks/fssam.py: same weights, formulas as they are written, photo by photo; layers joined as ours joins them."
    folder = Path(__file__).resolve().parents[1] / 'benchmarks'
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location('benchmark_of_fssam', folder / 'fssam.py')
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    model = script.make_model('embedded', 'sam2_tiny')
    assert len(model.layers) > 1
    runs = script.ways(model, shots, ['fp32'])
    assert list(runs) == ['plain', 'episode, fp32', 'further query, fp32']
    expected = runs['plain']()
    assert all(script.logit_distance(runs[name](), expected) < 1e-8 for name in list(runs)[1:])
