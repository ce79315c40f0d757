//! Shared Signals: the transmitters whose security events are applied.

use std::collections::HashSet;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::check::Check;
use super::fault::KeyPath;
use super::file::{ConfigFile, PollFile, StreamFile, SubjectFormat, TransmitterFile};
use super::issuers::{KeySource, key_source};
use super::rules::known_issuer;
use crate::authz::api_key::digest_of;
use crate::authz::claims::IssuerName;
use crate::authz::jwks::ASYMMETRIC;
use crate::authz::signals::{self, StreamKey, SubjectFormats};
use crate::sources::http::Authorities;
use crate::sources::jwks::Location;
use crate::sources::signals::{PollSettings, StreamSettings};

/// A transmitter whose security event tokens are applied, and their delivery.
#[derive(Clone)]
pub struct Transmitter {
    /// Its `keys` are set unless they are fetched over the network.
    pub trusted: signals::Transmitter,
    pub keys: KeySource,
    /// `None`: events are pushed.
    pub poll: Option<PollSettings>,
    pub stream: Option<StreamSettings>,
    /// The `Authorization` header that the transmitter sends when it pushes.
    pub push_token: Option<SecretString>,
    /// Trusted instead of the system's.
    pub authorities: Option<Authorities>,
}

/// The clock skew allowed on transmitters' tokens.
const LEEWAY: Duration = Duration::from_secs(30);

pub(super) fn transmitters(check: &mut Check<'_>, whole: &ConfigFile) -> Vec<Transmitter> {
    let at = KeyPath::root().key("signals").key("transmitters");
    let mut issuers = HashSet::new();
    let mut found = Vec::new();
    for (index, file) in whole.signals.transmitters.iter().enumerate() {
        let at = at.index(index);
        if !file.issuer.is_empty() && !issuers.insert((&file.issuer, &file.audience)) {
            check.fault(&at.key("issuer"), "another entry has this issuer and audience");
        }
        found.extend(transmitter(check, &at, IssuerName::of_transmitter(index + 1), file, whole));
    }
    found
}

fn transmitter(
    check: &mut Check<'_>,
    at: &KeyPath,
    name: IssuerName,
    file: &TransmitterFile,
    whole: &ConfigFile,
) -> Option<Transmitter> {
    check.text(&at.key("issuer"), &file.issuer);
    check.no_wildcard(&at.key("audience"), &file.audience, "write the `aud` that its tokens have");
    check.text(&at.key("audience"), &file.audience);
    if file.keys.secret_file.is_some() {
        check.fault(
            &at.key("keys").key("secret_file"),
            "must not be used here: every verifier of events could forge them",
        );
    }
    let (mut keys, loaded_keys) =
        key_source(check, &at.key("keys"), &file.keys, Some(&file.issuer), &ASYMMETRIC, whole.limits.jwks_bytes);
    let authorities = check.authorities(at, file.ca_file.as_ref());
    if let KeySource::Fetched(fetched) = &mut keys {
        if let Location::Discovery(issuer) = &fetched.location {
            fetched.location = Location::SignalsDiscovery(issuer.clone());
        }
        fetched.authorities = fetched.authorities.take().or_else(|| authorities.clone());
    }
    known_issuer(check, &at.key("target_issuer"), &file.target_issuer, whole);
    check.list(&at.key("subjects"), &file.subjects, "; leave it out for the default");
    let poll = file.poll.as_ref().map(|file| poll(check, &at.key("poll"), file));
    let push_token = file.push.as_ref().and_then(|file| {
        let at = at.key("push");
        let token = check.secret(&at, "token", file.token.as_ref(), file.token_file.as_ref());
        if file.token.is_none() && file.token_file.is_none() {
            check.fault(&at.key("token_file"), "is missing; it must be the name of the file with the token");
        }
        token
    });
    let stream = file.stream.as_ref().map(|file| stream(check, &at.key("stream"), file));
    match (&file.poll, &file.stream) {
        (Some(poll), None) if poll.url.is_none() => {
            check.fault(&at.key("poll").key("url"), "is missing; it must be the poll endpoint, or `stream` be set");
        }
        (None, Some(stream)) if stream.push_url.is_none() => {
            let at = at.key("stream").key("push_url");
            check.fault(&at, "is missing; it must be the URL of `/signals/events`, or `poll` be set");
        }
        _ => {}
    }
    let token = stream.as_ref().and_then(|stream| stream.token.as_ref());
    let formats = |format| file.subjects.contains(&format);
    let trusted = signals::Transmitter {
        name,
        issuer: file.issuer.clone(),
        audience: file.audience.clone(),
        target: IssuerName::parse(&file.target_issuer)?,
        subjects: SubjectFormats {
            iss_sub: formats(SubjectFormat::IssSub),
            opaque: formats(SubjectFormat::Opaque),
            email: formats(SubjectFormat::Email),
        },
        algorithms: ASYMMETRIC.to_vec(),
        leeway: LEEWAY,
        keys: loaded_keys,
        push_token: push_token.as_ref().map(|token| digest_of(token.expose_secret().as_bytes())),
        stream_key: token.map(|token| StreamKey::new(token.expose_secret().as_bytes())),
    };
    Some(Transmitter { trusted, keys, poll, stream, push_token, authorities })
}

fn poll(check: &mut Check<'_>, at: &KeyPath, file: &PollFile) -> PollSettings {
    if let Some(url) = &file.url {
        check.url(&at.key("url"), url, file.insecure);
    }
    PollSettings {
        url: file.url.clone(),
        token: check.secret(at, "token", file.token.as_ref(), file.token_file.as_ref()),
        interval: *file.interval,
        insecure: file.insecure,
    }
}

fn stream(check: &mut Check<'_>, at: &KeyPath, file: &StreamFile) -> StreamSettings {
    if let Some(url) = &file.push_url {
        check.url(&at.key("push_url"), url, file.insecure);
    }
    if file.token.is_none() && file.token_file.is_none() {
        check.fault(&at.key("token_file"), "is missing; it must be the name of the file with the token");
    }
    StreamSettings {
        push_url: file.push_url.clone(),
        token: check.secret(at, "token", file.token.as_ref(), file.token_file.as_ref()),
        verify: *file.verify,
        insecure: file.insecure,
    }
}
