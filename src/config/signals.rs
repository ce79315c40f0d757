//! Shared Signals: the transmitters whose security events are applied.

use std::collections::HashSet;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::check::Check;
use super::fault::KeyPath;
use super::file::{
    ClientAuthFile, ClientCredentialsFile, ConfigFile, PollFile, StreamFile, SubjectFormat, TransmitterFile,
};
use super::issuers::{KeySource, key_source};
use super::rules::known_issuer;
use crate::authz::api_key::digest_of;
use crate::authz::claims::IssuerName;
use crate::authz::jwks::ASYMMETRIC;
use crate::authz::signals::{self, StreamKey, SubjectFormats};
use crate::sources::http::Authorities;
use crate::sources::jwks::Location;
use crate::sources::signals::{ClientAuthentication, ClientCredentials, Credential, PollSettings, StreamSettings};

/// A transmitter whose security event tokens are applied, and their delivery.
#[derive(Clone)]
pub struct Transmitter {
    /// Its `keys` are set unless they are fetched over the network.
    pub trusted: signals::Transmitter,
    pub keys: KeySource,
    /// For the transmitter's API.
    pub credential: Option<Credential>,
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
    let client = file.client_credentials.as_ref();
    let client = client.map(|client| client_credentials(check, &at.key("client_credentials"), client, &file.issuer));
    let (stream, token) = match &file.stream {
        None => (None, None),
        Some(file) => {
            let (stream, token) = stream(check, &at.key("stream"), file, client.is_some());
            (Some(stream), token)
        }
    };
    let credential = client.flatten().map(Credential::Client).or_else(|| token.map(Credential::Token));
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
    let secret = credential.as_ref().map(|credential| match credential {
        Credential::Token(secret) => secret,
        Credential::Client(client) => &client.client_secret,
    });
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
            scim: formats(SubjectFormat::Scim),
        },
        algorithms: ASYMMETRIC.to_vec(),
        leeway: LEEWAY,
        keys: loaded_keys,
        push_token: push_token.as_ref().map(|token| digest_of(token.expose_secret().as_bytes())),
        stream_key: secret.map(|secret| StreamKey::new(secret.expose_secret().as_bytes())),
    };
    Some(Transmitter { trusted, keys, credential, poll, stream, push_token, authorities })
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

/// The settings of a stream, and its fixed token.
fn stream(
    check: &mut Check<'_>,
    at: &KeyPath,
    file: &StreamFile,
    has_client: bool,
) -> (StreamSettings, Option<SecretString>) {
    if let Some(url) = &file.push_url {
        check.url(&at.key("push_url"), url, file.insecure);
    }
    let is_written = file.token.is_some() || file.token_file.is_some();
    if !is_written && !has_client {
        check.fault(
            &at.key("token_file"),
            "is missing; it must be the name of the file with the token, or `client_credentials` be set",
        );
    } else if is_written && has_client {
        let key = if file.token.is_some() { "token" } else { "token_file" };
        check.fault(&at.key(key), "must not be written beside `client_credentials`");
    }
    let token = check.secret(at, "token", file.token.as_ref(), file.token_file.as_ref());
    let settings = StreamSettings {
        push_url: file.push_url.clone(),
        verify: *file.verify,
        silent_after: *file.silent_after,
        insecure: file.insecure,
    };
    (settings, token)
}

/// `None` after a fault of the secret.
fn client_credentials(
    check: &mut Check<'_>,
    at: &KeyPath,
    file: &ClientCredentialsFile,
    issuer: &str,
) -> Option<ClientCredentials> {
    if let Some(url) = &file.token_url {
        check.url(&at.key("token_url"), url, file.insecure);
    } else if let Some(url) = &file.authorization_server {
        check.url(&at.key("authorization_server"), url, file.insecure);
    }
    if file.client_id.is_empty() {
        check.fault(&at.key("client_id"), "must not be empty");
    }
    // RFC 6749 section 3.3: printable ASCII without space, `"` and `\`.
    let is_scope = |scope: &str| {
        !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
    };
    for (index, scope) in file.scopes.iter().enumerate() {
        if !is_scope(scope) {
            check.fault(
                &at.key("scopes").index(index),
                "must be a scope: ASCII text without spaces, quotes and backslashes",
            );
        }
    }
    if file.client_secret.is_none() && file.client_secret_file.is_none() {
        check.fault(&at.key("client_secret_file"), "is missing; it must be the name of the file with the secret");
    }
    Some(ClientCredentials {
        token_url: file.token_url.clone(),
        authorization_server: file.authorization_server.clone().unwrap_or_else(|| issuer.to_owned()),
        client_id: file.client_id.clone(),
        client_secret: check.secret(
            at,
            "client_secret",
            file.client_secret.as_ref(),
            file.client_secret_file.as_ref(),
        )?,
        method: match file.auth_method {
            ClientAuthFile::ClientSecretBasic => ClientAuthentication::Basic,
            ClientAuthFile::ClientSecretPost => ClientAuthentication::Post,
        },
        scope: file.scopes.join(" "),
        audience: file.audience.clone(),
        insecure: file.insecure,
    })
}
