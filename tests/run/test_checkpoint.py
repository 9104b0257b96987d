"""Checkpoints are whole or absent; damaged ones are ignored; nothing in them is executed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from crowddist import storage
from crowddist.errors import InputError
from crowddist.run import checkpoint
from crowddist.storage.run_folder import LATEST, find_checkpoint


def content(value: float) -> dict:
    return {"method": {"networks": {"weight": torch.full((3,), value)}}, "config": "{}"}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path.as_uri()) is None
    url = checkpoint.save(tmp_path.as_uri(), 7, content(2.5))
    loaded = checkpoint.load_latest(tmp_path.as_uri())
    assert loaded is not None and loaded["step"] == 7 and checkpoint.latest_url(tmp_path.as_uri()) == url
    assert torch.equal(loaded["method"]["networks"]["weight"], torch.full((3,), 2.5))


def test_a_run_is_found_where_it_lies_now(tmp_path: Path) -> None:
    run = tmp_path / "elsewhere"
    url = checkpoint.save((run / "labels-1" / "checkpoints").as_uri(), 7, content(2.5))
    assert find_checkpoint(url) == url and find_checkpoint(url.removeprefix("file://")) == url
    storage.write_json((run / "result.json").as_uri(),
                       {"run": "mine", "checkpoint": "s3://bucket/runs/mine/labels-1/checkpoints/step-000007.pt"})
    assert find_checkpoint(run) == url


@pytest.mark.parametrize("result", [None, {}, [], {"run": "mine", "checkpoint": None},
                                    {"run": "mine", "checkpoint": "s3://runs/mine/../other/x.pt"}])
def test_a_folder_without_a_result_is_no_run(tmp_path: Path, result: object) -> None:
    if result is not None:
        storage.write_json((tmp_path / "result.json").as_uri(), result)
    with pytest.raises(InputError, match=r"is not the folder of a run that has ended"):
        find_checkpoint(tmp_path)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path.as_uri(), step, content(step))
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["step-000003.pt", "step-000004.pt"]


def test_the_one_of_the_lowest_loss_is_kept_beside_the_last_two(tmp_path: Path) -> None:
    for step, loss in enumerate((0.5, 0.2, 0.9, 0.4, 0.3, 0.25), start=1):
        checkpoint.save(tmp_path.as_uri(), step, content(step), loss=loss)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [f"step-00000{step}.pt" for step in (2, 5, 6)]
    assert storage.read_json((tmp_path / LATEST).as_uri())["best"] == "step-000002.pt"
    assert checkpoint.load_latest(tmp_path.as_uri())["step"] == 6  # type: ignore[index]
    checkpoint.save(tmp_path.as_uri(), 7, content(7), loss=0.1)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["step-000006.pt", "step-000007.pt"]


def test_a_saver_takes_the_content_at_once_and_raises_what_its_writing_raised(tmp_path: Path) -> None:
    held = content(1)
    with closing(checkpoint.Saver((tmp_path / "a").as_uri())) as saver:
        saver.save(1, held)
        held["method"]["networks"]["weight"].zero_()
        saver.wait()
        assert checkpoint.load_latest((tmp_path
                                       / "a").as_uri())[
                                           "method"]["networks"]["weight"].tolist() == [1, 1, 1]  # type: ignore[index]
    (tmp_path / "file").write_bytes(b"")
    with closing(checkpoint.Saver((tmp_path / "file" / "below").as_uri())) as saver:
        saver.save(1, held)
        with pytest.raises(InputError, match="a file is in the way"):
            saver.save(2, held)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    checkpoint.save(tmp_path.as_uri(), 1, content(1))
    last = storage.local_file(checkpoint.save(tmp_path.as_uri(), 2, content(2)))
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    loaded = checkpoint.load_latest(tmp_path.as_uri())
    assert loaded is not None and loaded["step"] == 1
    (tmp_path / "step-000001.pt").unlink()
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read"):
        checkpoint.load_latest(tmp_path.as_uri())


def test_other_files_of_torch_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="not a crowddist checkpoint of format 1"):
        checkpoint.load((tmp_path / "other.pt").as_uri())
    with pytest.raises(FileNotFoundError):
        checkpoint.load((tmp_path / "missing.pt").as_uri())
    with pytest.raises(FileNotFoundError):
        checkpoint.latest_url(tmp_path.as_uri())
