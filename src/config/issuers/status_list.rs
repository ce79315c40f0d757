//! Where the status lists of an issuer are, and what their values mean; and the list that is published for it.

use url::Url;

use crate::authz::claims::IssuerName;
use crate::authz::issuer_id::IssuerId;
use crate::authz::signing::SigningKey;
use crate::authz::status_list::{StatusListPolicy, StatusReference};
use crate::authz::status_publisher::StatusPublisher;
use crate::config::check::Check;
use crate::config::fault::KeyPath;
use crate::config::file::{Limits, PublishStatusListFile, StatusListFile};
use crate::sources::status_lists::StatusListSettings;

pub(super) fn read(
    check: &mut Check<'_>,
    at: &KeyPath,
    file: &StatusListFile,
    issuer: &IssuerId,
    limits: &Limits,
) -> (StatusListPolicy, StatusListSettings) {
    let mut prefixes: Vec<String> = issuer.texts().filter_map(|text| origin(&text)).collect();
    for (index, prefix) in file.prefixes.iter().enumerate() {
        let at = at.key("prefixes").index(index);
        check.url(&at, prefix, file.insecure);
        // Compared as text with the URIs of tokens, which must not begin with another host or folder.
        if Url::parse(prefix).is_ok_and(|url| url.as_str() != prefix || !prefix.ends_with('/') || url.query().is_some())
        {
            check.fault(&at, "must be scheme, host and path in normal form with a `/` at the end, without query");
        }
        prefixes.push(prefix.clone());
    }
    if prefixes.is_empty() {
        check.fault(&at.key("prefixes"), "must not be empty where `issuer` is not a URL: lists would have no place");
    }
    if *file.max_stale < *file.refresh {
        check.warn(&at.key("max_stale"), "is shorter than `refresh`: lists are stale between two fetches");
    }
    if file.valid.contains(&INVALID) {
        check.fault(&at.key("valid"), "must not contain 1 (INVALID): such tokens are revoked");
    }
    for value in file.suspended.iter().filter(|value| file.valid.contains(value)) {
        check.fault(&at.key("suspended"), format!("must not contain {value}, which is among `valid`"));
    }
    let policy = StatusListPolicy {
        prefixes,
        valid: file.valid.clone(),
        suspended: file.suspended.clone(),
        max_stale: *file.max_stale,
    };
    let settings = StatusListSettings {
        refresh: *file.refresh,
        timeout: *file.timeout,
        max_bytes: limits.status_list_bytes,
        max_lists: limits.status_lists,
        insecure: file.insecure,
        authorities: check.authorities(at, file.ca_file.as_ref()),
    };
    (policy, settings)
}

/// `names`: those under which tokens of the issuer are revoked.
pub(super) fn publisher(
    check: &mut Check<'_>,
    at: &KeyPath,
    file: &PublishStatusListFile,
    names: Vec<IssuerName>,
) -> Option<StatusPublisher> {
    check.url(&at.key("uri"), &file.uri, false);
    if file.uri.len() > StatusReference::MAX_URI {
        let most = StatusReference::MAX_URI;
        check.fault(&at.key("uri"), format!("must have at most {most} bytes: every token names it"));
    }
    if !file.entries.is_power_of_two() {
        check.fault(&at.key("entries"), "must be a power of two, such as 16777216");
    }
    if *file.lifetime < *file.ttl * 2 {
        check.fault(&at.key("lifetime"), "must be at least twice `ttl`: verifiers fetch the next list before the end");
    }
    let key = check.signing_key(&at.key("key_file"), &file.key_file, SigningKey::from_pem)?;
    let (uri, entries, ttl, lifetime) = (file.uri.clone(), file.entries, *file.ttl, *file.lifetime);
    Some(StatusPublisher { uri, names, key, entries, ttl, lifetime })
}

/// The status of a token that is revoked, by the registry.
const INVALID: u8 = 1;

/// Scheme, host and port of an issuer that is a URL, with a `/`.
fn origin(issuer: &str) -> Option<String> {
    let url = Url::parse(issuer).ok().filter(|url| matches!(url.scheme(), "https" | "http"))?;
    Some(format!("{}/", url.origin().ascii_serialization()))
}
