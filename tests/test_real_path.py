"""The real path, acted out, line by line as a user types it: fetch, splits, two training steps, evaluate, segment.

Weights are random but lie in files of the official names; each benchmark is a miniature in its official layout, in the
archives that are published, on a server of the loopback address. With the real files only addresses and px change.
"""
import csv
import hashlib
import http.server
import io
import json
import os
import re
import shlex
import tarfile
import threading
import zipfile
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from fsskit import backbones, cli, datasets, sam2
from fsskit.backbones import create_backbone
from fsskit.datasets import PASCAL_CLASSES, build_pascal_root, voc_palette
from fsskit.episodes import read_episodes
from fsskit.episodic import head_facts, seen_classes
from fsskit.fetch import PUBLIC_SETS, weights_dir
from fsskit.sam import load_sam
from fsskit.sam2 import RELEASED, load_sam2

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')  # inside pycocotools
SIZE = (72, 96)  # px of the photos
LARGE, SMALL = 48, 44  # px, sides of objects; 2,048 px are wanted: 46 x 46 within a band count, 44 x 44 do not


def fsskit(line, code=0):
    """What a line prints on standard output; when it is meant to fail, its one sentence on standard error."""
    program, *words = shlex.split(line)
    result = CliRunner().invoke(cli.app, words)
    assert program == 'fsskit' and result.exit_code == code, f'{line}\n{result.output}'
    return result.stderr if code else result.stdout


# ---- pictures and archives

def scene(number, *objects):
    """A noisy photo (H, W, 3) and its labels (H, W): squares (label, side) from left to right, coloured by label."""
    rng, left = np.random.default_rng(number), list(accumulate((side for _, side in objects), initial=0))
    photo, labels = rng.integers(60, 120, (*SIZE, 3), np.uint8), np.zeros(SIZE, np.uint8)
    shift = rng.integers(0, SIZE[1] - left[-1] + 1)
    for (label, side), x in zip(objects, left):
        y = rng.integers(0, SIZE[0] - side + 1)
        place = slice(y, y + side), slice(x + shift, x + shift + side)
        photo[place], labels[place] = np.random.default_rng(label).integers(0, 256, 3), label
    return photo, labels


def saved(array, kind, palette=None):
    """The bytes of a picture."""
    picture, file = Image.fromarray(array), io.BytesIO()
    if palette: picture.putpalette(palette)
    picture.save(file, kind)
    return file.getvalue()


def with_band(labels):
    """VOC's masks have a band of 255 around each object."""
    inner = np.zeros_like(labels)
    inner[1:-1, 1:-1] = np.minimum.reduce([labels[y:y + SIZE[0] - 2, x:x + SIZE[1] - 2] for y in range(3)
                                           for x in range(3)])
    return np.where((labels > 0) & (inner == 0), 255, labels).astype(np.uint8)


def tar_of(files, mode):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def zip_of(files):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, 'w') as packed:
        for name, content in files.items(): packed.writestr(name, content)
    return archive.getvalue()


# ---- a server with the published archives, and a home for data and weights

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """Folders of this file alone, and a mirror on 127.0.0.1: `home.offer(set, archives)` puts archives on it."""
    root = tmp_path_factory.mktemp('home')
    folders = SimpleNamespace(data=root / 'data', weights=root / 'weights', mirror=root / 'mirror',
                              downloads=root / 'Downloads')
    for folder in vars(folders).values(): folder.mkdir()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folders.mirror)))
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': .01}, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.lower().endswith('_proxy')]: patch.delenv(name)
        for name in ('data', 'weights'): patch.setenv(f'FSSKIT_{name.upper()}', str(getattr(folders, name)))
        yield SimpleNamespace(**vars(folders), patch=patch, url=f'http://127.0.0.1:{server.server_port}')
    server.shutdown()
    server.server_close()


def offer(home, name, archives, folder=None):
    """Write the archives under their published names; where a checksum is published, that of the miniature counts."""
    files = PUBLIC_SETS[name].files
    assert [f.name for f in files] == list(archives)
    for file, content in archives.items(): ((folder or home.mirror) / file).write_bytes(content)
    known = tuple(replace(f, md5=f.md5 and hashlib.md5(archives[f.name]).hexdigest()) for f in files)
    home.patch.setitem(PUBLIC_SETS, name, replace(PUBLIC_SETS[name], files=known))


# ---- PASCAL-5i: VOC 2012 and SBD

BASE, NOVEL, SECOND = (6, 7, 8, 12, 15, 18), (1, 4), (8,)  # labels: training and test of fold 0; test of fold 1 too
PASCAL_TRAIN = {f'2008_{10 * c + n:06}': ((c, LARGE),) for c in BASE for n in range(3)}
PASCAL_MIXED = {'2008_000301': ((15, LARGE), (1, 20)), '2008_000302': ((15, SMALL),)}  # a novel class beside; too small
PASCAL_VAL = {f'2007_{10 * c + n:06}': ((c, LARGE),) for c in (*NOVEL, *SECOND) for n in range(3)}
PASCAL_LEFT = {'2007_000301': ((1, SMALL),)}


def voc_and_sbd():
    """Both archives, and SBD's list `train_noval.txt`, which is on its page and not in its archive."""
    io_, sparse = pytest.importorskip('scipy.io'), pytest.importorskip('scipy.sparse')
    train, val = PASCAL_TRAIN | PASCAL_MIXED, PASCAL_VAL | PASCAL_LEFT
    scenes = {name: scene(n, *objects) for n, (name, objects) in enumerate((train | val).items())}
    in_voc, lines = [*val, *[name for name in train
                             if name.endswith('0')]], lambda names: '\n'.join(sorted(names)).encode()
    voc = {f'JPEGImages/{name}.jpg': saved(photo, 'JPEG') for name, (photo, _) in scenes.items()}
    for name in in_voc:
        for folder in ('SegmentationClass', 'SegmentationObject'):
            voc[f'{folder}/{name}.png'] = saved(with_band(scenes[name][1]), 'PNG', voc_palette())
    sets = {'train': [name for name in in_voc if name in train], 'val': val, 'trainval': in_voc}
    voc |= {f'ImageSets/Segmentation/{part}.txt': lines(names) for part, names in sets.items()}
    voc |= {f'Annotations/{name}.xml': b'<annotation/>' for name in scenes}
    sbd, in_sbd = {}, [*train, '2007_000010']  # one of VOC's validation images is in SBD too
    for name in in_sbd:
        edges = np.empty((20, 1), object)
        for c in range(20): edges[c, 0] = sparse.csc_matrix(SIZE, dtype=np.uint8)
        struct, file = {'Segmentation': scenes[name][1], 'Boundaries': edges,
                        'CategoriesPresent': np.unique(scenes[name][1])[1:]}, io.BytesIO()
        io_.savemat(file, {'GTcls': struct}, do_compression=True)
        sbd |= {f'cls/{name}.mat': file.getvalue(), f'img/{name}.jpg': saved(scenes[name][0], 'JPEG')}
    sbd |= {'train.txt': lines(train), 'val.txt': b'2007_000010'}
    return (tar_of({f'VOCdevkit/VOC2012/{k}': v for k, v in voc.items()}, 'w'),
            tar_of({f'benchmark_RELEASE/dataset/{k}': v for k, v in sbd.items()}, 'w:gz'), lines(train))


@pytest.fixture(scope='module')
def pascal5i(home):
    voc, sbd, noval = voc_and_sbd()
    offer(home, 'pascal5i', {'VOCtrainval_11-May-2012.tar': voc, 'benchmark.tgz': sbd})
    (home.mirror / 'train_noval.txt').write_bytes(noval)
    home.patch.setattr(datasets, 'TRAIN_NOVAL', (f'{home.url}/train_noval.txt', hashlib.sha256(noval).hexdigest()))
    archives = Path(fsskit(f'fsskit fetch pascal5i --base-url {home.url} --no-progress').strip())
    assert archives == home.data / 'downloads' / 'pascal5i'
    root = build_pascal_root(archives, archives, home.data / 'pascal')
    names = lambda labels: {PASCAL_CLASSES[label - 1] for label in labels}
    return SimpleNamespace(spec=f'pascal5i:{root}', family='pascal5i',
                           root=root, fold='--fold 0', base=names(BASE), novel=names(NOVEL),
                           test={n for n in PASCAL_VAL if int(n[5:]) // 10 in NOVEL}, train=set(PASCAL_TRAIN),
                           kept={'2008_000301'})


def test_masks_of_pascal(pascal5i):
    """VOC's own masks come first, with their band; SBD's fill the rest."""
    folder, label = pascal5i.root / 'SegmentationClassAug', PASCAL_TRAIN['2008_000060'][0][0]
    seen = {name: np.asarray(Image.open(folder / f'{name}.png'))
            for name in ('2007_000010', '2008_000060', '2008_000061')}
    assert [255 in mask for mask in seen.values()] == [True, True, False]
    assert (seen['2008_000061'] == label).sum() == LARGE ** 2
    assert (seen['2008_000060'] == label).sum() == (LARGE - 2) ** 2
    assert len(list(folder.iterdir())) == len(PASCAL_TRAIN | PASCAL_MIXED | PASCAL_VAL | PASCAL_LEFT)


# ---- COCO-20i: COCO 2014

COCO_NAMES = '''person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter,
bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife,
spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush'''.replace('\n', ' ').split(', ')
COCO_IDS = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71,
                                                 83)]  # ten numbers were never given out
COCO = {'train': {100 * c + n: ((c, LARGE),) for c in (2, 15, 17) for n in range(1, 5)},
        'val': {100 * c + n: ((c, LARGE),) for c in (8, 16) for n in range(3)}}
COCO_ODD = {'train': {31: ((15, LARGE), (16, 20)), 32: ((15, LARGE),), 33: ((15, SMALL),)}, 'val': {34: ((16, SMALL),)}}


def outline(mask):
    """Four corners of a square object, in COCO's order x, y."""
    y, x = np.nonzero(mask)
    (t, b), (l, r) = (y.min(), y.max() + 1), (x.min(), x.max() + 1)
    return [float(v) for v in (l, t, r, t, r, b, l, b)]


def run_lengths(mask):
    """Uncompressed run lengths, column by column, background first."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    return {'counts': [0] * int(flat[0]) + np.diff([0, *ends, flat.size]).tolist(), 'size': list(mask.shape)}


def coco_side(part):
    """Photos by file name, and the instances file; photo 32 shows a crowd of dogs, a class of fold 0."""
    photos, images, instances = {}, [], []
    for n, objects in (COCO[part] | COCO_ODD[part]).items():
        name = f'COCO_{part}2014_{n:012}.jpg'
        photo, labels = scene(n, *((c + 1, side) for c, side in objects))
        photos[f'{part}2014/{name}'] = saved(photo, 'JPEG')
        images.append({'id': n, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1], 'license': 1})
        found = [(c, 0, [outline(labels == c + 1)]) for c, _ in objects]
        if n == 32: found.append((16, 1, run_lengths(np.eye(*SIZE, dtype=np.uint8))))
        for c, crowd, segments in found:
            instances.append({'id': len(instances) + 1, 'image_id': n, 'category_id': COCO_IDS[c], 'iscrowd': crowd,
                              'segmentation': segments})
    categories = [{'id': i, 'name': name, 'supercategory': 'thing'} for i, name in zip(COCO_IDS, COCO_NAMES)]
    return photos, json.dumps({'info': {}, 'licenses': [], 'images': images, 'annotations': instances,
                               'categories': categories}).encode()


def file_names(part, *numbers): return {f'COCO_{part}2014_{n:012}.jpg' for n in numbers}


@pytest.fixture(scope='module')
def coco20i(home):
    (train, train_file), (val, val_file) = coco_side('train'), coco_side('val')
    annotations = {f'annotations/{kind}_{part}2014.json': content
                   for part, content in (('train', train_file), ('val', val_file))
                   for kind, content in (('instances', content), ('captions', b'{}'), ('person_keypoints', b'{}'))}
    offer(home, 'coco20i', {'train2014.zip': zip_of(train), 'val2014.zip': zip_of(val),
                            'annotations_trainval2014.zip': zip_of(annotations)})
    root = fsskit(f'fsskit fetch coco20i --root {home.data}/coco --base-url {home.url} --no-progress').strip()
    return SimpleNamespace(spec=f'coco20i:{root}', family='coco',
                           fold='--fold 0', base={'car', 'cat', 'horse'}, novel={'boat', 'dog'},
                           test=file_names('val', *COCO['val']), train=file_names('train', *COCO['train']),
                           kept=file_names('train', 31, 32))


# ---- FSS-1000

FSS = {'train': ('abacus', 'ac_ground', 'adidas_logo1', 'apple_icon'), 'val': ('astronaut', 'bamboo_dragonfly'),
       'test': ('african_elephant', 'eiffel_tower')}


@pytest.fixture(scope='module')
def fss1000(home):
    """Offered to browsers only: the command says what to save, and what to type then."""
    files = {}
    for c, name in enumerate(sum(FSS.values(), ())):
        for n in range(1, 4):
            photo, labels = scene(10 * c + n, (c + 1, LARGE))
            mask = np.repeat((labels > 0).astype(np.uint8)[..., None] * 255, 3, 2)  # as in the original: RGB
            files |= {f'fewshot_data/{name}/{n}.jpg': saved(photo, 'JPEG'),
                      f'fewshot_data/{name}/{n}.png': saved(mask, 'PNG')}
    offer(home, 'fss1000', {'fewshot_data.zip': zip_of(files)}, home.downloads)
    advice = fsskit('fsskit fetch fss1000 --no-progress', code=2)
    line = re.search('type: (fsskit fetch .*)', advice)[1].replace('PATH', str(home.downloads))
    root = Path(fsskit(f'{line} --no-progress').strip()) / 'fewshot_data'
    for side, listed in (('trn', 'train'), ('val', 'val'), ('test', 'test')):
        (root / f'{side}.txt').write_text('\n'.join(FSS[listed]) + '\n')
    photos = lambda side: {f'{name}/{n}.jpg' for name in FSS[side] for n in range(1, 4)}
    return SimpleNamespace(spec=f'fss1000:{root}', family='fss1000', fold='', base=set(FSS['train']),
                           novel=set(FSS['test']), test=photos('test'), train=photos('train'), kept=set())


# ---- what all of them have in common

SETS = ('pascal5i', 'coco20i', 'fss1000')


@pytest.fixture(params=SETS)
def bench(request): return request.getfixturevalue(request.param)


def test_splits(bench):
    """The lists by the published rules: at least 2,048 px, and for training no pixel of a class that is tested."""
    printed = lambda *words: fsskit(' '.join(['fsskit splits', bench.spec, bench.fold, *words])).splitlines()
    assert printed() == sorted(bench.test)
    assert printed('--side train') == sorted(bench.train)
    if bench.kept: assert printed('--side train', '--convention keep') == sorted(bench.train | bench.kept)


# ---- weights under the official names

def put(state, path):
    """Keep tensors in a file, as their authors do."""
    if path.suffix == '.safetensors': save_file({k: v.contiguous() for k, v in state.items()}, path)
    else: torch.save(state, path)
    return path


def remembered(build):
    """Builds a network once and hands out copies: a file's weights replace its first ones, and making those takes longest."""
    made = {}
    def copies(*args):
        if repr(args) not in made: made[repr(args)] = build(*args)
        return deepcopy(made[repr(args)])
    return copies


@pytest.fixture(scope='module')
def files(home):
    """Random weights: DINOv2 and SAM 2 under the names and with the contents of the published files; a SAM; an adapter for DINOv2."""
    assert weights_dir() == home.weights
    for module, name in ((backbones, '_build'), (sam2, 'build_sam2')):
        home.patch.setattr(module, name, remembered(getattr(module, name)))
        home.patch.setattr(module, 'sha256_file', lru_cache(module.sha256_file))
    encoder = create_backbone('dinov2_vits14', None, seed=1).net
    dino = put(encoder.state_dict() | {'mask_token': torch.zeros(1, encoder.embed_dim)},
               home.weights / 'dinov2_vits14_pretrain.pth')
    put({'model': load_sam2('sam2_hiera_t', None, seed=1, image_size=64).state_dict()},
        home.weights / RELEASED['sam2_hiera_t'].file)
    put(load_sam('sam_tiny', None, seed=1).state_dict(), home.weights / 'sam_tiny.safetensors')
    for n in range(2): (home.downloads / f'{n}.jpg').write_bytes(saved(scene(n, (1, LARGE))[0], 'JPEG'))
    adapter = fsskit(f'''fsskit distill --photos {home.downloads}/0.jpg --photos {home.downloads}/1.jpg --out {home.data}/adapter
        --backbone dinov2_vits14 --weights {dino} --teacher sam_tiny --smallworld 0 --views 1 --batch 1 --steps 2 --no-progress''').strip()
    return SimpleNamespace(dino=dino, adapter=adapter, sam2=home.weights / RELEASED['sam2_hiera_t'].file)


def options(system, files):
    """What is typed for training and for every later use; the px are this test's, the rest is the user's."""
    encoder = f'--backbone dinov2_vits14 --weights {files.dino}'
    if system == 'fs_dino': return f'{encoder} --option adapter_weights={files.adapter}', '--option input_size=70'
    return f'{encoder} --option sam2=sam2_hiera_t', '--option input_size=64 --option prior_size=70'


def train(system, bench, files, out):
    always, small = options(system, files)
    printed = fsskit(f'''fsskit train {system} --data {bench.spec} {bench.fold} --out {out} {always} {small}
        --collages 0 --smallworld 0 --steps 2 --batch 2 --no-progress''')
    return Path(printed.strip())


def evaluate(system, bench, files, head, out, *words, code=0):
    always, _ = options(system, files)
    return fsskit(f'''fsskit evaluate --model {system} --data {bench.spec} {' '.join(words) or bench.fold} {always} --head {head}
        --episodes 3 --json {out / 'result.json'} --episodes-file {out / 'episodes.jsonl'} --no-progress''', code)


@lru_cache
def sha(path): return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


@pytest.fixture(scope='module')
def trained(files, tmp_path_factory):
    """trained(system, bench): the head of a training of two steps; made once."""
    made = {}
    def get(system, bench):
        key = system, bench.family
        if key not in made: made[key] = train(system, bench, files, tmp_path_factory.mktemp(system))
        return made[key]
    return get


@pytest.mark.parametrize('system', ['fs_dino', 'fssam'])
def test_two_steps_and_a_measurement(system, bench, files, trained, tmp_path):
    head = trained(system, bench)
    log = list(csv.DictReader((head.parent / 'log.csv').open()))
    assert log[-1]['step'] == '2' and np.isfinite(float(log[-1]['loss']))
    facts = head_facts(head)
    assert facts['fold'] == (0 if bench.fold else None) and facts['training']['step'] == 2
    assert seen_classes(head) == {bench.family: sorted(bench.base)} and (head.parent / 'head.md').exists()
    printed = evaluate(system, bench, files, head, tmp_path)
    result = json.loads((tmp_path / 'result.json').read_text())
    assert printed.splitlines()[-1].startswith(f"mIoU {result['miou']:.3f} [")
    assert set(result['per_class']) == bench.novel and result['episodes'] == 3 and not result['incomplete']
    protocol = result['protocol']
    assert (protocol['head'], protocol['fold'], protocol['backbone']) == (sha(head), facts['fold'], 'dinov2_vits14')
    assert protocol['weights'] == f'sha256:{sha(files.dino)}'
    if system == 'fssam': assert protocol['sam2_weights'] == f'sha256:{sha(files.sam2)}'
    episodes, _ = read_episodes(tmp_path / 'episodes.jsonl')
    assert {photo for e in episodes for photo in (*e.support, e.query)} <= bench.test
    rows = np.array(result['counts'])
    ious = [part[:, 1].sum() / part[:, 2].sum() for c in np.unique(rows[:, 0]) for part in [rows[rows[:, 0] == c]]]
    assert result['miou'] == pytest.approx(np.mean(ious))


def test_a_measurement_is_what_segment_finds(pascal5i, files, trained, tmp_path):
    """The counts of each episode, from the masks that `fsskit segment` writes for the same photos."""
    head, (always, _) = trained('fs_dino', pascal5i), options('fs_dino', files)
    evaluate('fs_dino', pascal5i, files, head, tmp_path)
    counts = json.loads((tmp_path / 'result.json').read_text())['counts']
    episodes, _ = read_episodes(tmp_path / 'episodes.jsonl')
    photo = lambda name: f'{pascal5i.root}/JPEGImages/{name}.jpg'
    mask = lambda name: f'{pascal5i.root}/SegmentationClassAug/{name}.png'
    for e, row in zip(episodes[:1], counts):
        fsskit(f'''fsskit segment --model fs_dino --head {head} {always} --support {photo(e.support[0])} --mask {mask(e.support[0])}
            --mask-encoding voc --label {e.class_id + 1} --query {photo(e.query)} --out {tmp_path} --no-progress''')
        found, truth = (np.asarray(Image.open(path)) for path in (tmp_path / f'{e.query}_mask.png', mask(e.query)))
        parts = [((found > 0) == side, (truth == e.class_id + 1) == side) for side in (True, False)]
        assert row == [e.class_id, *(int((join(a, b) & (truth != 255)).sum()) for a, b in parts
                                     for join in (np.logical_and, np.logical_or))]


def test_a_fold_that_was_trained_on_is_refused(pascal5i, files, trained, tmp_path):
    said = evaluate('fs_dino', pascal5i, files, trained('fs_dino', pascal5i), tmp_path, '--fold 1', code=2)
    assert "weights were trained on 1 of the classes" in said
    assert 'cat' in said
    assert not (tmp_path / 'result.json').exists()


# ---- what notebooks tell people to type

ROOT = Path(__file__).resolve().parents[1]


def typed_lines(text):
    """The lines `fsskit ...` of fenced blocks, whole, without comments, pipes, redirections, and `...` for anything."""
    for block in re.findall('^```[a-z]*\n(.*?)^```', text, re.M | re.S):
        for line in re.sub(r'\s*\\\n\s*', ' ', block).splitlines():
            if line.startswith('fsskit ') and '...' not in line: yield re.split(r'\s[#|>]', line)[0].strip()


def advice():
    """Every such line of the notebooks, tutorials first of all, with its place."""
    for path in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells'] if path.name[0] not in '._' else []
        for cell in cells:
            if cell['cell_type'] == 'markdown':
                yield from ((path.stem, line) for line in typed_lines(''.join(cell['source'])))


def test_lines_are_found():
    text = ('fsskit no\n```\nfsskit a --b \\\n    c  # d\nfsskit x | wc\nfsskit y > z\n$ fsskit no\nfsskit ... no\n```\n\n'
            '```sh\nfsskit e\n```\n')
    assert list(typed_lines(text)) == ['fsskit a --b c', 'fsskit x', 'fsskit y', 'fsskit e']
    assert any('fsskit segment' in line for _, line in advice())


def test_what_notebooks_say_is_understood():
    """Commands and options exist and are complete; nothing is run."""
    app = typer.main.get_command(cli.app)
    for notebook, line in advice():
        words = shlex.split(line)[1:]
        try:
            name, command, rest = app.resolve_command(app.make_context('fsskit', list(words)), words)
            command.make_context(name, rest)
        except Exception as error: pytest.fail(f'{notebook}: {line}: {error}')
