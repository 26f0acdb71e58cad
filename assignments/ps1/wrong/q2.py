# %% query_only | Only the scene of the query is left out: supports may share a scene | 3
def scene_episode(photos, scenes, shots, seed, index):
    if len({scenes[photo] for photo in photos}) < shots + 1:
        raise ValueError('too few scenes')
    pool = sorted(photos)
    query = pool[draw(len(pool), seed, index, 1)]
    allowed = [photo for photo in pool if scenes[photo] != scenes[query]]
    return query, [allowed.pop(draw(len(allowed), seed, index, 2 + k)) for k in range(shots)]


# %% photo_only | Only the query itself is left out, as in the tutorial, not its scene | 0
def scene_episode(photos, scenes, shots, seed, index):
    if len(photos) < shots + 1:
        raise ValueError('too few photos')
    pool = sorted(photos)
    query = pool.pop(draw(len(pool), seed, index, 1))
    return query, [pool.pop(draw(len(pool), seed, index, 2 + k)) for k in range(shots)]


# %% same_slot | The first support uses the slot of the query again | 7
def scene_episode(photos, scenes, shots, seed, index):
    if len({scenes[photo] for photo in photos}) < shots + 1:
        raise ValueError('too few scenes')
    pool = sorted(photos)
    query = pool[draw(len(pool), seed, index, 1)]
    used, supports = {scenes[query]}, []
    for k in range(shots):
        allowed = [photo for photo in pool if scenes[photo] not in used]
        supports.append(allowed[draw(len(allowed), seed, index, 1 + k)])
        used.add(scenes[supports[-1]])
    return query, supports


# %% not_sorted | The photos are taken in the order in which they are listed | 17
def scene_episode(photos, scenes, shots, seed, index):
    if len({scenes[photo] for photo in photos}) < shots + 1:
        raise ValueError('too few scenes')
    query = photos[draw(len(photos), seed, index, 1)]
    used, supports = {scenes[query]}, []
    for k in range(shots):
        allowed = [photo for photo in photos if scenes[photo] not in used]
        supports.append(allowed[draw(len(allowed), seed, index, 2 + k)])
        used.add(scenes[supports[-1]])
    return query, supports


# %% fewer_shots | When the scenes run out there are simply fewer supports | 17
def scene_episode(photos, scenes, shots, seed, index):
    pool = sorted(photos)
    query = pool[draw(len(pool), seed, index, 1)]
    used, supports = {scenes[query]}, []
    for k in range(shots):
        allowed = [photo for photo in pool if scenes[photo] not in used]
        if not allowed:
            break
        supports.append(allowed[draw(len(allowed), seed, index, 2 + k)])
        used.add(scenes[supports[-1]])
    return query, supports


# %% scene_first | A scene is drawn first, then a photo of it: long scenes come up too rarely | 7
def scene_episode(photos, scenes, shots, seed, index):
    if len({scenes[photo] for photo in photos}) < shots + 1:
        raise ValueError('too few scenes')
    pool = sorted(photos)
    query = pool[draw(len(pool), seed, index, 1)]
    left, supports = sorted({scenes[photo] for photo in pool} - {scenes[query]}), []
    for k in range(shots):
        scene = left.pop(draw(len(left), seed, index, 2 + k))
        own = [photo for photo in pool if scenes[photo] == scene]
        supports.append(own[draw(len(own), seed, index, 100 + k)])
    return query, supports


# %% query_not_counted | The scene of the query is forgotten in the count: K scenes are taken as enough | 17
def scene_episode(photos, scenes, shots, seed, index):
    if len({scenes[photo] for photo in photos}) < shots:
        raise ValueError('too few scenes')
    pool = sorted(photos)
    query = pool[draw(len(pool), seed, index, 1)]
    used, supports = {scenes[query]}, []
    for k in range(shots):
        allowed = [photo for photo in pool if scenes[photo] not in used]
        supports.append(allowed[draw(len(allowed), seed, index, 2 + k)])
        used.add(scenes[supports[-1]])
    return query, supports
