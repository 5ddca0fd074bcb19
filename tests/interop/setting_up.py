"""A subnet as a person sets it up, with btcli, the SDK and devnet's commands. Nothing else works without these."""

import bittensor as bt
from world import NETUID, World, equal, get_json, run, until


# So that what takes epochs takes seconds. Commit-reveal stays as a chain has it at first, which is on.
RULES = {
    "min-allowed-weights": 1,
    "tempo": 10,
    "weights-set-rate-limit": 0,
    "serving-rate-limit": 0,
}


def begin(world: World) -> None:
    """Starts a devnet with a subnet of //Alice's, which takes stake and pays."""
    flags = ["--port", "0", "--block-time", "200ms", "--log-format", "json", *world.flags]
    log = world.start("devnet", "run", *flags)
    world.url = "ws://" + world.logged(log, r'"address":"([0-9.:]+)"')
    equal(world.devnet("register-network", "--coldkey", "//Alice").strip(), str(NETUID), "the subnet")
    world.devnet("start", "--netuid", str(NETUID), "--coldkey", "//Alice")
    for name, value in RULES.items():
        world.devnet(f"sudo-set-{name}", "--netuid", str(NETUID), "--value", str(value))


def stake(world: World) -> None:
    """Stakes on the validator, with the SDK."""
    wallet = world.wallet("validator")
    intent = bt.AddStake(hotkey_ss58=wallet.hotkey.ss58_address, netuid=NETUID, amount_tao=2000)
    world.client.execute(intent, wallet).raise_for_failure()


def permit(world: World):
    """The validator as the SDK's metagraph has it, once it has a permit."""
    validator = world.wallet("validator").hotkey.ss58_address

    def permitted():
        neuron = world.client.subnets.metagraph(NETUID).by_hotkey(validator)
        return neuron.validator_permit and neuron

    return until("the permit", permitted)


def a_devnet_starts(world: World):
    """a devnet starts, with a subnet of //Alice's without commit-reveal"""
    begin(world)
    world.devnet("sudo-set-commit-reveal", "--netuid", str(NETUID), "--value", "0")


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
    world.connect()
    assert world.client.block > 0
    return f"spec {world.client.spec_version}, a block every {world.client.block_time()} s"


def registering_in_secret(world: World):
    """the SDK registers a hotkey by its intent BurnedRegister, which it sends sealed for the block producer alone"""
    equal(world.register_in_secret("validator")["shielded"], True, "sealed")
    hotkey = world.wallet("validator").hotkey.ss58_address
    equal(world.client.neurons.uid(hotkey, NETUID), 1, "the uid")


def registering(world: World):
    """the SDK registers a hotkey in the open, by the bare call burned_register"""
    wallet = world.wallet("miner")
    hotkey = wallet.hotkey.ss58_address
    call = bt.calls.SubtensorModule.burned_register(netuid=NETUID, hotkey=hotkey)
    world.client.submit_call(call, wallet).raise_for_failure()
    equal(world.client.neurons.uid(hotkey, NETUID), 2, "the uid")


def staking(world: World):
    """the SDK stakes on a validator"""
    stake(world)
    wallet = world.wallet("validator")
    coldkey, hotkey = wallet.coldkeypub.ss58_address, wallet.hotkey.ss58_address
    staked = world.client.staking.get(coldkey, hotkey, NETUID)
    assert staked.amount >= 2000, staked


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
    return f"with a stake of {permit(world).total_stake}"


CHECKS = [
    a_devnet_starts,
    keys_made_by_btcli,
    keys_made_by_our_miner,
    connecting,
    registering_in_secret,
    registering,
    staking,
    the_miner_serves,
    permits,
]
