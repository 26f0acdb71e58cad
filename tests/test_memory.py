"""Memory on stock SAM 2: every step against the package's own methods, and the properties a few-shot user relies on."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fsskit.memory as M
from fsskit.photos import FSSKitError
from fsskit.sam2 import load_sam2


def opened(name):
    """A model that believes that objects are there: else all pointers would be the word for nothing."""
    model = load_sam2(name, None, seed=1, image_size=64)
    with torch.no_grad(): model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.)
    return model


@pytest.fixture(scope='module')
def tiny(): return opened('sam2_tiny')


@pytest.fixture(scope='module')
def newer(): return opened('sam2.1_hiera_t')


@pytest.fixture(scope='module')
def images():
    """Noise with a patch that moves, (5, 3, 64, 64)."""
    rng = np.random.default_rng(0)
    ground, patch = rng.random((3, 64, 64)) * .5, .5 + rng.random((3, 20, 24)) * .5
    frames = np.repeat(ground[None], 5, 0)
    for t in range(5): frames[t, :, 8 + 6 * t:28 + 6 * t, 4 + 7 * t:28 + 7 * t] = patch
    return torch.from_numpy(frames).float()


@pytest.fixture(scope='module')
def masks():
    """The patch of each image, (5, 64, 64)."""
    masks = torch.zeros(5, 64, 64)
    for t in range(5): masks[t, 8 + 6 * t:28 + 6 * t, 4 + 7 * t:28 + 7 * t] = 1
    return masks


def bank_of(memories):
    """SAM 2's own form of memories: prompted frames 0, 1, ..."""
    entries = {t: dict(maskmem_features=m.features, maskmem_pos_enc=[m.positions], obj_ptr=m.pointer)
               for t, m in enumerate(memories)}
    return {'cond_frame_outputs': entries, 'non_cond_frame_outputs': {}}


def stock_recall(model, query, memories):
    count = len(memories)
    return model._prepare_memory_conditioned_features(count, False, query.maps[-1:], query.positions[-1:],
                                                      query.sizes[-1:], bank_of(memories), count + 1)


class TestFeatures:
    def test_are_the_packages_after_imagenet_normalisation(self, tiny, images):
        mean, std = torch.tensor([.485, .456, .406]).view(3, 1, 1), torch.tensor([.229, .224, .225]).view(3, 1, 1)
        with torch.no_grad():
            seen = M.image_features(tiny, images[:2])
            wanted = tiny.forward_image((images[:2] - mean) / std)
        assert torch.equal(seen.grid(), wanted['vision_features'])
        for level in range(3): assert torch.equal(seen.grid(level), wanted['backbone_fpn'][level])
        assert [tuple(x.shape) for x in seen.fine] == [(2, 16, 16, 16), (2, 32, 8, 8)]

    def test_other_sizes_are_squashed(self, tiny, images):
        wide = F.interpolate(images[:1], (64, 160), mode='nearest')
        with torch.no_grad(): a, b = (M.image_features(tiny, x).grid() for x in (images[:1], wide))
        assert a.shape == b.shape and (a - b).abs().mean() < .5 * a.std()

    @pytest.mark.parametrize('wrong', [torch.zeros(3, 64, 64), torch.zeros(1, 1, 64, 64),
                                       torch.full((1, 3, 64, 64), 200.)])
    def test_errors(self, tiny, wrong):
        with pytest.raises(FSSKitError): M.image_features(tiny, wrong)


class TestWriting:
    def test_memory_of_is_the_first_step_of_tracking(self, tiny, images, masks):
        with torch.no_grad():
            f = M.image_features(tiny, images[:1])
            _, heads, _, _ = tiny._track_step(0, True, f.maps, f.positions, f.sizes, None, masks[:1, None], {}, 5,
                                              False, None)
            entry = {}
            tiny._encode_memory_in_output(f.maps, f.sizes, None, True, heads[4], heads[6], entry)
            memory = M.memory_of(tiny, images[:1], masks[:1])
        assert torch.equal(memory.pointer, heads[5]) and torch.equal(memory.features, entry['maskmem_features'])
        assert torch.equal(memory.positions, entry['maskmem_pos_enc'][0])
        assert not torch.equal(memory.pointer, tiny.no_obj_ptr)

    def test_memory_encoder_sees_a_steep_sigmoid(self, tiny, images, masks):
        """20 sigmoid(20 m - 10) - 10 of a soft mask goes into the memory encoder."""
        soft = F.avg_pool2d(masks[:1, None], 9, 1, 4)[:, 0]
        with torch.no_grad():
            seen = M.image_features(tiny, images[:1])
            level = 20 * torch.sigmoid(20 * soft[:, None] - 10) - 10
            wanted = tiny.memory_encoder(seen.grid(), level, skip_mask_sigmoid=True)['vision_features']
            assert torch.allclose(M.encode_memory(tiny, seen, soft).features, wanted, atol=1e-5)

    def test_ignored_pixels_are_background(self, tiny, images, masks):
        seen, mask = M.image_features(tiny, images[:1]), masks[:1].long()
        a, b = (M.encode_memory(tiny, seen, m) for m in (mask, torch.where(mask == 0, 255, mask)))
        assert torch.equal(a.features, b.features)

    def test_masks_of_another_size_are_resized(self, tiny):
        soft = M.square_masks(tiny, torch.ones(2, 17, 31))
        assert soft.shape == (2, 1, 64, 64) and torch.allclose(soft, torch.ones(1), atol=1e-6)

    def test_empty_mask_has_the_pointer_of_nothing(self, tiny, images):
        memory = M.memory_of(tiny, images[:1], torch.zeros(1, 64, 64))
        assert torch.equal(memory.pointer, tiny.no_obj_ptr) and torch.isfinite(memory.features).all()

    def test_version_2_1_marks_hidden_objects(self, newer, images, masks):
        """The learned word is added for an empty mask, and only then."""
        word = newer.no_obj_embed_spatial
        kinds = {}
        for name, mask in (('empty', torch.zeros(1, 64, 64)), ('marked', masks[:1])):
            with torch.no_grad():
                told = M.memory_of(newer, images[:1], mask).features
                newer.no_obj_embed_spatial = None
                try: kinds[name] = told - M.memory_of(newer, images[:1], mask).features
                finally: newer.no_obj_embed_spatial = word
        assert torch.allclose(kinds['empty'], word[..., None, None].expand_as(kinds['empty']), atol=1e-6)
        assert not kinds['marked'].any()


class TestReading:
    @pytest.mark.parametrize('name', ['tiny', 'newer'])
    @pytest.mark.parametrize('count', [1, 3])
    def test_recall_is_the_stock_method(self, name, count, images, masks, request):
        """Three frames of a video, with their ages; one support, whose age is 1."""
        model = request.getfixturevalue(name)
        ages = None if count == 1 else [3, 2, 1]
        with torch.no_grad():
            features = [M.image_features(model, image[None]) for image in images]
            memories = [M.encode_memory(model, f, m[None]) for f, m in zip(features[:count], masks)]
            wanted = stock_recall(model, features[3], memories)
            assert torch.allclose(M.recall(model, features[3], memories, ages), wanted, atol=1e-6)
            seen, result = M.memory_reading(model, features[3], memories, ages)
        pieces = model.hidden_dim // model.mem_dim
        assert torch.allclose(result, wanted, atol=1e-6)
        assert all(s.shape == (1, 16, count * (16 + pieces)) for s in seen)
        assert all(torch.allclose(s.sum(2), torch.ones(1, 16), atol=1e-5) for s in seen)

    @pytest.mark.parametrize('name', ['tiny', 'newer'])
    def test_supports_are_a_set(self, name, images, masks, request):
        model = request.getfixturevalue(name)
        with torch.no_grad():
            query = M.image_features(model, images[3:4])
            memories = [M.memory_of(model, images[t:t + 1], masks[t:t + 1]) for t in range(3)]
            a, b = (M.recall(model, query, order) for order in (memories, memories[::-1]))
        assert torch.allclose(a, b, atol=1e-5)

    def test_old_pointers_count_as_the_oldest(self, newer, images, masks):
        """As in the package, ages are shares of at most 15 frames."""
        from sam2.modeling.sam2_utils import get_1d_sine_pe
        with torch.no_grad():
            places = M.pointer_places(newer, [20, 5], 2)
            wanted = newer.obj_ptr_tpos_proj(get_1d_sine_pe(torch.tensor([20., 5.]) / 15, dim=256))
        assert torch.equal(places[:, 0], wanted) and torch.equal(places[:, 1], wanted)

    def test_one_row_in_numpy(self, tiny, images, masks):
        """Rotations and softmax of one query place, computed with complex numbers."""
        with torch.no_grad():
            query, memory = M.image_features(tiny, images[3:4]), M.memory_of(tiny, images[:1], masks[:1])
            layer, (tokens, places, _) = tiny.memory_attention.layers[0], M.memory_tokens(tiny, [memory])
            x = layer._forward_sa((query.maps[-1] + .1 * query.positions[-1]).transpose(0, 1), None)
            q = layer.cross_attn_image.q_proj(layer.norm2(x))[0].numpy()
            k = layer.cross_attn_image.k_proj(tokens + places)[:, 0].numpy()
            row = M.memory_reading(tiny, query, [memory])[0][0][0, 6].numpy()
        speeds = 10000. ** (-np.arange(0, 128, 4) / 128)
        turn = lambda v, place: np.exp(1j * np.concatenate([place % 4 * speeds,
                                                            place // 4 * speeds])) * (v[0::2] + 1j * v[1::2])
        one, keys = turn(q[6], 6), [turn(k[n], n) if n < 16 else k[n, 0::2] + 1j * k[n, 1::2] for n in range(20)]
        whole = q[6, 0::2] + 1j * q[6, 1::2]  # pointers are not rotated, the query is
        assert whole.shape == one.shape
        scores = np.array([(one * key.conj()).real.sum() for key in keys]) / np.sqrt(128)
        assert np.allclose(np.exp(scores) / np.exp(scores).sum(), row, atol=1e-5)

    def test_weights_times_values_is_the_layer(self, tiny):
        """The weights of `cross_weights`, applied by hand, give the fused attention of the package."""
        attention, draw = tiny.memory_attention.layers[1].cross_attn_image, torch.Generator().manual_seed(0)
        q, memory = torch.randn(2, 16, 128, generator=draw), torch.randn(2, 36, 32, generator=draw)
        by_hand = attention.out_proj(M.cross_weights(attention, q, memory, 4) @ attention.v_proj(memory))
        assert torch.allclose(by_hand, attention(q, memory.clone(), memory, num_k_exclude_rope=4), atol=1e-5)

    def test_gradients_reach_the_mask(self, tiny, images, masks):
        """A soft mask near one half gets a gradient through writing, reading and decoding."""
        soft = (.5 + .05 * (masks[:1] - .5)).requires_grad_()
        M.segment_with(tiny, images[3:4], [M.memory_of(tiny, images[:1], soft)]).mean().backward()
        assert torch.isfinite(soft.grad).all() and soft.grad.abs().sum() > 0

    def test_errors(self, tiny, newer, images, masks):
        query = M.image_features(tiny, images[3:4])
        one, two = (M.memory_of(tiny, images[:n], masks[:n]) for n in (1, 2))
        for memories, ages, words in (([], None, 'no memory'), ([one, two], None, 'same number of pictures'),
                                      ([M.memory_of(newer, images[:1], masks[:1])], None, '32 channels'),
                                      ([one], [1, 2], 'one number'), ([one], [0], 'from 1 on')):
            with pytest.raises(FSSKitError, match=words): M.recall(tiny, query, memories, ages)


class TestDecoding:
    def test_is_the_stock_head(self, tiny, images):
        model = load_sam2('sam2_tiny', None, seed=1, image_size=64)
        features = M.image_features(model, images[:1])
        for bias, hidden in ((5., False), (-5., True)):
            with torch.no_grad(): model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(bias)
            stock = model._forward_sam_heads(features.grid(), high_res_features=features.fine, multimask_output=True)
            gated, free = M.decode(model, features, features.grid(),
                                   gate=True), M.decode(model, features, features.grid())
            assert torch.equal(gated.masks, stock[0]) and torch.equal(gated.best, stock[3][:, 0])
            assert torch.equal(free.score, stock[6]) and (gated.masks == M.NO_OBJ_SCORE).all().item() == hidden
            assert (free.masks != M.NO_OBJ_SCORE).all()

    def test_best_has_the_best_expected_iou(self):
        masks = torch.arange(6.).view(2, 3, 1, 1).expand(2, 3, 2, 2)
        best = M.Decoded(masks, torch.tensor([[.1, .9, .3], [.8, .2, .1]]), torch.zeros(2, 1)).best
        assert best[0].unique() == 1 and best[1].unique() == 3

    def test_batch_is_a_stack_of_singles(self, tiny, images, masks):
        with torch.no_grad():
            both = M.segment_with(tiny, images[2:4], [M.memory_of(tiny, images[:2], masks[:2])])
            one = torch.cat([M.segment_with(tiny, images[2 + n:3 + n],
                                            [M.memory_of(tiny, images[n:n + 1], masks[n:n + 1])])
                             for n in (0, 1)])
        assert both.shape == (2, 64, 64) and torch.allclose(both, one, atol=1e-4)

    def test_result_has_the_photos_own_shape(self, tiny, images, masks):
        with torch.no_grad():
            memory = M.memory_of(tiny, images[:1], masks[:1])
            wide = M.segment_with(tiny, images[3:4, :, :32], [memory])
            free, gated = (M.segment_with(tiny, images[3:4], [memory], gate) for gate in (False, True))
        assert wide.shape == (1, 32, 64) and torch.equal(free, gated) and free.shape == (1, 64, 64)
