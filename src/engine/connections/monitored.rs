//! The bytes of a connection, on their way to the protocol.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};
use tokio::time::Sleep;

use super::super::listen::Stream;
use super::super::read_quota::ReadQuota;
use super::liveness::Liveness;

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads within the peer's quota, and detects HTTP/2's preface: Envoy may open a connection before its first
/// request.
pub(super) struct MonitoredStream {
    stream: Take<Box<dyn Stream>>,
    /// The number of preface bytes received; its full length once detection has ended.
    matched: usize,
    liveness: Arc<Liveness>,
    read_quota: Arc<ReadQuota>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl MonitoredStream {
    pub(super) fn new(stream: Box<dyn Stream>, liveness: Arc<Liveness>, read_quota: Arc<ReadQuota>) -> Self {
        Self { stream: stream.take(0), matched: 0, liveness, read_quota, pause: None }
    }
}

impl AsyncRead for MonitoredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let watched = &mut *self;
        let turn = ready!(watched.read_quota.poll_turn(&mut watched.pause, cx));
        watched.stream.set_limit(turn);
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.read_quota.debit(buffer.filled().len() - before);
        let rest = &PREFACE[self.matched..];
        if !rest.is_empty() {
            let came = &buffer.filled()[before..];
            let common = came.len().min(rest.len());
            if came[..common] == rest[..common] {
                self.matched += common;
                if self.matched == PREFACE.len() {
                    self.liveness.greet();
                }
            } else {
                self.matched = PREFACE.len(); // HTTP/1: its first request counts.
            }
        }
        read
    }
}

/// Not vectored: h2 then gathers frames of less than 1 KB, which all of an answer are, into one write instead of writing
/// each by itself.
impl AsyncWrite for MonitoredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.get_mut()).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_shutdown(cx)
    }
}
