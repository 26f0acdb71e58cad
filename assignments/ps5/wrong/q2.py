# %% no_relu | Places that disagree move away from the generous memory, because the share may be negative | 13
def settle(memory, prior, generous, wide, witness, damping, tolerance, limit):
    changes, settled = [], False
    for _ in range(limit):
        m = (prior * memory).sum((1, 2)) / prior.sum().clamp(min=1e-6)
        a = F.cosine_similarity(m[:, None, None].expand_as(generous), generous, dim=0, eps=1e-6)
        a = (a - a.min()) / (a.max() - a.min() + 1e-7)
        a = damping * (a + witness - 1)
        new = prior + a * (wide - prior)
        memory = memory + a * (generous - memory)
        changes.append(float((new - prior).abs().max()))
        prior = new
        if changes[-1] < tolerance:
            settled = True
            break
    return {'memory': memory, 'prior': prior, 'changes': changes, 'settled': settled}


# %% prior_undamped | Only the memory is damped, the prior takes whole steps | 9
def settle(memory, prior, generous, wide, witness, damping, tolerance, limit):
    changes, settled = [], False
    for _ in range(limit):
        m = (prior * memory).sum((1, 2)) / prior.sum().clamp(min=1e-6)
        a = F.cosine_similarity(m[:, None, None].expand_as(generous), generous, dim=0, eps=1e-6)
        a = (a - a.min()) / (a.max() - a.min() + 1e-7)
        a = (a + witness - 1).relu()
        new = prior + a * (wide - prior)
        memory = memory + damping * a * (generous - memory)
        changes.append(float((new - prior).abs().max()))
        prior = new
        if changes[-1] < tolerance:
            settled = True
            break
    return {'memory': memory, 'prior': prior, 'changes': changes, 'settled': settled}


# %% damping_turned | The damping is the part that is kept, not the part that is taken | 16
def settle(memory, prior, generous, wide, witness, damping, tolerance, limit):
    changes, settled = [], False
    for _ in range(limit):
        m = (prior * memory).sum((1, 2)) / prior.sum().clamp(min=1e-6)
        a = F.cosine_similarity(m[:, None, None].expand_as(generous), generous, dim=0, eps=1e-6)
        a = (a - a.min()) / (a.max() - a.min() + 1e-7)
        a = (1 - damping) * (a + witness - 1).relu()
        new = prior + a * (wide - prior)
        memory = memory + a * (generous - memory)
        changes.append(float((new - prior).abs().max()))
        prior = new
        if changes[-1] < tolerance:
            settled = True
            break
    return {'memory': memory, 'prior': prior, 'changes': changes, 'settled': settled}


# %% product | The two witnesses are multiplied, so half-hearted ones count | 16
def settle(memory, prior, generous, wide, witness, damping, tolerance, limit):
    changes, settled = [], False
    for _ in range(limit):
        m = (prior * memory).sum((1, 2)) / prior.sum().clamp(min=1e-6)
        a = F.cosine_similarity(m[:, None, None].expand_as(generous), generous, dim=0, eps=1e-6)
        a = (a - a.min()) / (a.max() - a.min() + 1e-7)
        a = damping * a * witness
        new = prior + a * (wide - prior)
        memory = memory + a * (generous - memory)
        changes.append(float((new - prior).abs().max()))
        prior = new
        if changes[-1] < tolerance:
            settled = True
            break
    return {'memory': memory, 'prior': prior, 'changes': changes, 'settled': settled}


# %% stretched_prior | The prior is stretched in each step, as in the tutorial | 13
def settle(memory, prior, generous, wide, witness, damping, tolerance, limit):
    changes, settled = [], False
    for _ in range(limit):
        m = (prior * memory).sum((1, 2)) / prior.sum().clamp(min=1e-6)
        a = F.cosine_similarity(m[:, None, None].expand_as(generous), generous, dim=0, eps=1e-6)
        a = (a - a.min()) / (a.max() - a.min() + 1e-7)
        a = damping * (a + witness - 1).relu()
        new = prior + a * (wide - prior)
        new = (new - new.min()) / (new.max() - new.min() + 1e-7)
        memory = memory + a * (generous - memory)
        changes.append(float((new - prior).abs().max()))
        prior = new
        if changes[-1] < tolerance:
            settled = True
            break
    return {'memory': memory, 'prior': prior, 'changes': changes, 'settled': settled}


# %% mean_change | The mean change decides, so one place may still be moving far | 18
def settle(memory, prior, generous, wide, witness, damping, tolerance, limit):
    changes, settled = [], False
    for _ in range(limit):
        m = (prior * memory).sum((1, 2)) / prior.sum().clamp(min=1e-6)
        a = F.cosine_similarity(m[:, None, None].expand_as(generous), generous, dim=0, eps=1e-6)
        a = (a - a.min()) / (a.max() - a.min() + 1e-7)
        a = damping * (a + witness - 1).relu()
        new = prior + a * (wide - prior)
        memory = memory + a * (generous - memory)
        changes.append(float((new - prior).abs().mean()))
        prior = new
        if changes[-1] < tolerance:
            settled = True
            break
    return {'memory': memory, 'prior': prior, 'changes': changes, 'settled': settled}


# %% last_step_lost | The iteration ends before the last step is kept | 25
def settle(memory, prior, generous, wide, witness, damping, tolerance, limit):
    changes, settled = [], False
    for _ in range(limit):
        m = (prior * memory).sum((1, 2)) / prior.sum().clamp(min=1e-6)
        a = F.cosine_similarity(m[:, None, None].expand_as(generous), generous, dim=0, eps=1e-6)
        a = (a - a.min()) / (a.max() - a.min() + 1e-7)
        a = damping * (a + witness - 1).relu()
        new = prior + a * (wide - prior)
        changes.append(float((new - prior).abs().max()))
        if changes[-1] < tolerance:
            settled = True
            break
        memory = memory + a * (generous - memory)
        prior = new
    return {'memory': memory, 'prior': prior, 'changes': changes, 'settled': settled}


# %% change_from_start | The change is measured from the prior at the beginning | 18
def settle(memory, prior, generous, wide, witness, damping, tolerance, limit):
    changes, settled, start = [], False, prior
    for _ in range(limit):
        m = (prior * memory).sum((1, 2)) / prior.sum().clamp(min=1e-6)
        a = F.cosine_similarity(m[:, None, None].expand_as(generous), generous, dim=0, eps=1e-6)
        a = (a - a.min()) / (a.max() - a.min() + 1e-7)
        a = damping * (a + witness - 1).relu()
        prior = prior + a * (wide - prior)
        memory = memory + a * (generous - memory)
        changes.append(float((prior - start).abs().max()))
        if changes[-1] < tolerance:
            settled = True
            break
    return {'memory': memory, 'prior': prior, 'changes': changes, 'settled': settled}


# %% in_place | Memory and prior of the caller are changed | 27
def settle(memory, prior, generous, wide, witness, damping, tolerance, limit):
    changes, settled = [], False
    for _ in range(limit):
        m = (prior * memory).sum((1, 2)) / prior.sum().clamp(min=1e-6)
        a = F.cosine_similarity(m[:, None, None].expand_as(generous), generous, dim=0, eps=1e-6)
        a = (a - a.min()) / (a.max() - a.min() + 1e-7)
        a = damping * (a + witness - 1).relu()
        move = a * (wide - prior)
        prior += move
        memory += a * (generous - memory)
        changes.append(float(move.abs().max()))
        if changes[-1] < tolerance:
            settled = True
            break
    return {'memory': memory, 'prior': prior, 'changes': changes, 'settled': settled}


# %% asked_once | The query is asked about itself once, before the first step | 21
def settle(memory, prior, generous, wide, witness, damping, tolerance, limit):
    changes, settled = [], False
    m = (prior * memory).sum((1, 2)) / prior.sum().clamp(min=1e-6)
    a = F.cosine_similarity(m[:, None, None].expand_as(generous), generous, dim=0, eps=1e-6)
    a = (a - a.min()) / (a.max() - a.min() + 1e-7)
    a = damping * (a + witness - 1).relu()
    for _ in range(limit):
        new = prior + a * (wide - prior)
        memory = memory + a * (generous - memory)
        changes.append(float((new - prior).abs().max()))
        prior = new
        if changes[-1] < tolerance:
            settled = True
            break
    return {'memory': memory, 'prior': prior, 'changes': changes, 'settled': settled}


# %% one_more | The limit is checked after the step, so there is one more than allowed | 11
def settle(memory, prior, generous, wide, witness, damping, tolerance, limit):
    changes, settled = [], False
    for step in range(limit + 1):
        m = (prior * memory).sum((1, 2)) / prior.sum().clamp(min=1e-6)
        a = F.cosine_similarity(m[:, None, None].expand_as(generous), generous, dim=0, eps=1e-6)
        a = (a - a.min()) / (a.max() - a.min() + 1e-7)
        a = damping * (a + witness - 1).relu()
        new = prior + a * (wide - prior)
        memory = memory + a * (generous - memory)
        changes.append(float((new - prior).abs().max()))
        prior = new
        if changes[-1] < tolerance:
            settled = True
            break
    return {'memory': memory, 'prior': prior, 'changes': changes, 'settled': settled}
