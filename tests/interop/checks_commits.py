"""Time-locked weights of the SDK, on a chain of spec 425 with commit-reveal on.

The SDK seals weights to drand's quicknet and to a round in the future, and neither can be changed. Only quicknet can sign
that round, and devnet asks no server. So the SDK's own commit is followed until it is on the chain, and that a chain opens
what the SDK's core has sealed is shown with a round whose signature is known.
"""

import json

import bittensor as bt
import bittensor_core
from setting_up import begin, permit, stake
from world import NETUID, World, equal, until

# A round of quicknet, and what it signed.
ROUND = 1000
SIGNATURE = (
    "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125"
    "e342b73a8dd2bacbe47e4b6b63ed5e39"
)
COMMIT_REVEAL_VERSION = 4

second: World | None = None


def another_chain(world: World):
    """the SDK registers and stakes on a devnet of spec 425 with quicknet as its beacon"""
    global second
    pulses = world.work / "pulses"
    pulses.write_text(json.dumps({"round": ROUND, "signature": SIGNATURE}) + "\n")
    second = world.another("second", ("--spec", "425", "--beacon", f"quicknet:{pulses}"))
    begin(second)
    wallet = world.wallet("validator")
    second.devnet("faucet", "--to", wallet.coldkeypub.ss58_address, "--amount", "5000")
    second.connect()
    equal(second.client.spec_version, 425, "the spec")
    for name in ("validator", "miner"):
        second.register_in_secret(name)
    stake(second)
    permit(second)
    ours = [neuron["hotkey"] for neuron in second.ours()["neurons"]]
    equal(second.client.subnets.metagraph(NETUID).hotkeys, ours, "the hotkeys")
    equal(second.client.subnets.subnet_hyperparameters(NETUID)["commit_reveal_weights_enabled"], True, "commit-reveal")


def a_commit(_: World):
    """the SDK commits weights by itself, and the chain keeps them sealed"""
    wallet = second.wallet("validator")
    intent = bt.SetWeights(netuid=NETUID, weights={1: 1.0, 2: 4.0})
    result = second.client.execute(intent, wallet).raise_for_failure()
    commits = second.client.weights.timelocked_weight_commits(NETUID)
    (commit,) = [commit for epoch in commits.values() for commit in epoch]
    equal(commit["hotkey"], wallet.hotkey.ss58_address, "the hotkey")
    equal(commit["reveal_round"], result.data["reveal_round"], "the round")
    return "it stays sealed: the SDK seals to quicknet alone, and devnet has no signature of that round"


def a_reveal(_: World):
    """the chain opens what the SDK's core sealed to a known round, and both read the weights"""
    wallet = second.wallet("validator")
    payload = (
        vector(bytes(wallet.hotkey.public_key), 32)
        + vector(numbers(0, 2), 2)
        + vector(numbers(21845, 65535), 2)
        + bytes(8)
    )
    envelope, _round = bittensor_core.encrypt_at_round(payload, ROUND)
    call = bt.calls.SubtensorModule.commit_timelocked_mechanism_weights(
        netuid=NETUID,
        mecid=0,
        commit=bytes(bittensor_core.inner_ciphertext(envelope)),
        reveal_round=ROUND,
        commit_reveal_version=COMMIT_REVEAL_VERSION,
    )
    second.client.submit_call(call, wallet, signer="hotkey").raise_for_failure()
    row = until("the reveal", lambda: second.client.weights.weights(NETUID).get(1))
    equal({uid: round(share, 4) for uid, share in row.items()}, {0: 0.25, 2: 0.75}, "the SDK's row")
    equal(second.ours()["neurons"][1]["weights"], [[0, 21845], [2, 65535]], "what our client reads")


def vector(content: bytes, count: int) -> bytes:
    """A SCALE vector of up to 63 items."""
    return bytes([count << 2]) + content


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "little") for value in values)


CHECKS = [another_chain, a_commit, a_reveal]
