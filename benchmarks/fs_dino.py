#!/usr/bin/env python
"""What one training step and one episode of FS-DINO cost, with random weights: seconds, memory, learned numbers.

    python benchmarks/fs_dino.py [--backbone dinov2_vitb14] [--variant full] [--batch 1] [--repeat 3]

One training step: features come from memory, as in a training; forward, losses, backward, AdamW. One episode: support and
query photo are encoded, the query is segmented. Peak memory is that of the whole process, of the operating system's own
account. Seconds are the best of `--repeat`. Writes benchmarks/results/fs_dino_BACKBONE_VARIANT.json and .md.
"""
import argparse
import platform
import resource
import time
from pathlib import Path

import torch

from common import write_results
from fsskit.backbones import create_backbone
from fsskit.episodic import episode_losses, EpisodeBatch
from fsskit.evaluation import versions
from fsskit.fs_dino import FSDINO


def peak_gb() -> float:
    "Largest memory of this process so far."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == 'Darwin' else 1024) / 1e9


def best(run, repeat: int) -> float:
    "Seconds of the fastest of some runs."
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def random_episodes(model: FSDINO, count: int, seed: int = 0) -> tuple[EpisodeBatch, torch.Tensor, torch.Tensor]:
    "Cached features of random episodes; the photos and the masks behind the first of them."
    generator, side = torch.Generator().manual_seed(seed), model.input_size
    photos = torch.rand(2 * count, 3, side, side, generator=generator)
    masks = torch.zeros(2 * count, side, side, dtype=torch.uint8)
    masks[:, side // 4:side // 2, side // 4:3 * side // 4] = 1
    levels = [torch.cat(maps) for maps in zip(*(model.frozen_features(photo[None]) for photo in photos))]
    support = [level[count:, None] for level in levels]
    return EpisodeBatch([level[:count] for level in levels], support, masks[count:, None], masks[:count]), photos, masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--backbone', default='dinov2_vitb14'), parser.add_argument('--variant', default='full')
    parser.add_argument('--batch', type=int, default=1), parser.add_argument('--repeat', type=int, default=3)
    args = parser.parse_args()
    backbone = create_backbone(args.backbone, weights=None)
    model = FSDINO(backbone, args.variant, head=None, adapter='random', sam='sam_tiny', sam_weights=None)
    batch, photos, masks = random_episodes(model, args.batch)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, 1e-4)

    def step() -> None:
        losses = episode_losses(model.train().episode_logits(batch), batch.target)
        optimiser.zero_grad()
        losses['loss'].backward()
        optimiser.step()

    def episode() -> None:
        with torch.inference_mode(): model.eval().segment(photos[:1], model.encode_support(photos[1:2], masks[1:2]))

    facts = {'backbone': args.backbone, 'variant': args.variant, 'input, px': model.input_size,
             'episodes a step': args.batch, 'learned numbers': sum(p.numel() for p in learned),
             'threads': torch.get_num_threads(), 'training step, s': round(best(step, args.repeat), 2),
             'peak memory with training, GB': round(peak_gb(), 2), 'episode, s': round(best(episode, args.repeat), 2)}
    lines = [f'| {name} | {value} |' for name, value in facts.items()]
    title = f'# FS-DINO: {args.variant} on {args.backbone}, random weights'
    table = '\n'.join([title, '', '| | |', '|---|---|', *lines]) + '\n'
    out = Path(__file__).parent / 'results' / f'fs_dino_{args.backbone}_{args.variant}.json'
    write_results(out, facts | {'versions': versions()}, table)
    print(table)


if __name__ == '__main__': main()
