//! What stands for Redis in a build without the feature `redis`, such as that of the demo's gateway.

use std::future::Ready;

/// Has no values.
pub enum Log {}

impl Log {
    pub fn open(_url: String, _prefix: String) -> anyhow::Result<Self> {
        anyhow::bail!("this build has no Redis: build four-services with the feature `redis`, a default one")
    }

    pub fn flush(&self) -> Ready<anyhow::Result<()>> {
        match *self {}
    }

    pub fn user_ended(&self, _issuer: &str, _id: &str, _at: i64, _expires: i64) -> Ready<anyhow::Result<()>> {
        match *self {}
    }
}
