"""Fine-tune a LoRA adapter on exported feedback: supervised, then on preferences (DPO); vLLM serves it with `llm serve … --lora NAME=FOLDER`.

    python agent/training/lora.py --base MODEL_FOLDER --data EXPORTED_FOLDER --out ADAPTER_FOLDER

Runs in an environment with transformers, TRL, PEFT and datasets (`make vllm-setup` makes one) and imports nothing else of this project.
Prints and keeps (made.json) the loss on held-back rows before and after, and how often and by how much the chosen answer is likelier than the rejected one.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

SEED = 20261128
HELD_BACK = 0.2
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; none where it is missing."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def split(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is learned and what is held back; rows of the same conversation beginning stay together."""
    begins = sorted({json.dumps(r["prompt"][:3], sort_keys=True) for r in rows})
    random.Random(SEED).shuffle(begins)
    held = set(begins[: max(1, round(HELD_BACK * len(begins)))]) if len(begins) > 1 else set()
    return [r for r in rows if json.dumps(r["prompt"][:3], sort_keys=True) not in held], [
        r for r in rows if json.dumps(r["prompt"][:3], sort_keys=True) in held
    ]


def as_text(tokenizer: Any, row: dict[str, Any], *names: str) -> dict[str, str]:
    """The row as plain prompt and completions, by the model's own chat template: what vLLM will make of the request."""
    told = tokenizer.apply_chat_template(row["prompt"], tools=row["tools"], tokenize=False, add_generation_prompt=True)
    found = {"prompt": told}
    for name in names:
        whole = tokenizer.apply_chat_template([*row["prompt"], row[name][0]], tools=row["tools"], tokenize=False)
        assert whole.startswith(told), "the chat template doesn't continue its own prompt"
        found[name] = whole[len(told) :]
    return found


@torch.no_grad()
def loss_of(model: Any, tokenizer: Any, rows: list[dict[str, str]], name: str = "completion") -> list[float]:
    """Mean negative log-likelihood of each completion."""
    model.eval()
    found = []
    for row in rows:
        before = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        after = tokenizer(row[name], add_special_tokens=False)["input_ids"]
        logits = model(input_ids=torch.tensor([before + after])).logits[0, len(before) - 1 : -1].float()
        found.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(after))))
    return found


def mean(values: list[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None


def measured(model: Any, tokenizer: Any, told: list[dict[str, str]], pairs: list[dict[str, str]]) -> dict[str, float | None]:
    """`loss_held_back` of the completions; `prefers_chosen`: share of the pairs whose chosen answer is likelier than the rejected one;
    `margin`: by how much, in nats a token, on average."""
    chosen, rejected = loss_of(model, tokenizer, pairs, "chosen"), loss_of(model, tokenizer, pairs, "rejected")
    ahead = [r - c for c, r in zip(chosen, rejected, strict=True)]
    return {
        "loss_held_back": mean(loss_of(model, tokenizer, told)),
        "prefers_chosen": mean([float(a > 0) for a in ahead]),
        "margin": mean(ahead),
    }


def main() -> None:
    """Train and keep the adapter."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--base", type=Path, required=True)
    reader.add_argument("--data", type=Path, required=True)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--rank", type=int, default=16)
    reader.add_argument("--epochs", type=float, default=4)
    reader.add_argument("--rate", type=float, default=1e-3)
    reader.add_argument("--preference-epochs", type=float, default=4)
    reader.add_argument("--preference-rate", type=float, default=2e-4)
    reader.add_argument("--longest", type=int, default=4096)
    given = reader.parse_args()
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(given.base)
    base = AutoModelForCausalLM.from_pretrained(
        given.base, dtype=torch.float32 if not torch.cuda.is_available() else torch.bfloat16
    )
    learned, held = split(rows_of(given.data / "sft.jsonl"))
    better, better_held = split(rows_of(given.data / "preference.jsonl"))
    told = [as_text(tokenizer, r, "completion") for r in learned]
    told_held = [as_text(tokenizer, r, "completion") for r in held]
    pairs = [as_text(tokenizer, r, "chosen", "rejected") for r in better]
    pairs_held = [as_text(tokenizer, r, "chosen", "rejected") for r in better_held]
    before = measured(base, tokenizer, told_held, pairs_held or pairs)
    model = get_peft_model(
        base, LoraConfig(r=given.rank, lora_alpha=2 * given.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    )
    common = {"output_dir": str(given.out / "run"), "per_device_train_batch_size": 4, "report_to": [], "save_strategy": "no", "logging_steps": 20, "seed": SEED,
              "use_cpu": not torch.cuda.is_available(), "bf16": torch.cuda.is_available(), "gradient_checkpointing": False, "lr_scheduler_type": "cosine",
              "disable_tqdm": True}  # fmt: skip
    if told:
        how = SFTConfig(num_train_epochs=given.epochs, learning_rate=given.rate, max_length=given.longest, **common)
        SFTTrainer(model=model, args=how, train_dataset=Dataset.from_list(told), processing_class=tokenizer).train()
    supervised = measured(model, tokenizer, told_held, pairs_held or pairs)
    if pairs:
        # The reference is the base model, with the adapter switched off; the same adapter goes on learning.
        how = DPOConfig(
            num_train_epochs=given.preference_epochs,
            learning_rate=given.preference_rate,
            max_length=given.longest,
            beta=0.1,
            **common,
        )
        DPOTrainer(model=model, args=how, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer).train()
    after = measured(model, tokenizer, told_held, pairs_held or pairs)
    assert isinstance(model, PeftModel)
    model.save_pretrained(given.out)
    made = {"base": given.base.name, "seed": SEED, "rank": given.rank, "learned": len(told), "held_back": len(told_held), "pairs": len(pairs), "pairs_held_back": len(pairs_held),
            "before": before, "supervised": supervised, "after": after}  # fmt: skip
    (given.out / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
