//! A TCP proxy that misbehaves on command: cuts, delays, stalls, refuses and swallows.
//!
//! The proxy runs on a separate thread, so that a blocking test does not slow it down.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub struct Proxy {
    pub port: u16,
    control: watch::Sender<Control>,
    following: Arc<Mutex<Option<Following>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// The connection that reads a log with XREAD, the newest of them.
#[derive(Clone, Copy, Debug)]
pub struct Following {
    number: u64,
    /// When the last request was passed on that the server has answered.
    pub heard: Instant,
    /// The server owes an answer: since when.
    asked: Option<Instant>,
    /// The connection was closed, and not by the client.
    closed: Option<Instant>,
}

impl Following {
    /// Longer than a client takes to connect again and to rely on a read.
    const RECONNECTED: Duration = Duration::from_secs(2);

    /// Whether the client gets no answer although it asked.
    pub fn is_kept_waiting(&self) -> bool {
        match self.closed {
            Some(at) => at.elapsed() < Self::RECONNECTED,
            None => self.asked.is_some(),
        }
    }
}

/// Connections are numbered as they come.
#[derive(Clone, Copy, Default)]
struct Control {
    /// The port that new connections go to.
    target: u16,
    opened: u64,
    /// Open connections are closed.
    cut: u64,
    /// Open connections stay open, and pass no bytes ever again.
    swallowed: u64,
    /// No bytes pass until this ends; then the waiting bytes are forwarded.
    stalled: bool,
    /// New connections are closed at once.
    refusing: bool,
    delay: Duration,
    ended: bool,
}

impl Proxy {
    pub fn start(target: u16) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let control = watch::Sender::new(Control { target, ..Control::default() });
        let (shared, following) = (control.clone(), Arc::<Mutex<Option<Following>>>::default());
        let heard = following.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, shared, &heard));
        });
        Self { port, control, following, thread: Some(thread) }
    }

    /// Closes every connection; new connections work.
    pub fn cut(&self) {
        self.control.send_modify(|control| control.cut = control.opened);
    }

    /// Every connection stays open and passes nothing; new connections work.
    pub fn swallow(&self) {
        self.control.send_modify(|control| control.swallowed = control.opened);
    }

    /// No bytes pass, also over new connections, until [`Self::heal`].
    pub fn stall(&self) {
        self.control.send_modify(|control| control.stalled = true);
    }

    /// Closes every connection, and new connections at once, until [`Self::heal`].
    pub fn refuse(&self) {
        self.control.send_modify(|control| {
            control.cut = control.opened;
            control.refusing = true;
        });
    }

    /// Bytes that pass from now on take this long.
    pub fn delay(&self, delay: Duration) {
        self.control.send_modify(|control| control.delay = delay);
    }

    pub fn heal(&self) {
        self.control.send_modify(|control| {
            control.stalled = false;
            control.refusing = false;
            control.delay = Duration::ZERO;
        });
    }

    /// Closes every connection; new connections go to another port.
    pub fn retarget(&self, target: u16) {
        self.control.send_modify(|control| control.target = target);
        self.cut();
    }

    /// The state of a log that is followed through this proxy; `None` before the first request.
    pub fn following(&self) -> Option<Following> {
        *self.following.lock().unwrap()
    }

    /// How many connections there have been.
    pub fn opened(&self) -> u64 {
        self.control.borrow().opened
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.control.send_modify(|control| control.ended = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    control: watch::Sender<Control>,
    following: &Arc<Mutex<Option<Following>>>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    let mut changes = control.subscribe();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() || changes.borrow().ended { return },
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if control.borrow().refusing {
                    continue;
                }
                let (mut number, mut target) = (0, 0);
                control.send_modify(|control| {
                    (number, target) = (control.opened, control.target);
                    control.opened += 1;
                });
                let (changes, following) = (control.subscribe(), following.clone());
                connections.spawn(async move {
                    let Ok(server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], target))).await else { return };
                    let closed_by_client = pass(number, client, server, changes, &following).await;
                    if let Some(following) = &mut *following.lock().unwrap()
                        && following.number == number
                        && !closed_by_client
                    {
                        following.closed = Some(Instant::now());
                    }
                });
            }
        }
    }
}

/// Passes bytes both ways until one side closes, or the connection is cut; true if the client has closed it.
async fn pass(
    number: u64,
    mut client: TcpStream,
    mut server: TcpStream,
    mut changes: watch::Receiver<Control>,
    following: &Mutex<Option<Following>>,
) -> bool {
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    loop {
        let Control { cut, swallowed, stalled, delay, ended, .. } = *changes.borrow_and_update();
        if number < cut || ended {
            return false;
        }
        if stalled {
            if changes.changed().await.is_err() {
                return false;
            }
            continue;
        }
        let swallowed = number < swallowed;
        let passed = tokio::select! {
            changed = changes.changed() => changed.map_err(|_| ()),
            read = client.read(&mut from_client) => match read {
                Ok(0) | Err(_) => return true,
                Ok(_) if swallowed => Ok(()),
                Ok(length) => {
                    asks(number, &from_client[..length], following);
                    tokio::time::sleep(delay).await;
                    server.write_all(&from_client[..length]).await.map_err(|_| ())
                }
            },
            read = server.read(&mut from_server), if !swallowed => match read {
                Ok(0) | Err(_) => return false,
                Ok(length) => {
                    tokio::time::sleep(delay).await;
                    hears(number, following);
                    client.write_all(&from_server[..length]).await.map_err(|_| ())
                }
            },
        };
        if passed.is_err() {
            return false;
        }
    }
}

/// The client sends something.
fn asks(number: u64, sent: &[u8], following: &Mutex<Option<Following>>) {
    let now = Instant::now();
    let following = &mut *following.lock().unwrap();
    match following {
        Some(following) if following.number == number => drop(following.asked.get_or_insert(now)),
        _ if sent.windows(5).any(|part| part == b"XREAD") => {
            let heard = following.map_or(now, |before| before.heard);
            *following = Some(Following { number, heard, asked: Some(now), closed: None });
        }
        _ => {}
    }
}

/// The server answers.
fn hears(number: u64, following: &Mutex<Option<Following>>) {
    if let Some(following) = &mut *following.lock().unwrap()
        && following.number == number
        && let Some(asked) = following.asked.take()
    {
        following.heard = asked;
    }
}
