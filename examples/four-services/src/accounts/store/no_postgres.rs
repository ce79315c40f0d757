//! What stands for PostgreSQL in a build without the feature `postgres`, such as the demo's.

/// Never made.
pub type Pool = sqlx::SqlitePool;

#[expect(clippy::unused_async, reason = "its counterpart connects")]
pub async fn connect(_url: &str) -> anyhow::Result<Pool> {
    anyhow::bail!("this build has no PostgreSQL: build four-services with the feature `postgres`, a default one")
}
