//! The module inside real Envoy: it answers like the service, waits, ends streams, and survives failures.

mod alike;
mod faults;
mod lifecycle;
mod sides;

use crate::corpus::Expected;
use crate::support::doorward::Doorward;
use crate::support::grpc::Ask;
pub use sides::library;
use sides::{Row, Sides};

/// Headers for the length or an upgrade of a request: a client that sends no body would wait.
const FRAMING: [&str; 4] = ["content-length", "transfer-encoding", "upgrade", "expect"];

/// Sends the rows of a corpus through Envoy to the service and the module; returns the differences of the answers.
pub async fn compare(binary: &str, doorward: &Doorward, rows: &[(String, Ask, Expected)]) -> Vec<String> {
    let is_sendable = |bytes: &[u8]| !bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    let row = |(what, ask, _): &(String, Ask, Expected)| {
        let (method, target, headers) = ask.over_http()?;
        let fits = |(name, value): &(String, Vec<u8>)| {
            is_sendable(name.as_bytes()) && is_sendable(value) && !FRAMING.contains(&name.to_ascii_lowercase().as_str())
        };
        let is_plain = |text: &str| !text.is_empty() && is_sendable(text.as_bytes()) && !text.contains(' ');
        let fits = headers.iter().all(fits) && is_plain(method) && is_plain(target);
        fits.then(|| Row { what: what.clone(), method: method.to_owned(), target: target.to_owned(), headers })
    };
    let rows: Vec<_> = rows.iter().filter_map(row).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let sides = Sides::start(binary, doorward).await;
    let apart = sides.compare(&rows).await;
    eprintln!("module: {} rows, {} answered otherwise", rows.len(), apart.len());
    apart
}
