//! A value with its encoding for one protocol front end, made once.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// A value and its encoding.
pub struct Encoded<T> {
    value: T,
    bytes: OnceLock<Box<[u8]>>,
}

impl<T> Encoded<T> {
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self { value, bytes: OnceLock::new() }
    }

    /// The encoding that the first call made. Only one protocol front end calls it, so there is
    /// one form.
    pub fn written(&self, make: impl FnOnce(&T) -> Box<[u8]>) -> &[u8] {
        self.bytes.get_or_init(|| make(&self.value))
    }
}

impl<T> Deref for Encoded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Encoded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// A cache beside a value for an encoding that also depends on another value, `M`.
#[derive(Debug)]
pub struct Cached<M>(OnceLock<(Arc<M>, Box<[u8]>)>);

impl<M> Default for Cached<M> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

/// A clone starts with an empty cache, because the caller may modify it.
impl<M> Clone for Cached<M> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<M> Cached<M> {
    /// The encoding made with this `maker`, if it was the first to request one; `None` for any
    /// other.
    pub fn get_or_make(&self, maker: &Arc<M>, make: impl FnOnce() -> Box<[u8]>) -> Option<&[u8]> {
        let (first, bytes) = self.0.get_or_init(|| (maker.clone(), make()));
        Arc::ptr_eq(first, maker).then_some(&**bytes)
    }
}
