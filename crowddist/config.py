"""RunConfig: all settings of an adaptation, composed of the configurations that live beside their code."""

from __future__ import annotations

import dataclasses
import itertools
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from crowddist.data.config import StreamConfig, parse_data, parse_share
from crowddist.errors import InputError, require_choice
from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
from crowddist.methods.settings.semantic_consistency import SemanticConsistencyConfig
from crowddist.methods.settings.train import TrainConfig
from crowddist.methods.settings.translation import TranslationConfig
from crowddist.methods.table import METHODS, facts_of
from crowddist.models.config import CounterConfig, DetectorConfig, LocaliserConfig, RegressorConfig, TranslatorConfig
from crowddist.process.safe_text import holds_secret
from crowddist.process.typed_record import MOST, of_record

NOT_RUNS = ("data", "stages", "mlflow.db", "mlflow-artifacts")
"""Names beside the runs in their storage that are no runs."""

SHORT_HELP: dict[str, tuple[str, ...]] = {
    "data": ("source", "target", "evaluation", "boxes", "skip_bad", "stream.image_size"),
    "method": ("method", "counter.backbone", "counter.weights"),
    "run": ("storage", "run_name", "seed", "num_workers", "launcher", "engine.precision", "tracking_uri"),
    "training": ("train.steps", "train.batch_size", "train.learning_rate"),
    "labels": ("self_supervision.rounds", "self_supervision.round_steps", "self_supervision.label_views",
               "search.objective"),
}
"""Heading -> settings of a run that `adapt.py RECIPE --help` shows, a line each: the first sentence of the field's
docstring, and the default. `--help-all` shows all settings."""
_MOST = {"threads": 1024, "num_readers": 1024, "scale_jitter": 100.0,
         **dict.fromkeys(("image_size", "crop_size", "crop_width", "boxes_crop_size", "orientation_px"), 20_000)}
"""Last part of a setting's name -> its largest value. ours: beyond it libraries crash; sides are those of images that
are read."""
_LONGEST_NAME_BYTES = 200
"""ours: of a run; file systems take 255, with endings."""
REMOVED_SETTINGS: dict[str, Any] = {
    "self_supervision.kept_share": None,
    "counter.mask_scale": 2.0, "counter.mask_seed": 0, "counter.dropout": 0.5,
    "self_supervision.label_scale_jitter": [0.9, 1.1],
    "bi_knowledge.num_patches": 2, "bi_knowledge.regressor_tuned": "last_two_layers",
    "semantic_consistency.discriminator_rate": 1e-4, "semantic_consistency.person_threshold": 0.3,
    "translation.scale_jitter": [0.8, 1.25], "translation.cycle_weight": 10.0, "translation.joint": False,
}
"""Settings in the records of older runs that are constants now, and the constants as JSON has them; None where any
value is read, because it only told how labels were made."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How any stage runs."""

    checkpoint_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 20
    """Steps averaged in one point of a learning curve."""
    average_decay: float = 0.0
    """Share that a step keeps of the moving average of the weights, e.g. 0.995. The average counts and labels. 0: no
    average, the last weights count."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto, float32, or bfloat16 (automatic mixed precision). auto is bfloat16 on GPUs that compute in it, else
    float32. bfloat16 is faster on GPUs and on CPUs with AVX-512, at about 0.4 % error of the features; on other CPUs it
    is seven times slower."""
    compile: bool = False
    """Compile the networks for training (torch.compile). The first steps of a stage then wait for a compiler, a minute
    or more; results differ by rounding. Not yet measured on a GPU."""

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, ("auto", "float32", "bfloat16"))
        if self.checkpoint_every < 1 or self.log_every < 1:
            raise InputError("checkpoint_every and log_every must be at least 1, got "
                             f"{self.checkpoint_every}, {self.log_every}")
        if not 0 <= self.average_decay < 1:
            raise InputError(f"average_decay lies in [0, 1), got {self.average_decay}")


Objective = Literal["agreement", "proxy", "labelled"]
"""How to judge a trial, see `SearchConfig.objective`."""
Algorithm = Literal["even", "optuna"]
"""How to choose the values of the trials, see `SearchConfig.algorithm`."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Search of thresholds before each round of labels, on the networks' predictions; never reads `target`'s labels."""

    objective: Literal["none", "agreement", "proxy", "labelled"] = "none"
    """Search of thresholds: none, agreement, proxy, labelled. agreement: how far the ensemble, and regression and
    detection, agree on the target. proxy: the errors on labelled source images outside the training set, shown in the
    target's style. labelled: the errors on labelled images of the target."""
    labelled: str = ""
    """Labelled images for proxy and labelled: shards, or FORMAT:PATH:SPLIT, or renderer:LOOK:NUM_IMAGES:SEED."""
    trials: int = 32
    """Sets of thresholds to try in each round, the configured one first."""
    algorithm: Algorithm = "even"
    """How to choose the other trials. even: fill the space evenly. optuna: tree-structured Parzen estimators, which
    after 10 trials look near the good ones (install crowddist[optuna])."""

    def __post_init__(self) -> None:
        require_choice("objective", self.objective, ("none", *typing.get_args(Objective)))
        require_choice("algorithm", self.algorithm, typing.get_args(Algorithm))
        if self.trials < 2:
            raise InputError(f"trials must be at least 2, got {self.trials}")
        require_labelled(self.objective, self.labelled, option="search.labelled")


def require_labelled(objective: str, labelled: str, *, option: str) -> None:
    """Raises InputError where an objective lacks its labelled images, or has some and reads none."""
    if bool(labelled) != (objective in ("proxy", "labelled")):
        needs = f"reads no labels: leave --{option} out" if labelled else f"needs labelled images: give --{option}"
        raise InputError(f"the objective {objective} {needs}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of one adaptation. Equal ones on equal data end with the same bits on a CPU."""

    recipe: str
    """The recipe that the settings began with."""
    source: str
    """Labelled images: shards, or FORMAT:PATH:SPLIT. FORMAT is shanghaitech, ucf_qnrf, gcc, ...;
    renderer:LOOK:NUM_IMAGES renders crowds; composite:DATA?counter=RUN paints people into images."""
    more_sources: tuple[str, ...] = ()
    """More labelled images, each "SHARE DATA", e.g. "0.2 renderer:broad:200": this data set gives that share of the
    source's crops, `source` the rest."""
    target: str
    """Images of your own cameras: folder, shards, FORMAT:PATH:SPLIT. Labels are not read."""
    evaluation: str = ""
    """Labelled images of the target to evaluate on; with a --target of your own: none, unless you give some. Nothing
    else opens them; without them no error is reported."""
    calibration: str = ""
    """Labelled images like the source's that training does not see: they give counts their intervals; empty: none. Give
    others with another source; an image that is also in the source stops the run."""
    boxes: str = ""
    """Images with boxes: wider_face:PATH, crowd_human:PATH. Empty: none. bi_knowledge pre-trains its detector on them;
    the segmenter of semantic_consistency learns from their masks."""
    skip_bad: bool = False
    """Leave out images that cannot be read. A list of them, raw ones and those in shards, is written beside the shards;
    without this flag the first one stops the run."""
    method: str = "self_supervision"
    """Method; `crowddist adapt --help` lists them. One of source_only, self_supervision, bi_knowledge,
    semantic_consistency, translation, combined, supervised."""
    storage: str = "runs"
    """Folder or URL that keeps the runs."""
    run_name: str = ""
    """Name of the run; empty: the recipe's name. The same name again resumes the run. Its folder lies below
    `storage`."""
    seed: int = 0
    """Seed of all random numbers."""
    num_workers: int = 1
    """Training workers (DDP ranks)."""
    min_workers: int = 0
    """Fewest training workers to continue with when machines are lost or missing; returning machines are used again, up
    to num_workers. The batch stays the same. 0: always wait for num_workers."""
    num_labellers: int = 0
    """Actors that label and evaluate; 0: as many as training workers."""
    launcher: Literal["ray", "local"] = "ray"
    """ray, or local: one worker, in this process, without Ray."""
    threads: int = 0
    """CPU threads of each worker; 0: an equal share of the cores of the machines present at the start."""
    grace_s: float = 25.0
    """Seconds after SIGTERM or SIGUSR1 to write a checkpoint and exit with code 75; then training exits anyway."""
    patience_s: int = 600
    """Seconds that workers wait for one of them within a step; then the group restarts from its last checkpoint."""
    counter: CounterConfig = field(default_factory=CounterConfig)
    regressor: RegressorConfig = field(default_factory=RegressorConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    localiser: LocaliserConfig = field(default_factory=LocaliserConfig)
    translator: TranslatorConfig = field(default_factory=TranslatorConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    self_supervision: SelfSupervisionConfig = field(default_factory=SelfSupervisionConfig)
    bi_knowledge: BiKnowledgeConfig = field(default_factory=BiKnowledgeConfig)
    semantic_consistency: SemanticConsistencyConfig = field(default_factory=SemanticConsistencyConfig)
    translation: TranslationConfig = field(default_factory=TranslationConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    tracking_uri: str = ""
    """MLflow's store; none: no tracking. Empty: $MLFLOW_TRACKING_URI if set, else a sqlite file below `storage`, or in
    the current folder if `storage` is s3://."""
    experiment: str = ""
    """MLflow's experiment. Empty: the recipe's name."""

    def __post_init__(self) -> None:
        settings = flat(dataclasses.asdict(self))
        _require_sane_numbers(settings)
        if self.num_workers < 1 or self.num_labellers < 0 or self.threads < 0:
            raise InputError("num_workers must be at least 1, num_labellers and threads at least 0")
        if not 0 <= self.min_workers <= self.num_workers:
            raise InputError(f"min_workers must be 0 to num_workers ({self.num_workers}), got {self.min_workers}")
        if self.grace_s < 0 or self.patience_s < 1:
            raise InputError(f"grace_s must be at least 0 and patience_s at least 1, got {self.grace_s:g}, "
                             f"{self.patience_s}")
        if self.launcher == "local" and self.num_workers > 1:
            raise InputError(f"the local launcher has one worker, got num_workers {self.num_workers}; use "
                             "--launcher ray")
        facts_of(self.method).check(self)
        for name, size in self._batches().items():
            if size % self.num_workers:
                raise InputError(f"{name} {size} cannot be shared equally by {self.num_workers} workers")
        if self.boxes and not facts_of(self.method).takes_boxes(self):
            others = ", ".join(name for name, facts in METHODS.items() if facts.takes_boxes(self))
            raise InputError(f"{self.method} learns from no boxes, with these settings; {others} would: leave them out "
                             '(--boxes "")')
        _require_no_secrets(settings)
        for text in (self.source, self.target, *filter(None, [self.evaluation, self.calibration, self.boxes,
                                                        self.search.labelled])):
            parse_data(text)
        if sum(parse_share(text)[0] for text in self.more_sources) >= 1:
            raise InputError(f"the shares of more_sources leave nothing to the source: {', '.join(self.more_sources)}; "
                             "they must be below 1 together")
        if "/" in self.run_name or not self.run_name.isprintable() or self.run_name in (".", "..", *NOT_RUNS):
            raise InputError(f"run_name must be a plain name and none of {', '.join(NOT_RUNS)}, got {self.run_name!r}")
        if len(self.run_name.encode()) > _LONGEST_NAME_BYTES:
            raise InputError(f"run_name must have at most {_LONGEST_NAME_BYTES} bytes, got {self.run_name[:40]!r}...")

    def _batches(self) -> dict[str, int]:
        """Name -> size of the batches that workers share."""
        return {"train.batch_size": self.train.batch_size, **facts_of(self.method).batches(self)}

    def group_sizes(self) -> list[int]:
        """The sizes that a training group may have, rising: from min_workers to num_workers, those that share all
        batches equally.
        """
        sizes = self._batches().values()
        return [number for number in range(self.min_workers or self.num_workers, self.num_workers + 1)
                if not any(size % number for size in sizes)]


def _require_sane_numbers(settings: Mapping[str, Any]) -> None:
    """Raises InputError for numbers that a record cannot hold, see `of_record`, or that no machine has room for."""
    for name, value in settings.items():
        most = _MOST.get(name.rpartition(".")[2], MOST)
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, int | float) and (not abs(number) < MOST or number > most):
                is_long = isinstance(number, int) and abs(number) >= 10**99
                raise InputError(f"{name} must be a number {'below 2^63' if most == MOST else f'up to {most:g}'}, "
                                 f"got {'one of a hundred digits' if is_long else f'{number:g}'}")


def _require_no_secrets(settings: Mapping[str, Any]) -> None:
    """Everybody who sees a run sees its config.json, its report and MLflow."""
    texts = {name: [text for text in (value if isinstance(value, tuple | list) else [value]) if isinstance(text, str)]
             for name, value in settings.items()}
    if not holds_secret("\n".join(itertools.chain(*texts.values()))):  # one look at the environment, not a hundred
        return
    for name, values in texts.items():
        if any(map(holds_secret, values)):
            raise InputError(f"{name} holds a password, a token or a signature, which config.json, the report and "
                             "MLflow would show: keys belong in the environment")


def to_json(config: RunConfig) -> str:
    """The config as JSON text; `from_json` reads it back equal."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full names, e.g. "train.steps"."""
    settings: dict[str, Any] = {}
    for name, value in config.items():
        settings |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return settings


def from_json(text: str) -> RunConfig:
    """The config that `to_json` wrote, in this or an older version; missing settings take their defaults.

    Raises:
        InputError: the text is no config, or has another value for a setting that is a constant now.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise TypeError(f"it holds {type(values).__name__}, not an object")
        for name, constant in REMOVED_SETTINGS.items():
            group, _, setting = name.partition(".")
            value = values.get(group, {}).pop(setting, constant)
            if constant is not None and value != constant:
                raise InputError(f"{name} is {value} in this configuration, but is always {constant} in this version "
                                 "of crowddist: use the version that recorded it")
        return of_record(RunConfig, values)
    except InputError:
        raise
    except (TypeError, KeyError, AttributeError, RecursionError, ValueError) as error:
        raise InputError(f"not a run's configuration: {error}") from error
