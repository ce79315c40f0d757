//! Why a key of a set is not used.

use std::fmt;

use crate::refusal::Shown;

labels! {
    /// Why a key of a set is left out.
    #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
    pub enum RejectedKey {
        Malformed = "malformed",
        UnknownType = "unknown_type",
        /// A shared secret, or a private key, in a set that others can read.
        Secret = "secret",
        NotForSignatures = "not_for_signatures",
        WeakRsa = "weak_rsa",
        /// A coordinate or a point that has not the octets of its curve, leading zeros included (RFC 7518 section
        /// 6.2.1.2, RFC 8037 section 2). Go, PyJWT and the Web Cryptography API refuse such a key, too.
        CoordinateLength = "coordinate_length",
        /// Not a point of the curve, or one of so small an order that anyone can sign for it.
        NotOnCurve = "not_on_curve",
        AlgorithmNotAllowed = "algorithm_not_allowed",
        DuplicateId = "duplicate_id",
    }
}

/// A key of a set that is left out: why, and which it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeftOut {
    pub cause: RejectedKey,
    /// Its place in `keys`, from 0.
    pub place: usize,
    pub(super) id: Option<String>,
}

/// `malformed (kid `k`)`, or the key's place if it has no `kid`.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{} (kid {})", self.cause.label(), Shown(id)),
            None => write!(f, "{} (keys[{}])", self.cause.label(), self.place),
        }
    }
}
