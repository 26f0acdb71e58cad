#!/usr/bin/env python
"""Correlation tensors and center-pivot networks: ours beside the plain formulations, parity first, ratios in one run.

    python benchmarks/correlation.py                  # on a quiet machine; --threads 2 for the setting of the goals
    python benchmarks/correlation.py --repeats 3 --only squeeze --grids 20

Plain correlation: each layer by itself (divide by the norm, multiply, clip), then stacked. Plain center-pivot: the
volume in the order (B,C,hq,wq,hs,ws), a contiguous copy before and after each 2D convolution, a sum, torch's
GroupNorm, ReLU; the same weights. Before anything is timed, values are compared (for training steps: gradients).
The contestants of a row take turns, and each reports best, median and number of its runs; the ratio is of the best
times. `medium` is `fsskit.backbones.precision`. The probe is one matrix product, timed before and after each row:
when its two speeds differ much, the machine was not quiet. Writes benchmarks/results/correlation.json and
correlation.md.
"""
import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import nn, Tensor

from common import write_results
from fsskit.backbones import precision
from fsskit.correlation import CenterPivotConv4d, correlation, CorrelationNet, mix_block, squeeze_block
from fsskit.evaluation import versions

PARITY = 1e-5  # largest difference, as a share of the largest value


# --- the plain formulations ------------------------------------------------------------------------------------------

def plain_correlation(query: list[Tensor], support: list[Tensor], eps: float = 1e-5) -> Tensor:
    "One layer after the other."
    volumes = []
    for q, s in zip(query, support):
        q, s = (x / (x.norm(dim=1, keepdim=True) + eps) for x in (q, s))
        cosines = torch.bmm(q.flatten(2).transpose(1, 2), s.flatten(2))
        volumes.append(cosines.view(len(q), *q.shape[2:], *s.shape[2:]).clamp(min=0))
    return torch.stack(volumes, 1)


def plain_conv(conv: CenterPivotConv4d, x: Tensor) -> Tensor:
    "The two halves with a copy before and after each."
    b, _, hq, *_ = x.shape
    rows, columns = (torch.arange(0, n, step) for n, step in zip(x.shape[4:], conv.stride))
    kept = x.index_select(4, rows).index_select(5, columns)
    images = rearrange(kept, 'b c hq wq hs ws -> (b hs ws) c hq wq').contiguous()
    by_query = rearrange(conv.query(images), '(b hs ws) c hq wq -> b c hq wq hs ws', b=b, hs=kept.shape[4]).contiguous()
    images = rearrange(x, 'b c hq wq hs ws -> (b hq wq) c hs ws').contiguous()
    by_support = rearrange(conv.support(images), '(b hq wq) c hs ws -> b c hq wq hs ws', b=b, hq=hq).contiguous()
    return by_query + by_support


def plain_blocks(blocks: nn.Sequential, x: Tensor) -> Tensor:
    for block in blocks: x = torch.relu(block.norm(plain_conv(block.conv, x)))
    return x


# --- measuring -------------------------------------------------------------------------------------------------------

def seconds(f: Callable) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def probe(size: int = 768) -> float:
    "GFLOP/s of one matrix product."
    a = torch.rand(size, size)
    return 2 * size ** 3 / min(seconds(lambda: a @ a) for _ in range(5)) / 1e9


def race(name: str, contestants: dict[str, Callable], repeats: int) -> dict:
    "Everybody once for warming up, then in turns."
    before = probe()
    for f in contestants.values(): f()
    times = {key: [] for key in contestants}
    for n in range(repeats):
        order = list(contestants)[n % len(contestants):] + list(contestants)[:n % len(contestants)]
        for key in order: times[key].append(seconds(contestants[key]))
    found = {key: dict(best=1e3 * min(t), median=1e3 * statistics.median(t), n=len(t)) for key, t in times.items()}
    print(name, {key: f"{v['best']:.1f} ms (median {v['median']:.1f})" for key, v in found.items()}, flush=True)
    return dict(row=name, ms=found, probe_gflops=[before, probe()])


def same(ours: Tensor, plain: Tensor, limit: float = PARITY) -> float:
    "The largest difference as a share of the largest value; an error when it is too large."
    difference = ((ours - plain).abs().max() / plain.abs().max()).item()
    assert difference <= limit, f'ours and plain differ by {difference:.2g} of the largest value'
    return difference


# --- rows ------------------------------------------------------------------------------------------------------------

def correlation_row(grid: int, dim: int, repeats: int) -> dict:
    query, support = ([torch.randn(1, dim, grid, grid) for _ in range(12)] for _ in range(2))
    def at(mode: str, f: Callable) -> Callable:
        def run() -> Tensor:
            with precision(mode), torch.no_grad(): return f(query, support)
        return run
    runs = {'plain': at('fp32', plain_correlation), 'ours': at('fp32', correlation),
            'plain medium': at('medium', plain_correlation), 'ours medium': at('medium', correlation)}
    exact = runs['plain']()
    difference = same(runs['ours'](), exact)
    medium = ((runs['ours medium']() - exact).abs().max() / exact.abs().max()).item()
    return race(f'correlation, 12 layers, {grid} x {grid}, {dim} channels', runs, repeats) | dict(
        difference=difference, difference_medium=medium)


def forward_row(name: str, blocks: nn.Sequential, shape: tuple[int, ...], repeats: int) -> dict:
    x = torch.rand(shape)
    with torch.no_grad():
        difference = same(blocks(x), plain_blocks(blocks, x))
        runs = {'plain': lambda: plain_blocks(blocks, x), 'ours': lambda: blocks(x)}
        return race(name, runs, repeats) | dict(difference=difference)


def training_row(layers: int, widths: tuple[int, ...], grids: tuple[int, int], batch: int, repeats: int) -> dict:
    "Forward and backward of a network without mix; the sides of the query and the support grid."
    (query, support), net = grids, CorrelationNet(layers, widths)
    x = torch.rand(batch, layers, query, query, support, support)
    def step(forward: Callable) -> list[Tensor]:
        return torch.autograd.grad(forward(x).square().mean(), list(net.parameters()))
    runs = {'plain': lambda: step(lambda x: plain_blocks(net.squeeze, x).mean((4, 5))), 'ours': lambda: step(net)}
    ours, plain = (torch.cat([g.flatten() for g in runs[key]()]) for key in ('ours', 'plain'))
    difference = same(ours, plain, 10 * PARITY)  # gradients of weights are long sums
    name = (f'training step, {layers} layers, {query} x {query} and {support} x {support}, '
            f'widths {"-".join(map(str, widths))}, batch {batch}')
    return race(name, runs, repeats) | dict(difference=difference)


def ratio(row: dict, ours: str, plain: str) -> float: return row['ms'][plain]['best'] / row['ms'][ours]['best']


def table(rows: list[dict]) -> str:
    lines = ['| what | plain, ms | ours, ms | plain / ours | plain / ours medium | medium / medium | difference |',
             '|---|--:|--:|--:|--:|--:|--:|']
    for row in rows:
        medium = ['', '']
        if 'ours medium' in row['ms']:
            medium = [f"{ratio(row, 'ours medium', key):.2f}" for key in ('plain', 'plain medium')]
        lines.append(f"| {row['row']} | {row['ms']['plain']['best']:.1f} | {row['ms']['ours']['best']:.1f} | "
                     f"**{ratio(row, 'ours', 'plain'):.2f}** | {medium[0]} | {medium[1]} | {row['difference']:.1g} |")
    return '\n'.join(lines) + '\n'


def processor() -> str:
    "The processor's name."
    try: lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError: return platform.processor()
    return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--only', nargs='+', choices=('correlation', 'squeeze', 'mix', 'training'),
                        default=('correlation', 'squeeze', 'mix', 'training'))
    parser.add_argument('--grids', type=int, nargs='+', default=(32, 37), help='sides, for correlation and squeeze')
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results' / 'correlation.json')
    args = parser.parse_args()
    torch.manual_seed(0), torch.set_num_threads(args.threads)
    rows = []
    for grid in args.grids:
        if 'correlation' in args.only: rows.append(correlation_row(grid, 384 if grid <= 32 else 768, args.repeats))
        if 'squeeze' in args.only:
            name, shape = f'squeeze 12-16-64-128, {grid} x {grid}', (1, 12, *[grid] * 4)
            rows.append(forward_row(name, squeeze_block(12), shape, args.repeats))
    if 'mix' in args.only:
        rows.append(forward_row('mix 128, 32 x 32 and 4 x 4', mix_block(128), (1, 128, 32, 32, 4, 4), args.repeats))
    if 'training' in args.only:
        small, full = (8, 16, 32), (16, 64, 128)
        for layers, widths, support in ((2, small, 20), (6, small, 20), (6, small, 10), (6, full, 20)):
            rows.append(training_row(layers, widths, (20, support), 4, args.repeats))
    content = {'benchmark': 'correlation tensors and center-pivot networks against the plain formulations',
               'processor': processor(), 'threads': args.threads, 'versions': versions(), 'rows': rows,
               'peak_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    write_results(args.out, content, table(rows))
    print(table(rows))


if __name__ == '__main__':
    main()
