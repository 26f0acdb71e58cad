# %% scaled_scores | The scores are multiplied by the trust, not their exponentials | 4
def trusted_attention(q, k, v, blocks, which, trust):
    start = sum(blocks[:which])
    factor = torch.ones(len(k))
    factor[start:start + blocks[which]] = trust
    return (q @ k.T / math.sqrt(q.shape[1]) * factor).softmax(1) @ v


# %% not_renormalised | The weights are multiplied after the softmax and no longer add up to 1 | 4
def trusted_attention(q, k, v, blocks, which, trust):
    start = sum(blocks[:which])
    factor = torch.ones(len(k))
    factor[start:start + blocks[which]] = trust
    return (q @ k.T / math.sqrt(q.shape[1])).softmax(1) * factor @ v


# %% trust_added | The trust itself is added to the scores, without the logarithm | 4
def trusted_attention(q, k, v, blocks, which, trust):
    start = sum(blocks[:which])
    scores = q @ k.T / math.sqrt(q.shape[1])
    scores[:, start:start + blocks[which]] += trust
    return scores.softmax(1) @ v


# %% equal_lengths | All blocks are believed to be as long as the doubtful one | 0
def trusted_attention(q, k, v, blocks, which, trust):
    start = which * blocks[which]
    scores = q @ k.T / math.sqrt(q.shape[1])
    scores[:, start:start + blocks[which]] += trust.log()
    return scores.softmax(1) @ v


# %% block_in_front | The doubtful block is believed to be the first one | 0
def trusted_attention(q, k, v, blocks, which, trust):
    scores = q @ k.T / math.sqrt(q.shape[1])
    scores[:, :blocks[which]] += trust.log()
    return scores.softmax(1) @ v


# %% softmax_of_queries | The weights of a key add up to 1 over the queries | 4
def trusted_attention(q, k, v, blocks, which, trust):
    start = sum(blocks[:which])
    scores = q @ k.T / math.sqrt(q.shape[1])
    scores[:, start:start + blocks[which]] += trust.log()
    return scores.softmax(0) @ v


# %% no_root | The scores are not divided by the root of C | 10
def trusted_attention(q, k, v, blocks, which, trust):
    start = sum(blocks[:which])
    scores = q @ k.T
    scores[:, start:start + blocks[which]] += trust.log()
    return scores.softmax(1) @ v


# %% plain_exponentials | The exponentials are taken as they stand and overflow for large scores | 22
def trusted_attention(q, k, v, blocks, which, trust):
    start = sum(blocks[:which])
    weights = (q @ k.T / math.sqrt(q.shape[1])).exp()
    weights = torch.cat([weights[:, :start], weights[:, start:start + blocks[which]] * trust,
                         weights[:, start + blocks[which]:]], 1)
    return weights / weights.sum(1, keepdim=True) @ v


# %% share_of_block_kept | Trust moves weight inside the block only; the block as a whole is read as much as before | 4
def trusted_attention(q, k, v, blocks, which, trust):
    start, end = sum(blocks[:which]), sum(blocks[:which + 1])
    weights = (q @ k.T / math.sqrt(q.shape[1])).softmax(1)
    inside = weights[:, start:end] * trust
    inside = inside / inside.sum(1, keepdim=True).clamp(min=1e-12) * weights[:, start:end].sum(1, keepdim=True)
    return torch.cat([weights[:, :start], inside, weights[:, end:]], 1) @ v


# %% never_quite_nothing | The trust is held above 0.02 to keep the logarithm finite, so every key is still read | 12
def trusted_attention(q, k, v, blocks, which, trust):
    start = sum(blocks[:which])
    scores = q @ k.T / math.sqrt(q.shape[1])
    scores[:, start:start + blocks[which]] += trust.clamp(min=0.02).log()
    return scores.softmax(1) @ v
