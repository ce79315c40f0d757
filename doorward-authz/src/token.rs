//! From text to proof: [`BearerToken`] → [`UnverifiedToken`] → [`VerifiedToken`].
//!
//! Holding a `VerifiedToken` means that a trusted issuer signed it for us, in form and in time.

mod accepted;
mod bearer;
mod identify;
mod issuer;
mod reading;
mod seen;
mod status;
mod times;
mod unverified;
mod verified;

pub use self::accepted::{Audiences, TokenTypes};
pub use self::bearer::BearerToken;
pub(super) use self::bearer::strip_scheme;
pub use self::issuer::{ClaimNames, Expiry, LogoutPolicy, TrustedIssuer};
pub(super) use self::reading::{filled_name, name, numeric_date, text};
pub use self::seen::Seen;
pub use self::status::VerifiedList;
pub(super) use self::times::Times;
pub use self::unverified::{Header, UnverifiedToken};
pub use self::verified::VerifiedToken;
pub(super) use self::verified::allocated;

#[cfg(test)]
mod tests;
