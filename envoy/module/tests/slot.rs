//! `src/slot.rs` under a model checker: every order in which an answer, the end of a stream and its worker meet.

#[path = "../src/slot.rs"]
mod slot;

mod sync {
    pub use loom::sync::{Mutex, MutexGuard};
}

use std::sync::Mutex as Cell;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use slot::{Slot, Wake};

/// A waker that panics when the worker of its stream may be gone.
#[derive(Clone)]
struct Watched {
    is_over: Arc<AtomicBool>,
    woken: Arc<AtomicUsize>,
}

impl Watched {
    fn new() -> Self {
        Self { is_over: Arc::new(AtomicBool::new(false)), woken: Arc::new(AtomicUsize::new(0)) }
    }
}

impl Wake for Watched {
    fn wake(&self) {
        assert!(!self.is_over.load(Ordering::SeqCst), "its worker may be gone");
        self.woken.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_stream_is_woken_before_its_end_or_not_at_all() {
    loom::model(|| {
        let watched = Watched::new();
        let slot = Arc::new(Slot::new(watched.clone()));
        let engine = {
            let slot = slot.clone();
            thread::spawn(move || slot.put("answer"))
        };
        slot.leave();
        watched.is_over.store(true, Ordering::SeqCst);
        engine.join().unwrap();
        assert!(watched.woken.load(Ordering::SeqCst) <= 1);
        assert_eq!(slot.take(), None, "nothing is kept for a stream that is gone");
        slot.put("late");
        assert_eq!(slot.take(), None);
    });
}

#[test]
fn an_answer_is_there_when_its_stream_is_woken_and_is_taken_once() {
    // Both orders happen: otherwise the model shows nothing.
    static SEEN: Cell<[bool; 2]> = Cell::new([false; 2]);
    loom::model(|| {
        let watched = Watched::new();
        let slot = Arc::new(Slot::new(watched.clone()));
        let engine = {
            let slot = slot.clone();
            thread::spawn(move || slot.put("answer"))
        };
        let is_woken = watched.woken.load(Ordering::SeqCst) == 1;
        let early = slot.take();
        assert!(!is_woken || early.is_some(), "woken for an answer that is not there");
        SEEN.lock().unwrap()[usize::from(early.is_some())] = true;
        engine.join().unwrap();
        assert_eq!((early, slot.take()), if early.is_some() { (early, None) } else { (None, Some("answer")) });
        slot.leave();
    });
    assert_eq!(*SEEN.lock().unwrap(), [true; 2]);
}
