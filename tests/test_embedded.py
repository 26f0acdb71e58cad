"Tests of fsskit.embedded: values against independent computations, exact resume, photos left out, the model card."
import hashlib
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fsskit import embedded
from fsskit.embedded import (MEASURED, Attention, Block, DistilHeads, Distiller, EmbeddedViT, EncoderRun,
                             MobileNetTeacher, PhotoPool, attention_weights, batch_at, block_attention,
                             build_distiller, check_start,
                             choose_photos, colour_jitter, cosine_loss, distil_encoder, export_encoder, final_losses,
                             forward_blocks, gather_pool, imagenet_normalise, learning_rate, limited_threads,
                             listed_photos, make_views, mix, one_step, photos_below, random_crops, read_checkpoint,
                             read_photos, relation_loss, restore, smallworld_pictures, train_encoder)
from fsskit.photos import FSSKitError

quick = settings(max_examples=10, deadline=None, derandomize=True)


def rng(seed=0): return torch.Generator().manual_seed(seed)
def rand(*shape, seed=0): return torch.randn(*shape, generator=rng(seed))
def cosine(a, b): return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    with limited_threads(1): yield


@pytest.fixture(scope='module')
def pool():
    noise = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3), dtype=np.uint8)
    return PhotoPool([np.asarray(Image.fromarray(n).resize((160, 120), Image.BICUBIC)) for n in noise], side=128)


@pytest.fixture(scope='module')
def teacher():
    torch.manual_seed(0)
    return MobileNetTeacher(None, arch='mobilenetv2_035')


@pytest.fixture(scope='module')
def teacher_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.safetensors'
    save_file(timm.create_model('mobilenetv2_100', num_classes=0).state_dict(), path)
    return path


@pytest.fixture
def mini(pool, teacher):
    def build(seed=0, **options):
        torch.manual_seed(seed)
        return Distiller(EmbeddedViT(24, 6, 2), teacher, pool, **{'sizes': (48, 64), 'batch': 1, **options})
    return build


ALBUM = ['coco_mini/images/01.jpg', 'coco_mini/images/02.jpg', 'coco_mini/images/03.JPEG', 'db/cat/00.png',
         'db/dog/00.png']


@pytest.fixture
def album(tmp_path):
    "coco_mini/images: three JPEGs and a mask; db/cat and db/dog: one PNG photo each."
    draw = np.random.default_rng(1).integers(0, 256, (8, 40, 48, 3), dtype=np.uint8)
    for name, pixels in zip(ALBUM, draw):
        path = tmp_path / 'album' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    Image.fromarray(draw[0, :, :, 0]).save(tmp_path / 'album/coco_mini/images/01.png')
    (tmp_path / 'album/coco_mini/notes.txt').write_text('no photo')
    (tmp_path / 'album/.hidden').mkdir()
    Image.fromarray(draw[6]).save(tmp_path / 'album/.hidden/x.jpg')
    return tmp_path / 'album'


# losses

@quick
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(2, 5))
def test_cosine_loss_is_the_mean_over_places(seed, h, channels):
    s, t = rand(2, channels, h, 3, seed=seed), rand(2, channels, h, 3, seed=seed + 1)
    places = [(b, y, x) for b in range(2) for y in range(h) for x in range(3)]
    by_loop = [cosine(s[b, :, y, x].numpy(), t[b, :, y, x].numpy()) for b, y, x in places]
    assert cosine_loss(s, t).item() == pytest.approx(1 - np.mean(by_loop), abs=1e-5)
    assert cosine_loss(s, 3 * s).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss(s, -s).item() == pytest.approx(2, abs=1e-6)


def test_cosine_loss_of_vectors_without_places():
    s, t = rand(4, 7), rand(4, 7, seed=1)
    by_loop = np.mean([cosine(a, b) for a, b in zip(s.numpy(), t.numpy())])
    assert cosine_loss(s, t).item() == pytest.approx(1 - by_loop, abs=1e-6)


@pytest.mark.parametrize('pictures', [4, 5])  # the fifth fills no group
def test_relation_loss_is_the_table_of_all_pairs_of_every_second_place(pictures):
    s, t = rand(pictures, 3, 3, 4), rand(pictures, 6, 3, 4, seed=1)
    squares = []
    for group in ((0, 1), (2, 3)):
        places = [(b, y, x) for b in group for y in (0, 2) for x in (0, 2)]
        for i in places:
            for j in places:
                one, two = (cosine(m[i[0], :, i[1], i[2]].numpy(), m[j[0], :, j[1], j[2]].numpy()) for m in (s, t))
                squares.append((one - two) ** 2)
    assert relation_loss(s, t, group=2).item() == pytest.approx(np.mean(squares), abs=1e-6)


def test_relation_loss_does_not_see_a_rotation_but_cosine_loss_does():
    t = rand(8, 6, 4, 4)
    turned = torch.einsum('ij,bjhw->bihw', torch.linalg.qr(rand(6, 6, seed=3)).Q, t)
    assert relation_loss(turned, t) < 1e-10 and cosine_loss(turned, t) > 0.2


def test_losses_pass_gradients_that_finite_differences_confirm():
    t = rand(8, 2, 2, 2, seed=1)
    for loss in (cosine_loss, relation_loss):
        s = rand(8, 2, 2, 2).requires_grad_()
        slope = torch.autograd.grad(loss(s, t), s)[0][0, 1, 0, 0].item()
        bump = torch.zeros_like(s)
        bump[0, 1, 0, 0] = 1e-2
        with torch.no_grad(): finite = (loss(s + bump, t) - loss(s - bump, t)).item() / 2e-2
        assert slope == pytest.approx(finite, abs=2e-4)


# the student

def test_normalisation_is_imagenets():
    image = rand(1, 3, 2, 2).sigmoid()
    by_hand = [(image[0, c].numpy() - m) / d for c, (m, d) in enumerate(zip((.485, .456, .406), (.229, .224, .225)))]
    assert np.allclose(imagenet_normalise(image)[0], by_hand, atol=1e-6)


def test_attention_is_what_loops_compute():
    torch.manual_seed(0)
    layer, tokens = Attention(6, heads=2), rand(1, 4, 6)
    qkv = (tokens[0] @ layer.qkv.weight.T + layer.qkv.bias).detach().numpy()
    out, table = np.zeros((4, 6)), np.zeros((2, 4, 4))
    for head in range(2):
        q, k, v = (qkv[:, part * 6 + head * 3: part * 6 + head * 3 + 3] for part in range(3))
        for i in range(4):
            scores = np.exp([q[i] @ k[j] / math.sqrt(3) for j in range(4)])
            table[head, i] = scores / scores.sum()
            out[i, head * 3:head * 3 + 3] = sum(table[head, i, j] * v[j] for j in range(4))
    expected = out @ layer.proj.weight.detach().numpy().T + layer.proj.bias.detach().numpy()
    assert np.allclose(layer(tokens)[0].detach(), expected, atol=1e-5)
    assert np.allclose(layer.weights(tokens)[0].detach(), table, atol=1e-6)


def test_attention_agrees_with_torchs_own():
    q, k, v = (rand(2, 3, 5, 4, seed=s) for s in range(3))
    assert torch.allclose(attention_weights(q, k) @ v, F.scaled_dot_product_attention(q, k, v), atol=1e-5)


def test_position_filter_reads_the_eight_neighbours_and_leaves_the_class_token_alone():
    torch.manual_seed(0)
    block, tokens = Block(4, 2), rand(1, 1 + 3 * 5, 4)
    located = block.locate(tokens, (3, 5)).detach()
    padded = np.zeros((5, 7, 4))
    padded[1:-1, 1:-1] = tokens[0, 1:].numpy().reshape(3, 5, 4)
    weight, bias = block.position.weight.detach().numpy()[:, 0], block.position.bias.detach().numpy()
    for y in range(3):
        for x in range(5):
            for c in range(4):
                said = (padded[y:y + 3, x:x + 3, c] * weight[c]).sum() + bias[c]
                n = 1 + y * 5 + x
                assert located[0, n, c] == pytest.approx(tokens[0, n, c].item() + said, abs=1e-5)
    assert torch.equal(located[:, 0], tokens[:, 0])


def test_size_of_the_student_and_its_names():
    student, c = EmbeddedViT(), 192
    block = (9 * c + c) + (4 * c * c + 4 * c) + (8 * c * c + 5 * c) + 4 * c
    convs = 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * c) + 2 * (32 + 64 + 128 + c)
    local = lambda n: 25 * n + 2 * n + (2 * n * n + 2 * n) + (2 * n * n + n)
    expected = convs + local(128) + local(c) + 6 * block + c + 2 * c  # and the class token, and the last norm
    assert sum(p.numel() for p in student.parameters()) == expected < 6_000_000
    names = set(student.state_dict())
    assert {'cls_token', 'norm.weight', 'stem.0.0.weight', 'stem.3.body.0.weight', 'stem.5.body.4.bias',
            'blocks.0.position.weight', 'blocks.5.attn.qkv.weight', 'blocks.3.attn.proj.bias',
            'blocks.2.mlp.2.weight'} <= names
    assert len(names) == 131
    heads = {f'{name}.{kind}' for name in ('maps.0', 'maps.1', 'globe') for kind in ('weight', 'bias')}
    assert set(DistilHeads().state_dict()) == heads


def test_maps_are_the_normed_tokens_after_their_block_on_any_grid():
    torch.manual_seed(0)
    student = EmbeddedViT(24, 4, 2).eval()
    images = rand(2, 3, 48, 80).sigmoid()
    with torch.no_grad():
        (late, early), cls = forward_blocks(student, images, (2, 0))  # in the order asked for
        x, grid = student.embed(images)
        assert grid == (3, 5) and torch.equal(x[:, 0], student.cls_token.expand(2, -1, -1)[:, 0])
        after = []
        for block in student.blocks: x = block(x, grid); after.append(student.norm(x))
        for y in range(3):
            for u in range(5):
                assert torch.equal(late[:, :, y, u], after[2][:, 1 + y * 5 + u])
                assert torch.equal(early[:, :, y, u], after[0][:, 1 + y * 5 + u])
        assert torch.equal(cls, after[2][:, 0])


def test_block_attention_is_the_softmax_inside_the_forward_pass():
    torch.manual_seed(0)
    student, seen = EmbeddedViT(24, 3, 2).eval(), {}
    images = rand(1, 3, 32, 48).sigmoid()
    student.blocks[1].attn.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0]))
    with torch.no_grad():
        forward_blocks(student, images, (2,))
        weights, grid = block_attention(student, images, 1)
        assert grid == (2, 3) and torch.equal(weights, student.blocks[1].attn.weights(seen['x']))
    assert torch.allclose(weights.sum(-1), torch.ones(1, 2, 7), atol=1e-5)


def test_shifting_the_photo_by_a_cell_shifts_the_located_tokens():
    torch.manual_seed(0)
    student = EmbeddedViT(24, 1, 2).eval()
    wide = rand(1, 3, 64, 272).sigmoid()
    with torch.no_grad():
        tokens = lambda image: student.blocks[0].locate(*student.embed(image))[0, 1:].reshape(4, 16, 24)
        one, two = tokens(wide[..., :256]), tokens(wide[..., 16:])
    assert torch.allclose(one[:, 6:11], two[:, 5:10], atol=1e-5)
    assert not torch.allclose(one[:, 5:10], two[:, 5:10], atol=1e-2)


# photos, crops, colours, mixtures

def test_pool_shrinks_by_averaging_and_never_enlarges():
    photo = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    pool = PhotoPool([photo, photo[:20, :24]], side=64, levels=2)
    (large, sizes), (small, halves) = pool.levels
    assert len(pool) == 2 and sizes.tolist() == [[40, 64], [20, 24]] and halves.tolist() == [[20, 32], [20, 24]]
    assert np.array_equal(large[0, :, :40].permute(1, 2, 0), photo) and (large[0, :, 40:] == 0).all()
    reference = np.asarray(Image.fromarray(photo).resize((32, 20), Image.BILINEAR)).astype(int)  # Pillow antialiases
    assert np.abs(small[0, :, :20].permute(1, 2, 0).numpy().astype(int) - reference).max() <= 1


def test_pool_without_photos_is_an_error():
    with pytest.raises(FSSKitError, match='no photo to learn from'): PhotoPool([])


def test_crops_show_the_pixels_that_they_claim_to_show():
    row, column = np.mgrid[:200, :256]
    pool = PhotoPool([np.stack([column, row, 0 * row], -1).astype(np.uint8)], side=256, levels=1)
    crops = (random_crops(pool, 60, 64, rng(1)) * 255).numpy()
    xs, ys = crops[:, 0], crops[:, 1]
    assert (crops[:, 2] == 0).all()
    for x, y in zip(xs, ys):
        step_x, step_y = np.diff(x[:, 2:-2], axis=1), np.diff(y[2:-2], axis=0)
        assert step_x.std() < 1e-2 and step_y.std() < 1e-2 and np.ptp(x, axis=0).max() < 1e-2  # straight and upright
        assert 0.59 < math.sqrt(abs(step_x.mean() * step_y.mean())) < 1.61 and step_y.mean() > 0
        assert 0.59 < abs(step_x.mean() / step_y.mean()) < 1.66  # exp(+-0.5)
    mirrored = np.mean([x[0, 0] > x[0, -1] for x in xs])
    assert 0.25 < mirrored < 0.75 and xs.min() < 20 and xs.max() > 235 and ys.max() > 180


def test_crops_larger_than_the_photo_are_the_whole_photo():
    ramp = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[:, None, None], 32, 1).repeat(3, 2)
    crops = random_crops(PhotoPool([ramp], side=64, levels=1), 6, 96, rng()) * 255
    inside = crops[..., 2:-2]  # the outermost half source pixel is blended with padding
    assert (inside[:, :, 0] < 8).all() and (inside[:, :, -3] > 243).all()
    assert (inside[:, :, 1:-2] - inside[:, :, :-3] >= -1e-3).all() and np.ptp(inside[:, :, 48].numpy()) < 1e-3


def test_jitter_is_one_affine_map_of_the_colours_of_a_picture():
    images = rand(12, 3, 10, 10).sigmoid() * 0.2 + 0.4  # mid colours: nothing is cut off at 0 or 1
    out = colour_jitter(images, rng(2))
    kept = [n for n in range(12) if 0 < out[n].min() and out[n].max() < 1]
    assert len(kept) >= 8
    for n in kept:
        x = np.concatenate([images[n].reshape(3, -1).numpy(), np.ones((1, 100))])
        y = out[n].reshape(3, -1).numpy()
        fit = y @ np.linalg.pinv(x)
        assert np.abs(fit @ x - y).max() < 1e-4
    assert torch.equal(out, colour_jitter(images, rng(2))) and 0 <= colour_jitter(images * 9 - 4, rng(3)).min()


def test_jitter_turns_one_picture_in_ten_grey():
    images = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1).expand(2000, 3, 2, 2)
    out = colour_jitter(images, rng(4))
    spread = (out.amax(1) / out.amin(1).clamp(min=1e-3))[:, 0, 0]
    assert (spread < 1.2 / 0.8 + 1e-3).float().mean() == pytest.approx(0.1, abs=0.08)


def test_mixing_stays_between_a_picture_and_its_neighbour():
    images = rand(40, 3, 16, 16).sigmoid()
    mixed, other = mix(images, rng(1), share=0.5), images.roll(1, 0)
    assert ((mixed >= torch.minimum(images, other) - 1e-6) & (mixed <= torch.maximum(images, other) + 1e-6)).all()
    untouched = sum(torch.equal(a, b) for a, b in zip(images, mixed)) / 40
    assert untouched == pytest.approx(0.5, abs=0.2)
    assert torch.equal(mix(images, rng(), share=0.0), images)


@quick
@given(st.integers(0, 50), st.integers(0, 10_000))
def test_views_follow_from_seed_and_step_alone(seed, step):
    pool = PhotoPool([np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3)], side=40, levels=1)
    torch.rand(3)  # the global generator moves; the views do not care
    seen, shown = make_views(pool, seed, step, 32, 8)
    again = make_views(pool, seed, step, 32, 8)
    assert torch.equal(seen, again[0]) and torch.equal(shown, again[1])
    assert torch.equal(seen[::2], shown[::2]) and not torch.equal(seen, make_views(pool, seed, step + 1, 32, 8)[0])


def test_views_of_steps_take_the_sizes_by_turns(mini):
    d = mini(sizes=(32, 64, 48), batch=4, seed=5)
    for step, size in enumerate((32, 64, 48, 32)):
        seen, _ = d.views(step)
        assert seen.shape == (batch_at(size, 4), 3, size, size)
        assert torch.equal(seen, make_views(d.pool, d.seed, step, size, len(seen))[0])


@pytest.mark.parametrize('size, batch, wanted', [(160, 32, 32), (112, 32, 64), (224, 32, 16), (224, 4, 8), (32, 1, 24)])
def test_smaller_crops_come_in_larger_batches(size, batch, wanted): assert batch_at(size, batch) == wanted


# teacher and losses of a step

def test_teacher_matches_timms_own_stages(teacher_file):
    teacher = MobileNetTeacher(teacher_file, zooms=(1.0,))
    stages = timm.create_model('mobilenetv2_100', features_only=True, out_indices=(3, 4)).eval()
    stages.load_state_dict(load_file(teacher_file), strict=False)
    images = rand(2, 3, 64, 96).sigmoid()
    maps, descriptor = teacher(images)
    with torch.no_grad():
        fine, coarse = stages(imagenet_normalise(images))
        head = teacher.net(imagenet_normalise(images))
    assert torch.allclose(maps[0], F.normalize(fine, dim=1), atol=1e-5)
    assert torch.allclose(maps[1], F.normalize(F.interpolate(coarse, (4, 6), mode='bilinear'), dim=1), atol=1e-5)
    assert torch.allclose(descriptor, head, atol=1e-5) and (teacher.widths, teacher.global_width) == ((96, 320), 1280)


def test_zooms_are_averaged(teacher):
    images, both = rand(1, 3, 64, 64).sigmoid(), MobileNetTeacher(None, zooms=(1.0, 0.5), arch='mobilenetv2_035')
    both.net.load_state_dict(teacher.net.state_dict())
    single = []
    for zoom in (1.0, 0.5):
        both.zooms = (zoom,)
        single.append(both(images))
    both.zooms = (1.0, 0.5)
    maps, descriptor = both(images)
    for m, a, b in zip(maps, single[0][0], single[1][0]): assert torch.allclose(m, F.normalize(a + b, dim=1), atol=1e-5)
    assert torch.equal(descriptor, single[1][1])


def test_teacher_is_never_trained(teacher):
    assert not teacher.train().net.training and not any(p.requires_grad for p in teacher.parameters())


def test_wrong_teacher_file_is_one_sentence(tmp_path):
    save_file({'a': torch.zeros(2)}, tmp_path / 'other.safetensors')
    (tmp_path / 'cut.safetensors').write_bytes(b'123')
    for name in ('other.safetensors', 'cut.safetensors', 'none.safetensors'):
        with pytest.raises(FSSKitError, match=f'{name}.* cannot be used'): MobileNetTeacher(tmp_path / name)


def test_parts_of_the_loss_add_up(mini):
    d = mini(relation=3.0).eval()
    with torch.no_grad():
        parts = d(1)
        seen, shown = d.views(1)
        own, cls = forward_blocks(d.student, seen, (3, 5))
        (fine, coarse), globe = d.heads(own, cls)
        (t16, t32), target = d.teacher(shown)
    expected = {'cos32': 1 - F.cosine_similarity(fine, t16).mean(),
                'cos112': 1 - F.cosine_similarity(coarse, t32).mean(),
                'cos_global': 1 - F.cosine_similarity(globe, target).mean(),
                'relation': relation_loss(own[0], t16) + relation_loss(own[1], t32)}
    expected['loss'] = expected['cos32'] + expected['cos112'] + expected['cos_global'] + 3 * expected['relation']
    assert parts.keys() == expected.keys()
    for name in parts: assert parts[name].item() == pytest.approx(expected[name].item(), abs=1e-5)


@pytest.mark.parametrize('size', [100, 16])
def test_crops_must_fit_the_grid(mini, size):
    with pytest.raises(FSSKitError, match=f'{size} px'): mini(sizes=(64, size))


# training

def test_learning_rate_warms_up_and_falls_to_zero():
    for step in (0, 50, 99, 500, 999):
        warm = min(1, (step + 1) / 100)
        assert learning_rate(step, 1000, 2e-3) == pytest.approx(1e-3 * warm * (1 + math.cos(math.pi * step / 1000)))
    assert learning_rate(1000, 1000, 1.0) == learning_rate(1200, 1000, 1.0) == 0


def test_one_step_is_adamw_on_a_clipped_gradient(mini):
    d, twin = mini().train(), mini().train()
    opt = torch.optim.AdamW([p for p in d.parameters() if p.requires_grad], lr=1.0, weight_decay=0.05)
    parts = one_step(d, opt, 0, 1e-3)
    loss = twin(0)['loss']
    params = [p for p in twin.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, params, allow_unused=True)
    length = math.sqrt(sum((g.double() ** 2).sum().item() for g in grads if g is not None))
    assert parts['loss'] == pytest.approx(loss.item(), abs=1e-6)
    after = [p for p in d.parameters() if p.requires_grad]
    for old, g, new in zip(params, grads, after):
        if g is None: continue
        g = g * min(1, 1 / (length + 1e-6))
        step = g / (g.abs() + 1e-8)  # first step of Adam: the sign, softened
        sure = g.abs() > 1e-6
        assert torch.allclose(new[sure], (old * (1 - 1e-3 * 0.05) - 1e-3 * step)[sure], atol=1e-5)


def test_six_steps_equal_three_plus_three_bit_for_bit(mini, tmp_path):
    class Stopped(Distiller):
        def forward(self, step):
            if step == 3: raise KeyboardInterrupt
            return super().forward(step)
    distil_encoder(mini(), tmp_path / 'one', steps=6, progress=False)
    stopped = mini()
    stopped.__class__ = Stopped
    with pytest.raises(KeyboardInterrupt): distil_encoder(stopped, tmp_path / 'two', steps=6, progress=False)
    assert read_checkpoint(tmp_path / 'two/checkpoint.pt')['step'] == 3
    fresh = mini(seed=9)  # other weights, the same pictures
    half = tmp_path / 'two/checkpoint.pt'
    done, seconds = distil_encoder(fresh, tmp_path / 'two', steps=6, resume=half, progress=False)
    one, two = (read_checkpoint(tmp_path / name / 'checkpoint.pt') for name in ('one', 'two'))
    assert done == one['step'] == two['step'] == 6 and seconds > 0
    for part in ('student', 'heads'):
        assert one[part].keys() == two[part].keys() and all(torch.equal(one[part][k], two[part][k]) for k in one[part])
    for state in (one, two): assert set(state) == {'student', 'heads', 'optimiser', 'step', 'seconds'}
    for i, slots in one['optimiser']['state'].items():
        assert all(torch.equal(v, two['optimiser']['state'][i][k]) for k, v in slots.items())
    assert not [p for p in (tmp_path / 'two').iterdir() if p.name not in ('checkpoint.pt', 'log.csv')]


def test_training_makes_the_loss_fall_and_logs_it(mini, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, 'LOG_EVERY', 3)
    monkeypatch.setattr(embedded, 'SAVE_EVERY', 6)
    d = mini()
    saved = []
    monkeypatch.setattr(embedded, 'save_checkpoint', lambda path, d, o, clock: saved.append((path.name, clock.step)))
    distil_encoder(d, tmp_path, steps=13, lr=5e-3, progress=False)
    log = np.loadtxt(tmp_path / 'log.csv', delimiter=',')
    assert log[:, 0].tolist() == [3, 6, 9, 12, 13] and saved == [('checkpoint.pt', n) for n in (6, 12, 13)]
    assert log[-2:, 6].mean() < log[0, 6] and np.allclose(log[:, 6], log[:, 2:5].sum(1) + 10 * log[:, 5], atol=1e-3)
    assert final_losses(tmp_path / 'log.csv', 2)['loss'] == pytest.approx(log[-2:, 6].mean())
    assert final_losses(tmp_path / 'none.csv') == {}


def test_time_limit_stops_and_saves(mini, tmp_path):
    assert distil_encoder(mini(), tmp_path, steps=5, minutes=0, progress=False)[0] == 0
    assert read_checkpoint(tmp_path / 'checkpoint.pt')['step'] == 0


def test_interrupted_saving_leaves_the_old_checkpoint(mini, tmp_path, monkeypatch):
    distil_encoder(mini(), tmp_path, steps=1, progress=False)
    before = (tmp_path / 'checkpoint.pt').read_bytes()
    def half(content, file): file.write(b'half'); raise OSError('disk full')
    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(OSError, match='disk full'):
        distil_encoder(mini(), tmp_path, steps=2, resume=tmp_path / 'checkpoint.pt', progress=False)
    assert (tmp_path / 'checkpoint.pt').read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ['checkpoint.pt', 'log.csv']


def test_loss_that_is_not_a_number_changes_nothing(mini, tmp_path):
    distil_encoder(mini(), tmp_path, steps=1, progress=False)
    before, d = (tmp_path / 'checkpoint.pt').read_bytes(), mini()
    d.relation = math.nan
    with pytest.raises(FSSKitError, match='loss of step 1 is not a number'):
        distil_encoder(d, tmp_path, steps=2, resume=tmp_path / 'checkpoint.pt', progress=False)
    assert (tmp_path / 'checkpoint.pt').read_bytes() == before


def test_checkpoints_of_something_else(mini, tmp_path, teacher, pool):
    torch.save({'a': torch.zeros(1)}, tmp_path / 'other.pt')
    torch.save(Distiller, tmp_path / 'code.pt')
    expected = {'other.pt': 'is no checkpoint', 'code.pt': 'cannot be read', 'none.pt': 'FileNotFoundError'}
    for name, message in expected.items():
        with pytest.raises(FSSKitError, match=message): read_checkpoint(tmp_path / name)
    distil_encoder(mini(), tmp_path / 'run', steps=0, progress=False)
    wider = Distiller(EmbeddedViT(48, 6, 2), teacher, pool)
    with pytest.raises(FSSKitError, match='another student or teacher'):
        restore(tmp_path / 'run/checkpoint.pt', wider, torch.optim.AdamW(wider.student.parameters()))
    with pytest.raises(FSSKitError, match='already holds a training'):
        distil_encoder(mini(), tmp_path / 'run', progress=False)
    with pytest.raises(FSSKitError, match='another network than EmbeddedViT'):
        export_encoder(tmp_path / 'run/checkpoint.pt', tmp_path, EncoderRun({}))


# finding photos

def test_photos_are_found_and_masks_are_not(album):
    assert [p.relative_to(album).as_posix() for p in photos_below(album)] == ALBUM
    assert photos_below(album / 'db/cat/00.png') == [album / 'db/cat/00.png']


def test_no_photo_is_an_error(tmp_path):
    (tmp_path / 'x.txt').write_text('')
    with pytest.raises(FSSKitError, match='holds no JPEG or PNG'): photos_below(tmp_path)
    with pytest.raises(FSSKitError, match='does not exist'): photos_below(tmp_path / 'nowhere')


@pytest.mark.parametrize('name, wanted', [
    ('coco_mini/01.jpg', ['coco_mini/images/01.jpg']), ('coco_mini\\02.jpg', ['coco_mini/images/02.jpg']),
    ('db/cat/00.png', ['db/cat/00.png']), ('cat/00', ['db/cat/00.png']), ('00', ['db/cat/00.png', 'db/dog/00.png']),
    ('coco_mini/images/03.jpeg', ['coco_mini/images/03.JPEG']), ('other/01.jpg', []), ('images/coco_mini/01.jpg', []),
    ('1.jpg', []), ('coco_mini', [])])
def test_a_listed_name_leaves_out_the_photos_whose_path_holds_its_parts_in_order(album, name, wanted):
    found = listed_photos(photos_below(album), [name])
    assert sorted(p.relative_to(album).as_posix() for p in found) == wanted


def test_links_do_not_hide_a_listed_photo(album, tmp_path):
    (tmp_path / 'link').symlink_to(album / 'coco_mini/images')
    photos = photos_below(tmp_path / 'link')
    assert {p.name for p in listed_photos(photos, ['coco_mini/01.jpg'])} == {'01.jpg'}


def test_choosing_counts_by_folder_and_leaves_out(album, tmp_path):
    (tmp_path / 'heldout.txt').write_text('# list\ncoco_mini/01.jpg\ndb/dog/00.jpg\nelsewhere/9.jpg\n')
    places = [album / name for name in ('coco_mini', 'db', 'db/cat', 'db/cat/00.png')]  # they overlap
    files, run = choose_photos(places, tmp_path / 'heldout.txt')
    assert [f.relative_to(album).as_posix() for f in files] == ALBUM[1:4]
    assert (run.sources, run.left_out, run.exclude) == ({'coco_mini': 2, 'db': 1}, 2, 'heldout.txt')
    files, run = choose_photos(album / 'db/cat/00.png')
    assert files == {album / 'db/cat/00.png': 'single photos'}
    assert (run.sources, run.left_out, run.exclude) == ({'single photos': 1}, 0, '')


def test_unreadable_photos_are_warned_of_and_listed(album):
    (album / 'db/dog/broken.jpg').write_bytes(b'\xff\xd8 nothing')
    unreadable = []
    with pytest.warns(UserWarning, match='broken.jpg'):
        photos = list(read_photos(photos_below(album / 'db'), unreadable, progress=False))
    assert unreadable == [album / 'db/dog/broken.jpg'] and len(photos) == 2
    assert np.array_equal(photos[0], np.asarray(Image.open(album / 'db/cat/00.png')))


def test_smallworld_gives_pretraining_classes_only(monkeypatch):
    class World:
        class_ids = [7, 8]
        def __init__(self, **options): self.options = options
        def photos(self, class_id): return [f'{class_id}-{n}' for n in range(self.options['photos_per_class'])]
        def image(self, name): return self.options['pool'], self.options['size'], name
    monkeypatch.setattr(embedded, 'SmallWorld', World)
    wanted = [('pretrain', 64, f'{c}-{n}') for c in (7, 8) for n in (0, 1)]
    assert list(smallworld_pictures(2, 64, progress=False)) == wanted
    assert list(smallworld_pictures(0)) == []


def test_gathering_puts_photos_first_and_says_what_was_left_out(album, tmp_path, monkeypatch, capsys):
    picture = np.full((320, 320, 3), 7, np.uint8)
    monkeypatch.setattr(embedded, 'smallworld_pictures', lambda n, progress: [picture] * n)
    (tmp_path / 'list.txt').write_text('db/cat/00.png\n')
    pool, run = gather_pool(album, tmp_path / 'list.txt', smallworld=2, progress=False)
    assert len(pool) == 6 and run.smallworld == 2 and run.sources == {'album': 4}
    assert (pool.levels[0][0][4:, :, :320, :320] == 7).all() and not (pool.levels[0][0][3] == 7).all()
    assert "1 of 5 photos left out by 'list.txt'" in capsys.readouterr().out


# the whole run

@pytest.fixture(scope='module')
def run(tmp_path_factory, teacher_file):
    "A run of one step, its folder, and torch's random state before and after."
    home = tmp_path_factory.mktemp('run')
    (home / 'cats').mkdir()
    for n, pixels in enumerate(np.random.default_rng(5).integers(0, 256, (3, 64, 80, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(home / f'cats/{n}.jpg')
    (home / 'cats/bad.jpg').write_text('no photo')
    (home / 'list.txt').write_text('cats/1.jpg\n')
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        weights = train_encoder(home / 'cats', teacher_file, home / 'out', steps=1, smallworld=0, batch=8, threads=1,
                                seed=3, exclude=home / 'list.txt', data_note='CC0, drawn by us',
                                teacher_note='Apache-2.0', progress=False)
    assert torch.equal(state, torch.get_rng_state()) and threads == torch.get_num_threads()
    return home, weights


def test_weights_are_the_trained_ones_in_half_precision(run):
    home, weights = run
    trained = read_checkpoint(home / 'out/checkpoint.pt')['student']
    shipped = load_file(weights)
    assert shipped.keys() == EmbeddedViT().state_dict().keys() and weights.stat().st_size < 12_000_000
    for name, value in shipped.items():
        if not value.is_floating_point(): assert torch.equal(value, trained[name]); continue
        assert value.dtype == torch.float16
        assert torch.equal(value, torch.from_numpy(trained[name].contiguous().numpy().astype(np.float16)))
    student = EmbeddedViT()
    student.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in shipped.items()})
    exact = EmbeddedViT()
    exact.load_state_dict(trained)
    image = rand(1, 3, 64, 64).sigmoid()
    with torch.no_grad(): a, b = (forward_blocks(s.eval(), image, (5,))[0][0] for s in (student, exact))
    assert F.cosine_similarity(a, b).min() > 0.9999
    with safe_open(weights, 'pt') as file: about = file.metadata()
    assert {k: about[k] for k in ('name', 'seed', 'steps')} == {'name': 'embedded_vit', 'seed': '3', 'steps': '1'}
    assert about['version'] == embedded.__version__


def test_the_run_is_the_documented_recipe(run, teacher_file):
    home, _ = run
    photos = [np.asarray(Image.open(home / f'cats/{n}.jpg')) for n in (0, 2)]
    torch.manual_seed(3)
    d = Distiller(EmbeddedViT(), MobileNetTeacher(teacher_file), PhotoPool(photos), seed=3, batch=8)
    d.student.to(memory_format=torch.channels_last), d.teacher.to(memory_format=torch.channels_last)
    opt = torch.optim.AdamW([p for p in d.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.05)
    d.train()
    one_step(d, opt, 0, 1e-3 / 100)
    saved = read_checkpoint(home / 'out/checkpoint.pt')['student']
    assert all(torch.equal(saved[k], v) for k, v in d.student.state_dict().items())


def test_the_card_tells_what_the_run_did(run, teacher_file):
    home, weights = run
    card = weights.with_suffix('.md').read_text()
    digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
    losses = [float(v) for v in (home / 'out/log.csv').read_text().split()[-1].split(',')[2:]]
    for text in (digest(weights), digest(teacher_file), '3,218,912', f'{weights.stat().st_size:,} bytes',
                 '| cats | 2 |',
                 '1 photos were kept out of the training by the list `list.txt`', 'cats/bad.jpg', 'CC0, drawn by us',
                 'Apache-2.0', 'steps: 1 of 1; seed 3', '8 of 160 px', f'cos96 {losses[0]:.4f}',
                 f'loss {losses[4]:.4f}', 'cpu, CPU threads: 1', '## Intended use and limits',
                 '`teacher.safetensors`', MEASURED):
        assert text in card, text
    assert str(home) not in card and card.index('## Measured quality') < card.index(MEASURED)


def test_card_of_a_run_that_nobody_described(run, tmp_path):
    home, _ = run
    (tmp_path / 'checkpoint.pt').write_bytes((home / 'out/checkpoint.pt').read_bytes())
    weights = export_encoder(tmp_path / 'checkpoint.pt', tmp_path, EncoderRun({'a': 1}, smallworld=96))
    card = weights.with_suffix('.md').read_text()
    for text in ('SmallWorld, pretraining classes (generated) | 96', 'No list of photos to leave out', 'not logged',
                 'Licences and origins: not stated', 'hardware not stated', '1 of 2200'):
        assert text in card, text


def test_values_that_half_precision_cannot_hold_are_refused(run, tmp_path):
    state = read_checkpoint(run[0] / 'out/checkpoint.pt')
    state['student']['norm.weight'][0] = 1e6
    torch.save(state, tmp_path / 'checkpoint.pt')
    with pytest.raises(FSSKitError, match='norm.weight is too large'):
        export_encoder(tmp_path / 'checkpoint.pt', tmp_path, EncoderRun({}))
    assert not (tmp_path / 'embedded_vit.safetensors').exists()


def test_a_run_goes_on_from_its_checkpoint(run, teacher_file, tmp_path):
    home, _ = run
    with pytest.warns(UserWarning, match='bad.jpg'):
        weights = train_encoder([home / 'cats'], teacher_file, tmp_path / 'more', steps=2, smallworld=0, batch=8,
                                seed=3, resume=home / 'out/checkpoint.pt', progress=False)
    assert read_checkpoint(tmp_path / 'more/checkpoint.pt')['step'] == 2
    with safe_open(weights, 'pt') as file: assert file.metadata()['steps'] == '2'


def test_seed_decides_the_first_weights(pool, teacher_file):
    one, two, other = (build_distiller(teacher_file, pool, seed).student.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one['stem.0.0.weight'], other['stem.0.0.weight'])


def test_mistakes_are_found_before_the_photos_are_read(run, teacher_file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    good = {'teacher': teacher_file, 'out': tmp_path, 'resume': None, 'device': 'cpu'}
    ask = lambda **changed: check_start(**{**good, **changed})
    assert ask() == ask(device='auto') == 'cpu'
    for changed, message in (({'teacher': tmp_path / 'no'}, 'does not exist'),
                             ({'out': run[0] / 'out'}, 'already holds'),
                             ({'resume': tmp_path / 'no.pt'}, 'cannot be read'), ({'device': 'tpu'}, "device='tpu'"),
                             ({'device': 'cuda'}, 'sees no CUDA')):
        with pytest.raises(FSSKitError, match=message): ask(**changed)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert ask(device='auto') == ask(device='cuda') == 'cuda' and ask() == 'cpu'
    with pytest.raises(FSSKitError, match="'cpu', 'cuda' or 'auto'"): ask(device='gpu')


def test_threads_come_back_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), limited_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before
    with limited_threads(None): assert torch.get_num_threads() == before


def test_photos_of_the_real_sets_are_left_out_by_the_projects_list(shared):
    heldout = Path(__file__).resolve().parents[1] / 'data/splits/heldout_photos.txt'
    places = [shared / 'data' / name for name in ('coco_mini', 'dreambooth', 'photos/perseg')]
    files, run = choose_photos(places, heldout)
    held = lambda p: int(hashlib.sha256(p.name.encode()).hexdigest(), 16) % 3 == 0
    coco = [p for p in files if 'coco_mini' in p.parts]
    assert coco and not any(map(held, coco)) and run.sources == {'coco_mini': 278, 'dreambooth': 144}
    assert not any(p.parent.name in ('cat', 'colorful_sneaker', 'duck_toy', 'perseg') for p in files)
