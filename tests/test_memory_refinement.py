"""Memory refinement against a loop in numpy, its limits, and its gradients."""
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

import fsskit.memory_refinement as R
from fsskit.photos import FSSKitError
from fsskit.pseudo_prompts import resize


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def case(batch=2, shots=1, channels=6, grid=5, size=20, seed=0):
    """Arguments of `refine`: related memories, so that they agree somewhere."""
    common = draw(batch, channels, grid, grid, seed=seed)
    support = common[:, None] + .7 * draw(batch, shots, channels, grid, grid, seed=seed + 1)
    fg, disc = (common + .7 * draw(batch, channels, grid, grid, seed=seed + n) for n in (2, 3))
    rng = np.random.default_rng(seed)
    masks = torch.from_numpy((rng.random((batch, shots, size, size)) > .5).astype(np.uint8))
    masks[..., :4, :4] = 255
    priors = [torch.from_numpy(rng.random((batch, size, size)).astype(np.float32)) for _ in range(2)]
    return [support, masks, fg, disc, *priors]


def slow_cosine(memory, weights, query):
    prototype = (memory * weights).sum((1, 2)) / (weights.sum() + 5e-4)
    cosine = np.tensordot(prototype, query, 1) / (np.linalg.norm(prototype) * np.linalg.norm(query, axis=0) + 1e-7)
    return slow_stretch(cosine)


def slow_stretch(x): return (x - x.min()) / (x.max() - x.min() + 1e-7)


def slow_refine(support, masks, fg, disc, fg_prior, disc_prior, steps, version):
    """One episode on the grid, in double precision, place by place. Returns memory, prior and agreement of every step."""
    a_qs = np.mean([slow_cosine(s, m, fg) for s, m in zip(support, masks)], 0)
    found = [(disc.copy(), disc_prior.copy(), np.zeros_like(disc_prior))]
    for _ in range(steps):
        memory, prior, _ = found[-1]
        a_qq, memory, prior, share = slow_cosine(memory, prior, fg), memory.copy(), prior.copy(), np.zeros_like(prior)
        for i in np.ndindex(prior.shape): share[i] = max(0, a_qq[i] + a_qs[i] - 1)
        if version == 'v2': share = slow_stretch(share)
        for i in np.ndindex(prior.shape):
            memory[:, *i] = share[i] * fg[:, *i] + (1 - share[i]) * memory[:, *i]
            prior[i] = share[i] * fg_prior[i] + (1 - share[i]) * prior[i]
        found.append((memory, slow_stretch(prior), share))
    return found


@pytest.mark.parametrize('version', ['v1', 'v2'])
@pytest.mark.parametrize('shots, steps', [(1, 3), (3, 2), (2, 1)])
def test_against_loops(shots, steps, version):
    args = case(shots=shots)
    found = R.refine(*args, steps=steps, version=version)
    grid = lambda values: resize(torch.where(values == 255, 0, values.float()), (5, 5)).numpy().astype(float)
    support, masks, fg, disc, *priors = (np.asarray(x, float)
                                         for x in (args[0], grid(args[1]), *args[2:4], *map(grid, args[4:])))
    assert len(found) == steps + 1
    for b in range(2):
        wanted = slow_refine(support[b], masks[b], fg[b], disc[b], priors[0][b], priors[1][b], steps, version)
        for ours, theirs in zip(found, wanted):
            for a, c in zip(ours, theirs): assert np.allclose(a[b], c, atol=1e-5)
    assert found[-1].agreement.max() > .05


def test_no_step_leaves_memory_untouched():
    args = case()
    only, = R.refine(*args, steps=0)
    assert only.memory is args[3] and only.agreement.abs().max() == 0
    assert torch.equal(only.prior, resize(args[5], (5, 5)))
    assert R.refine(*args, steps=2)[0].memory is args[3]


def test_three_steps_are_the_default_and_begin_alike():
    args = case()
    assert len(R.refine(*args)) == 4
    for a, b in zip(R.refine(*args, steps=1), R.refine(*args)): assert torch.equal(a.memory, b.memory)


def test_shares_and_hull():
    """A is a share, and every place lies between the two memories and the two priors."""
    args = case(seed=7)
    found, fg = R.refine(*args, steps=4), args[2]
    fg_prior = resize(args[4], (5, 5))
    for before, after in zip(found, found[1:]):
        share = after.agreement
        assert share.min() >= 0 and share.max() <= 1 and share.max() > 0
        low, high = torch.minimum(fg, before.memory), torch.maximum(fg, before.memory)
        assert (after.memory >= low - 1e-6).all() and (after.memory <= high + 1e-6).all()
        mixed = share * fg_prior + (1 - share) * before.prior
        assert (mixed >= torch.minimum(fg_prior, before.prior) - 1e-6).all()
        assert (mixed <= torch.maximum(fg_prior, before.prior) + 1e-6).all()
        assert torch.equal(after.memory[(share == 0)[:, None].expand_as(fg)],
                           before.memory[(share == 0)[:, None].expand_as(fg)])
        assert after.prior.min() == 0 and after.prior.max() == pytest.approx(1, abs=1e-5)


def test_copies_of_one_support_are_one_support():
    one = case(shots=1)
    four = [one[0].repeat(1, 4, 1, 1, 1), one[1].repeat(1, 4, 1, 1), *one[2:]]
    assert torch.allclose(R.support_agreement(one[2], *one[:2]), R.support_agreement(one[2], *four[:2]), atol=1e-6)
    for a, b in zip(R.refine(*one), R.refine(*four)): assert torch.allclose(a.memory, b.memory, atol=1e-5)


def test_order_of_supports_does_not_matter():
    args = case(shots=3)
    turned = [args[0].flip(1), args[1].flip(1), *args[2:]]
    assert torch.allclose(R.refine(*args)[-1].memory, R.refine(*turned)[-1].memory, atol=1e-5)


@pytest.mark.parametrize('kind', ['empty', 'vanishing', 'no prior'])
def test_degenerate_input_is_finite_and_neutral(kind):
    args = case(batch=1)
    if kind == 'no prior': args[5] = torch.zeros_like(args[5])
    else:
        args[1] = torch.zeros_like(args[1])
        if kind == 'vanishing': args[1][..., 2, 2] = 1  # between the places of the grid
    for memory in args[2:4]: memory.requires_grad_()
    found = R.refine(*args)[-1]
    found.memory.sum().add(found.prior.sum()).backward()
    assert all(x.isfinite().all() for x in (*found, args[2].grad, args[3].grad))
    assert torch.equal(found.memory, args[3]) and found.agreement.abs().max() == 0


def test_a_shot_without_foreground_has_no_say():
    two = case(shots=2)
    two[1][:, 1] = 0
    one = [two[0][:, :1], two[1][:, :1], *two[2:]]
    assert torch.allclose(R.refine(*two)[-1].memory, R.refine(*one)[-1].memory, atol=1e-6)


@pytest.mark.filterwarnings('ignore:Input')
def test_gradients_flow_through_the_cosines():
    """Finite differences: nothing is detached. The places where ReLU bends are avoided by the seed."""
    torch.manual_seed(0)
    support, fg, disc = (torch.randn(1, *shape, requires_grad=True) for shape in ((1, 3, 2, 2), (3, 2, 2), (3, 2, 2)))
    masks, priors = torch.tensor([[[[1., 0.], [1., .5]]]]), torch.rand(2, 1, 2, 2)
    run = lambda s, f, d: R.refine(s, masks, f, d, *priors, steps=2)[-1][:2]
    assert gradcheck(run, (support, fg, disc), eps=1e-3, atol=5e-2, rtol=5e-2, nondet_tol=0.)
    run(support, fg, disc)[0].sum().backward()
    assert all(x.grad.abs().max() > 0 for x in (support, fg, disc))


@pytest.mark.parametrize('options', [dict(steps=-1), dict(version='v3')])
def test_errors(options):
    with pytest.raises(FSSKitError, match='wanted 0 or more steps'): R.refine(*case(), **options)


def test_shapes_that_do_not_fit():
    args = case()
    with pytest.raises(FSSKitError, match='support features'): R.refine(args[0][:, 0], *args[1:])
    with pytest.raises(FSSKitError, match='support masks'): R.refine(args[0], args[1][:, 0], *args[2:])
