"Tests of the command line: what it writes, what it prints where, and its exit codes."
import csv
import json
import subprocess
import sys
from inspect import signature
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
import fsskit
from fsskit import cli
from fsskit.evaluation import load_result
from fsskit.episodes import read_episodes
from fsskit.photos import FSSKitError
from fsskit.predictor import FewShotPredictor, create_model, list_models


def run(*words): return CliRunner().invoke(cli.app, [str(w) for w in words])


MAKE_MODEL = cli.make_model


def small_model(model, backbone, weights, **settings):
    "The models of these tests look at 96 px, to be quick."
    return create_model(model, backbone, None if weights == 'random' else weights, **{'input_size': 96, **settings})


@pytest.fixture(autouse=True)
def quick(monkeypatch): monkeypatch.setattr(cli, 'make_model', small_model)


def scene(seed, colour=(220, 120, 20)):
    rng = np.random.default_rng(seed)
    photo = rng.integers(80, 120, (48, 60, 3)).astype(np.uint8)
    y, x = rng.integers(4, 20, 2)
    mask = np.zeros((48, 60), np.uint8)
    mask[y:y + 22, x:x + 30] = 255
    photo[mask > 0] = colour
    return photo, mask


@pytest.fixture
def photos(tmp_path):
    "Folder with a.jpg, b.jpg, c.png and their masks."
    for seed, name in enumerate('abc'):
        photo, mask = scene(seed)
        Image.fromarray(photo).save(tmp_path/f'{name}.png')
        Image.fromarray(mask).save(tmp_path/f'{name}_m.png')
    return tmp_path


@pytest.fixture
def classes(tmp_path):
    "A folder of classes: orange with 4 photos, blue with 3."
    for name, colour, count in (('orange', (220, 120, 20), 4), ('blue', (30, 60, 220), 3)):
        (tmp_path/'set'/name).mkdir(parents=True)
        for seed in range(count):
            photo, mask = scene(seed, colour)
            Image.fromarray(photo).save(tmp_path/'set'/name/f'{seed}.jpg')
            Image.fromarray(mask).save(tmp_path/'set'/name/f'{seed}.png')
    return tmp_path/'set'


# ---- segment

def test_segment_writes_mask_picture_and_table(photos):
    out = photos/'out'/'deep'
    result = run('segment', '--support', photos/'a.png', '--mask', photos/'a_m.png', '--query', photos/'b.png',
                 '--query', photos/'c.png', '--out', out, '--backbone', 'rgb')
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == ['b_mask.png', 'b_overview.png', 'c_mask.png', 'c_overview.png',
                                                     'results.csv']
    predictor = FewShotPredictor(small_model('dense_match', 'rgb',
                                             'embedded')).set_support(photos/'a.png', photos/'a_m.png')
    expected = predictor.predict(photos/'b.png').mask
    written = np.asarray(Image.open(out/'b_mask.png'))
    assert np.array_equal(written, expected * 255)
    truth = np.asarray(Image.open(photos/'b_m.png')) > 0
    assert ((written > 0) & truth).sum() / ((written > 0) | truth).sum() > 0.7
    rows = list(csv.DictReader((out/'results.csv').open()))
    assert [r['query'] for r in rows] == [str(photos/'b.png'), str(photos/'c.png')]
    assert rows[0]['foreground_percent'] == f'{expected.mean() * 100:.1f}' and float(rows[0]['seconds']) > 0
    assert (rows[0]['width'], rows[0]['height']) == ('60', '48')
    assert result.stdout.splitlines()[0].split() == ['query', 'width', 'height', 'foreground_percent', 'seconds',
                                                     'mask', 'picture']
    assert len(result.stdout.splitlines()) == 3 and 'results.csv are in' in result.stderr


def test_segment_shots_model_and_label(photos):
    label = Image.fromarray((np.asarray(Image.open(photos/'a_m.png')) > 0).astype(np.uint8) * 5)
    label.save(photos/'a_l.png')
    Image.fromarray((np.asarray(Image.open(photos/'b_m.png')) > 0).astype(np.uint8) * 5).save(photos/'b_l.png')
    result = run('segment', '--support', photos/'a.png',
                 '--mask', photos/'a_l.png', '--support', photos/'b.png', '--mask',
                 photos/'b_l.png', '--query', photos/'c.png', '--out', photos/'o', '--backbone', 'rgb', '--model',
                 'prototype', '--mask-encoding', 'voc', '--label', 5)
    assert result.exit_code == 0 and '2 support' in result.stderr
    predictor = FewShotPredictor(small_model('prototype', 'rgb', 'embedded'))
    predictor.set_support([photos/'a.png', photos/'b.png'], [photos/'a_m.png', photos/'b_m.png'])
    assert np.array_equal(np.asarray(Image.open(photos/'o'/'c_mask.png')), predictor.predict(photos/'c.png').mask * 255)


def test_photos_of_the_same_name_get_numbers(photos):
    (photos/'x').mkdir()
    (photos/'x'/'b.png').write_bytes((photos/'c.png').read_bytes())
    run('segment', '--support', photos/'a.png', '--mask', photos/'a_m.png', '--query', photos/'b.png', '--query',
        photos/'x'/'b.png', '--out', photos/'o', '--backbone', 'rgb')
    assert {'b_mask.png', 'b_2_mask.png'} <= {p.name for p in (photos/'o').iterdir()}


def test_result_names_never_clash(tmp_path):
    from pathlib import Path
    names = cli.result_names([Path('a/b.png'), Path('c/B.png'), Path('b_2.png'), Path('d.png'), Path('b.jpg')])
    assert names == ['b', 'B_2', 'b_2_2', 'd', 'b_3']


def test_segment_never_replaces_its_input(photos):
    (photos/'q_mask.png').write_bytes((photos/'a_m.png').read_bytes())
    (photos/'q.png').write_bytes((photos/'b.png').read_bytes())
    before = (photos/'q_mask.png').read_bytes()
    result = run('segment', '--support', photos/'a.png', '--mask', photos/'q_mask.png', '--query', photos/'q.png',
                 '--out', photos, '--backbone', 'rgb')
    assert result.exit_code == 2 and 'would replace' in result.stderr and (photos/'q_mask.png').read_bytes() == before


@pytest.mark.parametrize('words, message', [
    (['--support', 'a.png', '--mask', 'missing.png', '--query', 'b.png'], "missing.png' does not exist"),
    (['--support', 'a.png', '--mask', 'a_m.png', '--query', 'a_m.txt'], 'does not exist'),
    (['--support', 'a.png', '--mask', 'a_m.png', '--support', 'b.png', '--query', 'b.png'],
     '2 support photos and 1 masks'),
    (['--support', 'a.png', '--mask', 'a_m.png', '--query', 'b.png', '--model', 'x'], "no model 'x'"),
    (['--support', 'a.png', '--mask', 'a_m.png', '--query', 'b.png', '--weights', 'hub'], "'rgb' has no weights"),
])
def test_bad_input_is_one_line(photos, monkeypatch, words, message):
    monkeypatch.chdir(photos)
    result = run('segment', *words, '--out', 'o', '--backbone', 'rgb')
    assert result.exit_code == 2 and result.stdout == ''
    assert result.stderr.startswith('fsskit: ') and message in result.stderr and len(result.stderr.splitlines()) == 1


# ---- evaluate, compare

def test_evaluate(classes, tmp_path):
    path, listed = tmp_path/'r.json', tmp_path/'e.jsonl'
    result = run('evaluate', '--model', 'prototype', '--data', f'folder:{classes}', '--backbone', 'rgb', '--episodes',
                 6, '--shots', 3, '--seed', 4, '--json', path, '--no-cache', '--episodes-file', listed, '--no-progress')
    assert result.exit_code == 0, result.output
    measured = load_result(path)
    assert result.stdout.splitlines()[-1] == str(measured)
    assert measured.episodes == 6 and list(measured.per_class) == ['orange'] and measured.skipped_classes == {'blue': 3}
    assert 'left out, too few photos: blue (3)' in result.stderr
    assert measured.protocol['seed'] == 4
    assert measured.protocol['shots'] == 3
    assert measured.protocol['model'] == 'prototype'
    episodes, header = read_episodes(listed)
    assert len(episodes) == 6 and header['seed'] == 4
    from fsskit.evaluation import list_hash
    assert measured.protocol['episode_hash'] == list_hash(episodes)


def test_evaluate_defaults(classes, monkeypatch):
    "--model and --data suffice: embedded backbone, shipped weights, 1 shot, 1000 episodes, seed 0."
    seen = {}
    def fake(model, dataset, shots, episodes, seed, min_photos, progress, score_size, cache, json, allow_seen, part):
        seen.update(locals())
        raise FSSKitError('stop here')
    monkeypatch.setattr('fsskit.evaluation.evaluate', fake)
    monkeypatch.setattr('fsskit.predictor.create_model', lambda *words, **names: (*words, names))
    monkeypatch.setattr(cli, 'make_model', MAKE_MODEL)
    monkeypatch.setattr(cli, 'feature_cache', lambda wanted: wanted)
    assert run('evaluate', '--model', 'dense_match', '--data', f'folder:{classes}').exit_code == 2
    assert seen['model'] == ('dense_match', 'embedded', 'embedded', {}) and seen['dataset'].class_ids == [0, 1]
    assert [seen[k] for k in ('shots', 'episodes', 'seed', 'min_photos', 'score_size', 'cache', 'json', 'allow_seen',
                              'part')] == \
        [1, 1000, 0, None, 'original', True, None, False, (0, 1)]
    run('evaluate', '--model', 'dense_match', '--data', f'folder:{classes}', '--head', 'h', '--option', 'topk=3',
        '--allow-seen', '--part', '1/4')
    assert seen['model'][3] == {'head': 'h', 'topk': 3} and seen['allow_seen'] and seen['part'] == (1, 4)


def test_random_weights(monkeypatch):
    monkeypatch.setattr('fsskit.predictor.create_model', lambda *words, **names: (*words, names))
    assert MAKE_MODEL('m', 'b', 'random') == ('m', 'b', None, {})
    assert MAKE_MODEL('m', 'b', 'x', k=1) == ('m', 'b', 'x', {'k': 1})


def test_settings_of_a_model():
    assert cli.model_settings(None) == {} and cli.model_settings([], head='none', variant=None) == {'head': None}
    assert cli.model_settings(['a=1', 'b=x=y', 'c=[1, 2]', 'd=', 'e=true', 'a=2.5', 'f=null'],
                              head='h.safetensors') == \
        {'head': 'h.safetensors', 'a': 2.5, 'b': 'x=y', 'c': [1, 2], 'd': '', 'e': True, 'f': None}
    for wrong in ('topk', '=3', 'top-k=3'):
        with pytest.raises(FSSKitError, match='write NAME=VALUE'): cli.model_settings([wrong])


def test_settings_reach_the_model(classes, tmp_path):
    words = ('evaluate', '--model', 'dense_match', '--data', f'folder:{classes}', '--backbone', 'rgb', '--episodes', 1,
             '--no-cache', '--no-progress')
    assert run(*words, '--option', 'topk=2', '--json', tmp_path/'r.json').exit_code == 0
    assert load_result(tmp_path/'r.json').protocol['topk'] == 2
    result = run(*words, '--option', 'magic=2')
    assert result.exit_code == 2 and "has no option 'magic'" in result.stderr


def test_parts_are_joined(classes, tmp_path):
    words = ('evaluate', '--model', 'prototype', '--data', f'folder:{classes}', '--backbone', 'rgb', '--episodes', 7,
             '--no-cache', '--no-progress')
    run(*words, '--json', tmp_path/'whole.json')
    for i in range(3): assert run(*words, '--part', f'{i}/3', '--json', tmp_path/f'{i}.json').exit_code == 0
    result = run('merge', tmp_path/'2.json', tmp_path/'0.json', tmp_path/'1.json', '--json', tmp_path/'joined.json')
    whole, joined = load_result(tmp_path/'whole.json'), load_result(tmp_path/'joined.json')
    assert joined.counts == whole.counts and joined.miou == whole.miou and joined.per_class == whole.per_class
    assert result.exit_code == 0 and result.stdout.splitlines()[-1] == str(joined)
    assert run('merge', tmp_path/'0.json', tmp_path/'1.json').exit_code == 2
    kept = run('merge', tmp_path/'0.json', tmp_path/'1.json', tmp_path/'2.json', '--json', tmp_path/'0.json')
    assert kept.exit_code == 2 and 'would replace' in kept.stderr and load_result(tmp_path/'0.json').episodes == 3


@pytest.mark.parametrize('text', ['1', '2/2', '3/2', 'a/b', '-1/2', '1/'])
def test_parts_that_do_not_exist(text):
    with pytest.raises(FSSKitError, match='give 0/4, 1/4, 2/4 and 3/4'): cli.read_part(text)


def test_missing_classes_are_said(classes):
    result = run('evaluate', '--model', 'prototype', '--data', f'folder:{classes}', '--backbone', 'rgb', '--episodes',
                 1, '--no-cache', '--no-progress', '--score-size', 32)
    assert result.exit_code == 0 and 'never drawn: ' in result.stderr
    assert sorted(line.split()[1] for line in result.stdout.splitlines()[1:3])[0] == '-'


def test_compare_command(classes, tmp_path):
    for name, model in (('a', 'prototype'), ('b', 'dense_match')):
        run('evaluate', '--model', model, '--data', f'folder:{classes}', '--backbone', 'rgb', '--episodes', 5, '--json',
            tmp_path/f'{name}.json', '--no-cache', '--no-progress')
    result = run('compare', tmp_path/'a.json', tmp_path/'b.json')
    a, b = (json.loads((tmp_path/f'{n}.json').read_text())['miou'] for n in 'ab')
    assert result.exit_code == 0 and result.stdout.startswith(f'{a:.3f} against {b:.3f}: difference {a - b:+.3f}')
    assert run('compare', tmp_path/'a.json', tmp_path/'none.json').exit_code == 2


@pytest.mark.parametrize('words, message', [
    (['--data', 'folder:/nowhere'], '/nowhere'), (['--data', 'nonsense'],
                                                  'nonsense'), (['--data', 'folder:SET', '--fold', 0], 'fold'),
    (['--data', 'folder:SET', '--shots', 9], 'has 10 photos'),
    (['--data', 'folder:SET', '--score-size', 'big'], 'score_size'),
])
def test_evaluate_errors(classes, words, message):
    words = [str(w).replace('SET', str(classes)) for w in words]
    result = run('evaluate', '--model', 'prototype', '--backbone', 'rgb', '--no-cache', '--no-progress', *words)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count('\n') == 1


# ---- lists

def test_splits_of_a_folder(classes):
    result = run('splits', f'folder:{classes}')
    assert result.exit_code == 0
    assert result.stdout.splitlines() == sorted(result.stdout.split())
    assert len(result.stdout.split()) == 7


def test_splits_are_the_published_lists(shared):
    root = shared/'data'/'pascal'
    result = run('splits', f'pascal5i:{root}', '--fold', 0)
    from fsskit.datasets import pascal5i_ids
    assert result.exit_code == 0 and result.stdout == ''.join(f'{i}\n' for i in pascal5i_ids(root, 0, 'test'))
    assert len(result.stdout.split()) == 364


def test_lists():
    assert run('models').stdout.split() == list_models() and run('models', 'dense*').stdout.split() == ['dense_match']
    names = run('datasets').stdout
    assert 'smallworld' in names and 'pascal5i:PATH' in names and 'fetch fss1000' in names
    assert run('datasets', 'coco:*').stdout.split()[0] == 'coco:PATH'


def test_backbones(monkeypatch):
    import types
    fake = types.ModuleType('fsskit.backbones')
    fake.list_backbones = lambda pattern: ['embedded', 'vit']
    fake.FeatureCache = lambda: 'a cache'
    monkeypatch.setitem(sys.modules, 'fsskit.backbones', fake)
    assert run('backbones').stdout.split() == ['embedded', 'rgb', 'vit']
    assert run('backbones', 'v*').stdout.split() == ['embedded', 'vit']
    assert cli.feature_cache(True) == 'a cache' and cli.feature_cache(False) is None


def test_fetch(monkeypatch):
    monkeypatch.setattr('fsskit.fetch.fetch_dataset', lambda *words: words)
    result = run('fetch', 'fss1000', '--root', '/r', '--no-progress')
    assert "('fss1000', " in result.stdout and 'False' in result.stdout
    monkeypatch.undo()
    assert run('fetch', 'nothing').exit_code == 2


def train_spy(monkeypatch, command, *words):
    "What `fsskit COMMAND WORDS` passes to the library, the result of the command, and the library's defaults."
    from importlib import import_module
    from inspect import signature
    module, name = {'train-encoder': ('embedded', 'train_encoder'), 'train-sam': ('sam', 'train_sam'),
                    'train-sam2': ('propagation', 'train_sam2'), 'distill': ('distillation', 'distil_adapter')}[command]
    module = import_module(f'fsskit.{module}')
    seen, real = {}, signature(getattr(module, name))
    def spy(*args, **kwargs):
        seen.update(real.bind(*args, **kwargs).arguments); return seen['out']/'weights.safetensors'
    monkeypatch.setattr(module, name, spy)
    return seen, run(command, *words), {n: p.default for n, p in real.parameters.items()}


def test_train_encoder_defaults_are_the_librarys(monkeypatch):
    seen, result, defaults = train_spy(monkeypatch, 'train-encoder', '--photos', 'some/folder', '--teacher',
                                       't.safetensors', '--out', 'o')
    assert result.exit_code == 0 and result.stdout == 'o/weights.safetensors\n'
    assert [str(p) for p in seen.pop('photos')] == ['some/folder'] and str(seen.pop('teacher')) == 't.safetensors'
    assert str(seen.pop('out')) == 'o'
    assert seen == {name: defaults[name] for name in seen}
    assert len(seen) == len(defaults) - 3


@pytest.mark.parametrize('command, left', [('train-sam', {'prompts', 'hints'}), ('train-sam2', set())])
def test_train_sam_defaults_are_the_librarys(monkeypatch, command, left):
    seen, result, defaults = train_spy(monkeypatch, command, '--data', 'coco:a', '--data', 'folder:b', '--out', 'o')
    assert result.exit_code == 0 and result.stdout == 'o/weights.safetensors\n'
    assert seen.pop('data') == ['coco:a', 'folder:b'] and str(seen.pop('out')) == 'o'
    assert seen == {name: defaults[name] for name in seen} and defaults.keys() - seen.keys() == {'data', 'out'} | left


def test_train_encoder_options_arrive_under_their_names(monkeypatch):
    words = ('--photos a --photos b --teacher t --out o --init i --resume r --minutes 2.5 --steps 7 --seed 3 --exclude '
             'e --smallworld 0 --batch 8 --threads 1 --device auto --data-note CC0 --teacher-note Apache --no-progress')
    seen, result, _ = train_spy(monkeypatch, 'train-encoder', *words.split())
    assert result.exit_code == 0
    assert [str(p) for p in seen.pop('photos')] == ['a', 'b']
    assert {k: str(seen.pop(k)) for k in ('teacher', 'out', 'init', 'resume',
                                          'exclude')} == dict(teacher='t', out='o', init='i', resume='r', exclude='e')
    assert seen == dict(minutes=2.5, steps=7, seed=3, smallworld=0, batch=8, threads=1, device='auto', data_note='CC0',
                        teacher_note='Apache', progress=False)


@pytest.mark.parametrize('command, own, values', [
    ('train-sam', '--init i --close .3 --images 3', dict(init='i', close=.3, images=3)),
    ('train-sam2', '--init i --size 64 --batch 3 --films 9', dict(init='i', size=64, batch=3, films=9))])
def test_train_sam_options_arrive_under_their_names(monkeypatch, command, own, values):
    words = ('--data coco:a --out o --backdrops x --backdrops y --exclude e --smallworld 0 --steps 7 --minutes 2.5 '
             '--resume r --seed 3 --lr .01 --validate-every 5 --patience 2 --threads 1 --device auto --data-note CC0 '
             '--no-progress ' + own)
    seen, result, _ = train_spy(monkeypatch, command, *words.split())
    assert result.exit_code == 0, result.stderr
    plain = {k: [str(x) for x in v] if k == 'backdrops' else str(v) if k in ('out', 'exclude', 'resume', 'init') else v
             for k, v in seen.items()}
    assert plain == dict(data=['coco:a'], out='o', backdrops=['x', 'y'],
                         exclude='e', smallworld=0, steps=7, minutes=2.5, resume='r', seed=3,
                         lr=.01, validate_every=5, patience=2, threads=1, device='auto', data_note='CC0',
                         progress=False) | values


@pytest.mark.parametrize('command', ['train-sam', 'train-sam2'])
def test_train_sam_says_all_that_is_missing(command):
    for words, needs in (([], '--data and --out'), (['--out', 'o'], '--data')):
        result = run(command, *words)
        assert result.exit_code == 2 and result.stdout == '' and result.stderr.count('\n') == 1
        usage = f'fsskit {command} --data coco:FOLDER --out FOLDER'
        assert result.stderr == f'fsskit: This command also needs {needs}: it looks like `{usage}`.\n'
    text, own = run(command, '--help').stdout, {'train-sam': ['images'],
                                                'train-sam2': ['init', 'size', 'batch', 'films']}[command]
    for name in ['data', 'out', 'backdrops', 'exclude', 'smallworld', 'steps', 'minutes', 'resume', 'seed', 'lr',
                 'validate-every', 'patience', 'threads', 'device', 'data-note', *own]: assert f'--{name} ' in text


@pytest.mark.parametrize('words, needs', [
    ([], '--photos and --teacher and --out'), (['--out', 'o'], '--photos and --teacher'),
    (['--photos', 'a', '--out', 'o'], '--teacher')])
def test_train_encoder_says_all_that_is_missing(words, needs):
    result = run('train-encoder', *words)
    assert result.exit_code == 2 and result.stdout == '' and result.stderr.count('\n') == 1
    assert result.stderr.startswith(f'fsskit: This command also needs {needs}: it looks like `fsskit train-encoder '
                                    '--photos ')


def test_train_encoder_documents_its_options_and_refuses_others():
    text = run('train-encoder', '--help').stdout
    for name in 'photos teacher out init resume minutes steps seed exclude smallworld batch threads device data-note teacher-note'.split():
        assert f'--{name} ' in text
    assert run('train-encoder', '--hours', 3).exit_code == run('train-encoder', '--photos').exit_code == 2


# ---- distill, train

def test_distill_defaults_are_the_librarys(monkeypatch):
    seen, result, defaults = train_spy(monkeypatch, 'distill', '--photos', 'a', '--photos', 'b', '--out', 'o')
    assert result.exit_code == 0 and result.stdout == 'o/weights.safetensors\n'
    assert [str(p) for p in seen.pop('photos')] == ['a', 'b'] and str(seen.pop('out')) == 'o'
    assert seen == {name: defaults[name] for name in seen}
    assert defaults.keys() - seen.keys() == {'photos', 'out', 'validation', 'sizes', 'widths', 'norm', 'how', 'cache',
                                             'cache_gb'}


def test_distill_options_arrive_under_their_names(monkeypatch):
    words = ('--photos a --out o --backbone b --weights random --teacher sam_vit_b '
             '--teacher-weights hub --layer 2 --exclude e --smallworld 0 --views 3 '
             '--steps 7 --minutes 2.5 --resume r --seed 3 --batch 5 --lr .01 --validate-every 4 --patience 2 --threads '
             '1 --device auto --data-note CC0 --teacher-note Apache --no-progress')
    seen, result, _ = train_spy(monkeypatch, 'distill', *words.split())
    assert result.exit_code == 0, result.stderr
    assert {k: str(seen.pop(k)) for k in ('out', 'exclude', 'resume')} == dict(out='o', exclude='e', resume='r')
    assert seen.pop('photos')
    assert seen == dict(backbone='b', weights=None, teacher='sam_vit_b',
                        teacher_weights='hub', layer=2, smallworld=0, views=3, steps=7, minutes=2.5,
                        seed=3, batch=5, lr=.01, validate_every=4, patience=2, threads=1, device='auto',
                        data_note='CC0', teacher_note='Apache', progress=False)


def head_spy(monkeypatch, *words):
    "What `fsskit train WORDS` passes to `train_model`; the model by its class and options."
    seen = {}
    monkeypatch.setattr('fsskit.ladder.create_model', lambda *words, **names: (words, names))
    monkeypatch.setattr('fsskit.episodic.build_model', lambda model: model)
    monkeypatch.setattr('fsskit.predictor.find_backbone', lambda *words: words)
    monkeypatch.setattr(cli, 'feature_cache', lambda wanted: wanted)
    def spy(*args):
        names = ('out', 'model', 'data', 'plan', 'episodes', 'use', 'resume', 'seed', 'data_note', 'progress')
        seen.update(zip(names, args, strict=True))
        return args[0]/'head.safetensors'
    monkeypatch.setattr('fsskit.episodic.train_model', spy)
    return seen, run('train', *words)


def test_train_defaults(monkeypatch):
    from fsskit.episodic import DataPlan, EpisodePlan, FitPlan, Resources
    seen, result = head_spy(monkeypatch, 'fs_dino', '--data', 'coco:a', '--data', 'smallworld', '--out', 'o')
    assert result.exit_code == 0 and result.stdout == 'o/head.safetensors\n', result.stderr
    assert seen['model'] == (('fs_dino', ('embedded', 'embedded')), {'head': None, 'seed': 0})
    assert (seen['data'], seen['plan'], seen['episodes'], seen['use']) == (DataPlan(('coco:a', 'smallworld')),
                                                                           FitPlan(), EpisodePlan(), Resources(True))
    assert [seen[k] for k in ('resume', 'seed', 'data_note', 'progress')] == [None, 0, '', True]


def test_train_options_arrive(monkeypatch):
    from fsskit.episodic import DataPlan, EpisodePlan, FitPlan, Resources
    words = ('fs_dino --data coco:a --out o --variant matched --option topk=3 --backbone b --weights '
             'random --fold 2 --convention keep --exclude e --min-area .01 '
             '--smallworld 0 --collages .25 --shots 5 --batch 8 --steps 7 --minutes 2.5 --lr .01 --validate-every 4 '
             '--patience 2 --resume r --seed 3 --threads 1 --device auto --no-cache --data-note CC0 --no-progress')
    seen, result = head_spy(monkeypatch, *words.split())
    assert result.exit_code == 0, result.stderr
    assert seen['model'] == (('fs_dino', ('b', None)), {'head': None, 'seed': 3, 'variant': 'matched', 'topk': 3})
    assert seen['data'] == DataPlan(('coco:a',), 2, 'keep', None, 'e', 0, .25, min_area=.01)
    assert seen['plan'] == FitPlan(7, 2.5, .01, validate_every=4, patience=2) and seen['episodes'] == EpisodePlan(5, 8)
    assert seen['use'] == Resources(False, threads=1, device='auto') and (str(seen['resume']), seen['seed']) == ('r', 3)
    assert (seen['data_note'], seen['progress']) == ('CC0', False)


def test_the_recipe_is_the_models(monkeypatch):
    from fsskit.episodic import FitPlan
    from fsskit.ladder import recipe_of
    monkeypatch.setitem(fsskit.predictor.MODELS, 'fssam', 'fsskit.similarity:PrototypeModel')
    seen, result = head_spy(monkeypatch, 'fssam', '--data', 'coco:a', '--out', 'o', '--steps', 9)
    assert result.exit_code == 0 and seen['plan'] == FitPlan(9, weight_decay=0., warmup=0,
                                                             schedule='poly'), result.stderr
    assert seen['episodes'] == recipe_of('fssam').episodes and seen['episodes'].losses.bce == 0


TINY_HEAD = '--backbone rgb --option sam=null --option adapter=random --option input_size=64 --no-cache --no-progress'.split()


def test_a_head_is_trained_and_its_classes_are_refused(classes, tmp_path):
    data = ('--data', f'folder:{classes}')
    result = run('train', 'fs_dino', *data, '--out', tmp_path/'t', '--variant', 'prototype', *TINY_HEAD, '--steps', 1,
                 '--batch', 1, '--smallworld', 0, '--collages', 0)
    assert result.exit_code == 0 and result.stdout == f'{tmp_path}/t/head.safetensors\n', result.stderr
    again = run('train', 'fs_dino', *data, '--out', tmp_path/'t', *TINY_HEAD)
    assert again.exit_code == 2 and 'already holds a training' in again.stderr
    ask = ('evaluate', '--model', 'fs_dino', *data, '--backbone', 'rgb', '--head', tmp_path/'t/head.safetensors',
           '--option', 'input_size=64', '--episodes', 1, '--no-cache', '--no-progress')
    refused, marked = run(*ask), run(*ask, '--allow-seen', '--json', tmp_path/'r.json')
    assert refused.exit_code == 2 and 'were trained on' in refused.stderr and refused.stdout == ''
    assert marked.exit_code == 0 and 'MARKED: the weights were trained on blue, orange' in marked.stderr
    assert load_result(tmp_path/'r.json').protocol['seen_classes'] == ['blue', 'orange']


@pytest.mark.parametrize('words, message', [
    (['train', 'fs_dino'], 'needs --data and --out: it looks like `fsskit train fs_dino --data coco:FOLDER --out '
     'FOLDER`'),
    (['train', 'dense_match', '--data', 'folder:x', '--out', 'o', '--backbone', 'rgb'],
     "Model 'dense_match' has no part that learns"),
    (['train', 'nothing', '--data', 'folder:x', '--out', 'o'], "There is no model 'nothing'"),
    (['distill', '--out', 'o'], 'needs --photos: it looks like `fsskit distill --photos FOLDER --out FOLDER`'),
    (['ladder', 'fs_dino'], 'needs --out: it looks like `fsskit ladder fs_dino --out FOLDER`'),
    (['ladder', 'other', '--out', 'o'], "There is no ladder 'other'"),
    (['ladder', 'fs_dino', '--out', 'o', '--seeds', '0-4'], "--seeds '0-4' is not understood"),
    (['ladder', 'fs_dino', '--out', 'o', '--backbone', 'rgb', '--rows', 'dense_match', '--shots', '1,6'],
     '6 shots and a query'),
    (['benchmark', 'nothing'], "There is no benchmark 'nothing'")])
def test_requests_that_cannot_work(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count('\n') == 1 and result.stdout == ''


# ---- ladder, benchmark

def ladder_spy(monkeypatch, *words):
    seen = {}
    def spy(*args, **names): seen.update(args=args, **names); return {'a': 'report'}
    monkeypatch.setattr('fsskit.ladder.run_ladder', spy)
    monkeypatch.setattr('fsskit.ladder.ladder_markdown', lambda report: f'{report} in words')
    return seen, run('ladder', *words)


def test_ladder_defaults_are_the_librarys(monkeypatch):
    from fsskit.ladder import LadderPlan, run_ladder
    seen, result = ladder_spy(monkeypatch, 'fs_dino', '--out', 'o')
    name, out, plan, *others = seen.pop('args')
    assert (name, str(out), plan) == ('fs_dino', 'o', LadderPlan())
    defaults = {name: p.default for name, p in signature(run_ladder).parameters.items() if p.default is not p.empty}
    assert seen == {} and others == [list(v) if isinstance(v, tuple) else v for v in list(defaults.values())[1:]]
    assert result.stdout == "{'a': 'report'} in words\n"
    assert 'are in o' in result.stderr


def test_ladder_options_arrive(monkeypatch):
    from fsskit.episodic import DataPlan
    from fsskit.ladder import LadderPlan
    words = ('fssam --out o --data coco:a --train coco:b --train smallworld --folds 3 --seeds 1,2 '
             '--shots 5 --rows all,sam2 --steps 7 --minutes 2 --batch 3 '
             '--lr .01 --episodes 9 --min-photos 8 --only h --exclude e --smallworld 0 --collages .25 --backbone b '
             '--weights random --option sam2=x --cache-gb 2.5 --threads 1 --no-progress')
    seen, result = ladder_spy(monkeypatch, *words.split())
    assert result.exit_code == 0, result.stderr
    data = DataPlan(('coco:b', 'smallworld'), exclude='e', smallworld=0, collages=.25, keep=True)
    plan = LadderPlan('coco:a', data, 7, 2., 3, .01, 9, 8, 'h', 'b', None, {'sam2': 'x'})
    assert seen['args'][2:] == (plan, [3], [1, 2], [5], ['all', 'sam2'], 2.5, 1, False)


def test_a_ladder_of_training_free_rows(tmp_path):
    words = ['ladder', 'fs_dino', '--out', tmp_path/'l', '--rows', 'prototype_match, dense_match', '--backbone', 'rgb',
             '--folds', 0, '--seeds', 0, '--shots', 1, '--episodes', 2, '--no-progress']
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in (tmp_path/'l').iterdir()) == ['features', 'plan.json', 'results.json', 'results.md',
                                                                'results.png', 'results.svg', 'rows']
    assert result.stdout.strip() == (tmp_path/'l/results.md').read_text().strip() and 'COCO-20i' in result.stdout
    assert run(*words, '--steps', 9).exit_code == 2


def test_benchmarks(monkeypatch, tmp_path):
    benchmark = pytest.importorskip('fsskit.benchmark')
    calls = []
    monkeypatch.setattr(benchmark, 'run_benchmark', lambda *words: calls.append(words) or words)
    monkeypatch.setattr(benchmark, 'benchmark_table', lambda rows: f'table of {rows[0]}')
    result = run('benchmark', 'correlation', '--threads', 1, '--repeats', 3, '--out', tmp_path, '--seed', 4,
                 '--no-progress')
    assert result.stdout == 'table of correlation\n'
    assert calls == [('correlation', 1, 3, tmp_path/'correlation.json', False, 4)]
    result = run('benchmark')
    assert [c[0] for c in calls[1:]] == list(benchmark.BENCHMARKS)
    assert calls[1][1:] == (None, 15, None, True, 0)
    assert result.exit_code == 0


# ---- behaviour of the whole

def test_version_and_help():
    assert run('--version').stdout == f'fsskit {fsskit.__version__}\n'
    text = run('--help').stdout
    for name in ('segment evaluate compare merge splits models backbones datasets fetch train-encoder train-sam '
                 'train-sam2 distill train ladder benchmark').split(): assert f'\n  {name} ' in text
    assert run('segment').exit_code == 2 and run('nonsense').exit_code == 2


def test_help_does_not_import_torch():
    code = ("import sys; sys.argv = ['fsskit', '--help']\nfrom fsskit.cli import main\n"
            "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == 0


@pytest.mark.parametrize('error, code, words', [
    (FSSKitError('a plain sentence'), 2, 'fsskit: a plain sentence\n'), (KeyboardInterrupt(), 130,
                                                                         'fsskit: interrupted\n'),
    (ZeroDivisionError('division'), 1, 'fsskit: ZeroDivisionError: division (this was not foreseen: repeat with '
     '`fsskit --debug ...`'),
])
def test_exit_codes(monkeypatch, error, code, words):
    def fail(pattern): raise error
    monkeypatch.setattr('fsskit.predictor.list_models', fail)
    result = run('models')
    assert result.exit_code == code and result.stderr.startswith(words) and 'Traceback' not in result.stderr


def test_debug_shows_everything(monkeypatch):
    def fail(pattern): raise FSSKitError('inside')
    monkeypatch.setattr('fsskit.predictor.list_models', fail)
    assert isinstance(run('--debug', 'models').exception, FSSKitError)
    assert run('models').exit_code == 2  # the next call is plain again


def test_main(monkeypatch, capsys):
    def interrupted(): raise KeyboardInterrupt
    monkeypatch.setattr(cli, 'app', interrupted)
    with pytest.raises(SystemExit) as stopped: cli.main()
    assert stopped.value.code == 130 and capsys.readouterr().err == 'fsskit: interrupted\n'
    monkeypatch.setattr(cli, 'app', lambda: None)
    assert cli.main() is None
