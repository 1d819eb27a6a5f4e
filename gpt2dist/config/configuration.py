"""The run configuration: all sections, read from a file or from dictionaries."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from gpt2dist.config.reading import Problem, parse_settings, raise_problems, read_yaml
from gpt2dist.config.schema import (
    BatchSection,
    CheckpointSection,
    DataSection,
    EvaluationSection,
    ModelSection,
    MonitoringSection,
    OptimizerSection,
    Precision,
    RunSection,
    ScheduleSection,
    Section,
    StabilitySection,
    ZeroSection,
)
from gpt2dist.errors import UserError


class Config(Section):
    """Configuration of a gpt2dist run."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    batch: BatchSection = BatchSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    precision: Precision = Field(
        "fp32",
        description="Number format of weights and passes. `bf16` and `fp16` train a 16-bit model with fp32 "
        "weights in the optimizer. They need `zero.stage` 1 or more. `autocast_bf16` keeps fp32 weights and "
        "computes matrix products in bf16. It needs `zero.stage` 2 or less.",
    )
    zero: ZeroSection = ZeroSection()
    checkpoint: CheckpointSection = CheckpointSection()
    evaluation: EvaluationSection = EvaluationSection()
    monitoring: MonitoringSection = MonitoringSection()
    stability: StabilitySection = StabilitySection()

    @classmethod
    def read(cls, path: str | os.PathLike[str], *overrides: str) -> "Config":
        """Read a configuration file.

        Args:
            path: A YAML file. Its name, without the suffix, is the default of `run.name`.
            overrides: Keys to change, as on the command line: "section.key=value", where value is YAML.

        Raises:
            UserError: The file cannot be read, or it has mistakes; the message lists each with its key.

        Example:
            >>> config = gpt2dist.Config.read("configs/quickstart.yaml", "optimizer.lr=3e-4")
            >>> config.optimizer.lr
            0.0003
            >>> config.override("run.name=wider", "model.n_embd=256").output_dir
            PosixPath('runs/wider')
        """
        config, problems = read(Path(path), overrides)
        raise_problems(problems, str(path))
        return config

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], *overrides: str) -> "Config":
        """Build a configuration from nested dictionaries, with the sections and keys of a configuration file.

        Args:
            settings: Section → key → value. Paths may be strings or path-like objects, such as a `Dataset`.
                `run.name` or `run.output_dir` is required.
            overrides: As for `read`.

        Raises:
            UserError: The settings have mistakes; the message lists each with its key.

        Example:
            >>> config = gpt2dist.Config.from_dict({
            ...     "run": {"name": "tiny"},
            ...     "model": {"n_layer": 2, "n_head": 2, "n_embd": 64, "context_length": 64},
            ...     "data": {"train": [{"path": "data/quickstart"}]},
            ...     "schedule": {"total_steps": 100},
            ... })
        """
        try:
            raw = json.loads(json.dumps(settings, default=os.fspath))
        except (TypeError, ValueError) as error:
            raise UserError(f"the settings are not made of JSON values and paths ({error})") from None
        config, problems = parse_settings(cls, raw, overrides)
        if not config.run.name:
            known = {each.key for each in problems}
            if config.run.output_dir is None and not known & {"run", "run.name", "run.output_dir"}:
                problems.append(Problem("run.name", "missing; add it, or run.output_dir"))
            config = config._with_name((config.run.output_dir or Path()).name)
        raise_problems(problems, config.run.name or "the settings")
        return config

    def override(self, *overrides: str) -> "Config":
        """Return a copy with some keys changed, such as `config.override("optimizer.lr=3e-4", "run.name=b")`.

        Raises:
            UserError: An override is not of the form "section.key=value", or its value is wrong.
        """
        return self.from_dict(self.model_dump(mode="json"), *overrides)

    @property
    def output_dir(self) -> Path:
        """The run directory."""
        return self.run.output_dir or Path("runs") / self.run.name

    def to_yaml(self) -> str:
        """Return the configuration as YAML that `read` turns back into an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def _with_name(self, name: str) -> "Config":
        return self.model_copy(update={"run": self.run.model_copy(update={"name": name})})


def read(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, list[Problem]]:
    """Read a configuration file and apply overrides to its keys. `Config.read` raises the problems instead.

    Returns:
        The configuration, with defaults in place of wrong values, and all problems found.

    Raises:
        UserError: The file cannot be read, is not valid YAML, or is not a mapping.
    """
    config, problems = parse_settings(Config, read_yaml(path, Config), overrides)
    return (config if config.run.name else config._with_name(path.stem)), problems
