"Tests of fsskit.mask_decoder: pairs against the official forward pass, one image at a time."
import numpy as np
import pytest
import torch
from segment_anything.modeling import PromptEncoder
from fsskit.mask_decoder import (PairedDecoder, attend, converse, decode_pairs, new_decoder, place_codes, sam_decoder,
                                 single_mask_parameters)
from fsskit.photos import FSSKitError
from fsskit.sam import load_sam


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pairs(b=3, n=2, grid=(5, 7), dim=32, seed=0):
    return rand(b, dim, *grid, seed=seed), rand(b, n, dim, seed=seed + 1), rand(b, dim, *grid, seed=seed + 2)


@pytest.fixture(scope='module')
def small():
    torch.manual_seed(0)
    return new_decoder(32, 2, 64)


def official(decoder, image, sparse, dense):
    "The package's own predict_masks for each pair by itself."
    place = decoder.pe_layer(tuple(image.shape[-2:]))[None]
    each = [decoder.mask_decoder.predict_masks(image[b:b + 1], place, sparse[b:b + 1], dense[b:b + 1])
            for b in range(len(image))]
    return [torch.cat(part) for part in zip(*each)]


@pytest.mark.parametrize('grid', [(16, 16), (37, 37), (20, 20), (3, 11)])
def test_place_codes_are_sams(grid):
    encoder = PromptEncoder(256, grid, (16 * grid[0], 16 * grid[1]), 16)
    codes = place_codes(encoder.pe_layer.positional_encoding_gaussian_matrix, grid)
    assert torch.allclose(codes, encoder.get_dense_pe(), atol=1e-5)


def test_place_codes_by_hand():
    matrix = rand(2, 3, dtype=torch.float64)
    codes = place_codes(matrix, (2, 5))
    for row, column in np.ndindex(2, 5):
        angles = 2 * np.pi * np.array([2 * (column + .5) / 5 - 1, 2 * (row + .5) / 2 - 1]) @ matrix.numpy()
        assert np.allclose(codes[0, :, row, column], [*np.sin(angles), *np.cos(angles)])


@torch.no_grad()
def test_attend_is_the_official_attention(small):
    for attention in (small.mask_decoder.transformer.layers[0].self_attn,
                      small.mask_decoder.transformer.final_attn_token_to_image):
        q, k, v = rand(2, 4, 32), rand(2, 6, 32, seed=1), rand(2, 6, 32, seed=2)
        assert torch.allclose(attend(attention, q, k, v), attention(q, k, v), atol=1e-5)
        assert torch.allclose(attend(attention, q, k, v, torch.ones(6)), attention(q, k, v), atol=1e-5)


@torch.no_grad()
def test_attend_with_weights_is_attention_with_copies(small):
    attention = small.mask_decoder.transformer.layers[0].self_attn
    q, k, v = rand(1, 4, 32), rand(1, 3, 32, seed=1), rand(1, 3, 32, seed=2)
    counts = torch.tensor([1, 3, 2])
    copies = [t.repeat_interleave(counts, 1) for t in (k, v)]
    assert torch.allclose(attend(attention, q, k, v, counts.float()), attention(q, *copies), atol=1e-5)


def test_attend_gradient():
    attention = new_decoder(16, 2, 16, 1).double().mask_decoder.transformer.layers[0].self_attn
    q, k = rand(1, 2, 16, dtype=torch.float64).requires_grad_(), rand(1, 3, 16, seed=1,
                                                                      dtype=torch.float64).requires_grad_()
    weight = torch.tensor([1., .5, .2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, k, w: attend(attention, q, k, k, w), (q, k, weight))


@torch.no_grad()
def test_converse_is_the_official_transformer(small):
    transformer, (image, tokens, _) = small.mask_decoder.transformer, pairs(n=6)
    place = place_codes(small.pe_layer.positional_encoding_gaussian_matrix, (5, 7))
    flat = lambda t: t.flatten(2).transpose(1, 2)
    wanted = transformer(image, place.expand(3, -1, -1, -1), tokens)
    for got, want in zip(converse(transformer, flat(image), flat(place), tokens), wanted):
        assert torch.allclose(got, want, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('n', [0, 1, 3])
@pytest.mark.parametrize('grid', [(5, 7), (4, 4)])
def test_pairs_are_the_official_decoder_one_by_one(small, n, grid):
    batch = pairs(n=n, grid=grid)
    masks, quality = official(small, *batch)
    single, three = small(*batch), small(*batch, multimask=True)
    assert single[0].shape == (3, 1, 4 * grid[0], 4 * grid[1]) and three[0].shape[1] == 3
    assert torch.allclose(torch.cat([single[0], three[0]], 1), masks, atol=1e-5)
    assert torch.allclose(torch.cat([single[1], three[1]], 1), quality, atol=1e-5)


@torch.no_grad()
def test_sams_own_forward(small):
    image, sparse, dense = pairs(b=1)
    place = small.pe_layer((5, 7))[None]
    for multimask in (False, True):
        wanted = small.mask_decoder(image, place, sparse, dense, multimask)
        for got, want in zip(small(image, sparse, dense, multimask=multimask), wanted):
            assert torch.allclose(got, want, atol=1e-5)


@torch.no_grad()
def test_every_image_sees_only_its_own_prompt(small):
    image, sparse, dense = pairs()
    before = small(image, sparse, dense)[0]
    sparse[1] += 1
    after = small(image, sparse, dense)[0]
    assert torch.allclose(before[[0, 2]], after[[0, 2]], atol=1e-6) and (before[1] - after[1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize('k', [2, 5])
def test_equal_tokens_that_share_one_weight_are_one_token(small, k):
    image, sparse, dense = pairs(n=2)
    weight = torch.full((2 * k,), 1 / k)
    for got, want in zip(small(image, sparse.repeat(1, k, 1), dense, weight), small(image, sparse, dense)):
        assert torch.allclose(got, want, atol=1e-5)
    assert not torch.allclose(small(image, sparse.repeat(1, k, 1), dense)[0], small(image, sparse, dense)[0], atol=1e-4)
    with pytest.raises(FSSKitError, match=rf'weight has shape \({2 * k},\), wanted \({k},\)'):
        small(image, sparse[:, :1].repeat(1, k, 1), dense, weight)


@torch.no_grad()
def test_a_second_size_after_the_first(small):
    first, wide = pairs(grid=(5, 7)), pairs(grid=(9, 3))
    once = small(*first)[0]
    assert small(*wide)[0].shape == (3, 1, 36, 12)
    assert torch.equal(small(*first)[0], once)


@pytest.mark.parametrize('change, words', [
    (lambda i, s, d: (i, s[:1], d), r'sparse has shape \(1, 2, 32\), wanted \(3, 2, 32\)'),
    (lambda i, s, d: (i, s, d[:1]), r'dense has shape \(1, 32, 5, 7\), wanted \(3, 32, 5, 7\)'),
    (lambda i, s, d: (i, s, d[..., :4]), r'dense has shape \(3, 32, 5, 4\)'),
    (lambda i, s, d: (i[:, :8], s, d[:, :8]), r'image has shape \(3, 8, 5, 7\), wanted \(3, 32, 5, 7\)')])
def test_no_pairs(small, change, words):
    with pytest.raises(FSSKitError, match=words): small(*change(*pairs()))


def test_sizes_and_errors_of_new_decoders():
    count = lambda net: sum(p.numel() for p in net.parameters())
    assert count(new_decoder()) == 4_058_340
    assert count(new_decoder().mask_decoder.transformer) == 3_291_264
    with pytest.raises(FSSKitError, match='60 channels do not go with 8 heads'): new_decoder(60)


def test_a_sams_decoder_is_a_copy():
    sam = load_sam('sam_tiny', None)
    decoder = sam_decoder(sam)
    assert all(torch.equal(v, sam.state_dict()[k]) for k, v in decoder.state_dict().items()
               if k.startswith('mask_decoder.'))
    assert torch.equal(decoder.pe_layer.positional_encoding_gaussian_matrix,
                       sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    with torch.no_grad():
        next(decoder.parameters()).add_(1)
        decoder.pe_layer.positional_encoding_gaussian_matrix.add_(1)
    assert not torch.equal(next(decoder.parameters()), next(sam.mask_decoder.parameters()))
    assert not torch.equal(decoder.pe_layer.positional_encoding_gaussian_matrix,
                           sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)


def test_what_the_single_mask_needs():
    decoder = new_decoder(32, 2, 64)
    decode_pairs(decoder, *pairs())[0].square().sum().backward()
    assert {n for n, p in decoder.named_parameters() if p.grad is not None} == set(single_mask_parameters(decoder))


def test_gradient_reaches_image_and_prompts():
    decoder = new_decoder(16, 2, 8, 1).double()
    image, sparse, dense = (t.double().requires_grad_() for t in pairs(b=1, n=1, grid=(2, 3), dim=16))
    assert torch.autograd.gradcheck(lambda *x: decoder(*x)[0], (image, sparse, dense), atol=1e-4)


def test_random_places_when_no_matrix_is_given():
    torch.manual_seed(1)
    net = new_decoder(32, 2, 64)
    matrix = rand(2, 16)
    assert torch.equal(PairedDecoder(net.mask_decoder, matrix).pe_layer.positional_encoding_gaussian_matrix, matrix)
    assert net.pe_layer.positional_encoding_gaussian_matrix.std() > .3
