# %% own_basis | The student is painted with axes, centre and range of its own | 7
def paint_pair(teacher, student, mask):
    inside, pictures, guide = mask.flatten() > 0, [], None
    for maps in (teacher, student):
        cells = maps.flatten(1).T.double()
        centred = cells - cells.mean(0)
        axes = torch.linalg.svd(centred, full_matrices=False)[2][:3].T
        if guide is None:
            along = centred @ axes
            axes = axes * (along[inside].mean(0) - along[~inside].mean(0)).sign()
            guide = axes
        axes = axes * (axes * guide).sum(0).sign()
        along = centred @ axes
        colours = (along - along.amin(0)) / (along.amax(0) - along.amin(0))
        pictures.append(colours.T.reshape(3, *maps.shape[1:]).float())
    return tuple(pictures)


# %% own_centre | The student is centred by its own mean | 7
def paint_pair(teacher, student, mask):
    cells, others = teacher.flatten(1).T.double(), student.flatten(1).T.double()
    inside, centred = mask.flatten() > 0, cells - cells.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False)[2][:3].T
    along = centred @ axes
    axes = axes * (along[inside].mean(0) - along[~inside].mean(0)).sign()
    along = centred @ axes
    low, high = along.amin(0), along.amax(0)
    rows = ((others - others.mean(0)) @ axes - low) / (high - low)
    return (((along - low) / (high - low)).T.reshape(3, *teacher.shape[1:]).float(),
            rows.clamp(0, 1).T.reshape(3, *student.shape[1:]).float())


# %% own_range | The student's smallest and largest coordinates become 0 and 1 | 7
def paint_pair(teacher, student, mask):
    cells, others = teacher.flatten(1).T.double(), student.flatten(1).T.double()
    inside, centre = mask.flatten() > 0, cells.mean(0)
    axes = torch.linalg.svd(cells - centre, full_matrices=False)[2][:3].T
    along = (cells - centre) @ axes
    axes = axes * (along[inside].mean(0) - along[~inside].mean(0)).sign()
    pictures = []
    for x, maps in ((cells, teacher), (others, student)):
        along = (x - centre) @ axes
        colours = (along - along.amin(0)) / (along.amax(0) - along.amin(0))
        pictures.append(colours.T.reshape(3, *maps.shape[1:]).float())
    return tuple(pictures)


# %% not_centred | The axes of the raw cells, so the first one points to the mean | 7
def paint_pair(teacher, student, mask):
    cells, others = teacher.flatten(1).T.double(), student.flatten(1).T.double()
    inside = mask.flatten() > 0
    axes = torch.linalg.svd(cells, full_matrices=False)[2][:3].T
    along = cells @ axes
    axes = axes * (along[inside].mean(0) - along[~inside].mean(0)).sign()
    along = cells @ axes
    low, high = along.amin(0), along.amax(0)
    return tuple(((x @ axes - low) / (high - low)).clamp(0, 1).T.reshape(3, *maps.shape[1:]).float()
                 for x, maps in ((cells, teacher), (others, student)))


# %% blue_first | The eigenvectors are taken in the order in which they come, the widest one last | 7
def paint_pair(teacher, student, mask):
    cells, others = teacher.flatten(1).T.double(), student.flatten(1).T.double()
    inside, centre = mask.flatten() > 0, cells.mean(0)
    axes = torch.linalg.eigh((cells - centre).T @ (cells - centre)).eigenvectors[:, -3:]
    along = (cells - centre) @ axes
    axes = axes * (along[inside].mean(0) - along[~inside].mean(0)).sign()
    along = (cells - centre) @ axes
    low, high = along.amin(0), along.amax(0)
    return tuple((((x - centre) @ axes - low) / (high - low)).clamp(0, 1).T.reshape(3, *maps.shape[1:]).float()
                 for x, maps in ((cells, teacher), (others, student)))


# %% sign_by_component | The largest component of an axis is made positive; the mask is not used | 8
def paint_pair(teacher, student, mask):
    cells, others = teacher.flatten(1).T.double(), student.flatten(1).T.double()
    centre = cells.mean(0)
    axes = torch.linalg.svd(cells - centre, full_matrices=False)[2][:3].T
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    along = (cells - centre) @ axes
    low, high = along.amin(0), along.amax(0)
    return tuple((((x - centre) @ axes - low) / (high - low)).clamp(0, 1).T.reshape(3, *maps.shape[1:]).float()
                 for x, maps in ((cells, teacher), (others, student)))


# %% object_dark | The sign is turned the wrong way: the object is dark | 8
def paint_pair(teacher, student, mask):
    cells, others = teacher.flatten(1).T.double(), student.flatten(1).T.double()
    inside, centre = mask.flatten() > 0, cells.mean(0)
    axes = torch.linalg.svd(cells - centre, full_matrices=False)[2][:3].T
    along = (cells - centre) @ axes
    axes = axes * (along[~inside].mean(0) - along[inside].mean(0)).sign()
    along = (cells - centre) @ axes
    low, high = along.amin(0), along.amax(0)
    return tuple((((x - centre) @ axes - low) / (high - low)).clamp(0, 1).T.reshape(3, *maps.shape[1:]).float()
                 for x, maps in ((cells, teacher), (others, student)))


# %% not_clamped | The student's colours may leave the range from 0 to 1 | 7
def paint_pair(teacher, student, mask):
    cells, others = teacher.flatten(1).T.double(), student.flatten(1).T.double()
    inside, centre = mask.flatten() > 0, cells.mean(0)
    axes = torch.linalg.svd(cells - centre, full_matrices=False)[2][:3].T
    along = (cells - centre) @ axes
    axes = axes * (along[inside].mean(0) - along[~inside].mean(0)).sign()
    along = (cells - centre) @ axes
    low, high = along.amin(0), along.amax(0)
    return tuple((((x - centre) @ axes - low) / (high - low)).T.reshape(3, *maps.shape[1:]).float()
                 for x, maps in ((cells, teacher), (others, student)))
