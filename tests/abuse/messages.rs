//! Messages that are wrong in size, and many of them at once.

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::watch::{LASTS, Target};
use super::wire::{END_HEADERS, HEADERS, Stream, WINDOW_UPDATE, check_head, data, frame, greet, message};
use crate::support::grpc::get;

/// A field of bytes (Protocol Buffers' wire type 2).
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 128 {
        out.push(u8::try_from(length % 128).unwrap() | 0x80);
        length /= 128;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend_from_slice(bytes);
    out
}

/// A check whose header map has this many entries, each with another name.
fn crowd(entries: u32) -> Vec<u8> {
    let entry = |n: u32| {
        let digits = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let name: Vec<u8> = (0..4).map(|place| digits[(n / 36_u32.pow(place) % 36) as usize]).collect();
        field(3, &field(1, &name)) // HttpRequest.headers
    };
    let http: Vec<u8> = (0..entries).flat_map(entry).collect();
    let named = |request: &[u8]| field(1, &field(4, &field(2, request))); // attributes.request.http
    named(&[field(2, b"GET"), field(4, b"/public"), http].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_wrong_size() {
    let target = Target::start("").await;
    let check = target.doorward.check.clone();
    let abuse = move || async move {
        let right = get("/public").message().encode_to_vec();
        let rows: Vec<(&str, Vec<u8>)> = vec![
            ("no message", Vec::new()),
            ("an empty one", message(&[])),
            ("half a prefix", vec![0, 0, 0]),
            ("half of one", message(&right)[..20].to_vec()),
            ("two", [message(&right), message(&right)].concat()),
            ("one that says it is compressed", [&[1][..], &message(&right)[1..]].concat()),
            ("one that says it has 4 GB", [&[0, 0xff, 0xff, 0xff, 0xff][..], &[0; 1000]].concat()),
            ("no attributes", message(&field(1, &[]))),
            ("no request", message(&field(1, &field(4, &[])))),
            ("a million headers", message(&crowd(1_000_000))),
            ("as many headers as fit", message(&crowd(100_000))),
            ("a megabyte of empty headers", message(&field(1, &field(4, &field(2, &field(3, &[]).repeat(500_000)))))),
        ];
        let mut sent = 0;
        for _ in 0..5 {
            for (_, bytes) in &rows {
                let mut stream = greet(&check, &[]).await;
                let request = [frame(HEADERS, END_HEADERS, 1, &check_head()), data(1, bytes, true)].concat();
                let (mut reader, mut writer) = tokio::io::split(&mut stream);
                let _ = tokio::time::timeout(LASTS, async {
                    tokio::join!(
                        // The peer may close before all of it is sent.
                        async { drop(writer.write_all(&request).await) },
                        until_answered(&mut reader)
                    )
                })
                .await;
                sent += 1;
            }
        }
        format!("{sent} messages")
    };
    target.under("messages of wrong sizes", abuse).await;
}

/// Reads until a frame ends stream 1, or the connection.
async fn until_answered(reader: &mut (impl AsyncRead + Unpin)) {
    let mut head = [0; 9];
    while reader.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if reader.read_exact(&mut payload).await.is_err() {
            return;
        }
        let (kind, flags, stream) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        if stream == 1 && (kind == 3 || (kind <= 1 && flags & 1 == 1)) {
            return;
        }
    }
}

/// The beginning of a megabyte on each of hundreds of streams: without a bound per connection, each would be kept.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_do_not_end() {
    let limits = "grpc_concurrent_streams: 1024, buffered_bytes: 8388608, request_timeout: 30s";
    let target = Target::start(limits).await;
    let check = target.doorward.check.clone();
    let abuse = move || async move {
        let (mut sent, mut held) = (0, Vec::<Box<dyn Stream>>::new());
        for _ in 0..3 {
            let mut stream = greet(&check, &[]).await;
            let part = [&[0, 0, 0x0f, 0xff, 0xff][..], &[0; 16_000]].concat();
            // More than one connection may take; heads first, so that each stream gets its share of the window.
            let flood: Vec<_> = (1..1024).step_by(2).map(|id| frame(HEADERS, END_HEADERS, id, &check_head())).collect();
            let bodies: Vec<_> = (1..1024).step_by(2).map(|id| data(id, &part, false)).collect();
            // Within the connection's window, or it would be closed for that.
            let window = Semaphore::new(65_535);
            // Refused messages are read slowly.
            let _ = tokio::time::timeout(3 * LASTS, async {
                let (mut reader, mut writer) = tokio::io::split(&mut stream);
                tokio::select! {
                    () = async {
                        for bytes in &flood {
                            let _ = writer.write_all(bytes).await;
                        }
                        for bytes in &bodies {
                            let length = u32::try_from(bytes.len()).unwrap();
                            window.acquire_many(length).await.unwrap().forget();
                            if writer.write_all(bytes).await.is_err() {
                                return;
                            }
                            sent += bytes.len();
                        }
                    } => {}
                    () = widen(&mut reader, &window) => {}
                }
            })
            .await;
            held.push(stream);
        }
        tokio::time::sleep(LASTS).await;
        format!("{} MB of messages without an end on {} connections", sent >> 20, held.len())
    };
    target.under("endless messages", abuse).await;
    let refused = target.doorward.metric("doorward_degraded_total{control=\"memory\",fallback=\"refuse\"}").await;
    assert!(refused.is_some_and(|count| count > 0.0), "{refused:?}");
}

/// Reads frames until the connection is closed; returns the peer's use of the connection's window.
async fn widen(reader: &mut (impl AsyncRead + Unpin), window: &Semaphore) {
    let mut head = [0; 9];
    while reader.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if reader.read_exact(&mut payload).await.is_err() {
            return;
        }
        if head[3] == WINDOW_UPDATE && head[5..] == [0; 4] {
            window.add_permits(u32::from_be_bytes(payload[..4].try_into().unwrap()) as usize);
        }
    }
}
