"""An ONNX file as a network: run by ONNX Runtime on the CPU."""

from pathlib import Path

import torch
from torch import Tensor, nn


class OnnxNetwork(nn.Module):
    """The first input takes the batch, the first output is given back; float32 both."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def forward(self, image: Tensor) -> Tensor:
        return torch.from_numpy(self._session.run(None, {self._input: image.float().numpy()})[0])
