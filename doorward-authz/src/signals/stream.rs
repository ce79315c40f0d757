//! The `state` that a receiver sends when it requests a verification event (SSF 1.0 section 8.1.4.2),
//! so that any instance that receives the event recognises that one of them requested it; and the status of a stream.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Derived from a secret that all instances have in their configuration.
#[derive(Clone, Debug)]
pub struct StreamKey(hmac::Key);

impl StreamKey {
    const NONCE: usize = 16;

    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"doorward verification state");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// A state that [`Self::made`] recognises; the caller draws the nonce.
    #[must_use]
    pub fn state(&self, nonce: [u8; Self::NONCE]) -> String {
        let tag = hmac::sign(&self.0, &nonce);
        URL_SAFE_NO_PAD.encode([&nonce, tag.as_ref()].concat())
    }

    /// A digest of a text that may contain secrets, for the store: it cannot be computed, nor guessed, without the key.
    #[must_use]
    pub fn digest(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, text.as_bytes()))
    }

    /// Whether it made this state, in constant time.
    #[must_use]
    pub fn made(&self, state: &str) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(state) else { return false };
        let Some((nonce, tag)) = bytes.split_at_checked(Self::NONCE) else { return false };
        hmac::verify(&self.0, nonce, tag).is_ok()
    }
}

/// The status of a stream at its transmitter (SSF 1.0 section 8.1.2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StreamStatus {
    #[default]
    Enabled,
    /// Events are held back.
    Paused,
    /// Events are dropped. Also any status that is not known.
    Disabled,
}

impl StreamStatus {
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "enabled" => Self::Enabled,
            "paused" => Self::Paused,
            _ => Self::Disabled,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_state_of_the_same_secret_is_known() {
        let (key, other) = (StreamKey::new(b"one"), StreamKey::new(b"two"));
        let state = key.state([7; 16]);
        assert!(StreamKey::new(b"one").made(&state));
        for wrong in [other.state([7; 16]).as_str(), "", "AAAA", &state[1..], &state[..20]] {
            assert!(!key.made(wrong), "{wrong}");
        }
    }
}
