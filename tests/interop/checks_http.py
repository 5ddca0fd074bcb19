"""Requests that the SDK signs (btauth/1), sent to our miner."""

import json
import urllib.error
import urllib.request

import bittensor as bt
from world import World, equal

CHAT = "/v1/chat/completions"


def question(text: str = "What is a river?") -> bytes:
    body = {
        "model": "chat-demo",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 8,
        "seed": 7,
        "temperature": 0.5,
    }
    return json.dumps(body).encode()


def headers_for(world: World, signer, path: str = CHAT, body: bytes = b"", receiver: str | None = None) -> dict:
    method = "POST" if body else "GET"
    receiver = receiver or world.wallet("miner").hotkey.ss58_address
    return bt.http_auth.sign(signer, method=method, path=path, body=body, receiver_ss58=receiver)


def ask(world: World, headers: dict, path: str = CHAT, body: bytes = b"") -> tuple[int, str]:
    """Status and body of the miner's answer."""
    headers = {"content-type": "application/json", **headers}
    request = urllib.request.Request(world.miner_url + path, data=body or None, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def refused(answer: tuple[int, str], status: int) -> str:
    got, text = answer
    assert got == status, f"got {got} instead of {status}: {text[:200]}"
    return json.loads(text)["error"]["message"]


def a_question(world: World):
    """our miner answers a chat request that the SDK signed"""
    body = question()
    status, text = ask(world, headers_for(world, world.wallet("validator"), body=body), body=body)
    assert status == 200, f"got {status}: {text[:300]}"
    answer = json.loads(text)
    said = answer["choices"][0]["message"]["content"]
    assert said.strip(), answer
    equal(answer["usage"]["completion_tokens"] <= 8, True, "at most 8 tokens")
    return f"it says {said!r}"


def the_capacity(world: World):
    """our miner tells the SDK's validator its capacity"""
    path = "/capacity"
    status, text = ask(world, headers_for(world, world.wallet("validator"), path), path)
    equal(status, 200, "the status")
    assert "chat-demo" in text, text


def a_tampered_body(world: World):
    """our miner refuses a request whose body was changed after signing"""
    headers = headers_for(world, world.wallet("validator"), body=question())
    return refused(ask(world, headers, body=question("What is a lake?")), 401)


def another_path(world: World):
    """our miner refuses a signature for another path"""
    headers = headers_for(world, world.wallet("validator"), "/capacity")
    return refused(ask(world, headers, "/v1/models"), 401)


def a_repetition(world: World):
    """our miner refuses the same request a second time"""
    path = "/capacity"
    headers = headers_for(world, world.wallet("validator"), path)
    equal(ask(world, headers, path)[0], 200, "the first status")
    return refused(ask(world, headers, path), 401)


def another_receiver(world: World):
    """our miner refuses a request that was signed for another miner"""
    path, other = "/capacity", world.wallet("validator").hotkey.ss58_address
    headers = headers_for(world, world.wallet("validator"), path, receiver=other)
    return refused(ask(world, headers, path), 401)


def a_stranger(world: World):
    """our miner refuses a hotkey that is not registered"""
    path = "/capacity"
    stranger = bt.wallets.new_hotkey(
        name="stranger", hotkey="stranger", path=str(world.wallets), on_mnemonic=lambda _: None
    )
    return refused(ask(world, headers_for(world, stranger, path), path), 403)


def no_permit(world: World):
    """our miner refuses a hotkey without a validator permit"""
    path = "/capacity"
    return refused(ask(world, headers_for(world, world.wallet("miner"), path), path), 403)


CHECKS = [
    a_question,
    the_capacity,
    a_tampered_body,
    another_path,
    a_repetition,
    another_receiver,
    a_stranger,
    no_permit,
]
