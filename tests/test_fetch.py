"""Fetching, against a server on 127.0.0.1 that cuts, lies and misbehaves. Nothing here leaves the machine."""
import gzip
import hashlib
import http.server
import importlib.util
import io
import json
import os
import re
import struct
import tarfile
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fsskit.fetch as fetch
from fsskit.fetch import (PUBLIC_SETS, PublicSet, RemoteFile, atomic_write, data_dir, download, extract, fetch_dataset,
                          sha256_file, shipped_weights, weights_dir)
from fsskit.photos import FSSKitError

BODY = np.random.default_rng(0).bytes(300_000)
SHA, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()
BLOCK = 1 << 14


def refusal(run, *args, **options):
    """The message of the error, after checking that it is one sentence."""
    with pytest.raises(FSSKitError) as caught: run(*args, **options)
    message = str(caught.value)
    assert '\n' not in message and (message.endswith('.') or '--archive' in message)
    return message


class Shelf:
    """A small web server: bodies by path, and what to do wrong."""

    def __init__(self):
        self.bodies, self.cuts, self.asked, self.headers = {}, [], [], []
        self.ranges, self.etag, self.date, self.announce = True, True, False, True
        self.status, self.wrong_range, self.deaf = None, None, False  # deaf: to If-Range
        shelf = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self): shelf.answer(self)
            def log_message(self, *args): pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': .01}, daemon=True).start()

    def answer(self, h):
        body = self.bodies.get(h.path)
        body = body.pop(0) if isinstance(body, list) and len(body) > 1 else body[0] if isinstance(body, list) else body
        self.headers.append(dict(h.headers))
        if self.status or body is None: return h.send_error(self.status or 404)
        tag, date = f'"{zlib.crc32(body)}"', f'Mon, {zlib.crc32(body) % 28 + 1:02d} Jan 2024 00:00:00 GMT'
        known = self.deaf or h.headers.get('If-Range') in (None, tag, date)
        asked = re.match(r'bytes=(\d+)-$', h.headers.get('Range', ''))
        start = int(asked[1]) if asked and self.ranges and known else 0
        self.asked.append(start)
        h.send_response(416 if start >= len(body) else 206 if start else 200)
        if self.etag: h.send_header('ETag', ('W/' if self.etag == 'weak' else '') + tag)
        if self.date: h.send_header('Last-Modified', date)
        if start >= len(body): h.send_header('Content-Range', f'bytes */{len(body)}')
        elif start: h.send_header('Content-Range', self.wrong_range or f'bytes {start}-{len(body) - 1}/{len(body)}')
        if self.announce: h.send_header('Content-Length', str(max(len(body) - start, 0)))
        h.end_headers()
        h.wfile.write(body[start:][:self.cuts.pop(0) if self.cuts else None])


@pytest.fixture
def shelf(monkeypatch):
    """A fresh server; proxies of the environment are not asked, pauses between attempts are skipped."""
    for name in list(os.environ):
        if name.lower().endswith('_proxy'): monkeypatch.delenv(name)
    monkeypatch.setattr(fetch.time, 'sleep', lambda seconds: None)
    shelf = Shelf()
    shelf.bodies['/a.bin'] = BODY
    yield shelf
    shelf.server.shutdown()
    shelf.server.server_close()


class TestPlaces:
    @pytest.mark.parametrize('place, variable', [(data_dir, 'FSSKIT_DATA'), (weights_dir, 'FSSKIT_WEIGHTS')])
    def test_three_places_in_order(self, place, variable, tmp_path, monkeypatch):
        name = variable.partition('_')[2].lower()
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(fetch, '__file__', str(tmp_path / 'site-packages' / 'fsskit' / 'fetch.py'))
        monkeypatch.setattr(fetch.platformdirs, 'user_cache_path', lambda app: tmp_path / 'cache' / app)
        assert place() == tmp_path / 'cache' / 'fsskit' / name
        root = tmp_path / 'clone'
        (root / 'nbs').mkdir(parents=True)
        (root / 'settings.ini').touch()
        monkeypatch.setattr(fetch, '__file__', str(root / 'fsskit' / 'fetch.py'))
        assert place() == root / name
        monkeypatch.setenv(variable, '~/disk')
        assert place() == Path.home() / 'disk'

    def test_downloads_are_ignored_by_git(self):
        root = Path(fetch.__file__).resolve().parents[1]
        ignored = (root / '.gitignore').read_text().split()
        assert {'data/downloads/', 'weights/downloads/'} <= set(ignored)

    def test_shipped_weights(self, tmp_path, monkeypatch):
        package, clone, moved = tmp_path / 'fsskit', tmp_path / 'clone', tmp_path / 'moved'
        monkeypatch.setattr(fetch.importlib.resources, 'files', lambda name: package)
        monkeypatch.setattr(fetch, '_checkout', lambda: None)
        monkeypatch.setenv('FSSKIT_WEIGHTS', str(moved))
        message = refusal(shipped_weights, 'tiny.safetensors')
        for part in ('tiny.safetensors', str(moved), str(package / 'weights'), 'FSSKIT_WEIGHTS'): assert part in message
        for folder in (clone / 'weights', package / 'weights', moved):
            folder.mkdir(parents=True)
            (folder / 'tiny.safetensors').touch()
            monkeypatch.setattr(fetch, '_checkout', lambda: clone)
            assert shipped_weights('tiny.safetensors') == folder / 'tiny.safetensors'
        assert 'plain file name' in refusal(shipped_weights, '../tiny.safetensors')


class TestAtomicWrite:
    def test_whole_or_not_at_all(self, tmp_path):
        path = tmp_path / 'new' / 'a.json'
        with atomic_write(path, 'w') as file:
            file.write('grün')
            assert not path.exists()
        assert path.read_bytes() == 'grün'.encode()
        with pytest.raises(RuntimeError):
            with atomic_write(path) as file:
                file.write(b'half')
                raise RuntimeError
        assert path.read_text('utf-8') == 'grün' and os.listdir(path.parent) == ['a.json']

    def test_rights_are_the_usual_ones(self, tmp_path):
        (tmp_path / 'plain').touch()
        with atomic_write(tmp_path / 'atomic') as file: file.write(b'x')
        assert (tmp_path / 'atomic').stat().st_mode == (tmp_path / 'plain').stat().st_mode

    def test_sha256_is_the_standards(self, tmp_path):
        """FIPS 180-4: the example 'abc', and a file longer than the block that is read at once."""
        (tmp_path / 'abc').write_bytes(b'abc')
        assert sha256_file(tmp_path / 'abc') == 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
        (tmp_path / 'long').write_bytes(BODY * 10)
        assert sha256_file(tmp_path / 'long') == hashlib.sha256(BODY * 10).hexdigest()


class TestDownload:
    def test_plain(self, shelf, tmp_path, capfd):
        path = download(shelf.url + '/a.bin', tmp_path / 'new' / 'a.bin', progress=False)
        assert path.read_bytes() == BODY and os.listdir(path.parent) == ['a.bin']
        assert shelf.headers[0]['Accept-Encoding'] == 'identity' and capfd.readouterr().err == ''
        download(shelf.url + '/a.bin', tmp_path / 'b.bin', progress=True)
        assert 'b.bin' in capfd.readouterr().err

    def test_what_is_there_is_not_fetched_again(self, shelf, tmp_path):
        for sums in ({}, {'sha256': SHA.upper()}, {'md5': MD5}, {'sha256': SHA, 'md5': MD5}):
            download(shelf.url + '/a.bin', tmp_path / 'a.bin', progress=False, **sums)
        assert shelf.asked == [0]

    def test_a_bad_file_that_is_there_is_replaced(self, shelf, tmp_path):
        (tmp_path / 'a.bin').write_bytes(BODY[:-1])
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', sha256=SHA, progress=False).read_bytes() == BODY

    @pytest.mark.parametrize('tags', [{'etag': True}, {'etag': False, 'date': True}, {'etag': 'weak', 'date': True}])
    def test_cuts_are_continued_by_the_servers_tag(self, shelf, tmp_path, tags):
        vars(shelf).update(tags)
        shelf.cuts[:] = [3 * BLOCK, 5 * BLOCK, 0]
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', progress=False).read_bytes() == BODY
        assert shelf.asked == [0, 3 * BLOCK, 8 * BLOCK, 8 * BLOCK] and os.listdir(tmp_path) == ['a.bin']

    def test_cuts_are_continued_by_the_checksum(self, shelf, tmp_path):
        shelf.etag = False
        shelf.cuts[:] = [3 * BLOCK]
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', md5=MD5, progress=False).read_bytes() == BODY
        assert shelf.asked == [0, 3 * BLOCK] and 'If-Range' not in shelf.headers[1]

    def test_without_tag_and_checksum_it_begins_anew(self, shelf, tmp_path):
        shelf.etag = False
        shelf.cuts[:] = [3 * BLOCK]
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', progress=False).read_bytes() == BODY
        assert shelf.asked == [0, 0]

    def test_a_server_without_ranges(self, shelf, tmp_path):
        shelf.ranges = False
        shelf.cuts[:] = [3 * BLOCK]
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', sha256=SHA, progress=False).read_bytes() == BODY

    def test_a_file_that_changes_in_between_is_not_mixed(self, shelf, tmp_path):
        new = BODY[::-1]
        shelf.bodies['/a.bin'] = [BODY, new]
        shelf.cuts[:] = [3 * BLOCK]
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', progress=False).read_bytes() == new
        assert shelf.headers[1]['If-Range'] == f'"{zlib.crc32(BODY)}"'

    @pytest.mark.parametrize('date', [False, True])
    def test_nor_by_a_server_that_ignores_if_range(self, shelf, tmp_path, date):
        new = BODY[::-1]
        shelf.bodies['/a.bin'], shelf.deaf, shelf.etag, shelf.date = [BODY, new], True, not date, date
        shelf.cuts[:] = [3 * BLOCK]
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', progress=False).read_bytes() == new
        assert shelf.asked == [0, 3 * BLOCK, 0]

    def test_another_address_does_not_continue_the_part(self, shelf, tmp_path):
        shelf.bodies['/b.bin'] = BODY[::-1]
        shelf.cuts[:] = [3 * BLOCK]
        refusal(download, shelf.url + '/a.bin', tmp_path / 'x', retries=0, progress=False)
        assert download(shelf.url + '/b.bin', tmp_path / 'x', progress=False).read_bytes() == BODY[::-1]

    def test_a_second_command_continues(self, shelf, tmp_path):
        shelf.cuts[:] = [3 * BLOCK, 2 * BLOCK]
        message = refusal(download, shelf.url + '/a.bin', tmp_path / 'a.bin', retries=1, progress=False)
        assert 'cut 2 times' in message and 'a.bin.part' in message and not (tmp_path / 'a.bin').exists()
        assert (tmp_path / 'a.bin.part').read_bytes() == BODY[:5 * BLOCK]
        download(shelf.url + '/a.bin', tmp_path / 'a.bin', progress=False)
        assert shelf.asked[-1] == 5 * BLOCK and (tmp_path / 'a.bin').read_bytes() == BODY

    def test_resume_can_be_switched_off(self, shelf, tmp_path):
        (tmp_path / 'a.bin.part').write_bytes(BODY[:BLOCK])
        download(shelf.url + '/a.bin', tmp_path / 'a.bin', sha256=SHA, resume=False, progress=False)
        assert shelf.asked == [0]

    def test_a_part_that_is_whole_already(self, shelf, tmp_path):
        (tmp_path / 'a.bin.part').write_bytes(BODY)
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', sha256=SHA, progress=False).read_bytes() == BODY
        assert shelf.asked == [len(BODY)]

    @pytest.mark.parametrize('part', [BODY + b'more', b'', b'wrong' * BLOCK])
    def test_a_part_of_something_else(self, shelf, tmp_path, part):
        (tmp_path / 'a.bin.part').write_bytes(part)
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', sha256=SHA, progress=False).read_bytes() == BODY

    @pytest.mark.parametrize('answer', ['bytes 5-9/10', 'nonsense', 'bytes 7-*/*'])
    def test_a_wrong_range_is_not_appended(self, shelf, tmp_path, answer):
        (tmp_path / 'a.bin.part').write_bytes(BODY[:BLOCK])
        shelf.wrong_range = answer
        get = lambda: download(shelf.url + '/a.bin', tmp_path / 'a.bin', sha256=SHA, progress=False)
        if answer == 'bytes 5-9/10': assert get().read_bytes() == BODY  # begun anew
        else: assert 'cut 5 times' in refusal(get) and os.listdir(tmp_path) == ['a.bin.part']

    def test_an_unknown_length_in_a_range(self, shelf, tmp_path):
        (tmp_path / 'a.bin.part').write_bytes(BODY[:BLOCK])
        shelf.wrong_range = f'bytes {BLOCK}-{len(BODY) - 1}/*'
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', sha256=SHA, progress=False).read_bytes() == BODY

    def test_unknown_length(self, shelf, tmp_path):
        shelf.announce = False
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', sha256=SHA, progress=False).read_bytes() == BODY

    def test_mismatch_is_tried_once_more(self, shelf, tmp_path):
        shelf.bodies['/a.bin'] = [BODY[::-1], BODY]
        assert download(shelf.url + '/a.bin', tmp_path / 'a.bin', sha256=SHA, progress=False).read_bytes() == BODY
        assert shelf.asked == [0, 0]

    @pytest.mark.parametrize('sums', [{'sha256': '0' * 64}, {'md5': '0' * 32}, {'sha256': SHA, 'md5': '0' * 32}])
    def test_mismatch_leaves_nothing(self, shelf, tmp_path, sums):
        (tmp_path / 'a.bin').write_bytes(b'older')
        message = refusal(download, shelf.url + '/a.bin', tmp_path / 'a.bin', progress=False, **sums)
        assert '0' * 32 in message and (MD5 in message or SHA in message)
        assert os.listdir(tmp_path) == [] and shelf.asked == [0, 0]

    def test_answers_that_are_no_file(self, shelf, tmp_path):
        assert '404 Not Found' in refusal(download, shelf.url + '/b.bin', tmp_path / 'b.bin')
        shelf.status = 503
        assert '503' in refusal(download, shelf.url + '/a.bin', tmp_path / 'b.bin')
        assert os.listdir(tmp_path) == []

    def test_no_network(self, shelf, tmp_path):
        shelf.server.shutdown()
        shelf.server.server_close()
        message = refusal(download, shelf.url + '/a.bin', tmp_path / 'a.bin')
        assert shelf.url in message and 'check the network' in message and os.listdir(tmp_path) == []

    @pytest.mark.parametrize('url', ['a.bin', 'ftp://127.0.0.1/a.bin', 'file:///etc/passwd', 'http://'])
    def test_no_address(self, tmp_path, url):
        assert 'not an address' in refusal(download, url, tmp_path / 'a.bin')

    def test_full_disk_is_seen_before_it_is_full(self, shelf, tmp_path, monkeypatch):
        monkeypatch.setattr(fetch.shutil, 'disk_usage', lambda path: type('', (), {'free': 1000}))
        message = refusal(download, shelf.url + '/a.bin', tmp_path / 'a.bin', progress=False)
        assert 'GB free' in message and os.listdir(tmp_path) == []


def zip_of(path, *members, **options):
    """A zip with members (name, bytes, unix mode)."""
    with zipfile.ZipFile(path, 'w', **options) as z:
        for name, body, *mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode[0] if mode else 0o100644) << 16
            info.compress_type = options.get('compression', zipfile.ZIP_STORED)
            z.writestr(info, body)
    return path


def tar_of(path, *members, mode='w'):
    """A tar with members (name, bytes) or (name, type, link)."""
    with tarfile.open(path, mode) as tar:
        for name, body, *link in members:
            info = tarfile.TarInfo(name)
            if link: info.type, info.linkname = body, link[0]
            else: info.size = len(body)
            info.mode = 0o4777
            tar.addfile(info, None if link else io.BytesIO(body))
    return path


def tree(folder):
    """Every file below a folder with its content; folders with None."""
    paths = sorted(Path(folder).rglob('*'))
    return {p.relative_to(folder).as_posix(): None if p.is_dir() else p.read_bytes() for p in paths}


FILES = (('set/a/1.jpg', b'one'), ('set/a/2.jpg', b''), ('set/b.txt', BODY))
WANT = {'set': None, 'set/a': None, **dict(FILES)}


class TestExtract:
    @pytest.mark.parametrize('mode', ['w', 'w:gz', 'w:bz2', 'w:xz'])
    def test_tar(self, tmp_path, mode):
        archive = tar_of(tmp_path / 'a.any', ('set', tarfile.DIRTYPE, ''), *FILES, mode=mode)
        assert tree(extract(archive, tmp_path / 'new' / 'out', progress=False)) == WANT
        assert all(not p.stat().st_mode & 0o6111 for p in (tmp_path / 'new/out').rglob('*.jpg'))
        assert os.listdir(tmp_path / 'new') == ['out']

    @pytest.mark.parametrize('compression', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_zip(self, tmp_path, compression):
        archive = zip_of(tmp_path / 'a.any', ('set/', b'', 0o40755), *FILES, compression=compression)
        (tmp_path / 'out').mkdir()
        assert tree(extract(archive, tmp_path / 'out', progress=False)) == WANT

    def test_many_members_of_a_gz_stay_fast(self, tmp_path):
        archive = tar_of(tmp_path / 'a.tgz', *((f'm/{i}', bytes(512 * (i % 3))) for i in range(600)), mode='w:gz')
        assert len(tree(extract(archive, tmp_path / 'out', progress=False))) == 601

    @pytest.mark.parametrize('make, name', [(zip_of, 'a.zip'), (tar_of, 'a.tar')])
    @pytest.mark.parametrize('evil', ['/abs.txt', '../up.txt', 'a/../../up.txt', '..', 'C:/x.txt', 'c:x', '\\\\host\\x',
                                      '..\\up.txt', 'a\nb', '//x'])
    def test_names_that_lead_out(self, tmp_path, make, name, evil):
        archive = make(tmp_path / name, ('fine.txt', b'1'), (evil, b'2'))
        message = refusal(extract, archive, tmp_path / 'in' / 'out', progress=False)
        assert name in message and 'nothing was kept' in message
        assert sorted(os.listdir(tmp_path)) == sorted([name, 'in']) and os.listdir(tmp_path / 'in') == []

    @pytest.mark.parametrize('name', ['a..b/c...txt', './x//y.txt', 'ünï çode.txt', '.hidden'])
    def test_odd_names_that_are_fine(self, tmp_path, name):
        for make, archive in ((zip_of, 'a.zip'), (tar_of, 'a.tar')):
            out = extract(make(tmp_path / archive, (name, b'1')), tmp_path / f'{archive}.out', progress=False)
            assert (out / name).read_bytes() == b'1'

    @pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE])
    @pytest.mark.parametrize('link', ['/etc/passwd', '../outside', 'fine.txt'])
    def test_links_in_a_tar(self, tmp_path, kind, link):
        (tmp_path / 'outside').mkdir()
        archive = tar_of(tmp_path / 'a.tar', ('fine.txt', b'1'), ('way', kind, link), ('way/x.txt', b'2'))
        assert 'a link to' in refusal(extract, archive, tmp_path / 'out', progress=False)
        assert os.listdir(tmp_path / 'outside') == [] and not (tmp_path / 'out').exists()

    @pytest.mark.parametrize('kind', [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b'?'])
    def test_devices_in_a_tar(self, tmp_path, kind):
        archive = tar_of(tmp_path / 'a.tar', ('dev', kind, ''))
        assert 'a device or pipe' in refusal(extract, archive, tmp_path / 'out', progress=False)
        assert os.listdir(tmp_path) == ['a.tar']

    @pytest.mark.parametrize('mode, part', [(0o120777, 'a link'), (0o060644, 'a device'), (0o010644, 'pipe')])
    def test_special_members_of_a_zip(self, tmp_path, mode, part):
        archive = zip_of(tmp_path / 'a.zip', ('way', b'/etc', mode))
        assert part in refusal(extract, archive, tmp_path / 'out', progress=False) and os.listdir(tmp_path) == ['a.zip']

    def test_encrypted(self, tmp_path):
        archive = zip_of(tmp_path / 'a.zip', ('x', b'secret'))
        blob = bytearray(archive.read_bytes())
        for mark in (b'PK\3\4', b'PK\1\2'): blob[blob.index(mark) + (6 if mark[2] == 3 else 8)] |= 1
        archive.write_bytes(blob)
        assert 'encrypted' in refusal(extract, archive, tmp_path / 'out', progress=False)

    @pytest.mark.parametrize('make', [zip_of, tar_of])
    @pytest.mark.filterwarnings('ignore:Duplicate name')
    def test_one_name_twice(self, tmp_path, make):
        for names in (('x', 'x'), ('x', './x')):
            archive = make(tmp_path / 'a', *((n, b'1') for n in names))
            assert 'twice' in refusal(extract, archive, tmp_path / 'out', progress=False)

    @pytest.mark.parametrize('make', [zip_of, tar_of])
    def test_a_file_that_is_also_a_folder(self, tmp_path, make):
        archive = make(tmp_path / 'a', ('x', b'1'), ('x/y', b'2'))
        assert 'cannot be unpacked' in refusal(extract, archive, tmp_path / 'out', progress=False)
        assert os.listdir(tmp_path) == ['a']

    def test_limits(self, tmp_path):
        for archive in (tar_of(tmp_path / 'a.tar', *FILES), zip_of(tmp_path / 'a.zip', *FILES)):
            out = tmp_path / 'out'
            assert 'more than 2 members' in refusal(extract, archive, out, max_members=2, progress=False)
            assert 'more than 300,000 bytes' in refusal(extract, archive, out, max_bytes=300_000, progress=False)
            assert not out.exists()
            extract(archive, tmp_path / f'{archive.name}.ok', max_members=3, max_bytes=330_000, progress=False)

    @pytest.mark.parametrize('pack', ['zip', 'gz', 'bz2', 'xz'])
    def test_bombs(self, tmp_path, pack):
        bomb, out = tmp_path / 'bomb', tmp_path / 'out'
        if pack == 'zip': zip_of(bomb, ('zeros', bytes(20_000_000)), compression=zipfile.ZIP_DEFLATED)
        else: tar_of(bomb, ('zeros', bytes(20_000_000)), mode=f'w:{pack}')
        assert 'many times its own size' in refusal(extract, bomb, out, progress=False)
        assert os.listdir(tmp_path) == ['bomb']
        extract(bomb, out, max_ratio=1e6, progress=False)
        assert (out / 'zeros').stat().st_size == 20_000_000

    def test_a_zip_that_lies_about_its_size(self, tmp_path):
        """The header says 10 bytes, the data are a million: no more than 10 are ever written."""
        archive = zip_of(tmp_path / 'a.zip', ('zeros', bytes(1_000_000)), compression=zipfile.ZIP_DEFLATED)
        blob = archive.read_bytes().replace(struct.pack('<I', 1_000_000), struct.pack('<I', 10))
        archive.write_bytes(blob)
        assert 'cannot be unpacked' in refusal(extract, archive, tmp_path / 'out', progress=False)
        assert os.listdir(tmp_path) == ['a.zip']

    def test_a_header_of_gigabytes(self, tmp_path):
        """A pax header that claims 2 GB must not be read into memory."""
        info = tarfile.TarInfo('PaxHeader')
        info.type, info.size = tarfile.XHDTYPE, 2 << 30
        with gzip.open(tmp_path / 'a.tgz', 'wb') as file: file.write(info.tobuf() + bytes(1 << 20))
        assert 'a header of' in refusal(extract, tmp_path / 'a.tgz', tmp_path / 'out', progress=False)

    def test_a_sparse_file(self, tmp_path):
        info = tarfile.TarInfo('hole')
        info.type = tarfile.GNUTYPE_SPARSE
        (tmp_path / 'a.tar').write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        assert 'neither a file nor a folder' in refusal(extract, tmp_path / 'a.tar', tmp_path / 'out', progress=False)

    @pytest.mark.parametrize('content', [b'', b'hello', b'PK\3\4', b'PK', bytes(100), b'\x1f\x8b\x08junk', b'BZh9junk',
                                         b'\xfd7zXZ\0junk', BODY],
                             ids=['empty', 'text', 'zip-head', 'PK', 'zeros', 'gz', 'bz2', 'xz', 'noise'])
    def test_no_archive(self, tmp_path, content):
        (tmp_path / 'a').write_bytes(content)
        assert 'cannot be unpacked' in refusal(extract, tmp_path / 'a', tmp_path / 'out', progress=False)
        assert os.listdir(tmp_path) == ['a']

    @pytest.mark.parametrize('mode', ['w', 'w:gz', 'w:bz2', 'w:xz', 'zip'])
    def test_cut_archives(self, tmp_path, mode):
        archive = zip_of(tmp_path / 'a', *FILES) if mode == 'zip' else tar_of(tmp_path / 'a', *FILES, mode=mode)
        archive.write_bytes(archive.read_bytes()[:150_000])
        assert 'damaged' in refusal(extract, archive, tmp_path / 'out', progress=False)
        assert os.listdir(tmp_path) == ['a']

    def test_a_flipped_byte_is_noticed(self, tmp_path):
        for archive in (zip_of(tmp_path / 'a.zip', *FILES), tar_of(tmp_path / 'a.tgz', *FILES, mode='w:gz')):
            blob = bytearray(archive.read_bytes())
            blob[len(blob) // 2] ^= 1
            archive.write_bytes(blob)
            assert 'damaged' in refusal(extract, archive, tmp_path / 'out', progress=False)

    def test_something_appended_to_a_gz_is_ignored_as_gzip_does(self, tmp_path):
        archive = tar_of(tmp_path / 'a.tgz', *FILES, mode='w:gz')
        archive.write_bytes(archive.read_bytes() + b'signature')
        assert tree(extract(archive, tmp_path / 'out', progress=False)) == WANT

    def test_the_place_must_be_free(self, tmp_path):
        archive = zip_of(tmp_path / 'a.zip', *FILES)
        assert 'not empty' in refusal(extract, archive, tmp_path)
        assert 'not empty' in refusal(extract, archive, archive)
        assert 'no archive' in refusal(extract, tmp_path / 'b.zip', tmp_path / 'out')

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.lists(st.sampled_from(['..', '.', 'a', 'b', '', 'C:', '\\', '~', 'a..']), max_size=6).map('/'.join))
    def test_no_name_leaves_the_folder(self, name):
        """Whatever the name: refused, or inside after the file system has resolved it."""
        folder = Path('/nowhere/folder')
        try: place = fetch._inside(name, folder, Path('x'))
        except FSSKitError: return
        resolved = Path(os.path.normpath(place))
        assert resolved == folder or folder in resolved.parents


@pytest.fixture
def sets(monkeypatch):
    """Two small public sets beside the large ones: two archives with checksums, and one for browsers only."""
    one = io.BytesIO()
    with zipfile.ZipFile(one, 'w') as z: z.writestr('photos/1.jpg', b'one')
    two = io.BytesIO()
    with tarfile.open(fileobj=two, mode='w:gz') as t: t.addfile(tarfile.TarInfo('masks/1.png'))
    bodies = {'one.zip': one.getvalue(), 'two.tgz': two.getvalue()}
    first = RemoteFile('one.zip', 'http://127.0.0.1:9/one.zip', .1, md5=hashlib.md5(bodies['one.zip']).hexdigest())
    second = RemoteFile('two.tgz', 'http://127.0.0.1:9/two.tgz', .1,
                        sha256=hashlib.sha256(bodies['two.tgz']).hexdigest())
    third = RemoteFile('one.zip', None, .1)
    pair = PublicSet('The pair', 'http://pair', 'CC0', (first, second), 'pair:{root}')
    monkeypatch.setitem(PUBLIC_SETS, 'pair', pair)
    monkeypatch.setitem(PUBLIC_SETS, 'hand', PublicSet('The hand', 'http://hand', 'none', (third,), 'hand:{root}'))
    return bodies


class TestPublicSets:
    def test_registry(self):
        assert {'voc2012', 'sbd', 'pascal5i', 'coco20i', 'fss1000'} <= set(PUBLIC_SETS)
        for chosen in PUBLIC_SETS.values():
            assert '{root}' in chosen.use and chosen.page.startswith('http') and chosen.licence
            for file in chosen.files:
                assert file.url is None or (file.url.startswith('http') and file.url.endswith('/' + file.name))
                assert file.md5 is None or re.fullmatch('[0-9a-f]{32}', file.md5)
                assert file.sha256 is None or re.fullmatch('[0-9a-f]{64}', file.sha256)

    def test_published_sums_are_torchvisions(self):
        """An independent source of the same sums."""
        package = Path(importlib.util.find_spec('torchvision').origin).parent  # read, not imported: that takes seconds
        for name, source in (('voc2012', 'voc.py'), ('sbd', 'sbd.py')):
            assert f'"{PUBLIC_SETS[name].files[0].md5}"' in (package / 'datasets' / source).read_text()

    def test_from_a_mirror(self, shelf, sets, tmp_path, capsys):
        shelf.bodies.update({'/m/' + name: body for name, body in sets.items()})
        root = fetch_dataset('pair', tmp_path / 'x', base_url=shelf.url + '/m/', progress=False)
        assert {k: v for k, v in tree(root).items() if k != 'fetched.json'} == {
            'photos': None, 'photos/1.jpg': b'one', 'masks': None, 'masks/1.png': b''}
        record = json.loads((root / 'fetched.json').read_text())
        for name, body in sets.items():
            assert record[name]['sha256'] == hashlib.sha256(body).hexdigest() and record[name]['bytes'] == len(body)
        assert record['one.zip']['checked'] == 'md5' and record['two.tgz']['checked'] == 'sha256'
        assert record['one.zip']['entries'] == ['photos'] and capsys.readouterr().out == ''
        assert fetch_dataset('pair', root, base_url=shelf.url) == root and len(shelf.asked) == 2
        assert f'pair:{root}' in capsys.readouterr().out

    def test_stopped_in_the_middle_and_started_again(self, shelf, sets, tmp_path):
        shelf.bodies['/one.zip'] = sets['one.zip']
        assert '404' in refusal(fetch_dataset, 'pair', tmp_path / 'x', base_url=shelf.url, progress=False)
        shelf.bodies['/two.tgz'] = sets['two.tgz']
        fetch_dataset('pair', tmp_path / 'x', base_url=shelf.url, progress=False)
        assert len(shelf.asked) == 2 and (tmp_path / 'x/masks/1.png').exists()

    def test_default_place(self, shelf, sets, tmp_path, monkeypatch):
        monkeypatch.setenv('FSSKIT_DATA', str(tmp_path))
        shelf.bodies.update({'/' + name: body for name, body in sets.items()})
        assert fetch_dataset('pair', base_url=shelf.url, progress=False) == tmp_path / 'downloads' / 'pair'

    def test_official_address_without_network(self, shelf, sets, tmp_path):
        assert 'check the network' in refusal(fetch_dataset, 'pair', tmp_path / 'x', progress=False)
        assert not (tmp_path / 'x').exists() or os.listdir(tmp_path / 'x') == []

    def test_own_archives(self, sets, tmp_path):
        for name, body in sets.items(): (tmp_path / name).write_bytes(body)
        archives = [tmp_path / name for name in sets]
        root = fetch_dataset('pair', tmp_path / 'x', archive=archives, progress=False)
        assert (root / 'photos/1.jpg').read_bytes() == b'one' and (root / 'masks/1.png').exists()
        assert all(a.exists() for a in archives)

    def test_own_archive_with_a_wrong_sum(self, sets, tmp_path):
        (tmp_path / 'one.zip').write_bytes(sets['one.zip'] + b'x')
        message = refusal(fetch_dataset, 'pair', tmp_path / 'x', archive=tmp_path / 'one.zip', progress=False)
        assert 'md5' in message and 'one.zip' in message and not (tmp_path / 'x/photos').exists()

    def test_by_hand(self, sets, tmp_path, capsys):
        message = refusal(fetch_dataset, 'hand', tmp_path / 'x')
        for part in ('browsers only', 'http://hand', "'one.zip'", 'fsskit fetch hand --archive'): assert part in message
        assert not (tmp_path / 'x').exists()
        (tmp_path / 'other name.zip').write_bytes(sets['one.zip'])
        root = fetch_dataset('hand', tmp_path / 'x', archive=str(tmp_path / 'other name.zip'))
        out = capsys.readouterr().out
        for part in ('no published checksum', hashlib.sha256(sets['one.zip']).hexdigest(), f'hand:{root}'):
            assert part in out
        assert json.loads((root / 'fetched.json').read_text())['one.zip']['checked'] is None

    def test_a_place_with_something_in_it(self, sets, tmp_path):
        (tmp_path / 'x/photos').mkdir(parents=True)
        (tmp_path / 'one.zip').write_bytes(sets['one.zip'])
        message = refusal(fetch_dataset, 'hand', tmp_path / 'x', archive=tmp_path / 'one.zip', progress=False)
        assert 'exists already' in message and os.listdir(tmp_path / 'x') == ['photos']

    def test_wrong_arguments(self, sets, tmp_path):
        assert 'choose one of voc2012' in refusal(fetch_dataset, 'imagenet')
        assert 'no archive' in refusal(fetch_dataset, 'hand', archive=tmp_path / 'no.zip')
        (tmp_path / 'three.zip').touch()
        assert 'one.zip, two.tgz' in refusal(fetch_dataset, 'pair', archive=[tmp_path / 'three.zip'])
        (tmp_path / 'fetched.json').write_text('{')
        assert 'no valid JSON' in refusal(fetch_dataset, 'pair', tmp_path)

    def test_a_hostile_archive_leaves_nothing(self, sets, tmp_path):
        zip_of(tmp_path / 'one.zip', ('fine', b'1'), ('../evil', b'2'))
        message = refusal(fetch_dataset, 'hand', tmp_path / 'x', archive=tmp_path / 'one.zip', progress=False)
        assert '../evil' in message and set(tree(tmp_path)) == {'one.zip', 'x'}
