"""Convert a checkpoint written by DeepSpeed into one from which `gpt2dist train CONFIG` resumes.

    python tools/import_deepspeed_checkpoint.py CHECKPOINT CONFIG --trust [section.key=value …]

CHECKPOINT is the output of a DeepSpeed engine's `save_checkpoint` at ZeRO stage 1, 2 or 3, for transformers'
GPT2LMHeadModel trained with Adam or AdamW. Give the directory with the file `latest`, or one of its global_step…
directories. CONFIG is the run that resumes from it. Its model section must have the sizes of that model, and its
datasets must have the same tokenizer. A wrong `n_head` cannot be detected, because DeepSpeed does not record it.
The weights, both moments and the number of steps are imported. DeepSpeed does not store the position in the data,
so the run resumes where it would be after that number of its own steps.

DeepSpeed's files are pickles, and reading a pickle runs whatever code its writer put in it. Read only files that
you trust.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.checkpoint.whole_state import Unpartitioned
from gpt2dist.config import Config
from gpt2dist.distributed.world import World
from gpt2dist.errors import RunError, UserError
from gpt2dist.model.gpt2 import LanguageModel, named_parameters
from gpt2dist.output_paths import check_directory
from gpt2dist.plan import Plan, targets_per_sample
from gpt2dist.preflight import resolve
from gpt2dist.tokenizer.tokenizer import Tokenizer
from gpt2dist.training.resume_checks import data_order, datasets_of, probe_loss
from gpt2dist.training.setup import build_batcher, checkpoint_store

TIED, EMBEDDING = "lm_head.weight", "transformer.wte.weight"
FILES = {"param": "fp32", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}


def main(argv: list[str] | None = None) -> int:
    """Import a checkpoint, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="directory that DeepSpeed wrote")
    parser.add_argument("config", type=Path, help="YAML file of the run that will resume")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys to change")
    parser.add_argument(
        "--trust", action="store_true", help="confirm that the files come from somebody you trust"
    )
    args = parser.parse_intermixed_args(argv)
    try:
        if not args.trust:
            raise UserError(f"{args.checkpoint}: reading a pickle runs its writer's code; say --trust if you may")
        config, plan = resolve(args.config, args.overrides, 1)
        check_directory(config.output_dir, "run.output_dir")
        print(f"saved {import_checkpoint(tag_directory(args.checkpoint), config, plan)}", file=sys.stderr)
    except (UserError, RunError) as error:
        print(f"import_deepspeed_checkpoint: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


def tag_directory(path: Path) -> Path:
    """Return the directory with the files: the one that `latest` names, or the path itself.

    Raises:
        UserError: The directory lacks DeepSpeed's files of the model or of a ZeRO optimizer.
    """
    latest = path / "latest"
    tag = path / latest.read_text().strip() if latest.is_file() else path
    if not list(tag.glob("*model_states.pt")) or not list(tag.glob("*optim_states.pt")):
        raise UserError(
            f"{tag}: not a checkpoint of DeepSpeed at ZeRO stage 1, 2 or 3 (no *model_states.pt with "
            "*optim_states.pt); name the directory that save_checkpoint was given"
        )
    return tag


def import_checkpoint(tag: Path, config: Config, plan: Plan) -> Path:
    """Write the run's first checkpoint.

    Args:
        tag: The directory with DeepSpeed's files.
        config: The configuration of the run that resumes.
        plan: Its plan.

    Returns:
        The directory of the checkpoint.

    Raises:
        UserError: The run already has checkpoints or trains with another optimizer than AdamW, its model differs
            from the checkpoint's, or the checkpoint's step is not within the run.
        RunError: DeepSpeed cannot read its own files.
    """
    if config.optimizer.kind != "adamw":
        raise UserError(
            f"optimizer.kind: {config.optimizer.kind} cannot use the moments of Adam that are imported; "
            "set it to adamw"
        )
    world = World(0, 0, 1, torch.device("cpu"))
    store = checkpoint_store(config, plan, world, Tokenizer.load(plan.tokenizer))
    if any(store.directory.glob("step-*")):
        raise UserError(f"{store.directory}: the run has checkpoints; set run.output_dir to a new directory")
    with tempfile.TemporaryDirectory() as home:
        model = LanguageModel(plan.shape, plan.end_of_text_id)
        state = ImportedState(to_universal(tag, Path(home)), model)
        return store.save(state, trainer_state(read_counts(tag), config, plan, model))


def to_universal(tag: Path, home: Path) -> Path:
    """Have DeepSpeed split its files by parameter into NAME/fp32.pt, exp_avg.pt and exp_avg_sq.pt.

    Returns:
        The directory with a directory for each parameter.

    Raises:
        RunError: DeepSpeed cannot read its own files.
    """
    from deepspeed.checkpoint import ds_to_universal

    words = ["--input_folder", str(tag), "--output_folder", str(home / "universal"), "--inject_missing_state"]
    words += ["--num_extract_workers", "1", "--num_merge_workers", "1"]  # with one, it starts no processes
    argv, sys.argv = sys.argv, ["ds_to_universal", *words]  # its parser reads nothing else
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            ds_to_universal.main(ds_to_universal.parse_arguments())
    except Exception as error:  # it checks little, so damage shows as any exception
        raise RunError(f"{tag}: DeepSpeed cannot read it ({type(error).__name__}: {error})") from None
    finally:
        sys.argv = argv
    return home / "universal/zero"


def read_counts(tag: Path) -> dict[str, int]:
    """Return the number of steps that the engine has done, and how many of them it skipped."""
    file = min(tag.glob("*model_states.pt"))
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)
    return {key: int(content.get(key, 0)) for key in ("global_steps", "skipped_steps")}


class ImportedState(Unpartitioned):
    """Weights and moments in DeepSpeed's universal format, with the interface that `CheckpointStore.save` needs.

    Args:
        directory: Directory with a directory for each parameter.
        model: Model to load the weights into.

    Raises:
        UserError: The model's parameters have other names or shapes than the checkpoint's, or its output layer is
            not its embedding.
    """

    def __init__(self, directory: Path, model: LanguageModel):
        self.parameters = dict(named_parameters(model))
        self._places = {path.name.removeprefix("module."): path for path in directory.iterdir() if path.is_dir()}
        unlike = sorted(set(self._places) - {TIED} ^ set(self.parameters))
        if unlike:
            raise UserError(f"model: parameter {unlike[0]} is not in both models; give the sizes of the other")
        for name, parameter in self.parameters.items():
            whole = self.gather(name)["param"]
            if whole.shape[1:] != parameter.shape[1:] or (whole.shape != parameter.shape and "wte" not in name):
                raise UserError(
                    f"model: {name} has the shape {list(parameter.shape)}, {list(whole.shape)} in the "
                    "checkpoint; give the sizes of that model"
                )
            rows = min(len(whole), len(parameter))
            parameter.data[:rows] = whole[:rows]
        if TIED in self._places:
            self._require_tied(self._places[TIED])

    def _require_tied(self, place: Path) -> None:
        """Check that the output layer is the embedding. DeepSpeed may hold it in 16 bits, and without moments."""
        head, embedding = self._read(TIED, "fp32"), self._read(EMBEDDING, "fp32")
        same = head.shape == embedding.shape and torch.allclose(head, embedding, rtol=2**-8, atol=2**-24)
        if (place / "exp_avg.pt").is_file() or not same:
            raise UserError(
                f"model: {TIED} in the checkpoint is not its embedding (tie_word_embeddings was false), and "
                "gpt2dist trains only models whose output layer is; give another checkpoint"
            )

    def shape_of(self, name: str) -> torch.Size:
        """Return the unpartitioned shape of a parameter."""
        return self.parameters[name].shape

    def state_names(self, name: str) -> tuple[str, ...]:
        """Return the names of the moments of a parameter."""
        return "exp_avg", "exp_avg_sq"

    def gather(self, name: str) -> dict[str, Tensor]:
        """Return a parameter and its moments, in fp32."""
        return {key: self._read(name, file) for key, file in FILES.items()}

    def local(self, name: str, key: str) -> Tensor:
        """Return a parameter or a moment, flat. Reads one file."""
        return self._read(name, FILES[key]).reshape(-1)

    def _read(self, name: str, file: str) -> Tensor:
        content = torch.load(self._places[name] / f"{file}.pt", weights_only=True)
        tensor = content["param"] if isinstance(content, dict) else content
        tensor, shape = tensor.detach().float(), self.parameters[EMBEDDING if name == TIED else name].shape
        flat = tensor.dim() == 1 and len(shape) > 1  # stage 3 saves flat tensors
        return tensor.view(-1, shape[1]) if flat and len(tensor) % shape[1] == 0 else tensor

    def link(self) -> None:
        """Do nothing: there is nothing to link."""


def trainer_state(counts: dict[str, int], config: Config, plan: Plan, model: LanguageModel) -> TrainerState:
    """Return the state of a run that has done the checkpoint's number of steps.

    Raises:
        UserError: The checkpoint's step is not within the run.
    """
    step = counts["global_steps"]
    if not 0 < step < plan.total_steps:
        raise UserError(
            f"schedule: the checkpoint has done {step} steps, the run has {plan.total_steps}; add some"
        )
    samples = plan.batch_sizes.samples(step)
    with torch.no_grad():
        probe = probe_loss(model.score, build_batcher(config, plan))
    return TrainerState(
        step=step,
        consumed_samples=samples,
        consumed_tokens=round(samples * targets_per_sample(plan.datasets)),
        updates=step - counts["skipped_steps"],
        evaluation_done=True,
        lr=config.optimizer.lr,
        loss_scaler={},
        history={},
        probe_loss=probe,
        datasets=datasets_of(plan),
        tokenizer=plan.tokenizer_fingerprint,
        order=data_order(config, plan),
        world_size=1,
        zero_stage=config.zero.stage,
        precision="fp32",
    )


if __name__ == "__main__":
    sys.exit(main())
