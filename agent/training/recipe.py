"""The recipe of our small planner models: `python -m agent.training.recipe planner|fixture --out FOLDER`.

A Qwen3 model in transformers' format with its own BPE tokenizer and chat template, trained from nothing on transcripts of the built-in
planner (transcripts.py) under wordings from phrasings.yaml. It proves the path over a served model; it is no better than its teacher.
"""

import argparse
import asyncio
import itertools
import json
import math
import pickle
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from agent.training.questions import Asked, Meant, asked, material, meanings, two_at_once
from agent.training.transcripts import END, Teacher, Transcript, inventories, mark, of_conversation, of_plan, remembering

SEED = 20261128
MARKS = [END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<tool_call>", "</tool_call>", "<|pad|>"]
CONTEXT = 8192


@dataclass(frozen=True)
class Size:
    """How large a model is."""

    hidden: int
    layers: int
    inner: int
    heads: int
    vocabulary: int


Row = tuple[list[int], list[bool]]
"""Token ids, and which of them the model would have said."""
SIZES = {"planner": Size(384, 4, 1024, 6, 14000), "fixture": Size(128, 3, 320, 2, 1800)}
COMMON = 6000
"""How many of the commonest English words have a token of their own, be they in a wording or not, where the vocabulary has room for them."""


@dataclass(frozen=True)
class Material:
    """What is trained on. `alone`: the first round of each meaning on the sample case; `described`: on cases that are only described."""

    alone: dict[tuple[Meant, ...], Transcript]
    described: list[list[Transcript]]
    conversations: list[Transcript]


async def collect(data: Path, conversations: int, cases: int, lengths: Sequence[int] = (2, 3)) -> Material:
    """Transcripts of our agent: each meaning alone, pairs of meanings, conversations, and first rounds on described cases."""
    from agent.answer import PlannerRef
    from agent.assistant import Assistant
    from agent.memory import Memory
    from agent.planner.understand import Reader
    from knowledge import sample
    from knowledge.case import open_case
    from knowledge.guidelines.minilm import MiniLM
    from knowledge.guidelines.search import GuidelineIndex
    from knowledge.records.search import RecordSearch
    from knowledge.studies.archive import Archive
    from tools.base import Resources
    from tools.models.catalogue import IN_THE_BOX, Catalogue

    chance, embedder = random.Random(SEED), MiniLM()
    archive = Archive(data / "archive")
    sample.load(archive)
    resources = Resources(
        Catalogue((IN_THE_BOX,)), GuidelineIndex(data / "guidelines", embedder), embedder, RecordSearch(embedder)
    )
    teacher = Teacher(reader=Reader(embedder))
    here = [m for m in meanings() if "only" not in material()["intents"][m.intent]]
    inventory = open_case(archive, sample.PATIENT_ID, None).inventory()
    alone: dict[tuple[Meant, ...], Transcript] = {}
    told: list[Transcript] = []
    with remembering():
        async with Assistant(
            archive, resources, Memory(data / "conversations.db"), teacher, PlannerRef(kind="builtin", model="teacher")
        ) as assistant:
            for meant in here:
                found = await of_conversation(assistant, teacher, sample.PATIENT_ID, [(meant,)], inventory)
                alone[(meant,)] = found[0]
                told += found
            for number in range(conversations):
                turns = [_turn(here, chance) for _ in range(1 if number % 3 == 0 else chance.choice(lengths))]
                found = await of_conversation(assistant, teacher, sample.PATIENT_ID, turns, inventory)
                if len(turns) == 1 and len(turns[0]) == 2:
                    alone[turns[0]] = found[0]
                told += found
    described = [[of_plan(teacher, case, m) for m in _fitting(case)] for case in inventories(chance, cases)]
    return Material(alone, described, told)


def _turn(here: Sequence[Meant], chance: random.Random) -> tuple[Meant, ...]:
    """One meaning, or now and then two of different intents, at most one of them with a topic."""
    first = _any(here, chance)
    if chance.random() > 0.35 or first.intent == "none":
        return (first,)
    others = [m for m in here if m.intent not in (first.intent, "none", "quiz", "draft") and not (m.topic and first.topic)]
    return (first, _any(others, chance))


def _any(choices: Sequence[Meant], chance: random.Random) -> Meant:
    """An intent first, then one of its meanings: topics don't crowd out the rest. Intents with topics come three times as often."""
    intents = sorted({m.intent for m in choices})
    many = {i: [m for m in choices if m.intent == i] for i in intents}
    intent = chance.choices(intents, [3.0 if len(many[i]) > 1 or i == "none" else 1.0 for i in intents])[0]
    return chance.choice(many[intent])


def _fitting(case: dict[str, Any]) -> list[Meant]:
    part = case["studies"][0]["body_part"].lower()
    return [m for m in meanings() if part in material()["intents"][m.intent].get("only", [part])]


def worded(meant: Sequence[tuple[Meant, ...]], chance: random.Random, held: bool = False) -> list[Asked] | None:
    """A wording of each question of a conversation, in one language; None where one has none that is (or isn't) held out."""
    first = asked(meant[0][0], chance, held)
    language = first.language if first else "en"
    found = []
    for parts in meant:
        each = [asked(m, chance, held, language) for m in parts]
        if any(e is None for e in each):
            return None
        told = [e for e in each if e is not None]
        found.append(told[0] if len(told) == 1 else two_at_once(told[0], told[1], chance))
    return found


def tokenizer_of(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`; digits stand alone."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=MARKS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    template = (Path(__file__).parent / "template.jinja").read_text(encoding="utf-8")
    whole = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=MARKS[-1], model_max_length=CONTEXT)
    whole.chat_template = template
    return whole


def model_of(size: Size, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained model."""
    torch.manual_seed(SEED)
    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=size.hidden, intermediate_size=size.inner, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.heads // 2, head_dim=64, max_position_embeddings=CONTEXT, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, pad_token_id=tokenizer.pad_token_id, initializer_range=0.02, attn_implementation="sdpa",
    ))  # fmt: skip


def common_words(many: int) -> list[str]:
    """The first English words of MiniLM's vocabulary, which is ordered by how common they are."""
    from knowledge.guidelines.minilm import package_dir

    ids = Tokenizer.from_file(str(package_dir() / "tokenizer.json")).get_vocab()
    words = (w for w, _ in sorted(ids.items(), key=lambda pair: pair[1]))
    return list(itertools.islice((w for w in words if len(w) > 2 and w.isascii() and w.isalpha()), many))


def start_from_meanings(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> int:
    """Let the vectors of word-like tokens begin at MiniLM's embeddings of these words, so that words alike begin alike; how many there were.

    With some 50,000 questions to learn from, a word that was seen twice would otherwise stay a stranger.
    """
    from knowledge.guidelines.minilm import MiniLM

    words = {i: tokenizer.decode([i]).strip() for i in range(len(MARKS), len(tokenizer))}
    known = {i: w for i, w in words.items() if len(w) > 2 and w.isalpha()}
    found = torch.from_numpy(MiniLM().embed([w.lower() for w in known.values()]))
    found = found - found.mean(0)
    hidden = model.config.hidden_size
    if hidden < found.shape[1]:
        found = found @ torch.linalg.svd(found, full_matrices=False).Vh[:hidden].T
    with torch.no_grad():
        model.model.embed_tokens.weight[list(known)] = 0.03 * found / found.std()
    return len(known)


class Trainer:
    """Trains a model on transcripts: what all transcripts on a case begin with is computed once a step, and its keys are shared."""

    def __init__(self, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, material: Material) -> None:
        self.model, self.tokenizer, self.material = model, tokenizer, material
        self._ids: dict[str, list[int]] = {}
        every = itertools.chain(material.alone.values(), *material.described, material.conversations)
        self.choosing = [t for t in material.conversations if t.chooses]
        self.planning = [t for t in material.conversations if not t.chooses]
        self.sayable = sorted({i for t in every for p in t.pieces if p.learned for i in self.ids(p.text)})

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece; long ones are kept."""
        if len(text) < 200:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if text not in self._ids:
            self._ids[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._ids[text]

    def filled(self, transcript: Transcript, wordings: Sequence[Asked], first_round: bool = False) -> Row:
        """What follows the front: the whole transcript, or the question and the calls of its first round."""
        ids: list[int] = []
        learned: list[bool] = []
        for piece in transcript.pieces[: 2 if first_round else None]:
            text = piece.text
            for number, wording in enumerate(wordings):
                text = text.replace(mark(number), wording.text)
            found = self.ids(text)
            ids += found
            learned += [piece.learned] * len(found)
        return ids, learned

    def loss(self, front: str, rows: Sequence[Row]) -> tuple[torch.Tensor, list[list[bool]]]:
        """Mean loss over the learned tokens of `rows`, and for each row which of these were guessed right.

        An empty `front` leaves it out, and lets the model choose among the few hundred tokens alone that any transcript says.
        """
        begin = self.ids(front)
        shared = self.model.model(input_ids=torch.tensor([begin]), use_cache=True).past_key_values if begin else None
        order = sorted(range(len(rows)), key=lambda r: len(rows[r][0]))
        losses, hits, count = [], {}, 0
        head = self.model.lm_head.weight
        among = torch.tensor(self.sayable) if not front else torch.arange(len(head))
        place = torch.zeros(len(head), dtype=torch.long).index_put((among,), torch.arange(len(among)))
        while order:
            some = [order.pop()]
            while order and len(some) < 24 and len(rows[order[-1]][0]) > 0.75 * len(rows[some[0]][0]):
                some.append(order.pop())
            hidden, ids, wanted = self._chunk(shared, len(begin), [rows[r] for r in some])
            logits, targets = hidden[wanted] @ (head[among] if not front else head).T, place[ids[wanted]]
            losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
            count += len(targets)
            right = iter((logits.argmax(-1) == targets).tolist())
            hits.update({r: [next(right) for _ in range(int(n))] for r, n in zip(some, wanted.sum(1).tolist(), strict=True)})
        return torch.stack(losses).sum() / count, [hits[r] for r in range(len(rows))]

    def _chunk(self, shared: Any, begin: int, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states before each token, the tokens, and which are learned [row, place]."""
        longest, pad = max(len(i) for i, _ in rows), int(self.tokenizer.pad_token_id or 0)
        ids = torch.tensor([i + [pad] * (longest - len(i)) for i, _ in rows])
        learned = torch.tensor([w + [False] * (longest - len(w)) for _, w in rows])
        real = torch.arange(longest)[None] < torch.tensor([len(i) for i, _ in rows])[:, None]
        if shared is None:
            hidden = self.model.model(input_ids=ids).last_hidden_state  # padding stands on the right: nothing real looks at it
        else:
            cache = DynamicCache()
            for number, layer in enumerate(shared.layers):
                cache.update(layer.keys.expand(len(rows), -1, -1, -1), layer.values.expand(len(rows), -1, -1, -1), number)
            mask = torch.cat([torch.ones(len(rows), begin, dtype=torch.bool), real], 1)
            places = begin + torch.arange(longest)[None].expand(len(rows), -1)
            hidden = self.model.model(
                input_ids=ids, attention_mask=mask.long(), position_ids=places, past_key_values=cache, use_cache=True
            ).last_hidden_state
        return hidden[:, :-1], ids[:, 1:], learned[:, 1:]

    def batch(self, chance: random.Random, short: int, long: int) -> list[tuple[str, list[Row]]]:
        """Some questions' first rounds on one case, and some whole transcripts of the sample case."""
        if self.material.described and chance.random() < 0.3:
            pool = chance.choice(self.material.described)
            by_meaning = {t.meant[0]: t for t in pool}
        else:
            by_meaning = self.material.alone
        singles, pairs = [m for m in by_meaning if len(m) == 1], [m for m in by_meaning if len(m) == 2]
        rows: list[Row] = []
        while len(rows) < short:
            meant = chance.choice(pairs) if pairs and chance.random() < 0.25 else (_any([m[0] for m in singles], chance),)
            if (wordings := worded([meant], chance)) is not None:
                rows.append(self.filled(by_meaning[meant], wordings, first_round=True))
        whole: list[Row] = []
        while len(whole) < long:
            some = chance.sample(self.planning if len(whole) % 3 == 2 else self.choosing, 2)
            transcript = min(some, key=lambda t: sum(len(p.text) for p in t.pieces))  # long ones cost more than they teach
            if (wordings := worded(transcript.meant, chance)) is not None:
                whole.append(self.filled(transcript, wordings))
        front, own = next(iter(by_meaning.values())).front, self.material.conversations[0].front
        return [(front, rows + whole)] if front == own or not whole else [(front, rows), (own, whole)]

    def train(self, bare: int, steps: int, short: int, long: int, rate: float, out: Path, cycle: int) -> None:
        """First `bare` steps on questions and their calls alone, which are short, then `steps` on whole prompts. Each warms up and goes down.

        `cycle`: how often the model was trained before; each sees wordings of its own.
        """
        chance = random.Random(SEED + cycle)
        words = self.model.model.embed_tokens.weight
        others = [p for p in self.model.parameters() if p is not words]
        optimizer = torch.optim.AdamW(
            [{"params": others, "weight_decay": 0.05}, {"params": [words], "weight_decay": 0.0}], lr=rate, betas=(0.9, 0.98)
        )
        started, told, seen = time.monotonic(), 0.0, 0.0
        self.model.train()
        for step in range(bare + steps):
            whole = step >= bare
            place, many = (step - bare, steps) if whole else (step, bare)
            for group in optimizer.param_groups:
                peak = rate * (0.5 if whole and bare else 1.0)
                group["lr"] = peak * min(1.0, (place + 1) / 60) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * place / many)))
            groups = self.batch(chance, short, long if whole else 0)
            for front, rows in groups:
                loss, hits = self.loss(front if whole else "", rows)
                loss.backward()
                if rows is groups[0][1]:
                    right = sum(all(h) for h in hits) / len(hits)
                    seen = right if not step else 0.95 * seen + 0.05 * right
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if (spent := (time.monotonic() - started) / 60) - told > 0.5 or step == 3:
                told = spent
                print(f"{spent:6.1f} min  step {step} of {bare} + {steps}  {seen:.3f} of the calls right", flush=True)
            if step % 200 == 199:
                save(self.model, self.tokenizer, out)

    def scores(self, many: int) -> dict[str, Any]:
        """First rounds of questions on the sample case in wordings that are held out: how often call by call as the teacher's, and the tools."""
        self.model.eval()
        chance = random.Random(SEED + 1)
        asked_ones: list[tuple[Asked, list[int], list[bool]]] = []
        singles = [m[0] for m in self.material.alone if len(m) == 1]
        while len(asked_ones) < many:
            meant = (_any(singles, chance),)
            if (wordings := worded([meant], chance, held=True)) is not None:
                asked_ones.append((wordings[0], *self.filled(self.material.alone[meant], wordings, first_round=True)))
        front = self.material.conversations[0].front
        found: list[tuple[Asked, bool, bool]] = []
        for start in range(0, many, 60):
            some = asked_ones[start : start + 60]
            with torch.no_grad():
                _, right = self.loss(front, [(i, w) for _, i, w in some])
            for hits, (one, ids, learned) in zip(right, some, strict=True):
                found.append((one, all(hits), self._tools_right([i for i, w in zip(ids, learned, strict=True) if w], hits)))
        by_language = {lang: [w for a, w, _ in found if a.language == lang] for lang in sorted({a.language for a, _, _ in found})}
        return {"questions": many, "calls_exact": sum(w for _, w, _ in found) / many, "tools_right": sum(t for _, _, t in found) / many,
                "calls_exact_by_language": {k: round(sum(v) / len(v), 3) for k, v in by_language.items()},
                "wrong": [f"{a.meant[0].intent}/{a.meant[0].topic}: {a.text}" for a, w, _ in found if not w][:60]}  # fmt: skip

    def _tools_right(self, target: Sequence[int], hits: Sequence[bool]) -> bool:
        """Right up to and with each tool's name, whatever stands in the arguments."""
        text, ok = "", True
        for token, hit in zip(target, hits, strict=True):
            text += self.tokenizer.decode([token])
            ok = ok and (hit or text.rfind('"arguments": ') > text.rfind("</tool_call>"))
        return ok


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """The model in bfloat16 with its tokenizer, in transformers' format."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().to(torch.bfloat16).clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(out, state_dict=weights)
    tokenizer.save_pretrained(out)


def vocabulary_texts(material: Material, chance: random.Random, many: int) -> list[str]:
    """What the tokenizer is trained on: fronts, transcripts, and many wordings."""
    every = [m[0] for m in material.alone if len(m) == 1]
    texts = [a.text for a in (asked(_any(every, chance), chance) for _ in range(many)) if a is not None]
    whole = ["".join(p.text for p in t.pieces) for t in material.conversations[:400]]
    fronts = [t.front for t in itertools.chain(material.conversations[:1], *(d[:1] for d in material.described))]
    return [*texts, *whole, *fronts * 3]


def main() -> None:
    """Make a model."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("size", choices=SIZES)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--bare", type=int, default=1500, help="Steps on questions and calls alone.")
    reader.add_argument("--steps", type=int, default=300, help="Steps on whole prompts after them.")
    reader.add_argument("--conversations", type=int, default=600)
    reader.add_argument("--cases", type=int, default=32)
    reader.add_argument("--turns", type=int, nargs="+", default=[1], help="Questions of a conversation that isn't of one alone.")
    reader.add_argument("--short", type=int, default=40)
    reader.add_argument("--long", type=int, default=2)
    reader.add_argument("--rate", type=float, default=1e-3)
    reader.add_argument("--begin", type=Path, help="Go on from this model instead of from nothing.")
    reader.add_argument("--kept", type=Path, help="Where transcripts are kept between runs.")
    given = reader.parse_args()
    if given.kept and given.kept.exists():
        found = pickle.loads(given.kept.read_bytes())  # noqa: S301 (a file that this program wrote)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = asyncio.run(collect(Path(folder), given.conversations, given.cases, given.turns))
        if given.kept:
            given.kept.write_bytes(pickle.dumps(found))
    if given.begin:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(given.begin)
        model = Qwen3ForCausalLM.from_pretrained(given.begin, dtype=torch.float32)
    else:
        size = SIZES[given.size]
        common = [" " + w for w in common_words(COMMON)] * 6 if size.vocabulary > 2 * COMMON else []
        tokenizer = tokenizer_of([*vocabulary_texts(found, random.Random(SEED), 20000), *common], size.vocabulary)
        model = model_of(size, tokenizer)
        begun = start_from_meanings(model, tokenizer)
        print(f"{begun} of {len(tokenizer)} tokens begin at a word's meaning", flush=True)
    made = given.begin / "made.json" if given.begin else None
    earlier = [*json.loads(made.read_text(encoding="utf-8"))["trained"]] if made else []
    trainer = Trainer(model, tokenizer, found)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters:,} parameters, {len(trainer.ids(found.conversations[0].front))} tokens in front, {len(found.conversations)} transcripts",
        flush=True,
    )
    trainer.train(given.bare, given.steps, given.short, given.long, given.rate, given.out, len(earlier))
    save(model, tokenizer, given.out)
    told = {
        "parameters": parameters,
        "seed": SEED,
        "trained": [*earlier, {n: getattr(given, n) for n in ("bare", "steps", "short", "long", "rate", "turns")}],
        "size": given.size,
        **trainer.scores(600),
    }
    (given.out / "made.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in told.items() if k != "wrong"}, indent=1))


if __name__ == "__main__":
    main()
