"""What the checks run against: a devnet, a miner and wallets of their own, and how they are started and ended."""

import json
import os
import re
import subprocess
import time
import urllib.request
from pathlib import Path

import bittensor as bt

# Far longer than anything here takes.
PATIENCE_S = 90

NETUID = 1
TAO = 10**9


class World:
    """Everything that a check needs. What was started is ended by `close`."""

    def __init__(self, work: Path, binaries: Path, btcli: Path, flags: tuple[str, ...] = ()):
        self.work = work
        self.binaries = binaries
        self._btcli = btcli
        # Of `devnet run`, besides those that every devnet gets here.
        self.flags = flags
        self.wallets = work / "wallets"
        self._pids = work / "pids"
        self._others: list[World] = []
        self._processes: list[subprocess.Popen] = []
        self.url = ""
        self.miner_url = ""
        self.client: bt.Subtensor | None = None

    def another(self, name: str, flags: tuple[str, ...]) -> "World":
        """Another chain for the same wallets. It is ended together with this one."""
        work = self.work / name
        work.mkdir()
        other = World(work, self.binaries, self._btcli, flags)
        other.wallets, other._pids = self.wallets, self._pids
        self._others.append(other)
        return other

    # Processes

    def start(self, name: str, *arguments: str, **variables: str) -> Path:
        """Starts one of our programs and returns the file that its log goes to, one JSON object per line."""
        log = self.work / f"{name}.log"
        environment = {**os.environ, "RUST_LOG": "info", **variables}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.binaries / name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
            )
        self._processes.append(process)
        with self._pids.open("a") as pids:
            pids.write(f"{process.pid}\n")
        return log

    def logged(self, log: Path, pattern: str) -> str:
        """The first group of the first line that matches, as soon as there is one."""

        def found():
            self.all_alive()
            return re.search(pattern, log.read_text(errors="replace"))

        return until(f"`{pattern}` in {log.name}", found).group(1)

    def all_alive(self) -> None:
        for process in self._processes:
            if process.poll() is not None:
                log = self.work / f"{Path(process.args[0]).name}.log"
                last = log.read_text(errors="replace").strip().splitlines()[-3:]
                raise RuntimeError(f"{process.args[0]} ended by itself: {' / '.join(last)}")

    def close(self) -> None:
        for other in self._others:
            other.close()
        if self.client is not None:
            self.client.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._pids.parent == self.work:
            self._pids.unlink(missing_ok=True)

    # The SDK

    def connect(self) -> None:
        if self.client is not None:
            self.client.close()
        self.client = bt.Subtensor(self.url)

    def register_in_secret(self, hotkey: str) -> dict:
        """Registers a hotkey as the SDK wants it: sealed for the block producer alone. What it says of it."""
        wallet = self.wallet(hotkey)
        intent = bt.BurnedRegister(netuid=NETUID, hotkey_ss58=wallet.hotkey.ss58_address)
        result = self.client.execute(intent, wallet).raise_for_failure()
        # A client remembers the next nonce, and does not count the transaction that was sealed.
        self.connect()
        return result.data

    # Commands

    def devnet(self, command: str, *arguments: str) -> str:
        """One of devnet's commands on the running devnet."""
        return run(self.binaries / "devnet", command, "--endpoint", self.url, *arguments)

    def ours(self, *arguments: str) -> dict:
        """The subnet as our chain client reads it; arguments let it set weights first."""
        example = self.binaries / "examples" / "subnet"
        return json.loads(run(example, self.url, str(NETUID), *arguments))

    def btcli(self, *arguments: str, wallet: str = "local", hotkey: str = "validator") -> dict | list:
        """A btcli command as a person types it, with the answer as JSON."""
        variables = {
            "BT_CHAIN_ENDPOINT": self.url,
            "BT_NETWORK": "local",
            "BT_WALLET": wallet,
            "BT_WALLET_HOTKEY": hotkey,
            "BT_WALLET_PATH": str(self.wallets),
        }
        answer = run(self._btcli, *arguments, "--json", **variables)
        # Transactions print a line for people before the answer.
        return json.loads(answer[min(at for at in map(answer.find, "{[") if at >= 0) :])

    # Keys

    def wallet(self, hotkey: str) -> bt.Wallet:
        return bt.Wallet("local", hotkey, path=str(self.wallets))


def run(program: Path, *arguments: str, **variables: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", **variables},
    )
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip()
        raise RuntimeError(f"`{Path(program).name} {' '.join(arguments)}` failed: {said[-800:]}")
    return done.stdout


def until(what: str, condition):
    """What `condition` returns, as soon as that is something."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come about in {PATIENCE_S} s")
        time.sleep(0.1)


def equal(got, wanted, what: str) -> None:
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


def get_json(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)
