# %% trims_everywhere | The lowest cells are searched in the whole photo, so most of those dropped are background. | 4
def trimmed_prototype(features, mask, trim):
    weights = mask_shares(mask[None], features.shape[1:])[0][0].flatten().clone()
    units = F.normalize(features, dim=0).flatten(1)
    fit = (units * weights).sum(1) @ units
    weights[fit.argsort()[:int(trim * (weights > 0).sum())]] = 0
    return F.normalize((units * weights).sum(1), dim=0)


# %% drops_the_best | Sorted the wrong way round: the cells that fit best are dropped. | 7
def trimmed_prototype(features, mask, trim):
    shares = mask_shares(mask[None], features.shape[1:])[0][0]
    inside = shares > 0
    units, weights = F.normalize(features, dim=0)[:, inside], shares[inside]
    fit = (units * weights).sum(1) @ units
    kept = fit.argsort()[:len(fit) - int(trim * len(fit))]
    return F.normalize((units[:, kept] * weights[kept]).sum(1), dim=0)


# %% all_cells_equal | A cell that the mask only touches counts as much as a full one. | 17
def trimmed_prototype(features, mask, trim):
    inside = mask_shares(mask[None], features.shape[1:])[0][0] > 0
    units = F.normalize(features, dim=0)[:, inside]
    fit = units.sum(1) @ units
    kept = fit.argsort(descending=True)[:len(fit) - int(trim * len(fit))]
    return F.normalize(units[:, kept].sum(1), dim=0)


# %% ignored_is_object | Everything that is not 0 is taken for object, the ignored pixels too. | 17
def trimmed_prototype(features, mask, trim):
    shares = F.adaptive_avg_pool2d((mask > 0).float()[None], features.shape[1:])[0]
    inside = shares > 0
    units, weights = F.normalize(features, dim=0)[:, inside], shares[inside]
    fit = (units * weights).sum(1) @ units
    kept = fit.argsort(descending=True)[:len(fit) - int(trim * len(fit))]
    return F.normalize((units[:, kept] * weights[kept]).sum(1), dim=0)


# %% raw_vectors | The vectors are averaged as they are, so that a long one counts more. | 8
def trimmed_prototype(features, mask, trim):
    shares = mask_shares(mask[None], features.shape[1:])[0][0]
    inside = shares > 0
    vectors, weights = features[:, inside], shares[inside]
    mean = (vectors * weights).sum(1) / weights.sum()
    fit = F.cosine_similarity(vectors, mean[:, None], dim=0)
    kept = fit.argsort(descending=True)[:len(fit) - int(trim * len(fit))]
    return F.normalize((vectors[:, kept] * weights[kept]).sum(1), dim=0)


# %% channel_by_channel | The trimmed mean of statistics: every channel drops its own extreme numbers. | 12
def trimmed_prototype(features, mask, trim):
    shares = mask_shares(mask[None], features.shape[1:])[0][0]
    inside = shares > 0
    units, weights = F.normalize(features, dim=0)[:, inside], shares[inside]
    mean = (units * weights).sum(1) / weights.sum()
    order = (units - mean[:, None]).abs().argsort(1)[:, :len(weights) - int(trim * len(weights))]
    return F.normalize((units * weights).gather(1, order).sum(1), dim=0)


# %% rounds_to_nearest | The number of cells to drop is rounded to the nearest whole number, not down. | 12
def trimmed_prototype(features, mask, trim):
    shares = mask_shares(mask[None], features.shape[1:])[0][0]
    inside = shares > 0
    units, weights = F.normalize(features, dim=0)[:, inside], shares[inside]
    fit = (units * weights).sum(1) @ units
    kept = fit.argsort(descending=True)[:len(fit) - round(trim * len(fit))]
    return F.normalize((units[:, kept] * weights[kept]).sum(1), dim=0)


# %% not_unit | The mean of the cells that are left is returned as it is, shorter than 1. | 3
def trimmed_prototype(features, mask, trim):
    shares = mask_shares(mask[None], features.shape[1:])[0][0]
    inside = shares > 0
    units, weights = F.normalize(features, dim=0)[:, inside], shares[inside]
    fit = (units * weights).sum(1) @ units
    kept = fit.argsort(descending=True)[:len(fit) - int(trim * len(fit))]
    return (units[:, kept] * weights[kept]).sum(1) / weights[kept].sum()


# %% mask_changed | The ignored pixels are set to 0 in the caller's own mask. | 17
def trimmed_prototype(features, mask, trim):
    mask[mask == 255] = 0
    shares = F.adaptive_avg_pool2d(mask.float()[None], features.shape[1:])[0]
    inside = shares > 0
    units, weights = F.normalize(features, dim=0)[:, inside], shares[inside]
    fit = (units * weights).sum(1) @ units
    kept = fit.argsort(descending=True)[:len(fit) - int(trim * len(fit))]
    return F.normalize((units[:, kept] * weights[kept]).sum(1), dim=0)
