"""Readers of data sets: every list and mask is compared with an independent computation."""
import hashlib, itertools, json, pickle, sys, time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from fsskit import datasets as D
from fsskit.datasets import (PASCAL_CLASSES, build_pascal_root, counting_table, find_instances, label_areas, least_area,
                             list_datasets, list_hash, matching_photos, open_dataset, open_folder, pascal5i_ids,
                             photo_mask_pairs, read_coco, read_hsnet_list, read_lines, upright_size, voc_palette)
from fsskit.episodes import EpisodeSampler, FewShotDataset, load_episode
from fsskit.photos import FSSKitError

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')  # inside pycocotools
FEW = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(scope='module')
def real_areas(tmp_path_factory): return tmp_path_factory.mktemp('areas')


@pytest.fixture(autouse=True)
def own_data_folder(request, tmp_path_factory, monkeypatch):
    "Tables of areas are kept in a folder of the test; those of the real sets are counted once."
    real = 'shared' in request.fixturenames
    monkeypatch.setenv('FSSKIT_DATA', str(request.getfixturevalue('real_areas')
                                          if real else tmp_path_factory.mktemp('data')))


def photo(path, size=(40, 60), seed=0, **save):
    "A random photo (H, W, 3)."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **save)
    return pixels


def grey_mask(path, mask):
    "A mask of 0 and 1 as a grey PNG of 0 and 255."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.asarray(mask) * 255).astype(np.uint8)).save(path)


def label_png(path, labels):
    "A palette PNG of labels."
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(labels, np.uint8))
    picture.putpalette(voc_palette())
    picture.save(path)


def box(size, t, l, b, r):
    "1 inside the box, 0 outside."
    mask = np.zeros(size, np.uint8)
    mask[t:b, l:r] = 1
    return mask


# ------------------------------------------------------------------ lists, hashes, thresholds

def test_list_hash_is_the_sha256_of_its_lines():
    assert list_hash({1: ['b', 'a'], 0: ['c']}) == hashlib.sha256(b'0\tc\n1\ta\n1\tb\n').hexdigest()
    assert list_hash({}) == hashlib.sha256(b'').hexdigest()


def test_read_lines_leaves_out_comments_and_blank_lines(tmp_path):
    (tmp_path/'a.txt').write_text('\ufeff# head\r\n\r\n one \r\ntwo # not a comment\n', encoding='utf-8')
    assert read_lines(tmp_path/'a.txt') == ['one', 'two # not a comment']
    (tmp_path/'b.txt').write_bytes(b'\xff\xfe\xfa')
    with pytest.raises(FSSKitError, match=r"b\.txt' cannot be read \(it is not a text file"):
        read_lines(tmp_path/'b.txt')
    with pytest.raises(FSSKitError, match='No such file'): read_lines(tmp_path/'c.txt')


@pytest.mark.parametrize('name, photos', [
    ('cat/1.jpg', ['cat/1.jpg']), ('x/y/cat/1.JPG', ['cat/1.jpg']), ('./cat/1', ['cat/1.jpg']),
    ('cat\\1.png', ['cat/1.jpg']),
    ('1.jpg', ['bobcat/1.jpg', 'cat/1.jpg']), ('at/1.jpg', []), ('cat', []), ('set/v1.2', ['v1.2']),
    ('coco/7.jpeg', ['7.jpg', 'coco/images/7.JPEG']), ('coco\\images\\7', ['7.jpg', 'coco/images/7.JPEG']),
    ('images/coco/7.jpg', ['7.jpg']), ('cat/big/1.jpg', ['cat/1.jpg']), ('7.jpg', ['7.jpg', 'coco/images/7.JPEG'])])
def test_names_match_whole_path_parts(name, photos):
    known = ['cat/1.jpg', 'bobcat/1.jpg', 'v1.2', '7.jpg', 'coco/images/7.JPEG']
    assert sorted(matching_photos(known, [name])) == photos


@FEW
@given(st.lists(st.text('ab/.', min_size=1, max_size=5), max_size=5),
       st.lists(st.text('ab/.', min_size=1, max_size=5), max_size=5))
def test_names_match_as_the_definition_says(photos, names):
    def among(few, many):
        return any(list(chosen) == few for chosen in itertools.combinations(many, len(few)))
    def match(photo, name):
        (*have, file), (*wanted, listed) = D._stem(photo).split('/'), D._stem(name).split('/')
        return file == listed and (among(have, wanted) or among(wanted, have))
    assert matching_photos(photos, names) == {p for p in photos if any(match(p, n) for n in names)}


def test_a_thousand_photos_of_the_same_name_are_matched_quickly():
    photos = [f'class{c}/{n}.jpg' for c in range(1000) for n in range(10)]
    start = time.perf_counter()
    assert matching_photos(photos, [f'fss/{p}' for p in photos[::2]]) == set(photos[::2])
    assert time.perf_counter() - start < 2


@FEW
@given(st.integers(0, 10**6), st.sampled_from(['test', 'train']), st.sampled_from(['clean', 'keep']),
       st.integers(0, 60))
def test_counting_table_is_the_loop(seed, side, convention, least):
    rng = np.random.default_rng(seed)
    areas, novel = rng.integers(0, 50, (7, 6)) * rng.integers(0, 2, (7, 6)), rng.choice(6, 2, replace=False).tolist()
    touched = (areas > 0) | (rng.random((7, 6)) < .1)
    limits = least + rng.integers(0, 9, 7)
    table = counting_table(areas, limits, novel, side, convention, touched)
    for n in range(7):
        for c in range(6):
            wanted = areas[n, c] >= max(limits[n], 1) and (c in novel) == (side == 'test')
            if side == 'train' and convention == 'clean': wanted = wanted and not any(touched[n, k] for k in novel)
            assert table[n, c] == wanted


@pytest.mark.parametrize('min_area, pixels, least', [
    (.02, 307200, 6144), (.07, 100, 7), (.02, 101, 3), (0, 50, 0), (1, 50, 1), (2048, 50, 2048)])
def test_least_area(min_area, pixels, least):
    assert least_area(min_area, [pixels]).tolist() == [least]


@pytest.mark.parametrize('wrong', [-1, float('nan'), float('inf'), '2%', True, None])
def test_wrong_area(wrong):
    with pytest.raises(FSSKitError, match='is no area'): least_area(wrong, [100])


def test_zero_area_still_asks_for_a_pixel():
    assert counting_table(np.array([[0, 1]]), 0, [0, 1]).tolist() == [[False, True]]


# ------------------------------------------------------------------ folders and FSS-1000

@pytest.fixture
def folder(tmp_path):
    "Two classes with three photos; the masks are boxes."
    for c, name in enumerate(('bee', 'ant')):
        for i in range(3):
            photo(tmp_path/'set'/name/f'{i}.jpg', (30, 40), 10 * c + i)
            grey_mask(tmp_path/'set'/name/f'{i}.png', box((30, 40), i, 2, 20 + c, 30))
    return tmp_path/'set'


def test_folder_lists_and_reads(folder):
    data = open_dataset(f'folder:{folder}')
    assert isinstance(data, FewShotDataset)
    assert {c: data.class_name(c) for c in data.class_ids} == {0: 'ant', 1: 'bee'}
    assert data.photos(0) == ['ant/0.jpg', 'ant/1.jpg', 'ant/2.jpg']
    for c, name, low in [(0, 'ant', 21), (1, 'bee', 20)]:
        for i in range(3):
            assert (data.mask(f'{name}/{i}.jpg', c) == box((30, 40), i, 2, low, 30)).all()
            expected = np.asarray(Image.open(folder/name/f'{i}.jpg').convert('RGB'))
            assert (data.image(f'{name}/{i}.jpg') == expected).all()
    members = {0: data.photos(0), 1: data.photos(1)}
    assert data.info == {'data': f'folder:{folder}', 'dataset': 'folder', 'mask_encoding': 'auto', 'classes': 2,
                         'photos': 6, 'pairs': 6, 'list_sha256': list_hash(members)}


def test_folder_feeds_episodes_and_other_processes(folder):
    data = open_folder(folder)
    episode = EpisodeSampler(data, shots=2, episodes=3)[1]
    here, there = load_episode(data, episode), load_episode(pickle.loads(pickle.dumps(data)), episode)
    assert (here.query.image == there.query.image).all() and (here.support[1].mask == there.support[1].mask).all()


@FEW
@given(st.integers(0, 10**6), st.sampled_from(['auto', 'binary']))
def test_any_mask_comes_back(tmp_path_factory, seed, encoding):
    rng, root = np.random.default_rng(seed), tmp_path_factory.mktemp('any')
    values = rng.integers(0, 256, (rng.integers(8, 20), rng.integers(8, 20)), dtype=np.uint8)
    values[0, 0], values[0, 1] = 255, 128
    photo(root/'c'/'p.jpg', values.shape)
    Image.fromarray(values).save(root/'c'/'p.png')
    assert (open_folder(root, encoding).mask('c/p.jpg', 0) == (values >= 128)).all()


def test_masks_as_fss1000_has_them(tmp_path):
    "RGBA with soft edges, RGB of 0 and 1, and a palette of one label."
    mask = box((20, 20), 3, 3, 15, 12)
    for name in 'abc': photo(tmp_path/'c'/f'{name}.jpg', (20, 20))
    soft = np.stack([mask * 255, mask * 250, mask * 255, np.full_like(mask, 255)], 2)
    soft[0, 0, :3] = 100
    Image.fromarray(soft).save(tmp_path/'c'/'a.png')
    Image.fromarray(np.repeat(mask[..., None], 3, 2)).save(tmp_path/'c'/'b.png')
    label_png(tmp_path/'c'/'c.png', mask)
    data = open_folder(tmp_path)
    assert all((data.mask(f'c/{name}.jpg', 0) == mask).all() for name in 'abc')
    with pytest.raises(FSSKitError, match='palette'): open_folder(tmp_path, 'binary').mask('c/c.jpg', 0)
    assert (open_folder(tmp_path, 'nonzero').mask('c/c.jpg', 0) == mask).all()


def test_flat_folder_takes_the_class_from_the_name(tmp_path):
    for stem in ('cat_00', 'cat_01', 'duck_toy_02'):
        photo(tmp_path/f'{stem}.jpeg', (20, 20))
        grey_mask(tmp_path/f'{stem}.PNG', box((20, 20), 2, 2, 9, 9))
    data = open_folder(tmp_path)
    assert data.names == {0: 'cat', 1: 'duck_toy'} and data.photos(0) == ['cat_00.jpeg', 'cat_01.jpeg']
    assert data.mask('cat_01.jpeg', 0).sum() == 49
    photo(tmp_path/'holiday.jpg', (20, 20)), grey_mask(tmp_path/'holiday.png', np.ones((20, 20)))
    with pytest.raises(FSSKitError, match='holiday.jpg. belongs to no class'): open_folder(tmp_path)


def test_turned_photo_has_the_size_it_is_shown_with(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(tmp_path/'c'/'p.jpg', (30, 50), exif=exif)
    grey_mask(tmp_path/'c'/'p.png', box((50, 30), 1, 1, 9, 9))
    assert upright_size(tmp_path/'c'/'p.jpg') == (50, 30) == open_folder(tmp_path).image('c/p.jpg').shape[:2]
    assert open_folder(tmp_path).mask('c/p.jpg', 0).sum() == 64
    grey_mask(tmp_path/'c'/'p.png', box((30, 50), 1, 1, 9, 9))
    with pytest.raises(FSSKitError, match=r'p\.png.*EXIF'): open_folder(tmp_path).mask('c/p.jpg', 0)


def test_hidden_files_and_folders_without_pictures_are_no_classes(folder):
    (folder/'notes').mkdir(), (folder/'notes'/'readme.md').write_text('x'), (folder/'.git').mkdir()
    (folder/'ant'/'._0.jpg').write_bytes(b'x'), (folder/'ant'/'Thumbs.db').write_bytes(b'x')
    assert open_folder(folder).info['pairs'] == 6


@pytest.mark.parametrize('change, sentence', [
    (lambda r: (r/'ant'/'0.png').unlink(), r"ant/0\.jpg' has no mask: put 0\.png beside it"),
    (lambda r: (r/'ant'/'0.jpg').unlink(), r"ant/0\.png' has no photo: put 0\.jpg beside it"),
    (lambda r: photo(r/'ant'/'0.webp'), r"ant/0\.jpg' is there as \.jpg and \.webp")])
def test_broken_pairs(folder, change, sentence):
    change(folder)
    with pytest.raises(FSSKitError, match=sentence): open_folder(folder)


def test_broken_pixels(folder):
    grey_mask(folder/'ant'/'0.png', np.ones((9, 9)))
    grey_mask(folder/'ant'/'1.png', np.zeros((30, 40)))
    (folder/'ant'/'2.jpg').write_bytes((folder/'ant'/'2.jpg').read_bytes()[:90])
    data = open_folder(folder)
    with pytest.raises(FSSKitError, match=r'0\.png.*9 x 9.*0\.jpg.*40 x 30'): data.mask('ant/0.jpg', 0)
    with pytest.raises(FSSKitError, match=r'1\.png.*marks no pixel'): data.mask('ant/1.jpg', 0)
    for call in (lambda: data.mask('ant/2.jpg', 0), lambda: data.image('ant/2.jpg')):
        with pytest.raises(FSSKitError, match=r'2\.jpg'): call()
    with pytest.raises(FSSKitError, match="mask_encoding='colour' is not known: choose 'auto' or"):
        open_folder(folder, 'colour')
    with pytest.raises(FSSKitError, match='no photo of class 1'): data.mask('ant/0.jpg', 1)
    with pytest.raises(FSSKitError, match='Class 7 does not exist in folder: it has 2 classes'): data.photos(7)


def test_no_folder_no_photos(tmp_path):
    with pytest.raises(FSSKitError, match='There is no folder'): open_folder(tmp_path/'nowhere')
    with pytest.raises(FSSKitError, match='holds no photos'): open_folder(tmp_path)


def test_photos_are_sorted_by_file_name(tmp_path):
    for stem in ('10', '9', 'a', 'A'):
        photo(tmp_path/f'{stem}.jpg'), grey_mask(tmp_path/f'{stem}.png', np.ones((40, 60)))
    assert photo_mask_pairs(tmp_path) == ['10.jpg', '9.jpg', 'A.jpg', 'a.jpg']


def test_fss1000_lists(folder):
    (folder/'test.txt').write_text('dragon\nbee\n'), (folder/'trn.txt').write_text('ant\n')
    data = open_dataset(f'fss1000:{folder}')
    assert data.names == {1: 'bee'} and data.info['absent_classes'] == ['dragon'] and data.info['side'] == 'test'
    assert data.photos(1) == ['bee/0.jpg', 'bee/1.jpg', 'bee/2.jpg'] and data.mask('bee/0.jpg', 1).sum() == 20 * 28
    assert open_dataset(f'fss1000:{folder}', side='train').names == {0: 'ant'}
    with pytest.raises(FSSKitError, match=r"val\.txt' is missing"): open_dataset(f'fss1000:{folder}', side='val')
    (folder/'val.txt').write_text('dragon\n')
    with pytest.raises(FSSKitError, match="None of the 1 classes of side 'val'.*2 class folders: side='train' has 1"):
        open_dataset(f'fss1000:{folder}', side='val')
    for name in ('trn', 'test'): (folder/f'{name}.txt').unlink()
    with pytest.raises(FSSKitError, match='no list names them'): open_dataset(f'fss1000:{folder}', side='val')
    with pytest.raises(FSSKitError, match="side='both' is not known"): open_dataset(f'fss1000:{folder}', side='both')


# ------------------------------------------------------------------ PASCAL-5i

SIZE = (100, 130)


def scene(**boxes):
    "Labels with a band of 255 around each box; l3=(t, l, b, r) is label 3."
    labels = np.zeros(SIZE, np.uint8)
    for name, (t, l, b, r) in boxes.items():
        labels[t:b, l:r] = 255
        labels[t + 1:b - 1, l + 1:r - 1] = int(name[1:])
    return labels


SCENES = {'v1': scene(l1=(0, 0, 60, 60)), 'v2': scene(l2=(0, 0, 20, 20), l9=(30, 0, 90, 90)),
          'v3': scene(l6=(0, 0, 70, 70)),
          't1': scene(l1=(0, 0, 60, 60)), 't2': scene(l9=(0, 0, 60, 60)),
          't3': scene(l9=(0, 0, 60, 60), l5=(90, 90, 95, 95)),
          't4': scene(l20=(0, 0, 47, 47)), 't5': scene(l20=(0, 0, 66, 34)),
          't6': scene(l20=(0, 0, 66, 34), l9=(0, 50, 60, 110))}


@pytest.fixture
def voc(tmp_path):
    "A tiny PASCAL folder with photos."
    root = tmp_path/'voc'
    for name, labels in SCENES.items():
        label_png(root/'SegmentationClassAug'/f'{name}.png', labels)
        photo(root/'JPEGImages'/f'{name}.jpg', SIZE)
    (root/'image_sets').mkdir()
    for part, start in (('val', 'v'), ('train', 't')):
        ids = [name for name in reversed(SCENES) if name[0] == start]
        (root/'image_sets'/f'{part}.txt').write_text('\n'.join(ids) + '\n\n')
    return root


def by_hand(fold, side, convention, least=2048):
    "The rule of the protocol, image by image."
    novel, members = {5 * fold + k for k in range(5)}, {}
    for name, labels in SCENES.items():
        if name[0] != {'test': 'v', 'train': 't'}[side]: continue
        areas = {c: int((labels == c + 1).sum()) for c in range(20)}
        if side == 'train' and convention == 'clean' and any(areas[c] for c in novel): continue
        for c in range(20):
            if (c in novel) == (side == 'test') and areas[c] >= least: members.setdefault(c, []).append(name)
    return members


@pytest.mark.parametrize('fold', range(4))
@pytest.mark.parametrize('side, convention', [('test', 'clean'), ('train', 'clean'), ('train', 'keep')])
def test_pascal_lists_follow_the_rule(voc, fold, side, convention):
    data, expected = open_dataset(f'pascal5i:{voc}', fold, side, convention), by_hand(fold, side, convention)
    assert {c: data.photos(c) for c in data.class_ids if data.photos(c)} == expected
    assert data.class_ids == [c for c in range(20) if (c // 5 == fold) == (side == 'test')]
    assert data.class_name(data.class_ids[0]) == PASCAL_CLASSES[data.class_ids[0]]
    assert pascal5i_ids(voc, fold, side, convention) == sorted({p for photos in expected.values() for p in photos})
    stated = [data.info[key] for key in ('fold', 'side', 'convention', 'min_area')]
    assert stated == [fold, side, convention, 2048]


def test_border_of_the_threshold(voc):
    "t4 has 45 * 45 = 2,025 px of label 20, t5 has 64 * 32 = 2,048."
    assert open_dataset(f'pascal5i:{voc}', 0, 'train').photos(19) == ['t5', 't6']
    assert open_dataset(f'pascal5i:{voc}', 0, 'train', min_area=2025).photos(19) == ['t4', 't5', 't6']
    assert open_dataset(f'pascal5i:{voc}', 0, 'train', min_area=2048.5 / 13000).photos(19) == []
    assert open_dataset(f'pascal5i:{voc}', 0, 'train', min_area=2048 / 13000).photos(19) == ['t5', 't6']


def test_without_fold_all_classes(voc):
    assert {c: p for c, p in open_dataset(f'pascal5i:{voc}').members.items() if p} == {0: ['v1'], 5: ['v3'], 8: ['v2']}
    train = open_dataset(f'pascal5i:{voc}', side='train')
    assert len(train.class_ids) == 20 and train.photos(8) == ['t2', 't3', 't6']


def test_pascal_masks(voc):
    data = open_dataset(f'pascal5i:{voc}', 0, 'train', 'keep')
    for name in ('t3', 't6'):
        assert (data.mask(name, 8) == np.where(SCENES[name] == 255, 255, SCENES[name] == 9)).all()
    assert (data.image('t3') == np.asarray(Image.open(voc/'JPEGImages'/'t3.jpg'))).all()
    photo(voc/'JPEGImages'/'t3.jpg', (50, 50))
    with pytest.raises(FSSKitError, match=r't3\.png.*130 x 100.*t3\.jpg.*50 x 50'): data.mask('t3', 8)
    (voc/'JPEGImages'/'t3.jpg').unlink()
    assert (data.mask('t3', 8) == 1).sum() == 58 * 58
    with pytest.raises(FSSKitError, match=r"t3\.jpg' is missing: link or copy"): data.image('t3')


def test_areas_are_kept_and_counted_anew_when_a_mask_changes(voc, monkeypatch):
    first = pascal5i_ids(voc, 0)
    with monkeypatch.context() as patch:
        patch.setattr(D, 'label_areas', lambda path: pytest.fail('counted again'))
        assert pascal5i_ids(voc, 0) == first == ['v1']
    label_png(voc/'SegmentationClassAug'/'v3.png', scene(l2=(0, 0, 99, 99)))
    assert pascal5i_ids(voc, 0) == ['v1', 'v3']
    kept = sorted(D.data_dir().rglob('pascal-*.npy'))
    assert len(kept) == 2
    for file in kept: file.write_bytes(file.read_bytes()[:50])
    assert pascal5i_ids(voc, 0) == ['v1', 'v3']


def test_areas_without_a_place_to_keep_them(voc, tmp_path, monkeypatch):
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('FSSKIT_DATA', str(tmp_path/'file'))
    with pytest.warns(UserWarning, match='counted again next time'): assert pascal5i_ids(voc, 0) == ['v1']


@FEW
@given(st.integers(0, 10**6))
def test_label_areas_of_any_mask(tmp_path_factory, seed):
    rng, file = np.random.default_rng(seed), tmp_path_factory.mktemp('labels')/'m.png'
    labels = rng.choice([*range(21), 255], size=rng.integers(1, 30, 2)).astype(np.uint8)
    label_png(file, labels)
    assert label_areas(file).tolist() == [int((labels == v).sum()) for v in (*range(21), 255)]


def test_masks_that_are_no_pascal_masks(voc):
    file = voc/'SegmentationClassAug'/'v1.png'
    label_png(file, np.full(SIZE, 37))
    with pytest.raises(FSSKitError, match=r'v1\.png. holds the label 37'): pascal5i_ids(voc, 0)
    Image.new('RGB', SIZE).save(file)
    with pytest.raises(FSSKitError, match=r"v1\.png. has mode 'RGB'"): pascal5i_ids(voc, 0)
    file.write_bytes(b'nothing')
    with pytest.raises(FSSKitError, match=r'v1\.png. cannot be read'): pascal5i_ids(voc, 0)
    file.unlink()
    with pytest.raises(FSSKitError, match=r'1 of 3 masks are missing.*v1\.png'): pascal5i_ids(voc, 0)
    with pytest.raises(FSSKitError, match='is missing'): label_areas(file)


def test_folders_that_are_no_pascal_folder(voc, tmp_path):
    with pytest.raises(FSSKitError, match='SegmentationClassAug'): pascal5i_ids(tmp_path, 0)
    (voc/'image_sets'/'val.txt').write_text('/JPEGImages/v1.jpg /SegmentationClassAug/v1.png\n')
    with pytest.raises(FSSKitError, match='one image id a line'): pascal5i_ids(voc, 0)
    (voc/'image_sets'/'val.txt').write_text('')
    with pytest.raises(FSSKitError, match="it holds 'nothing'"): pascal5i_ids(voc, 0)
    (voc/'image_sets'/'val.txt').unlink()
    with pytest.raises(FSSKitError, match=r"val\.txt. is missing: build_pascal_root"): pascal5i_ids(voc, 0)
    for wrong in (dict(fold=4), dict(fold=-1), dict(fold=0, side='val'), dict(fold=0, convention='dirty'),
                  dict(fold=0, lists='bam')):
        with pytest.raises(FSSKitError): pascal5i_ids(voc, **wrong)


def test_hsnet_lists(voc):
    for f, line in enumerate(('t1__01', 't3__09', 't2__09\nt6__09', 't4__20\nt6__20\nt6__20')):
        for part in ('trn', 'val'):
            (voc/'lists'/'hsnet'/part).mkdir(parents=True, exist_ok=True)
            text = line if f == 1 else line.replace('__09', '__11')
            (voc/'lists'/'hsnet'/part/f'fold{f}.txt').write_text(text + '\n')
    assert read_hsnet_list(voc/'lists'/'hsnet'/'trn'/'fold3.txt') == [('t4', 19), ('t6', 19), ('t6', 19)]
    test = open_dataset(f'pascal5i:{voc}', 1, lists='hsnet')
    assert {c: test.photos(c) for c in test.class_ids} == {5: [], 6: [], 7: [], 8: ['t3'], 9: []}
    train = open_dataset(f'pascal5i:{voc}', 1, 'train', lists='hsnet')
    assert {c: p for c, p in train.members.items() if p} == {0: ['t1'], 10: ['t2', 't6'], 19: ['t4', 't6']}
    assert train.info['convention'] == 'keep' and train.info['lists'] == 'hsnet' and train.info['min_area'] is None
    assert pascal5i_ids(voc, 1, 'train', lists='hsnet') == ['t1', 't2', 't4', 't6']
    with pytest.raises(FSSKitError, match='needs a fold'): open_dataset(f'pascal5i:{voc}', lists='hsnet')
    with pytest.raises(FSSKitError, match='min_area has no meaning'):
        open_dataset(f'pascal5i:{voc}', 1, lists='hsnet', min_area=9)
    (voc/'lists'/'hsnet'/'val'/'fold1.txt').write_text('t1__01\n')
    with pytest.raises(FSSKitError, match='label 1, which is not in fold 1'):
        open_dataset(f'pascal5i:{voc}', 1, lists='hsnet')
    (voc/'lists'/'hsnet'/'val'/'fold1.txt').unlink()
    with pytest.raises(FSSKitError, match=r"val/fold1\.txt. is missing"):
        open_dataset(f'pascal5i:{voc}', 1, lists='hsnet')


@pytest.mark.parametrize('line', ['t1', 't1__1', 't1__00', 't1__21', '__05', 't1__ab'])
def test_lines_that_hsnet_never_wrote(tmp_path, line):
    (tmp_path/'l.txt').write_text(line)
    with pytest.raises(FSSKitError, match='is no pair of image and class'): read_hsnet_list(tmp_path/'l.txt')


@FEW
@given(st.lists(st.tuples(st.text('0123456789_', min_size=1, max_size=9).map(lambda s: f'x{s}x'), st.integers(0, 19)),
                max_size=9))
def test_hsnet_lists_come_back(tmp_path_factory, pairs):
    file = tmp_path_factory.mktemp('hsnet')/'l.txt'
    file.write_text(''.join(f'{image}__{c + 1:02d}\n' for image, c in pairs))
    assert read_hsnet_list(file) == pairs


def test_voc_palette():
    palette = np.array(voc_palette()).reshape(256, 3).tolist()
    assert palette[0] == [0, 0, 0] and palette[1] == [128, 0, 0] and palette[15] == [192, 128, 128]
    assert palette[20] == [0, 64, 128] and palette[255] == [224, 224, 192]


@pytest.fixture
def originals(tmp_path):
    "VOC with a, b, c and SBD with b, c, d; both draw label 3, VOC with a band."
    io = pytest.importorskip('scipy.io')
    voc, sbd = tmp_path/'VOCdevkit'/'VOC2012', tmp_path/'benchmark_RELEASE'/'dataset'
    for name in 'abc': label_png(voc/'SegmentationClass'/f'{name}.png', scene(l3=(5, 5, 60, 60)))
    (sbd/'cls').mkdir(parents=True), (voc/'JPEGImages').mkdir(), (voc/'ImageSets'/'Segmentation').mkdir(parents=True)
    for name in 'bcd':
        io.savemat(sbd/'cls'/f'{name}.mat', {'GTcls': {'Segmentation': 3 * box(SIZE, 5, 5, 60, 60),
                                                       'CategoriesPresent': 3}})
    (voc/'ImageSets'/'Segmentation'/'train.txt').write_text('a\nb\n')
    (voc/'ImageSets'/'Segmentation'/'val.txt').write_text('c\n')
    (sbd/'train_noval.txt').write_text('b\nd\n')
    photo(voc/'JPEGImages'/'c.jpg', SIZE)
    return tmp_path


def test_voc_and_sbd_become_one_folder(originals):
    out = build_pascal_root(originals, originals, originals/'out')
    masks = {f.stem: np.asarray(Image.open(f)) for f in (out/'SegmentationClassAug').iterdir()}
    assert sorted(masks) == ['a', 'b', 'c', 'd']
    assert all((masks[n] == scene(l3=(5, 5, 60, 60))).all() for n in 'abc')
    assert (masks['d'] == 3 * box(SIZE, 5, 5, 60, 60)).all()
    assert read_lines(out/'image_sets'/'train.txt') == ['b', 'd', 'a']
    assert read_lines(out/'image_sets'/'val.txt') == ['c']
    assert pascal5i_ids(out, 0) == ['c'] and pascal5i_ids(out, 1, 'train') == ['a', 'b', 'd']
    assert open_dataset(f'pascal5i:{out}', 0).image('c').shape == (*SIZE, 3) and (out/'JPEGImages').is_symlink()
    assert pascal5i_ids(build_pascal_root(originals, originals, out), 0) == ['c']
    copied = build_pascal_root(originals, originals, originals/'copy', photos='copy', progress=False)
    assert (copied/'JPEGImages'/'c.jpg').read_bytes() == (out/'JPEGImages'/'c.jpg').read_bytes()
    assert not (copied/'JPEGImages').is_symlink()


def test_builder_refuses(originals, monkeypatch):
    out, sbd = originals/'out', originals/'benchmark_RELEASE'/'dataset'
    with pytest.raises(FSSKitError, match='is not PASCAL VOC 2012'): build_pascal_root(sbd, sbd, out)
    with pytest.raises(FSSKitError, match='is not SBD'): build_pascal_root(originals, originals/'VOCdevkit', out)
    with pytest.raises(FSSKitError, match="photos='move'"): build_pascal_root(originals, sbd, out, photos='move')
    with monkeypatch.context() as patch:
        patch.setattr(Path, 'symlink_to', lambda *a, **k: (_ for _ in ()).throw(OSError('no links')))
        with pytest.raises(FSSKitError, match="use photos='copy'"): build_pascal_root(originals, sbd, out)
    assert not (out/'image_sets').exists()
    (sbd/'train_noval.txt').write_text('b\nc\n')
    with pytest.raises(FSSKitError, match='The image c is in VOC'): build_pascal_root(originals, sbd, out)
    (sbd/'cls'/'d.mat').write_bytes(b'no matlab')
    with pytest.raises(FSSKitError, match=r'd\.mat. is no class segmentation'): build_pascal_root(originals, sbd, out)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'scipy.io', None)
        with pytest.raises(FSSKitError, match='pip install scipy'): build_pascal_root(originals, sbd, out)


def test_builder_gets_the_list_with_its_checksum(originals, monkeypatch):
    (originals/'benchmark_RELEASE'/'dataset'/'train_noval.txt').unlink()
    asked = []
    def download(url, path, sha256, progress):
        asked.append((url, sha256))
        path.parent.mkdir(parents=True), path.write_text('d\n')
        return path
    monkeypatch.setattr(D, 'download', download)
    out = build_pascal_root(originals, originals, originals/'out', progress=False)
    assert asked == [D.TRAIN_NOVAL] and read_lines(out/'image_sets'/'train.txt') == ['d', 'a', 'b']


# ------------------------------------------------------------------ COCO

def rectangle(t, l, b, r): return [l, t, r, t, r, b, l, b]


def run_lengths(mask):
    "COCO's uncompressed code: lengths of runs down the columns, background first."
    flat, runs, value = np.asarray(mask).ravel(order='F'), [0], 0
    for pixel in flat:
        if pixel != value: runs.append(0); value = pixel
        runs[-1] += 1
    return {'size': list(mask.shape), 'counts': runs}


def coco_json(root, notes, names=('dog', 'cat', 'cow', 'ant', 'bee'), sizes=((40, 60),) * 3, file='instances.json'):
    "ROOT/instances.json; category ids run backwards, so that class 0 is the last name."
    images = [{'id': 100 + i, 'file_name': f'p{i}.jpg', 'height': h, 'width': w} for i, (h, w) in enumerate(sizes)]
    rows = [{'id': i, 'image_id': 100 + p, 'category_id': 90 - 3 * names.index(name), 'iscrowd': crowd,
             'segmentation': s}
            for i, (p, name, s, crowd) in enumerate(notes)]
    categories = [{'id': 90 - 3 * i, 'name': name} for i, name in enumerate(names)]
    (root/file).parent.mkdir(parents=True, exist_ok=True)
    (root/file).write_text(json.dumps({'images': images, 'annotations': rows, 'categories': categories}))
    return root


NOTES = [(0, 'cat', [rectangle(0, 0, 10, 20)], 0), (0, 'cat', [rectangle(5, 10, 20, 30), rectangle(30, 50, 40, 60)], 0),
         (0, 'cat', run_lengths(box((40, 60), 20, 0, 40, 60)), 1),
         (0, 'dog', run_lengths(box((40, 60), 3, 4, 9, 9)), 0),
         (1, 'cow', [rectangle(0, 0, 6, 8)], 0), (1, 'bee', [rectangle(9, 9, 29, 29)], 0),
         (1, 'ant', [rectangle(1, 1, 40, 40)], 1),
         (2, 'bee', [rectangle(0, 0, 40, 30)], 0), (2, 'dog', [[1, 2, 3, 4]], 0)]


@pytest.fixture
def coco(tmp_path):
    for i in range(3): photo(tmp_path/'coco'/'images'/f'p{i}.jpg', (40, 60), i)
    return coco_json(tmp_path/'coco', NOTES)


def test_coco_merges_instances_and_leaves_out_crowds(coco):
    data = open_dataset(f'coco:{coco}')
    names = {data.class_name(c): c for c in data.class_ids}
    assert names == {'bee': 0, 'ant': 1, 'cow': 2, 'cat': 3, 'dog': 4}
    cat = box((40, 60), 0, 0, 10, 20) | box((40, 60), 5, 10, 20, 30) | box((40, 60), 30, 50, 40, 60)
    assert (data.mask('p0.jpg', names['cat']) == cat).all() and data.mask('p0.jpg', names['cat']).dtype == np.uint8
    assert (data.mask('p0.jpg', names['dog']) == box((40, 60), 3, 4, 9, 9)).all()
    assert data.mask('p1.jpg', names['ant']).sum() == 0 and data.mask('p2.jpg', names['dog']).sum() == 0
    # 2 % of 2,400 px are 48: the cow has exactly 48 px, the dog 30
    assert data.members == {0: ['p1.jpg', 'p2.jpg'], 1: [], 2: ['p1.jpg'], 3: ['p0.jpg'], 4: []}
    assert (data.image('p2.jpg') == np.asarray(Image.open(coco/'images'/'p2.jpg'))).all()
    assert data.info['min_area'] == .02
    assert data.info['instances_sha256'] == hashlib.sha256((coco/'instances.json').read_bytes()).hexdigest()
    assert (pickle.loads(pickle.dumps(data)).mask('p0.jpg', 3) == cat).all()


@pytest.mark.parametrize('min_area, members', [(49, {0: ['p1.jpg', 'p2.jpg'], 1: [], 2: [], 3: ['p0.jpg'], 4: []}),
                                               (.2, {0: ['p2.jpg'], 1: [], 2: [], 3: ['p0.jpg'], 4: []}),
                                               (0, {0: ['p1.jpg', 'p2.jpg'], 1: [], 2: ['p1.jpg'], 3: ['p0.jpg'],
                                                    4: ['p0.jpg']})])
def test_coco_min_area(coco, min_area, members):
    assert open_dataset(f'coco:{coco}', min_area=min_area).members == members


def test_coco_folds_and_conventions(coco):
    "Every fourth class: fold 0 holds out classes 0 and 4, fold 1 class 1 (ant, which is a crowd in p1)."
    assert open_dataset(f'coco:{coco}', 0).class_ids == [0, 4]
    assert open_dataset(f'coco:{coco}', 0, 'train', 'keep').members == {1: [], 2: ['p1.jpg'], 3: ['p0.jpg']}
    assert open_dataset(f'coco:{coco}', 0, 'train').members == {1: [], 2: [], 3: []}
    assert open_dataset(f'coco:{coco}', 1, 'train').members == {0: ['p2.jpg'], 2: [], 3: ['p0.jpg'], 4: []}
    assert open_dataset(f'coco:{coco}', 1, 'train', 'keep').members[0] == ['p1.jpg', 'p2.jpg']
    assert open_dataset(f'coco:{coco}', side='train').members == open_dataset(f'coco:{coco}').members
    for wrong in (dict(fold=4), dict(side='val'), dict(convention='x')):
        with pytest.raises(FSSKitError): open_dataset(f'coco:{coco}', **wrong)


@FEW
@given(st.integers(0, 10**6))
def test_coco_masks_are_the_union_of_any_instances(tmp_path_factory, seed):
    rng, root = np.random.default_rng(seed), tmp_path_factory.mktemp('union')
    size = tuple(int(s) for s in rng.integers(2, 25, 2))
    masks = [(rng.random(size) < rng.random()).astype(np.uint8) for _ in range(rng.integers(1, 5))]
    crowd = [bool(rng.random() < .3) for _ in masks]
    coco_json(root, [(0, 'cat', run_lengths(m), int(k)) for m, k in zip(masks, crowd)], sizes=(size,))
    expected = np.any([m for m, k in zip(masks, crowd) if not k] or [np.zeros(size)], axis=0)
    table = read_coco(root/'instances.json')
    assert (D._coco_mask(table, 'p0.jpg', 3) == expected).all()
    assert D.coco_areas(table, progress=False).tolist() == [[0, 0, 0, int(expected.sum()), 0]]


def test_areas_of_coco_are_kept(coco, monkeypatch):
    first = open_dataset(f'coco:{coco}').members
    monkeypatch.setattr(D, 'class_code', lambda *a: pytest.fail('counted again'))
    assert open_dataset(f'coco:{coco}').members == first


def test_compressed_codes(tmp_path):
    rle = pytest.importorskip('pycocotools.mask')
    mask = box((40, 60), 4, 4, 30, 20)
    code = rle.encode(np.asfortranarray(mask))
    coco_json(tmp_path, [(0, 'cat', {'size': code['size'], 'counts': code['counts'].decode()}, 0)])
    assert (open_dataset(f'coco:{tmp_path}').mask('p0.jpg', 3) == mask).all()


def test_layouts_of_coco(tmp_path):
    root = tmp_path/'coco'
    for part, name in (('val', 'cat'), ('train', 'cow')):
        coco_json(root, [(0, name, [rectangle(0, 0, 40, 60)], 0)], file=f'annotations/instances_{part}2014.json')
        photo(root/f'{part}2014'/'p0.jpg', (40, 60), len(part))
    test, train = open_dataset(f'coco:{root}'), open_dataset(f'coco:{root}', side='train')
    assert test.photos(3) == ['p0.jpg'] and train.photos(2) == ['p0.jpg'] and not train.photos(3)
    assert not (test.image('p0.jpg') == train.image('p0.jpg')).all()
    assert open_dataset(f'coco:{root}/annotations/instances_train2014.json').members == train.members
    coco_json(root, [], file='annotations/instances_val2017.json')
    with pytest.raises(FSSKitError, match='instances_val2014.json and instances_val2017.json: name the file'):
        find_instances(root)
    assert find_instances(root, year='2014').name == 'instances_val2014.json'
    assert find_instances(coco_json(tmp_path/'robo', [],
                                    file='_annotations.coco.json')).name == '_annotations.coco.json'
    assert find_instances(coco_json(tmp_path/'plain', [], file='instances_val.json')).name == 'instances_val.json'
    with pytest.raises(FSSKitError, match='no instances file'): find_instances(tmp_path)
    with pytest.raises(FSSKitError, match='There is no folder'): find_instances(tmp_path/'nowhere')


def test_coco20i(tmp_path):
    names = tuple(f'c{i}' for i in range(80))
    notes = [(0, f'c{i}', run_lengths(box((60, 60), 0, 0, 46, 45)), 0) for i in (78, 74)]  # 2,070 px; classes 1 and 5
    notes += [(1, 'c78', run_lengths(box((60, 60), 0, 0, 45, 45)), 0)]  # 2,025 px
    coco_json(tmp_path, notes, names=names, sizes=((60, 60), (60, 60)))
    data = open_dataset(f'coco20i:{tmp_path}', fold=1)
    assert data.class_ids == list(range(1, 80, 4)) and data.info['min_area'] == 2048
    assert {c: p for c, p in data.members.items() if p} == {1: ['p0.jpg'], 5: ['p0.jpg']}
    assert len(open_dataset(f'coco20i:{tmp_path}').class_ids) == 80
    assert open_dataset(f'coco20i:{tmp_path}', 1, min_area=.5).photos(1) == ['p0.jpg', 'p1.jpg']
    for wrong in (dict(fold=4), dict(side='val'), dict(convention='x')):
        with pytest.raises(FSSKitError): open_dataset(f'coco20i:{tmp_path}', **wrong)
    with pytest.raises(FSSKitError, match='5 categories, but COCO-20i has 80'):
        open_dataset(f'coco20i:{coco_json(tmp_path/"x", NOTES)}')


def edit(change):
    def apply(root):
        content = json.loads((root/'instances.json').read_text())
        change(content)
        (root/'instances.json').write_text(json.dumps(content))
    return apply


@pytest.mark.parametrize('change, sentence', [
    (lambda r: (r/'instances.json').write_text((r/'instances.json').read_text()[:99]), 'damaged or cut off'),
    (lambda r: (r/'instances.json').write_bytes(b'\xff\xfe\x00'), 'damaged or cut off'),
    (lambda r: (r/'instances.json').write_text('[]'), "no list called 'images'"),
    (edit(lambda j: j.pop('categories')), "no list called 'categories'"),
    (edit(lambda j: j.update(images=[])), 'annotation 0 belongs to image 100'),
    (edit(lambda j: j.update(images=[], annotations=[])), 'no photos or no categories'),
    (edit(lambda j: j['annotations'][3].update(image_id=7)),
     "annotation 3 belongs to image 7, which is not in 'images'"),
    (edit(lambda j: j['annotations'][3].update(category_id=7)),
     "annotation 3 has category 7, which is not in 'categories'"),
    (edit(lambda j: j['annotations'][3].pop('segmentation')), "an entry lacks 'segmentation'"),
    (edit(lambda j: j['images'].append(j['images'][0])), "photo 'p0.jpg' is listed twice"),
    (edit(lambda j: j['images'][0].update(file_name='../../etc/x.jpg')), 'leads out of its folder'),
    (edit(lambda j: j['images'][0].update(height=0)), r"'p0.jpg' has the size \(0, 60\)"),
    (edit(lambda j: j['images'].append(7)), 'not of the form that COCO documents'),
    (edit(lambda j: j['categories'].append(j['categories'][0])), 'two categories have the same id'),
    (edit(lambda j: j['annotations'][0].update(segmentation={'size': [9, 9], 'counts': [81]})),
     "a 'cat' in 'p0.jpg' has a segmentation"),
    (edit(lambda j: j['annotations'][0].update(segmentation={'size': [40, 60], 'counts': [81]})),
     'run lengths of another size'),
    (edit(lambda j: j['annotations'][0].update(segmentation=5)), 'has a segmentation that cannot be read')])
def test_broken_instances(coco, change, sentence):
    change(coco)
    with pytest.raises(FSSKitError, match=sentence) as error: open_dataset(f'coco:{coco}')
    assert 'instances.json' in str(error.value)


def test_coco_photos_that_do_not_fit(coco):
    data = open_dataset(f'coco:{coco}')
    photo(coco/'images'/'p0.jpg', (20, 30))
    with pytest.raises(FSSKitError, match=r"p0\.jpg' is 30 x 20 px, but 'instances.json' says 60 x 40"):
        data.image('p0.jpg')
    (coco/'images'/'p1.jpg').unlink()
    with pytest.raises(FSSKitError, match=r"'p1\.jpg' of .* is missing: it was looked for in"): data.image('p1.jpg')
    with pytest.raises(FSSKitError, match="'p9.jpg' is not in"): data.mask('p9.jpg', 0)
    with pytest.raises(FSSKitError, match='cannot be read'): read_coco(coco/'images')


# ------------------------------------------------------------------ the door, and lists of photos

def test_list_datasets():
    kinds = [form.partition(':')[0] for form in list_datasets()]
    assert kinds == ['smallworld', 'folder', 'fss1000', 'pascal5i', 'coco20i', 'coco']


@pytest.mark.parametrize('spec, kwargs, sentence', [
    ('imagenet:x', {}, r"'imagenet:x' is not known: use one of smallworld, folder:PATH"),
    ('folder', {}, 'lacks the folder: write folder:PATH'),
    ('coco:', {}, 'write coco:PATH'), ('smallworld:x', {}, 'SmallWorld has no files'),
    ('folder:x', {'fold': 1}, 'fold=1 has no meaning for folder'),
    ('folder:x', {'size': 9}, 'size=9 has no meaning'),
    ('pascal5i:x', {'mask_encoding': 'binary'}, 'has no meaning for pascal5i'),
    ('coco:x', {'lists': 'hsnet'}, 'has no meaning for coco'),
    ('fss1000:x', {'min_area': .1}, 'min_area=0.1 has no meaning')])
def test_the_door_refuses(spec, kwargs, sentence):
    with pytest.raises(FSSKitError, match=sentence): open_dataset(spec, **kwargs)


def test_only_a_list(coco, folder, tmp_path):
    (tmp_path/'l.txt').write_text('# kept\nset/ant/1.jpg\ncoco_mini/p2.jpg\n100\n')
    kept = open_dataset(f'folder:{folder}', only=tmp_path/'l.txt')
    assert kept.members == {0: ['ant/1.jpg'], 1: []} and kept.info['only'] == str(tmp_path/'l.txt')
    assert kept.info['photos'] == 1
    cut = open_dataset(f'coco:{coco}', only=str(tmp_path/'l.txt'))
    assert cut.members == {0: ['p2.jpg'], 1: [], 2: [], 3: ['p0.jpg'], 4: []}
    few = open_dataset(f'coco:{coco}', only=['p1.jpg', 'nothing'])
    assert few.members == {0: ['p1.jpg'], 1: [], 2: ['p1.jpg'], 3: [], 4: []} and few.info['only'] == '2 names'
    with pytest.raises(FSSKitError, match=r"None of the 1 names in the list given .*called like 'p0\.jpg'"):
        open_dataset(f'coco:{coco}', only=['x.jpg'])


def test_smallworld_by_name():
    pytest.importorskip('fsskit.smallworld')
    from fsskit.smallworld import SmallWorld
    ours = open_dataset('smallworld', fold=1, photos_per_class=3, size=64)
    theirs = SmallWorld(fold=1, photos_per_class=3, size=64)
    c = ours.class_ids[0]
    assert ours.class_ids == theirs.class_ids and ours.photos(c) == theirs.photos(c)
    assert (ours.image(ours.photos(c)[0]) == theirs.image(theirs.photos(c)[0])).all()
    pool = open_dataset('smallworld', pool='pretrain', photos_per_class=2, size=64)
    assert not {pool.class_name(c) for c in pool.class_ids} & {ours.class_name(c) for c in ours.class_ids}
    with pytest.raises(FSSKitError, match='min_area=5 has no meaning for smallworld'):
        open_dataset('smallworld', min_area=5)


# ------------------------------------------------------------------ the real sets, where they are at hand

@pytest.mark.parametrize('side, file', [('test', 'fold0_test_images'), ('train', 'fold0_train_images')])
def test_fold_0_equals_the_published_list(shared, side, file):
    root = shared/'data'/'pascal'
    assert pascal5i_ids(root, 0, side, progress=False) == (root/'lists'/'clean'/f'{file}.txt').read_text().split()


def test_published_numbers_of_pairs(shared):
    "365, 467, 734 and 357 pairs of image and class in the published test lists of folds 0 to 3."
    opened = [open_dataset(f"pascal5i:{shared/'data'/'pascal'}", f, progress=False) for f in range(4)]
    assert [d.info['pairs'] for d in opened] == [365, 467, 734, 357]


def test_published_hsnet_list(shared):
    root = shared/'data'/'pascal'
    lines = (root/'lists'/'hsnet'/'val'/'fold0.txt').read_text().split()
    data = open_dataset(f'pascal5i:{root}', 0, lists='hsnet')
    assert sorted(f'{p}__{c + 1:02d}' for c in data.class_ids for p in data.photos(c)) == sorted(lines)
    assert len(lines) == 346
    for c in data.class_ids:
        for p in data.photos(c)[:5]:
            labels = np.asarray(Image.open(root/'SegmentationClassAug'/f'{p}.png'))
            assert (data.mask(p, c) == np.where(labels == 255, 255, labels == c + 1)).all() and (labels == c + 1).any()
    assert len(read_hsnet_list(root/'lists'/'hsnet'/'trn'/'fold0.txt')) == 2286
    with pytest.raises(FSSKitError, match=r'trn/fold1\.txt'):
        open_dataset(f'pascal5i:{root}', 0, 'train', lists='hsnet')


def test_train_image_set_is_sbds_list_and_then_vocs(shared):
    "What `build_pascal_root` writes: the first 5,623 ids have the published checksum of train_noval.txt."
    ids = (shared/'data'/'pascal'/'image_sets'/'train.txt').read_text().split()
    assert hashlib.sha256(('\n'.join(ids[:5623]) + '\n').encode()).hexdigest() == D.TRAIN_NOVAL[1]
    assert len(ids) == 5953 and ids[5623:] == sorted(ids[5623:])


def test_coco_mini_against_the_coco_api(shared, capsys):
    api = pytest.importorskip('pycocotools.coco').COCO(str(shared/'data'/'coco_mini'/'instances.json'))
    data = open_dataset(f"coco:{shared/'data'/'coco_mini'}", progress=False)
    order, members = {k: i for i, k in enumerate(sorted(api.cats))}, {c: [] for c in range(80)}
    assert len(api.anns) == 3821 and len(api.imgs) == 421
    looked = {image['file_name'] for number, image in api.imgs.items() if number % 3 == 0}
    for number, image in api.imgs.items():
        if number % 3: continue
        merged = {}
        for note in api.loadAnns(api.getAnnIds(number, iscrowd=False)):
            c = order[note['category_id']]
            merged[c] = merged.get(c, 0) | api.annToMask(note)
        for c, mask in merged.items():
            if mask.sum() >= .02 * image['height'] * image['width']: members[c].append(image['file_name'])
            if number % 20 == 0: assert (data.mask(image['file_name'], c) == mask).all()
    ours = {c: [p for p in photos if p in looked] for c, photos in data.members.items()}
    assert ours == {c: sorted(photos) for c, photos in members.items()}
    assert len(looked) > 120 and (data.info['photos'], data.info['pairs']) == (395, 847)
    assert sum(len(data.photos(c)) > 0 for c in data.class_ids) >= 62
    photos = {p for c in data.class_ids for p in data.photos(c)[:1]}
    assert all(data.image(p).shape[:2] == D.read_coco(shared/'data'/'coco_mini'/'instances.json').sizes[p]
               for p in sorted(photos)[:5])


def test_fss1000_classes_at_hand(shared):
    root = shared/'data'/'fss1000'
    data = open_dataset(f'fss1000:{root}', side='train')
    assert data.names == {369: 'african_elephant'} and len(data.info['absent_classes']) == 519
    both = open_dataset(f'folder:{root}')
    for name in ('african_elephant/3', 'eiffel_tower/2'):
        values = np.asarray(Image.open(root/f'{name}.png').convert('L'))
        expected = values >= (128 if values.max() > 1 else 1)
        assert (both.mask(f'{name}.jpg', name[0] == 'e') == expected).all()


def test_heldout_list(shared):
    "The committed list is what its header says, and cuts every set down to it."
    file = Path(__file__).parents[1]/'data'/'splits'/'heldout_photos.txt'
    names, data = read_lines(file), shared/'data'
    third = [p.name for p in (data/'coco_mini'/'images').iterdir()
             if int(hashlib.sha256(p.name.encode()).hexdigest(), 16) % 3 == 0]
    expected = {f'coco_mini/{name}' for name in third}
    expected |= {f'photos/perseg/{p.name}' for p in (data/'photos'/'perseg').glob('*.jpg')}
    for folder, sets in (('fss1000', None), ('dreambooth', {'cat', 'colorful_sneaker', 'duck_toy'})):
        expected |= {f'{folder}/{p.parent.name}/{p.name}' for p in (data/folder).glob('*/*.jpg')
                     if sets is None or p.parent.name in sets}
    assert set(names) == expected and len(names) == len(expected)
    assert open_dataset(f'folder:{data}/photos/perseg', only=file).info['photos'] == 9
    assert open_dataset(f'folder:{data}/fss1000', only=file).info['photos'] == 10
    coco = open_dataset(f'coco:{data}/coco_mini', only=file, progress=False)
    assert {p for c in coco.class_ids for p in coco.photos(c)} <= set(third)
