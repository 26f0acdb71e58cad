"Tests of fsskit.predictor: masks at the photo's own size, whatever the photo is, from a support that is read once."
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from fsskit.photos import FSSKitError
from fsskit.predictor import (MODELS, FewShotPredictor, Prediction, as_list, attention_row, cell_at, create_model,
                              find_backbone, list_models, read_support, resize_scores, show_prediction, thumbnail)
from fsskit.similarity import ColourBackbone, DenseMatchModel, FewShotModel, PrototypeModel


def scene(height=60, width=80, top=10, left=20, seed=0):
    "A blue-grey photo with an orange box; uint8 (H,W,3) and its mask."
    rng = np.random.default_rng(seed)
    photo = rng.integers(90, 110, (height, width, 3)).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[top:top + 30, left:left + 40] = 1
    photo[mask == 1] = np.array([220, 120, 20]) + rng.integers(-9, 9, (1200, 3))
    return photo, mask


def iou(a, b): return ((a == 1) & (b == 1)).sum() / ((a == 1) | (b == 1)).sum()


@pytest.fixture
def ready():
    photo, mask = scene()
    return FewShotPredictor(create_model('dense_match', 'rgb', input_size=160)).set_support(photo, mask)


class Counting(FewShotModel):
    "Its scores are the photo's red minus one half; counts how often it encodes."
    def __init__(self, backbone, input_size=32):
        super().__init__(backbone, input_size)
        self.encoded, self.batches = 0, []
    def encode_support(self, images, masks): self.encoded += 1; return len(images)
    def segment(self, query, state): self.batches.append(len(query)); return query[:, 0] - 0.5


class Looking(ColourBackbone):
    "A backbone with attention: one class token and a 2 x 3 grid, two heads."
    def attention(self, images, layer):
        weights = torch.rand(len(images), 2, 7, 7, generator=torch.Generator().manual_seed(layer))
        return weights / weights.sum(-1, keepdim=True), (2, 3)


# ---- models by name

def test_list_models():
    assert list_models() == sorted(MODELS) and {'prototype', 'prior_mask', 'dense_match'} <= set(list_models())
    assert list_models('pr*') == sorted(n for n in MODELS if n.startswith('pr'))
    assert list_models('nothing*') == []


def test_create_model():
    model = create_model('dense_match', 'rgb', topk=3, input_size=64)
    assert type(model) is DenseMatchModel and model.topk == 3 and model.input_size == 64 and not model.training
    backbone = ColourBackbone()
    assert create_model('prototype', backbone).backbone is backbone


def test_create_model_asks_backbones(monkeypatch):
    import sys, types
    fake = types.ModuleType('fsskit.backbones')
    fake.create_backbone = lambda name, weights: (name, weights)
    monkeypatch.setitem(sys.modules, 'fsskit.backbones', fake)
    assert find_backbone('vit', 'hub') == ('vit', 'hub')
    assert find_backbone('embedded') == ('embedded', 'embedded')


@pytest.mark.parametrize('call, words', [
    (lambda: create_model('nope'), "no model 'nope': choose one of dense_match"),
    (lambda: create_model('prototype', 'rgb', topk=3),
     "'prototype' has no option 'topk': it takes input_size, layers, stride"),
    (lambda: create_model('prototype', 'rgb', weights='hub'), "'rgb' has no weights, but weights='hub'"),
])
def test_create_model_errors(call, words):
    with pytest.raises(FSSKitError, match=words): call()


# ---- predict

def test_prediction_has_the_photos_own_size(ready):
    photo, mask = scene(75, 101, 30, 50, seed=1)
    prediction = ready.predict(photo)
    assert prediction.mask.shape == prediction.score.shape == (75, 101)
    assert prediction.mask.dtype == np.uint8 and prediction.score.dtype == np.float32 and prediction.seconds > 0
    assert np.array_equal(prediction.mask, prediction.score > 0)
    assert iou(prediction.mask, mask) > 0.75
    assert np.array_equal(prediction.photo, photo)


def test_scores_are_resized_before_the_threshold():
    model = Counting(ColourBackbone(), input_size=4)
    photo = np.zeros((64, 40, 3), np.uint8)
    photo[:, 20:] = 255
    square = np.asarray(Image.fromarray(photo[:, :, 0]).resize((4, 4), Image.BILINEAR)).astype(np.float32) / 255 - 0.5
    x = np.clip((np.arange(40) + 0.5) / 10 - 0.5, 0, 3)
    ramp = np.tile(np.interp(x, np.arange(4), square[0]), (64, 1))
    prediction = FewShotPredictor(model).set_support(*scene()).predict(photo)
    np.testing.assert_allclose(prediction.score, ramp, atol=1e-6)
    assert np.array_equal(prediction.mask, ramp > 0)


def test_support_is_encoded_once_for_many_queries():
    predictor = FewShotPredictor(Counting(ColourBackbone())).set_support(*scene())
    photos = [scene(60 + i, 80, seed=i)[0] for i in range(5)]
    together = predictor.predict_batch(photos, batch_size=2)
    assert predictor.model.encoded == 1 and predictor.model.batches == [2, 2, 1]
    for one, photo in zip(together, photos):
        assert np.array_equal(predictor.predict(photo).mask, one.mask) and one.mask.shape == photo.shape[:2]
    assert predictor.model.encoded == 1 and predictor.support_seconds > 0


def test_every_kind_of_photo_gives_the_same_mask(ready, tmp_path):
    photo, mask = scene(seed=3)
    Image.fromarray(photo).save(tmp_path/'photo.png')
    Image.fromarray(mask * 255).save(tmp_path/'mask.png')
    expected = ready.predict(photo).mask
    kinds = [str(tmp_path/'photo.png'), tmp_path/'photo.png', Image.fromarray(photo),
             torch.from_numpy(photo).permute(2, 0, 1).float() / 255, photo / 255.]
    for kind in kinds: assert np.array_equal(ready.predict(kind).mask, expected)
    for kind in kinds:
        for marked in (mask, tmp_path/'mask.png', torch.from_numpy(mask), mask.astype(bool)):
            pair = read_support(kind, marked)[0]
            assert np.array_equal(pair[0], photo) and np.array_equal(pair[1], mask)


def test_shots():
    pairs = [scene(seed=i) for i in range(3)]
    predictor = FewShotPredictor(create_model('prototype', 'rgb', input_size=160))
    predictor.set_support([p for p, _ in pairs], np.stack([m for _, m in pairs]))
    assert len(predictor.support) == 3 and type(predictor.model) is PrototypeModel
    assert iou(predictor.predict(pairs[0][0]).mask, pairs[0][1]) > 0.75


def test_as_list():
    photo = np.zeros((8, 9, 3))
    assert len(as_list(photo, 4)) == 1 and len(as_list(np.stack([photo, photo]), 4)) == 2
    assert len(as_list([photo], 4)) == 1
    assert as_list('a.png', 4) == ['a.png']
    assert len(as_list(torch.zeros(3, 8, 8), 3)) == 3


def test_label_masks():
    photo, mask = scene()
    predictor = FewShotPredictor(create_model('prototype', 'rgb')).set_support(photo, mask * 7, encoding='voc', label=7)
    assert np.array_equal(predictor.support[0][1], mask)


# ---- looking inside

def test_similarity_at_by_hand(ready):
    query = scene(75, 101, 30, 50, seed=1)[0]
    ready.predict(query)
    support, backbone = ready.support[0][0], ready.model.backbone
    shown, asked = (F.normalize(backbone(ready.prepare(p)[None])[0], dim=1) for p in (support, query))
    expected = (shown[0, :, 20 * 20 // 60, 20 * 45 // 80, None, None] * asked[0]).sum(0)
    got = ready.similarity_at((20, 45))
    np.testing.assert_allclose(got, resize_scores(expected[None], (75, 101))[0].numpy(), atol=1e-5)
    assert got.shape == (75, 101)
    np.testing.assert_allclose(ready.similarity_at((20, 45), layer=0, query=query), got, atol=1e-6)
    mask = scene(75, 101, 30, 50, seed=1)[1]
    assert got[mask == 1].mean() > got[mask == 0].mean() + 0.3


def test_similarity_at_itself_is_one(ready):
    support = ready.support[0][0]
    assert ready.similarity_at((59.9, 79.9), query=support)[-1, -1] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize('arguments, words', [
    (dict(point=(60, 5)), 'y=60, x=5. lies outside the support photo, which is 60 px high and 80 px wide'),
    (dict(point=(0, -1)), 'lies outside'), (dict(point=(1, 1), shot=1), 'shot=1 does not exist: there are 1'),
])
def test_similarity_errors(ready, arguments, words):
    with pytest.raises(FSSKitError, match=words): ready.similarity_at(query=scene()[0], **arguments)


def test_attention_by_hand():
    predictor = FewShotPredictor(create_model('prototype', Looking()))
    photo = np.zeros((20, 30, 3), np.uint8)
    weights = Looking().attention(torch.zeros(1, 3, 8, 8), 4)[0][0]
    resize = lambda row: resize_scores(row.view(1, 2, 3), (20, 30))[0].numpy()
    np.testing.assert_allclose(predictor.attention(4, 1, photo), resize(weights[1, 0, 1:]), atol=1e-6)
    np.testing.assert_allclose(predictor.attention(4, query=photo), resize(weights.mean(0)[0, 1:]), atol=1e-6)
    looks = predictor.attention(4, 0, photo, point=(15, 25))
    np.testing.assert_allclose(looks, resize(weights[0, 1 + 1 * 3 + 2, 1:]), atol=1e-6)


def test_attention_errors(ready):
    with pytest.raises(FSSKitError, match="'rgb' has no attention"): ready.attention(0, 0, scene()[0])
    with pytest.raises(FSSKitError, match='head=2 does not exist: this block has 2 heads'):
        attention_row(torch.rand(2, 7, 7), (2, 3), 2)
    with pytest.raises(FSSKitError, match='no class token'): attention_row(torch.rand(2, 6, 6), (2, 3), 0)
    assert attention_row(torch.eye(6)[None], (2, 3), 0, (1, 1)).tolist() == [[0, 0, 0], [0, 1, 0]]


def test_cell_at_covers_the_photo():
    photo = np.zeros((7, 5, 3))
    cells = {cell_at((y, x), photo, (3, 2)) for y in range(7) for x in range(5)}
    assert cells == {(r, c) for r in range(3) for c in range(2)}


# ---- bad input

def test_order_of_calls(ready):
    fresh = FewShotPredictor(ready.model)
    for call in (lambda: fresh.predict(scene()[0]), lambda: fresh.predict_batch([scene()[0]]),
                 lambda: fresh.similarity_at((1, 1))):
        with pytest.raises(FSSKitError, match='call set_support'): call()
    with pytest.raises(FSSKitError, match='call predict'): ready.similarity_at((1, 1))


def test_failed_support_keeps_the_old_one_out(ready):
    photo, mask = scene()
    with pytest.raises(FSSKitError, match='2 support photos and 1 masks'): ready.set_support([photo, photo], mask)
    with pytest.raises(FSSKitError): ready.set_support(photo, mask * 0)
    with pytest.raises(FSSKitError): ready.set_support(photo, mask[:-1])
    with pytest.raises(FSSKitError): ready.set_support([], [])


def test_nan_scores():
    class Nan(Counting):
        def segment(self, query, state): return query[:, 0] * float('nan')
    with pytest.raises(FSSKitError, match='NaN or infinite scores'):
        FewShotPredictor(Nan(ColourBackbone())).set_support(*scene()).predict(scene()[0])


# ---- pictures

def test_show_prediction(ready):
    figure = show_prediction(ready, ready.predict(scene(seed=2)[0]))
    assert [a.get_title() for a in figure.axes] == ['support 1 + mask', 'query', 'result', 'similarity (> 0: object)']
    empty = Prediction(np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.float32), 0., np.zeros((9, 9, 3), np.uint8))
    assert len(show_prediction(ready, empty).axes) == 4


def test_thumbnail():
    assert thumbnail(np.zeros((1000, 500, 3), np.uint8), 100).shape == (100, 50, 3)
    assert thumbnail(np.zeros((10, 50, 3), np.uint8), 100).shape == (10, 50, 3)
