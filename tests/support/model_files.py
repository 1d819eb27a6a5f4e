"""Model directories for tests that do not compute with them, written without torch."""

import json

from gpt2dist.model.huggingface import PREFIX, Pretrained

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "BOOL": 1}


def write_tensors(path, tensors):
    """Writes a safetensors file of zeros, which takes no room on the disk: name → (dtype, shape) or bytes too."""
    header, contents, end = {}, [], 0
    for name, (dtype, shape, *content) in tensors.items():
        size = BYTES[dtype]
        for each in shape:
            size *= each
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        contents += [(end, *content)] if content else []
        end += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for begin, content in contents:
            file.seek(8 + len(text) + begin)
            file.write(content)


def tensors_of(directory):
    """The tensors that config.json asks for, as `write_tensors` takes them."""
    parameters = Pretrained.read(directory).parameters()
    return {PREFIX * (name != "lm_head.weight") + name: ("F32", shape) for name, shape in parameters.items()}


def write_model(directory, **config):
    """Writes a model directory whose weights are zero."""
    directory.mkdir(parents=True, exist_ok=True)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 11}
    (directory / "config.json").write_text(json.dumps({"model_type": "gpt2"} | sizes | config))
    write_tensors(directory / "model.safetensors", tensors_of(directory))
    return directory
