//! The routes of Accounts. Envoy and Doorward are in front of them: `x-identity` has the caller.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::error::Error;
use super::store::{Rotation, Session, User};
use super::tokens::{ACCESS_LIFETIME, random, sha256_hex};
use super::{Accounts, introspection, page, passwords, stage};
use crate::clock::{self, Timestamp};
use crate::service::identity;

type Shared = State<Arc<Accounts>>;
type Done = Result<StatusCode, Error>;

/// Larger bodies are refused: the longest right one has a few hundred bytes.
const BODY: usize = 16 * 1024;

pub fn routes(accounts: Arc<Accounts>) -> Router {
    Router::new()
        .route("/auth/login", post(login))
        .route("/auth/refresh", post(refresh))
        .route("/auth/logout", post(logout))
        .route("/auth/logout-everywhere", post(logout_everywhere))
        .route("/auth/password", post(change_password))
        .route("/auth/permissions", post(change_permissions))
        .route("/oauth2/introspect", post(introspection::introspect))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/page/stage.json", get(stage::seen))
        .route("/page/stage/{lever}", post(stage::pull))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(accounts)
        .merge(page::routes())
        .layer(DefaultBodyLimit::max(BODY))
}

/// The owner of the token, as verified by Doorward.
struct Caller {
    login: String,
    sid: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let header = parts.headers.get("x-identity").and_then(|value| value.to_str().ok());
        let identity = header.and_then(identity).ok_or(Error::Unauthenticated)?;
        let text = |name: &str| identity[name].as_str().map(str::to_owned).ok_or(Error::Unauthenticated);
        Ok(Self { login: text("user_id")?, sid: text("session_id")? })
    }
}

/// A JSON body; its faults are answered like every other error.
struct Asked<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Asked<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        Ok(Self(Json::from_request(request, state).await?.0))
    }
}

/// The answer to a login and a refresh (RFC 6749 section 5.1).
#[derive(Serialize)]
struct Tokens {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    refresh_token: String,
}

impl Tokens {
    fn of(accounts: &Accounts, session: &Session, refresh_token: String, now: Timestamp) -> Result<Self, Error> {
        let access_token = accounts.minter.access_token(session, now)?;
        Ok(Self { access_token, token_type: "Bearer", expires_in: ACCESS_LIFETIME.as_secs(), refresh_token })
    }
}

impl IntoResponse for Tokens {
    fn into_response(self) -> Response {
        ([(CACHE_CONTROL, "no-store")], Json(self)).into_response()
    }
}

#[derive(Deserialize)]
struct Login {
    login: String,
    password: String,
}

async fn login(State(accounts): Shared, Asked(asked): Asked<Login>) -> Result<Tokens, Error> {
    let now = clock::now();
    let user = authenticate(&accounts, &asked.login, asked.password, now).await?.ok_or(Error::WrongPassword)?;
    let (sid, refresh_token) = (random::<16>()?, random::<32>()?);
    if !accounts.store.begin_family(&user, &sid, &sha256_hex(&refresh_token), now).await? {
        return Err(Error::WrongPassword);
    }
    let User { login, email, permissions, .. } = user;
    let session = Session { sid, login, email, permissions, started_at: now.secs() };
    Tokens::of(&accounts, &session, refresh_token, now)
}

/// The user, if the password is right. An unknown one takes as long and is answered the same.
async fn authenticate(
    accounts: &Accounts,
    login: &str,
    password: String,
    now: Timestamp,
) -> Result<Option<User>, Error> {
    if login.len() > passwords::MAX_BYTES || password.len() > passwords::MAX_BYTES {
        return Ok(None);
    }
    if !accounts.passwords.may_try(login, now) {
        return Err(Error::TooManyGuesses);
    }
    let user = accounts.store.user(login).await?;
    let hash = user.as_ref().map(|user| user.password_hash.as_str());
    if !accounts.passwords.verify(password, hash).await? {
        return Ok(None);
    }
    accounts.passwords.was_right(login);
    Ok(user)
}

#[derive(Deserialize)]
struct Refresh {
    refresh_token: String,
}

async fn refresh(State(accounts): Shared, Asked(asked): Asked<Refresh>) -> Result<Tokens, Error> {
    let (now, next) = (clock::now(), random::<32>()?);
    match accounts.store.rotate(&sha256_hex(&asked.refresh_token), &sha256_hex(&next), now).await? {
        Rotation::Rotated(session) => Tokens::of(&accounts, &session, next, now),
        Rotation::Reused { sid } => {
            warn!(sid, "a refresh token was used twice; its family has ended");
            accounts.doorward.session_ended(&sid).await.map_err(Error::NotTold)?;
            Err(Error::InvalidRefreshToken)
        }
        Rotation::Invalid => Err(Error::InvalidRefreshToken),
    }
}

/// Doorward recorded the sign-out before the request arrived here; the refresh tokens remain to be ended.
async fn logout(State(accounts): Shared, caller: Caller) -> Result<Response, Error> {
    accounts.store.end_family(&caller.sid, clock::now()).await?;
    Ok(ended(&accounts).await)
}

async fn logout_everywhere(State(accounts): Shared, caller: Caller) -> Result<Response, Error> {
    accounts.store.end_families(&caller.login, clock::now()).await?;
    accounts.doorward.signed_out_everywhere(&caller.login, clock::now()).await.map_err(Error::NotTold)?;
    Ok(ended(&accounts).await)
}

/// 204; on the demo's stage with Doorward's own time for a revocation, from the request to the last instance that
/// refuses (`Server-Timing`), so that the page can show it beside the browser's.
async fn ended(accounts: &Accounts) -> Response {
    let timing = match accounts.stage {
        Some(_) => accounts.doorward.time().await,
        None => None,
    };
    match timing.map(|(ms, instances)| format!("doorward;dur={ms:.2};desc={instances}")) {
        Some(timing) => (StatusCode::NO_CONTENT, [("server-timing", timing)]).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

#[derive(Deserialize)]
struct PasswordChange {
    old: String,
    new: String,
}

async fn change_password(State(accounts): Shared, caller: Caller, Asked(asked): Asked<PasswordChange>) -> Done {
    let now = clock::now();
    if !(8..=passwords::MAX_BYTES).contains(&asked.new.len()) {
        return Err(Error::Invalid("`new` must have 8 to 128 bytes"));
    }
    let user = authenticate(&accounts, &caller.login, asked.old, now).await?.ok_or(Error::WrongOldPassword)?;
    let hash = accounts.passwords.hash(asked.new).await?;
    if !accounts.store.set_password(&user, &hash, now).await? {
        return Err(Error::WrongOldPassword);
    }
    accounts.doorward.password_changed(&user.login, clock::now()).await.map_err(Error::NotTold)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct PermissionChange {
    login: String,
    permissions: Vec<String>,
}

async fn change_permissions(State(accounts): Shared, caller: Caller, Asked(asked): Asked<PermissionChange>) -> Done {
    let permitted = |user: User| user.permissions.split_whitespace().any(|permission| permission == "admin");
    if !accounts.store.user(&caller.login).await?.is_some_and(permitted) {
        return Err(Error::NotAdmin);
    }
    let fits = |text: &String| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":._-".contains(&byte))
    };
    if asked.permissions.len() > 32 || !asked.permissions.iter().all(fits) {
        return Err(Error::Invalid("`permissions` must be at most 32 names of at most 64 letters, digits and `:._-`"));
    }
    if !accounts.store.set_permissions(&asked.login, &asked.permissions.join(" ")).await? {
        return Err(Error::UnknownLogin);
    }
    let told = accounts.doorward.permissions_changed(&accounts.minter, &asked.login, &asked.permissions, clock::now());
    told.await.map_err(Error::NotTold)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn jwks(State(accounts): Shared) -> Result<impl IntoResponse, Error> {
    let (keys, max_age) = accounts.minter.keys.jwks(clock::now())?;
    Ok(([(CACHE_CONTROL, format!("public, max-age={}", max_age.as_secs()))], Json(keys)))
}
