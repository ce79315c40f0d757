//! HTTP/2 as frames (RFC 9113), for peers that no library would let misbehave.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Dials `IP:PORT` or `unix:PATH`.
pub async fn dial(address: &str) -> Box<dyn Stream> {
    match address.strip_prefix("unix:") {
        Some(path) => Box::new(UnixStream::connect(path).await.unwrap()),
        None => Box::new(TcpStream::connect(address).await.unwrap()),
    }
}

/// Dials and sends the preface with these settings.
pub async fn greet(address: &str, settings: &[(u16, u32)]) -> Box<dyn Stream> {
    let mut stream = dial(address).await;
    let payload: Vec<u8> =
        settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    let _ = stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()).await; // The peer may close it.
    stream
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a check (RFC 7541: literals without indexing, and the static table).
pub fn check_head() -> Vec<u8> {
    let mut head = vec![0x83, 0x86]; // POST, http
    literal_of(&mut head, 4, "/envoy.service.auth.v3.Authorization/Check");
    literal_of(&mut head, 1, "doorward");
    literal(&mut head, "content-type", "application/grpc");
    literal(&mut head, "te", "trailers");
    head
}

/// The head of a `GET`.
pub fn get_head(path: &str) -> Vec<u8> {
    let mut head = vec![0x82, 0x86];
    literal_of(&mut head, 4, path);
    literal_of(&mut head, 1, "doorward");
    head
}

pub fn literal(head: &mut Vec<u8>, name: &str, value: &str) {
    head.push(0);
    text(head, name);
    text(head, value);
}

/// A value for a name of the static table.
fn literal_of(head: &mut Vec<u8>, name: u8, value: &str) {
    head.push(name);
    text(head, value);
}

fn text(head: &mut Vec<u8>, text: &str) {
    integer(head, text.len());
    head.extend_from_slice(text.as_bytes());
}

/// With a prefix of seven bits (RFC 7541 section 5.1).
pub fn integer(head: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        head.push(u8::try_from(value).unwrap());
        return;
    }
    head.push(127);
    value -= 127;
    while value >= 128 {
        head.push(u8::try_from(value % 128).unwrap() | 0x80);
        value /= 128;
    }
    head.push(u8::try_from(value).unwrap());
}

/// A gRPC message with its prefix.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A message in frames of the size that every peer takes.
pub fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    let mut chunks = bytes.chunks(16_384).peekable();
    let mut frames = Vec::new();
    while let Some(chunk) = chunks.next() {
        let last = chunks.peek().is_none() && end;
        frames.extend(frame(DATA, if last { END_STREAM } else { 0 }, stream, chunk));
    }
    frames
}

/// Whether the peer closes: reads, and discards, its bytes until then.
pub async fn closes(stream: &mut Box<dyn Stream>) {
    let mut bytes = [0; 4096];
    while let Ok(1..) = stream.read(&mut bytes).await {}
}
