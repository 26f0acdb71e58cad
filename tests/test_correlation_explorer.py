"""The correlation explorer: every number that is shown, against loops and torch; the same numbers in the browser's script."""
import base64
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from traitlets import TraitError

from fsskit.correlation import correlation, CorrelationNet, mask_correlation
from fsskit.correlation_explorer import (channel_tables, column_weights, correlate_photos, correlation_view,
                                         CorrelationExplorer,
                                         CorrelationView, explore_correlation, layer_tables, make_table,
                                         mask_on_grid, PairAnswers, pairs_of, run_module, signed_colours, span_of)
from fsskit.photos import FSSKitError
from fsskit.predictor import create_model, FewShotPredictor
from fsskit.similarity import ColourBackbone
from fsskit.similarity_explorer import pair_features
from fsskit.widgets import bundle
from test_javascript import node  # noqa: F401


class Steps(ColourBackbone):
    """A backbone with three layers, one of them on a finer grid."""
    name, layers, default_layers = 'steps', [0, 1, 2], (0, 1, 2)
    def __init__(self):
        super().__init__()
        self.dims = 3 * self.dims
    def forward(self, images, layers=None):
        fine = super().forward(images, [0])[0]
        maps = [fine, F.avg_pool2d(fine.roll(7, 1) + 0.3, 2), F.avg_pool2d(fine, 2)]
        return [maps[n] for n in (self.default_layers if layers is None else layers)]


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.fixture
def photos(photo, mask):
    """A support, a query, and a mask of the support."""
    big, marked = np.kron(photo, np.ones((4, 4, 1), np.uint8)), np.kron(mask, np.ones((4, 4), np.uint8))
    return big, big[::-1, ::-1].copy(), marked


class Shift(nn.Module):
    """(1,L,...) -> two channels, the second with negative numbers and larger spread."""
    def forward(self, volume):
        first = volume[0] - volume[1] if isinstance(volume, tuple) else volume
        return torch.stack([first.mean(1), 3 * (first.mean(1) - first.mean())], 1)


@pytest.fixture
def view(photos):
    support, query, mask = photos
    return correlation_view(support, query, mask, Steps(), size=64, after=Shift())


def test_a_table_is_its_bytes(view):
    pairs = draw(2, 3, 4, 5).numpy()
    table = make_table('a', pairs)
    step = (pairs.max() - pairs.min()) / 255
    assert table.grids == ((2, 3), (4, 5)) and table.values.values.shape == (6, 20)
    assert np.abs(pairs_of(table) - pairs.reshape(6, 20)).max() <= step / 2 + 1e-6
    assert table.top == pytest.approx(np.quantile(np.abs(pairs), 0.999), rel=1e-6)
    assert make_table('zero', np.zeros((1, 1, 2, 2))).top == 1


def test_tables_before_are_cosines_on_one_grid_and_their_mean(photos):
    support, query, _ = photos
    names, volume = correlate_photos([query, support], Steps(), None, 64)
    assert names == ['layer 0', 'layer 1', 'layer 2'] and volume.shape == (1, 3, 4, 4, 4, 4)
    tables = layer_tables(volume, names)
    assert [t.name for t in tables] == [*names, 'mean of the layers']
    np.testing.assert_allclose(pairs_of(tables[3]), volume[0].mean(0).reshape(16, 16), atol=0.003)
    assert len(layer_tables(volume[:, :1], names[:1])) == 1
    found = pair_features([query, support], Steps(), [2], 64)[0]
    q, s = (torch.from_numpy(f).flatten(1) for f in found[1:])
    cosines = torch.tensor([[max(0, torch.dot(a, b) / (a.norm() * b.norm())) for b in s.T] for a in q.T])
    np.testing.assert_allclose(pairs_of(tables[2]), cosines, atol=0.003)


def test_weights_are_those_of_mask_correlation():
    inside, volume = torch.rand(1, 2, 3), torch.rand(1, 1, 2, 2, 2, 3)
    outside = (1 - inside) / 2
    for kind in ('none', 'signed'):
        wanted = mask_correlation(volume, inside, kind, outside)
        np.testing.assert_allclose(volume.flatten(4).numpy() * column_weights(inside, outside, kind), wanted.flatten(4),
                                   atol=1e-6)
    np.testing.assert_allclose(column_weights(inside, outside, 'difference'), (inside - outside).flatten(), atol=1e-6)
    assert (column_weights(inside, outside, 'whole') == 1).all()


def test_the_mask_on_the_grid(photos):
    mask = photos[2]
    inside, outside = mask_on_grid(mask, 64, (4, 4))
    small = np.asarray([[mask[int((y + 0.5) * 96 / 64), int((x + 0.5) * 144 / 64)] for x in range(64)]
                        for y in range(64)])
    np.testing.assert_allclose(inside[0], small.reshape(4, 16, 4, 16).mean((1, 3)), atol=0.08)
    np.testing.assert_allclose(inside + outside, 1, atol=1e-6)
    everything, nothing = mask_on_grid(None, 64, (2, 3))
    assert (everything == 1).all() and (nothing == 0).all() and everything.shape == (1, 2, 3)


@pytest.mark.parametrize('mix', ['none', 'light', 'full'])
def test_pair_answers_average_to_what_the_network_says(mix):
    torch.manual_seed(0)
    net, head = CorrelationNet(2, widths=(4, 8), mix=mix, mix_blocks=1).eval(), nn.Conv2d(8, 3, 1)
    volume, other = torch.rand(1, 2, 3, 4, 5, 6), torch.rand(1, 2, 3, 4, 5, 6)
    with torch.no_grad():
        for given in (volume, (volume, other)):
            found = PairAnswers(net, head)(given)
            assert found.shape == (1, 3, 3, 4, 2, 2)
            torch.testing.assert_close(found.mean((4, 5)), head(net(given)), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(PairAnswers(net)(volume).mean((4, 5)), net(volume), atol=1e-5, rtol=1e-4)
        with pytest.raises(Exception):
            PairAnswers(net)(volume[:, :1])
    assert not net.mix._forward_hooks


def test_channels_that_vary_most_come_first_and_are_the_same_for_every_contrast():
    answers = {'whole': draw(4, 2, 2, 3, 3) * torch.tensor([1., 9, 2, 5]).view(4, 1, 1, 1, 1),
               'none': draw(4, 2, 2, 3, 3, seed=1)}
    tables = channel_tables(answers, most=2)
    for kind, found in tables.items():
        assert [t.name for t in found] == ['channel 1', 'channel 3', 'mean of 4 channels']
        for t, wanted in zip(found, (answers[kind][1], answers[kind][3], answers[kind].mean(0))):
            np.testing.assert_allclose(pairs_of(t), wanted.reshape(4, 9), atol=0.12)
    (only,) = channel_tables({'whole': answers['whole'][:1]})['whole']
    assert only.name == 'answer'


def test_modules_may_answer_for_query_cells_and_must_answer_with_tensors():
    volume, ones = torch.rand(1, 2, 2, 3, 4, 4), torch.ones(1, 4, 4)
    seen = run_module(lambda v: v.mean((4, 5)), volume, ones, 0 * ones, 'none')
    torch.testing.assert_close(seen, volume[0].mean((3, 4))[..., None, None])
    apart = run_module(lambda pair: pair[0] - 2 * pair[1], volume, ones / 2, ones / 4, 'difference')
    torch.testing.assert_close(apart, volume[0] * 0)
    for wrong, said in ((lambda v: v[0], r'\(2, 2, 3, 4, 4\)'), (lambda v: [v], 'list'),
                        (lambda v: torch.cat([v, v]), r'\(2, 2')):
        with pytest.raises(FSSKitError, match=f'after: the module returned {said}.*PairAnswers'):
            run_module(wrong, volume, ones, ones, 'whole')


def test_a_state_chooses_table_contrast_row_and_column(view):
    assert view.contrasts == ['whole', 'none', 'signed'] and view.state()['layer'] == 3 and view.state()['channel'] == 2
    place = dict(query=[0.3, 0.9], support=[0.99, 0.1])  # cells (1, 3) and (3, 0)
    for kind in view.contrasts:
        shown, whole = view.shown(contrast=kind, layer=1, **place), view.shown(layer=1).pairs
        np.testing.assert_allclose(shown.pairs, whole * view.weights.get(kind, 1), rtol=1e-6)
        assert shown.cells == (7, 12) and shown.signed == (kind == 'signed')
        np.testing.assert_array_equal(shown.row, shown.pairs[7].reshape(4, 4))
        np.testing.assert_array_equal(shown.column, shown.pairs[:, 12].reshape(4, 4))
        assert shown.value == shown.pairs[7, 12]
        assert shown.span == (-shown.table.top if kind == 'signed' else 0, shown.table.top)


def test_after_the_network_every_contrast_has_its_own_tables(photos, view):
    support, query, mask = photos
    names, volume = correlate_photos([query, support], Steps(), None, 64)
    inside, outside = mask_on_grid(mask, 64, (4, 4))
    for kind in view.contrasts:
        given = volume if kind == 'whole' else mask_correlation(volume, inside, kind, outside)
        wanted = Shift()(given)[0, 1].reshape(16, 16)
        shown = view.shown(stage='after', contrast=kind, channel=0)
        assert shown.table.name == 'channel 1' and shown.signed
        np.testing.assert_allclose(shown.pairs, wanted, atol=view.error + 1e-5)
    both = correlation_view(support, query, mask, Steps(), size=64, after=Shift(), contrasts=['difference'])
    first, second = mask_correlation(volume, inside, 'difference', outside)
    np.testing.assert_allclose(both.shown(stage='after', contrast='difference', channel=0).pairs,
                               Shift()((first, second))[0, 1].reshape(16, 16), atol=both.error + 1e-5)
    np.testing.assert_allclose(both.shown(contrast='difference').pairs, view.shown(contrast='signed').pairs, atol=1e-6)


def test_wrong_states_and_sizes_are_named(photos, view):
    support, query, mask = photos
    for state in (dict(contrast='difference'), dict(layer=4), dict(layer=-1), dict(stage='after', channel=3)):
        with pytest.raises(FSSKitError, match='this view has 4 before, some after a network.*whole, none, signed'):
            view.shown(**state)
    plain = correlation_view(support, query, None, Steps(), layers=[2], size=64)
    assert plain.contrasts == ['whole'] and plain.state()['channel'] == 0
    with pytest.raises(FSSKitError, match='1 before a network.*contrasts whole'):
        plain.shown(stage='after')
    with pytest.raises(FSSKitError, match=r'13 tables of 16 x 16 pairs.*more than 0\.0 MB'):
        correlation_view(support, query, mask, Steps(), size=64, after=Shift(), max_bytes=13 * 256 - 1)
    with pytest.raises(FSSKitError, match='foreground'):
        correlation_view(support, query, mask * 0, Steps(), size=64)


def test_ranges_of_colours(view):
    shown, signed = view.shown(), view.shown(contrast='signed')
    values = np.array([-3., 1.])
    assert span_of(values, shown, False) == shown.span and span_of(values, shown, True) == (-3, 1)
    assert span_of(values, signed, True) == (-3, 3)
    table = signed_colours().astype(int)
    assert table.shape == (256, 3)
    assert table[0, 2] > table[0, 0]
    assert table[255, 0] > table[255, 2]
    assert table[127:129].min() > 235


def test_the_figure_shows_the_state(view):
    state = dict(query=[0.3, 0.9], support=[0.99, 0.1], contrast='signed', layer=1)
    shown, figure = view.shown(**state), view.static(opacity=0.3, **state)
    for ax, values, name in zip(figure.axes, (shown.column, shown.row), ('query', 'support')):
        drawn = ax.images[1]
        np.testing.assert_allclose(drawn.get_array(), values)
        assert drawn.get_alpha() == 0.3 and drawn.get_clim() == shown.span and name in ax.get_title()
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), shown.pairs)
    assert {line.get_ydata()[0] for line in figure.axes[2].lines[::2]} >= {7}
    assert 'layer 1' in figure.axes[2].get_title()
    height, width = view.photos[1].shape[:2]
    assert (figure.axes[1].patches[0].get_x(), figure.axes[1].patches[0].get_y()) == (0, 3 * height / 4)


def test_the_widget_follows_its_traits(view, tmp_path):
    widget = CorrelationExplorer(view)
    assert widget.current() == view.state()
    widget.query, widget.contrast, widget.layer = [0.3, 0.9], 'none', 0
    np.testing.assert_array_equal(widget.shown.row, view.shown(query=[0.3, 0.9], contrast='none', layer=0).row)
    widget.set_state({'stage': 'after', 'channel': 1})
    assert widget.shown.table.name == 'channel 0'
    with pytest.raises(TraitError):
        widget.stage = 'later'
    path = widget.to_html(tmp_path / 'page.html', opacity=0.4)
    state = json.loads(re.search(r'id="state">(.*?)</script>', path.read_text(), re.S)[1])
    assert (state['stage'], state['contrast'], state['opacity'], state['query']) == ('after', 'none', 0.4, [0.3, 0.9])
    sent = np.frombuffer(base64.b64decode(state['payload']['after']['none'][0]['table']), np.uint8)
    assert np.array_equal(sent, view.after['none'][0].values.values.ravel()) and path.stat().st_size < 200_000
    assert widget.to_png(tmp_path / 'page.png').stat().st_size > 1000


def test_a_predictor_with_and_without_a_4d_branch(photos):
    support, query, mask = photos
    plain = FewShotPredictor(create_model('dense_match', Steps(), input_size=64)).set_support(support, mask)
    opened = explore_correlation(plain, query)
    assert opened.view.contrasts == ['whole', 'none', 'signed'] and not opened.view.after
    np.testing.assert_array_equal(opened.view.shown().pairs,
                                  correlation_view(support, query, mask, Steps(), size=64).shown().pairs)
    model = create_model('fs_dino', Steps(), head=None, adapter='random', sam=None, input_size=64, early=1,
                         widths=(4, 8), contrast='difference')
    predictor = FewShotPredictor(model).set_support(support, mask)
    opened = explore_correlation(predictor, query, channels=1)
    assert opened.view.contrasts == ['whole', 'none', 'signed', 'difference']
    _, volume = correlate_photos([query, support], Steps(), model.settings.layers, 64)
    inside, outside = mask_on_grid(mask, 64, tuple(volume.shape[4:]))
    with torch.no_grad():
        said = model.coarse(model.branch(mask_correlation(volume, inside, 'difference', outside)))[0, 0]
    rows = opened.view.shown(stage='after', contrast='difference').pairs.mean(1)
    np.testing.assert_allclose(rows, said.flatten(), atol=opened.view.error + 1e-4)


def test_the_browser_computes_what_python_computes(node, view):  # noqa: F811
    payload = json.loads(json.dumps(view.payload(), default=lambda value: base64.b64encode(value).decode()))
    places = ([0.1, 0.9], [0.6, 0.3], [0.99, 0.])
    asked = [view.state() | dict(stage=stage, contrast=kind, layer=1, channel=0, query=q, support=s)
             for stage in ('before', 'after') for kind in view.contrasts for q, s in zip(places, places[::-1])]
    script = '''import { answer, readTables, tablePixels } from 'STATIC/correlation_explorer.js';
    import { bytes } from 'STATIC/maps.js';
    const data = readTables(input.payload), colours = [data.colours, data.signed].map(bytes);
    const found = input.asked.map((state) => {
      const shown = answer(data, state);
      return { maps: shown.maps.map((map) => [...map]), value: shown.value, span: [shown.low, shown.high], signed: shown.signed,
        cells: shown.cells, pixels: [...tablePixels(shown, colours[Number(shown.signed)])] };
    });
    console.log(JSON.stringify(found));'''
    tables = view.colours, signed_colours()
    for state, got in zip(asked, node(script, {'payload': payload, 'asked': asked})):
        shown = view.shown(**state)
        np.testing.assert_allclose(got['maps'][0], shown.column.ravel(), atol=1e-6)
        np.testing.assert_allclose(got['maps'][1], shown.row.ravel(), atol=1e-6)
        assert tuple(got['cells']) == shown.cells and got['signed'] == shown.signed
        np.testing.assert_allclose([got['value'], *got['span']], [shown.value, *shown.span], atol=1e-6)
        low, high = shown.span
        level = np.clip(np.floor((shown.pairs - low) / (high - low) * 255 + 0.5), 0, 255).astype(int)
        pixels = np.array(got['pixels'], np.uint8).reshape(*shown.pairs.shape, 4)
        near = np.abs(pixels[..., :3].astype(int) - tables[shown.signed][level]).max()
        assert near <= 12 and (pixels[..., 3] == 255).all()  # a step of colour where rounding is at its edge


def test_the_bundle_is_one_module(node):  # noqa: F811
    code = base64.b64encode(bundle('correlation_explorer').encode()).decode()
    assert node(f"const made = await import('data:text/javascript;base64,{code}');\nconsole.log(JSON.stringify(typeof "
                "made.default.render))") == 'function'


def test_views_take_tables_that_were_made_elsewhere():
    q, s = draw(1, 5, 2, 3), draw(1, 5, 3, 2, seed=1)
    made = CorrelationView([np.zeros((20, 30, 3), np.uint8), np.zeros((30, 20, 3), np.uint8)],
                           layer_tables(correlation([q], [s]), ['x']))
    assert made.contrasts == ['whole'] and made.shown().pairs.shape == (6, 6) and made.shown().cells == (4, 3)
    exact = correlation([q], [s])[0, 0].reshape(6, 6).numpy()
    np.testing.assert_allclose(made.shown().pairs, exact, atol=made.error + 1e-6)
    with pytest.raises(FSSKitError, match="has no state 'place'"):
        made.static(place=[0, 0])
