"""SAM 2 in the kit: the package's own models, official layouts and versions, the tiny configuration."""
import resource

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import fsskit.sam2 as S
from fsskit.photos import FSSKitError


@pytest.fixture(scope='module')
def tiny():
    return S.load_sam2('sam2_tiny', None, seed=1, image_size=64)


class TestLoading:
    def test_import_leaves_hydra_alone(self):
        assert not GlobalHydra.instance().is_initialized()

    def test_hydra_that_was_there_stays(self):
        from hydra import initialize_config_module
        with initialize_config_module('sam2', version_base='1.2'):
            with S.hydra_untouched(): pass
            assert GlobalHydra.instance().is_initialized()
        assert not GlobalHydra.instance().is_initialized()

    @pytest.mark.parametrize('name', ['sam2_hiera_t', 'sam2.1_hiera_s'])
    def test_same_model_as_the_package_builds(self, name):
        """Names, shapes and features of `sam2.build_sam.build_sam2` with the same weights."""
        from hydra import initialize_config_module
        from sam2.build_sam import build_sam2
        ours = S.load_sam2(name, None, image_size=64)
        with initialize_config_module('sam2', version_base='1.2'):
            stock = build_sam2(S.RELEASED[name].config, None, 'cpu', 'eval', ['++model.image_size=64'], False)
        stock.load_state_dict(ours.state_dict())
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(): a, b = (model.forward_image(image) for model in (ours, stock))
        assert all(torch.equal(x, y) for x, y in zip(a['backbone_fpn'], b['backbone_fpn']))
        numbers = lambda model: {k: v for k, v in vars(model).items() if isinstance(v, (bool, int, float))
                                 and k != 'training'}
        assert numbers(ours) == numbers(stock)

    def test_names_and_addresses(self):
        files = {n: r.file for n, r in S.RELEASED.items()}
        assert files['sam2_hiera_t'] == 'sam2_hiera_tiny.pt' and files['sam2.1_hiera_l'] == 'sam2.1_hiera_large.pt'
        assert S.RELEASED['sam2_hiera_b+'].address.endswith('/segment_anything_2/072824/sam2_hiera_base_plus.pt')
        assert S.RELEASED['sam2.1_hiera_s'].address.endswith('/segment_anything_2/092824/sam2.1_hiera_small.pt')
        for name, released in S.RELEASED.items(): assert name.split('_')[0] in released.config

    @pytest.mark.parametrize('name', ['sam2_hiera_t', 'sam2.1_hiera_t'])
    def test_round_trip_under_the_official_name(self, name, tmp_path, monkeypatch):
        monkeypatch.setenv('FSSKIT_WEIGHTS', str(tmp_path))
        first = S.build_sam2(name, 64, seed=3)
        torch.save({'model': first.state_dict()}, tmp_path / S.RELEASED[name].file)
        again = S.load_sam2(name, 'hub', seed=9, image_size=128)
        assert again.weights_id.startswith('sha256:') and again.name == name and again.image_size == 128
        for key, value in first.state_dict().items(): assert torch.equal(value, again.state_dict()[key]), key

    def test_versions_are_told_apart(self, tmp_path):
        for have, want, other in (('sam2.1_hiera_t', 'sam2_hiera_t', '2.1'), ('sam2_hiera_t', 'sam2.1_hiera_t', '2.0')):
            torch.save({'model': S.build_sam2(have, 64).state_dict()}, tmp_path / 'w.pt')
            with pytest.raises(FSSKitError, match=f'holds weights of SAM {other}.*load_sam2..{have}.'):
                S.load_sam2(want, tmp_path / 'w.pt', image_size=64)

    def test_no_network_is_one_sentence(self, tmp_path, monkeypatch):
        monkeypatch.setenv('FSSKIT_WEIGHTS', str(tmp_path))
        def refuse(url, path, **_): raise FSSKitError('No answer.')
        monkeypatch.setattr(S, 'download', refuse)
        with pytest.raises(FSSKitError, match='copy sam2_hiera_small.pt there'):
            S.load_sam2('sam2_hiera_s', 'hub', image_size=64)

    def test_a_download_is_used(self, tmp_path, monkeypatch):
        monkeypatch.setenv('FSSKIT_WEIGHTS', str(tmp_path))
        asked = []
        def fetch(url, path, **_):
            asked.append(url)
            return path
        monkeypatch.setattr(S, 'download', fetch)
        assert S.official_weights('sam2_hiera_s') == tmp_path / 'sam2_hiera_small.pt'
        assert asked == [S.RELEASED['sam2_hiera_s'].address]

    def test_shipped_file_is_found(self, tmp_path, monkeypatch, tiny):
        from fsskit.training import save_weights
        monkeypatch.setenv('FSSKIT_WEIGHTS', str(tmp_path))
        save_weights(tiny.state_dict(), tmp_path / S.TINY_FILE)
        loaded = S.load_sam2()
        assert loaded.image_size == 256
        for key, value in tiny.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value.half().float()), key

    @pytest.mark.parametrize('arguments, words', [
        (('sam3',), 'no SAM 2 model'), (('sam2_hiera_t',), 'no shipped weights'),
        (('sam2_tiny', None, 0, 100), 'multiple of 32'),
        (('sam2_tiny', None, 0, 32), 'at least 64'), (('sam2_tiny', 'absent.pt'), 'absent.pt')])
    def test_errors(self, arguments, words):
        with pytest.raises(FSSKitError, match=words): S.load_sam2(*arguments)

    def test_another_size_is_refused(self, tmp_path, tiny):
        torch.save({'model': tiny.state_dict()}, tmp_path / 'w.pt')
        with pytest.raises(FSSKitError, match='another architecture'):
            S.load_sam2('sam2_hiera_t', tmp_path / 'w.pt', image_size=64)

    def test_seed_decides_and_global_numbers_stay(self):
        before = torch.get_rng_state()
        a, b, c = (S.build_sam2('sam2_tiny', 64, seed) for seed in (4, 4, 5))
        assert torch.equal(before, torch.get_rng_state())
        same = [torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters())]
        assert all(same) and not all(torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters()))

    def test_tiny_is_small(self, tiny):
        stored = sum(v.numel() for v in tiny.state_dict().values()) * 2
        assert stored < 12e6 and S.load_sam2('sam2_tiny', None).image_size == 256

    def test_part_sizes_count_every_parameter_once(self):
        inner = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
        inner.own = torch.nn.Parameter(torch.zeros(7))
        assert S.part_sizes(inner) == {'0': 8, 'words': 7}
        model = S.build_sam2('sam2.1_hiera_t', 64)
        sizes = S.part_sizes(model)
        assert sum(sizes.values()) == sum(p.numel() for p in model.parameters())
        assert (sizes['memory_attention'], sizes['memory_encoder'],
                sizes['sam_mask_decoder']) == (5_922_304, 1_384_608, 4_215_109)

    def test_tiny_windows_fill_the_grid(self):
        """At 256 px and at 128 px no window of the trunk is padded."""
        for size in (256, 128):
            trunk, side, seen = S.build_sam2('sam2_tiny', size).image_encoder.trunk, size // 4, []
            for n, block in enumerate(trunk.blocks):
                if block.window_size: seen.append(side % block.window_size)
                if block.q_stride: side //= 2
            assert len(seen) == 6 and not any(seen)

    def test_rotary_table_follows_the_size(self):
        layer = S.build_sam2('sam2_tiny', 192).memory_attention.layers[0]
        for attention in (layer.self_attn, layer.cross_attn_image):
            assert torch.equal(attention.freqs_cis, attention.compute_cis(end_x=12, end_y=12))


@pytest.mark.parametrize('name', ['sam2.1_hiera_l'])
@pytest.mark.skipif("not __import__('os').environ.get('FSSKIT_LARGE_TESTS')",
                    reason='set FSSKIT_LARGE_TESTS=1: 224 M parameters')
def test_largest_round_trip(name, tmp_path, monkeypatch):
    from fsskit.memory import memory_of, segment_with
    monkeypatch.setenv('FSSKIT_WEIGHTS', str(tmp_path))
    torch.save({'model': S.build_sam2(name, 1024).state_dict()}, tmp_path / S.RELEASED[name].file)
    model = S.load_sam2(name, 'hub')
    with torch.no_grad():
        out = segment_with(model, torch.zeros(1, 3, 64, 64),
                           [memory_of(model, torch.zeros(1, 3, 64, 64), torch.ones(1, 64, 64))])
    assert torch.isfinite(out).all()
    print(f'peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20:.1f} GiB')
