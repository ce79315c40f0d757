//! Takes the flaw out of one signature and puts it into another.
//!
//! Published vectors sign messages like `foo`, so a refusal of them as tokens proves nothing: the missing claims alone
//! would cause it. Here the same flaw is reproduced in the signature of an otherwise valid token.

use aws_lc_rs::digest::{self, Algorithm};

use super::forge::{Key, Rsa, mgf1, unhex, xor};
use super::nat::Nat;

/// The signature of a vector.
pub struct Vector<'a> {
    pub input: &'a [u8],
    pub signature: &'a [u8],
    /// A right signature of the same input by the same key, where there is one.
    pub right: Option<&'a [u8]>,
}

/// The vector's flaw in a signature of `input` by `key`.
pub fn transplant(vector: &Vector<'_>, key: &Key, algorithm: &str, input: &[u8]) -> Vec<u8> {
    match key {
        Key::Rsa(rsa) => by_rsa(vector, rsa, || key.sign(algorithm, input), input),
        Key::Ec(_) | Key::Ec384(_) | Key::Ec521(_) => by_ec(vector, &key.sign(algorithm, input)),
        Key::Ed(_) | Key::Secret(_) => by_bytes(vector, &key.sign(algorithm, input)),
    }
}

/// Bytes flipped, cut off or added, as the vector's are.
fn by_bytes(vector: &Vector<'_>, ours: &[u8]) -> Vec<u8> {
    let Some(right) = vector.right else { return vector.signature.to_vec() };
    if vector.signature == right {
        return ours.to_vec();
    }
    if vector.signature.len() == right.len() {
        let difference = xor(vector.signature, right);
        let changed = difference.iter().filter(|byte| **byte != 0).count();
        // A few changed bytes are a fault of that signature; if all differ, it is an independent value.
        return if changed <= 8 { xor(&difference, ours) } else { vector.signature.to_vec() };
    }
    let common = vector.signature.iter().zip(right).take_while(|(left, right)| left == right).count();
    if vector.signature.len() < right.len() {
        return ours[..vector.signature.len()].to_vec();
    }
    let added = vector.signature.len() - right.len();
    if vector.signature.ends_with(right) {
        return [&vector.signature[..added], ours].concat();
    }
    [&ours[..common.min(ours.len())], &vector.signature[common..common + added], &ours[common.min(ours.len())..]]
        .concat()
}

/// Each component as it relates to the right one: the same, plus the order, its negative, or a constant.
fn by_ec(vector: &Vector<'_>, ours: &[u8]) -> Vec<u8> {
    let order = Nat::from_be(&unhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"));
    let Some(right) = vector.right.filter(|_| vector.signature.len().is_multiple_of(2)) else {
        return by_bytes(vector, ours);
    };
    let half = vector.signature.len() / 2;
    if half < 32 {
        return [&ours[32 - half..32], &ours[64 - half..]].concat(); // Its components lost their first bytes.
    }
    let power = |bits: usize| Nat::from_be(&[vec![1], vec![0; bits / 8]].concat());
    let component = |theirs: &[u8], right: &[u8], ours: &[u8]| {
        let (theirs, right, ours) = (Nat::from_be(theirs), Nat::from_be(right), Nat::from_be(ours));
        let shifted = |by: &Nat| (theirs == right.add(by)).then(|| ours.add(by));
        let flawed = shifted(&Nat::small(0))
            .or_else(|| shifted(&order))
            .or_else(|| shifted(&order.mul(&Nat::small(256))))
            .or_else(|| shifted(&power(256)))
            .or_else(|| shifted(&power(320)))
            .or_else(|| (theirs == order.sub(&right)).then(|| order.sub(&ours)));
        flawed.unwrap_or(theirs).to_be(half)
    };
    let (r, s) = vector.signature.split_at(half);
    [component(r, &right[..32], &ours[..32]), component(s, &right[32..], &ours[32..])].concat()
}

fn by_rsa(vector: &Vector<'_>, rsa: &Rsa, right: impl Fn() -> Vec<u8>, input: &[u8]) -> Vec<u8> {
    let (size, len) = (rsa.size(), vector.signature.len());
    if len < size {
        return right()[..len].to_vec();
    }
    let number = Nat::from_be(vector.signature);
    let anew = |signature: &Nat| {
        let encoded = encoded_anew(vector.input, &rsa.public(&signature.to_be(size)), input);
        Nat::from_be(&rsa.sign_encoded(&encoded))
    };
    let special = number < Nat::small(3) || (number < rsa.n && rsa.n.sub(&number) < Nat::small(3));
    if special || number == rsa.n {
        return vector.signature.to_vec();
    }
    if number < rsa.n {
        return anew(&number).to_be(len); // Zeros before it stay.
    }
    let above = number.sub(&rsa.n);
    if above < rsa.n {
        return anew(&above).add(&rsa.n).to_be(len);
    }
    let behind = vector.signature[size..].to_vec();
    [anew(&Nat::from_be(&vector.signature[..size])).to_be(size), behind].concat()
}

/// The encoded message, with the parts that depend on the message replaced.
fn encoded_anew(old: &[u8], encoded: &[u8], new: &[u8]) -> Vec<u8> {
    let hashes: [&'static Algorithm; 8] = [
        &digest::SHA256,
        &digest::SHA384,
        &digest::SHA512,
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        &digest::SHA224,
        &digest::SHA512_256,
        &digest::SHA3_256,
        &digest::SHA3_512,
    ];
    hashes
        .into_iter()
        .find_map(|hash| digest_anew(hash, old, encoded, new).or_else(|| pss_anew(hash, old, encoded, new)))
        .unwrap_or_else(|| encoded.to_vec())
}

/// PKCS #1 v1.5: the encoded message contains the digest, complete or with a fault.
fn digest_anew(hash: &'static Algorithm, old: &[u8], encoded: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let (old, new) = (digest::digest(hash, old), digest::digest(hash, new));
    let (old, new) = (old.as_ref(), new.as_ref());
    let alike = |at: usize| encoded[at..].iter().zip(old).filter(|(left, right)| left == right).count();
    let at = (0..encoded.len()).max_by_key(|at| alike(*at)).filter(|at| alike(*at) + 4 >= old.len())?;
    let mut changed = encoded.to_vec();
    for (offset, byte) in old.iter().enumerate().take(encoded.len() - at) {
        if encoded[at + offset] == *byte || alike(at) + 2 >= old.len() {
            changed[at + offset] ^= byte ^ new[offset];
        }
    }
    Some(changed)
}

/// PSS: the digest is in a hash, which masks the rest; faults of either are kept.
fn pss_anew(hash: &'static Algorithm, old: &[u8], encoded: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let len = hash.output_len();
    if encoded.len() < len * 2 + 2 {
        return None;
    }
    let size = encoded.len() - len - 1;
    let (masked, inner, trailer) = (&encoded[..size], &encoded[size..size + len], &encoded[size + len..]);
    let mut block = xor(masked, &mgf1(hash, inner, size));
    let top = masked[0] & 0x80; // Zero, unless that is the flaw.
    block[0] &= 0x7f;
    // Where the salt begins; a padding with a flaw still ends with the right number of bytes of salt.
    let found = block.iter().position(|byte| *byte != 0).filter(|at| block[*at] == 1).map(|at| at + 1);
    let hashed = |message: &[u8], salt: &[u8]| {
        let message = digest::digest(hash, message);
        digest::digest(hash, &[&[0; 8], message.as_ref(), salt].concat()).as_ref().to_vec()
    };
    let starts = found.into_iter().chain([size - len]);
    let near = |start: &usize| {
        let difference = xor(inner, &hashed(old, &block[*start..]));
        difference.iter().filter(|byte| **byte != 0).count() <= 2 || difference.iter().all(|byte| *byte == 0xff)
    };
    let start = starts.into_iter().find(near)?;
    let difference = xor(inner, &hashed(old, &block[start..]));
    let inner = xor(&hashed(new, &block[start..]), &difference);
    let mut masked = xor(&block, &mgf1(hash, &inner, size));
    masked[0] = masked[0] & 0x7f | top;
    Some([masked.as_slice(), &inner, trailer].concat())
}
