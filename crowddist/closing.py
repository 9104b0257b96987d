"""What a finished run tells the person at the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crowddist import storage

if TYPE_CHECKING:
    from crowddist.config import RunConfig
    from crowddist.report import Column
    from crowddist.tracking import Tracker


def make_tracker(config: RunConfig, say: Callable[[str], None] = print) -> Tracker:
    """MLflow at the configured address, or beside the runs; `none` tracks nothing.

    Where runs are in object storage, which holds no database, MLflow's lies in the current folder of this machine, and the user is told so.
    """
    from crowddist import tracking
    from crowddist.tracking_journal import JournalTracker

    if config.tracking_uri == "none":
        return tracking.NullTracker()
    if not (config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
        if storage.is_local(config.storage):
            storage.local_folder(config.storage)
        else:
            say(f"MLflow's database is {_database(config)} on this machine: object storage holds none; "
                "--tracking-uri or MLFLOW_TRACKING_URI names a server")
    return JournalTracker(tracking.MlflowTracker(tracking_address(config)), say)


def tracking_address(config: RunConfig) -> str:
    """Where the run's MLflow is, see `make_tracker`; nothing is made. Raises: InputError for what is no address."""
    from crowddist import mlflow_store

    return mlflow_store.resolve_uri(config.tracking_uri, _database(config))


def _database(config: RunConfig) -> Path:
    """MLflow's own, where no other is named: beside the runs, or in the current folder where those are in object storage."""
    return (Path(storage.shown(config.storage)) if storage.is_local(config.storage) else Path.cwd()) / "mlflow.db"


def closing_lines(result: Mapping[str, Any], folder: str, how_to_open: str) -> str:
    """The table of rounds, what was gained, and where everything lies."""
    from crowddist.report import Column, rounds_table

    columns = [
        Column(name="target/mae", heading="MAE", unit="people", digits=2),
        Column(name="target/mae_by_scene", heading="MAE by scene", unit="people", digits=2),
        Column(name="target/rmse", heading="rmse", unit="people", digits=2),
        Column(name="target/bias", heading="bias", unit="people", digits=2),
        Column(name="target/map", heading="mAP", unit="%", scale=100),
        Column(name="target/psnr", heading="PSNR", unit="dB", digits=2),
        Column(name="target/ssim", heading="SSIM", digits=3),
        Column(name="labels/kept_mass", heading="labels keep", unit="% of people", scale=100),
        Column(name="labels/change", heading="labels change", unit="%", scale=100),
        Column(name="train/seconds", heading="training", unit="s", digits=0),
    ]
    lines = ["", f"{result['recipe']}, method {result['method']}, run {result['run']}", rounds_table(result["rounds"], _held(columns, result))]
    parts = _held(_part_columns(), result)
    if len(parts) > 2:  # every method marks heads
        lines += ["", "the parts alone, and the number of heads that are marked", rounds_table(result["rounds"], parts)]
    lines += _outcome(result)
    place = storage.shown(folder)
    lines += ["", f"report    {place}/report.html", f"result    {place}/result.json", f"pictures  {place}/pictures", f"counter   {result['checkpoint']}"]
    if how_to_open:
        lines.append(f"MLflow    {how_to_open}")
    return "\n".join(lines)


def run_note(result: Mapping[str, Any]) -> str:
    """What MLflow shows with a run that has ended: markdown, the outcome first, for the rest is folded away."""
    data = ", ".join(f"{role} {facts['name']} ({facts['num_images']:,} images)" for role, facts in result["data"].items())
    table = [("target/mae", "MAE", 1), ("target/rmse", "rmse", 1), ("target/bias", "bias", 1), ("target/map", "mAP, %", 100)]
    held = [column for column in table if any(column[0] in row for row in result["rounds"])]
    lines = [*_outcome(result), "", f"Recipe `{result['recipe']}`, method `{result['method']}`: {data}.", ""]
    lines += [f"| round | {' | '.join(heading for _, heading, _ in held)} |", "|---|" + "---:|" * len(held)] if held else []
    for row in result["rounds"] if held else []:
        cells = [f"{row[name] * scale:.2f}" if name in row else "-" for name, _, scale in held]
        lines.append(f"| {row['round']} {row.get('title', '')} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Each round is a child run, on whose page its pictures are. `report.html` and all settings are under *Artifacts*."])


def round_note(title: str, metrics: Mapping[str, float], run: str) -> str:
    """What MLflow shows with a round: markdown."""
    shown = (("target/mae", "MAE"), ("target/rmse", "rmse"), ("target/bias", "bias"))
    told = ", ".join(f"{heading} {metrics[name]:.2f}" for name, heading in shown if name in metrics)
    return f"**{title}**, of run `{run}`" + (f": {told} people on images of the target set aside." if told else ".")


def _outcome(result: Mapping[str, Any]) -> list[str]:
    """What was gained, in lines."""
    lines: list[str] = []
    if result["stopped"]:
        lines.append(result["stopped"])
    first, last = result["rounds"][0], result["final"]
    if "target/mae" in first and len(result["rounds"]) > 1:
        before, after = first["target/mae"], last["target/mae"]
        change = f" ({after / before - 1:+.0%})" if before else ""
        lines.append(f"target MAE {before:.2f} -> {after:.2f}{change} on {last['target/num_images']:.0f} images set aside")
    elif "target/mae" not in first:
        lines.append("no labelled evaluation data was given, so the error is not known")
    for name, keys in result["set_aside"].items():
        lines.append(f"done without, because workers died over them: {name} {', '.join(keys)}")
    return lines


def _part_columns() -> list[Column]:
    """What parts of a method would have said alone, and the heads of all of it together."""
    from crowddist.report import Column

    columns = []
    for name, heading in (("regression", "R"), ("detection", "D"), ("transformed", "Phi(R)")):
        columns.append(Column(name=f"target/{name}_mae", heading=f"{heading} MAE", unit="people", digits=2))
        columns.append(Column(name=f"target/{name}_rmse", heading=f"{heading} rmse", unit="people", digits=2))
        columns.append(Column(name=f"target/{name}_map", heading=f"{heading} mAP", unit="%", scale=100))
    columns.append(Column(name="target/points_mae", heading="heads MAE", unit="people", digits=2))
    columns.append(Column(name="target/points_rmse", heading="heads rmse", unit="people", digits=2))
    return columns


def _held(columns: Sequence[Column], result: Mapping[str, Any]) -> list[Column]:
    """The columns that a round has a value for."""
    return [column for column in columns if any(column.name in row for row in result["rounds"])]
