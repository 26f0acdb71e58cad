# %% teacher_learns | The teacher is not detached, because it is believed to be frozen anyway | 17
def feature_loss(student, teacher, valid, alpha=0.5):
    own, wanted = student.norm(dim=1).clamp(min=1e-6), teacher.norm(dim=1).clamp(min=1e-6)
    cost = 1 - (student * teacher).sum(1) / (own * wanted) + alpha * (own / wanted).log() ** 2
    return (cost * valid).sum() / valid.sum().clamp(min=1)


# %% wrong_one_detached | The student is detached in place of the teacher | 17
def feature_loss(student, teacher, valid, alpha=0.5):
    student = student.detach()
    own, wanted = student.norm(dim=1).clamp(min=1e-6), teacher.norm(dim=1).clamp(min=1e-6)
    cost = 1 - (student * teacher).sum(1) / (own * wanted) + alpha * (own / wanted).log() ** 2
    return (cost * valid).sum() / valid.sum().clamp(min=1)


# %% root_of_zero | The length is the root of a sum of squares: NaN gradients at zero vectors | 17
def feature_loss(student, teacher, valid, alpha=0.5):
    teacher = teacher.detach()
    own = student.square().sum(1).sqrt().clamp(min=1e-6)
    wanted = teacher.square().sum(1).sqrt().clamp(min=1e-6)
    cost = 1 - (student * teacher).sum(1) / (own * wanted) + alpha * (own / wanted).log() ** 2
    return (cost * valid).sum() / valid.sum().clamp(min=1)


# %% whole_map_cosine | One cosine of the flattened maps in place of one a cell | 5
def feature_loss(student, teacher, valid, alpha=0.5):
    teacher = teacher.detach()
    flat_s, flat_t = (student * valid[:, None]).flatten(1), (teacher * valid[:, None]).flatten(1)
    direction = 1 - F.cosine_similarity(flat_s, flat_t, dim=1).mean()
    own, wanted = student.norm(dim=1).clamp(min=1e-6), teacher.norm(dim=1).clamp(min=1e-6)
    size = ((own / wanted).log() ** 2 * valid).sum() / valid.sum().clamp(min=1)
    return direction + alpha * size


# %% divided_by_all | Cells that are not valid leave the sum, but not the number it is divided by | 8
def feature_loss(student, teacher, valid, alpha=0.5):
    teacher = teacher.detach()
    own, wanted = student.norm(dim=1).clamp(min=1e-6), teacher.norm(dim=1).clamp(min=1e-6)
    cost = 1 - (student * teacher).sum(1) / (own * wanted) + alpha * (own / wanted).log() ** 2
    return (cost * valid).mean()


# %% mean_of_photos | The mean is taken photo by photo first, so cells of photos with much padding count more | 13
def feature_loss(student, teacher, valid, alpha=0.5):
    teacher = teacher.detach()
    own, wanted = student.norm(dim=1).clamp(min=1e-6), teacher.norm(dim=1).clamp(min=1e-6)
    cost = 1 - (student * teacher).sum(1) / (own * wanted) + alpha * (own / wanted).log() ** 2
    each = (cost * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)
    return each.mean()


# %% squared_length | The lengths are compared by their squared difference, as features are in the tutorial | 8
def feature_loss(student, teacher, valid, alpha=0.5):
    teacher = teacher.detach()
    own, wanted = student.norm(dim=1), teacher.norm(dim=1)
    cosine = F.cosine_similarity(student, teacher, dim=1)
    cost = 1 - cosine + alpha * (own - wanted) ** 2
    return (cost * valid).sum() / valid.sum().clamp(min=1)


# %% no_guard | Without any valid cell the loss is 0 divided by 0 | 16
def feature_loss(student, teacher, valid, alpha=0.5):
    teacher = teacher.detach()
    own, wanted = student.norm(dim=1).clamp(min=1e-6), teacher.norm(dim=1).clamp(min=1e-6)
    cost = 1 - (student * teacher).sum(1) / (own * wanted) + alpha * (own / wanted).log() ** 2
    return (cost * valid).sum() / valid.sum()
