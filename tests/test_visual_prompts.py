"Tests of fsskit.visual_prompts: tokens and dense prompts against numpy, SAM, and each other."
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fsskit.photos import FSSKitError
from fsskit.sam import load_sam
from fsskit.visual_prompts import (CorrelationPrompt, DensePrompt, SemanticPrompt, Shares, VisualPromptGenerator,
                                   prototype_similarity, shot_prototypes, start_from_sam, support_shares)


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def some_shares(b, k, h, w, seed=0):
    masks = (rand(b * k, 4 * h, 4 * w, seed=seed) > .3).float()
    return Shares(*(s.view(b, k, h, w) for s in support_shares(masks, (h, w))))


@pytest.fixture(scope='module')
def sam(): return load_sam('sam_tiny', None)


# ---- shares

def test_shares_of_an_ordinary_mask_are_areas():
    mask = np.random.default_rng(0).integers(0, 2, (12, 8))
    mask[:2, :2] = 255
    shares = support_shares(torch.from_numpy(mask)[None], (3, 2))
    for y, x in np.ndindex(3, 2):
        cell = mask[4 * y:4 * y + 4, 4 * x:4 * x + 4]
        assert shares.foreground[0, y, x] == pytest.approx((cell == 1).mean())
        assert shares.background[0, y, x] == pytest.approx((cell == 0).mean())


def test_shares_keep_small_objects_and_stay_complementary():
    mask = torch.zeros(2, 32, 32)
    mask[0, 5:7, 9:12] = 1  # 6 of 64 pixels of a cell
    mask[0, 8:9, 9:12] = 1  # 3 of the cell below
    mask[1, :16] = 1
    shares = support_shares(list(mask), (4, 4))
    assert shares.foreground[0, 0, 1] == 1 and shares.foreground[0, 1, 1] == pytest.approx(.5)
    assert (shares.foreground + shares.background <= 1 + 1e-6).all()
    assert torch.equal(shares.foreground[1], torch.cat([torch.ones(2, 4), torch.zeros(2, 4)]))
    assert shares.background[0, 3, 3] == 1 and shares.background[0, 0, 1] == 0


def test_shares_of_an_empty_mask_are_zero():
    shares = support_shares(torch.zeros(1, 8, 8), (2, 2))
    assert shares.foreground.abs().max() == 0 and (shares.background == 1).all()
    assert support_shares(torch.full((1, 8, 8), 255), (2, 2)).background.abs().max() == 0


# ---- prototypes and tokens

def test_prototypes_pooled_and_by_shot_against_numpy():
    features, shares = rand(2, 3, 5, 4, 6), some_shares(2, 3, 4, 6)
    pooled, each = (shot_prototypes(features, shares.foreground, how).numpy() for how in ('pool', 'concat'))
    unit = features.numpy() / np.linalg.norm(features.numpy(), axis=2, keepdims=True)
    sums = np.einsum('bkchw,bkhw->bkc', unit, shares.foreground.numpy())
    for b in range(2):
        assert np.allclose(pooled[b, 0], sums[b].sum(0) / np.linalg.norm(sums[b].sum(0)), atol=1e-5)
        for k in range(3): assert np.allclose(each[b, k], sums[b, k] / np.linalg.norm(sums[b, k]), atol=1e-5)


def test_prototypes_errors_and_nothing_marked():
    features = rand(1, 1, 5, 2, 2)
    with pytest.raises(FSSKitError, match="shots='mean' is not known: choose 'pool' or 'concat'"):
        shot_prototypes(features, torch.ones(1, 1, 2, 2), 'mean')
    assert shot_prototypes(features, torch.zeros(1, 1, 2, 2)).abs().max() == 0


def test_semantic_prompt_size_of_the_specification():
    token = SemanticPrompt(768)
    assert sum(p.numel() for p in token.project.parameters()) == 65_856
    compact = VisualPromptGenerator(768)
    count = sum(p.numel() for p in compact.parameters())
    assert count == 65_856 + 256 + 4_684 and round(count / 1e6, 2) == .07


def test_semantic_prompt_by_hand():
    net, features, shares = SemanticPrompt(6, 4, 10, background=True,
                                           shots='concat'), rand(2, 3, 6, 4, 5), some_shares(2, 3, 4, 5)
    tokens = net(features, shares)
    assert tokens.shape == (2, 6, 10)
    for n, share in enumerate(shares):
        p = shot_prototypes(features, share, 'concat') * 6 ** .5
        wanted = net.project[2](F.gelu(net.project[0](p))) + net.kind.weight[n]
        assert torch.allclose(tokens[:, 3 * n:3 * n + 3], wanted, atol=1e-6)


def test_semantic_prompt_gradient():
    net = SemanticPrompt(3, 4, 5, background=True).double()
    features, shares = rand(1, 2, 3, 2, 3, dtype=torch.float64), some_shares(1, 2, 2, 3)
    shares = Shares(*(s.double() for s in shares))
    assert torch.autograd.gradcheck(lambda f: net(f, shares), features.requires_grad_())


# ---- similarity and dense prompts

def test_prototype_similarity_against_numpy():
    query, prototypes = rand(2, 5, 3, 4), F.normalize(rand(2, 2, 5, seed=1), dim=2)
    got = prototype_similarity(query, prototypes).numpy()
    for b in range(2):
        unit = query[b].numpy() / np.linalg.norm(query[b].numpy(), axis=0)
        mean = np.einsum('nc,chw->hw', prototypes[b].numpy(), unit) / 2
        assert np.allclose(got[b], (mean - mean.min()) / np.ptp(mean), atol=1e-5)
    assert got.min() == 0 and got.max() == pytest.approx(1, abs=1e-5)


def test_dense_prompt_is_sams(sam):
    prompt = DensePrompt()
    assert sum(p.numel() for p in prompt.parameters()) == 4_684
    prompt.mask_downscaling.load_state_dict(sam.prompt_encoder.mask_downscaling.state_dict())
    rough = rand(2, 1, 36, 52)
    assert torch.allclose(prompt(rough, (9, 13)), sam.prompt_encoder._embed_masks(10 * rough), atol=1e-4)
    small = rand(2, 1, 9, 13, seed=1)
    large = F.interpolate(small, (36, 52), mode='bilinear', align_corners=False)
    assert torch.allclose(prompt(small, (9, 13)), prompt(large, (9, 13)), atol=1e-6)


def test_correlation_prompt_starts_at_zero_and_learns():
    prompt, branch = CorrelationPrompt(4, 6), rand(2, 4, 3, 5)
    assert prompt(branch, (3, 5)).abs().max() == 0
    prompt(branch, (3, 5)).sum().backward()
    assert torch.allclose(prompt.project.weight.grad[0, :, 0, 0], branch.sum((0, 2, 3)), atol=1e-4)
    with torch.no_grad(): prompt.project.weight.copy_(rand(6, 4, 1, 1))
    wanted = torch.einsum('oc,bchw->bohw', prompt.project.weight[..., 0, 0], branch)
    assert torch.allclose(prompt(branch, (3, 5)), wanted, atol=1e-5)
    assert torch.allclose(prompt(branch, (6, 10)), F.interpolate(wanted, (6, 10), mode='bilinear'), atol=1e-5)


# ---- the generator

PARTS = [dict(), dict(semantic=False), dict(maps=2), dict(maps=0, width=4), dict(maps=1, width=4, background=True),
         dict(semantic=False, maps=0), dict(maps=0, width=4, shots='concat')]


def build(parts, seed=0):
    torch.manual_seed(seed)
    generator = VisualPromptGenerator(6, hidden=4, out=16, **parts)
    if generator.correlation is not None: torch.nn.init.normal_(generator.correlation.project.weight)
    return generator


def inputs(parts, b=2, k=3, h=4, w=6):
    maps = rand(b, n, 3 * h, 3 * w, seed=2) if (n := parts.get('maps', 1)) else None
    correlation = rand(b, parts['width'], h, w, seed=3) if 'width' in parts else None
    return [rand(b, k, 6, h, w), some_shares(b, k, h, w), maps, correlation]


def one(b, values):
    return [None if v is None else Shares(*(s[b:b + 1] for s in v)) if isinstance(v, Shares) else v[b:b + 1]
            for v in values]


@pytest.mark.parametrize('parts', PARTS, ids=str)
def test_batch_is_a_stack_of_singles(parts):
    generator, values = build(parts), inputs(parts)
    together = generator(*values)
    for b in range(2):
        alone = generator(*one(b, values))
        assert torch.allclose(alone.sparse, together.sparse[b:b + 1], atol=1e-6)
        assert torch.allclose(alone.dense, together.dense[b:b + 1], atol=1e-5)
        assert torch.equal(alone.weight, together.weight)


@pytest.mark.parametrize('parts', PARTS, ids=str)
def test_what_each_part_gives(parts):
    generator, (features, shares, maps, correlation) = build(parts), inputs(parts)
    prompts, grid = generator(features, shares, maps, correlation), (4, 6)
    tokens = generator.semantic(features, shares) if parts.get('semantic', True) else torch.zeros(2, 0, 16)
    dense = (generator.similarity(maps, grid) if parts.get('maps', 1)
             else generator.no_mask_embed.weight[0][None, :, None, None].expand(2, -1, *grid))
    if 'width' in parts: dense = dense + generator.correlation(correlation, grid)
    assert torch.equal(prompts.sparse, tokens) and torch.equal(prompts.dense, dense)
    share = 1 / 3 if parts.get('shots') == 'concat' else 1
    assert prompts.weight.tolist() == pytest.approx([share] * tokens.shape[1])
    prompts.sparse.sum().backward() if tokens.shape[1] else None
    prompts.dense.sum().backward()
    assert all(p.grad is not None for p in generator.parameters())


@pytest.mark.parametrize('shots', ['pool', 'concat'])
def test_equal_supports_are_one(shots):
    generator = build(dict(maps=0, background=True, shots=shots))
    features, shares = rand(2, 1, 6, 4, 6), some_shares(2, 1, 4, 6)
    many = Shares(*(s.repeat(1, 3, 1, 1) for s in shares))
    single, repeated = generator(features, shares), generator(features.repeat(1, 3, 1, 1, 1), many)
    wanted = single.sparse if shots == 'pool' else single.sparse.repeat_interleave(3, 1)
    assert torch.allclose(repeated.sparse, wanted, atol=1e-5)
    assert repeated.weight.sum() == pytest.approx(2)


def test_an_empty_mask_gives_finite_prompts():
    generator, shares = build(dict(background=True)), Shares(torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 4, 6))
    prompts = generator(rand(1, 1, 6, 4, 6), shares, torch.zeros(1, 1, 4, 6))
    silent = generator.semantic.project(torch.zeros(6)) + generator.semantic.kind.weight
    assert torch.allclose(prompts.sparse[0], silent, atol=1e-6) and torch.isfinite(prompts.dense).all()


def test_a_second_size_after_the_first():
    generator = build(dict(maps=1, width=4))
    first = generator(*inputs(dict(maps=1, width=4)))
    generator(*inputs(dict(maps=1, width=4), h=7, w=3))
    again = generator(*inputs(dict(maps=1, width=4)))
    assert torch.equal(first.dense, again.dense) and torch.equal(first.sparse, again.sparse)


@pytest.mark.parametrize('parts, given, words', [
    (dict(maps=1), (None, None), "0 of kind 'similarity maps' given, 1 wanted"),
    (dict(maps=1), (2, None), "2 of kind 'similarity maps' given, 1 wanted"),
    (dict(maps=0), (1, None), "1 of kind 'similarity maps' given, 0 wanted"),
    (dict(maps=0), (None, 4), "1 of kind '4D branch' given, 0 wanted"),
    (dict(maps=0, width=4), (None, None), "0 of kind '4D branch' given, 1 wanted")])
def test_parts_that_do_not_fit(parts, given, words):
    maps, correlation = (None if n is None else torch.zeros(1, n, 4, 6) for n in given)
    with pytest.raises(FSSKitError, match=words):
        build(parts)(rand(1, 1, 6, 4, 6), some_shares(1, 1, 4, 6), maps, correlation)


def test_start_from_sam(sam):
    features, shares = rand(1, 1, 6, 4, 4), some_shares(1, 1, 4, 4)
    two = VisualPromptGenerator(6, maps=2)
    start_from_sam(two, sam.prompt_encoder)
    maps = rand(1, 2, 16, 16)
    assert torch.allclose(two(features, shares, maps).dense, sam.prompt_encoder._embed_masks(10 * maps[:, :1]),
                          atol=1e-4)
    none = VisualPromptGenerator(6, maps=0)
    start_from_sam(none, sam.prompt_encoder)
    wanted = sam.prompt_encoder(None, torch.zeros(1, 4), None)[1][..., :4, :4]
    assert torch.equal(none(features, shares).dense, wanted)
    with pytest.raises(FSSKitError, match='This SAM has 256 channels, the prompts have 16'):
        start_from_sam(build({}), sam.prompt_encoder)
