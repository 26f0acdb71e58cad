# %% no_room | A fold may take any number of classes: only photos are balanced | 3
def fair_folds(photos, n_folds):
    folds, totals = [[] for _ in range(n_folds)], [0] * n_folds
    for c in sorted(range(len(photos)), key=lambda c: (-photos[c], c)):
        best = totals.index(min(totals))
        folds[best].append(c)
        totals[best] += photos[c]
    return [sorted(fold) for fold in folds]


# %% small_first | The classes are taken from the smallest to the largest | 7
def fair_folds(photos, n_folds):
    folds, totals, room = [[] for _ in range(n_folds)], [0] * n_folds, len(photos) // n_folds
    for c in sorted(range(len(photos)), key=lambda c: (photos[c], c)):
        best = min((f for f in range(n_folds) if len(folds[f]) < room), key=totals.__getitem__)
        folds[best].append(c)
        totals[best] += photos[c]
    return [sorted(fold) for fold in folds]


# %% ties_backwards | Sorting up and then reversing also reverses the order of equal classes | 17
def fair_folds(photos, n_folds):
    folds, totals, room = [[] for _ in range(n_folds)], [0] * n_folds, len(photos) // n_folds
    for c in sorted(range(len(photos)), key=lambda c: photos[c])[::-1]:
        best = min((f for f in range(n_folds) if len(folds[f]) < room), key=totals.__getitem__)
        folds[best].append(c)
        totals[best] += photos[c]
    return [sorted(fold) for fold in folds]


# %% dealt | The classes are dealt out like cards: the totals of the folds are not looked at | 7
def fair_folds(photos, n_folds):
    ranked = sorted(range(len(photos)), key=lambda c: (-photos[c], c))
    return [sorted(ranked[f::n_folds]) for f in range(n_folds)]


# %% snake | Dealt forwards and backwards in turn, which balances ranks, not photos | 4
def fair_folds(photos, n_folds):
    ranked, folds = sorted(range(len(photos)), key=lambda c: (-photos[c], c)), [[] for _ in range(n_folds)]
    for place, c in enumerate(ranked):
        lap, f = divmod(place, n_folds)
        folds[n_folds - 1 - f if lap % 2 else f].append(c)
    return [sorted(fold) for fold in folds]


# %% not_sorted | The classes of a fold stay in the order in which they came | 7
def fair_folds(photos, n_folds):
    folds, totals, room = [[] for _ in range(n_folds)], [0] * n_folds, len(photos) // n_folds
    for c in sorted(range(len(photos)), key=lambda c: (-photos[c], c)):
        best = min((f for f in range(n_folds) if len(folds[f]) < room), key=totals.__getitem__)
        folds[best].append(c)
        totals[best] += photos[c]
    return folds


# %% crossed_out | Classes that are done are crossed out in the caller's own list | 17
def fair_folds(photos, n_folds):
    folds, totals, room = [[] for _ in range(n_folds)], [0] * n_folds, len(photos) // n_folds
    for _ in range(len(photos)):
        c = photos.index(max(photos))
        best = min((f for f in range(n_folds) if len(folds[f]) < room), key=totals.__getitem__)
        folds[best].append(c)
        totals[best] += photos[c]
        photos[c] = -1
    return [sorted(fold) for fold in folds]
