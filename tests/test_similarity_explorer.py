"""The similarity explorer: every number that is shown, against torch or a loop; the page; the widget's state."""
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from traitlets import TraitError

from fsskit.photos import FSSKitError
from fsskit.predictor import FewShotPredictor, create_model
from fsskit.similarity import ColourBackbone
from fsskit.similarity_explorer import (cell_of,
                                        colour_range, explore, pair_features, pair_layer, pair_map, plane_range,
                                        similarity_view, SimilarityExplorer, SimilarityView, spend_bytes, unit_vectors)


class Steps(ColourBackbone):
    """A backbone with three layers, the last one on a coarser grid."""
    name, layers, default_layers = 'steps', [0, 1, 2], (0, 1)
    def forward(self, images, layers=None):
        fine = super().forward(images, [0])[0]
        maps = [fine, fine.roll(7, 1) + 0.3, F.avg_pool2d(fine, 2)]
        return [maps[n] for n in (self.default_layers if layers is None else layers)]


@pytest.fixture
def photos(photo):
    big = np.kron(photo, np.ones((4, 4, 1), np.uint8))
    return big, big[::-1, ::-1].copy()


@pytest.fixture
def view(photos):
    return similarity_view(*photos, backbone=Steps(), layers=[0, 1], size=64)


def features(seed=0, shape=(10, 3, 4)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_unit_vectors_run_row_by_row():
    maps = features()
    maps[:, 1, 2] = 0
    rows = unit_vectors(maps)
    assert rows.shape == (12, 10) and np.array_equal(rows[6], np.zeros(10))
    np.testing.assert_allclose(rows[5], maps[:, 1, 1] / np.linalg.norm(maps[:, 1, 1]), rtol=1e-6)


def test_maps_are_cosines_within_the_stated_error_in_both_directions():
    s, q = features(0), features(1, (10, 5, 2))
    layer = pair_layer('layer 0', s, q)
    assert layer.grids == ((3, 4), (5, 2)) and 0 < layer.error < 0.02
    exact = F.normalize(torch.tensor(s).flatten(1), dim=0).T @ F.normalize(torch.tensor(q).flatten(1), dim=0)
    for j in range(12):
        np.testing.assert_allclose(pair_map(layer, 0, j).ravel(), exact[j], atol=layer.error + 1e-6)
    for i in range(10):
        np.testing.assert_allclose(pair_map(layer, 1, i).ravel(), exact[:, i], atol=layer.error + 1e-6)
    found = np.abs(np.stack([pair_map(layer, 0, j).ravel() for j in range(12)]) - exact.numpy()).max()
    assert found == pytest.approx(layer.error, rel=1e-3)
    assert pair_layer('few', s, q, channels=3).error > layer.error


def test_colours_range_from_the_lowest_percent_to_the_highest_thousandth():
    a, b = unit_vectors(features(0, (6, 20, 20))), unit_vectors(features(1, (6, 20, 20)))
    low, high = colour_range(a, b)
    assert (low, high) == tuple(pytest.approx(v, abs=1e-6) for v in np.quantile(a @ b.T, (0.01, 0.999)))
    some = colour_range(a, b, most=20_000)
    assert some == tuple(pytest.approx(v, abs=1e-6) for v in np.quantile(a[::8] @ b.T, (0.01, 0.999)))


def test_bytes_go_where_they_save_the_most_error():
    draw = np.random.default_rng(0)
    flat = draw.normal(size=(30, 16))
    steep = draw.normal(size=(30, 16)) * 0.5 ** np.arange(16)
    layers = [tuple(np.split(v / np.linalg.norm(v, axis=1, keepdims=True), [12])) for v in (flat, steep)]
    counts = spend_bytes(layers, 30 * (4 + 4) + 30 * 20)
    assert sum(counts) == 20 and counts[0] > counts[1] == 8
    assert spend_bytes(layers, 10_000) == [16, 16]
    best = min(sum((np.linalg.svd(np.concatenate(v), compute_uv=False)[n:] ** 4).sum()
                   for v, n in zip(layers, (a, 20 - a)))
               for a in range(8, 13))
    mine = sum((np.linalg.svd(np.concatenate(v), compute_uv=False)[n:] ** 4).sum() for v, n in zip(layers, counts))
    assert mine == pytest.approx(best)
    with pytest.raises(FSSKitError, match=r'60 cells of 2 layers do not fit into 0\.0 MB: take fewer layers'):
        spend_bytes(layers, 300)


def test_features_are_those_of_the_backbone_on_squashed_photos(photos):
    found = pair_features(photos, Steps(), None, 64)
    assert [(name, s.shape, q.shape) for name, s, q in found] == [
        ('layer 0', (128, 8, 8), (128, 8, 8)), ('layer 1', (128, 8, 8), (128, 8, 8)),
        ('layer 2', (128, 4, 4), (128, 4, 4))]
    squashed = np.asarray(Image.fromarray(photos[1]).resize((64, 64), Image.Resampling.BILINEAR, reducing_gap=None))
    direct = Steps()(torch.from_numpy(squashed.copy()).permute(2, 0, 1)[None] / 255, [0])[0][0].numpy()
    assert np.abs(direct - found[0][2]).mean() < 0.05


def test_cells_of_places():
    assert [cell_of(p, (3, 5)) for p in ([0, 0], [0.34, 0], [0.999, 0.999], [1, 1], [-1, 0.5])] == [0, 5, 14, 14, 2]


def test_the_mean_is_the_mean_and_needs_equal_grids(photos, view):
    assert view.names == ['layer 0', 'layer 1', 'mean of the layers'] and view.state()['plane'] == 2
    place = [0.3, 0.7]
    parts = [view.map_at('query', place, plane) for plane in (0, 1)]
    np.testing.assert_allclose(view.map_at('query', place, 2), (parts[0] + parts[1]) / 2, rtol=1e-6)
    assert plane_range(view, 2) == tuple(pytest.approx(np.mean([plane_range(view, p)[i] for p in (0, 1)]))
                                         for i in (0, 1))
    mixed = similarity_view(*photos, backbone=Steps(), size=64)
    assert mixed.names == ['layer 0', 'layer 1', 'layer 2'] and mixed.map_at('support', place, 2).shape == (4, 4)
    assert similarity_view(*photos, backbone='rgb', size=64).names == ['layer 0']


def test_a_turned_photo_is_found_where_it_went(view):
    for y, x in ((0, 0), (2, 5), (7, 3)):
        found = view.map_at('support', [(y + 0.5) / 8, (x + 0.5) / 8], 0)
        assert np.unravel_index(found.argmax(), found.shape) == (7 - y, 7 - x) and found.max() > 0.9


def test_wrong_words_are_named(view):
    for side, plane in (('left', 0), ('support', 3), ('query', -1)):
        with pytest.raises(FSSKitError, match='sides are support, query, planes 0 to 2'):
            view.map_at(side, [0, 0], plane)


def test_payload_is_what_the_script_needs(view):
    payload = view.payload()
    assert [p['kind'] for p in payload['planes']] == ['features', 'features', 'mean']
    first = payload['planes'][0]
    assert first['grids'] == [[8, 8], [8, 8]] and len(first['features'][1]['values']) == 64 * first['channels']
    scales = np.frombuffer(first['features'][1]['scales'], '<f4')
    assert np.array_equal(scales, view.layers[0].vectors[1].scales) and len(payload['colours']) == 768
    assert f'{view.error:.4f}' in payload['note'] and [p['name'] for p in payload['photos']] == ['support', 'query']


def test_the_figure_shows_the_state(view):
    for side, other in (('support', 1), ('query', 0)):
        figure = view.static(side=side, place=[0.2, 0.9], plane=1, opacity=0.3)
        shown = figure.axes[other].images[1]
        np.testing.assert_allclose(shown.get_array(), view.map_at(side, [0.2, 0.9], 1))
        assert shown.get_alpha() == 0.3 and shown.get_clim() == plane_range(view, 1)
        frame = figure.axes[1 - other].patches[0]
        height, width = view.photos[1 - other].shape[:2]
        assert (frame.get_x(), frame.get_y()) == (7 * width / 8, 1 * height / 8)
        assert 'layer 1' in figure.axes[other].get_title() and figure.axes[1 - other].get_title() == side
    stretched = view.static(stretch=True, plane=0).axes[1].images[1]
    assert stretched.get_clim() == (stretched.get_array().min(), stretched.get_array().max())


def test_a_mask_is_drawn_and_checked(photos):
    mask = np.zeros(photos[0].shape[:2], np.uint8)
    mask[20:60, 30:90] = 1
    with_mask, without = (similarity_view(*photos, mask=m, backbone='rgb', size=64) for m in (mask, None))
    changed = (with_mask.photos[0] != without.photos[0]).any(-1)
    assert changed[20, 30:90].all() and not changed[30:50, 40:80].any() and not changed[:20].any()
    np.testing.assert_array_equal(with_mask.map_at('support', [0.5, 0.5], 0), without.map_at('support', [0.5, 0.5], 0))
    with pytest.raises(FSSKitError, match='foreground'):
        similarity_view(*photos, mask=mask * 0, backbone='rgb')


def test_the_widget_follows_its_traits(photos, view):
    widget = SimilarityExplorer(*photos, backbone=Steps(), layers=[0, 1], size=64)
    assert widget.current() == view.state()
    np.testing.assert_array_equal(widget.values, view.map_at('support', [0.5, 0.5], 2))
    widget.side, widget.place, widget.plane = 'query', [0.25, 0.75], 0
    np.testing.assert_array_equal(widget.values, view.map_at('query', [0.25, 0.75], 0))
    assert widget.point == ('query', 0.25 * 96, 0.75 * 144)
    widget.set_state({'pinned': True, 'place': [0.1, 0.2], 'opacity': 0.9})
    assert widget.pinned and widget.current()['place'] == [0.1, 0.2]
    with pytest.raises(TraitError):
        widget.side = 'left'


def test_the_page_carries_the_state_and_stays_small(photos, tmp_path):
    widget = SimilarityExplorer(*photos, backbone=Steps(), layers=[0, 1], size=64)
    widget.plane = 1
    path = widget.to_html(tmp_path / 'page.html', opacity=0.4)
    state = json.loads(re.search(r'id="state">(.*?)</script>', path.read_text(), re.S)[1])
    assert state['plane'] == 1 and state['opacity'] == 0.4 and len(state['payload']['planes']) == 3
    assert path.stat().st_size < 300_000


def test_twelve_layers_of_384_channels_on_37_x_37_cells_fit_into_a_page(photos):
    rows = {n: np.random.default_rng(n).normal(size=(1369, 384)).astype(np.float32) for n in (0, 1)}
    rows = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in rows.values()]
    counts = spend_bytes([tuple(rows)] * 12, 10_000_000)
    assert 2 * 1369 * (sum(counts) + 48) <= 10_000_000 and sum(counts) > 3500
    maps = [v.T.reshape(384, 37, 37) for v in rows]
    layer = pair_layer('layer', *maps, channels=max(counts))
    page = SimilarityView([photos[0], photos[1]], [layer] * 12)
    assert sum(len(f['values']) for p in page.payload()['planes'][:12] for f in p['features']) * 4 / 3 < 14_500_000


def test_a_predictor_opens_the_explorer(photos):
    model = create_model('dense_match', Steps(), input_size=64)
    predictor = FewShotPredictor(model)
    with pytest.raises(FSSKitError, match='set_support'):
        explore(predictor, photos[1])
    mask = np.zeros(photos[0].shape[:2], np.uint8)
    mask[20:60, 30:90] = 1
    predictor.set_support([photos[1], photos[0]], [mask, mask])
    with pytest.raises(FSSKitError, match='No query'):
        explore(predictor)
    widget = explore(predictor, photos[1], shot=1, cmap='cividis')
    assert widget.view.names == ['layer 0', 'layer 1', 'mean of the layers'] and widget.view.cmap == 'cividis'
    whole = predictor.similarity_at((50, 70), query=photos[1], shot=1)
    widget.place = [50 / 96, 70 / 144]
    centres = np.ix_(((np.arange(8) + 0.5) * 12).astype(int), ((np.arange(8) + 0.5) * 18).astype(int))
    assert np.corrcoef(whole[centres].ravel(), widget.values.ravel())[0, 1] > 0.98
