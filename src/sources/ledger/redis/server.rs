//! The facts that a server reports about itself (INFO).

use fred::types::Value;

use super::answer::Answer;
use super::session::Command;

/// A server in its present role.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::sources) struct Server {
    /// `master`, in Redis's terms; any other role is refused.
    pub(in crate::sources) role: Box<str>,
    pub(in crate::sources) replication_id: Box<str>,
}

/// Reasons why a store cannot keep revocations.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::sources) struct StoreFacts {
    pub(in crate::sources) server: Server,
    pub(in crate::sources) max_memory: u64,
    pub(in crate::sources) eviction_policy: Box<str>,
}

impl Server {
    pub(super) fn command() -> Command {
        Command::new("INFO").arg("replication")
    }

    /// Parses the answer to [`Self::command`].
    pub(super) fn read(info: &Value) -> Self {
        // A proxy that does not implement INFO may answer anything else.
        let info = info.text().unwrap_or_default();
        Self { role: fact(info, "role").into(), replication_id: fact(info, "master_replid").into() }
    }
}

impl StoreFacts {
    pub(super) fn command() -> Command {
        Command::new("INFO").args(["memory", "replication"])
    }

    /// Parses the answer to [`Self::command`].
    pub(super) fn read(info: &Value) -> Self {
        let server = Server::read(info);
        let info = info.text().unwrap_or_default();
        Self {
            server,
            max_memory: fact(info, "maxmemory").parse().unwrap_or(0),
            eviction_policy: fact(info, "maxmemory_policy").into(),
        }
    }
}

fn fact<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default()
}
