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
    return [pytest.param(path, case, id=f'{path.stem}-{case.strip(".") or "plain"}') for path, case in found] or cases('sam_decoder')


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
    decoder = MaskDecoder(transformer_dim=m['transformer_dim'], transformer=transformer, iou_head_depth=m['iou_head_depth'],
                          num_multimask_outputs=m['num_multimask_outputs'], iou_head_hidden_dim=m['iou_head_hidden_dim'])
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
