//! The credentials for a transmitter's API: a fixed token, or tokens of the client credentials grant (RFC 6749 section
//! 4.4), whose endpoint is given or discovered (RFC 8414).
//!
//! A token is kept, replaced before its end, and discarded when the API answers 401. However many requests need one, it
//! is requested once.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::super::http::{Client, HttpError, check_named, send};
use super::SignalError;
use crate::authz::jwks::without_mark;
use crate::clock::Steady;
use crate::sources::jwks::well_known;

/// The credential that requests carry.
#[derive(Clone, Debug)]
pub enum Credential {
    Token(SecretString),
    Client(ClientCredentials),
}

/// The settings of the client credentials grant.
#[derive(Clone, Debug)]
pub struct ClientCredentials {
    /// `None`: by the metadata of `authorization_server`.
    pub token_url: Option<String>,
    /// The issuer of the tokens.
    pub authorization_server: String,
    pub client_id: String,
    pub client_secret: SecretString,
    pub method: ClientAuthentication,
    /// With a space between them; empty: the server's default.
    pub scope: String,
    /// The audience of the token, for servers that require it.
    pub audience: Option<String>,
    pub insecure: bool,
}

/// How the client authenticates at the token endpoint (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientAuthentication {
    /// `client_secret_basic`.
    Basic,
    /// `client_secret_post`.
    Post,
}

/// The credential of one API, and the token that is kept for it.
pub(super) struct Access {
    credential: Option<Credential>,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    token: SecretString,
    /// `None`: until it is refused.
    renew_at: Option<Steady>,
}

impl Access {
    /// The timeout of one request for a token or for metadata.
    const TIMEOUT: Duration = Duration::from_secs(10);
    /// The largest answer that is read, in bytes.
    const MAX_BODY: usize = 64 * 1024;
    /// The longest token, in bytes: it stands in a header.
    const MAX_TOKEN: usize = 16 * 1024;
    /// A token is replaced this long before its end, or a fifth of its life before, whichever is shorter.
    const MARGIN: Duration = Duration::from_secs(30);
    /// The longest time for which a token is used.
    const LONGEST: Duration = Duration::from_secs(24 * 3600);

    pub(super) fn new(credential: Option<Credential>) -> Self {
        Self { credential, kept: Mutex::default() }
    }

    /// The token for a request; `None` if none is configured.
    pub(super) async fn token(&self, client: &Client) -> Result<Option<SecretString>, SignalError> {
        let settings = match &self.credential {
            None => return Ok(None),
            Some(Credential::Token(token)) => return Ok(Some(token.clone())),
            Some(Credential::Client(settings)) => settings,
        };
        let mut kept = self.kept.lock().await; // Held during the request: others wait for its result.
        let now = Steady::now();
        if let Some(Kept { token, .. }) =
            kept.as_ref().filter(|kept| kept.renew_at.is_none_or(|renew_at| now < renew_at))
        {
            return Ok(Some(token.clone()));
        }
        let (token, lasts) = settings.fetch(client).await?;
        let lasts = lasts.map(|lasts| lasts.min(Self::LONGEST));
        let renew_at = lasts.map(|lasts| now + lasts.saturating_sub(Self::MARGIN.min(lasts / 5)));
        *kept = Some(Kept { token: token.clone(), renew_at });
        Ok(Some(token))
    }

    /// Discards a token that the API refused. True if another one may be accepted.
    pub(super) async fn discard(&self, refused: &SecretString) -> bool {
        let mut kept = self.kept.lock().await;
        if kept.as_ref().is_some_and(|kept| kept.token.expose_secret() == refused.expose_secret()) {
            *kept = None;
        }
        matches!(self.credential, Some(Credential::Client(_)))
    }
}

impl ClientCredentials {
    /// A new token, and its life.
    async fn fetch(&self, client: &Client) -> Result<(SecretString, Option<Duration>), SignalError> {
        let url = match &self.token_url {
            Some(url) => url.clone(),
            None => self.discover(client).await?,
        };
        let request = client.request(Method::POST, &url, self.insecure)?;
        let request = match self.method {
            ClientAuthentication::Basic => request.header(AUTHORIZATION, self.basic()),
            ClientAuthentication::Post => request,
        };
        let request =
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").header(ACCEPT, "application/json");
        let answer = send(request.body(self.form()), Access::TIMEOUT, Access::MAX_BODY).await;
        let answer = json(&answer.map_err(SignalError::Token)?.document().map_err(SignalError::Token)?.body)?;
        let token = answer["access_token"].as_str().filter(|token| {
            (1..=Access::MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let token = token.ok_or(SignalError::Answer("the token endpoint returned no `access_token`"))?;
        if !answer["token_type"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("bearer")) {
            return Err(SignalError::Answer("`token_type` of the token endpoint is not `Bearer`"));
        }
        // Some servers write the number as text.
        let seconds = answer["expires_in"].as_u64().or_else(|| answer["expires_in"].as_str()?.parse().ok());
        Ok((SecretString::from(token), seconds.map(Duration::from_secs)))
    }

    /// The body of the request (RFC 6749 section 4.4.2).
    fn form(&self) -> String {
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !self.scope.is_empty() {
            form.append_pair("scope", &self.scope);
        }
        if let Some(audience) = &self.audience {
            form.append_pair("audience", audience);
        }
        if self.method == ClientAuthentication::Post {
            form.append_pair("client_id", &self.client_id);
            form.append_pair("client_secret", self.client_secret.expose_secret());
        }
        form.finish()
    }

    /// RFC 6749 section 2.3.1: both are form-encoded before they are joined.
    fn basic(&self) -> String {
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", encoded(&self.client_id), encoded(self.client_secret.expose_secret()));
        format!("Basic {}", STANDARD.encode(pair))
    }

    /// The token endpoint of the authorization server: by RFC 8414, or by OpenID Connect Discovery 1.0.
    async fn discover(&self, client: &Client) -> Result<String, SignalError> {
        let server = &self.authorization_server;
        let read = async |url: &str| {
            let request = client.request(Method::GET, url, self.insecure)?.header(ACCEPT, "application/json");
            send(request, Access::TIMEOUT, Access::MAX_BODY).await?.document()
        };
        let metadata = match read(&well_known(server, "oauth-authorization-server")).await {
            Err(HttpError::Status(_)) => {
                read(&format!("{}/.well-known/openid-configuration", server.trim_end_matches('/'))).await
            }
            found => found,
        };
        let metadata = json(&metadata.map_err(SignalError::Metadata)?.body)?;
        // RFC 8414 section 3.3: otherwise one server could impersonate another.
        if metadata["issuer"].as_str() != Some(server) {
            return Err(SignalError::Answer(
                "`issuer` of the authorization server's metadata differs from the configured one",
            ));
        }
        let endpoint = metadata["token_endpoint"].as_str();
        let endpoint = endpoint.ok_or(SignalError::Answer("the authorization server names no `token_endpoint`"))?;
        check_named(server, endpoint, self.insecure).map_err(SignalError::Metadata)?;
        Ok(endpoint.to_owned())
    }
}

fn json(body: &[u8]) -> Result<Value, SignalError> {
    serde_json::from_slice(without_mark(body)).map_err(|_| SignalError::Answer("not JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_secret_are_encoded_before_they_are_joined() {
        let settings = ClientCredentials {
            token_url: None,
            authorization_server: "https://id.test".to_owned(),
            client_id: "a:b".to_owned(),
            client_secret: SecretString::from("p%ä s".to_owned()),
            method: ClientAuthentication::Basic,
            scope: String::new(),
            audience: None,
            insecure: false,
        };
        let expected = STANDARD.encode("a%3Ab:p%25%C3%A4+s");
        assert_eq!(settings.basic(), format!("Basic {expected}"));
    }
}
