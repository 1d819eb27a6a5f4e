"""Check that the files of a model directory hold the model that its config.json describes, and no other.

The verbs load models with different libraries, which fill in missing tensors, drop others or convert them, each
in its own way. So all verbs refuse a directory that could be read as two models. Only the headers of the files
are read, and an output layer that should equal the embedding. Does not import torch.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from gpt2dist import json_files
from gpt2dist.errors import UserError
from gpt2dist.model.huggingface import EMBEDDING, OUTPUT_LAYER, PREFIX, Pretrained, bare_name

if TYPE_CHECKING:  # numpy would slow down `report`, which compares no tensors
    import numpy as np
    from numpy.typing import NDArray

DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a number, by the name in the header of each dtype that weights may have."""
MASK = re.compile(r"h\.\d+\.(attn|crossattention)\.(bias|masked_bias)")
"""Names of the causal masks in old files, OpenAI's among them. Models make their own."""
PIECE = 2**20
"""Number of elements compared at a time."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Attributes:
        file: The file.
        name: Name in that file.
        dtype: Name of the dtype, such as "F32".
        shape: Its sizes.
        begin: Position of its first byte in the file.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int


def require_model_of_config(directory: Path, files: Sequence[Path]) -> None:
    """Check that the files hold each tensor of the model that config.json describes once, and no other one.

    Args:
        directory: The model directory.
        files: Its safetensors files.

    Raises:
        UserError: config.json or a file cannot be read, or a tensor is missing, unknown, duplicated, of another
            shape, or not floating-point, or the output layer of a tied model is not its embedding.
    """
    model = Pretrained.read(directory)
    stored = _by_name(directory, files)
    if model.shape.n_layer > len(stored):  # parameters() would take all memory if the number is absurd
        raise UserError(
            f"{directory}: has {len(stored):,} tensors in its files, too few for the {model.shape.n_layer:,} "
            "layers that its config.json says; correct config.json, or give a whole model directory"
        )
    _require_no_other(directory, model, stored)
    for name, shape in model.parameters().items():
        if name not in stored:
            raise UserError(f"{directory}: {_missing(name)}")
        _require_shape(directory, stored[name], shape)
    if model.tied and OUTPUT_LAYER in stored:
        _require_tied(directory, stored[EMBEDDING], stored[OUTPUT_LAYER])


def _by_name(directory: Path, files: Sequence[Path]) -> dict[str, StoredTensor]:
    """Return the tensors by their names without `PREFIX`, which the output layer never has."""
    found: dict[str, StoredTensor] = {}
    for tensor in (each for file in files for each in stored_tensors(file)):
        bare = bare_name(tensor.name)
        name = tensor.name if bare == OUTPUT_LAYER else bare
        if name in found:
            twin = found[name]
            raise UserError(
                f"{directory}: has {bare} twice ({twin.name} in {twin.file.name}, {tensor.name} in "
                f"{tensor.file.name}), and it is unclear which one counts; remove one, or save the model again"
            )
        found[name] = tensor
    return found


def stored_tensors(file: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of a file, by its header.

    Raises:
        UserError: It is not a whole safetensors file.
    """
    try:
        with safe_open(file, framework="numpy"), file.open("rb") as content:  # it checks all offsets and sizes
            length = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(length))
    except (OSError, ValueError, SafetensorError) as error:
        reason = json_files.reason(error)
        raise UserError(f"{file}: cannot be read ({reason}); copy or save the model again") from error
    for name, each in header.items():
        if name != "__metadata__":
            begin = 8 + length + each["data_offsets"][0]
            yield StoredTensor(file, name, each["dtype"], tuple(each["shape"]), begin)


def _require_no_other(directory: Path, model: Pretrained, stored: dict[str, StoredTensor]) -> None:
    for name in sorted(stored.keys() - model.parameters().keys() - {OUTPUT_LAYER}):
        if not MASK.fullmatch(name):
            raise UserError(
                f"{directory}: has a tensor {stored[name].name} in {stored[name].file.name}, which is not part "
                "of the model that its config.json describes; correct config.json, or save the model again"
            )


def _missing(name: str) -> str:
    if name == OUTPUT_LAYER:
        return (
            f"has no {OUTPUT_LAYER} in its files, though its config.json says that the output layer is not the "
            "embedding (tie_word_embeddings is false); set it to true if it is, or give a whole model directory"
        )
    return (
        f"has no {PREFIX}{name} in its files, which is part of the model that its config.json describes; give a "
        "whole model directory"
    )


def _require_shape(directory: Path, tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise UserError(
            f"{directory}: {tensor.name} has the shape {list(tensor.shape)} in its files, and its config.json "
            f"says {list(shape)}; correct config.json, or save the model again"
        )
    require_floating_point(tensor)


def require_floating_point(tensor: StoredTensor) -> None:
    """Check that a tensor's dtype is one of DTYPES.

    Raises:
        UserError: It is not; such a tensor would be converted silently.
    """
    if tensor.dtype not in DTYPES:
        raise UserError(
            f"{tensor.file}: {tensor.name} is stored as {tensor.dtype}, which is not a supported "
            f"floating-point type ({', '.join(DTYPES)}); save the model in one of these, without quantization"
        )


def _require_tied(directory: Path, embedding: StoredTensor, output_layer: StoredTensor) -> None:
    _require_shape(directory, output_layer, embedding.shape)
    row = _first_different_row(embedding, output_layer)
    if row is not None:
        raise UserError(
            f"{directory}: has two output layers: its config.json ties the output layer to the embedding "
            f"(tie_word_embeddings is true, the default), but {OUTPUT_LAYER} in {output_layer.file.name} is not "
            f"{embedding.name} (they differ in row {row}); set tie_word_embeddings to false in config.json if "
            f"the model was trained with {OUTPUT_LAYER}, or else remove that tensor from the file"
        )


def _first_different_row(one: StoredTensor, other: StoredTensor) -> int | None:
    """Return the first row in which two matrices of one shape differ, as fp32; None if they are the same."""
    import numpy as np

    rows, columns = one.shape
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.begin)
        second.seek(other.begin)
        for done in range(0, rows * columns, PIECE):
            count = min(PIECE, rows * columns - done)
            a = _float32(first.read(count * DTYPES[one.dtype]), one.dtype)
            b = _float32(second.read(count * DTYPES[other.dtype]), other.dtype)
            different = np.flatnonzero(a.view(np.uint32) != b.view(np.uint32))  # the bits, since NaN is not NaN
            if len(different):
                return (done + int(different[0])) // columns
    return None


def _float32(content: bytes, dtype: str) -> "NDArray[np.float32]":
    import numpy as np

    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return np.frombuffer(content, f"<f{DTYPES[dtype]}").astype(np.float32)
