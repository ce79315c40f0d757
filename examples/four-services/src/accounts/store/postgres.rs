//! Connections to PostgreSQL.

use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::WAIT;

pub type Pool = sqlx::PgPool;

pub async fn connect(url: &str) -> anyhow::Result<Pool> {
    let limits = [("statement_timeout", "3s"), ("idle_in_transaction_session_timeout", "10s")];
    let options = PgConnectOptions::from_str(url)?.options(limits);
    let pool = PgPoolOptions::new().max_connections(10).acquire_timeout(WAIT);
    Ok(pool.connect_with(options).await?)
}
