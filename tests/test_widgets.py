"""The common part of the widgets: bytes with a known error, colours, scripts, pages."""
import base64
import io
import json
import re

import matplotlib
import numpy as np
import pytest
import traitlets
from hypothesis import given, settings, strategies as st
from PIL import Image

from fsskit import widgets
from fsskit.photos import FSSKitError, show_row
from fsskit.widgets import (as_json, bundle, byte_map,
                            colour_table, dequantise, fewer_channels, html_page, largest_error,
                            photo_entry, quantise, rotation, SAFE_MAPS, shrunk, static_text, View, ViewWidget,
                            write_file)


class Demo(View):
    script, title = 'pair_explorer', 'A <demo> & more'
    def payload(self): return {'numbers': bytes([0, 255]), 'name': '</script>'}
    def state(self): return {'plane': 3, 'opacity': 0.5}
    def static(self, plane=3, opacity=0.5):
        return show_row([np.full((9, 12), plane * 10, np.uint8)], [f'plane {plane}'])


class Widget(ViewWidget):
    _esm = 'export default { render() {} };'
    plane, opacity = traitlets.Int(0).tag(sync=True), traitlets.Float(0).tag(sync=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 30), st.floats(1e-6, 1e6))
def test_no_entry_moves_by_more_than_half_a_scale(seed, n, channels, size):
    vectors = (np.random.default_rng(seed).normal(size=(n, channels)) * size).astype(np.float32)
    small = quantise(vectors)
    assert small.values.dtype == np.int8 and np.abs(small.values.astype(int)).max() == 127
    assert (np.abs(dequantise(small) - vectors) <= small.scales[:, None] * 0.50001).all()


def test_zeros_stay_zeros_and_bad_vectors_are_refused():
    assert np.array_equal(dequantise(quantise(np.zeros((2, 3)))), np.zeros((2, 3)))
    assert quantise(np.zeros((0, 3))).values.shape == (0, 3)
    with pytest.raises(FSSKitError, match=r'1 NaN'):
        quantise(np.array([[1., np.nan]]))
    with pytest.raises(FSSKitError, match=r'shape \(3,\)'):
        quantise(np.zeros(3))


def test_largest_error_looks_at_all_pairs():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(50, 8)).astype(np.float32), draw.normal(size=(70, 8)).astype(np.float32)
    wanted = max(abs(x @ y - p @ q) for x, p in zip(a, dequantise(quantise(a)))
                 for y, q in zip(b, dequantise(quantise(b))))
    for rows in (1, 7, 1024):
        assert largest_error(a, b, quantise(a), quantise(b), rows) == pytest.approx(wanted, rel=1e-4)


def test_projection_is_the_best_of_its_rank_and_rotation_changes_nothing():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(40, 12)) * np.arange(1, 13), draw.normal(size=(30, 12)) * np.arange(1, 13)
    whole = fewer_channels(a, b, 99)
    assert whole[0].shape == (40, 12)
    np.testing.assert_allclose(whole[0] @ whole[1].T, a @ b.T, rtol=1e-4, atol=1e-2)
    left, right = fewer_channels(a, b, 5)
    kept, both = np.concatenate([left, right]), np.concatenate([a, b])
    sigma = np.linalg.svd(both, compute_uv=False)
    assert ((kept @ kept.T - both @ both.T) ** 2).sum() == pytest.approx((sigma[5:] ** 4).sum(), rel=1e-3)
    r = rotation(7)
    np.testing.assert_allclose(r @ r.T, np.eye(7), atol=1e-12)
    assert np.array_equal(r, rotation(7)) and not np.allclose(r, rotation(7, seed=1))


def test_maps_as_bytes():
    values = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    m = byte_map(values)
    back = m.low + (m.high - m.low) * m.values / 255
    assert np.abs(back - values).max() <= (m.high - m.low) / 510 * 1.0001
    assert m.values.min() == 0 and m.values.max() == 255
    assert byte_map(np.full((2, 2), 0.3)).values.max() == 0
    for bad in (np.array([np.inf]), np.zeros((0, 3))):
        with pytest.raises(FSSKitError, match='finite'):
            byte_map(bad)


@pytest.mark.parametrize('name', SAFE_MAPS)
def test_colours_are_those_of_matplotlib_and_get_lighter(name):
    table = colour_table(name)
    assert np.array_equal(table, np.round(matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).astype(np.uint8))
    luminance = (table / 255.) ** 2.2 @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance[::8]) > 0).all()


def test_other_colour_maps_are_refused():
    with pytest.raises(FSSKitError, match="'jet'.*viridis, cividis"):
        colour_table('jet')


def test_a_photo_as_text(photo):
    entry = photo_entry(np.kron(photo, np.ones((20, 20, 1), np.uint8)), 'support', side=360)
    image = Image.open(io.BytesIO(base64.b64decode(entry['source'].removeprefix('data:image/jpeg;base64,'))))
    assert image.size == (360, 240) == (entry['width'], entry['height']) and entry['name'] == 'support'
    assert shrunk((24, 36), 448) == (24, 36) and shrunk((1000, 2), 100) == (100, 1)


def test_every_file_of_a_bundle_comes_once_and_before_it_is_used():
    joined = bundle('page', 'mask_painter')
    assert not re.search(r'^import ', joined, re.M) and joined.count('export default') == 1
    order = [joined.index(name) for name in ('class PageModel', 'function photoCanvas', 'function stroke',
                                             'function render')]
    assert order[1] < order[3] and order[2] < order[3]
    for name in ('function photoCanvas', 'class History', 'class PageModel'):
        assert len(re.findall(rf'^{name}', joined, re.M)) == 1 and f'export {name}' not in joined
    with pytest.raises(FSSKitError, match="'static/nothing.js'.*install"):
        static_text('nothing.js')


def test_json_is_safe_within_a_script_and_takes_bytes():
    text = as_json({'a': '</script><!--', 'b': bytes([1, 2]), 'c': [0.5, memoryview(b'xyz')]})
    assert '<' not in text
    assert json.loads(text) == {'a': '</script><!--', 'b': 'AQI=', 'c': [0.5, 'eHl6']}
    with pytest.raises(TypeError, match='set'):
        as_json({'a': {1}})


def test_a_page_holds_everything_and_fetches_nothing(tmp_path):
    page = Demo().to_html(tmp_path / 'deep' / 'page.html', plane=5).read_text()
    state = json.loads(re.search(r'id="state">(.*?)</script>', page, re.S)[1])
    assert state == {'payload': {'numbers': 'AP8=', 'name': '</script>'}, 'plane': 5, 'opacity': 0.5}
    assert '<title>A &lt;demo&gt; &amp; more</title>' in page and "default-src 'none'" in page
    assert not re.search(r'https?://|<link|<img| src=', page) and page.count('<script') == 2
    assert static_text('widgets.css') in page


def test_a_page_has_a_largest_size():
    with pytest.raises(FSSKitError, match=r'The page would have 0\.2 MB, more than 0\.1 MB: take fewer layers'):
        html_page('pair_explorer', {'x': bytes(100_000)}, 'large', 100_000)


def test_a_view_without_methods_says_what_is_missing():
    for call in (View().payload, View().static):
        with pytest.raises(NotImplementedError):
            call()
    assert View().state() == {}
    with pytest.raises(FSSKitError, match="View has no state 'x': it has none"):
        View().checked({'x': 1})
    with pytest.raises(FSSKitError, match="Demo has no state 'planes': it has plane, opacity"):
        Demo().to_html('never.html', planes=1)


def test_pictures_are_kept(tmp_path):
    image = Image.open(Demo().to_png(tmp_path / 'a.png', plane=4))
    assert image.format == 'PNG' and image.width > 50
    assert write_file(tmp_path / 'b' / 'c.bin', b'123').read_bytes() == b'123'


def test_a_widget_carries_its_state_and_its_picture(tmp_path):
    widget = Widget(Demo(), plane=7)
    assert widget.current() == {'plane': 7, 'opacity': 0.5} and widget.payload['numbers'] == bytes([0, 255])
    data, _ = widget._repr_mimebundle_()
    assert 'application/vnd.jupyter.widget-view+json' in data
    assert Image.open(io.BytesIO(base64.b64decode(data['image/png']))).format == 'PNG'
    assert repr(widget) == data['text/plain'] == '<Widget: A <demo> & more>'
    widget.plane = 9
    state = re.search(r'id="state">(.*?)</script>', widget.to_html(tmp_path / 'a.html').read_text(), re.S)[1]
    assert json.loads(state)['plane'] == 9
    assert widget.static().axes[0].get_title() == 'plane 9' and widget.static(plane=2).axes[0].get_title() == 'plane 2'
    assert widget.to_png(tmp_path / 'a.png').stat().st_size > 100
    with pytest.raises(FSSKitError, match="'plan'"):
        Widget(Demo(), plan=1)


def test_importing_the_package_alone_stays_light():
    import subprocess
    import sys
    look = "import sys, fsskit; print(sorted({'anywidget', 'ipywidgets', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, '-c', look], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stderr
    assert widgets.STATIC.is_dir()
