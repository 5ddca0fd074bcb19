"""A subnet as a person sets it up, with btcli, the SDK and devnet's commands. Nothing else works without these."""

import bittensor as bt
from world import NETUID, World, equal, get_json, run, until


def a_devnet_starts(world: World):
    """a devnet starts, with a subnet of //Alice's"""
    log = world.start("devnet", "run", "--port", "0", "--block-time", "200ms", "--log-format", "json")
    world.url = "ws://" + world.logged(log, r'"address":"([0-9.:]+)"')
    equal(world.devnet("register-network", "--coldkey", "//Alice").strip(), str(NETUID), "the subnet")
    world.devnet("start", "--netuid", str(NETUID), "--coldkey", "//Alice")
    rules = {
        "commit-reveal": 0,
        "min-allowed-weights": 1,
        "tempo": 10,
        "weights-set-rate-limit": 0,
        "serving-rate-limit": 0,
    }
    for name, value in rules.items():
        world.devnet(f"sudo-set-{name}", "--netuid", str(NETUID), "--value", str(value))


def keys_made_by_btcli(world: World):
    """btcli makes a wallet, and devnet's faucet fills it"""
    made = world.btcli("wallet", "create", "--no-password")
    world.devnet("faucet", "--to", made["coldkey_ss58"], "--amount", "5000")


def keys_made_by_our_miner(world: World):
    """the SDK reads a hotkey file that our miner made"""
    flags = ["--wallet.name", "local", "--wallet.hotkey", "miner", "--wallet.path", str(world.wallets)]
    made = run(world.binaries / "miner", "new-hotkey", *flags).strip()
    equal(world.wallet("miner").hotkey.ss58_address, made, "the address")


def connecting(world: World):
    """the SDK connects and reads the runtime's metadata"""
    world.client = bt.Subtensor(world.url)
    assert world.client.block > 0
    return f"spec {world.client.spec_version}, a block every {world.client.block_time()} s"


def registering(world: World):
    """the SDK registers hotkeys: the call burned_register, signed by the coldkey"""
    for name in ("validator", "miner"):
        hotkey = world.wallet(name).hotkey.ss58_address
        call = bt.calls.SubtensorModule.burned_register(netuid=NETUID, hotkey=hotkey)
        world.client.submit_call(call, world.wallet(name)).raise_for_failure()
    uids = [
        world.client.neurons.uid(world.wallet(name).hotkey.ss58_address, NETUID)
        for name in ("validator", "miner")
    ]
    equal(uids, [1, 2], "the uids")


def staking(world: World):
    """the SDK stakes on a validator"""
    validator, wallet = world.wallet("validator").hotkey.ss58_address, world.wallet("validator")
    intent = bt.AddStake(hotkey_ss58=validator, netuid=NETUID, amount_tao=2000)
    world.client.execute(intent, wallet).raise_for_failure()
    coldkey = wallet.coldkeypub.ss58_address
    stake = world.client.staking.get(coldkey, validator, NETUID)
    assert stake.amount >= 2000, stake


def the_miner_serves(world: World):
    """our miner runs with its hotkey, and publishes its address on the chain"""
    log = world.start(
        "miner",
        "run",
        *["--subtensor.chain_endpoint", world.url, "--netuid", str(NETUID)],
        *["--wallet.name", "local", "--wallet.hotkey", "miner", "--wallet.path", str(world.wallets)],
        *["--axon.port", "0", "--log-format", "json"],
        MINER__AXON__IP="127.0.0.1",
        MINER__ACCESS__REFRESH_S="1",
    )
    world.miner_url = "http://" + world.logged(log, r"listens on ([0-9.:]+)")

    def known():
        world.all_alive()
        return get_json(world.miner_url + "/health").get("registered")

    until("the miner's finding itself in the metagraph", known)


def permits(world: World):
    """an epoch gives the validator its permit"""
    validator = world.wallet("validator").hotkey.ss58_address

    def permitted():
        neuron = world.client.subnets.metagraph(NETUID).by_hotkey(validator)
        return neuron.validator_permit and neuron

    return f"with a stake of {until('the permit', permitted).total_stake}"


CHECKS = [
    a_devnet_starts,
    keys_made_by_btcli,
    keys_made_by_our_miner,
    connecting,
    registering,
    staking,
    the_miner_serves,
    permits,
]
