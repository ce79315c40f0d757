//! Doorward's log of revocations in Redis, written by its data contract.

use anyhow::Context;

pub struct Log {
    client: redis::Client,
    prefix: String,
}

impl Log {
    pub fn open(url: String, prefix: String) -> anyhow::Result<Self> {
        // Its own error might repeat the URL, which may hold a password.
        let client = redis::Client::open(url).ok().context("--redis is not a URL `redis://…`")?;
        Ok(Self { client, prefix })
    }

    /// Removes everything, as a wrong command of an operator does.
    pub async fn flush(&self) -> anyhow::Result<()> {
        let mut connection = self.client.get_multiplexed_async_connection().await?;
        Ok(redis::cmd("FLUSHALL").exec_async(&mut connection).await?)
    }

    /// Ends what a user was issued up to `at`, until `expires`; both in milliseconds since 1970.
    pub async fn user_ended(&self, issuer: &str, id: &str, at: i64, expires: i64) -> anyhow::Result<()> {
        let prefix = &self.prefix;
        let mut connection = self.client.get_multiplexed_async_connection().await?;
        let write = redis::pipe()
            .atomic()
            .cmd("SET")
            .arg(format!("{prefix}{{r}}:{issuer}:user:{id}"))
            .arg(format!("{at} revoked"))
            .arg("PXAT")
            .arg(expires)
            .cmd("XADD")
            .arg(format!("{prefix}{{r}}:log"))
            .arg("*")
            .arg(&[("issuer", issuer), ("kind", "user"), ("id", id)])
            .arg(&[("at", at), ("expires", expires)])
            .arg(&[("origin", "revoked"), ("reason", "password")])
            .exec_async(&mut connection)
            .await;
        Ok(write?)
    }
}
