use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use miniz_oxide::deflate::compress_to_vec_zlib;
use serde_json::json;

use super::*;
use crate::claims::{IssuerName, Timestamp};
use crate::denial::Denial;

fn policy(prefixes: &[&str]) -> StatusListPolicy {
    StatusListPolicy {
        prefixes: prefixes.iter().map(|&prefix| prefix.to_owned()).collect(),
        valid: vec![0, 3],
        suspended: vec![2],
        max_stale: Duration::from_secs(60),
    }
}

fn claim(bits: u64, bytes: &[u8]) -> Value {
    json!({"bits": bits, "lst": URL_SAFE_NO_PAD.encode(compress_to_vec_zlib(bytes, 6))})
}

/// The lists of section 4.1, whose values the draft prints.
#[test]
fn values_are_those_of_the_draft() {
    let check = |list: &StatusList, values: &[u8]| {
        for (index, value) in (0..).zip(values) {
            assert_eq!(list.value(index), Some(StatusValue(*value)), "{list:?} at {index}");
        }
        assert_eq!(list.value(u32::try_from(list.entries()).unwrap()), None);
        assert_eq!(list.value(u32::MAX), None);
    };
    let one = StatusList::parse(&json!({"bits": 1, "lst": "eNrbuRgAAhcBXQ"}), 2).unwrap();
    check(&one, &[1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]);
    let two = StatusList::parse(&json!({"bits": 2, "lst": "eNo76fITAAPfAgc"}), 3).unwrap();
    check(&two, &[1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]);
    check(&StatusList::parse(&claim(4, &[0xa1, 0x5f]), 2).unwrap(), &[1, 10, 15, 5]);
    check(&StatusList::parse(&claim(8, &[0, 255, 7]), 3).unwrap(), &[0, 255, 7]);
    let written = StatusList::of_invalid(16, [0, 3, 4, 5, 7, 8, 9, 13, 15, 16, 4_000_000_000]);
    assert_eq!(StatusList::parse(&written.to_claim(), 2).unwrap(), one);
}

#[test]
fn a_list_that_cannot_be_read_or_is_too_large_is_refused() {
    let bomb = claim(1, &vec![0; 50_000_000]);
    assert!(bomb["lst"].as_str().unwrap().len() < 100_000, "it is small on the way");
    for (list, fault) in [
        (bomb, MalformedList::TooLarge),
        (claim(1, &[0; 1025]), MalformedList::TooLarge),
        (claim(3, &[0]), MalformedList::Form),
        (json!({"bits": "1", "lst": "eNrbuRgAAhcBXQ"}), MalformedList::Form),
        (json!({"bits": 1}), MalformedList::Form),
        (json!([1]), MalformedList::Form),
        (json!({"bits": 1, "lst": "eNrbuRgAAhcBXQ=="}), MalformedList::Encoding),
        (json!({"bits": 1, "lst": "eNrbuRgAAhcB"}), MalformedList::Compression),
        (json!({"bits": 1, "lst": "eNrbuRgAAhcBXA"}), MalformedList::Compression),
        (json!({"bits": 1, "lst": ""}), MalformedList::Compression),
    ] {
        assert_eq!(StatusList::parse(&list, 1024), Err(fault));
    }
    assert_eq!(StatusList::parse(&claim(1, &[0; 1024]), 1024).unwrap().entries(), 8192);
}

#[test]
fn a_reference_leads_to_the_prefixes_alone() {
    let policy = policy(&["https://idp.test/", "https://cdn.test/status/"]);
    let read = |claims: Value| StatusReference::read(&ClaimSet::from(claims), &policy);
    let at = |uri: &str| read(json!({"status": {"status_list": {"idx": 7, "uri": uri}}}));
    for uri in ["https://idp.test/statuslists/1", "https://idp.test/?list=1", "https://cdn.test/status/a/b.jwt"] {
        assert_eq!(at(uri), Ok(Some(StatusReference { uri: uri.into(), index: 7 })));
    }
    for uri in [
        "https://idp.test",
        "https://idp.test.attacker.test/1",
        "https://idp.test@attacker.test/1",
        "http://idp.test/1",
        "HTTPS://idp.test/1",
        "https://cdn.test/other",
        "https://cdn.test/status",
        "https://cdn.test/status/../other",
        "https://cdn.test/status/%2E%2e/other",
        "https://cdn.test/status/.%2e/other",
        "https://cdn.test/status/..\\other",
        "https://idp.test/a b",
        "https://idp.test/\u{fc}",
        "https://idp.test/#1",
        &format!("https://idp.test/{}", "x".repeat(255)),
    ] {
        assert_eq!(at(uri).unwrap_err().denial, Denial::InvalidClaim, "{uri}");
    }
    for claims in [json!({}), json!({"status": {}}), json!({"status": {"other": {"idx": 1}}})] {
        assert_eq!(read(claims), Ok(None));
    }
    let uri = "https://idp.test/1";
    for status in [
        json!("active"),
        json!({"status_list": 5}),
        json!({"status_list": {"idx": 1}}),
        json!({"status_list": {"uri": uri}}),
        json!({"status_list": {"idx": -1, "uri": uri}}),
        json!({"status_list": {"idx": "1", "uri": uri}}),
        json!({"status_list": {"idx": 1.5, "uri": uri}}),
        json!({"status_list": {"idx": 4_294_967_296_u64, "uri": uri}}),
    ] {
        assert_eq!(read(json!({"status": status})).unwrap_err().denial, Denial::InvalidClaim, "{status}");
    }
}

#[test]
fn a_value_without_a_configured_meaning_refuses() {
    use Status::{Revoked, Suspended, Valid};
    let policy = policy(&[]);
    let statuses = [0, 1, 2, 3, 4, 255].map(|value| policy.status(StatusValue(value)));
    assert_eq!(statuses, [Valid, Revoked, Suspended, Valid, Revoked, Revoked]);
    assert_eq!(StatusValue(12).to_string(), "0x0c (application-specific)");
}

#[test]
fn an_older_list_does_not_replace_a_newer_one() {
    let (lists, issuer) = (StatusLists::default(), IssuerName::parse("main").unwrap());
    let uri: Arc<str> = "https://idp.test/1".into();
    let stored = |issued_at: i64, fetched: u64, invalid: u32| StoredList {
        list: Arc::new(StatusList::of_invalid(8, [invalid])),
        issued_at: Timestamp::from_secs(issued_at),
        expires_at: Some(Timestamp::from_secs(1_000)),
        fetched: Duration::from_secs(fetched),
    };
    assert!(lists.store(&issuer, &uri, stored(10, 1, 5)));
    assert!(!lists.store(&issuer, &uri, stored(9, 2, 6)));
    let now = Timestamp::from_secs(500);
    let find = |uptime: u64| lists.find(&issuer, &uri, Duration::from_secs(uptime)).unwrap();
    assert_eq!(find(3).list.value(5), Some(StatusValue(1)));
    let is_fresh = |uptime: u64, now| {
        find(uptime).is_fresh(Duration::from_secs(60), Duration::from_secs(30), Duration::from_secs(uptime), now)
    };
    assert!(is_fresh(61, now) && !is_fresh(62, now), "counted from the request that brought it");
    assert!(lists.store(&issuer, &uri, stored(10, 50, 5)));
    assert!(is_fresh(110, now) && !is_fresh(111, now));
    assert!(is_fresh(60, Timestamp::from_secs(1_029)) && !is_fresh(60, Timestamp::from_secs(1_030)));
    assert_eq!(lists.of(&issuer), [(uri.clone(), Duration::from_secs(60))]);
    lists.retain(|_, _, used| used > Duration::from_secs(60));
    assert!(lists.find(&issuer, &uri, Duration::ZERO).is_none());
}
