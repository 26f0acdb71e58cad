# %% equal_say | Every support with an object has the same say | 11
def area_prior(query, support, masks):
    inside = (masks == 1).float()
    shares = F.adaptive_avg_pool2d(inside, support.shape[-2:])
    prototypes = torch.einsum('kcij,kij->kc', support, shares)
    cosines = torch.einsum('kc,cij->kij', F.normalize(prototypes, dim=1), F.normalize(query, dim=0))
    heard = (inside.sum((1, 2)) > 0).float()
    mixed = torch.einsum('k,kij->ij', heard, cosines)
    return (mixed - mixed.min()) / (mixed.max() - mixed.min() + 1e-7)


# %% stretched_first | Each support's cosines are stretched before they are mixed, as in the tutorial | 11
def area_prior(query, support, masks):
    inside = (masks == 1).float()
    shares = F.adaptive_avg_pool2d(inside, support.shape[-2:])
    prototypes = torch.einsum('kcij,kij->kc', support, shares)
    cosines = torch.einsum('kc,cij->kij', F.normalize(prototypes, dim=1), F.normalize(query, dim=0))
    low, high = cosines.amin((1, 2), keepdim=True), cosines.amax((1, 2), keepdim=True)
    area = inside.sum((1, 2))
    return torch.einsum('k,kij->ij', area / area.sum().clamp(min=1), (cosines - low) / (high - low + 1e-7))


# %% one_prototype | All supports are pooled to one prototype | 17
def area_prior(query, support, masks):
    shares = F.adaptive_avg_pool2d((masks == 1).float(), support.shape[-2:])
    prototype = torch.einsum('kcij,kij->c', support, shares)
    mixed = torch.einsum('c,cij->ij', F.normalize(prototype, dim=0), F.normalize(query, dim=0))
    return (mixed - mixed.min()) / (mixed.max() - mixed.min() + 1e-7)


# %% ignored_is_object | Every value that is not 0 counts as object, 255 too | 21
def area_prior(query, support, masks):
    inside = (masks > 0).float()
    shares = F.adaptive_avg_pool2d(inside, support.shape[-2:])
    prototypes = torch.einsum('kcij,kij->kc', support, shares)
    cosines = torch.einsum('kc,cij->kij', F.normalize(prototypes, dim=1), F.normalize(query, dim=0))
    mixed = torch.einsum('k,kij->ij', inside.sum((1, 2)), cosines)
    return (mixed - mixed.min()) / (mixed.max() - mixed.min() + 1e-7)


# %% nearest_pixel | A place takes one pixel of the mask in place of the share of its pixels | 11
def area_prior(query, support, masks):
    inside = (masks == 1).float()
    shares = F.interpolate(inside[None], support.shape[-2:], mode='nearest')[0]
    prototypes = torch.einsum('kcij,kij->kc', support, shares)
    cosines = torch.einsum('kc,cij->kij', F.normalize(prototypes, dim=1), F.normalize(query, dim=0))
    mixed = torch.einsum('k,kij->ij', inside.sum((1, 2)), cosines)
    return (mixed - mixed.min()) / (mixed.max() - mixed.min() + 1e-7)


# %% no_guard | A support without an object divides by zero | 15
def area_prior(query, support, masks):
    inside = (masks == 1).float()
    shares = F.adaptive_avg_pool2d(inside, support.shape[-2:])
    prototypes = torch.einsum('kcij,kij->kc', support, shares) / shares.sum((1, 2))[:, None]
    cosines = torch.einsum('kc,cij->kij', F.normalize(prototypes, dim=1), F.normalize(query, dim=0))
    area = inside.sum((1, 2))
    mixed = torch.einsum('k,kij->ij', area / area.sum(), cosines)
    return (mixed - mixed.min()) / (mixed.max() - mixed.min() + 1e-7)


# %% softmax_of_areas | The areas go through a softmax, so the largest object has all the say | 11
def area_prior(query, support, masks):
    inside = (masks == 1).float()
    shares = F.adaptive_avg_pool2d(inside, support.shape[-2:])
    prototypes = torch.einsum('kcij,kij->kc', support, shares)
    cosines = torch.einsum('kc,cij->kij', F.normalize(prototypes, dim=1), F.normalize(query, dim=0))
    mixed = torch.einsum('k,kij->ij', inside.sum((1, 2)).softmax(0), cosines)
    return (mixed - mixed.min()) / (mixed.max() - mixed.min() + 1e-7)


# %% not_stretched | The weighted mean of the cosines is returned as it is | 11
def area_prior(query, support, masks):
    inside = (masks == 1).float()
    shares = F.adaptive_avg_pool2d(inside, support.shape[-2:])
    prototypes = torch.einsum('kcij,kij->kc', support, shares)
    cosines = torch.einsum('kc,cij->kij', F.normalize(prototypes, dim=1), F.normalize(query, dim=0))
    area = inside.sum((1, 2))
    return torch.einsum('k,kij->ij', area / area.sum().clamp(min=1), cosines)


# %% whole_photo | The prototype is the mean of the whole support, the mask is only used for the say | 17
def area_prior(query, support, masks):
    prototypes = support.mean((2, 3))
    cosines = torch.einsum('kc,cij->kij', F.normalize(prototypes, dim=1), F.normalize(query, dim=0))
    mixed = torch.einsum('k,kij->ij', (masks == 1).float().sum((1, 2)), cosines)
    return (mixed - mixed.min()) / (mixed.max() - mixed.min() + 1e-7)
