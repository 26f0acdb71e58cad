"""The correlation module: values and gradients against loops, the plain formulation and torch's own layers."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck

from fsskit.backbones import precision
from fsskit.correlation import (channels_last, CenterPivotConv4d, correlation, CorrelationNet, CP4DBlock,
                                mask_correlation, mix_block, norm_relu, Residual, squeeze_block, unit_vectors)
from fsskit.photos import FSSKitError

GRIDS = [(4, 3, 5, 2), (3, 4, 4, 6)]  # query h, w, support h, w: all different


def draw(*shape, seed=0, grad=False):
    """Normal float64 numbers that follow from the seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_(grad)


def features(grid, channels=(5, 3), batch=2, seed=0):
    """Query and support maps of layers with different channels."""
    return [[draw(batch, c, *side, seed=seed + 10 * n + i) for i, c in enumerate(channels)]
            for n, side in enumerate((grid[:2], grid[2:]))]


def count(net):
    return sum(p.numel() for p in net.parameters())


# --- correlation -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('grid', GRIDS)
def test_correlation_equals_a_loop_over_pairs(grid):
    query, support = features(grid)
    volume = correlation(query, support, eps=0.1)  # a large eps, so that leaving it out would show
    assert volume.shape == (2, 2, *grid) and volume.is_contiguous()
    for b, l, y, x, v, u in np.ndindex(*volume.shape):
        q, s = query[l][b, :, y, x], support[l][b, :, v, u]
        expected = max(0.0, float(q @ s / ((q.norm() + 0.1) * (s.norm() + 0.1))))
        assert volume[b, l, y, x, v, u].item() == pytest.approx(expected, abs=1e-12)


def test_correlation_of_channels_last_features_and_of_float32():
    query, support = features(GRIDS[0])
    expected = correlation(query, support)
    strided = [[x.contiguous(memory_format=torch.channels_last) for x in side] for side in (query, support)]
    assert torch.allclose(correlation(*strided), expected)
    single = correlation(*([x.float() for x in side] for side in (query, support)))
    assert single.dtype == torch.float32 and torch.allclose(single, expected.float(), atol=1e-6)


def test_correlation_default_eps_is_1e_5():
    tiny = torch.full((1, 1, 1, 1), 1e-5)
    assert correlation([tiny], [tiny]).item() == pytest.approx(0.25)
    assert correlation([tiny], [-tiny]).item() == 0


def test_correlation_of_a_batch_is_the_stack_of_singles_and_layers_stay_in_order():
    query, support = features(GRIDS[1], channels=(4, 4), batch=3)
    together = correlation(query, support)
    for b in range(3):
        one = correlation([x[b:b + 1] for x in query], [x[b:b + 1] for x in support])
        assert torch.allclose(together[b:b + 1], one)
    assert torch.allclose(together[:, 1:], correlation(query[1:], support[1:]))


def test_correlation_swapped_is_transposed():
    query, support = features(GRIDS[0])
    assert torch.allclose(correlation(support, query), correlation(query, support).permute(0, 1, 4, 5, 2, 3))


def test_correlation_gradients():
    query, support = features((2, 3, 3, 2), channels=(3, 2), batch=2)
    inputs = [x.requires_grad_() for x in (*query, *support)]
    assert gradcheck(lambda *x: correlation(x[:2], x[2:]), inputs)


def test_correlation_of_zero_vectors_is_zero_with_finite_gradients():
    query = torch.zeros(1, 3, 2, 2, requires_grad=True)
    volume = correlation([query], [torch.rand(1, 3, 2, 2)])
    volume.sum().backward()
    assert volume.abs().max() == 0 and torch.isfinite(query.grad).all()


def test_correlation_under_medium_precision_stays_close():
    query, support = ([x.float() for x in side] for side in features(GRIDS[0], channels=(64, 32)))
    with precision('medium'): fast = correlation(query, support)
    assert torch.allclose(fast, correlation(query, support), atol=1e-2)  # bfloat16 products on some processors


def test_unit_vectors():
    x = draw(2, 4, 3, 3)
    assert torch.allclose(unit_vectors(x, eps=0), F.normalize(x, dim=1))
    assert torch.allclose(unit_vectors(x, eps=0.5), x / (x.norm(dim=1, keepdim=True) + 0.5))
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(unit_vectors(x), unit_vectors(before.requires_grad_())) and torch.equal(x, before)


@pytest.mark.parametrize('query, support, words', [
    ([], [], '0 query layers'),
    ([(1, 2, 3, 3)], [], '1 query layers and 0 support layers'),
    ([(1, 2, 3, 3), (2, 3, 3)], [(1, 2, 3, 3), (2, 3, 3)], 'layer 1 has query (2, 3, 3)'),
    ([(1, 2, 3, 3)], [(1, 4, 3, 3)], 'same B and C'),
    ([(1, 2, 3, 3)], [(5, 2, 3, 3)], 'repeat the query for each support photo'),
    ([(1, 2, 4, 4), (1, 2, 2, 2)], [(1, 2, 4, 4), (1, 2, 4, 4)], 'layer 1, query (2, 2) and support (4, 4)'),
    ([(1, 2, 4, 4), (1, 2, 4, 4)], [(1, 2, 4, 4), (1, 2, 2, 4)], 'F.interpolate'),
])
def test_correlation_refuses_what_does_not_fit(query, support, words):
    with pytest.raises(FSSKitError) as error:
        correlation([torch.rand(s) for s in query], [torch.rand(s) for s in support])
    assert words in str(error.value)


# --- mask ------------------------------------------------------------------------------------------------------------

def test_mask_correlation_weighs_support_places():
    volume, mask = draw(2, 3, 2, 2, 3, 4), torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    weight = mask.numpy()[:, None, None, None]
    x = volume.numpy()
    assert np.allclose(mask_correlation(volume, mask, 'none'), x * weight)
    assert np.allclose(mask_correlation(volume, mask, 'signed'), x * (2 * weight - 1))
    assert np.allclose(mask_correlation(volume, mask), x * (2 * weight - 1))
    inside, outside = mask_correlation(volume, mask, 'difference')
    assert np.allclose(inside, x * weight) and np.allclose(outside, x * (1 - weight))


def test_mask_correlation_gives_ignored_cells_no_weight():
    volume = torch.rand(1, 1, 2, 2, 1, 3)
    inside, outside = torch.tensor([[[1.0, 0.0, 0.2]]]), torch.tensor([[[0.0, 0.0, 0.5]]])
    signed = mask_correlation(volume, inside, 'signed', outside)
    assert torch.allclose(signed[0, 0], volume[0, 0] * torch.tensor([1.0, 0.0, -0.3]))
    assert torch.equal(mask_correlation(volume, inside, 'difference', outside)[1], volume * outside)


def test_mask_correlation_takes_a_mask_of_another_type_and_refuses_the_rest():
    volume = torch.rand(1, 2, 2, 2, 3, 3)
    mask = torch.eye(3, dtype=torch.uint8)[None]
    assert torch.equal(mask_correlation(volume, mask, 'none'), volume * mask)
    with pytest.raises(FSSKitError, match=r'mask \(1, 12, 12\).*\(3, 3\) cells and batch 1.*mask_shares'):
        mask_correlation(volume, torch.ones(1, 12, 12))
    with pytest.raises(FSSKitError, match="contrast: 'minus' is unknown"):
        mask_correlation(volume, mask, 'minus')


# --- center-pivot convolution ----------------------------------------------------------------------------------------

def plain(conv, x):
    """Two 2D convolutions at every position of the other grid, one image at a time."""
    b, _, hq, wq, hs, ws = x.shape
    stride = conv.stride
    rows = [[conv.support(x[:, :, y, z]) for z in range(wq)] for y in range(hq)]
    by_support = torch.stack([torch.stack(row, 2) for row in rows], 2)
    columns = [[conv.query(x[..., v, u]) for u in range(0, ws, stride[1])] for v in range(0, hs, stride[0])]
    return by_support + torch.stack([torch.stack(column, -1) for column in columns], -2)


def test_four_kernel_sizes_are_query_then_support():
    conv = CenterPivotConv4d(2, 3, (1, 3, 5, 7))
    assert conv.query.weight.shape == (3, 2, 1, 3) and conv.support.weight.shape == (3, 2, 5, 7)
    assert conv(torch.zeros(1, 2, 4, 5, 6, 8)).shape == (1, 3, 4, 5, 6, 8)


def loop(conv, x):
    """One output number at a time, with numpy."""
    (kq, kp), (ks, kt) = conv.query.kernel_size, conv.support.kernel_size
    wq, ws = (side.weight.detach().numpy() for side in (conv.query, conv.support))
    bias = sum(side.bias.detach().numpy() for side in (conv.query, conv.support))
    sizes, x = x.shape[2:], x.numpy()
    query = np.pad(x, [(0, 0)] * 2 + [(kq // 2,) * 2, (kp // 2,) * 2] + [(0, 0)] * 2)
    support = np.pad(x, [(0, 0)] * 4 + [(ks // 2,) * 2, (kt // 2,) * 2])
    (sy, sx), out = conv.stride, np.zeros((len(x), len(wq), *sizes[:2], -(-sizes[2] // conv.stride[0]),
                                           -(-sizes[3] // conv.stride[1])))
    for y, z, v, u in np.ndindex(out.shape[2:]):
        around_query = query[:, :, y:y + kq, z:z + kp, v * sy, u * sx]
        around_support = support[:, :, y, z, v * sy:v * sy + ks, u * sx:u * sx + kt]
        out[:, :, y, z, v, u] = (np.einsum('bcij,ocij->bo', around_query, wq)
                                 + np.einsum('bcij,ocij->bo', around_support, ws) + bias)
    return out


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('kernel, stride', [(3, 1), (3, 2), (5, 4), (1, 1), (1, 2), ((1, 3, 5, 3), (2, 3))])
def test_conv_equals_a_numpy_loop(grid, kernel, stride):
    torch.manual_seed(0)
    conv, x = CenterPivotConv4d(2, 3, kernel, stride).double(), draw(2, 2, *grid)
    for out in (conv(x), conv(channels_last(x)), torch.no_grad()(conv)(x)):
        assert np.allclose(out.detach(), loop(conv, x)) and out.stride(1) == 1


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('options', [{}, {'depthwise': True}, {'bias': False}])
def test_conv_gradients_equal_those_of_the_plain_formulation(stride, options):
    torch.manual_seed(0)
    conv, x = CenterPivotConv4d(4, 4, stride=stride, **options).double(), draw(2, 4, *GRIDS[0], grad=True)
    outs = [conv(x), plain(conv, x)]
    cotangent = draw(*outs[0].shape, seed=1)
    both = [torch.autograd.grad((out * cotangent).sum(), [x, *conv.parameters()]) for out in outs]
    assert torch.allclose(*outs) and len(both[0]) == 3 + 2 * ('bias' not in options)
    for a, b in zip(*both): assert torch.allclose(a, b)


@pytest.mark.parametrize('stride', [1, 2])
def test_conv_gradcheck(stride):
    torch.manual_seed(0)
    conv, x = CenterPivotConv4d(2, 2, stride=stride).double(), draw(1, 2, 2, 3, 3, 2, grad=True)
    assert gradcheck(lambda x, *_: conv(x), [x, *conv.parameters()])


def test_conv_is_a_full_4d_convolution_with_two_planes_of_weights():
    torch.manual_seed(0)
    conv, x = CenterPivotConv4d(2, 3, bias=False).double(), draw(1, 2, 3, 3, 3, 3)
    full = torch.zeros(3, 2, 3, 3, 3, 3, dtype=torch.float64)
    full[..., 1, 1] += conv.query.weight
    full[:, :, 1, 1] += conv.support.weight
    windows = F.pad(x, (1,) * 8).unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1).unfold(5, 3, 1)
    assert torch.allclose(conv(x), torch.einsum('bcyxvuijkl,ocijkl->boyxvu', windows, full))


def test_conv_leaves_its_input_alone_and_takes_any_size():
    conv = CenterPivotConv4d(2, 4, stride=2)
    for grid in ((5, 4, 6, 3), (2, 7, 3, 8), (1, 1, 1, 1), (5, 4, 6, 3)):
        x = torch.rand(2, 2, *grid)
        for ordered in (x, channels_last(x)):
            before = ordered.clone()
            with torch.no_grad(): out = conv(ordered)
            assert torch.equal(ordered, before) and torch.allclose(out, plain(conv, x), atol=1e-6)


def test_channels_last_keeps_values_and_copies_once():
    x = torch.rand(2, 3, 2, 4, 3, 5)
    ordered = channels_last(x)
    assert torch.equal(x, ordered) and ordered.stride() == (360, 1, 180, 45, 15, 3)
    assert channels_last(ordered).data_ptr() == ordered.data_ptr()
    half = channels_last(x.bfloat16())
    assert torch.equal(half, x.bfloat16()) and half.stride() == ordered.stride()


@pytest.mark.parametrize('options, words', [
    (dict(kernel=4), 'kernel: 4 has no centre'), (dict(kernel=(3, 3, 2, 3)), 'odd sizes'),
    (dict(kernel=(3, 3)), 'kernel: (3, 3) given, wanted a positive whole number or 4 of them'),
    (dict(stride=0), 'stride: 0 given'), (dict(stride=(1, 2, 2)), 'or 2 of them')])
def test_conv_refuses_bad_sizes(options, words):
    with pytest.raises(FSSKitError) as error: CenterPivotConv4d(2, 4, **options)
    assert words in str(error.value)


# --- norm, blocks ----------------------------------------------------------------------------------------------------

def plain_block(block, x):
    """The same block with torch's own GroupNorm on the ordinary order in memory."""
    conv = block.conv if isinstance(block.conv, nn.Sequential) else [block.conv]
    for part in conv: x = plain(part, x)
    return block.norm(x.contiguous()).relu()


def test_norm_relu_equals_torch_with_gradients():
    torch.manual_seed(0)
    norm, x = nn.GroupNorm(2, 6).double(), draw(3, 6, *GRIDS[0], grad=True)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    outs = [norm_relu(x, norm), norm_relu(channels_last(x), norm), norm(x).relu()]
    cotangent = draw(*x.shape, seed=1)
    grads = [torch.autograd.grad((out * cotangent).sum(), [x, norm.weight, norm.bias]) for out in outs]
    for out, grad in zip(outs[:2], grads):
        assert torch.allclose(out, outs[2]) and all(torch.allclose(a, b) for a, b in zip(grad, grads[2]))


def test_norm_relu_takes_the_memory_of_its_input_only_when_it_may():
    norm, x = nn.GroupNorm(2, 4), channels_last(torch.rand(2, 4, 2, 3, 3, 2))
    before, expected = x.clone(), norm(x).relu()
    with torch.no_grad(): other = norm_relu(x, norm)
    recorded = norm_relu(x, norm, inplace=True)
    assert torch.equal(x, before) and x.data_ptr() not in (other.data_ptr(), recorded.data_ptr())
    recorded.sum().backward()
    assert torch.allclose(norm.bias.grad, (expected > 0).float().sum((0, 2, 3, 4, 5)))
    with torch.no_grad(): same = norm_relu(x, norm, inplace=True)
    assert same.data_ptr() == x.data_ptr() and not torch.equal(x, before)
    for out in (other, recorded, same): assert torch.allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize('wanted', ['x', 'weight', 'bias'])
def test_norm_relu_gradient_of_each_input_alone(wanted):
    torch.manual_seed(0)
    norm, x = nn.GroupNorm(2, 4).double(), draw(2, 4, 2, 2, 2, 3)
    norm.requires_grad_(False)
    target = (x if wanted == 'x' else getattr(norm, wanted)).requires_grad_()
    ours, theirs = (torch.autograd.grad((out ** 2).sum(), target)[0] for out in (norm_relu(x, norm), norm(x).relu()))
    assert torch.allclose(ours, theirs)


def test_norm_relu_is_exact_over_many_positions_and_over_a_constant():
    x = torch.rand(1, 4, 20, 20, 30, 30, generator=torch.Generator().manual_seed(0)) + 1  # more than one piece
    norm = nn.GroupNorm(4, 4)
    exact = nn.GroupNorm(4, 4).double()(x.double()).relu()
    with torch.no_grad(): assert (norm_relu(channels_last(x), norm) - exact).abs().max() < 5e-6
    nn.init.constant_(norm.bias, 5.)
    constant = norm_relu(channels_last(torch.full((1, 4, 3, 3, 3, 3), 1e4)), norm)  # its variance rounds to below 0
    assert (constant - 5).abs().max() < 1


def test_norm_relu_of_bfloat16_is_computed_in_float32():
    x = channels_last(torch.rand(1, 4, 3, 3, 3, 3)).bfloat16()
    norm = nn.GroupNorm(4, 4)
    out = norm_relu(x, norm)
    assert out.dtype == torch.float32 and torch.allclose(out, norm(x.float()).relu(), atol=1e-5)


@pytest.mark.parametrize('light', [False, True])
@pytest.mark.parametrize('stride', [1, 2])
def test_block_equals_the_plain_one(light, stride):
    torch.manual_seed(0)
    block, x = CP4DBlock(3, 8, 3, stride, light).double(), draw(2, 3, *GRIDS[1], grad=True)
    outs = [block(x), plain_block(block, x)]
    grads = [torch.autograd.grad((out ** 2).sum(), [x, *block.parameters()]) for out in outs]
    assert torch.allclose(*outs) and all(torch.allclose(a, b) for a, b in zip(*grads))
    with torch.no_grad(): assert torch.allclose(block(x), outs[1])


def test_block_gradcheck():
    torch.manual_seed(0)
    block, x = CP4DBlock(2, 4, stride=2).double(), draw(1, 2, 2, 2, 3, 2, grad=True)
    assert gradcheck(lambda x, *_: block(x), [x, *block.parameters()])


def test_block_in_bfloat16_stays_close():
    torch.manual_seed(0)
    blocks, x = squeeze_block(3, (4, 8), stride=1), torch.rand(1, 3, 3, 3, 3, 3)
    expected = blocks(x)
    with precision('bf16'): out = blocks(x)
    out.sum().backward()
    assert (out - expected).abs().max() < 0.1 and all(torch.isfinite(p.grad).all() for p in blocks.parameters())


def test_parameter_counts_of_the_published_networks():
    assert count(squeeze_block(12)) == 170_176
    assert count(mix_block(128)) == 886_272
    assert count(mix_block(128, light=True, residual=True)) == 107_520
    assert count(CorrelationNet(12, mix='light')) == 170_176 + 2 * 107_520
    assert count(CorrelationNet(12, mix='full', mix_blocks=1)) == 170_176 + 886_272


def test_squeeze_shapes_of_the_published_network():
    squeeze = squeeze_block(2, (4, 8, 12))
    sizes, x = [], torch.rand(1, 2, 3, 2, 37, 20)
    for block in squeeze: sizes.append((x := block(x)).shape[1:])
    assert sizes == [(4, 3, 2, 19, 10), (8, 3, 2, 10, 5), (12, 3, 2, 5, 3)]
    finer = squeeze_block(2, (4, 8, 12), kernel=(5, 3, 3), stride=(4, 2, 2))
    assert [b.conv.support.kernel_size[0] for b in finer] == [5, 3, 3]
    assert finer(torch.rand(1, 2, 3, 2, 37, 20)).shape[4:] == (3, 2)
    with pytest.raises(FSSKitError, match=r'stride: \(2, 2\) given, wanted a positive whole number or 3'):
        squeeze_block(2, stride=(2, 2))


def test_mix_and_residual():
    torch.manual_seed(0)
    x = draw(1, 4, 2, 3, 3, 2)
    for light in (False, True):
        mix = mix_block(4, light, residual=True).double()
        assert torch.allclose(mix(x), x + plain_block(mix.net[2], plain_block(mix.net[1], plain_block(mix.net[0], x))))
    assert torch.allclose(Residual(nn.Identity())(x), 2 * x)


def test_width_must_be_a_multiple_of_four():
    with pytest.raises(FSSKitError, match='out_channels: 6 channels'): CP4DBlock(2, 6)


# --- the network -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('mix', ['none', 'full', 'light'])
def test_net_is_the_mean_over_the_support_of_squeeze_and_mix(mix):
    torch.manual_seed(0)
    net, x = CorrelationNet(2, (4, 8), mix, mix_blocks=1).double(), draw(2, 2, 3, 4, 5, 6)
    expected = x
    for block in net.squeeze: expected = plain_block(block, expected)
    for part in net.mix:
        mixed = expected
        for block in (part.net if mix == 'light' else part): mixed = plain_block(block, mixed)
        expected = expected + mixed if mix == 'light' else mixed
    out = net(x)
    assert out.shape == (2, 8, 3, 4) == (2, net.width, 3, 4)
    assert torch.allclose(out, expected.mean((-1, -2)))


def test_net_subtracts_the_background_after_the_squeeze():
    torch.manual_seed(0)
    net = CorrelationNet(2, (4, 8), 'full', 1, stride=1).double()
    inside, outside = draw(1, 2, 3, 2, 2, 3).relu(), draw(1, 2, 3, 2, 2, 3, seed=1).relu()
    expected = net.mix(net.squeeze(inside) - net.squeeze(outside)).mean((4, 5))
    assert torch.allclose(net((inside, outside)), expected)
    assert not torch.allclose(net((outside, inside)), expected)
    bare = CorrelationNet(2, (4,)).double()
    assert torch.allclose(bare((inside, outside)), -bare((outside, inside))) and bare((inside, inside)).abs().max() == 0


def test_net_batch_is_the_stack_of_singles_and_equal_supports_count_as_one():
    torch.manual_seed(0)
    net, x = CorrelationNet(2, (4, 8), 'light', 1).double(), draw(3, 2, 3, 4, 4, 3).relu()
    assert torch.allclose(net(x), torch.cat([net(x[b:b + 1]) for b in range(3)]))
    shots = x[:1].expand(5, -1, -1, -1, -1, -1)
    assert torch.allclose(net(shots).mean(0, keepdim=True), net(x[:1]))


def test_net_takes_a_second_resolution_after_the_first():
    torch.manual_seed(0)
    net = CorrelationNet(3, (4, 8)).double()
    x = [draw(1, 3, *grid) for grid in ((4, 4, 4, 4), (3, 6, 7, 2))]
    first, second = net(x[0]), net(x[1])
    fresh = CorrelationNet(3, (4, 8)).double()
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x[1]), second) and torch.equal(net(x[0]), first) and second.shape == (1, 8, 3, 6)


def test_net_gradcheck_from_features_to_map():
    torch.manual_seed(0)
    net = CorrelationNet(2, (4,)).double()
    query, support = features((2, 2, 2, 3), channels=(3, 2), batch=1)
    inside = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 0.0, 1.0]]], dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (*query, *support)]
    for contrast in ('signed', 'difference'):
        assert gradcheck(lambda *x: net(mask_correlation(correlation(x[:2], x[2:]), inside, contrast)), inputs)


def test_net_refuses_an_unknown_mix():
    with pytest.raises(FSSKitError, match="mix: 'some' is unknown; choose 'none', 'full' or 'light'"):
        CorrelationNet(2, mix='some')


def test_net_learns_in_a_few_steps():
    """Two volumes whose means are equal; only the neighbours differ."""
    torch.manual_seed(0)
    ordered = torch.einsum('yv,xu->yxvu', torch.eye(4), torch.eye(4))
    shuffled = ordered[:, :, [2, 0, 3, 1]][..., [1, 3, 0, 2]]
    x, wanted = torch.stack([ordered, shuffled])[:, None], torch.tensor([1.0, 0.0])[:, None, None]
    assert torch.equal(x[0].mean((-1, -2)), x[1].mean((-1, -2)))
    head = nn.Sequential(CorrelationNet(1, (8, 8), stride=1), nn.Conv2d(8, 1, 1))
    optimiser = torch.optim.Adam(head.parameters(), 0.03)
    for _ in range(60):
        loss = F.binary_cross_entropy_with_logits(head(x)[:, 0], wanted.expand(2, 4, 4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert ((head(x)[:, 0] > 0) == (wanted > 0)).float().mean() > 0.9
