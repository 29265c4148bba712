"""safetensors: shards of a model, written, mapped and read slice by slice, replaced by a rename."""

import os
import sys
from pathlib import Path

import numpy
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

folder = Path(sys.argv[1])
random = numpy.random.default_rng(7)
for shard in range(4):
    tensors = {f"layer.{shard}.{part}": random.random((256, 512), dtype="f4") for part in "abc"}
    path = folder / f"model-{shard}.safetensors"
    save_file(tensors, path.with_suffix(".new"), metadata={"shard": str(shard)})
    os.replace(path.with_suffix(".new"), path)
    assert all((load_file(path)[name] == tensor).all() for name, tensor in tensors.items())
    with safe_open(path, framework="numpy") as file:
        for name, tensor in tensors.items():
            assert (file.get_slice(name)[100:200, ::] == tensor[100:200]).all()
        assert file.metadata() == {"shard": str(shard)}
print("all as written")
