//! Natural numbers of any size: enough arithmetic to make keys and signatures that no library will.
//!
//! Slow and not constant-time; for tests only.

use std::cmp::Ordering;

/// Little-endian limbs without leading zeros.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nat(Vec<u64>);

impl Nat {
    pub fn small(value: u64) -> Self {
        Self(vec![value]).trimmed()
    }

    pub fn from_be(bytes: &[u8]) -> Self {
        let limb = |chunk: &[u8]| chunk.iter().fold(0_u64, |limb, byte| limb << 8 | u64::from(*byte));
        Self(bytes.rchunks(8).map(limb).collect()).trimmed()
    }

    /// `len` bytes, or as many as it needs if that is more.
    pub fn to_be(&self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.0.iter().rev().flat_map(|limb| limb.to_be_bytes()).collect();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.drain(..zeros);
        [vec![0; len.saturating_sub(bytes.len())], bytes].concat()
    }

    fn trimmed(mut self) -> Self {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    pub fn is_odd(&self) -> bool {
        self.0.first().is_some_and(|limb| limb & 1 == 1)
    }

    pub fn bits(&self) -> usize {
        self.0.last().map_or(0, |last| self.0.len() * 64 - last.leading_zeros() as usize)
    }

    fn bit(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|limb| limb >> (at % 64) & 1 == 1)
    }

    pub fn add(&self, other: &Self) -> Self {
        let mut sum = Vec::with_capacity(self.0.len().max(other.0.len()) + 1);
        let mut carry = false;
        for at in 0..self.0.len().max(other.0.len()) {
            let (limb, first) = self.limb(at).overflowing_add(other.limb(at));
            let (limb, second) = limb.overflowing_add(u64::from(carry));
            carry = first || second;
            sum.push(limb);
        }
        sum.push(u64::from(carry));
        Self(sum).trimmed()
    }

    /// Panics below zero.
    pub fn sub(&self, other: &Self) -> Self {
        assert!(*self >= *other, "below zero");
        let mut borrow = false;
        let difference = (0..self.0.len()).map(|at| {
            let (limb, first) = self.limb(at).overflowing_sub(other.limb(at));
            let (limb, second) = limb.overflowing_sub(u64::from(borrow));
            borrow = first || second;
            limb
        });
        Self(difference.collect()).trimmed()
    }

    pub fn mul(&self, other: &Self) -> Self {
        let mut product = vec![0_u64; self.0.len() + other.0.len()];
        for (at, limb) in self.0.iter().enumerate() {
            let mut carry = 0;
            for (offset, factor) in other.0.iter().enumerate() {
                (product[at + offset], carry) = multiply_add(*limb, *factor, product[at + offset], carry);
            }
            product[at + other.0.len()] = carry;
        }
        Self(product).trimmed()
    }

    /// Quotient and remainder by a small number.
    pub fn div_small(&self, divisor: u64) -> (Self, u64) {
        let mut quotient = self.0.clone();
        let mut rest = 0_u128;
        for limb in quotient.iter_mut().rev() {
            let value = rest << 64 | u128::from(*limb);
            *limb = u64::try_from(value / u128::from(divisor)).unwrap();
            rest = value % u128::from(divisor);
        }
        (Self(quotient).trimmed(), u64::try_from(rest).unwrap())
    }

    pub fn rem(&self, modulus: &Self) -> Self {
        (0..self.bits()).rev().fold(Self::small(0), |rest, at| {
            let rest = rest.add(&rest).add(&Self::small(u64::from(self.bit(at))));
            if rest >= *modulus { rest.sub(modulus) } else { rest }
        })
    }

    /// The remainder of a number that is little more than the modulus, or of any.
    fn rem_near(&self, modulus: &Self) -> Self {
        if *self < *modulus {
            return self.clone();
        }
        let rest = self.sub(modulus);
        if rest < *modulus { rest } else { self.rem(modulus) }
    }

    /// `self ^ exponent mod modulus` for an odd modulus, by Montgomery's method.
    pub fn pow_mod(&self, exponent: &Self, modulus: &Self) -> Self {
        assert!(modulus.is_odd(), "Montgomery needs an odd modulus");
        let size = modulus.0.len();
        let inverse = (0..6).fold(1_u64, |x, _| {
            x.wrapping_mul(2_u64.wrapping_sub(modulus.0[0].wrapping_mul(x))) // Newton, modulo 2^64.
        });
        let montgomery = |left: &Self, right: &Self| {
            let mut product = vec![0_u64; size + 2];
            for at in 0..size {
                let limb = left.limb(at);
                let mut carry = 0;
                for (offset, low) in product.iter_mut().take(size).enumerate() {
                    (*low, carry) = multiply_add(limb, right.limb(offset), *low, carry);
                }
                let (sum, over) = product[size].overflowing_add(carry);
                product[size] = sum;
                product[size + 1] = u64::from(over);
                let factor = product[0].wrapping_mul(inverse.wrapping_neg());
                let (_, mut carry) = multiply_add(factor, modulus.0[0], product[0], 0);
                for offset in 1..size {
                    (product[offset - 1], carry) = multiply_add(factor, modulus.0[offset], product[offset], carry);
                }
                let (sum, over) = product[size].overflowing_add(carry);
                product[size - 1] = sum;
                product[size] = product[size + 1] + u64::from(over);
            }
            let product = Self(product).trimmed();
            if product >= *modulus { product.sub(modulus) } else { product }
        };
        let doubled = |value: Self| {
            let value = value.add(&value);
            if value >= *modulus { value.sub(modulus) } else { value }
        };
        let one = (0..size * 64).fold(Self::small(1).rem(modulus), |value, _| doubled(value)); // R mod n.
        let square = (0..size * 64).fold(one.clone(), |value, _| doubled(value)); // R² mod n.
        // For a number of up to twice the size: its high half times R, and its low half.
        let reduced = if self.0.len() <= 2 * size && self.0.len() > size {
            let (low, high) = self.0.split_at(size);
            let sum = montgomery(&Self(high.to_vec()).trimmed(), &square).add(&Self(low.to_vec()).trimmed());
            sum.rem_near(modulus)
        } else {
            self.rem_near(modulus)
        };
        let base = montgomery(&reduced, &square);
        let power = (0..exponent.bits()).rev().fold(one, |power, at| {
            let power = montgomery(&power, &power);
            if exponent.bit(at) { montgomery(&power, &base) } else { power }
        });
        montgomery(&power, &Self::small(1))
    }

    /// A prime of exactly `bits` bits with its two top bits set, `p - 1` prime to `e`.
    pub fn prime(bits: usize, e: u64) -> Self {
        loop {
            let mut bytes: Vec<u8> = (0..bits.div_ceil(8)).map(|_| rand::random()).collect();
            let spare = bytes.len() * 8 - bits;
            bytes[0] &= 0xff >> spare;
            bytes[0] |= 0x80 >> spare;
            let next = if spare == 7 { (1, 0x80) } else { (0, 0x40 >> spare) };
            bytes[next.0] |= next.1;
            *bytes.last_mut().unwrap() |= 1;
            let candidate = Self::from_be(&bytes);
            let divisible = (3..2000_u64).step_by(2).any(|divisor| candidate.div_small(divisor).1 == 0);
            let even = candidate.sub(&Self::small(1));
            let coprime = e < 2 || gcd(e, even.div_small(e).1) == 1;
            if !divisible && coprime && Self::small(2).pow_mod(&even, &candidate) == Self::small(1) {
                return candidate; // Fermat's test to base 2, which is practically certain at these sizes.
            }
        }
    }

    fn limb(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(0)
    }
}

impl PartialOrd for Nat {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Nat {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
}

/// `left * right + sum + carry` as its low and high half.
fn multiply_add(left: u64, right: u64, sum: u64, carry: u64) -> (u64, u64) {
    let value = u128::from(left) * u128::from(right) + u128::from(sum) + u128::from(carry);
    #[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
    (value as u64, (value >> 64) as u64)
}

fn gcd(left: u64, right: u64) -> u64 {
    if right == 0 { left } else { gcd(right, left % right) }
}

/// `value ^ -1 mod modulus` for small numbers that are prime to each other.
pub fn inverse_small(value: u64, modulus: u64) -> u64 {
    let power = |exponent: u64| {
        (0..64).rev().fold(1_u128, |power, at| {
            let power = power * power % u128::from(modulus);
            if exponent >> at & 1 == 1 { power * u128::from(value) % u128::from(modulus) } else { power }
        })
    };
    u64::try_from(power(modulus - 2)).unwrap() // Fermat: the moduli used here are prime.
}

#[test]
fn the_arithmetic_is_right() {
    let (p, q) = (Nat::prime(512, 65537), Nat::prime(500, 65537));
    assert_eq!((p.bits(), q.bits()), (512, 500));
    let n = p.mul(&q);
    assert_eq!(n.rem(&p), Nat::small(0));
    assert_eq!(n.sub(&p).add(&p), n);
    assert_eq!(Nat::from_be(&n.to_be(200)), n);
    assert_eq!(Nat::small(3).pow_mod(&Nat::small(5), &Nat::small(7)), Nat::small(5));
    let base = Nat::small(123_456_789);
    assert_eq!(base.pow_mod(&p, &p), base, "Fermat");
    assert_eq!(inverse_small(3, 65537) * 3 % 65537, 1);
}
