use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::claims::{ClaimPath, ClaimSet, IssuerName, Timestamp};
use crate::denial::Denial;
use crate::dpop::{DpopPolicy, ProofUse, ReplayPolicy};
use crate::issuer_id::{IssuerId, Spelling};
use crate::jwks::Algorithm;
use crate::revocation::{Clocks, Kind, LONGEST_LEEWAY, Lead};

fn issuer(leeway: u64, max_lifetime: u64) -> TrustedIssuer {
    let path = |name: &str| vec![ClaimPath::new(name)];
    TrustedIssuer {
        name: IssuerName::parse("main").unwrap(),
        formerly: Vec::new(),
        issuer: IssuerId::new(vec![Spelling::Exact("https://idp".into())]),
        needs_user: true,
        audiences: Audiences::Any,
        algorithms: vec![Algorithm::ES256],
        token_types: TokenTypes::new(&[]).unwrap(),
        accepts_id_tokens: false,
        leeway: Duration::from_millis(leeway),
        expiry_leeway: Duration::from_millis(leeway),
        max_lifetime: Duration::from_millis(max_lifetime),
        claim_names: ClaimNames {
            user_id: path("sub"),
            email: path("email"),
            session_id: path("sid"),
            client_id: path("azp"),
            audience: path("aud"),
        },
        proof: ProofUse::Verify,
        dpop: DpopPolicy { window: Duration::from_secs(60), nonce: false, replay: ReplayPolicy::Local },
        logout: LogoutPolicy { audiences: Audiences::Any, always_user: false },
        revocable_by_email: false,
        lead: Lead::default(),
        seen: Seen::default(),
        revocable_by_text: false,
        status_list: None,
        keys: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Every token that a revocation covers when it is made is refused until no instance would accept it anyway.
    #[test]
    fn retention_outlasts_every_token_that_the_revocation_hits(
        leeway in 0..90_u64, lifetime in 1..600_u64, iat in prop::option::of(0..1000_u32), exp in 0..2000_u32,
        revoked_at in 0..1_200_000_i64, later in 0..900_000_u64, kind in 0..3_usize,
    ) {
        let (issuer, kind) = (issuer(leeway * 500, lifetime * 1000), [Kind::Token, Kind::Session, Kind::User][kind]);
        let mut claims = json!({"sub": "u", "sid": "s", "jti": "j", "exp": exp});
        if let Some(iat) = iat {
            claims["iat"] = json!(f64::from(iat) / 1.5);
        }
        let claims = ClaimSet::from(claims);
        let revoked_at = Timestamp::from_millis(revoked_at);
        let times = Times::read(&claims).unwrap();
        if issuer.check_times(times, revoked_at, Expiry::Refused).is_err() {
            return Ok(());
        }
        let token = issuer.identify(claims, || unreachable!(), None, None, times).unwrap();
        let revocation = issuer.sign_out(&token, kind, Clocks::local(revoked_at)).unwrap().expect("it is alive");
        prop_assert!(revocation.watermark.covers(times.issued_at));
        for forgotten in [revocation.expires_at, revocation.expires_at.plus(Duration::from_millis(later))] {
            prop_assert!(issuer.check_times(times, forgotten, Expiry::Refused).is_err(), "accepted at {forgotten:?}");
        }
    }
}

#[test]
fn an_instant_covers_what_the_issuer_dates_ahead() {
    let issuer = issuer(30_000, 3_600_000);
    let (local, seconds) = (Timestamp::from_secs(1_000), Duration::from_secs);
    let clocks = |store| Clocks { local, store: Some(Timestamp::from_secs(store)) };
    let lead = |kind, clocks| issuer.instant(kind, clocks).map(|instant| instant.since(local));
    assert_eq!(lead(Kind::User, Clocks::local(local)), Ok(seconds(1)));
    assert_eq!(lead(Kind::Client, Clocks::local(local)), Ok(seconds(30)));
    assert_eq!(lead(Kind::Issuer, Clocks::local(local)), Ok(seconds(30)));
    issuer.lead.observe(Some(Timestamp::from_secs(990)), local);
    issuer.lead.observe(None, local);
    assert_eq!(lead(Kind::User, clocks(1_000)), Ok(seconds(1)), "tokens of the past lead by nothing");
    issuer.lead.observe(Some(Timestamp::from_secs(1_007)), local);
    assert_eq!(lead(Kind::User, clocks(1_000)), Ok(seconds(7)));
    assert_eq!(lead(Kind::User, clocks(980)), Ok(seconds(7)), "the later of the clocks counts");
    assert_eq!(lead(Kind::User, clocks(1_020)), Ok(seconds(27)));
    assert_eq!(lead(Kind::User, clocks(1_031)), Err(Denial::ClockSkew));
    assert_eq!(lead(Kind::Issuer, clocks(969)), Err(Denial::ClockSkew));
    issuer.lead.raise(seconds(60));
    assert_eq!(lead(Kind::User, clocks(1_000)), Ok(seconds(60)), "an instance with a longer leeway has seen it");
    assert_eq!(lead(Kind::Client, clocks(1_000)), Ok(seconds(60)));
    issuer.lead.raise(seconds(86_400));
    assert_eq!(lead(Kind::User, clocks(1_000)), Ok(LONGEST_LEEWAY), "no leeway is longer");
    let measured = Lead::default();
    let set_clock = |earliest| measured.set_clock(earliest, seconds(60));
    let at = |earliest| Some((Timestamp::from_secs(earliest), Duration::ZERO));
    set_clock(at(975));
    measured.observe(Some(Timestamp::from_secs(995)), local);
    assert_eq!(measured.seen(), seconds(20), "by the earlier clock");
    assert_eq!(measured.beyond(Timestamp::from_secs(975)), None, "the lead covers it");
    assert_eq!(measured.beyond(Timestamp::from_secs(974)), Some(Timestamp::from_secs(995)));
    set_clock(None);
    measured.observe(Some(Timestamp::from_secs(1_030)), local);
    assert_eq!(measured.seen(), seconds(20), "one of the clocks is wrong");
    assert_eq!(measured.dated(), Timestamp::from_secs(1_030));
    // An instance that was cut off notes it when it is back, by whatever clocks.
    assert_eq!(measured.beyond(Timestamp::from_secs(2_000)), Some(Timestamp::from_secs(1_030)));
    set_clock(at(1_040));
    measured.observe(Some(Timestamp::from_secs(1_040)), Timestamp::from_secs(1_040));
    assert_eq!(measured.beyond(Timestamp::from_secs(2_000)), Some(Timestamp::from_secs(1_030)));
    assert_eq!(measured.beyond(Timestamp::from_secs(1_019)), Some(Timestamp::from_secs(1_040)));
}

/// The wall clock is set between two comparisons with the store's, which it fails at the second.
#[test]
fn a_lead_is_not_measured_by_a_clock_that_was_set() {
    static UPTIME: AtomicU64 = AtomicU64::new(50);
    let uptime = || Duration::from_secs(UPTIME.load(Ordering::Relaxed));
    let lead = Lead::by(uptime);
    let (at, leeway) = (Timestamp::from_secs, Duration::from_secs(30));
    let verify = |dated, now| lead.observe(Some(at(dated)), at(now));
    let compare = |now| lead.set_clock(Some((at(now), uptime())), leeway);
    compare(1_000);
    UPTIME.store(51, Ordering::Relaxed);
    verify(993, 966); // 35 s back: it would lead by 27 s.
    assert_eq!((lead.seen(), lead.beyond(at(1_001))), (Duration::ZERO, None));
    verify(1_006, 966);
    assert_eq!(lead.seen(), Duration::from_secs(5));
    verify(1_620, 1_601); // Ten minutes forward.
    assert_eq!((lead.seen(), lead.beyond(at(1_001))), (Duration::from_secs(5), Some(at(1_620))));
    // The difference is seen, and what was verified meanwhile is measured when it has gone.
    lead.set_clock(None, leeway);
    UPTIME.store(60, Ordering::Relaxed);
    assert!(!lead.is_unmeasured());
    verify(1_030, 975); // 20 s ahead.
    assert!(lead.is_unmeasured() && lead.seen() == Duration::from_secs(5));
    let lead = {
        let reloaded = Lead::by(uptime);
        reloaded.inherit(&lead);
        reloaded
    };
    let compare = |now| lead.set_clock(Some((at(now), uptime())), leeway);
    UPTIME.store(100, Ordering::Relaxed);
    compare(1_050);
    assert!(!lead.is_unmeasured() && lead.seen() == Duration::from_secs(20));
    lead.set_clock(None, leeway);
    lead.observe(Some(at(1_081)), at(1_090)); // 31 s ahead, by a clock that was.
    compare(1_050);
    assert!(!lead.is_unmeasured() && lead.seen() == Duration::from_secs(20));
}

/// An instance whose clock is so far ahead that it sees no lead.
#[test]
fn an_instant_covers_every_token_that_was_verified() {
    let issuer = issuer(30_000, 3_600_000);
    let at = |seconds| Clocks::local(Timestamp::from_secs(seconds));
    issuer.lead.observe(Some(Timestamp::from_secs(1_020)), Timestamp::from_secs(1_035));
    assert_eq!(issuer.lead.seen(), Duration::ZERO);
    assert_eq!(issuer.lead.beyond(Timestamp::from_secs(1_000)), Some(Timestamp::from_secs(1_020)));
    assert_eq!(issuer.instant(Kind::User, at(1_000)), Ok(Timestamp::from_secs(1_020)));
    assert_eq!(issuer.instant(Kind::User, at(1_030)), Ok(Timestamp::from_secs(1_031)), "the date has passed");
    issuer.lead.note_dated(Timestamp::from_secs(4_601));
    assert_eq!(issuer.instant(Kind::User, at(1_000)), Ok(Timestamp::from_secs(4_601)));
    issuer.lead.note_dated(Timestamp::from_millis(4_601_001));
    assert_eq!(issuer.instant(Kind::User, at(1_000)), Ok(Timestamp::from_secs(1_001)), "no leeway is longer");
}
