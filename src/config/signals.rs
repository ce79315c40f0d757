//! Shared Signals: whose security events are applied.

use std::collections::HashSet;
use std::time::Duration;

use secrecy::SecretString;

use super::check::{Check, HOUR, SECOND};
use super::fault::KeyPath;
use super::file::{ConfigFile, PollFile, SubjectFormat, TransmitterFile};
use super::issuers::{KeySource, key_source};
use super::rules::known_issuer;
use crate::authz::claims::IssuerName;
use crate::authz::jwks::{ASYMMETRIC, Jwks};

/// Someone whose security event tokens are applied.
#[derive(Clone)]
pub struct Transmitter {
    /// Compared with `iss`, byte by byte.
    pub issuer: String,
    pub audience: String,
    pub keys: KeySource,
    /// Those that can be had without the network.
    pub loaded_keys: Option<Jwks>,
    /// Whose tokens the events revoke.
    pub target_issuer: IssuerName,
    /// `None`: events are pushed.
    pub poll: Option<Poll>,
    pub subjects: Vec<SubjectFormat>,
}

/// How events are fetched (RFC 8936).
#[derive(Clone, Debug)]
pub struct Poll {
    pub url: String,
    pub token: Option<SecretString>,
    pub interval: Duration,
    pub insecure: bool,
}

pub(super) fn transmitters(check: &mut Check<'_>, whole: &ConfigFile) -> Vec<Transmitter> {
    let at = KeyPath::root().key("signals").key("transmitters");
    let mut issuers = HashSet::new();
    let mut found = Vec::new();
    for (index, file) in whole.signals.transmitters.iter().enumerate() {
        let at = at.index(index);
        if !file.issuer.is_empty() && !issuers.insert((&file.issuer, &file.audience)) {
            check.fault(&at.key("issuer"), "another entry has this issuer and audience");
        }
        found.extend(transmitter(check, &at, file, whole));
    }
    found
}

fn transmitter(check: &mut Check<'_>, at: &KeyPath, file: &TransmitterFile, whole: &ConfigFile) -> Option<Transmitter> {
    check.text(&at.key("issuer"), &file.issuer);
    check.text(&at.key("audience"), &file.audience);
    if file.keys.secret_file.is_some() {
        check
            .fault(&at.key("keys").key("secret_file"), "must not be used here: whoever checks events could forge them");
    }
    let (keys, loaded_keys) = key_source(check, &at.key("keys"), &file.keys, &file.issuer, &ASYMMETRIC);
    known_issuer(check, &at.key("target_issuer"), &file.target_issuer, whole);
    check.list(&at.key("subjects"), &file.subjects, "; leave it out for the default");
    let poll = file.poll.as_ref().map(|file| poll(check, &at.key("poll"), file));
    let target_issuer = IssuerName::parse(&file.target_issuer)?;
    Some(Transmitter {
        issuer: file.issuer.clone(),
        audience: file.audience.clone(),
        keys,
        loaded_keys,
        target_issuer,
        poll,
        subjects: file.subjects.clone(),
    })
}

fn poll(check: &mut Check<'_>, at: &KeyPath, file: &PollFile) -> Poll {
    check.url(&at.key("url"), &file.url, file.insecure);
    Poll {
        url: file.url.clone(),
        token: check.secret(at, "token", file.token.as_ref(), file.token_file.as_ref()),
        interval: check.duration(&at.key("interval"), &file.interval, SECOND..=HOUR),
        insecure: file.insecure,
    }
}
