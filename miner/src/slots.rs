//! How many answers one task makes at once, and how many requests may wait for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for answers under way. A place is free again when its permit is dropped.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
    wait: Duration,
}

/// No place became free in time, or too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

/// Counts one that waits, however its waiting ends.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slots {
    pub(crate) fn new(places: usize, max_waiting: usize, wait: Duration) -> Self {
        Self {
            free: Arc::new(Semaphore::new(places)),
            waiting: AtomicUsize::new(0),
            max_waiting,
            wait,
        }
    }

    /// A place, at once or within the bounds of waiting.
    pub(crate) async fn take(&self) -> Result<OwnedSemaphorePermit, Busy> {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(place);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.max_waiting {
            return Err(Busy);
        }
        let place = tokio::time::timeout(self.wait, Arc::clone(&self.free).acquire_owned()).await;
        place.map_err(|_| Busy)?.map_err(|_| Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_waited_for_within_bounds() {
        let slots = Arc::new(Slots::new(1, 1, Duration::from_secs(60)));
        let first = slots.take().await.unwrap();
        let second = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.take().await.is_ok() }
        });
        while slots.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(slots.take().await.err(), Some(Busy), "one may wait, not two");
        drop(first);
        assert!(second.await.unwrap());
        assert_eq!(slots.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn waiting_ends() {
        let slots = Slots::new(1, 1, Duration::from_millis(1));
        let _first = slots.take().await.unwrap();
        assert_eq!(slots.take().await.err(), Some(Busy));
    }
}
