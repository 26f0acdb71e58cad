# %% minmax_over_batch | The prior is stretched over all query photos together. | 16
def reliable_prior(query, support, masks, temperature):
    shares = mask_shares(masks, support.shape[-2:])
    prototypes = F.normalize(torch.einsum('kcij,kij->kc', F.normalize(support, dim=1), shares[0]), dim=1)
    own = cosine_map(prototypes, support)
    inside, outside = ((own * share).sum((1, 2)) / share.sum((1, 2)) for share in shares)
    weights = ((inside - outside) / temperature).softmax(0)
    mixed = torch.einsum('k,kc,bchw->bhw', weights, prototypes, F.normalize(query, dim=1))
    return {'weights': weights, 'prior': (mixed - mixed.min()) / (mixed.max() - mixed.min())}


# %% plain_shares | The reliabilities are divided by their sum; the temperature does nothing. | 4
def reliable_prior(query, support, masks, temperature):
    shares = mask_shares(masks, support.shape[-2:])
    prototypes = F.normalize(torch.einsum('kcij,kij->kc', F.normalize(support, dim=1), shares[0]), dim=1)
    own = cosine_map(prototypes, support)
    inside, outside = ((own * share).sum((1, 2)) / share.sum((1, 2)) for share in shares)
    weights = (inside - outside) / (inside - outside).sum()
    mixed = torch.einsum('k,kc,bchw->bhw', weights, prototypes, F.normalize(query, dim=1))
    return {'weights': weights, 'prior': minmax(mixed)}


# %% background_forgotten | A support is trusted when its object is even, whatever its background looks like. | 4
def reliable_prior(query, support, masks, temperature):
    share = mask_shares(masks, support.shape[-2:])[0]
    prototypes = F.normalize(torch.einsum('kcij,kij->kc', F.normalize(support, dim=1), share), dim=1)
    inside = (cosine_map(prototypes, support) * share).sum((1, 2)) / share.sum((1, 2))
    weights = (inside / temperature).softmax(0)
    mixed = torch.einsum('k,kc,bchw->bhw', weights, prototypes, F.normalize(query, dim=1))
    return {'weights': weights, 'prior': minmax(mixed)}


# %% trusts_the_query | A support is trusted when something in the query is like it. | 4
def reliable_prior(query, support, masks, temperature):
    share = mask_shares(masks, support.shape[-2:])[0]
    prototypes = F.normalize(torch.einsum('kcij,kij->kc', F.normalize(support, dim=1), share), dim=1)
    maps = torch.einsum('kc,bchw->bkhw', prototypes, F.normalize(query, dim=1))
    weights = (maps.amax((0, 2, 3)) / temperature).softmax(0)
    return {'weights': weights, 'prior': minmax(torch.einsum('k,bkhw->bhw', weights, maps))}


# %% pooled_prototype | All supports are pooled to one prototype, and the weights are only reported. | 8
def reliable_prior(query, support, masks, temperature):
    shares = mask_shares(masks, support.shape[-2:])
    sums = torch.einsum('kcij,kij->kc', F.normalize(support, dim=1), shares[0])
    own = cosine_map(F.normalize(sums, dim=1), support)
    inside, outside = ((own * share).sum((1, 2)) / share.sum((1, 2)) for share in shares)
    weights = ((inside - outside) / temperature).softmax(0)
    return {'weights': weights, 'prior': minmax(cosine_map(sums.sum(0).expand(len(query), -1), query))}


# %% stretched_before_mixing | Each map is stretched by itself, then mixed. | 8
def reliable_prior(query, support, masks, temperature):
    shares = mask_shares(masks, support.shape[-2:])
    prototypes = F.normalize(torch.einsum('kcij,kij->kc', F.normalize(support, dim=1), shares[0]), dim=1)
    own = cosine_map(prototypes, support)
    inside, outside = ((own * share).sum((1, 2)) / share.sum((1, 2)) for share in shares)
    weights = ((inside - outside) / temperature).softmax(0)
    maps = torch.stack([minmax(cosine_map(p.expand(len(query), -1), query)) for p in prototypes])
    return {'weights': weights, 'prior': (weights[:, None, None, None] * maps).sum(0)}


# %% softmax_wrong_axis | The softmax runs over an axis of length 1, and every weight is 1. | 0
def reliable_prior(query, support, masks, temperature):
    shares = mask_shares(masks, support.shape[-2:])
    prototypes = F.normalize(torch.einsum('kcij,kij->kc', F.normalize(support, dim=1), shares[0]), dim=1)
    own = cosine_map(prototypes, support)
    inside, outside = ((own * share).sum((1, 2)) / share.sum((1, 2)) for share in shares)
    weights = ((inside - outside) / temperature)[:, None].softmax(1)[:, 0]
    mixed = torch.einsum('k,kc,bchw->bhw', weights, prototypes, F.normalize(query, dim=1))
    return {'weights': weights, 'prior': minmax(mixed)}


# %% plain_exp | The softmax is typed in as a fraction of exponentials, which overflow. | 17
def reliable_prior(query, support, masks, temperature):
    shares = mask_shares(masks, support.shape[-2:])
    prototypes = F.normalize(torch.einsum('kcij,kij->kc', F.normalize(support, dim=1), shares[0]), dim=1)
    own = cosine_map(prototypes, support)
    inside, outside = ((own * share).sum((1, 2)) / share.sum((1, 2)) for share in shares)
    loud = ((inside - outside) / temperature).exp()
    mixed = torch.einsum('k,kc,bchw->bhw', loud / loud.sum(), prototypes, F.normalize(query, dim=1))
    return {'weights': loud / loud.sum(), 'prior': minmax(mixed)}


# %% rest_is_background | Whatever is not object is taken for background, the ignored pixels too. | 17
def reliable_prior(query, support, masks, temperature):
    share = mask_shares(masks, support.shape[-2:])[0]
    prototypes = F.normalize(torch.einsum('kcij,kij->kc', F.normalize(support, dim=1), share), dim=1)
    own = cosine_map(prototypes, support)
    inside, outside = ((own * s).sum((1, 2)) / s.sum((1, 2)) for s in (share, 1 - share))
    weights = ((inside - outside) / temperature).softmax(0)
    mixed = torch.einsum('k,kc,bchw->bhw', weights, prototypes, F.normalize(query, dim=1))
    return {'weights': weights, 'prior': minmax(mixed)}
