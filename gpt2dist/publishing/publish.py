"""Publish a model: find it, check that it is complete and fits on the disk, then export it with a model card."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2dist.errors import UserError

if TYPE_CHECKING:  # importing torch would slow down --help
    from gpt2dist.publishing.exporter import Exported

DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per parameter, by dtype."""
BESIDE_THE_WEIGHTS = 20_000_000
"""Maximum bytes of the other files, such as the tokenizer."""


def publish(
    model: str,
    output: Path,
    dtype: str = "float32",
    name: str | None = None,
    license: str | None = None,
    results: Sequence[Path] = (),
    push_to_hub: str | None = None,
    public: bool = False,
    on_info: Callable[[str], None] = lambda text: None,
) -> "Exported":
    """Export a model to a new directory, which appears only after its weights have been read back and compared.

    Args:
        model: A checkpoint, a run directory (its newest checkpoint), a model directory or a hub name.
        output: The directory to create.
        dtype: Dtype of the weights, a key of `DTYPES`.
        name: Name of the model in its card; None for the run's name or that of the directory.
        license: The hub's name of a license, such as "mit"; None omits it.
        results: Results of `gpt2dist evaluate --output` for the card.
        push_to_hub: OWNER/NAME of the repository on the hub to push the model to; None pushes nothing.
        public: Whether everyone may read that repository.
        on_info: Called with a line of text at the start of each step.

    Raises:
        UserError: The model, the output or an option cannot be used.
        RunError: The files cannot be written, do not match the model, or were not pushed. In the last case the
            directory is complete.
    """
    from gpt2dist.checkpoint.manifest import require_whole_model
    from gpt2dist.model.find_model import locate
    from gpt2dist.publishing.origin import ModelProvenance
    from gpt2dist.publishing.output_directory import require_room

    for option, value in (("name", name), ("license", license)):
        if value is not None and not value.strip():
            raise UserError(f"{option} is empty; give one, or omit it")
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if public and push_to_hub is None:
        raise UserError("--public: applies only to a push; add --push-to-hub OWNER/NAME")
    require_room(output, 0)
    repository = None
    if push_to_hub is not None:
        from gpt2dist.publishing.push import HubRepository

        repository = HubRepository(push_to_hub, public)
        repository.check()
    source = locate(model)
    on_info(f"checking {source}")
    require_whole_model(source)
    origin = ModelProvenance.read(source, results)
    require_room(output, DTYPES[dtype] * origin.shape.parameters + BESIDE_THE_WEIGHTS)

    from gpt2dist.publishing.card import metadata, model_card
    from gpt2dist.publishing.exporter import export

    directory = output.resolve().name
    name = name or (origin.config.run.name if origin.config else "") or directory
    if repository:
        repository.check_card(metadata(name, origin, license))
    card = partial(model_card, name, repository.name if repository else directory, origin, license=license)
    exported = export(source, output, dtype, card, on_info)
    if repository:
        on_info(f"{output} is complete; pushing it to {repository.url}")
        commit = repository.push(output)
        on_info(f"pushed {commit}, {'public' if public else 'private'}")
    return exported
