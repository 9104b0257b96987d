"""The walker of folders: whose pictures they hold, and what becomes of every file."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crowddist import storage
from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.safe_decode import encode_png
from crowddist.data.walk import HIDDEN, OURS, PREVIEWS, UNFINISHED, Found, find_images
from crowddist.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind)
    return stream.getvalue()


JPEG, PNG = encoded("JPEG"), encoded("PNG")


def write(root: Path, **files: bytes) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def names(found: Found) -> list[str]:
    return [path.relative_to(found.root).as_posix() for path in found.images]


def test_content_decides_where_the_ending_does_not(tmp_path: Path) -> None:
    write(tmp_path, **{"upload": JPEG, "a.jpg.1": JPEG, "b.JPG_original": JPEG, "c.heic": JPEG, "d.dat": PNG,
                       "e.ppm": encoded("PPM"), "f": encoded("WEBP"), "g.x": encoded("BMP"), "h.0": encoded("TIFF"),
                       "i.jpg": b"no image, and the reader says so"})
    found = find_images(tmp_path)
    assert names(found) == sorted(["upload", "a.jpg.1", "b.JPG_original", "c.heic", "d.dat", "e.ppm", "f", "g.x", "h.0",
                                   "i.jpg"])
    assert found.refused == [] and found.lines() == []


def test_pictures_that_are_not_read_are_named_and_other_files_counted(tmp_path: Path) -> None:
    write(tmp_path, **{"a.jpg": JPEG, "b.HIF": b"\0\0\0\x1cftypheix" + bytes(40),
                       "c.bin": b"\0\0\0\x14ftypcrx \0\0\0\1crx ", "d.PEF": b"MM\0\x2a" + bytes(40), "e.tga": bytes(30),
                       "f.gif": b"GIF89a" + bytes(9),
                       "g.MP4": b"\0\0\0\x14ftypmp42\0\0\0\0isom", "h": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
                       "i.txt": b"P5 is a format", "j.csv": b"BM", "k": b"", "l.doc": b"BMW and others",
                       "m.gpr": b"project of Ada"})
    found = find_images(tmp_path)
    assert names(found) == ["a.jpg"]
    assert [(path.name, reason.split()[0]) for path, reason in found.refused] == [
        ("b.HIF", "HEIC"), ("c.bin", "CR3"), ("d.PEF", "PEF"), ("f.gif", "GIF")]
    assert dict(found.others) == {"TGA": 1, "MP4": 1, "MOV": 1, "TXT": 1, "CSV": 1, "DOC": 1, "GPR": 1,
                                  "without an ending": 1}
    (line,) = found.lines()
    assert line.startswith(f"{tmp_path.name}: 8 other files: 1 ") and line.endswith(" and 3 more")


def test_drawings_among_photographs_stop_nothing(tmp_path: Path) -> None:
    write(tmp_path, **{"a.jpg": JPEG, "favicon.ico": bytes(9), "logo.svg": b"<svg xmlns='x'/>", "cover.psd": b"8BPS",
                       "report.eps": b"%!PS-Adobe-3.0"})
    found = find_images(tmp_path)
    assert names(found) == ["a.jpg"] and found.refused == [] and found.others.keys() == {"ICO", "SVG", "PSD", "EPS"}


def test_raw_twins_and_backups_of_images_are_counted_once(tmp_path: Path) -> None:
    """As cameras write both forms of a photograph, and exiftool and editors keep the file from before."""
    raw = b"II*\0" + bytes(40)
    heic = b"\0\0\0\x14ftypheic"
    write(tmp_path, **{"1.JPG": JPEG, "1.NEF": raw, "1.JPG_original": JPEG, "2.jpg": JPEG, "2.HEIC": heic,
                       "2.jpg~": JPEG, "2.jpg.bak": JPEG, "3.NEF": raw, "4.jpg_original": JPEG, "sub/2.CR2": raw,
                       "2.GPR": raw})
    found = find_images(tmp_path)
    assert names(found) == ["1.JPG", "2.jpg", "4.jpg_original"]
    assert [path.name for path, _ in found.refused] == ["3.NEF", "2.CR2"]
    here = tmp_path.name
    assert found.lines() == [f"{here}: left out, backups of files beside them: 1.JPG_original, 2.jpg.bak, 2.jpg~",
                             f"{here}: left out, not read, but beside an image of the same name: 1.NEF, 2.GPR, 2.HEIC"]


def test_a_users_own_table_of_counts_hides_no_images(tmp_path: Path) -> None:
    """Only overlays of versions that did not sign them are known by the table beside them."""
    write(tmp_path, **{"true/counts.csv": b"file,count,annotator\r\n1.png,3,me\r\n", "true/1.png": PNG,
                       "ours/counts.csv": b"file,count,uncertainty,points\r\n", "ours/1.png": PNG,
                       "ours/.counts.jsonl": b"{}"})
    found = find_images(tmp_path)
    assert names(found) == ["true/1.png"] and found.left_out == {OURS: {tmp_path / "ours"}}
    assert find_images(tmp_path / "ours").lines() == ["ours: left out, written by crowddist: files directly in it"]


def test_snapshots_of_storage_are_no_second_set(tmp_path: Path) -> None:
    write(tmp_path, **{"a.jpg": JPEG, "#snapshot/GMT-1/a.jpg": JPEG, "~snapshot/daily.0/a.jpg": JPEG,
                       "@Recently-Snapshot/x/a.jpg": JPEG})
    found = find_images(tmp_path)
    assert names(found) == ["a.jpg"] and len(found.left_out[PREVIEWS]) == 3


def test_every_file_is_somewhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    heads = [JPEG, PNG, b"", b"text", bytes(50), b"RIFF0000AVI ", b"GIF89a", encode_png(PIXELS)]
    endings = [".jpg", ".PNG", ".mp4", "", ".thm", ".part", ".xyz", ".heic"]
    for number in range(120):
        folder = tmp_path / ("", "a", "a/b", "@eaDir", ".hidden", "c")[rng.integers(6)]
        folder.mkdir(parents=True, exist_ok=True)
        dot = "." * int(rng.random() < 0.1)
        (folder / f"{dot}{number}{endings[rng.integers(8)]}").write_bytes(heads[rng.integers(8)])
    found = find_images(tmp_path)
    out = [path for paths in found.left_out.values() for path in paths]
    files_out = sum(path.is_file() for path in out) + sum(
        len(files) for path in out if path.is_dir() for _, _, files in os.walk(path))
    assert len(found.images) + len(found.refused) + found.others.total() + files_out == 120
    assert set(found.left_out) == {HIDDEN, PREVIEWS, OURS, UNFINISHED}


def test_previews_bins_and_hidden_files_are_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path, **{"a.jpg": JPEG, "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg": JPEG, "$RECYCLE.BIN/b.jpg": JPEG,
                       "__MACOSX/._a.jpg": JPEG, ".thumbnails/a.jpg": JPEG, "MVI_1.THM": JPEG, "c.jpg.part": JPEG[:99],
                       ".DS_Store": b"x", "Thumbs.db": b"x", "evening/d.jpg": JPEG, "evening/e.jpg": JPEG})
    found = find_images(tmp_path)
    assert names(found) == ["a.jpg", "evening/d.jpg", "evening/e.jpg"] and not found.others and not found.refused
    here = tmp_path.name
    assert found.lines() == [
        f"{here}: 3 images: 1 directly in it, 2 in evening", f"{here}: left out, hidden: .thumbnails",
        f"{here}: left out, previews or deleted files: $RECYCLE.BIN, @eaDir, MVI_1.THM, __MACOSX",
        f"{here}: left out, unfinished downloads: c.jpg.part"]


def test_what_crowddist_wrote_is_no_photograph(tmp_path: Path) -> None:
    drawn = encode_png(PIXELS)
    write(tmp_path, **{"a.jpg": JPEG, "b.png": PNG, "moved overlay.png": drawn, "marked/x.jpg": JPEG,
                       "old run/config.json": b'{"bi_knowledge": {}}', "old run/pictures/x.png": PNG,
                       "old count/counts.csv": b"file,count,uncertainty,points\r\n", "old count/x.png": PNG,
                       "count/counts.csv": b"file,count,low,high,uncertainty,points\r\n", "count/x.png": drawn,
                       "count/my.png": PNG,
                       "count/points.csv": b"file,x,y\n", "count/points.coco.json": b"{}", "count/zones.csv": b"file",
                       "old count/mine.jpg": JPEG, "runs/mlflow-artifacts/1/x.png": PNG,
                       "set/manifest.json": b'{"format": "crowddist data set"}', "set/1.tar": b"x",
                       "app/config.json": b"{}", "app/c.jpg": JPEG, "app/manifest.json": b"{}"})
    storage.mark_as_ours(tmp_path / "marked")
    found = find_images(tmp_path)
    assert names(found) == ["a.jpg", "app/c.jpg", "b.png", "count/my.png", "old count/mine.jpg"]
    assert dict(found.others) == {"JSON": 2}
    assert sorted(path.relative_to(tmp_path).as_posix() for path in found.left_out[OURS]) == [
        "count", "marked", "moved overlay.png", "old count", "old run", "runs/mlflow-artifacts", "set"]


def test_only_a_folder_that_crowddist_alone_fills_is_marked(tmp_path: Path) -> None:
    write(tmp_path, **{"mine/a.jpg": JPEG})
    storage.mark_as_ours(tmp_path / "mine", fresh=True)
    storage.mark_as_ours(tmp_path / "runs", fresh=True)
    write(tmp_path, **{"runs/x.jpg": JPEG})
    assert names(find_images(tmp_path)) == ["mine/a.jpg"]
    assert names(find_images(tmp_path / "runs")) == ["x.jpg"], "who names it means it"
    before = storage.fingerprint(tmp_path)
    write(tmp_path, **{"runs/y.jpg": JPEG})
    assert storage.fingerprint(tmp_path) == before and storage.list_files(tmp_path / "runs") == ["x.jpg", "y.jpg"]


def test_files_that_differ_in_their_ending_alone_are_both_taken(tmp_path: Path) -> None:
    write(tmp_path, **{"in/a.jpg": JPEG, "in/a.heic": JPEG, "in/b.jpg": JPEG, "in/a.jpg.1": JPEG, "in/c.0001": JPEG})
    done = convert(FORMATS["folder"], tmp_path / "in", tmp_path / "set")
    from crowddist.data.shards import ShardReader

    assert ShardReader(done.url).keys() == ["a_heic", "a_jpg", "a_jpg_1", "b", "c_0001"]


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path, **{"in/part-000000.tar": b"x", "in/part-000001.tar": b"x", "in/a.MOV": b"\0\0\0\x14ftypqt  "})
    with pytest.raises(InputError, match=r"no images.*; in: 3 other files: 2 TAR, 1 MOV"):
        convert(FORMATS["folder"], tmp_path / "in", tmp_path / "set")


def test_names_and_places_that_people_have(tmp_path: Path) -> None:
    """Each file is taken, refused by name, left out with the reason, or counted."""
    odd = os.fsdecode(b"caf\xe9.JPEG")
    taken = ["a\nb.jpg", odd, "IMG 1.JPG ", "p.jpg?width=200", "sub.jpg/x.tiff", "a.jpg", "A.jpg", "a.JPG", "x.y.z",
             "Vorschau/1.jpg", "f.jpg.gz.jpg", "0000",
             "b.photoslibrary/originals/a.jpg", "resources/a.jpg", "private/a.jpg", "previews/a.jpg",
             "i.photolibrary/Masters/a.jpg", "cloud/files/a.jpg"]
    out = {"thumbs/a.jpg": PREVIEWS, "DCIM/.thumbnails/1.jpg": HIDDEN, "M4ROOT/THMBNL/C1T01.JPG": PREVIEWS,
           "LOST.DIR/1": PREVIEWS, "FOUND.000/1.jpg": PREVIEWS, "__MACOSX/._a.jpg": PREVIEWS, "._a.jpg": HIDDEN,
           "Lightroom Previews.lrdata/A/a.jpg": PREVIEWS, "b.photoslibrary/resources/derivatives/a.jpg": PREVIEWS,
           ".c.jpg.icloud": UNFINISHED, "d.jpg.filepart": UNFINISHED, ".trashed-1-a.jpg": HIDDEN,
           "mlartifacts/1/x.png": OURS, "film.jpg.tmp": UNFINISHED, "MISC/THM/100/DJI_1.SCR": PREVIEWS,
           "a.tif.ovr": PREVIEWS, "a.tif.msk": PREVIEWS, "Cache/Proxies/a.CR3.cop": PREVIEWS,
           "i.photolibrary/Previews/a.jpg": PREVIEWS, "b.photoslibrary/private/x/1.jpg": PREVIEWS,
           "cloud/files_trashbin/files/b.jpg.d1690000000": PREVIEWS, "cloud/files_versions/a.jpg.v1690000000": PREVIEWS,
           "appdata_oc1/preview/1/1024-768-max.jpg": PREVIEWS, "@GMT-2023.01.01-00.00.00/a.jpg": PREVIEWS,
           "Trash/b.jpg": PREVIEWS, "Network Trash Folder/z.jpg": PREVIEWS}
    counted = {"b.zip": b"PK\x03\x04", "c.tar": b"x", "notes.txt": b"", "empty": b"",
               "clip.MOV": b"\0\0\0\x14ftypqt  "}
    write(tmp_path / "in", **dict.fromkeys([*taken, *out], JPEG), **counted, **{"b.JXL": b"\xff\x0a",
                                                                                "c.ARW": b"II*\0"})
    os.mkfifo(tmp_path / "in" / "pipe")
    (tmp_path / "in" / "gone").symlink_to("nowhere")
    (tmp_path / "in" / "loop").symlink_to(".")
    found = find_images(tmp_path / "in")
    assert names(found) == sorted(taken)
    assert [path.name for path, _ in found.refused] == ["b.JXL", "c.ARW", "loop"]
    assert {reason for reason in found.left_out} == set(out.values())
    assert all(any(path == found.root / name or path in (found.root / name).parents for path in found.left_out[reason])
               for name, reason in out.items())
    assert dict(found.others) == {"ZIP": 1, "TAR": 1, "TXT": 1, "MOV": 1, "without an ending": 3}
    lines = found.lines()
    assert any("other files" in line and line.endswith("; archives are not opened, unpack those of images")
               for line in lines)
    assert all("\n" not in line and line.encode() for line in lines)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that its user may not enter, or here one whose path is too long."""
    write(tmp_path, **{"a.jpg": JPEG})
    monkeypatch.chdir(tmp_path)
    for _ in range(17):
        os.mkdir("x" * 250)
        os.chdir("x" * 250)
    found = find_images(tmp_path)
    assert names(found) == ["a.jpg"] and [reason for _, reason in found.refused] == [
        "cannot be read: File name too long"]
