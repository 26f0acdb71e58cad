# %% rows_for_columns | A place is (row, column), but it is read as (x, y). | 3
def layer_mix(query_layers, support_layers, place, photo_size, weights):
    grid = tuple(max((layer.shape[1:] for layer in query_layers), key=lambda size: size[0] * size[1]))
    mixed = torch.zeros(grid)
    x, y = place
    for query, support, weight in zip(query_layers, support_layers, weights):
        row = min(y * support.shape[1] // photo_size[0], support.shape[1] - 1)
        column = min(x * support.shape[2] // photo_size[1], support.shape[2] - 1)
        cosines = cosine_map(support[:, row, column][None], query[None])
        enlarged = F.interpolate(cosines[None], grid, mode='bilinear', align_corners=False)[0, 0]
        mixed = mixed + enlarged * (weight / sum(weights))
    return mixed


# %% one_cell_for_all | The cell is computed once, on the first layer's grid, and used in every layer. | 16
def layer_mix(query_layers, support_layers, place, photo_size, weights):
    grid = tuple(max((layer.shape[1:] for layer in query_layers), key=lambda size: size[0] * size[1]))
    mixed = torch.zeros(grid)
    first = support_layers[0].shape[1:]
    row, column = place[0] * first[0] // photo_size[0], place[1] * first[1] // photo_size[1]
    for query, support, weight in zip(query_layers, support_layers, weights):
        vector = support[:, min(row, support.shape[1] - 1), min(column, support.shape[2] - 1)]
        cosines = cosine_map(vector[None], query[None])
        enlarged = F.interpolate(cosines[None], grid, mode='bilinear', align_corners=False)[0, 0]
        mixed = mixed + enlarged * (weight / sum(weights))
    return mixed


# %% enlarge_features | The features are enlarged before the cosine, instead of the maps after it. | 16
def layer_mix(query_layers, support_layers, place, photo_size, weights):
    grid = tuple(max((layer.shape[1:] for layer in query_layers), key=lambda size: size[0] * size[1]))
    mixed = torch.zeros(grid)
    for query, support, weight in zip(query_layers, support_layers, weights):
        row, column = (p * cells // side for p, cells, side in zip(place, support.shape[1:], photo_size))
        query = F.interpolate(query[None], grid, mode='bilinear', align_corners=False)
        mixed = mixed + cosine_map(support[:, row, column][None], query)[0] * (weight / sum(weights))
    return mixed


# %% weights_as_they_are | The weights are used as they come and not divided by their sum. | 7
def layer_mix(query_layers, support_layers, place, photo_size, weights):
    grid = tuple(max((layer.shape[1:] for layer in query_layers), key=lambda size: size[0] * size[1]))
    mixed = torch.zeros(grid)
    for query, support, weight in zip(query_layers, support_layers, weights):
        row, column = (p * cells // side for p, cells, side in zip(place, support.shape[1:], photo_size))
        cosines = cosine_map(support[:, row, column][None], query[None])
        mixed = mixed + F.interpolate(cosines[None], grid, mode='bilinear', align_corners=False)[0, 0] * weight
    return mixed


# %% softmax_of_weights | The weights become shares through a softmax, so that a layer with weight 0 still counts. | 11
def layer_mix(query_layers, support_layers, place, photo_size, weights):
    grid = tuple(max((layer.shape[1:] for layer in query_layers), key=lambda size: size[0] * size[1]))
    mixed, shares = torch.zeros(grid), torch.tensor(weights).float().softmax(0)
    for query, support, share in zip(query_layers, support_layers, shares):
        row, column = (p * cells // side for p, cells, side in zip(place, support.shape[1:], photo_size))
        cosines = cosine_map(support[:, row, column][None], query[None])
        mixed = mixed + F.interpolate(cosines[None], grid, mode='bilinear', align_corners=False)[0, 0] * share
    return mixed


# %% dot_products | Dot products instead of cosines: long vectors count more. | 5
def layer_mix(query_layers, support_layers, place, photo_size, weights):
    grid = tuple(max((layer.shape[1:] for layer in query_layers), key=lambda size: size[0] * size[1]))
    mixed = torch.zeros(grid)
    for query, support, weight in zip(query_layers, support_layers, weights):
        row, column = (p * cells // side for p, cells, side in zip(place, support.shape[1:], photo_size))
        products = torch.einsum('c,chw->hw', support[:, row, column], query)
        enlarged = F.interpolate(products[None, None], grid, mode='bilinear', align_corners=False)[0, 0]
        mixed = mixed + enlarged * (weight / sum(weights))
    return mixed


# %% first_grid | The result has the grid of the first layer, not the largest one. | 16
def layer_mix(query_layers, support_layers, place, photo_size, weights):
    grid = tuple(query_layers[0].shape[1:])
    mixed = torch.zeros(grid)
    for query, support, weight in zip(query_layers, support_layers, weights):
        row, column = (p * cells // side for p, cells, side in zip(place, support.shape[1:], photo_size))
        cosines = cosine_map(support[:, row, column][None], query[None])
        enlarged = F.interpolate(cosines[None], grid, mode='bilinear', align_corners=False)[0, 0]
        mixed = mixed + enlarged * (weight / sum(weights))
    return mixed


# %% nearest_border | The place is rounded to the nearest border, for half of the pixels the next cell. | 12
def layer_mix(query_layers, support_layers, place, photo_size, weights):
    grid = tuple(max((layer.shape[1:] for layer in query_layers), key=lambda size: size[0] * size[1]))
    mixed = torch.zeros(grid)
    for query, support, weight in zip(query_layers, support_layers, weights):
        row, column = (min(round(p * cells / side), cells - 1)
                       for p, cells, side in zip(place, support.shape[1:], photo_size))
        cosines = cosine_map(support[:, row, column][None], query[None])
        enlarged = F.interpolate(cosines[None], grid, mode='bilinear', align_corners=False)[0, 0]
        mixed = mixed + enlarged * (weight / sum(weights))
    return mixed
