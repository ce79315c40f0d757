//! More decisions than can wait: the rest is refused at once, and nobody waits longer than the caller.
