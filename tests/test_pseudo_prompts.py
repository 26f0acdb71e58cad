"""Pseudo prompts against loops in numpy, and the properties that a user relies on: copies, order, empty masks, precision."""
import numpy as np
import pytest
import torch

import fsskit.pseudo_prompts as P
from fsskit.backbones import create_backbone
from fsskit.evaluation import remembering
from fsskit.photos import FSSKitError
from fsskit.similarity import PrototypeModel


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def blobs(*shape, seed=0):
    """Binary masks with some foreground and some background."""
    masks = (np.random.default_rng(seed).random(shape) > .6).astype(np.uint8)
    masks[..., 0, 0], masks[..., -1, -1] = 1, 0
    return torch.from_numpy(masks)


def slow_resize(values, size):
    """Bilinear, corner on corner, one output at a time."""
    (h, w), out = values.shape, np.zeros(size)
    for i, j in np.ndindex(*size):
        y, x = i * (h - 1) / max(size[0] - 1, 1), j * (w - 1) / max(size[1] - 1, 1)
        y0, x0 = min(int(y), h - 2), min(int(x), w - 2)
        a, b = y - y0, x - x0
        out[i, j] = ((1 - a) * (1 - b) * values[y0, x0] + (1 - a) * b * values[y0, x0 + 1]
                     + a * (1 - b) * values[y0 + 1, x0] + a * b * values[y0 + 1, x0 + 1])
    return out


def slow_stretch(values): return (values - values.min()) / (values.max() - values.min() + 1e-7)


def slow_prior(query, support, mask):
    """(C,h,w), (C,h,w), (h,w) -> (h,w), in double precision."""
    prototype = (support * mask).sum((1, 2)) / (mask.sum() + 5e-4)
    lengths = np.linalg.norm(prototype) * np.linalg.norm(query, axis=0) + 1e-7
    return slow_stretch(np.tensordot(prototype, query, 1) / lengths)


def slow_prompts(query, supports, masks, size):
    fg, disc = [], []
    for support, mask in zip(supports, masks):
        grid = slow_resize(np.where(mask == 255, 0, mask).astype(float), support.shape[1:])
        front, back = (slow_resize(slow_prior(query, support, m), (size, size)) for m in (grid, 1 - grid))
        fg.append(front)
        disc.append(slow_stretch(np.maximum(front - back, 0)))
    return np.mean(fg, 0), np.mean(disc, 0)


class TestResize:
    @pytest.mark.parametrize('size', [(3, 4), (9, 5), (2, 2)])
    def test_corner_on_corner(self, size):
        maps = draw(2, 3, 5, 6)
        for i, j in np.ndindex(2, 3):
            assert np.allclose(P.resize(maps, size)[i, j], slow_resize(maps[i, j].numpy(), size), atol=1e-5)

    def test_own_size_is_the_same_tensor(self):
        maps = draw(1, 4, 4)
        assert P.resize(maps, (4, 4)) is maps

    def test_masks(self):
        mask = torch.tensor([[[1, 255, 0], [0, 1, 255], [255, 0, 1]]], dtype=torch.uint8)
        plain = torch.tensor([[[1, 0, 0], [0, 1, 0], [0, 0, 1.]]])
        assert torch.equal(P.soft_masks(mask, (3, 3)), plain) and torch.equal(P.soft_masks(plain, (3, 3)), plain)
        assert np.allclose(P.soft_masks(mask, (5, 4))[0], slow_resize(plain[0].numpy(), (5, 4)), atol=1e-6)
        assert P.soft_masks(torch.full((1, 2, 2), .3), (2, 2)).mean() == pytest.approx(.3)


class TestCosines:
    def test_against_numpy(self):
        query, support, masks = draw(2, 5, 4, 3), draw(2, 3, 5, 6, 2, seed=1), torch.rand(2, 3, 6, 2)
        found = P.prototype_cosines(query, support, masks)
        for b, k in np.ndindex(2, 3):
            weights, s, q = masks[b, k].numpy(), support[b, k].numpy(), query[b].numpy()
            p = (s * weights).sum((1, 2)) / (weights.sum() + 5e-4)
            wanted = np.einsum('c,chw->hw', p, q) / (np.linalg.norm(p) * np.linalg.norm(q, axis=0) + 1e-7)
            assert np.allclose(found[b, k], wanted, atol=1e-5)

    def test_epsilons_where_they_show(self):
        """Tiny features: 1e-7 under the cosine is then as large as the product of lengths."""
        query, support, mask = torch.full((1, 1, 1, 1), 1e-3), torch.full((1, 1, 1, 1, 1),
                                                                          1e-3), torch.full((1, 1, 1, 1), 1e-3)
        prototype = 1e-6 / (1e-3 + 5e-4)
        assert P.prototype_cosines(query, support,
                                   mask).item() == pytest.approx(prototype * 1e-3 / (prototype * 1e-3 + 1e-7), rel=1e-4)

    def test_low_precision_around_it_changes_nothing(self):
        query, support, masks = draw(1, 64, 4, 4), draw(1, 2, 64, 4, 4, seed=1), torch.rand(1, 2, 4, 4)
        with torch.autocast('cpu', torch.bfloat16): inside = P.prototype_cosines(query, support, masks)
        assert torch.equal(inside, P.prototype_cosines(query, support, masks)) and inside.dtype == torch.float32

    def test_empty_mask_gives_zeros_and_finite_gradients(self):
        query, support = draw(1, 3, 4, 4).requires_grad_(), draw(1, 1, 3, 4, 4).requires_grad_()
        found = P.prototype_cosines(query, support, torch.zeros(1, 1, 4, 4))
        P.stretch(found).sum().backward()
        assert found.abs().max() == 0 and query.grad.isfinite().all() and support.grad.isfinite().all()


class TestPrior:
    def test_stretch(self):
        maps = draw(2, 3, 4, 5)
        found = P.stretch(maps)
        for i, j in np.ndindex(2, 3): assert np.allclose(found[i, j], slow_stretch(maps[i, j].numpy()), atol=1e-6)
        assert P.stretch(torch.full((1, 2, 2), 7.)).abs().max() == 0

    def test_against_numpy_and_at_any_size_of_mask(self):
        query, support, mask = draw(2, 4, 5, 3), draw(2, 4, 6, 6, seed=1), blobs(2, 30, 20)
        found = P.prototype_prior(query, support, mask)
        for b in range(2):
            wanted = slow_prior(query[b].numpy(), support[b].numpy(),
                                slow_resize(mask[b].numpy().astype(float), (6, 6)))
            assert np.allclose(found[b], wanted, atol=1e-5)

    def test_same_photo_finds_its_own_object(self):
        """Object and background with features of their own: the prior is the mask."""
        mask = torch.zeros(1, 6, 6)
        mask[:, 2:4, 1:4] = 1
        looks = torch.stack([mask, 1 - mask], 1) + .05 * draw(1, 2, 6, 6)
        assert torch.equal((P.prototype_prior(looks, looks, mask) > .5).float(), mask)


class TestVote:
    def test_mean_of_those_with_foreground(self):
        maps, masks = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 2, 2)
        masks[0, 1], masks[1] = 0, 0
        found = P.vote(maps, masks)
        assert torch.allclose(found[0], (maps[0, 0] + maps[0, 2]) / 2) and found[1].abs().max() == 0


class TestPseudoPrompts:
    @pytest.mark.parametrize('shots', [1, 3])
    def test_against_loops(self, shots):
        query, support, masks = draw(2, 5, 4, 4), draw(2, shots, 5, 4, 4, seed=1), blobs(2, shots, 17, 19, seed=2)
        masks[:, :, 3:6, 4:8] = 255
        found = P.pseudo_prompts(query, support, masks, 11)
        for b in range(2):
            wanted = slow_prompts(query[b].numpy(), support[b].numpy(), masks[b].numpy(), 11)
            for prior, value in zip(found, wanted): assert np.allclose(prior[b], value, atol=2e-5)
        assert found.foreground.shape == found.discriminative.shape == (2, 11, 11)
        assert all(0 <= prior.min() and prior.max() <= 1 for prior in found)

    def test_copies_and_order(self):
        query, support, masks = draw(1, 5, 4, 4), draw(1, 3, 5, 4, 4, seed=1), blobs(1, 3, 12, 12)
        one, four = (P.pseudo_prompts(query, support[:, :1].repeat(1, k, 1, 1, 1), masks[:, :1].repeat(1, k, 1, 1), 8)
                     for k in (1, 4))
        there, back = (P.pseudo_prompts(query, support[:, order], masks[:, order], 8)
                       for order in ([0, 1, 2], [2, 0, 1]))
        for pair in ((one, four), (there, back)):
            for a, b in zip(*pair): assert torch.allclose(a, b, atol=1e-6)
        assert not torch.allclose(one.foreground, there.foreground, atol=1e-2)

    def test_batch_is_a_stack_of_singles(self):
        query, support, masks = draw(3, 5, 4, 4), draw(3, 2, 5, 4, 4, seed=1), blobs(3, 2, 12, 12)
        whole = P.pseudo_prompts(query, support, masks, 8)
        for b in range(3):
            single = P.pseudo_prompts(query[b:b + 1], support[b:b + 1], masks[b:b + 1], 8)
            for a, c in zip(whole, single): assert torch.allclose(a[b:b + 1], c, atol=1e-6)

    def test_lengths_of_query_features_do_not_matter(self):
        query, support, masks = draw(1, 5, 4, 4), draw(1, 1, 5, 4, 4, seed=1), blobs(1, 1, 12, 12)
        scaled = query * (1 + torch.rand(1, 1, 4, 4))
        for a, b in zip(P.pseudo_prompts(query, support, masks, 8), P.pseudo_prompts(scaled, support, masks, 8)):
            assert torch.allclose(a, b, atol=1e-5)

    def test_identical_photos_beat_chance(self):
        """Query = support: the discriminative prior overlaps the mask better than a constant guess does."""
        mask = torch.zeros(1, 1, 64, 64)
        mask[..., 16:40, 20:52] = 1
        looks = draw(1, 16, 8, 8) + 1.5 * P.soft_masks(mask, (8, 8)) * draw(1, 16, 1, 1, seed=5)
        guess, truth = P.pseudo_prompts(looks, looks[:, None], mask, 64).discriminative[0] > .5, mask[0, 0] > 0
        iou = ((guess & truth).sum() / (guess | truth).sum()).item()
        assert iou > 1.5 * truth.float().mean().item() and iou > .4

    @pytest.mark.parametrize('kind', ['empty', 'vanishing', 'ignored', 'full'])
    def test_degenerate_masks_are_finite(self, kind):
        query, support, mask = draw(1, 5, 4, 4), draw(1, 1, 5, 4, 4,
                                                      seed=1), torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
        if kind == 'vanishing': mask[..., 30:33, 30:33] = 1
        if kind == 'ignored': mask[:] = 255
        if kind == 'full': mask[:] = 1
        found = P.pseudo_prompts(query, support, mask, 16)
        assert all(prior.isfinite().all() for prior in found)
        if kind == 'full': assert torch.allclose(found.discriminative, P.stretch(found.foreground), atol=1e-5)
        else: assert all(prior.abs().max() == 0 for prior in found)

    def test_a_shot_without_foreground_has_no_say(self):
        query, support, masks = draw(1, 5, 4, 4), draw(1, 2, 5, 4, 4, seed=1), blobs(1, 2, 16, 16)
        masks[:, 1] = 0
        for a, b in zip(P.pseudo_prompts(query, support, masks, 8),
                        P.pseudo_prompts(query, support[:, :1], masks[:, :1], 8)):
            assert torch.allclose(a, b, atol=1e-6)

    @pytest.mark.parametrize('support, masks, words', [
        (draw(1, 5, 4, 4), blobs(1, 1, 8, 8), 'support features'),
        (draw(2, 1, 5, 4, 4), blobs(1, 1, 8, 8), 'support features'),
        (draw(1, 1, 6, 4, 4), blobs(1, 1, 8, 8), 'support features'),
        (draw(1, 2, 5, 4, 4), blobs(1, 1, 8, 8), 'support masks'),
        (draw(1, 1, 5, 4, 4), blobs(1, 8, 8), 'support masks')])
    def test_errors(self, support, masks, words):
        with pytest.raises(FSSKitError, match=words): P.pseudo_prompts(draw(1, 5, 4, 4), support, masks, 8)


class TestFeatures:
    def test_sizes_as_in_the_paper(self):
        class Net: stride = 14
        assert P.prior_size(Net, 512) == 560
        Net.stride = 16
        assert P.prior_size(Net, 256) == 320

    def test_layers_size_and_cache(self):
        backbone, images = create_backbone('embedded', None), torch.rand(2, 3, 64, 64)
        big = P.resize(images, (80, 80))
        last, = backbone(big, [-1])
        assert torch.equal(P.prior_features(backbone, images, layers=[-1]), last) and last.shape[-2:] == (5, 5)
        both = P.prior_features(backbone, images)
        layers = [x / x.norm(dim=1, keepdim=True) / 2 ** .5 for x in backbone(big, backbone.default_layers)]
        assert torch.allclose(both, torch.cat(layers, 1), atol=1e-6) and not both.requires_grad
        assert P.prior_features(backbone, images, 128, [-1]).shape[-2:] == (8, 8)
        model = PrototypeModel(backbone)
        with remembering(model): assert torch.allclose(P.prior_features(model.backbone, images), both, atol=1e-5)
