"""What the SDK reads of the chain, and the weights that it sets, beside what our chain client reads."""

import bittensor as bt
from world import NETUID, TAO, World, equal, until


def the_metagraph(world: World):
    """the SDK's metagraph is the same as our client's: hotkeys, coldkeys, permits, stakes, addresses"""
    served = until("the miner's address", lambda: world.ours()["neurons"][2]["axon"])
    ours = world.ours()
    # Stake grows with every epoch, so both must be read at one block.
    theirs = world.client.at(ours["block"]).read("metagraph", netuid=NETUID)
    columns = {
        "hotkeys": [neuron["hotkey"] for neuron in ours["neurons"]],
        "coldkeys": [neuron["coldkey"] for neuron in ours["neurons"]],
        "validator_permit": [neuron["validator_permit"] for neuron in ours["neurons"]],
        "active": [neuron["active"] for neuron in ours["neurons"]],
        "last_update": [neuron["last_update"] for neuron in ours["neurons"]],
    }
    for name, column in columns.items():
        equal(list(theirs[name]), column, name)
    for neuron, stake in zip(ours["neurons"], theirs["total_stake"], strict=True):
        assert abs(int(stake) / TAO - neuron["stake"]) < 1e-6, (stake, neuron["stake"])
    axon = world.client.subnets.metagraph(NETUID).neuron(2).axon
    # The chain refuses 127.0.0.1, so local miners are stored as 0.0.0.1.
    equal(axon, f"0.0.0.1:{served['port']}", "the miner's address")
    equal(world.miner_url, f"http://127.0.0.1:{served['port']}", "where the miner listens")


def neurons(world: World):
    """the SDK's list of neurons is the same as its metagraph"""
    pinned = world.client.at()
    listed = pinned.read("neurons", netuid=NETUID)
    graph = pinned.read("metagraph", netuid=NETUID)
    equal([neuron.hotkey for neuron in listed], list(graph["hotkeys"]), "hotkeys")
    stakes = [neuron.total_stake.rao for neuron in listed]
    equal(stakes, [int(stake) for stake in graph["total_stake"]], "stakes")


def our_weights(world: World):
    """the SDK reads weights that our client set, with a hotkey file that btcli made"""
    ours = world.ours(str(world.wallets), "local", "validator", "0=1", "2=3")
    equal(ours["neurons"][1]["weights"], [[0, 21845], [2, 65535]], "what our client reads back")
    row = world.client.weights.weights(NETUID)[1]
    equal({uid: round(share, 4) for uid, share in row.items()}, {0: 0.25, 2: 0.75}, "the SDK's row")


def their_weights(world: World):
    """the SDK sets weights, and both read the same back"""
    intent = bt.SetWeights(netuid=NETUID, weights={1: 1.0, 2: 4.0})
    result = world.client.execute(intent, world.wallet("validator")).raise_for_failure()
    row = world.client.weights.weights(NETUID)[1]
    equal({uid: round(share, 4) for uid, share in row.items()}, {1: 0.2, 2: 0.8}, "the SDK's row")
    equal(world.ours()["neurons"][1]["weights"], [[1, 16384], [2, 65535]], "what our client reads")
    return f"in block {result.extrinsic_id.split('-')[0]}"


def an_epoch_pays(world: World):
    """after an epoch the SDK sees what the weights are worth"""

    def paid():
        graph = world.client.subnets.metagraph(NETUID)
        return graph.neuron(2).incentive > 0 and graph.neuron(1).dividends > 0

    until("incentive and dividends", paid)


def rules(world: World):
    """the SDK's hyperparameters are those that were set, and the same as our client's"""
    theirs = world.client.subnets.subnet_hyperparameters(NETUID)
    ours = world.ours()["hyperparameters"]
    equal(theirs["tempo"], 10, "tempo")
    for name, value in ours.items():
        equal(theirs[name], value, name)


def errors(world: World):
    """the SDK names the chain's errors: weights of a hotkey without a permit"""
    stranger = bt.SetWeights(netuid=NETUID, weights={0: 1.0, 1: 1.0})
    result = world.client.execute(stranger, world.wallet("miner"))
    assert not result.success, "it was accepted"
    return result.error.name or str(result.error)


CHECKS = [
    the_metagraph,
    neurons,
    our_weights,
    their_weights,
    an_epoch_pays,
    rules,
    errors,
]
