# %% ignored_is_background | Everything that is not object is taken as background, ignored pixels too | 16
def band_counts(pred, target, width):
    near = lambda mask: F.max_pool2d(mask[None, None].float(), 2 * width + 1, 1, width)[0, 0] > 0
    band = near(target == 1) & near(target != 1) & (target != 255)
    both = (pred == 1) & (target == 1) & band
    either = ((pred == 1) | (target == 1)) & band
    return int(both.sum()), int(either.sum())


# %% ignored_counted | Ignored pixels in the band are counted as background | 16
def band_counts(pred, target, width):
    near = lambda mask: F.max_pool2d(mask[None, None].float(), 2 * width + 1, 1, width)[0, 0] > 0
    band = near(target == 1) & near(target == 0)
    both = (pred == 1) & (target == 1) & band
    either = ((pred == 1) | (target == 1)) & band
    return int(both.sum()), int(either.sum())


# %% outside_is_background | The photo is padded with background: objects at its border get a band there | 17
def band_counts(pred, target, width):
    def near(mask, outside):
        padded = F.pad(mask[None, None].float(), [width] * 4, value=outside)
        return F.max_pool2d(padded, 2 * width + 1, 1)[0, 0] > 0

    band = near(target == 1, 0.) & near(target == 0, 1.) & (target != 255)
    both = (pred == 1) & (target == 1) & band
    either = ((pred == 1) | (target == 1)) & band
    return int(both.sum()), int(either.sum())


# %% half_the_width | The width is taken as the whole width of the neighbourhood | 0
def band_counts(pred, target, width):
    half = width // 2
    near = lambda mask: F.max_pool2d(mask[None, None].float(), 2 * half + 1, 1, half)[0, 0] > 0
    band = near(target == 1) & near(target == 0) & (target != 255)
    both = (pred == 1) & (target == 1) & band
    either = ((pred == 1) | (target == 1)) & band
    return int(both.sum()), int(either.sum())


# %% border_of_the_prediction | The band runs around the prediction instead of the label | 8
def band_counts(pred, target, width):
    near = lambda mask: F.max_pool2d(mask[None, None].float(), 2 * width + 1, 1, width)[0, 0] > 0
    band = near(pred == 1) & near(pred == 0) & (target != 255)
    both = (pred == 1) & (target == 1) & band
    either = ((pred == 1) | (target == 1)) & band
    return int(both.sum()), int(either.sum())


# %% outer_ring | The band is the label grown by the width, without the label itself | 0
def band_counts(pred, target, width):
    near = lambda mask: F.max_pool2d(mask[None, None].float(), 2 * width + 1, 1, width)[0, 0] > 0
    band = near(target == 1) & (target == 0)
    both = (pred == 1) & (target == 1) & band
    either = ((pred == 1) | (target == 1)) & band
    return int(both.sum()), int(either.sum())


# %% diamond | The neighbourhood grows by the four direct neighbours: a diamond instead of a square | 8
def band_counts(pred, target, width):
    def near(mask):
        mask = mask.float()
        for _ in range(width):
            grown = F.pad(mask, [1] * 4)
            sides = [grown[1:-1, 1:-1], grown[:-2, 1:-1], grown[2:, 1:-1], grown[1:-1, :-2], grown[1:-1, 2:]]
            mask = torch.stack(sides).amax(0)
        return mask > 0

    band = near(target == 1) & near(target == 0) & (target != 255)
    both = (pred == 1) & (target == 1) & band
    either = ((pred == 1) | (target == 1)) & band
    return int(both.sum()), int(either.sum())
