"""For our tests and for tool authors: a scripted chat model and server, and phantoms with known answers."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from tools.phantoms import dicom_series, sphere

__all__ = ["ScriptedModel", "dicom_series", "scripted_server", "sphere", "tool_call"]


class ScriptedModel(BaseChatModel):
    """A chat model that says its lines in order; it fails on a call beyond them, and `finish` fails on unused ones."""

    lines: list[AIMessage]
    seen: list[list[BaseMessage]] = []
    bound: list[dict[str, Any]] = []

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        """Tools are known by name alone."""
        return self.bind(tools=[t.name for t in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        assert self.lines, "the script has no line for this call"
        self.seen.append(messages)
        self.bound.append(kwargs)
        return ChatResult(generations=[ChatGeneration(message=self.lines.pop(0))])

    def finish(self) -> None:
        """Fail where lines are left."""
        assert not self.lines, f"{len(self.lines)} lines of the script were not used"


@contextmanager
def scripted_server(replies: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An OpenAI-compatible server on loopback that gives `replies` (message objects) in order.

    A reply may be a fault instead: `_status` with `_error` (its text), `_raw` (a body that is no reply), `_cut` (it breaks off in the
    middle), `_slow` (seconds before anything comes), and `_finish` names another reason to end.
    Yields its base URL and the list of request bodies, which fills as requests come.
    """
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            if not replies:
                self.send_error(500, "the script has no line for this call")
                return
            reply = replies.pop(0)
            time.sleep(reply.get("_slow", 0))
            if "_status" in reply or "_raw" in reply:
                error = json.dumps({"error": {"message": reply.get("_error", ""), "type": "x", "code": reply.get("_status")}})
                self._send(reply.get("_status", 200), reply.get("_raw", error).encode())
                return
            message = {"role": "assistant", "content": None, **{k: v for k, v in reply.items() if not k.startswith("_")}}
            finish = reply.get("_finish") or ("tool_calls" if message.get("tool_calls") else "stop")
            body = {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "scripted",
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
            data = json.dumps(body).encode()
            self._send(200, data, cut=bool(reply.get("_cut")))

        def _send(self, status: int, data: bytes, cut: bool = False) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data[: len(data) // 2] if cut else data)
            except OSError:  # the client didn't wait
                return
            if cut:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()


def tool_call(name: str, arguments: dict[str, Any], number: int = 1) -> dict[str, Any]:
    """A message object of the OpenAI API that calls one tool."""
    call = {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return {"tool_calls": [call]}
