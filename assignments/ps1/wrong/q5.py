# %% any_episode | Episodes are drawn from all classes, as in the ordinary bootstrap | 0
def stratified_differences(counts_a, counts_b, class_ids, draws):
    picked = (draws * len(class_ids)).long()
    total, seen = torch.zeros(len(draws)), torch.zeros(len(draws))
    for c in class_ids.unique():
        own = (class_ids[picked] == c).float()
        a, b = ((counts[picked] * own[..., None]).sum(1) for counts in (counts_a, counts_b))
        there = own.sum(1) > 0
        total += torch.where(there, a[:, 0] / a[:, 1].clamp(min=1) - b[:, 0] / b[:, 1].clamp(min=1), torch.zeros(()))
        seen += there
    return total / seen


# %% drawn_apart | System B is resampled with other draws than system A | 3
def stratified_differences(counts_a, counts_b, class_ids, draws):
    total, classes = torch.zeros(len(draws)), class_ids.unique()
    for c in classes:
        own = (class_ids == c).nonzero()[:, 0]
        for counts, numbers, sign in ((counts_a, draws, 1), (counts_b, draws.flip(0), -1)):
            sums = counts[own[(numbers[:, own] * len(own)).long()]].sum(1).float()
            total += sign * sums[:, 0] / sums[:, 1]
    return total / len(classes)


# %% rounded | The draw is rounded to the nearest episode: the first and the last one come up too rarely | 8
def stratified_differences(counts_a, counts_b, class_ids, draws):
    total, classes = torch.zeros(len(draws)), class_ids.unique()
    for c in classes:
        own = (class_ids == c).nonzero()[:, 0]
        picked = own[(draws[:, own] * (len(own) - 1)).round().long()]
        a, b = counts_a[picked].sum(1).float(), counts_b[picked].sum(1).float()
        total += a[:, 0] / a[:, 1] - b[:, 0] / b[:, 1]
    return total / len(classes)


# %% mean_of_episodes | The IoUs of the single episodes are averaged: first divide, then average | 0
def stratified_differences(counts_a, counts_b, class_ids, draws):
    total, classes = torch.zeros(len(draws)), class_ids.unique()
    for c in classes:
        own = (class_ids == c).nonzero()[:, 0]
        picked = own[(draws[:, own] * len(own)).long()]
        a, b = counts_a[picked].float(), counts_b[picked].float()
        total += (a[..., 0] / a[..., 1] - b[..., 0] / b[..., 1]).mean(1)
    return total / len(classes)


# %% pooled | The sums run over all classes: frequent classes and large objects decide | 0
def stratified_differences(counts_a, counts_b, class_ids, draws):
    a, b = torch.zeros(len(draws), 2), torch.zeros(len(draws), 2)
    for c in class_ids.unique():
        own = (class_ids == c).nonzero()[:, 0]
        picked = own[(draws[:, own] * len(own)).long()]
        a, b = a + counts_a[picked].sum(1), b + counts_b[picked].sum(1)
    return a[:, 0] / a[:, 1] - b[:, 0] / b[:, 1]


# %% numbers_as_places | The classes are taken to be 0, 1, ... up to the largest number | 12
def stratified_differences(counts_a, counts_b, class_ids, draws):
    n_classes = int(class_ids.max()) + 1
    total = torch.zeros(len(draws))
    for c in range(n_classes):
        own = (class_ids == c).nonzero()[:, 0]
        picked = own[(draws[:, own] * len(own)).long()]
        a, b = counts_a[picked].sum(1).float(), counts_b[picked].sum(1).float()
        total += a[:, 0] / a[:, 1].clamp(min=1) - b[:, 0] / b[:, 1].clamp(min=1)
    return total / n_classes


# %% weighted_by_episodes | Classes with more episodes weigh more in the mean | 0
def stratified_differences(counts_a, counts_b, class_ids, draws):
    total = torch.zeros(len(draws))
    for c in class_ids.unique():
        own = (class_ids == c).nonzero()[:, 0]
        picked = own[(draws[:, own] * len(own)).long()]
        a, b = counts_a[picked].sum(1).float(), counts_b[picked].sum(1).float()
        total += len(own) * (a[:, 0] / a[:, 1] - b[:, 0] / b[:, 1])
    return total / len(class_ids)
