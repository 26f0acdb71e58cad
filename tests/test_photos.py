"""Photos and masks: values against independent computations, and one sentence for everything that is wrong."""
import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFile

from fsskit.photos import (MASK_ENCODINGS, FSSKitError, heatmap, load_mask, load_pair, load_photo, mask_outline,
                           mask_to_tensor, overlay, resize_map, resize_mask, resize_photo, save_mask, show_row,
                           to_tensor)

quick = settings(max_examples=25, deadline=None, derandomize=True)
masks3 = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 255]))


def refusal(run, *args, **options):
    """The message of the error, after checking that it is one sentence."""
    with pytest.raises(FSSKitError) as caught: run(*args, **options)
    message = str(caught.value)
    assert '\n' not in message and message.endswith('.') and len(message) < 400
    return message


def header_only_png(width, height):
    """A PNG of a few bytes that claims any size."""
    def chunk(kind, body):
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    head = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b'\0')) + chunk(b'IEND', b'')


def test_import_is_light():
    """Importing the module loads neither torch nor matplotlib, and changes no Pillow setting."""
    code = ('import PIL.Image as I, PIL.ImageFile as F; before = (I.MAX_IMAGE_PIXELS, F.LOAD_TRUNCATED_IMAGES)\n'
            'import fsskit.photos, sys; after = (I.MAX_IMAGE_PIXELS, F.LOAD_TRUNCATED_IMAGES)\n'
            'assert before == after and not {"torch", "matplotlib"} & set(sys.modules)')
    subprocess.run([sys.executable, '-c', code], check=True)


class TestPhotoFiles:
    @pytest.mark.parametrize('name', ['a.png', 'a.bmp', 'a.tiff', 'a.webp'])
    def test_lossless_formats_keep_every_value(self, photo, write, name):
        path = write(photo, name, **({'lossless': True} if name == 'a.webp' else {}))
        for source in (path, str(path), path.read_bytes(), Image.open(path)):
            assert (load_photo(source) == photo).all()

    def test_jpeg_is_what_pillow_decodes(self, photo, write):
        path = write(photo, 'a.jpg')
        assert (load_photo(path) == np.asarray(Image.open(path))).all()

    @pytest.mark.parametrize('orientation, undo', [
        (1, lambda p: p), (2, lambda p: p[:, ::-1]), (3, lambda p: p[::-1, ::-1]), (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)), (6, lambda p: np.rot90(p)),
        (7, lambda p: p[::-1, ::-1].transpose(1, 0, 2)), (8, lambda p: np.rot90(p, -1))])
    def test_all_exif_orientations_come_out_upright(self, photo, write, orientation, undo):
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert (load_photo(write(undo(photo).copy(), 'a.png', exif=exif)) == photo).all()

    def test_grey_becomes_three_equal_channels(self, photo, write):
        assert (load_photo(write(photo[..., 0], 'a.png')) == photo[..., :1]).all()

    def test_one_bit(self, mask, write):
        assert (load_photo(write(Image.fromarray(mask * 255).convert('1'), 'a.png')) == mask[..., None] * 255).all()

    def test_16_bit_is_scaled_not_clipped(self, write):
        deep = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
        assert (load_photo(write(deep, 'a.png'))[..., 1] == np.round(deep / 65535 * 255)).all()
        assert (load_photo(write(deep, 'a.tiff')) == load_photo(deep)).all()

    def test_palette(self, photo, write):
        image = Image.fromarray(photo).quantize(8)
        colors = np.array(image.getpalette()).reshape(-1, 3)
        assert (load_photo(write(image, 'a.png')) == colors[np.asarray(image)]).all()

    @pytest.mark.parametrize('name', ['a.png', 'a.tiff'])
    def test_alpha_is_composited_on_white(self, photo, write, name):
        alpha = np.random.default_rng(1).integers(0, 256, photo.shape[:2], dtype=np.uint8)
        want = photo * (alpha / 255)[..., None] + 255 * (1 - alpha / 255)[..., None]
        got = load_photo(write(np.dstack([photo, alpha]), name))
        assert np.abs(got - want).max() <= 1
        assert (load_photo(np.dstack([photo, alpha])) == got).all()

    def test_transparent_colour_of_a_png_becomes_white(self, write):
        grey = np.full((10, 12), 40, np.uint8)
        grey[2:5] = 200
        got = load_photo(write(grey, 'a.png', transparency=40))
        assert (got[2:5] == 200).all() and (np.delete(got, slice(2, 5), 0) == 255).all()

    def test_cmyk_jpeg(self, write):
        assert load_photo(write(Image.new('CMYK', (9, 9), (0, 0, 0, 0)), 'a.jpg')).min() == 255

    def test_a_phones_jpeg_with_a_second_picture_is_one_photo(self, photo, write):
        path = write(photo, 'a.mpo', save_all=True, append_images=[Image.fromarray(photo[::-1])])
        with Image.open(path) as image: assert image.n_frames == 2
        assert np.abs(load_photo(path).astype(int) - np.asarray(Image.open(write(photo, 'b.jpg')))).max() <= 1

    def test_home_folder_is_expanded(self, photo, write, tmp_path, monkeypatch):
        write(photo, 'a.png')
        monkeypatch.setenv('HOME', str(tmp_path))
        assert (load_photo('~/a.png') == photo).all()


class TestBadPhotos:
    def test_every_cut_is_noticed(self, photo, write):
        """Any prefix of a file either fails with one sentence, or holds all pixels already."""
        for name in ('a.png', 'a.jpg', 'a.bmp', 'a.webp', 'a.tiff', 'a.gif'):
            path = write(photo, name)
            whole, whole_photo = path.read_bytes(), load_photo(path)
            for size in np.linspace(0, len(whole) - 30, 15).astype(int):
                path.write_bytes(whole[:size])
                try: assert (load_photo(path) == whole_photo).all()
                except FSSKitError as error: assert path.name in str(error) and str(error).endswith('.')

    @pytest.mark.parametrize('name', ['a.jpg', 'a.png'])
    def test_truncated_even_if_somebody_allowed_it(self, photo, write, monkeypatch, name):
        path = write(photo, name)
        path.write_bytes(path.read_bytes()[:-200])
        monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
        assert 'cut off' in refusal(load_photo, path) and name in refusal(load_photo, path)
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True

    @pytest.mark.parametrize('content', [b'', b'hello', b'%PDF-1.7', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff\xe0'])
    def test_no_photo(self, tmp_path, content):
        (tmp_path / 'a.jpg').write_bytes(content)
        assert 'a.jpg' in refusal(load_photo, tmp_path / 'a.jpg')
        assert 'bytes' in refusal(load_photo, content)

    def test_other_formats_are_not_even_tried(self, photo, write):
        assert 'not one of' in refusal(load_photo, write(photo, 'a.ppm'))
        assert 'not one of' in refusal(load_photo, write(photo, 'a.tga'))

    @pytest.mark.parametrize('shape', [(1, 1), (7, 100), (100, 7)])
    def test_too_small(self, write, shape):
        message = refusal(load_photo, write(np.zeros(shape, np.uint8), 'a.png'))
        assert f'{shape[1]} x {shape[0]} px' in message and 'a.png' in message
        assert 'too small' in refusal(load_photo, np.zeros(shape, np.uint8))
        assert load_photo(np.zeros((8, 8), np.uint8)).shape == (8, 8, 3)

    @pytest.mark.parametrize('size', [(20_000, 10), (10, 20_000), (9_000, 9_000), (12_000, 12_000), (60_000, 60_000)])
    def test_too_large_is_seen_before_decoding(self, tmp_path, size):
        (tmp_path / 'a.png').write_bytes(header_only_png(*size))
        with warnings.catch_warnings():
            warnings.simplefilter('error')  # Pillow's warning must not escape
            assert 'make it smaller' in refusal(load_photo, tmp_path / 'a.png')

    def test_the_cap_can_be_chosen(self, photo):
        assert '800' in refusal(load_photo, photo, max_pixels=800)
        assert (load_photo(photo, max_pixels=24 * 36) == photo).all()

    @pytest.mark.parametrize('name', ['a.gif', 'a.png', 'a.webp', 'a.tiff'])
    def test_animations(self, photo, write, name):
        path = write(photo, name, save_all=True, append_images=[Image.fromarray(photo[::-1])])
        assert 'holds 2 pictures' in refusal(load_photo, path)

    @pytest.mark.parametrize('dtype', [np.float32, np.int32])
    def test_32_bit(self, write, dtype):
        assert 'mode' in refusal(load_photo, write(np.ones((9, 9), dtype), 'a.tiff'))

    def test_missing_and_folders(self, tmp_path):
        assert 'does not exist' in refusal(load_photo, tmp_path / 'no.jpg')
        assert 'is a folder' in refusal(load_photo, tmp_path)
        assert 'not understood' in refusal(load_photo, None)
        assert 'not understood' in refusal(load_photo, [[1, 2], [3, 4]])


class TestPhotoArrays:
    def test_forms(self, photo):
        assert (load_photo(photo) == photo).all() and load_photo(photo) is not photo
        assert (load_photo(photo[..., 0]) == photo[..., :1]).all()
        assert (load_photo(photo[..., :1]) == photo[..., :1]).all()
        for dtype in (np.float16, np.float32, np.float64):
            assert (load_photo((photo / 255).astype(dtype)) == photo).all()
        assert (load_photo(photo.astype(np.uint16) * 257) == photo).all()

    def test_tensors(self, photo):
        chw = torch.from_numpy(photo.transpose(2, 0, 1).copy())
        assert (load_photo(chw) == photo).all() and (load_photo(chw / 255) == photo).all()
        assert (load_photo((chw / 255).requires_grad_()) == photo).all()
        assert (load_photo(chw[:1]) == photo[..., :1]).all() and (load_photo(chw[0]) == photo[..., :1]).all()
        assert np.abs(load_photo((chw / 255).bfloat16()) - photo.astype(int)).max() <= 1

    @pytest.mark.parametrize('value, part', [
        (np.full((9, 9), np.nan), 'NaN'), (np.full((9, 9), np.inf), 'NaN'), (np.full((9, 9), 2.), 'divide by 255'),
        (np.full((9, 9), -.1), 'normalisation'), (np.zeros((9, 9), np.int64), 'int64'),
        (np.zeros((9, 9), bool), 'bool'),
        (np.zeros(9), 'shape (9,)'), (np.zeros((3, 9, 9)), 'transpose'), (np.zeros((2, 9, 9, 3)), 'shape'),
        (np.zeros((9, 9, 2)), 'shape'), (torch.zeros(1, 3, 9, 9), 'one photo at a time'),
        (torch.zeros(9, 9, 3), 'shape'), (torch.full((3, 9, 9), np.nan), 'NaN'), (np.zeros((9, 9), object), 'object')])
    def test_refused(self, value, part):
        assert part in refusal(load_photo, value)


class TestMaskFiles:
    def test_binary_is_128_or_more(self, write):
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
        got = load_mask(write(ramp, 'a.png'), 'binary')
        assert got.dtype == np.uint8 and (got.ravel() == np.arange(256) // 128).all()

    def test_binary_agrees_with_the_published_reader(self, write):
        """HSNet: convert('L'), then below 128 -> 0, else 1, on near-grey RGB masks such as FSS-1000's."""
        rng = np.random.default_rng(0)
        rgb = np.clip(rng.integers(0, 256, (20, 20, 1)) + rng.integers(-12, 13, (20, 20, 3)), 0, 255).astype(np.uint8)
        want = (np.array(Image.fromarray(rgb).convert('L')) >= 128).astype(np.uint8)
        assert (load_mask(write(rgb, 'a.png'), 'binary') == want).all()
        opaque = np.dstack([rgb, np.full((20, 20), 255, np.uint8)])
        assert (load_mask(write(opaque, 'b.png'), 'binary') == want).all()

    @pytest.mark.parametrize('encoding', ['binary', 'nonzero', 'auto'])
    def test_one_bit_file(self, mask, write, encoding):
        assert (load_mask(write(Image.fromarray(mask * 255).convert('1'), 'a.png'), encoding) == mask).all()

    def test_nonzero(self, mask, write):
        for values in (mask, mask * 77, mask * 255):
            assert (load_mask(write(values, 'a.png'), 'nonzero') == mask).all()

    def test_labels(self, write):
        labels = np.zeros((10, 12), np.uint8)
        labels[:3], labels[3:5], labels[9] = 15, 2, 255
        image = Image.fromarray(labels)
        paths = [write(image, 'grey.png')]
        image.putpalette([0, 0, 0] + [200] * 765)
        paths.append(write(image, 'palette.png'))
        for path in paths:
            assert (load_mask(path, label=15) == np.where(labels == 255, 255, labels == 15)).all()
            assert (load_mask(path, 'voc', label=np.int64(2)) == np.where(labels == 255, 255, labels == 2)).all()
            assert (load_mask(path, 'voc') == np.where(labels == 255, 255, labels > 0)).all()
            assert (load_mask(path, label=7) == np.where(labels == 255, 255, 0)).all()
        assert 'labels [2, 15]' in refusal(load_mask, paths[1])

    def test_alpha(self, photo, mask, write):
        alpha = np.where(mask == 1, 128, 127).astype(np.uint8)
        assert (load_mask(write(np.dstack([photo, alpha]), 'a.png'), 'alpha') == mask).all()
        grey = Image.fromarray(mask * 255)
        assert (load_mask(write(grey, 'b.png', transparency=0), 'alpha') == mask).all()
        assert 'no alpha channel' in refusal(load_mask, write(grey, 'c.png'), 'alpha')
        for encoding in ('auto', 'binary', 'nonzero'):
            assert "encoding='alpha'" in refusal(load_mask, write(np.dstack([photo, alpha]), 'a.png'), encoding)

    def test_auto_reads_what_has_one_reading(self, mask, write):
        palette = Image.fromarray(mask * 9)
        palette.putpalette([0, 0, 0] + [90] * 765)
        for path in (write(mask, 'a.png'), write(mask * 255, 'b.png'), write(mask * 254 + 1, 'c.png'),
                     write(palette, 'd.png')):
            assert (load_mask(path) == mask).all()
        assert load_mask(write(mask * 0, 'e.png')).max() == 0

    def test_auto_refuses_two_readings(self, mask, write):
        both = mask.copy()
        both[0] = 255
        assert 'two readings' in refusal(load_mask, write(both, 'a.png'))
        assert 'otherwise only labels up to 15' in refusal(load_mask,
                                                           write(np.where(both == 1, 15, both).astype(np.uint8),
                                                                 'b.png'))
        assert (load_mask(write(both, 'a.png'), 'voc') == both).all()
        assert (load_mask(write(both, 'a.png'), 'binary') == (both == 255)).all()
        white_first = Image.fromarray(mask)
        white_first.putpalette([255] * 3 + [0] * 765)
        assert 'not black' in refusal(load_mask, write(white_first, 'b.png'))
        assert 'none of 128' in refusal(load_mask, write(mask * 100, 'c.png'))

    def test_refused_with_the_remedy(self, photo, mask, write):
        palette = Image.fromarray(mask).convert('P')
        moving = write(mask, 'a.gif', save_all=True, append_images=[Image.fromarray(1 - mask)])
        cases = {
            'palette': (write(palette, 'p.png'), 'binary'), '8-bit': (write(mask.astype(np.uint16), '16.png'),),
            "encoding='nonzero'": (write(mask, 'm.png'), 'binary'), 'colour': (write(photo, 'c.png'), 'binary'),
            "mode 'RGB'": (write(photo, 'c.png'), 'voc'), 'unknown': (mask, 'colour'),
            'drop one': (mask, 'alpha', None, 3), 'from 1 to 254': (mask, 'voc', None, 255),
            'cut off': (self.cut(write(mask, 'cut.png')),), 'does not exist': ('nowhere.png',), 'holds 2': (moving,)}
        for part, args in cases.items(): assert part in refusal(load_mask, *args), part

    @staticmethod
    def cut(path):
        path.write_bytes(path.read_bytes()[:-40])
        return path

    def test_exif_turns_a_mask_like_a_photo(self, mask, write):
        exif = Image.Exif()
        exif[0x0112] = 6
        assert (load_mask(write(np.rot90(mask * 255).copy(), 'a.png', exif=exif)) == mask).all()

    def test_fss1000_and_perseg_files(self, shared):
        """Real files: near-grey RGBA, 0/1 in RGB, palette."""
        for path in sorted((shared / 'data/fss1000').rglob('*.png')):
            grey = np.asarray(Image.open(path).convert('L'))
            want = grey >= 128 if grey.max() > 1 else grey == 1
            assert want.any() and (load_mask(path) == want).all()
            if grey.max() == 1: assert "encoding='nonzero'" in refusal(load_mask, path, 'binary')
        for path in sorted((shared / 'data/photos/perseg').glob('*.jpg')):
            photo, mask = load_pair(path, path.with_suffix('.png'))
            assert (mask == (np.asarray(Image.open(path.with_suffix('.png'))) == 1)).all()
            assert photo.shape[:2] == mask.shape


class TestMaskArrays:
    def test_forms(self, mask):
        tensor = torch.from_numpy(mask)
        for form in (mask, mask.astype(bool), mask.astype(np.float32), mask.astype(np.int64), mask[None],
                     mask[..., None], mask * 255, tensor, tensor.bool()[None], tensor.float()):
            assert (load_mask(form) == mask).all()
        for encoding in MASK_ENCODINGS: assert (load_mask(mask == 1, encoding) == mask).all()

    def test_the_kits_own_form_keeps_ignored_pixels(self, mask):
        mask[0] = 255
        assert (load_mask(mask) == mask).all()

    @pytest.mark.parametrize('value, part', [
        (np.full((4, 4), .5), 'threshold'), (np.full((4, 4), np.nan), 'NaN'), (np.full((4, 4), -1), 'values from -1'),
        (np.full((4, 4), 256), '256'), (np.zeros(4), 'shape (4,)'), (np.zeros((2, 4, 4)), 'shape'),
        (np.zeros((4, 4), complex), 'complex'), (np.zeros((4, 4), object), 'object')])
    def test_refused(self, value, part):
        assert part in refusal(load_mask, value)

    def test_size_names_both(self, photo, mask, write):
        photo_file, mask_file = write(photo, 'cat.png'), write(mask[:20] * 255, 'cat_mask.png')
        message = refusal(load_pair, photo_file, mask_file)
        assert all(part in message for part in ('cat.png', 'cat_mask.png', '36 x 20', '36 x 24'))
        assert 'EXIF' in refusal(load_mask, mask.T, size=(24, 36))
        assert load_mask(mask, size=(24, 36)).shape == (24, 36)

    def test_empty(self, photo, mask):
        assert 'no pixel as foreground' in refusal(load_pair, photo, mask * 0)
        assert 'values are 0, 255' in refusal(load_pair, photo, mask * 255, 'voc')
        assert load_pair(photo, mask * 0, require_foreground=False)[1].max() == 0
        ramp = np.arange(24 * 36, dtype=np.uint16).reshape(24, 36) % 100 + 2
        assert '...' in refusal(load_pair, photo, ramp, label=1)

    @quick
    @given(masks3)
    def test_saved_and_read_back(self, tmp_path_factory, m):
        folder = tmp_path_factory.getbasetemp() / 'saved'
        assert (load_mask(save_mask(m, folder / 'a.png', 'voc'), 'voc') == m).all()
        plain = m == 1
        assert (load_mask(save_mask(plain, folder / 'b.png'), 'binary') == plain).all()
        assert set(np.unique(Image.open(folder / 'b.png'))) <= {0, 255}

    def test_saving_refuses_loss(self, mask, tmp_path):
        assert "encoding='voc'" in refusal(save_mask, mask * 255, tmp_path / 'a.png')
        assert '.png' in refusal(save_mask, mask, tmp_path / 'a.jpg')
        assert 'alpha' in refusal(save_mask, mask, tmp_path / 'a.png', 'alpha')
        assert '[2]' in refusal(save_mask, mask * 2, tmp_path / 'a.png', 'voc')
        assert not list(tmp_path.iterdir())


class TestResize:
    @quick
    @given(masks3, st.integers(1, 13), st.integers(1, 13))
    def test_mask_is_nearest_by_centres(self, m, h, w):
        got = resize_mask(m, (h, w))
        assert (got == F.interpolate(torch.from_numpy(m)[None, None], (h, w), mode='nearest-exact')[0, 0].numpy()).all()
        assert (resize_mask(m, m.shape) == m).all() and set(got.ravel()) <= set(m.ravel())
        assert (resize_mask(resize_mask(m, (3 * m.shape[0], 2 * m.shape[1])), m.shape) == m).all()

    def test_photo_averages_when_it_shrinks(self, photo):
        got = resize_photo(photo, (12, 18))
        want = F.interpolate(torch.from_numpy(photo).permute(2, 0, 1)[None].double(), (12, 18), mode='bilinear',
                             antialias=True)[0].permute(1, 2, 0).numpy()
        assert np.abs(got - want).max() <= 1.5 and got.dtype == np.uint8

    @pytest.mark.parametrize('size', [(5, 7), (60, 50), 33])
    def test_map_is_torchs_bilinear(self, size):
        values = np.random.default_rng(3).normal(size=(11, 13)).astype(np.float32)
        shape = (size, size) if isinstance(size, int) else size
        want = F.interpolate(torch.from_numpy(values)[None, None], shape, mode='bilinear', antialias=True)[0, 0].numpy()
        assert np.abs(resize_map(values, size) - want).max() < 1e-4

    @pytest.mark.parametrize('resize', [resize_mask, resize_map])
    def test_no_size(self, mask, resize):
        assert 'no size' in refusal(resize, mask, 0)

    def test_tensors(self, photo, mask):
        x = to_tensor(photo)
        assert x.dtype == torch.float32 and x.is_contiguous()
        assert (x.numpy() == (photo.transpose(2, 0, 1) / np.float32(255))).all()
        small = resize_photo(photo, 10).transpose(2, 0, 1)
        assert (to_tensor(photo, 10).numpy() * 255).round().tolist() == small.tolist()
        assert (load_photo(x) == photo).all()
        mask[0] = 255
        assert mask_to_tensor(mask).tolist() == (mask == 1).astype(float).tolist()
        ignored = mask_to_tensor(mask, 12, ignored=-1)
        assert ignored.dtype == torch.float32
        assert ignored.tolist() == np.where(resize_mask(mask, 12) == 255, -1., resize_mask(mask, 12)).tolist()


class TestPainting:
    def test_overlay_is_the_formula(self, photo, mask):
        mask[0] = 255
        want = photo.astype(float)
        for y, x in zip(*np.nonzero(mask == 1)): want[y, x] = .7 * photo[y, x] + .3 * np.array([0, 114, 178])
        got = overlay(photo, mask, '#0072B2', alpha=.3)
        assert (got == np.rint(want)).all()
        assert (overlay(photo, mask, (0, 114, 178), .3) == got).all()
        assert (overlay(photo, mask == 9) == photo).all() and (overlay(photo, mask, alpha=0) == photo).all()
        lined = overlay(photo, mask, 'red', alpha=.3, outline=1)
        assert (lined[mask_outline(mask, 1)] == [255, 0, 0]).all()

    @quick
    @given(masks3, st.integers(1, 3))
    def test_outline_is_the_pixels_near_the_outside(self, m, width):
        """Independent: the city-block distance to the nearest pixel outside, by brute force."""
        inside = np.pad(m == 1, 1)
        out = np.argwhere(~inside)
        want = [[inside[y, x] and np.abs(out - (y, x)).sum(1).min() <= width for x in range(1, inside.shape[1] - 1)]
                for y in range(1, inside.shape[0] - 1)]
        assert (mask_outline(m, width) == np.array(want)).all()

    def test_overlay_refuses_other_sizes(self, photo, mask):
        assert '(24, 36, 3)' in refusal(overlay, photo, mask[:5])
        assert 'float' in refusal(overlay, photo / 255, mask)

    def test_heatmap(self):
        from matplotlib import colormaps
        values = np.linspace(-1, 1, 12).reshape(3, 4)
        want = np.round(colormaps['cividis'](((values + 1) / 2).astype(np.float32))[..., :3] * 255)
        assert (heatmap(values, cmap='cividis') == want).all()
        assert heatmap(values, (30, 50)).shape == (30, 50, 3)
        assert (heatmap(np.ones((3, 3))) == heatmap(values)[0, 0]).all()
        fixed = heatmap(values, vmin=0, vmax=.5)
        assert (fixed[values <= 0] == heatmap(values)[0, 0]).all()
        assert (fixed[values >= .5] == heatmap(values)[2, 3]).all()

    @pytest.mark.parametrize('values', [np.array([[0, np.nan]]), np.array([[np.inf, 0]]), np.zeros((1, 2, 3))])
    def test_heatmap_refuses(self, values):
        assert 'finite' in refusal(heatmap, values)

    def test_row(self, photo, mask):
        import matplotlib.pyplot as plt
        figure = show_row([photo, mask], ['photo', 'mask'])
        assert [ax.get_title() for ax in figure.axes] == ['photo', 'mask'] and not plt.get_fignums()
        assert (figure.axes[0].images[0].get_array() == photo).all()
        file = io.BytesIO()
        figure.savefig(file)
        assert np.asarray(Image.open(file)).std() > 10
        assert len(show_row([photo]).axes) == 1
        assert '2 pictures and 1 titles' in refusal(show_row, [photo, mask], ['one'])
        assert '0 pictures' in refusal(show_row, [])
