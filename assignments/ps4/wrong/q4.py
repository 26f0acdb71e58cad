# %% batch_norm | Mean and variance of each channel over photos and cells, as batch norm takes them | 5
def adapt(features, scale, shift, down, up, gate):
    mean = features.mean((0, 2, 3), keepdim=True)
    variance = features.var((0, 2, 3), unbiased=False, keepdim=True)
    z = (features - mean) / (variance + 1e-6).sqrt() * scale[:, None, None] + shift[:, None, None]
    hidden = F.gelu(torch.einsum('rc,bchw->brhw', down, z))
    return features + gate * torch.einsum('cr,brhw->bchw', up, hidden)


# %% norm_of_the_map | One mean and one variance for the whole map of a photo | 5
def adapt(features, scale, shift, down, up, gate):
    z = F.layer_norm(features, features.shape[1:], eps=1e-6) * scale[:, None, None] + shift[:, None, None]
    hidden = F.gelu(torch.einsum('rc,bchw->brhw', down, z))
    return features + gate * torch.einsum('cr,brhw->bchw', up, hidden)


# %% no_residual | Only the correction is returned, the features themselves are forgotten | 3
def adapt(features, scale, shift, down, up, gate):
    z = F.layer_norm(features.movedim(1, -1), features.shape[1:2], scale, shift, 1e-6)
    hidden = F.gelu(z @ down.T)
    return gate * (hidden @ up.T).movedim(-1, 1)


# %% residual_after_norm | The correction is added to the normalised features | 3
def adapt(features, scale, shift, down, up, gate):
    z = F.layer_norm(features.movedim(1, -1), features.shape[1:2], scale, shift, 1e-6)
    hidden = F.gelu(z @ down.T)
    return (z + gate * (hidden @ up.T)).movedim(-1, 1)


# %% no_gelu | Two matrices in a row, without anything between them | 8
def adapt(features, scale, shift, down, up, gate):
    z = F.layer_norm(features.movedim(1, -1), features.shape[1:2], scale, shift, 1e-6)
    return features + gate * (z @ (up @ down).T).movedim(-1, 1)


# %% gelu_at_the_end | GELU behind the second matrix in place of before it | 11
def adapt(features, scale, shift, down, up, gate):
    z = F.layer_norm(features.movedim(1, -1), features.shape[1:2], scale, shift, 1e-6)
    return features + gate * F.gelu(z @ down.T @ up.T).movedim(-1, 1)


# %% gate_on_everything | The gate multiplies the features too | 3
def adapt(features, scale, shift, down, up, gate):
    z = F.layer_norm(features.movedim(1, -1), features.shape[1:2], scale, shift, 1e-6)
    hidden = F.gelu(z @ down.T)
    return gate * (features + (hidden @ up.T).movedim(-1, 1))


# %% unbiased_variance | The variance is divided by C - 1 | 8
def adapt(features, scale, shift, down, up, gate):
    mean, variance = features.mean(1, keepdim=True), features.var(1, keepdim=True)
    z = (features - mean) / (variance + 1e-6).sqrt() * scale[:, None, None] + shift[:, None, None]
    hidden = F.gelu(torch.einsum('rc,bchw->brhw', down, z))
    return features + gate * torch.einsum('cr,brhw->bchw', up, hidden)


# %% all_frozen | No gradients at all, because the network around the adapter is frozen | 17
@torch.no_grad()
def adapt(features, scale, shift, down, up, gate):
    z = F.layer_norm(features.movedim(1, -1), features.shape[1:2], scale, shift, 1e-6)
    hidden = F.gelu(z @ down.T)
    return features + gate * (hidden @ up.T).movedim(-1, 1)


# %% detached_below | The features are detached before the norm | 17
def adapt(features, scale, shift, down, up, gate):
    z = F.layer_norm(features.detach().movedim(1, -1), features.shape[1:2], scale, shift, 1e-6)
    hidden = F.gelu(z @ down.T)
    return features + gate * (hidden @ up.T).movedim(-1, 1)
