"""Parity with numbers that released research code gave (see the folder named by FSSKIT_REFERENCE).

Every kind of reference is a set of files KIND_*.json + KIND_*.safetensors. Files, cases, shapes and tolerances come
from the files themselves. A kind without a file is skipped. Only the tests of this file have `reference` in their names.
"""
import fnmatch
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

FOLDER = Path(os.environ.get('FSSKIT_REFERENCE') or Path(__file__).resolve().parents[2] / 'shared' / 'reference')


def files(kind):
    """One parameter per file of the kind; a skipped one when there is none."""
    found = sorted(FOLDER.glob(f'{kind}_*.json'))
    missing = pytest.param(None, marks=pytest.mark.skip(reason=f'no {kind}_*.json in {FOLDER}'), id='none')
    return [pytest.param(path, id=path.stem) for path in found] or [missing]


def cases(kind, key='results'):
    """One parameter per file of the kind and case named under `key` in it."""
    found = [(path, case) for path in sorted(FOLDER.glob(f'{kind}_*.json'))
             for case in json.loads(path.read_text())[key]]
    missing = pytest.param(None, None, marks=pytest.mark.skip(reason=f'no {kind}_*.json in {FOLDER}'), id='none')
    return [pytest.param(path, case, id=f'{path.stem}-{case}') for path, case in found] or [missing]


def read(path):
    """The description and the tensors of a reference file."""
    info = json.loads(path.read_text())
    return info, load_file(path.with_name(info.get('file', f'{path.stem}.safetensors')))


def check(info, name, value, wanted):
    """Assert that `value` is within the tolerance that the file states for `name` (the first matching line counts)."""
    line = next(t for t in info['tolerances'] if fnmatch.fnmatchcase(name, t['match']))
    value, wanted = np.asarray(value, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    assert value.shape == wanted.shape, name
    excess = np.abs(value - wanted) - (line['atol'] + line['rtol'] * np.abs(wanted))
    assert excess.max(initial=0) <= 0, f'{name}: {excess.max():.3g} beyond {line}'


PERCENT, FRACTION = 'results: values in percent', 'results: fractions'


@pytest.mark.parametrize('path, case', cases('hsnet_metric'))
def test_reference_hsnet_metric(path, case):
    from fsskit.metrics import class_sums, confusion, fb_iou, mean_iou, per_class_iou, pooled_iou
    info, tensors = read(path)
    t = {key.removeprefix(f'{case}.'): value for key, value in tensors.items() if key.startswith(f'{case}.')}
    wanted = info['results'][case]
    fold, ids = wanted['class_ids_of_fold'], t['class_id']
    counts = np.stack(confusion(t['pred'], t['label']), axis=1)

    check(info, f'{case}.inter', counts[:, [2, 0]], t['inter'])
    check(info, f'{case}.union', counts[:, [3, 1]], t['union'])
    n_classes = t['intersection_buf'].shape[1]
    _, sums = class_sums(counts, ids, classes=range(n_classes))
    check(info, f'{case}.intersection_buf', sums[:, [2, 0]].T, t['intersection_buf'])
    check(info, f'{case}.union_buf', sums[:, [3, 1]].T, t['union_buf'])
    zero = per_class_iou(counts, ids, fold, undrawn='zero')
    check(info, f'{case}.fssam_class_iou', [zero[c] for c in fold], t['fssam_class_iou'])

    miou, fb = mean_iou(counts, ids, fold, undrawn='zero'), fb_iou(counts)
    check(info, PERCENT, 100 * miou, wanted['hsnet_mIoU_percent'])
    check(info, PERCENT, 100 * fb, wanted['hsnet_FB_IoU_percent'])
    check(info, FRACTION, miou, wanted['fssam_mIoU'])
    check(info, FRACTION, fb, wanted['fssam_FB_IoU'])
    check(info, FRACTION, pooled_iou(counts), wanted['fssam_pIoU'])


@pytest.mark.parametrize('path, case', cases('hsnet_metric'))
def test_reference_hsnet_metric_undrawn_class_is_reported(path, case):
    from fsskit.metrics import FewShotScore
    info, t = read(path)
    wanted = info['results'][case]
    score = FewShotScore(classes=wanted['class_ids_of_fold'])
    for pred, label, class_id in zip(t[f'{case}.pred'], t[f'{case}.label'], t[f'{case}.class_id']):
        score.update(pred, label, class_id)
    result, drawn = score.compute(), wanted['classes_drawn']
    assert result['missing'] == sorted(set(wanted['class_ids_of_fold']) - set(drawn))
    assert all((result['per_class'][c] is None) == (c not in drawn) for c in wanted['class_ids_of_fold'])
    over_drawn = wanted['fssam_mIoU'] * len(wanted['class_ids_of_fold']) / len(drawn)
    check(info, FRACTION, result['miou'], over_drawn)


@pytest.mark.parametrize('path, case', cases('fssam_metric'))
def test_reference_fssam_metric(path, case):
    import torch
    from fsskit.metrics import FewShotScore, logits_to_mask, pooled_iou
    info, t = read(path)
    wanted, ids = info['results'][case], t[f'{case}.class_rel']
    names = [key[:-len('.logits')] for key in t if re.fullmatch(re.escape(case) + r'\.ep\d+\.logits', key)]
    names.sort(key=lambda name: int(name.rsplit('ep', 1)[1]))
    assert len(names) == len(ids)
    score = FewShotScore(classes=range(wanted['classes_in_fold']), undrawn='zero')
    for name, class_id in zip(names, ids):
        label = t[f'{name}.label']
        pred = logits_to_mask(torch.from_numpy(t[f'{name}.logits']), label.shape, align_corners=True)[0]
        check(info, f'{name}.pred', pred.numpy(), t[f'{name}.pred'])
        score.update(pred, label, class_id)

    counts = np.array(score.counts)
    check(info, f'{case}.inter', counts[:, [2, 0]], t[f'{case}.inter'])
    check(info, f'{case}.union', counts[:, [3, 1]], t[f'{case}.union'])
    result = score.compute()
    check(info, f'{case}.class_iou', list(result['per_class'].values()), t[f'{case}.class_iou'])
    check(info, FRACTION, result['miou'], wanted['mIoU'])
    check(info, FRACTION, result['fb_iou'], wanted['FB_IoU'])
    check(info, FRACTION, pooled_iou(counts), wanted['pIoU'])


def dinov2_backbone(info, tensors, folder):
    """Our DINOv2 with the architecture, the position settings and the weights (authors' names) of a reference file."""
    from functools import partial
    import torch
    from safetensors.numpy import save_file
    from fsskit.backbones import create_backbone
    m, state = info['model'], {k[2:]: v for k, v in tensors.items() if k.startswith('w.')}
    registers, gated = m.get('num_register_tokens', 0), 'blocks.0.mlp.w12.weight' in state
    ratio = len(state['blocks.0.mlp.w12.weight']) / m['embed_dim'] if gated else m['mlp_ratio']
    options = dict(embed_dim=m['embed_dim'], depth=m['depth'], num_heads=m['num_heads'], mlp_ratio=ratio,
                   img_size=m['img_size'], patch_size=m['patch_size'], init_values=m['init_values'],
                   norm_layer=partial(torch.nn.LayerNorm, eps=m['layer_norm_eps']),
                   interpolate_offset=m['interpolate_offset'], interpolate_antialias=m['interpolate_antialias'])
    options |= dict(reg_tokens=registers) if registers else {}
    save_file(state, folder / 'official.safetensors')
    name = f'dinov2_vit{"g" if gated else "s"}14{"_reg" if registers else ""}'
    return create_backbone(name, folder / 'official.safetensors', **options)


@pytest.mark.parametrize('path', files('dinov2_interp'))
def test_reference_dinov2_interp(path, tmp_path):
    import torch
    from fsskit.backbones import vit_tokens
    info, t = read(path)
    backbone, checked = dinov2_backbone(info, t, tmp_path), []
    backbone.normalised = lambda images: images  # the files hold inputs that are normalised already
    table = torch.from_numpy(t['w.pos_embed'])
    for case in sorted(name.split('.')[0] for name in t if name.endswith('.input_times_32')):
        images = torch.from_numpy(t[f'{case}.input_times_32'] / np.float32(32))
        with torch.no_grad():
            values = {f'layer{n}': maps for n, maps in backbone.maps(images, backbone.layers).items()}
            tokens, grid = vit_tokens(backbone.net, images, backbone.positions)
            values['cls'] = torch.cat([y[:, 0] for y in backbone.block_outputs(tokens, backbone.layers).values()])
        values['pos_embed'] = torch.cat([table[:, :1], backbone.positions(table[:, 1:], grid)], 1)
        for name, value in values.items():
            if (wanted := t.get(f'{case}.{name}')) is not None:
                rows = slice(len(wanted[0]) if name == 'pos_embed' else None)  # row 0 alone at the native size
                check(info, f'{case}.{name}', value[:, rows], wanted)
                checked.append(f'{case}.{name}')
    assert sorted(checked) == sorted(name for name, line in info['tensors'].items() if line['role'] == 'output')


def sam_decoder_cases():
    """One parameter per file and case; a case is the prefix ('' or 'three.') of the tensors that belong together."""
    found = [(path, name.removesuffix('masks_single')) for path in sorted(FOLDER.glob('sam_decoder_*.json'))
             for name in json.loads(path.read_text())['tensors'] if name.endswith('masks_single')]
    return [pytest.param(path, case, id=f'{path.stem}-{case.strip(".") or "plain"}')
            for path, case in found] or cases('sam_decoder')


@pytest.mark.parametrize('path, case', sam_decoder_cases())
def test_reference_sam_decoder(path, case):
    import torch
    from segment_anything.modeling import MaskDecoder, TwoWayTransformer
    from fsskit.mask_decoder import PairedDecoder, place_codes
    info, t = read(path)
    t = {name: torch.from_numpy(value) for name, value in t.items()}
    get, m = lambda name: t.get(case + name, t.get(name)), info['model']
    transformer = TwoWayTransformer(depth=m['depth'], embedding_dim=m['transformer_dim'], mlp_dim=m['mlp_dim'],
                                    num_heads=m['num_heads'], attention_downsample_rate=m['attention_downsample_rate'])
    decoder = MaskDecoder(transformer_dim=m['transformer_dim'],
                          transformer=transformer, iou_head_depth=m['iou_head_depth'],
                          num_multimask_outputs=m['num_multimask_outputs'],
                          iou_head_hidden_dim=m['iou_head_hidden_dim'])
    decoder.load_state_dict({name[2:]: value for name, value in t.items() if name.startswith('w.')})
    matrix, sparse, image = get('pe_gaussian_matrix'), get('sparse'), get('image_embeddings')
    grid = image.shape[-2:]
    dense = t.get(f'{case}dense_vector')
    dense = get('dense') if dense is None else dense[..., None, None].expand(-1, -1, *grid)
    batch = [part.expand(len(sparse), -1, -1, -1) for part in (image, dense)]
    values = {'image_pe': place_codes(matrix, tuple(grid))}
    with torch.no_grad():
        for name, multimask in (('single', False), ('multi', True)):
            answer = PairedDecoder(decoder, matrix)(batch[0], sparse, batch[1], multimask=multimask)
            values[f'masks_{name}'], values[f'iou_{name}'] = answer
    outputs = [name for name, line in info['tensors'].items()
               if line['role'] == 'output' and name.rpartition('.')[0] == case.rstrip('.')]
    for name in outputs:
        value, wanted = values[name.removeprefix(case)], t[name]
        step = value.shape[-1] // wanted.shape[-1] if value.ndim == 4 else 1  # some files keep every n-th row and column
        check(info, name, value[..., ::step, ::step] if step > 1 else value, wanted)
    assert {f'{case}{name}' for name in ('masks_single', 'masks_multi', 'iou_single', 'iou_multi')} <= set(outputs)


@pytest.mark.parametrize('path, case', cases('hsnet_cp4d', 'cases'))
def test_reference_hsnet_cp4d(path, case):
    import torch
    from fsskit.correlation import CenterPivotConv4d
    info, tensors = read(path)
    build = info['cases'][case]
    t = {key.removeprefix(f'{case}.'): torch.from_numpy(v) for key, v in tensors.items() if key.startswith(f'{case}.')}
    names = {f'{side}.{part}': f'{official}.{part}' for official, side in (('conv1', 'query'), ('conv2', 'support'))
             for part in ('weight', 'bias') if f'w.{official}.{part}' in t}
    conv = CenterPivotConv4d(build['in_channels'], build['out_channels'], build['kernel'], build['stride'][2:],
                             bias='query.bias' in names)
    assert build['stride'][:2] == [1, 1] and build['padding'] == [k // 2 for k in build['kernel']]
    conv.load_state_dict({ours: t[f'w.{theirs}'] for ours, theirs in names.items()}, strict=True)
    volume = torch.from_numpy(tensors.get(f'{case}.input', tensors.get('input'))).requires_grad_()

    out = conv(volume)
    (out * t['cotangent']).sum().backward()
    assert list(out.shape) == build['output_shape']
    values = {'output': out, 'grad.input': volume.grad,
              **{f'grad.{theirs}': conv.get_parameter(ours).grad for ours, theirs in names.items()}}
    checked = {name for name, line in info['tensors'].items() if line['role'] in ('output', 'gradient')}
    assert {f'{case}.{name}' for name in values} == {name for name in checked if name.startswith(f'{case}.')}
    for name, value in values.items(): check(info, f'{case}.{name}', value.detach(), t[name])
    with torch.no_grad(): check(info, f'{case}.output', conv(volume), t['output'])


@pytest.mark.parametrize('path', files('fssam_ppg'))
def test_reference_fssam_ppg(path):
    import torch
    from fsskit.pseudo_prompts import prototype_prior, pseudo_prompts, resize, soft_masks
    info, t = read(path)
    t = {name: torch.from_numpy(value) for name, value in t.items()}
    query, support, masks, size = t['query_feat'], t['support_feat'], t['support_mask'], t['prior_fg'].shape[-2:]
    shots = support if support.ndim == 5 else support[:, None]
    found = pseudo_prompts(query, shots, masks, size[-1])
    check(info, 'prior_fg', found.foreground[:, None], t['prior_fg'])
    check(info, 'prior_disc', found.discriminative[:, None], t['prior_disc'])
    grid = soft_masks(masks, support.shape[-2:])
    check(info, 'support_mask_grid', grid, t['support_mask_grid'])
    background = torch.stack([prototype_prior(query, shot, 1 - mask)
                              for shot, mask in zip(shots.unbind(1), grid.unbind(1))])
    check(info, 'prior_bg', resize(background.mean(0), size)[:, None], t['prior_bg'])


@pytest.mark.parametrize('path, steps', cases('fssam_imr', 'n'))
def test_reference_fssam_imr(path, steps):
    import torch
    from fsskit.memory_refinement import refine, support_agreement
    from fsskit.pseudo_prompts import soft_masks
    info, t = read(path)
    t = {name: torch.from_numpy(value) for name, value in t.items()}
    memories = {name: t[f'mem_{name}'].clone().requires_grad_() for name in ('support', 'fg', 'disc')}
    support = memories['support'] if memories['support'].ndim == 5 else memories['support'][:, None]
    found = refine(support, t['support_mask_image'], memories['fg'], memories['disc'], t['prior_fg_image'][:, 0],
                   t['prior_disc_image'][:, 0], steps, re.search(r'\bv\d\b', info['title'])[0])
    last = found[-1]
    (last.memory * t[f'n{steps}.cotangent_mem']).sum().add((last.prior[:, None]
                                                            * t[f'n{steps}.cotangent_prior']).sum()).backward()
    agreement = support_agreement(memories['fg'], support, t['support_mask_image'])
    values = {'a_qs': agreement[:, None], 'prior_disc': found[0].prior[:, None],
              **{name: soft_masks(t[f'{name}_image'], t[name].shape[-2:]) for name in ('support_mask', 'prior_fg')},
              f'n{steps}.mem_disc_refined': last.memory, f'n{steps}.prior_disc_refined': last.prior[:, None],
              **{f'n{steps}.grad.mem_{name}': value.grad for name, value in memories.items()}}
    assert {name for name in info['tensors'] if name.startswith((f'n{steps}.grad', f'n{steps}.mem',
                                                                 f'n{steps}.prior'))} <= set(values)
    for name, value in values.items(): check(info, name, value.detach(), t[name])


def toy_sam2(build):
    """A model of the sam2 package: a configuration of it and changes, as a reference file lists them."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from fsskit.sam2 import sam2
    config = OmegaConf.load(Path(sam2.__path__[0]) / build['config'])
    changes = OmegaConf.from_dotlist([line.lstrip('+') for line in build['overrides']])
    return instantiate(OmegaConf.merge(config, changes).model, _recursive_=True).eval()


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('path, alpha', cases('fssam_scma', 'alpha'))
def test_reference_fssam_scma(path, alpha, fast):
    import torch
    from fsskit.calibrated_attention import attend, Calibration, grid_masks
    info, t = read(path)
    t = {name.removeprefix('w.'): torch.from_numpy(value) for name, value in t.items()}
    attention = getattr(toy_sam2(info['build']), info['build']['module'])
    prefix = info['build']['module'] + '.'
    attention.load_state_dict({name[len(prefix):]: value for name, value in t.items() if name.startswith(prefix)},
                              strict=True)
    curr, memory = (t[name].clone().requires_grad_() for name in ('curr', 'memory'))
    out = attend(attention, curr, t['curr_pos'], memory, t['memory_pos'], info['num_obj_ptr_tokens'],
                 t['support_mask_image'], Calibration(alpha, fast=fast))
    check(info, f'out_alpha{alpha:g}', out.detach(), t[f'out_alpha{alpha:g}'])
    check(info, 'support_mask', grid_masks(t['support_mask_image'], t['support_mask'].shape[-2:]), t['support_mask'])
    if not (norms := info.get(f'grad_norms_alpha{alpha:g}')): return
    (out * t['cotangent']).sum().backward()
    for name, value in (('curr', curr), ('memory', memory)): check(info, f'grad.{name}', value.grad, t[f'grad.{name}'])
    found = {prefix + name: value.grad.double().norm().item() for name, value in attention.named_parameters()}
    assert set(found) == set(norms)
    check(info, f'grad_norms_alpha{alpha:g}', [found[name] for name in norms], list(norms.values()))


def fssam_full_cases():
    """One parameter per file and case; a case is the prefix ('' or 'b.') of the tensors that belong together."""
    found = [(path, name.removesuffix('logits')) for path in sorted(FOLDER.glob('fssam_full_*.json'))
             for name in json.loads(path.read_text())['tensors'] if re.fullmatch(r'(\w+\.)?logits', name)]
    return [pytest.param(path, case, id=f'{path.stem}-{case.strip(".") or "plain"}')
            for path, case in found] or cases('fssam_full')


def fssam_model(info, tensors, case):
    """Our FSSAM on the toy SAM 2 of a reference file; trained as its `trainable` says: all that `grad_norms` names."""
    import torch
    from fsskit.fssam import FSSAM
    from fsskit.similarity import ColourBackbone
    sam2 = toy_sam2(info['build'])
    weights = {name.partition('w.')[2]: value for name, value in tensors.items()
               if name.startswith((f'{case}w.', 'w.'))}
    sam2.load_state_dict(weights, strict=True)
    sam2.name, sam2.weights_id = 'toy', 'reference'
    model = FSSAM(ColourBackbone(), sam2, head=None, iterations=info['num_refine'], alpha=float(info['alpha']),
                  refinement_version=info['ver_refine'], keep_support_values=not info.get('drop_support', False)).eval()
    for name in info['grad_norms']: sam2.get_parameter(name).requires_grad_(True)
    return model


@pytest.mark.parametrize('path, case', fssam_full_cases())
def test_reference_fssam_full(path, case):
    import torch
    import torch.nn.functional as F
    from fsskit.calibrated_attention import grid_masks
    from fsskit.episodic import episode_losses
    from fsskit.fssam import as_features, DICE, read_queries, remember
    from fsskit.memory import encode_memory, memory_tokens
    from fsskit.pseudo_prompts import PseudoPrompts
    info, t = read(path)
    t = {name: torch.from_numpy(value) for name, value in t.items()}
    get = lambda name: t.get(case + name, t.get(name))
    model, checked, scores = fssam_model(info, t, case), set(), []
    sam2, priors = model.sam2, PseudoPrompts(*get('priors').unbind(1))

    def same(name, value):
        if (wanted := t.get(case + name)) is None: return
        stated = any(fnmatch.fnmatchcase(case + name, line['match']) for line in info['tolerances'])
        check(info, case + name if stated else name, value.detach(), wanted)
        checked.add(case + name)

    hook = sam2.sam_mask_decoder.pred_obj_score_head.register_forward_hook(lambda module, args, out: scores.append(out))
    query, shot = (model.frozen_features(get(f'{side}_image').float() / 255) for side in ('query', 'support'))
    masks = get('support_mask')
    masks = masks if masks.ndim == 4 else masks[:, None]
    shots = [level.unflatten(0, masks.shape[:2]) for level in shot]
    support = remember(sam2, shots, masks)
    answer = read_queries(sam2, query, support, model.settings, priors)
    logits = F.interpolate(answer.decoded.best[:, None], (sam2.image_size,) * 2, mode='bilinear')[:, 0]
    label = get('query_label')
    loss = episode_losses(answer.decoded.best, torch.where(label == 1, 1, 0), DICE)['loss']
    loss.backward()

    features = as_features(sam2, query[1:])
    encoded = {side: encode_memory(sam2, features, prior) for side, prior in zip(('fg', 'disc'), priors)}
    encoded['support'] = support.memories[0]
    tokens, places, _ = memory_tokens(sam2, [*support.memories, answer.memory])
    hook.remove()
    for name, value in zip(('support', 'disc', 'final', 'fg'), scores[masks.shape[1] - 1:]):
        same(f'mid.score_{name}', value)
    for side, memory in encoded.items():
        same(f'mid.mem_{side}', memory.features), same(f'mid.ptr_{side}', memory.pointer)
    values = {'mid.query_hr0': query[1],
              'mid.query_hr1': query[2], 'mid.query_feat': query[3], 'mid.support_feat': shot[3],
              'mid.query_pos': features.positions[-1].permute(1, 2, 0).unflatten(2, features.sizes[-1]),
              'mid.mem_disc_refined': answer.memory.features, 'mid.prior_disc_refined': answer.steps[-1].prior[:, None],
              'mid.memory_tokens': tokens, 'mid.memory_pos': places, 'mid.fused_feat': answer.fused,
              'mid.low_res_masks': answer.decoded.masks, 'mid.ious': answer.decoded.ious, 'logits': logits,
              'dice_loss': loss[None], 'mid.support_mask_grid': grid_masks(masks, features.sizes[-1])}
    for name, value in values.items(): same(name, value)
    norms = info['grad_norms'] if not case else info['grad_norms'].get(case.strip('.'), info['grad_norms'])
    for name, wanted in norms.items():
        grad = sam2.get_parameter(name).grad
        check(info, 'grad_norms', 0 if grad is None else grad.double().norm().item(), wanted or 0)
        if grad is not None: same(f'grad.{name}', grad)
    computed = ('output', 'gradient', 'intermediate')
    wanted = {name for name, line in info['tensors'].items() if line['role'] in computed and name.startswith(case)}
    assert checked == wanted
