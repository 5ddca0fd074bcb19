"""What the servers of this folder have in common: prompts as a model reads them, and answers as OpenAI-compatible servers
stream them, in one piece and with token ids.

Only what the benchmark of the checking server asks for is there: chats, at a temperature.
"""

import dataclasses
import json
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass
class Answer:
    prompt_tokens: int
    text: str
    # With the end token, if it was drawn.
    ids: list[int]
    logprobs: list[float]
    # Pairs of an id and its log-probability, per token.
    tops: list[list[tuple[int, float]]]
    # "stop" or "length"
    finish_reason: str


class Prompts:
    """Chats as a model folder's template and tokenizer make tokens of them."""

    def __init__(self, folder):
        import jinja2
        import tokenizers

        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        own = folder / "chat_template.jinja"
        template = own.read_text() if own.exists() else settings["chat_template"]
        self.template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
        self.names = {name: settings.get(name) for name in ("bos_token", "eos_token")}

    def tokens(self, messages):
        text = self.template.render(messages=messages, add_generation_prompt=True, **self.names)
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def events(answer):
    content = [
        {
            "token": f"token_id:{token}",
            "logprob": logprob,
            "top_logprobs": [{"token": f"token_id:{other}", "logprob": value} for other, value in top],
        }
        for token, logprob, top in zip(answer.ids, answer.logprobs, answer.tops, strict=True)
    ]
    choice = {
        "index": 0,
        "delta": {"content": answer.text},
        "token_ids": answer.ids,
        "logprobs": {"content": content},
        "finish_reason": answer.finish_reason,
    }
    first = {"index": 0, "delta": {"content": ""}}
    yield {"choices": [first], "prompt_token_ids": [0] * answer.prompt_tokens}
    yield {"choices": [choice]}


class Server(ThreadingHTTPServer):
    # As many requests come at once as the benchmark has under way.
    request_queue_size = 1024


def handler(name, answer):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply("application/json", json.dumps({"data": [{"id": name}]}))

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                lines = [json.dumps(event) for event in events(answer(asked))]
            except Exception as error:
                traceback.print_exc()
                self.reply("application/json", json.dumps({"error": {"message": repr(error)}}), status=500)
                return
            self.reply("text/event-stream", "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]))

        def reply(self, kind, text, status=200):
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


def serve(name, address, answer):
    """Answers requests by `answer` until it is ended, from any thread. Writes its own address, up to the version, to a file."""
    server = Server(("127.0.0.1", 0), handler(name, answer))
    address.write_text(f"http://127.0.0.1:{server.server_port}/v1\n")
    server.serve_forever()
