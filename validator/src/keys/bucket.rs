//! Token buckets, with time as an argument.

/// A minute, in milliseconds: one unit of an amount is this many drops, so that refilling is exact.
const MINUTE: u64 = 60_000;

/// How full a bucket is that holds a minute's amount and is refilled evenly. New ones are full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    /// Drops that are missing.
    missing: u64,
    /// When that was so, in milliseconds.
    at_ms: i64,
}

/// What a caller is told of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    pub limit: u32,
    pub remaining: u32,
    /// Until the bucket is full again, in milliseconds.
    pub reset_ms: u64,
}

/// Why nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// There will be enough after this many milliseconds.
    Wait(u64),
    /// There never will be: more is asked for than the bucket holds.
    Never,
}

impl Bucket {
    /// At this time. A clock that goes back refills nothing.
    fn at(self, limit: u32, now_ms: i64) -> Self {
        let passed = u64::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(0);
        let refilled = passed.saturating_mul(limit.into());
        // Of a limit that was lowered, no more is missing than there can be.
        let missing = self.missing.min(u64::from(limit) * MINUTE).saturating_sub(refilled);
        Self { missing, at_ms: now_ms.max(self.at_ms) }
    }

    /// Takes an amount, all or nothing.
    ///
    /// # Errors
    /// If there is not as much.
    pub fn take(&mut self, limit: u32, amount: u64, now_ms: i64) -> Result<(), Short> {
        *self = self.at(limit, now_ms);
        if amount > u64::from(limit) {
            return Err(Short::Never);
        }
        let after = self.missing + amount * MINUTE;
        match after.saturating_sub(u64::from(limit) * MINUTE) {
            0 => self.missing = after,
            over => return Err(Short::Wait(over.div_ceil(limit.max(1).into()))),
        }
        Ok(())
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, amount: u64) {
        self.missing = self.missing.saturating_sub(amount.saturating_mul(MINUTE));
    }

    /// What is in it.
    pub fn level(self, limit: u32, now_ms: i64) -> Level {
        let missing = self.at(limit, now_ms).missing;
        let remaining = u64::from(limit) - missing.div_ceil(MINUTE);
        Level {
            limit,
            remaining: u32::try_from(remaining).unwrap_or(limit),
            reset_ms: missing.div_ceil(limit.max(1).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn in_no_minute_is_more_taken_than_two_limits_and_a_wait_suffices(
            limit in 1..10_000_u32,
            asks in prop::collection::vec((0..5_000_i64, 0..12_000_u64), 1..100),
        ) {
            let mut bucket = Bucket::default();
            let (mut now, mut taken) = (0, Vec::<(i64, u64)>::new());
            for (passed, amount) in asks {
                now += passed;
                match bucket.take(limit, amount, now) {
                    Ok(()) => taken.push((now, amount)),
                    Err(Short::Never) => prop_assert!(amount > limit.into()),
                    Err(Short::Wait(wait)) => {
                        let mut later = bucket;
                        prop_assert_eq!(later.take(limit, amount, now + i64::try_from(wait).unwrap()), Ok(()));
                        if wait > 1 {
                            let mut early = bucket;
                            prop_assert!(early.take(limit, amount, now + i64::try_from(wait).unwrap() - 1).is_err());
                        }
                    }
                }
                let minute: u64 = taken.iter().filter(|(at, _)| *at > now - 60_000).map(|(_, n)| n).sum();
                prop_assert!(minute <= 2 * u64::from(limit));
                prop_assert!(bucket.level(limit, now).remaining <= limit);
            }
        }

        #[test]
        fn what_is_given_back_can_be_taken_again(limit in 1..1_000_u32, now in 0..1_000_000_i64) {
            let mut bucket = Bucket::default();
            prop_assert_eq!(bucket.take(limit, limit.into(), now), Ok(()));
            prop_assert!(bucket.take(limit, 1, now).is_err());
            bucket.give_back(limit.into());
            prop_assert_eq!(bucket.level(limit, now), Level { limit, remaining: limit, reset_ms: 0 });
            prop_assert_eq!(bucket.take(limit, limit.into(), now), Ok(()));
        }
    }

    #[test]
    fn a_clock_that_goes_back_refills_nothing() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(1, 1, 100_000), Ok(()));
        assert_eq!(bucket.take(1, 1, 0), Err(Short::Wait(60_000)));
        assert_eq!(bucket.take(1, 1, 159_999), Err(Short::Wait(1)));
        assert_eq!(bucket.take(1, 1, 160_000), Ok(()));
    }
}
