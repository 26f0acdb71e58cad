"""Propagation against the package's video predictor; lessons, losses and the training of tiny SAM 2."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from PIL import Image

import fsskit.propagation as P
from fsskit.cutouts import copy_first_iou, crop_thing, CutoutPool, Picture
from fsskit.embedded import EmbeddedViT
from fsskit.memory import encode_memory, image_features
from fsskit.photos import FSSKitError
from fsskit.sam2 import load_sam2, sam2_config
from fsskit.training import fit, learned_parameters, one_step, read_log, set_training


@pytest.fixture(scope='module')
def tiny():
    return load_sam2('sam2_tiny', None, seed=1, image_size=64)


@pytest.fixture(scope='module')
def clip():
    """Five frames of noise that moves, and the mask of a square that moves along."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 120, (64, 64, 3), dtype=np.uint8)
    patch = rng.integers(130, 256, (20, 24, 3), dtype=np.uint8)
    frames, masks = np.repeat(ground[None], 5, 0), np.zeros((5, 64, 64), np.uint8)
    for t in range(5):
        frames[t, 8 + 6 * t:28 + 6 * t, 4 + 7 * t:28 + 7 * t] = patch
        masks[t, 8 + 6 * t:28 + 6 * t, 4 + 7 * t:28 + 7 * t] = 1
    return frames, masks


@pytest.fixture(scope='module')
def pool():
    """Three bright shapes of two classes on noise."""
    rng, pictures = np.random.default_rng(1), []
    y, x = np.mgrid[:80, :100]
    for n, name in enumerate(('ball', 'ball', 'stick')):
        mask = ((x - 50) / (30 - 8 * n)) ** 2 + ((y - 40) / 25) ** 2 < 1
        image = rng.integers(0, 100, (80, 100, 3), dtype=np.uint8)
        image[mask] = rng.integers(100, 255, 3)
        pictures.append(Picture(image, (crop_thing(mask, name),)))
    return CutoutPool(pictures)


def small_plan(pool, **changes):
    return P.LessonPlan(**dict(frames=3, size=64, canvas=80, clips=1, reels=20, pool=pool, cutouts=1.) | changes)


def features_of(model, clip):
    return [image_features(model, P.clip_tensor(clip[0][t:t + 1])) for t in range(len(clip[0]))]


class TestPropagation:
    @pytest.mark.parametrize('name', ['sam2_tiny', 'sam2.1_hiera_t'])
    def test_equals_the_video_predictor(self, name, clip, tmp_path):
        """The package's predictor, on the CPU, with the same weights; its frames are replaced by ours, JPEG would change them."""
        frames, masks = clip
        ours = load_sam2(name, None, seed=2, image_size=64)
        with torch.no_grad(): ours.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(2.)
        config = sam2_config(name, 64)
        config._target_ = 'sam2.sam2_video_predictor.SAM2VideoPredictor'
        stock = instantiate(config, _recursive_=True).eval()
        stock.load_state_dict(ours.state_dict())
        for t, frame in enumerate(frames): Image.fromarray(frame).save(tmp_path / f'{t}.jpg')
        state = stock.init_state(str(tmp_path))
        mean, std = torch.tensor([.485, .456, .406]), torch.tensor([.229, .224, .225])
        state['images'] = (P.clip_tensor(frames) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        state['cached_features'].clear()
        stock.add_new_mask(state, 0, 1, torch.from_numpy(masks[0] == 1))
        wanted = np.stack([logits[0, 0].numpy() for _, _, logits in stock.propagate_in_video(state)])
        found = P.propagate(ours, frames, masks[0], like_predictor=True, logits=True)
        assert np.allclose(found, wanted, atol=1e-4) and np.ptp(wanted[1:]) > 0

    def test_masks_are_the_signs_of_the_logits(self, tiny, clip):
        logits = P.propagate(tiny, *[clip[0], clip[1][0]], logits=True)
        masks = P.propagate(tiny, clip[0], clip[1][0])
        assert np.array_equal(masks[0], clip[1][0])
        assert np.array_equal(masks[1:], logits[1:] > 0)
        assert masks.dtype == np.uint8

    def test_any_size_of_frame(self, tiny):
        frames = np.random.default_rng(0).integers(0, 256, (3, 40, 72, 3), dtype=np.uint8)
        mask = np.zeros((40, 72), np.uint8)
        mask[5:20, 8:30] = 1
        assert P.propagate(tiny, frames, mask).shape == (3, 40, 72)

    def test_the_bank_forgets_without_changing_the_answer(self, clip):
        """21 frames: what is thrown away is never read."""
        model = load_sam2('sam2_tiny', None, image_size=64)
        features = (features_of(model, clip) * 5)[:21]
        first, bank, wanted = torch.from_numpy(clip[1][:1]).float(), {'cond_frame_outputs': {},
                                                                      'non_cond_frame_outputs': {}}, []
        with torch.no_grad():
            for t, f in enumerate(features):
                out = model.track_step(t, t == 0, f.maps, f.positions, f.sizes, None,
                                       first[:, None] if t == 0 else None, bank, 21)
                bank['non_cond_frame_outputs' if t else 'cond_frame_outputs'][t] = out
                wanted.append(out['pred_masks'])
            found = [seen.mask for seen in P.track(model, features, first, 21)]
        assert all(torch.equal(a, b) for a, b in zip(found, wanted)) and len(found) == 21

    @pytest.mark.parametrize('frames, mask, words', [
        (np.zeros((2, 8, 8, 3)), np.ones((8, 8)), 'uint8 array'), ([1], np.ones((8, 8)), 'list'),
        (np.zeros((0, 8, 8, 3), np.uint8), np.ones((8, 8)), 'at least one'),
        (np.zeros((2, 8, 8, 3), np.uint8), np.ones((8, 9)), 'shape'),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8)), 'no pixel')])
    def test_errors(self, tiny, frames, mask, words):
        with pytest.raises(FSSKitError, match=words): P.propagate(tiny, frames, mask)

    def test_region_iou(self):
        a, b = np.zeros((3, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8)
        a[0, :2], b[0, 1:3], a[1, 0, 0] = 1, 1, 1
        assert np.allclose(P.region_iou(a, b), [1 / 3, 0, 1])


def moving_square(speed=6, size=64, side=20):
    """A film whose brightness is its label: 200 the hero, 100 a second object."""
    labels = np.zeros((P.LENGTH, size, size), np.uint8)
    for t in range(P.LENGTH):
        labels[t, 4 + speed * t:4 + speed * t + side, 10:10 + side] = 1
        labels[t, 40:60, 40:60] = 2
    return P.Film(np.repeat((labels * 100)[..., None], 3, -1), labels)


class TestLessons:
    def test_a_key_decides(self, pool):
        plan = small_plan(pool, absent=1.)
        a, b, c = (P.training_clip(plan, 0, 5, k) for k in (1, 1, 2))
        assert np.array_equal(a.frames, b.frames)
        assert np.array_equal(a.masks, b.masks)
        assert not np.array_equal(a.frames, c.frames)
        assert a.frames.shape == (3, 64, 64, 3)
        assert (a.masks[:, 1:].sum((2, 3)) == 0).any(1).all()
        assert a.masks[:, 0].any((1, 2)).all()
        again = P.training_clip(small_plan(pool, absent=1.), 0, 5, 1)  # films do not depend on what was drawn before
        assert np.array_equal(a.frames, again.frames)

    def test_only_pretraining_classes_are_drawn(self, monkeypatch, pool):
        asked = []
        def spy(class_id, index, frames, size):
            asked.append((class_id, index))
            return type('V', (), dict(frames=np.zeros((frames, size, size, 3), np.uint8),
                                      masks=np.ones((frames, size, size), np.uint8)))
        monkeypatch.setattr(P, 'video', spy)
        plan = small_plan(None, clips=7)
        for k in range(60): P.training_clip(plan, k)
        assert {c for c, _ in asked} <= set(range(P.N_CLASSES, len(P.CLASS_NAMES)))
        assert {i for _, i in asked} <= set(range(7))
        assert len({c for c, _ in asked}) > 10
        assert len(asked) == len(set(asked)) == len(plan.drawn)  # each film is drawn once

    def test_both_sources_are_used(self, pool):
        plan = small_plan(pool, cutouts=.5, canvas=64)
        for k in range(8): P.training_clip(plan, k)
        assert {source for source, _ in plan.drawn} == {'world', 'cutouts'}

    def test_frames_and_masks_stay_together(self):
        """Brightness tells the label: windows, order and mirrors must keep that."""
        film, kinds, seen = moving_square(), set(), []
        for n in range(20):
            lesson = P.lesson_from(film, np.random.default_rng(n), 4, 48)
            assert lesson.frames.shape == (4, 48, 48, 3) and lesson.masks.shape[1:] == (4, 48, 48)
            for mask in lesson.masks:
                value = int(np.median(lesson.frames[mask][:, 0]))
                assert ((lesson.frames[...,
                                       0] == value) == mask).mean() > .96  # edges are blurred where the window shrinks
            kinds.add((len(lesson.masks), int(np.median(lesson.frames[lesson.masks[0]][:, 0]))))
            seen.append(lesson.masks[0, 0].sum())
        assert kinds == {(2, 100), (2, 200)} and 400 * (48 / 64) ** 2 - 60 <= min(seen) < 300 < max(seen) <= 400

    def test_order_of_frames(self):
        """Each frame has its time as brightness: chosen frames are in order, forwards or backwards."""
        labels = np.ones((P.LENGTH, 40, 40), np.uint8)
        film, seen = P.Film(np.broadcast_to(10 * np.arange(P.LENGTH, dtype=np.uint8)[:, None, None, None],
                                            (P.LENGTH, 40, 40, 3)), labels), set()
        for n in range(30):
            times = P.lesson_from(film, np.random.default_rng(n), 5, 32).frames[:, 0, 0, 0].astype(int)
            assert len(set(times)) == 5 and abs(np.sign(np.diff(times)).sum()) == 4
            seen.add(np.sign(times[1] - times[0]))
        assert seen == {1, -1}

    def test_tiny_objects_are_followed_only_when_there_is_no_other(self):
        labels = np.zeros((P.LENGTH, 64, 64), np.uint8)
        labels[:, 5:7, 5:7], labels[:, 20:40, 20:40] = 1, 2
        only = labels.copy()
        only[labels == 2] = 0
        film = lambda labels: P.Film(np.repeat((labels * 100)[..., None], 3, -1), labels)
        heroes = [P.lesson_from(film(labels), np.random.default_rng(n), 2, 48) for n in range(10)]
        assert all(200 < h.masks[0, 0].sum() <= 400 for h in heroes)
        assert 1 <= P.lesson_from(film(only), np.random.default_rng(0), 2, 48).masks[0, 0].sum() <= 4

    def test_camera_moves_the_object_and_stays_inside(self):
        """The object never leaves the film, and a copy of its first mask is a bad answer although it stands still."""
        mask = np.zeros((5, 160, 160), bool)
        mask[:, 60:90, 70:100] = True
        copies = []
        for n in range(40):
            corners = P.camera(np.random.default_rng(n), mask, 96)
            assert corners.shape == (5, 2) and corners.min() >= 0 and corners.max() <= 64
            seen = np.stack([m[y:y + 96, x:x + 96] for m, (y, x) in zip(mask, corners)])
            assert seen[0].mean() > .05
            copies.append(copy_first_iou(seen))
        assert np.mean(copies) < .4

    def test_light_changes_without_clipping_order(self):
        frames = np.full((3, 4, 4, 3), 100, np.uint8)
        lit = P.jitter(frames, np.random.default_rng(0))
        assert lit.dtype == np.uint8
        assert not np.array_equal(lit, frames)
        assert all(len(np.unique(f[..., 0])) == 1 for f in lit)

    def test_a_lesson_without_object_is_drawn_again(self, monkeypatch, pool):
        empty = P.Lesson(np.zeros((3, 64, 64, 3), np.uint8), np.zeros((1, 3, 64, 64), bool))
        good, calls = empty._replace(masks=np.ones((1, 3, 64, 64), bool)), []
        monkeypatch.setattr(P, 'lesson_from', lambda *_: calls.append(0) or (good if len(calls) == 3 else empty))
        assert P.raw_lesson(small_plan(pool), np.random.default_rng(0)).masks.all() and len(calls) == 3
        calls[:] = [0] * 10
        assert not P.raw_lesson(small_plan(pool), np.random.default_rng(0)).masks.any() and len(calls) == 18

    def test_batches_share_frames(self, tiny, pool):
        lessons = [P.training_clip(small_plan(pool, absent=0.), 3, k) for k in range(3)]
        images, masks, owner = P.batch_of(lessons)
        assert images.shape == (3, 3, 3, 64, 64) and masks.shape[1] == len(owner) == sum(len(l.masks) for l in lessons)
        features = P.spread(image_features(tiny, images.flatten(0, 1)), 3, owner)
        o = len(owner) - 1
        alone = image_features(tiny, images[1, owner[o]][None])
        for a, b in zip(features[1].maps + features[1].positions, alone.maps + alone.positions):
            assert torch.allclose(a[:, o], b[:, 0], atol=1e-4)
        assert torch.equal(masks[2, o], torch.from_numpy(lessons[-1].masks[-1, 2]).float())


class TestLosses:
    def test_focal_is_torchvisions_without_alpha(self):
        from torchvision.ops import sigmoid_focal_loss
        draw = torch.Generator().manual_seed(0)
        logits, target = torch.randn(2, 3, 5, 6, generator=draw), (torch.rand(2, 5, 6, generator=draw) < .4).float()
        wanted = sigmoid_focal_loss(logits, target[:, None].expand_as(logits), -1, 2.).mean((2, 3))
        dice = 1 - torch.stack([(2 * (p * target).sum((1, 2)) + 1) / (p.sum((1, 2)) + target.sum((1, 2)) + 1)
                                for p in logits.sigmoid().unbind(1)], 1)
        best = (20 * wanted + dice).argmin(1)
        parts = P.frame_losses(self.seen(logits, torch.full((2, 3), .5), torch.zeros(2, 1)), target)
        mix = lambda cost: (.8 * cost[torch.arange(2), best] + .2 * cost.mean(1)).mean().item()
        assert parts['focal'].item() == pytest.approx(mix(wanted), rel=1e-5)
        assert parts['dice'].item() == pytest.approx(mix(dice), rel=1e-5)

    def seen(self, full, ious, score):
        return P.Tracked(None, full, ious, None, None, None, score)

    def test_best_of_three_by_hand(self):
        target = torch.zeros(2, 4, 4)
        target[0, :2] = 1
        sign = 2 * target[:, None] - 1
        full = torch.cat([9 * sign, -9 * sign, 0 * sign], 1)
        ious, score = torch.tensor([[.9, .2, .5], [.5, .5, .5]]), torch.tensor([[2.], [-1.]])
        parts = P.frame_losses(self.seen(full, ious, score), target)
        dice = P.dice_loss(full[:1], target[:1, None].expand(1, 3, 4, 4))[0]
        assert parts['dice'].item() == pytest.approx((.8 * dice[0] + .2 * dice.mean()).item())
        truth = torch.tensor([1., 0., 0.])
        assert parts['iou'].item() == pytest.approx(F.binary_cross_entropy(ious[0], truth).item(), abs=1e-5)
        assert parts['score'].item() == pytest.approx(np.mean([np.log1p(np.exp(-2)), np.log1p(np.exp(-1))]), abs=1e-6)

    def test_all_hidden_is_finite(self):
        full = torch.full((2, 3, 4, 4), -1024.)
        parts = P.frame_losses(self.seen(full, torch.full((2, 3), .5), torch.tensor([[-3.], [-2.]])),
                               torch.zeros(2, 4, 4))
        assert parts['dice'] == parts['focal'] == parts['iou'] == 0 and torch.isfinite(parts['score'])


class TestPrompted:
    def test_gives_the_pointer_of_a_given_mask_unless_the_score_says_no(self, clip):
        model, mask = P.new_tiny(64, 0), torch.from_numpy(clip[1][:1]).float()
        with torch.no_grad():
            first = image_features(model, P.clip_tensor(clip[0][:1]))
            bias = model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
            for value in (20., -20.):
                bias.fill_(value)
                seen, pointer = P.prompted(model, first, mask), encode_memory(model, first, mask).pointer
                assert seen.full.shape == (1, 1, 64, 64)
                assert torch.equal(seen.pointer, pointer)
                assert (seen.score > 0) == (value > 0)
                assert torch.equal(pointer, model.no_obj_ptr) == (value < 0)

    def test_the_first_frame_teaches_its_own_pointer(self, pool):
        """While the decoder sees no object, nothing else reaches the layer that makes a mask prompt small."""
        task = P.Sam2Task(P.new_tiny(64, 0), small_plan(pool), batch=2, helps=0, pairs=0)
        with torch.no_grad(): task.model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(-20)
        task(0)['loss'].backward()
        assert task.model.mask_downsample.weight.grad.abs().max() > 0


class TestTraining:
    def task(self, pool, seed=0, teacher=None, batch=2, **changes):
        torch.manual_seed(seed)
        return P.Sam2Task(P.new_tiny(64, seed), small_plan(pool, **changes), seed, batch, teacher, 1,
                          1 if teacher else 0, 4, held_out=2)

    def test_new_tiny_believes_in_background_and_presence(self):
        before = torch.get_rng_state()
        model = P.new_tiny(64, 0)
        assert torch.equal(before, torch.get_rng_state())
        frames = [image_features(model, torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(n)))
                  for n in range(2)]
        mask = torch.zeros(4, 64, 64)
        mask[:, 10:30, 10:30] = 1
        with torch.no_grad(): seen = list(P.track(model, frames, mask, 2))[1]
        assert (seen.score > 0).all() and (seen.candidates > 0).float().mean() < .1 and (seen.candidates > -30).all()

    def test_gradients_reach_everything(self, pool):
        task = self.task(pool, absent=0.)
        set_training(task)
        task(5)['loss'].backward()
        silent = {name for name, p in task.model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        reached = lambda part: sum(p.grad.abs().sum().item() for p in getattr(task.model, part).parameters()
                                   if p.grad is not None)
        assert min(map(reached, ('memory_attention', 'memory_encoder', 'obj_ptr_proj', 'mask_downsample',
                                 'image_encoder'))) > 0
        assert {'no_mem_embed', 'no_mem_pos_enc'} <= silent
        assert not any(name.startswith(('memory_attention', 'memory_encoder')) and name.endswith('weight')
                       for name in silent)

    def test_loss_falls_on_one_step_repeated(self, pool):
        task = self.task(pool, batch=1, frames=2, absent=0.)
        lessons = task.lessons(0)
        task.lessons = lambda step: lessons
        set_training(task)
        optimiser = torch.optim.AdamW(learned_parameters(task), lr=1e-3)
        losses = [one_step(task, optimiser, 5, 1e-3)['loss'] for _ in range(14)]
        assert losses[-1] < .8 * losses[0]

    def test_hints_and_true_masks_fade(self, pool, monkeypatch):
        task, forced = self.task(pool, teacher=EmbeddedViT(24, 6, 2).eval()), []
        real = P.track
        monkeypatch.setattr(P, 'track', lambda *a, true_masks=None, **k: forced.append(true_masks is not None)
                            or real(*a, true_masks=true_masks, **k))
        assert task.learned == ('model', 'hint')
        with torch.no_grad(): parts = [task(step) for step in (0, 1, 3, 4)]
        assert parts[0]['hint'] > parts[1]['hint'] > parts[2]['hint'] > 0 == parts[3]['hint']
        assert len(forced) == 3
        assert not forced[2]
        assert parts[0]['dice'] == 0 < parts[1]['dice']  # at first only looks are learned
        assert [len(task.lessons(step)[0].frames) for step in range(3)] == [3, 2, 3]
        monkeypatch.setattr(P, 'generator', lambda *key: np.random.default_rng(3))  # draws .09
        with torch.no_grad(): self.task(pool, teacher=task.teacher)(1)
        assert forced[-1]
        for p in parts:
            assert p['loss'].item() == pytest.approx(sum(w * p[k] for k, w in P.WEIGHTS.items()).item()
                                                     + p['hint'].item(), rel=1e-5)

    def test_pairs_leave_the_encoder_alone(self, pool):
        task = self.task(pool, teacher=EmbeddedViT(24, 6, 2).eval())
        set_training(task)
        grads = lambda part: sum(p.grad.abs().sum().item() for p in getattr(task.model, part).parameters()
                                 if p.grad is not None)
        for step, learned in ((0, {'image_encoder'}), (1, {'memory_attention', 'sam_mask_decoder'}),
                              (2, {'image_encoder', 'memory_attention', 'sam_mask_decoder'})):
            task.zero_grad()
            task(step)['loss'].backward()
            assert {part for part in ('image_encoder', 'memory_attention', 'sam_mask_decoder')
                    if grads(part)} == learned

    def test_resume_is_exact_and_the_log_is_whole(self, pool, tmp_path):
        quiet, teacher = dict(lr=1e-3, warmup=1, progress=False, log_every=1), EmbeddedViT(24, 6, 2).eval()
        straight = self.task(pool, teacher=teacher, batch=1, frames=2)
        fit(straight, tmp_path / 'a', 5, **quiet)
        broken = self.task(pool, teacher=teacher, batch=1, frames=2)
        original = broken.lessons
        def stop_at_two(step):
            if step == 2: raise KeyboardInterrupt
            return original(step)
        broken.lessons = stop_at_two
        with pytest.raises(KeyboardInterrupt): fit(broken, tmp_path / 'c', 5, **quiet)
        resumed = self.task(pool, teacher=teacher, batch=1, frames=2)
        fit(resumed, tmp_path / 'c', 5, resume=tmp_path / 'c' / 'checkpoint.pt', **quiet)
        for a, b in zip(straight.model.state_dict().values(), resumed.model.state_dict().values()):
            assert torch.equal(a, b)
        log = read_log(tmp_path / 'c' / 'log.csv')
        assert log['step'].tolist() == [1, 2, 3, 4, 5] and log['hint'][3] > 0 == log['hint'][4]

    def test_validation_films_are_not_training_films(self, monkeypatch):
        assert P.HELD_OUT > P.LessonPlan().clips
        lessons = P.held_out_lessons(2, 64, 80)
        assert lessons is P.held_out_lessons(2, 64, 80)
        assert all(l.frames.shape == (P.LENGTH, 64, 64, 3) for l in lessons)
        scores = P.held_out_scores(P.new_tiny(64, 0), lessons)
        ious = [(l.masks[0, :1] & later).sum() / (l.masks[0, :1] | later).sum() for l in lessons
                for later in l.masks[0, 1:] if later.any()]
        assert scores['copy_first'] == pytest.approx(np.mean(ious))
        assert 0 <= scores['score'] <= 1 and 0 <= scores['swapped'] <= 1

    def test_scores_are_those_of_propagation(self, clip):
        """Batched scores equal `propagate`, frame by frame; swapped ones give it the other clip's first frame."""
        model = P.new_tiny(64, 1)
        frames, masks = clip
        lessons = [P.Lesson(frames, masks[None] > 0), P.Lesson(frames[:, ::-1].copy(), masks[None, :, ::-1] > 0)]
        scores = P.held_out_scores(model, lessons)
        for name, shift in (('score', 0), ('swapped', 1)):
            ious = []
            for n, lesson in enumerate(lessons):
                seen = lesson.masks[0, 1:].any((1, 2))
                first = lessons[(n + shift) % 2]
                mixed = np.concatenate([first.frames[:1], lesson.frames[1:]])
                logits = P.propagate(model, mixed, first.masks[0, 0], logits=True)
                ious.append(P.region_iou((logits > 0).astype(np.uint8), lesson.masks[0])[1:][seen])
            assert scores[name] == pytest.approx(np.mean(np.concatenate(ious)), abs=2e-3), name

    def test_true_masks_are_remembered(self, tiny, clip):
        """With true masks the second memory is that of a given mask, whatever was found."""
        frames, masks = features_of(tiny, clip), torch.from_numpy(clip[1]).float()
        kept = []
        real, P.remember = P.remember, lambda *a: kept.append(real(*a)) or kept[-1]
        try:
            with torch.no_grad(): list(P.track(tiny, frames[:2], masks[:1], 3, true_masks=masks[:, None]))
        finally: P.remember = real
        with torch.no_grad(): wanted = encode_memory(tiny, frames[1], masks[1:2]).features
        assert torch.allclose(kept[1]['maskmem_features'], wanted, atol=1e-5)

    def test_train_writes_weights_and_card(self, tmp_path, monkeypatch, pool):
        asked = {}
        def gather(data, backdrops, exclude, smallworld, progress):
            asked.update(data=data, exclude=exclude)
            pool.facts = dict(sources={'photos': 3}, smallworld=24, left_out=2, exclude='held.txt')
            return pool
        monkeypatch.setattr(P, 'gather_cutouts', gather)
        monkeypatch.setattr(P, 'create_backbone', lambda name: type('B', (), dict(net=EmbeddedViT(24, 6, 2).eval())))
        quiet = dict(steps=1, size=64, batch=1, films=2, validate_every=None, threads=1, progress=False)
        weights = P.train_sam2('coco:x', tmp_path / 'one', exclude='held.txt', data_note='CC0.', **quiet)
        card = weights.with_suffix('.md').read_text()
        assert asked == dict(data='coco:x', exclude='held.txt') and weights.stat().st_size < 12e6
        for words in ('held.txt', 'CC0.', 'random weights, hints', 'ball', 'stick', '| photos | 3 |', '4,024,098'):
            assert words in card, words
        again = P.train_sam2('coco:x', tmp_path / 'two', init=weights, seed=1, **quiet)
        assert 'the weights sha256:' in again.with_suffix('.md').read_text()
        assert 'whole clips from the start' in again.with_suffix('.md').read_text()
        state = load_sam2('sam2_tiny', weights, image_size=64).state_dict()
        assert all(torch.isfinite(v).all() for v in state.values())
        with pytest.raises(FSSKitError): P.train_sam2('coco:x', tmp_path / 'one', **quiet)

    def test_train_without_cutouts(self, tmp_path, monkeypatch):
        monkeypatch.setattr(P, 'held_out_lessons', lambda *_: [])
        monkeypatch.setattr(P, 'held_out_scores', lambda *_: {'score': .5})
        monkeypatch.setattr(P, 'create_backbone', lambda name: type('B', (), dict(net=EmbeddedViT(24, 6, 2).eval())))
        monkeypatch.setattr(P, 'raw_lesson',
                            lambda plan, rng: P.Lesson(np.zeros((5, 64, 64, 3), np.uint8),
                                                       np.ones((1, 5, 64, 64), bool)))
        weights = P.train_sam2((), tmp_path, smallworld=0, steps=1, size=64, batch=1, validate_every=1, progress=False)
        assert (tmp_path / 'best.pt').exists() and 'Real:' not in weights.with_suffix('.md').read_text()
