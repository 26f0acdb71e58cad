# %% padding_ignored | The padded grid is resized as if it showed the whole photo | 5
def teacher_at(teacher, photo, grid):
    return F.interpolate(teacher, tuple(grid), mode='bilinear', align_corners=False)


# %% whole_cells | The padding is cut off at whole cells and the rest is resized | 15
def teacher_at(teacher, photo, grid):
    side = teacher.shape[-1]
    rows, columns = (max(1, round(n * side / max(photo))) for n in photo)
    return F.interpolate(teacher[:, :, :rows, :columns], tuple(grid), mode='bilinear', align_corners=False)


# %% corners_on_corners | The centres of the outer cells are laid on each other (align_corners=True) | 4
def teacher_at(teacher, photo, grid):
    side = teacher.shape[-1]
    rows, columns = (max(1, round(n * side / max(photo))) for n in photo)
    return F.interpolate(teacher[:, :, :rows, :columns], tuple(grid), mode='bilinear', align_corners=True)


# %% half_cell_forgotten | Places are counted from the edge of a teacher cell in place of its centre | 4
def teacher_at(teacher, photo, grid):
    side, longest = teacher.shape[-1], max(photo)

    def axis(pixels, cells):
        last = max(0, math.ceil(pixels * side / longest - 0.5) - 1)
        place = ((torch.arange(cells) + 0.5) * pixels / cells * side / longest).clamp(0, last)
        low = place.floor().long()
        return low, (low + 1).clamp(max=last), place - low

    t, b, v = axis(photo[0], grid[0])
    l, r, u = axis(photo[1], grid[1])
    rows = teacher[:, :, t] * (1 - v[:, None]) + teacher[:, :, b] * v[:, None]
    return rows[..., l] * (1 - u) + rows[..., r] * u


# %% padding_bleeds | Places are held inside the square, not inside the photo | 9
def teacher_at(teacher, photo, grid):
    side, longest = teacher.shape[-1], max(photo)

    def axis(pixels, cells):
        place = ((torch.arange(cells) + 0.5) * pixels / cells * side / longest - 0.5).clamp(0, side - 1)
        low = place.floor().long()
        return low, (low + 1).clamp(max=side - 1), place - low

    t, b, v = axis(photo[0], grid[0])
    l, r, u = axis(photo[1], grid[1])
    rows = teacher[:, :, t] * (1 - v[:, None]) + teacher[:, :, b] * v[:, None]
    return rows[..., l] * (1 - u) + rows[..., r] * u


# %% width_first | The photo's size is read as (width, height) | 5
def teacher_at(teacher, photo, grid):
    side, longest = teacher.shape[-1], max(photo)

    def axis(pixels, cells):
        last = max(0, math.ceil(pixels * side / longest - 0.5) - 1)
        place = ((torch.arange(cells) + 0.5) * pixels / cells * side / longest - 0.5).clamp(0, last)
        low = place.floor().long()
        return low, (low + 1).clamp(max=last), place - low

    t, b, v = axis(photo[1], grid[0])
    l, r, u = axis(photo[0], grid[1])
    rows = teacher[:, :, t] * (1 - v[:, None]) + teacher[:, :, b] * v[:, None]
    return rows[..., l] * (1 - u) + rows[..., r] * u


# %% nearest_cell | The nearest teacher cell is taken, nothing is interpolated | 4
def teacher_at(teacher, photo, grid):
    side, longest = teacher.shape[-1], max(photo)

    def axis(pixels, cells):
        last = max(0, math.ceil(pixels * side / longest - 0.5) - 1)
        return ((torch.arange(cells) + 0.5) * pixels / cells * side / longest).floor().clamp(0, last).long()

    return teacher[:, :, axis(photo[0], grid[0])][..., axis(photo[1], grid[1])]


# %% centred_photo | The photo is believed to lie in the middle of the square, with padding on both sides | 5
def teacher_at(teacher, photo, grid):
    side, longest = teacher.shape[-1], max(photo)

    def axis(pixels, cells):
        margin = (longest - pixels) / 2
        place = (((torch.arange(cells) + 0.5) * pixels / cells + margin) * side / longest - 0.5).clamp(0, side - 1)
        low = place.floor().long()
        return low, (low + 1).clamp(max=side - 1), place - low

    t, b, v = axis(photo[0], grid[0])
    l, r, u = axis(photo[1], grid[1])
    rows = teacher[:, :, t] * (1 - v[:, None]) + teacher[:, :, b] * v[:, None]
    return rows[..., l] * (1 - u) + rows[..., r] * u
