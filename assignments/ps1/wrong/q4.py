# %% mean_of_episodes | Every episode's own IoU is averaged within the class: first divide, then average | 0
def group_miou(counts, class_ids, group_of):
    known = {}
    for c in group_of:
        own = [i / u for i, u in counts[class_ids == c].tolist() if u > 0]
        if own:
            known[c] = sum(own) / len(own)
    groups = {}
    for group in set(group_of.values()):
        values = [iou for c, iou in known.items() if group_of[c] == group]
        groups[group] = sum(values) / len(values) if values else None
    values = [value for value in groups.values() if value is not None]
    return {'miou': sum(values) / len(values), 'groups': groups}


# %% mean_of_classes | The last mean is over classes, so that large groups count more | 0
def group_miou(counts, class_ids, group_of):
    known = {}
    for c in group_of:
        inter, union = counts[class_ids == c].sum(0).tolist()
        if union > 0:
            known[c] = inter / union
    groups = {}
    for group in set(group_of.values()):
        values = [iou for c, iou in known.items() if group_of[c] == group]
        groups[group] = sum(values) / len(values) if values else None
    return {'miou': sum(known.values()) / len(known), 'groups': groups}


# %% pooled_groups | Intersections and unions are summed over all classes of a group | 0
def group_miou(counts, class_ids, group_of):
    groups = {}
    for group in set(group_of.values()):
        member = sum((class_ids == c).long() for c in group_of if group_of[c] == group) > 0
        inter, union = counts[member].sum(0).tolist()
        groups[group] = inter / union if union else None
    values = [value for value in groups.values() if value is not None]
    return {'miou': sum(values) / len(values), 'groups': groups}


# %% unknown_is_zero | A class that was never drawn has the IoU 0, as in much published code | 13
def group_miou(counts, class_ids, group_of):
    known = {}
    for c in group_of:
        inter, union = counts[class_ids == c].sum(0).tolist()
        known[c] = inter / max(union, 1)
    groups = {}
    for group in set(group_of.values()):
        values = [iou for c, iou in known.items() if group_of[c] == group]
        groups[group] = sum(values) / len(values)
    return {'miou': sum(groups.values()) / len(groups), 'groups': groups}


# %% empty_group_is_zero | Unknown classes are left out, but a group without any counts as 0 | 17
def group_miou(counts, class_ids, group_of):
    known = {}
    for c in group_of:
        inter, union = counts[class_ids == c].sum(0).tolist()
        if union > 0:
            known[c] = inter / union
    groups = {}
    for group in set(group_of.values()):
        values = [iou for c, iou in known.items() if group_of[c] == group]
        groups[group] = sum(values) / max(len(values), 1)
    return {'miou': sum(groups.values()) / len(groups), 'groups': groups}


# %% empty_group_is_lost | A group of which nothing is known is not reported at all | 17
def group_miou(counts, class_ids, group_of):
    by_group = {}
    for c, group in group_of.items():
        inter, union = counts[class_ids == c].sum(0).tolist()
        if union > 0:
            by_group.setdefault(group, []).append(inter / union)
    groups = {group: sum(values) / len(values) for group, values in by_group.items()}
    return {'miou': sum(groups.values()) / len(groups), 'groups': groups}


# %% weighted_by_episodes | Classes that were asked more often weigh more in the mean of their group | 0
def group_miou(counts, class_ids, group_of):
    sums, weights = {}, {}
    for c, group in group_of.items():
        rows = counts[class_ids == c]
        inter, union = rows.sum(0).tolist()
        if union > 0:
            sums[group] = sums.get(group, 0) + len(rows) * inter / union
            weights[group] = weights.get(group, 0) + len(rows)
    groups = {group: sums[group] / weights[group] if group in sums else None for group in set(group_of.values())}
    values = [value for value in groups.values() if value is not None]
    return {'miou': sum(values) / len(values), 'groups': groups}
