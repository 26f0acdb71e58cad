# %% stride_everywhere | The stride thins out the query too. | 2
def pivot_cost(query_grid, support_grid, channels, kernels, strides):
    (rows, columns), (height, width) = query_grid, support_grid
    cost = {'multiply_adds': 0, 'full': 0, 'parameters': 0, 'largest': channels[0] * rows * columns * height * width}
    for c_in, c_out, k, stride in zip(channels, channels[1:], kernels, strides):
        height, width, rows, columns = (-(-n // stride) for n in (height, width, rows, columns))
        numbers = c_out * rows * columns * height * width
        cost['multiply_adds'] += 2 * k ** 2 * c_in * numbers
        cost['full'] += k ** 4 * c_in * numbers
        cost['parameters'] += 2 * (k ** 2 * c_in * c_out + c_out)
        cost['largest'] = max(cost['largest'], numbers)
    return cost


# %% rounded_down | Support grids are rounded down. | 12
def pivot_cost(query_grid, support_grid, channels, kernels, strides):
    places, (height, width) = query_grid[0] * query_grid[1], support_grid
    cost = {'multiply_adds': 0, 'full': 0, 'parameters': 0, 'largest': channels[0] * places * height * width}
    for c_in, c_out, k, stride in zip(channels, channels[1:], kernels, strides):
        height, width = height // stride, width // stride
        numbers = c_out * places * height * width
        cost['multiply_adds'] += 2 * k ** 2 * c_in * numbers
        cost['full'] += k ** 4 * c_in * numbers
        cost['parameters'] += 2 * (k ** 2 * c_in * c_out + c_out)
        cost['largest'] = max(cost['largest'], numbers)
    return cost


# %% flops | A multiplication and an addition are counted as two. | 4
def pivot_cost(query_grid, support_grid, channels, kernels, strides):
    places, (height, width) = query_grid[0] * query_grid[1], support_grid
    cost = {'multiply_adds': 0, 'full': 0, 'parameters': 0, 'largest': channels[0] * places * height * width}
    for c_in, c_out, k, stride in zip(channels, channels[1:], kernels, strides):
        height, width = -(-height // stride), -(-width // stride)
        numbers = c_out * places * height * width
        cost['multiply_adds'] += 4 * k ** 2 * c_in * numbers
        cost['full'] += 2 * k ** 4 * c_in * numbers
        cost['parameters'] += 2 * (k ** 2 * c_in * c_out + c_out)
        cost['largest'] = max(cost['largest'], numbers)
    return cost


# %% input_grid | The places are counted before the stride, on the grid that goes in. | 2
def pivot_cost(query_grid, support_grid, channels, kernels, strides):
    places, (height, width) = query_grid[0] * query_grid[1], support_grid
    cost = {'multiply_adds': 0, 'full': 0, 'parameters': 0, 'largest': channels[0] * places * height * width}
    for c_in, c_out, k, stride in zip(channels, channels[1:], kernels, strides):
        numbers = c_out * places * height * width
        cost['multiply_adds'] += 2 * k ** 2 * c_in * numbers
        cost['full'] += k ** 4 * c_in * numbers
        cost['parameters'] += 2 * (k ** 2 * c_in * c_out + c_out)
        cost['largest'] = max(cost['largest'], numbers)
        height, width = -(-height // stride), -(-width // stride)
    return cost


# %% square_grids | Both grids are taken for square. | 2
def pivot_cost(query_grid, support_grid, channels, kernels, strides):
    places, side = query_grid[0] ** 2, support_grid[0]
    cost = {'multiply_adds': 0, 'full': 0, 'parameters': 0, 'largest': channels[0] * places * side ** 2}
    for c_in, c_out, k, stride in zip(channels, channels[1:], kernels, strides):
        side = -(-side // stride)
        numbers = c_out * places * side ** 2
        cost['multiply_adds'] += 2 * k ** 2 * c_in * numbers
        cost['full'] += k ** 4 * c_in * numbers
        cost['parameters'] += 2 * (k ** 2 * c_in * c_out + c_out)
        cost['largest'] = max(cost['largest'], numbers)
    return cost


# %% stride_forgotten_later | Every layer starts again from the support grid of the input. | 2
def pivot_cost(query_grid, support_grid, channels, kernels, strides):
    places, (height, width) = query_grid[0] * query_grid[1], support_grid
    cost = {'multiply_adds': 0, 'full': 0, 'parameters': 0, 'largest': channels[0] * places * height * width}
    for c_in, c_out, k, stride in zip(channels, channels[1:], kernels, strides):
        height, width = (-(-n // stride) for n in support_grid)
        numbers = c_out * places * height * width
        cost['multiply_adds'] += 2 * k ** 2 * c_in * numbers
        cost['full'] += k ** 4 * c_in * numbers
        cost['parameters'] += 2 * (k ** 2 * c_in * c_out + c_out)
        cost['largest'] = max(cost['largest'], numbers)
    return cost


# %% one_bias | One bias a channel instead of one in each half. | 9
def pivot_cost(query_grid, support_grid, channels, kernels, strides):
    places, (height, width) = query_grid[0] * query_grid[1], support_grid
    cost = {'multiply_adds': 0, 'full': 0, 'parameters': 0, 'largest': channels[0] * places * height * width}
    for c_in, c_out, k, stride in zip(channels, channels[1:], kernels, strides):
        height, width = -(-height // stride), -(-width // stride)
        numbers = c_out * places * height * width
        cost['multiply_adds'] += 2 * k ** 2 * c_in * numbers
        cost['full'] += k ** 4 * c_in * numbers
        cost['parameters'] += 2 * k ** 2 * c_in * c_out + c_out
        cost['largest'] = max(cost['largest'], numbers)
    return cost


# %% output_only | The input volume is left out when the largest one is looked for. | 13
def pivot_cost(query_grid, support_grid, channels, kernels, strides):
    places, (height, width) = query_grid[0] * query_grid[1], support_grid
    cost = {'multiply_adds': 0, 'full': 0, 'parameters': 0, 'largest': 0}
    for c_in, c_out, k, stride in zip(channels, channels[1:], kernels, strides):
        height, width = -(-height // stride), -(-width // stride)
        numbers = c_out * places * height * width
        cost['multiply_adds'] += 2 * k ** 2 * c_in * numbers
        cost['full'] += k ** 4 * c_in * numbers
        cost['parameters'] += 2 * (k ** 2 * c_in * c_out + c_out)
        cost['largest'] = max(cost['largest'], numbers)
    return cost
