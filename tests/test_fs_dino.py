"Tests of fsskit.fs_dino: every step against the same step by hand, and the promises about shots, sizes and files."
import json
import math
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dataclasses import asdict, replace
from types import SimpleNamespace
from torch import nn
from fsskit.backbones import create_backbone
from fsskit.correlation import correlation, CorrelationNet, mask_correlation
from fsskit.distillation import BottleneckAdapter
from fsskit.episodic import EncodedSupport, EpisodeBatch, episode_losses, head_state, HeadRecord, main_logits, save_head
from fsskit.fs_dino import (FSDINO, PAPER_MIOU, Settings, VARIANTS, MatchResidual, choose_settings, correlate,
                            match_scores, temper, similarity_maps, sized_for, vote)
from fsskit.mask_decoder import new_decoder, single_mask_parameters
from fsskit.photos import FSSKitError
from fsskit.predictor import create_model, list_models
from fsskit.similarity import DenseMatchModel, dense_match, join_layers
from fsskit.training import load_weights
from fsskit.visual_prompts import Shares, prototype_similarity, shot_prototypes, support_shares, VisualPromptGenerator


def rand(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
def photos(count, size=64, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


class Tiny(nn.Module):
    "An encoder of three layers with 8 channels, 16 px a cell; its name and weights are as a real one's."
    name, weights_id, layers, default_layers, dims, stride = 'tiny', 'random-7', [0, 1, 2], (1, 2), [8, 8, 8], 16
    def __init__(self):
        super().__init__()
        self.first, self.later = rand(8, 3, 16, 16, seed=1) / 8, [rand(8, 8, 1, 1, seed=n) for n in (2, 3)]
    def forward(self, images, layers=None):
        maps = [F.conv2d(images - .5, self.first, stride=16)]
        for weight in self.later: maps.append(F.conv2d(maps[-1].tanh(), weight))
        return [maps[n] for n in (self.default_layers if layers is None else layers)]


RANDOM = dict(head=None, adapter='random', sam=None, input_size=64)


@pytest.fixture(scope='module')
def tiny(): return Tiny()


def build(tiny, variant='full', **options):
    "A model whose zero-initialised parts are woken up, so that every part shows in the logits."
    model = FSDINO(tiny, variant, **{**RANDOM, **options}).eval()
    with torch.no_grad():
        if model.prompts.correlation is not None:
            model.prompts.correlation.project.weight.copy_(rand(256, model.settings.widths[-1], 1, 1) / 4)
        if model.residual is not None: model.residual.gate.fill_(.7)
    return model


def masks(count, size=64, seed=0):
    "Boxes that differ, with a few ignored pixels; uint8 (count, size, size)."
    rng, result = np.random.default_rng(seed), torch.zeros(count, size, size, dtype=torch.uint8)
    for mask in result:
        y, x = rng.integers(2, size // 2, 2)
        mask[y:y + size // 3, x:x + size // 2] = 1
        mask[:2] = 255
    return result


def episodes(model, b=2, k=1, size=64, seed=0):
    "A batch of random episodes."
    levels = model.frozen_features(photos(b * (k + 1), size, seed))
    support = [level[b:].unflatten(0, (b, k)) for level in levels]
    return EpisodeBatch([level[:b] for level in levels], support, masks(b * k, size, seed).unflatten(0, (b, k)),
                        masks(b, size, seed + 9))


def answer(model, batch):
    with torch.no_grad(): return main_logits(model.episode_logits(batch))


def pick(batch, chosen):
    return EpisodeBatch([t[chosen] for t in batch.query], [t[chosen] for t in batch.support],
                        batch.support_masks[chosen], batch.target[chosen])


# ---- settings

def test_sizes_follow_from_the_encoder():
    vit = lambda dim, depth: SimpleNamespace(name='dinov2', layers=list(range(depth)), dims=[dim] * depth, stride=14)
    assert sized_for(vit(768, 12)) == dict(input_size=518, layers=tuple(range(12)), early=2, widths=(16, 64, 128),
                                           mix='light')
    deep = sized_for(vit(1024, 24))['layers']
    assert len(deep) == 12 and deep[0] == 0 and deep[-1] == 23 and max(np.diff(deep)) <= 3
    own = sized_for(create_backbone('embedded', weights=None))
    assert own['input_size'] == 320 and own['layers'] == tuple(range(6)) and own['widths'] == (8, 16, 32)


def test_the_ablation_is_there():
    rows = {name: (s.adapter, s.prototype, s.semantic, s.correlation, s.contrast if s.correlation else None, s.decoder,
                   s.match)
            for name, s in VARIANTS.items()}
    assert rows == {
        'no_distillation': ('random', True, True, False, None, 'trained', False),
        'compact': ('distilled', True, True, False, None, 'frozen', False),
        'prototype': ('distilled', True, False, False, None, 'trained', False),
        'semantic': ('distilled', True, True, False, None, 'trained', False),
        'correlation': ('distilled', False, True, True, 'none', 'trained', False),
        'full': ('distilled', False, True, True, 'signed', 'trained', False),
        'matched': ('distilled', False, False, True, 'signed', 'trained', True)}
    assert PAPER_MIOU == dict(no_distillation=52.8, compact=57.2, prototype=58.2, semantic=59.6, correlation=62.3,
                              full=64.0)


def test_settings_that_are_given(tiny):
    chosen = choose_settings(tiny, 'semantic', dict(widths=[4, 8], topk=3, match=False))
    assert chosen == replace(VARIANTS['semantic'], **{**sized_for(tiny), 'widths': (4, 8), 'topk': 3})
    assert choose_settings(tiny) == choose_settings(tiny, 'full')


@pytest.mark.parametrize('options, words', [
    (dict(variant='big'), "there is no variant 'big': choose no_distillation, compact"),
    (dict(contrast='both'), "contrast='both' is not known: choose 'none', 'signed', 'difference'"),
    (dict(adapter='own'), "adapter='own' is not known"), (dict(decoder='half'), "decoder='half' is not known"),
    (dict(shots='mean'), "shots='mean' is not known: choose 'early', 'concat', 'vote'")])
def test_unknown_choices(tiny, options, words):
    with pytest.raises(FSSKitError, match=words): FSDINO(tiny, **{**RANDOM, **options})


# ---- parameter counts of the specification

def test_parameter_counts_of_dinov2_b():
    count = lambda part: sum(p.numel() for p in part.parameters())
    assert count(BottleneckAdapter(768)) == 1_250_048
    assert count(new_decoder()) == 4_058_340
    assert count(VisualPromptGenerator(768).semantic.project) == 65_856
    assert count(VisualPromptGenerator(768)) == 70_796 and round(70_796 / 1e6, 2) == .07
    assert count(CorrelationNet(12, (16, 64, 128))) == 170_176


@pytest.mark.parametrize('variant', VARIANTS)
def test_what_learns_and_how_much(tiny, variant):
    model = FSDINO(tiny, variant, **RANDOM)
    s, count = model.settings, lambda parameters: sum(p.numel() for p in parameters)
    decoder = 0 if s.decoder == 'frozen' else count(single_mask_parameters(model.decoder).values())
    branch = count(model.branch.parameters()) + count(model.coarse.parameters()) if s.correlation else 0
    wanted = count(model.prompts.parameters()) + decoder + branch + 3 * s.match
    assert count(p for p in model.parameters() if p.requires_grad) == wanted
    assert any(n.startswith('decoder') for n in model.learned) == (variant != 'compact')
    assert 'image' not in model.learned
    losses = episode_losses(model.episode_logits(episodes(model)), masks(2))
    losses['loss'].backward()
    touched = {n for n, p in model.named_parameters() if p.grad is not None}
    assert touched == {n for n, p in model.named_parameters() if p.requires_grad}


def test_only_the_output_of_the_decoder(tiny, tmp_path):
    model = build(tiny, 'matched', decoder='output')
    learned = {n for n, p in model.named_parameters() if p.requires_grad and n.startswith('decoder')}
    assert sum(dict(model.named_parameters())[n].numel()
               for n in learned) == 4 * 256 + 65_600 + 128 + 8_224 + 2 * 65_792 + 8_224
    assert not any('transformer' in n for n in learned) and set(model.parts) == {'image', 'decoder'}
    batch = episodes(model)
    main_logits(model.episode_logits(batch)).sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None and n.startswith('decoder')} == learned
    with torch.no_grad(): model.decoder.mask_decoder.mask_tokens.weight.mul_(2)
    file = save_head(model, tmp_path / 'head.safetensors')
    loaded = other(tiny, None, file)
    assert (answer(model, batch) - answer(loaded, batch)).abs().max() < .02 * answer(model, batch).abs().max()
    assert not any('transformer' in n for n in load_weights(file)) and file.stat().st_size < 1e6
    with pytest.raises(FSSKitError, match='was trained with parts='):
        other(tiny, None, file, sam='sam_tiny', sam_weights=None)


@pytest.mark.parametrize('adapter, learns', [('trained', True), ('none', True), ('random', False)])
def test_adapters(tiny, adapter, learns):
    model = build(tiny, 'semantic', adapter=adapter)
    assert ('image' in model.learned) == learns == any(p.requires_grad for p in model.image.parameters())
    batch = episodes(model)
    assert len(batch.query) == len(model.layers) + (not learns)
    early = model.features(photos(4))[model.layers.index(model.settings.early)]
    with torch.no_grad(): image = model.image(early)
    if not learns: assert torch.allclose(torch.cat([batch.query[-1], batch.support[-1][:, 0]]), image, atol=1e-5)
    main_logits(model.episode_logits(batch)).sum().backward()
    assert all((p.grad is not None) == learns for p in model.image.parameters())


def test_a_distilled_adapter_must_fit_the_layer(tiny, monkeypatch):
    adapter = BottleneckAdapter(8, (8, 8, 8), heads=2).eval().requires_grad_(False)
    adapter.layer = 2
    monkeypatch.setattr('fsskit.fs_dino.load_adapter', lambda weights, backbone: adapter)
    with pytest.raises(FSSKitError, match='early=1, but this adapter was distilled for layer 2: pass early=2'):
        build(tiny, adapter='distilled', early=1)
    model = build(tiny, adapter='distilled', early=2)
    assert model.image is adapter
    assert torch.allclose(model.frozen_features(photos(1))[-1], adapter(tiny(photos(1), [2])[0]))


# ---- the steps

def test_correlate_by_hand():
    torch.manual_seed(0)
    net = CorrelationNet(2, (4, 8))
    query, support = [rand(2, 5, 3, 4, seed=n) for n in (0, 1)], [rand(2, 3, 5, 4, 6, seed=n) for n in (2, 3)]
    foreground = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(4))
    shares = Shares(foreground, .8 * (1 - foreground))
    weight = {'none': foreground, 'signed': shares.foreground - shares.background}
    for contrast in ('none', 'signed', 'difference'):
        got, each = correlate(net, query, support, shares, contrast), []
        for k in range(3):
            volume = correlation(query, [level[:, k] for level in support])
            if contrast in weight: each.append(net(volume * weight[contrast][:, k, None, None, None]))
            else:
                each.append(net(volume * shares.foreground[:, k, None, None, None])
                            - net(volume * shares.background[:, k, None, None, None]))
        assert torch.allclose(got, sum(each) / 3, atol=1e-5)


@pytest.mark.parametrize('fine', [1, 2])
def test_match_scores_are_dense_matching(fine):
    query, support, marked = [rand(2, 6, 4, 5), rand(2, 3, 4, 5,
                                                     seed=1)], [rand(2, 2, 6, 4, 5, seed=2),
                                                                rand(2, 2, 3, 4, 5, seed=3)], masks(4)
    marked = marked.unflatten(0, (2, 2))
    got = match_scores(query, support, marked, 3, fine)
    for b in range(2):
        q = join_layers([level[b:b + 1] for level in query], (4 * fine, 5 * fine))
        s = join_layers([level[b] for level in support], (4 * fine, 5 * fine))
        assert torch.allclose(got[b:b + 1], dense_match(q, s, marked[b], topk=6), atol=1e-5)
    marked[0] = 0
    empty = match_scores(query, support, marked, 3, fine)
    assert empty[0].abs().max() == 0 and torch.allclose(empty[1], got[1])


def test_similarity_maps():
    query, support, score = rand(2, 5, 3, 4), rand(2, 2, 5, 3, 4, seed=1), rand(2, 6, 8, seed=2)
    shares = Shares(*(s.unflatten(0, (2, 2)) for s in support_shares(masks(4), (3, 4))))
    assert similarity_maps(query, support, shares, False) is None
    for shots in ('pool', 'concat'):
        wanted = 2 * prototype_similarity(query, shot_prototypes(support, shares.foreground, shots)) - 1
        assert torch.allclose(similarity_maps(query, support, shares, True, None, shots)[:, 0], wanted)
    both = similarity_maps(query, support, shares, True, score)
    assert both.shape == (2, 2, 6, 8) and torch.allclose(both[:, 1], torch.tanh(5 * score))


def test_match_residual():
    residual, correction, score = MatchResidual(3.), rand(2, 8, 6), rand(2, 4, 3)
    large = F.interpolate(score[:, None], (8, 6), mode='bilinear', align_corners=False)[:, 0]
    assert torch.allclose(residual(correction, score), 3 * large, atol=1e-5)
    with torch.no_grad(): residual.gate.fill_(2.), residual.bias.fill_(-1.)
    learned = 3 * large - 1 + 2 * correction
    assert torch.allclose(residual(correction, score), learned, atol=1e-5)


def test_temper_is_its_formula():
    z, score = rand(3, 8, 6), rand(3, 4, 3) * torch.tensor([.02, .1, .4])[:, None, None]
    plain = 10 * F.interpolate(score[:, None], (8, 6), mode='bilinear', align_corners=False)[:, 0]
    assert temper(z, score) is z and torch.allclose(temper(z, score, .3), .3 * z + .7 * plain, atol=1e-5)
    shares = []
    for learned, matched in zip(z, plain):
        spread = ((matched / 10 - matched.mean() / 10) ** 2).mean() ** .5
        shares.append((.8 / (1 + (9 * spread) ** 4)).item())
    by_hand = torch.stack([t * a + (1 - t) * b for t, a, b in zip(shares, z, plain)])
    assert torch.allclose(temper(z, score, .8, 9.), by_hand, atol=1e-5) and .7 < shares[0] and shares[2] < .1
    flat = temper(z, torch.zeros(3, 4, 3), 1., 9.)
    assert torch.equal(flat, z)  # matching that says nothing has no say


def test_trust_is_chosen_in_use(tmp_path):
    backbone, options = create_backbone('embedded', None), dict(adapter='random', sam=None, input_size=64, fine=1)
    made = FSDINO(backbone, 'matched', head=None, trust=.5, deference=0., **options)
    with torch.no_grad(): made.residual.gate.fill_(1.)
    path = save_head(made, tmp_path / 'head.safetensors')
    photo, mask = torch.rand(1, 3, 64, 64), torch.zeros(64, 64, dtype=torch.uint8)
    mask[20:50, 10:40] = 1
    answers = {}
    for trust in (None, 0., .5, 1.):
        model = FSDINO(backbone, head=path, trust=trust).eval()
        assert model.settings.trust == (.5 if trust is None else trust)
        with torch.no_grad(): answers[trust] = model.segment(photo, model.encode_support(photo, [mask]))
    assert torch.equal(answers[None], answers[.5])
    assert torch.allclose(answers[.5], (answers[0.] + answers[1.]) / 2, atol=1e-3)
    assert (answers[1.] - answers[0.]).abs().max() > .01
    plain = FSDINO(backbone, 'matched', head=None, **options)
    assert plain.settings.trust == 1 and plain.settings.deference == 0
    deferent = FSDINO(backbone, head=path, trust=1., deference=1e3).eval()
    with torch.no_grad():
        assert torch.allclose(deferent.segment(photo, deferent.encode_support(photo, [mask])), answers[0.], atol=1e-2)
    for wrong in (-1., math.inf, math.nan):
        with pytest.raises(FSSKitError, match=f'deference={wrong} must be a number'):
            FSDINO(backbone, head=path, deference=wrong)
    for wrong in (-.1, 1.5):
        with pytest.raises(FSSKitError, match=f'trust={wrong} must lie between 0'):
            FSDINO(backbone, head=path, trust=wrong)
        with pytest.raises(FSSKitError, match=f'trust={wrong} must lie between 0'):
            FSDINO(backbone, head=None, trust=wrong, **options)


def test_vote_is_the_published_one():
    answers = rand(5, 4, 6, 7)
    answers[:1, 1] = -1  # at most four votes, of which two are just enough
    answers[:, 2] = -1
    answers[:, 3, 0, 0] = -1
    got = vote(answers)
    for b in range(4):
        votes = sum((answer[b] > 0).numpy().astype(float) for answer in answers)
        share = votes / max(1, votes.max())
        assert np.array_equal(got[b] > 0, share >= .5)
        assert np.allclose(got[b], np.where(share >= .5, share, share - 1), atol=1e-6)
    assert (got[2] <= 0).all()


# ---- the whole

@pytest.mark.parametrize('variant, options', [('full', {}), ('compact', {}), ('matched', dict(prototype=True)),
                                              ('full', dict(background=True)),
                                              ('semantic', dict(adapter='none', early=0)),
                                              ('full', dict(contrast='difference', shots='concat'))])
def test_the_forward_pass_by_hand(tiny, variant, options):
    model, k = build(tiny, variant, **options), 2
    s, batch = model.settings, episodes(model, k=2)
    levels = dict(zip(model.layers, zip(batch.query, batch.support)))
    shares = Shares(*(t.unflatten(0, (2, k)) for t in support_shares(batch.support_masks.flatten(0, 1), (4, 4))))
    (query, support), shots = levels[2], 'concat' if options.get('shots') else 'pool'
    maps = []
    if s.prototype: maps.append(2 * prototype_similarity(query, shot_prototypes(support, shares.foreground, shots)) - 1)
    if s.match:
        score = match_scores([levels[n][0] for n in (1, 2)], [levels[n][1] for n in (1, 2)], batch.support_masks)
        maps = [F.interpolate(m[:, None], (8, 8), mode='bilinear')[:, 0] for m in maps] + [torch.tanh(5 * score)]
    with torch.no_grad():
        seen = correlate(model.branch, [q for q, _ in levels.values()], [t for _, t in levels.values()], shares,
                         s.contrast) if s.correlation else None
        prompts = model.prompts(support, shares, torch.stack(maps, 1) if maps else None, seen)
        image = model.image(torch.cat([tiny(photos(6), [s.early])[0][:2]]))
        place = model.decoder.pe_layer((4, 4))[None]
        rows = [model.decoder.mask_decoder.predict_masks(image[b:b + 1], place, prompts.sparse[b:b + 1],
                                                         prompts.dense[b:b + 1])[0][:, 0] for b in range(2)]
    wanted = model.residual(torch.cat(rows), score) if s.match else torch.cat(rows)
    if shots == 'pool': assert torch.allclose(answer(model, batch), wanted, atol=1e-4)
    else: assert not torch.allclose(answer(model, batch), wanted, atol=1e-4)  # the official code has no weights 1/K
    if s.correlation: assert torch.allclose(model.episode_logits(batch)['coarse'], model.coarse(seen)[:, 0], atol=1e-4)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('shots', ['early', 'concat'])
def test_batch_is_a_stack_of_singles(tiny, variant, shots):
    model = build(tiny, variant, shots=shots)
    batch = episodes(model, b=3, k=2)
    together = answer(model, batch)
    assert together.shape == (3, 16, 16) and together.std() > 0
    for b in range(3): assert torch.allclose(answer(model, pick(batch, slice(b, b + 1))), together[b:b + 1], atol=1e-4)


@pytest.mark.parametrize('shots', ['early', 'concat', 'vote'])
@pytest.mark.parametrize('variant', ['semantic', 'full', 'matched'])
def test_equal_supports_are_one(tiny, variant, shots):
    model, image, mask = build(tiny, variant, shots=shots, background=True), photos(1), masks(1)
    with torch.no_grad():
        results = [model.segment(photos(2, seed=5),
                                 model.encode_support(image.repeat(k, 1, 1, 1), mask.repeat(k, 1, 1))) for k in (1, 3)]
    assert torch.allclose(*results, atol=1e-4) and results[0].std() > 0


def test_shots_matter_and_their_order_does_not(tiny):
    for shots in ('early', 'concat', 'vote'):
        model, images, marked, query = build(tiny, 'matched', shots=shots,
                                             semantic=True), photos(3), masks(3), photos(1, seed=5)
        with torch.no_grad():
            one, three, turned = (model.segment(query, model.encode_support(images[i], marked[i]))
                                  for i in ([0], [0, 1, 2], [2, 0, 1]))
        assert torch.allclose(three, turned, atol=1e-4) and not torch.allclose(one, three, atol=1e-4)


def test_vote_is_a_vote_over_single_shots(tiny):
    model, images, marked, query = build(tiny, shots='vote'), photos(3), masks(3), photos(2, seed=5)
    single = build(tiny, shots='early')
    with torch.no_grad():
        passes = [single.segment(query, single.encode_support(images[k:k + 1], marked[k:k + 1])) for k in range(3)]
        large = [F.interpolate(p[:, None], (64, 64), mode='bilinear', align_corners=False)[:, 0] for p in passes]
        assert torch.equal(model.segment(query, model.encode_support(images, marked)), vote(torch.stack(large)))


def test_segment_is_an_episode_without_a_target(tiny):
    model = build(tiny, 'matched')
    batch = episodes(model, b=1, k=2)
    state = EncodedSupport([level[0] for level in batch.support], batch.support_masks[0])
    with torch.no_grad(): used = model.segment(photos(3)[:1], state)
    assert torch.allclose(used, answer(model, batch), atol=1e-4)


@pytest.mark.parametrize('variant', ['full', 'matched', 'compact'])
def test_height_other_than_width_and_a_second_size(tiny, variant):
    model = build(tiny, variant)
    def wide(h, w):
        levels = model.frozen_features(photos(2, 96)[..., :h, :w])
        return EpisodeBatch([level[:1] for level in levels], [level[1:, None] for level in levels],
                            masks(1, 96)[:, None, :h, :w])
    first = answer(model, wide(48, 96))
    assert first.shape == (1, 12, 24)
    assert answer(model, wide(64, 64)).shape == (1, 16, 16)
    assert torch.equal(answer(model, wide(48, 96)), first)


@pytest.mark.parametrize('variant', VARIANTS)
def test_empty_masks(tiny, variant):
    model = build(tiny, variant)
    batch = episodes(model)
    silent = batch._replace(support_masks=torch.zeros_like(batch.support_masks))
    assert torch.isfinite(answer(model, silent)).all()
    with pytest.raises(FSSKitError, match='marks no foreground pixel'):
        model.encode_support(photos(1), torch.zeros(1, 64, 64))


def test_matched_starts_from_plain_matching():
    backbone = create_backbone('embedded', weights=None)
    model, plain = FSDINO(backbone, 'matched', head=None, adapter='random', sam=None,
                          input_size=96).eval(), DenseMatchModel(backbone, 96)
    images, marked, query = photos(1, 96), masks(1, 96), photos(2, 96, seed=3)
    with torch.no_grad(): ours, theirs = (m.segment(query, m.encode_support(images, marked)) for m in (model, plain))
    assert torch.allclose(ours, 10 * F.interpolate(theirs[:, None], (24, 24), mode='bilinear',
                                                   align_corners=False)[:, 0], atol=1e-4)


def test_only_the_right_parts_see_semantics(tiny):
    "Without token and prototype the last layer matters through cosines alone: its length does not."
    model = build(tiny, 'matched')
    batch = episodes(model)
    longer = batch._replace(query=[2 * q if n < 3 else q for n, q in enumerate(batch.query)],
                            support=[3 * s for s in batch.support])
    assert torch.allclose(answer(model, batch), answer(model, longer), atol=1e-3)


def test_it_can_learn_by_heart(tiny):
    torch.manual_seed(0)
    model = FSDINO(tiny, 'matched', **RANDOM)
    batch, optimiser = episodes(model, b=4), torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 4e-3)
    losses = []
    for _ in range(15):
        losses.append(episode_losses(model.episode_logits(batch), batch.target)['loss'])
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < .9 * losses[0]


# ---- as the kit uses it

def test_names_and_descriptions(tiny):
    assert 'fs_dino' in list_models()
    model = build(tiny, 'semantic', shots='concat')
    about = json.loads(json.dumps(model.describe()))
    assert about['model'] == 'fs_dino' and about['variant'] == 'semantic' and about['shots'] == 'concat'
    assert about['head'] == 'untrained' and about['backbone'] == 'tiny' and set(about['parts']) == {'image'}
    assert model.rates == {} and FSDINO(tiny, 'matched', **RANDOM).rates == {'residual': 1e-2}
    assert set(build(tiny, 'compact').parts) == {'image', 'decoder'}
    assert model.layers == (2,) and build(tiny).layers == (0, 1, 2)
    assert model.frozen_id != build(tiny, 'semantic', seed=1).frozen_id


def test_create_model_wants_a_head(monkeypatch, tmp_path):
    monkeypatch.setenv('FSSKIT_WEIGHTS', str(tmp_path))
    with pytest.raises(FSSKitError, match=r"no trained head 'fs_dino_embedded_compact.safetensors' \(looked in .*pass "
                       r"head=PATH"):
        create_model('fs_dino', variant='compact', weights=None)
    model = create_model('fs_dino', weights=None, head=None, adapter='random', sam_weights=None, input_size=96,
                         match=True)
    assert isinstance(model, FSDINO) and not model.training and model.variant == 'full' and model.settings.match


def test_decoder_and_prompts_start_from_a_sam(tiny, monkeypatch):
    from fsskit.sam import load_sam
    sam, model = load_sam('sam_tiny', None), FSDINO(tiny, 'semantic',
                                                    **{**RANDOM, 'sam': 'sam_tiny', 'sam_weights': None})
    for name, value in sam.mask_decoder.state_dict().items():
        assert torch.equal(model.decoder.mask_decoder.state_dict()[name], value)
    assert torch.equal(model.prompts.similarity.mask_downscaling[3].weight,
                       sam.prompt_encoder.mask_downscaling[3].weight)
    assert model.rates == {}
    monkeypatch.setattr('fsskit.fs_dino.load_sam', lambda name, weights: sam)
    rates = [FSDINO(tiny, 'matched', decoder=how, **{**RANDOM, 'sam': 'sam_tiny'}).rates
             for how in ('trained', 'output', 'frozen')]
    assert rates == 2 * [{'residual': 1e-2, 'decoder': 1e-4}] + [{'residual': 1e-2}]


# ---- the file of a head

def other(tiny, variant, file, **options):
    return FSDINO(tiny, variant, **{'head': file, 'adapter': 'random', 'sam': None, **options}).eval()


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_head_is_saved_and_loaded(tiny, tmp_path, variant):
    model = build(tiny, variant, topk=3)
    file = save_head(model, tmp_path / 'head.safetensors', HeadRecord(fold=2, classes={'world': ['b', 'a']}))
    loaded = other(tiny, None, file)
    batch = episodes(model)
    assert loaded.settings == model.settings and loaded.variant == variant
    assert (answer(model, batch) - answer(loaded, batch)).abs().max() < .02 * answer(model, batch).abs().max()
    assert sorted(loaded.seen_classes['world']) == ['a', 'b'] and loaded.head_id != 'untrained'
    assert loaded.describe()['head'] == loaded.head_id and loaded.learned == model.learned
    state = load_weights(file)
    assert state.keys() == head_state(model).keys()
    assert all(name.startswith(tuple(f'{part}.' for part in model.learned)) for name in state)
    assert {n for n, p in model.named_parameters() if p.requires_grad} <= set(state)
    assert other(tiny, variant, file, shots='vote', topk=3).shots == 'vote'


def test_a_trained_decoder_does_not_depend_on_the_seed(tiny, tmp_path):
    model = build(tiny, 'full', adapter='none')
    file, batch = save_head(model, tmp_path / 'head.safetensors'), episodes(model)
    loaded = other(tiny, None, file, adapter='none', seed=5)
    assert (answer(model, batch) - answer(loaded, batch)).abs().max() < .02 * answer(model, batch).abs().max()


def test_files_that_do_not_fit(tiny, tmp_path):
    file = save_head(build(tiny, 'compact'), tmp_path / 'head.safetensors')
    stranger, renamed = Tiny(), Tiny()
    stranger.weights_id, renamed.name = 'random-8', 'other'
    cases = [(lambda: other(tiny, 'full', file), "trained with variant='compact', not 'full'"),
             (lambda: other(tiny, None, file, semantic=False), 'trained with semantic=True, not False'),
             (lambda: other(tiny, None, file, widths=[3, 4]), r'trained with widths=\(8, 16, 32\), not \(3, 4\)'),
             (lambda: other(tiny, None, file, layers=[1]), r'trained with layers=\(0, 1, 2\), not \(1,\)'),
             (lambda: other(tiny, None, file, seed=1), 'was trained with parts='),
             (lambda: other(stranger, None, file), "trained with weights='random-7', not 'random-8'"),
             (lambda: other(renamed, None, file), "trained with backbone='tiny', not 'other'"),
             (lambda: other(tiny, None, tmp_path / 'none.safetensors'), 'cannot be read')]
    for call, words in cases:
        with pytest.raises(FSSKitError, match=words): call()


def test_a_file_of_another_model(tiny, tmp_path):
    model = build(tiny, 'compact')
    model.name = 'other'
    file = save_head(model, tmp_path / 'head.safetensors')
    with pytest.raises(FSSKitError, match="trained with model='other', not 'fs_dino'"): other(tiny, None, file)


# ---- the large encoder

def test_dinov2_b_with_random_weights():
    backbone = create_backbone('dinov2_vitb14', weights=None)
    model = FSDINO(backbone, head=None, adapter='random', sam=None, input_size=70)
    assert model.layers == tuple(range(12)) and model.settings.early == 2 and model.settings.widths == (16, 64, 128)
    assert sum(p.numel() for p in model.image.parameters()) == 1_250_048
    assert sum(p.numel() for p in model.decoder.parameters()) == 4_058_340
    compact = FSDINO(backbone, 'compact', head=None, adapter='random', sam=None)
    assert compact.input_size == 518 and sum(p.numel() for p in compact.parameters() if p.requires_grad) == 70_796
    batch = episodes(model, b=1, size=70)
    losses = episode_losses(model.episode_logits(batch), batch.target)
    losses['loss'].backward()
    assert torch.isfinite(losses['loss']) and model.prompts.correlation.project.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in backbone.parameters())
