"""What `storyprior doctor` reports: hardware, dtype, packaged models, optional backends."""

import os
from importlib.util import find_spec

import torch

from experiments.runs import versions
from probes.conversion import PACKAGED, cache_dir
from probes.loading import has_fast_bfloat16, resolve_device, resolve_dtype

BACKENDS = {"transformer_lens": "transformer-lens", "nnsight": "nnsight", "ray": "ray"}


def findings() -> list[tuple[str, str]]:
    """Names and findings, in the order shown."""
    device = resolve_device()
    dtype = str(resolve_dtype("auto", device)).removeprefix("torch.")
    native = "native" if has_fast_bfloat16(device) else "not native here"
    rows = [("device", _device(device)), ("dtype", f"{dtype} (bfloat16 is {native})")]
    rows += [("version", f"{name} {found}") for name, found in versions().items()]
    rows.append(("cache", str(cache_dir())))
    for name, packaged in PACKAGED.items():
        ready = (cache_dir() / "models" / packaged.sha256[:16] / "storyprior.json").exists()
        rows.append(("model", f"{name}: {'ready' if ready else f'storyprior prepare {name}'}"))
    for module, package in BACKENDS.items():
        rows.append(("optional", f"{package}: {'found' if find_spec(module) else 'not installed'}"))
    return rows


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {torch.cuda.device_count()} in all"
    return f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores used"
