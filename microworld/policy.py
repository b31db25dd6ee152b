"""The small policies of a world, trained from scratch with TRL's SFTTrainer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from core.data.chat import encode_dialogues, encode_prompts
from core.data.rows import read_rows
from core.disk import atomic_folder, is_complete, write_json
from core.records import Message, user
from microworld.config import PolicyConfig


class Shape(TypedDict):
    """The arguments of `LlamaConfig` that differ between lineages."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int


SHAPES: Mapping[str, Shape] = {
    # The two lineages differ in shape, initialisation and corpus, and share only the tokenizer.
    "coast": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 168},
    "ridge": {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128},
}


def train_policy(world: Path, lineage: str, config: PolicyConfig, folder: Path, advance: Callable[[int], None]) -> Path:
    """Trains the policy of `lineage` on its corpus and saves it to `folder`, unless it is already there.

    `advance` is called with the number of corpus rows processed. The loss covers the answers and the users' reactions to them.
    """
    if is_complete(folder):
        return folder
    tokenizer = AutoTokenizer.from_pretrained(world / "tokenizer")
    seed = config.seed * len(SHAPES) + sorted(SHAPES).index(lineage)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            **SHAPES[lineage],
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length,
            tie_word_embeddings=True,
            initializer_range=0.05,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.lr,
        lr_scheduler_type="linear",
        warmup_steps=50,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_length=None,
        activation_checkpointing=False,
        bf16=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        seed=seed,
    )
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=_dataset(world / "corpus" / f"{lineage}.jsonl", tokenizer),
        processing_class=tokenizer,
        callbacks=[_Advance(config.batch_size, advance)],
    )
    trainer.train()
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / "lineage.json", {"lineage": lineage, "prompts": "microworld"})
    return folder


def _dataset(corpus: Path, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    rows = [row for _, row in read_rows(corpus)]
    prompts = [user(row["prompt"]) for row in rows]
    prompt_ids = encode_prompts(tokenizer, prompts)
    turns = [(Message(role="assistant", content=row["completion"]), Message(role="user", content=row["reaction"])) for row in rows]
    ids = encode_dialogues(tokenizer, [(*prompt, *turn) for prompt, turn in zip(prompts, turns, strict=True)])
    labels = [[-100] * len(p) + row[len(p) :] for p, row in zip(prompt_ids, ids, strict=True)]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


class AnswerTrainer(SFTTrainer):
    """TRL's trainer with a plain cross-entropy that computes logits for labelled tokens only.

    TRL's own loss is tiled for large vocabularies and measures entropy at every step, which doubles the time here.
    """

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        assert isinstance(model, LlamaForCausalLM)
        targets_BL = inputs["labels"][:, 1:]
        answered_BL = targets_BL != -100
        hidden_BLH = model.model(inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).last_hidden_state
        logits_NV = model.lm_head(hidden_BLH[:, :-1][answered_BL])
        return cross_entropy(logits_NV, targets_BL[answered_BL])


class _Advance(TrainerCallback):
    def __init__(self, batch_size: int, advance: Callable[[int], None]) -> None:
        self._batch_size, self._advance = batch_size, advance

    def on_step_end(self, args: TrainingArguments, state: object, control: object, **_: object) -> None:
        self._advance(self._batch_size)
