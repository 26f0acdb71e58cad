"Tests of fsskit.similarity: every value is compared with an independent computation."
import math
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from fsskit.photos import FSSKitError
from fsskit.similarity import (ColourBackbone, DenseMatchModel, FewShotModel, PriorMaskModel, PrototypeModel, Support,
                               check_support, chosen_cells, contrast_prior, cosine_map, dense_match, finite_features,
                               foreground_minus_background, gather_support, join_layers, mask_shares,
                               masked_average_pool, minmax, pool_support, prior_mask, prototype_prior, split_cells,
                               srgb_to_lab, top_mean, top_values)

quick = settings(max_examples=20, deadline=None, derandomize=True)


def rand(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def square_mask(size, top, left, side):
    mask = torch.zeros(size, size, dtype=torch.uint8)
    mask[top:top + side, left:left + side] = 1
    return mask


class Conv(nn.Module):
    "A tiny random encoder with two layers: stride 4 and stride 8."
    name, weights_id, layers, default_layers, stride = 'conv', 'random', [0, 1], (0, 1), 8
    def __init__(self):
        super().__init__()
        self.a, self.b = rand(6, 3, 4, 4, seed=1), rand(5, 6, 2, 2, seed=2)
    def forward(self, images, layers=None):
        one = F.conv2d(images - 0.5, self.a, stride=4)
        both = [one, F.conv2d(one, self.b, stride=2)]
        return [both[i] for i in (self.default_layers if layers is None else layers)]


class Broken(Conv):
    def forward(self, images, layers=None):
        maps = super().forward(images, layers)
        maps[-1][0, 0, 0, 0] = float('nan')
        return maps


def numpy_dense_match(query, support, masks, topk, weights=(1, -1)):
    "Loops over query positions: (C,h,w), (K,C,h,w), (K,h,w) of 0 and 1 at grid size."
    unit = lambda v: v / np.linalg.norm(v)
    h, w = query.shape[1:]
    out = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            for label, sign in zip((1, 0), weights):
                found = [float(unit(query[:, i, j]) @ unit(support[k, :, y, x])) for k in range(len(support))
                         for y in range(support.shape[2]) for x in range(support.shape[3]) if masks[k, y, x] == label]
                out[i, j] += sign * np.mean(sorted(found)[-topk:])
    return out


# ---- masks on a grid

def test_mask_shares_are_areas():
    mask = np.random.default_rng(0).integers(0, 2, (12, 8)).astype(np.uint8)
    mask[0, 0] = 255
    fg, bg = mask_shares(torch.from_numpy(mask)[None], (3, 2))
    for y in range(3):
        for x in range(2):
            cell = mask[4 * y:4 * y + 4, 4 * x:4 * x + 4]
            assert fg[0, y, x] == pytest.approx((cell == 1).mean())
            assert bg[0, y, x] == pytest.approx((cell == 0).mean())
    assert fg[0, 0, 0] + bg[0, 0, 0] == pytest.approx(15 / 16)


def test_mask_shares_of_different_sizes_and_kinds():
    big, small = torch.ones(40, 20, dtype=torch.bool), torch.full((4, 4), 0.25)
    fg, bg = mask_shares([big, small], (2, 2))
    assert fg.tolist() == [[[1, 1], [1, 1]], [[.25, .25], [.25, .25]]]
    assert bg.tolist() == [[[0, 0], [0, 0]], [[.75, .75], [.75, .75]]]


def test_chosen_cells_keep_the_object():
    shares = torch.tensor([[[0.9, 0.5], [0.49, 0.]], [[0.2, 0.1], [0.09, 0.]], [[0., 0.], [0., 0.]]])
    assert chosen_cells(shares).tolist() == [[[True, True], [False, False]], [[True, True], [False, False]],
                                             [[False, False], [False, False]]]


@quick
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(4, 30))
def test_split_cells_properties(seed, grid, side):
    mask = torch.from_numpy(np.random.default_rng(seed).choice([0, 1, 255], (1, side, side),
                                                               p=[.6, .3, .1]).astype(np.uint8))
    inside, outside = split_cells(mask, (grid, grid))
    assert not (inside & outside).any()
    assert inside.any() == (mask == 1).any()
    flipped, _ = split_cells(mask.flip(2), (grid, grid))
    assert torch.equal(flipped, inside.flip(2))


# ---- pooling and cosine

def test_masked_average_pool_by_hand():
    features = torch.tensor([[[[1., 2.], [3., 4.]], [[0., 10.], [20., 30.]]]])
    mask = torch.tensor([[[1., 0.], [0., 0.5]]])
    expected = [(1 + 0.5 * 4) / 1.5005, (0 + 0.5 * 30) / 1.5005]
    assert torch.allclose(masked_average_pool(features, mask), torch.tensor([expected]), atol=1e-6)


def test_masked_average_pool_shrinks_by_area_and_skips_ignored():
    features, mask = rand(2, 4, 3, 3), torch.zeros(2, 12, 12)
    mask[0, :6, :8], mask[1, 5:, 3:] = 1, 1
    mask[1, 0, 0] = 255
    pooled = masked_average_pool(features, mask).numpy()
    for b in range(2):
        hard = (mask[b] == 1).float().numpy()
        weights = hard.reshape(3, 4, 3, 4).mean((1, 3))
        expected = (features[b].numpy() * weights).sum((1, 2)) / (weights.sum() + 5e-4)
        np.testing.assert_allclose(pooled[b], expected, rtol=1e-5, atol=1e-6)


def test_masked_average_pool_empty_is_zero_and_tiny_survives():
    features, tiny = rand(1, 4, 4, 4), torch.zeros(1, 64, 64)
    assert masked_average_pool(features, tiny).abs().max() == 0
    tiny[0, 17, 33] = 1
    assert torch.allclose(F.normalize(masked_average_pool(features, tiny)), F.normalize(features[:, :, 1, 2]),
                          atol=1e-5)


def test_masked_average_pool_gradient():
    features = rand(1, 2, 3, 3).double().requires_grad_()
    mask = torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    assert torch.autograd.gradcheck(masked_average_pool, (features, mask))


def test_cosine_map_against_numpy():
    p, f = rand(2, 5), rand(2, 5, 3, 4, seed=1)
    got = cosine_map(p, f)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                a, c = p[b].numpy(), f[b, :, y, x].numpy()
                assert got[b, y, x] == pytest.approx(a @ c / np.linalg.norm(a) / np.linalg.norm(c), abs=1e-6)
    assert torch.allclose(cosine_map(3 * p, 0.1 * f), got, atol=1e-6)


def test_minmax():
    values = torch.stack([torch.tensor([[1., 3.], [2., 5.]]), torch.full((2, 2), 7.)])
    assert torch.allclose(minmax(values), torch.tensor([[[0, .5], [.25, 1]], [[0, 0], [0, 0]]]), atol=1e-6)


def test_join_layers_is_the_mean_of_cosines():
    a, b = [rand(2, 4, 6, 6), rand(2, 3, 3, 3, seed=1)], [rand(2, 4, 6, 6, seed=2), rand(2, 3, 3, 3, seed=3)]
    joined = (join_layers(a) * join_layers(b)).sum(1)
    resize = lambda m: F.interpolate(m, (6, 6), mode='bilinear', align_corners=False)
    expected = (F.cosine_similarity(a[0], b[0]) + F.cosine_similarity(resize(a[1]), resize(b[1]))) / 2
    assert torch.allclose(joined, expected, atol=1e-6)
    assert join_layers(a, (4, 5)).shape == (2, 7, 4, 5)
    assert torch.allclose(join_layers(a).norm(dim=1), torch.ones(2, 6, 6), atol=1e-6)


# ---- nearest positions

@quick
@given(st.integers(0, 1000), st.integers(1, 7), st.integers(1, 700))
def test_top_values_equal_topk(seed, k, total):
    cosines, k = rand(3, total, seed=seed), min(k, total)
    assert torch.equal(top_values(cosines, k), cosines.topk(k, dim=1).values)


def test_top_values_with_ties_and_infinities():
    cosines = torch.zeros(2, 1000)
    cosines[:, 500:505] = 1
    assert torch.equal(top_values(cosines, 5), torch.ones(2, 5))


def test_top_mean_chunks_and_few_positions():
    query, support = F.normalize(rand(2, 6, 5, 7), dim=1), F.normalize(rand(3, 6, seed=1), dim=1)
    expected = torch.einsum('bchw,nc->bhwn', query, support).mean(3)
    assert torch.allclose(top_mean(query, support, 5), expected, atol=1e-6)
    many = F.normalize(rand(300_000, 6, seed=2), dim=1)
    expected = torch.einsum('bchw,nc->bhwn', query, many).topk(5, dim=3).values.mean(3)
    assert torch.allclose(top_mean(query, many, 5), expected, atol=1e-6)


@pytest.mark.parametrize('topk', [1, 3])
def test_dense_match_equals_the_loop(topk):
    query, support = rand(1, 4, 4, 3), rand(2, 4, 4, 3, seed=1)
    masks = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (2, 4, 3)).astype(np.uint8))
    expected = numpy_dense_match(query[0].numpy(), support.numpy(), masks.numpy(), topk)
    got = dense_match(query, support, masks, topk)
    np.testing.assert_allclose(got[0].numpy(), expected, atol=1e-5)
    if topk == 1: assert torch.equal(contrast_prior(query, support, masks), got)


def test_shots_are_pooled_and_their_order_is_irrelevant():
    query, support = rand(2, 4, 5, 5), rand(3, 4, 5, 5, seed=1)
    masks = (rand(3, 5, 5, seed=2) > 0).byte()
    order = [2, 0, 1]
    assert torch.allclose(dense_match(query, support, masks), dense_match(query, support[order], masks[order]),
                          atol=1e-6)
    wide = support.permute(1, 0, 2, 3).reshape(1, 4, 15, 5)
    assert torch.allclose(dense_match(query, support, masks), dense_match(query, wide, masks.reshape(1, 15, 5)),
                          atol=1e-6)
    single = torch.cat([dense_match(q[None], support, masks) for q in query])
    assert torch.allclose(dense_match(query, support, masks), single, atol=1e-6)


@pytest.mark.parametrize('function', [prior_mask, prototype_prior, contrast_prior])
def test_same_support_twice_is_one_shot(function):
    query, support, mask = rand(1, 4, 6, 6), rand(1, 4, 6, 6, seed=1), (rand(1, 6, 6, seed=2) > 0).byte()
    twice = function(query, support.repeat(2, 1, 1, 1), mask.repeat(2, 1, 1))
    assert torch.allclose(function(query, support, mask), twice, atol=1e-5)


def test_prior_mask_is_pfenets():
    "As published: support features times mask, cosines of all pairs, maximum over the support, min-max."
    query, support = rand(1, 8, 4, 4).relu() + 0.1, rand(1, 8, 4, 4, seed=1).relu() + 0.1
    mask = (rand(1, 4, 4, seed=2) > 0).float()
    q, s = query.flatten(2)[0], (support * mask[:, None]).flatten(2)[0]
    cosines = (s.T @ q) / (s.norm(dim=0)[:, None] @ q.norm(dim=0)[None] + 1e-7)
    best = cosines.max(0).values
    expected = (best - best.min()) / (best.max() - best.min() + 1e-7)
    assert torch.allclose(prior_mask(query, support, mask).flatten(), expected, atol=1e-5)


def test_prototype_prior_by_hand():
    query, support, mask = rand(2, 4, 3, 3), rand(1, 4, 3, 3, seed=1), torch.eye(3)[None]
    units = F.normalize(support, dim=1)[0]
    prototype = (units[:, 0, 0] + units[:, 1, 1] + units[:, 2, 2]) / 3
    raw = F.cosine_similarity(query, prototype[None, :, None, None], dim=1)
    assert torch.allclose(prototype_prior(query, support, mask), minmax(raw), atol=1e-5)


def test_without_background_the_querys_mean_decides():
    query, support = F.normalize(rand(1, 4, 3, 3), dim=1), F.normalize(rand(5, 4, seed=1), dim=1)
    got = foreground_minus_background(query, Support(support, support[:0]), 2)
    own = top_mean(query, support, 2)
    assert torch.allclose(got, own - own.mean(), atol=1e-6)
    assert (got > 0).any() and (got < 0).any()


def test_gather_and_pool_support():
    features, masks = F.normalize(rand(2, 4, 2, 2), dim=1), torch.tensor([[[1, 0], [0, 255]], [[1, 1], [1, 1]]])
    state = gather_support(features, masks)
    expected = torch.stack([features[0, :, 0, 0], *features[1].flatten(1).T])
    assert torch.equal(state.foreground, expected)
    assert torch.equal(state.background, torch.stack([features[0, :, 0, 1], features[0, :, 1, 0]]))
    pooled = pool_support(features, masks)
    assert torch.allclose(pooled.foreground, F.normalize(expected.sum(0, keepdim=True)), atol=1e-6)
    assert torch.allclose(pooled.background, F.normalize(state.background.sum(0, keepdim=True)), atol=1e-6)
    assert len(pool_support(features[1:], masks[1:]).background) == 0


# ---- models

@pytest.mark.parametrize('model_class', [PrototypeModel, PriorMaskModel, DenseMatchModel])
def test_models_find_the_colour(model_class):
    photo = torch.full((3, 64, 64), 0.2)
    photo[:, 8:40, 16:48] = torch.tensor([0.9, 0.4, 0.1])[:, None, None]
    query = photo.flip(1)
    truth = torch.zeros(64, 64)
    truth[24:56, 16:48] = 1
    logits = model_class(ColourBackbone(), input_size=64)(photo[None], square_mask(64, 8, 16, 32)[None], query[None])
    assert torch.equal(logits[0] > 0, truth[4::8, 4::8] > 0)


def test_dense_match_model_equals_the_function():
    images, query = torch.rand(2, 3, 32, 48,
                               generator=torch.Generator().manual_seed(0)), rand(1, 3, 32, 48, seed=5).sigmoid()
    masks = [torch.zeros(32, 48, dtype=torch.uint8), torch.zeros(100, 90, dtype=torch.uint8)]
    masks[0][:16, :24], masks[1][30:80, 20:60] = 1, 1
    model = DenseMatchModel(Conv(), input_size=32, topk=3)
    got = model(images, masks, query)
    assert got.shape == (1, 4, 6)
    joint = lambda x: join_layers(Conv()(x), (4, 6))
    inside, _ = split_cells(masks, (4, 6))
    expected = numpy_dense_match(joint(query)[0].numpy(), joint(images).numpy(), inside.numpy().astype(int), 3)
    np.testing.assert_allclose(got[0].numpy(), expected, atol=1e-5)


def test_describe_and_options():
    assert DenseMatchModel(Conv()).describe() == dict(model='dense_match', input_size=320, layers=[0, 1],
                                                      backbone='conv', weights='random', stride=8, topk=5)
    assert PrototypeModel(Conv(), 64, [1], stride=16).describe()['layers'] == [1]
    assert PriorMaskModel(Conv(), 64, stride=16).grid(torch.zeros(1, 3, 64, 32)) == (4, 2)


def test_object_of_one_pixel():
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = DenseMatchModel(Conv(), input_size=64)
    state = model.encode_support(photo, square_mask(64, 9, 17, 1)[None])
    assert state.foreground.shape[0] == 1 and state.background.shape[0] == 63
    assert torch.equal(state.foreground[0], model.joint(photo)[0, :, 1, 2])
    assert model.segment(photo, state)[0].argmax() == 1 * 8 + 2


def test_whole_photo_marked():
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for model_class in (PrototypeModel, PriorMaskModel, DenseMatchModel):
        model = model_class(Conv(), input_size=64)
        logits = model(photo, torch.ones(1, 64, 64), photo.flip(3))
        assert torch.isfinite(logits).all() and abs(float(logits.mean())) < 1e-5


def test_base_model_asks_for_its_methods():
    model = FewShotModel(Conv())
    with pytest.raises(NotImplementedError, match='encode_support'): model.encode_support(None, None)
    with pytest.raises(NotImplementedError, match='segment'): model.segment(None, None)
    assert model.describe()['model'] == 'FewShotModel'


@pytest.mark.parametrize('images, masks, words', [
    (torch.zeros(3, 8, 8), [torch.ones(8, 8)], 'wanted \\(K,3,H,W\\)'),
    (torch.zeros(0, 3, 8, 8), [], 'K of at least 1'),
    (torch.zeros(2, 3, 8, 8), [torch.ones(8, 8)], '1 given for 2 images'),
    (torch.zeros(1, 3, 8, 8), [torch.ones(1, 8, 8)], r'shape \(1, 8, 8\) given, wanted \(H,W\)'),
    (torch.zeros(2, 3, 8, 8), [torch.ones(8, 8), torch.zeros(8, 8)], 'mask 2 of 2 marks no foreground'),
    (torch.zeros(1, 3, 8, 8), [torch.full((8, 8), 255)], 'marks no foreground'),
])
def test_bad_support(images, masks, words):
    with pytest.raises(FSSKitError, match=words): check_support(images, masks)


def test_nan_features():
    with pytest.raises(FSSKitError, match="layer 1 of backbone 'conv' holds NaN"):
        finite_features(Broken(), torch.zeros(1, 3, 32, 32), [0, 1])
    with pytest.raises(FSSKitError, match='NaN'):
        DenseMatchModel(Broken(), 32).encode_support(torch.rand(1, 3, 32, 32), torch.ones(1, 32, 32))


# ---- colour

def test_lab_against_scikit_image():
    from skimage.color import rgb2lab
    colours = np.random.default_rng(0).random((5, 6, 3))
    colours[0, 0], colours[0, 1] = 0, 1
    got = srgb_to_lab(torch.from_numpy(colours).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got * 100, rgb2lab(colours), atol=0.05)


def test_colour_cosine_is_a_gaussian_of_the_distance():
    backbone = ColourBackbone(bandwidth=0.2, waves=4096)
    a, b = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.55, 0.42, 0.2])
    maps = backbone(torch.stack([a, b])[:, :, None, None].expand(2, 3, 8, 8))[0]
    labs = srgb_to_lab(torch.stack([a, b])[:, :, None, None])[:, :, 0, 0]
    expected = math.exp(-float((labs[0] - labs[1]).square().sum()) / (2 * 0.2 ** 2))
    assert float(F.cosine_similarity(maps[0], maps[1], dim=0)) == pytest.approx(expected, abs=0.03)


def test_colour_is_all_it_sees():
    backbone = ColourBackbone()
    photo = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    shuffled = photo.clone()
    shuffled[:, :, :8, :8] = photo[:, :, :8, :8].flatten(2)[:, :, torch.randperm(64)].view(1, 3, 8, 8)
    assert torch.allclose(backbone(photo)[0], backbone(shuffled)[0], atol=1e-5)
    assert backbone(photo, [0, 0])[1].shape == (1, 128, 2, 2)
    assert torch.equal(ColourBackbone().frequencies, backbone.frequencies)
