# %% one_direction | Only the best support place of each query place counts, twice. | 0
def mutual_matches(volume):
    share = volume / volume.amax((4, 5), keepdim=True).clamp(min=1e-30)
    return volume * share * share


# %% largest_of_all | Divided by the largest entry of the whole table, not by those of row and column. | 4
def mutual_matches(volume):
    share = volume / volume.amax((2, 3, 4, 5), keepdim=True).clamp(min=1e-30)
    return volume * share * share


# %% rows_and_columns | One maximum over both rows, one over both columns, instead of over query and support. | 4
def mutual_matches(volume):
    by_rows = volume.amax((2, 4), keepdim=True).clamp(min=1e-30)
    by_columns = volume.amax((3, 5), keepdim=True).clamp(min=1e-30)
    return volume * (volume / by_rows) * (volume / by_columns)


# %% zero_by_zero | A place without any match divides 0 by 0. | 17
def mutual_matches(volume):
    return volume * (volume / volume.amax((4, 5), keepdim=True)) * (volume / volume.amax((2, 3), keepdim=True))


# %% epsilon_added | A small number is added to each maximum, which is not small for a small volume. | 17
def mutual_matches(volume):
    by_query, by_support = (volume.amax(axes, keepdim=True) + 1e-6 for axes in ((4, 5), (2, 3)))
    return volume * (volume / by_query) * (volume / by_support)


# %% batch_together | The maxima run over layers and photo pairs too. | 17
def mutual_matches(volume):
    by_query, by_support = (volume.amax(axes, keepdim=True).clamp(min=1e-30) for axes in ((0, 1, 4, 5), (0, 1, 2, 3)))
    return volume * (volume / by_query) * (volume / by_support)


# %% hard_rule | Entries that are not the best in both directions are set to 0. | 4
def mutual_matches(volume):
    best = (volume == volume.amax((4, 5), keepdim=True)) & (volume == volume.amax((2, 3), keepdim=True))
    return volume * best


# %% sums | Divided by the sums instead of by the maxima. | 4
def mutual_matches(volume):
    by_query, by_support = (volume.sum(axes, keepdim=True).clamp(min=1e-30) for axes in ((4, 5), (2, 3)))
    return volume * (volume / by_query) * (volume / by_support)


# %% entry_forgotten | The product of the two shares, without the entry itself. | 4
def mutual_matches(volume):
    by_query, by_support = (volume.amax(axes, keepdim=True).clamp(min=1e-30) for axes in ((4, 5), (2, 3)))
    return (volume / by_query) * (volume / by_support)


# %% in_place | The caller's volume is overwritten on the way. | 17
def mutual_matches(volume):
    by_query, by_support = (volume.amax(axes, keepdim=True).clamp(min=1e-30) for axes in ((4, 5), (2, 3)))
    shares = volume / by_query / by_support
    return volume.mul_(volume).mul_(shares)
