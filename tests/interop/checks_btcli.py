"""Commands of btcli that people use, with JSON as their answer."""

from world import NETUID, World, equal


def subnets(world: World):
    """btcli subnets list"""
    listed = {subnet["netuid"]: subnet for subnet in world.btcli("subnets", "list")}
    equal(sorted(listed), [0, NETUID], "the subnets")
    ours = listed[NETUID]
    equal((ours["tempo"], ours["neurons"], ours["max_neurons"]), (10, 3, 256), "the subnet")
    equal(ours["price_tao_per_alpha"], 1.0, "the price")
    assert ours["burn_tao"] > 0, ours


def one_subnet(world: World):
    """btcli subnets show"""
    shown = world.btcli("subnets", "show", str(NETUID))
    equal((shown["netuid"], shown["neurons"], shown["tempo"]), (NETUID, 3, 10), "the subnet")


def metagraph(world: World):
    """btcli subnets metagraph"""
    shown = world.btcli("subnets", "metagraph", str(NETUID))
    ours = [neuron["hotkey"] for neuron in world.ours()["neurons"]]
    equal(shown["hotkeys"], ours, "the hotkeys")


def hyperparameters(world: World):
    """btcli subnets hyperparameters"""
    shown = world.btcli("subnets", "hyperparameters", str(NETUID))
    equal((shown["tempo"], shown["commit_reveal_weights_enabled"]), (10, False), "the values")


def balance(world: World):
    """btcli wallet balance"""
    shown = world.btcli("wallet", "balance")
    equal(shown["coldkey"], world.wallet("validator").coldkeypub.ss58_address, "the coldkey")
    assert 2990 < shown["free_tao"] < 3000, shown
    assert shown["stake_value_tao"] >= 2000, shown


def overview(world: World):
    """btcli wallet overview"""
    (row,) = world.btcli("wallet", "overview")
    staked_on = [stake["hotkey"] for stake in row["stakes"] if stake["netuid"] == NETUID]
    assert world.wallet("validator").hotkey.ss58_address in staked_on, row


def registrations(world: World):
    """btcli wallet registrations"""
    (row,) = world.btcli("wallet", "registrations")
    uids = {hotkey["name"]: hotkey["registrations"][0]["uid"] for hotkey in row["hotkeys"]}
    equal(uids, {"validator": 1, "miner": 2}, "the uids")


def adding_stake(world: World):
    """btcli stake add"""
    hotkey = world.wallet("validator").hotkey.ss58_address
    before = world.btcli("wallet", "balance")["stake_value_tao"]
    world.btcli("stake", "add", "--netuid", str(NETUID), "--hotkey", hotkey, "--amount", "10", "-y")
    assert world.btcli("wallet", "balance")["stake_value_tao"] >= before + 10


def weights(world: World):
    """btcli misc weights set, and btcli query weights"""
    netuid = ["--netuid", str(NETUID)]
    world.btcli("misc", "weights", "set", *netuid, "--uids", "0,2", "--weights", "1,1", "-y")
    equal(world.ours()["neurons"][1]["weights"], [[0, 65535], [2, 65535]], "what our client reads")
    read = world.btcli("query", "weights", *netuid)
    equal(read["1"], {"0": 0.5, "2": 0.5}, "what btcli reads")


def axon(world: World):
    """btcli misc axon set"""
    address = ["--ip", "10.0.0.7", "--port", "8091"]
    world.btcli("misc", "axon", "set", "--netuid", str(NETUID), *address, "-y")
    equal(world.ours()["neurons"][1]["axon"], {"ip": "10.0.0.7", "port": 8091}, "the address")


def registering(world: World):
    """btcli wallet new-hotkey, and btcli subnets register"""
    made = world.btcli("wallet", "new-hotkey", hotkey="third")
    world.btcli("subnets", "register", "--netuid", str(NETUID), "-y", hotkey="third")
    equal(world.ours()["neurons"][3]["hotkey"], made["ss58"], "the hotkey at uid 3")


CHECKS = [
    subnets,
    one_subnet,
    metagraph,
    hyperparameters,
    balance,
    overview,
    registrations,
    adding_stake,
    weights,
    axon,
    registering,
]
