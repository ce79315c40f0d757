//! A connection to the primary that is replaced instead of repaired.
//!
//! The client library can reconnect by itself; a reader then does not notice that the server
//! behind its connection changed, and waits for ever on a connection that was lost silently. So a
//! session does not reconnect: every error ends it, and its owner opens another one and checks
//! whether the log is still the same. Every call has a deadline; a session whose deadline has
//! passed must not be used again.

use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike, ClusterInterface, TransactionInterface};
use fred::types::config::{Config, ConnectionConfig, PerformanceConfig, Server};
use fred::types::{ConnectHandle, CustomCommand, Resp3Frame, Value};
use tokio::time::timeout;

use super::super::{LedgerError, RefusalKind, WRONG_TYPE};

pub(super) struct Session {
    client: Client,
    router: Router,
    slot: u16,
}

/// A command and its arguments, routed to the slot of the log by default.
pub(super) struct Command {
    name: &'static str,
    arguments: Vec<Value>,
    blocking: bool,
    slot: Option<u16>,
}

impl Command {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, arguments: Vec::new(), blocking: false, slot: None }
    }

    pub(super) fn arg(mut self, argument: impl Into<Value>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(super) fn args(mut self, arguments: impl IntoIterator<Item = impl Into<Value>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Routes it to the server of a cluster that has this key.
    pub(super) fn of_key(mut self, key: &[u8]) -> Self {
        self.slot = Some(fred::util::redis_keyslot(key));
        self
    }

    /// The key of Doorward's note, or of the log, that the command is about, and its type there; `None` for another key,
    /// whose name may come from other programs. That of a target has two colons more.
    fn note(&self) -> Option<(Value, &'static str)> {
        let is_note = |text: &str| text.split_once("{r}:").is_some_and(|(_, name)| name.matches(':').count() < 2);
        let key = self.arguments.iter().find(|argument| matches!(argument, Value::String(text) if is_note(text)))?;
        let kind = match self.name.as_bytes() {
            [b'Z', ..] => "a sorted set",
            [b'X', ..] => "a stream",
            _ => "a string",
        };
        Some((key.clone(), kind))
    }

    /// Marks a command that blocks at the server.
    pub(super) fn blocking(mut self) -> Self {
        self.blocking = true;
        self
    }
}

impl Session {
    /// Connects, authenticates and selects the database, or returns the cause of the failure
    /// within the deadline.
    pub(super) async fn open(config: &Config, slot: u16, deadline: Duration) -> Result<Self, LedgerError> {
        let connection = ConnectionConfig {
            connection_timeout: deadline,
            internal_command_timeout: deadline,
            max_command_attempts: 1,
            max_redirections: 0, // A moved slot is on another server: the session ends.
            ..ConnectionConfig::default()
        };
        let client = Client::new(config.clone(), Some(PerformanceConfig::default()), Some(connection), None);
        let mut router = Router(client.connect());
        let connected = async {
            tokio::select! {
                // A failure ends the router, and only its result has the cause.
                ended = &mut router.0 => match ended {
                    Ok(Err(error)) => Err(fault(&error)),
                    Ok(Ok(())) => Err(unavailable("connection closed")),
                    Err(error) => Err(unavailable(error.to_string())),
                },
                connected = client.wait_for_connect() => connected.map_err(|error| fault(&error)),
            }
        };
        within(deadline, connected).await?;
        Ok(Self { client, router, slot })
    }

    pub(super) async fn call(&self, command: Command, deadline: Duration) -> Result<Value, LedgerError> {
        self.alive()?;
        let key = command.note();
        let (custom, arguments) = self.custom(command);
        let call =
            async { self.client.custom(custom, arguments).await.map_err(|error| fault_at(&error, key.as_ref())) };
        within(deadline, call).await
    }

    /// Every primary of a cluster; `None` stands for the single server otherwise.
    pub(super) fn primaries(&self) -> Vec<Option<Server>> {
        match self.client.cached_cluster_state() {
            Some(cluster) => cluster.unique_primary_nodes().into_iter().map(Some).collect(),
            None => vec![None],
        }
    }

    /// Like [`Self::call`], at one server of a cluster.
    pub(super) async fn call_at(
        &self,
        server: Option<&Server>,
        command: Command,
        deadline: Duration,
    ) -> Result<Value, LedgerError> {
        let Some(server) = server else { return self.call(command, deadline).await };
        self.alive()?;
        let (custom, arguments) = self.custom(command);
        let client = self.client.with_cluster_node(server);
        within(deadline, async { client.custom(custom, arguments).await.map_err(|error| fault(&error)) }).await
    }

    /// Like [`Self::call`], for large answers: the raw frames, without another copy.
    pub(super) async fn call_raw(&self, command: Command, deadline: Duration) -> Result<Resp3Frame, LedgerError> {
        self.alive()?;
        let key = command.note();
        let (custom, arguments) = self.custom(command);
        let frame =
            within(deadline, async { self.client.custom_raw(custom, arguments).await.map_err(|error| fault(&error)) })
                .await?;
        match &frame {
            Resp3Frame::SimpleError { data, .. } => Err(refusal(data, key.as_ref())),
            Resp3Frame::BlobError { data, .. } => Err(refusal(&String::from_utf8_lossy(data), key.as_ref())),
            _ => Ok(frame),
        }
    }

    /// Sends commands in one write, and returns their answers in order.
    pub(super) async fn pipeline(&self, commands: Vec<Command>, deadline: Duration) -> Result<Vec<Value>, LedgerError> {
        self.alive()?;
        let pipeline = self.client.pipeline();
        let keys: Vec<_> = commands.iter().map(Command::note).collect();
        within(deadline, async {
            for command in commands {
                let (custom, arguments) = self.custom(command);
                let _queued: Value = pipeline.custom(custom, arguments).await.map_err(|error| fault(&error))?;
            }
            let answers = pipeline.try_all().await.into_iter().enumerate();
            let key = |at: usize| keys.get(at).and_then(Option::as_ref);
            answers.map(|(at, answer)| answer.map_err(|error| fault_at(&error, key(at)))).collect()
        })
        .await
    }

    /// Runs commands in one MULTI/EXEC; `None` if a watched key changed.
    pub(super) async fn transaction(
        &self,
        commands: Vec<Command>,
        deadline: Duration,
    ) -> Result<Option<Vec<Value>>, LedgerError> {
        self.alive()?;
        let transaction = self.client.multi();
        // All others of ours that it is about were read before it.
        let key = commands.iter().rev().find_map(Command::note);
        within(deadline, async {
            for command in commands {
                let (custom, arguments) = self.custom(command);
                let _queued: Value = transaction.custom(custom, arguments).await.map_err(|error| fault(&error))?;
            }
            match transaction.exec(true).await.map_err(|error| fault_at(&error, key.as_ref()))? {
                Value::Null => Ok(None),
                value => array(value).map(Some),
            }
        })
        .await
    }

    fn custom(&self, command: Command) -> (CustomCommand, Vec<Value>) {
        let Command { name, arguments, blocking, slot } = command;
        (CustomCommand::new_static(name, slot.unwrap_or(self.slot), blocking), arguments)
    }

    /// A router that ended would queue commands for ever.
    pub(super) fn has_ended(&self) -> bool {
        self.router.0.is_finished()
    }

    fn alive(&self) -> Result<(), LedgerError> {
        if self.has_ended() { Err(unavailable("connection closed")) } else { Ok(()) }
    }
}

/// The task that drives a client; a client that is dropped leaves it running.
struct Router(ConnectHandle);

impl Drop for Router {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T, LedgerError>>) -> Result<T, LedgerError> {
    timeout(deadline, call).await.unwrap_or(Err(LedgerError::Timeout { after: deadline }))
}

fn array(value: Value) -> Result<Vec<Value>, LedgerError> {
    match value {
        Value::Array(values) => Ok(values),
        other => Err(unexpected("array", &other)),
    }
}

pub(super) fn unavailable(cause: impl Into<Box<str>>) -> LedgerError {
    LedgerError::Unavailable { cause: plain(&cause.into()).into() }
}

/// The message of a system error, which the client library formats with Rust's `Debug`: `Os {
/// code: 111, kind: ConnectionRefused, message: "Connection refused" }`.
fn plain(cause: &str) -> String {
    let begins = ["Os { ", "Custom { "].into_iter().find_map(|name| cause.find(name));
    let words = begins.and_then(|at| {
        let (before, shown) = cause.split_at(at);
        let (_, words) = shown.split_once("message: \"").or_else(|| shown.split_once("error: \""))?;
        let (words, after) = words.split_once("\" }")?;
        Some(format!("{before}{words}{after}"))
    });
    words.unwrap_or_else(|| cause.to_owned())
}

/// An unexpected answer of Redis; the error has its kind, never its content.
pub(super) fn unexpected(wanted: &str, value: &Value) -> LedgerError {
    unavailable(format!("expected {wanted}, got {:?}", value.kind()))
}

fn fault(error: &fred::error::Error) -> LedgerError {
    fault_at(error, None)
}

/// Only the first word of the server's error distinguishes its refusals.
fn fault_at(error: &fred::error::Error, key: Option<&(Value, &str)>) -> LedgerError {
    let code = error.details().split_ascii_whitespace().next().unwrap_or_default();
    if code.len() >= 3 && code.bytes().all(|b| b.is_ascii_uppercase()) {
        refusal(error.details(), key)
    } else {
        unavailable(error.to_string())
    }
}

/// `key`: the note of Doorward that the command was about, if it was one.
fn refusal(message: &str, key: Option<&(Value, &str)>) -> LedgerError {
    // A server repeats the arguments of an unknown command in its error; those of AUTH are secret.
    let message = message.split(", with args").next().unwrap_or_default();
    let kind = RefusalKind::of(message);
    let key = key.filter(|_| message.starts_with(WRONG_TYPE)).and_then(|(key, kind)| Some((key.as_str()?, kind)));
    let message = key.map_or_else(
        || message.into(),
        |(key, kind)| {
            format!("{message}: `{key}` has another type than Doorward's, {kind}; rename or delete that key").into()
        },
    );
    LedgerError::Refused { kind, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_error_has_its_own_message() {
        for (shown, expected) in [
            (
                r#"IO Error: Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }"#,
                "IO Error: Connection refused",
            ),
            (
                r#"IO Error: Custom { kind: Uncategorized, error: "failed to lookup address information" }, again"#,
                "IO Error: failed to lookup address information, again",
            ),
            ("Os { code: 1", "Os { code: 1"),
            ("the writer has stopped", "the writer has stopped"),
        ] {
            assert_eq!(plain(shown), expected);
        }
    }
}
