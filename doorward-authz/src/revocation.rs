//! Revocations, and the in-process index the decision reads.
//!
//! A revocation is a watermark on a target. Two revocations of one target merge to the later
//! watermark, so entries may arrive late, twice or out of order.

use std::fmt;
use std::time::Duration;

use super::claims::{IssuerName, Timestamp};

mod arena;
mod clocks;
mod forgotten;
mod index;
mod note;
mod record;
mod target_id;

pub use clocks::{Clocks, Lead};
pub use forgotten::Forgotten;
pub use index::RevocationIndex;
pub use note::Note;
pub use target_id::TargetId;

/// The target of a revocation, always within one issuer.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// A token, by `jti` or by the digest of its signing input.
    Token,
    /// A session, by `sid`.
    Session,
    /// All tokens of a user.
    User,
    /// All tokens of a client, by `azp` or `client_id`.
    Client,
    /// All tokens signed by a key, by `kid`.
    Key,
    /// All tokens of the issuer.
    Issuer,
    /// All tokens with an actor in `act`, of every user.
    Actor,
    /// Does not refuse tokens: with `list: allow`, one registered token, by the id of [`Self::Token`].
    ///
    /// A registration is in the same log because it has the same needs: to last as long as the token, to reach every
    /// instance, to survive a loss, to merge by the later expiry.
    Registration,
}

impl Kind {
    /// The kinds of targets that can be revoked.
    ///
    /// Records and stream proofs store their index: a new kind must be added last.
    pub const ALL: [Self; 7] =
        [Self::Token, Self::Session, Self::User, Self::Client, Self::Key, Self::Issuer, Self::Actor];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::User => "user",
            Self::Client => "client",
            Self::Key => "key",
            Self::Issuer => "issuer",
            Self::Actor => "actor",
            Self::Registration => "registration",
        }
    }

    /// Whether a revocation without a watermark refuses every token of the target, whenever issued. A new sign-in
    /// does not reuse a token or a session; and an attacker with a key chooses the dates of tokens.
    #[must_use]
    pub const fn is_forever(self) -> bool {
        match self {
            Self::Token | Self::Session | Self::Key | Self::Registration => true,
            Self::User | Self::Client | Self::Issuer | Self::Actor => false,
        }
    }

    /// Parses the kind of a revocable target.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Parses any kind that may occur in the log.
    #[must_use]
    pub fn from_stored(name: &str) -> Option<Self> {
        Self::parse(name).or((name == Self::Registration.as_str()).then_some(Self::Registration))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The origin of a revocation; `Revoked` is shown when both apply.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Origin {
    /// The user signed out.
    SignedOut,
    /// An operator, a service or a signal revoked it.
    Revoked,
}

impl Origin {
    pub const ALL: [Self; 2] = [Self::SignedOut, Self::Revoked];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignedOut => "signed_out",
            Self::Revoked => "revoked",
        }
    }

    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|origin| origin.as_str() == name)
    }
}

/// The target of a revocation.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Target {
    pub issuer: IssuerName,
    pub kind: Kind,
    pub id: TargetId,
}

impl Target {
    #[must_use]
    pub fn new(issuer: IssuerName, kind: Kind, id: TargetId) -> Self {
        Self { issuer, kind, id }
    }

    /// All tokens of an issuer; its id is the issuer's own name.
    #[must_use]
    pub fn issuer(issuer: IssuerName) -> Self {
        let id = TargetId::new(issuer.as_str());
        Self { issuer, kind: Kind::Issuer, id }
    }

    /// A user by an address, from a signal: the digest of the address in lower case, which differs from every user
    /// id.
    #[must_use]
    pub fn email(issuer: IssuerName, address: &str) -> Self {
        let id = TargetId::digest(format!("email\0{}", address.to_ascii_lowercase()).as_bytes());
        Self { issuer, kind: Kind::User, id }
    }

    /// The same target under another name of the issuer.
    #[must_use]
    pub fn under(self, issuer: IssuerName) -> Self {
        if self.kind == Kind::Issuer { Self::issuer(issuer) } else { Self { issuer, ..self } }
    }

    /// The registration of a token, by the id that would revoke it.
    #[must_use]
    pub fn registration(issuer: IssuerName, token: TargetId) -> Self {
        Self { issuer, kind: Kind::Registration, id: token }
    }
}

/// Tokens of the target issued at or before this instant are revoked.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Watermark(Timestamp);

impl Watermark {
    /// Revokes every token of the target, whenever issued.
    pub const FOREVER: Self = Self(Timestamp::MAX);

    #[must_use]
    pub const fn at(instant: Timestamp) -> Self {
        Self(instant)
    }

    #[must_use]
    pub const fn instant(self) -> Timestamp {
        self.0
    }

    /// A token without `iat` is covered by every watermark: it cannot show that it is newer.
    #[must_use]
    pub fn covers(self, issued_at: Option<Timestamp>) -> bool {
        issued_at.is_none_or(|issued_at| issued_at <= self.0) // A token of the same second is refused: a login in the second of a logout must be retried.
    }
}

/// The longest configurable leeway, and the largest accepted lead.
pub const LONGEST_LEEWAY: Duration = Duration::from_secs(3_600);

/// The longest `max_lifetime` that can be configured.
pub const LONGEST_LIFETIME: Duration = Duration::from_secs(400 * 24 * 3_600);

/// The longest `max_staleness` that can be configured.
pub const LONGEST_STALENESS: Duration = Duration::from_secs(24 * 3_600);

/// One entry of the log: tokens of `target` issued up to `watermark` are refused until `expires_at`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revocation {
    pub target: Target,
    pub watermark: Watermark,
    /// The time at which the last token that it can refuse has expired, leeway included; it may be forgotten then.
    pub expires_at: Timestamp,
    pub origin: Origin,
    /// Its author and reason, if given.
    pub note: Option<Box<Note>>,
}

impl Revocation {
    /// Extends the expiry to the longest time for which a token may be accepted after it was issued, for users and
    /// other targets whose tokens are revoked by their age. Not extended: a token's revocation, which ends with the
    /// token, and a revocation without an instant, which is kept from its writing on.
    pub fn last_for(&mut self, retention: Duration) {
        if !self.target.kind.is_forever() && self.watermark != Watermark::FOREVER {
            self.expires_at = self.expires_at.max(self.watermark.instant().plus(retention));
        }
    }

    /// The log entry that registers a token until it expires, leeway included.
    #[must_use]
    pub fn registering(issuer: IssuerName, token: TargetId, expires_at: Timestamp) -> Self {
        let target = Target::registration(issuer, token);
        Self { target, watermark: Watermark::FOREVER, expires_at, origin: Origin::SignedOut, note: None }
    }
}

/// The revocation that refuses a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hit {
    pub kind: Kind,
    pub origin: Origin,
    pub watermark: Watermark,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn issuer() -> IssuerName {
        IssuerName::parse("main").unwrap()
    }

    fn target(kind: Kind, id: &str) -> Target {
        Target::new(issuer(), kind, TargetId::new(id))
    }

    fn revocation(kind: Kind, id: &str, watermark: Watermark, origin: Origin) -> Revocation {
        Revocation { target: target(kind, id), watermark, expires_at: Timestamp::from_secs(10_000), origin, note: None }
    }

    const NOW: Timestamp = Timestamp::from_secs(1_000);
    const UPTIME: Duration = Duration::from_secs(500);

    #[test]
    fn same_second_is_covered_and_fractions_count() {
        let watermark = Watermark::at(Timestamp::from_millis(100_200));
        for (issued_at, covered) in [
            (Some(Timestamp::from_secs(100)), true),
            (Some(Timestamp::from_millis(100_200)), true),
            (Some(Timestamp::from_millis(100_201)), false),
            (Some(Timestamp::from_secs(101)), false),
            (None, true),
        ] {
            assert_eq!(watermark.covers(issued_at), covered, "{issued_at:?}");
        }
    }

    #[test]
    fn a_registration_refuses_nothing_and_ends_with_its_token() {
        let index = RevocationIndex::new();
        let (later, end) = (Timestamp::from_secs(1_001), Timestamp::from_secs(2_000));
        let token = Target::new(issuer(), Kind::Token, TargetId::new("jti"));
        let registration = Target::registration(issuer(), token.id.clone());
        assert!(!index.registers(&registration, Some(NOW), NOW));
        assert!(index.apply(&Revocation::registering(issuer(), token.id.clone(), end), UPTIME));
        assert!(!index.apply(&Revocation::registering(issuer(), token.id.clone(), later), UPTIME), "never shortened");
        assert!(index.registers(&registration, None, later));
        assert!(!index.registers(&registration, None, end), "before it is purged");
        assert_eq!(index.find([&token], None), None);
        assert_eq!((index.revocations().count(), index.entries().count()), (0, 1));
        assert_eq!(index.counts(), [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((Kind::parse("registration"), Kind::from_stored("registration")), (None, Some(Kind::Registration)));
    }

    #[test]
    fn revoked_is_shown_when_both_origins_cover_and_only_then() {
        let index = RevocationIndex::new();
        index.apply(&revocation(Kind::User, "u", Watermark::at(Timestamp::from_secs(50)), Origin::Revoked), UPTIME);
        index.apply(&revocation(Kind::User, "u", Watermark::at(Timestamp::from_secs(100)), Origin::SignedOut), UPTIME);
        let origin =
            |iat| index.find([&target(Kind::User, "u")], Some(Timestamp::from_secs(iat))).map(|hit| hit.origin);
        assert_eq!(origin(50), Some(Origin::Revoked));
        assert_eq!(origin(51), Some(Origin::SignedOut));
        assert_eq!(origin(101), None);
    }

    #[test]
    fn purge_forgets_what_expired_and_was_held_long_enough() {
        let index = RevocationIndex::new();
        let (hold, leeway) = (Duration::from_secs(60), Duration::from_secs(10));
        let mut short = revocation(Kind::Token, "short", Watermark::FOREVER, Origin::SignedOut);
        short.expires_at = Timestamp::from_secs(2_000);
        assert!(index.apply(&short, UPTIME));
        index.apply(&revocation(Kind::Token, "long", Watermark::FOREVER, Origin::SignedOut), UPTIME);
        let (early, late) = (UPTIME + hold, UPTIME + hold + Duration::from_secs(1));
        assert_eq!(index.purge(Timestamp::from_millis(2_009_999), leeway, late, hold), 0, "not expired");
        assert_eq!(index.purge(Timestamp::MAX, leeway, early, hold), 0, "whatever the wall clock says");
        assert_eq!(index.purge(Timestamp::MAX, leeway, Duration::ZERO, hold), 0);
        assert!(index.forgotten().is_empty());
        assert_eq!(index.purge(Timestamp::from_secs(2_010), leeway, late, hold), 1);
        assert_eq!(index.counts()[Kind::Token as usize], 1);
        assert_eq!(index.forgotten().latest(), Timestamp::from_secs(2_010), "tokens up to then stay expired");
        assert!(index.apply(&short, late), "read again from the log");
        assert_eq!(
            index.purge(Timestamp::MAX, leeway, late + hold, hold),
            1,
            "the other one; this one was learnt anew"
        );
        assert!(index.has(&short.target));
    }

    #[test]
    fn more_issuers_than_anyone_configures_are_all_kept() {
        let index = RevocationIndex::new();
        let target = |number: usize| {
            Target::new(IssuerName::parse(&format!("i{number}")).unwrap(), Kind::User, TargetId::new("u"))
        };
        for number in 0..70_000 {
            let revocation = Revocation {
                target: target(number),
                ..revocation(Kind::User, "u", Watermark::FOREVER, Origin::Revoked)
            };
            assert!(index.apply(&revocation, UPTIME));
        }
        assert!((0..70_000).all(|number| index.has(&target(number))));
    }

    fn any_revocation() -> impl Strategy<Value = Revocation> {
        (0..7_usize, 0..3_u8, 0..200_i64, any::<bool>(), 1_001..3_000_i64, any::<bool>()).prop_map(
            |(kind, id, at, forever, expires, user)| {
                let watermark = if forever { Watermark::FOREVER } else { Watermark::at(Timestamp::from_millis(at)) };
                let origin = if user { Origin::SignedOut } else { Origin::Revoked };
                let mut revocation = revocation(Kind::ALL[kind], &id.to_string(), watermark, origin);
                revocation.expires_at = Timestamp::from_secs(expires);
                revocation
            },
        )
    }

    fn content(index: &RevocationIndex) -> Vec<String> {
        let mut content: Vec<_> = index.revocations().map(|r| format!("{r:?}")).collect();
        content.sort();
        content
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(entries in prop::collection::vec(any_revocation(), 0..40), seed in any::<u64>()) {
            let (once, shuffled) = (RevocationIndex::new(), RevocationIndex::new());
            for entry in &entries {
                once.apply(entry, UPTIME);
            }
            // A permutation with repetitions: every entry twice, in an order drawn from the seed.
            let mut order: Vec<_> = entries.iter().chain(&entries).collect();
            let mut state = seed | 1;
            for i in (1..order.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                order.swap(i, (state >> 33) as usize % (i + 1));
            }
            for entry in order {
                shuffled.apply(entry, UPTIME);
            }
            prop_assert_eq!(content(&once), content(&shuffled));
        }

        #[test]
        fn the_effective_instant_is_the_latest_over_all_scopes(entries in prop::collection::vec(any_revocation(), 0..40), iat in 0..250_i64) {
            let index = RevocationIndex::new();
            for entry in &entries {
                index.apply(entry, UPTIME);
            }
            let issued_at = Some(Timestamp::from_millis(iat));
            let targets: Vec<_> = Kind::ALL.into_iter().map(|kind| target(kind, "1")).collect();
            let latest = entries.iter().filter(|e| targets.contains(&e.target)).map(|e| e.watermark).max();
            prop_assert_eq!(index.find(&targets, issued_at).is_some(), latest.is_some_and(|w| w.covers(issued_at)));
        }
    }
}
