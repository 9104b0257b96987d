"""Shards: we and stock WebDataset read what was written, and every damage is found."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg

from crowddist import storage
from crowddist.data.manifest import Manifest, ShardInfo, publish_manifest, read_manifest
from crowddist.data.shard_codec import encode
from crowddist.data.shards import ShardReader, ShardWriter, decode, verify, write_shard
from crowddist.errors import InputError

RNG = np.random.default_rng(0)
FACTS = {"name": "n", "split": "s", "labelled": True, "converter": "c"}
NOISE = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)


def members_of(number: int) -> dict:
    image = np.roll(NOISE, number, axis=1)
    return {"jpg": simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=80),
            "points.npy": np.full((number, 2), 1.5), "mask.png": image[..., 0] > 128,
            "json": {"id": f"image {number}", "height": 24, "width": 40, "count": number}}


def encoded(members: dict) -> dict[str, bytes]:
    return {extension: encode(extension, value) for extension, value in members.items()}


def keys_of(number: int) -> list[str]:
    return [f"scene_é_{index}" for index in range(number)]


@pytest.fixture
def data_set(tmp_path):
    """Ten samples in several shards."""
    url = storage.join(tmp_path, "ä set")
    with ShardWriter(url, name="noise", split="train", labelled=True, converter="test 1", max_shard_bytes=20_000,
                     statistics={"made": "here"}) as writer:
        for index, key in enumerate(keys_of(10)):
            writer.add(key, members_of(index))
        writer.statistics["added"] = 1
    return url


def shard_path(url: str, index: int):
    return storage.local_file(storage.join(url, read_manifest(url).shards[index].name))


def test_reads_back_every_member_bit_by_bit(data_set):
    reader = ShardReader(data_set)
    assert len(reader) == 10 and reader.keys() == keys_of(10)
    for index in (9, 0, 5, 3, 9):
        key, members = reader.read(index)
        assert key == keys_of(10)[index] and members == encoded(members_of(index))
        assert reader.index_of(key) == index
        assert len(decode(key, members).points) == index


def test_some_members_are_read_without_the_others(data_set):
    reader = ShardReader(data_set)
    for index in (0, 9):
        key, members = reader.read(index)
        assert reader.read(index, kinds=("json", "points.npy")) == (key, {kind: members[kind]
                                                                          for kind in ("json", "points.npy")})
        assert (reader.read(index, kinds=("jpg", "png")) == (key, {"jpg": members["jpg"]})
                and reader.read(index, kinds=("png",)) == (key, {}))


def test_manifest_tells_what_was_written(data_set):
    manifest = verify(data_set)
    assert manifest.num_samples == 10 and len(manifest.shards) > 2
    assert [shard.name for shard in manifest.shards[:2]] == ["noise-train-000000.tar", "noise-train-000001.tar"]
    assert manifest.statistics == {"num_samples": 10, "height_px": [24, 24], "width_px": [40, 40], "persons": 45,
                                   "persons_per_sample": [0, 9], "made": "here", "added": 1}
    for index, shard in enumerate(manifest.shards):
        data = shard_path(data_set, index).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.num_bytes, shard.sha256)
        assert len(data) <= 20_000 + tarfile.RECORDSIZE
    assert sum(shard.persons for shard in manifest.shards) == 45


def test_shard_ranges_cover_the_set(data_set):
    reader = ShardReader(data_set)
    ranges = [reader.shard_range(index) for index in range(len(reader.manifest.shards))]
    assert [number for numbers in ranges for number in numbers] == list(range(10))
    assert [len(numbers) for numbers in ranges] == [shard.num_samples for shard in reader.manifest.shards]


def test_equal_input_gives_equal_bytes(tmp_path):
    samples = [(key, members_of(index)) for index, key in enumerate(keys_of(4))]
    backwards = [(key, dict(reversed(members.items()))) for key, members in samples]
    infos = [write_shard(tmp_path / place, "s.tar", part)
             for place, part in (("a", samples), ("b", backwards), ("c", samples[::-1]))]
    assert infos[0] == infos[1] != infos[2]
    assert (tmp_path / "a" / "s.tar").read_bytes() == (tmp_path / "b" / "s.tar").read_bytes()


def test_python_tarfile_agrees_with_our_walk(data_set):
    reader = ShardReader(data_set)
    with tarfile.open(shard_path(data_set, 0)) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}
        assert {member.mtime for member in archive.getmembers()} == {0}
    ours = {f"{key}.{extension}": data for key, members in map(reader.read, reader.shard_range(0))
            for extension, data in members.items()}
    assert found == ours


def test_stock_webdataset_reads_identical_bytes(data_set):
    import webdataset

    reader = ShardReader(data_set)
    urls = [str(shard_path(data_set, index)) for index in range(len(reader.manifest.shards))]
    found = {sample["__key__"]: {name: value for name, value in sample.items() if not name.startswith("__")}
             for sample in webdataset.WebDataset(urls, shardshuffle=False)}
    assert found == dict(map(reader.read, range(len(reader))))


def test_a_label_set_has_the_cut_of_its_images(tmp_path, data_set):
    images = ShardReader(data_set)
    for index, shard in enumerate(images.manifest.shards):
        labels = {"density.npy": np.full((3, 5), 0.5), "keep.png": np.ones((3, 5)), "json": {}}
        samples = [(images.read(number)[0], labels) for number in images.shard_range(index)]
        info = write_shard(tmp_path / "labels", shard.name, samples)
        assert info.persons == 7.5 * shard.num_samples and info.num_samples == shard.num_samples


@pytest.mark.parametrize("cut", ["header", "data", "end mark", "one block"])
def test_a_truncated_tar_is_found(data_set, cut):
    path = shard_path(data_set, 0)
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    end_of_data = last.offset_data + -(-last.size // 512) * 512
    num_bytes = {"header": last.offset, "data": last.offset_data + 10, "end mark": end_of_data,
                 "one block": len(whole) - 512}[cut]
    path.write_bytes(whole[:num_bytes])
    for call in (lambda: ShardReader(data_set).read(0), lambda: ShardReader(data_set).keys(), lambda: verify(data_set)):
        with pytest.raises(InputError, match=path.name):
            call()

    if cut == "header":
        import webdataset

        samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
        # a stock reader reports no error
        assert 0 < len(samples) <= read_manifest(data_set).shards[0].num_samples
    if cut != "one block":
        # Even if the manifest describes the cut file.
        manifest = read_manifest(data_set)
        lying = replace(manifest, shards=(replace(manifest.shards[0], num_bytes=num_bytes, sha256="0" * 64),
                                          *manifest.shards[1:]))
        with pytest.raises(InputError, match="cut"):
            ShardReader(data_set, lying).read(0)


def test_a_changed_byte_is_found_by_verify(data_set):
    path = shard_path(data_set, 1)
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=rf"{path.name}.*SHA-256"):
        verify(data_set)


def test_a_broken_header_is_found_at_reading(data_set):
    path = shard_path(data_set, 0)
    data = bytearray(path.read_bytes())
    data[124] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="no tar header"):
        ShardReader(data_set).read(0)


def test_a_wrong_number_of_samples_is_found(data_set):
    manifest = read_manifest(data_set)
    lying = replace(manifest, shards=(replace(manifest.shards[0], num_samples=manifest.shards[0].num_samples + 1),
                                      *manifest.shards[1:]))
    with pytest.raises(InputError, match="samples, the manifest says"):
        ShardReader(data_set, lying).read(0)


def test_a_missing_shard_is_named(data_set):
    path = shard_path(data_set, 0)
    path.unlink()
    reader = ShardReader(data_set)
    with pytest.raises(FileNotFoundError, match=path.name):
        reader.read(0)
    assert reader.read(9)[0] == keys_of(10)[9]


def test_a_shard_that_shrinks_while_it_is_read_is_found(data_set):
    reader = ShardReader(data_set)
    reader.read(0)
    os.truncate(shard_path(data_set, 0), 600)
    with pytest.raises(InputError, match="became shorter"):
        reader.read(0)


def test_indexes_outside_the_set(data_set):
    reader = ShardReader(data_set)
    for index in (-1, 10):
        with pytest.raises(IndexError):
            reader.read(index)
    with pytest.raises(InputError, match="no sample is called"):
        reader.index_of("x")


def test_two_equal_keys_in_two_shards_are_found(tmp_path, data_set):
    manifest = read_manifest(data_set)
    info = write_shard(data_set, "again.tar", [(keys_of(10)[0], members_of(0))])
    with pytest.raises(InputError, match="two samples are called"):
        ShardReader(data_set, replace(manifest, shards=(*manifest.shards, info))).keys()


def read_in_child(reader, index, answers):
    answers.put(reader.read(index))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_used_reader_works_in_other_processes(data_set, method):
    reader = ShardReader(data_set)
    expected = reader.read(4)
    assert pickle.loads(pickle.dumps(reader)).read(4) == expected
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    children = [context.Process(target=read_in_child, args=(reader, 4, answers)) for _ in range(2)]
    for child in children:
        child.start()
    assert [answers.get(timeout=30) for _ in children] == [expected, expected]
    for child in children:
        child.join()


def test_an_exception_leaves_no_data_set_and_no_litter(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, **FACTS, max_shard_bytes=10_000) as writer:
        for index, key in enumerate(keys_of(9)):
            writer.add(key, members_of(index))
        assert len(list(tmp_path.iterdir())) > 2
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_generator_that_fails_leaves_no_shard(tmp_path):
    def samples():
        yield "a", members_of(0)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shard(tmp_path, "s.tar", samples())
    with pytest.raises(InputError, match="no sample"):
        write_shard(tmp_path, "s.tar", [])
    with pytest.raises(InputError, match="at least one sample"), ShardWriter(tmp_path, **FACTS):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_is_not_written_over(data_set):
    before = read_manifest(data_set)
    with pytest.raises(InputError, match="already"), ShardWriter(data_set, **FACTS):
        pass
    assert verify(data_set) == before


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "a\\b", "a\nb", "k" * 81, "é" * 41, "\udce9"])
def test_impossible_keys(tmp_path, key):
    with pytest.raises(InputError, match="not a key"):
        write_shard(tmp_path, "s.tar", [(key, members_of(0))])


def test_the_longest_key_fits_with_the_longest_extension(tmp_path):
    info = write_shard(tmp_path, "s.tar", [("é" * 40, {"detections.npy": np.zeros((0, 4)), "json": {}})])
    with tarfile.open(tmp_path / "s.tar") as archive:
        assert archive.getnames() == ["é" * 40 + ".detections.npy", "é" * 40 + ".json"]
    assert info.persons is None


def test_repeated_keys(tmp_path):
    with pytest.raises(InputError, match="two samples"):
        write_shard(tmp_path, "s.tar", [("a", members_of(0)), ("a", members_of(1))])
    with ShardWriter(tmp_path, **FACTS, max_shard_bytes=1) as writer:
        writer.add("a", members_of(0))
        writer.add("b", members_of(0))
        with pytest.raises(InputError, match="two samples"):
            writer.add("a", members_of(0))
    assert len(verify(tmp_path).shards) == 2


@pytest.mark.parametrize(
    "drop", [[], ["points.npy"], ["points.npy", "mask.png"], ["points.npy", "boxes.npy"],
             ["points.npy", "boxes.npy", "mask.png"]]
)
def test_an_unlabelled_set_tells_nothing_of_labels(tmp_path, drop):
    labelled = {**members_of(3), "boxes.npy": np.ones((3, 4))}
    members = {extension: value for extension, value in labelled.items() if extension not in drop}
    facts = {**FACTS, "labelled": False}
    with pytest.raises(InputError, match="unlabelled"), ShardWriter(tmp_path, **facts) as writer:
        writer.add("a", members)
    members = {"jpg": members_of(3)["jpg"], "json": {"height": 24, "width": 40}}
    with ShardWriter(tmp_path, **facts) as writer:
        writer.add("a", members)
    manifest = verify(tmp_path)
    assert manifest.shards[0].persons is None and "persons" not in manifest.statistics and not manifest.labelled


def test_a_labelled_set_needs_points(tmp_path):
    with pytest.raises(InputError, match="no points"), ShardWriter(tmp_path, **FACTS) as writer:
        writer.add("a", {"jpg": members_of(0)["jpg"]})


def test_a_foreign_member_is_read_as_bytes_but_never_decoded(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in (("a.jpg", members_of(0)["jpg"]), ("a.pkl", pickle.dumps({}))):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    data = (tmp_path / "s.tar").read_bytes()
    shard = ShardInfo(name="s.tar", num_samples=1, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(),
                      persons=None)
    publish_manifest(tmp_path, Manifest(**FACTS, kind="images", shards=(shard,)))
    key, members = ShardReader(tmp_path).read(0)
    with pytest.raises(InputError, match="never read"):
        decode(key, members)
