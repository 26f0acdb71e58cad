# %% masked_features | The mask multiplies the features, and the cosine forgets how much of a cell it covered. | 11
def area_correlation(query, support, masks):
    shares = mask_shares(masks, support[0].shape[-2:])[0]
    masked = [features * shares[:, None] for features in support]
    return correlation(query, masked) / shares.sum((1, 2))[:, None, None, None, None, None]


# %% nearest_pixel | A cell takes the label of one pixel instead of its share. | 11
def area_correlation(query, support, masks):
    small = F.interpolate(masks[:, None].float(), support[0].shape[-2:], mode='nearest')[:, 0]
    weights = (small == 1).float()
    weights = weights / weights.sum((1, 2), keepdim=True)
    return correlation(query, support) * weights[:, None, None, None]


# %% ignored_is_object | Everything that is not 0 is taken for object, the ignored pixels too. | 16
def area_correlation(query, support, masks):
    shares = F.adaptive_avg_pool2d((masks > 0).float(), support[0].shape[-2:])
    weights = shares / shares.sum((1, 2), keepdim=True)
    return correlation(query, support) * weights[:, None, None, None]


# %% mean_over_cells | Divided by the number of all support cells instead of by the sum of the shares. | 0
def area_correlation(query, support, masks):
    shares = mask_shares(masks, support[0].shape[-2:])[0]
    return correlation(query, support) * (shares / shares[0].numel())[:, None, None, None]


# %% sum_over_batch | The shares of all photo pairs together add up to 1. | 17
def area_correlation(query, support, masks):
    shares = mask_shares(masks, support[0].shape[-2:])[0]
    return correlation(query, support) * (shares / shares.sum())[:, None, None, None]


# %% negatives_kept | Cosines below 0 are not cut off. | 3
def area_correlation(query, support, masks):
    shares = mask_shares(masks, support[0].shape[-2:])[0]
    weights = shares / shares.sum((1, 2), keepdim=True)
    volume = torch.stack([torch.einsum('bcyx,bcvu->byxvu', F.normalize(q, dim=1), F.normalize(s, dim=1))
                          for q, s in zip(query, support)], 1)
    return volume * weights[:, None, None, None]


# %% weights_forgotten | The tutorial's masking: shares that do not add up to 1. | 0
def area_correlation(query, support, masks):
    shares = mask_shares(masks, support[0].shape[-2:])[0]
    return correlation(query, support) * shares[:, None, None, None]


# %% mask_on_query | The weights lie on the query's axes. | 0
def area_correlation(query, support, masks):
    shares = mask_shares(masks, query[0].shape[-2:])[0]
    weights = shares / shares.sum((1, 2), keepdim=True)
    return correlation(query, support) * weights[:, None, :, :, None, None]


# %% swapped | Query and support are swapped when the volume is built. | 0
def area_correlation(query, support, masks):
    shares = mask_shares(masks, support[0].shape[-2:])[0]
    weights = shares / shares.sum((1, 2), keepdim=True)
    return correlation(support, query) * weights[:, None, :, :, None, None]
