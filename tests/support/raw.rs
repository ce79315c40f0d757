//! HTTP/1.1 as bytes: clients and servers that normalise nothing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::PATIENCE;

/// Sends one request without a body, its target as it is; returns the status.
pub async fn send(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> u16 {
    let fields: String = headers.iter().flat_map(|(name, value)| [*name, ": ", *value, "\r\n"]).collect();
    let head = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\ncontent-length: 0\r\n{fields}\r\n");
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(head.as_bytes()).await;
        // The head is enough: Envoy takes its time to close.
        let mut answer = Vec::new();
        while let Ok(1..) = stream.read_buf(&mut answer).await {
            if answer.windows(4).any(|window| window == b"\r\n\r\n") {
                break;
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// The answer to a client.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// 0: nothing that is HTTP.
    pub status: u16,
    /// Sorted.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Sends one request after the other, over one connection while the server keeps it.
pub struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// Sends a request without a body, byte for byte; its target is not checked.
    pub async fn send(&mut self, method: &str, target: &str, headers: &[(String, Vec<u8>)]) -> Answer {
        let mut head = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        for (name, value) in headers {
            head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        let exchange = async {
            // A connection that was kept may have been closed meanwhile.
            for _ in 0..2 {
                let kept = self.stream.take();
                let is_kept = kept.is_some();
                let mut stream = match kept {
                    Some(stream) => stream,
                    None => TcpStream::connect(self.address).await.unwrap(),
                };
                let _ = stream.write_all(&head).await;
                let answer = read_answer(&mut stream, method == "HEAD").await;
                if answer.status == 0 && is_kept {
                    continue;
                }
                if answer.status != 0 && answer.header("connection") != Some("close") {
                    self.stream = Some(stream);
                }
                return answer;
            }
            Answer::default()
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap()
    }
}

/// Reads the answer to a request; `is_bare`: it has no body, whatever its length.
pub async fn read_answer(stream: &mut TcpStream, is_bare: bool) -> Answer {
    let mut read = Vec::new();
    let end = loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        let Ok(1..) = stream.read_buf(&mut read).await else { return Answer::default() };
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let mut headers: Vec<_> = lines.filter_map(field).collect();
    headers.sort();
    let mut answer = Answer { status, headers, body: String::new() };
    let mut body = read.split_off(end + 4);
    if let Some(length) = answer.header("content-length").and_then(|text| text.parse().ok()).filter(|_| !is_bare) {
        while body.len() < length {
            let Ok(1..) = stream.read_buf(&mut body).await else { break };
        }
    }
    answer.body = String::from_utf8_lossy(&body).into_owned();
    answer
}

/// An upstream that takes every request and notes its first line.
pub struct RawUpstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

impl RawUpstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        #[expect(clippy::disallowed_methods, reason = "a test's own server, ended with it")]
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, noted.clone()));
            }
        });
        Self { address, seen, server }
    }

    /// The targets that arrived since this was last asked.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    let mut byte = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut byte).await {
        head.extend_from_slice(&byte[..read]);
        while let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let request: Vec<u8> = head.drain(..end + 4).collect();
            let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
            seen.lock().unwrap().push(line.split(' ').nth(1).unwrap_or_default().to_owned());
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
    }
}
