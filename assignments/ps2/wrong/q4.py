# %% share_of_all | k is a share of all cells of the photo, the same for both regions. | 3
def best_share_map(query, support, masks, share):
    rows = F.normalize(query, dim=1).permute(0, 2, 3, 1)
    positions = F.normalize(support, dim=1).permute(0, 2, 3, 1)
    k, means = math.ceil(share * positions[..., 0].numel()), []
    for region in split_cells(masks, support.shape[-2:]):
        cosines = rows @ positions[region].T
        means.append(cosines.topk(min(k, cosines.shape[-1])).values.mean(-1))
    return means[0] - means[1]


# %% photo_by_photo | Each support photo makes a map of its own, and the maps are averaged. | 16
def best_share_map(query, support, masks, share):
    rows, maps = F.normalize(query, dim=1).permute(0, 2, 3, 1), []
    for features, mask in zip(support, masks):
        positions, means = F.normalize(features, dim=0).permute(1, 2, 0), []
        for region in split_cells(mask[None], support.shape[-2:]):
            cosines = rows @ positions[region[0]].T
            means.append(cosines.topk(math.ceil(share * cosines.shape[-1])).values.mean(-1))
        maps.append(means[0] - means[1])
    return torch.stack(maps).mean(0)


# %% rounded_down | k is rounded down (and at least 1). | 8
def best_share_map(query, support, masks, share):
    rows = F.normalize(query, dim=1).permute(0, 2, 3, 1)
    positions = F.normalize(support, dim=1).permute(0, 2, 3, 1)
    means = []
    for region in split_cells(masks, support.shape[-2:]):
        cosines = rows @ positions[region].T
        means.append(cosines.topk(max(1, int(share * cosines.shape[-1]))).values.mean(-1))
    return means[0] - means[1]


# %% half_covered_only | A cell is object when at least half of it is covered, and a small object has no cell. | 17
def best_share_map(query, support, masks, share):
    rows = F.normalize(query, dim=1).permute(0, 2, 3, 1)
    positions = F.normalize(support, dim=1).permute(0, 2, 3, 1)
    means = []
    for shares in mask_shares(masks, support.shape[-2:]):
        cosines = rows @ positions[shares >= 0.5].T
        means.append(cosines.topk(math.ceil(share * cosines.shape[-1])).values.mean(-1))
    return means[0] - means[1]


# %% background_forgotten | Only the object's cells are asked. | 0
def best_share_map(query, support, masks, share):
    rows = F.normalize(query, dim=1).permute(0, 2, 3, 1)
    positions = F.normalize(support, dim=1).permute(0, 2, 3, 1)
    cosines = rows @ positions[split_cells(masks, support.shape[-2:])[0]].T
    return cosines.topk(math.ceil(share * cosines.shape[-1])).values.mean(-1)


# %% rest_is_background | Every cell that is not object counts as background, the ignored ones too. | 17
def best_share_map(query, support, masks, share):
    rows = F.normalize(query, dim=1).permute(0, 2, 3, 1)
    positions = F.normalize(support, dim=1).permute(0, 2, 3, 1)
    inside, means = split_cells(masks, support.shape[-2:])[0], []
    for region in (inside, ~inside):
        cosines = rows @ positions[region].T
        means.append(cosines.topk(math.ceil(share * cosines.shape[-1])).values.mean(-1))
    return means[0] - means[1]


# %% least_similar_background | From the background the lowest cosines are taken, not the highest. | 0
def best_share_map(query, support, masks, share):
    rows = F.normalize(query, dim=1).permute(0, 2, 3, 1)
    positions = F.normalize(support, dim=1).permute(0, 2, 3, 1)
    means = []
    for region, largest in zip(split_cells(masks, support.shape[-2:]), (True, False)):
        cosines = rows @ positions[region].T
        means.append(cosines.topk(math.ceil(share * cosines.shape[-1]), largest=largest).values.mean(-1))
    return means[0] - means[1]


# %% dot_products | Dot products instead of cosines: long vectors count more. | 5
def best_share_map(query, support, masks, share):
    rows, positions, means = query.permute(0, 2, 3, 1), support.permute(0, 2, 3, 1), []
    for region in split_cells(masks, support.shape[-2:]):
        cosines = rows @ positions[region].T
        means.append(cosines.topk(math.ceil(share * cosines.shape[-1])).values.mean(-1))
    return means[0] - means[1]


# %% same_cells_for_all | The best support cells are chosen once, by their mean over all query cells. | 0
def best_share_map(query, support, masks, share):
    rows = F.normalize(query, dim=1).permute(0, 2, 3, 1)
    positions = F.normalize(support, dim=1).permute(0, 2, 3, 1)
    means = []
    for region in split_cells(masks, support.shape[-2:]):
        cosines = rows @ positions[region].T
        best = cosines.mean((0, 1, 2)).topk(math.ceil(share * cosines.shape[-1])).indices
        means.append(cosines[..., best].mean(-1))
    return means[0] - means[1]
