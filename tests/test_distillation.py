"fsskit.distillation: grids in line, the adapter's layers, features kept by content, coarse to fine, files that refuse."
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from fsskit import distillation as module
from fsskit.backbones import create_backbone, FeatureCache
from fsskit.distillation import (adapter_widths, align, Basis, BottleneckAdapter, build_task, check_settings, conv_step,
                                 create_teacher, cut_view,
                                 distil_adapter, distil_loss, DistilTask, early_layer, explained,
                                 export_adapter, FeaturePairs, fill, final_size, linear_probe, load_adapter, pair_key,
                                 paint, pca_basis, probe_layers, readable_photos, SamTeacher, score_adapter, stage_at,
                                 stage_sizes, state_id, to_grid, TokenBlock)
from fsskit.embedded import EncoderRun
from fsskit.photos import FSSKitError, to_tensor
from fsskit.sam import build_sam, SamSize
from fsskit.training import fit, learned_parameters, limited_threads, one_step, read_checkpoint, save_checkpoint, set_training

quick = settings(max_examples=15, deadline=None, derandomize=True)
MICRO = SamSize(64, 32, 2, 2, (1,), 4)  # grid 4 x 4
WIDTHS = (16, 12, 8)


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    with limited_threads(1): yield


def rand(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
def micro_sam(seed=0):
    torch.manual_seed(seed)
    return build_sam(MICRO)


@pytest.fixture(scope='module')
def teacher(): return SamTeacher(micro_sam().image_encoder, 'micro')


@pytest.fixture(scope='module')
def student(): return create_backbone('embedded', None, dim=12, depth=3, heads=2)


@pytest.fixture(scope='module')
def photos():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(p).resize((70 + 9 * n, 60), Image.BICUBIC)) for n, p in enumerate(small)]


@pytest.fixture
def cache(tmp_path): return FeatureCache(tmp_path / 'features')


# ---------------------------------------------------------------- grids
def triangle(old, new):
    "Rows of weights for resizing one axis, written from the definition."
    scale, table = old / new, np.zeros((new, old))
    for i in range(new):
        centre = (i + .5) * scale - .5
        for j in range(old): table[i, j] = max(0, 1 - abs(j - centre) / max(scale, 1))
        table[i] /= table[i].sum()
    return table


@pytest.mark.parametrize('old, new', [((7, 5), (3, 4)), ((4, 6), (2, 9)), ((3, 3), (6, 6)), ((16, 16), (5, 5)),
                                      ((16, 16), (20, 20))])
def test_resizing_by_hand(old, new):
    maps = rand(2, 3, *old)
    wanted = np.einsum('iy,jx,bcyx->bcij', triangle(old[0], new[0]), triangle(old[1], new[1]), maps.numpy())
    assert np.allclose(to_grid(maps, new), wanted, atol=1e-5)


def test_an_equal_grid_is_left_alone():
    maps = rand(1, 2, 3, 4)
    assert to_grid(maps, (3, 4)) is maps and all(a is b for a, b in zip(align(maps, maps), (maps, maps)))


@pytest.mark.parametrize('how', ['shrink_teacher', 'grow_student'])
def test_who_comes_to_whom(how):
    student, teacher = rand(2, 3, 4, 5), rand(2, 3, 9, 8, seed=1)
    ours, theirs = align(student, teacher, how)
    if how == 'shrink_teacher': assert ours is student and torch.equal(theirs, to_grid(teacher, (4, 5)))
    else: assert theirs is teacher and torch.equal(ours, to_grid(student, (9, 8)))
    assert distil_loss(student, teacher, how).item() == pytest.approx(np.mean((ours - theirs).numpy() ** 2), rel=1e-5)


def test_shrinking_is_the_default():
    student, teacher = rand(1, 2, 3, 3), rand(1, 2, 6, 6, seed=1)
    assert distil_loss(student, teacher) == distil_loss(student, teacher, 'shrink_teacher')
    assert distil_loss(student, teacher) != distil_loss(student, teacher, 'grow_student')


@pytest.mark.parametrize('how', ['shrink_teacher', 'grow_student'])
def test_gradients_of_the_loss(how):
    student, teacher = rand(2, 2, 3, 4).double().requires_grad_(), rand(2, 2, 5, 6, seed=1).double()
    assert torch.autograd.gradcheck(lambda s: distil_loss(s, teacher, how), student)
    distil_loss(student, teacher).backward()
    wanted = 2 * (student.detach() - to_grid(teacher, (3, 4))) / student.numel()
    assert torch.allclose(student.grad, wanted)


def test_maps_that_do_not_belong_together():
    with pytest.raises(FSSKitError, match="how='pad' is no way"): align(rand(1, 2, 3, 3), rand(1, 2, 3, 3), 'pad')
    for bad in (rand(1, 3, 3, 3), rand(2, 2, 3, 3), rand(2, 3, 3)):
        with pytest.raises(FSSKitError, match='do not belong together'): align(rand(1, 2, 3, 3), bad)
        with pytest.raises(FSSKitError, match='do not belong together'): align(bad, rand(1, 2, 3, 3))


# ---------------------------------------------------------------- the adapter
@pytest.mark.parametrize('norm', ['batch', 'layer'])
@pytest.mark.parametrize('dim, wanted', [(384, 1_151_744), (768, 1_250_048), (1024, 1_315_584)])
def test_parameter_counts(dim, wanted, norm):
    assert sum(p.numel() for p in BottleneckAdapter(dim, norm=norm).parameters()) == wanted


def test_the_layer_list():
    adapter = BottleneckAdapter()
    convs = [(m.in_channels, m.out_channels, m.kernel_size, m.padding, m.bias is None)
             for m in adapter.modules() if isinstance(m, nn.Conv2d)]
    assert convs == [(768, 256, (1, 1), (0, 0), True), (256, 256, (3, 3), (1, 1), True),
                     (256, 128, (1, 1), (0, 0), True), (128, 256, (1, 1), (0, 0), False)]
    assert [[type(m).__name__ for m in step] for step in adapter.squeeze] == [['Conv2d', 'BatchNorm2d', 'GELU']] * 3
    assert len(adapter.blocks) == 2 and all(b.attn.heads == 8 and b.mlp[0].out_features == 512 for b in adapter.blocks)
    assert isinstance(BottleneckAdapter(norm='layer').squeeze[0][1], module.LayerNorm2d)


def gelu(x): return x * .5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
def layer_norm(x, w, b, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * w + b


def naive_adapter(s, x, heads, norm, blocks):
    "(C, h, w) through the five steps, in numpy; s: the state dict as float64 arrays."
    c, h, w = x.shape
    for i, kernel in enumerate((1, 3, 1)):
        weight, pad = s[f'squeeze.{i}.0.weight'], np.pad(x, ((0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2))
        x = sum(np.einsum('dc,cyx->dyx', weight[:, :, v, u], pad[:, v:v + h, u:u + w]) for v in range(kernel)
                for u in range(kernel))
        g, b = s[f'squeeze.{i}.1.weight'][:, None, None], s[f'squeeze.{i}.1.bias'][:, None, None]
        if norm == 'batch':
            mean, var = (s[f'squeeze.{i}.1.running_{k}'][:, None, None] for k in ('mean', 'var'))
            x = (x - mean) / np.sqrt(var + 1e-5) * g + b
        else: x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6) * g + b
        x = gelu(x)
    t = x.reshape(len(x), -1).T
    for n in range(blocks):
        p = lambda name: s[f'blocks.{n}.{name}']
        qkv = layer_norm(t, p('norm1.weight'), p('norm1.bias')) @ p('attn.qkv.weight').T + p('attn.qkv.bias')
        q, k, v = qkv.reshape(len(t), 3, heads, -1).transpose(1, 2, 0, 3)
        likeness = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
        seen = likeness / likeness.sum(-1, keepdims=True) @ v
        t = t + seen.transpose(1, 0, 2).reshape(len(t), -1) @ p('attn.proj.weight').T + p('attn.proj.bias')
        inner = gelu(layer_norm(t, p('norm2.weight'), p('norm2.bias')) @ p('mlp.0.weight').T + p('mlp.0.bias'))
        t = t + inner @ p('mlp.2.weight').T + p('mlp.2.bias')
    return np.einsum('dc,cn->dn', s['out.weight'][:, :, 0, 0], t.T).reshape(-1, h, w) + s['out.bias'][:, None, None]


@pytest.mark.parametrize('norm', ['batch', 'layer'])
def test_forward_by_hand(norm):
    torch.manual_seed(0)
    adapter = BottleneckAdapter(10, (8, 9, 12), 7, blocks=2, heads=3, norm=norm)
    for _ in range(2): adapter(rand(4, 10, 5, 6, seed=3))  # running averages that are not 0 and 1
    for p in adapter.parameters(): p.data += .1 * torch.randn_like(p)
    adapter = adapter.eval().double()
    x = rand(2, 10, 4, 6, seed=1).double()
    state = {k: v.numpy() for k, v in adapter.state_dict().items()}
    wanted = np.stack([naive_adapter(state, one.numpy(), 3, norm, 2) for one in x])
    with torch.no_grad(): assert np.allclose(adapter(x), wanted, atol=1e-9)


def test_any_grid_and_any_batch():
    torch.manual_seed(0)
    adapter = BottleneckAdapter(6, WIDTHS, 5, heads=2).eval()
    with torch.no_grad():
        for shape in ((4, 7), (9, 3), (4, 7)):
            x = rand(3, 6, *shape, seed=shape[0])
            whole, singles = adapter(x), torch.cat([adapter(one[None]) for one in x])
            assert whole.shape == (3, 5, *shape) and torch.allclose(whole, singles, atol=1e-5)


def test_layer_norm_does_not_look_at_the_batch():
    torch.manual_seed(0)
    batch, layer = (BottleneckAdapter(6, WIDTHS, 5, heads=2, norm=n).train() for n in ('batch', 'layer'))
    x = rand(2, 6, 4, 4)
    with torch.no_grad(): far = [(a(x)[:1] - a(x[:1])).abs().max().item() for a in (batch, layer)]
    assert far[0] > 1e-3 and far[1] < 1e-5


def test_gradients_of_the_adapter():
    torch.manual_seed(0)
    adapter = BottleneckAdapter(3, (4, 4, 4), 2, blocks=1, heads=2, norm='layer').double()
    teacher = rand(1, 2, 4, 4, seed=1).double()
    assert torch.autograd.gradcheck(lambda x: distil_loss(adapter(x), teacher),
                                    rand(1, 3, 2, 3).double().requires_grad_())


@pytest.mark.parametrize('wrong, text', [(dict(widths=(8, 8)),
                                          'three widths'), (dict(widths=(8, 0, 8)), 'from 1 to 8192'),
                                         (dict(in_dim=10 ** 9), 'from 1 to 8192'), (dict(blocks=99), '0 to 48 blocks'),
                                         (dict(widths=(8, 8, 12)), '12 channels cannot be shared among 8 heads'),
                                         (dict(norm='group'), "norm='group' is not known")])
def test_adapters_that_cannot_be_built(wrong, text):
    with pytest.raises(FSSKitError, match=text): BottleneckAdapter(**wrong)


def test_small_parts():
    assert adapter_widths(192) == (128, 128, 64) and adapter_widths(384) == adapter_widths(768) == (256, 256, 128)
    assert [type(m) for m in conv_step(3, 4, 3, 'layer')] == [nn.Conv2d, module.LayerNorm2d, nn.GELU]
    block, x = TokenBlock(8, 2), rand(2, 5, 8)
    with torch.no_grad():
        y = x + block.attn(block.norm1(x))
        assert torch.allclose(block(x), y + block.mlp(block.norm2(y)), atol=1e-6)


# ---------------------------------------------------------------- the teacher
def test_the_teacher_is_sam_on_a_squashed_photo(teacher, photos):
    sam = micro_sam()
    square = torch.tensor(np.asarray(Image.fromarray(photos[1]).resize((64, 64),
                                                                       Image.BILINEAR))).permute(2, 0, 1)[None].float()
    with torch.no_grad(): wanted = sam.image_encoder(sam.preprocess(square))
    assert torch.allclose(teacher(square / 255), wanted, atol=1e-4)
    wide = to_tensor(photos[1])[None]
    squashed = F.interpolate(wide, (64, 64), mode='bilinear', antialias=True)
    assert torch.equal(teacher(wide), teacher(squashed)) and teacher(wide).shape == (1, 256, 4, 4)
    assert not teacher.train().training and not any(p.requires_grad for p in teacher.parameters())
    assert not teacher(wide.requires_grad_()).requires_grad


class Shaped(nn.Module):
    "Takes what an image encoder takes, gives whatever it is told to."
    def __init__(self, give): super().__init__(); self.give, self.w = give, nn.Parameter(torch.zeros(1))
    def forward(self, x): return self.give(x)


def test_other_encoders_of_that_shape():
    teacher = SamTeacher(Shaped(lambda x: F.avg_pool2d(x, 16).mean(1, keepdim=True).expand(-1, 256, -1, -1)), 'mobile',
                         side=32)
    image = torch.full((1, 3, 20, 50), .5)
    assert teacher.side == 32 and torch.allclose(teacher(image), torch.tensor([(.5 - m) / s for m, s in zip(
        (.485, .456, .406), (.229, .224, .225))]).mean().expand(1, 256, 2, 2), atol=1e-5)
    with pytest.raises(FSSKitError, match='pass side='): SamTeacher(Shaped(None), 'mobile')
    for give in (lambda x: x, lambda x: [x], lambda x: x.flatten()):
        with pytest.raises(FSSKitError, match=r"'sam' gives .* not \(B, 256, g, g\)"):
            SamTeacher(Shaped(give), side=32)(image)
    with pytest.raises(FSSKitError, match='divide bytes by 255'): teacher(image * 255)


def test_names_of_weights():
    one, two = nn.Linear(2, 3), nn.Linear(2, 3)
    two.load_state_dict(one.state_dict())
    assert state_id(one) == state_id(two) and state_id(one).startswith('sha256:') and len(state_id(one)) == 23
    with torch.no_grad(): two.bias[1] += 1e-6
    seen = {state_id(one), state_id(two), state_id(nn.Sequential(one)), state_id(nn.Linear(2, 3).half())}
    assert len(seen) == 4 and state_id(nn.BatchNorm2d(2)) == state_id(nn.BatchNorm2d(2))


def test_create_teacher(monkeypatch):
    asked = []
    monkeypatch.setattr(module, 'load_sam', lambda *args: asked.append(args) or micro_sam(args[2]))
    a, b = create_teacher(), create_teacher('sam_vit_h', 'hub', 3, False)
    assert asked == [('sam_tiny', 'shipped', 0, True), ('sam_vit_h', 'hub', 3, False)]
    assert (a.name, b.name) == ('sam_tiny', 'sam_vit_h') and a.weights_id != b.weights_id and a.side == 64


# ---------------------------------------------------------------- views and their features
@quick
@given(st.integers(16, 60), st.integers(16, 60), st.integers(1, 30), st.integers(0, 3))
def test_a_view_is_a_piece_of_the_photo(h, w, number, seed):
    photo = np.arange(h * w * 3, dtype=np.int64).reshape(h, w, 3)
    view = cut_view(photo, number, seed)
    mirrored = view.shape[1] > 1 and view[0, 0, 0] > view[0, 1, 0]
    piece = view[:, ::-1] if mirrored else view
    y, x = divmod(int(piece[0, 0, 0]) // 3, w)
    assert np.array_equal(piece, photo[y:y + piece.shape[0], x:x + piece.shape[1]]) and min(piece.shape[:2]) >= 16
    assert np.array_equal(view, cut_view(photo.copy(), number, seed)) and cut_view(photo, 0, seed) is photo


def test_views_differ(photos):
    views = [cut_view(photos[0], n, s) for n in range(1, 25) for s in range(2)]
    assert len({v.tobytes() for v in views}) == len(views)
    grown = np.arange(200 * 300 * 3).reshape(200, 300, 3)
    cut = [cut_view(grown, n) for n in range(1, 60)]
    assert {bool(v[0, 0, 0] > v[0, 1, 0]) for v in cut} == {True, False}
    shares = [v.shape[0] * v.shape[1] / 60_000 for v in cut]
    assert min(shares) < .3 and max(shares) > .7 and len({round(v.shape[1] / v.shape[0], 1) for v in cut}) > 4
    tiny = np.zeros((10, 200, 3), np.uint8)
    assert cut_view(tiny, 1).shape[0] == 10


class Counting(nn.Module):
    "A network that counts how often it is asked."
    def __init__(self, net):
        super().__init__(); self.net, self.name, self.weights_id, self.asked = net, net.name, net.weights_id, 0
    def __getattr__(self, name):
        try: return super().__getattr__(name)
        except AttributeError: return getattr(super().__getattr__('net'), name)
    def forward(self, *args): self.asked += 1; return self.net(*args)


def test_maps_are_what_the_networks_say_and_are_computed_once(student, teacher, photos, cache):
    one, two = Counting(student), Counting(teacher)
    pairs = FeaturePairs(photos[:2], one, 1, two, cache, views=3, seed=5)
    assert len(pairs) == 6
    ours, theirs = pairs.maps(4, 48)
    view = cut_view(photos[1], 1, 5)
    assert np.array_equal(pairs.view(4), view)
    wanted = student(to_tensor(view, 48)[None], [1])[0][0], teacher(to_tensor(view, 64)[None])[0]
    assert torch.equal(ours, wanted[0].half().float()) and torch.equal(theirs, wanted[1].half().float())
    again = FeaturePairs(photos[:2], one, 1, two, cache, views=3, seed=5).batch([4, 4], 48)
    assert (one.asked, two.asked) == (1, 1)
    assert torch.equal(again[0], torch.stack([ours] * 2))
    assert torch.equal(again[1][1], theirs)
    pairs.maps(4, 32)
    assert (one.asked, two.asked) == (2, 1)


def test_names_follow_the_content(student, teacher, photos, cache):
    make = lambda p, layer=1, t=teacher, s=student, **o: FeaturePairs(p, s, layer, t, cache, **o)
    key = pair_key(make(photos, views=2), 2, 48)
    assert key == pair_key(make(photos[::-1], views=2), 8,
                           48) == pair_key(make([Image.fromarray(p) for p in photos], views=2), 2, 48)
    stranger = create_backbone('embedded', None, 1, dim=12, depth=3, heads=2)
    other = SamTeacher(micro_sam(1).image_encoder, 'micro')
    keys = [key, pair_key(make(photos, views=2), 3, 48), pair_key(make(photos, views=2), 2,
                                                                  32), pair_key(make(photos, 0, views=2), 2, 48),
            pair_key(make(photos, s=stranger, views=2), 2, 48), pair_key(make(photos, views=2), 2, None),
            pair_key(make(photos, t=other, views=2), 2, None), pair_key(make(photos, views=2, seed=1), 3, 48)]
    assert len(set(keys)) == len(keys) and pair_key(make(photos, 0), 1, None) == pair_key(make(photos, 2), 1, None)
    turned = np.ascontiguousarray(photos[0].reshape(photos[0].shape[1], photos[0].shape[0],
                                                    3))  # same bytes, other shape
    assert pair_key(make([photos[0]]), 0, 48) != pair_key(make([turned]), 0, 48)


def test_a_damaged_or_missing_map_is_made_again(student, teacher, photos, cache):
    pairs = FeaturePairs(photos[:1], student, 1, teacher, cache)
    first = pairs.maps(0, 48)[0]
    cache.path(pair_key(pairs, 0, 48)).write_bytes(b'torn')
    assert torch.equal(pairs.maps(0, 48)[0], first)
    cache.path(pair_key(pairs, 0, 48)).unlink()
    assert torch.equal(pairs.maps(0, 48)[0], first)


def test_filling(student, teacher, photos, tmp_path, capsys):
    cache = FeatureCache(tmp_path / 'a')
    one, two = Counting(student), Counting(teacher)
    pairs = FeaturePairs(photos[:3], one, 1, two, cache, views=2)
    for _ in range(2): fill(pairs, (32, 48), progress=False)
    assert (one.asked, two.asked) == (12, 6) and len(list((tmp_path / 'a').iterdir())) == 18
    pairs.batch(range(6), 48)
    assert one.asked == 12
    small = FeaturePairs(photos, student, 1, teacher, FeatureCache(tmp_path / 'b', max_bytes=20_000))
    with pytest.raises(FSSKitError, match='features of 6 views take about .* allow more'):
        fill(small, (32,), progress=False)
    assert 'features' not in capsys.readouterr().err
    fill(FeaturePairs(photos[:1], student, 1, teacher, cache), (32,))
    assert 'features' in capsys.readouterr().err


# ---------------------------------------------------------------- coarse to fine
def test_sizes_of_the_stages():
    assert stage_sizes(518, 14) == (126, 252, 518) and stage_sizes(320, 16) == (80, 160, 320)
    assert stage_sizes(64, 16) == (16, 32, 64)
    assert stage_sizes(96, 16, 1) == (96,)
    assert stage_sizes(112, 16, 2) == (48, 112)
    for size in (100, 48):
        with pytest.raises(FSSKitError, match='multiple of 16 px, at least 64'): stage_sizes(size, 16)


@quick
@given(st.integers(1, 500), st.integers(1, 5))
def test_stages_by_step(steps, stages):
    found = [stage_at(step, steps, stages) for step in range(steps)]
    assert found == sorted(found) and found == [math.floor(step / steps * stages + 1e-9) for step in range(steps)]
    assert stage_at(steps, steps, stages) == stage_at(10 ** 6, steps,
                                                      stages) == stages - 1 == stage_at(0, 0, 1) + stages - 1


def micro_task(student, teacher, photos, cache, **options):
    task = build_task(photos, student, teacher, cache, layer=1, sizes=(16, 32, 64), widths=WIDTHS, views=2,
                      validation=3, **{'steps': 9, 'batch': 2} | options)
    return task


def test_a_task_is_put_together(student, teacher, photos, cache):
    state = torch.random.get_rng_state()
    task = micro_task(student, teacher, photos, cache, seed=3)
    assert torch.equal(state, torch.random.get_rng_state()) and task.learned == ('adapter',)
    same = lambda some, those: len(some) == len(those) and all(a is b for a, b in zip(some, those))
    assert same(task.held_out.photos, [photos[1], photos[4]])
    assert same(task.pairs.photos, [photos[n] for n in (0, 2, 3, 5)])
    assert (task.pairs.views, task.held_out.views, task.pairs.seed, task.seed) == (2, 1, 3, 3)
    equal = lambda a, b: all(torch.equal(x, y) for x, y in zip(a.adapter.state_dict().values(),
                                                               b.adapter.state_dict().values()))
    assert equal(task, micro_task(student, teacher, photos, cache, seed=3))
    assert not equal(task, micro_task(student, teacher, photos, cache))
    assert {id(p) for p in task.parameters()} == {id(p) for p in task.adapter.parameters()}


def test_what_is_chosen_when_nothing_is_said(student, teacher, photos, cache):
    alone = build_task(photos[:1], create_backbone('embedded', None), teacher, cache)
    assert alone.pairs.photos[0] is alone.held_out.photos[0] is photos[0]
    assert alone.sizes == (80, 160, 320) and alone.pairs.layer == 0 == early_layer(alone.pairs.student)
    assert alone.adapter.settings == dict(in_dim=192, widths=[128, 128, 64], out_dim=256, blocks=2, heads=8,
                                          norm='batch')
    dino = create_backbone('dinov2_vits14', None, depth=4)
    assert early_layer(dino) == 2
    assert final_size(dino) == 518
    assert stage_sizes(final_size(dino), dino.stride) == (126, 252, 518)
    assert early_layer(create_backbone('dinov2_vits14', None, depth=2)) == 1


def test_layers_and_sizes_that_do_not_exist(student, teacher, photos, cache):
    assert build_task(photos, student, teacher, cache, layer=-1, sizes=[32], widths=WIDTHS).pairs.layer == 2
    for layer in (3, -4):
        with pytest.raises(FSSKitError, match=f"'embedded' has layers 0 to 2, not {layer}"):
            build_task(photos, student, teacher, cache, layer=layer)
    for size in (40, 0):
        with pytest.raises(FSSKitError, match=f'Photos of {size} px do not fit .* multiples of 16 px'):
            build_task(photos, student, teacher, cache, sizes=(32, size))


def test_the_loss_of_a_step(student, teacher, photos, cache):
    task = micro_task(student, teacher, photos, cache, how='grow_student')
    assert [task.size_at(s) for s in range(9)] == [16] * 3 + [32] * 3 + [64] * 3
    task.eval()
    pick = torch.randint(8, (2,), generator=torch.Generator().manual_seed(7)).tolist()  # seed 0, step 7
    x = torch.cat([student(to_tensor(task.pairs.view(i), 64)[None], [1])[0] for i in pick])
    y = torch.cat([teacher(to_tensor(task.pairs.view(i), 64)[None]) for i in pick])
    assert task(7)['loss'].item() == pytest.approx(F.mse_loss(task.adapter(x), y).item(), rel=1e-3)
    assert torch.equal(task(7)['loss'], task(7)['loss']) and not torch.equal(task(7)['loss'], task(8)['loss'])
    other = micro_task(student, teacher, photos, cache, seed=1)
    assert not torch.equal(other(7)['loss'], task(7)['loss'])


def test_stop_and_resume_across_the_stages_is_bit_for_bit(student, teacher, photos, cache, tmp_path):
    how = dict(warmup=2, progress=False, validate_every=4)
    whole = micro_task(student, teacher, photos, cache)
    fit(whole, tmp_path / 'whole', 9, **how)
    for stop in (2, 3, 5):
        first = micro_task(student, teacher, photos, cache)
        forward = first.forward
        def stopped(step):
            if step == stop: raise KeyboardInterrupt
            return forward(step)
        first.forward = stopped
        with pytest.raises(KeyboardInterrupt): fit(first, tmp_path / f'{stop}', 9, **how)
        then = micro_task(student, teacher, photos, cache)
        fit(then, tmp_path / f'{stop}', 9, resume=tmp_path / f'{stop}' / 'checkpoint.pt', **how)
        assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), then.state_dict().values()))
        a, b = (read_checkpoint(tmp_path / f / 'best.pt') for f in ('whole', f'{stop}'))
        assert a['extra'] == b['extra'] and a['step'] == b['step']


def test_it_learns(student, teacher, photos, cache):
    torch.manual_seed(0)
    pairs = FeaturePairs(photos[:3], student, 1, teacher, cache)
    task = DistilTask(BottleneckAdapter(12, (32, 32, 16)), pairs, pairs, (32, 64), steps=70, batch=3)
    before = task.eval().validate()['score']
    set_training(task)
    optimiser = torch.optim.AdamW(learned_parameters(task), lr=1.)
    for step in range(70): one_step(task, optimiser, step, 1e-2)
    task.eval()
    assert before < .05 and task.validate()['score'] > .15


def test_the_score_by_hand(student, teacher, photos, cache):
    torch.manual_seed(0)
    adapter = BottleneckAdapter(12, WIDTHS).eval()
    pairs = FeaturePairs(photos[:3], student, 1, teacher, cache, views=2)
    with torch.no_grad(): guess = torch.cat([adapter(pairs.maps(i, 48)[0][None]) for i in (0, 2, 4)]).double().numpy()
    wanted = np.stack([np.einsum('iy,jx,cyx->cij', triangle(4, 3), triangle(4, 3), pairs.maps(i, 48)[1])
                       for i in (0, 2, 4)])
    error = ((guess - wanted) ** 2).sum()
    score = 1 - error / ((wanted - wanted.mean((0, 2, 3), keepdims=True)) ** 2).sum()
    cosine = ((guess * wanted).sum(1) / np.linalg.norm(guess, axis=1) / np.linalg.norm(wanted, axis=1)).mean()
    found = score_adapter(adapter, pairs, 48)
    assert found == pytest.approx({'score': score, 'mse': error / guess.size, 'cosine': cosine}, rel=1e-3)
    task = DistilTask(adapter, pairs, pairs, (32, 48))
    assert task.validate() == found


def test_explained_variance():
    target = rand(2, 3, 4, 5)
    mean = target.mean((0, 2, 3), keepdim=True).expand_as(target)
    assert explained(target, target) == 1 and explained(mean, target) == pytest.approx(0, abs=1e-6)
    assert explained((target + mean) / 2, target) == pytest.approx(.75, abs=1e-6)
    assert explained(target + 10, target) < -1


# ---------------------------------------------------------------- pictures
def test_the_basis_is_that_of_a_singular_value_decomposition():
    maps = rand(2, 6, 5, 7) * torch.tensor([5., 4, 3, 1, 1, 1])[:, None, None] + 2
    basis = pca_basis(maps)
    cells = maps.permute(0, 2, 3, 1).reshape(-1, 6).numpy()
    _, _, axes = np.linalg.svd(cells - cells.mean(0), full_matrices=False)
    assert np.allclose(np.abs((axes[:3] * basis.axes.T.numpy()).sum(1)), 1, atol=1e-3)
    assert np.allclose(basis.axes.T @ basis.axes, np.eye(3), atol=1e-5)
    assert (basis.axes.gather(0, basis.axes.abs().argmax(0, keepdim=True)) > 0).all()
    place = (cells - cells.mean(0)) @ basis.axes.numpy()
    assert np.allclose(basis.low, np.quantile(place, .02, axis=0), atol=1e-4)
    assert np.allclose(basis.high, np.quantile(place, .98, axis=0), atol=1e-4)


def test_colours():
    basis = Basis(torch.tensor([1., 0, 0, 5]), torch.eye(4)[:, :3], torch.zeros(3), torch.tensor([1., 2, 4]))
    features = torch.tensor([[1.5, 0, 1, 9], [2, 1, 1, -9], [0, 5, 5, 5], [9, -9, 9, 0]]).T.reshape(4, 2, 2)
    picture = paint(features, basis)
    wanted = [[128, 0, 64], [255, 128, 64], [0, 255, 255], [255, 0, 255]]
    assert picture.dtype == np.uint8 and np.abs(picture.reshape(4, 3).astype(int) - wanted).max() <= 1
    large = paint(features, basis, (4, 6))
    assert np.array_equal(large, picture.repeat(2, 0).repeat(3, 1))


# ---------------------------------------------------------------- which layer
def test_the_linear_probe_is_ridge_regression():
    x, y = rand(4, 5, 3, 3), rand(4, 2, 3, 3, seed=1)
    flat = lambda m: m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]).double().numpy()
    a, b, c, d = (flat(m) for m in (x[:2], y[:2], x[2:], y[2:]))
    ac, bc = a - a.mean(0), b - b.mean(0)
    ridge = .1 * np.mean((ac ** 2).sum(0)) * np.eye(5)
    guess = (c - a.mean(0)) @ np.linalg.inv(ac.T @ ac + ridge) @ ac.T @ bc + b.mean(0)
    wanted = 1 - ((guess - d) ** 2).sum() / ((d - d.mean(0)) ** 2).sum()
    assert linear_probe((x[:2], y[:2]), (x[2:], y[2:]), .1) == pytest.approx(wanted, abs=1e-9)
    linear = torch.einsum('bchw,dc->bdhw', x, rand(2, 5, seed=3)) + 4
    assert linear_probe((x[:2], linear[:2]), (x[2:], linear[2:]), 1e-9) == pytest.approx(1, abs=1e-6)


def test_layers_are_compared_on_other_photos(student, teacher, photos):
    found = probe_layers(student, teacher, photos, 48, layers=[0, 2])
    x = torch.cat([student(to_tensor(p, 48)[None], [2])[0] for p in photos])
    y = to_grid(torch.cat([teacher(to_tensor(p, 64)[None]) for p in photos]), (3, 3))
    assert list(found) == [0, 2]
    assert found[2] == pytest.approx(linear_probe((x[::2], y[::2]), (x[1::2], y[1::2])), abs=1e-6)
    assert list(probe_layers(student, teacher, photos[:2], 32)) == [0, 1, 2]


# ---------------------------------------------------------------- files
@pytest.fixture
def trained(student, teacher, photos, tmp_path):
    "A task and its checkpoint."
    task = micro_task(student, teacher, photos, FeatureCache(tmp_path / 'features'), seed=2)
    for p in task.adapter.parameters(): p.data += .05
    save_checkpoint(tmp_path / 'checkpoint.pt', task, torch.optim.AdamW(learned_parameters(task)), module_clock(),
                    seed=2)
    return task


def module_clock():
    from fsskit.training import Clock
    return Clock(4)


def test_written_and_read_again(trained, student, tmp_path):
    path = export_adapter(tmp_path / 'checkpoint.pt', tmp_path / 'out', trained,
                          EncoderRun({'cats': 4}, smallworld=2, data_note='a note', exclude='list.txt', left_out=7,
                                     teacher_note='free'))
    state = load_file(path)
    own = trained.adapter.state_dict()
    assert path.name == 'adapter_embedded.safetensors' and state.keys() == own.keys()
    assert all(torch.equal(state[k], v.half() if v.is_floating_point() else v) for k, v in own.items())
    loaded = load_adapter(path, student)
    x = rand(2, 12, 3, 4)
    with torch.no_grad(): assert torch.allclose(loaded(x), trained.adapter.eval()(x), atol=2e-2)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters()) and loaded.layer == 1
    about = loaded.about
    assert about['sizes'] == [16, 32, 64]
    assert about['teacher'] == 'micro'
    assert about['labels'] == 'none'
    assert about['seed'] == '2'
    assert about['backbone_weights'] == student.weights_id
    assert about['teacher_weights'] == trained.pairs.teacher.weights_id
    card = path.with_suffix('.md').read_text()
    for text in ('| cats | 4 |', 'SmallWorld, pretraining classes (generated) | 2 |', '7 photos were '
                 'kept out', 'list.txt', 'a note',
                 'layer 1 (from 0)', 'free', 'shrink_teacher', '[16, 32, 64]',
                 f'{sum(p.numel() for p in loaded.parameters()):,}'):
        assert text in card, text
    assert load_adapter(path).layer == 1


def rewrite(path, state=None, **changes):
    with safe_open(path, 'pt') as file: about = file.metadata()
    save_file(state or load_file(path), path, {k: v for k, v in (about | changes).items() if v is not None})


def test_files_that_are_refused(trained, student, tmp_path, monkeypatch):
    path = export_adapter(tmp_path / 'checkpoint.pt', tmp_path / 'out', trained, EncoderRun({}))
    good = path.read_bytes()
    with pytest.raises(FSSKitError, match="belongs to the backbone 'embedded', not to 'resnet18'"):
        load_adapter(path, create_backbone('resnet18', None))
    other = create_backbone('embedded', None, 1, dim=12, depth=3, heads=2)
    with pytest.raises(FSSKitError, match='random-0.* but these are random-1.*distil again'): load_adapter(path, other)
    assert load_adapter(path, other, other_weights=True).layer == 1
    (tmp_path / 'note.txt').write_text('no weights')
    save_file({'x': torch.zeros(1)}, tmp_path / 'plain.safetensors')
    for wrong in (tmp_path / 'none.safetensors', tmp_path / 'note.txt', tmp_path / 'plain.safetensors'):
        with pytest.raises(FSSKitError, match='is no adapter: give'): load_adapter(wrong)
    for changes in (dict(kind='encoder'), dict(layer='-1'), dict(adapter='{'), dict(sizes=None), dict(backbone=None)):
        path.write_bytes(good)
        rewrite(path, **changes)
        with pytest.raises(FSSKitError, match='is no adapter: give'): load_adapter(path)
    plan = trained.adapter.settings
    for settings_, text in ((plan | dict(heads=0), 'cannot be built'),
                            (plan | dict(colour='red'), 'cannot be built'), ([1], 'cannot be built'),
                            (plan | dict(widths=8), 'cannot be built'),
                            (plan | dict(out_dim=8), 'another architecture')):
        path.write_bytes(good)
        rewrite(path, adapter=json.dumps(settings_))
        with pytest.raises(FSSKitError, match=text): load_adapter(path)
    path.write_bytes(good)
    rewrite(path, load_file(path) | {'out.bias': torch.full((256,), math.nan).half()})
    with pytest.raises(FSSKitError, match='out.bias holds NaN'): load_adapter(path)
    monkeypatch.setattr(module, 'shipped_weights', lambda name: tmp_path / name)
    with pytest.raises(FSSKitError, match='adapter_resnet18.safetensors'):
        load_adapter(backbone=create_backbone('resnet18', None))
    with pytest.raises(FSSKitError, match='adapter_embedded.safetensors'): load_adapter()


def test_a_checkpoint_of_another_adapter_is_not_exported(trained, student, teacher, photos, cache, tmp_path):
    other = build_task(photos, student, teacher, cache, layer=1, sizes=(32,), widths=(16, 16, 8))
    with pytest.raises(FSSKitError, match='another network'):
        export_adapter(tmp_path / 'checkpoint.pt', tmp_path, other, EncoderRun({}))


def test_a_training_goes_on_with_its_own_settings(student, teacher, photos, cache, tmp_path):
    make = lambda **o: micro_task(student, teacher, o.pop('photos', photos), cache, **o)
    checkpoint = tmp_path / 'checkpoint.pt'
    check_settings(make(), tmp_path, checkpoint)  # nothing to compare with yet
    check_settings(make(), tmp_path, checkpoint)
    check_settings(make(), tmp_path / 'elsewhere', checkpoint)
    for options, text in ((dict(steps=12), 'steps = 9, not 12'), (dict(batch=3), 'batch = 2, not 3'),
                          (dict(how='grow_student'), 'how ='),
                          (dict(photos=photos[:5]), 'photos = 4 and 2 held out, not 3 and 2')):
        with pytest.raises(FSSKitError, match=text): check_settings(make(**options), tmp_path, checkpoint)
    other = create_backbone('embedded', None, 1, dim=12, depth=3, heads=2)
    with pytest.raises(FSSKitError, match='backbone_weights ='):
        check_settings(micro_task(other, teacher, photos, cache), tmp_path, checkpoint)
    check_settings(make(steps=12), tmp_path)  # a new training
    assert json.loads((tmp_path / 'settings.json').read_text())['steps'] == '12'


# ---------------------------------------------------------------- the whole
@pytest.fixture
def album(photos, tmp_path):
    (tmp_path / 'album').mkdir()
    for n, photo in enumerate(photos): Image.fromarray(photo).save(tmp_path / 'album' / f'{n}.png')
    (tmp_path / 'out.txt').write_text('album/5.png\nalbum/0.png\n')
    return tmp_path / 'album'


def test_photos_on_the_list_are_left_out(album, tmp_path):
    files, run = readable_photos(album, tmp_path / 'out.txt', progress=False)
    assert [f.name for f in files] == ['1.png', '2.png', '3.png', '4.png'] and run.sources == {'album': 4}
    assert (run.left_out, run.exclude, run.smallworld, run.unreadable) == (2, 'out.txt', 0, [])
    (album / '3.png').write_bytes(b'torn')
    with pytest.warns(UserWarning, match='left out, cannot be read'):
        files, run = readable_photos(album, tmp_path / 'out.txt', smallworld=1, progress=False)
    assert [f.name for f in files[:3]] == ['1.png', '2.png', '4.png'] and run.sources == {'album': 3}
    assert run.unreadable == ['album/3.png']
    assert len(files) == 3 + 24 == 3 + run.smallworld
    assert files[3].shape == (320, 320, 3)
    (tmp_path / 'all.txt').write_text(''.join(f'album/{n}.png\n' for n in range(6)))
    with pytest.raises(FSSKitError, match='No photo to learn from is left'):
        readable_photos(album, tmp_path / 'all.txt', progress=False)


def test_from_photos_to_weights(album, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'load_sam', lambda *args: micro_sam(0))
    read = []
    original = module.load_photo
    monkeypatch.setattr(module, 'load_photo', lambda source: read.append(source) or original(source))
    how = dict(backbone='embedded', teacher_weights=None, exclude=tmp_path / 'out.txt',
               smallworld=0, views=2, sizes=(16, 32), widths=WIDTHS, steps=3,
               batch=2, validate_every=2, cache=tmp_path / 'features', threads=1, progress=False,
               data_note='made for a test', teacher_note='random')
    weights = distil_adapter(album, tmp_path / 'run', **how)
    assert not {'0.png', '5.png'} & {source.name for source in read} and torch.get_num_threads() == 1
    best = read_checkpoint(tmp_path / 'run' / 'best.pt')['learned']['adapter']
    assert all(torch.equal(v, best[k].half() if best[k].is_floating_point() else best[k])
               for k, v in load_file(weights).items())
    backbone = create_backbone('embedded')
    adapter = load_adapter(weights, backbone)
    assert adapter(backbone(torch.rand(1, 3, 48, 32), [adapter.layer])[0]).shape == (1, 256, 3, 2)
    card = weights.with_suffix('.md').read_text()
    for text in ('| album | 4 |', '2 photos were kept out', 'made for a test', '; random', 'seed 0',
                 '1 pictures held out'): assert text in card, text
    with pytest.raises(FSSKitError, match='already holds a training'): distil_adapter(album, tmp_path / 'run', **how)
    with pytest.raises(FSSKitError, match='sizes ='):
        distil_adapter(album, tmp_path / 'run', **how | dict(sizes=(32,)), resume=tmp_path / 'run' / 'checkpoint.pt')
    with pytest.raises(FSSKitError, match="device='tpu'"): distil_adapter(album, tmp_path / 'new', **how, device='tpu')
    with pytest.raises(FSSKitError, match='cache keeps 0 MB'):
        distil_adapter(album, tmp_path / 'new', **how | dict(cache=tmp_path / 'tiny'), cache_gb=1e-5)


def test_a_teacher_of_your_own(album, tmp_path):
    mobile = SamTeacher(Shaped(lambda x: F.avg_pool2d(x, 16).mean(1, keepdim=True).expand(-1, 256, -1, -1)), 'mobile',
                        side=48)
    weights = distil_adapter(album, tmp_path / 'run', teacher=mobile, smallworld=0, views=1, validation=3, sizes=(16,),
                             widths=WIDTHS, steps=1, batch=2, norm='layer', how='grow_student',
                             cache=tmp_path / 'features', progress=False)
    about = load_adapter(weights).about
    assert (about['teacher'], about['teacher_weights'], about['how']) == ('mobile', mobile.weights_id, 'grow_student')
    assert about['adapter']['norm'] == 'layer' and '2 pictures held out' in weights.with_suffix('.md').read_text()


def test_minutes_and_resume_of_the_whole(album, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'load_sam', lambda *args: micro_sam(0))
    how = dict(teacher_weights=None, smallworld=0, views=1, sizes=(16, 32), widths=WIDTHS, steps=4, batch=2,
               validate_every=None, cache=tmp_path / 'features', progress=False)
    whole = distil_adapter(album, tmp_path / 'whole', **how)
    distil_adapter(album, tmp_path / 'parts', **how, minutes=0)
    assert read_checkpoint(tmp_path / 'parts' / 'checkpoint.pt')['step'] == 0
    parts = distil_adapter(album, tmp_path / 'parts', **how, resume=tmp_path / 'parts' / 'checkpoint.pt')
    one, two = load_file(whole), load_file(parts)
    assert one.keys() == two.keys() and all(torch.equal(v, two[k]) for k, v in one.items())
    assert load_adapter(whole).about == load_adapter(parts).about and not (tmp_path / 'whole' / 'best.pt').exists()
