//! An upstream of streams, and clients that notice when theirs end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::envoy::{self, Envoy};

/// The addresses for opening a stream of each protocol.
pub const PROTOCOLS: [&str; 3] = ["websocket", "events", "grpc"];

/// `delayed_close_timeout` of envoy/streams.yaml.
pub const DELAYED_CLOSE: Duration = Duration::from_millis(100);

/// Serves WebSockets under `/ws`, events elsewhere, and gRPC health on a separate port.
pub struct Upstream {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Upstream {
    pub async fn start() -> Self {
        let mut tasks = JoinSet::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(health);
        tasks.spawn(async move {
            let _reporter = reporter; // Without it the streams would end.
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { http, grpc, _tasks: tasks }
    }

    /// envoy/streams.yaml in front of it.
    pub fn config(&self, check: &str) -> String {
        let text = envoy::text("envoy/streams.yaml", check, self.http);
        text.replace("port_value: 50051", &format!("port_value: {}", self.grpc.port()))
    }
}

async fn serve(mut stream: tokio::net::TcpStream) {
    let mut head = [0; 8];
    while stream.peek(&mut head).await.unwrap_or(0) < head.len() {
        tokio::task::yield_now().await;
    }
    if head.starts_with(b"GET /ws") {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() && socket.send(message).await.is_err() {
                return;
            }
        }
        return;
    }
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
                  9\r\ndata: 1\n\n\r\n";
    let _ = stream.write_all(answer.as_bytes()).await;
    let mut ignored = [0; 4096];
    while stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

/// The ends of streams, by user and protocol, as their clients saw them.
#[derive(Clone, Default)]
pub struct Ends(Arc<Mutex<Seen>>);

/// By user and protocol: when a stream ended, and the end that its client saw.
type Seen = BTreeMap<(String, &'static str), (Instant, String)>;

impl Ends {
    fn note(&self, user: &str, protocol: &'static str, seen: String) {
        self.0.lock().unwrap().insert((user.to_owned(), protocol), (Instant::now(), seen));
    }

    /// Waits until no stream of this name is under way, and forgets its end.
    pub async fn forget(&self, user: &str) {
        let count = || self.0.lock().unwrap().keys().filter(|(known, _)| known == user).count();
        crate::support::eventually("refused streams end", || async { count() == PROTOCOLS.len() }).await;
        self.0.lock().unwrap().retain(|(known, _), _| known != user);
    }

    pub fn all(&self) -> BTreeMap<(String, &'static str), (Instant, String)> {
        self.0.lock().unwrap().clone()
    }

    /// When the last of a user's three streams ended; `None` while one is open.
    pub fn of(&self, user: &str) -> Option<Instant> {
        let ends = self.0.lock().unwrap();
        let ends = PROTOCOLS.map(|protocol| ends.get(&(user.to_owned(), protocol)).map(|(at, _)| *at));
        ends.into_iter().max().flatten().filter(|_| ends.iter().all(Option::is_some))
    }
}

/// Clients of one Envoy.
pub struct Clients {
    address: SocketAddr,
    channel: Channel,
    http: reqwest::Client,
    tasks: JoinSet<()>,
    pub ends: Ends,
}

impl Clients {
    pub async fn new(envoy: &Envoy) -> Self {
        let channel = tonic::transport::Endpoint::new(envoy.url("")).unwrap().connect().await.unwrap();
        let (http, tasks) = (reqwest::Client::new(), JoinSet::new());
        Self { address: envoy.address, channel, http, tasks, ends: Ends::default() }
    }

    /// Opens a stream of each protocol; the error is the client's view of a refusal.
    pub async fn open_all(&mut self, user: &str, token: &str) -> Result<(), String> {
        for protocol in PROTOCOLS {
            self.open(protocol, user, token).await?;
        }
        Ok(())
    }

    /// Opens a stream, and waits until something came over it.
    pub async fn open(&mut self, protocol: &'static str, user: &str, token: &str) -> Result<(), String> {
        let (opened, is_open) = oneshot::channel();
        let (address, channel, http) = (self.address, self.channel.clone(), self.http.clone());
        let (user, token, ends) = (user.to_owned(), token.to_owned(), self.ends.clone());
        self.tasks.spawn(async move {
            let seen = match protocol {
                "websocket" => websocket(address, &token, opened).await,
                "events" => events(http, address, &token, opened).await,
                _ => grpc(channel, &token, opened).await,
            };
            ends.note(&user, protocol, seen);
        });
        match tokio::time::timeout(crate::support::PATIENCE, is_open).await {
            Ok(Ok(opened)) => opened,
            _ => Err(format!("{protocol} ended before it opened")),
        }
    }
}

type Opened = oneshot::Sender<Result<(), String>>;

async fn websocket(address: SocketAddr, token: &str, opened: Opened) -> String {
    let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let mut socket = match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => socket,
        Err(error) => {
            let _ = opened.send(Err(error.to_string()));
            return String::new();
        }
    };
    let echoed = async {
        socket.send(Message::text("hello")).await?;
        socket.next().await.transpose()
    };
    if let Err(error) = echoed.await {
        let _ = opened.send(Err(error.to_string()));
        return String::new();
    }
    let _ = opened.send(Ok(()));
    loop {
        match socket.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.to_string(),
            None => return "closed".to_owned(),
        }
    }
}

async fn events(http: reqwest::Client, address: SocketAddr, token: &str, opened: Opened) -> String {
    let response = http.get(format!("http://{address}/events")).bearer_auth(token).send().await;
    let mut response = match response {
        Ok(response) if response.status() == 200 => response,
        Ok(response) => {
            let status = response.status();
            let _ = opened.send(Err(format!("{status} {}", response.text().await.unwrap_or_default())));
            return String::new();
        }
        Err(error) => {
            let _ = opened.send(Err(error.to_string()));
            return String::new();
        }
    };
    let first = response.chunk().await;
    let _ = opened.send(first.map(drop).map_err(|error| error.to_string()));
    loop {
        match response.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => return "end".to_owned(),
            Err(error) => return format!("{error:?}"),
        }
    }
}

async fn grpc(channel: Channel, token: &str, opened: Opened) -> String {
    let mut request = tonic::Request::new(HealthCheckRequest { service: String::new() });
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let mut stream = match HealthClient::new(channel).watch(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            let _ = opened.send(Err(format!("{:?} {}", status.code(), status.message())));
            return String::new();
        }
    };
    let first = stream.message().await;
    let _ = opened.send(first.map(drop).map_err(|status| format!("{:?} {}", status.code(), status.message())));
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return "end".to_owned(),
            Err(status) => return format!("{:?} {}", status.code(), status.message()),
        }
    }
}
