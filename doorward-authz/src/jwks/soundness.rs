//! Checks that the numbers of a public key are sound, so that only its owner can sign.

use super::RejectedKey;

/// NIST SP 800-131A: under 2048 bits is broken; over 8192 the verification itself is an attack.
pub(super) fn check_rsa(modulus: &[u8], exponent: &[u8]) -> Result<(), RejectedKey> {
    let significant = |bytes: &[u8]| {
        bytes
            .iter()
            .position(|b| *b != 0)
            .map_or(0, |zeros| (bytes.len() - zeros) * 8 - bytes[zeros].leading_zeros() as usize)
    };
    if !(2048..=8192).contains(&significant(modulus)) {
        return Err(RejectedKey::WeakRsa);
    }
    let odd = [modulus, exponent].iter().all(|number| number.last().is_some_and(|last| last & 1 == 1));
    let (few, many) = (significant(exponent) < 2, significant(exponent) > 33); // e = 1 signs nothing; aws-lc takes up to 33 bits.
    if few || many || !odd || is_roca(modulus) { Err(RejectedKey::WeakRsa) } else { Ok(()) }
}

/// Whether a modulus has the fingerprint of CVE-2017-15361: its private key can be computed from it.
///
/// Such a modulus is a power of 65537 modulo each of these primes; any other modulus is one with a probability of
/// 2^-30.
fn is_roca(modulus: &[u8]) -> bool {
    const PRIMES: [u32; 38] = [
        3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107,
        109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ];
    PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let powers = std::iter::successors(Some(1), |power| Some(power * 65537 % prime));
        powers.take(*prime as usize).any(|power| power == rest)
    })
}

/// Whether 32 bytes are the one encoding of a point that is not of small order (RFC 8032 section 5.1.3;
/// for a key of small order, a forged signature is valid for one message in eight).
pub(super) fn is_sound_ed25519(point: &[u8]) -> bool {
    const SMALL_ORDER: [[u8; 32]; 5] = [
        [0; 32],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
            0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
        [
            0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
        ],
    ];
    let Ok(mut y) = <[u8; 32]>::try_from(point) else { return false };
    y[31] &= 0x7f; // The sign of x.
    let beyond_the_field = y[31] == 0x7f && y[1..31].iter().all(|byte| *byte == 0xff) && y[0] >= 0xed;
    !beyond_the_field && !SMALL_ORDER.contains(&y)
}
