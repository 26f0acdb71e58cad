"""Calibrated attention against loops in numpy and against the package's own memory attention."""
import math

import numpy as np
import pytest
import torch

import fsskit.calibrated_attention as A
from fsskit.memory import encode_memory, image_features, memory_of, memory_tokens, recall
from fsskit.photos import FSSKitError
from fsskit.sam2 import load_sam2

SIDE, N = 4, 16  # of the grid of a model with 64 px


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def blobs(*shape, seed=0):
    masks = (np.random.default_rng(seed).random(shape) > .5).astype(np.uint8)
    masks[..., : shape[-2] // 3, : shape[-1] // 3] = 1
    return torch.from_numpy(masks)


def slow_stretch(x): return (x - x.min()) / (x.max() - x.min() + 1e-7)


def slow_cosines(pseudo, support, mask):
    """(N,C), (N,C), (N,) -> (N,)"""
    p = sum(m * k for m, k in zip(mask, support)) / (mask.sum() + 5e-4)
    return np.array([p @ k / (np.linalg.norm(p) * np.linalg.norm(k) + 1e-7) for k in pseudo])


def slow_attention(q, k, v, start, c, alpha):
    """One sample in double precision, one query place after the other."""
    out, n = [], len(c)
    for row in q:
        scores = k @ row / math.sqrt(len(row))
        stretched = slow_stretch(scores[start:start + n])
        for j in range(n): scores[start + j] += alpha * min(0, stretched[j] + c[j] - 1)
        weights = np.exp(scores - scores.max())
        out.append(weights @ v / weights.sum())
    return np.array(out)


@pytest.fixture(scope='module')
def model():
    model = load_sam2('sam2_tiny', None, seed=1, image_size=64)
    with torch.no_grad(): model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.)
    return model


@pytest.fixture(scope='module')
def scene(model):
    """Features of 2 queries, 3 supports of each, a guess, and the supports' masks (2, 3, 64, 64)."""
    images, masks = torch.from_numpy(np.random.default_rng(0).random((8, 3, 64,
                                                                      64)).astype(np.float32)), blobs(2, 3, 64, 64)
    with torch.no_grad():
        query = image_features(model, images[:2])
        supports = [memory_of(model, images[2 + 2 * k:4 + 2 * k], masks[:, k]) for k in range(3)]
        pseudo = encode_memory(model, query,
                               torch.from_numpy(np.random.default_rng(1).random((2, 64, 64)).astype(np.float32)))
    supports = [s._replace(pointer=50 * s.pointer, features=3 * s.features) for s in supports]
    return query, supports, pseudo, masks


class TestMasks:
    def test_nearest_pixel_and_ignored(self):
        masks = blobs(2, 3, 12, 20)
        masks[:, :, :2] = 255
        found, seen = A.grid_masks(masks, (4, 5)), torch.where(masks == 255, 0, masks)
        assert torch.equal(found, seen[:, :, ::3, ::4].float())
        assert torch.equal(A.grid_masks(masks, (12, 20)), seen.float())


class TestAgreement:
    @pytest.mark.parametrize('how', ['cosines', 'each'])
    def test_against_loops(self, how):
        pseudo, supports, masks = draw(2, 12, 5), draw(2, 3, 12, 5, seed=1), A.grid_masks(blobs(2, 3, 3, 4), (3, 4))
        found = A.key_agreement(pseudo, supports, masks, how)
        for b in range(2):
            each = [slow_cosines(pseudo[b].numpy(), s.numpy(), m.flatten().numpy())
                    for s, m in zip(supports[b], masks[b])]
            wanted = np.mean([slow_stretch(x) for x in each], 0) if how == 'each' else slow_stretch(np.mean(each, 0))
            assert np.allclose(found[b], wanted, atol=1e-5)

    @pytest.mark.parametrize('how', ['cosines', 'each'])
    def test_copies_are_one(self, how):
        pseudo, support, mask = draw(1, 12, 5), draw(1, 1, 12, 5, seed=1), A.grid_masks(blobs(1, 1, 3, 4), (3, 4))
        one, five = (A.key_agreement(pseudo, support.repeat(1, k, 1, 1), mask.repeat(1, k, 1, 1), how) for k in (1, 5))
        assert torch.allclose(one, five, atol=1e-6)

    def test_without_a_mask_nobody_objects(self):
        pseudo, supports, masks = draw(2, 12, 5), draw(2, 2, 12, 5, seed=1), A.grid_masks(blobs(2, 2, 3, 4), (3, 4))
        masks[0], masks[1, 1] = 0, 0
        found = A.key_agreement(pseudo, supports, masks)
        assert (found[0] == 1).all()
        assert torch.allclose(found[1], A.key_agreement(pseudo[1:], supports[1:, :1], masks[1:, :1])[0], atol=1e-6)


class TestBias:
    def test_against_loops(self):
        scores, c = draw(2, 6, 9), torch.rand(2, 9)
        found = A.calibration_bias(scores, c, 7.)
        for b, i in np.ndindex(2, 6):
            wanted = 7 * np.minimum(0, slow_stretch(scores[b, i].numpy()) + c[b].numpy() - 1)
            assert np.allclose(found[b, i], wanted, atol=1e-5)

    def test_bounds_best_key_and_no_gradient(self):
        scores, c = draw(2, 6, 9).requires_grad_(), torch.rand(2, 9).requires_grad_()
        bias = A.calibration_bias(scores, c, 10.)
        assert bias.min() >= -10 and bias.max() <= 0 and not bias.requires_grad
        assert bias.gather(2, scores.argmax(2, keepdim=True)).abs().max() < 1e-4
        assert A.calibration_bias(scores, torch.ones(2, 9)).abs().max() == 0
        assert A.calibration_bias(torch.zeros(1, 2, 3), torch.zeros(1, 3), 4.).eq(-4).all()

    def test_bfloat16_scores_are_calibrated_in_float32(self):
        scores = draw(1, 3, 9).bfloat16()
        assert A.calibration_bias(scores, torch.rand(1, 9)).dtype == torch.float32


class TestForms:
    @pytest.mark.parametrize('start, rows', [(0, 1024), (9, 4), (16, 5)])
    def test_against_loops(self, start, rows, monkeypatch):
        monkeypatch.setattr(A, 'ROWS', rows)
        q, k, v, c = draw(2, 9, 6), draw(2, 27, 6, seed=1), draw(2, 27, 6, seed=2), torch.rand(2, 9)
        block = A.Block(start, c, 10.)
        explicit, scores, bias = A.explicit_attention(q, k, v, block)
        fused = A.fused_attention(q, k, v, block)
        for b in range(2):
            wanted = slow_attention(*(x[b].double().numpy() for x in (q, k, v)), start, c[b].double().numpy(), 10.)
            assert np.allclose(explicit[b], wanted, atol=1e-5) and np.allclose(fused[b], wanted, atol=1e-5)
        assert torch.allclose(scores, q @ k.transpose(1, 2) / math.sqrt(6), atol=1e-6)
        assert bias[:, :, :start].abs().sum() == bias[:, :, start + 9:].abs().sum() == 0 and bias.min() < -1

    @pytest.mark.parametrize('alpha', [0., 10.])
    def test_equal_gradients(self, alpha):
        inputs, c, way, found = [draw(1, n, 6, seed=n) for n in (9, 20, 20)], torch.rand(1, 9), draw(1, 9, 6), []
        for form in (lambda *x: A.explicit_attention(*x)[0], A.fused_attention):
            leaves = [x.clone().requires_grad_() for x in inputs]
            (form(*leaves, A.Block(4, c, alpha)) * way).sum().backward()
            found.append([x.grad for x in leaves])
        for a, b in zip(*found): assert torch.allclose(a, b, atol=1e-5)

    def test_dropout(self):
        q, k, v, block = draw(1, 9, 6), draw(1, 27, 6, seed=1), torch.ones(1, 27, 6), A.Block(9, torch.rand(1, 9), 10.)
        for form in (lambda *x: A.explicit_attention(*x)[0], A.fused_attention):
            torch.manual_seed(0)
            outs = torch.stack([form(q, k, v, block, .5) for _ in range(200)])
            assert outs.std() > .1 and outs.mean() == pytest.approx(1, abs=.05)


class TestBlocks:
    def test_what_is_read(self):
        values = draw(2, 3 * 5 + 5 + 4, 2)
        every, start = A.read_blocks(values, 5, 3, A.Calibration())
        assert every is values and start == 15
        assert A.read_blocks(values, 5, 3, A.Calibration(shots='released'))[1] == 5
        only, start = A.read_blocks(values, 5, 3, A.Calibration(keep_support_values=False))
        assert torch.equal(only, values[:, 15:20]) and start == 0
        mean, start = A.read_blocks(values, 5, 3, A.Calibration(support_blocks='mean'))
        assert torch.allclose(mean[:, :5], (values[:, :5] + values[:, 5:10] + values[:, 10:15]) / 3, atol=1e-6)
        assert torch.equal(mean[:, 5:], values[:, 15:]) and start == 5

    def test_whose_agreement(self):
        keys, masks = draw(1, 3 * 12 + 2, 5), A.grid_masks(blobs(1, 2, 3, 4), (3, 4))
        blocks = keys[:, :36].unflatten(1, (3, 12))
        assert torch.equal(A.sequence_agreement(keys, masks, 'each'),
                           A.key_agreement(blocks[:, 2], blocks[:, :2], masks, 'each'))
        assert torch.equal(A.sequence_agreement(keys, masks, 'released'),
                           A.key_agreement(blocks[:, 1], blocks[:, :1], masks[:, :1]))

    def test_split(self):
        weights = torch.rand(2, 4, 3 * 4 + 3)
        support, pseudo, pointers = A.split_weights(weights, 3)
        assert torch.equal(support.flatten(2), weights[:, :, :8]) and support.shape == (2, 4, 2, 4)
        assert torch.equal(pseudo, weights[:, :, 8:12]) and torch.equal(pointers, weights[:, :, 12:])


class TestInSam2:
    @pytest.mark.parametrize('fast', [True, False])
    def test_without_calibration_it_is_stock(self, model, scene, fast):
        query, supports, pseudo, masks = scene
        with torch.no_grad():
            ours = A.calibrated_attention(model, query, supports, pseudo, masks, alpha=0., fast=fast)
            assert (ours - recall(model, query, [*supports, pseudo])).abs().max() < 1e-5

    @pytest.mark.parametrize('options', [{}, dict(keep_support_values=False), dict(support_blocks='mean'),
                                         dict(shots='each'), dict(shots='released'), dict(alpha=3.)])
    def test_both_forms_agree_and_options_differ(self, model, scene, options):
        query, supports, pseudo, masks = scene
        with torch.no_grad():
            run = lambda **o: A.calibrated_attention(model, query, supports, pseudo, masks, **o)
            fast, slow, watched = run(**options), run(fast=False, **options), []
            assert (fast - slow).abs().max() < 1e-5 and (fast - run(watch=watched, **options)).abs().max() < 1e-5
            assert len(watched) == len(model.memory_attention.layers)
            if options: assert (fast - run()).abs().max() > 1e-6

    def test_one_shot_has_one_meaning(self, model, scene):
        query, supports, pseudo, masks = scene
        with torch.no_grad():
            found = [A.calibrated_attention(model, query, supports[:1], pseudo, masks[:, :1], **o)
                     for o in ({}, dict(shots='each'), dict(shots='released'), dict(support_blocks='mean'))]
        for other in found[1:]: assert torch.allclose(found[0], other, atol=1e-6)

    def test_mean_of_copies_is_one_support(self, model, scene):
        """Without pointers' weight the mean of K equal blocks is the block."""
        query, supports, pseudo, masks = scene
        with torch.no_grad():
            kept = [A.calibrated_attention(model, query, supports[:1] * k, pseudo, masks[:, :1].repeat(1, k, 1, 1),
                                           keep_support_values=False) for k in (1, 3)]
        assert torch.allclose(*kept, atol=1e-6)

    def test_order_of_supports_does_not_matter(self, model, scene):
        query, supports, pseudo, masks = scene
        with torch.no_grad():
            there = A.calibrated_attention(model, query, supports, pseudo, masks)
            back = A.calibrated_attention(model, query, supports[::-1], pseudo, masks.flip(1))
        assert torch.allclose(there, back, atol=1e-5)

    def test_first_layer_by_hand(self, model, scene):
        """Scores, bias and weights of the first layer's reading, from its projections and plain rotations in numpy."""
        query, supports, pseudo, masks = scene
        watched, layer = [], model.memory_attention.layers[0]
        with torch.no_grad():
            A.calibrated_attention(model, query, supports, pseudo, masks, watch=watched)
            tokens, places, pointers = memory_tokens(model, [*supports, pseudo])
            x = layer.norm2(layer._forward_sa((query.maps[-1] + .1 * query.positions[-1]).transpose(0, 1), None))
            q, k = (proj(y)[0].numpy().astype(float) for proj, y in ((layer.cross_attn_image.q_proj, x),
                    (layer.cross_attn_image.k_proj, (tokens + places).transpose(0, 1))))

        def turned(row, place):
            pairs, quarter = row.reshape(-1, 2), len(row) // 4
            speeds = 10000. ** (-4 * np.arange(quarter) / len(row))
            angles = np.concatenate([place % SIDE * speeds, place // SIDE * speeds])
            c, s = np.cos(angles), np.sin(angles)
            return np.stack([c * pairs[:, 0] - s * pairs[:, 1], s * pairs[:, 0] + c * pairs[:, 1]], 1).reshape(-1)

        q = np.array([turned(row, i) for i, row in enumerate(q)])
        k = np.array([turned(row, j % N) if j < len(k) - pointers else row for j, row in enumerate(k)])
        scores, reading = q @ k.T / math.sqrt(q.shape[1]), watched[0]
        assert np.allclose(reading.scores[0], scores[:, 3 * N:4 * N], atol=1e-4)
        grid = masks[0, :, ::16, ::16].reshape(3, -1).numpy()
        cosines = [slow_cosines(k[3 * N:4 * N], k[n * N:(n + 1) * N], grid[n]) for n in range(3)]
        c = slow_stretch(np.mean(cosines, 0))
        bias = np.array([10 * np.minimum(0, slow_stretch(row) + c - 1) for row in scores[:, 3 * N:4 * N]])
        assert np.allclose(reading.bias[0], bias, atol=1e-3)
        for found, add in ((reading.before, 0), (reading.after, bias)):
            raised = scores.copy()
            raised[:, 3 * N:4 * N] += add
            weights = np.exp(raised) / np.exp(raised).sum(1, keepdims=True)
            assert np.allclose(torch.cat([part[0].flatten(1) for part in found], 1), weights, atol=1e-4)

    def test_bias_only_in_the_pseudo_block_for_any_number_of_shots(self, model, scene):
        query, supports, pseudo, masks = scene
        for k in (1, 2, 3):
            watched = []
            with torch.no_grad():
                A.calibrated_attention(model, query, supports[:k], pseudo, masks[:, :k], watch=watched)
            for r in watched:
                assert -10 <= r.bias.min() < -1 and r.bias.max() == 0 and r.after.support.shape == (2, N, k, N)
                ratio = torch.cat([(r.after.support / r.before.support).flatten(2),
                                   r.after.pointers / r.before.pointers], 2)
                assert torch.allclose(ratio, ratio[:, :, :1].expand_as(ratio), rtol=1e-3)  # scores untouched
                assert torch.allclose((r.after.pseudo / r.before.pseudo / ratio[:, :, :1]).log(), r.bias, atol=1e-2)

    @pytest.mark.parametrize('kind', ['empty', 'vanishing', 'ignored'])
    def test_no_object_on_the_grid_is_no_calibration(self, model, scene, kind):
        query, supports, pseudo, masks = scene
        nothing = torch.full_like(masks, 255 if kind == 'ignored' else 0)
        if kind == 'vanishing': nothing[..., 5:9, 5:9] = 1
        with torch.no_grad():
            ours = A.calibrated_attention(model, query, supports, pseudo, nothing)
            assert ours.isfinite().all() and (ours - recall(model, query, [*supports, pseudo])).abs().max() < 1e-5

    def test_training_mode_drops_and_has_gradients(self, scene):
        model = load_sam2('sam2_tiny', None, image_size=64).memory_attention.train()  # without dropout, as it comes
        for layer in model.layers: layer.cross_attn_image.dropout_p = layer.dropout2.p = .1
        curr, tokens, masks = draw(N, 1, 128), draw(2 * N + 4, 1, 32, seed=1), blobs(1, 1, 64, 64)
        run = lambda fast: A.attend(model, curr, 0 * curr, tokens, 0 * tokens, 4, masks, A.Calibration(fast=fast))
        for fast in (True, False): assert (run(fast) - run(fast)).abs().max() > 1e-3
        run(True).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        model.eval()
        assert torch.equal(run(True), run(True))

    def test_autocast_stays_near(self, model, scene):
        query, supports, pseudo, masks = scene
        with torch.no_grad():
            exact = A.calibrated_attention(model, query, supports, pseudo, masks)
            with torch.autocast('cpu', torch.bfloat16):
                rough = A.calibrated_attention(model, query, supports, pseudo, masks)
        assert (exact - rough.float()).abs().mean() < .02 * exact.abs().mean()

    def test_package_and_weights_are_untouched(self, model, scene):
        query, supports, pseudo, masks = scene
        names = list(model.state_dict())
        with torch.no_grad(): A.calibrated_attention(model, query, supports, pseudo, masks)
        assert list(model.state_dict()) == names and not any('forward' in vars(m) for m in model.modules())


class TestErrors:
    @pytest.mark.parametrize('options, words', [
        (dict(alpha=-1.), 'alpha of at least 0'), (dict(alpha=math.nan), 'alpha of at least 0'),
        (dict(alpha=math.inf), 'alpha'), (dict(support_blocks='one'), 'support_blocks'), (dict(shots='two'), 'shots'),
        (dict(shots='released', support_blocks='mean'), "biases a support's block"),
        (dict(shots='released', keep_support_values=False), "biases a support's block")])
    def test_settings(self, options, words):
        with pytest.raises(FSSKitError, match=words): A.Calibration(**options)

    def test_masks(self, model, scene):
        query, supports, pseudo, masks = scene
        for wrong, words in ((masks[:1], 'support masks'), (masks[:, 0], 'support masks'),
                             (masks[:, :2], 'blocks of 16 places')):
            with pytest.raises(FSSKitError, match=words): A.calibrated_attention(model, query, supports, pseudo, wrong)
