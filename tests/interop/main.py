"""Runs all checks in order, one line each. Arguments: a work folder, the folder of our programs, and btcli."""

import os
import signal
import sys
import traceback
from pathlib import Path


def main() -> int:
    work, binaries, btcli = map(Path, sys.argv[1:])
    # Before the SDK is imported: it reads them when it is.
    os.environ["BITTENSOR_RUNTIME_CACHE_DIR"] = str(work / "metadata")
    for name in ("BT_NETWORK", "BT_WALLET", "BT_WALLET_HOTKEY", "BT_WALLET_PATH", "BTCLI_CONFIG"):
        os.environ.pop(name, None)

    import checks_btcli
    import checks_chain
    import checks_commits
    import checks_http
    import setting_up
    from world import World

    groups = [
        setting_up.CHECKS,
        checks_chain.CHECKS,
        checks_http.CHECKS,
        checks_btcli.CHECKS,
        checks_commits.CHECKS,
    ]
    world = World(work, binaries, btcli)
    passed = failed = 0
    try:
        for check in (check for group in groups for check in group):
            sentence = check.__doc__.strip()
            try:
                note = check(world)
            except Exception as error:
                failed += 1
                print(f"FAILED  {sentence}: {error}", flush=True)
                traceback.print_exc(file=sys.stderr)
                if check in setting_up.CHECKS:
                    print("        the rest needs this and is left out", flush=True)
                    break
            else:
                passed += 1
                print(f"ok      {sentence}" + (f" ({note})" if note else ""), flush=True)
    finally:
        world.close()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def stop(_signal, _frame):
    sys.exit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main())
