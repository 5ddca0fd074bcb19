"""The draw of docs/seeded-sampling.md, for many answers at once, on whatever device PyTorch runs on.

    seeded.py docs/seeded-sampling.md [DEVICE]

compares it with the table of test vectors there.
"""

import sys

import blake3
import torch

CONTEXT = b"touchstone/gumbel/1"
MANTISSA = (1 << 52) - 1


def signed(bits):
    """64 bits as PyTorch holds them."""
    return bits - (1 << 64) if bits >= 1 << 63 else bits


def keys(seed, position):
    digest = blake3.blake3(CONTEXT + seed.to_bytes(8, "little") + position.to_bytes(4, "little")).digest()
    return [signed(int.from_bytes(digest[at : at + 8], "little")) for at in (0, 8)]


def shifted(x, by):
    """To the right, with zeros."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def mix(z):
    z = (z ^ shifted(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ shifted(z, 27)) * signed(0x94D049BB133111EB)
    return z ^ shifted(z, 31)


def ln(v):
    # Each line is an operation of its own: nothing is fused.
    upper = torch.tensor(0x3FE62E42FEE00000, device=v.device).view(torch.float64)
    lower = torch.tensor(0x3DEA39EF35793C76, device=v.device).view(torch.float64)
    bits = v.view(torch.int64)
    e = (bits >> 52) - 1023
    m = ((bits & MANTISSA) | (1023 << 52)).view(torch.float64)
    large = m > 1.4142135623730951
    m = torch.where(large, m * 0.5, m)
    e = (e + large).double()
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = torch.full_like(z, 1.0 / 21.0)
    for k in range(19, 0, -2):
        p = p * z
        p = p + 1.0 / k
    tail = s + s
    tail = tail * p
    low = e * lower
    low = low + tail
    high = e * upper
    return high + low


def noise(seeds, positions, tokens):
    """One row per answer, one column per token."""
    k = torch.tensor([keys(seed, position) for seed, position in zip(seeds, positions)], device=tokens.device)
    counter = (tokens + 1) * signed(0x9E3779B97F4A7C15)
    x = mix(mix(k[:, :1] + counter) ^ k[:, 1:])
    u = (shifted(x, 12).double() + 0.5) * 2.0**-52
    return -ln(-ln(u)), x


def draw(logits, temperatures, seeds, positions):
    """The drawn token of each row of binary32 logits."""
    tokens = torch.arange(logits.shape[1], device=logits.device)
    logits = logits.double()
    scores = (logits - logits.max(dim=1, keepdim=True).values) / temperatures[:, None]
    return (scores + noise(seeds, positions, tokens)[0]).argmax(dim=1)


def check(page, device):
    """Says how many rows of the page's table came out bit by bit.

    Raises an error at one that does not.
    """
    rows = 0
    for line in page.read_text().splitlines():
        if not line.startswith("| 0x"):
            continue
        seed, position, token, bits, value = (cell.strip() for cell in line.strip("|").split("|")[:5])
        got, x = noise([int(seed, 16)], [int(position)], torch.tensor([int(token)], device=device))
        if (got.view(torch.int64).item(), x.item()) != (signed(int(value, 16)), signed(int(bits, 16))):
            raise ValueError(f"PyTorch on {device} does not draw as {page} says: {line}")
        rows += 1
    if rows == 0:
        raise ValueError(f"{page} has no test vectors")
    return rows


if __name__ == "__main__":
    import pathlib

    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    print(f"{check(pathlib.Path(sys.argv[1]), device)} test vectors are as they should be")
