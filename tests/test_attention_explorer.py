"""The attention explorer: every weight that is shown, against the models' own attention; the same numbers in the browser's script."""
import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from traitlets import TraitError

from fsskit.attention_explorer import (AttentionExplorer,
                                       AttentionView, decoder_view, draw_prompt, encoder_view, fssam_readings,
                                       fssam_view, in_square, Looks, memory_view, prompt_names, read_planes,
                                       support_names, Target)
from fsskit.backbones import create_backbone
from fsskit.calibrated_attention import calibrated_attention, Reading, Weights
from fsskit.fssam import as_features, read_queries
from fsskit.memory import memory_reading
from fsskit.photos import FSSKitError, to_tensor
from fsskit.predictor import create_model, FewShotPredictor
from fsskit.sam import decoder_attention, embed_image, load_sam, make_prompt, Prompt, SamImage
from fsskit.sam2 import load_sam2
from fsskit.similarity import ColourBackbone
from fsskit.widgets import bundle, dequantise
from test_javascript import node  # noqa: F401


def rows_of(rows, columns, seed=0):
    """Random attention weights: every row sums to 1, some rows are sharp and some spread out."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(rows, columns)) * draw.uniform(0.1, 6, (rows, 1))
    return (np.exp(scores) / np.exp(scores).sum(1, keepdims=True)).astype(np.float32)


LOOKS = Looks([Target('support', 1, (2, 3)), Target('own memory', 0, (2, 2))], ['class', 'register'], (2, 2),
              [('pointers', 3)], 'query')
PHOTOS = [np.random.default_rng(n).integers(0, 256, (30, 40 + 10 * n, 3), dtype=np.uint8) for n in range(2)]


@pytest.fixture
def tables():
    return [rows_of(6, 13, seed) for seed in range(6)]


@pytest.fixture
def view(tables):
    return AttentionView(PHOTOS, LOOKS, {'layer': ['0', '1', '2'], 'stage': ['before', 'after']}, iter(tables), 'stage')


@pytest.fixture(scope='module')
def big():
    photo = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    return np.kron(photo, np.ones((4, 4, 1), np.uint8))


@pytest.fixture(scope='module')
def backbone():
    return create_backbone()


def test_rows_keep_their_weights_whatever_their_scale(tables):
    for table, plane in zip(tables, read_planes(tables, LOOKS, 6, 1000)):
        assert (np.abs(dequantise(plane.weights) - table) <= table.max(1, keepdims=True) / 254 + 1e-7).all()
        wanted = [table[:, :6].sum(1), table[:, 6:10].sum(1), table[:, 10:].sum(1)]
        np.testing.assert_allclose(plane.shares, np.stack(wanted, 1), atol=1e-6)  # of the weights before rounding


def test_wrong_weights_are_named(tables):
    with pytest.raises(FSSKitError, match=r'6 tables of 6 x 13 weights are 0\.0 MB.*heads=False'):
        read_planes(tables, LOOKS, 6, 6 * 78 - 1)
    with pytest.raises(FSSKitError, match=r'number 0 have shape \(13, 6\).*wanted \(6, 13\)'):
        read_planes([tables[0].T], LOOKS, 1, 1000)
    with pytest.raises(FSSKitError, match='number 1 .*smallest value -0.1'):
        read_planes([tables[0], tables[1] - tables[1].min() - 0.1], LOOKS, 2, 1000)
    with pytest.raises(FSSKitError, match='6 tables of attention weights for 7 choices'):
        read_planes(tables, LOOKS, 7, 1000)


def test_a_state_chooses_a_table_and_a_row(view, tables):
    assert LOOKS.shape == (6, 13) and LOOKS.names == ['support', 'own memory', 'pointers']
    assert view.state() == dict(place=[0.5, 0.5], token=-1, choices=[2, 0], opacity=0.7, stretch=False, pinned=False)
    for choices, number in (([0, 0], 0), ([0, 1], 1), ([2, 1], 5)):
        for state, row in ((dict(place=[0.9, 0.1]), 4), (dict(token=1), 1), (dict(place=[0.1, 0.9], token=-1), 3)):
            seen, wanted = view.seen(choices=choices, **state), tables[number][row]
            np.testing.assert_allclose(seen.maps['support'], wanted[:6].reshape(2, 3), atol=view.error + 1e-7)
            np.testing.assert_allclose(seen.maps['own memory'], wanted[6:10].reshape(2, 2), atol=view.error + 1e-7)
            np.testing.assert_allclose(seen.extras['pointers'], wanted[10:], atol=view.error + 1e-7)
            np.testing.assert_allclose(list(seen.shares.values()),
                                       [wanted[:6].sum(), wanted[6:10].sum(), wanted[10:].sum()], atol=1e-6)
    assert view.seen(token=0).name == 'class' and view.seen(place=[0.9, 0.1]).name == 'row 1, column 0'
    assert view.error == pytest.approx(max(t.max() for t in tables) / 254, rel=1e-5)


def test_ranges_are_shared_by_what_is_compared(view, tables):
    tops = [np.quantile(dequantise(p.weights), 0.995) for p in view.planes]
    for layer in range(3):
        shared = max(tops[2 * layer:2 * layer + 2])
        assert [view.seen(choices=[layer, n]).top for n in (0, 1)] == pytest.approx([shared, shared])
    alone = AttentionView(PHOTOS, LOOKS, {'layer': ['a', 'b']}, tables[:2])
    assert [alone.seen(choices=[n]).top for n in (0, 1)] == pytest.approx(tops[:2])
    seen = view.seen(stretch=True)
    assert seen.top == max(m.max() for m in seen.maps.values())


def test_wrong_states_are_named(view):
    for choices in ([3, 0], [0], [0, -1]):
        with pytest.raises(FSSKitError, match='layer 0 to 2, stage 0 to 1'):
            view.seen(choices=choices)
    with pytest.raises(FSSKitError, match='tokens are 0 to 1'):
        view.seen(token=2)
    tokens_only = AttentionView(PHOTOS, LOOKS._replace(grid=None), {'layer': ['a']}, [rows_of(2, 13)])
    assert tokens_only.state()['token'] == 0
    with pytest.raises(FSSKitError, match='Token -1'):
        tokens_only.seen(token=-1)


def test_the_figure_shows_the_state(view):
    state = dict(place=[0.9, 0.1], choices=[1, 1])
    seen, figure = view.seen(**state), view.static(opacity=0.4, **state)
    assert len(figure.axes) == 4 and 'row 1, column 0' in figure.axes[0].get_title()
    for ax, name in zip(figure.axes[1:], ('support', 'own memory')):
        np.testing.assert_allclose(ax.images[1].get_array(), seen.maps[name])
        assert ax.images[1].get_alpha() == 0.4 and ax.images[1].get_clim() == (0, seen.top)
        assert ax.get_title() == f'{name}: {seen.shares[name]:.0%}'
    title = figure.get_suptitle()
    assert title == f"1, after, pointers: {seen.shares['pointers']:.0%}"
    assert (figure.axes[0].patches[0].get_x(), figure.axes[0].patches[0].get_y()) == (0, 15)
    assert not view.static(token=1).axes[0].patches and 'token: register' in view.static(token=1).get_suptitle()


def test_an_encoders_attention(big, backbone):
    view = encoder_view(big, backbone, layers=[1, 4], size=96)
    assert view.looks.tokens == ['class token']
    assert view.looks.grid == (6, 6)
    assert view.looks.extras == [('other tokens', 1)]
    assert view.choices == {'layer': ['layer 1', 'layer 4'],
                            'head': ['mean of 6 heads', *(f'head {n}' for n in range(6))]}
    for number, layer in enumerate((1, 4)):
        with torch.inference_mode():
            exact, _ = backbone.attention(to_tensor(big, 96)[None], layer)
        for head in range(7):
            weights = exact[0].mean(0) if head == 0 else exact[0, head - 1]
            seen = view.seen(place=[0.4, 0.9], choices=[number, head])  # cell (2, 5)
            np.testing.assert_allclose(seen.maps['looked at'].ravel(), weights[1 + 17, 1:], atol=view.error + 1e-6)
            np.testing.assert_allclose(seen.extras['other tokens'], weights[1 + 17, :1], atol=view.error + 1e-6)
        np.testing.assert_allclose(view.seen(token=0, choices=[number, 0]).maps['looked at'].ravel(),
                                   exact[0].mean(0)[0, 1:], atol=view.error + 1e-6)
    means = encoder_view(big, backbone, layers=[1, 4], size=96, heads=False)
    assert len(means.planes) == 2 and np.array_equal(means.planes[1].weights.values, view.planes[7].weights.values)


def test_encoders_without_attention_or_with_registers(big):
    with pytest.raises(FSSKitError, match="'rgb' has no attention"):
        encoder_view(big, 'rgb')
    class Registers(ColourBackbone):
        layers = [0]
        def attention(self, images, layer):
            return torch.from_numpy(rows_of(2 * 12, 12).reshape(1, 2, 12, 12)), (3, 3)
    view = encoder_view(big, Registers(), size=32)
    assert view.looks.tokens == ['class token', 'register 1', 'register 2']
    assert view.looks.extras == [('other tokens', 3)]
    exact = rows_of(24, 12).reshape(2, 12, 12)
    np.testing.assert_allclose(view.seen(place=[0.5, 0.5], choices=[0, 2]).maps['looked at'].ravel(),
                               exact[1, 3 + 4, 3:], atol=view.error + 1e-6)


@pytest.fixture(scope='module')
def sam():
    return load_sam('sam_tiny', None, seed=0)


@pytest.mark.parametrize('given, tokens', [
    (dict(points=[[10, 20], [90, 50]], labels=[1, 0]), ['point 1 (object)', 'point 2 (beside)', 'no more points']),
    (dict(box=[10, 20, 90, 80], points=[[40, 40]]), ['point 1 (object)', 'upper left corner', 'lower right corner']),
    (dict(mask=np.pad(np.ones((40, 60)), ((20, 36), (30, 54)))), [])])
def test_sams_decoder_attention(big, sam, given, tokens):
    view, image = decoder_view(big, sam, **given), embed_image(sam, big)
    exact = decoder_attention(sam, image, make_prompt(sam, image, **given))
    assert view.looks.tokens[5:] == tokens
    assert len(view.looks.tokens) == exact[0].shape[2]
    assert view.photos[0].shape == (256, 256, 3)
    for layer in range(3):
        for token in range(len(view.looks.tokens)):
            for head in (0, 3):
                wanted = exact[layer][0].mean(0)[token] if head == 0 else exact[layer][0, head - 1, token]
                np.testing.assert_allclose(view.seen(token=token, choices=[layer, head]).maps['looked at'], wanted,
                                           atol=view.error + 1e-6)


def test_the_prompt_is_drawn_where_it_is():
    square = in_square(np.zeros((50, 100, 3), np.uint8), SamImage(None, (128, 256), (50, 100)), 256)
    assert (square[:128] == 0).all() and (square[128:] == (124, 116, 104)).all()
    prompt = Prompt(torch.tensor([[[100., 50], [200., 100]]]), torch.tensor([[1., 0]]),
                    torch.tensor([[20., 10, 60, 90]]))
    drawn = draw_prompt(square, prompt)
    assert tuple(drawn[50, 100]) == (230, 159, 0) and tuple(drawn[100, 200]) == (0, 114, 178)
    assert tuple(drawn[50, 20]) == tuple(drawn[90, 40]) == (230, 159, 0) and tuple(drawn[50, 40]) == (0, 0, 0)
    assert prompt_names(prompt)[5:] == ['point 1 (object)', 'point 2 (beside)', 'upper left corner',
                                        'lower right corner']


def reading(blocks, pointers, n=4, seed=0):
    """A reading with random weights, before and after."""
    def weights(seed):
        table = torch.from_numpy(rows_of(n, (blocks + 1) * n + pointers, seed))[None]
        return Weights(table[..., :blocks * n].reshape(1, n, blocks, n), table[..., blocks * n:(blocks + 1) * n],
                       table[..., (blocks + 1) * n:])
    return Reading(weights(seed), weights(seed + 1), torch.zeros(1, n, n), torch.zeros(1, n, n))


@pytest.mark.parametrize('blocks, supports, names', [
    (1, 1, ['support']), (3, 3, ['support 1', 'support 2', 'support 3']), (1, 3, ['mean of the supports']), (0, 1, [])])
def test_memory_attention_by_parts(blocks, supports, names):
    readings = [reading(blocks, 2 * bool(blocks), seed=s) for s in (0, 10)]
    view = memory_view(readings, PHOTOS[0], [PHOTOS[1]] * supports)
    assert support_names(blocks, supports) == names
    assert view.looks.names == [*names, 'own memory', *['pointers'] * bool(blocks)]
    for layer, stage in np.ndindex(2, 2):
        weights = (readings[layer].before, readings[layer].after)[stage]
        seen = view.seen(place=[0.9, 0.1], choices=[layer, stage])  # cell 2
        for k, name in enumerate(names):
            np.testing.assert_allclose(seen.maps[name].ravel(), weights.support[0, 2, k], atol=view.error + 1e-6)
        np.testing.assert_allclose(seen.maps['own memory'].ravel(), weights.pseudo[0, 2], atol=view.error + 1e-6)
        if blocks:
            np.testing.assert_allclose(seen.extras['pointers'], weights.pointers[0, 2], atol=view.error + 1e-6)
    plain = memory_view(readings, PHOTOS[0], [PHOTOS[1]] * supports, calibrated=False)
    assert plain.choices['calibration'] == ('before',) and plain.compare is None and len(plain.planes) == 2


def test_masks_are_outlined_on_the_supports():
    mask = np.zeros((30, 50), np.uint8)
    mask[5:20, 10:40] = 1
    view = memory_view([reading(1, 1)], PHOTOS[0], [PHOTOS[1]], [mask])
    changed = (view.photos[1] != PHOTOS[1]).any(-1)
    assert changed[5, 10:40].all() and not changed[8:17, 13:37].any() and np.array_equal(view.photos[0], PHOTOS[0])


@pytest.fixture(scope='module')
def predictor(big, backbone):
    sam2 = load_sam2('sam2_tiny', None, image_size=64)
    mask = np.zeros(big.shape[:2], np.uint8)
    mask[20:60, 30:90] = 1
    model = create_model('fssam', backbone, sam2=sam2, head=None, iterations=1, prior_size=64)
    return FewShotPredictor(model).set_support([big, big[:, ::-1].copy()], [mask, mask[:, ::-1].copy()])


def test_an_fssams_memory_attention(predictor, big):
    query = big[::-1].copy()
    view, model = fssam_view(predictor, query), predictor.model
    state, image = predictor.state, predictor.prepare(query)[None]
    with torch.no_grad():
        levels = model.frozen_features(image)
        memory = read_queries(model.sam2, levels, state, model.settings).memory
        exact, watch = as_features(model.sam2, levels[-3:]), []
        calibrated_attention(model.sam2, exact, state.memories, memory, state.masks, model.settings.how, watch)
        stock, _ = memory_reading(model.sam2, exact, [*state.memories, memory])
    assert view.looks.names == ['support 1', 'support 2', 'own memory', 'pointers'] and view.compare == 1
    assert view.choices == {'layer': ['layer 0', 'layer 1'], 'calibration': ('before', 'after')}
    for layer in range(2):
        after, before = (view.seen(place=[0.4, 0.9], choices=[layer, n]) for n in (1, 0))  # cell (1, 3) of 4 x 4
        np.testing.assert_allclose(after.maps['own memory'].ravel(), watch[layer].after.pseudo[0, 7],
                                   atol=view.error + 1e-5)
        np.testing.assert_allclose(after.maps['support 2'].ravel(), watch[layer].after.support[0, 7, 1],
                                   atol=view.error + 1e-5)
        assert sum(before.shares.values()) == pytest.approx(1, abs=1e-5)
    first = view.seen(place=[0.4, 0.9], choices=[0, 0])
    parts = np.concatenate([*(m.ravel() for m in first.maps.values()), first.extras['pointers']])
    np.testing.assert_allclose(parts, stock[0][0, 7], atol=view.error
                               + 1e-5)  # the first layer reads as the package's own


def test_variants_without_calibration_or_without_a_memory_of_the_query(predictor, big):
    model = predictor.model
    settings = model.settings
    try:
        model.settings = replace(settings, calibration=False)
        view = fssam_view(predictor, big)
        assert view.choices['calibration'] == ('before',) and len(view.planes) == 2
        watched = fssam_readings(model, predictor.state, predictor.prepare(big)[None])
        torch.testing.assert_close(watched[1].before.pseudo, watched[1].after.pseudo)
        model.settings = replace(settings, pseudo_prompts=False)
        with pytest.raises(FSSKitError, match="'fssam' makes no memory of the query"):
            fssam_view(predictor, big)
    finally:
        model.settings = settings
    with pytest.raises(FSSKitError, match="'dense_match' makes no memory"):
        fssam_view(FewShotPredictor(create_model('dense_match', 'rgb')).set_support(big, predictor.support[0][1]), big)
    with pytest.raises(FSSKitError, match='set_support'):
        fssam_view(FewShotPredictor(model), big)


def test_the_widget_follows_its_traits(view, big, sam, predictor, backbone, tmp_path):
    widget = AttentionExplorer(view)
    assert widget.current() == view.state()
    widget.place, widget.choices = [0.9, 0.1], [0, 1]
    np.testing.assert_array_equal(widget.seen.maps['support'],
                                  view.seen(place=[0.9, 0.1], choices=[0, 1]).maps['support'])
    widget.set_state({'token': 1, 'stretch': True})
    assert widget.seen.name == 'register'
    with pytest.raises(TraitError):
        widget.token = 'class'
    path = widget.to_html(tmp_path / 'page.html', opacity=0.4)
    state = json.loads(re.search(r'id="state">(.*?)</script>', path.read_text(), re.S)[1])
    assert (state['token'], state['choices'], state['opacity']) == (1, [0, 1], 0.4)
    sent = np.frombuffer(base64.b64decode(state['payload']['planes'][1]['values']), np.int8)
    assert np.array_equal(sent, view.planes[1].weights.values.ravel())
    assert [p['name'] for p in state['payload']['photos']] == ['query', 'support']
    assert widget.to_png(tmp_path / 'page.png').stat().st_size > 1000
    made = [AttentionExplorer.encoder(big, backbone=backbone, layers=[5], size=64),
            AttentionExplorer.decoder(big, sam, box=[5, 5, 50, 50]), AttentionExplorer.memory(predictor, big)]
    assert [w.view.looks.grid for w in made] == [(4, 4), None, (4, 4)] and made[1].token == 0
    assert [p['name'] for p in made[0].payload['photos']] == ['photo'] and made[1].payload['grid'] is None


def test_the_browser_computes_what_python_computes(node, view):  # noqa: F811
    payload = json.loads(json.dumps(view.payload(), default=lambda value: base64.b64encode(value).decode()))
    states = [dict(place=[0.9, 0.1]), dict(token=1), dict(place=[0.1, 0.9], stretch=True)]
    asked = [view.state() | state | dict(choices=[layer, stage]) for state in states for layer in (0, 2)
             for stage in (0, 1)]
    script = '''import { answer, compared, readLooks } from 'STATIC/attention_explorer.js';
    const data = readLooks(input.payload);
    const found = input.asked.map((state) => {
      const { maps, extras, shares, high } = answer(data, state);
      return { parts: [...maps, ...extras].map((part) => [...part]), shares, high, compared: compared(data, state) };
    });
    console.log(JSON.stringify(found));'''
    for state, got in zip(asked, node(script, {'payload': payload, 'asked': asked})):
        seen = view.seen(**state)
        for part, wanted in zip(got['parts'], (seen.maps | seen.extras).values()):
            np.testing.assert_allclose(part, wanted.ravel(), atol=1e-6)
        np.testing.assert_allclose(got['shares'], list(seen.shares.values()), atol=1e-5)
        assert got['high'] == pytest.approx(seen.top, abs=1e-6)
        assert [row['option'] for row in got['compared']] == ['before', 'after']
        np.testing.assert_allclose(got['compared'][state['choices'][1]]['shares'], got['shares'], atol=1e-6)


def test_the_bundle_is_one_module(node):  # noqa: F811
    code = base64.b64encode(bundle('attention_explorer').encode()).decode()
    assert node(f"const made = await import('data:text/javascript;base64,{code}');\nconsole.log(JSON.stringify(typeof "
                "made.default.render))") == 'function'
