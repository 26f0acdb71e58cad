"""FSSAM as a whole: the forward pass written once more from the formulas, and the promises about shots, files and sizes."""
import json
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsskit.backbones import create_backbone, FeatureCache, precision
from fsskit.episodic import (DatasetSource, episode_losses, EpisodeBatch, EpisodicTask, fixed_episodes, head_facts,
                             head_state, HeadRecord, load_head, Losses, save_head)
from fsskit.evaluation import evaluate, remembering
from fsskit.fssam import (as_features, choose_settings, DICE, find_sam2, FSSAM, LEARNED, PAPER_ITERATIONS, PAPER_MIOU,
                          PAPER_UNTRAINED, place_memory, plain_attention, read_queries, remember, sam2_levels,
                          SAM2_LEVELS, sam2_name, Settings, variant_of, VARIANTS)
from fsskit.memory import decode, Decoded, encode_memory, image_features, recall, segment_with
from fsskit.photos import FSSKitError
from fsskit.predictor import create_model, FewShotPredictor, list_models, resize_scores
from fsskit.pseudo_prompts import PseudoPrompts, resize
from fsskit.sam2 import load_sam2, SAM2_MODELS
from fsskit.similarity import ColourBackbone, dense_match
from fsskit.smallworld import SmallWorld
from fsskit.training import fit, load_weights, set_training
from sam2.modeling.position_encoding import apply_rotary_enc


def rand(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Tiny(nn.Module):
    "An encoder of two layers with 8 channels, 16 px a cell; its name and weights are as a real one's."
    name, weights_id, layers, default_layers, dims, stride = 'tiny', 'random-7', [0, 1], (0, 1), [8, 8], 16
    def __init__(self):
        super().__init__()
        self.first, self.later, self.seen = rand(8, 3, 16, 16, seed=1) / 8, rand(8, 8, 1, 1, seed=2), []
    def forward(self, images, layers=None):
        self.seen.append(tuple(images.shape))
        maps = [F.conv2d(images - .5, self.first, stride=16)]
        maps.append(F.conv2d(maps[0].tanh(), self.later))
        return [maps[n] for n in (self.default_layers if layers is None else layers)]


def opened(name='sam2_tiny', size=64):
    "A SAM 2 that believes that objects are there: else all pointers would be the word for nothing."
    model = load_sam2(name, None, seed=1, image_size=size)
    with torch.no_grad(): model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.)
    return model


@pytest.fixture(scope='module')
def sam2(): return opened()


@pytest.fixture(scope='module')
def newer(): return opened('sam2.1_hiera_t')


def build(sam2, **options): return FSSAM(Tiny(), sam2, head=None, **options).eval()


def photos(count, size=64, seed=0):
    "Smooth noise, so that neighbours are alike."
    return F.interpolate(torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed)), (size, size),
                         mode='bicubic').clamp(0, 1)


def boxes(count, size=64, seed=0):
    "Boxes that differ, with a few ignored pixels; uint8 (count, size, size)."
    rng, result = np.random.default_rng(seed), torch.zeros(count, size, size, dtype=torch.uint8)
    for mask in result:
        y, x = rng.integers(2, size // 2, 2)
        mask[y:y + size // 3, x:x + size // 2] = 1
        mask[:3] = 255
    return result


def episodes(model, b=2, k=1, seed=0):
    "A batch of random episodes."
    size = model.input_size
    levels = model.frozen_features(photos(b * (k + 1), size, seed))
    support = [level[b:].unflatten(0, (b, k)) for level in levels]
    return EpisodeBatch([level[:b] for level in levels], support, boxes(b * k, size, seed).unflatten(0, (b, k)),
                        boxes(b, size, seed + 9))


def answer(model, batch):
    with torch.no_grad(): return model.episode_logits(batch)


def pick(batch, chosen):
    return EpisodeBatch([t[chosen] for t in batch.query], [t[chosen] for t in batch.support],
                        batch.support_masks[chosen], batch.target[chosen])


# ---- the forward pass once more, from the formulas, for one episode of K shots

def minmax(x): return (x - x.min()) / (x.max() - x.min() + 1e-7)
def prototype(f, m): return (f * m).flatten(1).sum(1) / (m.sum() + 5e-4)
def cosine(p, f): return torch.einsum('c,c...->...', p, f) / (p.norm() * f.norm(dim=0) + 1e-7)
def corners(x, size): return F.interpolate(x[None, None], size, mode='bilinear', align_corners=True)[0, 0]


def priors_by_hand(query, supports, masks, size):
    found = []
    for f, mask in zip(supports, masks):
        m = corners(mask, f.shape[-2:])
        fg, bg = (corners(minmax(cosine(prototype(f, part), query)), (size, size)) for part in (m, 1 - m))
        found.append((fg, minmax((fg - bg).relu())))
    return [torch.stack(part).mean(0) for part in zip(*found)]


def memory_by_hand(sam2, features, mask):
    m = mask[None, None]
    _, _, _, _, logits, pointer, score = sam2._use_mask_as_output(features.grid(), features.fine, m)
    assert torch.equal(logits, 20 * m - 10)
    found, (places,) = sam2._encode_new_memory(features.maps, features.sizes, logits, score, False)
    return found[0], places[0], pointer[0]


def refine_by_hand(supports, masks, fg, disc, p_fg, p_disc, n):
    grid = fg.shape[-2:]
    p_fg, p_disc, masks = corners(p_fg, grid), corners(p_disc, grid), [corners(m, grid) for m in masks]
    with_support = torch.stack([minmax(cosine(prototype(s, m), fg)) for s, m in zip(supports, masks)]).mean(0)
    for _ in range(n):
        share = (minmax(cosine(prototype(disc, p_disc), fg)) + with_support - 1).relu()
        disc, p_disc = share * fg + (1 - share) * disc, minmax(share * p_fg + (1 - share) * p_disc)
    return disc


def attention_by_hand(sam2, features, tokens, places, pointers, masks, alpha, keep=True):
    (h, w), n, shots = features.sizes[-1], features.maps[-1].shape[0], len(masks)
    x = features.maps[-1][:, 0] + .1 * features.positions[-1][:, 0]
    for layer in sam2.memory_attention.layers:
        x = layer._forward_sa(x[None], None)[0]
        attn = layer.cross_attn_image
        q, k, v = attn.q_proj(layer.norm2(x)), attn.k_proj(tokens + places), attn.v_proj(tokens)
        q, turned = apply_rotary_enc(q[None, None], k[None, None, :-pointers], attn.compute_cis(end_x=w, end_y=h), True)
        q, k = q[0, 0], torch.cat([turned[0, 0], k[-pointers:]])
        scores = q @ k.T / q.shape[1] ** .5
        blocks = [k[i * n:(i + 1) * n].T for i in range(shots + 1)]
        nearest = [F.interpolate(m[None, None], (h, w), mode='nearest').flatten() for m in masks]
        c = minmax(torch.stack([cosine(prototype(b, m), blocks[-1]) for b, m in zip(blocks, nearest)]).mean(0))
        own = slice(shots * n, (shots + 1) * n)
        rows = torch.stack([minmax(row) for row in scores[:, own]])
        scores = torch.cat([scores[:, :own.start], scores[:, own] + alpha * (rows + c - 1).clamp(max=0),
                            scores[:, own.stop:]], 1)
        read = slice(None) if keep else own
        x = x + attn.out_proj(scores[:, read].softmax(1) @ v[read])
        x = x + layer.linear2(layer.activation(layer.linear1(layer.norm3(x))))
    return sam2.memory_attention.norm(x).T.unflatten(1, (h, w))[None]


def forward_by_hand(model, batch, b):
    "Logits (S/4, S/4) of episode b."
    sam2, s = model.sam2, model.settings
    query, shots = [level[b:b + 1] for level in batch.query], range(batch.support_masks.shape[1])
    features = as_features(sam2, query[-3:])
    masks = [(batch.support_masks[b, k] == 1).float() for k in shots]
    seen = [as_features(sam2, [level[b:b + 1, k] for level in batch.support[-3:]]) for k in shots]
    supports = [memory_by_hand(sam2, f, m) for f, m in zip(seen, masks)]
    joined = lambda levels: torch.cat([level / level.norm(dim=-3, keepdim=True) for level in levels], -3)
    p_fg, p_disc = priors_by_hand(joined(query[:-3])[0], joined(batch.support[:-3])[b], masks, sam2.image_size)
    fg, disc = (memory_by_hand(sam2, features, p) for p in (p_fg, p_disc))
    own = refine_by_hand([m[0] for m in supports], masks, fg[0], disc[0], p_fg, p_disc,
                         s.iterations) if s.refinement else disc[0]
    memories = [*supports, (own, disc[1], disc[2])] if s.pseudo_prompts else supports
    flat = lambda x: x.flatten(1).T
    pointers = torch.cat([m[2].view(-1, sam2.mem_dim) for m in memories])
    tokens = torch.cat([*(flat(m[0]) for m in memories), pointers])
    places = torch.cat([*(flat(m[1]) + sam2.maskmem_tpos_enc[-1, 0] for m in memories), torch.zeros_like(pointers)])
    if s.calibration:
        fused = attention_by_hand(sam2, features, tokens, places, len(pointers), masks, s.alpha, s.keep_support_values)
    else:
        fused = sam2.memory_attention(curr=features.maps[-1:], curr_pos=features.positions[-1:], memory=tokens[:, None],
                                      memory_pos=places[:, None], num_obj_ptr_tokens=len(pointers))
        fused = fused.permute(1, 2, 0).unflatten(2, features.sizes[-1])
    found = decode(sam2, features, fused)
    return found.masks[0, found.ious[0].argmax()]


@pytest.mark.parametrize('shots, options', [
    (1, {}), (2, {}), (1, dict(iterations=1, alpha=4., keep_support_values=False)), (2, dict(variant='pseudo_prompts')),
    (1, dict(variant='refinement')), (2, dict(variant='calibration')), (2, dict(variant='support_memory'))])
def test_the_forward_pass_by_hand(sam2, shots, options):
    model = build(sam2, **options)
    batch = episodes(model, k=shots)
    got = answer(model, batch)
    assert got.shape == (2, 16, 16) and got.std() > 1e-3
    for b in range(2):
        with torch.no_grad(): wanted = forward_by_hand(model, batch, b)
        assert torch.allclose(got[b], wanted, atol=2e-5), (got[b] - wanted).abs().max()


def test_every_row_of_the_ablation_is_another_model(sam2):
    batch = episodes(build(sam2))
    rows = [answer(build(sam2, variant=name), batch) for name in VARIANTS]
    rows += [answer(build(sam2, iterations=n), batch) for n in (1, 4)]
    assert all((a - b).abs().max() > 1e-5 for n, a in enumerate(rows) for b in rows[:n])


def test_zero_steps_and_zero_alpha_are_the_row_without(sam2):
    batch = episodes(build(sam2), k=2)
    assert torch.equal(answer(build(sam2, iterations=0), batch), answer(build(sam2, variant='calibration'), batch))
    assert torch.allclose(answer(build(sam2, alpha=0.), batch), answer(build(sam2, variant='refinement'), batch),
                          atol=1e-5)


def test_support_memory_alone_is_stock_sam2(sam2):
    model, images, masks = build(sam2, variant='support_memory'), photos(3), boxes(2)
    with torch.no_grad():
        got = model.segment(images[2:], model.encode_support(images[:2], masks))
        shots = [encode_memory(sam2, image_features(sam2, images[k:k + 1]), (masks[k:k + 1] == 1).float())
                 for k in range(2)]
        full = segment_with(sam2, images[2:], shots)
    assert torch.allclose(F.interpolate(got[:, None], (64, 64), mode='bilinear')[:, 0], full, atol=1e-5)


# ---- shots and batches

def test_episodes_do_not_see_each_other(sam2):
    model = build(sam2)
    batch = episodes(model, 3, 2)
    assert torch.allclose(answer(model, batch), torch.cat([answer(model, pick(batch, [b])) for b in range(3)]),
                          atol=1e-5)


def test_copies_of_a_support_change_no_prior_and_no_refinement(sam2):
    model = build(sam2)
    one = episodes(model)
    three = one._replace(support=[level.expand(-1, 3, -1, -1, -1) for level in one.support],
                         support_masks=one.support_masks.expand(-1, 3, -1, -1))
    with torch.no_grad(): a, b = model.answer(one), model.answer(three)
    for x, y in zip((*a.prompts, *a.steps[-1], *a.memory), (*b.prompts, *b.steps[-1], *b.memory)):
        assert torch.allclose(x, y, atol=1e-5)
    bias = [[], []]
    for seen, batch in zip(bias, (one, three)):
        with torch.no_grad():
            read_queries(sam2, batch.query, remember(sam2, batch.support, batch.support_masks), model.settings,
                         watch=seen)
    assert torch.allclose(bias[0][0].bias, bias[1][0].bias, atol=1e-4) and len(bias[0]) == 2


def test_the_order_of_the_shots_does_not_matter(sam2):
    model = build(sam2)
    batch = episodes(model, k=3)
    turned = batch._replace(support=[level[:, [2, 0, 1]] for level in batch.support],
                            support_masks=batch.support_masks[:, [2, 0, 1]])
    assert torch.allclose(answer(model, batch), answer(model, turned), atol=1e-5)


@pytest.mark.parametrize('options', [dict(support_blocks='mean'), dict(calibrated_shots='each'),
                                     dict(calibrated_shots='released'), dict(refinement_version='v2')])
def test_other_readings_are_passed_on(sam2, options):
    model = build(sam2, **options)
    batch = episodes(model, k=2)
    assert (answer(model, batch) - answer(build(sam2), batch)).abs().max() > 1e-6
    assert {**model.describe(), **options} == model.describe()


def test_ignored_pixels_count_as_background(sam2):
    model = build(sam2)
    batch = episodes(model)
    assert (batch.support_masks == 255).any()
    plain = batch._replace(support_masks=(batch.support_masks == 1).to(torch.uint8))
    assert torch.equal(answer(model, batch), answer(model, plain))


def test_a_training_learns_from_the_candidate_with_the_best_score(sam2, monkeypatch):
    model, masks = build(sam2), rand(2, 3, 8, 8)
    found = Decoded(masks, torch.tensor([[.1, .9, .2], [.3, .2, .8]]), torch.zeros(2, 1))
    monkeypatch.setattr(model, 'answer', lambda batch: SimpleNamespace(decoded=found))
    assert torch.equal(model.episode_logits(None), torch.stack([masks[0, 1], masks[1, 2]]))


@pytest.mark.parametrize('marked', ['nothing', 'a pixel', 'everything'])
@pytest.mark.parametrize('shots', [1, 2])
def test_vanishing_supports_give_finite_answers(sam2, marked, shots):
    model = build(sam2)
    batch = episodes(model, k=shots)
    masks = batch.support_masks.clone()
    masks[0] = 1 if marked == 'everything' else 0
    if marked == 'a pixel': masks[0, :, 7, 7] = 1
    with torch.no_grad(): found = model.answer(batch._replace(support_masks=masks))
    values = (*found.prompts, *found.memory, found.fused, *found.decoded, *(x for step in found.steps for x in step))
    assert all(torch.isfinite(x).all() for x in values)
    if marked == 'nothing': assert found.prompts.foreground[0].unique().numel() == 1
    assert torch.allclose(found.decoded.best[1], answer(model, batch)[1], atol=1e-5)


# ---- the support is encoded once

def count_calls(model):
    "How often each part is called, from now on."
    calls, parts = {}, dict(backbone=model.backbone.backbone,
                            looks=model.sam2.image_encoder, memories=model.sam2.memory_encoder,
                            decodes=model.sam2.sam_mask_decoder, attention=model.sam2.memory_attention.layers[0])
    def hook(name): return lambda *args: calls.update({name: calls.get(name, 0) + 1})
    hooks = [part.register_forward_hook(hook(name)) for name, part in parts.items()]
    return calls, hooks


def test_a_further_query_costs_only_the_query(sam2):
    model, images = build(sam2), photos(7)
    calls, hooks = count_calls(model)
    with torch.no_grad():
        state = model.encode_support(images[:3], boxes(3))
        assert calls == dict(backbone=3, looks=3, memories=3, decodes=3)
        calls.clear()
        first = model.segment(images[3:4], state)
        assert calls == dict(backbone=1, looks=1, memories=2, decodes=2)
        together = model.segment(images[3:], state)
    assert together.shape == (4, 16, 16) and torch.allclose(together[:1], first, atol=1e-5)
    assert state.memory.shape == (1, 3, 32, 4, 4) and [x.shape for x in state.prior] == [(1, 3, 8, 5, 5)] * 2
    for hook in hooks: hook.remove()


def test_segment_is_episode_logits(sam2):
    model, images, masks = build(sam2), photos(4), boxes(2)
    with torch.no_grad():
        state, levels = model.encode_support(images[:2], masks), model.frozen_features(images)
        batch = EpisodeBatch([x[2:] for x in levels], [x[None, :2].expand(2, *[-1] * 4) for x in levels],
                             masks[None].expand(2, -1, -1, -1))
        assert torch.allclose(model.segment(images[2:], state), model.episode_logits(batch), atol=1e-5)
        assert torch.equal(model.look(images[2:], state).decoded.best, model.segment(images[2:], state))


@pytest.mark.parametrize('shots', [1, 2])
def test_trust_mixes_in_plain_matching(sam2, shots):
    model, images, masks, answers = build(sam2), photos(4), boxes(shots), {}
    with torch.no_grad():
        for trust in (1., .3, 0.):
            model.settings = replace(model.settings, trust=trust)
            state = model.encode_support(images[:shots], masks)
            answers[trust] = model.segment(images[2:], state)
        assert torch.equal(answers[1.], model.look(images[2:], state).decoded.best)
        assert torch.allclose(answers[.3], .3 * answers[1.] + .7 * answers[0.], atol=1e-4)
        resized = resize(images, (model.settings.prior_size,) * 2)
        fine = [F.interpolate(x, scale_factor=2, mode='bilinear') for x in model.backbone.backbone(resized)]
        joined = torch.cat([F.normalize(x, dim=1) for x in fine], 1)
        plain = dense_match(joined[2:], joined[:shots], masks, 5 * shots)
        plain = F.interpolate(plain[:, None], answers[0.].shape[-2:], mode='bilinear')[:, 0]
    assert torch.allclose(answers[0.], 10 * plain, atol=1e-4) and plain.std() > .01
    with torch.no_grad():
        model.settings = replace(model.settings, trust=1., deference=4.)
        deferent = model.segment(images[2:], state)
        share = 1 / (1 + (4 * plain.std((1, 2), correction=0)) ** 4)[:, None, None]
    assert torch.allclose(deferent, share * answers[1.] + (1 - share) * answers[0.], atol=1e-4)
    assert .05 < share.mean() < .95
    with torch.no_grad():
        batch = episodes(model)
        assert torch.equal(model.episode_logits(batch), model.answer(batch).decoded.best)  # a training does not mix


def test_empty_masks_are_refused(sam2):
    with pytest.raises(FSSKitError, match='support mask 2 of 2 marks no foreground pixel'):
        build(sam2).encode_support(photos(2), [boxes(1)[0], torch.zeros(64, 64)])


def test_a_photo_twice_as_wide_as_high(sam2):
    model, rng = build(sam2), np.random.default_rng(0)
    wide = [np.repeat(np.repeat(rng.integers(0, 256, (6, 12, 3), dtype=np.uint8), 8, 0), 8, 1) for _ in range(2)]
    mask = np.zeros((48, 96), np.uint8)
    mask[10:30, 20:70] = 1
    predictor = FewShotPredictor(model).set_support(wide[0], mask)
    seen = predictor.predict(wide[1])
    assert seen.mask.shape == (48, 96) == seen.score.shape and predictor.prepare(wide[1]).shape == (3, 64, 64)
    with torch.no_grad(): square = model.segment(predictor.prepare(wide[1])[None], predictor.state)
    assert np.allclose(seen.score, resize_scores(square, (48, 96))[0], atol=1e-5)
    assert np.array_equal(seen.mask, seen.score > 0)
    upright = FewShotPredictor(model).set_support(wide[0].swapaxes(0, 1), mask.T).predict(wide[1].swapaxes(0, 1))
    assert upright.mask.shape == (96, 48)


# ---- the frozen part

def test_frozen_features_are_those_of_both_encoders(sam2):
    model, images = build(sam2), photos(2)
    levels = model.frozen_features(images)
    with torch.no_grad():
        wanted = [*model.backbone.backbone(resize(images, (80, 80)), [0, 1]),
                  *(image_features(sam2, images).grid(n) for n in range(3))]
    assert model.layers == (0, 1) and len(levels) == 5 and not any(x.requires_grad for x in levels)
    for got, want in zip(levels, wanted): assert torch.allclose(got, want, atol=1e-5)
    assert [tuple(x.shape[1:]) for x in levels] == [(8, 5, 5), (8, 5, 5), (16, 16, 16), (32, 8, 8), (128, 4, 4)]
    assert all(shape == (1, 3, 80, 80) for shape in model.backbone.backbone.seen[:2])


def test_positions_are_made_again(sam2):
    with torch.no_grad(): seen = image_features(sam2, photos(2))
    again = as_features(sam2, [seen.grid(n) for n in range(3)])
    assert again.sizes == seen.sizes and torch.equal(again.positions[-1], seen.positions[-1])
    assert all(torch.equal(a, b) for a, b in zip(again.maps, seen.maps))


def test_the_paired_encoder_passes_on_what_it_is_not_asked_for(sam2):
    model, images = build(sam2, prior_size=32), photos(1)
    encoder = model.backbone
    assert (encoder.name, encoder.dims, encoder.stride, encoder.layers) == ('tiny', [8, 8], 16, [0, 1])
    own = encoder(images)
    assert len(own) == 2 and own[0].shape == (1, 8, 2, 2)
    with torch.no_grad(): mixed = encoder(images, ['sam2_16', 0, 'sam2_4'])
    assert torch.equal(mixed[1], own[0])
    assert torch.equal(mixed[0], sam2_levels(sam2, images)[2])
    assert mixed[2].shape == (1, 16, 16, 16)
    with pytest.raises(AttributeError): encoder.attention
    assert not any(name.startswith('backbone.sam2') or 'look' in name for name in model.state_dict())
    assert encoder.weights_id == 'random-7,sam2_tiny=random-1,32 px' and encoder.weights_id in model.frozen_id


def test_both_encoders_are_remembered(sam2, tmp_path):
    model, images, cache = build(sam2), photos(2), FeatureCache(tmp_path)
    with torch.no_grad(): plain = model.frozen_features(images)
    calls, hooks = count_calls(model)
    for _ in range(2):
        with remembering(model, cache), torch.no_grad(): again = [model.frozen_features(images) for _ in range(2)][1]
    assert calls == dict(backbone=2, looks=2) and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, again))
    assert len(list(tmp_path.glob('*.safetensors'))) == 2
    other = FSSAM(model.backbone.backbone, sam2, head=None, prior_size=96)
    with remembering(other, cache), torch.no_grad(): other.frozen_features(images)
    assert calls['backbone'] == 4
    for hook in hooks: hook.remove()


def test_plain_attention_ends_as_it_began():
    class Block(nn.Module):
        fused_attn = True
    net = nn.Sequential(Block(), nn.Linear(1, 1), Block())
    net[2].fused_attn = False
    with pytest.raises(RuntimeError), plain_attention(net):
        assert not net[0].fused_attn
        raise RuntimeError
    assert net[0].fused_attn and not net[2].fused_attn
    with plain_attention(net, False): assert net[0].fused_attn


def test_bfloat16(sam2):
    backbone = create_backbone('dinov2_vits14', weights=None, embed_dim=32, num_heads=2, depth=2, img_size=70)
    model, images, masks, seen = FSSAM(backbone, sam2, head=None).eval(), photos(3), boxes(2), []
    attn = backbone.net.blocks[0].attn
    hook = attn.register_forward_hook(lambda *args: seen.append(attn.fused_attn))
    found = []
    for mode in ('fp32', 'bf16', 'medium'):
        with torch.no_grad(), precision(mode):
            found.append(model.look(images[2:], model.encode_support(images[:2], masks)))
    hook.remove()
    assert seen == [True] * 3 + [False] * 3 + [True] * 3 and attn.fused_attn and model.settings.prior_size == 70
    exact, rough, medium = found
    assert (exact.prompts.foreground - rough.prompts.foreground).abs().max() < .1
    assert rough.prompts.foreground.dtype == torch.float32
    unit = lambda x: F.normalize(x.float().flatten(), dim=0)
    assert unit(exact.fused) @ unit(rough.fused) > .995
    assert torch.allclose(exact.decoded.best, medium.decoded.best, atol=1e-2)
    assert unit(exact.decoded.masks) @ unit(rough.decoded.masks) > .98


# ---- memories

@pytest.mark.parametrize('which', ['sam2', 'newer'])
def test_memory_without_pointer(which, request):
    model, images = request.getfixturevalue(which), photos(2)
    soft = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(3))
    soft[1] = 0
    with torch.no_grad():
        features = image_features(model, images)
        assert torch.equal(place_memory(model, features, soft), encode_memory(model, features, soft).features)


def test_sam_21_works_too(newer):
    model = build(newer)
    batch = episodes(model, k=2)
    got, masks = answer(model, batch), batch.support_masks
    assert got.shape == (2, 16, 16) and torch.isfinite(got).all()
    plain = build(newer, variant='pseudo_prompts')
    with torch.no_grad():
        support, features = remember(newer, batch.support, masks), as_features(newer, batch.query[-3:])
        found = plain.answer(batch)
        assert torch.allclose(found.fused, recall(newer, features, [*support.memories, found.memory]), atol=1e-6)
    assert model.describe()['sam2'] == 'sam2.1_hiera_t'


def test_supports_are_remembered_by_themselves(sam2):
    model = build(sam2)
    batch = episodes(model, k=3)
    with torch.no_grad():
        whole = remember(sam2, batch.support, batch.support_masks)
        alone = encode_memory(sam2, as_features(sam2, [x[1:, 2] for x in batch.support[-3:]]),
                              batch.support_masks[1:, 2])
    for a, b in zip(whole.memories[2], alone): assert torch.allclose(a[1:], b, atol=1e-5)
    wide = whole._replace(prior=[x[:1] for x in whole.prior], masks=whole.masks[:1],
                          memories=[type(m)(*(x[:1] for x in m)) for m in whole.memories]).for_queries(4)
    assert all(x.shape[0] == 4 for x in (*wide.prior, wide.masks)) and wide.memory.shape == (4, 3, 32, 4, 4)
    assert torch.equal(wide.memory[3], whole.memory[0])
    assert wide.prior[1].untyped_storage().data_ptr() == whole.prior[1].untyped_storage().data_ptr()


def test_prompts_can_be_given(sam2):
    model = build(sam2)
    batch = episodes(model)
    given = PseudoPrompts(*torch.rand(2, 2, 64, 64, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        found = read_queries(sam2, batch.query, remember(sam2, batch.support, batch.support_masks), model.settings,
                             given)
        memory = encode_memory(sam2, as_features(sam2, batch.query[-3:]), given.discriminative)
    assert found.prompts is given
    assert torch.equal(found.memory.pointer, memory.pointer)
    assert torch.equal(found.steps[0].memory, memory.features)
    assert not torch.equal(found.memory.features, memory.features)


# ---- what learns

@pytest.mark.parametrize('name', [n for n in SAM2_MODELS if n != 'sam2_tiny'])
def test_eleven_and_a_half_million_parameters_learn(name, monkeypatch):
    backbone = Tiny()
    monkeypatch.setattr(torch, 'linspace', partial(torch.linspace, device='cpu'))
    with torch.device('meta'): model = FSSAM(backbone, name, head=None, sam2_weights=None)
    sizes = {part: sum(p.numel() for p in model.get_submodule(part).parameters()) for part in LEARNED}
    assert list(sizes.values()) == [5_922_304, 1_384_608, 4_215_109]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 11_522_021
    assert model.input_size == 512 and model.settings.prior_size == 640


def test_sizes_of_the_paper(monkeypatch):
    dinov2 = SimpleNamespace(stride=14)
    from fsskit.pseudo_prompts import prior_size
    assert prior_size(dinov2, 512) == 560 == Settings().prior_size and Settings().input_size == 512


@pytest.mark.parametrize('variant', VARIANTS)
def test_gradients_reach_the_learned_parts_only(sam2, variant):
    model = build(deepcopy(sam2), variant=variant)
    set_training(SimpleNamespace(eval=model.eval, learned=model.learned, get_submodule=model.get_submodule,
                                 parameters=model.parameters))
    assert not model.sam2.image_encoder.training and model.sam2.memory_attention.training
    batch = episodes(model)
    with torch.inference_mode():
        model.segment(photos(1), model.encode_support(photos(1), boxes(1)))  # leaves nothing behind
    episode_losses(model.episode_logits(batch), batch.target, DICE)['loss'].backward()
    touched = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    learned = {n for n, p in model.named_parameters() if n.startswith(LEARNED)}
    assert touched <= learned
    idle = ('conv_s0', 'conv_s1', 'iou_prediction_head', 'pred_obj_score_head', 'output_hypernetworks_mlps')
    missing = {n for n in learned - touched if not any(part in n for part in idle) and not n.endswith('k_proj.bias')}
    assert missing <= {'sam2.sam_mask_decoder.obj_score_token.weight',
                       'sam2.sam_mask_decoder.iou_token.weight'}, missing


def test_the_dice_loss_of_the_paper():
    logits, label = rand(2, 8, 8), boxes(2, 16)
    p = F.interpolate(logits[:, None], (16, 16), mode='bilinear').sigmoid()[:, 0]
    t = (label == 1).float()
    wanted = (1 - 2 * (p * t).sum((1, 2)) / ((p * p).sum((1, 2)) + (t * t).sum((1, 2)))).mean()
    parts = episode_losses(logits, torch.where(label == 1, 1, 0), DICE)
    assert torch.isclose(parts['loss'], wanted, atol=1e-6) and parts['loss'] == parts['dice']
    counted = (label != 255).float()
    apart = episode_losses(logits, label, DICE)['loss']
    p = p * counted
    assert torch.isclose(apart, (1 - 2 * (p * t).sum((1, 2)) / ((p * p).sum((1, 2)) + t.sum((1, 2)))).mean(), atol=1e-6)
    aux = episode_losses({'logits': logits, 'more': logits}, label, replace(DICE, dice=0., aux=1.))
    bce = episode_losses(logits, label, Losses(bce=1., dice=0.))['loss']
    assert torch.isclose(aux['loss'], apart + bce, atol=1e-6)
    empty = episode_losses(logits, torch.zeros_like(label), DICE)['loss']
    assert torch.isfinite(empty) and empty > .99


# ---- settings

def test_the_ablation_is_there():
    rows = {name: (s.pseudo_prompts, s.refinement, s.calibration) for name, s in VARIANTS.items()}
    assert rows == dict(support_memory=(False, False, False), pseudo_prompts=(True, False, False),
                        refinement=(True, True, False), calibration=(True, False, True), full=(True, True, True))
    assert PAPER_MIOU == dict(support_memory=69.4, pseudo_prompts=78.2, refinement=79.6, calibration=79.0, full=81.0)
    assert PAPER_UNTRAINED == dict(support_memory=44.7, full=58.5)
    assert PAPER_ITERATIONS == {1: 79.3, 2: 80.3, 3: 81.0, 4: 80.8}
    assert VARIANTS['full'] == Settings()
    assert (Settings().iterations, Settings().alpha, Settings().refinement_version) == (3, 10., 'v1')
    assert all(variant_of(s) == name for name, s in VARIANTS.items())


def test_who_decides_about_settings():
    sizes, trained = dict(input_size=256, prior_size=320), dict(asdict(VARIANTS['refinement']), alpha=3., iterations=2,
                                                                model='fssam', prior_size=96)
    assert choose_settings(sizes) == Settings(input_size=256, prior_size=320)
    milder = choose_settings(sizes, 'calibration', dict(alpha=2.))
    assert milder == Settings(refinement=False, alpha=2., input_size=256, prior_size=320)
    own = choose_settings(sizes, None, {}, trained)
    assert (own.calibration, own.alpha, own.iterations, own.prior_size) == (False, 3., 2, 96)
    other = choose_settings(sizes, 'full', dict(alpha=5.), trained)
    assert (other.calibration, other.alpha, other.iterations) == (True, 5., 2)
    bare = choose_settings(sizes, None, dict(pseudo_prompts=False))
    assert variant_of(bare) == 'support_memory'
    how = Settings(alpha=2., keep_support_values=False, support_blocks='mean', calibrated_shots='each').how
    assert (how.alpha, how.keep_support_values, how.support_blocks, how.shots,
            how.fast) == (2., False, 'mean', 'each', True)


@pytest.mark.parametrize('options, words', [
    (dict(variant='big'), "no variant 'big': choose support_memory, pseudo_prompts"),
    (dict(pseudo_prompts=False, calibration=True), 'calibration=True needs pseudo prompts'),
    (dict(variant='support_memory', refinement=True), 'refinement=True needs pseudo prompts'),
    (dict(input_size=96), 'input_size=96, but this SAM 2 was made for 64 px'),
    (dict(trust=1.5), 'trust=1.5 must lie between 0'), (dict(trust=-.1), 'trust=-0.1 must'),
    (dict(deference=-1.), 'deference=-1.0 must'), (dict(alpha=-1.), 'alpha'),
    (dict(support_blocks='both'), 'support_blocks')])
def test_settings_that_make_no_sense(sam2, options, words):
    with pytest.raises(FSSKitError, match=words): build(sam2, **options)


def test_a_version_of_the_refinement_that_does_not_exist(sam2):
    with pytest.raises(FSSKitError, match="version='v3'"): build(sam2, refinement_version='v3')
    with pytest.raises(FSSKitError, match='iterations=-1'): build(sam2, iterations=-1)


def test_names_of_sam2(sam2, tmp_path):
    names = {'sam2_hiera_small': 'sam2_hiera_s', 'sam2.1_hiera_base_plus': 'sam2.1_hiera_b+',
             'sam2_tiny': 'sam2_tiny', 'sam2.1_hiera_s': 'sam2.1_hiera_s',
             Path('here/sam2.1_hiera_large.pt'): 'sam2.1_hiera_l', 'x/sam2_tiny.safetensors': 'sam2_tiny',
             'sam2_hiera_b+': 'sam2_hiera_b+'}
    assert [sam2_name(given) for given in names] == list(names.values()) and sam2_name(sam2) == 'sam2_tiny'
    with pytest.raises(FSSKitError, match="'sam3' is no SAM 2: give one of sam2_tiny, "): sam2_name('sam3')
    assert find_sam2(sam2) is sam2 and find_sam2('sam2_tiny', None).image_size == 256
    from safetensors.torch import save_file
    file = tmp_path / 'sam2_tiny.safetensors'
    save_file({k: v.clone() for k, v in sam2.state_dict().items()}, file)
    for found in (find_sam2(file, input_size=64), find_sam2('sam2_tiny', file, 64)):
        assert found.image_size == 64
        assert torch.equal(found.no_mem_embed, sam2.no_mem_embed)
        assert found.weights_id.startswith('sha256:')


# ---- files and names

def shaken(sam2):
    "Learned weights that are not those of the start."
    model = build(sam2)
    with torch.no_grad():
        for name, part in ((n, model.get_submodule(n)) for n in LEARNED):
            for p in part.parameters(): p.add_(.02 * rand(*p.shape, seed=len(name)))
    return model


def test_a_head_is_saved_and_found_again(sam2, tmp_path):
    model = shaken(deepcopy(sam2))
    model.settings = replace(model.settings, iterations=2)
    file = save_head(model, tmp_path / 'head.safetensors', HeadRecord(classes={'smallworld': ['cup']}))
    assert file.stat().st_size < 2.2 * sum(v.numel() for v in head_state(model).values())
    assert set(head_state(model)) == set(load_weights(file))
    again = FSSAM(Tiny(), deepcopy(sam2), head=file).eval()
    assert again.settings == model.settings
    assert again.seen_classes == {'smallworld': ['cup']}
    assert again.head_id != 'untrained'
    batch = episodes(model)
    assert torch.allclose(answer(again, batch), answer(model, batch), atol=1e-2)
    assert (answer(build(deepcopy(sam2)), batch) - answer(model, batch)).abs().max() > .05
    assert FSSAM(Tiny(), deepcopy(sam2), head=file, support_blocks='mean').settings.support_blocks == 'mean'
    assert FSSAM(Tiny(), deepcopy(sam2), head=file, trust=.5).settings.trust == .5 and model.settings.trust == 1
    for options, words in ((dict(iterations=3), 'iterations=2'), (dict(variant='refinement'), 'variant=')):
        with pytest.raises(FSSKitError, match=words): FSSAM(Tiny(), deepcopy(sam2), head=file, **options)
    other = load_sam2('sam2_tiny', None, seed=5, image_size=64)
    with pytest.raises(FSSKitError, match='sam2_weights|frozen'): FSSAM(Tiny(), other, head=file)
    by_name = FSSAM(Tiny(), 'sam2_tiny', head=file, sam2_weights=None, seed=1)
    assert by_name.input_size == 64


def test_a_head_keeps_its_layers(sam2, tmp_path):
    sam2, file = deepcopy(sam2), tmp_path / 'head.safetensors'
    save_head(build(sam2, layers=[1]), file, HeadRecord())
    again = FSSAM(Tiny(), sam2, head=file)
    assert again.layers == again.settings.layers == (1,) and again.frozen_id == build(sam2, layers=(1,)).frozen_id
    with pytest.raises(FSSKitError, match='layers'): FSSAM(Tiny(), sam2, head=file, layers=(0, 1))


def test_one_layer_guesses_as_it_is(sam2):
    model = build(sam2, layers=(1,))
    batch = episodes(model, k=2)
    masks = (batch.support_masks[0] == 1).float()
    by_hand = priors_by_hand(batch.query[0][0], batch.support[0][0], masks, 64)
    with torch.no_grad():
        found, joined = model.answer(batch).prompts, build(sam2).answer(episodes(build(sam2), k=2)).prompts
    for guess, want in zip(found, by_hand): assert torch.allclose(guess[0], want, atol=1e-5)
    assert (found.foreground - joined.foreground).abs().max() > .05


def test_the_shipped_head_has_a_name(sam2, tmp_path, monkeypatch):
    monkeypatch.setattr('fsskit.fetch._checkout', lambda: None)
    monkeypatch.setenv('FSSKIT_WEIGHTS', str(tmp_path))
    sam2 = deepcopy(sam2)
    with pytest.raises(FSSKitError, match="no trained head 'fssam_tiny_sam2_tiny.safetensors'.*head=None"):
        FSSAM(Tiny(), sam2)
    with pytest.raises(FSSKitError, match="'fssam_tiny_sam2_tiny_calibration.safetensors'"):
        FSSAM(Tiny(), sam2, 'calibration')
    save_head(build(sam2), tmp_path / 'fssam_tiny_sam2_tiny.safetensors')
    assert FSSAM(Tiny(), sam2).head_id != 'untrained'


def test_made_by_name(tmp_path):
    model = create_model('fssam', 'rgb', head=None, sam2_weights=None, input_size=64)
    assert 'fssam' in list_models() and type(model) is FSSAM and not model.training and model.sam2.name == 'sam2_tiny'
    facts = json.loads(json.dumps(model.describe()))
    assert facts['model'] == 'fssam'
    assert facts['variant'] == 'full'
    assert facts['backbone'] == 'rgb'
    assert facts['weights'] == 'none'
    assert {**facts, **json.loads(json.dumps(asdict(model.settings)))} == facts
    assert facts['layers'] == [0]
    assert facts['sam2_weights'] == 'random-0'
    assert facts['prior_size'] == 40
    with pytest.raises(FSSKitError, match="no option 'heads'"): create_model('fssam', 'rgb', heads=None)


def test_evaluated_and_trained(sam2, tmp_path):
    world = SmallWorld(fold=0, photos_per_class=4, size=64)
    model = FSSAM(ColourBackbone(), deepcopy(sam2), head=None).eval()
    with torch.no_grad():
        decoder = model.sam2.sam_mask_decoder
        for network in decoder.output_hypernetworks_mlps: network.layers[-1].bias.fill_(-.15)
        decoder.output_upscaling[3].bias.fill_(.5)
    result = evaluate(model, world, episodes=1, progress=False)
    assert 0 <= result.miou <= 1 and result.protocol['sam2'] == 'sam2_tiny' and result.protocol['variant'] == 'full'
    source = DatasetSource(world, variants=1)
    task = EpisodicTask(model, lambda index: source(index % 2), batch=2, losses=DICE,
                        held_out={'world': fixed_episodes(world, 1)})
    with torch.no_grad(): before = task(0)['loss'].item()
    frozen = {n: p.clone() for n, p in model.named_parameters() if not n.startswith(LEARNED)}
    fit(task, tmp_path, 5, lr=2e-3, warmup=1, schedule='poly', weight_decay=0., validate_every=None, progress=False)
    with torch.no_grad(): after = task(0)['loss'].item()
    assert after < before - .02
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
