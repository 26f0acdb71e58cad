#!/usr/bin/env python
"""FSSAM against a plain formulation of it with the same random weights: seconds and peak memory, in one run.

    python benchmarks/fssam.py [--backbone dinov2_vitb14] [--sam2 sam2_hiera_s] [--shots 1 5] [--repeat 5]
                               [--modes fp32 medium bf16]

Plain: the timm encoder and the stock sam2 modules in float32, photo by photo, the formulas as they are written, and nothing
kept: every query encodes its supports anew. Ours: `FSSAM` in float32, in float32 with faster products ('medium'), and in
bfloat16. An episode encodes supports and query; a further query finds the supports encoded. All results are compared with
the plain one before anything is timed, and all take turns. A processor without bfloat16 emulates it, several times slower than
float32: leave it out of --modes there. Peak memory is that of a fresh process that does one thing. Writes
benchmarks/results/fssam_BACKBONE_SAM2.json and .md.
"""
import argparse
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from common import write_results
from fsskit.backbones import create_backbone, precision
from fsskit.benchmark import benchmark_table, Contestant, peak_gb, processor, race, Task
from fsskit.evaluation import versions
from fsskit.fssam import FSSAM
from fsskit.memory import decode, image_features

MODES = {'fp32': 1e-8, 'medium': 1e-5, 'bf16': 2e-2}  # precision -> how far the logits may be off: 1 - cosine


# the plain formulation: one photo, one formula at a time

def minmax(x: Tensor) -> Tensor: return (x - x.min()) / (x.max() - x.min() + 1e-7)
def prototype(f: Tensor, m: Tensor) -> Tensor: return (f * m).flatten(1).sum(1) / (m.sum() + 5e-4)
def cosine(p: Tensor, f: Tensor) -> Tensor: return torch.einsum('c,c...->...', p, f) / (p.norm() * f.norm(dim=0) + 1e-7)


def corners(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x[None, None], size, mode='bilinear', align_corners=True)[0, 0]


def plain_prior(model: FSSAM, image: Tensor) -> Tensor:  # (C, h, w)
    "The layers of the timm encoder that are wanted (DINOv2: the last one), each of length 1, as one map."
    square = F.interpolate(image[None], (model.settings.prior_size,) * 2, mode='bilinear', align_corners=True)
    maps = [m[0] for m in model.backbone.backbone(square, model.layers)]
    return maps[0] if len(maps) == 1 else torch.cat([m / m.norm(dim=0) for m in maps])


def plain_prompts(query: Tensor, supports: list[Tensor], masks: list[Tensor], size: int) -> list[Tensor]:  # two (S, S)
    found = []
    for f, mask in zip(supports, masks):
        m = corners(mask, f.shape[-2:])
        fg, bg = (corners(minmax(cosine(prototype(f, part), query)), (size, size)) for part in (m, 1 - m))
        found.append((fg, minmax((fg - bg).relu())))
    return [torch.stack(part).mean(0) for part in zip(*found)]


def plain_memory(sam2, features, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    "Memory, positions and pointer, by the stock methods."
    _, _, _, _, logits, pointer, score = sam2._use_mask_as_output(features.grid(), features.fine, mask[None, None])
    memory, (places,) = sam2._encode_new_memory(features.maps, features.sizes, logits, score, False)
    return memory[0], places[0], pointer[0]


def plain_refinement(supports: list[Tensor], masks: list[Tensor], fg: Tensor, own: Tensor, p_fg: Tensor, p_own: Tensor,
                     steps: int) -> Tensor:
    grid = fg.shape[-2:]
    p_fg, p_own, masks = corners(p_fg, grid), corners(p_own, grid), [corners(m, grid) for m in masks]
    agreed = torch.stack([minmax(cosine(prototype(s, m), fg)) for s, m in zip(supports, masks)]).mean(0)
    for _ in range(steps):
        share = (minmax(cosine(prototype(own, p_own), fg)) + agreed - 1).relu()
        own, p_own = share * fg + (1 - share) * own, minmax(share * p_fg + (1 - share) * p_own)
    return own


def rotated(attention, x: Tensor, tokens: Tensor, pointers: int) -> tuple[Tensor, Tensor]:
    "Queries and keys of a cross-attention, found from the stock projections."
    from sam2.modeling.position_encoding import apply_rotary_enc
    q, k = attention.q_proj(x)[None, None], attention.k_proj(tokens)[None, None]
    side = round(len(x) ** .5)
    q, turned = apply_rotary_enc(q, k[:, :, :-pointers], attention.compute_cis(end_x=side, end_y=side), True)
    return q[0, 0], torch.cat([turned, k[:, :, -pointers:]], 2)[0, 0]


def plain_attention(sam2, features, memories: list, masks: list[Tensor], alpha: float) -> Tensor:  # (1, C, h, w)
    "Calibrated memory attention with the whole matrix of scores."
    grid, flat = features.sizes[-1], lambda x: x.flatten(1).T
    pointers = torch.cat([m[2].view(-1, sam2.mem_dim) for m in memories])
    tokens = torch.cat([*(flat(m[0]) for m in memories), pointers])
    places = torch.cat([*(flat(m[1]) + sam2.maskmem_tpos_enc[-1, 0] for m in memories), torch.zeros_like(pointers)])
    nearest, n = [F.interpolate(m[None, None], grid).flatten() for m in masks], grid[0] * grid[1]
    own, x = slice(len(masks) * n, (len(masks) + 1) * n), (features.maps[-1] + .1 * features.positions[-1])[:, 0]
    for layer in sam2.memory_attention.layers:
        x = layer._forward_sa(x[None], None)[0]
        attention = layer.cross_attn_image
        q, k = rotated(attention, layer.norm2(x), tokens + places, len(pointers))
        scores, blocks = q @ k.T / q.shape[1] ** .5, k[:own.stop].T.unflatten(1, (-1, n)).unbind(1)
        c = minmax(torch.stack([cosine(prototype(b, m), blocks[-1]) for b, m in zip(blocks, nearest)]).mean(0))
        low, high = scores[:, own].amin(1, keepdim=True), scores[:, own].amax(1, keepdim=True)
        bias = alpha * ((scores[:, own] - low) / (high - low + 1e-7) + c - 1).clamp(max=0)
        scores = torch.cat([scores[:, :own.start], scores[:, own] + bias, scores[:, own.stop:]], 1)
        x = x + attention.out_proj(scores.softmax(1) @ attention.v_proj(tokens))
        x = x + layer.linear2(layer.activation(layer.linear1(layer.norm3(x))))
    return sam2.memory_attention.norm(x).T.unflatten(1, grid)[None]


def plain_episode(model: FSSAM, query: Tensor, images: Tensor, masks: Tensor) -> Tensor:  # (1, 3, S/4, S/4)
    "One query, everything from the start."
    sam2, s, masks = model.sam2, model.settings, [m.float() for m in masks]
    prompts = plain_prompts(plain_prior(model, query), [plain_prior(model, i) for i in images], masks, sam2.image_size)
    features = image_features(sam2, query[None])
    supports = [plain_memory(sam2, image_features(sam2, i[None]), m) for i, m in zip(images, masks)]
    fg, own = (plain_memory(sam2, features, p) for p in prompts)
    refined = plain_refinement([m[0] for m in supports], masks, fg[0], own[0], *prompts, s.iterations)
    fused = plain_attention(sam2, features, [*supports, (refined, *own[1:])], masks, s.alpha)
    return decode(sam2, features, fused).masks


# what is measured

def make_model(backbone: str, sam2: str) -> FSSAM:
    "Random weights; objects are believed to be there, else all pointers would be the word for nothing."
    frozen = create_backbone(backbone, weights='embedded' if backbone == 'embedded' else None)
    model = FSSAM(frozen, sam2, head=None, sam2_weights=None).eval()
    with torch.no_grad(): model.sam2.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.)
    return model


def random_photos(size: int, shots: int) -> tuple[Tensor, Tensor, Tensor]:
    "A query, supports and masks: smooth noise and boxes."
    draw = torch.Generator().manual_seed(0)
    images = F.interpolate(torch.rand(shots + 1, 3, 24, 24, generator=draw), (size, size), mode='bicubic').clamp(0, 1)
    masks = torch.zeros(shots, size, size, dtype=torch.uint8)
    for k, mask in enumerate(masks): mask[size // (k + 3):size // 2, size // (k + 4):3 * size // 4] = 1
    return images[0], images[1:], masks


def ways(model: FSSAM, shots: int, modes: Sequence[str] = tuple(MODES)) -> dict:
    "What is compared, by name: functions without arguments that give the three masks."
    query, images, masks = random_photos(model.input_size, shots)
    def episode(mode: str) -> Tensor:
        with torch.inference_mode(), precision(mode):
            return model.look(query[None], model.encode_support(images, masks)).decoded.masks.float()
    def further(mode: str, kept: dict = {}) -> Tensor:
        with torch.inference_mode(), precision(mode):
            if (mode, shots) not in kept: kept[mode, shots] = model.encode_support(images, masks)
            return model.look(query[None], kept[mode, shots]).decoded.masks.float()
    def plain() -> Tensor:
        with torch.inference_mode(): return plain_episode(model, query, images, masks)
    return {'plain': plain, **{f'episode, {mode}': partial(episode, mode) for mode in modes},
            **{f'further query, {mode}': partial(further, mode) for mode in modes}}


def logit_distance(result: Tensor, expected: Tensor) -> float:
    "1 - cosine of all logits."
    return 1 - F.cosine_similarity(result.double().flatten(), expected.double().flatten(), 0).item()


def task_of(model: FSSAM, shots: int, modes: Sequence[str]) -> Task:
    "One number of shots; the first turn of each, which compares the results, also fills the memories."
    s, runs = model.settings, ways(model, shots, modes)
    limits = {name: MODES.get(name.split(', ')[-1], 0.) for name in runs}
    about = f'{shots}-shot, {model.sam2.name} at {s.input_size} px, {model.backbone.name} at {s.prior_size} px'
    return Task(about, [Contestant(name, run, limits[name]) for name, run in runs.items()], logit_distance)


def memory_of_one(args: argparse.Namespace, shots: int, name: str) -> float:
    "Peak memory, GB, of a fresh process that does one thing."
    one = [sys.executable, __file__, '--backbone', args.backbone, '--sam2', args.sam2, '--only', str(shots), name]
    return float(subprocess.run(one, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--backbone', default='dinov2_vitb14'), parser.add_argument('--sam2', default='sam2_hiera_s')
    parser.add_argument('--shots', type=int, nargs='+', default=(1, 5)), parser.add_argument('--repeat', type=int, default=5)
    parser.add_argument('--modes', nargs='+', choices=MODES, default=tuple(MODES), help='precisions of ours')
    parser.add_argument('--out', type=Path, help='JSON file; without it: in benchmarks/results')
    parser.add_argument('--only', nargs=2, metavar=('SHOTS', 'NAME'), help='do one thing, and print the peak memory')
    args = parser.parse_args()
    model = make_model(args.backbone, args.sam2)
    if args.only:
        ways(model, int(args.only[0]))[args.only[1]]()
        return print(peak_gb())
    rows = [row for shots in args.shots for row in race(task_of(model, shots, args.modes), args.repeat)]
    peaks = {f'{shots}-shot, {name}': memory_of_one(args, shots, name) for shots in args.shots
             for name in ways(model, shots, args.modes) if not name.startswith('further')}
    about = {'processor': processor(), 'threads': torch.get_num_threads(), 'versions': versions()}
    note = f"Random weights. {about['processor']}, {about['threads']} threads. Distance: 1 - cosine of the logits."
    memory = '\n'.join(['| peak memory of a process | GB |', '|---|--:|', *(f'| {k} | {v:.2f} |' for k, v in peaks.items())])
    text = '\n\n'.join(['# FSSAM against a plain formulation', note, benchmark_table(rows), memory]) + '\n'
    out = args.out or Path(__file__).parent / 'results' / f'fssam_{args.backbone}_{args.sam2}.json'
    write_results(out, about | {'rows': rows, 'peak_gb': peaks}, text)
    print(text)


if __name__ == '__main__': main()
