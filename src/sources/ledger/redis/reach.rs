//! After a failure to connect: another way to connect, or an error that names the remedy.

use std::time::Duration;

use fred::types::Value;
use fred::types::config::{Config, Server, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::LedgerError;
use super::RedisLedger;
use super::answer::Answer;
use super::session::{Command, Session, unavailable};

/// The protocol that a server uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Speech {
    Plain,
    Tls,
}

/// The timeout for detecting the protocol of a server.
const LOOK: Duration = Duration::from_millis(300);

pub(super) async fn otherwise(ledger: &RedisLedger, error: LedgerError) -> Result<Session, LedgerError> {
    let client = &ledger.client;
    let ServerConfig::Centralized { server } = &client.server else {
        let ServerConfig::Clustered { hosts, .. } = &client.server else { return Err(error) };
        for server in hosts {
            if let Some(found) = asked(ledger, server).await {
                return found;
            }
        }
        return Err(error);
    };
    let is_tls = client.tls.is_some();
    let cause = match timeout(LOOK, speech(server)).await {
        Ok(Some(Speech::Plain)) if is_tls => {
            "the server does not use TLS on this port; write `redis://`, or its port for TLS"
        }
        Ok(Some(Speech::Tls)) if !is_tls => {
            "the server uses TLS on this port; write `rediss://`, or its port without TLS"
        }
        _ => return Err(error),
    };
    Err(unavailable(cause))
}

/// An empty host in CLUSTER SLOTS means the answering server: a cluster of one server cannot determine its own
/// address, and is used like a single server.
async fn asked(ledger: &RedisLedger, server: &Server) -> Option<Result<Session, LedgerError>> {
    let config = Config { server: ServerConfig::Centralized { server: server.clone() }, ..ledger.client.clone() };
    let session = Session::open(&config, ledger.slot, ledger.config.connect_deadline).await.ok()?;
    let slots = session.call(Command::new("CLUSTER").arg("SLOTS"), ledger.deadline()).await.ok()?;
    let ranges = slots.parts()?;
    let hosts: Vec<_> = ranges.iter().map(|range| range.parts()?.get(2)?.parts()?.first()).collect();
    let is_nameless = |host: Option<&Value>| host.is_some_and(|host| host.is_nil() || host.text() == Some(""));
    if !hosts.iter().any(|host| is_nameless(*host)) {
        return None;
    }
    Some(if hosts.iter().all(|host| is_nameless(*host)) {
        Ok(session)
    } else {
        Err(unavailable("CLUSTER SLOTS names a server without its host; set cluster-announce-ip there"))
    })
}

/// A server without TLS answers PING with a line; one with TLS answers with an alert, if at all.
async fn speech(server: &Server) -> Option<Speech> {
    let mut stream = TcpStream::connect((&*server.host, server.port)).await.ok()?;
    stream.write_all(b"PING\r\n").await.ok()?;
    match stream.read_u8().await.ok()? {
        b'+' | b'-' => Some(Speech::Plain),
        0x15 => Some(Speech::Tls),
        _ => None,
    }
}
