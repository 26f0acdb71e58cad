# %% columns_first | The places come as (column, row). | 4
def transport(volume, photo_size):
    hs, ws = volume.shape[4:]
    score, best = volume.mean(1).flatten(3).max(-1)
    rows, columns = (best // ws + 0.5) * photo_size[0] / hs, (best % ws + 0.5) * photo_size[1] / ws
    return {'where': torch.stack([columns, rows], 1), 'score': score}


# %% divided_by_rows | The flat index is split with the number of rows instead of the length of a row. | 4
def transport(volume, photo_size):
    hs, ws = volume.shape[4:]
    score, best = volume.mean(1).flatten(3).max(-1)
    rows, columns = (best // hs + 0.5) * photo_size[0] / hs, (best % hs + 0.5) * photo_size[1] / ws
    return {'where': torch.stack([rows, columns], 1), 'score': score}


# %% corner | The upper left corner of the cell instead of its centre. | 4
def transport(volume, photo_size):
    hs, ws = volume.shape[4:]
    score, best = volume.mean(1).flatten(3).max(-1)
    rows, columns = (best // ws) * photo_size[0] / hs, (best % ws) * photo_size[1] / ws
    return {'where': torch.stack([rows, columns], 1), 'score': score}


# %% mean_of_places | Each layer finds its own place, and the places are averaged. | 12
def transport(volume, photo_size):
    hs, ws = volume.shape[4:]
    score, best = volume.flatten(4).max(-1)
    rows, columns = (best // ws + 0.5) * photo_size[0] / hs, (best % ws + 0.5) * photo_size[1] / ws
    return {'where': torch.stack([rows, columns], 2).mean(1), 'score': score.mean(1)}


# %% best_layer | The maximum over the layers instead of their mean. | 12
def transport(volume, photo_size):
    hs, ws = volume.shape[4:]
    score, best = volume.amax(1).flatten(3).max(-1)
    rows, columns = (best // ws + 0.5) * photo_size[0] / hs, (best % ws + 0.5) * photo_size[1] / ws
    return {'where': torch.stack([rows, columns], 1), 'score': score}


# %% other_direction | For each support place the best query place. | 0
def transport(volume, photo_size):
    hq, wq = volume.shape[2:4]
    score, best = volume.mean(1).flatten(1, 2).max(1)
    rows, columns = (best // wq + 0.5) * photo_size[0] / hq, (best % wq + 0.5) * photo_size[1] / wq
    return {'where': torch.stack([rows, columns], 1), 'score': score}


# %% query_grid | Cells of the support are turned into pixels with the size of the query's cells. | 4
def transport(volume, photo_size):
    hq, wq, hs, ws = volume.shape[2:]
    score, best = volume.mean(1).flatten(3).max(-1)
    rows, columns = (best // ws + 0.5) * photo_size[0] / hq, (best % ws + 0.5) * photo_size[1] / wq
    return {'where': torch.stack([rows, columns], 1), 'score': score}


# %% row_and_column_apart | The best row and the best column are searched one by one, in sums over the other. | 9
def transport(volume, photo_size):
    hs, ws = volume.shape[4:]
    mean = volume.mean(1)
    rows = (mean.sum(-1).argmax(-1) + 0.5) * photo_size[0] / hs
    columns = (mean.sum(-2).argmax(-1) + 0.5) * photo_size[1] / ws
    return {'where': torch.stack([rows, columns], 1), 'score': mean.amax((3, 4))}


# %% whole_pixels | The centre is rounded down to a whole pixel. | 17
def transport(volume, photo_size):
    hs, ws = volume.shape[4:]
    score, best = volume.mean(1).flatten(3).max(-1)
    rows, columns = (best // ws + 0.5) * photo_size[0] / hs, (best % ws + 0.5) * photo_size[1] / ws
    return {'where': torch.stack([rows, columns], 1).floor(), 'score': score}
