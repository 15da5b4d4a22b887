"""Save and restore a training run: one safetensors file, replaced atomically, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

FORMAT = "avi-training-3"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message says why and what to do."""


def write(path: Path, tensors: dict[str, Tensor], meta: dict) -> None:
    """Write beside `path`, flush to the disk, then rename: a kill at any moment leaves the old
    file or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = json.dumps(meta, sort_keys=True)
    text = {"format": FORMAT, "meta": words, "sha256": digest(tensors, words)}
    blob = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, text)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the metadata of a checkpoint.

    Raises CheckpointError for a file that is truncated, damaged or not a checkpoint of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({error}); it was left untouched: "
            "delete it to start this run again, or name another file"
        ) from error
    if text.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but no training checkpoint of this version; "
            "it was left untouched: name another file"
        )
    if text.get("sha256") != digest(tensors, text.get("meta", "")):
        raise CheckpointError(
            f"{path} is damaged (its checksum does not fit); it was left untouched: "
            "delete it to start this run again, or name another file"
        )
    return tensors, json.loads(text["meta"])


def digest(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 over a text and every tensor's name, type, shape and bytes, in hexadecimal."""
    total = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def pack_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors `optimiser.<parameter>.<name>`."""
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser.{index}.{name}": value
        for index, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def unpack_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `pack_optimiser` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def pack_modules(**modules: nn.Module) -> dict[str, Tensor]:
    """Every module's parameters and buffers under its own prefix."""
    return {f"{p}.{k}": v for p, m in modules.items() for k, v in m.state_dict().items()}


def unpack_modules(tensors: dict[str, Tensor], **modules: nn.Module) -> None:
    """Put back what `pack_modules` took out.

    Raises CheckpointError when names or shapes do not fit.
    """
    for prefix, module in modules.items():
        own = {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(prefix + ".")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint holds another {prefix}: {error}") from error
