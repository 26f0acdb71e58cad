# %% one_extra_always | There is always exactly one class token | 16
def carry_over(weights, old, new):
    table = weights['positions']
    front, cells = table[:1], table[-old[0] * old[1]:]
    field = cells.float().T.reshape(1, -1, *old)
    grown = F.interpolate(field, size=tuple(new), mode='bilinear')[0]
    return {**weights, 'positions': torch.cat([front, grown.flatten(1).T.to(table)])}


# %% extras_dropped | Only the cells are carried over, the extra tokens start anew | 8
def carry_over(weights, old, new):
    table = weights['positions']
    field = table[-old[0] * old[1]:].float().T.reshape(1, -1, *old)
    grown = F.interpolate(field, size=tuple(new), mode='bilinear')[0]
    return {**weights, 'positions': grown.flatten(1).T.to(table)}


# %% corners_on_corners | The table is resized with align_corners=True | 10
def carry_over(weights, old, new):
    table = weights['positions']
    extra = len(table) - old[0] * old[1]
    field = table[extra:].float().T.reshape(1, -1, *old)
    grown = F.interpolate(field, size=tuple(new), mode='bilinear', align_corners=True)[0]
    return {**weights, 'positions': torch.cat([table[:extra], grown.flatten(1).T.to(table)])}


# %% channels_by_reshape | The rows are reshaped to (C, h, w) without moving the channels to the front | 10
def carry_over(weights, old, new):
    table = weights['positions']
    extra = len(table) - old[0] * old[1]
    field = table[extra:].float().reshape(1, -1, *old)
    grown = F.interpolate(field, size=tuple(new), mode='bilinear')[0]
    return {**weights, 'positions': torch.cat([table[:extra], grown.reshape(-1, table.shape[1]).to(table)])}


# %% column_by_column | The cells are believed to be stored column by column | 10
def carry_over(weights, old, new):
    table = weights['positions']
    extra = len(table) - old[0] * old[1]
    field = table[extra:].float().T.reshape(1, -1, old[1], old[0])
    grown = F.interpolate(field, size=(new[1], new[0]), mode='bilinear')[0]
    return {**weights, 'positions': torch.cat([table[:extra], grown.flatten(1).T.to(table)])}


# %% one_long_row | The cells are interpolated along the list, as if the grid had one row | 10
def carry_over(weights, old, new):
    table = weights['positions']
    extra = len(table) - old[0] * old[1]
    grown = F.interpolate(table[extra:].float().T[None], size=new[0] * new[1], mode='linear')[0]
    return {**weights, 'positions': torch.cat([table[:extra], grown.T.to(table)])}


# %% in_place | The table is replaced in the dict that was given | 17
def carry_over(weights, old, new):
    table = weights['positions']
    extra = len(table) - old[0] * old[1]
    field = table[extra:].float().T.reshape(1, -1, *old)
    grown = F.interpolate(field, size=tuple(new), mode='bilinear')[0]
    weights['positions'] = torch.cat([table[:extra], grown.flatten(1).T.to(table)])
    return weights


# %% type_lost | The table stays in float32 although it was stored in half precision | 17
def carry_over(weights, old, new):
    table = weights['positions'].float()
    extra = len(table) - old[0] * old[1]
    field = table[extra:].T.reshape(1, -1, *old)
    grown = F.interpolate(field, size=tuple(new), mode='bilinear')[0]
    return {**weights, 'positions': torch.cat([table[:extra], grown.flatten(1).T])}


# %% starts_anew | A table that does not fit is replaced by a fresh one | 4
def carry_over(weights, old, new):
    table = weights['positions']
    extra = len(table) - old[0] * old[1]
    fresh = torch.zeros(new[0] * new[1], table.shape[1], dtype=table.dtype)
    return {'positions': torch.cat([table[:extra], fresh])}
