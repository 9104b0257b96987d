"""What a run has finished: its stages, and what it made of data sets. Nothing of it is done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from crowddist import storage
from crowddist.run import checkpoint
from crowddist.run.engine import read_done
from crowddist.storage.run_folder import DONE

if TYPE_CHECKING:
    from crowddist.methods.base import Stage


class Finished:
    """The finished parts in a run's folder, and the images that were skipped over them.

    Args:
        folder: URL of the run's folder.
        say: is told of images that are skipped.
    """

    def __init__(self, folder: str, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self.skipped: dict[str, set[str]] = {}
        """Name of a data set -> keys of its images that are skipped, because workers died over them."""

    def stage(self, stage: Stage) -> dict[str, Any]:
        """The DONE.json of a stage; {} where its training was stopped."""
        return read_done(storage.join(self.folder, stage.name)) or {}

    def once(self, name: str, role: str,
             make: Callable[[], tuple[Sequence[str], dict[str, float]]]) -> dict[str, float]:
        """The metrics of what `make` makes of the images of `role`, unless the folder `name` holds a DONE.json.

        Args:
            make: returns the keys of skipped images, and the metrics.
        """
        url, started = storage.join(self.folder, name), time.time()
        done = read_done(url)
        if done is None:
            skipped, metrics = make()
            done = {"stage": name, "metrics": metrics, "skipped": skipped, "seconds": round(time.time() - started, 1)}
            storage.write_json(storage.join(url, DONE), done)
        self.note_skipped(role, done.get("skipped", ()))
        return done["metrics"]

    def note_skipped(self, role: str, keys: Iterable[str]) -> None:
        """Notes images of a data set that are skipped, and says which are new."""
        new = set(keys) - self.skipped.get(role, set())
        if new:
            self.skipped[role] = self.skipped.get(role, set()) | new
            self.say(f"{role}: {', '.join(sorted(new))} skipped: workers died over "
                     f"{'it' if len(new) == 1 else 'them'}")

    def whole_checkpoint(self, stages: Sequence[Stage], newest: str, folder: str) -> str:
        """URL of a checkpoint of all networks after these finished stages of a round; joined in `folder` where no stage
        wrote one.

        Args:
            newest: of all networks before the round; "": there is none.
        """
        # The last stage of each chain holds what the chain trained.
        last = {stage.trains: self.stage(stage)["checkpoint"] for stage in stages}
        if list(last) == [""]:
            return last[""]
        return checkpoint.join(folder, [*filter(None, [newest]), *last.values()], stage=stages[0].round_name)
