"""What a TensorBoard that looks at a directory of event files knows."""

from collections.abc import Iterator
from pathlib import Path

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata


def events(directory: Path) -> EventAccumulator:
    """Reads all there is; `Reload` on the result reads on, as an open TensorBoard does."""
    accumulator = EventAccumulator(str(directory), tensor_size_guidance={"scalars": 0, "text": 0})
    accumulator.Reload()
    return accumulator


def scalar_tags(known: EventAccumulator) -> set[str]:
    return set(known.PluginTagToContent("scalars"))


def points(known: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    """Steps and values of a curve."""
    return [(event.step, event.tensor_proto.float_val[0]) for event in known.Tensors(tag)]


def texts(known: EventAccumulator, tag: str) -> list[tuple[int, str]]:
    """Steps and samples."""
    found = known.Tensors(f"{tag}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in found]


def session(known: EventAccumulator) -> tuple[dict[str, float | str], bool]:
    """Hyperparameters of a run, and whether it ended well."""
    found = known.PluginTagToContent("hparams")
    shown = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG]).hparams
    values = {name: getattr(shown[name], shown[name].WhichOneof("kind")) for name in shown}
    return values, metadata.SESSION_END_INFO_TAG in found


def runs(logdir: Path) -> Iterator[str]:
    """The runs that a TensorBoard shows for a directory."""
    for path in sorted({path.parent for path in logdir.rglob("events.out.tfevents.*")}):
        yield str(path.relative_to(logdir))
