# %% softmax_over_places | The softmax runs over the places of the query instead of over object and background. | 0
def contrast_probability(query, support, mask, temperature):
    units = F.normalize(support, dim=0)
    prototypes = [torch.einsum('cgk,gk->c', units, share[0]) for share in mask_shares(mask[None], support.shape[1:])]
    inside, outside = (cosine_map(p.expand(len(query), -1), query) for p in prototypes)
    return ((inside - outside) / temperature).flatten(1).softmax(1).view(inside.shape)


# %% rest_is_background | Whatever is not object is taken for background, the ignored pixels too. | 16
def contrast_probability(query, support, mask, temperature):
    units, share = F.normalize(support, dim=0), mask_shares(mask[None], support.shape[1:])[0][0]
    prototypes = [torch.einsum('cgk,gk->c', units, s) for s in (share, 1 - share)]
    inside, outside = (cosine_map(p.expand(len(query), -1), query) for p in prototypes)
    return torch.sigmoid((inside - outside) / temperature)


# %% background_forgotten | The cosine with the object alone goes through a sigmoid. | 3
def contrast_probability(query, support, mask, temperature):
    units, share = F.normalize(support, dim=0), mask_shares(mask[None], support.shape[1:])[0][0]
    prototype = torch.einsum('cgk,gk->c', units, share)
    return torch.sigmoid(cosine_map(prototype.expand(len(query), -1), query) / temperature)


# %% multiplies | The cosines are multiplied by the temperature. | 3
def contrast_probability(query, support, mask, temperature):
    units = F.normalize(support, dim=0)
    prototypes = [torch.einsum('cgk,gk->c', units, share[0]) for share in mask_shares(mask[None], support.shape[1:])]
    inside, outside = (cosine_map(p.expand(len(query), -1), query) for p in prototypes)
    return torch.sigmoid((inside - outside) * temperature)


# %% plain_exp | The formula is typed in as it stands, and infinity is divided by infinity. | 16
def contrast_probability(query, support, mask, temperature):
    units = F.normalize(support, dim=0)
    prototypes = [torch.einsum('cgk,gk->c', units, share[0]) for share in mask_shares(mask[None], support.shape[1:])]
    inside, outside = ((cosine_map(p.expand(len(query), -1), query) / temperature).exp() for p in prototypes)
    return inside / (inside + outside)


# %% nearest_pixel | A cell takes the label of one pixel instead of its shares. | 16
def contrast_probability(query, support, mask, temperature):
    units = F.normalize(support, dim=0)
    small = F.interpolate(mask[None, None].float(), support.shape[1:], mode='nearest')[0, 0]
    prototypes = [torch.einsum('cgk,gk->c', units, (small == label).float()) for label in (1, 0)]
    inside, outside = (cosine_map(p.expand(len(query), -1), query) for p in prototypes)
    return torch.sigmoid((inside - outside) / temperature)


# %% raw_vectors | The prototypes are means of the vectors as they are, so that a long one counts more. | 12
def contrast_probability(query, support, mask, temperature):
    shares = mask_shares(mask[None], support.shape[1:])
    prototypes = [torch.einsum('cgk,gk->c', support, share[0]) / share.sum() for share in shares]
    inside, outside = (cosine_map(p.expand(len(query), -1), query) for p in prototypes)
    return torch.sigmoid((inside - outside) / temperature)


# %% temperature_cancels | The prototypes are divided by the temperature, and the cosine takes it out again. | 3
def contrast_probability(query, support, mask, temperature):
    units = F.normalize(support, dim=0)
    shares = mask_shares(mask[None], support.shape[1:])
    prototypes = [torch.einsum('cgk,gk->c', units, share[0]) / temperature for share in shares]
    inside, outside = (cosine_map(p.expand(len(query), -1), query) for p in prototypes)
    return torch.sigmoid(inside - outside)
