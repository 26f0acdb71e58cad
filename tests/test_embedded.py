"Tests of fsskit.embedded: values against independent computations, photos left out, the whole run, the model card."
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
from fsskit.embedded import (INTENDED_USE, LOSS_WEIGHTS, Attention, Block, DistilHeads, Distiller, EmbeddedViT,
                             EncoderRun, MobileNetTeacher, PhotoPool, attention_weights, batch_at, block_attention,
                             build_distiller, check_start, choose_photos, colour_jitter, cosine_loss, distil_losses,
                             export_encoder, forward_blocks, gather_pool, imagenet_normalise, make_views, mix,
                             neighbour_loss, photos_below, place_cosines, random_crops, read_encoder, read_photos,
                             relation_loss, run_blocks, smallworld_pictures, train_encoder)
from fsskit.photos import FSSKitError
from fsskit.training import fit, learned_parameters, limited_threads, one_step, read_checkpoint, read_log, set_training

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
def test_place_cosines_are_all_pairs_of_every_second_place(pictures):
    maps = rand(pictures, 3, 3, 4)
    tables = place_cosines(maps, group=2)
    assert tables.shape == (2, 8, 8)
    for table, group in zip(tables, ((0, 1), (2, 3))):
        vectors = [maps[b, :, y, x].numpy() for b in group for y in (0, 2) for x in (0, 2)]
        assert np.allclose(table, [[cosine(u, v) for v in vectors] for u in vectors], atol=1e-6)


def test_relation_loss_is_the_mean_squared_difference():
    s, t = place_cosines(rand(8, 3, 4, 4)), place_cosines(rand(8, 6, 4, 4, seed=1))
    assert relation_loss(s, t).item() == pytest.approx(np.mean((s.numpy() - t.numpy()) ** 2), abs=1e-6)
    assert relation_loss(s, s) == 0


@quick
@given(st.integers(0, 10_000), st.floats(0.05, 1))
def test_neighbour_loss_is_the_divergence_of_softmaxes_without_the_place_itself(seed, tau):
    s, t = place_cosines(rand(4, 3, 4, 4, seed=seed), 2), place_cosines(rand(4, 5, 4, 4, seed=seed + 1), 2)
    total = []
    for own, wanted in zip(s.double().numpy(), t.double().numpy()):
        for i in range(8):
            q, p = (np.exp(np.delete(row[i], i) / tau) for row in (own, wanted))
            q, p = q / q.sum(), p / p.sum()
            total.append((p * np.log(p / q)).sum())
    assert neighbour_loss(s, t, tau).item() == pytest.approx(np.mean(total), rel=1e-4, abs=1e-5)
    assert neighbour_loss(s, s, tau).item() == pytest.approx(0, abs=1e-5)


def test_neighbour_loss_does_not_see_a_constant_but_the_relation_loss_does():
    t = place_cosines(rand(8, 3, 4, 4))
    assert neighbour_loss(t - 0.3, t).item() == pytest.approx(0, abs=1e-5)
    assert relation_loss(t - 0.3, t).item() == pytest.approx(0.09)


def test_tables_do_not_see_a_rotation_but_cosine_loss_does():
    t = rand(8, 6, 4, 4)
    turned = torch.einsum('ij,bjhw->bihw', torch.linalg.qr(rand(6, 6, seed=3)).Q, t)
    assert relation_loss(place_cosines(turned), place_cosines(t)) < 1e-10 and cosine_loss(turned, t) > 0.2


def test_losses_pass_gradients_that_finite_differences_confirm():
    t = rand(8, 2, 4, 4, seed=1)
    table = lambda loss: lambda a, b: loss(place_cosines(a), place_cosines(b))
    for loss in (cosine_loss, table(relation_loss), table(neighbour_loss)):
        s = rand(8, 2, 4, 4).requires_grad_()
        slope = torch.autograd.grad(loss(s, t), s)[0][0, 1, 0, 0].item()
        bump = torch.zeros_like(s)
        bump[0, 1, 0, 0] = 1e-2
        with torch.no_grad(): finite = (loss(s + bump, t) - loss(s - bump, t)).item() / 2e-2
        assert slope == pytest.approx(finite, abs=1e-3)


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
    heads = {f'{name}.{kind}' for name in ('maps.0', 'maps.1', 'maps.2', 'globe') for kind in ('weight', 'bias')}
    assert set(DistilHeads().state_dict()) == heads
    shapes = [tuple(layer.weight.shape) for layer in (*DistilHeads().maps, DistilHeads().globe)]
    assert shapes == [(32, 128, 1, 1), (96, 192, 1, 1), (320, 192, 1, 1), (1280, 192)]


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


def test_early_then_tokens_then_blocks_is_the_forward_pass():
    torch.manual_seed(0)
    student = EmbeddedViT(24, 3, 2).eval()
    images = rand(2, 3, 32, 64).sigmoid()
    with torch.no_grad():
        early = student.early(images)
        by_hand = student.stem[3](student.stem[2](student.stem[1](student.stem[0](imagenet_normalise(images)))))
        tokens, grid = student.tokens(early)
        patches = student.stem[5](student.stem[4](by_hand))
        maps, cls = run_blocks(student, tokens, grid, (1, 2))
        whole, whole_cls = forward_blocks(student, images, (1, 2))
    assert early.shape == (2, 128, 4, 8) and torch.equal(early, by_hand) and grid == (2, 4)
    for y in range(2):
        for x in range(4): assert torch.equal(tokens[:, 1 + 4 * y + x], patches[:, :, y, x])
    assert torch.equal(tokens, student.embed(images)[0])
    assert torch.equal(tokens[:, 0], student.cls_token[:, 0].expand(2, -1))
    assert all(torch.equal(a, b) for a, b in zip(maps, whole)) and torch.equal(cls, whole_cls)


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
    views = make_views(pool, seed, step, 32, 8)
    assert views.shape == (8, 3, 32, 32) and torch.equal(views, make_views(pool, seed, step, 32, 8))
    assert not torch.equal(views, make_views(pool, seed, step + 1, 32, 8))
    gen = rng(seed * 1_000_003 + step)  # the order of the draws is part of a resumed training
    assert torch.equal(views, colour_jitter(mix(random_crops(pool, 8, 32, gen), gen), gen))


def test_views_of_steps_take_the_sizes_by_turns(mini):
    d = mini(sizes=(32, 64, 48), batch=4, seed=5)
    for step, size in enumerate((32, 64, 48, 32)):
        views = d.views(step)
        assert views.shape == (batch_at(size, 4), 3, size, size)
        assert torch.equal(views, make_views(d.pool, d.seed, step, size, len(views)))


@pytest.mark.parametrize('size, batch, wanted', [(160, 32, 32), (112, 32, 64), (224, 32, 16), (224, 4, 8), (32, 1, 24)])
def test_smaller_crops_come_in_larger_batches(size, batch, wanted): assert batch_at(size, batch) == wanted


# teacher and losses of a step

def test_teacher_matches_timms_own_stages(teacher_file):
    teacher = MobileNetTeacher(teacher_file)
    stages = timm.create_model('mobilenetv2_100', features_only=True, out_indices=(2, 3, 4)).eval()
    stages.load_state_dict(load_file(teacher_file), strict=False)
    images = rand(2, 3, 64, 96).sigmoid()
    maps, descriptor = teacher(images)
    with torch.no_grad():
        features = stages(imagenet_normalise(images))
        head = teacher.net(imagenet_normalise(images))
    for own, theirs, grid in zip(maps, features, ((8, 12), (4, 6), (4, 6))):
        assert torch.allclose(own, F.normalize(F.interpolate(theirs, grid, mode='bilinear'), dim=1), atol=1e-5)
    assert torch.allclose(maps[1], F.normalize(features[1], dim=1), atol=1e-5)  # not resized at stride 16
    assert torch.allclose(descriptor, head, atol=1e-5)
    assert (teacher.widths, teacher.global_width) == ((32, 96, 320), 1280)


def test_teacher_is_never_trained(teacher):
    assert not teacher.train().net.training and not any(p.requires_grad for p in teacher.parameters())


def test_wrong_teacher_file_is_one_sentence(tmp_path):
    save_file({'a': torch.zeros(2)}, tmp_path / 'other.safetensors')
    (tmp_path / 'cut.safetensors').write_bytes(b'123')
    for name in ('other.safetensors', 'cut.safetensors', 'none.safetensors'):
        with pytest.raises(FSSKitError, match=f'{name}.* cannot be used'): MobileNetTeacher(tmp_path / name)


def test_parts_of_the_loss_add_up(mini):
    d = mini(weights=LOSS_WEIGHTS | {'relation': 3.0}).eval()
    with torch.no_grad():
        parts, views = d(1), d.views(1)
        own, cls = forward_blocks(d.student, views, (3, 5))
        (hint, fine, coarse), globe = d.heads([d.student.early(views), *own], cls)
        (t8, t16, t32), target = d.teacher(views)
    tables = [(place_cosines(a), place_cosines(b)) for a, b in ((own[0], t16), (own[1], t32))]
    unlike = lambda a, b: 1 - F.cosine_similarity(a, b).mean()
    expected = {'hint': unlike(hint, t8), 'cos16': unlike(fine, t16),
                'cos32': unlike(coarse, t32), 'cos_global': unlike(globe, target),
                'relation': sum(relation_loss(*t) for t in tables),
                'neighbours': sum(neighbour_loss(*t) for t in tables)}
    weights = {'hint': 0.5, 'cos16': 1, 'cos32': 1, 'cos_global': 0.3, 'relation': 3, 'neighbours': 0.5}
    expected['loss'] = sum(weights[k] * v for k, v in expected.items())
    assert parts.keys() == expected.keys()
    for name in parts: assert parts[name].item() == pytest.approx(expected[name].item(), abs=1e-5)


def test_a_student_that_says_what_the_teacher_says_has_no_loss(teacher):
    maps, globe = teacher(rand(8, 3, 64, 64).sigmoid())
    parts = distil_losses((maps, globe), (maps, globe), maps[1:])
    assert all(value.item() == pytest.approx(0, abs=1e-4) for value in parts.values())


@pytest.mark.parametrize('size', [100, 16])
def test_crops_must_fit_the_grid(mini, size):
    with pytest.raises(FSSKitError, match=f'{size} px'): mini(sizes=(64, size))


# training

def test_the_distiller_is_a_task_whose_teacher_stays(mini, tmp_path):
    d = mini()
    teacher = {k: v.clone() for k, v in d.teacher.state_dict().items()}
    fit(d, tmp_path, 2, log_every=1, progress=False)
    assert all(torch.equal(v, teacher[k]) for k, v in d.teacher.state_dict().items())
    state = read_checkpoint(tmp_path / 'checkpoint.pt')
    assert set(state['learned']) == {'student', 'heads'} and state['extra']['seed'] == 0
    assert len(state['optimiser']['state']) == len(learned_parameters(d))
    assert list(read_log(tmp_path / 'log.csv')) == ['step', 'seconds', *LOSS_WEIGHTS, 'loss']


def test_distillation_goes_on_bit_for_bit_and_the_loss_falls(mini, tmp_path):
    class Stopped(Distiller):
        def forward(self, step):
            if step == 5: raise KeyboardInterrupt
            return super().forward(step)
    fit(mini(), tmp_path / 'one', 12, lr=5e-3, warmup=1, log_every=1, progress=False)
    stopped = mini()
    stopped.__class__ = Stopped
    with pytest.raises(KeyboardInterrupt): fit(stopped, tmp_path / 'two', 12, lr=5e-3, warmup=1, progress=False)
    fresh = mini(seed=9)  # other weights ...
    fresh.seed = 0  # ... and the same pictures
    fit(fresh, tmp_path / 'two', 12, lr=5e-3, warmup=1, resume=tmp_path / 'two/checkpoint.pt', progress=False)
    one, two = (read_checkpoint(tmp_path / name / 'checkpoint.pt') for name in ('one', 'two'))
    for part in ('student', 'heads'):
        assert all(torch.equal(v, two['learned'][part][k]) for k, v in one['learned'][part].items())
    loss = read_log(tmp_path / 'one/log.csv')['loss']
    assert loss[-4:].mean() < loss[:4].mean()


def test_a_checkpoint_of_another_student_is_not_exported(mini, tmp_path):
    fit(mini(), tmp_path, 0, progress=False)
    with pytest.raises(FSSKitError, match='checkpoint.pt. holds the weights of another network'):
        export_encoder(tmp_path / 'checkpoint.pt', tmp_path, EncoderRun({}))


# finding photos

def test_photos_are_found_and_masks_are_not(album):
    assert [p.relative_to(album).as_posix() for p in photos_below(album)] == ALBUM
    assert photos_below(album / 'db/cat/00.png') == [album / 'db/cat/00.png']


def test_no_photo_is_an_error(tmp_path):
    (tmp_path / 'x.txt').write_text('')
    with pytest.raises(FSSKitError, match='holds no JPEG or PNG'): photos_below(tmp_path)
    with pytest.raises(FSSKitError, match='does not exist'): photos_below(tmp_path / 'nowhere')


@pytest.mark.parametrize('name, left', [
    ('coco_mini/01.jpg', [1, 2, 3, 4]), ('coco_mini\\02.jpg', [0, 2, 3, 4]), ('db/cat/00.png', [0, 1, 2, 4]),
    ('cat/00', [0, 1, 2, 4]), ('00', [0, 1, 2]), ('coco_mini/images/03.jpeg',
                                                  [0, 1, 3, 4]), ('other/01.jpg', [0, 1, 2, 3, 4]),
    ('images/coco_mini/01.jpg', [0, 1, 2, 3, 4]), ('1.jpg', [0, 1, 2, 3, 4]), ('coco_mini', [0, 1, 2, 3, 4])])
def test_listed_photos_are_left_out_wherever_they_lie(album, tmp_path, name, left):
    (tmp_path / 'list.txt').write_text(name + '\n')
    files, run = choose_photos(album, tmp_path / 'list.txt')
    assert [p.relative_to(album).as_posix() for p in files] == [ALBUM[n] for n in left]
    assert run.left_out == 5 - len(left)


def test_links_do_not_hide_a_listed_photo(album, tmp_path):
    (tmp_path / 'link').symlink_to(album / 'coco_mini/images')
    (tmp_path / 'list.txt').write_text('coco_mini/01.jpg\n')
    files, _ = choose_photos(tmp_path / 'link', tmp_path / 'list.txt')
    assert sorted(p.name for p in files) == ['02.jpg', '03.JPEG']


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
    trained = read_checkpoint(home / 'out/checkpoint.pt')['learned']['student']
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
    opt = torch.optim.AdamW(learned_parameters(d), lr=1e-3, weight_decay=0.05)
    set_training(d)
    one_step(d, opt, 0, 1e-3 / 100)
    saved = read_checkpoint(home / 'out/checkpoint.pt')['learned']['student']
    assert all(torch.equal(saved[k], v) for k, v in d.student.state_dict().items())


def test_the_card_tells_what_the_run_did(run, teacher_file):
    home, weights = run
    card = weights.with_suffix('.md').read_text()
    digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
    losses = read_log(home / 'out/log.csv')
    for text in (digest(weights), digest(teacher_file), f'{sum(p.numel() for p in EmbeddedViT().parameters()):,}',
                 f'{weights.stat().st_size:,} bytes', '| cats | 2 |',
                 '1 photo was kept out of the training by the list `list.txt`', 'cats/bad.jpg', 'CC0, drawn by us',
                 'Apache-2.0', 'steps: 1 of 1; seed 3', '8 of 160 px', f"cos16 {losses['cos16'][0]:.4f}",
                 f"loss {losses['loss'][0]:.4f}", 'cpu, CPU threads: 1',
                 f'## Intended use and limits\n\n{INTENDED_USE}', 'start: random weights',
                 '6 transformer blocks of width 192', 'neighbours 0.5',
                 '`teacher.safetensors`'):
        assert text in card, text
    assert str(home) not in card
    assert card.endswith('## Measured quality\n\nNot measured yet: `python benchmarks/encoder.py` fills this in.\n')


def test_card_of_a_run_that_nobody_described(run, tmp_path):
    home, _ = run
    (tmp_path / 'checkpoint.pt').write_bytes((home / 'out/checkpoint.pt').read_bytes())
    weights = export_encoder(tmp_path / 'checkpoint.pt', tmp_path, EncoderRun({'a': 1}, smallworld=96))
    card = weights.with_suffix('.md').read_text()
    for text in ('SmallWorld, pretraining classes (generated) | 96', 'No list of photos to leave out', 'not logged',
                 'Licences and origins: not stated', 'file: `not stated`', 'licence and origin: not stated'):
        assert text in card, text


def test_values_that_half_precision_cannot_hold_are_refused(run, tmp_path):
    state = read_checkpoint(run[0] / 'out/checkpoint.pt')
    state['learned']['student']['norm.weight'][0] = 1e6
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
    good = {'teacher': teacher_file, 'out': tmp_path, 'resume': None, 'init': None, 'device': 'cpu'}
    ask = lambda **changed: check_start(**{**good, **changed})
    assert ask() == ask(device='auto') == ask(init=run[1]) == ask(resume=run[0] / 'out/checkpoint.pt') == 'cpu'
    for changed, message in (({'teacher': tmp_path / 'no'}, 'does not exist'),
                             ({'out': run[0] / 'out'}, 'already holds'),
                             ({'resume': tmp_path / 'no.pt'}, 'cannot be read'), ({'device': 'cuda'}, "device='cuda'"),
                             ({'init': tmp_path / 'no.safetensors'}, 'cannot be read'),
                             ({'init': teacher_file}, 'another network')):
        with pytest.raises(FSSKitError, match=message): ask(**changed)


def test_a_training_may_start_from_earlier_weights(run, teacher_file, pool, tmp_path):
    home, weights = run
    start = read_encoder(weights)
    assert all(torch.equal(v, load_file(weights)[k].to(v.dtype)) for k, v in start.items())
    assert {v.dtype for v in start.values()} == {torch.float32, torch.int64}
    fresh, later = build_distiller(teacher_file, pool, 1), build_distiller(teacher_file, pool, 1, init=weights)
    assert all(torch.equal(v, start[k]) for k, v in later.student.state_dict().items())
    assert all(torch.equal(v, fresh.heads.state_dict()[k]) for k, v in later.heads.state_dict().items())
    out = train_encoder(home / 'cats/0.jpg', teacher_file, tmp_path, steps=0, smallworld=0, batch=8, init=weights,
                        progress=False)
    assert all(torch.equal(v, load_file(weights)[k]) for k, v in load_file(out).items())
    assert f'start: the weights with sha256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}`' in out.with_suffix('.md').read_text()


def test_photos_of_the_real_sets_are_left_out_by_the_projects_list(shared):
    heldout = Path(__file__).resolve().parents[1] / 'data/splits/heldout_photos.txt'
    places = [shared / 'data' / name for name in ('coco_mini', 'dreambooth', 'photos/perseg')]
    files, run = choose_photos(places, heldout)
    held = lambda p: int(hashlib.sha256(p.name.encode()).hexdigest(), 16) % 3 == 0
    coco = [p for p in files if 'coco_mini' in p.parts]
    assert coco and not any(map(held, coco)) and run.sources == {'coco_mini': 278, 'dreambooth': 144}
    assert not any(p.parent.name in ('cat', 'colorful_sneaker', 'duck_toy', 'perseg') for p in files)
