//! The handover of an answer from the engine's thread to its stream, whichever ends first.
//!
//! `tests/slot.rs` compiles this file with the locks of a model checker, which runs every order of the two threads.

use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard};

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

impl<W: Wake, T> Slot<W, T> {
    pub fn new(waker: W) -> Self {
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
