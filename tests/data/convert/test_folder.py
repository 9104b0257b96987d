"""A plain folder of images becomes an unlabelled data set."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.shards import ShardReader, decode, verify
from crowddist.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def save(path, pixels=PIXELS, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_images_at_any_depth_without_labels(tmp_path):
    source = tmp_path / "my camera"
    for name in ("b/2.png", "a.jpg", "b/ü 中.jpg", "x.y.jpg"):
        save(source / name)
    (source / "notes.txt").write_text("not an image")
    done = convert(FORMATS["folder"], source, tmp_path / "set")
    manifest = verify(done.url)
    assert (manifest.name, manifest.split, manifest.labelled, manifest.kind) == ("my camera", "all", False, "images")
    assert "persons" not in manifest.statistics and manifest.shards[0].persons is None
    reader = ShardReader(done.url)
    assert reader.keys() == ["a", "b_2", "b_ü 中", "x_y"]
    for index, name in enumerate(("a.jpg", "b/2.png", "b/ü 中.jpg", "x.y.jpg")):
        key, members = reader.read(index)
        assert set(members) == {name[-3:], "json"} and members[name[-3:]] == (source / name).read_bytes()
        sample = decode(key, members)
        assert sample.points is None and sample.mask is None
        assert sample.scene == {"id": name[:-4], "file": name.split("/")[-1], "height": 30, "width": 40}


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "in" / "a.png", exif=exif)
    sample = decode(*ShardReader(convert(FORMATS["folder"], tmp_path / "in", tmp_path / "set").url).read(0))
    assert (sample.scene["height"], sample.scene["width"]) == (40, 30)
    assert np.abs(sample.image.astype(int) - np.rot90(PIXELS, -1)).mean() < 6


def test_names_that_a_key_cannot_tell_apart_get_a_hash_and_all_are_taken(tmp_path):
    names = ["a_1.jpg", "a/1.jpg", "b/1.jpg", "b/1.png", "c.jpg", "c.png", "c.jpg.jpg"]
    for name in names:
        save(tmp_path / "in" / name)
    done = convert(FORMATS["folder"], tmp_path / "in", tmp_path / "set")
    reader = ShardReader(done.url)
    samples = {key: decode(key, members).scene for key, members in map(reader.read, range(len(reader)))}
    assert sorted(scene["id"] for scene in samples.values()) == [
        "a/1", "a_1", "b/1.jpg", "b/1.png", "c.jpg", "c.jpg.jpg", "c.png"]
    alike = {key for key in samples if key.startswith("a_1_")}
    assert samples.keys() - alike == {"b_1_jpg", "b_1_png", "c_jpg", "c_jpg_jpg", "c_png"} and len(alike) == 2
    assert "2 images whose names differ only in signs that keys lack" in done.summary()


def test_a_loop_of_links_is_reported(tmp_path):
    save(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    with pytest.raises(InputError, match="loop: a link that leads back"):
        convert(FORMATS["folder"], tmp_path / "in", tmp_path / "set")
    assert convert(FORMATS["folder"], tmp_path / "in", tmp_path / "set", skip_bad=True).manifest.num_samples == 1


def test_empty_folders_say_so(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    with pytest.raises(InputError, match="no images"):
        convert(FORMATS["folder"], tmp_path / "in", tmp_path / "set", skip_bad=True)
    (tmp_path / "in" / "a.heic").write_text("x")
    with pytest.raises(InputError, match=r"no images.*HEIC"):
        convert(FORMATS["folder"], tmp_path / "in", tmp_path / "set", skip_bad=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_data_set_may_lie_inside_its_source(tmp_path):
    save(tmp_path / "a.jpg")
    done = convert(FORMATS["folder"], tmp_path, tmp_path / "set")
    again = convert(FORMATS["folder"], tmp_path, tmp_path / "set", overwrite=True)
    assert done.manifest == again.manifest
