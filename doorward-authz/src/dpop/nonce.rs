//! Nonces for proofs (RFC 9449 section 8): each contains its time of issue under a seal, so that nonces need no
//! storage, and every instance with the same secret accepts those of the others.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::claims::Timestamp;
use crate::stream_proof::Secret;

/// Issues and verifies nonces.
pub struct Nonces {
    /// The first one seals; the others were used earlier.
    keys: Vec<hmac::Key>,
}

const TIME: usize = 8;
const TAG: usize = 16;
/// The domain separation from other seals with the same secret.
const PURPOSE: &[u8] = b"doorward dpop nonce\0";

impl Nonces {
    /// `secrets`: the first one seals.
    #[must_use]
    pub fn new(secrets: &[Secret]) -> Self {
        Self { keys: secrets.iter().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)).collect() }
    }

    /// A nonce with the current time; `None` without a secret.
    #[must_use]
    pub fn issue(&self, now: Timestamp) -> Option<String> {
        let time = now.as_millis().to_be_bytes();
        let tag = hmac::sign(self.keys.first()?, &sealed(time));
        Some(URL_SAFE_NO_PAD.encode([&time[..], &tag.as_ref()[..TAG]].concat()))
    }

    /// The time of issue of a nonce; `None` if it was not sealed with one of the secrets.
    #[must_use]
    pub fn issued_at(&self, nonce: &str) -> Option<Timestamp> {
        let bytes: [u8; TIME + TAG] = URL_SAFE_NO_PAD.decode(nonce).ok()?.try_into().ok()?;
        let (time, tag) = bytes.split_first_chunk::<TIME>()?;
        let is_ours = |key: &hmac::Key| {
            let right = hmac::sign(key, &sealed(*time));
            aws_lc_rs::constant_time::verify_slices_are_equal(&right.as_ref()[..TAG], tag).is_ok()
        };
        self.keys.iter().any(is_ours).then(|| Timestamp::from_millis(i64::from_be_bytes(*time)))
    }
}

fn sealed(time: [u8; TIME]) -> Vec<u8> {
    [PURPOSE, &time].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_accepted_with_the_same_secret() {
        let (ours, theirs) = (Nonces::new(&[[1; 32], [2; 32]]), Nonces::new(&[[2; 32]]));
        let now = Timestamp::from_millis(1_700_000_000_123);
        let nonce = theirs.issue(now).unwrap();
        assert_eq!((ours.issued_at(&nonce), theirs.issued_at(&nonce)), (Some(now), Some(now)));
        assert_eq!(theirs.issued_at(&ours.issue(now).unwrap()), None);
        assert_eq!(Nonces::new(&[]).issue(now), None);
        let (mut later, at) = (nonce.clone().into_bytes(), 3);
        later[at] = if later[at] == b'A' { b'B' } else { b'A' };
        for forged in ["", "x", &nonce[1..], &format!("{nonce}A"), std::str::from_utf8(&later).unwrap()] {
            assert_eq!(ours.issued_at(forged), None, "{forged}");
        }
    }
}
