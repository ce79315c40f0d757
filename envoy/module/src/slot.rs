//! Where an answer from the engine's thread meets its stream, whichever is first to go.
//!
//! `tests/slot.rs` compiles this file with the locks of a model checker, which runs every order of the two threads.

use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard};

/// The place of a stream that waits. `W` wakes it.
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

    /// Puts an answer here and wakes the stream, if it is still there.
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
