"""Searches the thresholds that pseudo-labels are made with, without opening any label of the target.

    crowddist tune --checkpoint runs/demo --target /photos/of/my/camera --output tune.json
    crowddist tune --checkpoint COUNTER.pt --target shanghaitech:part_A_final:train --output tune.json \\
        --trials 64 --objective proxy --labelled shanghaitech:part_B_final:val
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from crowddist.cli.called import EXIT_CODES, as_called
from crowddist.config import Algorithm, Objective, SearchConfig, require_labelled
from crowddist.errors import InputError
from crowddist.process.cli import one_line_errors, read_arguments
from crowddist.process.host import sigterm_as_exit


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to search on what."""

    checkpoint: Annotated[str, tyro.conf.arg(aliases=["--model"])]
    """A run's folder or one of its checkpoint files, path or URL, of self_supervision, bi_knowledge or combined."""
    target: str
    """Images of your own cameras: a folder of images, shards, or FORMAT:PATH:SPLIT. Labels, if there are any, are not
    read."""
    output: str
    """The JSON file to write: the objective, all trials and the best one."""
    objective: Objective = "agreement"
    """What a trial is judged by. agreement: how far the ensemble, and regression and detection, agree on the target.
    proxy: the errors on labelled images of the source that the counter was not trained on, shown in the target's style.
    labelled: the errors on labelled images of the target."""
    labelled: str = ""
    """Those labelled images, for proxy and labelled: shards, or FORMAT:PATH:SPLIT."""
    evaluation: str = ""
    """Labelled images of the target that are opened only when all is decided, to say how well the objective ranks the
    trials."""
    trials: int = 32
    """Sets of thresholds to try, first the checkpoint's own."""
    algorithm: Algorithm = "even"
    """What chooses the others. even: they fill the space evenly. optuna: its tree-structured Parzen estimators, which
    after 10 trials look near those that were good (install crowddist[optuna])."""
    num_workers: int = 2
    """Actors that predict, and trials at once."""
    launcher: Literal["ray", "local"] = "ray"
    """`local` runs everything in this process, without Ray, one trial after the other."""
    work: str = "runs"
    """Where raw data is converted to, and predictions and trials are kept: what was done before is not done again."""

    def __post_init__(self) -> None:
        if self.trials < 2 or self.num_workers < 1:
            raise InputError(f"trials must be at least 2 and num_workers at least 1, got {self.trials} and "
                             f"{self.num_workers}")
        require_labelled(self.objective, self.labelled, option="labelled")


def main(arguments: Sequence[str], prog: str = "crowddist tune") -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    with one_line_errors(), sigterm_as_exit():
        about = f"{as_called(__doc__ or '', prog)}\n{EXIT_CODES}"
        tune(read_arguments(lambda: tyro.cli(Arguments, prog=prog, description=about, args=arguments), about))


def tune(arguments: Arguments) -> None:
    """Predicts once, tries the thresholds, and writes and prints how they compare."""
    from crowddist import storage
    from crowddist.data.config import parse_data
    from crowddist.data.prepare import prepare
    from crowddist.distributed.choose import make_launcher, make_trial_runner
    from crowddist.search.threshold_search import recorded_config, search_thresholds, trial_table
    from crowddist.search.trial_values import make_plan
    from crowddist.storage.run_folder import find_checkpoint

    def say(line: str) -> None:
        print(line, flush=True)

    if storage.is_folder(arguments.output):
        raise InputError(f"the output {arguments.output} is a folder; give the file to write")
    checkpoint = find_checkpoint(arguments.checkpoint)
    search = SearchConfig(objective=arguments.objective, labelled=arguments.labelled, trials=arguments.trials,
                          algorithm=arguments.algorithm)
    config = replace(recorded_config(checkpoint), search=search, storage=arguments.work, launcher=arguments.launcher,
                     num_workers=1, min_workers=0, num_labellers=arguments.num_workers, threads=0)
    make_plan(config)  # refuses what cannot be searched, before the long work
    target = prepare(parse_data(arguments.target), arguments.work, role="target", say=say)
    data = {"target": target}
    if arguments.labelled:
        data["labelled"] = prepare(parse_data(arguments.labelled), arguments.work, role="evaluation", say=say)
    if arguments.evaluation:
        data["evaluation"] = prepare(parse_data(arguments.evaluation), arguments.work, role="evaluation", say=say)
    urls = {"search" if name == "labelled" else name: prepared.url for name, prepared in data.items()}
    launcher = make_launcher(config)
    try:
        found = search_thresholds(config, checkpoint, urls, launcher, make_trial_runner(config), say=say)
    finally:
        launcher.close()
    summary = {name: prepared.summary() for name, prepared in data.items()}
    storage.write_json(storage.normalise(arguments.output), {**found, "checkpoint": checkpoint, "data": summary})
    print(trial_table(found["trials"]))
    for name, value in found.get("ranking", {}).items():
        print(f"{name.replace('_', ' '):22} {value:.4g}")
    print(f"written to {arguments.output}")
