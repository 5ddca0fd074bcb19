"""Serves a model folder by the `mistralrs` package from PyPI, as an OpenAI-compatible server that reports token ids.

    serve_mistralrs.py FOLDER NAME ADDRESS

It writes its address, up to the version, to the file ADDRESS (the package prints to the standard output) and serves until
it is ended. Only what the benchmark of the checking server asks for is there: chats, streamed in one piece, at a temperature.
The engine draws with seeds of its own.
"""

import json
import pathlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mistralrs

# Answers until one has no token whose id cannot be told: few have any.
TRIES = 5


def spelling():
    """The characters by which byte-level vocabularies write bytes that are none of their own (GPT-2's table)."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in own}
    others = (byte for byte in range(256) if byte not in own)
    table.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return table


def vocabulary(folder):
    """Token ids by their bytes."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    table = spelling()
    ids = {
        bytes(table[character] for character in token): number
        for token, number in tokenizer["model"]["vocab"].items()
        if all(character in table for character in token)
    }
    ids.update({added["content"].encode(): added["id"] for added in tokenizer["added_tokens"]})
    return ids


class Model:
    def __init__(self, folder, name):
        self.name = name
        self.ids = vocabulary(folder)
        # The package runs one request at a time and raises an error for a second one.
        self.lock = threading.Lock()
        which = mistralrs.Which.Plain(model_id=str(folder), dtype=mistralrs.ModelDType.F32)
        self.runner = mistralrs.Runner(which=which, no_paged_attn=True)

    def id(self, entry):
        """A drawn token's id. The package only tells those of the likeliest tokens, and no bytes that are no whole character."""
        for top in entry.top_logprobs:
            if (top.logprob, top.bytes) == (entry.logprob, entry.token):
                return top.token
        return self.ids.get(bytes(entry.bytes))

    def answer(self, asked):
        """The events of the stream. An answer with a token whose id cannot be told is drawn again."""
        request = mistralrs.ChatCompletionRequest(
            model="default",
            messages=asked["messages"],
            max_tokens=asked["max_tokens"],
            temperature=asked["temperature"],
            top_p=asked["top_p"],
            logprobs=True,
            top_logprobs=asked["top_logprobs"],
        )
        for _ in range(TRIES):
            with self.lock:
                response = self.runner.send_chat_completion_request(request)
            choice = response.choices[0]
            content = choice.logprobs.content
            ids = [self.id(entry) for entry in content]
            if None not in ids:
                break
        yield {
            "choices": [{"index": 0, "delta": {"content": ""}}],
            "prompt_token_ids": [0] * response.usage.prompt_tokens,
        }
        yield {
            "choices": [
                {
                    "index": 0,
                    "delta": {"content": choice.message.content},
                    "token_ids": ids,
                    "logprobs": {
                        "content": [
                            {
                                "token": entry.token,
                                "logprob": entry.logprob,
                                "top_logprobs": [
                                    {"token": f"token_id:{top.token}", "logprob": top.logprob}
                                    for top in entry.top_logprobs
                                ],
                            }
                            for entry in content
                        ]
                    },
                    "finish_reason": choice.finish_reason,
                }
            ]
        }


def handler(model):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply("application/json", json.dumps({"data": [{"id": model.name}]}))

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            events = [json.dumps(event) for event in model.answer(asked)]
            self.reply("text/event-stream", "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]))

        def reply(self, kind, text):
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


def main():
    folder, name, address = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(Model(folder, name)))
    address.write_text(f"http://127.0.0.1:{server.server_port}/v1\n")
    server.serve_forever()


main()
