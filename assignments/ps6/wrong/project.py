# %% everything | Every place is marked, which gives a high recall | 0
def match(query, support, masks):
    return torch.ones(query.shape[1:])


# %% pasted_mask | The supports' masks are laid over the query, as if objects never moved | 0
def match(query, support, masks):
    return masks.float().mean(0) - 0.5


# %% background_only | Foreground is what is unlike the background; the object is not looked at | 45
def match(query, support, masks):
    unit = lambda x: torch.cat([F.normalize(half, dim=-3) for half in x.split(192, -3)], -3)
    means = torch.stack([torch.einsum('chw,hw->c', unit(s), 1 - m) for s, m in zip(support, masks)])
    near = torch.einsum('kc,chw->khw', F.normalize(means, dim=1), unit(query)).mean(0)
    return near.mean() - near


# %% first_support_only | Only the first support is used, however many there are | 85
def match(query, support, masks):
    unit = lambda x: torch.cat([F.normalize(half, dim=0) for half in x.split(192)]).flatten(1).T / 2 ** 0.5
    asked = unit(query)
    best = lambda known: (asked @ known.T).topk(min(5, len(known)), 1).values.mean(1) if len(known) else 0 * asked[:, 0]
    known, inside = unit(support[0]), masks[0].flatten() >= masks[0].max().clamp(max=0.5)
    first = best(known[inside]) - best(known[~inside])
    sure = torch.sigmoid(60 * (first - 0.03))
    own = [F.normalize(weight @ asked, dim=0) for weight in (sure, 1 - sure)]
    return (first + asked @ (own[0] - own[1])).view(query.shape[1:])


# %% one_bag | The places of all supports lie in one bag, so copies of a place fill the best five | 95
def match(query, support, masks):
    unit = lambda x: torch.cat([F.normalize(half, dim=0) for half in x.split(192)]).flatten(1).T / 2 ** 0.5
    asked = unit(query)
    best = lambda known: (asked @ known.T).topk(min(5, len(known)), 1).values.mean(1) if len(known) else 0 * asked[:, 0]
    known = torch.cat([unit(features) for features in support])
    inside = torch.cat([mask.flatten() >= mask.max().clamp(max=0.5) for mask in masks])
    first = best(known[inside]) - best(known[~inside])
    sure = torch.sigmoid(60 * (first - 0.03))
    own = [F.normalize(weight @ asked, dim=0) for weight in (sure, 1 - sure)]
    return (first + asked @ (own[0] - own[1])).view(query.shape[1:])


# %% in_place | The caller's features are normalised in place | 95
def match(query, support, masks):
    for maps in (query[None], support):
        for half in maps.split(192, 1): half /= half.norm(dim=1, keepdim=True).clamp(min=1e-12)
    unit = lambda x: x.flatten(1).T / 2 ** 0.5
    asked = unit(query)
    best = lambda known: (asked @ known.T).topk(min(5, len(known)), 1).values.mean(1) if len(known) else 0 * asked[:, 0]
    answers = []
    for features, mask in zip(support, masks):
        known, inside = unit(features), mask.flatten() >= mask.max().clamp(max=0.5)
        answers.append(best(known[inside]) - best(known[~inside]))
    first = torch.stack(answers).mean(0)
    sure = torch.sigmoid(60 * (first - 0.03))
    own = [F.normalize(weight @ asked, dim=0) for weight in (sure, 1 - sure)]
    return (first + asked @ (own[0] - own[1])).view(query.shape[1:])


# %% baseline_again | The nearest of two prototypes, as in the text | 65
def match(query, support, masks):
    unit = lambda x: torch.cat([F.normalize(half, dim=-3) for half in x.split(192, -3)], -3)
    sides = [torch.einsum('kchw,khw->c', unit(support), part) for part in (masks, 1 - masks)]
    near = [torch.einsum('c,chw->hw', F.normalize(side, dim=0), unit(query)) for side in sides]
    return near[0] - near[1]


# %% tutorial_dense | Dense matching as in the tutorial: the best five of all supports together | 60
def match(query, support, masks):
    unit = lambda x: torch.cat([F.normalize(half, dim=0) for half in x.split(192)]).flatten(1).T / 2 ** 0.5
    asked = unit(query)
    best = lambda known: (asked @ known.T).topk(min(5, len(known)), 1).values.mean(1) if len(known) else 0 * asked[:, 0]
    known = torch.cat([unit(features) for features in support])
    inside = torch.cat([mask.flatten() >= mask.max().clamp(max=0.5) for mask in masks])
    return (best(known[inside]) - best(known[~inside])).view(query.shape[1:])


# %% mean_of_raw | The prototypes are means of raw features, so long vectors count for more | 60
def match(query, support, masks):
    sides = [torch.einsum('kchw,khw->c', support, part) for part in (masks, 1 - masks)]
    return sum(sign * F.cosine_similarity(side[:, None, None], query, dim=0) for sign, side in zip((1, -1), sides))


# %% half_covered_only | Only places at least half covered are object, so a small object is lost | 90
def match(query, support, masks):
    unit = lambda x: torch.cat([F.normalize(half, dim=0) for half in x.split(192)]).flatten(1).T / 2 ** 0.5
    asked = unit(query)
    best = lambda known: (asked @ known.T).topk(min(5, len(known)), 1).values.mean(1) if len(known) else 0 * asked[:, 0]
    answers = []
    for features, mask in zip(support, masks):
        known, inside = unit(features), mask.flatten() >= 0.5
        answers.append(best(known[inside]) - best(known[~inside]))
    first = torch.stack(answers).mean(0)
    sure = torch.sigmoid(60 * (first - 0.03))
    own = [F.normalize(weight @ asked, dim=0) for weight in (sure, 1 - sure)]
    return (first + asked @ (own[0] - own[1])).view(query.shape[1:])


# %% always_background | There is always some background: without any, the mean of nothing is NaN | 90
def match(query, support, masks):
    unit = lambda x: torch.cat([F.normalize(half, dim=0) for half in x.split(192)]).flatten(1).T / 2 ** 0.5
    asked = unit(query)
    best = lambda known: (asked @ known.T).topk(min(5, len(known)), 1).values.mean(1)
    answers = []
    for features, mask in zip(support, masks):
        known, inside = unit(features), mask.flatten() >= mask.max().clamp(max=0.5)
        answers.append(best(known[inside]) - best(known[~inside]))
    first = torch.stack(answers).mean(0)
    sure = torch.sigmoid(60 * (first - 0.03))
    own = [F.normalize(weight @ asked, dim=0) for weight in (sure, 1 - sure)]
    return (first + asked @ (own[0] - own[1])).view(query.shape[1:])


# %% no_threshold | Cosines to the object's prototype as they are: nearly all of them are positive | 10
def match(query, support, masks):
    unit = lambda x: torch.cat([F.normalize(half, dim=-3) for half in x.split(192, -3)], -3)
    mean = torch.einsum('kchw,khw->c', unit(support), masks.float())
    return torch.einsum('c,chw->hw', F.normalize(mean, dim=0), unit(query))


# %% square_grid | The grid is believed to be square | 0
def match(query, support, masks):
    unit = lambda x: torch.cat([F.normalize(half, dim=0) for half in x.split(192)]).flatten(1).T / 2 ** 0.5
    asked = unit(query)
    best = lambda known: (asked @ known.T).topk(min(5, len(known)), 1).values.mean(1) if len(known) else 0 * asked[:, 0]
    answers = []
    for features, mask in zip(support, masks):
        known, inside = unit(features), mask.flatten() >= mask.max().clamp(max=0.5)
        answers.append(best(known[inside]) - best(known[~inside]))
    first = torch.stack(answers).mean(0)
    sure = torch.sigmoid(60 * (first - 0.03))
    own = [F.normalize(weight @ asked, dim=0) for weight in (sure, 1 - sure)]
    return (first + asked @ (own[0] - own[1])).view(2 * [int(query[0].numel() ** 0.5)])


# %% place_by_place | Python loops over all pairs of places: right, but far too slow | 40
def match(query, support, masks):
    h, w = query.shape[1:]
    scores = torch.zeros(len(support), h, w)
    unit = lambda x: torch.cat([F.normalize(half, dim=0) for half in x.split(192)]) / 2 ** 0.5
    asked = unit(query)
    for n, (features, mask) in enumerate(zip(support, masks)):
        known, limit = unit(features), mask.max().clamp(max=0.5)
        for i in range(h):
            for j in range(w):
                sides = [], []
                for y in range(h):
                    for x in range(w):
                        sides[int(mask[y, x] < limit)].append(float(asked[:, i, j] @ known[:, y, x]))
                means = [sum(sorted(side)[-5:]) / max(1, len(side[-5:])) for side in sides]
                scores[n, i, j] = means[0] - means[1]
    return scores.mean(0)
