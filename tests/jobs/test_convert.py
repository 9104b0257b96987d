"""The job: what it prints, where, and how it exits."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest
from PIL import Image

from crowddist.cli.convert import main
from crowddist.data.manifest import read_manifest
from tests.jobs.conftest import ROOT


@pytest.fixture
def run(start):
    return functools.partial(start, "convert")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "my photos").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (number * 80, 9, 9)).save(tmp_path / "my photos" / f"{number}.jpg")
    return tmp_path / "my photos"


def test_help_names_the_formats_without_importing_torch():
    code = (
        "import sys, runpy\nsys.argv = ['convert.py', '--help']\n"
        "try: runpy.run_path('jobs/convert.py', run_name='__main__')\nexcept SystemExit: pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    heavy = ["torch", "ray", "mlflow", "scipy", "cv2", "webdataset", "PIL"]
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print([name for name in {heavy} if name in sys.modules])"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("[]\n")
    for word in (
        "FORMAT SOURCE DESTINATION",
        "gcc",
        "shanghaitech",
        "ucf_qnrf",
        "ucf_cc_50",
        "worldexpo10",
        "jhu_crowd",
        "nwpu_crowd",
        "wider_face",
        "crowd_human",
        "csv",
        "coco",
        "labelme",
        "cvat",
        "folder",
        "--split",
        "--skip-bad",
        "--unlabelled",
        "--max-size",
        "--name",
    ):
        assert word in done.stdout


def test_a_conversion_ends_with_what_was_made_and_where(run, tmp_path, photos):
    done = run("folder", photos, tmp_path / "set", "--name", "cam", "--max-size", "20", fresh=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"cam (all): 3 images, unlabelled, 1 shards: file://{tmp_path}/set"
    manifest = read_manifest(tmp_path / "set")
    assert manifest.num_samples == 3 and manifest.statistics["width_px"] == [20, 20]


def test_a_data_set_is_checked_and_described(run, tmp_path, photos):
    run("folder", photos, tmp_path / "set", "--name", "cam")
    done = run("verify", tmp_path / "set")
    digest = read_manifest(tmp_path / "set").digest[:12]
    assert (done.returncode, done.stderr,
            done.stdout) == (0, "", f"whole: cam (all): 3 samples in 1 shards, digest {digest}\n")
    done = run("info", tmp_path / "set", "--sheet", tmp_path / "sheet.png")
    assert (done.returncode, done.stderr) == (0, "") and "sizes: 40 x 30 px (3)\nunlabelled\n" in done.stdout
    assert done.stdout.endswith(f"samples: file://{tmp_path}/sheet.png\n")
    assert Image.open(tmp_path / "sheet.png").width == 3 * 480 + 2 * 16

    shard = tmp_path / "set" / "cam-all-000000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    done = run("verify", tmp_path / "set")
    assert (done.returncode,
            done.stdout) == (2, "") and done.stderr.count("\n") == 1 and "cam-all-000000.tar: SHA-256 is" in done.stderr
    for job in ("verify", "info"):
        done = run(job, tmp_path / "nothing")
        assert (done.returncode, done.stdout) == (2,
                                                  "") and done.stderr.startswith(
                                                      "error: no data set at") and done.stderr.count("\n") == 1
        done = run(job)
        assert (done.returncode, done.stdout) == (2, "") and "the following arguments are required: URL" in done.stderr


def test_a_folder_called_like_an_option(tmp_path, photos, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photos.rename("-cam")
    with pytest.raises(SystemExit) as ending:
        main(["folder", "-cam", "set"])
    told = capsys.readouterr().err
    assert ending.value.code == 2 and "are required: DESTINATION; write a file as ./-cam; for example" in told
    main(["folder", "./-cam", "set"])
    assert (tmp_path / "set" / "manifest.json").exists()


def test_the_dashboards_address_is_no_cluster(run, tmp_path, photos, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    done = run("folder", photos, tmp_path / "set")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "unset it" in done.stderr
    assert not (tmp_path / "set").exists()


def test_bad_input_is_one_line_and_exit_2(run, tmp_path, photos):
    (photos / "1.jpg").write_bytes(b"")
    done = run("folder", photos, tmp_path / "set")
    assert done.returncode == 2 and "file://" not in done.stdout
    assert done.stderr == f"error: {photos}/1.jpg: the file is empty; --skip-bad leaves such files out\n"
    assert not (tmp_path / "set").exists()

    done = run("folder", photos, tmp_path / "set", "--skip-bad")
    assert done.returncode == 0 and "2 images, unlabelled, 1 shards, 1 files skipped" in done.stdout
    assert (tmp_path / "set" / "skipped.json").exists()

    done = run("folder", photos, tmp_path / "set", "--skip-bad")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--overwrite" in done.stderr
    assert run("folder", photos, tmp_path / "set", "--skip-bad", "--overwrite").returncode == 0


def test_boxes_of_faces_are_converted_and_what_was_done_to_them_is_told(run, tmp_path):
    faces = tmp_path / "wider" / "WIDER_train" / "images" / "0--Parade" / "1.jpg"
    faces.parent.mkdir(parents=True)
    Image.new("RGB", (48, 32), (80, 9, 9)).save(faces)
    labels = tmp_path / "wider" / "wider_face_split" / "wider_face_train_bbx_gt.txt"
    labels.parent.mkdir()
    boxes = ["4 5 6 7 0 0 0 0 0 0", "-2 5 10 12 0 0 0 0 0 0", "4 5 0 7 0 0 0 0 0 0", "900 5 6 7 0 0 0 1 0 0"]
    labels.write_text("\n".join(["0--Parade/1.jpg", "4", *boxes]))
    done = run("wider_face", tmp_path / "wider", tmp_path / "set")
    assert (done.returncode, done.stderr) == (0, "")
    assert ("wider-face (train): 1 images, 2 persons, 1 shards, 1 boxes cut at the border, 2 boxes left out, flagged "
            "invalid or" in done.stdout)

    labels.write_text("0--Parade/1.jpg\n1\n4 5 six 7 0 0 0 0 0 0")
    done = run("wider_face", tmp_path / "wider", tmp_path / "other")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert (done.stderr.startswith(f"error: {labels}: line 3 should be the numbers x1 y1 w h")
            and not (tmp_path / "other").exists())


@pytest.mark.parametrize(
    "arguments",
    [
        ("photos", "a", "b"),
        ("folder", "a"),
        ("folder", "/nothing", "b"),
        ("folder", "a", "b", "--max-size", "x"),
        ("folder", "a", "b", "--split", "train"),
        ("folder", "s3://bucket/x", "b"),
        ("folder", "ftp://x", "b"),
        ("info", "a", "--sheet", "sheet.jpg"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(run, arguments):
    done = run(*arguments)
    assert (done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
            and done.stderr.startswith("error: "))


def test_what_was_doubtful_is_told_by_the_conversion_and_by_info(run, tmp_path, photos):
    (photos / "points.csv").write_text("file,x,y\n0.jpg,3,4\n0.jpg,3,4\n0.jpg,60,4\n1.jpg,,\n")
    done = run("csv", photos, tmp_path / "set")
    assert (done.returncode, done.stderr) == (0, "")
    assert ("my photos (all): 2 images, 2 persons, 1 shards, 1 images without labels left out, 1 points beyond the "
            "image dropped (in 1 images), 1 points repeat another (in 1 images), listed in doubts.json") in done.stdout
    told = run("info", tmp_path / "set").stdout
    assert ("\ndoubtful: 1 images without labels left out\ndoubtful: 1 points beyond the image dropped (in 1 images)\n"
            "doubtful: 1 points repeat another (in 1 images)\n") in told
    told = run("folder", photos, tmp_path / "bare").stdout
    assert "1 files not read that may be labels; csv (columns file, x, y), coco, labelme, cvat, " in told
