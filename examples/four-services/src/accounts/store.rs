//! Users and families of refresh tokens in a relational database: SQLite, or PostgreSQL by its URL.
//!
//! Each statement is one that both understand, by a key or an index. What must happen together is one
//! transaction, and its first statement is the write on which two of them meet: PostgreSQL makes the
//! second wait for that row, SQLite for the database.

use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use sqlx::error::BoxDynError;
use sqlx::migrate::{Migration, MigrationSource, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{FromRow, Row, SqlitePool};

use super::tokens::ACCESS_LIFETIME;
use crate::clock::Timestamp;

#[cfg_attr(not(feature = "postgres"), path = "store/no_postgres.rs")]
mod postgres;

/// The time after which an unused refresh token has expired.
const IDLE: Duration = Duration::from_secs(14 * 24 * 3600);
/// So long after the login the password is needed again, however often the tokens were refreshed.
const FAMILY_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// Sessions that one user may have; the next login ends the oldest.
const FAMILIES: i64 = 50;
/// The most used tokens that a family keeps, newest first; an older one is refused, and does not end the
/// family.
const USED: i64 = 1000;
/// How long a request waits for a connection, and a statement runs, before it fails.
const WAIT: Duration = Duration::from_secs(3);

pub enum Store {
    Sqlite(SqlitePool),
    Postgres(postgres::Pool),
}

pub struct User {
    pub login: String,
    pub email: String,
    pub password_hash: String,
    pub permissions: String,
}

/// The claims of an access token.
pub struct Session {
    pub sid: String,
    pub login: String,
    pub email: String,
    pub permissions: String,
    pub started_at: i64,
}

// sqlx could derive these two, by the names of the columns, and build the migrations in; but its macros compile
// both drivers, SQLite and the TLS library a second time.

impl<'r, R: Row> FromRow<'r, R> for User
where
    (String, String, String, String): FromRow<'r, R>,
{
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        let (login, email, password_hash, permissions) = FromRow::from_row(row)?;
        Ok(Self { login, email, password_hash, permissions })
    }
}

impl<'r, R: Row> FromRow<'r, R> for Session
where
    (String, String, String, String, i64): FromRow<'r, R>,
{
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        let (sid, login, email, permissions, started_at) = FromRow::from_row(row)?;
        Ok(Self { sid, login, email, permissions, started_at })
    }
}

/// The tables, from one version to the next.
#[derive(Debug)]
struct Migrations;

impl MigrationSource<'static> for Migrations {
    fn resolve(self) -> Pin<Box<dyn Future<Output = Result<Vec<Migration>, BoxDynError>> + Send>> {
        let simple = |version, name: &'static str, sql: &'static str| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into(), false)
        };
        Box::pin(async move { Ok(vec![simple(1, "accounts", include_str!("../../migrations/0001_accounts.sql"))]) })
    }
}

/// The result of a refresh token.
pub enum Rotation {
    /// It is used up; the new one is stored.
    Rotated(Session),
    /// It was used before: one of two holders is a thief. The family has ended, and its last access token may
    /// still be valid.
    Reused { sid: String },
    /// Unknown, expired, or of an ended family.
    Invalid,
}

/// Runs the same code on either database.
macro_rules! on {
    ($store:expr, $pool:ident => $code:expr) => {
        match $store {
            Store::Sqlite($pool) => $code,
            Store::Postgres($pool) => $code,
        }
    };
}

impl Store {
    /// Connects, and brings the tables up to date.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let store = if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            Self::Postgres(postgres::connect(url).await?)
        } else if url.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(url)?.create_if_missing(true).busy_timeout(WAIT);
            // It has one writer at a time anyway; and a database in memory lives as long as its connection.
            let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
            Self::Sqlite(pool.acquire_timeout(WAIT).connect_with(options).await?)
        } else {
            anyhow::bail!("the URL must begin with `sqlite:` or `postgres:`"); // It may hold a password.
        };
        let migrator = Migrator::new(Migrations).await?;
        on!(&store, pool => migrator.run(pool).await)?;
        Ok(store)
    }

    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgresql",
        }
    }

    /// Adds a user, unless the login is taken.
    pub async fn add_user(&self, user: &User) -> sqlx::Result<()> {
        const ADD: &str = "INSERT INTO users (login, email, password_hash, permissions) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING";
        on!(self, pool => {
            let add = sqlx::query(ADD).bind(&user.login).bind(&user.email).bind(&user.password_hash);
            add.bind(&user.permissions).execute(pool).await?;
        });
        Ok(())
    }

    pub async fn user(&self, login: &str) -> sqlx::Result<Option<User>> {
        const FIND: &str = "SELECT login, email, password_hash, permissions FROM users WHERE login = $1";
        on!(self, pool => sqlx::query_as(FIND).bind(login).fetch_optional(pool).await)
    }

    /// Begins a family with its first refresh token; `false` if the password was changed since `user` was read,
    /// or a session opened with the old one would outlive the change.
    pub async fn begin_family(&self, user: &User, sid: &str, hash: &str, now: Timestamp) -> sqlx::Result<bool> {
        const LOG_IN: &str = "UPDATE users SET last_login_at = $1 WHERE login = $2 AND password_hash = $3";
        // Neither their refresh tokens nor their access tokens are valid any more.
        const FORGET: &str = "DELETE FROM families WHERE login = $1 AND (expires_at <= $2 OR ended_at <= $3)";
        const CAP: &str = "UPDATE families SET ended_at = $1 WHERE sid IN
             (SELECT sid FROM families WHERE login = $2 AND ended_at IS NULL ORDER BY started_at DESC LIMIT 50 OFFSET $3)";
        const BEGIN: &str = "INSERT INTO families (sid, login, started_at, expires_at) VALUES ($1, $2, $3, $4)";
        let (at, ends) = (now.secs(), now.plus(FAMILY_LIFETIME).secs());
        on!(self, pool => {
            let mut tx = pool.begin().await?;
            let login = sqlx::query(LOG_IN).bind(at).bind(&user.login).bind(&user.password_hash);
            if login.execute(&mut *tx).await?.rows_affected() == 0 {
                return Ok(false);
            }
            let forget = sqlx::query(FORGET).bind(&user.login).bind(at).bind(dead(now));
            forget.execute(&mut *tx).await?;
            sqlx::query(CAP).bind(at).bind(&user.login).bind(FAMILIES - 1).execute(&mut *tx).await?;
            sqlx::query(BEGIN).bind(sid).bind(&user.login).bind(at).bind(ends).execute(&mut *tx).await?;
            let expires_at = now.plus(IDLE).secs();
            sqlx::query(ADD_TOKEN).bind(hash).bind(sid).bind(expires_at).execute(&mut *tx).await?;
            tx.commit().await?;
        });
        Ok(true)
    }

    /// Uses a refresh token up and stores the next one of its family; ends the family if it was used before.
    ///
    /// The same token twice at once: the second waits for the first, finds the token used, and ends the family.
    /// It looks like a theft, so clients must refresh one at a time.
    pub async fn rotate(&self, hash: &str, next: &str, now: Timestamp) -> sqlx::Result<Rotation> {
        const USE: &str =
            "UPDATE refresh_tokens SET used_at = $1 WHERE hash = $2 AND used_at IS NULL RETURNING sid, expires_at";
        // Once its last access token has expired there is no token left to revoke.
        const END: &str = "UPDATE families SET ended_at = COALESCE(ended_at, $1)
             WHERE sid = (SELECT sid FROM refresh_tokens WHERE hash = $2) AND COALESCE(ended_at, $1) > $3 RETURNING sid";
        const FORGET: &str = "DELETE FROM refresh_tokens WHERE sid = $1 AND (expires_at <= $2 OR hash IN
             (SELECT hash FROM refresh_tokens WHERE sid = $1 ORDER BY used_at DESC LIMIT 50 OFFSET $3))";
        let at = now.secs();
        on!(self, pool => {
            let mut tx = pool.begin().await?;
            let used: Option<(String, i64)> =
                sqlx::query_as(USE).bind(at).bind(hash).fetch_optional(&mut *tx).await?;
            let Some((sid, expires_at)) = used else {
                let end = sqlx::query_as(END).bind(at).bind(hash).bind(dead(now));
                let ended: Option<(String,)> = end.fetch_optional(&mut *tx).await?;
                tx.commit().await?;
                return Ok(ended.map_or(Rotation::Invalid, |(sid,)| Rotation::Reused { sid }));
            };
            let session = sqlx::query_as(SESSION).bind(&sid).bind(at).fetch_optional(&mut *tx).await?;
            let Some(session) = session.filter(|_| at < expires_at) else {
                return Ok(Rotation::Invalid); // Nothing is committed: it was not used.
            };
            sqlx::query(FORGET).bind(&sid).bind(at).bind(USED).execute(&mut *tx).await?;
            let expires_at = now.plus(IDLE).secs();
            sqlx::query(ADD_TOKEN).bind(next).bind(&sid).bind(expires_at).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(Rotation::Rotated(session))
        })
    }

    /// A live session.
    pub async fn session(&self, sid: &str, now: Timestamp) -> sqlx::Result<Option<Session>> {
        on!(self, pool => sqlx::query_as(SESSION).bind(sid).bind(now.secs()).fetch_optional(pool).await)
    }

    /// Ends one family; an ended one does not change.
    pub async fn end_family(&self, sid: &str, now: Timestamp) -> sqlx::Result<()> {
        const END: &str = "UPDATE families SET ended_at = $1 WHERE sid = $2 AND ended_at IS NULL";
        on!(self, pool => { sqlx::query(END).bind(now.secs()).bind(sid).execute(pool).await?; });
        Ok(())
    }

    /// Ends every family of a user.
    pub async fn end_families(&self, login: &str, now: Timestamp) -> sqlx::Result<()> {
        on!(self, pool => { sqlx::query(END_ALL).bind(now.secs()).bind(login).execute(pool).await?; });
        Ok(())
    }

    /// Replaces the password that `user` was read with and ends every family; `false` if it is another by now.
    pub async fn set_password(&self, user: &User, hash: &str, now: Timestamp) -> sqlx::Result<bool> {
        const SET: &str = "UPDATE users SET password_hash = $1 WHERE login = $2 AND password_hash = $3";
        on!(self, pool => {
            let mut tx = pool.begin().await?;
            let set = sqlx::query(SET).bind(hash).bind(&user.login).bind(&user.password_hash);
            if set.execute(&mut *tx).await?.rows_affected() == 0 {
                return Ok(false);
            }
            sqlx::query(END_ALL).bind(now.secs()).bind(&user.login).execute(&mut *tx).await?;
            tx.commit().await?;
        });
        Ok(true)
    }

    /// `false` if the user does not exist.
    pub async fn set_permissions(&self, login: &str, permissions: &str) -> sqlx::Result<bool> {
        const SET: &str = "UPDATE users SET permissions = $1 WHERE login = $2";
        on!(self, pool => {
            Ok(sqlx::query(SET).bind(permissions).bind(login).execute(pool).await?.rows_affected() == 1)
        })
    }
}

/// A family that ended before this time has no valid access token left.
fn dead(now: Timestamp) -> i64 {
    now.secs() - ACCESS_LIFETIME.as_secs().cast_signed()
}

const SESSION: &str = "SELECT f.sid, u.login, u.email, u.permissions, f.started_at
     FROM families f JOIN users u ON u.login = f.login
     WHERE f.sid = $1 AND f.ended_at IS NULL AND f.expires_at > $2";
const ADD_TOKEN: &str = "INSERT INTO refresh_tokens (hash, sid, expires_at) VALUES ($1, $2, $3)";
const END_ALL: &str = "UPDATE families SET ended_at = $1 WHERE login = $2 AND ended_at IS NULL";

#[cfg(test)]
mod tests;
