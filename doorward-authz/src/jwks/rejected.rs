//! Why a key of a set is not used.

use std::fmt;

use crate::refusal::Shown;

/// Why a key of a set is left out.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RejectedKey {
    Malformed,
    UnknownType,
    /// A shared secret, or a private key, in a set that others can read.
    Secret,
    NotForSignatures,
    WeakRsa,
    /// A coordinate or a point that has not the octets of its curve, leading zeros included (RFC 7518 section 6.2.1.2,
    /// RFC 8037 section 2). Go, PyJWT and the Web Cryptography API refuse such a key, too.
    CoordinateLength,
    /// Not a point of the curve, or one of so small an order that anyone can sign for it.
    NotOnCurve,
    AlgorithmNotAllowed,
    DuplicateId,
}

impl RejectedKey {
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::UnknownType,
        Self::Secret,
        Self::NotForSignatures,
        Self::WeakRsa,
        Self::CoordinateLength,
        Self::NotOnCurve,
        Self::AlgorithmNotAllowed,
        Self::DuplicateId,
    ];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown_type",
            Self::Secret => "secret",
            Self::NotForSignatures => "not_for_signatures",
            Self::WeakRsa => "weak_rsa",
            Self::CoordinateLength => "coordinate_length",
            Self::NotOnCurve => "not_on_curve",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::DuplicateId => "duplicate_id",
        }
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
