"""The mask painter's arithmetic against slow versions; the editor, clicks, sizes; the widget as the browser drives it."""
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageDraw

from fsskit import mask_painter
from fsskit.mask_painter import (Clicks, fill_mask, from_runs, History, MaskEditor, MaskPainter, merge_changes,
                                 nearest_size, PainterView, row_runs, sam_segmenter, stroke_mask, to_runs)
from fsskit.photos import FSSKitError, load_mask
from fsskit.sam import build_sam, SamSize


def random_mask(seed, size=(17, 23)):
    return np.random.default_rng(seed).choice(np.array([0, 0, 1, 1, 255], np.uint8), size)


def box(photo, points, labels):
    """A segmenter that marks a box around each positive point and unmarks one around each negative point."""
    found = np.zeros(photo.shape[:2], bool)
    for (x, y), label in sorted(zip(points, labels), key=lambda pair: -pair[1]):
        found[max(0, y - 2):y + 3, max(0, x - 2):x + 3] = bool(label)
    return found


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(0.3, 6))
def test_a_stroke_is_all_within_the_radius_of_the_segment(seed, radius):
    draw = np.random.default_rng(seed)
    a, b = draw.uniform(-6, 26, 2), draw.uniform(-6, 26, 2)
    mask = random_mask(seed, (18, 21))
    before = mask.copy()
    stroke_mask(mask, a, b, radius, 255)
    points = a + np.linspace(0, 1, 801)[:, None] * (b - a)
    y, x = np.mgrid[:18, :21]
    distance = np.min(np.hypot(y[..., None] - points[:, 0], x[..., None] - points[:, 1]), axis=-1)
    clear = np.abs(distance - radius) > 2e-3
    assert np.array_equal((mask == 255)[clear], ((distance <= radius) | (before == 255))[clear])
    assert np.array_equal(mask[distance > radius + 2e-3], before[distance > radius + 2e-3])


def test_a_dab_is_a_disc():
    mask = np.zeros((9, 9), np.uint8)
    stroke_mask(mask, (4, 4), (4, 4), 3)
    y, x = np.mgrid[:9, :9] - 4
    assert np.array_equal(mask, y * y + x * x <= 9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_filling_is_pillows_filling(seed):
    mask = random_mask(seed)
    y, x = (int(v) for v in np.random.default_rng(seed).integers(0, mask.shape))
    wanted = Image.fromarray(mask)
    ImageDraw.floodfill(wanted, (x, y), 77)
    fill_mask(mask, (y, x), 77)
    assert np.array_equal(mask, np.asarray(wanted))


def test_runs_of_rows():
    assert row_runs(np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]],
                             bool)) == {0: [(0, 0, 2), (0, 3, 4)], 2: [(2, 1, 4)]}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9))
def test_runs_there_and_back(seed, height, width):
    mask = random_mask(seed, (height, width))
    runs = np.frombuffer(to_runs(mask), '<u4')
    assert np.array_equal(from_runs(to_runs(mask), mask.shape), mask)
    assert (runs // 256).sum() == mask.size and (np.diff(runs % 256) != 0).all()


def test_runs_of_something_else_are_refused():
    for runs in (to_runs(np.zeros((2, 2), np.uint8)), np.array([9 * 256 + 7], '<u4').tobytes()):
        with pytest.raises(FSSKitError, match='3 x 3 with the values'):
            from_runs(runs, (3, 3))


def test_history():
    history = History(b'a', most=3)
    for state in (b'b', b'c', b'd'):
        history.push(state)
    assert history.states == [b'b', b'c', b'd'] and history.state == b'd'
    assert [history.undo(), history.undo(), history.undo(), history.redo()] == [b'c', b'b', b'b', b'c']
    history.push(b'x')
    assert history.redo() == b'x' and history.states == [b'b', b'c', b'x']


def test_editor_steps_can_be_taken_back():
    editor = MaskEditor(np.zeros((20, 30), np.uint8))
    editor.stroke([(5, 5), (5, 20), (15, 20), (15, 5), (5, 5)], 0.6)
    outline = editor.mask
    assert outline[5, 5:21].all() and outline[5:16, 20].all() and outline.sum() == 2 * 16 + 2 * 9
    editor.fill((10, 10), 1)
    assert editor.mask.sum() == 11 * 16
    editor.stroke([(10, 10)], 1, 255)
    assert (editor.mask == 255).sum() == 5
    editor.clear()
    assert not editor.mask.any()
    for _ in range(3):
        editor.undo()
    assert np.array_equal(editor.mask, outline)
    editor.redo()
    assert editor.mask.sum() == 11 * 16
    with pytest.raises(FSSKitError, match=r'\(2, 2\) does not fit'):
        editor.replace(np.zeros((2, 2), np.uint8))


def test_only_changes_are_taken_from_the_working_size():
    loaded = random_mask(0, (60, 90))
    painted = nearest_size(loaded, (20, 30))
    assert np.array_equal(painted, loaded[1::3, 1::3]) and np.array_equal(merge_changes(loaded, painted), loaded)
    painted = painted.copy()
    painted[4:6, 7] = 3
    merged = merge_changes(loaded, painted)
    assert (merged[12:18, 21:24] == 3).all()
    merged[12:18, 21:24] = loaded[12:18, 21:24]
    assert np.array_equal(merged, loaded)


def test_clicks_are_asked_together_and_leave_ignored_pixels(photo):
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[0, :3], mask[10, 10] = 1, 255
    asked = []
    clicks = Clicks(lambda *all: asked.append([list(part) for part in all[1:]]) or box(*all))
    first = clicks.add(photo, mask, (10, 11), True)
    assert first[8:13, 9:14].sum() == 24 + 255 and first[10, 10] == 255 and first[0, :3].all()
    second = clicks.add(photo, first, (12, 13), False)
    assert second[12, 13] == 0 and second[8, 9] == 1 and asked == [[[[11, 10]], [1]], [[[11, 10], [13, 12]], [1, 0]]]
    clicks.reset()
    assert clicks.add(photo, second, (20, 30), True)[8, 9] == 1 and asked[-1] == [[[30, 20]], [1]]


def test_sam_is_asked_once_for_a_photo(photo, monkeypatch):
    sam, loads, embeds = build_sam(SamSize(64, 24, 2, 2, (1,), 2)), [], []
    from fsskit import sam as module
    embed = module.embed_image
    monkeypatch.setattr(module, 'load_sam', lambda *name: loads.append(name) or sam)
    monkeypatch.setattr(module, 'embed_image', lambda *given: embeds.append(1) or embed(*given))
    segment = sam_segmenter('sam_tiny', None)
    for points, labels, several in (([[5, 6]], [1], True), ([[5, 6], [9, 9]], [1, 0], False)):
        answer = module.sam_masks(sam, photo, points, labels, multimask=several)
        assert np.array_equal(segment(photo, points, labels), answer.masks[answer.scores.argmax()])
    assert loads == [('sam_tiny', None)] and len(embeds) == 1 + 2  # two of them are the direct calls
    segment(photo[::-1].copy(), [[1, 1]], [1])
    assert len(loads) == 1 and len(embeds) == 4


def test_large_photos_are_painted_small():
    view = PainterView(np.zeros((1000, 1600, 3), np.uint8), side=400)
    assert view.small_size == (250, 400) and view.small.shape == (250, 400, 3)
    small = np.zeros((250, 400), np.uint8)
    small[10:20, 30:40] = 1
    full = view.full(to_runs(small))
    assert full.shape == (1000, 1600) and full[40:80, 120:160].all() and full.sum() == 1600


def test_the_figure_and_the_page_show_the_mask(photo, mask, tmp_path):
    painter = MaskPainter(photo, mask, segmenter=box)
    figure = painter.static()
    assert f'{mask.sum():,} px' in figure.axes[1].get_title()
    shown = figure.axes[1].images[0].get_array()
    assert (shown[mask == 1] != photo[mask == 1]).any(-1).mean() > 0.9
    assert np.array_equal(shown[mask == 0], photo[mask == 0])
    state = json.loads(re.search(r'id="state">(.*?)</script>', painter.to_html(tmp_path / 'a.html').read_text(),
                                 re.S)[1])
    assert painter.payload['sam'] and not state['payload']['sam'] and state['tool'] == 'brush'
    assert 's SAM' in painter.payload['note'] and 's SAM' not in state['payload']['note']
    assert state['radius'] == painter.radius == 1


def test_the_browser_paints_and_python_takes_back(photo, mask):
    painter = MaskPainter(photo, segmenter=box)
    painter.set_state({'runs': memoryview(to_runs(mask)), 'tool': 'eraser'})
    assert np.array_equal(painter.mask, mask) and painter.tool == 'eraser'
    painter.undo()
    assert not painter.mask.any() and painter.runs == to_runs(mask * 0)
    painter.redo()
    assert np.array_equal(painter.mask, mask) and len(painter.view.editor.history.states) == 2


def test_a_click_marks_and_another_change_ends_the_row_of_clicks(photo):
    painter = MaskPainter(photo, segmenter=box)
    painter.clicked({'kind': 'click', 'point': [10, 12], 'positive': True})
    assert painter.mask.sum() == 25 and painter.mask[10, 12]
    painter.clicked({'kind': 'click', 'point': [12, 12], 'positive': False})
    assert painter.mask.sum() == 10 and painter.clicks.points == [[12, 10], [12, 12]]
    painter.undo()
    assert painter.mask.sum() == 25 and painter.clicks.points == []
    painter.clicked({'kind': 'click', 'point': [20, 30], 'positive': True})
    assert painter.mask.sum() == 50
    painter.set_state({'runs': memoryview(to_runs(painter.mask * 0))})
    assert painter.clicks.base is None and not painter.mask.any()


def test_a_click_that_fails_is_a_sentence_for_the_page(photo, tmp_path):
    painter = MaskPainter(photo, segmenter=sam_segmenter('sam_tiny', tmp_path / 'none.safetensors'))
    sent = []
    painter.send = sent.append
    painter.clicked({'kind': 'click', 'point': [1, 1], 'positive': True})
    assert sent[0]['kind'] == 'problem' and 'none.safetensors' in sent[0]['text'] and not painter.mask.any()


def test_the_default_clicks_are_those_of_the_tiny_sam(photo, monkeypatch):
    monkeypatch.setattr(mask_painter, 'sam_segmenter', lambda name: (name, 'segmenter'))
    assert MaskPainter(photo).clicks.segmenter == ('sam_tiny', 'segmenter')
    assert MaskPainter(photo, segmenter=None).clicks is None


def test_files(photo, mask, tmp_path):
    painter = MaskPainter(photo, segmenter=None)
    painter.mask = mask
    assert np.array_equal(load_mask(painter.save(tmp_path / 'a.png'), 'binary'), mask)
    ignored = mask.copy()
    ignored[0, 0] = 255
    painter.load(ignored)
    painter.save(tmp_path / 'b.png')
    again = MaskPainter(photo, tmp_path / 'a.png', segmenter=None)
    again.load(tmp_path / 'b.png', encoding='voc')
    assert np.array_equal(again.mask, ignored) and np.array_equal(load_mask(tmp_path / 'b.png', 'voc'), ignored)
    with pytest.raises(FSSKitError):
        MaskPainter(photo[:10], mask)
