"""Backbones against timm's own routes, formulas in numpy, files that are wrong in one way each, and two processes."""
import math
import multiprocessing
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed

from fsskit import backbones as B
from fsskit.photos import FSSKitError

TINY = dict(embed_dim=32, depth=2, num_heads=2)
QUICK = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An empty weights folder of this test's own."""
    monkeypatch.setenv('FSSKIT_WEIGHTS', str(tmp_path / 'weights'))
    (tmp_path / 'weights').mkdir()
    return tmp_path / 'weights'


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def make(name, **options):
    """A random backbone whose position table is large, so that positions matter."""
    backbone = B.create_backbone(name, weights=None, **options)
    if isinstance(getattr(backbone.net, 'pos_embed', None), torch.nn.Parameter):
        backbone.net.pos_embed.normal_(generator=torch.Generator().manual_seed(1))
    return backbone


# ---------------------------------------------------------------- images in

@pytest.mark.parametrize('side, patch, wanted', [(500, 14, 504), (518, 14, 518), (5, 14, 14), (1, 16, 16), (23, 16, 16),
                                                 (25, 16, 32), (320, 32, 320)])
def test_nearest_multiple(side, patch, wanted):
    assert B.nearest_multiple(rand(1, 3, side, patch), patch).shape == (1, 3, wanted, patch)


@QUICK
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([8, 14, 16]))
def test_nearest_multiple_is_near_and_keeps_the_mean_colour(h, w, patch):
    image = torch.full((1, 3, h, w), 0.25)
    resized = B.nearest_multiple(image, patch)
    for old, new in zip((h, w), resized.shape[-2:]):
        assert new % patch == 0 and new >= patch and (abs(new - old) <= patch / 2 or new == patch)
    assert torch.allclose(resized, torch.tensor(0.25))


@pytest.mark.parametrize('images, says', [
    (np.zeros((1, 3, 8, 8)), 'ndarray'), (torch.zeros(3, 8, 8), r'image\[None\]'),
    (torch.zeros(1, 1, 8, 8), r'\(1, 1, 8, 8\)'),
    (torch.zeros(0, 3, 8, 8), 'empty'), (torch.zeros(1, 3, 0, 8), 'empty'),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 'divide bytes by 255'), (torch.full((1, 3, 8, 8), math.nan), 'NaN'),
    (torch.full((1, 3, 8, 8), 255.0), 'values from 255 to 255'), (torch.full((1, 3, 8, 8), -0.5), 'normalisation')])
def test_images_that_are_none(images, says):
    backbone = B.create_backbone('embedded', None, depth=1, dim=12, heads=2)
    for call in (backbone, lambda x: backbone.attention(x, 0)):
        with pytest.raises(FSSKitError, match=says):
            call(images)


# ---------------------------------------------------------------- positions

def cubic(t, a=-0.75):
    t = np.abs(t)
    near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def resize_matrix(old, new, offset):
    """(new, old) weights of one axis: places (i + 0.5) / s - 0.5 with s = (new + offset) / old, borders repeated."""
    matrix = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) * old / (new + offset) - 0.5
        for neighbour in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[i, min(max(neighbour, 0), old - 1)] += cubic(place - neighbour)
    return matrix


@pytest.mark.parametrize('grid', [(3, 5), (6, 7), (9, 2), (1, 1), (13, 13)])
@pytest.mark.parametrize('offset', [0.1, 0.0])
def test_dinov2_positions_are_the_formula(grid, offset):
    table = np.random.default_rng(0).normal(size=(6, 6, 4))
    rows, columns = (resize_matrix(6, n, offset) for n in grid)
    wanted = np.einsum('yh,xw,hwc->yxc', rows, columns, table).reshape(1, -1, 4)
    found = B.dinov2_positions(torch.tensor(table).reshape(1, 36, 4).float(), grid, offset)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_dinov2_positions_own_grid_types_and_registers():
    table = rand(1, 36, 4)
    assert B.dinov2_positions(table, (6, 6)) is table
    assert B.dinov2_positions(table.half(), (3, 4)).dtype == torch.half
    smoothed = B.dinov2_positions(table, (3, 4), offset=0, antialias=True)
    assert torch.equal(smoothed, resample_abs_pos_embed(table, (3, 4), num_prefix_tokens=0))


def official_route(backbone, images, how):
    """The published recipe through timm: a model of that very size, with the resized table put into it."""
    h, w = (n // 14 for n in images.shape[-2:])
    registers = backbone.net.reg_token is not None
    name = 'vit_small_patch14_reg4_dinov2' if registers else 'vit_small_patch14_dinov2'
    other = timm.create_model(name, num_classes=0, img_size=tuple(images.shape[-2:]), **TINY).eval()
    table = backbone.net.pos_embed
    front, patches = (table[:, :0], table) if registers else (table[:, :1], table[:, 1:])
    square = patches.reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, mode='bicubic', **how(h, w))
    state = backbone.net.state_dict() | {'pos_embed': torch.cat([front, resized.flatten(2).transpose(1, 2)], 1)}
    other.load_state_dict(state)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return other.forward_intermediates((images - mean) / std, indices=[0, 1], norm=True, intermediates_only=True)


@pytest.mark.parametrize('size', [(126, 126), (126, 182)])
@pytest.mark.parametrize('name, how', [
    ('dinov2_vits14', lambda h, w: dict(scale_factor=((h + .1) / 37, (w + .1) / 37))),
    ('dinov2_vits14_reg', lambda h, w: dict(size=(h, w), antialias=True))])
def test_dinov2_end_to_end_as_published(name, how, size):
    backbone, images = make(name, **TINY), rand(2, 3, *size)
    for found, wanted in zip(backbone(images, [0, 1]), official_route(backbone, images, how)):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_dinov2_options_are_dinov2s_alone():
    images = rand(1, 3, 70, 98)
    plain, none = make('dinov2_vits14', **TINY), make('dinov2_vits14', interpolate_offset=0, **TINY)
    assert (plain(images)[0] - none(images)[0]).abs().max() > 0.01
    assert none.weights_id == 'random-0,depth=2,embed_dim=32,interpolate_offset=0,num_heads=2'
    with pytest.raises(FSSKitError, match='interpolate_offset'):
        make('vit_tiny_patch16_224', interpolate_offset=0, **TINY)


# ---------------------------------------------------------------- equal to timm

VITS = ['vit_tiny_patch16_224', 'vit_medium_patch16_reg4_gap_256', 'deit3_small_patch16_224',
        'vit_base_patch32_clip_224', 'dinov3_vits16', 'deit_tiny_distilled_patch16_224']


@pytest.mark.parametrize('name', VITS)
@pytest.mark.parametrize('size', [None, (64, 64), (64, 96)])
def test_transformers_equal_timm(name, size):
    backbone = make(name, **TINY)
    cfg = backbone.net.pretrained_cfg
    images = rand(2, 3, *(size or cfg['input_size'][1:]))
    mean, std = (torch.tensor(cfg[k]).view(3, 1, 1) for k in ('mean', 'std'))
    wanted = backbone.net.forward_intermediates((images - mean) / std, indices=[0, 1], norm=True,
                                                intermediates_only=True)
    for found, map_ in zip(backbone(images, [0, 1]), wanted):
        assert torch.equal(found, map_) and found.shape[1] == backbone.dims[0]
    assert backbone.default_layers == (1,)


@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'vit_medium_patch16_reg4_gap_256', 'deit3_small_patch16_224',
                                  'vit_base_patch32_clip_224', 'vit_small_patch14_reg4_dinov2'])
@pytest.mark.parametrize('cells', [(4, 4), (3, 5)])
def test_vit_tokens_with_timms_positions_are_timms_tokens(name, cells):
    net = make(name, **TINY).net
    images = rand(2, 3, *(n * net.patch_embed.patch_size[0] for n in cells))
    tokens, grid = B.vit_tokens(net, images, partial(resample_abs_pos_embed, num_prefix_tokens=0))
    wanted = net.norm_pre(net._pos_embed(net.patch_embed(images)))
    assert grid == cells
    torch.testing.assert_close(tokens, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize('name', ['mobilenetv2_050', 'convnext_atto'])
def test_cnns_equal_features_only(name):
    backbone, images = make(name), rand(2, 3, 64, 96)
    other = timm.create_model(name, features_only=True).eval()
    renamed = {k.replace('stages.', 'stages_').replace('stem.', 'stem_') if name == 'convnext_atto' else k: v
               for k, v in backbone.net.state_dict().items()}
    assert not other.load_state_dict(renamed, strict=False).missing_keys
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    wanted = other((images - mean) / std)
    assert len(wanted) == len(backbone.layers) and backbone.default_layers == tuple(backbone.layers[-2:])
    for found, map_, channels in zip(backbone(images, backbone.layers), wanted, backbone.dims):
        torch.testing.assert_close(found, map_, atol=1e-5, rtol=1e-5)
        assert found.shape[1] == channels


def test_a_model_of_one_size_says_so():
    backbone = make('beit_base_patch16_224', **TINY)
    assert backbone(rand(1, 3, 224, 224))[0].shape == (1, 32, 14, 14)
    with pytest.raises(FSSKitError, match='224 x 224 px and does not take 64 x 96'):
        backbone(rand(1, 3, 64, 96))


def test_other_errors_of_timm_are_not_hidden():
    backbone = make('mobilenetv2_050')
    backbone.net.conv_stem.weight.data = backbone.net.conv_stem.weight[:, :2]
    with pytest.raises(RuntimeError, match='channels'):
        backbone(rand(1, 3, 64, 64))


# ---------------------------------------------------------------- the interface

@pytest.fixture(scope='module')
def small():
    with torch.no_grad():
        return B.create_backbone('embedded', None, dim=24, depth=4, heads=2)


def test_embedded_maps_are_the_blocks_by_hand(small):
    images = rand(2, 3, 48, 80)
    x, grid = small.net.embed(images)
    wanted = []
    for block in small.net.blocks:
        x = block(x, grid)
        wanted.append(small.net.norm(x)[:, 1:].transpose(1, 2).reshape(2, 24, 3, 5))
    for found, map_ in zip(small(images, small.layers), wanted):
        torch.testing.assert_close(found, map_, atol=1e-6, rtol=0)
    assert torch.equal(small(images)[0], small(images, [3])[0]) and small.default_layers == (3,)


@pytest.mark.parametrize('name', ['embedded', 'dinov2_vits14', 'mobilenetv2_050', 'vit_tiny_patch16_224'])
def test_layers_in_any_order(name):
    backbone = make(name, **({} if name in ('embedded', 'mobilenetv2_050') else TINY))
    last, images = backbone.layers[-1], rand(1, 3, 64, 64)
    a, b, c, d = backbone(images, [last, 0, -1, -last - 1])
    assert torch.equal(a, c) and torch.equal(b, d) and torch.equal(a, backbone(images, [last])[0])
    assert torch.equal(b, backbone(images, (0,))[0]) and not torch.equal(a.flatten()[:9], b.flatten()[:9])


@pytest.mark.parametrize('layers, says', [([4], 'layers 0 to 3, not 4'), ([0, -5], 'not -5'), ([1.5], 'not 1.5'),
                                          ([], 'wanted a list'), (2, 'wanted a list')])
def test_layers_that_do_not_exist(small, layers, says):
    with pytest.raises(FSSKitError, match=says):
        small(rand(1, 3, 32, 32), layers)


@pytest.mark.parametrize('name', ['embedded', 'dinov2_vits14', 'mobilenetv2_050'])
def test_a_batch_is_its_photos(name):
    backbone = make(name, **(TINY if 'dino' in name else {}))
    images = rand(3, 3, 40, 70)
    singles = [torch.cat(maps) for maps in zip(*(backbone(image[None]) for image in images))]
    for found, wanted in zip(backbone(images), singles):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize('name', ['embedded', 'dinov2_vits14', 'mobilenetv2_050'])
def test_a_photo_smaller_than_a_patch_is_one_patch(name):
    backbone = make(name, **(TINY if 'dino' in name else {}))
    (found,) = backbone(rand(1, 3, 5, 3), [-1])
    (wanted,) = backbone(B.nearest_multiple(rand(1, 3, 5, 3), backbone.stride), [-1])
    assert found.shape[-2:] == (1, 1) and torch.equal(found, wanted) and torch.isfinite(found).all()


def test_images_of_another_type_become_the_weights_type(small):
    images = (rand(1, 3, 32, 32) * 255).round() / 256  # exact in every float type
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        assert torch.equal(small(images.to(kind))[0], small(images)[0])


def test_frozen_means_frozen():
    backbone = make('mobilenetv2_050')
    around = torch.nn.Sequential(backbone)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with torch.enable_grad():
        images = rand(2, 3, 64, 64).requires_grad_()
        around.train()(images)[0].sum().backward()
    assert around.training and not any(m.training for m in backbone.modules())
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    assert all(p.grad is None for p in backbone.parameters()) and images.grad.abs().sum() > 0


# ---------------------------------------------------------------- attention

def by_hand(attn, x, heads):
    """softmax(q k / sqrt(d)) in numpy from the block's own linear layer."""
    qkv = attn.qkv(x).numpy().reshape(*x.shape[:2], 3, heads, -1)
    q, k = qkv[:, :, 0], qkv[:, :, 1]
    scores = np.exp(np.einsum('bihd,bjhd->bhij', q, k) / math.sqrt(q.shape[-1]))
    return scores / scores.sum(-1, keepdims=True)


@pytest.mark.parametrize('name, prefix', [('dinov2_vits14', 1), ('dinov2_vits14_reg', 5), ('vit_tiny_patch16_224', 1)])
@pytest.mark.parametrize('layer', [0, -1])
def test_attention_of_timm_vits(name, prefix, layer):
    backbone, images = make(name, **TINY), rand(2, 3, 48, 70)
    block, kept = backbone.net.blocks[layer], []
    fused = block.attn.fused_attn
    handle = block.norm1.register_forward_hook(lambda m, i, o: kept.append(o))
    table, grid = backbone.attention(images, layer)
    handle.remove()
    assert backbone.n_prefix == prefix and table.shape[-1] == prefix + grid[0] * grid[1]
    assert grid == tuple(backbone(images)[0].shape[-2:])
    np.testing.assert_allclose(table, by_hand(block.attn, kept[0], 2), atol=1e-5)
    assert block.attn.fused_attn == fused and not block.attn.attn_drop._forward_hooks


def test_attention_of_dinov3_and_the_embedded_encoder(small):
    backbone = make('dinov3_vits16', **TINY)
    table, grid = backbone.attention(rand(1, 3, 32, 48), 1)
    assert grid == (2, 3) and table.shape == (1, 2, 11, 11) and torch.allclose(table.sum(-1), torch.ones(()))
    images, kept = rand(1, 3, 32, 48), []
    handle = small.net.blocks[2].norm1.register_forward_hook(lambda m, i, o: kept.append(o))
    table, grid = small.attention(images, -2)
    handle.remove()
    np.testing.assert_allclose(table, by_hand(small.net.blocks[2].attn, kept[0], 2), atol=1e-5)
    assert grid == (2, 3)


def test_recorded_attention_changes_no_result_and_is_undone_by_errors():
    backbone, images = make('dinov2_vits14', **TINY), rand(1, 3, 28, 42)
    attn, wanted = backbone.net.blocks[0].attn, backbone(images)[0]
    with pytest.raises(KeyboardInterrupt), B.recorded_attention(attn) as seen:
        torch.testing.assert_close(backbone(images)[0], wanted, atol=1e-5, rtol=1e-5)
        raise KeyboardInterrupt
    assert len(seen) == 1 and attn.fused_attn and not attn.attn_drop._forward_hooks


@pytest.mark.parametrize('name', ['mobilenetv2_050', 'xcit_nano_12_p16_224'])
def test_no_attention_is_an_error(name):
    with pytest.raises(FSSKitError, match=f"'{name}' has no attention"):
        B.create_backbone(name, None).attention(rand(1, 3, 32, 32), 0)


# ---------------------------------------------------------------- weight files

def test_weights_come_back_exactly(tmp_path):
    state = {'a': rand(2, 3), 'b': rand(4).half(), 'n': torch.tensor([3])}
    save_file(state, tmp_path / 'w.safetensors')
    for wrapped, name in ((state, 'w.pth'), ({'model': state}, 'm.pt'), ({'state_dict': state, 'epoch': 3}, 's.pth')):
        torch.save(wrapped, tmp_path / name)
    for name in ('w.safetensors', 'w.pth', 'm.pt', 's.pth'):
        found = B.read_weights(tmp_path / name)
        assert found['b'].dtype == torch.float32 and found['n'].dtype == torch.int64
        assert all(torch.equal(found[k], v.float() if k == 'b' else v) for k, v in state.items()) and len(found) == 3


class Harmful:
    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    harmful = Harmful()
    harmful.path = tmp_path / 'it_ran'
    (tmp_path / 'raw.pth').write_bytes(pickle.dumps({'w': harmful}, protocol=2))
    torch.save({'w': harmful}, tmp_path / 'zip.pt')
    for name in ('raw.pth', 'zip.pt'):
        with pytest.raises(FSSKitError, match='holds code that fsskit will not run'):
            B.read_weights(tmp_path / name)
    assert not harmful.path.exists()


def test_files_that_are_wrong_in_one_way(tmp_path, monkeypatch):
    save_file({'a': rand(100)}, tmp_path / 'good.safetensors')
    whole = (tmp_path / 'good.safetensors').read_bytes()
    for name, content in (('cut.safetensors', whole[:-7]), ('empty.safetensors', b''),
                          ('text.safetensors', b'hello' * 9),
                          ('cut.pth', b'PK\3\4'), ('empty.pt', b''), ('weights.bin', whole)):
        (tmp_path / name).write_bytes(content)
    for number, content in enumerate(([1, 2], {'a': 1}, {}, {'model': {'lr': 0.1}})):
        torch.save(content, tmp_path / f'other{number}.pth')
    (tmp_path / 'folder.pth').mkdir()
    wanted = {'cut.safetensors': 'not a whole', 'empty.safetensors': 'not a whole', 'text.safetensors': 'not a whole',
              'cut.pth': 'damaged', 'empty.pt': 'damaged', 'weights.bin': "not '.bin'",
              'missing.pth': 'no such weight file', 'folder.pth': 'no such weight file',
              **{f'other{n}.pth': 'no state dict' for n in range(4)}}
    for name, says in wanted.items():
        with pytest.raises(FSSKitError, match=f'{name}.*{says}') as caught:
            B.read_weights(tmp_path / name)
        assert '\n' not in str(caught.value)
    monkeypatch.setattr(B, 'MAX_TENSORS', 0)
    with pytest.raises(FSSKitError, match='1 tensors are too many'):
        B.read_weights(tmp_path / 'good.safetensors')
    monkeypatch.setattr(B, 'MAX_WEIGHT_BYTES', 10)
    with pytest.raises(FSSKitError, match='too large'):
        B.read_weights(tmp_path / 'good.safetensors')


def test_load_state_is_all_or_nothing():
    def net():
        return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    model, good = net(), net().state_dict()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    cases = [({k: v for k, v in good.items() if k != '0.bias'}, '1 missing, for example 0.bias'),
             (good | {'z': rand(1), 'y': rand(1)}, '2 unknown, for example y'),
             (good | {'0.weight': rand(3, 3)}, r'0.weight \(3, 3\) instead of \(3, 2\)'),
             (good | {'0.bias': torch.tensor([0, math.inf, 0])}, 'tensor 0.bias holds NaN or infinite'),
             (good | {'1.running_var': torch.full((3,), math.nan)}, 'tensor 1.running_var')]
    for state, says in cases:
        with pytest.raises(FSSKitError, match=f'FILE: .*{says}'):
            B.load_state(model, state, 'FILE')
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    B.load_state(model, {k: v for k, v in good.items() if 'num_batches' not in k}, 'FILE')
    assert all(torch.equal(good[k], v) for k, v in model.state_dict().items())


# ---------------------------------------------------------------- other people's names

def official_dinov2(net, registers):
    """timm's names -> the names in the authors' files."""
    state = net.state_dict()
    if registers:
        state['register_tokens'] = state.pop('reg_token')
        row = torch.full_like(state['cls_token'], 0.25)
        state['pos_embed'] = torch.cat([row, state['pos_embed']], 1)
        state['cls_token'] = state['cls_token'] - row
    return state | {'mask_token': torch.zeros(1, net.embed_dim)}


@pytest.mark.parametrize('name, registers', [('dinov2_vits14', False), ('dinov2_vits14_reg', True)])
def test_dinov2_files_of_the_authors(tmp_path, name, registers):
    wanted = make(name, seed=4, **TINY)
    heads = {'head.weight': rand(5, 32), 'linear_head.weight': rand(5, 64)}
    torch.save(official_dinov2(wanted.net, registers) | heads, tmp_path / 'official.pth')
    found = B.create_backbone(name, tmp_path / 'official.pth', **TINY)
    images = rand(1, 3, 42, 70)
    for a, b in zip(found(images, [0, 1]), wanted(images, [0, 1])):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert found.weights_id.startswith('sha256:') and found.weights_id.endswith(',depth=2,embed_dim=32,num_heads=2')


def test_dinov2_giant_names(tmp_path):
    wanted = make('dinov2_vitg14', seed=4, **TINY)
    state = {k.replace('mlp.fc1', 'mlp.w12').replace('mlp.fc2', 'mlp.w3'): v
             for k, v in wanted.net.state_dict().items()}
    assert 'blocks.0.mlp.w12.weight' in state
    save_file(state | {'mask_token': torch.zeros(1, 32)}, tmp_path / 'g.safetensors')
    found = B.create_backbone('dinov2_vitg14', tmp_path / 'g.safetensors', **TINY)
    assert torch.equal(found(rand(1, 3, 28, 28))[0], wanted(rand(1, 3, 28, 28))[0])


def test_dinov3_files_of_the_authors(tmp_path, capsys):
    wanted = make('dinov3_vits16', seed=4, **TINY)
    names = (('gamma_1', 'ls1.gamma'), ('gamma_2', 'ls2.gamma'), ('reg_token', 'storage_tokens'))
    state = {}
    for key, value in wanted.net.state_dict().items():
        for timm_name, theirs in names:
            key = key.replace(timm_name, theirs)
        state[key] = value
    state |= {'mask_token': torch.zeros(1, 32), 'rope_embed.periods': rand(4)}
    state |= {f'blocks.{n}.attn.qkv.{k}': torch.zeros(96) for n in (0, 1) for k in ('bias', 'bias_mask')}
    torch.save(state, tmp_path / 'v3.pth')
    found = B.create_backbone('dinov3_vits16', tmp_path / 'v3.pth', **TINY)
    assert torch.equal(found(rand(1, 3, 32, 48))[0], wanted(rand(1, 3, 32, 48))[0])
    assert capsys.readouterr().out == ''


def test_files_of_another_architecture_are_never_bent(tmp_path):
    save_file(make('vit_base_patch32_224', **TINY).net.state_dict(), tmp_path / 'patch32.safetensors')
    save_file(make('mobilenetv2_050').net.state_dict(), tmp_path / 'cnn.safetensors')
    official = official_dinov2(make('dinov2_vits14_reg', **TINY).net, True)
    torch.save(official, tmp_path / 'registers.pth')
    torch.save(official | {'pos_embed': rand(1, 257, 32)}, tmp_path / 'other_table.pth')
    cases = [('vit_base_patch16_224', 'patch32.safetensors'), ('dinov2_vits14', 'cnn.safetensors'),
             ('dinov2_vits14', 'registers.pth'), ('dinov2_vits14_reg', 'other_table.pth'),
             ('dinov3_vits16', 'registers.pth')]
    for name, file in cases:
        with pytest.raises(FSSKitError, match=f'{file}: weights of another architecture'):
            B.create_backbone(name, tmp_path / file, **TINY)
    with pytest.raises(FSSKitError, match='another architecture'):
        B.create_backbone('embedded', tmp_path / 'cnn.safetensors')


# ---------------------------------------------------------------- the registry

def test_names():
    names = B.list_backbones()
    assert names[0] == 'embedded' and set(timm.list_models()) < set(names) and len(names) == len(set(names))
    assert B.list_backbones('dinov2*') == ['dinov2_vitb14', 'dinov2_vitb14_reg', 'dinov2_vitg14', 'dinov2_vitg14_reg',
                                           'dinov2_vitl14', 'dinov2_vitl14_reg', 'dinov2_vits14', 'dinov2_vits14_reg']
    assert B.list_backbones('*nothing*') == [] and set(B.ALIASES.values()) <= set(timm.list_models())


@pytest.mark.parametrize('call, says', [
    (lambda: B.create_backbone('dinov4'), "'dinov4' does not exist"),
    (lambda: B.create_backbone('vit_tiny_patch16_224.nonsense', None), 'does not exist'),
    (lambda: B.create_backbone('dinov2_vits14'), "no shipped weights: pass weights='hub'"),
    (lambda: B.create_backbone('resnet18', None, colour='red'), "cannot be built with the options {'colour': 'red'}"),
    (lambda: B.create_backbone('embedded', None, colour='red'), "does not know {'colour': 'red'}"),
    (lambda: B.create_backbone('resnet18', '/nowhere/w.pth'), 'no such weight file')])
def test_requests_that_cannot_be_met(call, says):
    with pytest.raises(FSSKitError, match=says):
        call()


def test_random_weights_follow_from_the_seed_and_nothing_else_moves():
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    a, b, c = (B.create_backbone('embedded', None, seed=s, dim=24, depth=1, heads=2) for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(a.net.blocks[0].attn.qkv.weight, b.net.blocks[0].attn.qkv.weight)
    assert not torch.equal(a.net.blocks[0].attn.qkv.weight, c.net.blocks[0].attn.qkv.weight)
    assert (a.weights_id, c.weights_id) == ('random-1,depth=1,dim=24,heads=2', 'random-2,depth=1,dim=24,heads=2')
    assert a.default_layers == (0,) and a.name == 'embedded'


def test_tags_choose_their_own_normalisation():
    assert make('vit_small_patch16_224.augreg_in21k', **TINY).normalised(torch.full((1, 3, 1, 1), 0.75)).max() == 0.5
    dino = make('vit_small_patch16_224.dino', **TINY).normalised(torch.full((1, 3, 1, 1), 0.485))
    assert abs(dino[0, 0].item()) < 1e-6


def test_the_shipped_encoder_is_the_default(weights):
    small = B.create_backbone('embedded', None, seed=5)
    save_file(small.net.state_dict(), weights / 'embedded_vit.safetensors')
    found = B.create_backbone()
    assert torch.equal(found(rand(1, 3, 32, 32))[0], small(rand(1, 3, 32, 32))[0])
    assert found.weights_id == B.create_backbone('embedded', 'hub').weights_id and found.default_layers == (3, 5)


def test_hub_takes_a_local_file_first(weights, monkeypatch):
    def blocked(*args, pretrained=False, real=timm.create_model, **options):
        if pretrained: raise ConnectionError('no network')
        return real(*args, **options)
    monkeypatch.setattr(timm, 'create_model', blocked)
    with pytest.raises(FSSKitError, match=r'not be fetched \(ConnectionError\).*dinov2_vits14.safetensors or pass'):
        B.create_backbone('dinov2_vits14', 'hub', **TINY)
    with pytest.raises(FSSKitError, match='could not be fetched'):
        B.create_backbone('mobilenetv2_050', 'hub')
    kept = [make('dinov2_vits14', seed=s, **TINY) for s in (1, 2)]
    torch.save(official_dinov2(kept[0].net, False), weights / 'vit_small_patch14_dinov2.pth')
    images = rand(1, 3, 28, 42)
    assert torch.equal(B.create_backbone('dinov2_vits14', 'hub', **TINY)(images)[0], kept[0](images)[0])
    save_file(kept[1].net.state_dict(), weights / 'dinov2_vits14.safetensors')
    found = B.create_backbone('dinov2_vits14', 'hub', **TINY)
    assert torch.equal(found(images)[0], kept[1](images)[0]) and found.weights_id.startswith('sha256:')


@pytest.mark.parametrize('asked', ['dinov2_vitb14_reg', 'vit_base_patch14_reg4_dinov2'])
def test_hub_knows_the_file_names_of_dinov2(weights, asked):
    (weights / 'dinov2_vitb14_pretrain.pth').touch()  # of the model without registers
    assert B._local_weights(asked) is None
    (file := weights / 'dinov2_vitb14_reg4_pretrain.pth').touch()
    assert B._local_weights(asked) == file
    assert B._local_weights('dinov2_vitb14') == weights / 'dinov2_vitb14_pretrain.pth'


def test_hub_with_network(weights, monkeypatch):
    asked = []
    def fetched(name, real=timm.create_model, **options):
        asked.append((name, options.pop('pretrained'), options.pop('cache_dir')))
        torch.manual_seed(9)
        return real(name, **options)
    monkeypatch.setattr(timm, 'create_model', fetched)
    found = B.create_backbone('dinov2_vits14', 'hub', **TINY)
    assert asked == [('vit_small_patch14_dinov2', True, str(weights / 'hub'))]
    assert found.weights_id == 'hub:timm/vit_small_patch14_dinov2.lvd142m,depth=2,embed_dim=32,num_heads=2'
    assert not found.training and found.positions.keywords == {'offset': 0.1, 'antialias': False}
    with pytest.raises(FSSKitError, match='cannot be built'):
        B.create_backbone('dinov2_vits14', 'hub', colour='red')


def test_real_mobilenet_weights(shared):
    path = shared / 'weights' / 'mobilenetv2_100_imagenet.safetensors'
    backbone, images = B.create_backbone('mobilenetv2_100', path), rand(1, 3, 64, 96)
    other = timm.create_model('mobilenetv2_100', features_only=True).eval()
    assert not other.load_state_dict(load_file(path), strict=False).missing_keys
    for found, wanted in zip(backbone(images, backbone.layers), other(backbone.normalised(images))):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- precision

def torch_settings():
    try: general = torch.get_float32_matmul_precision()
    except RuntimeError: general = 'mixed'
    return (general, torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision,
            torch.is_autocast_enabled('cpu'))


@pytest.mark.parametrize('mode, inside', [('fp32', 'highest'), ('medium', 'medium'), ('bf16', 'highest')])
def test_precision_is_set_inside_and_put_back(mode, inside):
    before = torch_settings()
    with pytest.raises(ZeroDivisionError), B.precision(mode):
        assert torch.get_float32_matmul_precision() == inside
        assert torch.is_autocast_enabled('cpu') == (mode == 'bf16')
        1 / 0
    assert torch_settings() == before


def test_precision_nests_and_keeps_a_users_own_settings():
    original = torch.backends.mkldnn.matmul.fp32_precision
    try:
        with B.precision('bf16'), B.precision('fp32'):
            assert (rand(4, 4) @ rand(4, 4)).dtype == torch.float32
        torch.backends.mkldnn.matmul.fp32_precision = 'bf16'  # torch's newer switch, which the older one cannot report
        before = torch_settings()
        with B.precision('medium'):
            assert torch.get_float32_matmul_precision() == 'medium'
        assert torch_settings() == before
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = original
    with pytest.raises(FSSKitError, match="'fp8' is unknown"), B.precision('fp8'):
        pass


def test_precision_changes_little(small):
    images = rand(1, 3, 64, 64)
    exact = small(images)[0]
    for mode, limit in (('fp32', 0.999999), ('medium', 0.9999), ('bf16', 0.99)):
        with B.precision(mode):
            assert F.cosine_similarity(small(images)[0].float(), exact, dim=1).min() > limit


def test_import_changes_no_setting():
    program = '''import torch
look = lambda: (torch.get_float32_matmul_precision(), torch.is_grad_enabled(), torch.get_default_dtype(),
    torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision, torch.get_num_threads(),
    torch.random.get_rng_state().sum().item(), torch.backends.cudnn.benchmark)
torch.manual_seed(5); before = look()
import fsskit.backbones
assert look() == before'''
    assert subprocess.run([sys.executable, '-c', program]).returncode == 0


# ---------------------------------------------------------------- cache

def test_cache_round_trip_is_exact(tmp_path):
    cache = B.FeatureCache(tmp_path / 'deep' / 'cache')
    wide = rand(4, 6)
    maps = [wide, wide, wide.T, wide[1:3, ::2], wide.bfloat16(), torch.tensor([[math.nan, -0.0, math.inf]]), rand(2, 0)]
    assert cache.get('k') is None
    cache.put('k', maps)
    found = B.FeatureCache(tmp_path / 'deep' / 'cache').get('k')
    assert len(found) == len(maps) and all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(found, maps))
    bits = lambda m: m.contiguous().flatten().view(torch.uint8).tolist()
    assert all(bits(a) == bits(b) for a, b in zip(found, maps))
    cache.put('k', [wide + 1])
    assert torch.equal(cache.get('k')[0], wide + 1) and [p.name for p in cache.folder.iterdir()] == ['k.safetensors']


def test_many_maps_come_back_in_order(tmp_path):
    cache = B.FeatureCache(tmp_path)
    cache.put('k', [torch.full((1,), float(n)) for n in range(12)])
    assert [m.item() for m in cache.get('k')] == list(range(12))


@pytest.mark.parametrize('damage', [lambda b: b[:-5], lambda b: b'', lambda b: b'x' * 200,
                                    lambda b: b.replace(b'"0"', b'"9"')])
def test_a_damaged_file_counts_as_absent(tmp_path, damage):
    cache = B.FeatureCache(tmp_path)
    cache.put('k', [rand(5)])
    cache.path('k').write_bytes(damage(cache.path('k').read_bytes()))
    assert cache.get('k') is None and not cache.path('k').exists()
    cache.put('k', [rand(5)])
    assert torch.equal(cache.get('k')[0], rand(5))


def test_the_files_not_used_for_longest_go_first(tmp_path):
    one = rand(1000)
    cache = B.FeatureCache(tmp_path, max_bytes=50_000)  # 4,064 bytes a file or so
    for n in range(10):
        cache.put(f'k{n}', [one])
        os.utime(cache.path(f'k{n}'), (n, n))
    assert cache.get('k0') is not None  # reading makes it young again
    assert cache.bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    for n in range(10, 13):
        cache.put(f'k{n}', [one])
    left = {p.stem for p in tmp_path.iterdir()}
    assert {'k0', 'k10', 'k11', 'k12'} <= left and {'k1', 'k2', 'k3'} & left == set()
    assert cache.bytes == sum(p.stat().st_size for p in tmp_path.iterdir()) <= 50_000 * 3 // 4
    last = max(tmp_path.iterdir(), key=lambda p: p.stat().st_mtime).stem
    for size in (9, 3, 30):
        cache.put(last, [torch.ones(size, 10)])  # the same key again: its old file does not count
        assert cache.bytes == sum(p.stat().st_size for p in tmp_path.iterdir())


def test_cache_survives_files_that_vanish_and_refuses_strange_keys(tmp_path, monkeypatch):
    cache = B.FeatureCache(tmp_path)
    cache.put('k', [rand(3)])
    monkeypatch.setattr(Path, 'glob', lambda self, pattern: iter([self / 'gone.safetensors', self / 'k.safetensors']))
    assert B.FeatureCache(tmp_path).bytes == cache.path('k').stat().st_size
    for key in ('', '../k', 'a/b'):
        with pytest.raises(FSSKitError, match='no plain file name'):
            cache.get(key)


def test_cache_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv('FSSKIT_DATA', str(tmp_path))
    assert B.FeatureCache().folder == tmp_path / 'cache' / 'features'


def write_often(folder, value):
    cache = B.FeatureCache(folder, max_bytes=200_000)
    for _ in range(40):
        cache.put('same', [torch.full((3000,), float(value)), torch.full((2,), float(value))])
        found = cache.get('same')
        if found is not None and len({v.item() for m in found for v in m[:2]} | {found[0][-1].item()}) != 1:
            os._exit(3)


def test_two_processes_write_the_same_key(tmp_path):
    context = multiprocessing.get_context('fork')
    workers = [context.Process(target=write_often, args=(tmp_path, value)) for value in (1, 2)]
    for worker in workers: worker.start()
    for worker in workers: worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    a, b = B.FeatureCache(tmp_path).get('same')
    assert a.unique().numel() == 1 and torch.equal(a[:2], b) and len(list(tmp_path.iterdir())) == 1
