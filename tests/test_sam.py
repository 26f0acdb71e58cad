"""fsskit.sam: the official classes in a small size, losses and prompts against loops, loading, a tiny training."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from segment_anything import SamPredictor, sam_model_registry

from fsskit import sam as module
from fsskit.cutouts import close_view, CutoutPool, fit_picture, world_pictures
from fsskit.embedded import EmbeddedViT
from fsskit.fieldguide import generator
from fsskit.photos import FSSKitError, save_mask
from fsskit.sam import (build_sam, build_task, central_point, closer_mask,
                        coarse_mask, corrected, decode, decoder_attention, dice_loss,
                        draw_prompt, embed_image, encode, fitted, focal_loss, hold_out, interior_points, jittered_box,
                        KINDS, load_sam, low_iou, make_prompt, patch_waves, Prompt, rough_logits, sam_losses, sam_masks,
                        SAM_SIZES, SamSize, SamTask, train_sam, validate_sam, warm_start)
from fsskit.training import fit, learned_parameters, one_step, read_checkpoint, save_weights, set_training

MICRO = SamSize(64, 32, 2, 2, (1,), 4)  # grid 4 x 4, masks 16 x 16


def micro(seed=0):
    torch.manual_seed(seed)
    return build_sam(MICRO)


def blob(side, y, x, r):
    rows, columns = np.mgrid[:side, :side]
    return np.hypot(rows - y, columns - x) < r


@pytest.fixture(scope='module')
def pool():
    "Four grey pictures with one bright and one dark disc each."
    pictures = []
    for n in range(4):
        one, two = blob(64, 20 + 3 * n, 20, 11), blob(64, 44, 46 - 2 * n, 9)
        image = np.full((64, 64, 3), 128, np.uint8)
        image[one], image[two] = (230, 200, 90), (20, 40, 120)
        pictures.append(fit_picture(image, [('bright', one), ('dark', two)], 64, source=str(n)))
    return CutoutPool(pictures)


@pytest.fixture(scope='module')
def photo():
    return generator('photo').integers(0, 256, (90, 130, 3)).astype(np.uint8)


# ---------------------------------------------------------------- the network
@pytest.mark.parametrize('name', ['sam_vit_b', 'sam_vit_l', 'sam_vit_h'])
def test_official_layout(name):
    with torch.device('meta'):
        ours, official = build_sam(SAM_SIZES[name]), sam_model_registry[name[4:]]()
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape)
                                                                    for k, v in official.state_dict().items()]
    assert str(ours) == str(official)


def test_tiny_fits_in_its_budget_and_takes_an_official_decoder():
    tiny = load_sam('sam_tiny', None)
    assert 2 * sum(v.numel() for v in tiny.state_dict().values()) < 15e6
    with torch.device('meta'): official = sam_model_registry['vit_h']().mask_decoder.state_dict()
    own = tiny.mask_decoder.state_dict()
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in official.items()}


def test_random_weights_follow_from_the_seed():
    before = torch.random.get_rng_state()
    a, b, c = (load_sam('sam_tiny', None, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    same = lambda m, n: all(torch.equal(x, y) for x, y in zip(m.state_dict().values(), n.state_dict().values()))
    assert same(a, b) and not same(a, c) and not a.training


@pytest.fixture(scope='module')
def official_b(tmp_path_factory):
    "A randomly initialised official ViT-B under its official name, as a .pth file."
    torch.manual_seed(5)
    official, folder = sam_model_registry['vit_b'](), tmp_path_factory.mktemp('weights')
    with torch.no_grad():
        for block in official.image_encoder.blocks: block.attn.rel_pos_h.normal_()  # zeros would hide a mistake
    torch.save(official.state_dict(), folder / 'sam_vit_b_01ec64.pth')
    return official, folder


def test_official_file_is_found_and_gives_equal_outputs(official_b, monkeypatch):
    official, folder = official_b
    monkeypatch.setenv('FSSKIT_WEIGHTS', str(folder))
    monkeypatch.setattr(module, 'download', lambda *a, **k: pytest.fail('nothing is downloaded when the file is here'))
    ours = load_sam('sam_vit_b', 'hub')
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), official.state_dict().values()))
    x, outputs = torch.rand(1, 3, 1024, 1024), []
    for model in (ours, official):
        encoder = model.image_encoder
        kept, encoder.blocks = encoder.blocks, encoder.blocks[:1]
        with torch.no_grad():
            embedding = encoder(x)
            low, scores = decode(model, embedding, Prompt(boxes=torch.tensor([[100., 200., 500., 700.]])))
        encoder.blocks = kept
        outputs.append((embedding, low, scores))
    assert all(torch.equal(a, b) for a, b in zip(*outputs))


def test_file_of_another_sam_is_one_sentence(official_b, tmp_path):
    _, folder = official_b
    with pytest.raises(FSSKitError, match='does not hold the weights of sam_tiny.*choose the name') as error:
        load_sam('sam_tiny', folder / 'sam_vit_b_01ec64.pth')
    assert 'sam_vit_b_01ec64.pth' in str(error.value) and 'sam_vit_h' in str(error.value)


def test_hub_downloads_with_the_pinned_checksum(monkeypatch, tmp_path):
    monkeypatch.setenv('FSSKIT_WEIGHTS', str(tmp_path))
    asked = []
    def no_network(url, path, sha256=None, progress=True):
        asked.append((url, path, sha256))
        raise FSSKitError('no network')
    monkeypatch.setattr(module, 'download', no_network)
    with pytest.raises(FSSKitError, match='no network'): load_sam('sam_vit_b', 'hub', progress=False)
    url, path, sha256 = asked[0]
    assert url == 'https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth' and path.parent == tmp_path
    assert len(sha256) == 64


def test_what_load_sam_refuses(tmp_path, monkeypatch):
    with pytest.raises(FSSKitError, match="no SAM called 'vit_b'"): load_sam('vit_b')
    with pytest.raises(FSSKitError, match="pass weights='hub'"): load_sam('sam_vit_h')
    with pytest.raises(FSSKitError, match='no official file'): load_sam('sam_tiny', 'hub')
    with pytest.raises(FSSKitError, match='no such weight file'): load_sam('sam_tiny', tmp_path / 'nothing.safetensors')
    state = dict(load_sam('sam_tiny', None).state_dict())
    state['image_encoder.pos_embed'] = torch.full_like(state['image_encoder.pos_embed'], math.nan)
    save_file(state, tmp_path / 'nan.safetensors')
    with pytest.raises(FSSKitError, match='NaN'): load_sam('sam_tiny', tmp_path / 'nan.safetensors')


def test_shipped_weights_come_from_the_weights_folder(tmp_path, monkeypatch):
    made = load_sam('sam_tiny', None, seed=3)
    save_file({k: v.half() for k, v in made.state_dict().items()}, tmp_path / 'sam_tiny.safetensors')
    monkeypatch.setenv('FSSKIT_WEIGHTS', str(tmp_path))
    loaded = load_sam()
    assert all(torch.equal(a.half().float(), b) for a, b in zip(made.state_dict().values(),
                                                                loaded.state_dict().values()))


# ---------------------------------------------------------------- asking
@pytest.mark.parametrize('given', [dict(points=[[40, 30]]), dict(points=[[40, 30], [100, 80]], labels=[1, 0]),
                                   dict(box=[10, 20, 100, 70]), dict(points=[[40, 30]], box=[10, 20, 100, 70])])
@pytest.mark.parametrize('multimask', [True, False])
def test_masks_are_those_of_the_official_predictor(photo, given, multimask):
    sam = micro()
    predictor = SamPredictor(sam)
    predictor.set_image(photo)
    points = np.array(given['points']) if 'points' in given else None
    labels = None if points is None else np.array(given.get('labels', [1] * len(points)))
    box = np.array(given['box']) if 'box' in given else None
    masks, scores, low = predictor.predict(points, labels, box, multimask_output=multimask)
    answer, order = sam_masks(sam, photo, **given, multimask=multimask), np.argsort(-scores, kind='stable')
    assert (answer.masks == masks[order]).all() and answer.masks.shape[1:] == photo.shape[:2]
    assert answer.scores == pytest.approx(scores[order], abs=1e-6) and np.allclose(answer.logits, low[order], atol=1e-5)
    further = predictor.predict(points, labels, box, low[:1], multimask_output=multimask)
    again = sam_masks(sam, embed_image(sam, photo), **given, logits=low[0], multimask=multimask)
    assert (again.masks == further[0][np.argsort(-further[1], kind='stable')]).all()


def test_a_rough_mask_lands_where_it_lay(photo):
    sam, mask = micro(), np.zeros((90, 130))
    mask[45:, 65:] = 1
    logits = rough_logits(sam, mask, embed_image(sam, photo))[0, 0]
    h, w = round(44 / 64 * 16), 16
    assert logits.shape == (16, 16) and (logits[h:] == -10).all()
    assert (logits[h // 2 + 1:h, 9:] == 10).all()
    assert (logits[:h // 2, :] == -10).all()
    assert (logits[:h, :7] == -10).all()
    assert sam_masks(sam, photo, mask=mask).masks.shape == (3, 90, 130)


def test_prompts_that_make_no_sense(photo):
    sam = micro()
    with pytest.raises(FSSKitError, match='No prompt'): sam_masks(sam, photo)
    with pytest.raises(FSSKitError, match=r'\(2, 2\)'): sam_masks(sam, photo, points=[[1, 2], [3, 4]], labels=[1])


def test_attention_weights_rebuild_the_decoder(photo):
    "Values weighted with the weights, through the output matrices, give the decoder's own result."
    sam = micro()
    image = embed_image(sam, photo)
    prompt = make_prompt(sam, image, points=[[40, 30], [90, 60]], labels=[1, 0], box=[10, 10, 120, 80])
    seen = decoder_attention(sam, image, prompt)
    assert [tuple(w.shape) for w in seen] == [(1, 8, 5 + 2 + 2, 4, 4)] * 3
    kept, hooks = [], []
    transformer = sam.mask_decoder.transformer
    parts = [layer.cross_attn_token_to_image for layer in transformer.layers] + [transformer.final_attn_token_to_image]
    for part in parts:
        hooks.append(part.register_forward_hook(lambda m, a, k, out: kept.append((k['v'], out)), with_kwargs=True))
    with torch.no_grad(): decode(sam, image.embedding, prompt)
    for hook in hooks: hook.remove()
    for part, weights, (values, out) in zip(parts, seen, kept):
        v = part.v_proj(values).reshape(1, 16, 8, -1).permute(0, 2, 1, 3)
        rebuilt = part.out_proj((weights.flatten(3) @ v).permute(0, 2, 1, 3).flatten(2))
        assert torch.allclose(rebuilt, out, atol=1e-5)


# ---------------------------------------------------------------- prompts to learn from
def test_points_lie_inside_and_deep_ones_deeper():
    mask, rng = blob(80, 40, 40, 25), generator('points')
    depth = lambda points: np.mean([25 - np.hypot(y - 40, x - 40) for x, y in points])
    any_, deep = interior_points(mask, 300, rng, 1), interior_points(mask, 300, rng, 4)
    assert all(mask[int(y), int(x)] for x, y in (*any_, *deep)) and any_.shape == (300, 2)
    assert depth(any_) == pytest.approx(25 / 3, abs=1.) and depth(deep) > depth(any_) + 2


def test_boxes_are_at_most_a_tenth_wrong():
    mask = np.zeros((60, 80), bool)
    mask[10:50, 5:65] = True
    boxes = np.stack([jittered_box(mask, generator('box', n)) for n in range(300)])
    true = np.array([5, 10, 65, 50])
    off = boxes - true
    assert (np.abs(off) <= np.array([6, 4, 6, 4]) + 1e-4).all()
    assert (np.abs(off).max(0) > np.array([4.5, 3.5, 5, 3.5])).all()
    assert boxes.min() >= 0 and (jittered_box(mask, generator('b'), 0.) == true).all()


def test_rough_masks_are_rough():
    mask = F.avg_pool2d(torch.from_numpy(blob(256, 120, 130, 60))[None].float(), 4)[0].numpy()
    ious = []
    for n in range(60):
        rough = coarse_mask(mask, generator('rough', n))
        assert set(np.unique(rough)) <= {0., 1.} and rough.any()
        ious.append(low_iou(torch.from_numpy(2 * rough - 1), torch.from_numpy(mask)).item())
    assert .6 < np.mean(ious) < .97 and np.std(ious) > .01
    assert coarse_mask(np.pad(np.ones((1, 1)), 8), generator('dot')).sum() >= 1


def test_kinds_of_prompts():
    masks = np.stack([blob(64, 20, 20, 9), blob(64, 40, 40, 12)])
    targets = F.avg_pool2d(torch.from_numpy(masks)[None].float(), 4)[0].numpy()
    for kind in set(KINDS):
        prompt = draw_prompt(kind, masks, targets, generator(kind))
        assert (prompt.boxes is not None) == (kind == 'box') and (prompt.logits is not None) == (kind == 'mask')
        if kind in ('point', 'points'): assert prompt.points.shape == (2, 3 if kind == 'points' else 1, 2)
        if kind == 'mask':
            assert prompt.logits.shape == (2, 1, 16, 16) and set(prompt.logits.unique().tolist()) == {-10., 10.}


def test_a_correction_lies_where_it_was_wrong():
    targets = torch.zeros(3, 16, 16)
    targets[:, 4:8, 4:8] = 1
    logits = 2 * targets - 1
    logits[0, 5, 5], logits[1, 12, 3] = -1, 1  # one cell missed, one invented, nothing wrong
    prompt = corrected(Prompt(boxes=torch.ones(3, 4)), logits, targets, generator('fix'))
    assert prompt.points[0, 0].tolist() == [21.5, 21.5] and prompt.labels[0].item() == 1
    assert prompt.points[1, 0].tolist() == [13.5, 49.5] and prompt.labels[1].item() == 0
    x, y = ((prompt.points[2, 0] + .5) / 4 - .5).tolist()
    assert targets[2, int(y), int(x)] == 1 and prompt.labels[2].item() == 1
    more = corrected(Prompt(torch.zeros(3, 1, 2), torch.ones(3, 1)), logits, targets, generator('fix'))
    assert more.points.shape == (3, 2, 2)
    assert more.labels.shape == (3, 2)
    assert torch.equal(more.points[:, 1:], prompt.points)
    empty = corrected(Prompt(), torch.full((1, 4, 4), -1.), torch.zeros(1, 4, 4), generator('fix'))
    assert empty.points[0, 0].tolist() == [1.5, 1.5] and empty.labels.item() == 0


def test_central_points():
    assert np.abs(central_point(blob(50, 20, 30, 12)) - (30, 20)).max() <= 1
    line = np.zeros((20, 30), bool)
    line[7, 4:25] = True
    x, y = central_point(line)
    assert y == 7 and abs(x - 14) <= 1
    full = np.ones((9, 9), bool)
    assert central_point(full).tolist() == [4, 4]


# ---------------------------------------------------------------- losses
def test_losses_against_loops():
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(2, 3, 5)) * 2, rng.random((2, 3, 5))
    for n in range(2):
        focal = overlap = total = 0.
        inside = outside = 0
        for logit, t in zip(logits[n].ravel(), truth[n].ravel()):
            p = 1 / (1 + math.exp(-logit))
            focal -= abs(p - t) ** 2 * (t * math.log(p) + (1 - t) * math.log(1 - p)) / 15
            overlap, total = overlap + p * t, total + p + t
            inside, outside = inside + (logit > 0 and t > .5), outside + (logit > 0 or t > .5)
        a, b = torch.tensor(logits[n]), torch.tensor(truth[n])
        assert focal_loss(a, b).item() == pytest.approx(focal)
        assert low_iou(a, b).item() == pytest.approx(inside / outside)
        assert dice_loss(a, b).item() == pytest.approx(1 - (2 * overlap + 1) / (total + 1))


def test_only_the_best_of_three_learns_much():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 8, 8, requires_grad=True)
    targets = (torch.rand(2, 8, 8) > .5).float()
    parts = sam_losses(logits, torch.zeros(2, 4), targets)
    cost = 20 * focal_loss(logits, targets[:, None].expand(2, 4, 8,
                                                           8)) + dice_loss(logits, targets[:, None].expand(2, 4, 8, 8))
    assert parts['best'].item() == pytest.approx((cost[:, 1:].min(1)[0].mean() + .05 * cost[:, 1:].mean()).item(),
                                                 rel=1e-5)
    assert parts['single'].item() == pytest.approx(cost[:, 0].mean().item(), rel=1e-5)
    assert parts['loss'].item() == pytest.approx(sum(parts[k].item() for k in ('best', 'single', 'iou')), rel=1e-5)
    parts['best'].backward()
    strength = logits.grad.abs().sum((-2, -1))
    for n in range(2):
        best = int(cost[n, 1:].argmin()) + 1
        others = [k for k in (1, 2, 3) if k != best]
        assert strength[n, 0] == 0 and all(0 < strength[n, k] < .2 * strength[n, best] for k in others)
    real = (logits > 0) & (targets[:, None] > .5)
    union = (logits > 0) | (targets[:, None] > .5)
    iou = real.sum((-2, -1)) / union.sum((-2, -1))
    assert parts['iou'].item() == pytest.approx((iou ** 2).mean().item(), rel=1e-5)
    assert parts['reached'].item() == pytest.approx(iou[:, 0].mean().item(), rel=1e-5)


# ---------------------------------------------------------------- warm start and task
def test_patch_waves_are_an_orthogonal_set():
    waves = F.normalize(patch_waves(192).flatten(1), dim=1)
    assert (waves @ waves.T - torch.eye(192)).abs().max() < 1e-4
    flat = patch_waves(1)[0]
    assert flat.std() < 1e-6  # the slowest wave is constant: brightness


def test_warm_start_looks_at_the_prompt():
    cold, warm = micro(1), micro(1)
    warm_start(warm)
    near = []
    for sam in (cold, warm):
        image = module.SamImage(torch.zeros(1, 256, 4, 4), (64, 64), (64, 64))
        weights = decoder_attention(sam, image, make_prompt(sam, image, points=[[40, 24]]))[0][0, :, 5].mean(0)
        near.append(weights[1, 2].item())
    assert near[1] > 2 * near[0]


def test_blocks_are_those_of_the_teacher():
    torch.manual_seed(0)
    teacher, sam = EmbeddedViT(), load_sam('sam_tiny', None)
    warm_start(sam, teacher)
    for own, known in zip(sam.image_encoder.blocks, teacher.blocks):
        x = torch.randn(2, 16, 16, 192)
        assert torch.equal(own.attn.qkv.weight, known.attn.qkv.weight)
        assert torch.equal(own.mlp.lin2.bias, known.mlp[2].bias)
        if own.window_size: continue
        with torch.no_grad():  # rel_pos is zero at the start: the block is the teacher's, but for its position convolution
            tokens = x.reshape(2, 256, 192)
            wanted = tokens + known.attn(known.norm1(tokens))
            wanted = wanted + known.mlp(known.norm2(wanted))
            assert torch.allclose(own(x).reshape(2, 256, 192), wanted, atol=1e-4)


def test_encode_is_the_encoders_forward(pool):
    sam = micro()
    image, masks = fitted(pool.pictures[0], 64)
    assert torch.equal(masks, torch.from_numpy(pool.pictures[0].masks()))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(): features, embedding = encode(sam.image_encoder, x)
    assert features.shape == (2, 32, 4, 4) and torch.equal(embedding, sam.image_encoder(x))


def test_padding_is_what_sam_pads():
    picture = fit_picture(generator('p').integers(0, 256, (40, 64, 3)).astype(np.uint8), (), 64)
    sam = micro()
    image, masks = fitted(picture, 64)
    wanted = sam.preprocess(torch.from_numpy(picture.image.copy()).permute(2, 0, 1).float())
    assert torch.allclose((image - sam.pixel_mean) / sam.pixel_std, wanted, atol=1e-4) and masks.shape == (0, 64, 64)


def micro_task(pool, **options):
    sam = micro()
    warm_start(sam)
    return SamTask(sam, pool, images=2, prompts=2, held_out=pool.pictures,
                   make=lambda pool, index, seed, size: pool.pictures[index % len(pool.pictures)], **options)


def test_a_step_follows_from_seed_and_step(pool):
    task = micro_task(pool)
    a, b, c = task(3), task(3), task(4)
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(a['loss'], c['loss'])
    assert set(a) == {'best', 'single', 'iou', 'loss', 'reached'} and task.learned == ('sam',)


def test_stop_and_resume_is_bit_for_bit(pool, tmp_path):
    options = dict(warmup=2, progress=False, save_every=100)
    whole, parted = micro_task(pool), micro_task(pool)
    fit(whole, tmp_path / 'whole', 4, **options)
    task = micro_task(pool)
    fit(task, tmp_path / 'parted', 4, minutes=0, **options)  # stops at once, with a checkpoint
    fit(parted, tmp_path / 'parted', 4, resume=tmp_path / 'parted' / 'checkpoint.pt', **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parted.state_dict().values()))


def test_a_micro_sam_learns_its_pictures_by_heart(pool):
    task = micro_task(pool)
    before = task.validate()
    set_training(task)
    optimiser = torch.optim.AdamW(learned_parameters(task), lr=1e-3)
    for step in range(36): one_step(task, optimiser, step, 2e-3 * min(1, (step + 1) / 10))
    after = validate_sam(task.sam.eval(), pool.pictures)
    assert after["box"] > before["box"] + .2 and after['score'] == pytest.approx((after['box'] + after['point']) / 2)


def test_hints_fade_out(pool):
    torch.manual_seed(0)
    task = micro_task(pool, teacher=EmbeddedViT().eval(), hint_steps=10)
    assert task.learned == ('sam', 'hint')
    early, late, never = task(0), task(5), task(10)
    assert early['hint'] > 0 and never['hint'] == 0  # a column of the log does not end
    features = torch.randn(2, 32, 4, 4)
    images = torch.rand(2, 3, 64, 64) * 255
    full, half = (module.hint_losses(task, images, features, s)['hint'] for s in (0, 5))
    assert half.item() == pytest.approx(full.item() / 2, rel=1e-5)
    assert early['loss'].item() == pytest.approx(sum(early[k].item() for k in ('best', 'single', 'iou', 'hint')),
                                                 rel=1e-5)


def test_validation_by_hand(pool):
    "A decoder that always answers with the upper left quarter scores what a count of cells says."
    picture = pool.pictures[0]
    sam = micro()
    quarter = torch.full((1, 4, 16, 16), -1.)
    quarter[..., :8, :8] = 1
    truth = F.avg_pool2d(torch.from_numpy(picture.masks())[None].float(), 4)[0] > .5
    wanted = np.mean([((quarter[0, 0] > 0) & t).sum() / ((quarter[0, 0] > 0) | t).sum() for t in truth])
    original = module.decode
    try:
        module.decode = lambda sam, embedding, prompt: (quarter.expand(2, -1, -1, -1), None)
        scores = validate_sam(sam, [picture])
    finally: module.decode = original
    assert scores['box'] == pytest.approx(wanted) and scores['point'] == pytest.approx(wanted)


def test_hold_out_takes_real_photos_only(pool):
    drawn = [p._replace(source=f'smallworld/{n}') for n, p in enumerate(pool.pictures)]
    rest, held = hold_out(CutoutPool(pool.pictures + drawn), every=2, side=64)
    assert [p.source for p in held] == ['1', '3'] and len(rest.pictures) == 6
    assert not {'1', '3'} & {p.source for p in rest.pictures}
    only, some = hold_out(CutoutPool(drawn), every=2, side=64)
    assert len(some) == 2 and len(only.pictures) == 2


def test_training_writes_weights_and_a_card(tmp_path):
    folder = tmp_path / 'set'
    for n in range(4):
        (folder / 'pear').mkdir(parents=True, exist_ok=True)
        mask = blob(96, 40 + 4 * n, 50, 24)
        image = generator('pear', n).integers(0, 90, (96, 96, 3)).astype(np.uint8)
        image[mask] = 220
        Image.fromarray(image).save(folder / 'pear' / f'{n}.jpg')
        save_mask(mask.astype(np.uint8), folder / 'pear' / f'{n}.png')
    (tmp_path / 'out.txt').write_text('pear/3.jpg\n')
    weights = train_sam(f'folder:{folder}', tmp_path / 'run',
                        exclude=tmp_path / 'out.txt', smallworld=0, steps=2, images=2,
                        prompts=1, hints=True, validate_every=1, threads=1, data_note='made for a test', progress=False)
    state = load_file(weights)
    assert weights.name == 'sam_tiny.safetensors' and weights.stat().st_size < 15e6
    assert all(v.dtype == torch.float16 for v in state.values())
    best = read_checkpoint(tmp_path / 'run' / 'best.pt')['learned']['sam']
    assert all(torch.equal(best[k].half(), state[k]) for k in state)
    assert sam_masks(load_sam('sam_tiny', weights), image, box=[20, 20, 80, 80]).masks.shape == (3, 96, 96)
    card = weights.with_suffix('.md').read_text()
    for text in ('pear (3)', '| set | 3 |', '1 photo was kept out', 'out.txt', 'made for a test', 'seed 0',
                 'embedded encoder'):
        assert text in card, text
    with pytest.raises(FSSKitError, match='already holds a training'):
        train_sam(f'folder:{folder}', tmp_path / 'run', smallworld=0, steps=2, progress=False)
    more = train_sam(f'folder:{folder}', tmp_path / 'more', smallworld=0, steps=1, images=2, prompts=1, init=weights,
                     close=.4, lr=1e-9, validate_every=None, threads=1, progress=False)
    assert max((v.float() - state[k].float()).abs().max()
               for k, v in load_file(more).items()) < 1e-3  # it began with them
    told = more.with_suffix('.md').read_text()
    assert '- start: the weights sha256:' in told
    assert '); 40% of the pictures come close' in told
    assert '(start: waves' in told


def test_build_task_without_hints(pool):
    task = build_task(CutoutPool(pool.pictures * 3), images=1, prompts=1, hints=False, validation=6)
    assert task.teacher is None and task.learned == ('sam',) and len(task.held_out) == 2


def test_a_training_goes_on_from_weights_and_comes_close(pool, tmp_path):
    before = load_sam('sam_tiny', None, 3).state_dict()
    save_weights(before, tmp_path / 'first.safetensors')
    task = build_task(CutoutPool(pool.pictures * 3), images=1, prompts=1, validation=6,
                      init=tmp_path / 'first.safetensors', close=.5)
    assert task.teacher is None
    assert all(torch.equal(v, before[k].half().float()) for k, v in task.sam.state_dict().items())
    assert len(task.held_out) == 2 + 60 and all(p.things for p in task.held_out)
    from_near = [task.make(task.pool, n, 0, 64) for n in range(20)]
    assert 3 < sum((a.image.shape, a.image.sum()) == (b.image.shape, b.image.sum())
                   for n, a in enumerate(from_near) for b in [close_view(task.pool, n, 0, 64)]) < 17


def test_windows_around_a_box_agree_on_the_photo(monkeypatch):
    "A decoder that always marks the middle quarter of its box: from every window it must be the same place of the photo."
    sam, photo = load_sam('sam_tiny', None), np.zeros((150, 240, 3), np.uint8)

    def middle(sam, embedding, prompt):
        (left, top, right, bottom), cells = prompt.boxes[0].tolist(), torch.arange(64) * 4 + 1.5
        across = ((cells - (left + right) / 2).abs() < (right - left) / 4).float()
        down = ((cells - (top + bottom) / 2).abs() < (bottom - top) / 4).float()
        return (20 * down[:, None] * across - 10).expand(1, 4, 64, 64), torch.zeros(1, 4)

    monkeypatch.setattr(module, 'decode', middle)
    for box in ((80, 50, 160, 100), (0, 0, 60, 60), (200, 90, 240, 150)):
        truth = np.zeros((150, 240), bool)
        quarter = (box[2] - box[0]) // 4, (box[3] - box[1]) // 4
        truth[box[1] + quarter[1]:box[3] - quarter[1], box[0] + quarter[0]:box[2] - quarter[0]] = True
        for zooms in ([1.3], [2.], [1.3, 1.6, 2., 2.6]):
            found = closer_mask(sam, photo, box, zooms)
            assert (found & truth).sum() / (found | truth).sum() > .85, (box, zooms)
    monkeypatch.setattr(module, 'decode', lambda *_: (torch.full((1, 4, 64, 64), 9.), torch.zeros(1, 4)))
    everywhere = closer_mask(sam, photo, (80, 50, 160, 100))
    assert everywhere.sum() == 80 * 50 and everywhere[50:100, 80:160].all()
    monkeypatch.setattr(module, 'decode', lambda *_: (torch.full((1, 4, 64, 64), -.5), torch.zeros(1, 4)))  # 0.378
    assert not closer_mask(sam, photo, (80, 50, 160, 100), prior=0).any()
    assert closer_mask(sam, photo, (80, 50, 160, 100), prior=0, share=.37).sum() == 80 * 50
    assert closer_mask(sam, photo, (80, 50, 160, 100), share=0).sum() == 80 * 50
    assert not closer_mask(sam, photo, (80, 50, 160, 100), share=1).any()
    y, x = (np.arange(50) + .5) / 25 - 1, (np.arange(80)
                                           + .5) / 40 - 1  # the shape of the box decides: -0.5 + 0.5 (1.4 - r^2) > 0
    found = closer_mask(sam, photo, (80, 50, 160, 100))
    assert np.array_equal(found[50:100, 80:160], y[:, None] ** 2 + x ** 2 < .4)
    assert found.sum() == found[50:100, 80:160].sum()


def test_every_second_window_is_mirrored(monkeypatch):
    "A decoder that always marks the left half of its box: the mirrored window says right, so each half gets one half."
    sam, photo, box = load_sam('sam_tiny', None), np.zeros((150, 240, 3), np.uint8), (80, 50, 160, 100)

    def left_half(sam, embedding, prompt):
        left, top, right, bottom = prompt.boxes[0].tolist()
        return (20. * (torch.arange(64) * 4 + 1.5 < (left + right) / 2) - 10).expand(1, 4, 64, 64), torch.zeros(1, 4)

    monkeypatch.setattr(module, 'decode', left_half)
    once = closer_mask(sam, photo, box, [2.], prior=0)
    assert once[50:100, 80:116].all() and not once[50:100, 124:160].any()
    both = [closer_mask(sam, photo, box, [2., 2.], prior=0, share=share) for share in (.4, .6)]
    assert both[0].sum() > .9 * 80 * 50 and not both[1][:, 80:112].any() and not both[1][:, 128:160].any()


@pytest.mark.parametrize('box', [(10, 10, 10, 40), (10, 10, 300, 40), (-5, 10, 30, 40), (30, 40, 10, 20)])
def test_a_box_must_be_in_the_photo(box):
    with pytest.raises(FSSKitError, match='is empty or leaves the photo of 240 x 150 px'):
        closer_mask(load_sam('sam_tiny', None), np.zeros((150, 240, 3), np.uint8), box)
