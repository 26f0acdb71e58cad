"Tests of fsskit.training: a step by hand, exact resume however it was interrupted, early stop, files, cards."
import hashlib
import math
import os
import signal
import stat
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from torch import nn

import fsskit
from fsskit import training
from fsskit.photos import FSSKitError
from fsskit.training import (Clock, ModelCard, Team, card_data, card_recipe, describe_hardware, final_losses, fit,
                             generator_at, half_precision, learned_parameters, learning_rate, limited_threads,
                             load_weights, one_step, parameter_groups, pick_device, read_checkpoint, read_log,
                             refuse_overwriting, restore, save_checkpoint, save_weights, seeded, set_training,
                             share_gradients, share_weights, start_from, team, weight_facts)

quick = settings(max_examples=20, deadline=None, derandomize=True)


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    with limited_threads(1): yield


class Toy(nn.Module):
    "Dropout and batch norm in what learns, batch norm in what is frozen: everything that may spoil an exact resume."
    learned = ('net',)

    def __init__(self, seed=0, weights=0, width=5, when=None, scores=None):
        super().__init__()
        torch.manual_seed(weights)
        self.net = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3),
                                 nn.Linear(width, 1))
        torch.manual_seed(99)
        self.teacher = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))
        self.seed, self.when, self.scores, self.asked = seed, when or {}, scores, []

    def forward(self, step):
        self.when.get(step, lambda: None)()
        x = torch.randn(8, 3, generator=generator_at(self.seed, step))
        error = (self.net(x) - self.teacher(x)).square().mean()
        return {'error': error, 'loss': 2 * error}

    def validate(self):
        assert not self.training and not self.net.training and not torch.is_grad_enabled()
        self.asked.append(self.net[4].bias.item())
        if self.scores: return {'score': self.scores.pop(0), 'other': 1.0}
        x = torch.randn(16, 3, generator=generator_at(1234, 0))
        return {'score': -(self.net(x) - self.teacher(x)).square().mean().item()}


def adamw(task): return torch.optim.AdamW(learned_parameters(task), lr=1.0, weight_decay=0.05)
def press(): os.kill(os.getpid(), signal.SIGINT)
def fail(): raise OSError('power cut')


def assert_same(one, two):
    "Two checkpoint files agree in all but the seconds."
    a, b = read_checkpoint(one), read_checkpoint(two)
    assert a['step'] == b['step'] and a['extra'] == b['extra'] and a['learned'].keys() == b['learned'].keys()
    for name, state in a['learned'].items():
        assert state.keys() == b['learned'][name].keys()
        assert all(torch.equal(v, b['learned'][name][k]) for k, v in state.items())
    assert a['optimiser']['state'].keys() == b['optimiser']['state'].keys()
    for i, slots in a['optimiser']['state'].items():
        assert all(torch.equal(v, b['optimiser']['state'][i][k]) for k, v in slots.items())


def rows(path): return [[v for i, v in enumerate(line.split(',')) if i != 1] for line in path.read_text().split()]


# rates and random numbers

@quick
@given(st.integers(0, 1500), st.integers(1, 300))
def test_learning_rate_is_warm_up_times_decay(step, warmup):
    share, warm = min(1, step / 1000), min(1, (step + 1) / warmup)
    cosine, poly = (1 + math.cos(math.pi * share)) / 2, (1 - share) ** 0.9
    assert learning_rate(step, 1000, 2e-3, warmup) == pytest.approx(2e-3 * warm * cosine)
    assert learning_rate(step, 1000, 2e-3, warmup, 'poly') == pytest.approx(2e-3 * warm * poly)


def test_learning_rate_at_the_edges():
    assert learning_rate(0, 10, 1.0, warmup=0) == 1 and learning_rate(0, 0, 1.0, 1) == 1
    assert learning_rate(10, 10, 1.0, 1) == learning_rate(12, 10, 1.0, 1, 'poly') == 0
    with pytest.raises(FSSKitError, match="schedule='line' is not known: choose 'cosine' or 'poly'"):
        learning_rate(0, 1, 1.0, schedule='line')


@quick
@given(st.integers(0, 1000), st.integers(0, 10_000))
def test_generators_depend_on_seed_and_step_alone(seed, step):
    torch.rand(2)
    first = torch.rand(4, generator=generator_at(seed, step))
    assert torch.equal(first, torch.rand(4, generator=torch.Generator().manual_seed(seed * 1_000_003 + step)))
    assert not torch.equal(first, torch.rand(4, generator=generator_at(seed, step + 1)))
    assert not torch.equal(first, torch.rand(4, generator=generator_at(seed + 1, step)))


def test_seeded_leaves_the_outer_random_numbers_alone():
    before = torch.get_rng_state()
    with pytest.raises(OSError), seeded(1, 2):
        drawn = torch.rand(3)
        fail()
    assert torch.equal(before, torch.get_rng_state())
    with seeded(1, 2): assert torch.equal(drawn, torch.rand(3))


def test_seeded_covers_all_gpus_in_use(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'get_rng_state', lambda device: f'state {device}')
    monkeypatch.setattr(torch.cuda, 'set_rng_state', lambda state, device: seen.append((state, device)))
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', seen.append)
    with seeded(2, 5): assert seen == [2_000_011]
    assert seen[1:] == [('state 0', 0), ('state 1', 1)]


# one step

def test_three_steps_are_adamw_on_the_clipped_gradient():
    class Plane(nn.Module):
        seed, learned = 0, ('w',)
        def __init__(self):
            super().__init__()
            self.w = nn.Linear(3, 1, bias=False).double()
            self.w.weight.data = torch.tensor([[0.5, -2.0, 1.0]]).double()
        def forward(self, step): return {'loss': (self.w.weight * (step + 1) - 3).square().sum()}
    task, w, m, v = Plane(), np.array([0.5, -2, 1]), np.zeros(3), np.zeros(3)
    optimiser = adamw(task)
    for step in range(3):
        parts = one_step(task, optimiser, step, 0.1, clip=2.0)
        assert parts == {'loss': pytest.approx(((w * (step + 1) - 3) ** 2).sum())}
        g = 2 * (step + 1) * (w * (step + 1) - 3)
        g *= min(1, 2 / (np.linalg.norm(g) + 1e-6))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g ** 2
        w = w * (1 - 0.1 * 0.05)
        w -= 0.1 * (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        assert np.allclose(task.w.weight.detach().numpy(), w, rtol=1e-7)


@pytest.mark.parametrize('loss', [lambda w: w.sum() * math.nan,
                                  lambda w: (w * 0).sum().sqrt()])  # the second: only its gradient
def test_what_is_not_a_number_changes_no_weight(loss):
    class Bad(nn.Module):
        seed, learned = 0, ('w',)
        def __init__(self): super().__init__(); self.w = nn.Linear(2, 1)
        def forward(self, step): return {'loss': loss(self.w.weight)}
    task = Bad()
    before = task.w.weight.clone()
    with pytest.raises(FSSKitError, match='loss of step 7.* not a number.* lower the learning rate'):
        one_step(task, adamw(task), 7, 0.1)
    assert torch.equal(task.w.weight, before)


def test_only_learned_modules_train():
    task = Toy()
    task.net[0].bias.requires_grad_(False)
    set_training(task)
    assert task.net.training and not task.teacher.training and not task.net[0].bias.requires_grad
    assert not any(p.requires_grad for p in task.teacher.parameters()) and len(learned_parameters(task)) == 5
    before = {k: v.clone() for k, v in task.state_dict().items()}
    one_step(task, adamw(task), 0, 0.1)
    changed = {k for k, v in task.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if k.startswith('net.')} - {'net.0.bias'}


def test_a_part_of_a_module_can_be_what_is_learned(tmp_path):
    task = Toy()
    task.learned = ('net.4',)
    fit(task, tmp_path, 2, progress=False)
    assert set(read_checkpoint(tmp_path / 'checkpoint.pt')['learned']['net.4']) == {'weight', 'bias'}
    assert torch.equal(task.net[0].weight, Toy().net[0].weight)
    assert not torch.equal(task.net[4].weight, Toy().net[4].weight)


# several processes; tests/test_episodic.py starts two real ones

@pytest.fixture
def other_process(monkeypatch):
    "Accelerate's sums, as if a second process held other values: `other_process.values` gives them, in order."
    import accelerate.utils
    class Other:
        values = []
        def reduce(self, value, how):
            assert how == 'mean'
            return (value + self.values.pop(0)) / 2
    other = Other()
    monkeypatch.setattr(accelerate.utils, 'reduce', other.reduce)
    monkeypatch.setattr(accelerate.utils, 'gather_object', lambda things: [*things, 'other'])
    monkeypatch.setattr(accelerate.utils, 'broadcast', lambda value: value * 0 + 7)
    return other


def test_one_process_is_alone(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '1')
    us, values = team(), torch.ones(2)
    assert us == Team(0, 1, 'cpu') and us.mean(values) is values and us.gather('x') == ['x']
    assert us.anyone(True) is True and us.anyone(False) is False and us.mine([3, 4, 5]) == [3, 4, 5]


def test_shares_and_means(other_process):
    us = Team(1, 3)
    assert us.mine(range(8)) == range(1, 8, 3) and us.gather('x') == ['x', 'other']
    other_process.values = [torch.tensor([5.0, 1.0]), torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0)]
    assert us.mean(torch.tensor([1.0, 3.0])).tolist() == [3.0, 2.0]
    assert us.anyone(True) and us.anyone(False) and not us.anyone(False)


def test_gradients_are_means_and_unused_weights_stay_unused(other_process):
    a, b, c = (nn.Parameter(torch.zeros(n)) for n in (2, 1, 2))
    a.grad, mine = torch.tensor([2.0, 4.0]), torch.tensor([2.0])
    b.grad = mine
    share_gradients([a, b, c], Team())
    assert b.grad is mine and c.grad is None
    other_process.values = [torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0])]
    share_gradients([a, b, c], Team(0, 2))
    assert a.grad.tolist() == [1.0, 3.0] and b.grad.tolist() == [1.0] and c.grad is None


def test_all_begin_with_the_weights_of_the_first(other_process):
    net = nn.BatchNorm1d(2)
    share_weights([net], Team())
    assert net.weight.tolist() == [1, 1]
    share_weights([net], Team(1, 2))
    assert net.weight.tolist() == net.running_var.tolist() == [7, 7]
    assert net.num_batches_tracked == 7
    assert net.weight.requires_grad


def test_a_loss_of_another_process_that_is_no_number_stops_this_one(other_process, monkeypatch):
    monkeypatch.setattr(training, 'team', lambda: Team(1, 2))
    task = Toy()
    before, other_process.values = task.net[0].weight.clone(), [torch.tensor(0.0), torch.tensor(math.nan)]
    with pytest.raises(FSSKitError, match='loss of step 3'): one_step(task, adamw(task), 3, 0.1)
    assert torch.equal(task.net[0].weight, before)


def test_only_the_first_process_writes(tmp_path, monkeypatch, other_process):
    monkeypatch.setattr(training, 'team', lambda: Team(1, 2))
    monkeypatch.setattr(Team, 'mean', lambda self, values: values)
    monkeypatch.setattr(Team, 'gather', lambda self, thing: [thing])
    assert fit(Toy(), tmp_path / 'other', 3, validate_every=2, log_every=1, progress=True, watch=fail).step == 3
    assert list((tmp_path / 'other').iterdir()) == []


def test_random_numbers_of_layers_differ_between_processes():
    draws = []
    for rank in (0, 1, 2):
        with seeded(3, 4, rank): draws.append(torch.rand(4))
    with seeded(3, 4): assert torch.equal(draws[0], torch.rand(4))
    assert len({tuple(d.tolist()) for d in draws}) == 3


# rates of their own

def test_groups_of_rates():
    task = Toy()
    task.rates = {'net': 1e-2, 'net.4': 1e-3, 'net.1.bias': 5e-2}
    groups = parameter_groups(task, 1e-2)
    assert [(g['scale'], len(g['params'])) for g in groups] == [(1.0, 3), (5.0, 1), (0.1, 2)]
    assert groups[2]['params'][0] is task.net[4].weight and groups[1]['params'][0] is task.net[1].bias
    plain = parameter_groups(Toy(), 1e-2)
    assert len(plain) == 1 and plain[0]['scale'] == 1.0 and len(plain[0]['params']) == 6
    for wrong in ('teacher', 'ne', 'net.9'):
        task.rates = {wrong: 1e-3}
        with pytest.raises(FSSKitError, match=f"rates names '{wrong}', but no learned weight belongs to it: learned "
                           "are net"):
            parameter_groups(task, 1e-2)


def test_each_group_moves_by_its_rate(tmp_path):
    task = Toy()
    task.net[3].p, task.rates = 0.0, {'net.4.bias': 0.02}
    before = {k: v.clone() for k, v in task.net.state_dict().items()}
    fit(task, tmp_path, 1, lr=0.1, warmup=1, weight_decay=0, progress=False)
    moved = {k: (v - before[k]).abs().max().item() for k, v in task.net.state_dict().items()}
    assert moved['4.bias'] == pytest.approx(0.02, rel=1e-3) and moved['4.weight'] == pytest.approx(0.1, rel=1e-3)
    again = Toy()
    again.rates = task.rates
    assert fit(again, tmp_path, 2, resume=tmp_path / 'checkpoint.pt', lr=0.1, progress=False).step == 2


def test_somebody_looks_on(tmp_path):
    seen = []
    fit(Toy(), tmp_path, 4, log_every=2, validate_every=4, progress=False,
        watch=lambda out: seen.append((out, len(read_log(out / 'log.csv').get('step', ())))))
    assert seen == [(tmp_path, 0), (tmp_path, 1), (tmp_path, 2), (tmp_path, 2)]


# checkpoints

def test_checkpoint_and_back(tmp_path):
    task = Toy()
    optimiser = adamw(task)
    one_step(task, optimiser, 0, 0.1)
    save_checkpoint(tmp_path / 'c.pt', task, optimiser, Clock(1, 100.0), note='hello', table={'a': 1})
    state = read_checkpoint(tmp_path / 'c.pt')
    assert set(state) == {'learned', 'optimiser', 'step', 'seconds', 'extra'}
    assert state['step'] == 1
    assert 100 <= state['seconds'] < 160
    assert state['extra'] == {'note': 'hello', 'table': {'a': 1}}
    other = Toy(weights=5)
    clock = restore(tmp_path / 'c.pt', other, adamw(other))
    assert clock.step == 1 and clock.before == state['seconds'] and clock.total() >= clock.before
    assert all(torch.equal(v, other.net.state_dict()[k]) for k, v in task.net.state_dict().items())


def test_files_that_are_no_checkpoint(tmp_path):
    torch.save({'learned': 1}, tmp_path / 'other.pt')
    torch.save([1], tmp_path / 'list.pt')
    torch.save(Toy, tmp_path / 'code.pt')
    fit(Toy(), tmp_path / 'run', 1, progress=False)
    (tmp_path / 'half.pt').write_bytes((tmp_path / 'run/checkpoint.pt').read_bytes()[:300])
    expected = {'other.pt': 'is no checkpoint',
                'list.pt': 'is no checkpoint', 'code.pt': 'cannot be read .UnpicklingError',
                'none.pt': 'cannot be read .FileNotFoundError', 'half.pt': "half.pt' cannot be read"}
    for name, message in expected.items():
        with pytest.raises(FSSKitError, match=message): read_checkpoint(tmp_path / name)


def test_checkpoints_of_another_training(tmp_path):
    path = tmp_path / 'checkpoint.pt'
    fit(Toy(), tmp_path, 1, progress=False)
    other = Toy()
    other.learned = ('net', 'teacher')
    for task, message in ((Toy(width=6), 'belongs to another network'), (other, "another network .'teacher'."),
                          (Toy(seed=3), 'trained with seed 0, not 3: resume with seed=0')):
        with pytest.raises(FSSKitError, match=message): restore(path, task, adamw(task))


def test_a_cut_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    fit(Toy(), tmp_path, 1, progress=False)
    before = (tmp_path / 'checkpoint.pt').read_bytes()
    def half(content, file): file.write(b'half'); fail()
    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(OSError, match='power cut'):
        fit(Toy(), tmp_path, 2, resume=tmp_path / 'checkpoint.pt', progress=False)
    assert (tmp_path / 'checkpoint.pt').read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ['checkpoint.pt', 'log.csv']


# the loop

PLAN = dict(steps=12, lr=0.05, warmup=3, log_every=2, save_every=4, validate_every=3, patience=3, progress=False)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The folder of twelve steps in one go."
    path = tmp_path_factory.mktemp('whole')
    assert fit(Toy(), path, **PLAN).step == 12
    return path


def raise_interrupt(): raise KeyboardInterrupt


@pytest.mark.parametrize('step, how, saved', [(6, press, 7), (5, raise_interrupt, 5), (11, press, 12), (0, press, 1),
                                              (7, fail, 4)])
def test_twelve_steps_equal_any_stop_and_resume_bit_for_bit(whole, tmp_path, step, how, saved):
    with pytest.raises((KeyboardInterrupt, OSError)): fit(Toy(when={step: how}), tmp_path, **PLAN)
    checkpoint = tmp_path / 'checkpoint.pt'
    assert read_checkpoint(checkpoint)['step'] == saved
    torch.rand(7)
    fit(Toy(weights=8), tmp_path, resume=checkpoint, **PLAN)
    assert_same(whole / 'checkpoint.pt', checkpoint)
    assert_same(whole / 'best.pt', tmp_path / 'best.pt')
    for name in ('log.csv', 'validation.csv'): assert rows(whole / name) == rows(tmp_path / name)


def test_stop_by_time_and_resume_is_exact_too(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Clock, 'here', lambda self: 12.0 * self.step)
        assert fit(Toy(), tmp_path, **PLAN | {'minutes': 1}).step == 5
    fit(Toy(weights=3), tmp_path, resume=tmp_path / 'checkpoint.pt', **PLAN)
    state, other = (read_checkpoint(p / 'checkpoint.pt') for p in (whole, tmp_path))
    assert all(torch.equal(v, other['learned']['net'][k]) for k, v in state['learned']['net'].items())


def test_interrupt_while_validating_is_not_lost(whole, tmp_path):
    class Pressed(Toy):
        def validate(self):
            if len(self.asked) == 2: press()
            return super().validate()
    task = Pressed()
    with pytest.raises(KeyboardInterrupt): fit(task, tmp_path, **PLAN)
    assert read_checkpoint(tmp_path / 'checkpoint.pt')['step'] == 7  # the validation of step 6 and the step after it are whole
    fit(Toy(), tmp_path, resume=tmp_path / 'checkpoint.pt', **PLAN)
    assert_same(whole / 'checkpoint.pt', tmp_path / 'checkpoint.pt')


def test_interrupt_in_the_last_validation_is_raised_after_saving(tmp_path):
    class Pressed(Toy):
        def validate(self):
            if len(self.asked) == 4: press()
            return super().validate()
    with pytest.raises(KeyboardInterrupt): fit(Pressed(), tmp_path, **PLAN)
    assert read_checkpoint(tmp_path / 'checkpoint.pt')['extra']['best']['validated'] == 12


def test_second_interrupt_stops_at_once_and_saves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt): fit(Toy(when={6: lambda: (press(), press())}), tmp_path, **PLAN)
    assert read_checkpoint(tmp_path / 'checkpoint.pt')['step'] == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_a_thread_no_handler_is_touched(tmp_path):
    seen = []
    task = Toy(when={0: lambda: seen.append(signal.getsignal(signal.SIGINT))})
    worker = threading.Thread(target=lambda: seen.append(fit(task, tmp_path, 1, progress=False).step))
    worker.start(), worker.join()
    assert seen == [signal.default_int_handler, 1]


def test_early_stop_keeps_the_best_and_stays_stopped(tmp_path):
    task = Toy(scores=[1.0, 3.0, 2.0, 2.5, 3.0])  # the last equals the best and is not better
    clock = fit(task, tmp_path, 100, validate_every=2, patience=3, log_every=1, progress=False)
    assert clock.step == 8 and len(rows(tmp_path / 'log.csv')) == 9
    best = read_checkpoint(tmp_path / 'best.pt')
    assert best['step'] == 2 and best['extra']['best'] == {'score': 3.0, 'step': 2, 'waiting': 0, 'validated': 2}
    assert best['learned']['net']['4.bias'].item() == task.asked[1]
    log = read_log(tmp_path / 'validation.csv')
    assert log['step'].tolist() == [0, 2, 4, 6, 8]
    assert log['score'].tolist() == [1, 3, 2, 2.5, 3]
    assert set(log['other']) == {1}
    again = Toy(scores=[9.0])
    assert fit(again, tmp_path, 100, resume=tmp_path / 'checkpoint.pt', validate_every=2, patience=3,
               progress=False).step == 8
    assert again.scores == [9.0]


def test_training_makes_the_loss_fall(tmp_path):
    fit(Toy(), tmp_path, 200, lr=0.03, warmup=5, log_every=1, progress=False)
    loss = read_log(tmp_path / 'log.csv')['loss']
    assert len(loss) == 200 and loss[-20:].mean() < 0.8 * loss[:20].mean()


def test_logs_and_checkpoint_say_what_happened(whole):
    log = read_log(whole / 'log.csv')
    assert list(log) == ['step', 'seconds', 'error', 'loss'] and log['step'].tolist() == [2, 4, 6, 8, 10, 12]
    assert np.allclose(log['loss'], 2 * log['error'], rtol=1e-4)
    validation = read_log(whole / 'validation.csv')
    assert validation['step'].tolist() == [0, 3, 6, 9, 12]
    state = read_checkpoint(whole / 'checkpoint.pt')['extra']
    assert state['best']['score'] == pytest.approx(validation['score'].max(), rel=1e-4) and state['seed'] == 0
    assert state['plan']['lr'] == 0.05 and state['plan']['patience'] == 3 and state['hardware'] == 'cpu, CPU threads: 1'


def test_the_last_step_is_logged_and_a_stale_log_is_forgotten(tmp_path):
    (tmp_path / 'log.csv').write_text('step,seconds,old\n5,1,1\n')
    clock = fit(Toy(), tmp_path, 3, log_every=2, progress=True)
    assert clock.step == 3 and [r[0] for r in rows(tmp_path / 'log.csv')] == ['step', '2', '3']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['checkpoint.pt', 'log.csv']


def test_schedule_and_weight_decay_reach_the_optimiser(tmp_path, monkeypatch):
    seen = []
    def spy(task, optimiser, step, lr, clip):
        seen.append((lr, clip, optimiser.defaults['weight_decay'])); return {'loss': 1.0}
    monkeypatch.setattr(training, 'one_step', spy)
    fit(Toy(), tmp_path, 5, lr=0.2, warmup=2, schedule='poly', clip=3.0, weight_decay=0.01, progress=False)
    assert seen == [(learning_rate(s, 5, 0.2, 2, 'poly'), 3.0, 0.01) for s in range(5)]


@pytest.mark.parametrize('options, message', [
    ({'schedule': 'x'}, "schedule='x'"),
    ({'log_every': 0}, 'log_every=0 makes no sense'), ({'save_every': -1}, 'save_every=-1'),
    ({'validate_every': 0}, 'validate_every=0'), ({'patience': 2}, 'patience=2 needs validations'),
    ({'patience': 0, 'validate_every': 1}, 'patience=0')])
def test_plans_that_cannot_be_carried_out(tmp_path, options, message):
    with pytest.raises(FSSKitError, match=message): fit(Toy(), tmp_path / 'new', 5, progress=False, **options)
    assert not (tmp_path / 'new').exists()


def test_validation_must_exist_and_give_a_number(tmp_path):
    task = Toy()
    class Blind(nn.Module): seed, learned, net = 0, ('net',), task.net
    with pytest.raises(FSSKitError, match='Blind has no validate'):
        fit(Blind(), tmp_path, 5, validate_every=1, progress=False)
    for scores in ([math.nan], [math.inf]):
        with pytest.raises(FSSKitError, match='validation of step 0 gives (nan|inf): validate'):
            fit(Toy(scores=scores), tmp_path, 5, validate_every=1, progress=False)


def test_a_training_is_not_overwritten(whole, tmp_path):
    refuse_overwriting(tmp_path), refuse_overwriting(whole, whole / 'checkpoint.pt')
    for call in (lambda: refuse_overwriting(whole), lambda: fit(Toy(), whole, 5)):
        with pytest.raises(FSSKitError, match="already holds a training: pass resume='.*checkpoint.pt'"): call()


def test_no_time_no_steps(tmp_path):
    assert fit(Toy(), tmp_path, 5, minutes=0, progress=False).step == 0
    assert read_checkpoint(tmp_path / 'checkpoint.pt')['step'] == 0


def test_logs_that_are_not_there(tmp_path):
    assert read_log(tmp_path / 'none.csv') == {} and final_losses(tmp_path / 'none.csv') == {}


# weights and cards

def test_half_precision_is_numpys_and_checks_the_network():
    state = {'a': torch.linspace(-9, 9, 50).reshape(5, 10).T, 'n': torch.tensor(3)}
    halved = half_precision(state, state, 'x')
    assert np.array_equal(halved['a'].numpy(), state['a'].numpy().astype(np.float16)) and halved['a'].is_contiguous()
    assert halved['n'].dtype == torch.int64 and halved['n'] == 3
    for other, name in (({'a': state['a']}, 'n'), ({**state, 'b': state['n']}, 'b'),
                        ({**state, 'a': torch.zeros(5, 10)}, 'a')):
        with pytest.raises(FSSKitError, match=f"'src' holds the weights of another network .see {name}."):
            half_precision(state, other, 'src')
    with pytest.raises(FSSKitError, match="'src': a is too large for half precision"):
        half_precision(state | {'a': state['a'] * 1e4}, state, 'src')


def test_weights_are_saved_whole_and_readable(tmp_path):
    state = {'w': torch.randn(3, 4, generator=generator_at(0, 0)), 'n': torch.tensor([2, 3])}
    path = save_weights(state, tmp_path / 'deep/w.safetensors', {'name': 'toy', 'steps': 5})
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 and [p.name for p in path.parent.iterdir()] == ['w.safetensors']
    with safe_open(path, 'pt') as file:
        assert file.metadata() == {'name': 'toy', 'steps': '5'} and file.get_tensor('w').dtype == torch.float16
    loaded = load_weights(path)
    assert loaded['w'].dtype == torch.float32
    assert np.array_equal(loaded['w'].numpy(), state['w'].numpy().astype(np.float16).astype(np.float32))
    assert torch.equal(loaded['n'], state['n'])
    before = path.read_bytes()
    with pytest.raises(FSSKitError, match='w is too large'): save_weights({'w': torch.tensor([1e6])}, path)
    assert path.read_bytes() == before
    assert load_weights(save_weights({'w': torch.ones(1)}, tmp_path / 'plain.safetensors')) == {'w': torch.ones(1)}


def test_weights_that_cannot_be_read(tmp_path):
    (tmp_path / 'cut.safetensors').write_bytes(b'123')
    for name in ('cut', 'none'):
        with pytest.raises(FSSKitError, match=f"{name}.safetensors' cannot be read .*: give a safetensors file"):
            load_weights(tmp_path / f'{name}.safetensors')


def test_the_card_as_markdown():
    card = ModelCard('Title', 'What it is.', {'size': '3', 'kind': 'x'}, {'Data': 'One line.\n', 'Recipe': ['a', 'b']})
    assert card.markdown() == '# Title\n\nWhat it is.\n\n- size: 3\n- kind: x\n\n## Data\n\nOne line.\n\n## Recipe\n\n- a\n- b\n'


def test_facts_of_a_file(tmp_path):
    (tmp_path / 'w.bin').write_bytes(b'x' * 1234)
    assert weight_facts(tmp_path / 'w.bin', 5_000_000) == {
        'parameters': '5,000,000, stored in half precision', 'file': '`w.bin`, 1,234 bytes',
        'sha256': f"`{hashlib.sha256(b'x' * 1234).hexdigest()}`",
        'made with': f'fsskit {fsskit.__version__}, torch {torch.__version__}'}


def test_card_of_the_data():
    assert card_data({'a': 3, 'b': 1}) == ('| folder | pictures '
                                           '|\n|---|---|\n| a | 3 |\n| b | 1 |\n\nNo list of photos to leave out '
                                           'was given.\n\nLicences and origins: not stated by whoever ran this '
                                           'training.')
    told = card_data({}, 'held.txt', 4, ['x/1.jpg', 'x/2.jpg'], 'CC0').splitlines()[2:]
    assert told == ['', '4 photos were kept out of the training by the list `held.txt`.', '',
                    '2 files could not be read and were left out: x/1.jpg, x/2.jpg.', '', 'Licences and origins: CC0']


def test_a_card_tells_how_the_weights_of_the_start_were_made(tmp_path):
    weights = tmp_path / 'old.safetensors'
    weights.write_bytes(b'some weights')
    name = 'the weights sha256:' + hashlib.sha256(b'some weights').hexdigest()[:16]
    assert start_from(weights) == name
    card = ModelCard('Title', 'What.', {}, {'Data': ['- not this'], 'Recipe': ['start: a - b', 'steps: 5'],
                                            'Limits': 'None.'})
    weights.with_suffix('.md').write_text(card.markdown())
    assert start_from(str(weights)) == name + ' (start: a - b; steps: 5)'
    weights.with_suffix('.md').write_text(ModelCard('Title', 'What.', {}, {'Recipe': ['the last section']}).markdown())
    assert start_from(weights) == name + ' (the last section)'


def test_card_of_the_recipe(whole, tmp_path):
    log, best = read_log(whole / 'log.csv'), read_checkpoint(whole / 'checkpoint.pt')['extra']['best']
    lines = card_recipe(whole / 'checkpoint.pt', 'somewhere', ['a note'])
    assert lines[0] == 'start: somewhere' and lines[1] == 'steps: 12 of 12; seed 0' and lines[3] == 'a note'
    assert lines[2] == 'minutes: 0.0 (hardware: cpu, CPU threads: 1)'
    assert lines[4] == 'AdamW, peak rate 0.05, weight decay 0.05, 3 steps of warm-up, cosine decay, gradients clipped at 1.0'
    assert lines[5] == f"final loss (mean of the last ten log lines): error {log['error'].mean():.4f}, loss {log['loss'].mean():.4f}"
    assert lines[6] == f"best held-out score: {best['score']:.4f} at step {best['step']}" and len(lines) == 7
    task = Toy()
    save_checkpoint(tmp_path / 'c.pt', task, adamw(task), Clock(2, 60.0))
    assert card_recipe(tmp_path / 'c.pt') == [
        'start: random weights', 'steps: 2 of not stated; seed not stated', 'minutes: 1.0 (hardware: not stated)',
        'AdamW, peak rate not stated, weight decay not stated, not stated steps of warm-up, not stated decay, '
        'gradients clipped at not stated', 'final loss (mean of the last ten log lines): not logged']


def test_the_card_tells_of_schedules_before(tmp_path):
    fit(Toy(), tmp_path, 4, lr=.05, warmup=1, progress=False)
    fit(Toy(), tmp_path, 6, resume=tmp_path / 'checkpoint.pt', lr=.01, warmup=1, log_every=1, progress=False)
    fit(Toy(), tmp_path, 8, resume=tmp_path / 'checkpoint.pt', lr=.01, warmup=1, log_every=5, progress=False)
    fit(Toy(), tmp_path, 8, minutes=3, resume=tmp_path / 'checkpoint.pt', lr=.01, warmup=1, save_every=9,
        progress=False)
    lines = card_recipe(tmp_path / 'checkpoint.pt')
    assert lines[1:4] == ['steps: 8 of 8; seed 0', 'until step 4 another plan: steps 4, lr 0.05',
                          'until step 6 another plan: steps 6']


def test_a_validation_is_logged_once_even_when_the_power_fails_after_it(tmp_path):
    plan = dict(steps=6, validate_every=2, save_every=4, log_every=1, progress=False)
    with pytest.raises(OSError):
        fit(Toy(when={4: fail}), tmp_path, **plan)  # the checkpoint of step 4 is from before its validation
    fit(Toy(), tmp_path, resume=tmp_path / 'checkpoint.pt', **plan)
    assert read_log(tmp_path / 'validation.csv')['step'].tolist() == [0, 2, 4, 6]
    assert read_log(tmp_path / 'log.csv')['step'].tolist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(OSError): fit(Toy(when={1: fail}), tmp_path / 'new', **plan)  # nothing is saved yet
    fit(Toy(), tmp_path / 'new', **plan)
    assert read_log(tmp_path / 'new' / 'validation.csv')['step'].tolist() == [0, 2, 4, 6]


def test_final_losses_are_means_of_the_last_lines(tmp_path):
    (tmp_path / 'log.csv').write_text('step,seconds,a,loss\n' + ''.join(f'{s},0,{s},{s * s}\n' for s in range(1, 15)))
    assert final_losses(tmp_path / 'log.csv') == {'a': 9.5, 'loss': np.mean(np.arange(5, 15) ** 2)}
    assert final_losses(tmp_path / 'log.csv', 2, until=4) == {'a': 3.5, 'loss': 12.5}
    assert final_losses(tmp_path / 'log.csv', until=0) == {}


# where it runs

def test_threads_come_back_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(OSError), limited_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        fail()
    assert torch.get_num_threads() == before
    with limited_threads(None): assert torch.get_num_threads() == before


@pytest.mark.parametrize('cuda, mps, auto', [(False, False, 'cpu'), (True, False, 'cuda'), (False, True, 'mps'),
                                             (True, True, 'cuda')])
def test_devices(monkeypatch, cuda, mps, auto):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: mps)
    assert pick_device() == auto and pick_device('cpu') == 'cpu'
    for name, works in (('cuda', cuda), ('mps', mps), ('tpu', False)):
        if works: assert pick_device(name) == name; continue
        with pytest.raises(FSSKitError, match=f"device='{name}' does not work here: use .*'cpu' or 'auto'"):
            pick_device(name)


def test_hardware_in_words(monkeypatch):
    assert describe_hardware(Toy()) == 'cpu, CPU threads: 1'
    class Far:
        device = torch.device('cuda', 0)
    monkeypatch.setattr(training, 'learned_parameters', lambda task: [Far])
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: f'Card {device.index}')
    assert describe_hardware(None) == 'Card 0, CPU threads: 1'
