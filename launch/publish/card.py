"""The model card of a published sweep."""

from collections.abc import Iterator

from huggingface_hub import ModelCardData

from core.config import Quantize
from launch.publish.facts import command_of, version_of
from launch.publish.licenses import LICENSES
from launch.publish.plan import Publication
from launch.publish.results import measured_rows
from launch.publish.revisions import HELD_OUT, REWARDBENCH1, Revision, value_of
from launch.publish.table import has_shares, table

_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_BENCHMARK_PAPER = """\
@misc{RewardBench2,
    title={RewardBench 2: Advancing Reward Model Evaluation},
    author={Malik, Saumya and Pyatkin, Valentina and Land, Sander and Morrison, Jacob and Smith, Noah A. and Hajishirzi, Hannaneh and \
Lambert, Nathan},
    year={2025},
    howpublished={\\url{https://huggingface.co/spaces/allenai/reward-bench}},
}"""

_SOFTWARE = """\
@software{rewardloop,
    title={rewardloop},
    author={The rewardloop contributors},
    version={VERSION},
}"""


def card(publication: Publication, revision: Revision) -> str:
    """The model card on the branch of a revision: metadata, use, a table with a line for each revision, how they were made, terms.

    Revisions differ in the metadata alone, where some are adapters and others are not.
    """
    return f"---\n{_metadata(publication, revision)}\n---\n\n" + "\n".join(_text(publication)) + "\n"


def _metadata(publication: Publication, revision: Revision) -> str:
    terms, bases = publication.terms, publication.bases
    data = ModelCardData(
        base_model=bases[0] if len(bases) == 1 else bases,
        datasets=[*publication.datasets] or None,
        language=[*terms.language],
        library_name="peft" if revision.is_adapter else "transformers",
        license=terms.license,
        license_name=terms.license_name or None,
        license_link=terms.license_link or None,
        model_name=publication.name,
        pipeline_tag="text-classification",
        tags=["reward-model", "rewardloop"],
        base_model_relation="adapter" if revision.is_adapter else "finetune",
    )
    return data.to_yaml()


def _text(publication: Publication) -> Iterator[str]:
    name, num = publication.name, len(publication.revisions)
    several = f"one of {num} reward models published together" if num > 1 else "a reward model"
    yield f"# {name}\n"
    begin = f"{name} is {several}, trained on preference pairs with the Bradley-Terry loss by rewardloop {version_of(publication.best)}."
    if num > 1:
        yield f"{begin} Its `main` revision {_chosen_by(publication)}; the others are revisions of their own."
    else:
        yield f"{begin} The revision `{publication.best.name}` is the same as `main`; it stays if a better one is added."
    yield "\n## Use\n"
    yield from _usage(publication)
    yield "\n## Revisions\n"
    rows = table(publication)
    yield from (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])
    yield f"\n{_legend(publication)}"
    yield "\n## Training\n"
    yield from _training(publication)
    yield "\n## License\n"
    yield from _license(publication)
    yield "\n## Citation\n"
    yield from _citation(publication)


def _chosen_by(publication: Publication) -> str:
    best, score = publication.best, publication.score
    if not score:
        return "was chosen by the author"
    values = [value for revision in publication.revisions if (value := value_of(revision, score)) is not None]
    if not publication.has_one_benchmark or value_of(best, score) != max(values):
        return "was chosen by the author, and not by its score"
    if score in (HELD_OUT, REWARDBENCH1):
        return "is the best by " + ("held-out accuracy" if score == HELD_OUT else "its score on RewardBench 1")
    heading = next(name for name in table(publication)[0] if name.startswith("RewardBench 2 Score"))
    return f"is the best by its {heading.replace('Score', 'score')}"


def _usage(publication: Publication) -> Iterator[str]:
    best = publication.best
    loader = "AutoPeftModelForSequenceClassification" if best.is_adapter else "AutoModelForSequenceClassification"
    others = [revision.name for revision in publication.revisions[1:] if revision.is_adapter == best.is_adapter]
    yield "```python"
    yield "import torch"
    if best.is_adapter:
        yield f"from peft import {loader}\nfrom transformers import AutoTokenizer\n"
    else:
        yield f"from transformers import {loader}, AutoTokenizer\n"
    yield f'name, revision = "{publication.repo}", "main"' + (f'  # or another, such as "{others[-1]}"' if others else "")
    yield "tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)"
    yield f"model = {loader}.from_pretrained(name, revision=revision{', num_labels=1' if best.is_adapter else ''}).eval()"
    if _has_template(best):
        yield 'dialogue = [{"role": "user", "content": "What is 2 plus 3?"}, {"role": "assistant", "content": "It is 5."}]'
        yield 'inputs = tokenizer.apply_chat_template(dialogue, return_tensors="pt", return_dict=True)'
    else:
        yield 'inputs = tokenizer("What is 2 plus 3?", "It is 5.", return_tensors="pt")'
    yield "with torch.no_grad():\n    reward = model(**inputs).logits[0, 0].item()\n```\n"
    yield "The reward of a dialogue is the model's only logit; higher is better. It compares answers to the same prompt."
    adapters = [revision.name for revision in publication.revisions if revision.is_adapter]
    if adapters and len(adapters) < len(publication.revisions):
        kind = "AutoPeftModelForSequenceClassification" if not best.is_adapter else "AutoModelForSequenceClassification"
        some = ", ".join(revision.name for revision in publication.revisions if revision.is_adapter != best.is_adapter)
        yield f"These revisions are loaded by `{kind}` instead: {some}."
    if packed := [revision.name for revision in publication.revisions if revision.job.model.quantize == Quantize.nf4]:
        yield (
            f"The base of {', '.join(packed)} was quantized to {Quantize.nf4} in training and when it was scored; on a base that is not, "
            "rewards differ a little."
        )


def _has_template(revision: Revision) -> bool:
    """Whether the tokenizer of a revision has a chat template; encoders may have none, and read question and answer as a pair."""
    own = revision.weights / "tokenizer_config.json"
    return any((revision.weights / name).is_file() for name in _TEMPLATES) or (
        own.is_file() and '"chat_template"' in own.read_text("utf-8")
    )


def _legend(publication: Publication) -> str:
    last = [revision.name for revision in publication.revisions if revision.step != revision.best_step]
    but = f" (of {', '.join(last)} at the last one, since the best was not kept)" if last else ""
    begin = f"Scores are in points of 100, at the best checkpoint of each run{but}"
    if not publication.scored:
        return f"{begin}."
    share = "the part in the column Rows" if has_shares(publication) else measured_rows(publication.scored[0])
    if not publication.has_one_benchmark:
        rows = "the benchmark in the column of that name; only those on the same benchmark compare"
    else:
        rows = publication.benchmarks[0] or (
            "a benchmark of the author's own in the schema of RewardBench 2, so that they compare with no published score"
        )
    return (
        f"{begin}, on {share} of {rows}. Ties is a score of its own; the others are the share of prompts whose right completion scores "
        "highest."
    )


def _training(publication: Publication) -> Iterator[str]:
    best, terms = publication.best, publication.terms
    yield f"- Developed by: {publication.repo.partition('/')[0]}"
    yield f"- Finetuned from: {', '.join(publication.bases)}"
    yield f"- Training data: {'; '.join(dict.fromkeys(map(_data_of, publication.revisions)))}"
    seeds = sorted({revision.job.seed for revision in publication.revisions})
    yield f"- Seed{'s' if len(seeds) > 1 else ''}: {', '.join(map(str, seeds))}"
    yield f"- Training code: rewardloop {version_of(best)}"
    if software := [f"{key} {value}" for key, value in best.record.get("versions", {}).items() if key != "rewardloop"]:
        yield f"- Software: {', '.join(software)}"
    yield f"- Language{'s' if len(terms.language) > 1 else ''}: {', '.join(terms.language)}"
    yield "\nThe command of `main`, in which files have their names alone; `rewardloop.json` of every revision has its own:\n"
    yield f"```bash\n{command_of(best.job)}\n```"


def _data_of(revision: Revision) -> str:
    """The training data of a revision in words."""
    data, record = revision.job.data, revision.record
    places = ", ".join([*data.paths, *(source.path for source in data.sources.values())])
    flipped = f", labels of {data.flip:.0%} flipped" if data.flip else ""
    num = f" ({record['num_pairs']} pairs{flipped})" if "num_pairs" in record else ""
    return f"{places}{num}" if data.name in ("custom", places) else f"{data.name}: {places}{num}"


def _license(publication: Publication) -> Iterator[str]:
    terms, known = publication.terms, LICENSES.get(publication.terms.license)
    if known is None:
        own = f"[{terms.license_name}]({terms.license_link})" if terms.license_link else terms.license_name or terms.license
        yield f"License: {own}."
    else:
        yield f"License: [{known.title}]({known.link})." + (f" **{known.label}.**" if known.label else "")
        yield f"{known.notice.rstrip('.')}."
    files = [file.name for file in publication.license_files]
    if files:
        yield f"Its text is among the files: {', '.join(files)}."
    yield "The base model and the training data may come with terms of their own."


def _citation(publication: Publication) -> Iterator[str]:
    if publication.scored:
        yield f"The benchmark:\n\n```bibtex\n{_BENCHMARK_PAPER}\n```\n"
    yield f"The training code:\n\n```bibtex\n{_SOFTWARE.replace('VERSION', version_of(publication.best))}\n```"
