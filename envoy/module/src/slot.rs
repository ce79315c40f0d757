//! The handover of an answer from the engine's thread to its stream, whichever ends first.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The slot of a waiting stream. `W` wakes it.
pub struct Slot<W, T> {
    inner: Mutex<Inner<W, T>>,
}

struct Inner<W, T> {
    /// `None`: the stream is gone.
    waker: Option<W>,
    answer: Option<T>,
}

/// Wakes a stream; not to be called once it is gone.
pub trait Wake {
    fn wake(&self);
}

impl Wake for crate::abi::Waker {
    fn wake(&self) {
        self.wake();
    }
}

impl<W: Wake, T> Slot<W, T> {
    pub const fn new(waker: W) -> Self {
        Self { inner: Mutex::new(Inner { waker: Some(waker), answer: None }) }
    }

    /// Stores an answer and wakes the stream, if it has not ended.
    ///
    /// Under the lock: the stream's end takes the waker under it, so no stream is woken after its end, when its worker
    /// may be gone.
    pub fn put(&self, answer: T) {
        let mut inner = self.lock();
        let Inner { waker: Some(waker), answer: place } = &mut *inner else { return };
        *place = Some(answer);
        waker.wake();
    }

    /// The answer that woke the stream.
    pub fn take(&self) -> Option<T> {
        self.lock().answer.take()
    }

    /// The stream ends.
    pub fn leave(&self) {
        let mut inner = self.lock();
        drop(inner.waker.take());
        inner.answer = None;
    }

    fn lock(&self) -> MutexGuard<'_, Inner<W, T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    /// A waker that knows whether its stream has ended.
    #[derive(Clone, Default)]
    struct Watched {
        is_over: Arc<AtomicBool>,
        woken: Arc<AtomicUsize>,
    }

    impl Wake for Watched {
        fn wake(&self) {
            assert!(!self.is_over.load(Ordering::SeqCst), "its worker may be gone");
            self.woken.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_stream_is_woken_before_its_end_or_not_at_all() {
        for _ in 0..2_000 {
            let watched = Watched::default();
            let slot = Slot::new(watched.clone());
            thread::scope(|scope| {
                let put = scope.spawn(|| slot.put("answer"));
                scope.spawn(|| {
                    slot.leave();
                    watched.is_over.store(true, Ordering::SeqCst);
                });
                put.join().unwrap();
            });
            assert!(watched.woken.load(Ordering::SeqCst) <= 1);
            assert_eq!(slot.take(), None, "nothing is kept for a stream that is gone");
            slot.put("late");
            assert_eq!(slot.take(), None);
        }
    }
}
