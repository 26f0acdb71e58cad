# %% zeros_counted | The zeros around the grid are counted in the mean. | 7
def pivot_blur(volume, size=3, stride=1):
    def blur(images, step): return F.avg_pool2d(images, size, step, size // 2)
    b, _, hq, wq, _, _ = volume.shape
    kept = volume[..., ::stride, ::stride]
    from_support = blur(rearrange(volume, 'b l y x v u -> (b y x) l v u'), stride)
    from_query = blur(rearrange(kept, 'b l y x v u -> (b v u) l y x'), 1)
    return (rearrange(from_support, '(b y x) l v u -> b l y x v u', y=hq, x=wq)
            + rearrange(from_query, '(b v u) l y x -> b l y x v u', b=b, v=kept.shape[4])) / 2


# %% full_window | One blur after the other: that is the full window in four dimensions. | 4
def pivot_blur(volume, size=3, stride=1):
    def blur(images, step): return F.avg_pool2d(images, size, step, size // 2, count_include_pad=False)
    b, _, hq, wq, _, _ = volume.shape
    first = blur(rearrange(volume, 'b l y x v u -> (b y x) l v u'), stride)
    first = rearrange(first, '(b y x) l v u -> b l y x v u', y=hq, x=wq)
    second = blur(rearrange(first, 'b l y x v u -> (b v u) l y x'), 1)
    return rearrange(second, '(b v u) l y x -> b l y x v u', b=b, v=first.shape[4])


# %% stride_everywhere | The stride thins out the query too. | 13
def pivot_blur(volume, size=3, stride=1):
    def blur(images): return F.avg_pool2d(images, size, stride, size // 2, count_include_pad=False)
    b = len(volume)
    less_s, less_q = volume[..., ::stride, ::stride], volume[:, :, ::stride, ::stride]
    from_support = rearrange(blur(rearrange(less_q, 'b l y x v u -> (b y x) l v u')), '(b y x) l v u -> b l y x v u',
                             b=b, y=less_q.shape[2])
    from_query = rearrange(blur(rearrange(less_s, 'b l y x v u -> (b v u) l y x')), '(b v u) l y x -> b l y x v u',
                           b=b, v=less_s.shape[4])
    return (from_support + from_query) / 2


# %% sum_of_halves | The two means are added, not averaged. | 0
def pivot_blur(volume, size=3, stride=1):
    def blur(images, step): return F.avg_pool2d(images, size, step, size // 2, count_include_pad=False)
    b, _, hq, wq, _, _ = volume.shape
    kept = volume[..., ::stride, ::stride]
    from_support = blur(rearrange(volume, 'b l y x v u -> (b y x) l v u'), stride)
    from_query = blur(rearrange(kept, 'b l y x v u -> (b v u) l y x'), 1)
    return (rearrange(from_support, '(b y x) l v u -> b l y x v u', y=hq, x=wq)
            + rearrange(from_query, '(b v u) l y x -> b l y x v u', b=b, v=kept.shape[4]))


# %% view_only | The query half is cut into images by a reshape, without moving the axes. | 4
def pivot_blur(volume, size=3, stride=1):
    def blur(images, step): return F.avg_pool2d(images, size, step, size // 2, count_include_pad=False)
    b, l, hq, wq, _, _ = volume.shape
    kept = volume[..., ::stride, ::stride]
    from_support = blur(rearrange(volume, 'b l y x v u -> (b y x) l v u'), stride)
    from_query = blur(kept.reshape(-1, l, hq, wq), 1).reshape(kept.shape)
    return (rearrange(from_support, '(b y x) l v u -> b l y x v u', y=hq, x=wq) + from_query) / 2


# %% first_places | The pivots of the query half are the first support places, not every second or third. | 13
def pivot_blur(volume, size=3, stride=1):
    def blur(images, step): return F.avg_pool2d(images, size, step, size // 2, count_include_pad=False)
    b, _, hq, wq, _, _ = volume.shape
    from_support = blur(rearrange(volume, 'b l y x v u -> (b y x) l v u'), stride)
    kept = volume[..., :from_support.shape[-2], :from_support.shape[-1]]
    from_query = blur(rearrange(kept, 'b l y x v u -> (b v u) l y x'), 1)
    return (rearrange(from_support, '(b y x) l v u -> b l y x v u', y=hq, x=wq)
            + rearrange(from_query, '(b v u) l y x -> b l y x v u', b=b, v=kept.shape[4])) / 2


# %% rounded_down | A support side that the stride does not divide loses its last place. | 13
def pivot_blur(volume, size=3, stride=1):
    def blur(images, step): return F.avg_pool2d(images, size, step, size // 2, count_include_pad=False)
    b, _, hq, wq, hs, ws = volume.shape
    rows, columns = hs // stride, ws // stride
    kept = volume[..., ::stride, ::stride][..., :rows, :columns]
    from_support = blur(rearrange(volume, 'b l y x v u -> (b y x) l v u'), stride)[..., :rows, :columns]
    from_query = blur(rearrange(kept, 'b l y x v u -> (b v u) l y x'), 1)
    return (rearrange(from_support, '(b y x) l v u -> b l y x v u', y=hq, x=wq)
            + rearrange(from_query, '(b v u) l y x -> b l y x v u', b=b, v=rows)) / 2


# %% no_gradient | The blur is computed without recording gradients. | 22
@torch.no_grad()
def pivot_blur(volume, size=3, stride=1):
    def blur(images, step): return F.avg_pool2d(images, size, step, size // 2, count_include_pad=False)
    b, _, hq, wq, _, _ = volume.shape
    kept = volume[..., ::stride, ::stride]
    from_support = blur(rearrange(volume, 'b l y x v u -> (b y x) l v u'), stride)
    from_query = blur(rearrange(kept, 'b l y x v u -> (b v u) l y x'), 1)
    return (rearrange(from_support, '(b y x) l v u -> b l y x v u', y=hq, x=wq)
            + rearrange(from_query, '(b v u) l y x -> b l y x v u', b=b, v=kept.shape[4])) / 2


# %% support_only | The query half is forgotten. | 4
def pivot_blur(volume, size=3, stride=1):
    hq, wq = volume.shape[2:4]
    images = rearrange(volume, 'b l y x v u -> (b y x) l v u')
    blurred = F.avg_pool2d(images, size, stride, size // 2, count_include_pad=False)
    return rearrange(blurred, '(b y x) l v u -> b l y x v u', y=hq, x=wq)
