//! Gumbel noise that is the same bits on every machine and in every language.
//!
//! For a seed (64 bits), a position (32 bits: how many tokens of the answer come before) and a token id (32 bits), with
//! all integer arithmetic modulo 2^64 and LE meaning little-endian bytes:
//!
//! 1. `key = BLAKE3("touchstone/gumbel/1" ‖ LE64(seed) ‖ LE32(position))`; `k0` and `k1` are its bytes 0–7 and 8–15
//!    read as LE integers. One hash per position serves the whole vocabulary.
//! 2. `x = mix(mix(k0 + (token + 1) · 0x9E3779B97F4A7C15) ^ k1)`, where `mix` is the finaliser of SplitMix64:
//!    `z ^= z >> 30; z *= 0xBF58476D1CE4E5B9; z ^= z >> 27; z *= 0x94D049BB133111EB; z ^= z >> 31`.
//! 3. `u = ((x >> 12) + 0.5) · 2^-52`. Both steps are exact in binary64, and `2^-53 ≤ u ≤ 1 − 2^-53`.
//! 4. `noise = −ln(−ln(u))`, with the `ln` below in place of a library's, whose last bit differs between systems.
//!
//! `ln(v)`, in IEEE 754 binary64 with round-to-nearest, every operation rounded by itself (no fused multiply-add):
//!
//! 1. `v = m · 2^e` with `1 ≤ m < 2`; if `m > 1.4142135623730951` then `m = m / 2` and `e = e + 1`.
//! 2. `s = (m − 1) / (m + 1)`, `z = s · s`.
//! 3. `p = 1/21`; then for `k` in 19, 17, … 3, 1: `p = p · z + 1/k`, each `1/k` being the nearest binary64.
//! 4. `ln(v) = e · 0x3FE62E42FEE00000 + (e · 0x3DEA39EF35793C76 + (s + s) · p)`, the two constants given by their bits
//!    (the upper and the lower part of ln 2; the upper one has enough zeros for the first product to be exact).

/// Separates this use of the hash from every other.
const CONTEXT: &[u8] = b"touchstone/gumbel/1";
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
const LN2_UPPER: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
const LN2_LOWER: f64 = f64::from_bits(0x3DEA_39EF_3579_3C76);

/// No noise is larger: 53 · ln 2, rounded up.
pub const LARGEST: f64 = 36.736_800_570;

/// The noise of one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    k0: u64,
    k1: u64,
}

/// The random bits of one token, from which its noise follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw(u64);

impl Noise {
    /// `position` counts the tokens of the answer before this one.
    pub fn at(seed: u64, position: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(CONTEXT).update(&seed.to_le_bytes()).update(&position.to_le_bytes());
        let mut key = [[0; 8]; 2];
        for (part, bytes) in key.iter_mut().zip(hasher.finalize().as_bytes().chunks_exact(8)) {
            part.copy_from_slice(bytes);
        }
        Self { k0: u64::from_le_bytes(key[0]), k1: u64::from_le_bytes(key[1]) }
    }

    /// The bits of a token: cheap, where [`Draw::value`] takes two logarithms.
    #[inline]
    pub fn draw(self, token: u32) -> Draw {
        let counter = (u64::from(token) + 1).wrapping_mul(GOLDEN);
        Draw(mix(mix(self.k0.wrapping_add(counter)) ^ self.k1))
    }

    /// Standard Gumbel noise of a token, in `-3.61..=LARGEST`.
    pub fn of(self, token: u32) -> f64 {
        self.draw(token).value()
    }
}

impl Draw {
    /// Uniform in `2^-53 ..= 1 - 2^-53`.
    pub fn uniform(self) -> f64 {
        const SCALE: f64 = 1.0 / (1_u64 << 52) as f64;
        ((self.0 >> 12) as f64 + 0.5) * SCALE
    }

    /// Standard Gumbel noise.
    pub fn value(self) -> f64 {
        -ln(-ln(self.uniform()))
    }

    /// A bound that [`Draw::value`] never exceeds, without its logarithms.
    ///
    /// With `c` the complement of the 52 bits, `1 − u > c · 2^-52`. As `−ln(u) ≥ 1 − u`, the noise is at most
    /// `−ln(1 − u)`, and the leading zeros of `c` bound that.
    #[inline]
    pub fn bound(self) -> f64 {
        let complement = (self.0 >> 12) ^ ((1 << 52) - 1);
        // 0 for half of all draws, 1 for a quarter, and so on; 52 if all bits are set.
        let zeros = complement.leading_zeros() - 12;
        // The margin covers the rounding of `value`.
        f64::from(zeros + 1) * std::f64::consts::LN_2 + 1e-9
    }
}

#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Natural logarithm of a positive normal number, as the module describes. Relative error below 1e-15 except next to 1
/// from above and below, where it is a few units in the last place.
fn ln(v: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = v.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits((bits & MANTISSA) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let e = exponent as f64;
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 1.0 / 21.0;
    for k in [19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = p * z + 1.0 / k;
    }
    e * LN2_UPPER + (e * LN2_LOWER + (s + s) * p)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same table that other languages test against.
    const SPEC: &str = include_str!("../../docs/seeded-sampling.md");

    #[test]
    fn conformance_noise_has_the_bits_of_the_published_table() {
        let mut rows = 0;
        for line in SPEC.lines().filter(|line| line.starts_with("| 0x")) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let hex = |cell: &str| u64::from_str_radix(cell.trim_start_matches("0x"), 16).unwrap();
            let (seed, position, token) =
                (hex(cells[0]), cells[1].parse().unwrap(), cells[2].parse().unwrap());
            let noise = Noise::at(seed, position);
            assert_eq!(noise.draw(token), Draw(hex(cells[3])), "bits of {line}");
            assert_eq!(noise.of(token).to_bits(), hex(cells[4]), "noise of {line}");
            rows += 1;
        }
        assert!(rows >= 12, "the table of docs/seeded-sampling.md has {rows} rows");
    }

    #[test]
    fn noise_has_mean_and_variance_of_a_gumbel_distribution() {
        let n = 1_000_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for position in 0..1000 {
            let noise = Noise::at(42, position);
            for token in 0..n / 1000 {
                let g = noise.of(token);
                sum += g;
                squares += g * g;
            }
        }
        let mean = sum / f64::from(n);
        let variance = squares / f64::from(n) - mean * mean;
        assert!((mean - 0.577_215_66).abs() < 0.005, "mean {mean}");
        assert!(
            (variance - std::f64::consts::PI.powi(2) / 6.0).abs() < 0.02,
            "variance {variance}"
        );
    }

    #[test]
    fn draws_are_uniform_along_tokens_positions_and_seeds() {
        let along: [fn(u32) -> Draw; 3] = [
            |i| Noise::at(7, 3).draw(i),
            |i| Noise::at(7, i).draw(3),
            |i| Noise::at(u64::from(i), 3).draw(7),
        ];
        for draws in along {
            let mut bins = [0_u32; 64];
            for i in 0..64_000 {
                bins[(draws(i).uniform() * 64.0) as usize] += 1;
            }
            let chi: f64 = bins.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
            // 63 degrees of freedom: mean 63, standard deviation 11.2.
            assert!((25.0..125.0).contains(&chi), "chi-square {chi}");
        }
    }

    #[test]
    fn the_extremes_are_finite_and_within_the_stated_range() {
        let (least, most) = (Draw(0).value(), Draw(u64::MAX).value());
        assert!((least + 3.6037).abs() < 1e-3, "{least}");
        assert!(most <= LARGEST && most > LARGEST - 1e-6, "{most}");
        assert!(most <= Draw(u64::MAX).bound());
    }

    proptest! {
        #[test]
        fn the_logarithm_is_accurate_to_1e_15(v in prop_oneof![1e-17..1e3_f64, 0.5..2.0_f64]) {
            let expected = v.ln();
            prop_assert!((ln(v) - expected).abs() <= 4e-16 * expected.abs().max(0.5), "{} {}", ln(v), expected);
        }

        #[test]
        fn the_bound_holds_for_every_draw(x in any::<u64>(), shift in 0_u32..64) {
            // Shifting ones in from the left reaches the rare large draws.
            let draw = Draw(x | !(u64::MAX >> shift));
            prop_assert!(draw.value() <= draw.bound());
            prop_assert!(draw.value() <= LARGEST);
        }
    }
}
