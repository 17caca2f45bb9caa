"""What is known, and from where: studies, records, guidelines, and the evidence that points into them."""

import os

# Nothing leaves the machine. Read when the libraries load, so set before any of them; this package is imported first by all others.
# onnxruntime from 1.32 sends events to its maker otherwise, and keeps an identifier of the machine under the home folder.
for _name in ("ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE"):
    os.environ[_name] = "1"
