# %% softmax_by_block | The softmax is taken inside each block, so every block gets everything | 4
def block_shares(scores, blocks, places):
    chosen = places / places.sum().clamp(min=1)
    parts = [part.softmax(2).mean(0) if part.shape[2] else part.mean(0) for part in scores.split(list(blocks), 2)]
    share = torch.stack([(chosen @ part).sum() for part in parts])
    even = torch.tensor(blocks).float() / scores.shape[2]
    return {'share': share, 'lift': torch.where(even > 0, share / even.clamp(min=1e-6), 0.)}


# %% heads_first | The scores of the heads are averaged before the softmax | 15
def block_shares(scores, blocks, places):
    weights = scores.mean(0).softmax(1)
    read = (places[:, None] * weights).sum(0) / places.sum().clamp(min=1)
    share = torch.stack([part.sum() for part in read.split(list(blocks))])
    even = torch.tensor(blocks).float() / scores.shape[2]
    return {'share': share, 'lift': torch.where(even > 0, share / even.clamp(min=1e-6), 0.)}


# %% all_places | All places of the query are averaged, chosen or not | 6
def block_shares(scores, blocks, places):
    read = scores.softmax(2).mean((0, 1))
    share = torch.stack([part.sum() for part in read.split(list(blocks))])
    even = torch.tensor(blocks).float() / scores.shape[2]
    return {'share': share, 'lift': torch.where(even > 0, share / even.clamp(min=1e-6), 0.)}


# %% sum_of_places | The chosen places are added up, not averaged | 9
def block_shares(scores, blocks, places):
    read = (places[:, None] * scores.softmax(2).mean(0)).sum(0)
    share = torch.stack([part.sum() for part in read.split(list(blocks))])
    even = torch.tensor(blocks).float() / scores.shape[2]
    return {'share': share, 'lift': torch.where(even > 0, share / even.clamp(min=1e-6), 0.)}


# %% weight_per_key | The lift is the mean weight of a key, not compared with an even reading | 12
def block_shares(scores, blocks, places):
    read = (places[:, None] * scores.softmax(2).mean(0)).sum(0) / places.sum().clamp(min=1)
    share = torch.stack([part.sum() for part in read.split(list(blocks))])
    return {'share': share, 'lift': share / torch.tensor(blocks).clamp(min=1)}


# %% equal_blocks | The lift is compared with one n-th, as if all blocks were equally long | 12
def block_shares(scores, blocks, places):
    read = (places[:, None] * scores.softmax(2).mean(0)).sum(0) / places.sum().clamp(min=1)
    share = torch.stack([part.sum() for part in read.split(list(blocks))])
    return {'share': share, 'lift': share * len(blocks)}


# %% places_before_softmax | Places that are not chosen get the score 0 and are averaged in | 6
def block_shares(scores, blocks, places):
    read = (scores * places[:, None]).softmax(2).mean((0, 1))
    share = torch.stack([part.sum() for part in read.split(list(blocks))])
    even = torch.tensor(blocks).float() / scores.shape[2]
    return {'share': share, 'lift': torch.where(even > 0, share / even.clamp(min=1e-6), 0.)}


# %% no_guard | Empty blocks and masks divide by zero | 11
def block_shares(scores, blocks, places):
    read = (places[:, None] * scores.softmax(2).mean(0)).sum(0) / places.sum()
    share = torch.stack([part.sum() for part in read.split(list(blocks))])
    return {'share': share, 'lift': share * scores.shape[2] / torch.tensor(blocks)}


# %% softmax_of_places | The weights of a key add up to 1 over the places of the query | 4
def block_shares(scores, blocks, places):
    read = (places[:, None] * scores.softmax(1).mean(0)).sum(0) / places.sum().clamp(min=1)
    share = torch.stack([part.sum() for part in read.split(list(blocks))])
    even = torch.tensor(blocks).float() / scores.shape[2]
    return {'share': share, 'lift': torch.where(even > 0, share / even.clamp(min=1e-6), 0.)}
