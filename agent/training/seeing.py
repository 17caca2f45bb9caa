"""The recipe of a tiny model that sees: `python -m agent.training.seeing --out FOLDER`. It tells how bright each picture is, in order.

An Idefics3 model (vision transformer, adapter, language model; the family that vLLM serves without torchvision) of under a million parameters,
trained from nothing on made pictures. It proves that key slices reach a served model as pictures, in order, and nothing else.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig, PreTrainedTokenizerFast
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from tools.look import PROMPT

SEED = 20261128
SIDE, PATCH, SCALE = 56, 14, 2
"""Pixels of a picture and of a patch; so many patches a side become one token."""
WORDS = ("black", "dark", "grey", "bright", "white")
MOST = 4
END = "<end_of_utterance>"
MARKS = [END, "<image>", "<fake_token_around_image>", "<global-img>", "<|user|>", "<|assistant|>", "<|pad|>"]
TEMPLATE = (
    '{% for message in messages %}{% if message.role == "assistant" %}<|assistant|>{% else %}<|user|>{% endif %}'
    "{% if message.content is string %}{{ message.content[-200:] }}{% else %}{% for part in message.content %}"
    '{% if part.type == "text" %}{{ part.text[-200:] }}{% else %}<image>{% endif %}{% endfor %}{% endif %}'
    "<end_of_utterance>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QUESTIONS = [
    f"{PROMPT}what do you see?",
    f"{PROMPT}is there an effusion?",
    "What do the pictures show?",
    "Look at these slices.",
    f"{PROMPT}look at the lesion",
]


def word_of(level: float) -> str:
    """How bright: mean grey level 0 to 255, in five steps."""
    return WORDS[min(len(WORDS) - 1, int(level * len(WORDS) / 256))]


def answer(levels: list[float]) -> str:
    """What the model learns to say of pictures with these mean levels."""
    return " ".join(f"Picture {n} is {word_of(level)}." for n, level in enumerate(levels, 1))


def picture(level: float, noise: np.random.Generator) -> Image.Image:
    """A picture of about this mean level, with a slope and noise."""
    slope = np.linspace(-1, 1, SIDE)[None] * noise.uniform(-25, 25) + np.linspace(-1, 1, SIDE)[:, None] * noise.uniform(-25, 25)
    grey = np.clip(level + slope + noise.normal(0, 6, (SIDE, SIDE)), 0, 255)
    return Image.fromarray(np.repeat(grey.astype(np.uint8)[..., None], 3, 2))


def processor_of() -> Idefics3Processor:
    """Tokenizer and picture processor."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = [*QUESTIONS, *(answer([lv] * 4) for lv in (10, 70, 120, 180, 240))] * 20
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=420, special_tokens=MARKS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=MARKS[-1], model_max_length=2048)
    size = {"longest_edge": SIDE}
    pictures = Idefics3ImageProcessorPil(
        do_image_splitting=False, size=size, max_image_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Idefics3Processor(pictures, tokenizer, image_seq_len=(SIDE // PATCH) ** 2 // SCALE**2, chat_template=TEMPLATE)


def model_of(processor: Idefics3Processor) -> Idefics3ForConditionalGeneration:
    """An untrained model."""
    torch.manual_seed(SEED)
    tokenizer = processor.tokenizer
    seen = Idefics3VisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=PATCH
    )
    words = LlamaConfig(vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
                        head_dim=64, max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)  # fmt: skip
    return Idefics3ForConditionalGeneration(Idefics3Config(
        vision_config=seen, text_config=words, scale_factor=SCALE, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=False,
    ))  # fmt: skip


def batch(processor: Idefics3Processor, chance: random.Random, noise: np.random.Generator, many: int) -> dict[str, torch.Tensor]:
    """Questions with their pictures and answers; only the answers are learned. Each batch has one number of pictures a question."""
    count = chance.randint(1, MOST)
    texts, pictures, begins = [], [], []
    for _ in range(many):
        levels = [chance.uniform(0, 255) for _ in range(count)]
        shown = [picture(lv, noise) for lv in levels]
        means = [float(np.asarray(p).mean()) for p in shown]
        asked = f"<|user|>{chance.choice(QUESTIONS)}{'<image>' * count}{END}<|assistant|>"
        texts.append(asked + answer(means) + END)
        begins.append(answer(means) + END)
        pictures.append(shown)
    made = processor(text=texts, images=pictures, return_tensors="pt", padding=True)
    labels = torch.full_like(made["input_ids"], -100)
    for row, said in enumerate(begins):
        ids = processor.tokenizer(said, add_special_tokens=False)["input_ids"]
        real = int(made["attention_mask"][row].sum())
        start = real - len(ids) if processor.tokenizer.padding_side == "right" else labels.shape[1] - len(ids)
        labels[row, start : start + len(ids)] = torch.tensor(ids)
    return {**{k: made[k] for k in ("input_ids", "attention_mask", "pixel_values")}, "labels": labels}


def main() -> None:
    """Make the model."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--steps", type=int, default=900)
    given = reader.parse_args()
    chance, noise, processor = random.Random(SEED), np.random.default_rng(SEED), processor_of()
    model = model_of(processor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=given.steps, pct_start=0.1)
    model.train()
    for step in range(given.steps):
        loss = model(**batch(processor, chance, noise, 16)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}  loss {loss.item():.4f}", flush=True)
    model.eval()
    with torch.no_grad():
        right = total = 0
        for _ in range(12):
            made = batch(processor, chance, noise, 16)
            guessed, wanted = model(**made).logits[:, :-1].argmax(-1), made["labels"][:, 1:]
            rows = ((guessed == wanted) | (wanted == -100)).all(1)
            right, total = right + int(rows.sum()), total + len(rows)
    parameters = sum(p.numel() for p in model.parameters())
    model.to(torch.bfloat16).save_pretrained(given.out)
    processor.save_pretrained(given.out)
    told = {"parameters": parameters, "seed": SEED, "steps": given.steps, "answers_right": right / total, "answers": total}
    (given.out / "made.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(told)


if __name__ == "__main__":
    main()
