//! Connections over Unix sockets.
//!
//! A Unix socket reports that it can be written each time its peer takes something from it, and tokio's own type is
//! registered for that as well as for reading: each answer that Envoy read woke the thread of its connection for
//! nothing. Here only reading is registered, and writing while a write waits.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

pub(super) struct UnixConnection {
    /// Registered for reading.
    stream: AsyncFd<UnixStream>,
    /// The same, registered for writing, while the peer takes less than is written.
    full: Option<AsyncFd<UnixStream>>,
}

impl UnixConnection {
    /// Registers a connection that does not block with the current runtime.
    pub(super) fn register(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { stream: registered(stream, Interest::READABLE)?, full: None })
    }
}

#[expect(deprecated, reason = "the other function is unsafe for descriptors that change; a stream's does not")]
fn registered(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(stream, interest)
}

impl AsyncRead for UnixConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.stream.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            let size = room.len();
            let Ok(read) = ready.try_io(|stream| stream.get_ref().read(room)) else { continue };
            let read = read?;
            if 0 < read && read < size {
                ready.clear_ready(); // There was no more.
            }
            buffer.advance(read);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for UnixConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.stream.get_ref().write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.full = None;
                    return Poll::Ready(written);
                }
            }
            if self.full.is_none() {
                let stream = self.stream.get_ref().try_clone()?;
                self.full = Some(registered(stream, Interest::WRITABLE)?);
            }
            if let Some(full) = &self.full {
                ready!(full.poll_write_ready(cx))?.clear_ready();
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.get_ref().shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (UnixConnection, UnixConnection) {
        let (ours, peers) = UnixStream::pair().unwrap();
        for stream in [&ours, &peers] {
            stream.set_nonblocking(true).unwrap();
        }
        (UnixConnection::register(ours).unwrap(), UnixConnection::register(peers).unwrap())
    }

    /// More than the socket takes at once, to a peer that reads meanwhile.
    #[tokio::test]
    async fn a_large_write_waits_for_its_peer() {
        let (mut ours, mut peers) = pair();
        let sent: Vec<u8> = (0..4_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let mut read = Vec::new();
        let write = async {
            ours.write_all(&sent).await.unwrap();
            ours.shutdown().await.unwrap();
        };
        let ((), size) = tokio::join!(write, peers.read_to_end(&mut read));
        assert_eq!(size.unwrap(), sent.len());
        assert!(read == sent);
        assert!(ours.full.is_none());
        drop(peers);
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(ours.write(&[0]).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    /// The thread of a connection sleeps from its answer to the next question, although its peer takes the answer
    /// meanwhile.
    #[test]
    fn a_peer_that_reads_wakes_nobody() {
        const QUESTIONS: u64 = 100;
        let (ours, mut peers) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let peer = std::thread::spawn(move || {
            for _ in 0..QUESTIONS {
                peers.write_all(b"?").unwrap();
                peers.read_exact(&mut [0; 6]).unwrap();
                std::thread::sleep(Duration::from_millis(1)); // A thread that was woken has gone back to sleep.
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut ours = UnixConnection::register(ours).unwrap();
            while ours.read(&mut [0; 8]).await.unwrap() > 0 {
                ours.write_all(b"answer").await.unwrap();
            }
        });
        peer.join().unwrap();
        let slept = runtime.metrics().worker_park_count(0);
        assert!(slept < QUESTIONS * 3 / 2, "{slept} times for {QUESTIONS} questions");
    }
}
