//! Sends equal prefixes to equal miners, and moves few of them when miners come and go.

use common::Hotkey;
use sha2::{Digest, Sha256};

/// Points of each miner: the more, the more evenly prefixes are spread.
const POINTS: usize = 8;

/// Consistent hashing (Karger et al. 1997): a prefix belongs to the miner with the next point.
#[derive(Debug, Default)]
pub(super) struct Ring(Vec<(u64, u32)>);

impl Ring {
    /// Points depend on the hotkey alone.
    pub(super) fn new<'a>(miners: impl Iterator<Item = &'a Hotkey>) -> Self {
        let mut points: Vec<_> = (0..)
            .zip(miners)
            .flat_map(|(index, hotkey)| points(hotkey).map(move |point| (point, index)))
            .collect();
        points.sort_unstable();
        Self(points)
    }

    /// The index of the miner for a prefix; `None` if there are none.
    pub(super) fn find(&self, prefix: u64) -> Option<usize> {
        let place = self.0.partition_point(|(point, _)| *point < prefix);
        let (_, index) = self.0.get(place).or_else(|| self.0.first())?;
        Some(*index as usize)
    }
}

fn points(hotkey: &Hotkey) -> impl Iterator<Item = u64> + use<> {
    let digests: [[u8; 32]; POINTS / 4] = std::array::from_fn(|number| {
        Sha256::new().chain_update(hotkey.as_bytes()).chain_update([number as u8]).finalize().into()
    });
    let number = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let all: Vec<u64> = digests.iter().flat_map(|digest| digest.chunks(8).map(number)).collect();
    all.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u8) -> Vec<Hotkey> {
        (0..count).map(|name| Hotkey::from_bytes([name; 32])).collect()
    }

    const PREFIXES: u64 = 20_000;

    fn owners(keys: &[Hotkey]) -> Vec<Hotkey> {
        let ring = Ring::new(keys.iter());
        let spread = |prefix: u64| prefix.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..PREFIXES).map(|prefix| keys[ring.find(spread(prefix)).unwrap()]).collect()
    }

    #[test]
    fn only_the_prefixes_of_a_miner_that_leaves_move() {
        let keys = keys(20);
        let (before, after) = (owners(&keys), owners(&keys[1..]));
        for (before, after) in std::iter::zip(before, after) {
            assert!(before == after || before == keys[0]);
        }
    }

    #[test]
    fn every_miner_gets_a_part() {
        let (keys, mut counts) = (keys(20), std::collections::BTreeMap::<_, u64>::new());
        owners(&keys).into_iter().for_each(|owner| *counts.entry(owner).or_default() += 1);
        assert_eq!(counts.len(), 20);
        assert!(counts.values().all(|count| (PREFIXES / 200..PREFIXES / 5).contains(count)));
        assert_eq!(Ring::default().find(7), None);
    }
}
